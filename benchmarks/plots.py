"""Bars of a result, as SVG inside HTML and as characters inside Markdown: no file beside the report, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log
from typing import Final

from kinedge.benchmarks.figures import written

__all__ = ["Bar", "axis_name", "bars_as_svg", "bars_as_text"]

_ROW: Final = 24
_LABEL: Final = 300
_WIDTH: Final = 860
_NUMBER: Final = 90
_CELLS: Final = 40
_LOG_ABOVE: Final = 30.0  # largest over smallest: beyond it, a linear axis shows one bar and nothing else


@dataclass(frozen=True)
class Bar:
    """One thing and its figure; ``low`` and ``high`` where there is an interval; ``doubtful`` is drawn hatched."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    doubtful: bool = False


def bars_as_svg(bars: Sequence[Bar], *, measure: str) -> str:
    """Draw horizontal bars, on a logarithmic axis where they differ by more than a factor of 30.

    Parameters
    ----------
    bars
        In the order in which they are drawn, from the top.
    measure
        Says what the axis is.
    """
    share = _Scale(bars)
    height = _ROW * (len(bars) + 1) + 8
    axis = axis_name(bars, measure)
    parts = [
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(axis)}" '
        # what prints by itself: a page's style sheet need not reach into a picture
        'font-family="sans-serif" font-size="12">',
        '<defs><pattern id="doubt" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="3" height="6" class="bar" fill="#2f6f9f"/></pattern></defs>',
        f'<text x="{_LABEL}" y="14" class="axis">{escape(axis)}</text>',
    ]
    room = _WIDTH - _LABEL - _NUMBER
    for i, bar in enumerate(bars):
        y = _ROW * (i + 1)
        length = max(1.0, share(bar.value) * room)
        fill = 'fill="url(#doubt)"' if bar.doubtful else 'class="bar" fill="#2f6f9f"'
        label = bar.label if len(bar.label) <= 46 else bar.label[:45] + "…"
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 15}" class="label" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{_LABEL}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 8}" rx="2" {fill}/>')
        end = length
        if bar.low is not None and bar.high is not None:
            low, high = share(bar.low) * room, share(bar.high) * room
            end = max(end, high)
            middle = y + 3 + (_ROW - 8) / 2
            parts.append(
                f'<path d="M{_LABEL + low:.1f} {middle}H{_LABEL + high:.1f}" class="whisker" stroke="#1b1f24"/>'
            )
        parts.append(f'<text x="{_LABEL + end + 6:.1f}" y="{y + 15}" class="number">{written(bar.value)}</text>')
    return "\n".join([*parts, "</svg>"])


def bars_as_text(bars: Sequence[Bar]) -> str:
    """Draw the same bars with characters; ``?`` marks what is doubtful."""
    share = _Scale(bars)
    width = max((len(b.label) for b in bars), default=0)
    lines = []
    for bar in bars:
        length = max(1, round(share(bar.value) * _CELLS))
        lines.append(f"{bar.label:<{width}}  {'█' * length} {written(bar.value)}{' ?' if bar.doubtful else ''}")
    return "\n".join(lines)


def axis_name(bars: Sequence[Bar], measure: str) -> str:
    """Say what the axis of the bars is, and whether it is logarithmic."""
    return f"{measure.replace('_', ' ')}{', logarithmic' if _is_log(bars) else ''}"


def _is_log(bars: Sequence[Bar]) -> bool:
    values = [b.value for b in bars]
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_ABOVE


class _Scale:
    """Maps a figure to its share of the axis, 0 to 1."""

    def __init__(self, bars: Sequence[Bar]) -> None:
        self._log = _is_log(bars)
        tops = [v for b in bars for v in (b.value, b.high) if v is not None]
        self._top = max(tops, default=1.0) or 1.0
        self._bottom = min((b.value for b in bars), default=1.0)

    def __call__(self, value: float) -> float:
        if not self._log:
            return min(1.0, max(0.0, value / self._top)) if self._top > 0 else 0.0
        if value <= 0:
            return 0.0
        floor = self._bottom / 2
        return min(1.0, max(0.0, log(value / floor) / log(self._top / floor)))
