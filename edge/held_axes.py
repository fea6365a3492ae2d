"""Axes that stand at one number while their sensor moves: a broken element, a driver that reads one register.

What moves in space shows it on every axis, and what rests shows noise: a quarter of a second of equal samples on one
axis, while another of the same quantity moves, comes of the sensor, if it is fine enough. Whether it is, is told by its
past, as the grid lies between coarse samples and hides their steps: of a coarse axis, or one whose noise is less than a
step, several samples on end are equal whenever it moves slowly, now and then in a hop, which is remembered for some
seconds. Once told, it holds until the axis moves, also while the wearer rests. An axis that has not moved from the
first on is not told: it may be a coarse one of a limb that turns in one plane.

That axis alone is kept from the model, which learned to be without one. Where more than one of a sensor is held, where
the model is shown the sensor turned, so that an axis is in three, or where it has not learned that, all of it is.

Two things look alike and are none of it: the end of a range, which is the outermost a channel has reached, where a held
axis seldom stands (a sensor that clips is told by that); and a magnetometer, read more slowly than it is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.hop_facts import HopFacts
from kinedge.edge.sensor_health import FINE, MOST_BITS, HealthState, channels_of
from kinedge.signals import LEAST_SCALE, Quantity

__all__ = ["HeldAxes"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SHARE: Final = 4  # a run is as long as a hop divided by this
_LEAST: Final = 8  # samples of a run, at least
_SHORT: Final = 5  # samples on end that are equal now and then where an axis is coarse
_COARSE_S: Final = 5.0  # of memory of that
_FINE_BELOW: Final = 0.1  # of what is remembered: 1 at first, and of an axis of which each hop has such samples
_MOVES: Final = 0.1  # of a channel's scale, from its smallest to its largest
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
    hop_s
        Seconds.
    alone
        Whether the model has learned to be without one channel of a sensor.
    """

    def __init__(
        self,
        groups: Sequence[slice],
        scale: F64,
        quantities: Sequence[Quantity],
        hop: int,
        hop_s: float,
        *,
        alone: bool,
    ) -> None:
        self._alone = alone
        self._starts = [g.start for g in groups]
        self._widths = np.array([g.stop - g.start for g in groups], np.int64)
        least = np.array([LEAST_SCALE[q] for q in quantities])
        place = np.concatenate([np.arange(width) for width in self._widths])
        self.watched: Mask = (scale > _MORE * least) & np.array([q is not Quantity.MAG for q in quantities])
        self.watched &= place < MOST_BITS
        self._bit: F64 = 2.0**place
        self.least = max(hop // _SHARE, _LEAST)
        self.moves: F64 = _MOVES * scale
        self.at_rest: F64 = np.where([q is Quantity.GYR for q in quantities], self.moves, 0.0)
        self.keep = float(np.exp(-hop_s / _COARSE_S))
        sensor, of = np.repeat(np.arange(len(groups)), self._widths), np.array(quantities, np.int64)
        self._quantities = of
        alike = (sensor[:, None] == sensor) & (of[:, None] == of) & ~np.eye(len(of), dtype=bool)
        self._others = alike.astype(np.int64)

    @property
    def numbers(self) -> dict[str, float]:
        """What ``health.c`` must know of it."""
        return {
            "held_from": self.least,
            "shortest": _SHORT,
            "held_alone": self._alone,
            "coarse_keep": self.keep,
            "fine_axis": _FINE_BELOW,
        }

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The same of each channel."""
        return {
            "watched": self.watched,
            "moves_by": self.moves,
            "at_rest": self.at_rest,
            "quantity": self._quantities,
        }

    def step(
        self, values: F32, valid: Mask, facts: HopFacts, state: HealthState, *, turned: Mask | None = None
    ) -> tuple[F64, F64, F64, Mask]:
        """Look at a hop.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels)
        facts
            Of the hop.
        state
            Before the hop; not changed.
        turned : (n_streams, n_sensors)
            Whose samples the model is shown otherwise than they are here.

        Returns
        -------
        axes : (n_streams, n_sensors)
            Which of the sensor's channels are held, as ``SensorHealth.held`` has it.
        held_after, coarse
            ``held`` and ``coarse`` of the state after it: as they were, where nothing was heard.
        held : (n_streams, n_channels)
            All that are.
        """
        hop = values.shape[1]
        before, coarse, reach = state.held, state.coarse, state.reach
        heard, stands = facts.n_valid > 0, facts.high == facts.low
        # once held it is until it moves, also while the others rest
        was = channels_of(before, self._widths)
        held = was & stands  # what was not heard does not stand: its highest is below its lowest
        same = (values[:, 1:] == values[:, :-1]) & valid[:, 1:] & valid[:, :-1]
        short = now_and_then = np.zeros(heard.shape, bool)
        if hop >= _SHORT:
            runs = np.logical_and.reduce([same[:, k : hop - _SHORT + k + 1] for k in range(_SHORT - 1)])
            short = runs.any(axis=1)
            # one that goes on to the end of the hop may be the first of what is held
            tail = np.logical_and.accumulate(same[:, ::-1], axis=1).sum(axis=1)
            before_it = np.arange(runs.shape[1])[:, None] < (hop - 1 - tail)[:, None]
            now_and_then = (runs & before_it).any(axis=1) & ~stands
        asked = short & self.watched & (coarse < _FINE_BELOW) & np.repeat(state.clipped < FINE, self._widths, axis=1)
        for i, c in zip(*np.nonzero(asked & ~held), strict=True):
            run = self._run(same[i, :, c], facts, reach, values, i, c)
            held[i, c] = run is not None and self._others_move(values[i, run], valid[i, run], c)
        span = np.where(heard, facts.high.astype(np.float64) - facts.low.astype(np.float64), 0.0)
        others_move = (span >= self.moves).astype(np.int64) @ self._others > 0
        settled = heard & ~held & (~stands | others_move)
        faded = self.keep * coarse
        after = np.where(settled, np.where(now_and_then, faded + (1 - self.keep), faded), coarse)
        return self._whole(self._bits(held), turned), self._bits(held | (was & ~heard)), after, held

    def _bits(self, held: Mask) -> F64:
        return np.add.reduceat(held * self._bit, self._starts, axis=1)

    def _whole(self, bits: F64, turned: Mask | None) -> F64:
        """Return the bits, negative where no single axis can be kept from the model."""
        if not self._alone:
            return -bits
        several = (bits.astype(np.int64) & (bits.astype(np.int64) - 1)) != 0
        return np.where(several if turned is None else several | turned, -bits, bits)

    def _others_move(self, values: F32, valid: Mask, c: int) -> bool:
        """Whether another channel of the sensor that measures the same moves in these samples."""
        for other in np.flatnonzero(self._others[c]):
            x = values[valid[:, other], other].astype(np.float64)
            if len(x) and x.max() - x.min() >= self.moves[other]:
                return True
        return False

    def _run(self, same: Mask, facts: HopFacts, reach: F32, values: F32, stream: int, c: int) -> slice | None:
        """Return the longest run of equal samples; None where it is short, or stands at the end of a range."""
        padded = np.r_[False, same, False]
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        begins, ends = edges[::2], edges[1::2]
        longest = int(np.argmax(ends - begins))
        begin, end = int(begins[longest]), int(ends[longest])
        if end - begin + 1 < self.least:
            return None
        value, high, low = values[stream, begin, c], facts.high[stream, c], facts.low[stream, c]
        low, high = (low, high) if high > low else (reach[stream, 1, c], reach[stream, 0, c])
        told = low < value < high and abs(float(value)) >= self.at_rest[c]
        return slice(begin, end + 1) if told else None
