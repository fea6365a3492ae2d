"""Bluetooth devices of other makers that do not exist: each does what its family does, when told what it must be told.

An emulated device is sans-IO, as those of ``kinedge.firmware_bridge.devices`` are: it is written to, is told how much
time has passed since it was switched on, and returns the notifications due. ``DevicePeripheral`` puts one on the
virtual radio. UUIDs, commands and layouts are written out here, not taken from the drivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from bumble.att import ATT_Error, ErrorCode
from numpy.typing import NDArray
from virtual_ble import Peripheral, Room, Services

from kinedge.firmware_bridge.device import Advertisement
from kinedge.units import period_ns

Notifications = list[tuple[str, bytes]]

_POLL_S = 0.005
_FREQUENCY = np.array([5.3, 3.7, 2.9, 6.1, 1.7, 7.9, 1.3, 0.9, 2.3])
_AMPLITUDE = np.array([4.0, 3.0, 2.0, 2.0, 1.5, 1.0, 10.0, 8.0, 6.0])
_REST = np.array([0.0, 0.0, 9.80665, 0.0, 0.0, 0.0, 20.0, 5.0, -40.0])


def movement(time_s: NDArray[np.floating]) -> NDArray[np.float64]:
    """What all these devices measure, by time since power on: (n, 9) in m/s^2, rad/s and uT."""
    values: NDArray[np.float64] = np.sin(time_s[:, None] * _FREQUENCY + np.arange(9)) * _AMPLITUDE + _REST
    return values


def table() -> NDArray[np.float64]:
    """The movement of 40 s at 100 Hz, (4000, 6), for devices that know no time and are given a row per sample."""
    return movement(np.arange(4000) / 100.0)[:, :6]


class DevicePeripheral(Peripheral):
    """An emulated device on the virtual radio; what it notifies while nobody listens is lost.

    Parameters
    ----------
    device
        Has ``advertisement``, ``services`` (or one ``service`` with its ``characteristics``), ``write(characteristic,
        data, elapsed_ns=)`` and ``advance(elapsed_ns)``, which returns (characteristic, value) of notifications due;
        ``disconnected()``, too, where it minds.

    Attributes
    ----------
    start_ns
        Monotonic host clock when it got power.
    """

    def __init__(self, device: Any) -> None:
        heard: Advertisement = device.advertisement
        services = getattr(device, "services", None) or {device.service: device.characteristics}
        super().__init__(
            heard.name,
            heard.address,
            services={s: {c: tuple(can) for c, can in table.items()} for s, table in services.items()},
            manufacturer_data=heard.manufacturer_data,
            advertise_services=bool(heard.service_uuids),
        )
        self.device = device
        self.start_ns = 0

    @contextlib.asynccontextmanager
    async def running(self, room: Room) -> AsyncIterator[None]:
        async with super().running(room):
            self.start_ns = round(asyncio.get_running_loop().time() * 1e9)
            self.spawn(self._stream())
            yield

    def on_write(self, channel: str, data: bytes) -> None:
        self.device.write(channel, data, elapsed_ns=self._elapsed_ns())

    def _elapsed_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * 1e9) - self.start_ns

    def _on_disconnection(self, reason: int) -> None:
        super()._on_disconnection(reason)
        if hasattr(self.device, "disconnected"):
            self.device.disconnected()

    async def _stream(self) -> None:
        while True:
            for channel, value in self.device.advance(self._elapsed_ns()):
                if self.subscribed(channel):
                    await self.notify(channel, value)
            await asyncio.sleep(_POLL_S)


class Sampler:
    """Sample k is measured at k intervals (and ``offset_ns``) after power on; groups of them are sent."""

    def __init__(self, *, each: int = 1, offset_ns: int = 0) -> None:
        self.interval_ns = 0
        self._each, self._offset_ns = each, offset_ns
        self._next = 0

    @property
    def running(self) -> bool:
        return self.interval_ns > 0

    def start(self, rate_hz: float, *, elapsed_ns: int) -> None:
        self.interval_ns = period_ns(rate_hz)
        self._next = elapsed_ns // self.interval_ns + 1

    def stop(self) -> None:
        self.interval_ns = 0

    def due(self, elapsed_ns: int) -> list[NDArray[np.int64]]:
        """Return the times (each,) in ns of each full group that was measured by now."""
        groups = []
        while self.running and (self._next + self._each - 1) * self.interval_ns + self._offset_ns <= elapsed_ns:
            k = np.arange(self._next, self._next + self._each, dtype=np.int64)
            groups.append(k * self.interval_ns + self._offset_ns)
            self._next += self._each
        return groups


def _require_length(data: bytes, n: int) -> None:
    if len(data) != n:
        raise ATT_Error(ErrorCode.INVALID_ATTRIBUTE_LENGTH)


def _dot(short: int) -> str:
    return f"1517{short:04x}-4947-11e9-8646-d663bd873d93"


_DOT_CHANNELS = {20: _dot(0x2003), 21: _dot(0x2003), 26: _dot(0x2002)}


class EmulatedDot:
    """A Movella DOT: measures in the mode and at the rate it was told, as long as somebody is connected.

    Its microsecond stamp wraps ``wraps_after_s`` after power on.
    """

    field_ut = 50.0
    wrap_ns = (1 << 32) * 1000

    def __init__(self, *, wraps_after_s: float = 1.5) -> None:
        self.epoch_ns = self.wrap_ns - round(wraps_after_s * 1e9) // 1000 * 1000
        self.services: Services = {
            _dot(0x1000): {_dot(0x1001): ["read"], _dot(0x1002): ["read", "write"], _dot(0x1004): ["notify"]},
            _dot(0x2000): {_dot(0x2001): ["read", "write"]} | {_dot(c): ["notify"] for c in (0x2002, 0x2003, 0x2004)},
            _dot(0x3000): {_dot(0x3001): ["read", "notify"]},
            _dot(0x7000): {_dot(0x7001): ["write"], _dot(0x7002): ["read"], _dot(0x7003): ["notify"]},
        }
        self.mode = 0
        self.rate_hz = 60
        self.sampler = Sampler()
        self._replies: Notifications = []

    @property
    def advertisement(self) -> Advertisement:
        return Advertisement("D4:CA:6E:F1:69:3D", "Movella DOT", manufacturer_data={0x0886: b"\x01\x02"})

    @property
    def measuring(self) -> bool:
        return self.sampler.running

    def disconnected(self) -> None:
        self.sampler.stop()

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        if characteristic == _dot(0x1002):
            _require_length(data, 32)
            rate_hz = int.from_bytes(data[24:26], "little")
            if data[0] & 0x10 and rate_hz in (1, 4, 10, 12, 15, 20, 30, 60) and not self.measuring:
                self.rate_hz = rate_hz
        elif characteristic == _dot(0x2001):
            _require_length(data, 3)
            if data[:2] == b"\x01\x00":
                self.sampler.stop()
            elif data[:2] == b"\x01\x01" and data[2] in _DOT_CHANNELS:
                self.mode = data[2]
                self.sampler.start(self.rate_hz, elapsed_ns=elapsed_ns)
                self._replies.append((_dot(0x3001), bytes([87, 0])))
        elif characteristic == _dot(0x7001) and data[:1] == b"\x02" and not sum(data) & 0xFF:
            self._replies.append((_dot(0x7003), bytes.fromhex("02020300F9")))

    def advance(self, elapsed_ns: int) -> Notifications:
        notified, self._replies = self._replies, []
        for time_ns in self.sampler.due(elapsed_ns):
            (row,) = movement(time_ns / 1e9)
            payload = struct.pack("<I", (self.epoch_ns + int(time_ns[0])) // 1000 % (1 << 32))
            if self.mode == 26:
                payload += struct.pack("<4f", 1, 0, 0, 0)
            payload += struct.pack("<6f", *row[:3], *np.rad2deg(row[3:6]))
            if self.mode == 20:
                payload += np.rint(row[6:] / self.field_ut * 4096).astype("<i2").tobytes()
            notified.append((_DOT_CHANNELS[self.mode], payload))
        return notified


_GSP = "3480{}-7185-4d5d-b431-630e7050e8f0"
_GSP_RATES = ("13", "26", "52", "104", "208", "416", "833", "1666")
_GSP_QUANTITIES = {"IMU6": (0, 1), "IMU9": (0, 1, 2)}


class EmulatedMovesense:
    """A Movesense: sends what is subscribed, each message cut into notifications of at most ``room`` bytes.

    Its millisecond stamp wraps ``wraps_after_s`` after power on.
    """

    stamp_ns = 1_000_000
    wrap_ns = (1 << 32) * stamp_ns

    def __init__(self, *, room: int, each: int = 4, refused: Sequence[str] = (), wraps_after_s: float = 1.5) -> None:
        self.epoch_ns = self.wrap_ns - round(wraps_after_s * 1e3) * 10**6
        self.notified, self.written = _GSP.format("0002"), _GSP.format("0001")
        self.services: Services = {_GSP.format("2252"): {self.written: ["write"], self.notified: ["notify"]}}
        self.refused = set(refused)
        self.sampler = Sampler(each=each)
        self._room = room
        self._ref = 0
        self._quantities: tuple[int, ...] = ()
        self._replies: list[bytes] = []

    @property
    def advertisement(self) -> Advertisement:
        return Advertisement("0C:8C:DC:00:00:01", "Movesense 174630000192")

    @property
    def measuring(self) -> bool:
        return self.sampler.running

    def disconnected(self) -> None:
        self.sampler.stop()

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        if characteristic != self.written or len(data) < 2 or data[1] == 0:
            return
        command, ref = data[0], data[1]
        status = 200
        if command == 1:
            _, _, resource, rate = ([*data[2:].decode("ascii", "replace").split("/"), "", "", ""])[:4]
            if resource not in _GSP_QUANTITIES or rate not in _GSP_RATES or rate in self.refused:
                status = 404
            else:
                self._ref, self._quantities = ref, _GSP_QUANTITIES[resource]
                self.sampler.start(int(rate), elapsed_ns=elapsed_ns)
        elif command == 2:
            status = 200 if self.measuring and ref == self._ref else 404
            if status == 200:
                self.sampler.stop()
        elif command != 0:
            status = 400
        self._replies.append(struct.pack("<BBH", 1, ref, status))

    def advance(self, elapsed_ns: int) -> Notifications:
        parts, self._replies = self._replies, []
        for time_ns in self.sampler.due(elapsed_ns):
            rows = movement(time_ns / 1e9)
            blocks = [rows[:, :3], np.rad2deg(rows[:, 3:6]), rows[:, 6:]]
            message = struct.pack("<I", (self.epoch_ns + int(time_ns[0])) // 10**6 % (1 << 32))
            message += b"".join(blocks[q].astype("<f4").tobytes() for q in self._quantities)
            room = self._room - 2
            for at in range(0, len(message), room):
                parts.append(bytes([3 if at else 2, self._ref]) + message[at : at + room])
        return [(self.notified, part) for part in parts]


class EmulatedOpenEarable:
    """An OpenEarable 2: its nine-axis IMU, and the answer to what time it is."""

    config = "34c2e3be-34aa-11eb-adc1-0242ac120002"
    data = "34c2e3bc-34aa-11eb-adc1-0242ac120002"
    time = "2e04cbf9-939d-4be5-823e-271838b75259"
    epoch_ns = 1_700_000_000 * 10**9
    _SERVICE = "34c2e3bb-34aa-11eb-adc1-0242ac120002"

    def __init__(self) -> None:
        self.services: Services = {
            self._SERVICE: {self.data: ["notify"], self.config: ["read", "write"]},
            "2e04cbf7-939d-4be5-823e-271838b75259": {self.time: ["write", "write-without-response", "notify"]},
        }
        self.sampler = Sampler()
        self._replies: Notifications = []

    @property
    def advertisement(self) -> Advertisement:
        return Advertisement("E0:00:00:00:00:01", "OpenEarable-01AB", (self._SERVICE,))

    @property
    def measuring(self) -> bool:
        return self.sampler.running

    def disconnected(self) -> None:
        self.sampler.stop()

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        if characteristic == self.config:
            _require_length(data, 3)
            sensor, rate, options = data
            if sensor == 0 and not options & 1:
                self.sampler.stop()
            elif sensor == 0 and rate < 3:  # those above are for the card alone
                self.sampler.start((25, 50, 100)[rate], elapsed_ns=elapsed_ns)
        elif characteristic == self.time and len(data) == 28 and data[:2] == b"\x01\x00":
            now_us = (self.epoch_ns + elapsed_ns) // 1000
            _, _, sequence, asked_us = struct.unpack_from("<BBHQ", data)
            self._replies.append((self.time, struct.pack("<BBHQQQ", 1, 1, sequence, asked_us, now_us, now_us)))

    def advance(self, elapsed_ns: int) -> Notifications:
        notified, self._replies = self._replies, []
        for time_ns in self.sampler.due(elapsed_ns):
            (row,) = movement(time_ns / 1e9)
            time_us = (self.epoch_ns + int(time_ns[0])) // 1000
            values = (*row[:3], *np.rad2deg(row[3:6]), *row[6:])
            notified.append((self.data, struct.pack("<BBQ9f", 0, 36, time_us, *values)))
        return notified
