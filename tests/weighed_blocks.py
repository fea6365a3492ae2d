"""One scored block of two wrists with good data, and how caution weighs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kinedge.edge.calibration import Calibration, Unusualness
from kinedge.edge.caution import Belief, BeliefState, CautionConfig, Decision, believe
from kinedge.edge.reasons import Reason, reasons_of
from kinedge.edge.reliability import SensorHealth
from kinedge.edge.scores import NO_STEP, BlockScores
from kinedge.edge.timing import UNTOLD

SENSORS = ("wrist_left", "wrist_right")
CONFIG = CautionConfig()
HOP_S, BLOCK_S = 1.0, 2.0


def scores(**changes: Any) -> BlockScores:
    """One block, or as many as are given; what went before it is not known."""
    if "intensity" in changes:
        changes.setdefault("before", np.full_like(changes["intensity"], NO_STEP))
    base = BlockScores(
        channel=np.zeros((1, 12)),
        scored=np.ones((1, 12), bool),
        intensity=np.zeros((1, 2)),
        before=np.full((1, 2), NO_STEP),
        power=np.ones((1, 12)),
        drop=np.ones((1, 12)),
        missing=np.zeros((1, 2)),
        saturated=np.zeros((1, 2)),
        flat=np.zeros((1, 2), bool),
        full=np.ones(1, bool),
        late=np.full((1, 2), UNTOLD),
    )
    return replace(base, **changes)


def unusual(left: float, right: float, p: float) -> Unusualness:
    sensor = np.array([[left, right]])
    return Unusualness(np.zeros((1, 12)), sensor, sensor.max(axis=1), np.array([p]), np.zeros((1, 12)))


def calibration(*, enrolled: bool = True) -> Calibration:
    return Calibration(
        knots=np.array([[0.0, 0.0], [1.0, 1.0]]),
        center=np.zeros((2, 12)),
        spread=np.ones((2, 12)),
        reference=np.zeros(1),
        likelihood=np.array([[-3.0, 3.0], [-3.0, 3.0]]),
        precision=np.eye(12),
        additive=np.zeros(1),
        of_one=np.array(float(enrolled)),
    )


def weigh(
    s: BlockScores,
    u: Unusualness,
    state: BeliefState | None = None,
    *,
    hop_s: float = HOP_S,
    enrolled: bool = True,
    **known: Any,
) -> tuple[Belief, BeliefState]:
    before = state or BeliefState.initial(1, 2, 2)
    known_of = calibration(enrolled=enrolled)
    return believe(s, u, known_of, CONFIG, before, hop_s=hop_s, block_s=BLOCK_S, **known)


def ask(s: BlockScores, u: Unusualness) -> tuple[Decision, Belief, tuple[Reason, ...]]:
    belief = weigh(s, u)[0]
    return Decision(int(belief.decision[0])), belief, reasons_of(0, s, u, belief, SENSORS, CONFIG)


def unwell(**changes: Any) -> SensorHealth:
    return replace(SensorHealth.fine(1, 2), **{name: np.array([value]) for name, value in changes.items()})
