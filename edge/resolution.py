"""What equal samples mean, by how finely a sensor resolves what it measures.

A sensor of ten bits whose wearer stands gives the same number again and again, and dwells at the largest and the
smallest of a second: neither is a stuck buffer nor the end of a range. How fine a channel is, is seen in the samples of
a hop: the smallest difference between any two that are not equal. From that follows what equal ones say.
Of a sensor all of whose channels have few steps, only samples that moved by more than one of them can be asked; and

* a sway over ``K`` steps spends ``2 / (pi sqrt(K))`` of its time in the outermost (a sine does; what has peaks, less):
  so many samples at an extreme are no sign of anything, nor are those that are not far more than one step inside;
* of the samples that moved, a share of ``r / (2 sigma sqrt(pi))`` for each channel and other sample stood there before
  by chance, where they are Gaussian.

A fine sensor has none of either by chance: nothing changes for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.hop_facts import HopFacts

__all__ = [
    "AGAIN_FROM",
    "AT_END",
    "CLIPPED_FROM",
    "ENOUGH",
    "FEW",
    "MORE_THAN_ONE",
    "OTHERS",
    "PILE",
    "again_while_moving",
    "at_ends",
    "finest",
    "moving",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

AT_END: Final = 0.95  # half as many again as a sine of this many steps has at an end: 1.5 * 2 / pi
OTHERS: Final = 3.54  # 2 sqrt(pi)
CLIPPED_FROM: Final = 3  # samples of a hop at one extreme
PILE: Final = 3.0  # times what lies one step inside: a range that ends heaps up samples, a turn does not
AGAIN_FROM: Final = 0.05  # share of a block's samples that stood there before: less is not looked into
FEW: Final = 16.0  # steps of the resolution, for each sample of a hop: a fine channel has more between two of them
MORE_THAN_ONE: Final = 1.5  # steps, from sample to sample
ENOUGH: Final = 5  # of so many samples one must move


def finest(values: F32, valid: Mask) -> float:
    """Return the smallest difference between samples of one channel (n,) that are not equal; 0 where all are."""
    apart = np.diff(np.sort(values[valid]).astype(np.float64))
    apart = apart[apart > 0]
    return float(apart.min()) if len(apart) else 0.0


def moving(values: F32, valid: Mask, facts: HopFacts, stream: int, group: slice) -> tuple[Mask, F64] | None:
    """Return which samples of a coarse sensor moved, and how fine its channels are.

    Parameters
    ----------
    values, valid : (hop, n_channels)
        Of all channels of a stream.
    facts, stream, group
        Of the hop, and whose channels.

    Returns
    -------
    moved : (hop,)
        By more than one step of the resolution since the sample before, in any channel.
    resolution : (n_channels of the sensor,)
        0 where a channel has one value alone.

    None where the sensor is fine, or flat.
    """
    channels = range(group.start, group.stop)
    found = np.array([finest(values[:, c], valid[:, c]) for c in channels])
    if not found.any():
        return None
    moved = np.zeros(len(values), bool)
    for c, r in zip(channels, found, strict=True):
        if r == 0:
            continue
        if float(facts.high[stream, c]) - float(facts.low[stream, c]) > FEW * len(values) * r:
            return None
        moved[1:] |= np.abs(np.diff(values[:, c].astype(np.float64))) > MORE_THAN_ONE * r
    there: Mask = np.asarray(valid[:, group].all(axis=1))
    moved &= there
    moved[1:] &= there[:-1]
    return moved, found


def at_ends(values: F32, valid: Mask, facts: HopFacts, stream: int, group: slice) -> F64 | None:
    """Return how many samples of each channel of a coarse sensor stand at its ends, but for chance; None: it is fine.

    Parameters
    ----------
    values, valid, facts, stream, group
        As for ``moving``.
    """
    known = moving(values, valid, facts, stream, group)
    if known is None:
        return None
    moved, resolution = known
    n = np.zeros(len(resolution))
    for i, r in enumerate(resolution):
        if r == 0:
            continue
        c = group.start + i
        low, high = facts.low[stream, c], facts.high[stream, c]
        chance = AT_END * float(facts.n_valid[stream, c]) / np.sqrt((float(high) - float(low)) / r + 1)
        for end in (high, low):
            from_end = np.abs(values[:, c].astype(np.float64) - float(end))
            at_end = int((moved & (from_end == 0)).sum())
            beside = int((valid[:, c] & (from_end > 0) & (from_end <= MORE_THAN_ONE * r)).sum())
            n[i] += at_end - 1 if at_end >= max(chance, CLIPPED_FROM, PILE * beside) else 0
    return n


def again_while_moving(
    values: F32, valid: Mask, marks: NDArray[np.uint64], facts: HopFacts, stream: int, group: slice
) -> float | None:
    """Return the share of a coarse sensor's moving samples that stood in the block before, but for chance.

    Parameters
    ----------
    values, valid, facts, stream, group
        As for ``moving``.
    marks : (block,)
        Of the sensor's samples, 0 where missing: equal ones have equal marks. The hop is the last of them.

    Returns
    -------
    share
        0 where too little moves to tell, None where the sensor is fine, or flat.
    """
    known = moving(values, valid, facts, stream, group)
    if known is None:
        return None
    moved, resolution = known
    others, hop = 1.0, len(values)
    for i, r in enumerate(resolution):
        if r > 0:
            n_valid = max(float(facts.n_valid[stream, group.start + i]), 1.0)
            wide = np.sqrt(float(facts.power[stream, group.start + i]) / n_valid)
            others *= r / max(OTHERS * wide, r)
    _, first, which = np.unique(marks, return_index=True, return_inverse=True)
    again = (first[which] < np.arange(len(marks)))[len(marks) - hop :]
    n_moved = int(moved.sum())
    if ENOUGH * n_moved < hop:
        return 0.0
    share, chance = int((again & moved).sum()) / n_moved, int((marks != 0).sum()) * others
    return (share - chance if share > chance else 0.0) / (1 - chance) if chance < 1 else 0.0
