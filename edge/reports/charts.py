"""Charts of the reports as SVG that needs nothing else: exact, small, and readable when printed in black and white.

Shape and pattern tell what colour tells: as usual is a filled disc or a light field, less than the trend a triangle,
different a dark field, unsure a hatched one. Equal content gives equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import Final

from kinedge.edge.reports.person import AnsweredDay, DayNumber, NumberWeeks
from kinedge.edge.reports.words import Words

__all__ = ["answers_chart", "bars", "legend_mark", "ticks", "trend_chart"]

_Scale = Callable[[float], float]

_INK, _SOFT, _LINE, _FIELD = "#1c2026", "#565d67", "#c9ced6", "#f2f4f7"
_USUAL, _LOWER, _BAND = "#0f5c8c", "#a63c06", "#d9e4ee"
_ANSWER_USUAL, _UNSURE, _DIFFERENT = "#cfe2f0", "#8c3f77", "#a63c06"
_WIDTH: Final = 700.0
_FONT: Final = "font-family=\"'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\""


def trend_chart(number: NumberWeeks, words: Words, *, percent: bool, digits: int, title: str, unit: str = "") -> str:
    """Draw a number over five weeks: mark and interval of each day, and the person's usual range behind.

    Parameters
    ----------
    number
        What to draw.
    percent
        Write the axis in percent of one.
    digits
        Of the axis.
    title
        For a screen reader.
    unit
        Written behind each number of the axis.
    """
    left, right, top, height = 52.0, 8.0, 15.0, 116.0
    days = number.days
    step = (_WIDTH - left - right) / len(days)
    low, high = _extent(days)

    def x(i: float) -> float:
        return left + (i + 0.5) * step

    def y(value: float) -> float:
        return top + height * (1 - (value - low) / (high - low))

    out = [_rect(x(len(days) - 7) - step / 2, top, 7 * step, height, fill=_FIELD)]
    for value in ticks(low, high):
        out.append(_line(left, y(value), _WIDTH - right, y(value), _LINE, 0.6))
        shown = words.percent(value, digits=digits) if percent else words.number(value, digits=digits) + unit
        out.append(_text(left - 6, y(value) + 3.5, shown, anchor="end", fill=_SOFT))
    out += _ranges(days, x, y, step)
    for i, day in enumerate(days):
        if i % 7 == 0:
            out.append(_line(x(i) - step / 2, top + height, x(i) - step / 2, top + height + 4, _SOFT, 0.8))
            out.append(_text(x(i) - step / 2 + 2, top + height + 14, words.tick(day.date), fill=_SOFT))
        out += _mark(day, x(i), y)
    out.append(_text(x(len(days) - 4), top - 4, words("this_week"), anchor="middle", fill=_SOFT))
    out.append(_line(left, top + height, _WIDTH - right, top + height, _SOFT, 0.8))
    return _svg(out, _WIDTH, top + height + 20, title)


def answers_chart(days: Sequence[AnsweredDay], words: Words, *, title: str) -> str:
    """Draw how each hour of a week was answered, a row a day."""
    left, right, top, row, gap = 84.0, 74.0, 4.0, 19.0, 4.0
    step = (_WIDTH - left - right) / 24
    out = [
        f'<defs><pattern id="hatch" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="4" height="4" fill="#ffffff"/><rect width="1.7" height="4" fill="{_UNSURE}"/></pattern></defs>'
    ]
    for i, day in enumerate(days):
        base = top + i * (row + gap)
        out.append(_text(left - 8, base + row - 6, words.short_day(day.date), anchor="end"))
        out.append(_rect(left, base, 24 * step, row, stroke=_LINE))
        for hour, cell in enumerate(day.hours):
            bottom = base + row
            whole = max(3600.0, sum(cell.values()))  # the hour that the clock repeats has two
            for word, fill in (("normal", _ANSWER_USUAL), ("unsure", "url(#hatch)"), ("anomalous", _DIFFERENT)):
                if height := row * cell.get(word, 0.0) / whole:
                    if word == "anomalous":
                        height = max(height, 1.5)  # a few seconds are seen, too
                    bottom -= height
                    out.append(_rect(left + hour * step + 0.5, bottom, step - 1, height, fill=fill))
        seconds = day.seconds
        total = sum(seconds.values())
        said = words.percent(seconds["unsure"] / total) if total else "–"
        out.append(
            _text(left + 24 * step + 8, base + row - 6, said, fill=_UNSURE if total else _SOFT, bold=bool(total))
        )
    end = top + len(days) * (row + gap)
    for hour in range(0, 25, 3):
        out.append(_text(left + hour * step, end + 9, f"{hour}", anchor="middle", fill=_SOFT))
    out.append(_text(left + 24 * step + 8, end + 9, words("unsure"), fill=_UNSURE))
    return _svg(out, _WIDTH, end + 14, title)


def bars(rows: Sequence[tuple[str, float, float | None]], *, unit: str, title: str) -> str:
    """Draw bars for values of one kind, each with a whisker up to a second value.

    Parameters
    ----------
    rows
        Name, value, and the value of the whisker.
    unit
        Written behind each value.
    title
        For a screen reader.
    """
    left, right, row, gap, top = 250.0, 90.0, 15.0, 7.0, 4.0
    high = max([v for _, v, _ in rows] + [w for _, _, w in rows if w is not None] + [1e-300])
    width = _WIDTH - left - right
    out = []
    for i, (name, value, whisker) in enumerate(rows):
        base = top + i * (row + gap)
        shown = name if len(name) <= 42 else f"{name[:41]}…"
        out.append(_text(left - 8, base + row - 4, shown, anchor="end"))
        out.append(_rect(left, base, max(width * max(value, 0) / high, 0.5), row, fill=_USUAL))
        if whisker is not None:
            out.append(_line(left, base + row / 2, left + width * max(whisker, 0) / high, base + row / 2, _INK, 1))
        out.append(
            _text(left + width * max(value, whisker or 0, 0) / high + 6, base + row - 4, f"{value:.4g} {unit}".strip())
        )
    return _svg(out, _WIDTH, top + len(rows) * (row + gap), title)


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round values within ``[low, high]``."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _extent(days: Sequence[DayNumber]) -> tuple[float, float]:
    ends = [v for d in days for v in (d.number.value, d.number.low, d.number.high) if v is not None]
    ends += [v for d in days if d.band is not None for v in d.band]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or max(0.1 * abs(high), 0.1)
    # a range that nearly reaches zero is drawn from there: lengths compare then
    return (0.0 if 0 <= low < 0.3 * high else low - room), high + room


def _ranges(days: Sequence[DayNumber], x: _Scale, y: _Scale, step: float) -> list[str]:
    """Draw the usual range as one field for each stretch of days that has one."""
    out = []
    for known, group in groupby(enumerate(days), key=lambda pair: pair[1].band is not None):
        stretch = [(x(i), d.band) for i, d in group if d.band is not None]
        if not known or not stretch:
            continue
        xs = [stretch[0][0] - step / 2, *(at for at, _ in stretch), stretch[-1][0] + step / 2]
        lows, highs = (([b[k] for _, b in stretch]) for k in (0, 1))
        upper = [y(v) for v in (highs[0], *highs, highs[-1])]
        lower = [y(v) for v in (lows[0], *lows, lows[-1])]
        points = [
            f"{a:.1f},{b:.1f}" for a, b in [*zip(xs, upper, strict=True), *reversed([*zip(xs, lower, strict=True)])]
        ]
        out.append(f'<polygon points="{" ".join(points)}" fill="{_BAND}"/>')
        for edge in (upper, lower):
            points = [f"{a:.1f},{b:.1f}" for a, b in zip(xs, edge, strict=True)]
            out.append(
                f'<polyline points="{" ".join(points)}" fill="none" stroke="{_SOFT}" stroke-width="0.7" '
                'stroke-dasharray="3 2"/>'
            )
    return out


def _mark(day: DayNumber, at: float, y: _Scale) -> list[str]:
    number = day.number
    if number.value is None:
        return []
    color = _LOWER if day.mark == "lower" else _USUAL
    out = []
    if number.low is not None and number.high is not None:
        out.append(_line(at, y(number.low), at, y(number.high), color, 1.3))
    middle = y(number.value)
    if day.mark == "lower":
        out.append(f'<path d="M{at - 5:.1f} {middle - 4:.1f}h10l-5 9z" fill="{color}"/>')
    elif day.mark == "plain":
        out.append(_rect(at - 3.2, middle - 3.2, 6.4, 6.4, fill=color))
    else:
        fill = color if day.mark == "as_usual" else "#ffffff"
        out.append(
            f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="3.6" fill="{fill}" stroke="{color}" stroke-width="1.3"/>'
        )
    return out


def legend_mark(kind: str) -> str:
    """Return a small picture of one mark or field, for the legend."""
    inner = {
        "usual": f'<circle cx="8" cy="7" r="3.6" fill="{_USUAL}"/>',
        "lower": f'<path d="M3 3h10l-5 9z" fill="{_LOWER}"/>',
        "learning": f'<circle cx="8" cy="7" r="3.6" fill="#ffffff" stroke="{_USUAL}" stroke-width="1.3"/>',
        "plain": f'<rect x="4.8" y="3.8" width="6.4" height="6.4" fill="{_USUAL}"/>',
        "band": (
            f'<rect x="0.5" y="2" width="15" height="10" fill="{_BAND}" stroke="{_SOFT}" stroke-width="0.7" '
            'stroke-dasharray="3 2"/>'
        ),
        "answer_usual": f'<rect x="0.5" y="1.5" width="15" height="11" fill="{_ANSWER_USUAL}" stroke="{_LINE}"/>',
        "answer_different": f'<rect x="0.5" y="1.5" width="15" height="11" fill="{_DIFFERENT}"/>',
        "answer_unsure": (
            '<defs><pattern id="hatch-key" width="4" height="4" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><rect width="4" height="4" fill="#ffffff"/>'
            f'<rect width="1.7" height="4" fill="{_UNSURE}"/></pattern></defs>'
            f'<rect x="0.5" y="1.5" width="15" height="11" fill="url(#hatch-key)" stroke="{_UNSURE}"/>'
        ),
    }[kind]
    return (
        '<svg class="key" xmlns="http://www.w3.org/2000/svg" width="16" height="14" viewBox="0 0 16 14" '
        f'aria-hidden="true">{inner}</svg>'
    )


def _svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" {_FONT} font-size="10.5">' + "".join(parts) + "</svg>"
    )


def _rect(x: float, y: float, width: float, height: float, *, fill: str = "none", stroke: str = "none") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.2f}" width="{width:.1f}" height="{height:.2f}" fill="{fill}" stroke="{stroke}" '
        'stroke-width="0.7"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = _INK, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{weight}>{escape(text)}</text>'
