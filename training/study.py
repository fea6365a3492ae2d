"""How a model does on people it never saw: per subject, by kind of change, and examples of both outcomes.

All of it is measured on recordings that had no part in training or calibration. Changes are real events where the
recordings have labelled ones, and synthetic ones put into ordinary movement otherwise and beside. Which examples are
shown follows from their order alone: the first of each kind, not the best.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.offline import score_recording, verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.recording import Recording, Region
from kinedge.signals import quantity_of
from kinedge.training.anomalies import ANOMALIES, inject, parse_label
from kinedge.training.evaluate import EpisodeMetrics, FoundEpisode, episodes_from, match_events
from kinedge.training.windows import labelled

__all__ = ["Example", "KindFigures", "Outcome", "Study", "SubjectFigures", "study", "synthetic_kinds"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Outcome = Literal["found", "missed", "false"]

_PIECE_S: Final = (16.0, 10.0, 12.0)  # of ordinary movement, of change, of ordinary movement again
_AROUND_S: Final = 14.0  # shown around a real event or a false episode
_LONGEST_S: Final = 60.0  # of an example
_STRENGTHS: Final = (0.4, 1.0)
_MAX_SUBJECTS: Final = 6  # that synthetic changes are tried on
_MAX_EXAMPLES: Final = {"found": 3, "missed": 3, "false": 2}
_MAX_RESIDUALS: Final = 200_000
_FAULTS_BY_MASK: Final = frozenset({"dropout"})  # nothing to find: the samples are gone, and the answer is "unsure"


@dataclass(frozen=True, eq=False)
class SubjectFigures:
    """One held-out subject: ordinary movement, and what was said about it.

    ``p_values`` are those of blocks of ordinary movement without a gap.
    """

    subject: str
    metrics: EpisodeMetrics
    p_values: F64


@dataclass(frozen=True)
class KindFigures:
    """How often one kind of change was found; ``strength`` is None for real events."""

    kind: str
    strength: float | None
    metrics: EpisodeMetrics


@dataclass(frozen=True, eq=False)
class Example:
    """A stretch of a held-out recording, and what was said about it.

    Parameters
    ----------
    outcome, kind
        What is shown; of a false episode the kind is empty.
    recording
        The stretch.
    sensor
        Whose signals tell most.
    event, episodes
        The change, and what was flagged, in s of the stretch.
    verdicts
        About the stretch; their ticks are those of the stretch.
    channel_share
        Where the surprise was at its height.
    """

    outcome: Outcome
    kind: str
    recording: Recording
    sensor: str
    event: tuple[float, float] | None
    episodes: tuple[tuple[float, float], ...]
    verdicts: tuple[tuple[float, Verdict], ...]
    channel_share: dict[str, float]


@dataclass(frozen=True, eq=False)
class Study:
    """Everything a report shows of held-out recordings.

    ``residuals`` (n, n_channels) are standardised residuals of the first horizon, NaN where there is none.
    """

    subjects: tuple[SubjectFigures, ...]
    kinds: tuple[KindFigures, ...]
    examples: tuple[Example, ...]
    residuals: F32
    nu: F64

    @property
    def ordinary(self) -> EpisodeMetrics:
        """All subjects together."""
        total = EpisodeMetrics()
        for s in self.subjects:
            total += s.metrics
        return total


def study(held: Sequence[tuple[Sequence[Recording], Scorer]], *, exclude_labels: Sequence[str], seed: int = 0) -> Study:
    """Judge held-out recordings.

    Parameters
    ----------
    held
        Recordings on the model's grid, each with a scorer whose model and calibration they had no part in.
    exclude_labels
        Regions that are no ordinary movement: the real events.
    seed
        Of the synthetic changes.
    """
    subjects: dict[str, SubjectFigures] = {}
    kinds: defaultdict[tuple[str, float | None], EpisodeMetrics] = defaultdict(EpisodeMetrics)
    examples: list[Example] = []
    residuals: list[F32] = []
    n_samples = sum(len(r) for rs, _ in held for r in rs)
    for recordings, scorer in held:
        for recording in recordings:
            events = labelled(recording, exclude_labels)
            residuals.append(_residuals(scorer, recording, events, every=math.ceil(n_samples / _MAX_RESIDUALS)))
            verdicts = verdicts_of(scorer, recording)
            found = episodes_from(verdicts, scorer, recording)
            metrics = _match(found, events, recording)
            metrics.n_verdicts, metrics.n_unsure = len(verdicts), sum(v.decision.word == "unsure" for v in verdicts)
            p_values = _ordinary_p_values(scorer, recording, verdicts, events)
            before = subjects.get(recording.subject)
            if before is not None:
                metrics += before.metrics
                p_values = np.concatenate([before.p_values, p_values])
            subjects[recording.subject] = SubjectFigures(recording.subject, metrics, p_values)
            for event in events:
                one = _match(found, [event], recording)
                kinds[event.label, None] += one
                examples += _shown("found" if one.n_found else "missed", recording, verdicts, found, event)
            apart = [e for e in found if not _match([e], events, recording).n_found]
            for episode in apart:
                examples += _shown("false", recording, verdicts, found, None, episode)
    for strength, event, changed, verdicts, found in _synthetic(held, exclude_labels, seed=seed):
        one = _match(found, [event], changed)
        kind = parse_label(event.label)
        kinds[kind[0] if kind else event.label, strength] += one
        examples += _shown("found" if one.n_found else "missed", changed, verdicts, found, event)
    manifest = held[0][1].manifest if held else None
    return Study(
        subjects=tuple(subjects[s] for s in sorted(subjects, key=lambda s: (len(s), s))),
        kinds=tuple(KindFigures(kind, strength, m) for (kind, strength), m in kinds.items()),
        examples=tuple(_first_of_each(examples)),
        residuals=np.concatenate(residuals) if residuals else np.zeros((0, 0), np.float32),
        nu=np.array(manifest.student_t_nu[0]) if manifest else np.zeros(0),
    )


def synthetic_kinds() -> tuple[str, ...]:
    """Return the kinds of change that are put into recordings."""
    return tuple(sorted(n for n, a in ANOMALIES.items() if a.level == "signal" and n not in _FAULTS_BY_MASK))


def _add(
    kinds: dict[tuple[str, float | None], EpisodeMetrics], key: tuple[str, float | None], m: EpisodeMetrics
) -> None:
    kinds.setdefault(key, EpisodeMetrics()).__iadd__(m)


def _match(found: Sequence[FoundEpisode], events: Sequence[Region], recording: Recording) -> EpisodeMetrics:
    def place(region: Region) -> str | None:
        parsed = parse_label(region.label)
        return parsed[1][0] if parsed is not None and len(parsed[1]) == 1 else None

    return match_events(found, events, rate_hz=recording.rate_hz, duration_s=recording.duration_s, place_of=place)


def _residuals(scorer: Scorer, recording: Recording, events: Sequence[Region], *, every: int) -> F32:
    hops = [
        np.where(surprise.valid[0, :, 0], surprise.z[0, :, 0], np.float32(np.nan))
        for _, _, surprise in score_recording(scorer, recording)
    ]
    z = np.concatenate(hops) if hops else np.zeros((0, recording.values.shape[1]), np.float32)
    for event in events:
        z[event.start : event.end] = np.nan
    return z[::every]


def _ordinary_p_values(
    scorer: Scorer, recording: Recording, verdicts: Sequence[Verdict], events: Sequence[Region]
) -> F64:
    look_back = scorer.manifest.block + scorer.manifest.receptive_field
    bad = np.zeros(len(recording) + 1, bool)
    bad[:look_back] = True
    for event in events:
        bad[event.start : event.end + look_back] = True
    whole = [v.p_value for v in verdicts if not bad[v.end_tick] and max(v.sensor_missing.values()) == 0]
    return np.array(whole, np.float64)


def _synthetic(
    held: Sequence[tuple[Sequence[Recording], Scorer]], exclude_labels: Sequence[str], *, seed: int
) -> Iterator[tuple[float, Region, Recording, list[Verdict], list[FoundEpisode]]]:
    """Put every kind of change, weak and strong, into a stretch of ordinary movement of some subjects."""
    rng = np.random.default_rng(seed)
    stretches: dict[str, tuple[Recording, Scorer]] = {}
    for recordings, scorer in held:
        for recording in recordings:
            piece = _ordinary_stretch(recording, labelled(recording, exclude_labels))
            if piece is not None and len(stretches) < _MAX_SUBJECTS:
                stretches.setdefault(recording.subject, (piece, scorer))
    for kind in synthetic_kinds():
        for strength in _STRENGTHS:
            for piece, scorer in stretches.values():
                touched = set(ANOMALIES[kind].quantities)
                able = [s.name for s in piece.sensors if touched & {quantity_of(c) for c in s.channels}]
                if not able:
                    continue
                start, end = (round(t * piece.rate_hz) for t in np.cumsum(_PIECE_S[:2]))
                sensor, draw = able[int(rng.integers(len(able)))], int(rng.integers(2**31))
                changed = inject(piece, kind, start, end, sensor=sensor, seed=draw, strength=strength)
                verdicts = verdicts_of(scorer, changed)
                yield strength, changed.labels[-1], changed, verdicts, episodes_from(verdicts, scorer, changed)


def _ordinary_stretch(recording: Recording, events: Sequence[Region]) -> Recording | None:
    """Return the stretch without an event in whose middle the person moves about as much as on the whole."""
    n, start, end = (round(t * recording.rate_hz) for t in (sum(_PIECE_S), *np.cumsum(_PIECE_S[:2])))
    bad = np.zeros(len(recording), bool)
    for event in events:
        bad[event.start : event.end] = True
    free = [s for s in range(0, len(recording) - n + 1, n // 4) if not bad[s : s + n].any()]
    if not free:
        return None
    moved = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(recording.values, axis=0)).mean(axis=1))])
    usual = moved[-1] / len(moved) * (end - start)
    best = min(free, key=lambda s: abs(float(moved[s + end - 1] - moved[s + start]) - usual))
    return recording.slice(best, best + n)


def _shown(
    outcome: Outcome,
    recording: Recording,
    verdicts: Sequence[Verdict],
    found: Sequence[FoundEpisode],
    event: Region | None,
    episode: FoundEpisode | None = None,
) -> Iterator[Example]:
    """Cut out what shows an event, or a false episode."""
    rate = recording.rate_hz
    if event is not None:
        low, high = event.start / rate, event.end / rate
    elif episode is not None:
        low, high = episode.start_s, episode.end_s
    else:
        return
    first = max(0, round((low - _AROUND_S) * rate))
    last = min(len(recording), round(min(high + _AROUND_S, low - _AROUND_S + _LONGEST_S) * rate))
    inside = [v for v in verdicts if first < v.end_tick <= last]
    during = [v for v in inside if low < v.end_tick / rate <= high + 2.0]
    if not during:
        return
    peak = max(during, key=lambda v: v.score)
    parsed = parse_label(event.label) if event is not None else None
    at_s = first / rate
    yield Example(
        outcome=outcome,
        kind="" if event is None else parsed[0] if parsed else event.label,
        recording=recording.slice(first, last),
        sensor=parsed[1][0] if parsed else peak.top_sensor,
        event=(low - at_s, min(high, last / rate) - at_s) if event is not None else None,
        episodes=tuple((e.start_s - at_s, e.end_s - at_s) for e in found if e.end_s > at_s and e.start_s < last / rate),
        verdicts=tuple((v.end_tick / rate - at_s, v) for v in inside),
        channel_share=peak.channel_share,
    )


def _first_of_each(examples: Sequence[Example]) -> list[Example]:
    """Take the first examples of each outcome, from different kinds and subjects as far as there are any."""
    taken: list[Example] = []
    for outcome, n in _MAX_EXAMPLES.items():
        of_it = [e for e in examples if e.outcome == outcome]
        fresh = {e.kind or e.recording.subject: e for e in reversed(of_it)}
        first = [e for e in of_it if fresh[e.kind or e.recording.subject] is e]
        taken += [*first, *(e for e in of_it if all(e is not f for f in first))][:n]
    return taken
