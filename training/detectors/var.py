"""The linear detector: a vector-autoregressive model with ridge, and surprise relative to how it has done lately.

Choices
-------
* One ridge solution in closed form on the prefix, all channels from all channels; no training, no seed.
* What a residual means is said in :mod:`~kinedge.training.detectors.residuals`.
* One product of a matrix with what was seen last gives the residuals of a sample in their units, for a sample alone and
  for each of a chunk: streaming equals batch to the bit, and one sample costs a dozen calls on rows that lie ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinedge.errors import ConfigError
from kinedge.training.detectors.interface import (
    Detector,
    Standardisation,
    State,
    Tail,
    Tails,
    checked_samples,
    checked_streams,
    restored,
)
from kinedge.training.detectors.residuals import ResidualUnits, mean_surprise

__all__ = ["VarConfig", "VarDetector", "VarStreams"]

F64 = NDArray[np.float64]
_CHUNK: Final = 2048
_CHUNK_OF_MANY: Final = 64
_WELL_BELOW: Final = 0.999  # of a clip, squared: so that no rounding can hide a value at it


@dataclass(frozen=True)
class VarConfig:
    """Shape of the linear detector.

    Parameters
    ----------
    order
        Past samples a prediction sees.
    ridge
        Penalty on the squared coefficients, in normalised units.
    clip, residual_clip
        Of normalised samples, and of residuals in their units.
    unit
        Scale of channels that are constant in the prefix.
    floor
        Added to the deviation of residuals.
    forget
        Time constant of the unit, samples; 0 keeps that of the prefix.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    order: int = 16
    ridge: float = 1000.0
    clip: float = 50.0
    residual_clip: float = 100.0
    unit: float = 0.02
    floor: float = 0.01
    forget: float = 1000.0

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 512:
            raise ConfigError(f"the order of the linear model is {self.order}; give 1 to 512")
        if min(self.ridge, self.clip, self.residual_clip, self.unit, self.floor) <= 0 or self.forget < 0:
            raise ConfigError(f"ridge, clips, unit and floor must be above 0 and forget not below it, got {self}")


class VarDetector(Detector):
    """Mean square of the residuals, per sample."""

    def __init__(self, config: VarConfig = VarConfig()) -> None:
        self.config = config
        self._weight: F64 = np.zeros((0, 0))
        self._one = (0,)
        self._n_seen = 0

    def fit(self, prefix: ArrayLike) -> F64:
        """Learn from a prefix (n, C); its residuals are in-sample, which the ridge keeps honest."""
        x = checked_samples(prefix, at_least=self.config.order + 16)
        p, n_channels = self.config.order, x.shape[1]
        self._standard = Standardisation.fit(x, clip=self.config.clip, unit=self.config.unit)
        z, present = self._standard.apply(x)
        n_features = p * n_channels + 1
        gram, moment = self.config.ridge * np.eye(n_features), np.zeros((n_features, n_channels))
        chunks = [(a, min(a + _CHUNK, len(z))) for a in range(p, len(z), _CHUNK)]
        for a, b in chunks:
            features = self._features(z[a - p : b])
            gram += features.T @ features
            moment += features.T @ z[a:b]
        self._weight = np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)
        residual = np.concatenate([z[a:b] - self._features(z[a - p : b]) @ self._weight for a, b in chunks])
        cfg = self.config
        self._units = ResidualUnits(residual, present[p:], floor=cfg.floor, clip=cfg.residual_clip, forget=cfg.forget)
        self._prepare()
        self._reset()
        scores = self.step(x)
        self._reset()
        return scores

    def _prepare(self) -> None:
        """Lay the model out for stepping: residuals in their units are ``matrix @ (oldest .. newest, now) - bias``."""
        p, n_channels = self.config.order, self._weight.shape[1]
        oldest_first = self._weight[:-1].reshape(p, n_channels, n_channels)[::-1].reshape(p * n_channels, n_channels)
        deviation = self._units.deviation
        self._matrix = np.concatenate([-oldest_first.T, np.eye(n_channels)], axis=1) / deviation[:, None]
        self._bias = self._weight[-1] / deviation
        self._one = (n_channels,)
        self._ones, self._row = np.ones(n_channels), np.empty(n_channels)
        self._calm = _WELL_BELOW * self.config.clip**2, _WELL_BELOW * self.config.residual_clip**2

    def _reset(self) -> None:
        n_channels = self._weight.shape[1]
        self._tail = Tail(np.zeros(self.config.order * n_channels), width=n_channels)
        self._square = np.ones(n_channels)
        self._n_seen = 0

    def _features(self, z: F64) -> F64:
        """Return (n - p, p * C + 1) of (n, C): what stands before each sample, the newest first, and a one."""
        p, n_channels = self.config.order, z.shape[1]
        windows = np.lib.stride_tricks.sliding_window_view(z[:-1], p, axis=0)[:, :, ::-1]
        flat = windows.transpose(0, 2, 1).reshape(-1, p * n_channels)
        return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)

    def step(self, x: ArrayLike) -> F64:
        """Take (n, C), return the surprise (n,): 1 is usual."""
        values = np.asarray(x, dtype=np.float64)
        if values.shape == (1, *self._one):
            score = self.step_one(values[0])
            if score is not None:
                return np.array([score])
        values = checked_samples(x, n_channels=self._weight.shape[1])
        parts = [mean_surprise(*self._squares(part)) for part in self._parts(values)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def step_one(self, sample: F64) -> float | None:
        """Return the surprise of one sample (C,); None, nothing changed, if a value is missing or to be clipped."""
        if sample.shape != self._one or self._n_seen < self.config.order:
            return None
        window, row = self._tail.window(), self._row
        z = window[-len(sample) :]
        np.subtract(sample, self._standard.center, z)
        np.divide(z, self._standard.scale, z)
        if not z.dot(z) < self._calm[0]:  # nor is it if a value is missing or infinite
            return None
        np.dot(self._matrix, window, row)
        np.subtract(row, self._bias, row)
        np.multiply(row, row, row)
        total = row.dot(self._ones)
        if not total < self._calm[1]:
            return None
        if self.config.forget:
            squares, self._square = self._units.surprise_of_whole(row, self._square)
            total = squares.dot(self._ones)
        self._tail.advance()
        self._n_seen += 1
        return float(total) / len(sample)

    def channel_surprise(self, x: ArrayLike) -> F64:
        """Take (n, C) as :meth:`step` does, return the surprise of each channel (n, C)."""
        values = checked_samples(x, n_channels=self._weight.shape[1])
        return np.concatenate([np.zeros_like(values[:0]), *(self._squares(part)[0] for part in self._parts(values))])

    def _parts(self, values: F64) -> list[F64]:
        return [values[a : a + _CHUNK] for a in range(0, len(values), _CHUNK)]

    def _squares(self, x: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Return squared residuals in their units, and which could be told; moves the state on."""
        z, present = self._standard.apply(x)
        n_channels, n_features = self._matrix.shape
        seen = np.concatenate([self._tail.past, z.ravel()])
        windows = np.lib.stride_tricks.sliding_window_view(seen, n_features)[::n_channels]
        # each row by itself, not one product of matrices, whose last bits depend on how many rows there are
        in_units = np.matmul(self._matrix, windows[:, :, None])[:, :, 0] - self._bias
        present[: max(0, self.config.order - self._n_seen)] = False  # nothing can be predicted from before the start
        squares, self._square = self._units.surprise_in_units(in_units, present, self._square)
        self._tail = Tail(seen[len(z) * n_channels :], width=n_channels)
        self._n_seen += len(x)
        return squares, present

    @property
    def state(self) -> State:
        """Past samples, running units, samples seen."""
        return {
            "past": self._tail.past.reshape(-1, len(self._square)),
            "square": self._square.copy(),
            "n_seen": np.array([self._n_seen], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        parts = restored(self.state, state)
        self._tail = Tail(parts["past"].ravel(), width=len(self._square))
        self._square, self._n_seen = parts["square"], int(parts["n_seen"][0])

    @property
    def n_parameters(self) -> int:
        """Coefficients, and three numbers per channel."""
        n_channels = self._weight.shape[1]
        return int(self._weight.size + 3 * n_channels)

    def many(self, n_streams: int) -> VarStreams:
        """Return this fitted model for many streams at once, none of which has seen anything yet."""
        return VarStreams(self._matrix, self._bias, self._standard, self._units, n_streams=n_streams)


class VarStreams:
    """The linear model of many streams in one call; made by :meth:`VarDetector.many`."""

    def __init__(
        self, matrix: F64, bias: F64, standard: Standardisation, units: ResidualUnits, *, n_streams: int
    ) -> None:
        if n_streams < 1:
            raise ConfigError(f"{n_streams} streams; give at least 1")
        self._matrix, self._bias, self._standard, self._units = matrix.T, bias, standard, units
        n_channels = len(matrix)
        self._n_kept = matrix.shape[1] - n_channels
        self._tails = Tails(np.zeros((n_streams, self._n_kept)), room=_CHUNK_OF_MANY * n_channels)
        self._square = np.ones((n_streams, n_channels))
        self._n_seen = 0

    def step(self, x: ArrayLike) -> F64:
        """Take the next samples of every stream (n_streams, n, C), return the surprise (n_streams, n).

        Raises
        ------
        SignalError
            Another number of streams or channels, or infinite values.
        """
        n_streams, n_channels = self._square.shape
        values = checked_streams(x, n_streams=n_streams, n_channels=n_channels)
        scores = np.empty(values.shape[:2])
        for a in range(0, values.shape[1], _CHUNK_OF_MANY):
            part = slice(a, a + _CHUNK_OF_MANY)
            scores[:, part] = self._step(values[:, part])
        return scores

    def _step(self, x: F64) -> F64:
        n_streams, n, n_channels = x.shape
        z, present = self._standard.apply(x)
        seen = self._tails.take(z.reshape(n_streams, -1))
        in_units, width = np.empty((n, n_streams, n_channels)), self._n_kept + n_channels
        for t in range(n):  # an instant at a time: products of one shape, so that chunking cannot change a bit
            np.matmul(seen[:, t * n_channels : t * n_channels + width], self._matrix, in_units[t])
        in_units -= self._bias
        present[:, : max(0, self._n_kept // n_channels - self._n_seen)] = False
        self._n_seen += n
        there = present.transpose(1, 0, 2)
        if self._units.forget:
            # the unit follows sample by sample: all streams of one instant together
            squares = in_units
            for t in range(n):
                squares[t], self._square = self._units.surprise_at(in_units[t], there[t], self._square)
        else:
            squares, _ = self._units.surprise_in_units(in_units, there, self._square)
        return np.asarray((squares.sum(axis=2) / np.maximum(there.sum(axis=2), 1)).T)
