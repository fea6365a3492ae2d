"""How arrays are handed to the native library: by address, once it is known that they are what C takes them for."""

from __future__ import annotations

import ctypes
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["address", "is_plain"]

_address_of: Any = ctypes.addressof
_byte_of: Any = ctypes.c_char.from_buffer


def address(array: NDArray[Any] | None) -> int | None:
    """Return where an array lies, for as long as somebody keeps it; None, which C sees as NULL, for None."""
    if array is None:
        return None
    try:
        where: int = _address_of(_byte_of(array))  # several times faster than what follows
    except (TypeError, ValueError, BufferError):  # what is read only, empty, or not row behind row
        where = array.__array_interface__["data"][0]
    return where


def is_plain(array: object, dtype: DTypeLike, shape: tuple[int, ...]) -> TypeGuard[NDArray[Any]]:
    """Whether this is an array of this type and shape, row behind row and aligned."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and array.shape == shape
        and array.flags.c_contiguous
        and array.flags.aligned
    )
