"""The freeze index: power of trembling over power of stepping, in a trailing window.

Choices
-------
* 3-8 Hz over 0.5-3 Hz, summed over all channels (Moore et al. 2008; Bachlin et al. 2010); 2.5 s windows (Moore 2013).
* A floor under the stepping power, in the unit of the signal: a sensor at rest trembles relative to nothing. It stands
  for the power threshold by which Bachlin et al. tell standing from freezing.
* One-sided, and not fitted: this branch says what it looks for before it sees any data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinedge.errors import ConfigError
from kinedge.training.detectors.interface import Detector, State, checked_samples, restored

__all__ = ["BandConfig", "BandRatioDetector"]

F64 = NDArray[np.float64]
_CHUNK = 512


@dataclass(frozen=True)
class BandConfig:
    """Bands and window of the freeze index.

    Parameters
    ----------
    rate_hz
        Of the samples.
    window_s
        Trailing.
    low_hz, high_hz
        Bands, ``[from, to)``.
    floor
        Root mean square over all channels together, in the unit of the signal, added as power to the low band.

    Raises
    ------
    ConfigError
        The bands do not fit rate or window.
    """

    rate_hz: float
    floor: float
    window_s: float = 2.5
    low_hz: tuple[float, float] = (0.5, 3.0)
    high_hz: tuple[float, float] = (3.0, 8.0)

    def __post_init__(self) -> None:
        if min(self.rate_hz, self.window_s, self.floor) <= 0 or self.high_hz[1] > self.rate_hz / 2:
            raise ConfigError(f"bands need positive rate, window and floor, and to end below half the rate, got {self}")
        if 1 / self.window_s > self.low_hz[1] - self.low_hz[0]:
            raise ConfigError(
                f"a window of {self.window_s} s cannot resolve the band {self.low_hz} Hz; take a longer one"
            )

    @property
    def n_window(self) -> int:
        """Samples of the window."""
        return round(self.window_s * self.rate_hz)


class BandRatioDetector(Detector):
    """Power in the high band over power in the low one, per sample."""

    def __init__(self, config: BandConfig) -> None:
        self.config = config
        frequency = np.fft.rfftfreq(config.n_window, 1 / config.rate_hz)
        self._low, self._high = (
            np.flatnonzero((frequency >= a) & (frequency < b)) for a, b in (config.low_hz, config.high_hz)
        )

    def fit(self, prefix: ArrayLike) -> F64:
        """Take the mean of a prefix (n, C), to stand for missing values; all else is given."""
        x = checked_samples(prefix, at_least=self.config.n_window)
        present = np.isfinite(x)
        self._center = np.where(present, x, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        self._reset()
        scores = self.step(x)
        self._reset()
        return scores

    def _reset(self) -> None:
        self._state: State = {"past": np.zeros((self.config.n_window - 1, len(self._center)))}

    def step(self, x: ArrayLike) -> F64:
        """Take (n, C), return ratios (n,)."""
        values = checked_samples(x, n_channels=len(self._center))
        parts = [self._step(values[a : a + _CHUNK]) for a in range(0, len(values), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _step(self, x: F64) -> F64:
        seen = np.concatenate([self._state["past"], np.where(np.isfinite(x), x - self._center, 0.0)])
        self._state["past"] = seen[len(seen) - self.config.n_window + 1 :]
        windows = np.lib.stride_tricks.sliding_window_view(seen, self.config.n_window, axis=0)
        spectrum = np.fft.rfft(windows - windows.mean(axis=2, keepdims=True), axis=2)
        power = 2 * (spectrum.real**2 + spectrum.imag**2).sum(axis=1) / self.config.n_window**2
        low, high = power[:, self._low].sum(axis=1), power[:, self._high].sum(axis=1)
        return np.asarray(high / (low + self.config.floor**2))

    @property
    def state(self) -> State:
        """Past samples."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self._state = restored(self._state, state)

    @property
    def n_parameters(self) -> int:
        """One number per channel."""
        return len(self._center)
