"""Shimmer3 with BtStream or LogAndStream firmware, over RFCOMM or USB serial at 115200 baud.

A command is answered with FF, then with its response. While it streams, packets ``00``, time (u24, little-endian, ticks
of 1/32768 s, wraps every 512 s) and the channels in the order of the inquiry come without length or checksum;
FF and ``8A 71 status`` stand between them.

* A packet is believed when it begins with 00, its time is whole intervals later than the last (up to 10 s), and what is
  there behind it can begin something. After anything else the place is searched anew: two starts one packet apart,
  with times one interval apart.
* Low-noise and wide-range acceleration are int16 little-endian, angular rate is int16 big-endian. The magnetometer is
  not asked for: its byte order differs between hardware revisions and sources.
* SI units need the calibration of the device (offset, sensitivity and alignment of each sensor), which is read before
  the stream starts. Where a block was never written, the nominal one of the first hardware revision is used, and a
  doubt says so.
* The codes of the wide range 4, 8 and 16 g differ between hardware revisions (LSM303DLHC here; on the LSM303AHTR 1 is
  16 g). Units are right all the same, as the calibration is read after the range is set; a doubt says when its
  sensitivity is not that of the range asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Advertisement, Command, DeviceInfo, SessionConfig
from kinedge.firmware_bridge.devices._common import check_options, nearest, require_transport
from kinedge.firmware_bridge.devices._shimmer3_layout import (
    BLOCK_BYTES,
    INQUIRY_BYTES,
    NOMINAL_GYR,
    NOMINAL_LOW_NOISE,
    NOMINAL_WIDE,
    TICKS_PER_S,
    Calibration,
    Converter,
    Inquiry,
    packet_dtype,
    parse_calibration,
    parse_inquiry,
)
from kinedge.firmware_bridge.devices._stamped import StampedSession
from kinedge.firmware_bridge.devices._timing import Unwrapper
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["Shimmer3Driver", "Shimmer3Session"]

_WRAP: Final = 1 << 24
_DATA, _INQUIRY, _INQUIRY_RESPONSE, _SET_RATE, _START, _SET_SENSORS = 0x00, 0x01, 0x02, 0x05, 0x07, 0x08
_SET_WIDE_RANGE, _STOP, _GET_CALIBRATION, _CALIBRATION_RESPONSE = 0x09, 0x20, 0x2C, 0x2D
_GET_FIRMWARE, _FIRMWARE_RESPONSE, _SET_GYR_RANGE = 0x2E, 0x2F, 0x49
_GET_NAME, _NAME_RESPONSE, _MAX_NAME_BYTES = 0x7B, 0x7A, 12
_STATUS, _IN_STREAM, _ACK = 0x71, 0x8A, 0xFF
_LOW_NOISE_BIT, _GYR_BIT, _WIDE_BIT = 0x000080, 0x000040, 0x001000
_WIDE_CODES: Final = {2.0: 0, 4.0: 1, 8.0: 2, 16.0: 3}
_GYR_CODES: Final = {250.0: 0, 500.0: 1, 1000.0: 2, 2000.0: 3}
_DEFAULT_ACC_G: Final = 8.0
_DEFAULT_GYR_DEG_S: Final = 2000.0

_HEADER_BYTES: Final = 4
_BLOCKS: Final = ("low_noise", "gyr", "mag", "wide")
_MAX_BUFFER: Final = 1 << 16
_MAX_STEP_S: Final = 10
_TICK_OF_BYTES: Final = np.array([1, 1 << 8, 1 << 16])
_CAN_FOLLOW: Final = np.isin(np.arange(256), (_DATA, _IN_STREAM, _ACK))


class Shimmer3Session(StampedSession):
    """One Shimmer3; see the module for what is assumed."""

    def __init__(self, config: SessionConfig) -> None:
        self._low_noise = config.acc_range_g is not None and config.acc_range_g <= 2.0
        self._acc_g = 2.0 if self._low_noise else nearest(tuple(_WIDE_CODES), config.acc_range_g or _DEFAULT_ACC_G)
        self._gyr_deg_s = nearest(tuple(_GYR_CODES), config.gyr_range_deg_s or _DEFAULT_GYR_DEG_S)
        self._asked_ticks = max(32, min(TICKS_PER_S, round(TICKS_PER_S / config.rate_hz)))
        self._firmware = ""
        self._ticks = Unwrapper(bits=24)
        self._begin()
        super().__init__(
            config,
            rate_hz=TICKS_PER_S / self._asked_ticks,
            doubtful="the calibration in the device does not fit its range",
        )

    def start_commands(self) -> Sequence[Command]:
        """Return: stop, configure, read calibration and channels; START follows when these are known."""
        acc_bit = _LOW_NOISE_BIT if self._low_noise else _WIDE_BIT
        commands = [
            _command(_STOP, pause_s=0.3),
            _command(_GET_FIRMWARE),
            _command(_SET_SENSORS, (acc_bit | _GYR_BIT).to_bytes(3, "little")),
            _command(_SET_RATE, self._asked_ticks.to_bytes(2, "little")),
            _command(_SET_GYR_RANGE, bytes([_GYR_CODES[self._gyr_deg_s]])),
        ]
        if not self._low_noise:
            commands.append(_command(_SET_WIDE_RANGE, bytes([_WIDE_CODES[self._acc_g]])))
        return (*commands, _command(_GET_CALIBRATION), _command(_INQUIRY))

    def stop_commands(self) -> Sequence[Command]:
        """Return STOP."""
        return (_command(_STOP),)

    def link_reopened(self) -> None:
        """Forget half a packet, and configure anew."""
        super().link_reopened()
        self._begin()

    def next_command(self) -> Command | None:
        """Return the next bytes to be written; after START, packets are expected."""
        command = super().next_command()
        if command is not None and command.data[0] == _START:
            self._streaming = True
        return command

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take bytes in any chunking."""
        self._buffer += data
        before = -1
        while len(self._buffer) != before:
            before = len(self._buffer)
            if self._streaming:
                self._read_packets(host_time_ns)
            else:
                self._read_responses()
        if len(self._buffer) > _MAX_BUFFER:  # cannot be: what is not understood is skipped
            self._skip(len(self._buffer))

    def _begin(self) -> None:
        self._buffer = b""
        self._streaming = False
        self._locked = False
        self._last_tick = 0
        self._inquiry: Inquiry | None = None
        self._interval_ticks = self._asked_ticks
        self._dtype: np.dtype[np.void] = packet_dtype(())
        self._converter: Converter | None = None
        self._calibrations: dict[str, Calibration] = {}

    def _skip(self, n: int) -> None:
        if n:
            self._buffer = self._buffer[n:]
            self.counters["bytes_skipped"] += n

    # Before the stream: FF, then a response.

    def _read_responses(self) -> None:
        data = self._buffer
        start = data.find(_ACK)
        if start != 0:
            self._skip(len(data) if start < 0 else start)
            return
        if len(data) < 2:
            return
        kind, body = data[1], data[2:]
        if kind == _FIRMWARE_RESPONSE:
            if len(body) >= 6:
                self._firmware = f"{int.from_bytes(body[2:4], 'little')}.{body[4]}.{body[5]}"
                self._buffer = body[6:]
        elif kind == _CALIBRATION_RESPONSE:
            if len(body) >= BLOCK_BYTES * len(_BLOCKS):
                self._calibrate(body)
                self._buffer = body[BLOCK_BYTES * len(_BLOCKS) :]
        elif kind == _INQUIRY_RESPONSE:
            if len(body) >= INQUIRY_BYTES and len(body) >= INQUIRY_BYTES + body[6]:
                self._inquired(body)
        else:
            self._buffer = data[1:]  # the answer to a command that sets something

    def _calibrate(self, body: bytes) -> None:
        for i, name in enumerate(_BLOCKS):
            block = body[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES]
            found = parse_calibration(block, sensitivity_unit=0.01 if name == "gyr" else 1.0)
            if found is not None:
                self._calibrations[name] = found

    def _inquired(self, body: bytes) -> None:
        try:
            inquiry = parse_inquiry(body)
        except ProtocolError as error:
            self.reject(str(error))
            self._buffer = self._buffer[2:]
            return
        self._buffer = body[INQUIRY_BYTES + len(inquiry.channels) :]
        if self._inquiry is not None:
            return
        self._inquiry, self._dtype = inquiry, packet_dtype(inquiry.channels)
        self._interval_ticks = inquiry.interval_ticks
        acc = "low_noise" if self._low_noise else "wide"
        nominal = NOMINAL_LOW_NOISE if self._low_noise else NOMINAL_WIDE[self._acc_g]
        for name, calibration in ((acc, nominal), ("gyr", NOMINAL_GYR[self._gyr_deg_s])):
            if name not in self._calibrations:
                self._calibrations[name] = calibration
                self.doubt(f"the device holds no calibration of its {name} sensor; the nominal one is used")
        range_g = 32768 / float(self._calibrations[acc].sensitivity.min()) / STANDARD_GRAVITY_M_S2
        if not self._low_noise and not self._acc_g / 1.7 < range_g < self._acc_g * 1.7:
            self.doubt(f"asked for {self._acc_g:g} g, the device's calibration is of about {range_g:.0f} g")
        self._converter = Converter(self._dtype, acc=acc, calibrations=self._calibrations)
        self.set_rate(inquiry.rate_hz)
        self.describe(DeviceInfo(self.spec, self.rate_hz, firmware=self._firmware))
        self._commands.append(_command(_START))

    # The stream.

    def _read_packets(self, host_time_ns: int | None) -> None:
        size = self._dtype.itemsize
        if not self._buffer or (not self._locked and not self._lock()):
            return
        first = self._buffer[0]
        if first == _ACK:
            self._buffer = self._buffer[1:]
        elif first == _IN_STREAM:
            if len(self._buffer) < 2:
                return
            if self._buffer[1] != _STATUS:
                self._lose()
            elif len(self._buffer) >= 3:
                self._buffer = self._buffer[3:]
        elif first != _DATA:
            self._lose()
        elif len(self._buffer) >= size:
            packets = np.frombuffer(self._buffer, self._dtype, count=len(self._buffer) // size)
            ticks = self._plausible_ticks(packets)
            if not len(ticks):
                self._lose()
                return
            self._buffer = self._buffer[len(ticks) * size :]
            self._decode(packets[: len(ticks)], ticks, host_time_ns)

    def _lock(self) -> bool:
        """Find where packets begin, or skip all that cannot be a beginning."""
        data, size, interval = self._buffer, self._dtype.itemsize, self._interval_ticks
        at = 0
        while True:
            start = data.find(_DATA, at)
            if start < 0:
                self._skip(len(data))
                return False
            if len(data) - start < size + _HEADER_BYTES:
                self._skip(start)
                return False
            step = (_tick(data, start + size) - _tick(data, start)) % _WRAP
            if data[start + size] == _DATA and abs(step - interval) <= self._tolerance_ticks:
                self._skip(start)
                self._last_tick = (_tick(data, start) - interval) % _WRAP
                self._locked = True
                return True
            at = start + 1

    def _lose(self) -> None:
        self.reject("the stream lost its place")
        self._locked = False
        self._skip(1)

    @property
    def _tolerance_ticks(self) -> int:
        """How far a time may be from a whole number of intervals after another: the device's timer is exact."""
        return 1 + self._interval_ticks // 16

    def _plausible_ticks(self, packets: NDArray[np.void]) -> NDArray[np.int64]:
        """Return the times of the packets that follow one another, from the first on."""
        size, interval = packets.itemsize, self._interval_ticks
        ticks: NDArray[np.int64] = packets["time"] @ _TICK_OF_BYTES
        before = np.empty_like(ticks)
        before[0], before[1:] = self._last_tick, ticks[:-1]
        steps = (ticks - before) % _WRAP
        off = (steps + interval // 2) % interval - interval // 2
        fine = (packets["first"] == _DATA) & (np.abs(off) <= self._tolerance_ticks)
        fine &= (steps > interval // 2) & (steps <= _MAX_STEP_S * TICKS_PER_S)
        follows = np.frombuffer(self._buffer, np.uint8)[size::size]
        fine[: len(follows)] &= _CAN_FOLLOW[follows]
        n = len(packets) if fine.all() else int(np.argmin(fine))
        if n:
            self._last_tick = int(ticks[n - 1])
        return ticks[:n]

    def _decode(self, packets: NDArray[np.void], ticks: NDArray[np.int64], host_time_ns: int | None) -> None:
        self.counters["packets"] += len(packets)
        elapsed = self._clock.elapsed_ns(host_time_ns) * TICKS_PER_S // 1_000_000_000
        unwrapped = [self._ticks.unwrap(tick, elapsed=0 if i else elapsed) for i, tick in enumerate(ticks.tolist())]
        stamps = [tick * 1_953_125 >> 6 for tick in unwrapped]  # 10^9 / 32768 = 1953125 / 64
        if self._converter is not None:
            values, valid, saturated = self._converter.convert(packets)
            self.deliver_stamped(stamps, values, valid, saturated, host_time_ns=host_time_ns)


class Shimmer3Driver:
    """Shimmer3 IMU units."""

    name = "shimmer3"
    transports = frozenset({"serial"})
    bauds = (115_200,)

    def recognise(self, advertisement: Advertisement) -> bool:
        """Classic Bluetooth only: it comes as a serial port."""
        return False

    def recognise_serial(self, data: bytes) -> bool:
        """Whether there is a whole answer to an inquiry."""
        start = data.find(bytes([_ACK, _INQUIRY_RESPONSE]))
        while start >= 0:
            try:
                parse_inquiry(data[start + 2 :])
            except ProtocolError:
                start = data.find(bytes([_ACK, _INQUIRY_RESPONSE]), start + 1)
            else:
                return True
        return False

    def serial_probe(self) -> bytes:
        """Inquire."""
        return bytes([_INQUIRY])

    def identity_commands(self) -> Sequence[Command]:
        """Stop, and ask for the name given in Consensys; LogAndStream answers, BtStream does not know it."""
        return (_command(_STOP, pause_s=0.3), _command(_GET_NAME))

    def identities_in(self, data: bytes) -> Sequence[str]:
        """Return the names told."""
        answer = bytes([_ACK, _NAME_RESPONSE])
        names, at = [], data.find(answer)
        while 0 <= at < len(data) - 2:
            end = at + 3 + data[at + 2]
            name = data[at + 3 : end].split(b"\0")[0].decode("ascii", "replace")
            if end <= len(data) and end - at - 3 <= _MAX_NAME_BYTES and name and name.isascii() and name.isprintable():
                names.append(name)
            at = data.find(answer, at + 2)
        return names

    def open(self, config: SessionConfig, *, transport: str) -> Shimmer3Session:
        """Start a session: up to 2 g on the low-noise accelerometer, beyond on the wide-range one (8 g by default).

        Raises
        ------
        ConfigError
            An option, or a rate or range that is not positive.
        """
        require_transport(self.name, transport, self.transports)
        check_options(self.name, config.options, {})
        asked = (config.rate_hz, config.acc_range_g, config.gyr_range_deg_s)
        if any(value is not None and not value > 0 for value in asked):
            raise ConfigError(f"{self.name}: rate and ranges must be positive, got {asked}")
        return Shimmer3Session(config)


def _tick(data: bytes, at: int) -> int:
    return int.from_bytes(data[at + 1 : at + _HEADER_BYTES], "little")


def _command(code: int, argument: bytes = b"", *, pause_s: float = 0.05) -> Command:
    return Command(SERIAL_CHANNEL, bytes([code]) + argument, pause_s=pause_s)
