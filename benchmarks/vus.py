"""VUS-PR, under the name the benchmarks have for it; it lives where the parity proof can reach it, too."""

from __future__ import annotations

from kinedge.training.vus import FALLBACK_WINDOW, metric_window, vus_pr

__all__ = ["FALLBACK_WINDOW", "metric_window", "vus_pr"]
