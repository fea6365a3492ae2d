"""What the samples of a hop say by themselves, before any model: looked at once, for all who ask.

Sensor health and block scores need the same things of every hop: extremes, means, power, steps. They are taken here in
one go, a few streams at a time, so that a stream's samples are read from memory once and then from the cache. Sums run
over time, sample after sample, so that no bit hangs on who else is in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge import native
from kinedge.edge.engine import STREAMS_IN_CACHE

__all__ = ["FAR", "HopFacts", "look_at", "named"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

FAR: Final = np.finfo(np.float32).max  # beyond every sample, and finite: a state can be kept and checked
_BYTE: Final = 255


@dataclass(frozen=True, eq=False)
class HopFacts:
    """Facts about one hop; all (n_streams, n_channels), of the samples that are there.

    Parameters
    ----------
    n_valid, n_saturated
        Samples that are there, and that are marked as saturated.
    level, power
        Mean, and sum of the squared differences from it.
    low, high
        Extremes; ``FAR`` and ``-FAR`` where nothing is there.
    n_low, n_high
        Samples at the extremes.
    step2, n_steps
        Sum of the squared steps from sample to sample, and how many there are.
    shared
        For each pair of sensors that was asked for, (n_streams, n_channels of one): sums of the products of both
        sensors' differences from their levels.
    whole, together
        The memory of all but ``shared``, (10, n_streams, n_channels), in this order, and that of ``shared``, one pair
        beside the other.
    """

    n_valid: F32
    n_saturated: F32
    level: F32
    power: F32
    low: F32
    high: F32
    n_low: F32
    n_high: F32
    step2: F32
    n_steps: F32
    shared: tuple[F32, ...]
    whole: F32
    together: F32

    def exchanged(self, rows: NDArray[np.intp], there: NDArray[np.intp], back: NDArray[np.intp]) -> HopFacts:
        """Return the facts with channels ``there`` of some streams taken from ``back``; without those of pairs."""
        out, at = self.whole.copy(), rows[:, None]
        out[:, at, there] = self.whole[:, at, back]
        return named(out, self.together[:, :0], ())


def look_at(
    values: F32, valid: Mask, saturated: Mask | None = None, *, pairs: Sequence[tuple[slice, slice]] = ()
) -> HopFacts:
    """Look at one hop of all streams.

    Parameters
    ----------
    values, valid, saturated : (n_streams, hop, n_channels)
        SI units; values mean nothing where not ``valid``. Nothing is saturated when None.
    pairs
        Columns of two sensors with the same channels, whose products are asked for.
    """
    n_streams, _, n_channels = values.shape
    out = np.empty((10, n_streams, n_channels), np.float32)
    widths = [a.stop - a.start for a, _ in pairs]
    together = np.empty((n_streams, sum(widths)), np.float32)
    shared = tuple(np.split(together, np.cumsum(widths)[:-1], axis=1)) if pairs else ()
    if native.look_at(values, valid, saturated, pairs, out, together):
        return named(out, together, shared)
    for start in range(0, n_streams, STREAMS_IN_CACHE):
        rows = slice(start, start + STREAMS_IN_CACHE)
        _look(values[rows], valid[rows], out[:, rows], pairs, [s[rows] for s in shared])
    out[1] = saturated.sum(axis=1, dtype=np.int32) if saturated is not None and saturated.any() else 0
    return named(out, together, shared)


def named(out: F32, together: F32, shared: tuple[F32, ...]) -> HopFacts:
    """Return the facts that lie in an array in their order; see ``HopFacts``."""
    n_valid, n_saturated, level, power, low, high, n_low, n_high, step2, n_steps = out
    return HopFacts(n_valid, n_saturated, level, power, low, high, n_low, n_high, step2, n_steps, shared, out, together)


def _look(values: F32, valid: Mask, out: F32, pairs: Sequence[tuple[slice, slice]], shared: list[F32]) -> None:
    n_valid, _, level, power, low, high, n_low, n_high, step2, n_steps = out
    hop = values.shape[1]
    # time first: what is taken over the samples of a hop then runs along memory
    x = np.array(values.transpose(1, 0, 2), np.float32, order="C")  # a copy, also of one stream: it is written to
    if valid.all():
        counted = None
        n_valid[:], n_steps[:] = hop, hop - 1
        _extreme(np.minimum, x, low, n_low)
        _extreme(np.maximum, x, high, n_high)
    else:
        there = np.ascontiguousarray(valid.transpose(1, 0, 2))
        gone, counted = ~there, there.astype(np.float32)
        np.copyto(x, FAR, where=gone)
        _extreme(np.minimum, x, low, n_low)
        np.copyto(x, -FAR, where=gone)
        _extreme(np.maximum, x, high, n_high)
        np.copyto(x, 0, where=gone)
        np.add.reduce(counted, axis=0, out=n_valid)
    steps = x[1:] - x[:-1]
    if counted is not None:
        both = counted[1:] * counted[:-1]
        np.add.reduce(both, axis=0, out=n_steps)
        steps *= both
    steps *= steps
    np.add.reduce(steps, axis=0, out=step2)
    np.add.reduce(x, axis=0, out=level)
    level /= np.maximum(n_valid, 1)
    x -= level
    if counted is not None:
        x *= counted
    for (a, b), products in zip(pairs, shared, strict=True):
        np.add.reduce(x[..., a] * x[..., b], axis=0, out=products)
    x *= x
    np.add.reduce(x, axis=0, out=power)


def _extreme(of: np.ufunc, x: F32, extreme: F32, n: F32) -> None:
    of.reduce(x, axis=0, out=extreme)
    at = (x == extreme).view(np.uint8)
    # bytes are added up four times faster than wider numbers, as long as they cannot overflow
    n[:] = np.add.reduce(at, axis=0, dtype=np.uint8 if len(x) <= _BYTE else np.int32)
