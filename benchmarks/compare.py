"""Two results of one benchmark, row by row: how much b is of a, and whether that is more than their own spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kinedge.benchmarks.figures import better, identity, measures_of, of_time
from kinedge.benchmarks.results import Result
from kinedge.errors import ConfigError

__all__ = ["Compared", "Comparison", "compare"]

_MACHINE: Final = ("cpu", "cores", "governor", "power_mode", "gpu", "board", "python", "numpy", "onnxruntime", "torch")
#: Two runs that were said to be equally good can still differ by so much.
_SAME: Final = 0.02
_BUSY: Final = "the machine is busy"
_SHAKY: Final = {"unstable": "unstable", "too_short": "too short"}


@dataclass(frozen=True)
class Compared:
    """One figure of one row in both results.

    Parameters
    ----------
    identity
        What the row is of.
    measure
        Which figure.
    a, b
        Its value in each.
    ratio
        ``b / a``; None where a is 0 or one of them is missing.
    low, high
        Of the ratio, from the quartiles of rounds of both; None where a result tells no spread.
    verdict
        ``better``, ``worse``, ``within the spread``, ``same``; empty where neither way is better or no spread is told.
    doubt
        Why the verdict may not hold, such as ``a busy, b unstable``: what the two runs warned of, where the figure is
        one of time. Empty where they warned of nothing.
    """

    identity: tuple[str, ...]
    measure: str
    a: float
    b: float
    ratio: float | None
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    doubt: str = ""

    @property
    def said(self) -> str:
        """The verdict as it is shown: one with a doubt is called doubtful."""
        return f"{self.verdict}, doubtful" if self.verdict and self.doubt else self.verdict


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two results say of the same rows, and why to doubt it."""

    a: Result
    b: Result
    rows: tuple[Compared, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.a.benchmark

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the figures as rows of a table."""
        return [
            {
                "what": ", ".join(c.identity),
                "measure": c.measure,
                "a": c.a,
                "b": c.b,
                "b_of_a": None if c.ratio is None else round(c.ratio, 4),
                "low": None if c.low is None else round(c.low, 4),
                "high": None if c.high is None else round(c.high, 4),
                "verdict": c.said,
                "doubt": c.doubt,
            }
            for c in self.rows
        ]


def compare(a: Result, b: Result, *, measures: Sequence[str] | None = None) -> Comparison:
    """Hold two results of one benchmark against each other.

    A difference within the spread of the rounds is said to be none. Two results of different hours or machines differ
    for many reasons: ``kinedge bench ab`` measures both in turns and gives an interval. Where a run warned of load or
    of rounds that differ, what is said of its times is doubtful: the spread tells of its own rounds, not of the hour.

    Parameters
    ----------
    a, b
        Of the same benchmark.
    measures
        Which figures; all numbers that both have when None.

    Raises
    ------
    ConfigError
        They are of different benchmarks, or have no row and figure in common.
    """
    if a.benchmark != b.benchmark:
        raise ConfigError(f"a is of {a.benchmark!r} and b of {b.benchmark!r}; only results of one benchmark compare")
    rows_a, rows_b = _by_identity(a.rows), _by_identity(b.rows)
    wanted = [m for m in measures_of(b.rows) if m in measures_of(a.rows) and m != "spread"]
    if measures is not None:
        if unknown := sorted(set(measures) - set(wanted)):
            raise ConfigError(f"no figure {', '.join(unknown)} in both; there are {', '.join(wanted) or 'none'}")
        wanted = [m for m in wanted if m in measures]
    found = [
        _with_doubt(_one(key, measure, rows_a[key], row), (a, rows_a[key]), (b, row))
        for key, row in rows_b.items()
        for measure in wanted
        if key in rows_a and _is_number(row.get(measure)) and _is_number(rows_a[key].get(measure))
    ]
    if not found:
        raise ConfigError("a and b have no row with a common figure; run both with the same options")
    return Comparison(
        a,
        b,
        tuple(found),
        tuple(", ".join(k) for k in rows_a if k not in rows_b),
        tuple(", ".join(k) for k in rows_b if k not in rows_a),
        tuple(_warnings(a, b)),
    )


def _one(key: tuple[str, ...], measure: str, row_a: Mapping[str, Any], row_b: Mapping[str, Any]) -> Compared:
    a, b = float(row_a[measure]), float(row_b[measure])
    ratio = b / a if a else None
    way = better(measure)
    if ratio is None or ratio <= 0:
        verdict = "" if not way or a == b else ("better" if (b > a) == (way == "more") else "worse")
        return Compared(key, measure, a, b, ratio, verdict="same" if a == b else verdict)
    spreads = [row.get("spread") for row in (row_a, row_b)]
    if measure.startswith(("p90", "p99", "max")):
        return Compared(key, measure, a, b, ratio)  # the spread of the rounds says nothing about their tails
    timed = measure.endswith("_us") or measure.startswith("us_per")
    if timed and all(_is_number(s) for s in spreads):
        # the interquartile range of both, as if they were independent
        half = math.hypot(*(float(s) for s in spreads if s is not None)) / 2
        low, high = ratio * math.exp(-half), ratio * math.exp(half)
        verdict = "within the spread" if low <= 1 <= high else _direction(ratio, way)
        return Compared(key, measure, a, b, ratio, low, high, verdict if way else "")
    if abs(ratio - 1) < _SAME:
        return Compared(key, measure, a, b, ratio, verdict="same")
    return Compared(key, measure, a, b, ratio, verdict="" if not way else _direction(ratio, way))


def _with_doubt(found: Compared, *sides: tuple[Result, Mapping[str, Any]]) -> Compared:
    if not of_time(found.measure) or found.a == found.b:
        return found
    doubts = []
    for name, (run, row) in zip("ab", sides, strict=True):
        words = ["busy"] if any(w.startswith(_BUSY) for w in run.warnings) else []
        words += [word for key, word in _SHAKY.items() if row.get(key)]
        doubts += [f"{name} {' and '.join(words)}"] if words else []
    return replace(found, doubt=", ".join(doubts))


def _direction(ratio: float, way: str) -> str:
    return "better" if (ratio > 1) == (way == "more") else "worse"


def _warnings(a: Result, b: Result) -> list[str]:
    found = [
        f"another {key.replace('_', ' ')}: {a.machine.get(key)} in a, {b.machine.get(key)} in b"
        for key in _MACHINE
        if a.machine.get(key) != b.machine.get(key)
    ]
    for key in sorted({*a.settings, *b.settings}):
        if a.settings.get(key) != b.settings.get(key):
            words = f"another setting {key.replace('_', ' ')}: {a.settings.get(key)} in a, {b.settings.get(key)} in b"
            found.append(words if len(words) < 200 else f"another setting {key.replace('_', ' ')}")
    found += [f"{name}: {w}" for name, r in (("a", a), ("b", b)) for w in r.warnings]
    return found


def _by_identity(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in rows:
        key, n = identity(row), 2
        while key in found:
            key, n = (*identity(row), f"no. {n}"), n + 1
        found[key] = row
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
