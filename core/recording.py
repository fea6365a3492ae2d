"""A recording: samples of all sensors of one person on one grid, with a mask and labelled regions.

Files, public data sets and the simulator all become this one type; training, calibration, replay and
benchmarks read nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.signals import SensorSpec

__all__ = ["Recording", "Region"]


@dataclass(frozen=True, order=True)
class Region:
    """A labelled stretch of samples ``[start, end)``."""

    start: int
    end: int
    label: str

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise SignalError(
                f"region {self.label!r} must be [start, end) with 0 <= start < end, got {self.start}, {self.end}"
            )


@dataclass(frozen=True, eq=False)
class Recording:
    """Samples of all sensors of one person on one regular grid.

    Parameters
    ----------
    sensors
        In column order.
    rate_hz
        Of the grid.
    values : (n, n_channels) float32
        SI units; what stands where ``valid`` is False means nothing.
    valid : (n, n_channels) bool
        False where a sample is missing.
    labels
        Labelled regions, in samples.
    subject, session
        Pseudonyms; splits are made by subject.
    source
        Data set and item, for messages and model cards.
    """

    sensors: tuple[SensorSpec, ...]
    rate_hz: float
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    labels: tuple[Region, ...] = ()
    subject: str = "unknown"
    session: str = "unknown"
    source: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_channels = sum(s.n_channels for s in self.sensors)
        if self.values.ndim != 2 or self.values.shape[1] != n_channels or self.values.shape != self.valid.shape:
            raise SignalError(
                f"{self.source}: {n_channels} channels named, "
                f"but values are {self.values.shape} and valid {self.valid.shape}"
            )
        if len({s.name for s in self.sensors}) != len(self.sensors):
            raise SignalError(f"{self.source}: a sensor name stands twice")
        if any(r.end > len(self) for r in self.labels):
            raise SignalError(f"{self.source}: a label ends behind the {len(self)} samples")
        if not np.isfinite(self.values[self.valid]).all():
            raise SignalError(f"{self.source}: NaN or infinity in samples marked valid; mark them invalid instead")

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Full names of the columns: ``wrist_left.acc_x``."""
        return tuple(name for s in self.sensors for name in s.full_names)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self) / self.rate_hz

    def columns(self, sensor: str) -> slice:
        """Return the columns of one sensor.

        Raises
        ------
        SignalError
            There is no such sensor here.
        """
        start = 0
        for spec in self.sensors:
            if spec.name == sensor:
                return slice(start, start + spec.n_channels)
            start += spec.n_channels
        raise SignalError(f"{self.source}: no sensor {sensor!r}; here are {', '.join(s.name for s in self.sensors)}")

    def select(self, sensors: Iterable[SensorSpec]) -> Recording:
        """Keep these sensors and channels, in this order.

        Raises
        ------
        SignalError
            One of them is not here.
        """
        wanted = tuple(sensors)
        names = {name: i for i, name in enumerate(self.channel_names)}
        missing = [name for s in wanted for name in s.full_names if name not in names]
        if missing:
            raise SignalError(f"{self.source}: missing channels {', '.join(missing)}")
        index = [names[name] for s in wanted for name in s.full_names]
        return replace(self, sensors=wanted, values=self.values[:, index], valid=self.valid[:, index])

    def slice(self, start: int, end: int) -> Recording:
        """Cut ``[start, end)`` out; labels are cut with it."""
        start, end = max(0, start), min(len(self), end)
        labels = tuple(
            Region(max(r.start, start) - start, min(r.end, end) - start, r.label)
            for r in self.labels
            if r.start < end and r.end > start
        )
        return replace(self, values=self.values[start:end], valid=self.valid[start:end], labels=labels)

    def label_mask(self, label: str | None = None) -> NDArray[np.bool_]:
        """Return (n,) bool: inside a region with this label (any label when None)."""
        mask = np.zeros(len(self), dtype=bool)
        for region in self.labels:
            if label is None or region.label == label:
                mask[region.start : region.end] = True
        return mask

    def digest(self) -> str:
        """SHA-256 over what a model sees of it: names, rate, values, mask."""
        h = hashlib.sha256()
        h.update(f"{self.channel_names}|{self.rate_hz!r}|{self.values.shape}".encode())
        h.update(np.ascontiguousarray(np.where(self.valid, self.values, 0), dtype="<f4").tobytes())
        h.update(np.packbits(self.valid).tobytes())
        return h.hexdigest()
