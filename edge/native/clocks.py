"""Typed functions of ``clocks.c``: what bounds the errors of clock maps."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address
from kinedge.edge.native.loader import typed
from kinedge.firmware_bridge.clock_table import ClockTable

__all__ = ["clock_bounds"]

F64 = NDArray[np.float64]
Rows = NDArray[np.intp]

_P: Final = ctypes.c_void_p
_N: Final = ctypes.c_int64


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed({"kinedge_clock_bounds": [*[_P] * 4, _N, _P, _N, _P]})


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
    done = functions[0](*_of_table(table), address(rows), len(rows), address(bounds))
    return bounds if done == 0 else None
