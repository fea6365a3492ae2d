"""The live terminal view of a running edge: signals, score, belief, decision, sensor health, outbox."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kinedge.edge.caution import Decision
from kinedge.edge.narrative import usual_without
from kinedge.edge.pipeline import Scored
from kinedge.edge.service import EdgeService
from kinedge.edge.verdict import Verdict
from kinedge.signals import split_channel

__all__ = ["LiveView", "Track", "sparkline"]

_BARS: Final = " ▁▂▃▄▅▆▇█"
_COLUMNS: Final = 60  # of a sparkline: the last seconds, five marks each
_MARKS_PER_HOP: Final = 5
_BELIEF_WORDS: Final = 54  # letters beside the bar
# blue, orange and grey: told apart by every kind of colour vision; "unsure" has a colour of its own
_STYLE: Final = {Decision.NORMAL: "bold blue", Decision.ANOMALOUS: "bold dark_orange", Decision.UNSURE: "bold magenta"}
_WORD: Final = {Decision.NORMAL: "AS USUAL", Decision.ANOMALOUS: "DIFFERENT", Decision.UNSURE: "UNSURE"}


def sparkline(values: NDArray[np.floating], *, low: float, high: float) -> str:
    """Draw values as a line of block characters; NaN (no data) is a dot.

    Parameters
    ----------
    values : (n,)
    low, high
        Ends of the scale.
    """
    span = max(high - low, 1e-9)
    marks = []
    for v in values:
        if np.isnan(v):
            marks.append("·")
            continue
        level = round((float(v) - low) / span * (len(_BARS) - 1))
        marks.append(_BARS[min(max(level, 0), len(_BARS) - 1)])
    return "".join(marks)


@dataclass
class Track:
    """What was seen of one person: signals by name, scores, the last verdict."""

    signals: dict[str, deque[float]] = field(default_factory=dict)
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=_COLUMNS))
    verdict: Verdict | None = None


class LiveView:
    """Collects what the edge says and draws it."""

    def __init__(self, title: str, *, caution: str = "") -> None:
        self.title = title
        self.caution = caution
        self._tracks: dict[str, Track] = {}

    def take(self, scored: Scored, verdict: Verdict) -> None:
        """Remember one verdict with its hop."""
        track = self._tracks.setdefault(scored.subject, Track())
        track.verdict = verdict
        track.scores.append(verdict.score if any(r > 0 for r in verdict.sensor_reliability.values()) else np.nan)
        channels = scored.batch.channels
        for sensor in scored.batch.sensors:
            for quantity in ("acc", "gyr"):
                columns = [i for i, c in enumerate(channels) if split_channel(c)[0] == sensor and f".{quantity}_" in c]
                if not columns:
                    continue
                line = track.signals.setdefault(f"{sensor} {quantity}", deque(maxlen=_COLUMNS))
                magnitude = np.linalg.norm(scored.values[:, columns], axis=1)
                ok = scored.valid[:, columns].all(axis=1)
                for part, good in zip(
                    np.array_split(magnitude, _MARKS_PER_HOP), np.array_split(ok, _MARKS_PER_HOP), strict=True
                ):
                    line.append(float(part[good].mean()) if good.any() else np.nan)

    def render(self, service: EdgeService, *, width: int = 120) -> RenderableType:
        """Draw everything as it stands, for a terminal of ``width`` columns."""
        panels: list[RenderableType] = [self.person(s, t, width=width) for s, t in self._tracks.items()]
        if not panels:
            panels = [Panel("waiting for the first samples …", title=self.title)]
        return Group(*panels, self._sensors(service), self._outbox(service))

    def person(self, subject: str, track: Track, *, width: int = 120) -> RenderableType:
        """Draw one person: labels whole, the newest marks that fit, sentences over as many lines as they need."""
        labels = max(map(len, (*track.signals, "promise")))
        room = width - labels - 6
        marks = max(10, min(_COLUMNS, room))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", no_wrap=True, min_width=labels)
        grid.add_column()
        for name, line in track.signals.items():
            values = np.array(line)[-marks:]
            known = values[~np.isnan(values)]
            low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
            if name.endswith("acc"):
                low, high = min(low, 5.0), max(high, 15.0)
            grid.add_row(name, Text(sparkline(values, low=min(low, high - 1.0), high=high)))
        scale = "   0 = median, 1 = 99 % of the cohort"
        scores = sparkline(np.array(track.scores)[-max(10, min(_COLUMNS, room - len(scale))) :], low=-1.0, high=3.0)
        grid.add_row("score", Text(scores + scale))
        v = track.verdict
        if v is None:
            return Panel(grid, title=subject)
        grid.add_row("belief", _belief_bar(v, width=min(40, max(8, room - _BELIEF_WORDS))))
        answer = Text(_WORD[v.decision], style=_STYLE[v.decision])
        if v.decision is Decision.ANOMALOUS:
            share = v.sensor_share[v.top_sensor]
            answer.append(f"  the surprise starts at {v.top_sensor} ({share:.0%}), {v.top_channel}", style="default")
        elif v.without:
            answer = Text(usual_without(v.without).upper(), style=_STYLE[Decision.UNSURE])
            answer.append("  " + "; ".join(r.text for r in v.reasons[:2]), style="default")
        elif v.reasons:
            answer.append("  " + "; ".join(r.text for r in v.reasons[:2]), style="default")
        grid.add_row("answer", answer)
        if v.watched is not None:
            grid.add_row("promise", v.watched.why_invalid or v.watched.promise)
        grid.add_row("", f"p = {v.p_value:.4f}: share of the cohort's ordinary movement that is as unusual")
        if self.caution:
            grid.add_row("caution", Text(self.caution, style="dim"))
        return Panel(grid, title=f"{self.title} · {subject}", title_align="left")

    @staticmethod
    def _sensors(service: EdgeService) -> RenderableType:
        table = Table(expand=True, title_justify="left", box=None, header_style="dim")
        for column in ("sensor", "where", "state", "battery", "samples", "lost", "clock ±"):
            table.add_column(column, justify="right" if column in ("samples", "lost", "clock ±", "battery") else "left")
        for h in service.health.values():
            table.add_row(
                h.sensor,
                h.where.rsplit("/", 1)[-1],
                Text("connected", style="blue") if h.connected else Text("gone, asking again", style="magenta"),
                "?" if h.battery_percent is None else f"{h.battery_percent} %",
                f"{h.samples:,}",
                f"{h.lost:,} ({h.lost / max(h.samples + h.lost, 1):.1%})",
                "?" if h.clock_uncertainty_ms is None else f"{h.clock_uncertainty_ms:.1f} ms",
            )
        worst = [(s, p) for s in service.pipeline.subjects for p in service.pipeline.alignment(s)[:1]]
        lines = [f"{s}: {p.first} and {p.second} are aligned within {p.ms:.1f} ms, the worst pair" for s, p in worst]
        apart = Text("\n".join(lines))
        return Panel(Group(table, apart) if worst else table, title="sensors", title_align="left")

    @staticmethod
    def _outbox(service: EdgeService) -> RenderableType:
        counts = service.store.counts()
        text = Text(f"{counts.episodes} episodes kept, {counts.ready + counts.locked} messages waiting to be synced")
        if counts.drafts:
            text.append("  · an episode is open", style="dark_orange")
        if service.notes:
            text.append(f"\n{service.notes[-1]}", style="dim")
        return Panel(text, title="episodes and outbox", title_align="left")


def _belief_bar(verdict: Verdict, *, width: int = 40) -> Text:
    usual = round(verdict.belief_normal * width)
    different = min(round(verdict.belief_anomalous * width), width - usual)
    bar = Text()
    bar.append("█" * usual, style="blue")
    bar.append("░" * (width - usual - different), style="magenta")
    bar.append("█" * different, style="dark_orange")
    unsure = max(0.0, 1 - verdict.belief_normal - verdict.belief_anomalous)
    bar.append(
        f"  as usual {verdict.belief_normal:.2f} · cannot tell {unsure:.2f} · different {verdict.belief_anomalous:.2f}"
    )
    return bar
