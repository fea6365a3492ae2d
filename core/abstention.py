"""Why no answer was given, as an episode's envelope keeps it: the words, and every number behind them.

Figures are younger than the envelope's schema: one that was made without them is valid, and keeps its bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from kinedge.config import Config

__all__ = ["Abstention", "AlarmFigures", "Figures", "SensorFigures", "Weighed"]


class _Sparse(Config):
    """What is not known stays out of the bytes."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if v is not None}


class Weighed(_Sparse):
    """A reason of one block, with what it weighed."""

    code: str = Field(max_length=31)
    sensor: str | None = Field(default=None, max_length=31)
    channel: str | None = Field(default=None, max_length=31, description="of the sensor, of what is one channel's")
    weight: float = Field(ge=0, description="of the certainty, in nats: the share of trust that was left, as -ln")
    truth: float = Field(ge=0, le=1, description="of its words")
    measured: float | None = Field(
        default=None,
        description="share of the data; a belief (swapped, shifted); s still (off_body); m/s^2 (units); ms (clock)",
    )


class SensorFigures(_Sparse):
    """What was known of one sensor at a block."""

    sensor: str = Field(max_length=31)
    score: float | None = Field(default=None, description="0 usual, 1 as its 99 % quantile; none: it was not scored")
    reliability: float = Field(ge=0, le=1, description="how far it could be trusted")
    missing: float = Field(ge=0, le=1, description="share of the block's data")
    share: float = Field(ge=0, le=1, description="of the surprise that starts here")


class AlarmFigures(_Sparse):
    """How the alarm stood, of a person who is enrolled."""

    valid: bool = Field(description="the calibration: whether the promise held")
    evidence: float = Field(ge=0, description="1 alarms")
    learned: float = Field(ge=0, description="of the first ten minutes")
    unlike: float = Field(ge=0, le=1, description="of recent blocks, above the enrolment's 95 % quantile")
    shift: float = Field(description="of today above the enrolment; 1: from its median to its 99 % quantile")


class Figures(_Sparse):
    """The numbers behind an abstention: those of the block that its reason took most from.

    ``Pl(normal)`` is ``1 - belief_anomalous`` and ``Pl(anomalous)`` is ``1 - belief_normal``.
    """

    wall_time_utc_ns: int = Field(ge=0, lt=2**63, description="end of the block")
    truth: float = Field(ge=0, le=1, description="of the sentence")
    score: float
    p_value: float = Field(ge=0, le=1)
    belief_normal: float = Field(ge=0, le=1)
    belief_anomalous: float = Field(ge=0, le=1)
    needed_normal: float | None = Field(default=None, ge=0, le=1, description="belief that the answer would have taken")
    needed_anomalous: float | None = Field(default=None, ge=0, le=1)
    needed_p_value: float | None = Field(default=None, ge=0, le=1, description="at most this, besides")
    reasons: tuple[Weighed, ...] = Field(default=(), max_length=8, description="of the block, the heaviest first")
    sensors: tuple[SensorFigures, ...] = Field(default=(), max_length=16, description="those with most of the surprise")
    alarm: AlarmFigures | None = None


class Abstention(Config):
    """A reason why no answer was given, the heaviest of its verdicts, in words for a person."""

    code: str = Field(max_length=31)
    sensor: str | None = Field(default=None, max_length=31)
    share: float = Field(ge=0, le=1, description="of the episode's verdicts")
    text: dict[Literal["en", "fr"], str]
    figures: Figures | None = Field(default=None, description="what stands behind the text")
