"""How well episodes match labelled events: found, false, delay, place. One definition for every figure we publish.

An event is found when an episode overlaps it, or opens within ``tolerance_s`` of its end. Its delay runs from its
start to the moment the episode was opened, not to where the episode was dated (0 when it was open already). An
episode that meets no event is false. Hours are those outside events, and of them the share inside episodes is
given too: who cries wolf all the time finds every wolf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kinedge.edge.caution import Decision
from kinedge.edge.episodes import EpisodeBuilder, EpisodeConfig
from kinedge.edge.offline import hops, verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.recording import Recording, Region

__all__ = ["EpisodeMetrics", "FoundEpisode", "episodes_from", "episodes_of", "match_events", "poisson_interval"]


@dataclass(frozen=True)
class FoundEpisode:
    """An episode in seconds of its recording: dated ``[start_s, end_s)``, decided at ``opened_s``."""

    start_s: float
    end_s: float
    opened_s: float
    top_sensor: str = ""


@dataclass
class EpisodeMetrics:
    """Counts over recordings; add them up with ``+=``."""

    n_events: int = 0
    n_found: int = 0
    n_false: int = 0
    hours: float = 0.0
    delays_s: list[float] = field(default_factory=list)
    n_placed: int = 0
    n_placeable: int = 0
    n_verdicts: int = 0
    n_unsure: int = 0
    flagged_s: float = 0.0

    def __iadd__(self, other: EpisodeMetrics) -> EpisodeMetrics:
        self.n_events += other.n_events
        self.n_found += other.n_found
        self.n_false += other.n_false
        self.hours += other.hours
        self.delays_s += other.delays_s
        self.n_placed += other.n_placed
        self.n_placeable += other.n_placeable
        self.n_verdicts += other.n_verdicts
        self.n_unsure += other.n_unsure
        self.flagged_s += other.flagged_s
        return self

    def summary(self) -> dict[str, float | int | None]:
        """Return the figures a table shows; the delay is None where nothing was found."""
        return {
            "events": self.n_events,
            "found": self.n_found,
            "false_episodes": self.n_false,
            "hours_outside_events": round(self.hours, 4),
            "false_per_hour": round(self.n_false / self.hours, 2) if self.hours else 0.0,
            "flagged_share_outside_events": round(self.flagged_s / 3600 / self.hours, 4) if self.hours else 0.0,
            "median_delay_s": round(float(np.median(self.delays_s)), 2) if self.delays_s else None,
            "right_sensor": self.n_placed,
            "right_sensor_of": self.n_placeable,
            "unsure_share": round(self.n_unsure / self.n_verdicts, 4) if self.n_verdicts else 0.0,
        }


def episodes_of(
    scorer: Scorer, recording: Recording, *, config: EpisodeConfig | None = None
) -> tuple[list[FoundEpisode], int, int]:
    """Run a recording on the model's grid through scoring and the episode builder.

    Returns
    -------
    episodes
        In order.
    n_verdicts, n_unsure
        How often an answer was given, and how often it was "unsure".
    """
    verdicts = verdicts_of(scorer, recording)
    n_unsure = sum(v.decision is Decision.UNSURE for v in verdicts)
    return episodes_from(verdicts, scorer, recording, config=config), len(verdicts), n_unsure


def episodes_from(
    verdicts: Sequence[Verdict], scorer: Scorer, recording: Recording, *, config: EpisodeConfig | None = None
) -> list[FoundEpisode]:
    """Run the verdicts about a recording on the model's grid through the episode builder."""
    manifest = scorer.manifest
    builder = EpisodeBuilder(
        recording.subject,
        channels=scorer.channels,
        rate_hz=manifest.rate_hz,
        hop=manifest.hop,
        block=manifest.block,
        provenance={},
        config=config,
    )
    offset_ns = 10**12  # times before the recording's start must stay positive
    opened: dict[str, float] = {}
    found: dict[str, FoundEpisode] = {}
    for verdict, (values, valid, _) in zip(verdicts, hops(recording, manifest.hop), strict=True):
        now_s = verdict.end_tick / manifest.rate_hz
        for draft in builder.step(verdict, values[0], valid[0], end_utc_ns=offset_ns + round(now_s * 1e9)):
            opened.setdefault(draft.key, now_s)
            found[draft.key] = FoundEpisode(
                start_s=(draft.fields["start_utc_ns"] - offset_ns) / 1e9,
                end_s=(draft.fields["end_utc_ns"] - offset_ns) / 1e9,
                opened_s=opened[draft.key],
                top_sensor=draft.fields["contributions"][0]["sensor"],
            )
    return sorted(found.values(), key=lambda e: e.opened_s)


def match_events(
    episodes: Sequence[FoundEpisode],
    events: Sequence[Region],
    *,
    rate_hz: float,
    duration_s: float,
    tolerance_s: float = 2.0,
    place_of: Callable[[Region], str | None] = lambda region: None,
) -> EpisodeMetrics:
    """Match episodes with labelled events of one recording.

    Parameters
    ----------
    episodes
        From ``episodes_of`` or from a store.
    events
        Regions in samples at ``rate_hz``.
    duration_s
        Of the recording.
    tolerance_s
        After the end of an event, the time in which an episode may still open for it.
    place_of
        The sensor where an event takes place, if one can be named.
    """
    metrics = EpisodeMetrics(n_events=len(events))
    used: set[int] = set()
    for event in events:
        start_s, end_s = event.start / rate_hz, event.end / rate_hz
        hits = [
            i
            for i, e in enumerate(episodes)
            if (e.start_s < end_s and e.end_s > start_s) or start_s <= e.opened_s <= end_s + tolerance_s
        ]
        used.update(hits)
        if not hits:
            continue
        first = episodes[hits[0]]
        metrics.n_found += 1
        metrics.delays_s.append(max(0.0, first.opened_s - start_s))
        place = place_of(event)
        if place is not None:
            metrics.n_placeable += 1
            metrics.n_placed += first.top_sensor == place
    metrics.n_false = len(episodes) - len(used)
    covered_s = sum(r.end - r.start for r in events) / rate_hz
    metrics.hours = max(0.0, duration_s - covered_s) / 3600
    n = round(duration_s * rate_hz)
    flagged = np.zeros(n, bool)
    for e in episodes:
        flagged[max(0, round(e.start_s * rate_hz)) : max(0, round(e.end_s * rate_hz))] = True
    for event in events:
        flagged[event.start : event.end] = False
    metrics.flagged_s = float(flagged.sum()) / rate_hz
    return metrics


def poisson_interval(count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean, by bisection on its distribution function."""

    def at_most(k: int, mean: float) -> float:
        return math.fsum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(k + 1))

    def solve(k: int, target: float) -> float:
        low, high = 0.0, 2.0 * (k + 10)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(k, middle) > target else (low, middle)
        return low

    return (0.0 if count == 0 else solve(count - 1, 0.975)), solve(count, 0.025)
