"""Whole seconds of one person's grid, and the state of what is computed from them.

Every measure takes whole seconds that start at whole multiples of the rate, so that any chunking of the input gives
the same bits; and each keeps its state as a frozen value of arrays, which can be saved, compared and restored weeks
later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = ["Second", "SecondCutter", "state_from_arrays", "state_to_arrays", "whole_rate"]

F64 = NDArray[np.float64]
StateT = TypeVar("StateT")

_SLOWEST_HZ: Final = 25


@dataclass(frozen=True, eq=False)
class Second:
    """One second of the grid.

    Parameters
    ----------
    index
        Whole seconds of the grid's clock.
    values, valid : (rate_hz, n_channels)
        As aligned; a value where ``valid`` is False means nothing.
    saturated : (rate_hz, n_channels)
        Where the sensor was at the end of its range; None where nobody told.
    """

    index: int
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    saturated: NDArray[np.bool_] | None = None

    def held(self, columns: slice, before: F64) -> tuple[F64, float]:
        """Return the columns with gaps filled by the value before them, and the share of samples that were there.

        The fill keeps filters from ringing; whoever uses it looks at the share first.
        """
        there = self.valid[:, columns].all(axis=1)
        values = np.vstack([before, self.values[:, columns].astype(np.float64)])
        last = np.maximum.accumulate(np.where(np.append(True, there), np.arange(len(values)), 0))
        filled: F64 = values[last][1:]
        return filled, float(there.mean())


def whole_rate(rate_hz: float) -> int:
    """Return a grid rate as a whole number of samples a second.

    Raises
    ------
    SignalError
        It is not whole, or below 25 Hz.
    """
    if rate_hz != round(rate_hz) or rate_hz < _SLOWEST_HZ:
        raise SignalError(f"measures need a whole grid rate of at least {_SLOWEST_HZ} Hz, got {rate_hz:g} Hz")
    return round(rate_hz)


class SecondCutter:
    """Cuts consecutive or leaping ticks into whole seconds; what a second lacks is marked missing.

    Parameters
    ----------
    rate_hz
        Of the grid.
    n_channels
        Of the grid.
    """

    def __init__(self, rate_hz: float, n_channels: int) -> None:
        self._rate = whole_rate(rate_hz)
        self._n_channels = n_channels
        self._index: int | None = None
        self._filled = 0
        self._blank()

    def _blank(self) -> None:
        self._values = np.zeros((self._rate, self._n_channels), np.float32)
        self._valid = np.zeros((self._rate, self._n_channels), bool)
        self._saturated = np.zeros((self._rate, self._n_channels), bool)

    def push(
        self,
        first_tick: int,
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_] | None = None,
    ) -> Iterator[Second]:
        """Take ticks (n, n_channels) and yield every second that is over.

        Raises
        ------
        SignalError
            The shapes differ from the grid's, or the ticks go back in time.
        """
        if values.shape != valid.shape or values.ndim != 2 or values.shape[1] != self._n_channels:
            raise SignalError(f"expected (n, {self._n_channels}) values and valid, got {values.shape}, {valid.shape}")
        now = None if self._index is None else self._index * self._rate + self._filled
        if now is not None and first_tick < now:
            raise SignalError(f"tick {first_tick} comes after tick {now}: seconds go forward only")
        done = 0
        while done < len(values):
            index, offset = divmod(first_tick + done, self._rate)
            if self._index is not None and index != self._index:
                yield self._close()
            self._index = index
            n = min(self._rate - offset, len(values) - done)
            self._values[offset : offset + n] = values[done : done + n]
            self._valid[offset : offset + n] = valid[done : done + n]
            if saturated is not None:
                self._saturated[offset : offset + n] = saturated[done : done + n]
            self._filled = offset + n
            done += n
            if self._filled == self._rate:
                yield self._close()

    def _close(self) -> Second:
        second = Second(int(self._index or 0), self._values, self._valid, self._saturated)
        self._index, self._filled = None, 0
        self._blank()
        return second


def state_to_arrays(state: Any, *, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the arrays of a state, nested states with a dotted name."""
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields(state):
        value = getattr(state, field.name)
        if is_dataclass(value):
            arrays |= state_to_arrays(value, prefix=f"{prefix}{field.name}.")
        else:
            arrays[prefix + field.name] = np.asarray(value)
    return arrays


def state_from_arrays(like: StateT, arrays: Mapping[str, NDArray[Any]]) -> StateT:
    """Return a state of the kind, shapes and types of ``like``, with the values of ``arrays``.

    Raises
    ------
    SignalError
        A part is missing, unused, of another shape or type, or not finite.
    """
    expected = state_to_arrays(like)
    if odd := sorted(set(arrays) ^ set(expected)):
        raise SignalError(f"saved state of {type(like).__name__}: missing or unused {', '.join(odd[:5])}; start anew")
    for name, there in expected.items():
        found = arrays[name]
        if found.shape != there.shape or found.dtype != there.dtype:
            raise SignalError(
                f"saved state {name} is {found.dtype} {found.shape}, expected {there.dtype} {there.shape}; start anew"
            )
        if not np.isfinite(found).all():
            raise SignalError(f"saved state {name} holds values that are not finite; start anew")
    return _rebuilt(like, arrays, "")


def _rebuilt(like: StateT, arrays: Mapping[str, NDArray[Any]], prefix: str) -> StateT:
    values: dict[str, Any] = {}
    for field in fields(like):  # type: ignore[arg-type]  # states are dataclasses
        value = getattr(like, field.name)
        if is_dataclass(value):
            values[field.name] = _rebuilt(value, arrays, f"{prefix}{field.name}.")
        else:
            values[field.name] = arrays[prefix + field.name].copy()
    return type(like)(**values)
