"""What equal samples mean, by how finely a sensor resolves what it measures.

A sensor of ten bits whose wearer stands gives the same number again and again, and dwells at the largest and the
smallest of a second: neither is a stuck buffer nor the end of a range (:mod:`kinedge.edge.range_ends`). How fine a
channel is, is seen in the samples of a hop: the smallest difference between any two that are not equal.

Of a sensor all of whose channels have few steps, only samples that moved by more than one of them can be asked whether
they stood there before. Whoever hardly moves, or clips, comes by the same few numbers again and again, but not in the
same order: of a buffer that is given again, three and more moving samples on end stood in the block before as they
stand now. A fine sensor gives no sample again by chance: nothing changes for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kinedge.edge.hop_facts import HopFacts

__all__ = [
    "AGAIN_FROM",
    "ENOUGH",
    "FEW",
    "IN_ORDER",
    "LIMITS",
    "MORE_THAN_ONE",
    "again_while_moving",
    "finest",
    "moving",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

AGAIN_FROM: Final = 0.05  # share of a block's samples that stood there before: less is not looked into
FEW: Final = 16.0  # steps of the resolution, for each sample of a hop: a fine channel has more between two of them
MORE_THAN_ONE: Final = 1.5  # steps, from sample to sample
ENOUGH: Final = 5  # of so many samples one must move
IN_ORDER: Final = 3  # moving samples on end
LIMITS: Final = {
    "again_from": AGAIN_FROM,
    "few": FEW,
    "more_than_one": MORE_THAN_ONE,
    "most_still": ENOUGH,
    "in_order": IN_ORDER,
}
"""The same by the names of ``health.c``."""


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


def moving(values: F32, valid: Mask, facts: HopFacts, stream: int, group: slice) -> tuple[Mask, F64, bool] | None:
    """Return which samples of a sensor moved, and how fine its channels are.

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
    fine
        A channel has many steps.

    None where the sensor is flat.
    """
    channels = range(group.start, group.stop)
    found = np.array([finest(values[:, c], valid[:, c]) for c in channels])
    if not found.any():
        return None
    moved, fine = np.zeros(len(values), bool), False
    for c, r in zip(channels, found, strict=True):
        if r == 0:
            continue
        fine |= float(facts.high[stream, c]) - float(facts.low[stream, c]) > FEW * len(values) * r
        moved[1:] |= np.abs(np.diff(values[:, c].astype(np.float64))) > MORE_THAN_ONE * r
    there: Mask = np.asarray(valid[:, group].all(axis=1))
    moved &= there
    moved[1:] &= there[:-1]
    return moved, found, fine


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
    if known is None or known[2]:
        return None
    moved, _, _ = known
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
