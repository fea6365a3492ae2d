"""Typed functions of ``timing.c``: whether a sensor moves later or earlier beside the others than it did."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import is_plain
from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import DOUBLE, INT64, POINTER, Record, structure

__all__ = ["NativeTiming"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STATE: Final = "level begun beats energy cross usual weight"
_Timing: Final = structure(
    "_Timing",
    (INT64, "n_streams n_rows hop n_channels n_sensors n_bins n_lags n_pairs least"),
    (DOUBLE, "follow keep keep_usual floor_energy learned untold"),
    (POINTER, f"edges columns pairs values valid rows {_STATE} late"),
)
_STATES: Final = _STATE.split()
_MOST_SENSORS: Final = 8


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed({"kinedge_timing_step": [POINTER]})


class NativeTiming:
    """The timing of one model in C.

    Parameters
    ----------
    numbers, arrays
        Sizes, factors and constants of the model, by their names in ``timing.c``.
    """

    def __init__(self, numbers: Mapping[str, float], **arrays: NDArray[Any]) -> None:
        self.record = Record(_Timing)
        self.record.set(numbers, **arrays)
        self._n_sensors = int(numbers["n_sensors"])
        self._shape = int(numbers["hop"]), int(numbers["n_channels"])
        self._fits = not numbers["n_pairs"] or self._n_sensors <= _MOST_SENSORS

    def tell(self, state: Any) -> bool:
        """Tell a state; False where C cannot do this model, or cannot write the state as it lies."""
        return self._fits and self.record.set_state(state, _STATES)

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return _functions() is not None

    def step(self, values: F32, valid: Mask, state: Any, rows: NDArray[np.intp]) -> F64 | None:
        """Take one hop, write what is remembered, and return ``late``; None where numpy must do it.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels)
        state
            A ``TimingState`` of all streams.
        rows : (n_streams,)
            Which of them these are.
        """
        functions, shape = _functions(), (len(rows), *self._shape)
        if functions is None or not (is_plain(values, np.float32, shape) and is_plain(valid, np.bool_, shape)):
            return None
        if not self.tell(state):
            return None
        late = np.empty((len(rows), self._n_sensors))
        self.record.set({"n_streams": len(rows)}, values=values, valid=valid, rows=rows, late=late)
        return late if functions[0](self.record.at) == 0 else None
