"""Whether a sensor moves later or earlier beside the others than it did: a delay surprises a forecaster for a moment.

Of each sensor the size of its acceleration (of its turning, where it has none) is taken in bins of a tenth of a second
or less, less its mean of the last second; ``beat`` is the root of that, with its sign, so that a heel strike does not
outweigh all else. With ``E`` the energies, all fading over a second and a half, and at lags of up to half a second,

    N(lag) = sum beat_a(t) beat_b(t + lag) / sqrt((E_a + floor) (E_b + floor))

is how two sensors move together now. ``U`` is the mean of ``N`` of the last minutes, as far as both moved. Taken as
what ``N`` scatters around, alike at every lag, the logarithm of how much better a delay of ``d`` explains it than none
is proportional to ``sum_lag N(lag) (U(lag - d) - U(lag))``; ``late`` of a sensor is the greatest of that, summed over
its pairs, at delays of two bins and more. 0 tells nothing, as of a person who rests or a sensor that is silent; moving
as before is below 0. A delay that stays becomes usual in some minutes, and one that was there from the start is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.native import NativeTiming
from kinedge.signals import Quantity, quantity_of

__all__ = ["UNTOLD", "Timing", "TimingState"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

UNTOLD: Final = -1e6  # of a sensor of which it is not known yet how it moves beside the others
_BIN_S: Final = 0.1
_FURTHEST_S: Final = 0.5
_LEVEL_S: Final = 1.0
_MEMORY_S: Final = 1.5
_USUAL_S: Final = 120.0
_LEARNED_S: Final = 2.0  # of moving together as much as can be
_LEAST: Final = 2  # bins: less is no delay
_STILL: Final = 1.0  # m/s² or rad/s: of beats squared; who moves less is hardly told from a sensor at rest
_MOST_LAGS: Final = 16  # of a model whose hop cannot be parted in bins of a tenth of a second
_MOST_BINS: Final = 256  # of a hop
_MOST_SENSORS: Final = 8  # 28 pairs; what is remembered of them grows with the square
_TINY: Final = 1e-9


@dataclass(frozen=True, eq=False)
class TimingState:
    """How the sensors moved.

    Parameters
    ----------
    level, begun : (n_streams, n_sensors)
        Mean of the last second, and whether there is any.
    beats : (n_streams, n_sensors, 2 n_lags)
        The last ones, the newest last.
    energy : (n_streams, n_sensors)
    cross, usual : (n_streams, n_pairs, 2 n_lags + 1)
        Fading sums of the products, and of ``N``.
    weight : (n_streams, n_pairs)
        Of ``usual``.
    """

    level: F64
    begun: Mask
    beats: F64
    energy: F64
    cross: F64
    usual: F64
    weight: F64


class Timing:
    """Watches how the sensors of a model move beside each other.

    Parameters
    ----------
    manifest
        Gives hop, rate and sensors. Of one sensor, or of more than eight, nothing is told.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.n_sensors = len(manifest.sensors)
        self._hop, hop_s = manifest.hop, manifest.hop / manifest.rate_hz
        parts = [n for n in range(1, min(self._hop, _MOST_BINS) + 1) if self._hop % n == 0]
        self._n_bins = next((n for n in parts if hop_s / n <= _BIN_S), parts[-1])
        self.bin_s = hop_s / self._n_bins
        self.n_lags = min(max(_LEAST, round(_FURTHEST_S / self.bin_s)), _MOST_LAGS)
        self._pairs = list(combinations(range(self.n_sensors), 2)) if self.n_sensors <= _MOST_SENSORS else []
        self._columns: list[list[int]] = []
        start = 0
        for sensor in manifest.sensor_specs:
            of = [quantity_of(c) for c in sensor.channels]
            wanted = next(q for q in (Quantity.ACC, Quantity.GYR, Quantity.MAG) if q in of)
            self._columns.append([start + i for i, q in enumerate(of) if q is wanted])
            start += len(of)
        self._follow = 1 - math.exp(-self.bin_s / _LEVEL_S)
        self._keep, self._keep_usual = math.exp(-hop_s / _MEMORY_S), math.exp(-hop_s / _USUAL_S)
        self._floor = _STILL * _MEMORY_S / self.bin_s
        self._learned = _LEARNED_S / hop_s
        self._n_channels = start
        self._native = self.in_c() if NativeTiming.is_there() else None

    def in_c(self) -> NativeTiming:
        """Return the same in C, told all that it must know of the model."""
        edges = np.cumsum([0, *map(len, self._columns)])
        return NativeTiming(
            {
                "hop": self._hop,
                "n_channels": self._n_channels,
                "n_sensors": self.n_sensors,
                "n_bins": self._n_bins,
                "n_lags": self.n_lags,
                "n_pairs": len(self._pairs),
                "least": _LEAST,
                "follow": self._follow,
                "keep": self._keep,
                "keep_usual": self._keep_usual,
                "floor_energy": self._floor,
                "learned": self._learned,
                "untold": UNTOLD,
            },
            edges=np.array(edges, np.int64),
            columns=np.array([c for columns in self._columns for c in columns], np.int64),
            pairs=np.array(self._pairs, np.int64).reshape(-1, 2),
        )

    def initial_state(self, n_streams: int) -> TimingState:
        """Return the state of streams that have seen nothing."""
        n, p, lags = n_streams, len(self._pairs), 2 * self.n_lags + 1
        s = self.n_sensors if p else 0
        return TimingState(
            level=np.zeros((n, s)),
            begun=np.zeros((n, s), bool),
            beats=np.zeros((n, s, lags - 1)),
            energy=np.zeros((n, s)),
            cross=np.zeros((n, p, lags)),
            usual=np.zeros((n, p, lags)),
            weight=np.zeros((n, p)),
        )

    def advance(self, values: F32, valid: Mask, state: TimingState, rows: Rows) -> F64:
        """Take one hop of some streams, write what is remembered into ``state``, and return ``late``.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels)
            SI units.
        state
            Of all streams.
        rows : (n_streams,)
            Which they are, each at most once.

        Returns
        -------
        late : (n_streams, n_sensors)
            Above 0 where the sensor fits better, taken earlier or later; ``UNTOLD`` where nothing is known yet.
        """
        if self._native is not None:
            found = self._native.step(values, valid, state, rows)
            if found is not None:
                return found
        if not self._pairs:
            return np.full((len(rows), self.n_sensors), UNTOLD)
        beats = self._beats(values, valid, state, rows)
        now, moving = self._together(beats, state, rows)
        weight, usual = state.weight[rows], state.usual[rows]
        gain = self._gain(now, usual / np.maximum(weight, _TINY)[..., None])
        known = weight >= self._learned
        later = np.zeros((len(rows), self.n_sensors, 2 * self.n_lags + 1))
        told = np.zeros((len(rows), self.n_sensors), bool)
        for p, (a, b) in enumerate(self._pairs):
            of_pair = np.where(known[:, p, None], gain[:, p], 0.0)
            later[:, a] += of_pair[:, ::-1]
            later[:, b] += of_pair
            told[:, a] |= known[:, p]
            told[:, b] |= known[:, p]
        state.weight[rows] = self._keep_usual * weight + moving
        state.usual[rows] = self._keep_usual * usual + moving[..., None] * now
        apart = np.abs(np.arange(-self.n_lags, self.n_lags + 1)) >= _LEAST
        return np.where(told, later[..., apart].max(axis=2), UNTOLD)

    def _beats(self, values: F32, valid: Mask, state: TimingState, rows: Rows) -> F64:
        """Return the last beats and those of the hop, (n_streams, n_sensors, 2 n_lags + n_bins)."""
        n, m = len(rows), self._hop // self._n_bins
        found = np.zeros((n, self.n_sensors, self._n_bins))
        for g, columns in enumerate(self._columns):
            square, there = np.zeros((n, self._hop)), np.ones((n, self._hop), bool)
            for c in columns:
                x = values[..., c].astype(np.float64)
                square, there = square + x * x, there & valid[..., c]
            size = np.where(there, np.sqrt(square), 0.0).reshape(n, self._n_bins, m)
            count = there.reshape(n, self._n_bins, m).sum(axis=2)
            total = np.zeros((n, self._n_bins))
            for i in range(m):  # sample after sample, so that every bit is that of C
                total += size[..., i]
            level, begun = state.level[rows, g], state.begun[rows, g]
            for k in range(self._n_bins):
                heard, mean = count[:, k] > 0, total[:, k] / np.maximum(count[:, k], 1)
                level = np.where(heard & ~begun, mean, level)
                begun = begun | heard
                level = np.where(heard, level + self._follow * (mean - level), level)
                beyond = mean - level
                found[:, g, k] = np.where(heard, np.copysign(np.sqrt(np.abs(beyond)), beyond), 0.0)
            state.level[rows, g], state.begun[rows, g] = level, begun
        every = np.concatenate([state.beats[rows], found], axis=2)
        state.beats[rows] = every[..., self._n_bins :]
        return every

    def _together(self, beats: F64, state: TimingState, rows: Rows) -> tuple[F64, F64]:
        """Return ``N`` (n_streams, n_pairs, 2 n_lags + 1), and how far both sensors of each pair move, 0 to 1."""
        energy, cross = self._keep * state.energy[rows], self._keep * state.cross[rows]
        for k in range(self._n_bins):
            middle = beats[..., self.n_lags + k]
            energy = energy + middle * middle
            for p, (a, b) in enumerate(self._pairs):
                cross[:, p] += middle[:, a, None] * beats[:, b, k : k + 2 * self.n_lags + 1]
        state.energy[rows], state.cross[rows] = energy, cross
        first, second = ([pair[i] for pair in self._pairs] for i in (0, 1))
        raised = energy + self._floor
        moves = energy / raised
        now = cross / np.sqrt(raised[:, first] * raised[:, second])[..., None]
        return now, moves[:, first] * moves[:, second]

    def _gain(self, now: F64, usual: F64) -> F64:
        """Return by how much each delay of the second sensor explains ``now`` better than none, (.., 2 n_lags + 1)."""
        lags = 2 * self.n_lags + 1
        around = np.zeros((*usual.shape[:2], 2 * lags - 1))  # 0 beyond the lags that are known; the last lag first
        around[..., self.n_lags : self.n_lags + lags] = usual[..., ::-1]
        fit = np.zeros_like(now)
        for lag in range(lags):
            fit = fit + now[..., lag, None] * around[..., lags - 1 - lag : 2 * lags - 1 - lag]
        return fit - fit[..., [self.n_lags]]
