"""Public recordings as :class:`~kinedge.recording.Recording`, read from npz copies of what their owners publish.

| name | content | sensors | labels |
|---|---|---|---|
| ``fog_stanford`` | Parkinson, walks with freezing of gait; O'Day 2022 | 6 IMUs, in some walks 11 | ``freeze`` |
| ``gait_healthy`` | healthy walks; Voisard 2023 | lower back, both feet | ``walk``, ``turn`` |
| ``daphnet`` | Parkinson, freezing of gait; Bachlin 2010 | ankle, thigh, trunk: acc only | ``freeze``, ``outside`` |

Members of the npz are read one at a time. What is missing in a source stays missing: lost packets, blocks in which a
sensor did not record and values that are not finite become invalid samples.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["DATASETS", "load_daphnet", "load_dataset", "load_fog_stanford", "load_gait_healthy", "regions_of"]

_MAX_ROWS: Final = 5_000_000
_ACC: Final = ("acc_x", "acc_y", "acc_z")


def regions_of(mask: NDArray[np.bool_], label: str) -> tuple[Region, ...]:
    """Return the stretches where ``mask`` (n,) is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(Region(int(a), int(b), label) for a, b in zip(edges[::2], edges[1::2], strict=True))


class _Npz:
    """Members of an npz file on demand, every failure one :class:`SignalError`."""

    def __init__(self, path: Path, archive: Any) -> None:
        self.path = path
        self._archive = archive
        self.names: tuple[str, ...] = tuple(archive.files)

    def array(self, name: str, *, n_columns: int | None = None) -> NDArray[Any]:
        if name not in self.names:
            raise SignalError(f"{self.path}: no {name!r} in it; is this the right data set?")
        try:
            value: NDArray[Any] = self._archive[name]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
            raise SignalError(f"{self.path}: {name!r} cannot be read ({e}); copy the file again") from e
        if n_columns is not None and (value.ndim != 2 or value.shape[1] != n_columns or value.dtype.kind not in "iuf"):
            raise SignalError(
                f"{self.path}: {name!r} must be numbers (n, {n_columns}), got {value.dtype} {value.shape}"
            )
        return value

    def json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(str(self.array(name)))
        except json.JSONDecodeError as e:
            raise SignalError(f"{self.path}: {name!r} is no JSON ({e}); copy the file again") from e
        if not isinstance(value, dict):
            raise SignalError(f"{self.path}: {name!r} must be a JSON object; is this the right data set?")
        return value


@contextmanager
def _opened(path: Path) -> Iterator[_Npz]:
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise SignalError(f"{path}: cannot be read as npz ({e}); see the data set's page for the file") from e
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise SignalError(f"{path}: one array, not an npz of several; is this the right file?")
    with archive:
        yield _Npz(path, archive)


def _wanted(available: Sequence[str], sensors: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the sensors to take, or None when this recording lacks one."""
    if sensors is None:
        return tuple(available)
    return tuple(sensors) if set(sensors) <= set(available) else None


def _finished(recordings: list[Recording], path: Path, sensors: Sequence[str] | None) -> list[Recording]:
    if not recordings:
        asked = f" with sensors {', '.join(sensors)}" if sensors is not None else ""
        raise SignalError(f"{path}: no recording{asked} in it; is this the right data set?")
    return recordings


def load_fog_stanford(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load the walks of O'Day et al. 2022 (128 Hz, m/s^2, rad/s).

    Parameters
    ----------
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
    recordings = []
    with _opened(path) as npz:
        for walk, info in npz.json("meta").items():
            columns = [str(c) for c in info.get("columns", ())] if isinstance(info, dict) else []
            placed = _fog_columns(columns, where=f"{path}: {walk}")
            names = _wanted(tuple(placed), sensors)
            if names is None:
                continue
            x = npz.array(f"{walk}/X", n_columns=len(columns))
            freeze = npz.array(f"{walk}/fog")
            if freeze.shape != x.shape[:1]:
                raise SignalError(f"{path}: {walk}: {len(x)} samples but {freeze.shape} freeze labels")
            values = x[:, [i for name in names for i in placed[name]]].astype(np.float32)
            valid = np.isfinite(values)
            copies = [[_fog_name(n) for n in pair] for pair in info.get("duplicate_imus", ())]
            recordings.append(
                Recording(
                    sensors=tuple(SensorSpec(name) for name in names),
                    rate_hz=float(info.get("fs", 128.0)),
                    values=np.where(valid, values, np.float32(0)),
                    valid=valid,
                    labels=regions_of(freeze > 0, "freeze"),
                    subject=walk.partition("_")[0],
                    session=walk,
                    source=f"fog_stanford/{walk}",
                    notes={"duplicate_imus": " ".join("=".join(pair) for pair in copies)} if copies else {},
                )
            )
    return _finished(recordings, path, sensors)


def _fog_name(owner_name: str) -> str:
    name = owner_name.removeprefix("imu_")
    for short, full in (("_l", "_left"), ("_r", "_right")):
        if name.endswith(short):
            return name.removesuffix(short) + full
    return name


def _fog_columns(columns: Sequence[str], *, where: str) -> dict[str, list[int]]:
    """Return sensor -> columns of acc x, y, z, gyr x, y, z."""
    placed: dict[str, dict[str, int]] = {}
    for i, column in enumerate(columns):
        match = re.fullmatch(r"(imu_\w+)_([ag][xyz])", column)
        if match is None:
            raise SignalError(f"{where}: column {column!r} is not imu_<place>_<a or g><axis>")
        placed.setdefault(_fog_name(match[1]), {})[match[2]] = i
    axes = ("ax", "ay", "az", "gx", "gy", "gz")
    broken = [name for name, found in placed.items() if set(found) != set(axes)]
    if broken or not placed:
        raise SignalError(f"{where}: need six columns for each sensor; incomplete: {', '.join(broken) or 'all'}")
    return {name: [found[a] for a in axes] for name, found in placed.items()}


_GAIT_MEMBERS: Final = {"lower_back": "lb", "foot_left": "lf", "foot_right": "rf"}


def load_gait_healthy(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load the walks of Voisard et al. 2023 (100 Hz, m/s^2, rad/s), with their real radio loss as a mask.

    Column 0 of each sensor counts its packets. All sensors of a walk count from the same start, and foot events are
    given in counts too (swing and stance separate better on counts than on rows), so the count is the grid: a count
    that is missing is a lost sample. A count seen twice keeps its first row; one that falls back by more than half of
    65536 is a wrapped 16-bit counter, any other fall is a restart, and what follows it has no known time: it is
    left out, and ``notes["dropped_rows"]`` says how many rows that were.

    Returns
    -------
    list of Recording
        Labels: ``walk`` (the trial between its boundaries) and ``turn``.

    Raises
    ------
    SignalError
        The file is missing or another one, or a sensor is unknown.
    """
    if sensors is not None and not set(sensors) <= set(_GAIT_MEMBERS):
        raise SignalError(f"gait_healthy has {', '.join(_GAIT_MEMBERS)}, asked for {', '.join(sensors)}")
    names = tuple(sensors) if sensors is not None else tuple(_GAIT_MEMBERS)
    recordings = []
    with _opened(path) as npz:
        for walk in [n.removesuffix("/meta") for n in npz.names if n.endswith("/meta")]:
            meta = npz.json(f"{walk}/meta")
            tables = [npz.array(f"{walk}/{_GAIT_MEMBERS[name]}", n_columns=10) for name in names]
            counted = [_unwrap(table[:, 0], where=f"{path}: {walk}") for table in tables]
            n = 1 + max((int(counts[-1]) for counts, _ in counted if len(counts)), default=0)
            if n > _MAX_ROWS:
                raise SignalError(f"{path}: {walk}: packet counts up to {n}; the counter column is damaged")
            values = np.zeros((n, 6 * len(names)), dtype=np.float32)
            valid = np.zeros(values.shape, dtype=bool)
            for i, (table, (counts, rows)) in enumerate(zip(tables, counted, strict=True)):
                samples = table[rows, 1:7].astype(np.float32)
                finite = np.isfinite(samples)
                values[counts, 6 * i : 6 * i + 6] = np.where(finite, samples, np.float32(0))
                valid[counts, 6 * i : 6 * i + 6] = finite
            dropped = sum(len(t) - len(rows) for t, (_, rows) in zip(tables, counted, strict=True))
            recordings.append(
                Recording(
                    sensors=tuple(SensorSpec(name) for name in names),
                    rate_hz=100.0,
                    values=values,
                    valid=valid,
                    labels=(
                        *_bounds(meta.get("TrialBoundaries"), n, "walk"),
                        *_bounds(meta.get("UTurnBoundaries"), n, "turn"),
                    ),
                    subject=walk.partition("-")[0],
                    session=walk,
                    source=f"gait_healthy/{walk}",
                    notes={"dropped_rows": str(dropped)} if dropped else {},
                )
            )
    return _finished(recordings, path, sensors)


def _unwrap(counter: NDArray[Any], *, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return strictly increasing counts and the rows they belong to."""
    if not np.isfinite(counter).all() or (len(counter) and counter.min() < 0):
        raise SignalError(f"{where}: the packet counter holds negative or non-finite numbers")
    count = counter.astype(np.int64)
    step = np.diff(count)
    count[1:] += 65536 * np.cumsum(step < -32768)
    step = np.diff(count)
    restarts = np.flatnonzero(step < 0)
    end = int(restarts[0]) + 1 if len(restarts) else len(count)
    rows = np.flatnonzero(np.concatenate([[True], step[: end - 1] > 0])) if end else np.zeros(0, dtype=np.int64)
    return count[rows], rows


def _bounds(pair: Any, n: int, label: str) -> tuple[Region, ...]:
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(v, int) for v in pair)):
        return ()
    start, end = max(0, pair[0]), min(n, pair[1])
    return (Region(start, end, label),) if start < end else ()


def load_daphnet(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load the recordings of Bachlin et al. 2010 (64 Hz; mg become m/s^2).

    Axes: the source's "horizontal forward", "vertical" and "horizontal lateral" become ``acc_x``, ``acc_y`` and
    ``acc_z``; upright, ``acc_y`` reads +9.81. Blocks in which a sensor reads exactly 0, 0, 0 (it was not connected:
    gravity cannot vanish on all axes) are invalid. Spikes far beyond the range of the sensors stay as they are.

    Returns
    -------
    list of Recording
        Labels: ``outside`` (annotation 0: not part of the experiment; leave it out of training and scoring) and
        ``freeze`` (annotation 2). Subject such as ``S01``.

    Raises
    ------
    SignalError
        The file is missing or another one, or a sensor is unknown.
    """
    known = ("ankle", "thigh", "trunk")
    if sensors is not None and not set(sensors) <= set(known):
        raise SignalError(f"daphnet has {', '.join(known)}, asked for {', '.join(sensors)}")
    names = tuple(sensors) if sensors is not None else known
    recordings = []
    with _opened(path) as npz:
        for name in npz.names:
            if not re.fullmatch(r"S\d+R\d+", name):
                continue
            table = npz.array(name, n_columns=11)
            annotation = table[:, 10]
            acc = [table[:, 1 + 3 * known.index(s) : 4 + 3 * known.index(s)].astype(np.float64) for s in names]
            values = np.concatenate(acc, axis=1) * (STANDARD_GRAVITY_M_S2 / 1000)
            connected = np.repeat(np.stack([(a != 0).any(axis=1) for a in acc], axis=1), 3, axis=1)
            valid = connected & np.isfinite(values)
            recordings.append(
                Recording(
                    sensors=tuple(SensorSpec(s, _ACC) for s in names),
                    rate_hz=64.0,
                    values=np.where(valid, values, 0).astype(np.float32),
                    valid=valid,
                    labels=(*regions_of(annotation == 0, "outside"), *regions_of(annotation == 2, "freeze")),
                    subject=name.partition("R")[0],
                    session=name,
                    source=f"daphnet/{name}",
                )
            )
    return _finished(recordings, path, sensors)


DATASETS: Final[Mapping[str, Callable[..., list[Recording]]]] = {
    "fog_stanford": load_fog_stanford,
    "gait_healthy": load_gait_healthy,
    "daphnet": load_daphnet,
}


def load_dataset(name: str, folder: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load ``<folder>/<name>.npz`` by the name of its data set.

    Raises
    ------
    SignalError
        The name is not in :data:`DATASETS`, or its loader refuses the file.
    """
    loader = DATASETS.get(name)
    if loader is None:
        raise SignalError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return loader(folder / f"{name}.npz", sensors=sensors)
