"""Healthy walking with real radio loss (Voisard et al. 2023, ``ipol_dataset_1``; AGPL-3.0 in its repository)."""

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
from kinedge.training.datasets.source import MAX_ROWS, finished, is_npz, opened_npz, opened_tree

__all__ = ["load_gait_healthy"]

_MEMBERS: Final = {"lower_back": "lb", "foot_left": "lf", "foot_right": "rf"}


def load_gait_healthy(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load the walks of Voisard et al. 2023 (100 Hz, m/s^2, rad/s), with their real radio loss as a mask.

    Column 0 of each sensor counts its packets. All sensors of a walk count from the same start, and foot events are
    given in counts too (swing and stance separate better on counts than on rows), so the count is the grid: a count
    that is missing is a lost sample. A count seen twice keeps its first row; one that falls back by more than half of
    65536 is a wrapped 16-bit counter, any other fall is a restart, and what follows it has no known time: it is
    left out, and ``notes["dropped_rows"]`` says how many rows that were.

    Parameters
    ----------
    path
        An npz, or the owner's folder or zip with ``GaitData/<s>-<t>_{lb,lf,rf}.txt`` (a line with the rate, a line
        of column names, tab-separated) and ``<s>-<t>.json``.

    Returns
    -------
    list of Recording
        Labels: ``walk`` (the trial between its boundaries) and ``turn``.

    Raises
    ------
    SignalError
        The file is missing or another one, or a sensor is unknown.
    """
    if sensors is not None and not set(sensors) <= set(_MEMBERS):
        raise SignalError(f"gait_healthy has {', '.join(_MEMBERS)}, asked for {', '.join(sensors)}")
    names = tuple(sensors) if sensors is not None else tuple(_MEMBERS)
    walks = [_recording(path, walk, meta, tables, names) for walk, meta, tables in _walks(path, names)]
    return finished(walks, path, sensors)


def _walks(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any], list[NDArray[Any]]]]:
    if is_npz(path):
        with opened_npz(path) as npz:
            for walk in [n.removesuffix("/meta") for n in npz.names if n.endswith("/meta")]:
                tables = [npz.array(f"{walk}/{_MEMBERS[name]}", n_columns=10) for name in names]
                yield walk, npz.json(f"{walk}/meta"), tables
        return
    with opened_tree(path) as tree:
        for file in tree.names:
            match = re.search(r"(?:^|/)(\d+-\d+)\.json$", file)
            if match:
                stem = file.removesuffix(".json")
                tables = [
                    tree.table(f"{stem}_{_MEMBERS[name]}.txt", delimiter="\t", skip=2, n_columns=10) for name in names
                ]
                yield match[1], tree.json(file), tables


def _recording(
    path: Path, walk: str, meta: dict[str, Any], tables: list[NDArray[Any]], names: tuple[str, ...]
) -> Recording:
    counted = [_unwrap(table[:, 0], where=f"{path}: {walk}") for table in tables]
    n = 1 + max((int(counts[-1]) for counts, _ in counted if len(counts)), default=0)
    if n > MAX_ROWS:
        raise SignalError(f"{path}: {walk}: packet counts up to {n}; the counter column is damaged")
    values = np.zeros((n, 6 * len(names)), dtype=np.float32)
    valid = np.zeros(values.shape, dtype=bool)
    for i, (table, (counts, rows)) in enumerate(zip(tables, counted, strict=True)):
        samples = table[rows, 1:7].astype(np.float32)
        finite = np.isfinite(samples)
        values[counts, 6 * i : 6 * i + 6] = np.where(finite, samples, np.float32(0))
        valid[counts, 6 * i : 6 * i + 6] = finite
    dropped = sum(len(t) - len(rows) for t, (_, rows) in zip(tables, counted, strict=True))
    return Recording(
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
