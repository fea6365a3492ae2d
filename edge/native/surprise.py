"""Typed functions of ``surprise.c``: what the engine does around the forecaster, a piece of its streams at a time."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import DOUBLE, INT64, POINTER, Record, structure

__all__ = ["NativeStep"]

_Step: Final = structure(  # ``kinedge_step`` of ``surprise.h``
    "_Step",
    (INT64, "n_streams n_rows n_memory n_samples n_horizons n_channels max_horizon state_size n_weights"),
    (DOUBLE, "clip z_limit"),
    (POINTER, "horizons needed center inverse_scale inverse_nu half_nu_1 weight"),
    (POINTER, "x mask model_in expected mu log_sigma model_out values valid rows z nats ok"),
    (POINTER, "model old_mu old_log_sigma held held_age n_seen"),
    (POINTER, "model_after mu_after log_sigma_after held_after held_age_after n_seen_after"),
)
_FUNCTIONS: Final = ("kinedge_prepare", "kinedge_differ", "kinedge_standardise", "kinedge_finish")


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed(dict.fromkeys(_FUNCTIONS, (POINTER, INT64, INT64)))


class NativeStep:
    """A step of an engine; what is told of it by ``set``, as a ``Record`` takes it, stays until it is told anew.

    Raises
    ------
    RuntimeError
        There is no native library: ask ``NativeStep.is_there`` first.
    """

    def __init__(self) -> None:
        functions = _functions()
        if functions is None:
            raise RuntimeError("no native library is loaded")
        self._prepare, self._differ, self._standardise, self._finish = functions
        record = Record(_Step)
        self.at, self.set, self.place, self.forget = record.at, record.set, record.place, record.forget

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return _functions() is not None

    def prepare(self, start: int, stop: int) -> None:
        """Normalise, fill gaps, and bring mask and state to the forecaster, unless that has the state."""
        _check(self._prepare(self.at, start, stop))

    def surprise(self, start: int, stop: int, *, nats: NDArray[np.float32]) -> None:
        """Make ``z``, ``nats`` and ``ok`` of what the forecaster said, and go on in the state; ``nats`` is its part."""
        _check(self._differ(self.at, start, stop))
        np.exp(nats, out=nats)
        _check(self._standardise(self.at, start, stop))
        np.log(nats, out=nats)
        _check(self._finish(self.at, start, stop))


def _check(result: int) -> None:
    if result:
        raise IndexError("a stream of the step is outside of the state or the memory")
