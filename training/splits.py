"""Splits of recordings by subject: the only kind there is.

A person's windows resemble each other far more than another's. A split of windows or sessions measures memory, so
none can be asked for here: a :class:`Split` is made of whole subjects, and refuses to be built otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kinedge.errors import SignalError
from kinedge.recording import Recording

__all__ = ["Split", "k_fold", "leave_one_subject_out", "subjects_of"]


@dataclass(frozen=True, eq=False)
class Split:
    """Recordings to learn from and others to test on; nobody is in both.

    Raises
    ------
    SignalError
        A subject is on both sides, a side is empty, or a subject is unknown.
    """

    train: tuple[Recording, ...]
    test: tuple[Recording, ...]

    def __post_init__(self) -> None:
        subjects_of([*self.train, *self.test])
        both = {r.subject for r in self.train} & {r.subject for r in self.test}
        if both:
            raise SignalError(f"subject {', '.join(sorted(both))} is on both sides of a split")
        if not self.train or not self.test:
            raise SignalError("a split needs recordings on both sides")

    @property
    def test_subjects(self) -> tuple[str, ...]:
        """Who is tested on."""
        return subjects_of(self.test)


def subjects_of(recordings: Sequence[Recording]) -> tuple[str, ...]:
    """Return the subjects, numbers in them in order of size.

    Raises
    ------
    SignalError
        A recording does not say whose it is.
    """
    nameless = [r.source or r.session for r in recordings if r.subject in ("", "unknown")]
    if nameless:
        raise SignalError(f"{nameless[0]}: whose recording is this? a split is made by subject; give it one")
    return tuple(sorted({r.subject for r in recordings}, key=_natural))


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    return tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name))


def leave_one_subject_out(recordings: Sequence[Recording]) -> Iterator[Split]:
    """Yield one split for each subject, in order.

    Raises
    ------
    SignalError
        There are fewer than two subjects.
    """
    names = subjects_of(recordings)
    if len(names) < 2:
        raise SignalError(f"leaving one subject out needs at least two, got {len(names)}")
    for name in names:
        yield _split(recordings, {name})


def k_fold(recordings: Sequence[Recording], k: int, *, seed: int) -> Iterator[Split]:
    """Yield ``k`` splits; each subject is tested on once, and folds hold about equally many subjects.

    Raises
    ------
    SignalError
        ``k`` is below 2 or above the number of subjects.
    """
    names = subjects_of(recordings)
    if not 2 <= k <= len(names):
        raise SignalError(f"k must lie between 2 and the {len(names)} subjects, got {k}")
    order = np.random.default_rng(seed).permutation(len(names))
    for fold in np.array_split(order, k):
        yield _split(recordings, {names[i] for i in fold})


def _split(recordings: Sequence[Recording], tested: set[str]) -> Split:
    return Split(
        tuple(r for r in recordings if r.subject not in tested), tuple(r for r in recordings if r.subject in tested)
    )
