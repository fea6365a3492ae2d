"""Samples that stood in the block before, bit for bit: one number for each sample, by which equal ones are found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinedge.edge import resolution
from kinedge.edge.hop_facts import HopFacts

__all__ = ["Marks"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
U64 = NDArray[np.uint64]


class Marks:
    """The marks of samples of sensors whose columns are ``groups``, hop after hop of ``hop`` samples."""

    def __init__(self, groups: Sequence[slice], hop: int) -> None:
        self._groups, self._hop = groups, hop
        self._starts = [g.start for g in groups]
        # odd factors by place within the sensor: copies of a sample get equal marks wherever they stand
        factors = np.random.default_rng(1).integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)
        self._mark_of = np.zeros((groups[-1].stop, len(groups)), np.uint64)
        for i, g in enumerate(groups):
            self._mark_of[g, i] = factors[np.arange(g.stop - g.start) % 64]

    @property
    def factors(self) -> U64:
        """What each channel's bits are multiplied by: (n_channels,)."""
        factors: U64 = self._mark_of.max(axis=1)
        return factors

    def push(self, values: F32, valid: Mask, before: U64) -> tuple[U64, NDArray[np.int64], NDArray[np.int64]]:
        """Return the marks after a hop, how many there are, and how many of them stood there before."""
        marks = np.concatenate([before[:, :, self._hop :], self._of(values, valid)], axis=2)
        in_order = np.sort(marks, axis=2)
        n_again = ((in_order[:, :, 1:] == in_order[:, :, :-1]) & (in_order[:, :, 1:] != 0)).sum(axis=2)
        return marks, (marks != 0).sum(axis=2), n_again

    def repeated(self, values: F32, valid: Mask, facts: HopFacts, marks: U64, share: F64) -> F64:
        """Return ``share`` (n, n_sensors), of samples that stood in the block before, but for chance."""
        for i, g in zip(*np.nonzero(share >= resolution.AGAIN_FROM), strict=True):
            of_moving = resolution.again_while_moving(values[i], valid[i], marks[i, g], facts, i, self._groups[g])
            share[i, g] = share[i, g] if of_moving is None else of_moving
        return share

    def _of(self, x: F32, valid: Mask) -> U64:
        marks = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64) @ self._mark_of
        marks |= np.uint64(1)  # 0 stands for missing
        gappy = np.flatnonzero(~valid.reshape(len(valid), -1).all(axis=1))
        if len(gappy):
            there = np.logical_and.reduceat(valid[gappy], self._starts, axis=2)
            marks[gappy] = np.where(there, marks[gappy], np.uint64(0))
        by_sensor: U64 = marks.transpose(0, 2, 1)
        return by_sensor
