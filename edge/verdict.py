"""The verdict: what was decided about a block, how sure, why not surer, and where the surprise starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.attribution import fewest, smallest_set
from kinedge.edge.calibration import Unusualness, is_told
from kinedge.edge.caution import Belief, CautionConfig, Decision
from kinedge.edge.coordination import Coordination, enough_told
from kinedge.edge.engine import Surprise
from kinedge.edge.hop_in_c import FoundHop
from kinedge.edge.promise import Watched
from kinedge.edge.reasons import Reason, reasons_of
from kinedge.edge.reliability import SensorHealth
from kinedge.edge.scores import BlockScores

__all__ = ["Basis", "Needed", "Verdict", "VerdictBatch"]

F64 = NDArray[np.float64]

_FOUND: Final = frozenset(
    ("scores", "surprise", "unusual", "belief", "channel_share", "sensor_share", "movement", "health")
)


@dataclass(frozen=True)
class Basis:
    """What the verdicts about a person rest on, besides the samples.

    Parameters
    ----------
    enrolment_digest
        Of the person's enrolment; None while they are compared with the cohort.
    alignment
        Whether today's sensor frames were brought to those of the enrolment: ``pending`` until enough walking was
        seen, ``partly`` when that succeeded for some sensors only, ``none`` when nothing could tell; ``same`` when the
        sensors were not taken off since the enrolment.
    unsigned
        ``model`` and ``enrolment``, as far as nobody trusted has signed them.
    """

    enrolment_digest: str | None = None
    alignment: Literal["none", "pending", "partly", "done", "failed", "same"] = "none"
    unsigned: tuple[Literal["model", "enrolment"], ...] = ()

    @property
    def calibration(self) -> Literal["cohort", "personal"]:
        """Whom the person is compared with."""
        return "cohort" if self.enrolment_digest is None else "personal"


@dataclass(frozen=True)
class Needed:
    """What an answer takes: belief in it beyond these and, for "anomalous", a p-value of at most that."""

    belief_normal: float
    belief_anomalous: float
    p_value: float


@dataclass(frozen=True)
class Verdict:
    """One answer about one person, for the block that ends at ``end_tick``.

    ``score`` is 0 at the median (and where nothing could be scored) and 1 at the 99 % quantile, of the cohort or of the
    person's own enrolment, as ``basis`` says; ``p_value`` is the share of the cohort's normal blocks that are at least
    as unusual, each compared with the same. Belief in normal and in anomalous do not
    add up to 1: the rest is "cannot tell". ``channel_share`` and ``sensor_share`` say where the surprise starts, of the
    blocks that belief rests on; ``smallest_set`` which few channels account for most of it (empty when the answer is
    normal).
    ``sensor_movement`` is how much each sensor moved: 0 as the median, 1 a step of the usual range more.
    ``sensor_beside`` is which part of its score comes from how much it moved beside the other sensors, below 0 where
    that was less than they let expect, and ``sensor_out_of_step`` which from when; both empty where the answer is
    normal, or not known. ``sensor_passed_on`` is which part of a sensor's surprise went once another was not heard: it
    counts in the shares as the other one's.
    ``without`` names the sensors that "normal" leaves out, and is empty for every other answer; ``belief_others`` is
    what that rests on, and no part of ``belief_normal``. ``needed`` is what an answer would have taken.
    """

    end_tick: int
    host_time_ns: int
    decision: Decision
    score: float
    p_value: float
    belief_normal: float
    belief_anomalous: float
    reasons: tuple[Reason, ...]
    sensor_score: dict[str, float]
    sensor_reliability: dict[str, float]
    sensor_missing: dict[str, float]
    sensor_share: dict[str, float]
    channel_share: dict[str, float]
    sensor_movement: dict[str, float] = field(default_factory=dict)
    sensor_beside: dict[str, float] = field(default_factory=dict)
    sensor_out_of_step: dict[str, float] = field(default_factory=dict)
    sensor_passed_on: dict[str, dict[str, float]] = field(default_factory=dict)
    smallest_set: tuple[str, ...] = ()
    basis: Basis = Basis()
    watched: Watched | None = None
    without: tuple[str, ...] = ()
    belief_others: float = 0.0
    needed: Needed | None = None

    @property
    def of_all(self) -> Decision:
        """What is said of all sensors together: unsure where "normal" is said without one.

        Whatever counts or keeps answers and has no room for names goes by this.
        """
        return Decision.UNSURE if self.without else self.decision

    @property
    def plausible_normal(self) -> float:
        """``Pl(normal)``: what is not believed of anomalous."""
        return 1 - self.belief_anomalous

    @property
    def plausible_anomalous(self) -> float:
        """``Pl(anomalous)``: what is not believed of normal."""
        return 1 - self.belief_normal

    def from_others(self, sensor: str) -> tuple[float, float]:
        """Return which share of a sensor's score comes from how much it moved beside the others, and from when.

        The first is below 0 where it moved less than they let expect.
        """
        beside, out_of_step = (part.get(sensor, 0.0) for part in (self.sensor_beside, self.sensor_out_of_step))
        score = max(self.sensor_score[sensor], abs(beside) + out_of_step)
        return (beside / score, out_of_step / score) if score > 0 else (0.0, 0.0)

    @property
    def top_sensor(self) -> str:
        """Where most of the surprise starts."""
        return max(self.sensor_share, key=lambda s: self.sensor_share[s])

    @property
    def top_channel(self) -> str:
        """Full name of the channel where most of the surprise starts."""
        return max(self.channel_share, key=lambda c: self.channel_share[c])


@dataclass(frozen=True, eq=False)
class VerdictBatch:
    """Verdicts of all streams of one step, as arrays; ``verdict`` makes one for a person to read.

    ``surprise`` is that of the hop alone. ``movement`` is (n_streams, n_sensors), ``precision`` one matrix or one per
    stream. ``bases`` is one per stream, or empty: the cohort. ``watched`` is one per stream, or empty: nobody
    watches for alarms; then every verdict stands for itself. ``health`` and ``clock_ms`` are as ``believe`` takes them.
    ``passed_on`` (n_streams, n_sensors, n_sensors) is what the shares have moved from each sensor to each other, None
    where nothing was.
    """

    end_tick: int
    host_time_ns: int
    scores: BlockScores
    surprise: Surprise
    unusual: Unusualness
    belief: Belief
    channel_share: F64
    sensor_share: F64
    movement: F64
    precision: F64
    sensors: tuple[str, ...]
    channels: tuple[str, ...]
    config: CautionConfig
    health: SensorHealth | None
    clock_ms: F64 | None = None
    bases: tuple[Basis, ...] = ()
    watched: Sequence[Watched | None] = ()
    additive: bool = False
    coordination: Coordination | None = None
    passed_on: F64 | None = None

    @classmethod
    def of_hop(cls, found: FoundHop, **rest: Any) -> VerdictBatch:
        """Return a batch of what C found, of which parts become arrays when they are asked for."""
        batch = object.__new__(cls)
        batch.__dict__.update(rest, _found=found)
        return batch

    def __getattr__(self, name: str) -> Any:
        # only what is not there yet is asked for here; a copy that was changed shares what was found
        found = self.__dict__.get("_found")
        if found is None or name not in _FOUND:
            raise AttributeError(f"a batch of verdicts has no {name!r}")
        part = self.__dict__[name] = getattr(found, name)
        return part

    @property
    def is_worn(self) -> bool:
        """Whether it is known that no sensor is silent, or has been still for long; False where nobody has looked."""
        found: FoundHop | None = self.__dict__.get("_found")
        return found is not None and found.worn

    def changed(self, **parts: Any) -> VerdictBatch:
        """Return the same with other parts, as ``dataclasses.replace`` does, which takes ten times as long."""
        other = object.__new__(VerdictBatch)
        other.__dict__.update(self.__dict__, **parts)
        return other

    def verdict(self, stream: int) -> Verdict:
        """Return the verdict of one stream."""

        def by_sensor(values: NDArray[np.floating]) -> dict[str, float]:
            return {s: float(v) for s, v in zip(self.sensors, values[stream], strict=True)}

        decision = Decision(int(self.belief.decision[stream]))
        reasons = reasons_of(
            stream,
            self.scores,
            self.unusual,
            self.belief,
            self.sensors,
            self.config,
            health=self.health,
            clock_ms=self.clock_ms,
            channels=self.channels,
        )
        watched = self.watched[stream] if self.watched else None
        if watched is not None and watched.alarm:
            decision = Decision.ANOMALOUS
        elif watched is not None and not watched.valid:
            decision = Decision.UNSURE
            code = "not_placed" if watched.unplaced else "not_valid"
            reasons = (*reasons, Reason(code, watched.why_invalid, 7.0))
            reasons = tuple(sorted(reasons, key=lambda r: -r.weight))
        left_out = self.belief.without[stream] if decision is Decision.NORMAL else ()
        beside, out_of_step = ({}, {}) if decision is Decision.NORMAL else self._beside(stream)
        return Verdict(
            end_tick=self.end_tick,
            host_time_ns=self.host_time_ns,
            decision=decision,
            score=float(self.unusual.score[stream]),
            p_value=float(self.unusual.p_value[stream]),
            belief_normal=float(self.belief.normal[stream]),
            belief_anomalous=float(self.belief.anomalous[stream]),
            reasons=reasons,
            sensor_score=by_sensor(np.maximum(self.unusual.sensor, -99.0)),
            sensor_reliability=by_sensor(self.belief.reliability),
            sensor_missing=by_sensor(self.scores.missing),
            sensor_share=by_sensor(self.sensor_share),
            channel_share={c: float(v) for c, v in zip(self.channels, self.channel_share[stream], strict=True)},
            sensor_movement=by_sensor(self.movement),
            sensor_beside=beside,
            sensor_out_of_step=out_of_step,
            sensor_passed_on=self._passed_on(stream),
            smallest_set=() if decision is Decision.NORMAL else self._smallest_set(stream),
            basis=self.bases[stream] if self.bases else Basis(),
            watched=watched,
            without=tuple(s for s, out in zip(self.sensors, left_out, strict=False) if out),
            belief_others=float(self.belief.others[stream]),
            needed=self._needed(stream),
        )

    def _beside(self, stream: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return what the sensor's scores have of how it moves beside the others, by how much and by when."""
        at = slice(stream, stream + 1)
        told = is_told(self.unusual.sensor[at], self.scores.intensity[at])
        if self.coordination is None or not enough_told(told)[0]:
            return {}, {}
        own = self.coordination.rows(np.array([stream]))
        parts = own.beside(self.scores.intensity[at], self.scores.late[at], told, before=self.scores.before[at])
        moved, out_of_step = (dict(zip(self.sensors, part[0].tolist(), strict=True)) for part in parts)
        return moved, out_of_step

    def _passed_on(self, stream: int) -> dict[str, dict[str, float]]:
        """Return which part of each sensor's surprise is whose."""
        if self.passed_on is None:
            return {}
        of = ({s: float(v) for s, v in zip(self.sensors, row, strict=True) if v > 0} for row in self.passed_on[stream])
        return {sensor: to for sensor, to in zip(self.sensors, of, strict=True) if to}

    def _needed(self, stream: int) -> Needed:
        c = self.config
        enrolled = bool(self.belief.enrolled[stream])
        odd, alpha = (c.min_belief_anomalous, c.alpha) if enrolled else (c.min_belief_newcomer, c.alpha_newcomer)
        return Needed(c.min_belief_normal, odd, alpha)

    def _smallest_set(self, stream: int) -> tuple[str, ...]:
        if self.additive or (self.passed_on is not None and self.passed_on[stream].any()):
            return tuple(self.channels[c] for c in fewest(self.channel_share[stream]))
        n = len(self.channels)
        z, ok = (a[stream].reshape(-1, n) for a in (self.surprise.z, self.surprise.valid))
        precision = self.precision if self.precision.ndim == 2 else self.precision[stream]
        return tuple(self.channels[c] for c in smallest_set(z, ok, precision))
