"""Typed functions of ``health.c``: how far the sensors of some streams can be trusted, hop by hop."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import DOUBLE, INT64, POINTER, Record, structure
from kinedge.edge.sensor_health import N_FOUND

__all__ = ["NativeHealth"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STATE: Final = (
    "marks clipped reach held coarse likeness n_still n_lone n_strange strength rested side side_weight belongs gravity"
    " usual_gravity last usual_weight unusual"
)
_Health: Final = structure(
    "_Health",
    (INT64, "n_streams n_rows hop n_channels n_sensors block n_alike n_pairs heard_from clipped_from most_still"),
    (INT64, "in_order held_from shortest held_alone"),
    (
        DOUBLE,
        "moves shakes clipped_keep range_keep range_share twin twin_equal fits side_keep known_from doubt belief hop_s",
    ),
    (DOUBLE, "still_share lone_share gravity_keep persist_low persist_high turned never_from usual_keep"),
    (DOUBLE, "persist_keep unusual_from unscored again_from at_end few more_than_one pile coarse_keep fine_axis"),
    (DOUBLE, "strength_keep strange_share quiet rest_low rest_high least_acc most_acc most_gyr hop_acc hop_gyr"),
    (DOUBLE, "slack times unknown clips few_at_end comparable_below"),
    (POINTER, "starts acc gyr quantity pairs factors still_limit inverse_unit weight range center unit widths"),
    (POINTER, "moves_by at_rest apart enough"),
    (POINTER, f"told_apart sides watched values valid facts given shared rows {_STATE} found twins copies"),
)
_STATES: Final = _STATE.split()
_LONGEST: Final = 512  # samples of a block
_MOST_SENSORS: Final = 64


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed({"kinedge_health_step": [POINTER], "kinedge_health_learn": [POINTER, POINTER]})


class NativeHealth:
    """The monitor of one model in C.

    Parameters
    ----------
    numbers, arrays
        Sizes, factors and constants of the model, by their names in ``health.c``.
    """

    def __init__(self, numbers: Mapping[str, float], **arrays: NDArray[Any]) -> None:
        self.record = Record(_Health)
        self.record.set(numbers, **arrays)
        self._n_sensors, self._hop = int(numbers["n_sensors"]), int(numbers["hop"])
        self._n_channels = int(numbers["n_channels"])
        self._fits = numbers["block"] <= _LONGEST and self._n_sensors <= _MOST_SENSORS
        self._rows: object = None

    def tell(self, state: Any) -> bool:
        """Tell a state; False where C cannot do this model, or cannot write the state as it lies."""
        return self._fits and self.record.set_state(state, _STATES)

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return _functions() is not None

    def step(
        self,
        values: F32,
        valid: Mask,
        facts: F32,
        shared: F32,
        state: Any,
        rows: NDArray[np.intp],
        *,
        given: F32,
    ) -> tuple[F64, NDArray[np.int64], Mask] | None:
        """Judge one hop and write what is remembered; None, with nothing written, where numpy must do it.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels)
            As the sensors gave them.
        facts, shared
            ``HopFacts.whole`` and ``together``, of what may be turned.
        given
            ``HopFacts.whole`` of the values.
        state
            A ``HealthState`` of all streams.
        rows : (n_streams,)
            Which of them these are.

        Returns
        -------
        found : (``N_FOUND``, n_streams, n_sensors)
            The first parts of ``SensorHealth``.
        twin, copy : (n_streams, n_sensors)
        """
        functions, n, record = _functions(), len(rows), self.record
        shape = (n, self._hop, self._n_channels)
        if functions is None or not self._fits or facts.shape[1] != n or given.shape != facts.shape:
            return None
        if not (is_plain(values, np.float32, shape) and is_plain(valid, np.bool_, shape)):
            return None
        if not record.set_state(state, _STATES):
            return None
        found = np.empty((N_FOUND, n, self._n_sensors))
        twins, copies = np.empty(found.shape[1:], np.int64), np.empty(found.shape[1:], bool)
        record.set(
            {"n_streams": n},
            values=values,
            valid=valid,
            facts=facts,
            given=given,
            shared=shared,
            rows=rows,
            found=found,
            twins=twins,
            copies=copies,
        )
        self._rows = rows
        done = functions[0](record.at) == 0
        record.forget("values", "valid", "facts", "given", "shared")
        return (found, twins, copies) if done else None

    def learn(self, sensor_u: F64, state: Any, rows: NDArray[np.intp]) -> bool:
        """Take in how unusual the hop of the last ``step``, of these streams, was; False where numpy must."""
        functions = _functions()
        if functions is None or not self.record.has_state(state) or self._rows is not rows:
            return False
        if not is_plain(sensor_u, np.float64, (len(rows), self._n_sensors)):
            return False
        return bool(functions[1](self.record.at, address(sensor_u)) == 0)
