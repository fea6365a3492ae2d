"""Polar sensors over BLE (PMD service): H10, Verity Sense, OH1 and 360; acceleration, angular rate, magnetic field.

Facts: the Polar BLE SDK (Kotlin sources and its unit tests, 2026-05), its documents on time and on products.

Choices
-------
* A frame is stamped with the time of its last sample. Where the SDK spreads the samples evenly since the last frame,
  here they stand back from the stamp at the learned rate: a lost frame stays a gap, and is counted.
* What a device has is asked of it, and a sensor it refuses is left out: an H10 has the acceleration alone. The
  option ``streams`` names what is wanted, ``acc+gyr`` unless told.
* Angular rate and magnetic field come at their own times; they are interpolated to those of the acceleration.
* A stream that is already running (an unclean disconnect) is stopped and started once more.
* The clock of an H10 begins in 2019 whenever it was off; it is used as it is, and a step back is a new boot.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Command, DeviceInfo, SessionConfig
from kinedge.firmware_bridge.devices._common import (
    BleOnlyDriver,
    QueueSession,
    check_options,
    full_scale,
    nearest,
    samples_in_range,
)
from kinedge.firmware_bridge.devices._pmd_frame import Measurement, PmdFrame, parse_frame
from kinedge.firmware_bridge.devices._timing import Samples, StampClock, StreamMerger
from kinedge.signals import SensorSpec
from kinedge.units import NS_PER_S, period_ns

__all__ = [
    "CONTROL",
    "DATA",
    "SERVICE",
    "Measurement",
    "PmdFrame",
    "PolarPmdDriver",
    "PolarPmdSession",
    "Setting",
    "parse_frame",
    "parse_settings",
    "settings_request",
    "start_request",
    "stop_request",
]

SERVICE: Final = "fb005c80-02e7-f387-1cad-8acd2d8df0c8"
CONTROL: Final = "fb005c81-02e7-f387-1cad-8acd2d8df0c8"
DATA: Final = "fb005c82-02e7-f387-1cad-8acd2d8df0c8"

_NAMES: Final = ("Polar H10 ", "Polar Sense ", "Polar OH1 ", "Polar 360 ")
_GET, _START, _STOP = 1, 2, 3
_RESPONSE: Final = 0xF0
_STOPPED_ITSELF: Final = 0x01
_ALREADY_RUNNING: Final = 6
_ERRORS: Final = (
    *("success", "invalid op code", "invalid measurement type", "not supported", "invalid length"),
    *("invalid parameter", "already running", "invalid resolution", "invalid sample rate", "invalid range"),
    *("invalid MTU", "invalid number of channels", "invalid state", "the device is in its charger", "disk full"),
)
_MAX_PARAMETERS: Final = 512
_MAX_STAMP_NS: Final = 1 << 62
_MERGE_WAIT_NS: Final = 3 * NS_PER_S  # a compressed frame holds more than a second
_STREAMS: Final = ("acc", "acc+gyr", "acc+gyr+mag")
_MEASUREMENT: Final = {"acc": Measurement.ACC, "gyr": Measurement.GYR, "mag": Measurement.MAG}
_UT_PER_GAUSS: Final = 100.0


class Setting(IntEnum):
    """What a stream can be set to."""

    RATE_HZ = 0
    RESOLUTION_BITS = 1
    RANGE = 2
    RANGE_MILLI = 3
    CHANNELS = 4
    FACTOR = 5


_SETTING_FORMAT: Final = {
    Setting.RATE_HZ: "H",
    Setting.RESOLUTION_BITS: "H",
    Setting.RANGE: "H",
    Setting.RANGE_MILLI: "I",
    Setting.CHANNELS: "B",
    Setting.FACTOR: "f",
}


def settings_request(measurement: Measurement) -> Command:
    """Ask what a stream can be set to."""
    return Command(CONTROL, bytes([_GET, measurement]))


def start_request(measurement: Measurement, settings: Mapping[Setting, int]) -> Command:
    """Start a stream."""
    data = bytes([_START, measurement])
    for setting, value in settings.items():
        data += struct.pack(f"<BB{_SETTING_FORMAT[setting]}", setting, 1, value)
    return Command(CONTROL, data)


def stop_request(measurement: Measurement) -> Command:
    """Stop a stream."""
    return Command(CONTROL, bytes([_STOP, measurement]))


def parse_settings(data: bytes) -> dict[Setting, tuple[float, ...]]:
    """Read the parameters of a response: each setting with the values it can take (or has).

    Raises
    ------
    ProtocolError
        A setting is unknown, or its values are cut.
    """
    found: dict[Setting, tuple[float, ...]] = {}
    at = 0
    while at < len(data):
        if data[at] not in _SETTING_FORMAT:
            raise ProtocolError(f"Polar PMD: setting {data[at]} is unknown in {data.hex()}")
        setting = Setting(data[at])
        count = data[at + 1] if at + 1 < len(data) else 1
        form = struct.Struct(f"<{count}{_SETTING_FORMAT[setting]}")
        if len(data) < at + 2 + form.size:
            raise ProtocolError(f"Polar PMD: {data.hex()} ends inside the values of {setting.name}")
        found[setting] = form.unpack_from(data, at + 2)
        at += 2 + form.size
    return found


class PolarPmdDriver(BleOnlyDriver["PolarPmdSession"]):
    """The family; option ``streams`` is ``acc``, ``acc+gyr`` (the default) or ``acc+gyr+mag``."""

    name = "polar_pmd"

    def recognise(self, advertisement: Advertisement) -> bool:
        """By name (product and number) or service."""
        return advertisement.name.startswith(_NAMES) or SERVICE in advertisement.service_uuids

    def make_session(self, config: SessionConfig) -> PolarPmdSession:
        """Start a session (ConfigError: an option or its value is unknown)."""
        return PolarPmdSession(config)


@dataclass
class _Stream:
    """One sensor of the device."""

    quantity: str
    settings: dict[Setting, int] = field(default_factory=dict)
    factor: float = 1.0
    refused: bool = False
    started: bool = False
    retried: bool = False
    clock: StampClock = field(default_factory=lambda: StampClock(interval_ns=NS_PER_S))
    full_scale: NDArray[np.float32] = field(default_factory=lambda: np.full(3, np.inf, np.float32))

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"{self.quantity}_{axis}" for axis in "xyz")


class PolarPmdSession(QueueSession):
    """One Polar sensor: asks for the settings of every stream, starts what there is, and merges it."""

    subscriptions = (CONTROL, DATA)

    def __init__(self, config: SessionConfig) -> None:
        check_options(PolarPmdDriver.name, config.options, {"streams": _STREAMS})
        if not 1 <= config.rate_hz <= 1000:
            raise ConfigError(f"polar_pmd: a rate must lie between 1 and 1000 Hz, got {config.rate_hz}")
        wanted = config.options.get("streams", "acc+gyr").split("+")
        self._wanted = {_MEASUREMENT[quantity]: quantity for quantity in wanted}
        self._streams: dict[Measurement, _Stream] = {}
        self._partial: bytes | None = None
        super().__init__(
            config,
            channels=_Stream("acc").channels,
            rate_hz=config.rate_hz,
            doubtful="the factor that the device told may not be that of its frames",
        )

    def start_commands(self) -> Sequence[Command]:
        """Ask for the settings of the first stream; each answer brings the next command."""
        clocks = {m: s.clock for m, s in self._streams.items() if s.settings}
        self._streams = {m: _Stream(quantity) for m, quantity in self._wanted.items()}
        for measurement, clock in clocks.items():  # the device goes on counting while the link is down
            self._streams[measurement].clock = clock
        self._partial = None
        self._merger: StreamMerger | None = None
        return (settings_request(Measurement.ACC),)

    def stop_commands(self) -> Sequence[Command]:
        """Stop what was started."""
        return tuple(stop_request(m) for m, s in self._streams.items() if s.started)

    def link_reopened(self) -> None:
        """Acceleration that waits for another stream comes out without it; all streams are asked for again."""
        running = [s for s in self._streams.values() if s.started]
        if self._merger is not None and running:
            self.deliver(self._merger.pull(flush=True), boot_id=running[0].clock.boot_id)
        super().link_reopened()

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in one notification or indication.

        Raises
        ------
        ProtocolError
            The device refuses to measure acceleration, or stopped by itself.
        """
        self.counters["packets"] += 1
        if channel == DATA:
            self._receive_frame(data, host_time_ns)
        elif channel == CONTROL:
            self._receive_control(data)
        else:
            self.reject(f"Polar PMD: nothing is expected on {channel}")

    def _receive_control(self, data: bytes) -> None:
        if self._partial is not None:  # the rest of a response: whether more follows, then parameters
            data = self._partial[:4] + data[:1] + self._partial[5:] + data[1:]
            self._partial = None
        if data[:1] == bytes([_STOPPED_ITSELF]):
            raise ProtocolError(f"{self.config.sensor}: the Polar device stopped measuring by itself; start it again")
        if len(data) < 4 or data[0] != _RESPONSE or len(data) > _MAX_PARAMETERS:
            self.reject(f"Polar PMD: {data[:16].hex()} is no response")
            return
        if data[3] == 0 and len(data) > 4 and data[4]:
            self._partial = data
            return
        op, code, error = data[1], data[2], data[3]
        if code not in self._wanted or op not in (_GET, _START):
            return
        measurement = Measurement(code)
        try:
            settings = parse_settings(data[5:]) if error == 0 else {}
        except ProtocolError as e:
            self.reject(str(e))
            return
        if op == _GET:
            self._receive_settings(measurement, settings, error)
        else:
            self._receive_started(measurement, settings, error)

    def _receive_settings(
        self, measurement: Measurement, settings: dict[Setting, tuple[float, ...]], error: int
    ) -> None:
        stream = self._streams[measurement]
        if stream.settings or stream.refused:
            return  # answered before
        if error or not settings.get(Setting.RATE_HZ):
            self._refuse(measurement, error)
            return
        config = self.config
        wanted: dict[Setting, float] = {Setting.RATE_HZ: config.rate_hz, Setting.CHANNELS: 3}
        for quantity, range_wanted in (("acc", config.acc_range_g), ("gyr", config.gyr_range_deg_s)):
            if stream.quantity == quantity and range_wanted is not None:
                wanted[Setting.RANGE] = range_wanted
        for setting, values in sorted(settings.items()):
            if setting not in (Setting.FACTOR, Setting.RANGE_MILLI) and values:
                stream.settings[setting] = int(nearest(values, wanted.get(setting, max(values))))
        self._describe(stream, settings)
        self._commands.append(start_request(measurement, stream.settings))

    def _describe(self, stream: _Stream, settings: dict[Setting, tuple[float, ...]]) -> None:
        rate_hz = stream.settings[Setting.RATE_HZ]
        if not 1 <= rate_hz <= 10_000:
            raise ProtocolError(f"{self.config.sensor}: the Polar device offers a rate of {rate_hz} Hz; restart it")
        if stream.clock.nominal_ns != period_ns(rate_hz):
            stream.clock = StampClock(interval_ns=period_ns(rate_hz))
        if settings.get(Setting.FACTOR):
            stream.factor = settings[Setting.FACTOR][0]
        end = stream.settings.get(Setting.RANGE)
        if end:
            scale = {"acc_g": end, "gyr_deg_s": end, "mag_ut": end * _UT_PER_GAUSS}
            stream.full_scale = full_scale(stream.channels, **scale)

    def _receive_started(
        self, measurement: Measurement, settings: dict[Setting, tuple[float, ...]], error: int
    ) -> None:
        stream = self._streams[measurement]
        if stream.started or stream.refused or not stream.settings:
            return
        if error == _ALREADY_RUNNING and not stream.retried:
            stream.retried = True
            self._commands.append(stop_request(measurement))
            self._commands.append(start_request(measurement, stream.settings))
            return
        if error:
            self._refuse(measurement, error)
            return
        if settings.get(Setting.FACTOR):
            stream.factor = settings[Setting.FACTOR][0]
        stream.started = True
        self._ask_next()

    def _refuse(self, measurement: Measurement, error: int) -> None:
        self._streams[measurement].refused = True
        why = _ERRORS[error] if error < len(_ERRORS) else f"error {error}"
        if measurement is Measurement.ACC:
            raise ProtocolError(
                f"{self.config.sensor}: the Polar device does not measure acceleration ({why}); "
                "take it out of the charger, and close other apps that use it"
            )
        self.doubt(f"the Polar device has no {self._streams[measurement].quantity} for us ({why}); going on without")
        self._ask_next()

    def _ask_next(self) -> None:
        for measurement, stream in self._streams.items():
            if not stream.started and not stream.refused:
                self._commands.append(settings_request(measurement))
                return
        running = [s for s in self._streams.values() if s.started]
        self.rate_hz = float(running[0].settings[Setting.RATE_HZ])
        self.interval_ns = period_ns(self.rate_hz)
        self.spec = SensorSpec(self.config.sensor, tuple(c for s in running for c in s.channels))
        self._merger = StreamMerger(
            [3] * len(running), interval_ns=[s.clock.nominal_ns for s in running], max_wait_ns=_MERGE_WAIT_NS
        )
        self.describe(DeviceInfo(self.spec, self.rate_hz))

    def _receive_frame(self, data: bytes, host_time_ns: int | None) -> None:
        try:
            stream = self._streams.get(Measurement.of(data))
            if stream is None or not stream.started or self._merger is None:
                self.counters["undescribed"] += 1
                return
            frame = parse_frame(data, factor=stream.factor)
        except ProtocolError as error:
            self.reject(str(error))
            return
        if frame.time_ns > _MAX_STAMP_NS:
            self.reject(f"Polar PMD: a time of {frame.time_ns} ns since 2000 cannot be")
            return
        boot_id, clock = stream.clock.boot_id, stream.clock
        placed = clock.place_last(frame.time_ns, len(frame.values), host_time_ns=host_time_ns)
        clocks = [s.clock for s in self._streams.values()]
        self.counters["duplicates"] = sum(c.repeated for c in clocks)
        self.counters["implausible"] = sum(c.implausible for c in clocks)
        if placed is None:
            return
        if clock.boot_id != boot_id:
            self._merger.reset()
        device_time_ns, lost = placed
        samples = samples_in_range(device_time_ns, frame.values, stream.channels, full_scale=stream.full_scale)
        self._merge(stream, samples, lost, host_time_ns)

    def _merge(self, stream: _Stream, samples: Samples, lost: int, host_time_ns: int | None) -> None:
        if self._merger is None:
            return
        started = [s for s in self._streams.values() if s.started]
        index = next(i for i, s in enumerate(started) if s is stream)
        self._merger.push(index, samples)
        if index:
            self.counters[f"lost_{stream.quantity}"] += lost
            lost = 0
        self.deliver(self._merger.pull(), lost=lost, boot_id=started[0].clock.boot_id, host_time_ns=host_time_ns)
