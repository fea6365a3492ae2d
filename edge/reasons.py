"""Reasons: what took certainty away from an answer, how much of it, and how far that is so.

What is left of the trust in a sensor takes ``-log(left)`` nats of certainty, and by that reasons are ranked. What is
said of a sensor is true to the degree to which trust in it was lost, ``1 - left``; what is said of the evidence is true
as the beliefs have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import UNSCORED, Unusualness
from kinedge.edge.caution import (
    HALF,
    NO_DATA,
    TINY,
    Belief,
    CautionConfig,
    Decision,
    known_of,
    trust_shares,
)
from kinedge.edge.plausible import MOST_RAD_S
from kinedge.edge.reliability import SensorHealth
from kinedge.edge.scores import BlockScores
from kinedge.signals import split_channel

__all__ = ["Reason", "reasons_of"]

F64 = NDArray[np.float64]

# Loss is discounted little, because models know it by themselves. A reason it is all the same, so that it is named as
# if the power were 1.5, which fits models that do not; also where so much is missing that a block says nothing, because
# the evidence of the seconds before it bridges that.
_LOSS_NAMED: Final = 1.5
_TOO_LITTLE: Final = 0.25  # of a block missing: reason enough that it was not scored
_WORTH_NAMING: Final = 0.05  # nats of certainty
_CERTAIN: Final = 9.0  # nats: nothing of a sensor can be trusted
_OF_ALL: Final = 0.5  # nats more, of what leaves nothing of "normal" whatever the other sensors say
_BETWEEN: Final = 0.2  # nats at most: where a sensor is in doubt, that is likelier the reason
_NEWCOMER: Final = 0.1  # nats at most: where packets are lost or a sensor is in doubt, that is likelier the reason
_GOES_BY: Final = {
    "stuck": "repeated",
    "units": "acc_m_s2",
    "off_body": "still_s",
    "swapped": "swapped",
    "shifted": "shifted",
}


@dataclass(frozen=True)
class Reason:
    """Why the answer is not a clearer one.

    Parameters
    ----------
    code
        ``warming_up``, ``no_data``, ``missing``, ``saturated``, ``flat``, ``stuck``, ``held``, ``units``,
        ``off_body``, ``duplicate``, ``swapped``, ``shifted``, ``clock``, ``not_valid``, ``not_placed``, ``newcomer``,
        ``not_rare``, ``quiet``, ``unlike`` or ``between``.
    text
        For a person.
    weight
        How much of the certainty it took, in nats; the first reason has the largest.
    sensor
        Where, if at one sensor.
    truth
        To which degree its sentence is true, 0 to 1: the trust in the sensor that was lost, what would be believed of a
        change had all of it counted (``newcomer``), what is believed of one (``not_rare``), how little such calm
        blocks say (``quiet``), how much of the belief in "normal" it takes (``unlike``), or how far both beliefs are
        from an answer (``between``). 1 for what is so or not.
    measured
        What it goes by: a share of the data (``no_data``, ``missing``, ``saturated``, ``stuck``), a belief
        (``swapped``, ``shifted``), s of lying still (``off_body``), m/s^2 in the mean (``units``), ms apart
        (``clock``); None where it is so or not.
    channel
        Which of the sensor's channels, if it is of one (``held``) and their names are known.
    """

    code: str
    text: str
    weight: float
    sensor: str | None = None
    truth: float = 1.0
    measured: float | None = None
    channel: str | None = None


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
    channels: Sequence[str] = (),
) -> tuple[Reason, ...]:
    """Say what took certainty away from one stream's answer, the heaviest first; empty when nothing did.

    ``channels`` are the full names of all, for what is said of one.
    """
    row = np.array([stream])
    shares = trust_shares(_row(scores, row), None if health is None else _row(health, row), _of(clock_ms, row))
    found: list[Reason] = []
    warming = not bool(scores.full[stream])
    # what a sensor measures that lies on a table says nothing of its side
    exchanged = health is not None and not (health.out[stream] & (health.swapped[stream] >= 1)).any()
    for i, sensor in enumerate(sensors):
        lost = {code: _nats(float(share[0, i])) for code, share in shares.items()}
        unsure = belief.decision[stream] == Decision.UNSURE
        gone = max(scores.missing[stream, i], belief.lost[stream, i] if unsure else 0.0)
        if unsure and exchanged and health is not None and health.swapped[stream, i] >= 1:
            lost["swapped"] = _CERTAIN + _OF_ALL
        if health is not None and health.held[stream, i]:
            lost["held"] = _CERTAIN  # the rest of it goes on, and answers; but it is to be looked after
        lost["missing"] = min(_LOSS_NAMED * _nats(1 - float(gone)), _CERTAIN)
        if scores.missing[stream, i] >= NO_DATA:
            # once a whole block has passed, silence is not a slow start
            gone = float(scores.missing[stream, i])
            found.append(Reason("no_data", f"no data from {sensor}", 1 + _CERTAIN, sensor, measured=gone))
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
                text = (
                    f"data from {sensor} was missing just before"
                    if code == "missing" and scores.missing[stream, i] < gone / 2
                    else _text(code, sensor, sensors, stream, i, scores, health, clock_ms, channels)
                )
                measured = float(gone) if code == "missing" else _measured(code, stream, i, scores, health, clock_ms)
                # sides that are surely exchanged are exchanged back: trust is left, and the sentence is true
                truth = measured if code == "swapped" and measured is not None else _true(nats)
                if code == "missing" and gone >= HALF:
                    truth = 1.0
                channel = _held_channel(sensor, health, stream, i, channels) if code == "held" else None
                found.append(Reason(code, text, nats, sensor, truth, measured, channel))
    if warming:
        found.append(Reason("warming_up", "warming up: too little has been seen yet", 8.0))
    withheld = float((belief.withheld[stream] * (belief.reliability[stream] > 0)).max())
    if belief.decision[stream] == Decision.UNSURE and withheld >= _WORTH_NAMING:
        text = "unusual, but no more than this person has been all along: enrol them to tell"
        found.append(Reason("newcomer", text, min(withheld, _NEWCOMER), truth=_true(withheld)))
    if belief.decision[stream] == Decision.UNSURE and not warming:
        needed = config.min_belief_anomalous if belief.enrolled[stream] else config.min_belief_newcomer
        if belief.anomalous[stream] > needed:
            text = "unusual, but not rarer than ordinary movement now and then is"
            found.append(Reason("not_rare", text, _BETWEEN, truth=float(belief.anomalous[stream])))
        else:
            undecided = -math.log(min(max(float(belief.decisive[stream]), 1e-3), 1.0))
            usual, other = float(belief.normal[stream]), float(belief.anomalous[stream])
            nearest = max(usual / max(config.min_belief_normal, TINY), other / max(needed, TINY))
            truth = 1 - min(nearest, 1.0)
            trusted = belief.reliability[stream] > 0
            quiet = float(((1 - known_of(unusual.sensor[stream])) * trusted).max())
            unlike = float((belief.unlike[stream] * trusted).max())
            if quiet >= _WORTH_NAMING and not other:
                text = "calmer than anything the model was calibrated on: whether that is as usual cannot be told"
                found.append(Reason("quiet", text, min(undecided, _NEWCOMER), truth=quiet))
            elif unlike >= _WORTH_NAMING:
                text = "not unusual, but unlike this person's last minutes: too little to call it a change"
                found.append(Reason("unlike", text, min(unlike, _NEWCOMER), truth=_true(unlike)))
            else:
                found.append(Reason("between", "between usual and unusual", min(undecided, _BETWEEN), truth=truth))
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
    channels: Sequence[str],
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
    if code == "held":
        channel = _held_channel(sensor, health, stream, i, channels)
        axis = f"{sensor}.{channel}" if channel else f"axis {health.first_held(stream, i)} of {sensor}"
        return f"{axis} stands at one number while the sensor moves"
    return {
        "stuck": f"{sensor} repeats itself: {health.repeated[stream, i]:.0%} of its samples were there before",
        "units": f"{sensor} {_absurd(health, stream, i)}: another unit or range than was said?",
        "off_body": f"{sensor} has lain still for {health.still_s[stream, i]:.0f} s: not worn?",
        "duplicate": f"{sensor} and {sensors[int(health.twin[stream, i])]} give the same signal",
        "swapped": f"{sensor} reads like its other side: left and right exchanged?",
        "shifted": f"{sensor} has sat otherwise than before for minutes: slipped, or put on anew?",
    }[code]


def _measured(
    code: str, stream: int, i: int, scores: BlockScores, health: SensorHealth | None, clock_ms: F64 | None
) -> float | None:
    """Return what a reason at a sensor goes by, in the unit of its sentence; None where it is so or not."""
    if code == "clock":
        return None if clock_ms is None else float(clock_ms[stream, i])
    if code == "saturated":
        clipped = 0.0 if health is None else float(health.clipped[stream, i])
        return max(float(scores.saturated[stream, i]), clipped)
    if health is None or code not in _GOES_BY:
        return None
    if code == "units" and (health.gyr_rad_s[stream, i] > MOST_RAD_S or health.unturned[stream, i]):
        return None
    return float(getattr(health, _GOES_BY[code])[stream, i])


def _held_channel(sensor: str, health: SensorHealth | None, stream: int, i: int, channels: Sequence[str]) -> str | None:
    own = [channel for name, channel in map(split_channel, channels) if name == sensor]
    number = 0 if health is None else health.first_held(stream, i)
    return own[number - 1] if 0 < number <= len(own) else None


def _absurd(health: SensorHealth, stream: int, i: int) -> str:
    if health.gyr_rad_s[stream, i] > MOST_RAD_S:
        return f"turns at {health.gyr_rad_s[stream, i]:.0f} rad/s on and on, faster than any limb"
    if health.unturned[stream, i]:
        return "reads less turning than what it feels between rests"
    shown = float(health.acc_m_s2[stream, i])
    return f"reads {shown:.{int(shown < 10)}f} m/s^2 in the mean, and a body shows 9.8 at rest"


def _true(nats: float) -> float:
    return 1.0 if nats >= _CERTAIN else -math.expm1(-nats)


def _nats(share: float) -> float:
    return min(-math.log(share), _CERTAIN) if share > 0 else _CERTAIN


def _row(parts: Any, row: NDArray[np.intp]) -> Any:
    return replace(parts, **{f.name: getattr(parts, f.name)[row] for f in fields(parts)})


def _of(clock_ms: F64 | None, row: NDArray[np.intp]) -> F64 | None:
    return None if clock_ms is None else clock_ms[row]
