"""Caution: from unusualness and data quality to one of three answers, with its reasons.

Per sensor ``s``, a likelihood ratio ``LR = exp(b0 + b1 u_s)`` (fitted on normal blocks against synthetic
anomalies) and a reliability ``r = (1 - missing)^1.5 (1 - saturated)``, 0 for a flat line, give the belief masses

    a = r (1 - S / LR)_+ for "anomalous",    b = r (1 - LR)_+ for "normal",    the rest for "cannot tell".

Together: ``Bel(anomalous) = max_s a`` and ``Bel(normal) = min_s b``, since "anomalous anywhere" is an OR: one
abnormal arm must not be outvoted by a normal one, which is why this is not Dempster's rule. "Anomalous" is said
when ``Bel(anomalous)`` is high and the block is rare among the cohort's; "normal" when ``Bel(normal)`` is high;
otherwise "unsure", with what stood in the way.

Deviation: the masses are capped so that ``S / LR`` counts the sensors that could be scored, not all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinedge.config import Config
from kinedge.edge.calibration import UNSCORED, Calibration, Unusualness
from kinedge.edge.scores import BlockScores

__all__ = ["Belief", "CautionConfig", "Decision", "Reason", "believe", "reasons_of"]

F64 = NDArray[np.float64]

_NO_DATA: Final = 0.9  # of a block missing: nothing was heard
_WORTH_NAMING: Final = 0.05  # of a block missing or saturated
_LOG_LR_LIMIT: Final = 20.0


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
    """When an answer is given, and when not."""

    alpha: float = Field(
        default=0.01, gt=0, lt=1, description="a block is rare when at most this share of the cohort's is as unusual"
    )
    min_belief_anomalous: float = Field(default=0.5, ge=0, le=1)
    min_belief_normal: float = Field(default=0.3, ge=0, le=1)


@dataclass(frozen=True)
class Reason:
    """Why the answer is not a clearer one.

    Parameters
    ----------
    code
        ``warming_up``, ``no_data``, ``missing``, ``saturated``, ``flat``, ``not_rare`` or ``between``.
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
    """

    normal: F64
    anomalous: F64
    reliability: F64
    decision: NDArray[np.int8]


def believe(scores: BlockScores, unusual: Unusualness, calibration: Calibration, config: CautionConfig) -> Belief:
    """Weigh what a block says against how far its data can be trusted, for all streams at once."""
    heard = (unusual.sensor > UNSCORED) & scores.full[:, None]
    reliability = (1 - np.minimum(scores.missing, 1)) ** 1.5 * (1 - np.minimum(scores.saturated, 1))
    reliability = np.where(heard & ~scores.flat & (scores.missing < _NO_DATA), reliability, 0.0)
    b0, b1 = calibration.likelihood[..., 0], calibration.likelihood[..., 1]
    log_lr = np.clip(b0 + b1 * unusual.sensor, -_LOG_LR_LIMIT, _LOG_LR_LIMIT)
    lr = np.exp(log_lr)
    n_sensors = np.maximum((reliability > 0).sum(axis=1, keepdims=True), 1)
    anomalous = (reliability * np.maximum(1 - n_sensors / lr, 0)).max(axis=1)
    normal = (reliability * np.maximum(1 - lr, 0)).min(axis=1)
    is_anomalous = (anomalous > config.min_belief_anomalous) & (unusual.p_value <= config.alpha)
    is_normal = ~is_anomalous & (normal > config.min_belief_normal)
    decision = np.where(is_anomalous, Decision.ANOMALOUS, np.where(is_normal, Decision.NORMAL, Decision.UNSURE))
    return Belief(normal=normal, anomalous=anomalous, reliability=reliability, decision=decision.astype(np.int8))


def reasons_of(
    stream: int,
    scores: BlockScores,
    unusual: Unusualness,
    belief: Belief,
    sensors: Sequence[str],
    config: CautionConfig,
) -> tuple[Reason, ...]:
    """Say what took certainty away from one stream's answer, the heaviest first; empty when nothing did."""
    found: list[Reason] = []
    warming = not bool(scores.full[stream])
    for i, sensor in enumerate(sensors):
        missing, saturated = float(scores.missing[stream, i]), float(scores.saturated[stream, i])
        if missing >= _NO_DATA:
            # once a whole block has passed, silence is not a slow start
            found.append(Reason("no_data", f"no data from {sensor}", 10.0 + missing, sensor))
            continue
        if scores.flat[stream, i]:
            found.append(Reason("flat", f"flat line on {sensor}", 9.0, sensor))
        if not warming and unusual.sensor[stream, i] <= UNSCORED:
            warming = True
        if missing >= _WORTH_NAMING:
            text = f"{missing:.0%} of the data from {sensor} is missing"
            found.append(Reason("missing", text, -1.5 * float(np.log(max(1 - missing, 1e-9))), sensor))
        if saturated >= _WORTH_NAMING:
            text = f"{sensor} was at the end of its range {saturated:.0%} of the time"
            found.append(Reason("saturated", text, -float(np.log(max(1 - saturated, 1e-9))), sensor))
    if warming:
        found.append(Reason("warming_up", "warming up: too little has been seen yet", 8.0))
    if belief.decision[stream] == Decision.UNSURE and not warming:
        if belief.anomalous[stream] > config.min_belief_anomalous:
            text = "unusual, but not rarer than ordinary movement now and then is"
            found.append(Reason("not_rare", text, 0.5))
        else:
            strongest = max(
                float(belief.anomalous[stream]) / max(config.min_belief_anomalous, 1e-9),
                float(belief.normal[stream]) / max(config.min_belief_normal, 1e-9),
                1e-3,
            )
            found.append(Reason("between", "between usual and unusual", max(0.0, -float(np.log(strongest)))))
    return tuple(sorted(found, key=lambda r: -r.weight))
