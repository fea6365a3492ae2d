"""Who, or which hours, train a model, stop its training, calibrate it and test it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from kinedge.errors import SignalError
from kinedge.recording import Recording

__all__ = ["Parts", "some_to_stop", "split_in_time", "split_subjects"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Recordings on the model's grid by what they were used for; ``cross`` trains on all and fills the first alone."""

    training: Sequence[Recording] = ()
    stopping: Sequence[Recording] = ()
    calibration: Sequence[Recording] = ()
    test: Sequence[Recording] = ()

    def items(self) -> list[tuple[str, Sequence[Recording]]]:
        """Return name and recordings of the parts that hold any."""
        return [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name)]


def split_subjects(
    recordings: Sequence[Recording], shares: Sequence[float], *, seed: int
) -> tuple[list[Recording], ...]:
    """Split by subject into the rest and one part per share.

    Raises
    ------
    SignalError
        There are too few subjects for every part to have one.
    """
    subjects = sorted({r.subject for r in recordings})
    counts = [max(1, round(s * len(subjects))) if s > 0 else 0 for s in shares]
    if sum(counts) >= len(subjects):
        raise SignalError(
            f"{len(subjects)} subjects cannot be split into training and {sum(c > 0 for c in counts)} other parts; "
            "record more people, or use split = 'cross'"
        )
    order = [subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))]
    edges = np.cumsum([0, *counts])
    parts = [set(order[a:b]) for a, b in itertools.pairwise(edges)]
    rest = set(order[edges[-1] :])
    return tuple([r for r in recordings if r.subject in part] for part in (rest, *parts))


def split_in_time(recordings: Sequence[Recording], shares: Sequence[float], *, gap: int) -> tuple[list[Recording], ...]:
    """Split one person's recordings, one behind the other, into the first part and one later part per share.

    Parameters
    ----------
    recordings
        In the order of time, on one grid.
    gap
        Samples left out behind each cut, so that no block of a part looks back into the one before.

    Raises
    ------
    SignalError
        A part would be empty.
    """
    lengths = [len(r) for r in recordings]
    starts = np.cumsum([0, *lengths])
    cuts = np.round(starts[-1] * np.cumsum([0, 1 - sum(shares), *shares])).astype(int)
    parts: list[list[Recording]] = []
    for k, (low, high) in enumerate(itertools.pairwise(cuts)):
        part = []
        for recording, at in zip(recordings, starts[:-1], strict=True):
            begin = low + gap if k and low > at else low  # a recording that begins here remembers nothing
            piece = recording.slice(int(begin - at), int(high - at)) if begin < high and high > at else None
            if piece is not None and len(piece):
                part.append(piece)
        if not part and high > low:
            raise SignalError(f"{starts[-1]} samples in all are too few for {len(cuts) - 1} parts; record longer")
        parts.append(part)
    return tuple(parts)


def some_to_stop(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Set every fourth recording aside to stop the training; with one recording, its last quarter."""
    if len(recordings) == 1:
        r = recordings[0]
        cut = len(r) * 3 // 4
        return [r.slice(0, cut)], [r.slice(cut, len(r))]
    held = {i for i in range(len(recordings)) if i % 4 == 3} or {len(recordings) - 1}
    return [r for i, r in enumerate(recordings) if i not in held], [r for i, r in enumerate(recordings) if i in held]
