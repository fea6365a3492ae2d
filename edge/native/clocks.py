"""Typed functions of ``clocks.c``: clock maps that arrivals move, host times of samples, and samples into slots."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.hops import Slots
from kinedge.edge.native.loader import typed
from kinedge.firmware_bridge.clock_table import SANE, ClockTable, Mappings

__all__ = ["clock_bounds", "host_times", "lay", "update_clocks"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_ABSURD: Final = -2
_P: Final = ctypes.c_void_p
_N: Final = ctypes.c_int64
_SIGNATURES: Final[dict[str, list[Any]]] = {
    "kinedge_clocks": [*[_P] * 4, _N, *[_P] * 3, _N, _N, *[_P] * 4],
    "kinedge_clock_bounds": [*[_P] * 4, _N, _P, _N, _P],
    "kinedge_host_times": [_P, _P, _N, *[_P] * 5],
    "kinedge_lay": [*[_P] * 4, *[_N] * 3, *[_P] * 9, _N, _P, _N, *[_P] * 3, _N, _P, _P],
}


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed(_SIGNATURES, wide=("kinedge_clocks", "kinedge_lay"))


def update_clocks(
    table: ClockTable, rows: Rows, device_ns: I64, host_ns: I64, alone: Callable[[int, int, int], None]
) -> Mappings | None:
    """Do what ``table.update`` does, in C where that is there; None, with nothing done, where a time is absurd."""
    functions, n = _functions(), len(rows)
    if functions is None:
        if max(np.abs(host_ns).max(), np.abs(device_ns).max()) >= SANE:
            return None
        return table.update(rows, device_ns, host_ns, alone)
    found = Mappings(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n), np.empty(n))
    into = *_of_table(table), *map(address, (rows, device_ns, host_ns))
    to = tuple(map(address, found))
    done = 0
    while done < n:
        done = functions[0](*into, done, n, *to)
        if done == _ABSURD:
            return None  # of the first look at all of them
        if done < 0:
            raise IndexError("an arrival of a clock that is not in the table")
        if done < n:  # something is unusual about this one
            row = int(rows[done])
            alone(row, int(device_ns[done]), int(host_ns[done]))
            for array, number in zip(found, table.mapping(row), strict=True):
                array[done] = number
            done += 1
    return found


def _of_table(table: ClockTable) -> tuple[Any, ...]:
    return *map(address, (table.ints, table.floats, table.at, table.residual)), len(table)


def clock_bounds(table: ClockTable, rows: Rows) -> F64 | None:
    """Return what bounds the errors of some clocks, those in rows that are not negative; None where each must be asked.

    Returns
    -------
    (2, n_rows)
        By how much each line may be early, and what the published time still has to move, ns; NaN where the clock must
        be asked.
    """
    functions, rows = _functions(), np.ascontiguousarray(rows, np.int64)
    if functions is None:
        return None
    bounds = np.empty((2, len(rows)))
    done = functions[1](*_of_table(table), address(rows), len(rows), address(bounds))
    return bounds if done == 0 else None


def host_times(device_ns: I64, lengths: I64, mappings: Mappings) -> I64 | None:
    """Map the samples of some chunks, one behind the other; None where numpy must do it."""
    functions = _functions()
    if functions is None:
        return None
    host_ns = np.empty(len(device_ns), np.int64)
    functions[2](address(device_ns), address(lengths), len(lengths), *map(address, mappings), address(host_ns))
    return host_ns


def lay(
    slots: Slots,
    people: Rows,
    lengths: I64,
    intervals: I64,
    starts: I64,
    host_ns: I64,
    new: tuple[F32, Mask | None, Mask | None],
) -> Mask | None:
    """Lay chunks in the slots of their people; see ``Buffers.lay``.

    Parameters
    ----------
    slots
        Of one sensor of everybody.
    people, lengths, intervals, starts : (n,)
        Of each chunk; ``starts`` in ``host_ns``.
    new
        Values, valid and saturated of the chunks, one behind the other; None where all are valid, none saturated, and
        so are all slots.

    Returns
    -------
    (n,) bool
        Which chunks were not laid: all of who has one that is not plain. None where numpy must do it.
    """
    functions = _functions()
    n_people, n_slots, n_channels = slots.shape
    n_samples = int(lengths.sum())
    if functions is None or not is_plain(new[0], np.float32, (n_samples, n_channels)):
        return None
    if not all(a is None or is_plain(a, np.bool_, (n_samples, n_channels)) for a in new[1:]):
        return None
    odd, memory = np.empty(len(people), bool), np.empty((3, n_people), np.int64)
    done = functions[3](
        slots.time,
        slots.values,
        None if new[1] is None else slots.valid,
        None if new[2] is None else slots.saturated,
        n_people,
        n_slots,
        n_channels,
        slots.n,
        slots.held,
        slots.last,
        slots.interval,
        slots.widths,
        *map(address, (people, lengths, intervals, starts)),
        len(people),
        address(host_ns),
        len(host_ns),
        *map(address, new),
        n_samples,
        *map(address, (memory, odd)),
    )
    return odd if done >= 0 else None
