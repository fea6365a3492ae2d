"""Leads a person through the poses: time to get into each, then until every sensor was still for five seconds.

Time is that of the samples, so that a replay goes as the day went, and any chunking gives the same. Nothing is decided
for a person who is not still: after half a minute the guide waits until somebody says to try again or to go on without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.pose import POSES, STEP_S, Held, PoseFrames, StillWatch, Why, frames_of_poses
from kinedge.errors import SignalError
from kinedge.signals import SensorSpec

__all__ = ["READY_S", "ROUNDS", "PoseGuide", "PoseStep"]

Phase: TypeAlias = Literal["ready", "hold", "stuck", "done"]

ROUNDS: Final = 2
READY_S: Final = 10.0
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, eq=False)
class PoseStep:
    """Where the guide is.

    Parameters
    ----------
    phase
        ``ready``: get into the pose; ``hold``: be still; ``stuck``: not everything was still in time; ``done``.
    number, of
        Which pose it is, from 0, of how many.
    pose
        Its name.
    left_s
        Of the countdown, or of the patience.
    still_s : (n_sensors,)
        How long each sensor has been still on end.
    why
        What is wrong with each sensor just now.
    """

    phase: Phase
    number: int
    of: int
    pose: str
    left_s: float
    still_s: NDArray[np.float64]
    why: tuple[Why, ...]


class PoseGuide:
    """One person's way through all poses.

    Parameters
    ----------
    sensors
        In column order.
    rate_hz
        Of the samples.
    rounds
        How often all poses are taken.
    ready_s
        To get into a pose, helped if need be.
    """

    def __init__(
        self, sensors: Sequence[SensorSpec], *, rate_hz: float, rounds: int = ROUNDS, ready_s: float = READY_S
    ) -> None:
        self._watch = StillWatch(sensors, rate_hz=rate_hz)
        self._names = POSES * rounds
        self._ready_s = ready_s
        self._n = round(STEP_S * rate_hz)
        self._rows: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
        self._phase: Phase = "ready"
        self._number = 0
        self._spent_s = 0.0
        self._held: list[tuple[int, Held]] = []

    @property
    def step(self) -> PoseStep:
        """Where it is now."""
        number = min(self._number, len(self._names) - 1)
        of_s = {"ready": self._ready_s, "hold": _PATIENCE_S}.get(self._phase, 0.0)
        return PoseStep(
            self._phase, number, len(self._names), self._names[number], max(0.0, of_s - self._spent_s),
            self._watch.still_s, self._watch.why,
        )  # fmt: skip

    @property
    def done(self) -> bool:
        """Whether all poses were taken."""
        return self._phase == "done"

    def add(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Take consecutive samples (n, n_channels), as the sensors sit."""
        self._rows.append((values, valid))
        if sum(len(v) for v, _ in self._rows) < self._n:
            return
        rows, ok = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        for start in range(0, len(rows) - self._n + 1, self._n):
            self._take(rows[start : start + self._n], ok[start : start + self._n])
        rest = len(rows) - len(rows) % self._n
        self._rows = [(rows[rest:], ok[rest:])]

    def repeat(self) -> None:
        """Take the pose that it waits at once more.

        Raises
        ------
        SignalError
            It waits at none.
        """
        self._refuse_unless_stuck()
        self._begin("ready")

    def go_on(self) -> None:
        """Go on without the sensors that were not still.

        Raises
        ------
        SignalError
            It waits at none, or nothing at all was still.
        """
        self._refuse_unless_stuck()
        if not self._watch.held().ok.any():
            raise SignalError("no sensor was still; take the pose again, held by somebody if need be")
        self._next()

    def frames(self) -> PoseFrames:
        """Return what was held so far.

        Raises
        ------
        SignalError
            Nothing was.
        """
        return frames_of_poses(self._held)

    def _take(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        if self._phase in ("stuck", "done"):
            return
        self._spent_s += STEP_S
        self._watch.add(values, valid)
        if self._phase == "ready":
            if self._spent_s >= self._ready_s:
                self._begin("hold")
        elif self._watch.all_held:
            self._next()
        elif self._spent_s >= _PATIENCE_S:
            self._phase = "stuck"

    def _next(self) -> None:
        self._held.append((POSES.index(self._names[self._number]), self._watch.held()))
        self._number += 1
        self._begin("ready" if self._number < len(self._names) else "done")

    def _begin(self, phase: Phase) -> None:
        self._phase, self._spent_s = phase, 0.0
        self._watch.clear()

    def _refuse_unless_stuck(self) -> None:
        if self._phase != "stuck":
            raise SignalError("the guide is under way; it asks when a pose was not held")
