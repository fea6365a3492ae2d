"""What sensors of all kinds may show, with gaps and without, to hold C against numpy."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from kinedge.signals import IMU6, SensorSpec

IMU9 = (*IMU6, "mag_x", "mag_y", "mag_z")
SENSORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("wrist_left", IMU6),
    ("wrist_right", IMU6),
    ("back", IMU6[:3]),
    ("ankle", IMU9),
    ("wrist_left", IMU9),
    ("wrist_right", IMU9),
    ("back", IMU6[2:5]),
    ("ankle", IMU6[3:]),
)


def worn(rng: np.random.Generator, n: int, specs: list[SensorSpec], center: np.ndarray, n_samples: int) -> np.ndarray:
    """Samples (n, n_samples, n_channels) of sensors: still, copied, exchanged, stuck, clipped, coarse or absurd."""
    values = center + rng.normal(size=(n, n_samples, len(center)))
    edges = np.cumsum([0, *(s.n_channels for s in specs)])
    parts = [slice(a, b) for a, b in pairwise(edges)]
    for stream in values:
        kind, at, other = rng.integers(8), *(parts[i] for i in rng.integers(0, len(parts), 2))
        if kind == 0:
            stream[:, at] = center[at] + rng.choice([0, 1e-3, 30]) * rng.normal(size=(1, at.stop - at.start))
        elif kind == 1 and at.stop - at.start == other.stop - other.start:
            stream[:, at] = stream[:, other] * rng.choice([1.0, 1.001])
        elif kind == 2 and at.stop - at.start == other.stop - other.start:
            stream[:, [*range(*at.indices(99))]], stream[:, other] = stream[:, other].copy(), stream[:, at].copy()
        elif kind == 3:
            stream[:, at] = np.clip(stream[:, at], center[at] - 0.2, center[at] + 0.7)
        elif kind == 4:
            stream[:, at] = stream[rng.integers(0, 3, n_samples), at]
        elif kind == 5:  # coarse: what equal samples mean is looked into
            slow = np.cumsum(0.1 * rng.normal(size=(n_samples, at.stop - at.start)), axis=0)
            stream[:, at] = center[at] + np.clip(
                np.round(slow / 0.2) * rng.choice([0.2, 0.7]), -0.5, rng.choice([0.5, 50])
            )
            if rng.random() < 0.5:  # and given again, in order
                again = np.arange(n_samples // 2, n_samples)
                stream[again, at] = stream[again[0] + (again - again[0]) % int(rng.integers(3, 30)), at]
        elif kind == 6:  # in another unit
            stream[:, at] *= rng.choice([0.1, 57.3, 1e4, 1e30])
    return values.astype(np.float32)


def lay_down(rng: np.random.Generator, values: np.ndarray, specs: list[SensorSpec]) -> None:
    """Let some sensors rest in a direction of their own, with more or less turning."""
    start = 0
    for spec in specs:
        for stream in values if spec.channels == IMU6 else ():
            if rng.random() < 0.5:
                felt = rng.normal(size=3)
                noise = rng.normal(size=(len(stream), 6)) * np.repeat([0.02, rng.choice([0.001, 1.0, 5.0])], 3)
                stream[:, start : start + 6] = noise + np.append(9.8 * felt / np.linalg.norm(felt), np.zeros(3))
        start += spec.n_channels


def hold(rng: np.random.Generator, values: np.ndarray) -> None:
    """Let some axes stand at one number from somewhere on, and some streams be coarse."""
    for stream in values:
        if rng.random() < 0.3:
            stream[:] = np.round(stream * 4) / 4
        for c in np.flatnonzero(rng.random(stream.shape[1]) < rng.choice([0.1, 0.4])):
            begin, end = np.sort(rng.integers(0, len(stream) + 1, 2))
            stream[begin:end, c] = stream[min(begin, len(stream) - 1), c]


def sensors_of(rng: np.random.Generator, *, hop: int) -> Any:
    """Return a manifest, as far as sensors, blocks and scores need it."""
    chosen = sorted(rng.permutation(4)[: int(rng.integers(1, 5))].tolist())
    specs = [SensorSpec(*SENSORS[i + 4 * int(rng.integers(2))]) for i in chosen]
    n_channels = sum(s.n_channels for s in specs)
    return SimpleNamespace(
        sensor_specs=specs,
        sensors=specs,
        hop=hop,
        block=hop * int(rng.integers(1, 5)),
        rate_hz=50.0,
        n_channels=n_channels,
        horizons=(1, 4),
        channel_dropout=float(rng.choice([0.0, 0.1, 0.1])),
        center=rng.normal(0, 5, n_channels).tolist(),
        scale=rng.uniform(0.5, 2.0, n_channels).tolist(),
    )


def lossy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Which samples are there: all, some, or none of a channel."""
    valid = rng.random(shape) >= rng.choice([0.0, 0.1, 0.9])
    valid[rng.random(shape[0]) < 0.3] = True
    valid[rng.integers(shape[0]), :, rng.integers(shape[2])] = False
    return valid
