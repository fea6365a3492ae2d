"""Typed functions of ``blocks.c``: from surprise per sample to scores per block."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import DOUBLE, INT64, POINTER, Record, structure

__all__ = ["NativeBlocks"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STATE: Final = "nats z2 y2 step2 n_steps n_scored n_missing n_saturated low high n_hops_seen moved"
_Blocks: Final = structure(
    "_Blocks",
    (INT64, "n_streams n_rows hop n_channels n_sensors n_hops own_diagonal"),
    (DOUBLE, "scored_from flat_below floor"),
    (POINTER, f"starts square diagonal sums facts rows {_STATE} of_channels of_sensors scored flat full"),
)
_STATES: Final = _STATE.split()
_FEW_HOPS: Final = 8  # of a single channel: of more, numpy adds up in another order


@cache
def _functions() -> tuple[Any, ...] | None:
    sums = [*[POINTER] * 4, *[INT64] * 3, POINTER, INT64]
    return typed({"kinedge_block_step": [POINTER], "kinedge_block_sums": sums})


class NativeBlocks:
    """The block scorer of one model in C.

    Parameters
    ----------
    numbers, arrays
        Sizes, factors and constants of the model, by their names in ``blocks.c``.
    """

    def __init__(self, numbers: Mapping[str, float], **arrays: NDArray[Any]) -> None:
        self.record = Record(_Blocks)
        self.record.set(numbers, **arrays)
        self._n_channels, self._n_sensors = int(numbers["n_channels"]), int(numbers["n_sensors"])
        self._fits = self._n_channels > 1 or numbers["n_hops"] < _FEW_HOPS

    def tell(self, state: Any) -> bool:
        """Tell a state; False where C cannot do this model, or cannot write the state as it lies."""
        return self._fits and self.record.set_state(state, _STATES)

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return _functions() is not None

    @staticmethod
    def sums(z: F32, y: F32, nats: F32, ok: Mask, *, out: F32, start: int) -> bool:
        """Write the sums of nats, ``z^2``, ``y^2`` and scored samples of a piece; False where numpy must.

        Parameters
        ----------
        z, y, nats, ok : (n_streams, n_samples, n_channels)
        out : (4, n_streams of all pieces, n_channels)
        start
            From which stream on it is written.
        """
        functions, shape = _functions(), z.shape
        if functions is None or not (is_plain(z, np.float32, shape) and is_plain(y, np.float32, shape)):
            return False
        if not (is_plain(nats, np.float32, shape) and is_plain(ok, np.bool_, shape)):
            return False
        n_all, n_channels = out.shape[1:]
        to = address(out[0, start:])
        return bool(functions[1](*map(address, (z, y, nats, ok)), *shape, to, n_all * n_channels) == 0)

    def step(
        self, sums: F32, facts: F32, diagonal: F64, state: Any, rows: NDArray[np.intp]
    ) -> tuple[F64, F64, Mask, Mask, Mask] | None:
        """Add one hop to the blocks, write what is remembered, and score; None where numpy must do it.

        Parameters
        ----------
        sums : (4, n_streams, n_channels)
            From ``sums``.
        facts
            ``HopFacts.whole``.
        diagonal : (n_channels,) or (n_streams, n_channels)
            Of the precision.
        state
            A ``ScorerState`` of all streams.
        rows : (n_streams,)
            Which of them these are.

        Returns
        -------
        of_channels : (3, n_streams, n_channels)
            ``channel``, ``power`` and ``drop`` of ``BlockScores``.
        of_sensors : (4, n_streams, n_sensors)
            What ``intensity`` and ``before`` are the logarithms of, ``missing`` and ``saturated``.
        scored, flat, full
        """
        functions, n, record = _functions(), len(rows), self.record
        channels, sensors = (n, self._n_channels), (n, self._n_sensors)
        if functions is None or not self._fits or facts.shape[1:] != channels or sums.shape[1:] != channels:
            return None
        if not record.set_state(state, _STATES):
            return None
        of_channels, of_sensors = np.empty((3, *channels)), np.empty((4, *sensors))
        scored, flat, full = np.empty(channels, bool), np.empty(sensors, bool), np.empty(n, bool)
        record.set(
            {"n_streams": n, "own_diagonal": diagonal.ndim - 1},
            diagonal=np.ascontiguousarray(diagonal),
            sums=sums,
            facts=facts,
            rows=rows,
            of_channels=of_channels,
            of_sensors=of_sensors,
            scored=scored,
            flat=flat,
            full=full,
        )
        return (of_channels, of_sensors, scored, flat, full) if functions[0](record.at) == 0 else None
