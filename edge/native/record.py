"""Structures of eight-byte fields that C reads, filled in from Python: what is told once need not be told again."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from kinedge.edge.native.arrays import address

__all__ = ["DOUBLE", "INT64", "POINTER", "Record", "structure"]

INT64, DOUBLE, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def structure(name: str, *fields: tuple[Any, str]) -> type[ctypes.Structure]:
    """Return the structure with these fields: a type, and the names of those that are of it, in C's order."""
    every = tuple((field, kind) for kind, names in fields for field in names.split())
    return type(name, (ctypes.Structure,), {"_fields_": every})


class Record:
    """One such structure; ``at`` is where it lies."""

    def __init__(self, kind: type[ctypes.Structure]) -> None:
        self.fields = kind()
        self.at = ctypes.addressof(self.fields)
        self._kept: dict[str, NDArray[Any] | None] = {}
        self._state: object = None

    def set(self, numbers: Mapping[str, float] | None = None, /, **arrays: NDArray[Any] | None) -> None:
        """Tell sizes and factors, and arrays, which must be plain and are kept until others take their places.

        None, where C takes that for nothing.
        """
        fields = self.fields
        if numbers:
            for name, number in numbers.items():
                setattr(fields, name, number)
        for name, array in arrays.items():
            setattr(fields, name, address(array))
        self._kept.update(arrays)

    def forget(self, *names: str) -> None:
        """Keep these arrays no longer, and tell C that there are none: a batch is not to be kept until the next one."""
        for name in names:
            setattr(self.fields, name, None)
            self._kept.pop(name, None)

    def set_state(self, state: object, names: Sequence[str]) -> bool:
        """Tell the arrays of these names of a state, and its ``n_rows``; False where C cannot write them as they lie.

        A pipeline's state is the same hop after hop, and is told once.
        """
        if self._state is state:
            return True
        arrays: dict[str, NDArray[Any]] = {name: getattr(state, name) for name in names}
        if not all(a.flags.c_contiguous and a.flags.aligned for a in arrays.values()):
            return False
        self.set({"n_rows": len(arrays[names[0]])}, **arrays)
        self._state = state
        return True

    def place(self, name: str) -> int:
        """Return where a field lies, for C that fills it in."""
        where: int = self.at + getattr(type(self.fields), name).offset
        return where

    def has_state(self, state: object) -> bool:
        """Whether this state is the one that was told last."""
        return self._state is state
