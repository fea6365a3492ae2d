"""A picture of an enrolment: the person beside the cohort, as an SVG that needs nothing to be drawn or shown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from kinedge.edge.calibration import Calibration
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.personal import CONTEXTS
from kinedge.edge.scores import sensor_groups
from kinedge.edge.scoring import Scorer

__all__ = ["draw_enrolment"]

_PERSON, _COHORT, _INK, _FAINT = "#0b6e99", "#c77c11", "#222", "#ddd"
_WIDTH: Final = 960
_PANEL: Final = (270.0, 220.0)  # width and height of what is drawn in
_TOP: Final = 130.0
_RARE: Final = 1e-3  # the least share that is drawn
_MAX_U: Final = 3.0


class _Panel:
    """One diagram; ``x`` and ``y`` from 0 to 1, ``y`` upwards."""

    def __init__(self, left: float, title: str) -> None:
        self.left, self.parts = left, [_text(left, _TOP - 14, title, size=14, bold=True)]
        w, h = _PANEL
        self.parts.append(f'<rect x="{left}" y="{_TOP}" width="{w}" height="{h}" fill="none" stroke="{_FAINT}"/>')

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * _PANEL[0], _TOP + (1 - y) * _PANEL[1]

    def line(self, points: Sequence[tuple[float, float]], color: str, *, width: float = 2, dash: str = "") -> None:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(*p) for p in points))
        more = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"{more}/>')

    def bar(self, x: float, width: float, height: float, color: str) -> None:
        px, py = self.at(x, height)
        self.parts.append(
            f'<rect x="{px:.1f}" y="{py:.1f}" width="{width * _PANEL[0]:.1f}" height="{height * _PANEL[1]:.1f}" '
            f'fill="{color}"/>'
        )

    def label(self, x: float, y: float, text: str, *, anchor: str = "middle", dy: float = 0, color: str = _INK) -> None:
        px, py = self.at(x, y)
        self.parts.append(_text(px, py + dy, text, anchor=anchor, color=color))


def draw_enrolment(enrolment: Enrolment, scorer: Scorer) -> str:
    """Return the picture: how unusual blocks get, exceedances by what went before, and the contexts."""
    manifest, audit = enrolment.manifest, enrolment.manifest.audit
    facts = (
        f"{manifest.usable_s / 60:.0f} min of {manifest.recorded_s / 60:.0f} used, {manifest.n_trimmed} of "
        f"{manifest.n_blocks} blocks left out as abnormal, worth {audit.effective_blocks:.0f} independent ones; "
        f"{manifest.walking_s / 60:.1f} min of walking; model {manifest.bundle_name} {manifest.bundle_digest[:12]}"
    )
    body = [
        _text(20, 30, f"Enrolment of {manifest.subject}, {manifest.enrolled_utc}", size=18, bold=True),
        _text(20, 52, facts),
        *_wrapped(20, 72, audit.sentence()),
        *_tail(enrolment, scorer.calibration).parts,
        *_by_history(enrolment).parts,
        *_contexts(enrolment, scorer).parts,
        _text(20, _TOP + _PANEL[1] + 62, "the person", color=_PERSON, bold=True),
        _text(110, _TOP + _PANEL[1] + 62, "the cohort", color=_COHORT, bold=True),
    ]
    height = _TOP + _PANEL[1] + 80
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>' + "\n".join(body) + "</svg>\n"
    )


def _tail(enrolment: Enrolment, cohort: Calibration) -> _Panel:
    """Share of blocks whose largest u is above x, on a logarithmic scale."""
    panel = _Panel(40, "Share of blocks above u")

    def curve(quantiles: Sequence[float], color: str) -> None:
        n = len(quantiles) - 1
        points = [(u, max(1 - i / n, _RARE)) for i, u in enumerate(quantiles)]
        panel.line(
            [
                (min(max(u / _MAX_U, 0.0), 1.0), 1 - math.log(share) / math.log(_RARE))
                for u, share in points
                if u <= _MAX_U
            ],
            color,
        )

    if cohort.enrolled is not None:
        curve(np.quantile(cohort.enrolled.reference, np.linspace(0, 1, 501)).tolist(), _COHORT)
    if enrolment.manifest.audit.quantiles:
        curve(enrolment.manifest.audit.quantiles, _PERSON)
    panel.line([(1 / _MAX_U, 0), (1 / _MAX_U, 1)], _FAINT, width=1, dash="4")
    for u in (0, 1, 2, 3):
        panel.label(u / _MAX_U, 0, str(u), dy=16)
    panel.label(0.5, 0, "largest u of a block; 1: a channel's own 99 %", dy=34)
    for share in (1.0, 0.1, 0.01, 0.001):
        panel.label(0, 1 - math.log(share) / math.log(_RARE), f"{share:.1%}", anchor="end", dy=4)
    return panel


def _by_history(enrolment: Enrolment) -> _Panel:
    """Bars of how often a detector exceeded after h of the last four blocks had."""
    panel = _Panel(360, "Next one exceeds, after h of 4 did")
    levels = enrolment.manifest.audit.levels
    highest = max(
        [level.limit or 0.0 for level in levels] + [_rate(level.hits, level.visits) for level in levels] + [0.05]
    )
    for i, level in enumerate(levels):
        x, rate = (i + 0.12) / len(levels), _rate(level.hits, level.visits)
        width = 0.36 / len(levels)
        if level.found == "seldom seen":
            panel.label(x + width / 2, 0, "seldom", dy=-6, color="#888")
        else:
            panel.bar(x, width, rate / highest, _PERSON)
        if level.limit is not None:
            panel.bar(x + width, width, level.limit / highest, _COHORT)
        panel.label((i + 0.5) / len(levels), 0, f"h = {level.h}", dy=16)
    panel.label(0, 1, f"{highest:.0%}", anchor="end", dy=8)
    panel.label(0.5, 0, "cohort: not exceeded by 90 % of its people", dy=34)
    return panel


def _rate(hits: int, visits: int) -> float:
    return hits / max(visits, 1)


def _contexts(enrolment: Enrolment, scorer: Scorer) -> _Panel:
    """Median to 99 % quantile in each context, mean over a sensor's channels, beside the cohort's there."""
    panel = _Panel(680, "Usual scores by how vigorously one moves")
    groups = sensor_groups(scorer.manifest)
    base = enrolment.baseline
    usual, spread = scorer.calibration.usual(base.knots[:, : len(groups)], groups)
    n_channels = groups[-1].stop
    own = [(base.median[:, g].mean(axis=1), base.q99[:, :n_channels][:, g].mean(axis=1)) for g in groups]
    cohort = [(usual[:, g].mean(axis=1), (usual + spread)[:, g].mean(axis=1)) for g in groups]
    low = min(float(m.min()) for m, _ in (*own, *cohort))
    high = max(float(q.max()) for _, q in (*own, *cohort))

    def y(nats: float) -> float:
        return 0.05 + 0.9 * (nats - low) / max(high - low, 1e-9)

    n_slots = len(base.knots) * len(groups)
    for s, sensor in enumerate(scorer.sensors):
        for k in range(len(base.knots)):
            x = (s * len(base.knots) + k + 0.5) / n_slots
            for shift, (median, q99), color in ((-0.1, own[s], _PERSON), (0.1, cohort[s], _COHORT)):
                at = x + shift / n_slots * 2
                panel.line([(at, y(float(median[k]))), (at, y(float(q99[k])))], color, width=4)
        panel.label((s + 0.5) / len(groups), 0, sensor.replace("_", " "), dy=16)
    names = ", ".join(CONTEXTS)
    panel.label(0.5, 0, f"{names}; median to 99 %, nats", dy=34)
    panel.label(0, y(low), f"{low:.1f}", anchor="end", dy=4)
    panel.label(0, y(high), f"{high:.1f}", anchor="end", dy=4)
    return panel


def _text(
    x: float, y: float, text: str, *, size: int = 12, bold: bool = False, anchor: str = "start", color: str = _INK
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}"{weight}>'
        f"{escape(text)}</text>"
    )


def _wrapped(x: float, y: float, text: str) -> list[str]:
    lines = textwrap.wrap(text, 150)
    if len(lines) > 2:
        lines = [lines[0], lines[1][:146] + " ..."]
    return [_text(x, y + 16 * i, line) for i, line in enumerate(lines)]
