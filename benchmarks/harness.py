"""Measure things side by side in one run: interleaved rounds, medians with their spread, and what machine it was.

A figure from a shared machine means little alone; a ratio of two things measured in turns means more. Results are
immutable, versioned JSON (``results``), and say themselves when they are not stable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from kinedge import __version__
from kinedge.benchmarks.machine import describe_machine, is_busy
from kinedge.benchmarks.results import SCHEMA, VERSION

__all__ = ["Timing", "interleaved", "quantile_row", "result", "timing_row"]

_UNSTABLE: Final = 0.10
_FEWEST_ROUNDS: Final = 5
_SHORTEST_US: Final = 5_000.0


@dataclass(frozen=True)
class Timing:
    """Of one thing, in microseconds: quantiles over rounds, the spread of the rounds, and how much was measured."""

    median_us: float
    p90_us: float
    spread: float
    n_rounds: int
    p99_us: float = 0.0
    max_us: float = 0.0
    measured_us: float = 0.0

    @property
    def unstable(self) -> bool:
        """Whether the quartiles of the rounds lie 10 % or more of the median apart."""
        return self.spread >= _UNSTABLE

    @property
    def too_short(self) -> bool:
        """Whether fewer than five rounds, or less than 5 ms in all, were measured."""
        return self.n_rounds < _FEWEST_ROUNDS or self.measured_us < _SHORTEST_US


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
        p90, p99 = np.quantile(values, [0.9, 0.99])
        timings[name] = Timing(
            median,
            float(p90),
            float((high - low) / median),
            len(values),
            float(p99),
            max(values),
            sum(values) * n_calls[name],
        )
    return timings


def result(name: str, rows: list[dict[str, Any]], *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Wrap rows with schema, machine, date and warnings."""
    warnings = ["the machine is busy: load is above 0.7 per core"] if is_busy() else []
    for key, words in (("unstable", "unstable"), ("too_short", "too short to trust")):
        warnings += [f"{words}: {what}" for what in sorted({str(r["what"]) for r in rows if r.get(key)})]
    return {
        "schema": f"{SCHEMA}/{VERSION}",
        "benchmark": name,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kinedge": __version__,
        "machine": describe_machine(),
        "settings": dict(settings),
        "rows": rows,
        "warnings": warnings,
    }


def timing_row(what: str, timing: Timing, **more: Any) -> dict[str, Any]:
    """Return a timing as a row of a result."""
    numbers = {k: round(v, 4) for k, v in asdict(timing).items() if k != "measured_us"}
    row = {"what": what, **more, **numbers, "unstable": timing.unstable}
    return {**row, "too_short": True} if timing.too_short else row


def quantile_row(what: str, values: Sequence[float], *, unit: str, **more: Any) -> dict[str, Any]:
    """Return single durations as a row: p50, p90, p99 and the largest, with how many there were.

    Parameters
    ----------
    what
        Was measured.
    values
        In ``unit``, in the order in which they happened; halves of them are compared for the spread.
    unit
        Last part of the keys' names, such as ``us``.
    """
    if not len(values):
        return {"what": what, **more, "n": 0}
    p50, p90, p99 = (round(float(q), 2) for q in np.quantile(values, [0.5, 0.9, 0.99]))
    parts = [float(np.median(part)) for part in np.array_split(np.asarray(values, float), min(len(values), 8))]
    low, high = np.quantile(parts, [0.25, 0.75])
    spread = float((high - low) / max(p50, 1e-12))
    row = {"what": what, **more, f"p50_{unit}": p50, f"p90_{unit}": p90, f"p99_{unit}": p99}
    row |= {f"max_{unit}": round(max(values), 2), "n": len(values), "spread": round(spread, 4)}
    return {**row, "unstable": spread >= _UNSTABLE}
