"""Ticks of the grid from samples in slots, in numpy: on a sample, or on the line between its two neighbours.

``kinedge.edge.native.interpolate`` does the same in C for samples that are not averaged, with the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.grid_buffers import Buffers

__all__ = ["Tracks", "averaged", "interpolate", "track"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_GAP_FACTOR: Final = 1.5


@dataclass(frozen=True, eq=False)
class Tracks:
    """Samples of one sensor of some people: ``time`` (n_people, n_slots), the first ``n`` of each row used.

    ``flat`` are values, valid and saturated, (slots of all, n_channels); those of row ``i`` begin at ``base[i]``.
    """

    time: I64
    n: I64
    base: I64
    flat: tuple[F32, Mask, Mask]
    interval_ns: I64
    all_valid: bool
    any_saturated: bool


def track(buffers: Buffers, people: Rows) -> Tracks:
    """Return the samples of some people as they lie in their slots."""
    n = buffers.n[people]
    used = max(int(n.max(initial=0)), 1)
    return Tracks(
        time=buffers.time[people, :used],
        n=n,
        base=people * buffers.n_slots,
        flat=buffers.flat,
        all_valid=not (buffers.some_invalid and not buffers.valid[people, :used].all()),
        any_saturated=buffers.some_saturated and bool(buffers.saturated[people, :used].any()),
        interval_ns=buffers.interval[people],
    )


def averaged(buffers: Buffers, people: Rows, width: int) -> Tracks:
    """Average ``width`` consecutive samples of each person, stamped with their middle."""
    raw = track(buffers, people)
    used = max(raw.time.shape[1], width)
    values, valid, saturated = (a[people, :used] for a in (buffers.values, buffers.valid, buffers.saturated))
    time = buffers.time[people, :used]
    n = used - width + 1
    total, ok, sat = values[:, :n].copy(), valid[:, :n].copy(), saturated[:, :n].copy()
    longest = (raw.interval_ns * _GAP_FACTOR)[:, None]
    for i in range(1, width):  # a fixed order of summation: the same bits for any chunking
        total += values[:, i : i + n]
        ok &= valid[:, i : i + n]
        ok &= (time[:, i : i + n] - time[:, i - 1 : i - 1 + n] <= longest)[..., None]
        sat |= saturated[:, i : i + n]
    total *= np.float32(1 / width)
    middle = time[:, :n] + (time[:, width - 1 : width - 1 + n] - time[:, :n]) // 2
    c = buffers.n_channels
    return Tracks(
        time=middle,
        n=np.maximum(raw.n - width + 1, 0),
        base=np.arange(len(people)) * n,
        flat=(total.reshape(-1, c), ok.reshape(-1, c), sat.reshape(-1, c)),
        all_valid=bool(ok.all()),
        any_saturated=bool(sat.any()),
        interval_ns=raw.interval_ns,
    )


def interpolate(tracks: Tracks, first_ns: I64, period: int, n: int) -> tuple[F32, Mask, Mask]:
    """Return values, valid, saturated at ``n`` ticks of each person, from ``first_ns`` (n_people,) on."""
    n_people, n_slots = tracks.time.shape
    # the tick from which on a sample is in the past: counting them up gives the one before each tick
    reached = tracks.time - first_ns[:, None]
    reached += period - 1  # rounded up
    reached //= period
    np.clip(reached, 0, n, out=reached)
    reached[np.arange(n_slots) >= tracks.n[:, None]] = n
    reached += np.arange(n_people)[:, None] * (n + 1)
    counts = np.bincount(reached.ravel(), minlength=n_people * (n + 1))
    n_past = counts.reshape(n_people, n + 1)[:, :n].cumsum(axis=1)
    inside, followed = n_past > 0, n_past < tracks.n[:, None]
    before = np.maximum(n_past - 1, 0)
    followed &= inside
    behind = before + followed
    row = np.arange(n_people)[:, None] * n_slots
    time_before = tracks.time.take(before + row)
    step = tracks.time.take(behind + row)
    step -= time_before
    offset = (first_ns[:, None] + np.arange(n) * period) - time_before
    on_sample = offset == 0
    on_sample &= inside
    usable = offset < step
    usable &= step <= tracks.interval_ns[:, None] * _GAP_FACTOR
    usable &= followed
    usable |= on_sample
    weight = np.zeros(offset.shape)
    np.divide(offset, step, out=weight, where=usable & ~on_sample)  # the step of what is bridged is positive
    before += tracks.base[:, None]
    behind += tracks.base[:, None]
    all_values, all_valid, all_saturated = tracks.flat
    values, change = all_values.take(before, axis=0), all_values.take(behind, axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        change -= values  # not finite where either is not
        change *= weight.astype(np.float32)[..., None]
    valid = np.empty(values.shape, bool)
    valid[:] = usable[..., None]
    if not (tracks.all_valid and np.isfinite(change).all()):
        alone = on_sample[..., None]
        valid &= all_valid.take(before, axis=0) & np.isfinite(values)
        valid &= (all_valid.take(behind, axis=0) & np.isfinite(all_values.take(behind, axis=0))) | alone
        np.copyto(change, 0, where=alone)  # what follows may be infinite
    values += change
    if not valid.all():
        np.copyto(values, 0, where=~valid)
    saturated = np.zeros(values.shape, bool)
    if tracks.any_saturated:
        saturated |= all_saturated.take(behind, axis=0)
        saturated &= ~on_sample[..., None]
        saturated |= all_saturated.take(before, axis=0)
        saturated &= usable[..., None]
    return values, valid, saturated
