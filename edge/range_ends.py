"""The end of a sensor's range, where the device does not report it: samples that heap up at the largest or smallest.

A sensor of few bits whose wearer stands dwells at the largest and the smallest value of a second, and one of sixteen
turns so slowly that several samples are equal there: neither is the end of a range. So samples at an end of a hop count

* where the channel has not reached further in the last minutes, or ended at the very same number in the hop before: a
  range ends at one value, and turns do not;
* if they came there moving, and far more of them stand there than one step inside (:mod:`kinedge.edge.resolution`);
* if they are more than a sway leaves there: over ``K`` steps it spends ``2 / (pi sqrt(K))`` of its time in the
  outermost (a sine does; what has peaks, less).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.hop_facts import FAR, HopFacts
from kinedge.edge.resolution import MORE_THAN_ONE, moving

__all__ = ["AT_END", "CLIPPED_FROM", "PILE", "RangeEnds", "at_ends"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

AT_END: Final = 0.95  # half as many again as a sine of this many steps has at an end: 1.5 * 2 / pi
CLIPPED_FROM: Final = 3  # samples of a hop at one extreme
PILE: Final = 3.0  # times what lies one step inside: a range that ends heaps up samples, a turn does not
_REACHED_S: Final = 120.0  # of memory of how far a channel has reached: a range may be set anew
_LEAST: Final = 0.3  # of a channel's scale: below, equal samples are resolution


class RangeEnds:
    """Watches for ends of ranges of channels whose usual ``scale`` (n_channels,) is known, sensor by sensor."""

    def __init__(self, groups: Sequence[slice], scale: F64, hop_s: float) -> None:
        self._groups = groups
        self._starts = [g.start for g in groups]
        self.least: F64 = _LEAST * scale
        self.share = np.float32(hop_s / _REACHED_S)
        self.keep = np.float32(1) - self.share

    @property
    def numbers(self) -> dict[str, float]:
        """What ``health.c`` must know of it."""
        kept = {"range_keep": float(self.keep), "range_share": float(self.share)}
        return {**kept, "clipped_from": CLIPPED_FROM, "at_end": AT_END, "pile": PILE}

    def initial(self, n_streams: int) -> F32:
        """Return how far channels have reached at first: (n_streams, 4, n_channels)."""
        reach = np.full((n_streams, 4, len(self.least)), FAR)
        reach[:, ::2] = -FAR
        return reach

    def step(
        self, values: F32, valid: Mask, facts: HopFacts, reach: F32, *, held: Mask | None = None
    ) -> tuple[F64, F32]:
        """Look at a hop.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels)
        facts
            Of the hop.
        reach : (n_streams, 4, n_channels)
            How far the channels had reached up and down, decaying towards where they are, and in the hop before.
        held : (n_streams, n_channels)
            Stands at one number (:mod:`kinedge.edge.held_axes`), which says nothing about its range.

        Returns
        -------
        share : (n_streams, n_sensors)
            The largest of a channel's samples that stand at an end of its range.
        reach
            How far they have reached now.
        """
        there = facts.n_valid > 0 if held is None else (facts.n_valid > 0) & ~held
        up, down = np.moveaxis(reach[:, :2] * self.keep + facts.level[:, None] * self.share, 1, 0)
        now = np.stack([np.maximum(up, facts.high), np.minimum(down, facts.low), facts.high, facts.low], axis=1)
        after = np.where(there[:, None], now, reach)
        return self._share(values, valid, facts, reach), after

    def _share(self, values: F32, valid: Mask, facts: HopFacts, reach: F32) -> F64:
        highest, lowest, last_high, last_low = np.moveaxis(reach, 1, 0)
        n_high = np.where((facts.high >= highest) | (facts.high == last_high), facts.n_high, np.float32(0))
        n_low = np.where((facts.low <= lowest) | (facts.low == last_low), facts.n_low, np.float32(0))
        told = facts.high > facts.low + self.least
        high, low = np.where(n_high >= CLIPPED_FROM, n_high - 1, 0), np.where(n_low >= CLIPPED_FROM, n_low - 1, 0)
        n = np.where(told, high + low, 0).astype(np.float64)
        for i, g in zip(*np.nonzero(np.maximum.reduceat(n, self._starts, axis=1)), strict=True):
            group = self._groups[g]
            found = at_ends(values[i], valid[i], facts, i, group, high=n_high[i], low=n_low[i])
            n[i, group] = np.where(told[i, group], found, 0)
        share: F64 = np.maximum.reduceat(n / np.maximum(facts.n_valid, 1).astype(np.float64), self._starts, axis=1)
        return np.minimum(share, 1.0)


def at_ends(values: F32, valid: Mask, facts: HopFacts, stream: int, group: slice, *, high: F32, low: F32) -> F64:
    """Return how many samples of each channel of a sensor stand at its ends, but for chance.

    Parameters
    ----------
    values, valid, facts, stream, group
        As for ``moving``.
    high, low : (n_channels,)
        How many samples stand at either end, of all channels; 0 where that is no end to be asked.
    """
    n = np.zeros(group.stop - group.start)
    known = moving(values, valid, facts, stream, group)
    if known is None:
        return n
    moved, resolution, _ = known
    for i, r in enumerate(resolution):
        if r == 0:
            continue
        c = group.start + i
        ends = facts.high[stream, c], facts.low[stream, c]
        chance = AT_END * float(facts.n_valid[stream, c]) / np.sqrt((float(ends[0]) - float(ends[1])) / r + 1)
        for end, there in zip(ends, (high[c], low[c]), strict=True):
            if there == 0:
                continue
            from_end = np.abs(values[:, c].astype(np.float64) - float(end))
            at_end = int((moved & (from_end == 0)).sum())
            beside = int((valid[:, c] & (from_end > 0) & (from_end <= MORE_THAN_ONE * r)).sum())
            n[i] += at_end - 1 if at_end >= max(chance, CLIPPED_FROM, PILE * beside) else 0
    return n
