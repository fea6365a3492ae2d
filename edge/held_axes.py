"""Axes that stand at one number while their sensor moves: a broken element, a driver that reads one register.

What moves in space shows it on every axis, and what rests shows noise: a run of equal samples on one axis, while the
others of the same quantity go on by more than a step of their resolution, comes of the sensor. Once told, it holds
until the axis moves, also while the wearer rests. Of coarse sensors, whose slow axes stand for a moment, a run is a
whole hop.

Two things look alike and are none of it: the end of a range, which is the outermost a channel has reached, where a held
axis seldom stands (a sensor that clips is told by that); and a magnetometer, read more slowly than it is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.hop_facts import HopFacts
from kinedge.edge.resolution import FEW, MORE_THAN_ONE, finest
from kinedge.edge.sensor_health import FINE
from kinedge.signals import LEAST_SCALE, Quantity

__all__ = ["MOSTLY", "HeldAxes"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOSTLY: Final = 0.5  # of the run: the other axes move from sample to sample
_SHARE: Final = 4  # a run is as long as a hop divided by this
_LEAST: Final = 8  # samples; so many are not equal by chance
_MORE: Final = 1.01  # times the least scale: the cohort's channel moved


class HeldAxes:
    """Watches the axes of sensors whose usual ``scale`` (n_channels,) is known.

    Parameters
    ----------
    groups
        Columns of each sensor.
    scale, quantities
        Of each channel. One that never moved in the cohort, as a device fills in what it does not measure, is not
        watched.
    hop
        Samples.
    told : (n_channels,)
        How far a channel must have reached for it to be known that it moves.
    """

    def __init__(
        self, groups: Sequence[slice], scale: F64, quantities: Sequence[Quantity], hop: int, told: F64
    ) -> None:
        self._groups, self._told = groups, told
        self._starts = [g.start for g in groups]
        self._widths = [g.stop - g.start for g in groups]
        self._quantities = np.array(quantities)
        least = np.array([LEAST_SCALE[q] for q in quantities])
        self.watched: Mask = (scale > _MORE * least) & np.array([q is not Quantity.MAG for q in quantities])
        self.least = max(hop // _SHARE, _LEAST)
        # one step in so many is part of every run
        self._probes = np.arange(self.least - 2, hop - 1, self.least - 1)

    @property
    def numbers(self) -> dict[str, float]:
        """What ``health.c`` must know of it."""
        return {"held_from": self.least, "mostly": MOSTLY}

    def step(
        self, values: F32, valid: Mask, facts: HopFacts, reach: F32, clipped: F64, before: F64
    ) -> tuple[F64, F64, Mask]:
        """Look at a hop.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels)
        facts
            Of the hop.
        reach : (n_streams, 4, n_channels)
            Of :class:`~kinedge.edge.range_ends.RangeEnds`, before the hop.
        clipped : (n_streams, n_sensors)
            Share of samples at the end of a range of late.
        before : (n_streams, n_sensors)
            Which was held in the hop before.

        Returns
        -------
        axis : (n_streams, n_sensors)
            The first of the sensor's channels that is held, counted from 1; 0 where none is.
        after : (n_streams, n_sensors)
            ``before`` of the next hop: as it was, where nothing was heard.
        held : (n_streams, n_channels)
        """
        axis, held = np.zeros(before.shape), np.zeros(facts.n_valid.shape, bool)
        # once held it is until it moves, also while the others rest
        heard = np.ones(before.shape, bool)
        for i, g in zip(*np.nonzero(before), strict=True):
            c = self._starts[g] + int(before[i, g]) - 1
            heard[i, g] = facts.n_valid[i, c] > 0
            held[i, c] = heard[i, g] and facts.high[i, c] == facts.low[i, c]
        at, after = self._probes, self._probes + 1
        equal = (values[:, at] == values[:, after]) & valid[:, at] & valid[:, after]
        asked = equal.any(axis=1) & self.watched & np.repeat(clipped < FINE, self._widths, axis=1)
        for i, g in zip(*np.nonzero(np.logical_or.reduceat(asked, self._starts, axis=1)), strict=True):
            group = self._groups[g]
            columns = group.start + np.flatnonzero(asked[i, group])
            for c in columns:
                run = self._run(values[i], valid[i], facts, reach, i, c)
                held[i, c] |= run is not None and self._others_move(values[i], valid[i], facts, i, c, run, group)
        for g, group in enumerate(self._groups):
            axis[:, g] = np.where(held[:, group].any(axis=1), np.argmax(held[:, group], axis=1) + 1, 0)
        return axis, np.where(heard, axis, before), held

    def _others_move(
        self, values: F32, valid: Mask, facts: HopFacts, stream: int, c: int, run: slice, group: slice
    ) -> bool:
        """Whether the sensor's other channels of the same quantity go on during the run."""
        moved, fine = np.zeros(len(values), bool), False
        for other in range(group.start, group.stop):
            step = finest(values[:, other], valid[:, other]) if self._quantities[other] == self._quantities[c] else 0.0
            if other != c and step > 0:
                fine |= float(facts.high[stream, other]) - float(facts.low[stream, other]) > FEW * len(values) * step
                both = valid[1:, other] & valid[:-1, other]
                moved[1:] |= both & (np.abs(np.diff(values[:, other].astype(np.float64))) > MORE_THAN_ONE * step)
        n_steps = run.stop - run.start
        return (fine or n_steps == len(values) - 1) and bool(moved[run].sum() >= MOSTLY * n_steps)

    def _run(self, values: F32, valid: Mask, facts: HopFacts, reach: F32, stream: int, c: int) -> slice | None:
        """Return the steps within the longest run of equal samples; None where it is short, or the end of a range."""
        same = np.r_[False, (values[1:, c] == values[:-1, c]) & valid[1:, c] & valid[:-1, c], False]
        edges = np.flatnonzero(same[1:] != same[:-1])
        begins, ends = edges[::2], edges[1::2]
        if not len(begins):
            return None
        longest = int(np.argmax(ends - begins))
        begin, end = int(begins[longest]), int(ends[longest])
        if end - begin + 1 < self.least:
            return None
        value, high, low = values[begin, c], facts.high[stream, c], facts.low[stream, c]
        if high > low:
            inside = low < value < high
        else:
            highest, lowest, last_high, last_low = reach[stream, :, c]
            never_moved = last_high == value == last_low and float(highest) - float(lowest) < self._told[c]
            inside = lowest < value < highest or never_moved
        return slice(begin + 1, end + 1) if inside else None
