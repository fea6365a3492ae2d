"""Typed functions of ``surprise.c``: what the engine does around the forecaster, a piece of its streams at a time."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address
from kinedge.edge.native.loader import library

__all__ = ["NativeStep"]

_FIELDS: Final[dict[Any, str]] = {
    ctypes.c_int64: "n_streams n_rows n_memory n_samples n_horizons n_channels max_horizon state_size n_weights",
    ctypes.c_double: "clip z_limit",
    ctypes.c_void_p: "horizons needed center inverse_scale inverse_nu half_nu_1 weight "
    "x mask model_in expected mu log_sigma model_out values valid rows z nats ok "
    "model old_mu old_log_sigma held held_age n_seen "
    "model_after mu_after log_sigma_after held_after held_age_after n_seen_after",
}
_FUNCTIONS: Final = ("kinedge_prepare", "kinedge_differ", "kinedge_standardise", "kinedge_finish")


class _Step(ctypes.Structure):
    """``kinedge_step`` of ``surprise.h``."""

    _fields_ = tuple((name, kind) for kind, names in _FIELDS.items() for name in names.split())


@cache
def _functions() -> tuple[Any, ...] | None:
    loaded = library()
    if loaded is None:
        return None
    found = tuple(getattr(loaded, name) for name in _FUNCTIONS)
    for function in found:
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64], ctypes.c_int32
    return found


class NativeStep:
    """A step of an engine; what is told of it by ``set`` stays until it is told anew.

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
        self._step = _Step()
        self._at = ctypes.addressof(self._step)
        self._kept: dict[str, NDArray[Any]] = {}

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return _functions() is not None

    def set(self, numbers: dict[str, int | float] | None = None, **arrays: NDArray[Any]) -> None:
        """Tell sizes and factors, and arrays, which must be plain and are kept until others take their places."""
        step = self._step
        for name, number in (numbers or {}).items():
            setattr(step, name, number)
        for name, array in arrays.items():
            setattr(step, name, address(array))
        self._kept.update(arrays)

    def prepare(self, start: int, stop: int) -> None:
        """Normalise, fill gaps, and bring mask and state to the forecaster."""
        _check(self._prepare(self._at, start, stop))

    def surprise(self, start: int, stop: int, *, nats: NDArray[np.float32]) -> None:
        """Make ``z``, ``nats`` and ``ok`` of what the forecaster said, and go on in the state; ``nats`` is its part."""
        _check(self._differ(self._at, start, stop))
        np.exp(nats, out=nats)
        _check(self._standardise(self._at, start, stop))
        np.log(nats, out=nats)
        _check(self._finish(self._at, start, stop))


def _check(result: int) -> None:
    if result:
        raise IndexError("a stream of the step is outside of the state or the memory")
