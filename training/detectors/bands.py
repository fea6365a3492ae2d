"""The freeze index: power of trembling over power of stepping, in a trailing window.

Choices
-------
* 3-8 Hz over 0.5-3 Hz, summed over all channels (Moore et al. 2008; Bachlin et al. 2010); 2.5 s windows (Moore 2013).
* A floor under the stepping power, in the unit of the signal: a sensor at rest trembles relative to nothing. It stands
  for the power threshold by which Bachlin et al. tell standing from freezing.
* One-sided, and not fitted: this branch says what it looks for before it sees any data.
* Only the bins of the bands, and each followed from sample to sample: the window is a whole number of periods of each,
  so the newest sample and the one that leaves have the same phase, and their difference times one constant moves the
  bin on. Nothing is turned, so rounding adds up and is not amplified; and it goes away: the bins are computed anew from
  the window once a window, at fixed positions, and wherever the power falls far below what went through since. The sums
  run in one order however samples arrive, so chunking cannot change a bit.
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
    State,
    checked_samples,
    checked_streams,
    restored,
)

__all__ = ["BandConfig", "BandRatioDetector", "BandStreams"]

F64 = NDArray[np.float64]
_CHUNK: Final = 32  # the bins of so many samples stay in the cache
_LEAST: Final = 1e-6  # of the highest power since the bins were computed anew; below, rounding could show


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


class _Bins:
    """Bins of both bands of a window of ``n`` samples, those of the low band first, each as a cosine and a sine.

    Bins (2K, ...) are ``matrix @ window``, the window in the order of positions in the stream modulo ``n``.
    """

    def __init__(self, config: BandConfig) -> None:
        n = config.n_window
        frequency = np.fft.rfftfreq(n, 1 / config.rate_hz)
        # without bin 0, the mean: the index is about what moves
        low, high = (
            np.flatnonzero((frequency >= a) & (frequency < b) & (frequency > 0))
            for a, b in (config.low_hz, config.high_hz)
        )
        turns = np.concatenate([low, low, high, high])[:, None] * np.arange(n) % n
        is_sine = np.repeat([False, True, False, True], [len(low), len(low), len(high), len(high)])
        angle = 2 * np.pi * turns / n
        self.matrix = np.where(is_sine[:, None], np.sin(angle), np.cos(angle))
        self.columns = [np.ascontiguousarray(column)[:, None] for column in self.matrix.T]
        self.n_low = 2 * len(low)
        #: The floor as a sum of squares of bins, whose power is ``2 / n**2`` of it.
        self.floor = config.floor**2 * n**2 / 2


class BandRatioDetector(Detector):
    """Power in the high band over power in the low one, per sample."""

    def __init__(self, config: BandConfig) -> None:
        self.config = config
        self._bins = _Bins(config)
        self._center: F64 = np.zeros(0)
        self._reset()

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
        n_bins, n_channels = len(self._bins.matrix), len(self._center)
        self._lay_out(
            {
                "past": np.repeat(self._center[None], self.config.n_window, axis=0),  # before its start it stood there
                "bins": np.zeros((n_bins, n_channels)),
                "peak": np.zeros(1),
                "phase": np.zeros(1, dtype=np.int64),
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "center": self._center, "state": self.state}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        # copies of views would be views no more, so a copy is laid out anew
        self.config, self._center = kept["config"], kept["center"]
        self._bins = _Bins(self.config)
        self._lay_out(kept["state"])

    def _lay_out(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Lay a state out for stepping."""
        self._past, bins = state["past"].copy(), state["bins"].copy()
        self._peak, self._phase = float(state["peak"][0]), int(state["phase"][0])
        self._rows = list(self._past)
        self._now, self._next = self._bands(bins), self._bands(np.empty_like(bins))
        self._shape = (bins.shape[1],)
        self._difference, self._moved = np.empty((1, bins.shape[1])), np.empty_like(bins)

    def _bands(self, bins: F64) -> tuple[F64, F64, F64]:
        """Return bins (2K, C), and those of the low and the high band as flat views."""
        return bins, bins[: self._bins.n_low].ravel(), bins[self._bins.n_low :].ravel()

    def step(self, x: ArrayLike) -> F64:
        """Take (n, C), return ratios (n,)."""
        values = np.asarray(x, dtype=np.float64)
        if values.shape == (1, *self._shape):
            score = self.step_one(values[0])
            if score is not None:
                return np.array([score])
        values = checked_samples(x, n_channels=len(self._center))
        known = np.where(np.isfinite(values), values, self._center)
        scores = np.empty(len(known))
        last, at = self.config.n_window - 1, 0
        while at < len(known):
            stop = min(at + _CHUNK, at + last - self._phase, len(known))
            at += self._step_block(known[at:stop], scores[at:stop])
            if at < stop or (at < len(known) and self._phase == last):
                scores[at] = self._step_anew(known[at])
                at += 1
        return scores

    def step_one(self, sample: F64) -> float | None:
        """Take one sample (C,) the short way; None, nothing changed, if it must go the long one."""
        phase = self._phase
        if sample.shape != self._shape or phase == self.config.n_window - 1:
            return None
        row, (now, _, _), (new, low, high) = self._rows[phase], self._now, self._next
        np.subtract(sample, row, self._difference[0])
        np.dot(self._bins.columns[phase], self._difference, self._moved)
        np.add(now, self._moved, new)
        power_low, power_high = float(low.dot(low)), float(high.dot(high))
        total = power_low + power_high
        if not _LEAST * self._peak <= total < np.inf:  # nor is it if a value is missing
            return None
        self._now, self._next = self._next, self._now
        self._peak = max(self._peak, total)
        self._phase = phase + 1
        row[:] = sample
        return power_high / (power_low + self._bins.floor)

    def _step_block(self, known: F64, scores: F64) -> int:
        """Write the ratios of samples (n, C) until one needs its bins anew; return how many were taken."""
        if not len(known):
            return 0
        phase, n_low = self._phase, self._bins.n_low
        rows = self._past[phase : phase + len(known)]
        bins = np.empty((len(known) + 1, *self._now[0].shape))
        bins[0] = self._now[0]
        np.multiply(self._bins.matrix.T[phase : phase + len(known), :, None], (known - rows)[:, None], bins[1:])
        np.add.accumulate(bins, axis=0, out=bins)
        # as dot products of single rows, as for a sample alone
        low, high = bins[1:, :n_low].reshape(len(known), -1), bins[1:, n_low:].reshape(len(known), -1)
        power_low, power_high = (np.matmul(b[:, None, :], b[:, :, None])[:, 0, 0] for b in (low, high))
        total = power_low + power_high
        peak = np.maximum.accumulate(np.append(self._peak, total))
        good = (_LEAST * peak[:-1] <= total) & (total < np.inf)
        n_good = len(good) if good.all() else int(np.argmin(good))
        scores[:n_good] = power_high[:n_good] / (power_low[:n_good] + self._bins.floor)
        rows[:n_good] = known[:n_good]
        self._now[0][:] = bins[n_good]
        self._peak = float(peak[n_good])
        self._phase += n_good
        return n_good

    def _step_anew(self, known: F64) -> float:
        """Take one sample (C,) and compute the bins from the whole window."""
        self._past[self._phase] = known
        self._phase = (self._phase + 1) % self.config.n_window
        now, low, high = self._now
        np.matmul(self._bins.matrix, self._past - self._center, now)
        power_low, power_high = float(low.dot(low)), float(high.dot(high))
        self._peak = power_low + power_high
        return power_high / (power_low + self._bins.floor)

    @property
    def state(self) -> State:
        """Past samples by their position modulo the window, bins, their highest power, the next position."""
        return {
            "past": self._past.copy(),
            "bins": self._now[0].copy(),
            "peak": np.array([self._peak]),
            "phase": np.array([self._phase], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self._lay_out(restored(self.state, state))

    @property
    def n_parameters(self) -> int:
        """One number per channel."""
        return len(self._center)

    def many(self, n_streams: int) -> BandStreams:
        """Return this fitted detector for many streams at once, none of which has seen anything yet."""
        return BandStreams(self._bins, self._center, n_streams=n_streams)


class BandStreams:
    """The freeze index of many streams in one call; made by :meth:`BandRatioDetector.many`."""

    def __init__(self, bins: _Bins, center: F64, *, n_streams: int) -> None:
        if n_streams < 1:
            raise ConfigError(f"{n_streams} streams; give at least 1")
        self._bins, self._center = bins, center
        self._shape = (n_streams, len(center))
        n_bins, n_window = bins.matrix.shape
        # streams and channels side by side in the last axis: one product moves all of them
        self._mean = np.tile(center, n_streams)
        self._past = np.repeat(self._mean[None], n_window, axis=0)
        self._now = np.zeros((n_bins, len(self._mean)))
        self._moved = np.empty_like(self._now)
        self._peak = np.zeros(n_streams)
        self._phase = 0

    def step(self, x: ArrayLike) -> F64:
        """Take the next samples of every stream (n_streams, n, C), return ratios (n_streams, n).

        Raises
        ------
        SignalError
            Another number of streams or channels, or infinite values.
        """
        values = checked_streams(x, n_streams=self._shape[0], n_channels=self._shape[1])
        scores = np.empty(values.shape[:2])
        for t in range(values.shape[1]):
            sample = values[:, t].ravel()
            if np.isnan(sample).any():
                sample = np.where(np.isnan(sample), self._mean, sample)
            scores[:, t] = self._step_one(sample)
        return scores

    def _step_one(self, sample: F64) -> F64:
        """Take one sample of every stream (n_streams * C,), nothing missing."""
        past = self._past[self._phase]
        np.multiply(self._bins.columns[self._phase], sample - past, self._moved)
        self._now += self._moved
        past[:] = sample
        self._phase += 1
        if self._phase == len(self._past):
            self._phase = 0
            np.matmul(self._bins.matrix, self._past - self._mean, self._now)
            low, high = self._powers()
            self._peak = low + high
            return high / (low + self._bins.floor)
        low, high = self._powers()
        total = low + high
        good = (_LEAST * self._peak <= total) & (total < np.inf)
        self._peak = np.maximum(self._peak, total)
        if not good.all():
            columns = np.repeat(~good, self._shape[1])
            self._now[:, columns] = self._bins.matrix @ (self._past[:, columns] - self._mean[columns])
            low, high = self._powers()
            self._peak[~good] = (low + high)[~good]
        return high / (low + self._bins.floor)

    def _powers(self) -> tuple[F64, F64]:
        """Return the sums of squares (n_streams,) of the bins of both bands."""
        np.multiply(self._now, self._now, self._moved)
        n_low = self._bins.n_low
        low, high = self._moved[:n_low].sum(axis=0), self._moved[n_low:].sum(axis=0)
        return low.reshape(self._shape).sum(axis=1), high.reshape(self._shape).sum(axis=1)
