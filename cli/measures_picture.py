"""A picture of a person's days: the two numbers that carry most, their intervals and trend, and the time worn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from html import escape
from typing import Any, Final

from kinedge.edge.measures_store import KeptRow

__all__ = ["draw_days"]

_INK, _FAINT, _OWN, _TREND, _LESS = "#222", "#ddd", "#0b6e99", "#888", "#c0392b"
_LEFT: Final = 90.0
_WIDTH, _HEIGHT, _STEP = 760.0, 110.0, 175.0
_SHOWN: Final = {  # measure, title, what the trend of it is called and how it is told
    "arm": (("use_ratio", "use ratio"), ("active_share", "active share of the time worn, both arms")),
    "gait": (
        ("contact_symmetry_index", "contact time, right against left, %"),
        ("impact_symmetry_index", "impacts, right against left, %"),
    ),
}


def draw_days(rows: Sequence[KeptRow], *, title: str) -> str:
    """Return an SVG of days: of each person and part two numbers and the hours worn.

    Days that the trend calls a change are red, days that say nothing are hollow.
    """
    parts = [_text(20, 28, title, size=16, bold=True)]
    top = 60.0
    for subject, part in sorted({(r.subject, r.part) for r in rows}):
        own = [r for r in rows if (r.subject, r.part) == (subject, part)]
        parts.append(_text(20, top, f"{subject}, {part}", size=14, bold=True))
        for name, said in _SHOWN[part]:
            if any(r.content["measures"].get(name, {}).get("value") is not None for r in own):
                parts += _panel(own, name, said, top + 30)
                top += _STEP
        parts += _worn(own, top + 30)
        top += _STEP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 30:.0f} {top:.0f}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


def _panel(rows: Sequence[KeptRow], name: str, title: str, top: float) -> list[str]:
    found = [(r, r.content["measures"].get(name, {})) for r in rows]
    found = [(r, m) for r, m in found if m.get("value") is not None]
    trends = [(r, t) for r, _ in found if (t := _trend(r, name)) is not None]
    ends = [float(x) for _, m in found for x in (m["low"], m["high"], m["value"]) if x is not None]
    ends += [x for _, t in trends for x in t]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.1
    low, high = low - room, high + room

    def y(value: float) -> float:
        return top + _HEIGHT * (1 - (value - low) / (high - low))

    first, days = rows[0].start, max(rows[-1].start - rows[0].start, 1)
    parts = _frame(rows, title, top, low, high)
    if trends:
        band = [(_x(r.start, first, days), t) for r, t in trends]
        edge = [f"{x:.1f},{y(t[1]):.1f}" for x, t in band] + [f"{x:.1f},{y(t[0]):.1f}" for x, t in reversed(band)]
        parts.append(f'<polygon points="{" ".join(edge)}" fill="{_FAINT}" opacity="0.7"/>')
    for row, m in found:
        x, color = _x(row.start, first, days), _color(row, name)
        if m["low"] is not None:
            parts.append(_line(x, y(m["low"]), x, y(m["high"]), color))
        fill = color if _state(row, name) not in ("unsure", "learning", "") else "white"
        parts.append(f'<circle cx="{x:.1f}" cy="{y(m["value"]):.1f}" r="4" fill="{fill}" stroke="{color}"/>')
    return parts


def _worn(rows: Sequence[KeptRow], top: float) -> list[str]:
    first, days = rows[0].start, max(rows[-1].start - rows[0].start, 1)
    parts = _frame(rows, "hours worn, and not heard (grey)", top, 0.0, 24.0)
    width = max(2.0, 0.6 * _WIDTH / (days + 1))
    for row in rows:
        base = 0.0
        for seconds, color in ((row.content["worn_s"], _OWN), (row.content["missing_s"], _TREND)):
            height = _HEIGHT * min(seconds / 86_400, 1.0)
            x = _x(row.start, first, days) - width / 2
            parts.append(
                f'<rect x="{x:.1f}" y="{top + _HEIGHT - base - height:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}" fill="{color}"/>'
            )
            base += height
    return parts


def _frame(rows: Sequence[KeptRow], title: str, top: float, low: float, high: float) -> list[str]:
    parts = [
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="{_FAINT}"/>',
        _text(_LEFT, top - 6, title),
        _text(_LEFT - 8, top + 10, f"{high:.3g}", anchor="end"),
        _text(_LEFT - 8, top + _HEIGHT, f"{low:.3g}", anchor="end"),
    ]
    first, days = rows[0].start, max(rows[-1].start - rows[0].start, 1)
    for day in sorted({rows[0].start, rows[-1].start}):
        told = date(1970, 1, 1) + timedelta(days=day)
        parts.append(_text(_x(day, first, days), top + _HEIGHT + 16, f"{told:%d %b %Y}", anchor="middle"))
    return parts


def _x(day: int, first: int, days: int) -> float:
    return _LEFT + 40 + (_WIDTH - 80) * (day - first) / days


def _of(row: KeptRow, name: str) -> dict[str, Any]:
    found: dict[str, Any] = row.content.get("watched", {}).get("trends", {}).get(name, {})
    return found


def _state(row: KeptRow, name: str) -> str:
    return str(_of(row, name).get("state", ""))


def _color(row: KeptRow, name: str) -> str:
    return _LESS if _state(row, name) == "lower" else _OWN


def _trend(row: KeptRow, name: str) -> tuple[float, float] | None:
    """Return the band that was expected of a day, where it is in the number's own unit."""
    found = _of(row, name)
    expected, spread = found.get("expected"), found.get("spread")
    told = row.content["measures"][name]["value"]
    if expected is None or spread is None or (expected <= 0 < told) or name.endswith("_index"):
        return None
    return expected - spread, expected + spread


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="1.5"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}"{weight}>'
        f"{escape(text)}</text>"
    )
