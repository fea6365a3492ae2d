"""What equal samples mean, by how finely a sensor resolves what it measures.

A sensor of ten bits whose wearer stands gives the same number again and again, and dwells at the largest and the
smallest of a second: neither is a stuck buffer nor the end of a range. How fine a channel is, is seen in the samples of
a hop: the smallest difference between any two that are not equal. From that follows what equal ones say.
Of a sensor all of whose channels have few steps, only samples that moved by more than one of them can be asked; and

* a sway over ``K`` steps spends ``2 / (pi sqrt(K))`` of its time in the outermost (a sine does; what has peaks, less):
  so many samples at an extreme are no sign of anything, nor are those that are not far more than one step inside;
* whoever hardly moves, or clips, comes by the same few numbers again and again, but not in the same order: of a buffer
  that is given again, three and more moving samples on end stood in the block before as they stand now.

A fine sensor has none of either by chance: nothing changes for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kinedge.edge.hop_facts import HopFacts

__all__ = [
    "AGAIN_FROM",
    "AT_END",
    "CLIPPED_FROM",
    "ENOUGH",
    "FEW",
    "IN_ORDER",
    "MORE_THAN_ONE",
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
CLIPPED_FROM: Final = 3  # samples of a hop at one extreme
PILE: Final = 3.0  # times what lies one step inside: a range that ends heaps up samples, a turn does not
AGAIN_FROM: Final = 0.05  # share of a block's samples that stood there before: less is not looked into
FEW: Final = 16.0  # steps of the resolution, for each sample of a hop: a fine channel has more between two of them
MORE_THAN_ONE: Final = 1.5  # steps, from sample to sample
ENOUGH: Final = 5  # of so many samples one must move
IN_ORDER: Final = 3  # moving samples on end


def finest(values: F32, valid: Mask) -> float:
    """Return the smallest difference between samples of one channel (n,) that are not equal; 0 where all are.

    The largest and the smallest are asked only where there are no two others: a range ends at no multiple of a step.
    """
    in_order = np.sort(values[valid])
    inside = in_order[(in_order > in_order[:1]) & (in_order < in_order[-1:])]
    for some in (inside, in_order):
        apart = np.diff(some.astype(np.float64))
        apart = apart[apart > 0]
        if len(apart):
            return float(apart.min())
    return 0.0


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
    """Return the share of a coarse sensor's moving samples that stood in the block before, in the order they stand now.

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
    moved, _ = known
    hop, n_moved = len(values), int(moved.sum())
    if ENOUGH * n_moved < hop or hop < IN_ORDER:
        return 0.0
    # one row for each distance at which the hop may stand again: before the block there is nothing, which equals none
    earlier = sliding_window_view(np.concatenate([np.zeros(hop, np.uint64), marks[:-1]]), hop)[1:]
    again = (earlier == marks[-hop:]) & moved
    begins: Mask = np.logical_or.reduce(sliding_window_view(again, IN_ORDER, axis=1).all(axis=2), axis=0)
    stood: Mask = np.zeros(hop, bool)
    for k in range(IN_ORDER):
        stood[k : k + len(begins)] |= begins
    return int(stood.sum()) / n_moved
