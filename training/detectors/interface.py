"""What every detector is: fitted once on a prefix, then stepped through a stream, with its state in the open.

Choices
-------
* ``step`` takes any number of samples and gives one score for each: cutting the stream elsewhere changes nothing.
* A score is never about the future. ``lag`` says how far it is about the past: row ``t`` speaks of sample ``t - lag``.
* ``fit`` returns scores of the prefix as if it had not been seen, as well as the model can tell: in-sample residuals
  and zero distances to oneself would make every scale taken from them too small.
* Missing values are NaN. They are replaced by the prefix's mean and never count as surprise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinedge.errors import ConfigError, SignalError

__all__ = [
    "Detector",
    "Standardisation",
    "State",
    "Streams",
    "Tail",
    "Tails",
    "TrailingMean",
    "TrailingMeans",
    "blocks",
    "checked_samples",
    "checked_streams",
    "restored",
    "row_sums",
    "score_series",
]

F64 = NDArray[np.float64]
State = dict[str, NDArray[Any]]
_BLOCK: Final = 2048
_MIN_PREFIX: Final = 32
_ROOM: Final = 64


def checked_samples(x: ArrayLike, *, n_channels: int | None = None, at_least: int = 0) -> F64:
    """Return samples (n, C) in double precision.

    Raises
    ------
    SignalError
        Not two-dimensional, infinite values, too few samples, or another number of channels than fitted.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 1:
        raise SignalError(f"samples have shape {values.shape}; expected (samples, channels)")
    if n_channels is not None and values.shape[1] != n_channels:
        raise SignalError(f"samples have {values.shape[1]} channels, but the detector was fitted on {n_channels}")
    if len(values) < at_least:
        raise SignalError(f"the prefix has {len(values)} samples; fitting needs at least {at_least}")
    if np.isinf(values).any():
        raise SignalError(
            f"sample {int(np.argwhere(np.isinf(values))[0, 0])} is infinite; write what is missing as NaN"
        )
    return values


def checked_streams(x: ArrayLike, *, n_streams: int, n_channels: int) -> F64:
    """Return samples (n_streams, n, C) in double precision.

    Raises
    ------
    SignalError
        Another shape, or infinite values.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 3 or len(values) != n_streams or values.shape[2] != n_channels:
        raise SignalError(f"samples have shape {values.shape}; expected ({n_streams}, samples, {n_channels})")
    if np.isinf(values).any():
        raise SignalError("a sample is infinite; write what is missing as NaN")
    return values


class Streams(Protocol):
    """A fitted detector that follows many streams in one call; see :meth:`Detector.many`."""

    def step(self, x: ArrayLike) -> F64:
        """Take the next samples of every stream (n_streams, n, C), return scores (n_streams, n).

        Raises
        ------
        SignalError
            Another number of streams or channels, or infinite values.
        """
        ...


class Detector(ABC):
    """One model of what a stream does normally.

    ``lag`` is the number of samples by which a score is late; ``n_parameters`` counts all numbers kept from the
    prefix or for comparison with it (stored patches included), the buffers of the running stream not.
    """

    lag: int = 0

    @abstractmethod
    def fit(self, prefix: ArrayLike) -> F64:
        """Learn from a prefix (n, C); return its scores (n,) as if unseen. The state is then "nothing seen yet"."""

    @abstractmethod
    def step(self, x: ArrayLike) -> F64:
        """Take new samples (n, C); return scores (n,), row ``t`` about sample ``t - lag``."""

    def step_one(self, sample: F64) -> float | None:
        """Take one new sample (C,) the short way, with the score that :meth:`step` gives it.

        Returns None, and has changed nothing, where there is no short way or this sample cannot go it.
        """
        return None

    def many(self, n_streams: int) -> Streams:
        """Return this fitted detector for many streams at once, none of which has seen anything yet.

        With 64 streams the same numpy calls serve all of them; one detector after the other pays for each call 64
        times. Scores are those of a detector each, but for rounding, and the same to the bit however samples arrive.

        Raises
        ------
        ConfigError
            No stream, or a detector that follows one stream alone (a memory, a network).
        """
        raise ConfigError(f"{type(self).__name__} follows one stream; make a detector for each")

    @property
    @abstractmethod
    def state(self) -> State:
        """A copy of all that changes while stepping; :meth:`restore` takes it back."""

    @abstractmethod
    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state of this very detector.

        Raises
        ------
        ConfigError
            A part is missing, unknown or of another shape.
        """

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Numbers the model holds."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the model in single precision."""
        return 4 * self.n_parameters


def restored(old: State, new: Mapping[str, NDArray[Any]]) -> State:
    """Return a copy of ``new``, having checked it against ``old``."""
    if old.keys() != new.keys():
        raise ConfigError(f"state has the parts {sorted(new)}, expected {sorted(old)}; it is of another detector")
    for name, value in new.items():
        if value.shape != old[name].shape or value.dtype != old[name].dtype:
            raise ConfigError(
                f"state part {name} is {value.dtype}{value.shape}, expected {old[name].dtype}{old[name].shape}"
            )
    return {name: value.copy() for name, value in new.items()}


def score_series(detector: Detector, x: ArrayLike) -> F64:
    """Return scores (n,) of a whole series from its start, each at the sample it speaks of.

    The last ``lag`` samples, of which nothing was said yet, get the last score.
    """
    values = checked_samples(x)
    parts = [detector.step(values[a : a + _BLOCK]) for a in range(0, len(values), _BLOCK)]
    late = np.concatenate(parts) if parts else np.zeros(0)
    lag = min(detector.lag, len(late))
    return np.concatenate([late[lag:], np.full(lag, late[-1])]) if lag else late


@dataclass(frozen=True, eq=False)
class Standardisation:
    """``clip((x - center) / scale)`` by the prefix alone; a channel that was constant there gets ``unit`` as its scale.

    Without that floor the first change of such a channel would be infinite; with a scale of 1, it would be invisible.
    """

    center: F64
    scale: F64
    clip: float

    @classmethod
    def fit(cls, prefix: F64, *, clip: float, unit: float) -> Standardisation:
        """Take mean and deviation of each channel (n, C); NaN do not count."""
        present = np.isfinite(prefix)
        count = np.maximum(present.sum(axis=0), 1)
        center = np.where(present, prefix, 0.0).sum(axis=0) / count
        scale = np.sqrt((np.where(present, prefix - center, 0.0) ** 2).sum(axis=0) / count)
        # A mean of equal numbers may be off by its last bits: that is still a constant.
        flat = scale <= 1e-6 * np.maximum(np.abs(center), 1.0)
        return cls(center, np.where(flat, unit, scale), clip)

    def apply(self, x: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Return normalised samples, 0 where missing, and where a value is present."""
        present = np.isfinite(x)
        z = np.where(present, (x - self.center) / self.scale, 0.0)
        return np.clip(z, -self.clip, self.clip), present


def row_sums(x: F64) -> F64:
    """Return the sum (n,) of each row of (n, K): to the bit what ``row.dot(ones)`` gives for that row alone.

    ``x.sum(axis=1)`` adds in another order than the dot product, which is the cheapest sum of a single row.
    """
    return np.asarray(np.matmul(x[:, None, :], np.ones(x.shape[1]))[:, 0])


class Tail:
    """The last numbers of a stream, always side by side in memory, with room behind them for what comes next.

    Parameters
    ----------
    past : (K,)
        What has been seen; so many numbers are kept.
    width
        Numbers that come in at once.
    """

    def __init__(self, past: F64, *, width: int = 1) -> None:
        self._n_kept, self._width = len(past), width
        self._data = np.concatenate([past, np.zeros(_ROOM * width)])
        self._at = self._n_kept

    @property
    def past(self) -> F64:
        """A copy of what is kept."""
        return np.array(self._data[self._at - self._n_kept : self._at])

    def window(self) -> F64:
        """Return what is kept and, behind it, ``width`` places for new numbers, as one view (K + width,)."""
        if self._at + self._width > len(self._data):
            self._data[: self._n_kept] = self.past
            self._at = self._n_kept
        return self._data[self._at - self._n_kept : self._at + self._width]

    def advance(self) -> None:
        """Keep what was written into the places of :meth:`window`."""
        self._at += self._width


class Tails:
    """The last numbers of many streams, a row each, with room behind them.

    Parameters
    ----------
    past : (n_streams, K)
        What has been seen; so many numbers are kept of each stream.
    room
        Numbers for which there is room before what is kept moves back to the front.
    """

    def __init__(self, past: F64, *, room: int) -> None:
        self._n_kept = past.shape[1]
        self._data = np.concatenate([past, np.zeros((len(past), room))], axis=1)
        self._at = self._n_kept

    def take(self, new: F64) -> F64:
        """Take (n_streams, m); return what was kept and, behind it, what is new, as one view (n_streams, K + m)."""
        start, stop = self._at - self._n_kept, self._at + new.shape[1]
        if stop > self._data.shape[1]:
            past = self._data[:, start : self._at]
            if self._n_kept + new.shape[1] > self._data.shape[1]:
                self._data = np.concatenate([past, np.zeros_like(new)], axis=1)
            else:
                self._data[:, : self._n_kept] = past.copy()
            start, stop = 0, self._n_kept + new.shape[1]
        self._data[:, stop - new.shape[1] : stop] = new
        self._at = stop
        return self._data[:, start:stop]


class TrailingMean:
    """Mean of the last ``length`` values of a stream; before its start there are zeros."""

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ConfigError(f"a mean over {length} samples; give at least 1")
        self._tail = Tail(np.zeros(length - 1))
        self._length = length
        self._ones = np.ones(length)

    @property
    def past(self) -> F64:
        """The ``length - 1`` values that count towards the next mean."""
        return self._tail.past

    @past.setter
    def past(self, values: F64) -> None:
        self._tail = Tail(values)

    def step_one(self, value: float) -> float:
        """Take one value, return the mean."""
        window = self._tail.window()
        window[-1] = value
        self._tail.advance()
        return float(window.dot(self._ones)) / self._length

    def step(self, values: F64) -> F64:
        """Take (n,), return (n,)."""
        length = self._length
        # A sum of each window anew, not a running one: no error can pile up over days.
        if len(values) == 1:
            return np.array([self.step_one(values[0])])
        seen = np.concatenate([self.past, values])
        self.past = seen[len(seen) - length + 1 :]
        return np.asarray(row_sums(np.lib.stride_tricks.sliding_window_view(seen, length)) / length)


class TrailingMeans:
    """The same of many streams at once."""

    def __init__(self, length: int, *, n_streams: int) -> None:
        self._tails = Tails(np.zeros((n_streams, length - 1)), room=_ROOM)
        self._ones = np.ones(length)

    def step(self, values: F64) -> F64:
        """Take (n_streams, n), return (n_streams, n)."""
        seen, length = self._tails.take(values), len(self._ones)
        means = np.empty_like(values)
        for t in range(values.shape[1]):  # an instant at a time: so that chunking cannot change a bit
            means[:, t] = seen[:, t : t + length].dot(self._ones)
        means /= length
        return means


def blocks(first: int, n: int, *, size: int) -> Iterator[tuple[int, int]]:
    """Cut ``n`` samples from stream position ``first`` on at multiples of ``size``: chunking cannot move a cut."""
    at = 0
    while at < n:
        stop = min(n, at + size - (first + at) % size)
        yield at, stop
        at = stop
