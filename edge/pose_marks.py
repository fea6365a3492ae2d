"""Guided poses in a recording: where they were held is told by labels, or by times that somebody wrote down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.pose import HOLD_S, POSES, Held, PoseFrames, StillWatch, frames_of_poses
from kinedge.errors import ConfigError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec

__all__ = ["MARK_S", "MarkedPoses", "PoseMark", "frames_of_labels", "parse_marks"]

MARK_S: Final = 15.0
"""How long after a mark the pose is looked for, unless the next one comes first."""

_MARK: Final = re.compile(r"([a-z]+)=(?:(\d{1,4}):)?(\d{1,6}(?:\.\d{1,3})?)")
_LABEL: Final = "pose:"


@dataclass(frozen=True)
class PoseMark:
    """From ``start_s`` after the start of a recording on, this pose was held."""

    pose: int
    start_s: float


def parse_marks(texts: Sequence[str]) -> tuple[PoseMark, ...]:
    """Read marks such as ``down=12.5`` or ``table=1:05``, in any order.

    Raises
    ------
    ConfigError
        One cannot be read, names no pose, or a pose is missing.
    """
    marks = []
    for text in texts:
        found = _MARK.fullmatch(text)
        if found is None or found[1] not in POSES:
            raise ConfigError(
                f"pose {text!r}: say NAME=SECONDS or NAME=MINUTES:SECONDS from the start of the recording, such as "
                f"{POSES[0]}=12.5; the poses are {', '.join(POSES)}"
            )
        marks.append(PoseMark(POSES.index(found[1]), 60 * float(found[2] or 0) + float(found[3])))
    if marks and (missing := set(range(len(POSES))) - {m.pose for m in marks}):
        raise ConfigError(f"pose {', '.join(POSES[i] for i in sorted(missing))} is not marked; all are needed")
    return tuple(sorted(marks, key=lambda m: m.start_s))


class MarkedPoses:
    """Looks for poses in what is played, at the times that were marked.

    Parameters
    ----------
    marks
        In order of time.
    sensors
        In column order.
    rate_hz
        Of the samples.
    """

    def __init__(self, marks: Sequence[PoseMark], sensors: Sequence[SensorSpec], *, rate_hz: float) -> None:
        starts = [m.start_s for m in marks]
        ends = [min(a + MARK_S, b) for a, b in zip(starts, [*starts[1:], np.inf], strict=True)]
        self._windows = list(zip(starts, ends, strict=True))
        self._marks = tuple(marks)
        self._rate_hz = rate_hz
        self._watches = [StillWatch(sensors, rate_hz=rate_hz) for _ in marks]

    def add(self, values: NDArray[np.float32], valid: NDArray[np.bool_], *, start_s: float) -> None:
        """Take consecutive samples (n, n_channels) that begin at ``start_s``."""
        time_s = start_s + np.arange(len(values)) / self._rate_hz + 1e-9
        for (first_s, end_s), watch in zip(self._windows, self._watches, strict=True):
            here = (time_s >= first_s) & (time_s < end_s)
            if here.any():
                watch.add(values[here], valid[here])

    def held(self) -> list[tuple[int, Held]]:
        """Return what was found, mark by mark."""
        return [(m.pose, w.held()) for m, w in zip(self._marks, self._watches, strict=True)]

    def frames(self) -> PoseFrames:
        """Return all of it together.

        Raises
        ------
        ConfigError
            At some mark no sensor was still.
        """
        found = self.held()
        for mark, (_, held) in zip(self._marks, found, strict=True):
            if not held.ok.any():
                raise ConfigError(
                    f"pose {POSES[mark.pose]} at {mark.start_s:g} s: no sensor was still for {HOLD_S:g} s "
                    f"({', '.join(sorted(set(held.why)))}); is the time right?"
                )
        return frames_of_poses(found)


def frames_of_labels(recordings: Sequence[Recording]) -> PoseFrames | None:
    """Return the poses that are labelled ``pose:<name>`` in recordings; None where there are not all of them."""
    found = []
    for recording in recordings:
        for region in recording.labels:
            name = region.label.removeprefix(_LABEL)
            if region.label.startswith(_LABEL) and name in POSES:
                watch = StillWatch(recording.sensors, rate_hz=recording.rate_hz)
                watch.add(recording.values[region.start : region.end], recording.valid[region.start : region.end])
                found.append((POSES.index(name), watch.held()))
    return frames_of_poses(found) if {pose for pose, _ in found} == set(range(len(POSES))) else None
