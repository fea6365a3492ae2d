"""Labelled series that are no sensors on a body: server metrics (SMD) and TSB-AD-M, to compare with other methods."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Region
from kinedge.training.datasets.source import is_npz, number_table, opened_npz, opened_tree

__all__ = ["Cause", "Series", "load_smd", "load_tsb_ad_m"]

_TRAIN_END: Final = re.compile(r"_tr_(\d+)(?:_|$)")


@dataclass(frozen=True, order=True)
class Cause:
    """Which columns (from 0) caused the anomaly in ``[start, end)``."""

    start: int
    end: int
    columns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """A multivariate series with point labels; its columns have no known units.

    Parameters
    ----------
    values : (n, n_columns) float64
    labels
        Regions ``anomaly``, all of them in the test part.
    train_end
        ``values[:train_end]`` is for fitting, the rest is scored (by TSB-AD's rule, both together are scored).
    causes
        Where the owner names them.
    """

    name: str
    values: NDArray[np.float64]
    labels: tuple[Region, ...]
    train_end: int
    causes: tuple[Cause, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.values)
        if self.values.ndim != 2 or not 0 <= self.train_end <= n or any(r.end > n for r in self.labels):
            raise SignalError(
                f"{self.name}: values {self.values.shape}, train_end {self.train_end} or a label do not fit together"
            )
        if not np.isfinite(self.values).all():
            raise SignalError(f"{self.name}: NaN or infinity in its values; fill or cut them first")

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """Point labels (n,)."""
        mask = np.zeros(len(self), dtype=bool)
        for region in self.labels:
            mask[region.start : region.end] = True
        return mask


def _anomalies(mask: NDArray[np.bool_], *, offset: int = 0) -> tuple[Region, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))) + offset
    return tuple(Region(int(a), int(b), "anomaly") for a, b in zip(edges[::2], edges[1::2], strict=True))


def load_tsb_ad_m(path: Path, *, names: Sequence[str] | None = None) -> list[Series]:
    """Load series of TSB-AD-M (Liu & Paparrizos 2024).

    Parameters
    ----------
    path
        An npz of ``<official name>/X`` and ``/y``; or the owner's folder or zip of ``<official name>.csv`` with the
        label in the last column, or one such file. The training prefix is the number behind ``_tr_`` in the name.
    names
        Official names without ``.csv``; None takes all.

    Raises
    ------
    SignalError
        The file is missing or another one, or a name is not in it.
    """
    found = {name: (x, y) for name, x, y in _tsb(path, None if names is None else set(names))}
    missing = sorted(set(names or ()) - set(found))
    if missing or not found:
        raise SignalError(f"{path}: no {', '.join(missing) or 'series of TSB-AD-M'} in it; is this the right data set?")
    series = []
    for name in names if names is not None else found:
        x, y = found[name]
        match = _TRAIN_END.search(name)
        if match is None or int(match[1]) > len(x):
            raise SignalError(f"{path}: {name}: its name must tell the training prefix as _tr_<n>, n up to {len(x)}")
        if y.shape != x.shape[:1]:
            raise SignalError(f"{path}: {name}: {len(x)} rows but labels {y.shape}")
        series.append(Series(name, x.astype(np.float64), _anomalies(y > 0), int(match[1])))
    return series


def _tsb(path: Path, names: set[str] | None) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    if path.suffix.lower() == ".csv":
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            raise SignalError(f"{path}: cannot be read ({e})") from e
        yield path.stem, *_labelled(text, where=str(path))
    elif is_npz(path):
        with opened_npz(path) as npz:
            for name in [n.removesuffix("/X") for n in npz.names if n.endswith("/X")]:
                if names is None or name in names:
                    x = npz.array(f"{name}/X")
                    if x.ndim != 2 or x.dtype.kind not in "iuf":
                        raise SignalError(f"{path}: {name}/X must be numbers (n, C), got {x.dtype} {x.shape}")
                    yield name, x, npz.array(f"{name}/y")
    else:
        with opened_tree(path) as tree:
            for file in tree.names:
                name = PurePosixPath(file).stem
                if file.endswith(".csv") and _TRAIN_END.search(name) and (names is None or name in names):
                    yield name, *_labelled(tree.text(file), where=f"{path}: {file}")


def _labelled(text: str, *, where: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    heading = text.partition("\n")[0].strip().split(",")
    if heading[-1] != "Label" or len(heading) < 2:
        raise SignalError(f"{where}: its last column is {heading[-1]!r:.30}, not 'Label'; is this a series of TSB-AD?")
    table = number_table(text, where=where, delimiter=",", skip=1, n_columns=len(heading))
    return table[:, :-1], table[:, -1]


def load_smd(path: Path, *, names: Sequence[str] | None = None) -> list[Series]:
    """Load machines of the Server Machine Dataset (Su et al. 2019): 38 metrics a minute, with root causes.

    Parameters
    ----------
    path
        An npz of ``<machine>/{train,test,label}`` and ``interp``; or the owner's folder or zip with
        ``ServerMachineDataset/{train,test,test_label,interpretation_label}/<machine>.txt``. The data sets of the same
        form, such as ASD, are read too.
    names
        Such as ``machine-1-2``; None takes all.

    Returns
    -------
    list of Series
        Train part, then test part. Causes count columns from 0 and rows from the start of the series; the source
        counts columns from 1 and rows from the start of the test part. Whether the row it names as last belongs to
        the region differs between sources of this form (SMD: no, ASD: yes); the point labels decide it.

    Raises
    ------
    SignalError
        The file is missing or another one, or a name is not in it.
    """
    found = [_machine(path, *parts) for parts in _machines(path, None if names is None else set(names))]
    missing = sorted(set(names or ()) - {s.name for s in found})
    if missing or not found:
        raise SignalError(f"{path}: no {', '.join(missing) or 'machine'} in it; is this the right data set?")
    return found


def _machines(
    path: Path, names: set[str] | None
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any], list[str]]]:
    if is_npz(path):
        with opened_npz(path) as npz:
            causes = npz.json("interp")
            for name in [n.removesuffix("/train") for n in npz.names if n.endswith("/train")]:
                if names is None or name in names:
                    train, test, label = (npz.array(f"{name}/{part}") for part in ("train", "test", "label"))
                    yield name, train, test, label, [str(line) for line in causes.get(name, ())]
        return
    with opened_tree(path) as tree:
        for file in tree.names:
            match = re.search(r"^(|.*/)train/([^/]+)\.txt$", file)
            if match and (names is None or match[2] in names):
                here, name = match.groups()
                train, test = (tree.table(f"{here}{part}/{name}.txt", delimiter=",") for part in ("train", "test"))
                label = tree.table(f"{here}test_label/{name}.txt", n_columns=1)[:, 0]
                interpretation = f"{here}interpretation_label/{name}.txt"
                lines = tree.text(interpretation).split() if interpretation in tree.names else []
                yield name, train, test, label, lines


def _machine(
    path: Path, name: str, train: NDArray[Any], test: NDArray[Any], label: NDArray[Any], lines: list[str]
) -> Series:
    where = f"{path}: {name}"
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or label.shape != test.shape[:1]:
        raise SignalError(
            f"{where}: train {train.shape}, test {test.shape} and label {label.shape} do not fit together"
        )
    causes = []
    for line in lines:
        match = re.fullmatch(r"(\d+)-(\d+):([\d,]+)", line)
        columns = tuple(int(c) - 1 for c in match[3].split(",") if c) if match else ()
        if match is None or not columns or not all(0 <= c < test.shape[1] for c in columns):
            raise SignalError(f"{where}: {line!r:.60} is no first-last:columns with columns 1 to {test.shape[1]}")
        start, last = int(match[1]), int(match[2])
        if not 0 <= start <= last <= len(test):
            raise SignalError(f"{where}: {line!r:.60} does not lie in the {len(test)} rows of the test part")
        end = max(start + 1, last + int(last < len(test) and label[last] > 0))
        causes.append(Cause(len(train) + start, len(train) + end, columns))
    values = np.concatenate([train, test]).astype(np.float64)
    return Series(name, values, _anomalies(label > 0, offset=len(train)), len(train), tuple(causes))
