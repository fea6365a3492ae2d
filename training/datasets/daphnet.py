"""Daphnet: Parkinson, freezing of gait, three accelerometers (Bachlin et al. 2010; UCI 245, CC BY 4.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.datasets.source import ACC, finished, is_npz, opened_npz, opened_tree, regions_of
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["load_daphnet"]

_PLACES: Final = ("ankle", "thigh", "trunk")


def load_daphnet(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load the recordings of Bachlin et al. 2010 (64 Hz; mg become m/s^2).

    Axes: the source's "horizontal forward", "vertical" and "horizontal lateral" become ``acc_x``, ``acc_y`` and
    ``acc_z``; upright, ``acc_y`` reads +9.81. Blocks in which a sensor reads exactly 0, 0, 0 (it was not connected:
    gravity cannot vanish on all axes) are invalid. Spikes far beyond the range of the sensors stay as they are.

    Parameters
    ----------
    path
        An npz of ``SxxRyy`` (n, 11), or the owner's folder or zip with ``dataset/SxxRyy.txt``: time in ms, three
        times three accelerations in mg, annotation.

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
    if sensors is not None and not set(sensors) <= set(_PLACES):
        raise SignalError(f"daphnet has {', '.join(_PLACES)}, asked for {', '.join(sensors)}")
    names = tuple(sensors) if sensors is not None else _PLACES
    return finished([_recording(run, table, names) for run, table in _tables(path)], path, sensors)


def _tables(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    if is_npz(path):
        with opened_npz(path) as npz:
            for name in npz.names:
                if re.fullmatch(r"S\d+R\d+", name):
                    yield name, npz.array(name, n_columns=11)
        return
    with opened_tree(path) as tree:
        for name in tree.names:
            match = re.search(r"(?:^|/)(S\d+R\d+)\.txt$", name)
            if match:
                yield match[1], tree.table(name, n_columns=11)


def _recording(run: str, table: NDArray[Any], names: tuple[str, ...]) -> Recording:
    annotation = table[:, 10]
    acc = [table[:, 1 + 3 * _PLACES.index(s) : 4 + 3 * _PLACES.index(s)].astype(np.float64) for s in names]
    values = np.concatenate(acc, axis=1) * (STANDARD_GRAVITY_M_S2 / 1000)
    connected = np.repeat(np.stack([(a != 0).any(axis=1) for a in acc], axis=1), 3, axis=1)
    valid = connected & np.isfinite(values)
    return Recording(
        sensors=tuple(SensorSpec(s, ACC) for s in names),
        rate_hz=64.0,
        values=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        labels=(*regions_of(annotation == 0, "outside"), *regions_of(annotation == 2, "freeze")),
        subject=run.partition("R")[0],
        session=run,
        source=f"daphnet/{run}",
    )
