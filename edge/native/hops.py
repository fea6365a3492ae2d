"""Typed functions of ``hops.c``: ticks from samples in slots, and facts of a hop. Each tells whether it did it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.loader import library

__all__ = ["drop_before", "interpolate", "look_at"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_P: Final = ctypes.c_void_p
_N: Final = ctypes.c_int64
_SIGNATURES: Final[dict[str, list[Any]]] = {
    "kinedge_interpolate": [*[_P] * 6, _N, _N, _N, _P, _P, _N, _N, _N, _P, _P, _P, _N, _N],
    "kinedge_drop_before": [*[_P] * 5, _N, _N, _N, _P, _P, _P, _N, _P],
    "kinedge_facts": [_P, _P, _P, _N, _N, _N, _P, _N, _N, _P, _P, _P],
}


@cache
def _functions() -> tuple[Any, ...]:
    loaded = library()
    found = []
    for name, signature in _SIGNATURES.items():
        function = None if loaded is None else getattr(loaded, name)
        if function is not None:
            function.argtypes, function.restype = signature, ctypes.c_int32
        found.append(function)
    return tuple(found)


def interpolate(
    time: I64,
    n: I64,
    interval: I64,
    values: F32,
    valid: Mask | None,
    saturated: Mask | None,
    rows: NDArray[np.intp],
    first_ns: I64,
    period_ns: int,
    *,
    column: int,
    out: tuple[F32, Mask, Mask],
) -> bool:
    """Put the ticks of some people on the grid; False where numpy must.

    Parameters
    ----------
    time, values, valid, saturated
        (n_people, n_slots) and (n_people, n_slots, n_channels): the slots of one sensor of everybody; None where all
        are valid and none saturated.
    n, interval : (n_people,) int64
        Slots that are used, and nominal sample interval, ns.
    rows, first_ns : (n_rows,)
        Whose, and the first tick, ns.
    column
        Of ``out``, from which the sensor's channels are written.
    out
        Values, valid and saturated, (n_rows, n_ticks, n_channels of all sensors).
    """
    function = _functions()[0]
    n_people, n_slots, n_channels = values.shape
    shape = out[0].shape
    if function is None or not (is_plain(rows, np.int64, shape[:1]) and is_plain(first_ns, np.int64, shape[:1])):
        return False
    done = function(
        *map(address, (time, n, interval, values, valid, saturated)),
        n_people,
        n_slots,
        n_channels,
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
    time: I64,
    n: I64,
    values: F32,
    valid: Mask | None,
    saturated: Mask | None,
    rows: NDArray[np.intp],
    time_ns: I64,
    kept: I64,
) -> I64 | None:
    """Forget what no tick at or after ``time_ns`` needs, but ``kept`` samples more, and move the rest up.

    Returns
    -------
    (n_rows,) int64
        How many samples were forgotten; None where numpy must do it.
    """
    function = _functions()[1]
    if function is None or not all(is_plain(a, np.int64, rows.shape) for a in (rows, time_ns, kept)):
        return None
    gone = np.empty(len(rows), np.int64)
    done = function(
        *map(address, (time, n, values, valid, saturated)),
        *values.shape,
        address(rows),
        address(time_ns),
        address(kept),
        len(rows),
        address(gone),
    )
    return gone if done == 0 else None


def look_at(
    values: F32, valid: Mask, saturated: Mask | None, pairs: Sequence[tuple[slice, slice]], out: F32, shared: F32
) -> bool:
    """Write the facts of a hop, ``out`` (10, n_streams, n_channels) and ``shared``; False where numpy must."""
    function = _functions()[2]
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
