"""Soccer actions of six to eight players, 17 IMUs (Akamatsu et al. 2021; Expert-NoviceSoccerDataset, MIT)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.datasets.source import finished, is_npz, opened_npz, opened_tree
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["load_soccer"]

# Nodes of the owner's motion capture that carry a sensor; 17 copies 16, and 19 to 21 copy 18 or 1.
_PLACES: Final = {
    "01": "pelvis", "02": "thigh_right", "03": "shank_right", "04": "foot_right", "05": "thigh_left",
    "06": "shank_left", "07": "foot_left", "08": "shoulder_right", "09": "upper_arm_right", "10": "forearm_right",
    "11": "hand_right", "12": "shoulder_left", "13": "upper_arm_left", "14": "forearm_left", "15": "hand_left",
    "16": "head", "18": "chest",
}  # fmt: skip
_ACTIONS: Final = (
    "penalty_kick", "free_kick", "direct_shot", "shot_from_cross", "volley",
    "dribble_long", "dribble_short", "dribble_straight", "juggling",
)  # fmt: skip
_NODE_COLUMNS: Final = 16  # position 3, velocity 3, quaternion 4, acceleration 3, angular rate 3
_N_NODES: Final = 21


def load_soccer(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load soccer actions (about 120 Hz; g become m/s^2).

    About every fifth frame repeats the one before it in every channel: the receiver had nothing new. Repeated frames
    are invalid samples, and ``notes["repeated_frames"]`` counts them. The source's accelerations at rest point down
    (turned by its own quaternions, they are one g along its downward axis); the sign is changed, so that an axis
    pointing up reads +9.81. How its angular rates lie to these axes is not documented, and no constant turn of the
    axes makes gravity follow them: treat acc and gyr as channels of different frames.

    Parameters
    ----------
    path
        An npz, or the owner's folder or zip with ``MotionData/Player<p>/S<xx>.txt`` (commas; 21 nodes of 16 columns).
    sensors
        ``pelvis``, ``chest``, ``head``, and with a side ``thigh``, ``shank``, ``foot``, ``shoulder``, ``upper_arm``,
        ``forearm``, ``hand``.

    Returns
    -------
    list of Recording
        One label over each, ``action:<name>``: four trials each of ``penalty_kick``, ``free_kick``, ... ``juggling``.

    Raises
    ------
    SignalError
        The file is missing or another one, or a sensor is unknown.
    """
    known = tuple(_PLACES.values())
    if sensors is not None and not set(sensors) <= set(known):
        raise SignalError(f"soccer has {', '.join(known)}, asked for {', '.join(sensors)}")
    names = tuple(sensors) if sensors is not None else known
    return finished([_recording(item, frames, names) for item, frames in _items(path)], path, sensors)


def _items(path: Path) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the name and (n, 102) of each trial: acc (g) and gyr (rad/s) in the order of :data:`_PLACES`."""
    if is_npz(path):
        with opened_npz(path) as npz:
            columns = npz.json("columns", list)
            scale = npz.array("scale")
            expected = [f"{node}-{what}-{axis}" for node in _PLACES for what in "AW" for axis in "xyz"]
            if sorted(columns) != sorted(expected) or scale.shape != (len(columns),) or not (scale > 0).all():
                raise SignalError(f"{path}: columns or scale are not those of 17 IMUs; is this the right data set?")
            order = [columns.index(c) for c in expected]
            for name in npz.names:
                if re.fullmatch(r"Player\d+_S\d+", name):
                    yield name, (npz.array(name, n_columns=len(columns)) / scale)[:, order]
        return
    starts = [(int(node) - 1) * _NODE_COLUMNS for node in _PLACES]
    index = [start + 10 + i for start in starts for i in range(6)]
    with opened_tree(path) as tree:
        for name in tree.names:
            match = re.search(r"(?:^|/)MotionData/(Player\d+)/(S\d+)\.txt$", name)
            if match:
                table = tree.table(name, delimiter=",", n_columns=_N_NODES * _NODE_COLUMNS)
                yield f"{match[1]}_{match[2]}", table[:, index]


def _recording(item: str, frames: NDArray[Any], names: tuple[str, ...]) -> Recording:
    nodes = list(_PLACES.values())
    index = [6 * nodes.index(name) + i for name in names for i in range(6)]
    values = frames[:, index]
    valid = np.isfinite(values)
    # over all sensors, whichever are taken: one sensor that rests may well repeat itself
    repeated = np.concatenate([[False], (np.diff(frames, axis=0) == 0).all(axis=1)])
    valid[repeated] = False
    values = values * np.tile([-STANDARD_GRAVITY_M_S2] * 3 + [1.0] * 3, len(names))
    player, _, trial = item.partition("_")
    number = (int(trial[1:]) - 1) // 4
    action = _ACTIONS[number] if 0 <= number < len(_ACTIONS) else "unknown"
    return Recording(
        sensors=tuple(SensorSpec(name) for name in names),
        rate_hz=120.0,
        values=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        labels=(Region(0, len(values), f"action:{action}"),) if len(values) else (),
        subject=player,
        session=item,
        source=f"soccer/{item}",
        notes={"repeated_frames": str(int(repeated.sum()))},
    )
