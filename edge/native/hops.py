"""Typed functions of ``hops.c``: ticks from samples in slots, and facts of a hop. Each tells whether it did it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.loader import typed

__all__ = ["SlotTable", "Slots", "drop_before", "interpolate", "look_at", "ready"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_P: Final = ctypes.c_void_p
_N: Final = ctypes.c_int64
_SANE_NS: Final = 1 << 61
_SIGNATURES: Final[dict[str, list[Any]]] = {
    "kinedge_interpolate": [*[_P] * 6, _N, _N, _N, _P, _P, _N, _N, _N, _P, _P, _P, _N, _N],
    "kinedge_drop_before": [*[_P] * 6, _N, _N, _N, _P, _P, _P, _N],
    "kinedge_ready": [_P, _P, *[_N] * 10, _P],
    "kinedge_facts": [_P, _P, _P, _N, _N, _N, _P, _N, _N, _P, _P, _P],
}


@cache
def _functions() -> tuple[Any, ...]:
    return typed(_SIGNATURES, wide=("kinedge_ready",)) or (None,) * len(_SIGNATURES)


class Slots(NamedTuple):
    """Where the slots of one sensor of everybody lie, and their shape; true as long as the arrays are these.

    Parameters
    ----------
    time, n, held, last, interval, widths, values, valid, saturated
        As ``Buffers`` has them.
    shape
        Of ``values``: people, slots, channels.
    """

    time: int
    n: int
    held: int
    last: int
    interval: int
    widths: int
    values: int
    valid: int
    saturated: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, *arrays: NDArray[Any]) -> Slots:
        """Return where these lie, in the order of the fields."""
        time, n, held, last, interval, widths, values, valid, saturated = (address(a) or 0 for a in arrays)
        n_people, n_slots, n_channels = arrays[6].shape
        shape = n_people, n_slots, n_channels
        return cls(time, n, held, last, interval, widths, values, valid, saturated, shape)


_MARKS: Final = 11  # numbers of a sensor's slots before those that say whether some are invalid, or saturated


class SlotTable:
    """The slots of all sensors of a grid, as C has them: ``slots`` of ``kinedge_native.h``.

    Parameters
    ----------
    buffers
        ``Buffers`` of each sensor.
    """

    def __init__(self, buffers: Sequence[Any]) -> None:
        self._buffers = buffers
        self.numbers = np.zeros((len(buffers), _MARKS + 2), np.int64)
        self._told: list[Slots | None] = [None] * len(buffers)

    def tell(self) -> None:
        """Tell where they lie, where that has changed."""
        for k, buffers in enumerate(self._buffers):
            where = buffers.slots
            if where is not self._told[k]:
                self._told[k] = where
                self.numbers[k, :_MARKS] = *where[:-1], *where.shape[1:]

    def tell_marks(self) -> None:
        """Tell of each sensor whether some slots are invalid, or saturated."""
        for k, buffers in enumerate(self._buffers):
            self.numbers[k, _MARKS:] = buffers.some_invalid, buffers.some_saturated

    def take_marks(self) -> None:
        """Take over what C has seen of that."""
        for buffers, marks in zip(self._buffers, self.numbers[:, _MARKS:].tolist(), strict=True):
            buffers.some_invalid, buffers.some_saturated = bool(marks[0]), bool(marks[1])


def interpolate(
    slots: Slots,
    rows: NDArray[np.intp],
    first_ns: I64,
    period_ns: int,
    *,
    some_invalid: bool,
    some_saturated: bool,
    column: int,
    out: tuple[F32, Mask, Mask],
) -> bool:
    """Put the ticks of some people on the grid; False where numpy must.

    Parameters
    ----------
    slots
        Of one sensor of everybody.
    rows, first_ns : (n_rows,)
        Whose, and the first tick, ns.
    some_invalid, some_saturated
        False where all slots are valid, or none is saturated.
    column
        Of ``out``, from which the sensor's channels are written.
    out
        Values, valid and saturated, (n_rows, n_ticks, n_channels of all sensors).
    """
    function = _functions()[0]
    shape = out[0].shape
    if function is None or not (is_plain(rows, np.int64, shape[:1]) and is_plain(first_ns, np.int64, shape[:1])):
        return False
    done = function(
        slots.time,
        slots.n,
        slots.interval,
        slots.values,
        slots.valid if some_invalid else None,
        slots.saturated if some_saturated else None,
        *slots.shape,
        address(rows),
        address(first_ns),
        shape[0],
        period_ns,
        shape[1],
        *map(address, out),
        shape[2],
        column,
    )
    return bool(done == 0)


def drop_before(
    slots: Slots,
    rows: NDArray[np.intp],
    time_ns: I64,
    kept: I64,
    *,
    some_invalid: bool,
    some_saturated: bool,
) -> bool:
    """Forget what no tick at or after ``time_ns`` needs, but ``kept`` samples more, and move the rest up.

    False, with nothing done, where numpy must do it.
    """
    function = _functions()[1]
    if function is None or not all(is_plain(a, np.int64, rows.shape) for a in (rows, time_ns, kept)):
        return False
    done = function(
        slots.time,
        slots.n,
        slots.held,
        slots.values,
        slots.valid if some_invalid else None,
        slots.saturated if some_saturated else None,
        *slots.shape,
        address(rows),
        address(time_ns),
        address(kept),
        len(rows),
    )
    return bool(done == 0)


def ready(
    last: I64,
    next_tick: I64,
    *,
    period_ns: int,
    max_delay_ns: int,
    now_ns: int | None,
    flush: bool,
    hop: int,
    most: int,
    never: int,
) -> tuple[NDArray[np.intp], bool] | None:
    """Return whose hop is final, in order, and whether anybody's next one is, too.

    None where numpy must look: somebody begins, or leaps over a silence.

    Parameters
    ----------
    last : (n_people, n_sensors)
        Newest sample of each sensor, ns, ``never`` before the first.
    next_tick : (n_people,)
        The first that was not taken, ``never`` before the first.
    most
        Ticks that may be final and not taken.
    """
    function = _functions()[2]
    n_people, n_sensors = last.shape
    if function is None or not is_plain(last, np.int64, last.shape):
        return None
    if not is_plain(next_tick, np.int64, (n_people,)) or not (now_ns is None or abs(now_ns) < _SANE_NS):
        return None
    rows = np.empty(n_people + 1, np.int64)
    n = function(
        address(last),
        address(next_tick),
        n_people,
        n_sensors,
        period_ns,
        max_delay_ns,
        now_ns is not None,
        now_ns or 0,
        flush,
        hop,
        most,
        never,
        address(rows),
    )
    return (rows[:n], bool(rows[n_people])) if n >= 0 else None


def look_at(
    values: F32, valid: Mask, saturated: Mask | None, pairs: Sequence[tuple[slice, slice]], out: F32, shared: F32
) -> bool:
    """Write the facts of a hop, ``out`` (10, n_streams, n_channels) and ``shared``; False where numpy must."""
    function = _functions()[3]
    shape = values.shape
    _, hop, n_channels = shape
    if function is None or not (is_plain(values, np.float32, shape) and is_plain(valid, np.bool_, shape)):
        return False
    if not hop or (saturated is not None and not is_plain(saturated, np.bool_, shape)):
        return False
    columns = _columns(tuple((a.start, b.start, a.stop - a.start) for a, b in pairs))
    memory = np.empty((hop, n_channels), np.float32)
    done = function(
        *map(address, (values, valid, saturated)),
        *shape,
        address(columns),
        len(columns),
        shared.shape[1],
        *map(address, (memory, out, shared)),
    )
    return bool(done == 0)


@lru_cache(maxsize=16)
def _columns(pairs: tuple[tuple[int, int, int], ...]) -> I64:
    return np.array(pairs, np.int64).reshape(-1, 3)
