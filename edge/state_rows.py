"""Some streams of a state: taken out, put in, or written where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["put_rows", "take_rows", "write_rows"]

StateT = TypeVar("StateT")
"""A frozen dataclass of arrays whose first axis is that of the streams."""


def take_rows(state: StateT, rows: NDArray[np.intp]) -> StateT:
    """Return the state of some streams."""
    whole: Any = state
    parts: Mapping[str, Any] = {f.name: getattr(whole, f.name)[rows] for f in fields(whole)}
    taken: StateT = replace(whole, **parts)
    return taken


def write_rows(state: StateT, rows: NDArray[np.intp], part: StateT) -> None:
    """Replace some streams in place."""
    whole: Any = state
    for f in fields(whole):
        getattr(whole, f.name)[rows] = getattr(part, f.name)


def put_rows(state: StateT, rows: NDArray[np.intp], part: StateT) -> StateT:
    """Return the state with some streams replaced."""
    whole: Any = state
    merged: dict[str, Any] = {f.name: getattr(whole, f.name).copy() for f in fields(whole)}
    changed: StateT = replace(whole, **merged)
    write_rows(changed, rows, part)
    return changed
