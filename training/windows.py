"""Recordings as training crops: normalisation from training data, pieces without excluded regions, augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.gaps import Gaps
from kinedge.errors import SignalError
from kinedge.recording import Recording, Region
from kinedge.signals import LEAST_SCALE, Quantity, SensorSpec, quantity_of
from kinedge.training.rotations import matrix, small_rotation

__all__ = ["Augmentation", "Normalisation", "Pieces", "common_layout", "filled", "labelled"]

F32 = NDArray[np.float32]
_MOST_LOST = 0.4  # of a sensor's packets, in training
_PACKET_S = (0.1, 0.5)
_SHARE_OF_RANGE = 0.02  # a channel that hardly ever moves: its unit is this share of what it does then


def common_layout(recordings: Sequence[Recording]) -> tuple[tuple[SensorSpec, ...], float]:
    """Return sensors and rate that all recordings share.

    Raises
    ------
    SignalError
        There is none, or one differs.
    """
    if not recordings:
        raise SignalError("no recordings given: training and validation need at least one each")
    first = recordings[0]
    for r in recordings:
        if r.sensors != first.sensors or r.rate_hz != first.rate_hz:
            raise SignalError(
                f"{r.source or 'recording'} has {r.rate_hz} Hz and {', '.join(r.channel_names)}, but "
                f"{first.source or 'the first'} has {first.rate_hz} Hz and {', '.join(first.channel_names)}; "
                "bring all to one grid and select the same sensors first"
            )
    return first.sensors, first.rate_hz


@dataclass(frozen=True, eq=False)
class Normalisation:
    """``clip((value - center) / scale)`` per channel, zero where invalid.

    ``scale`` is the standard deviation of what lies between the 0.5 and 99.5 % quantiles: an IQR is far too small for
    a wearer who mostly rests, and a plain deviation is moved by a handful of impacts.
    """

    center: F32
    scale: F32
    clip: float

    @classmethod
    def fit(cls, pieces: Pieces, *, clip: float) -> Normalisation:
        """Take center and scale from training data alone."""
        n_channels = pieces.values.shape[1]
        center, scale = np.zeros(n_channels, np.float32), np.ones(n_channels, np.float32)
        names = [channel for s in pieces.sensors for channel in s.channels]
        for c, name in enumerate(names):
            column = pieces.values[pieces.valid[:, c], c].astype(np.float64)
            floor = LEAST_SCALE[quantity_of(name)]
            if len(column) == 0:
                scale[c] = floor
                continue
            low, high = np.quantile(column, [0.005, 0.995])
            center[c] = np.median(column)
            scale[c] = max(np.clip(column, low, high).std(), _SHARE_OF_RANGE * np.ptp(column), floor)
        return cls(center, scale, clip)

    def apply(self, values: F32, valid: NDArray[np.bool_]) -> tuple[F32, F32]:
        """Return x and mask as the model takes them; in single precision, step by step as the edge does it."""
        x = (values - self.center) * (1.0 / self.scale.astype(np.float64)).astype(np.float32)
        np.clip(x, -np.float32(self.clip), np.float32(self.clip), out=x)
        x[~valid] = 0
        return x, valid.astype(np.float32)


def filled(x: F32, mask: F32, gaps: Gaps) -> F32:
    """Return what a network is shown of pieces (B, T, C) or of one (T, C), each of which begins with nothing seen."""
    shown = np.array(x if x.ndim == 3 else x[None])
    nothing = np.zeros((len(shown), x.shape[-1]), np.float32)
    gaps.fill(shown, mask.reshape(shown.shape) > 0, nothing, nothing.astype(np.int32))
    return shown.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Stretches of recordings without excluded regions, one behind the other in one array.

    Parameters
    ----------
    values, valid : (n, n_channels)
        Values are 0 where invalid.
    starts, ends : (n_pieces,)
        Of each piece, ``[start, end)``.
    """

    sensors: tuple[SensorSpec, ...]
    rate_hz: float
    values: F32
    valid: NDArray[np.bool_]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, recordings: Sequence[Recording], *, exclude_labels: Sequence[str], min_length: int) -> Pieces:
        """Cut recordings around regions with these labels; a label that ends in ``*`` stands for all that begin so.

        Raises
        ------
        SignalError
            The recordings differ in layout, or no piece of ``min_length`` samples is left.
        """
        sensors, rate_hz = common_layout(recordings)
        values, valid, lengths = [], [], []
        for recording in recordings:
            keep = np.ones(len(recording), dtype=bool)
            for region in labelled(recording, exclude_labels):
                keep[region.start : region.end] = False
            edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(np.int8), [0]])))
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                if end - start >= min_length:
                    ok = recording.valid[start:end]
                    values.append(np.where(ok, recording.values[start:end], np.float32(0)).astype(np.float32))
                    valid.append(ok)
                    lengths.append(int(end - start))
        if not lengths:
            raise SignalError(
                f"no piece of {min_length} samples is left of {len(recordings)} recordings after excluding "
                f"{', '.join(exclude_labels) or 'nothing'}; give longer recordings or a smaller receptive field"
            )
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(
            sensors,
            rate_hz,
            np.concatenate(values),
            np.concatenate(valid),
            ends - np.array(lengths, dtype=np.int64),
            ends,
        )

    def crops(
        self, rng: np.random.Generator, *, n_crops: int, length: int
    ) -> tuple[F32, NDArray[np.bool_], NDArray[np.bool_]]:
        """Draw crops (n_crops, length, C): values, valid, and (n_crops, length) whether it is inside its piece.

        Every sample is about equally likely: long pieces are drawn more often. A piece shorter than ``length`` is
        taken from its start and padded behind with invalid samples.
        """
        lengths = self.ends - self.starts
        piece = rng.choice(len(lengths), n_crops, p=lengths / lengths.sum())
        room = np.maximum(lengths[piece] - length, 0)
        index = (self.starts[piece] + rng.integers(0, room + 1))[:, None] + np.arange(length)
        inside = index < self.ends[piece][:, None]
        index = np.minimum(index, len(self.values) - 1)
        valid = self.valid[index] & inside[:, :, None]
        return np.where(valid, self.values[index], np.float32(0)), valid, inside


def labelled(recording: Recording, patterns: Sequence[str]) -> tuple[Region, ...]:
    """Return the regions with one of these labels; one that ends in ``*`` stands for all that begin so."""
    whole = {p for p in patterns if not p.endswith("*")}
    begins = tuple(p[:-1] for p in patterns if p.endswith("*"))
    return tuple(r for r in recording.labels if r.label in whole or r.label.startswith(begins))


@dataclass(frozen=True)
class Augmentation:
    """What is done to crops so that a model meets lost sensors and other mountings before the wearer does.

    Parameters
    ----------
    sensor_dropout
        Probability that a sensor is missing for a whole crop.
    burst_dropout
        Probability that a sensor misses one burst of up to ``burst_s``.
    packet_dropout
        Probability that a sensor has a bad radio: up to 40 % of its packets, of 0.1 to 0.5 s, are lost.
    channel_dropout
        Probability that a sensor misses one of its channels for a whole crop, as where an axis is kept from the model.
    rotation_deg
        Standard deviation, per axis, of a mounting rotation; accelerometer, gyroscope and magnetometer turn as one.
    """

    sensor_dropout: float
    burst_dropout: float
    burst_s: float
    packet_dropout: float
    channel_dropout: float
    rotation_deg: float

    def rotate(
        self, rng: np.random.Generator, values: F32, valid: NDArray[np.bool_], sensors: Sequence[SensorSpec]
    ) -> None:
        """Turn every sensor of every crop (B, T, C), in place; a sample with an axis missing loses all three."""
        if self.rotation_deg == 0:
            return
        start = 0
        for sensor in sensors:
            turns = np.concatenate([small_rotation(rng, sd_deg=self.rotation_deg) for _ in range(len(values))])
            rotation = matrix(turns).astype(np.float32)
            for quantity in Quantity:
                columns = [start + i for i, c in enumerate(sensor.channels) if quantity_of(c) is quantity]
                if len(columns) == 3:
                    values[:, :, columns] = values[:, :, columns] @ rotation.transpose(0, 2, 1)
                    valid[:, :, columns] &= valid[:, :, columns].all(axis=2, keepdims=True)
            start += sensor.n_channels

    def drop(self, rng: np.random.Generator, mask: F32, sensors: Sequence[SensorSpec], *, rate_hz: float) -> None:
        """Hide sensors, axes and bursts from the input mask (B, T, C), in place; one sensor of a crop always stays."""
        n_crops, length = mask.shape[:2]
        gone = rng.random((n_crops, len(sensors))) < self.sensor_dropout
        gone[np.arange(n_crops), rng.integers(0, len(sensors), n_crops)] = False
        burst = rng.random((n_crops, len(sensors))) < self.burst_dropout
        first = rng.integers(0, length, burst.shape)
        last = first + rng.integers(1, max(2, round(self.burst_s * rate_hz)), burst.shape)
        bad_radio = rng.random((n_crops, len(sensors))) < self.packet_dropout
        lost = self._lost_packets(rng, (n_crops, len(sensors)), length, rate_hz=rate_hz) & bad_radio[:, :, None]
        widths = np.array([s.n_channels for s in sensors])
        broken = (rng.random((n_crops, len(sensors))) < self.channel_dropout) & (widths > 1)
        which = (rng.random((n_crops, len(sensors))) * widths).astype(np.intp)
        at = np.arange(length)
        start = 0
        for i, sensor in enumerate(sensors):
            in_burst = burst[:, i, None] & (at >= first[:, i, None]) & (at < last[:, i, None])
            mask[:, :, start : start + sensor.n_channels][in_burst | lost[:, i] | gone[:, i, None]] = 0
            crops = np.flatnonzero(broken[:, i])
            mask[crops, :, start + which[crops, i]] = 0
            start += sensor.n_channels

    @staticmethod
    def _lost_packets(
        rng: np.random.Generator, shape: tuple[int, int], length: int, *, rate_hz: float
    ) -> NDArray[np.bool_]:
        """Return (*shape, length): samples in packets that are lost one by one, of one length and share per sensor."""
        share = rng.uniform(0.0, _MOST_LOST, (*shape, 1))
        shortest, longest = (s * rate_hz for s in _PACKET_S)
        samples = rng.uniform(shortest, longest, (*shape, 1))
        packet = ((np.arange(length) + rng.uniform(0, 1, (*shape, 1)) * samples) / samples).astype(np.int64)
        drawn = rng.random((*shape, int(packet.max()) + 1)) < share
        return np.take_along_axis(drawn, packet, axis=2)
