"""How arrays are handed to the native library: by address, once it is known that they are what C takes them for."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["HEAD", "address", "can_read", "is_plain"]

_word_at: Any = ctypes.c_int64.from_address
HEAD: Final = object.__basicsize__  # of every object; an array's first field, which C programs read, is its address


def _asked(array: NDArray[Any]) -> int:
    where: int = array.__array_interface__["data"][0]
    return where


def _read(array: NDArray[Any]) -> int:
    where: int = _word_at(id(array) + HEAD).value
    return where


def can_read() -> bool:
    """Whether this Python and numpy keep arrays like that: asking takes ten times as long, for a hundred of a step."""
    if sys.implementation.name != "cpython" or np.ndarray.__basicsize__ < HEAD + ctypes.sizeof(ctypes.c_int64):
        return False
    whole = np.zeros((4, 6), np.float32)
    return all(_read(a) == _asked(a) for a in (whole, whole[1:, ::2], whole[3:].view(np.uint8), np.zeros(1)))


_where: Final = _read if can_read() else _asked


def address(array: NDArray[Any] | None) -> int | None:
    """Return where an array lies, for as long as somebody keeps it; None, which C sees as NULL, for None.

    Raises
    ------
    TypeError
        It is no array.
    """
    if array is None:
        return None
    if not isinstance(array, np.ndarray):
        raise TypeError(f"an array is expected, not {type(array).__name__}")
    return _where(array)


def is_plain(array: object, dtype: DTypeLike, shape: tuple[int, ...]) -> TypeGuard[NDArray[Any]]:
    """Whether this is an array of this type and shape, row behind row and aligned."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and array.shape == shape
        and array.flags.c_contiguous
        and array.flags.aligned
    )
