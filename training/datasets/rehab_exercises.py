"""Physiotherapy exercises, done right, too fast and too small (Yurtman & Barshan 2014; UCI 730, CC BY 4.0)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import SensorSpec
from kinedge.training.datasets.source import finished, is_npz, opened_npz, opened_tree

__all__ = ["load_rehab_exercises"]

_UNITS: Final = ("unit_1", "unit_2", "unit_3", "unit_4", "unit_5")
_KINDS: Final = {1: "right", 2: "fast", 3: "small"}
_MEMBER: Final = re.compile(r"(?:^|/)(s\d+)/(e\d+)/u1/(template_session|test)(?:\.txt)?$")


def load_rehab_exercises(path: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load training and test sessions of eight exercises (25 Hz, m/s^2, rad/s).

    Where the five units sit depends on the exercise (the owner's ``Description.pdf`` says it), so they are called
    ``unit_1`` to ``unit_5``. The magnetometer is left out: its unit is the earth's field, not uT.

    Parameters
    ----------
    path
        An npz, or the owner's folder or zip with ``s<i>/e<j>/u<k>/{template_session,test}.txt`` (semicolons; time
        index, acc, gyr, mag) and ``s<i>/e<j>/template_times.txt``.

    Returns
    -------
    list of Recording
        Session such as ``s1-e2-test``. Labels ``exercise:right``, ``exercise:fast`` and ``exercise:small``: one of each
        in a ``template_session``. In ``test`` the owner gives none; where a ``test_times.csv`` lies beside it (made
        by others, by eye), its repetitions are labelled and ``notes["labels"]`` says so. Times count from 1 and may be
        fractions; the samples between them are taken.

    Raises
    ------
    SignalError
        The file is missing or another one, or a sensor is unknown.
    """
    if sensors is not None and not set(sensors) <= set(_UNITS):
        raise SignalError(f"rehab_exercises has {', '.join(_UNITS)}, asked for {', '.join(sensors)}")
    names = tuple(sensors) if sensors is not None else _UNITS
    recordings = []
    if is_npz(path):
        with opened_npz(path) as npz:
            for name in sorted(npz.names):
                if _MEMBER.search(name):
                    recordings.append(
                        _session(
                            name,
                            names,
                            set(npz.names),
                            lambda member: npz.array(member, n_columns=9),
                            lambda member: str(npz.array(member)),
                            where=str(path),
                        )
                    )
    else:
        with opened_tree(path) as tree:
            for name in tree.names:
                if _MEMBER.search(name):
                    recordings.append(
                        _session(
                            name,
                            names,
                            set(tree.names),
                            lambda member: tree.table(member, delimiter=";", skip=1, n_columns=10)[:, 1:],
                            tree.text,
                            where=str(path),
                        )
                    )
    return finished(recordings, path, sensors)


def _session(
    first: str,
    names: tuple[str, ...],
    members: set[str],
    table: Callable[[str], NDArray[Any]],
    text: Callable[[str], str],
    *,
    where: str,
) -> Recording:
    """Read one session, whose first unit's member is ``first``."""
    folder, _, file = first.rpartition("/u1/")
    subject, exercise = folder.split("/")[-2:]
    part = file.removesuffix(".txt")
    tables = [table(f"{folder}/u{_UNITS.index(name) + 1}/{file}") for name in names]
    n = max(len(t) for t in tables)
    values = np.zeros((n, 6 * len(names)), np.float32)
    valid = np.zeros(values.shape, bool)
    for i, t in enumerate(tables):
        values[: len(t), 6 * i : 6 * i + 6] = np.nan_to_num(t[:, :6], posinf=0, neginf=0)
        valid[: len(t), 6 * i : 6 * i + 6] = np.isfinite(t[:, :6])
    labels: tuple[Region, ...] = ()
    notes = {}
    times = f"{folder}/" + ("template_times.txt" if part == "template_session" else "test_times.csv")
    if times in members:
        labels = _labels(text(times), n, where=f"{where}: {times}")
        if part == "test":
            notes["labels"] = "test_times.csv, not the owner's"
    elif part == "template_session":
        raise SignalError(f"{where}: no {times!r} in it; is the data set complete?")
    session = "template" if part == "template_session" else "test"
    return Recording(
        sensors=tuple(SensorSpec(name) for name in names),
        rate_hz=25.0,
        values=values,
        valid=valid,
        labels=labels,
        subject=subject,
        session=f"{subject}-{exercise}-{session}",
        source=f"rehab_exercises/{subject}/{exercise}/{session}",
        notes=notes,
    )


def _labels(text: str, n: int, *, where: str) -> tuple[Region, ...]:
    """Return regions from lines that end in kind, start, end; indices count from 1, both ends belong to it."""
    labels = []
    for line in text.splitlines()[1:]:
        cells = re.split("[;,]", line.strip())
        if cells == [""]:
            continue
        try:
            kind, (first, last) = _KINDS[int(cells[-3])], (float(c) for c in cells[-2:])
            start, end = math.ceil(first) - 1, min(n, math.floor(last))
            labels.append(Region(start, end, f"exercise:{kind}"))
        except (ValueError, IndexError, KeyError, OverflowError, SignalError) as e:
            raise SignalError(f"{where}: {line!r:.80} is no line of execution type, start and end") from e
    return tuple(labels)
