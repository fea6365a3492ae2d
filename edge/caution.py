"""Caution: from unusualness and the state of the sensors to one of three answers, with its reasons.

Per sensor ``s``, a likelihood ratio ``LR = exp(b0 + b1 u_s)`` (fitted on normal blocks against synthetic
anomalies) and a reliability ``r`` in [0, 1] give the belief masses

    a = r (1 - S / LR)_+ for "anomalous",    b = r (1 - LR)_+ for "normal",    the rest for "cannot tell".

Together: ``Bel(anomalous) = max_s a`` and ``Bel(normal) = min_s b``, since "anomalous anywhere" is an OR: one
abnormal arm must not be outvoted by a normal one, which is why this is not Dempster's rule. What is not believed of
the one is plausible of the other: ``Pl(anomalous) = 1 - Bel(normal)``. "Anomalous" is said when ``Bel(anomalous)`` is
high and the block is rare among the cohort's; "normal" when ``Bel(normal)`` is high; otherwise "unsure", with what
stood in the way.

The reliability is a product of shares of trust, one for each thing that can be wrong: ``(1 - missing)^0.3``,
``1 - saturated``, ``1 - repeated`` and so on, 0 for a flat line or the copy of another sensor
(``kinedge.edge.reliability``). Each takes ``-log(share)`` nats of certainty, and by that reasons are ranked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from kinedge.config import Config
from kinedge.edge.calibration import UNSCORED, Calibration, Unusualness
from kinedge.edge.reliability import CLIPPED_POWER, SensorHealth
from kinedge.edge.scores import BlockScores

__all__ = ["Belief", "CautionConfig", "Decision", "Reason", "believe", "reasons_of"]

F64 = NDArray[np.float64]

_NO_DATA: Final = 0.9  # of a block missing: nothing was heard
_HALF: Final = 0.5  # of a block missing: too little to say anything
# Models are trained with missing samples, and know less then by themselves: little is left to discount. A reason it is
# all the same, so that it is named as if the power were 1.5, which fits models that were not.
_LOSS_POWER: Final = 0.3
_LOSS_NAMED: Final = 1.5 / _LOSS_POWER
_TOO_LITTLE: Final = 0.25  # of a block missing: reason enough that it was not scored
_WORTH_NAMING: Final = 0.05  # nats of certainty
_LOG_LR_LIMIT: Final = 20.0
_CERTAIN: Final = 9.0  # nats: nothing of a sensor can be trusted
_BETWEEN: Final = 0.3  # nats at most: where a sensor is in doubt, that is likelier the reason
_LEAST: Final = 0.02  # of the reliability of any evidence, where only order counts
_SWAPPED: Final = 0.2
_CLOCK_MS: Final = (60.0, 160.0)  # apart: as good as aligned; as bad as a fault (docs/caution.md)

_ALPHA: Final = 0.01
_ANOMALOUS: Final = 0.7  # cost of an unsure answer, in false calls and in misses that cost as much
_NORMAL: Final = 0.9


class Decision(IntEnum):
    """The three answers."""

    NORMAL = 0
    ANOMALOUS = 1
    UNSURE = 2

    @property
    def word(self) -> Literal["normal", "anomalous", "unsure"]:
        """The answer as it is written everywhere."""
        return _WORDS[self]


_WORDS: Final[dict[Decision, Literal["normal", "anomalous", "unsure"]]] = {
    Decision.NORMAL: "normal",
    Decision.ANOMALOUS: "anomalous",
    Decision.UNSURE: "unsure",
}


class CautionConfig(Config):
    """When an answer is given, and when not.

    One knob, ``miss_cost``, sets the other three; each may still be given by itself. With the cost ``k`` of a miss
    (in false calls) shared out evenly, a miss costs ``sqrt(k)`` and a false call ``1 / sqrt(k)``. An answer is given
    when, even at its least plausible, it is expected to cost less than saying "unsure" would.
    """

    miss_cost: float = Field(
        default=1.0, ge=0.1, le=10, description="what calling a change normal costs, in false calls of a change"
    )
    alpha: float = Field(
        default=_ALPHA, gt=0, lt=1, description="a block is rare when at most this share of the cohort's is as unusual"
    )
    min_belief_anomalous: float = Field(
        default=1 - _ANOMALOUS, ge=0, le=1, description="below it nothing is called different; left out: of miss_cost"
    )
    min_belief_normal: float = Field(
        default=1 - _NORMAL, ge=0, le=1, description="below it nothing is called normal; left out: of miss_cost"
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_the_knob(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        cost = given.get("miss_cost")
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0.1 <= cost <= 10:
            return given  # the defaults, or an error that names the field
        root = math.sqrt(cost)
        derived = {
            "alpha": _ALPHA * cost,
            "min_belief_anomalous": min(max(1 - _ANOMALOUS * root, 0.05), 0.95),
            "min_belief_normal": min(max(1 - _NORMAL / root, 0.05), 0.95),
        }
        return {**derived, **given}

    @property
    def meaning(self) -> str:
        """What the setting means, in words; shown wherever the setting is."""
        k = self.miss_cost
        weighs = (
            "a missed change weighs as much as a false call"
            if k == 1
            else f"a missed change weighs as much as {k:g} false calls"
            if k > 1
            else f"a false call weighs as much as {1 / k:g} missed changes"
        )
        return (
            f"{weighs}: normal is said from a belief of {self.min_belief_normal:.2f} on, anomalous from "
            f"{self.min_belief_anomalous:.2f} on and if at most {self.alpha:.1%} of ordinary blocks are as unusual; "
            "everything else is unsure"
        )


@dataclass(frozen=True)
class Reason:
    """Why the answer is not a clearer one.

    Parameters
    ----------
    code
        ``warming_up``, ``no_data``, ``missing``, ``saturated``, ``flat``, ``stuck``, ``off_body``, ``duplicate``,
        ``swapped``, ``shifted``, ``clock``, ``not_valid``, ``not_rare`` or ``between``.
    text
        For a person.
    weight
        How much of the certainty it took, in nats; the first reason has the largest.
    sensor
        Where, if at one sensor.
    """

    code: str
    text: str
    weight: float
    sensor: str | None = None


@dataclass(frozen=True, eq=False)
class Belief:
    """Belief masses and decisions of streams.

    Parameters
    ----------
    normal, anomalous : (n_streams,)
        Belief that the movement is as usual, or is not. The rest up to 1 is "cannot tell".
    reliability : (n_streams, n_sensors)
    decision : (n_streams,) int8
        Of ``Decision``.
    lean : (n_streams,)
        Log of the likelihood ratio of a change at any one of the sensors, each tempered by its reliability: which way a
        block leans and how far, also where both beliefs are 0. For ranking; nothing is decided by it.
    decisive : (n_streams,)
        The larger belief, as a share of what an answer needs, if every sensor that was scored could be trusted.
    """

    normal: F64
    anomalous: F64
    reliability: F64
    decision: NDArray[np.int8]
    lean: F64
    decisive: F64

    @property
    def plausible_normal(self) -> F64:
        """``Pl(normal)``: what is not believed of anomalous."""
        return 1 - self.anomalous

    @property
    def plausible_anomalous(self) -> F64:
        """``Pl(anomalous)``: what is not believed of normal."""
        return 1 - self.normal


def _shares(scores: BlockScores, health: SensorHealth | None, clock_ms: F64 | None) -> dict[str, F64]:
    """Return what is left of the trust in each sensor (n_streams, n_sensors) after each thing that may be wrong."""
    saturated = scores.saturated if health is None else np.maximum(scores.saturated, health.clipped)
    shares = {
        "missing": (1 - np.minimum(scores.missing, 1)) ** _LOSS_POWER * (scores.missing < _HALF),
        "saturated": (1 - np.minimum(saturated, 1)) ** CLIPPED_POWER,
        "flat": 1.0 - scores.flat,
    }
    if health is not None:
        shares["stuck"] = 1 - health.repeated
        shares["off_body"] = 1 - health.off_body
        shares["duplicate"] = 1.0 - health.copy
        # once surely exchanged they are exchanged back before the model sees them: some trust is left
        shares["swapped"] = np.where(health.swapped < 1, 1 - health.swapped, 1 - _SWAPPED)
        shares["shifted"] = 1 - health.shifted
    if clock_ms is not None:
        harmless, hopeless = _CLOCK_MS
        shares["clock"] = np.clip((hopeless - clock_ms) / (hopeless - harmless), 0, 1)
    return shares


def believe(
    scores: BlockScores,
    unusual: Unusualness,
    calibration: Calibration,
    config: CautionConfig,
    *,
    health: SensorHealth | None = None,
    clock_ms: F64 | None = None,
) -> Belief:
    """Weigh what a block says against how far its data can be trusted, for all streams at once.

    Parameters
    ----------
    scores, unusual
        Of the block.
    calibration
        Holds the likelihood ratios.
    config
        When an answer is given.
    health
        Of the sensors; None where nobody watched them.
    clock_ms : (n_streams, n_sensors)
        By how much each sensor's times may be apart from another's; None where that is known to be nothing.
    """
    heard = (unusual.sensor > UNSCORED) & scores.full[:, None]
    reliability = heard.astype(np.float64)
    for share in _shares(scores, health, clock_ms).values():
        reliability *= share
    b0, b1 = calibration.likelihood[..., 0], calibration.likelihood[..., 1]
    log_lr = np.clip(b0 + b1 * unusual.sensor, -_LOG_LR_LIMIT, _LOG_LR_LIMIT)
    lr = np.exp(log_lr)
    n_sensors = lr.shape[1]
    anomalous = (reliability * np.maximum(1 - n_sensors / lr, 0)).max(axis=1)
    # with sides exchanged, a change is still a change, but nothing is surely normal
    settled = reliability if health is None else reliability * (1 - health.swapped)
    normal = (settled * np.maximum(1 - lr, 0)).min(axis=1)
    is_anomalous = (anomalous > config.min_belief_anomalous) & (unusual.p_value <= config.alpha)
    is_normal = ~is_anomalous & (normal > config.min_belief_normal)
    decision = np.where(is_anomalous, Decision.ANOMALOUS, np.where(is_normal, Decision.NORMAL, Decision.UNSURE))
    lean = np.log(np.exp((_LEAST + (1 - _LEAST) * reliability) * log_lr).mean(axis=1))
    wholly = np.where(heard, 1 - lr, 1.0).min(axis=1) / max(config.min_belief_normal, 1e-9)
    odd = np.where(heard, 1 - n_sensors / lr, 0.0).max(axis=1) / max(config.min_belief_anomalous, 1e-9)
    return Belief(
        normal=normal,
        anomalous=anomalous,
        reliability=reliability,
        decision=decision.astype(np.int8),
        lean=lean,
        decisive=np.maximum(wholly, odd),
    )


def reasons_of(
    stream: int,
    scores: BlockScores,
    unusual: Unusualness,
    belief: Belief,
    sensors: Sequence[str],
    config: CautionConfig,
    *,
    health: SensorHealth | None = None,
    clock_ms: F64 | None = None,
) -> tuple[Reason, ...]:
    """Say what took certainty away from one stream's answer, the heaviest first; empty when nothing did."""
    row = np.array([stream])
    shares = _shares(_row(scores, row), None if health is None else _row(health, row), _of(clock_ms, row))
    found: list[Reason] = []
    warming = not bool(scores.full[stream])
    for i, sensor in enumerate(sensors):
        lost = {code: _nats(float(share[0, i])) for code, share in shares.items()}
        lost["missing"] = min(_LOSS_NAMED * lost["missing"], _CERTAIN)
        if scores.missing[stream, i] >= _NO_DATA:
            # once a whole block has passed, silence is not a slow start
            found.append(Reason("no_data", f"no data from {sensor}", 1 + _CERTAIN, sensor))
            continue
        if scores.flat[stream, i]:
            # it repeats itself and lies still, too: that says no more
            found.append(Reason("flat", f"flat line on {sensor}", _CERTAIN, sensor))
            continue
        if unusual.sensor[stream, i] <= UNSCORED and not (health is not None and health.out[stream, i]):
            if scores.missing[stream, i] >= _TOO_LITTLE:
                lost["missing"] = _CERTAIN
            else:
                warming = True
        for code, nats in lost.items():
            if nats >= _WORTH_NAMING:
                text = _text(code, sensor, sensors, stream, i, scores, health, clock_ms)
                found.append(Reason(code, text, nats, sensor))
    if warming:
        found.append(Reason("warming_up", "warming up: too little has been seen yet", 8.0))
    if belief.decision[stream] == Decision.UNSURE and not warming:
        if belief.anomalous[stream] > config.min_belief_anomalous:
            text = "unusual, but not rarer than ordinary movement now and then is"
            found.append(Reason("not_rare", text, _BETWEEN))
        else:
            undecided = -math.log(min(max(float(belief.decisive[stream]), 1e-3), 1.0))
            found.append(Reason("between", "between usual and unusual", min(undecided, _BETWEEN)))
    return tuple(sorted(found, key=lambda r: -r.weight))


def _text(
    code: str,
    sensor: str,
    sensors: Sequence[str],
    stream: int,
    i: int,
    scores: BlockScores,
    health: SensorHealth | None,
    clock_ms: F64 | None,
) -> str:
    if code == "missing":
        return f"{scores.missing[stream, i]:.0%} of the data from {sensor} is missing"
    if code == "clock" and clock_ms is not None:
        return f"the times of {sensor} may be {clock_ms[stream, i]:.0f} ms apart from another sensor's"
    if health is None:
        return f"{sensor} was at the end of its range {scores.saturated[stream, i]:.0%} of the time"
    if code == "saturated":
        share = max(float(scores.saturated[stream, i]), float(health.clipped[stream, i]))
        return f"{sensor} was at the end of its range {share:.0%} of the time"
    return {
        "stuck": f"{sensor} repeats itself: {health.repeated[stream, i]:.0%} of its samples were there before",
        "off_body": f"{sensor} has lain still for {health.still_s[stream, i]:.0f} s: not worn?",
        "duplicate": f"{sensor} and {sensors[int(health.twin[stream, i])]} give the same signal",
        "swapped": f"{sensor} reads like its other side: left and right exchanged?",
        "shifted": f"{sensor} has sat otherwise than before for minutes: slipped, or put on anew?",
    }[code]


def _nats(share: float) -> float:
    return min(-math.log(share), _CERTAIN) if share > 0 else _CERTAIN


def _row(parts: Any, row: NDArray[np.intp]) -> Any:
    return replace(parts, **{f.name: getattr(parts, f.name)[row] for f in fields(parts)})


def _of(clock_ms: F64 | None, row: NDArray[np.intp]) -> F64 | None:
    return None if clock_ms is None else clock_ms[row]
