"""What sessions of all device families do alike, so that a family's module holds its protocol and nothing else.

Malformed packets are counted in ``counters["bad"]``, and ``last_error`` says what was wrong with the last one; a
``ProtocolError`` is for a device that refuses what it was told.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import Command, DeviceEvent, DeviceInfo, Doubt, Session, SessionConfig
from kinedge.firmware_bridge.devices._timing import Samples
from kinedge.firmware_bridge.gravity import GravityCheck, feels_gravity
from kinedge.signals import IMU6, ImuChunk, SensorSpec
from kinedge.units import STANDARD_GRAVITY_M_S2, period_ns

__all__ = [
    "IMU9",
    "BleOnlyDriver",
    "QueueSession",
    "check_options",
    "full_scale",
    "nearest",
    "require_transport",
    "samples_in_range",
]

IMU9: Final = (*IMU6, "mag_x", "mag_y", "mag_z")
SessionT = TypeVar("SessionT", bound=Session)
_MAX_EVENTS: Final = 4096
_SATURATED: Final = 0.999
_IMPOSSIBLE: Final = 2.0  # a value beyond twice the full scale was damaged, not measured
_NO_FULL_SCALE: Final = {"acc": 4000.0, "gyr": 200.0, "mag": 10_000.0}  # of no device; SI


def nearest(known: Sequence[float], wanted: float) -> float:
    """Return the known value nearest to the wanted one, the greater of two equally near."""
    return min(sorted(known, reverse=True), key=lambda value: abs(value - wanted))


def require_transport(device: str, transport: str, known: frozenset[str]) -> None:
    """Refuse a transport that the device does not have (ConfigError)."""
    if transport not in known:
        raise ConfigError(f"{device}: no transport {transport!r}; it has {', '.join(sorted(known))}")


class BleOnlyDriver(Generic[SessionT]):
    """Base of a family that has no serial port: it adds ``name``, ``recognise`` and ``make_session``."""

    name: str
    transports = frozenset({"ble"})

    def recognise_serial(self, data: bytes) -> bool:
        """Never: there is no serial port."""
        return False

    def serial_probe(self) -> bytes:
        """Nothing to send."""
        return b""

    def make_session(self, config: SessionConfig) -> SessionT:
        """Return a session (ConfigError: the family cannot do what is asked)."""
        raise NotImplementedError

    def open(self, config: SessionConfig, *, transport: str) -> SessionT:
        """Start a session.

        Raises
        ------
        ConfigError
            The transport is not ``ble``, or the family cannot do what is asked.
        """
        require_transport(self.name, transport, self.transports)
        return self.make_session(config)


def check_options(device: str, options: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> None:
    """Refuse an option that the device does not have, or a value it cannot take (ConfigError).

    Parameters
    ----------
    device
        For the message.
    options
        As configured.
    known
        Possible values by name; an empty sequence leaves the check to the caller.
    """
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"{device}: unknown option {name!r}; known are {', '.join(sorted(known)) or 'none'}")
        if known[name] and value not in known[name]:
            raise ConfigError(f"{device}: option {name} must be one of {', '.join(known[name])}, got {value!r}")


def full_scale(
    channels: Sequence[str],
    *,
    acc_g: float | None = None,
    gyr_deg_s: float | None = None,
    mag_ut: float | None = None,
) -> NDArray[np.float32]:
    """Return the end of range of each channel in SI units, infinite where it is not known; (n_channels,)."""
    ends = {
        "acc": None if acc_g is None else acc_g * STANDARD_GRAVITY_M_S2,
        "gyr": None if gyr_deg_s is None else np.deg2rad(gyr_deg_s),
        "mag": mag_ut,
    }
    found = [ends[channel[:3]] for channel in channels]
    return np.array([np.inf if end is None else end for end in found], np.float32)


def samples_in_range(
    device_time_ns: NDArray[np.int64],
    values: NDArray[np.floating],
    channels: Sequence[str],
    *,
    full_scale: NDArray[np.float32],
) -> Samples:
    """Return values with their validity and saturation.

    Parameters
    ----------
    device_time_ns : (n,) int64
    values : (n, n_channels)
        SI units. NaN, infinity and what no such sensor can measure become 0 and invalid.
    channels
        Their names.
    full_scale : (n_channels,) float32
        Of each channel; a value within 0.1 % of it, or beyond, is saturated.
    """
    values = values.astype(np.float32, copy=False)
    greatest, saturation = _limits(tuple(channels), full_scale.tobytes())
    magnitude = np.abs(values)
    with np.errstate(invalid="ignore"):
        valid = magnitude <= greatest  # False for NaN
        saturated = valid & (magnitude >= saturation)
    if not valid.all():
        values = np.where(valid, values, np.float32(0))
    return Samples(device_time_ns, values, valid, saturated)


@lru_cache(maxsize=64)
def _limits(channels: tuple[str, ...], full_scale: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the greatest possible magnitude, and that at which saturation begins."""
    ends = np.frombuffer(full_scale, np.float32)
    beyond = np.array([_NO_FULL_SCALE[channel[:3]] for channel in channels], np.float32)
    return np.where(np.isfinite(ends), ends * np.float32(_IMPOSSIBLE), beyond), ends * np.float32(_SATURATED)


class QueueSession:
    """Base of a session: bounded queues, counters, the info before the samples, the doubt about gravity.

    A family adds ``start_commands``, ``stop_commands`` and ``receive_data``, and hands samples to ``deliver``.
    ``start_commands`` is called by the constructor: set what it needs before.

    Parameters
    ----------
    config
        What was asked for.
    channels
        What this device delivers.
    rate_hz
        What it will do.
    doubtful
        What to suspect when |acc| at rest is not near g: ends the sentence of the ``Doubt``.
    """

    subscriptions: Sequence[str] = ()

    def __init__(
        self, config: SessionConfig, *, channels: Sequence[str] = IMU6, rate_hz: float, doubtful: str = ""
    ) -> None:
        self.config = config
        self.spec = SensorSpec(config.sensor, tuple(channels))
        self.rate_hz = rate_hz
        self.interval_ns = period_ns(rate_hz)
        self.counters: Counter[str] = Counter()
        self.last_error: str | None = None
        self._commands: deque[Command] = deque()
        self._events: deque[DeviceEvent] = deque()
        self._said_info: DeviceInfo | None = None
        self._dropped = 0
        self._gravity = GravityCheck()
        self._doubtful = doubtful
        self._commands.extend(self.start_commands())

    def start_commands(self) -> Sequence[Command]:
        """Return what starts the stream; a family that needs answers in between enqueues the rest itself."""
        return ()

    def stop_commands(self) -> Sequence[Command]:
        """Return what ends the stream."""
        return ()

    def next_command(self) -> Command | None:
        """Return the next bytes to be written."""
        return self._commands.popleft() if self._commands else None

    def next_event(self) -> DeviceEvent | None:
        """Return the next event, or None until more bytes come."""
        return self._events.popleft() if self._events else None

    def link_reopened(self) -> None:
        """Start commands are due again; a family that keeps half packets forgets them here, too."""
        self._commands.clear()
        self._commands.extend(self.start_commands())

    def reject(self, why: str) -> None:
        """Count a packet that could not be decoded."""
        self.counters["bad"] += 1
        self.last_error = why

    def doubt(self, text: str) -> None:
        """Enqueue a doubt."""
        self._put(Doubt(f"{self.config.sensor}: {text}"))

    def describe(self, info: DeviceInfo | None = None) -> None:
        """Enqueue what the device is, unless just that was said; ``deliver`` does it with what is known by then."""
        info = info or self._said_info or DeviceInfo(self.spec, self.rate_hz)
        if info != self._said_info:
            self._said_info = info
            self._put(info)

    def deliver(self, samples: Samples, *, lost: int = 0, boot_id: int = 0, host_time_ns: int | None = None) -> None:
        """Enqueue samples, with all that belongs to it."""
        n = len(samples)
        if not n:
            self._dropped += lost  # told with the next samples
            return
        self.describe()
        if feels_gravity(self.spec):  # of what runs now: streams of some families come and go
            text = self._gravity.doubt(samples.device_time_ns, samples.values, samples.valid)
            if text is not None:
                self.doubt(text + (f"; {self._doubtful}" if self._doubtful else ""))
        lost += self._dropped
        self._dropped = 0
        self.counters["samples"] += n
        self.counters["lost"] += lost
        self._put(
            ImuChunk(
                self.spec.name,
                samples.device_time_ns,
                samples.values,
                samples.valid,
                samples.saturated,
                self.interval_ns,
                lost,
                boot_id,
                host_time_ns,
            )
        )

    def _put(self, event: DeviceEvent) -> None:
        self._events.append(event)
        if len(self._events) > _MAX_EVENTS:  # nobody fetches them
            oldest = self._events.popleft()
            if isinstance(oldest, ImuChunk):
                self.counters["samples"] -= len(oldest)
                self.counters["backlog_dropped"] += len(oldest)
                self._dropped += len(oldest) + oldest.lost
                self.counters["lost"] -= oldest.lost
