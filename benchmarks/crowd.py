"""Many people at once, for benchmarks: an untrained model of any size, and decoded chunks of all their sensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge import __version__
from kinedge.arrays import arrays_to_npz
from kinedge.bundle import CALIBRATION_NAME, CARD_NAME, Bundle, Manifest, pack_bundle, read_bundle
from kinedge.edge.calibration import MAX_REFERENCE, Calibration, EnrolledCohort
from kinedge.edge.coordination import Coordination, Lines, Weights
from kinedge.edge.history import N_BACK
from kinedge.edge.pipeline import Pipeline
from kinedge.firmware_bridge.clock import ClockMap
from kinedge.signals import ImuChunk, Quantity, SensorSpec, quantity_of
from kinedge.units import NS_PER_S, STANDARD_GRAVITY_M_S2, period_ns

__all__ = ["Crowd", "untrained_bundle", "walking_samples"]

_START_NS: Final = 1000 * NS_PER_S
_DELAY_NS: Final = 8_000_000  # of the fastest packets
_JITTER_NS: Final = 15_000_000
_RHYTHM: Final = 3.0  # of the noise
_STEP_S: Final = 0.5
_SETS: Final = 16  # of samples, which all people share


def untrained_bundle(sensors: Sequence[SensorSpec], *, rate_hz: float, n_parameters: int) -> Bundle:
    """Return a model that knows nothing and costs what one of at least ``n_parameters`` costs; hops of a second."""
    import torch  # chunks alone need none

    from kinedge.quantize.export import export_onnx
    from kinedge.training.model import Forecaster, ForecasterConfig

    n = sum(s.n_channels for s in sensors)
    torch.manual_seed(0)
    model = next(
        m
        for width in range(8, 512, 4)
        if (m := Forecaster(ForecasterConfig(n_channels=n, width=width))).n_parameters >= n_parameters
    )
    hop = round(rate_hz)
    outputs, size = model.config.n_outputs, model.state_size
    fields = {
        "name": "untrained",
        "created_utc": "1970-01-01T00:00:00Z",
        "kinedge_version": __version__,
        "intended_use": "Measures what a model of this size costs; it says nothing about anybody.",
        "sensors": [{"name": s.name, "channels": list(s.channels)} for s in sensors],
        "rate_hz": rate_hz,
        "horizons": list(model.config.horizons),
        "receptive_field": model.config.receptive_field,
        "hop": hop,
        "block": 2 * hop,
        # what no body shows would not be believed
        "center": [STANDARD_GRAVITY_M_S2 * (c == "acc_z") for s in sensors for c in s.channels],
        "scale": [1.0] * n,
        "clip": 20.0,
        "student_t_nu": [[4.0] * n for _ in model.config.horizons],
        "inputs": [
            {"name": "x", "shape": [-1, -1, n]},
            {"name": "mask", "shape": [-1, -1, n]},
            {"name": "state", "shape": [-1, size]},
        ],
        "outputs": [
            {"name": "mu", "shape": [-1, -1, outputs]},
            {"name": "log_sigma", "shape": [-1, -1, outputs]},
            {"name": "state_out", "shape": [-1, size]},
        ],
        "state_size": size,
        "precisions": {"fp32": "model.fp32.onnx"},
        "n_parameters": model.n_parameters,
    }
    listed = {name: {"sha256": "0" * 64, "n_bytes": 0} for name in ("model.fp32.onnx", CALIBRATION_NAME)}
    blank = Calibration.blank(Manifest.model_validate({**fields, "parts": listed}))
    blank = replace(blank, enrolled=_cohort(len(sensors)), coordination=_together(len(sensors)))
    parts = {
        "model.fp32.onnx": export_onnx(model),
        CALIBRATION_NAME: arrays_to_npz(blank.to_arrays()),
        CARD_NAME: b"# untrained\n",
    }
    return read_bundle(pack_bundle(fields, parts))


def _together(n_sensors: int) -> Coordination | None:
    """Return a coordination that says nothing, as large as a real one; None of a single sensor, which has none."""
    if n_sensors < 2:
        return None
    levels = np.linspace(-6.0, 0.0, 5)[:, None] * np.ones(n_sensors)
    nothing, flat = np.zeros(n_sensors), np.ones((5, n_sensors))
    lines = Lines(np.zeros((n_sensors, n_sensors + 1)), levels, -flat, 0 * flat, flat)
    ranks = np.sort(np.random.default_rng(1).exponential(0.3, MAX_REFERENCE))
    alone = np.tile([-3.0, 3.0], (n_sensors, 1))
    weights = Weights(nothing, nothing, nothing + 0.1, nothing, nothing, ranks, alone, np.zeros(1))
    return Coordination(lines, weights)


def _cohort(n_sensors: int) -> EnrolledCohort:
    """Return an enrolled cohort that says nothing, as large as a real one."""
    more_often = np.linspace(0.01, 0.5, N_BACK + 1)
    return EnrolledCohort(
        reference=np.sort(np.random.default_rng(0).exponential(0.3, MAX_REFERENCE)),
        likelihood=np.tile([-3.0, 3.0], (n_sensors, 1)),
        levels=np.array([1.0]),
        limits=more_often[None],
        n_subjects=np.array([10.0]),
        tail_levels=np.array([1.5, 2.0, 3.0]),
        tails=more_often / np.array([[2.0], [4.0], [8.0]]),
        weights=None if (together := _together(n_sensors)) is None else together.weights,
    )


def walking_samples(manifest: Manifest, n: int, rng: np.random.Generator, *, period: float) -> NDArray[np.float32]:
    """Return noise (n, n_channels) at a model's usual level and scale, with a rhythm of steps in its acceleration."""
    center, scale = np.array(manifest.center), np.array(manifest.scale)
    names = [c for spec in manifest.sensor_specs for c in spec.channels]
    shaken = _RHYTHM * scale * [quantity_of(name) is Quantity.ACC for name in names]
    rhythm = np.sin(2 * np.pi * np.arange(n) / period)[:, None]
    samples: NDArray[np.float32] = (rng.normal(center, scale, (n, len(names))) + shaken * rhythm).astype(np.float32)
    return samples


@dataclass(frozen=True, eq=False)
class Arrival:
    """A chunk, whose it is, and when it comes."""

    subject: str
    chunk: ImuChunk
    arrival_ns: int


class Crowd:
    """Sensors of many people that send chunks of random samples, each at moments of its own.

    Parameters
    ----------
    manifest
        Of the model: sensors, rate, usual level and scale.
    n_people
        How many wear all sensors.
    chunk_samples
        In one chunk.
    loss
        Share of chunks that never come.
    walking
        Whether there is a rhythm in the samples, one that goes on from chunk to chunk.
    """

    def __init__(
        self, manifest: Manifest, n_people: int, *, chunk_samples: int, loss: float = 0.0, walking: bool = False
    ) -> None:
        self.subjects = tuple(f"p{i:05d}" for i in range(n_people))
        self.sensors = manifest.sensor_specs
        self.chunk_samples = chunk_samples
        self.interval_ns = period_ns(manifest.rate_hz)
        self._loss = loss
        self._rng = np.random.default_rng(0)
        self._offset_ns = self._rng.integers(0, chunk_samples * self.interval_ns, (n_people, len(self.sensors)))
        # samples are shared by all chunks, so that what grows is the edge's
        self._values: list[list[NDArray[np.float32]]] = []
        steps = max(1, round(chunk_samples / (_STEP_S * manifest.rate_hz)))
        # more than a block holds: samples that stood there before would be taken for a stuck sensor's
        self._n_sets = max(_SETS, manifest.block // chunk_samples + 2)
        start = 0
        for spec in self.sensors:
            columns = slice(start, start + spec.n_channels)
            center, scale = np.array(manifest.center[columns]), np.array(manifest.scale[columns])
            shape = (chunk_samples, spec.n_channels)
            samples = [self._rng.normal(center, scale, shape).astype(np.float32) for _ in range(self._n_sets)]
            if walking:
                period = chunk_samples / steps
                samples = [
                    walking_samples(manifest, chunk_samples, self._rng, period=period) for _ in range(self._n_sets)
                ]
                samples = [np.ascontiguousarray(s[:, columns]) for s in samples]
            self._values.append(samples)
            start += spec.n_channels
        self._valid = [np.ones(v[0].shape, bool) for v in self._values]
        self._saturated = [np.zeros(v[0].shape, bool) for v in self._values]

    def know_clocks(self, pipeline: Pipeline) -> None:
        """Let a pipeline have heard all devices for the two minutes before, as far as clock maps remember it."""
        length = self.chunk_samples * self.interval_ns
        seconds = np.arange(-120, 0) * NS_PER_S
        for i, subject in enumerate(self.subjects):
            for s, spec in enumerate(self.sensors):
                clock = ClockMap()
                least = self._rng.integers(0, _JITTER_NS, (len(seconds), 5)).min(axis=1)
                device_ns = _START_NS + int(self._offset_ns[i, s]) + length - self.interval_ns + seconds
                arrivals = device_ns + self.interval_ns + _DELAY_NS + least
                for at, arrival in zip(device_ns.tolist(), arrivals.tolist(), strict=True):
                    clock.update(at, arrival)
                pipeline.use_clock(subject, spec.name, clock)

    def chunks(self, first: int, end: int) -> Iterator[list[Arrival]]:
        """Yield the chunks with these numbers, all people's of one number together, in the order in which they come."""
        n_sensors = len(self.sensors)
        length = self.chunk_samples * self.interval_ns
        within = np.arange(self.chunk_samples, dtype=np.int64) * self.interval_ns
        for number in range(first, end):
            starts = _START_NS + self._offset_ns + number * length
            arrivals = starts + length + _DELAY_NS + self._rng.integers(0, _JITTER_NS, starts.shape)
            lost = self._rng.random(starts.shape) < self._loss
            found = []
            for at in np.argsort(arrivals, axis=None):
                i, s = divmod(int(at), n_sensors)
                if lost[i, s]:
                    continue
                chunk = ImuChunk(
                    self.sensors[s].name,
                    starts[i, s] + within,
                    self._values[s][(number + i) % self._n_sets],
                    self._valid[s],
                    self._saturated[s],
                    self.interval_ns,
                    host_time_ns=int(arrivals[i, s]),
                )
                found.append(Arrival(self.subjects[i], chunk, int(arrivals[i, s])))
            yield found
