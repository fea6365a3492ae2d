"""From block scores to what is believed and where it starts, for some streams, whose states are written where they are.

In C where that is there (``kinedge.edge.native``), to the bit as ``Calibration.assess``, ``believe`` and ``go_on``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinedge.edge import attribution, caution, coordination
from kinedge.edge.attribution import go_on
from kinedge.edge.calibration import BELOW, MOVEMENT_LIMIT, UNSCORED, Calibration, Unusualness
from kinedge.edge.caution import Belief, BeliefState, CautionConfig, believe
from kinedge.edge.native import NativeBelief
from kinedge.edge.scores import NO_STEP, BlockScores
from kinedge.edge.sensor_health import CLIPPED_POWER, SensorHealth
from kinedge.edge.state_rows import take_rows, write_rows
from kinedge.edge.timing import UNTOLD

__all__ = ["Judged", "Judgement"]

F64 = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found of a block of each stream; shares are those of ``go_on``, movement that of the calibration."""

    unusual: Unusualness
    belief: Belief
    channel_share: F64
    sensor_share: F64
    movement: F64


class Judgement:
    """Judges the blocks of any number of streams.

    Parameters
    ----------
    groups
        Columns of each sensor.
    config
        When an answer is given.
    hop_s, block_s
        From one block to the next, and of one.
    """

    def __init__(self, groups: Sequence[slice], config: CautionConfig, *, hop_s: float, block_s: float) -> None:
        self._groups, self._config = tuple(groups), config
        self._hop_s, self._block_s = hop_s, block_s
        self._native = self.in_c() if NativeBelief.is_there() else None

    def in_c(self) -> NativeBelief:
        """Return a judgement in C, told all that it must know of the model."""
        config = self._config
        harmless, hopeless = caution.CLOCK_MS
        return NativeBelief(
            {
                "n_channels": self._groups[-1].stop,
                "n_sensors": len(self._groups),
                "leave_out": config.without_sensor == "others",
                "unscored": UNSCORED,
                "below": BELOW,
                "movement_limit": MOVEMENT_LIMIT,
                "no_data": caution.NO_DATA,
                "half": caution.HALF,
                "trusted": caution.TRUSTED,
                "lr_limit": caution.LOG_LR_LIMIT,
                "weight": caution.weight_of(self._hop_s, self._block_s),
                "keep": math.exp(-self._hop_s / caution.MEMORY_S),
                "odds_limit": caution.ODDS_LIMIT,
                "hop_s": self._hop_s,
                "long_s": caution.LONG_S,
                "lately_s": caution.LATELY_S,
                "swapped_left": caution.SWAPPED,
                "harmless": harmless,
                "hopeless": hopeless,
                "min_anomalous": config.min_belief_anomalous,
                "min_newcomer": config.min_belief_newcomer,
                "min_normal": config.min_belief_normal,
                "min_others": config.min_belief_others,
                "alpha": config.alpha,
                "alpha_newcomer": config.alpha_newcomer,
                "sure_newcomer": config.sure_newcomer,
                "tiny": caution.TINY,
                "little": caution.LITTLE,
                "keep_own": math.exp(-self._hop_s / caution.OWN_S),
                "learned": caution.LEARNED_S / self._hop_s,
                "unlike_from": caution.UNLIKE_FROM,
                "unlike_spread": caution.UNLIKE_SPREAD,
                "unlike_most": caution.UNLIKE_MOST,
                "at_most": attribution.AT_MOST,
                "most_beyond": coordination.MOST,
                "untold": UNTOLD,
                "no_step": NO_STEP,
                "most_shared": coordination.MOST_SHARED,
                "least_u": caution.LEAST_U,
            },
            powers=(caution.LOSS_POWER, CLIPPED_POWER),
            starts=np.array([*(g.start for g in self._groups), self._groups[-1].stop], np.int64),
        )

    def advance(
        self,
        scores: BlockScores,
        calibration: Calibration,
        state: BeliefState,
        rows: Rows,
        *,
        health: SensorHealth | None = None,
        clock_ms: F64 | None = None,
    ) -> Judged:
        """Judge the block of some streams.

        Parameters
        ----------
        scores, calibration, health, clock_ms
            Of these streams, as ``believe`` takes them.
        state
            Of all, each array its own: it is written to.
        rows : (n_streams,)
            Which they are, each at most once.
        """
        if self._native is not None:
            told = self._native.step(scores, calibration, state, rows, health, clock_ms)
            if told is not None:
                excess, channel_u, channel_share = told.of_channels
                sensor_u, movement, sensor_share, reliability, lost, _, withheld, unlike = told.of_sensors
                score, p_value, normal, anomalous, lean, _, decisive, others, fresh, brought = told.of_streams
                belief = Belief(
                    normal=normal,
                    anomalous=anomalous,
                    reliability=reliability,
                    decision=told.decision,
                    lean=lean,
                    decisive=decisive,
                    lost=lost,
                    others=others,
                    without=told.without,
                    withheld=withheld,
                    unlike=unlike,
                    enrolled=np.broadcast_to(calibration.of_one > 0, len(rows)),
                    fresh=fresh,
                    brought=brought,
                )
                unusual = Unusualness(excess, sensor_u, score, p_value, channel_u)
                return Judged(unusual, belief, channel_share, sensor_share, movement)
        unusual = calibration.assess(scores, self._groups)
        belief, after = believe(
            scores,
            unusual,
            calibration,
            self._config,
            take_rows(state, rows),
            hop_s=self._hop_s,
            block_s=self._block_s,
            health=health,
            clock_ms=clock_ms,
        )
        after = go_on(scores, unusual, belief, calibration, self._groups, after, hop_s=self._hop_s)
        write_rows(state, rows, after)
        movement = calibration.movement(scores.intensity)
        return Judged(unusual, belief, after.channel_share, after.sensor_share, movement)
