"""Stanford freezing of gait: walks with 6 or 11 IMUs (O'Day et al. 2022; BSD-3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.datasets.sheet import read_sheet
from kinedge.training.datasets.source import finished, is_npz, opened_npz, opened_tree, regions_of, wanted

__all__ = ["load_fog_stanford"]

_AXES: Final = ("ax", "ay", "az", "gx", "gy", "gz")
_NOT_SIGNALS: Final = ("subject_ID", "time", "freeze_label")


@dataclass(frozen=True, eq=False)
class _Walk:
    """One walk: its columns, samples (n, C), freeze labels (n,), rate, and pairs of copied sensors (None: look)."""

    name: str
    columns: list[str]
    x: NDArray[Any]
    freeze: NDArray[Any]
    rate_hz: float
    copies: list[list[str]] | None


def load_fog_stanford(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load the walks of O'Day et al. 2022 (128 Hz, m/s^2, rad/s).

    Parameters
    ----------
    path
        An npz, or the owner's folder or zip with ``data/raw/**/pt<i>_visit_<v>_..._trial_<t>.xlsx`` of subject, time,
        six columns for each IMU, freeze label. A walk that is there twice (with 6 and with 11 IMUs) is read with 11.
    sensors
        In column order; walks that lack one are left out. Owner's names without ``imu_``, sides in full: ``chest``,
        ``lumbar``, ``ankle_left``, ``foot_right``, and in some walks ``head``, ``thigh_left``, ``wrist_left`` ...

    Returns
    -------
    list of Recording
        Subject such as ``pt3``. Sensors whose samples are a copy of another's (a fault of the source) stay as they
        are, and ``notes["duplicate_imus"]`` says so: ``foot_left=ankle_left``.

    Raises
    ------
    SignalError
        The file is missing or another one, or no walk has these sensors.
    """
    walks = _npz_walks(path) if is_npz(path) else _owner_walks(path)
    recordings = []
    for walk in walks:
        where = f"{path}: {walk.name}"
        placed = _columns(walk.columns, where=where)
        names = wanted(tuple(placed), sensors)
        if names is None:
            continue
        if walk.freeze.shape != walk.x.shape[:1]:
            raise SignalError(f"{where}: {len(walk.x)} samples but {walk.freeze.shape} freeze labels")
        values = walk.x[:, [i for name in names for i in placed[name]]].astype(np.float32)
        valid = np.isfinite(values)
        copies = _copied(walk.x, placed) if walk.copies is None else walk.copies
        recordings.append(
            Recording(
                sensors=tuple(SensorSpec(name) for name in names),
                rate_hz=walk.rate_hz,
                values=np.where(valid, values, np.float32(0)),
                valid=valid,
                labels=regions_of(walk.freeze > 0, "freeze"),
                subject=walk.name.partition("_")[0],
                session=walk.name,
                source=f"fog_stanford/{walk.name}",
                notes={"duplicate_imus": " ".join("=".join(pair) for pair in copies)} if copies else {},
            )
        )
    return finished(recordings, path, sensors)


def _npz_walks(path: Path) -> Iterator[_Walk]:
    with opened_npz(path) as npz:
        for walk, info in npz.json("meta").items():
            info = info if isinstance(info, dict) else {}
            columns = [str(c) for c in info.get("columns", ())]
            _columns(columns, where=f"{path}: {walk}")
            x = npz.array(f"{walk}/X", n_columns=len(columns))
            copies = [[_place(n) for n in pair] for pair in info.get("duplicate_imus", ())]
            yield _Walk(walk, columns, x, npz.array(f"{walk}/fog"), float(info.get("fs", 128.0)), copies)


def _owner_walks(path: Path) -> Iterator[_Walk]:
    with opened_tree(path) as tree:
        files: dict[str, str] = {}
        for name in tree.names:
            if re.search(r"(?:^|/)pt\d+_visit_[^/]*\.xlsx$", name):
                walk = PurePosixPath(name).stem
                # the folder of 11 IMUs sorts before that of 6, which holds a part of the same walks
                files.setdefault(walk, name)
        for walk, name in files.items():
            heading, rows = read_sheet(tree.read(name), where=f"{path}: {name}")
            missing = [c for c in ("time", "freeze_label") if c not in heading]
            if missing:
                raise SignalError(f"{path}: {name}: no column {', '.join(missing)}; is this a walk?")
            seconds = rows[:, heading.index("time")]
            step_s = float(np.median(np.diff(seconds))) if len(rows) > 1 else np.nan
            if not 1e-4 < step_s < 1:
                raise SignalError(f"{path}: {name}: its time column does not count seconds (median step {step_s})")
            signals = [i for i, c in enumerate(heading) if c and c not in _NOT_SIGNALS]
            freeze = rows[:, heading.index("freeze_label")]
            columns = [heading[i] for i in signals]
            # 128 Hz by its documentation; times are rounded in the files
            rate_hz = 128.0 if abs(1 / step_s - 128.0) < 2 else 1 / step_s
            yield _Walk(walk, columns, rows[:, signals], np.nan_to_num(freeze), rate_hz, None)


def _copied(x: NDArray[Any], placed: dict[str, list[int]]) -> list[list[str]]:
    """Return pairs of sensors whose samples are equal, the later one first."""
    pairs = []
    names = list(placed)
    for i, later in enumerate(names):
        for earlier in names[:i]:
            if np.array_equal(x[:, placed[later]], x[:, placed[earlier]], equal_nan=True):
                pairs.append([later, earlier])
                break
    return pairs


def _place(owner_name: str) -> str:
    name = owner_name.removeprefix("imu_")
    for short, full in (("_l", "_left"), ("_r", "_right")):
        if name.endswith(short):
            return name.removesuffix(short) + full
    return name


def _columns(columns: Sequence[str], *, where: str) -> dict[str, list[int]]:
    """Return sensor -> columns of acc x, y, z, gyr x, y, z."""
    placed: dict[str, dict[str, int]] = {}
    for i, column in enumerate(columns):
        match = re.fullmatch(r"(imu_\w+)_([ag][xyz])", column)
        if match is None:
            raise SignalError(f"{where}: column {column!r} is not imu_<place>_<a or g><axis>")
        placed.setdefault(_place(match[1]), {})[match[2]] = i
    broken = [name for name, found in placed.items() if set(found) != set(_AXES)]
    if broken or not placed:
        raise SignalError(f"{where}: need six columns for each sensor; incomplete: {', '.join(broken) or 'all'}")
    return {name: [found[a] for a in _AXES] for name, found in placed.items()}
