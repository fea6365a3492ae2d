"""What the explanations of spoilt walks said, and whether it was right: verdict by verdict, and episode by episode.

All forms of one walk are followed together. The first is the walk as it was; then come its spoilt forms, and then these
again with a little noise. An explanation is of what an alarm is about, so an alarm counts only while the walk as it was
is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.caution import Decision
from kinedge.edge.episodes import EpisodeBuilder
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import VerdictBatch

__all__ = ["AFTER_HOPS", "Case", "Explained", "Told"]

AFTER_HOPS: Final = 8  # for so long an alarm may go on after what was spoilt: belief remembers
_BEFORE_HOPS: Final = 2  # what an episode that opens looks back on


@dataclass(frozen=True)
class Case:
    """One spoilt form: what was done, how strongly, to which channel (None: a whole sensor) and sensor."""

    kind: str
    strength: float
    channel: int | None
    sensor: int


@dataclass(frozen=True)
class Told:
    """One explanation of a spoilt walk, and whether its channel and its sensor were right.

    Parameters
    ----------
    subject, group
        Of whom, and by which model.
    whole
        The block lies in the spoilt stretch from end to end.
    noticed, alarm
        The score is above 1, or the answer anomalous, and of the walk as it was it is not.
    first
        The first alarm, and none was on before.
    told
        It is of what was said first, an alarm or which axis is held, and not of a verdict that counts elsewhere.
    alone
        The walk as it was leans to no change.
    episode
        It is an episode's, not a verdict's.
    stable
        With a little noise the same channel leads; None of an episode, and of what was told first.
    """

    subject: str
    group: int
    case: Case
    channel: bool
    sensor: bool
    whole: bool = False
    noticed: bool = False
    alarm: bool = False
    first: bool = False
    told: bool = False
    alone: bool = False
    episode: bool = False
    stable: bool | None = None


class Explained:
    """Follows all forms of one walk.

    Parameters
    ----------
    scorer
        What scores them.
    subject, group
        Whose walk, and of which model.
    cases
        Of the spoilt forms.
    start, end
        Ticks of the spoilt stretch.
    """

    def __init__(
        self, scorer: Scorer, subject: str, group: int, cases: Sequence[Case], *, start: int, end: int
    ) -> None:
        m = scorer.manifest
        self._scorer, self._subject, self._group, self._cases = scorer, subject, group, cases
        self._start, self._end, self._hop, self._block = start, end, m.hop, m.block
        self._was_on = np.zeros(1 + len(cases), bool)
        self._had = np.zeros(1 + len(cases), bool)
        self._said = np.zeros(1 + len(cases), bool)
        self._builders = [
            EpisodeBuilder(
                subject, channels=scorer.channels, rate_hz=m.rate_hz, hop=m.hop, block=m.block, provenance={}
            )
            for _ in range(1 + len(cases))
        ]
        self._episodes: list[list[tuple[str, str]]] = [[] for _ in self._builders]

    def step(self, batch: VerdictBatch, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> list[Told]:
        """Take the verdicts of one hop, with its samples (n_forms, hop, n_channels); return what they told."""
        n = 1 + len(self._cases)
        on = batch.belief.decision[:n] == Decision.ANOMALOUS
        told = self._verdicts(batch, on) if batch.end_tick > self._start else []
        self._was_on = on
        if batch.end_tick > self._start - _BEFORE_HOPS * self._hop:
            for form, builder in enumerate(self._builders):
                ns = batch.end_tick * self._scorer.period_ns
                for draft in builder.step(batch.verdict(form), values[form], valid[form], end_utc_ns=ns):
                    self._keep(form, draft.closed, draft.fields)
        return told

    def end(self) -> list[Told]:
        """Return what the episodes of the spoilt walks told, where the walk as it was had none."""
        for form, builder in enumerate(self._builders):
            for draft in builder.stop():
                self._keep(form, draft.closed, draft.fields)
        if self._episodes[0]:
            return []
        return [
            Told(
                self._subject,
                self._group,
                case,
                channel=case.channel is not None and channel == self._scorer.channels[case.channel],
                sensor=sensor == self._scorer.sensors[case.sensor],
                episode=True,
            )
            for case, found in zip(self._cases, self._episodes[1:], strict=True)
            for channel, sensor in found[:1]
        ]

    def _keep(self, form: int, closed: bool, fields: dict[str, object]) -> None:
        if not closed:
            return
        leading = next(c for c in fields["contributions"] if c["channel"] is not None)  # type: ignore[attr-defined]
        sensor = fields["explanation"]["sensor"]  # type: ignore[index]
        self._episodes[form].append((f"{leading['sensor']}.{leading['channel']}", sensor))

    def _verdicts(self, batch: VerdictBatch, on: NDArray[np.bool_]) -> list[Told]:
        n = len(self._cases)
        score, whole = batch.unusual.score, self._start <= batch.end_tick - self._block and batch.end_tick <= self._end
        channel, sensor = batch.channel_share.argmax(axis=1), batch.sensor_share.argmax(axis=1)
        alarm = on & ~on[0]
        first = alarm & ~self._had & ~self._was_on
        self._had |= alarm
        told = self._told(batch, on, alarm, channel, sensor)
        return told + [
            Told(
                self._subject,
                self._group,
                case,
                channel=bool(channel[i] == case.channel),
                sensor=bool(sensor[i] == case.sensor),
                whole=whole,
                noticed=bool(score[i] > 1 >= score[0]),
                alarm=bool(alarm[i]),
                first=bool(first[i]),
                alone=bool(batch.belief.lean[0] <= 0),
                stable=bool(channel[i] == channel[n + i]),
            )
            for i, case in enumerate(self._cases, start=1)
            if whole or alarm[i]
        ]

    def _told(
        self,
        batch: VerdictBatch,
        on: NDArray[np.bool_],
        alarm: NDArray[np.bool_],
        channel: NDArray[np.int64],
        sensor: NDArray[np.int64],
    ) -> list[Told]:
        """Return what is said first of each form: where the surprise is, or which axis stands still."""
        axes = np.zeros(batch.sensor_share.shape) if batch.health is None else batch.health.held
        held = axes[: len(on)].any(axis=1) & ~on
        said = (alarm | held) & ~self._said & ~self._was_on
        self._said |= alarm | held
        found = []
        for i in np.flatnonzero(said):
            case, where = self._cases[i - 1], (int(channel[i]), int(sensor[i]))
            if held[i] and batch.health is not None:
                s = int(np.abs(axes[i]).argmax())
                where = self._scorer.groups[s].start + batch.health.first_held(int(i), s) - 1, s
            right = where[0] == case.channel, where[1] == case.sensor
            found.append(Told(self._subject, self._group, case, channel=right[0], sensor=right[1], told=True))
        return found
