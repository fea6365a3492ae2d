"""Measure things side by side in one run: interleaved rounds, medians with their spread, and what machine it was.

A figure from a shared machine means little alone; a ratio of two things measured in turns means more. Results are
immutable, versioned JSON, and say themselves when they are not stable.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge import __version__

__all__ = ["RESULT_SCHEMA", "Timing", "interleaved", "machine", "result", "timing_row"]

RESULT_SCHEMA: Final = "kinedge.bench/1"
_UNSTABLE: Final = 0.10


@dataclass(frozen=True)
class Timing:
    """Of one thing, in microseconds: median and 90 % quantile over rounds, and the spread of the round medians."""

    median_us: float
    p90_us: float
    spread: float
    n_rounds: int

    @property
    def unstable(self) -> bool:
        """Whether the quartiles of the rounds lie 10 % or more of the median apart."""
        return self.spread >= _UNSTABLE


def interleaved(
    things: Mapping[str, Callable[[], object]],
    *,
    n_rounds: int = 15,
    round_s: float = 0.05,
    warm_up: int = 3,
    before: Mapping[str, Callable[[], object]] | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Time callables in turns, so that drift of the machine meets all of them alike.

    Parameters
    ----------
    things
        What to call, by name.
    n_rounds
        Turns each gets.
    round_s
        Length of a turn; a turn makes at least one call.
    warm_up
        Calls of each before anything counts.
    before
        What is called before each call of a thing, and not timed.
    clock_ns
        ``time.thread_time_ns`` counts the processor alone, for work of one thread on a machine with other work.
    """
    prepare = before or {}

    def timed(name: str, n: int) -> float:
        """Return ns of ``n`` calls."""
        if name not in prepare:
            start = clock_ns()
            for _ in range(n):
                things[name]()
            return clock_ns() - start
        total = 0
        for _ in range(n):
            prepare[name]()
            start = clock_ns()
            things[name]()
            total += clock_ns() - start
        return total

    for name in things:
        timed(name, warm_up)
    n_calls = {name: max(1, round(round_s * 1e9 / max(timed(name, 1), 1))) for name in things}
    rounds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(n_rounds):
        for name in things:
            rounds[name].append(timed(name, n_calls[name]) / n_calls[name] / 1000)
    timings = {}
    for name, values in rounds.items():
        median = float(np.median(values))
        low, high = np.quantile(values, [0.25, 0.75])
        timings[name] = Timing(median, float(np.quantile(values, 0.9)), float((high - low) / median), len(values))
    return timings


def machine() -> dict[str, Any]:
    """Describe this machine: what a reader needs to judge a figure, and nothing that names its owner."""
    versions = {}
    for package in ("numpy", "onnxruntime", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _first_line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature_c": _temperature(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        **versions,
    }


def result(name: str, rows: list[dict[str, Any]], *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Wrap rows with schema, machine, date and warnings."""
    busy = os.getloadavg()[0] > 0.7 * (os.cpu_count() or 1)
    warnings = ["the machine is busy: load is above 0.7 per core"] if busy else []
    warnings += [f"unstable: {row}" for row in sorted({str(r["what"]) for r in rows if r.get("unstable")})]
    return {
        "schema": RESULT_SCHEMA,
        "benchmark": name,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kinedge": __version__,
        "machine": machine(),
        "settings": dict(settings),
        "rows": rows,
        "warnings": warnings,
    }


def timing_row(what: str, timing: Timing, **more: Any) -> dict[str, Any]:
    """Return a timing as a row of a result."""
    return {"what": what, **more, **{k: round(v, 4) for k, v in asdict(timing).items()}, "unstable": timing.unstable}


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None


def _first_line(path: str, key: str) -> str | None:
    for line in (_text(path) or "").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return None


def _temperature() -> float | None:
    text = _text("/sys/class/thermal/thermal_zone0/temp")
    return int(text) / 1000 if text and text.lstrip("-").isdigit() else None
