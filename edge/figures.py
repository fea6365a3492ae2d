"""The numbers behind an abstention, from the verdict that its reason weighed most in."""

from __future__ import annotations

import math
from typing import Final

from kinedge.abstention import AlarmFigures, Figures, SensorFigures, Weighed
from kinedge.edge.promise import Watched
from kinedge.edge.reasons import Reason
from kinedge.edge.verdict import Verdict

__all__ = ["figures_of", "in_short"]

_MAX_REASONS: Final = 8
_MAX_SENSORS: Final = 16
_NOT_SCORED: Final = -99.0  # as a verdict has it


def figures_of(verdict: Verdict, *, wall_time_utc_ns: int) -> Figures:
    """Return the numbers behind an unsure verdict's first reason, rounded as an envelope has them.

    Parameters
    ----------
    verdict
        Unsure, with a reason.
    wall_time_utc_ns
        Of the end of its block.
    """
    needed = verdict.needed
    sensors = sorted(verdict.sensor_share, key=lambda s: (-verdict.sensor_share[s], s))[:_MAX_SENSORS]
    return Figures(
        wall_time_utc_ns=wall_time_utc_ns,
        truth=_share(verdict.reasons[0].truth),
        score=round(verdict.score, 6),
        p_value=round(verdict.p_value, 9),
        belief_normal=_share(verdict.belief_normal),
        belief_anomalous=_share(verdict.belief_anomalous),
        needed_normal=None if needed is None else _share(needed.belief_normal),
        needed_anomalous=None if needed is None else _share(needed.belief_anomalous),
        needed_p_value=None if needed is None else _share(needed.p_value),
        reasons=tuple(_weighed(r) for r in verdict.reasons[:_MAX_REASONS]),
        sensors=tuple(_of_sensor(verdict, s) for s in sensors),
        alarm=None if verdict.watched is None else _alarm(verdict.watched),
    )


def in_short(reason: Reason) -> tuple[str, str | None, float | None]:
    """Return a reason as a point of the trail has it: code, sensor and what it goes by."""
    return reason.code, reason.sensor, _known(reason.measured)


def _weighed(reason: Reason) -> Weighed:
    return Weighed(
        code=reason.code,
        sensor=reason.sensor,
        channel=reason.channel,
        weight=round(reason.weight, 4) + 0.0,  # never -0.0
        truth=_share(reason.truth),
        measured=_known(reason.measured),
    )


def _of_sensor(verdict: Verdict, sensor: str) -> SensorFigures:
    score = verdict.sensor_score[sensor]
    return SensorFigures(
        sensor=sensor,
        score=_known(score) if score > _NOT_SCORED else None,
        reliability=_share(verdict.sensor_reliability[sensor]),
        missing=_share(verdict.sensor_missing[sensor]),
        share=_share(verdict.sensor_share[sensor]),
    )


def _alarm(watched: Watched) -> AlarmFigures:
    return AlarmFigures(
        valid=watched.valid,
        evidence=round(max(watched.evidence, 0.0), 4),
        learned=_share(watched.learned),
        unlike=_share(watched.unlike),
        shift=round(watched.shift, 4),
    )


def _share(value: float) -> float:
    """Round within 0 to 1: a sum of shares may be a bit more."""
    return min(1.0, max(0.0, round(value, 4)))


def _known(value: float | None) -> float | None:
    """Round; what is nowhere near a number, as the times of clocks that never met, is not known."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
