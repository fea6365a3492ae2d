"""Functional arm use labelled from video (David et al. 2021, Subash et al. 2022; no licence stated).

The source publishes features of 0.24 s of a wrist's accelerometer, not its samples: they are no
:class:`~kinedge.recording.Recording`.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Region
from kinedge.training.datasets.source import MAX_ROWS

__all__ = ["ArmUse", "load_arm_use"]

_MAX_BYTES: Final = 1 << 28
_FEATURES: Final = (
    "ax_mean", "ax_var", "ay_mean", "ay_var", "az_mean", "az_var",
    "a2_mean", "a2_var", "a2_min", "a2_max", "entropy",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ArmUse:
    """Features of one wrist of one person, and whether the arm was used.

    Parameters
    ----------
    group
        ``control`` or ``patient``.
    side
        ``left`` or ``right``; in patients ``left`` is the affected arm.
    names
        Of the features; means in g, variances in g^2.
    time_s : (n,)
        Since the first row; about every 0.25 s, with gaps.
    values : (n, n_features) float64
    use : (n,) bool
        Functional use, majority of the raters' labels in each row.
    tasks
        Stretches of rows of one task, such as ``DrinkCup``; rows between tasks have none.
    """

    subject: str
    group: str
    side: str
    names: tuple[str, ...]
    time_s: NDArray[np.float64]
    values: NDArray[np.float64]
    use: NDArray[np.bool_]
    tasks: tuple[Region, ...]


def load_arm_use(folder: Path) -> list[ArmUse]:
    """Load ``{control,patient}_{left,right}_4hz.csv[.xz]``, or the owner's ``{group}/features/{side}_4hz.csv``.

    Raises
    ------
    SignalError
        Nothing of it is there, or a file is damaged or another one.
    """
    found = []
    for group in ("control", "patient"):
        for side in ("left", "right"):
            flat = folder / f"{group}_{side}_4hz.csv"
            candidates = (
                flat.with_name(flat.name + ".xz"), flat, folder / group / "features" / f"{side}_4hz.csv",
            )  # fmt: skip
            path = next((p for p in candidates if p.is_file()), None)
            if path is not None:
                found.extend(_persons(path, group, side))
    if not found:
        raise SignalError(f"{folder}: no control_left_4hz.csv or the like in it; is this the right data set?")
    return found


def _persons(path: Path, group: str, side: str) -> list[ArmUse]:
    rows = csv.DictReader(io.StringIO(_text(path)))
    needed = {"time", "subject", "task", "t_maj", *_FEATURES}
    if not needed <= set(rows.fieldnames or ()):
        raise SignalError(f"{path}: lacks {', '.join(sorted(needed - set(rows.fieldnames or ())))}")
    by_subject: dict[str, list[dict[str, str]]] = {}
    try:
        for i, row in enumerate(rows):
            if i >= MAX_ROWS:
                raise SignalError(f"{path}: more than {MAX_ROWS:,} rows")
            by_subject.setdefault(row["subject"], []).append(row)
        return [_person(subject, own, group, side) for subject, own in sorted(by_subject.items())]
    except (ValueError, TypeError, csv.Error) as e:
        raise SignalError(f"{path}: a row is no row of numbers ({e}); download it again") from e


def _person(subject: str, rows: list[dict[str, str]], group: str, side: str) -> ArmUse:
    time = np.array([row["time"] for row in rows], dtype="datetime64[ms]")
    tasks: list[Region] = []
    for i, row in enumerate(rows):
        task = row["task"].strip()
        if tasks and tasks[-1].label == task and tasks[-1].end == i:
            tasks[-1] = Region(tasks[-1].start, i + 1, task)
        elif task:
            tasks.append(Region(i, i + 1, task))
    return ArmUse(
        subject=f"{group}{int(re.sub(r'[^0-9]', '', subject) or 0)}",
        group=group,
        side=side,
        names=_FEATURES,
        time_s=(time - time[0]) / np.timedelta64(1, "s"),
        values=np.array([[float(row[name]) for name in _FEATURES] for row in rows]),
        use=np.array([float(row["t_maj"]) > 0.5 for row in rows]),
        tasks=tuple(tasks),
    )


def _text(path: Path) -> str:
    try:
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                data = file.read(_MAX_BYTES + 1)
        else:
            with path.open("rb") as plain:
                data = plain.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise SignalError(f"{path}: more than {_MAX_BYTES:,} bytes of text")
        return data.decode()
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as e:
        raise SignalError(f"{path}: cannot be read ({e}); download it again") from e
