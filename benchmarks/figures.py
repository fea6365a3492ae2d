"""What the numbers of a result mean: which of them is plotted, which way is better, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Figure", "better", "figure_of", "identity", "main_measure", "measures_of", "of_time", "written"]

#: The first of these that a row has is its main figure.
_MAIN: Final = (
    "false_per_valid_hour",
    "false_per_hour",
    "p50_us",
    "median_us",
    "us_per_sample",
    "people_per_core",
    "episodes_per_s",
    "vus_pr",
    "u80",
    "hit_rate_100",
    "channel",
    "models_per_minute",
    "auc",
    "auc_either",
    "found",
    "cpu_share",
    "sd_ms",
    "flipped",
    "received",
)
#: What tells rows of the same name apart, though it is a number.
_SETTINGS: Final = ("streams", "people", "lag", "situation", "status", "origin", "unit")
_NOT_FIGURES: Final = frozenset({"unstable", "too_short", "n_rounds", "n", *_SETTINGS})
_NUMBER: Final = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_WRITTEN: Final = re.compile(
    rf"\s*(?P<value>{_NUMBER})\s*(?P<percent>%)?\s*"
    rf"(?:± (?P<error>{_NUMBER})|\((?P<low>{_NUMBER})[-–](?P<high>{_NUMBER})\)|of (?P<of>\d+))?.*"
)
_MORE_IS_BETTER: Final = (
    "people_per_core",
    "episodes_per_s",
    "models_per_minute",
    "vus_pr",
    "hit",
    "auc",
    "u65",
    "u80",
    "right",
    "found",
    "sensitivity",
    "specificity",
    "lowest",
    "highest",
    "received",
    "covered",
    "channel",
    "sensor",
    "stable",
)
_LESS_IS_BETTER: Final = (
    "_us",
    "us_per_",
    "_ms",
    "_s",
    "spread",
    "false",
    "missed",
    "lost",
    "late",
    "kb_per_person",
    "load",
    "aurc",
    "flipped",
    "cpu",
    "rmse",
    "unaccounted",
    "joules",
    "rss_mb",
)


_OF_TIME: Final = ("_us", "_ms", "_s", "_per_s", "_per_minute", "_per_core")
_OF_THE_PROCESSOR: Final = ("us_per_", "cpu", "load", "processor", "late", "ratio", "times_")


@dataclass(frozen=True)
class Figure:
    """A number with its interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def figure_of(value: object) -> Figure | None:
    """Read a cell: a number, or words such as ``4.5 (2.1-8.5)``, ``.70 ± .02``, ``67%``, ``11 of 12`` (a share)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return Figure(float(value)) if math.isfinite(value) else None
    found = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    number, parts = float(found["value"]), found.groupdict()
    if parts["of"] is not None:
        return Figure(number / int(parts["of"])) if int(parts["of"]) else None
    if parts["error"] is not None:
        return Figure(number, number - float(parts["error"]), number + float(parts["error"]))
    if parts["low"] is not None and parts["high"] is not None:
        return Figure(number, float(parts["low"]), float(parts["high"]))
    return Figure(number / 100 if parts["percent"] else number)


def better(measure: str) -> str:
    """Return ``more``, ``less``, or nothing where neither is better by itself."""
    if measure in ("ratio_lowest", "ratio_highest"):
        return ""
    if any(measure == m or measure.startswith(f"{m}_") for m in _MORE_IS_BETTER):
        return "more"
    if any(measure == m or measure.endswith(m) or measure.startswith(m) for m in _LESS_IS_BETTER):
        return "less"
    return ""


def of_time(measure: str) -> bool:
    """Return whether a figure is one that other work of the machine changes: a time, a rate, a share of a processor.

    Delays are of the data's own time, which no load changes.
    """
    if "delay" in measure:
        return False
    return measure.endswith(_OF_TIME) or measure.startswith(_OF_THE_PROCESSOR)


def measures_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the keys that hold numbers in any row, in the order in which they come up."""
    found: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in _NOT_FIGURES and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(key)
    return tuple(found)


def main_measure(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return which figure to draw; None when none of the rows' figures says it all."""
    return next((m for m in _MAIN if sum(figure_of(row.get(m)) is not None for row in rows) > 1), None)


def identity(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a row is of: its name, and the settings that tell it from others of that name."""
    return (str(row["what"]), *(f"{key} {row[key]}" for key in _SETTINGS if row.get(key) is not None))


def written(value: object) -> str:
    """Write a cell: three or four digits that count, no false precision, nothing for what is not there."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        if value == 0:
            return "0"
        if abs(value) >= 10_000:
            return f"{value:,.0f}"
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {written(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(written(v) for v in value)
    return str(value)
