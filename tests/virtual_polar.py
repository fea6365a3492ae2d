"""Polar sensors that do not exist, for ``DevicePeripheral``: an H10, and a Verity Sense with all that is awkward."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from virtual_ble import Services
from virtual_devices import Notifications, Sampler, movement

from kinedge.firmware_bridge.device import Advertisement

_PMD = "fb005c8{}-02e7-f387-1cad-8acd2d8df0c8"
_PMD_FORMAT = {0: "H", 1: "H", 2: "H", 4: "B"}
_PMD_WRONG = {0: 8, 1: 7, 2: 9, 4: 11}  # which error tells that a setting is wrong


def _with_differences(counts: NDArray[np.int64], *, block: int = 8) -> bytes:
    """Compress (n, 3): a reference sample, then blocks of differences of as few bits as will do."""
    out = counts[0].astype("<i2").tobytes()
    differences = np.diff(counts, axis=0)
    for at in range(0, len(differences), block):
        part = [int(d) for d in differences[at : at + block].ravel()]
        bits = max(max(d, ~d).bit_length() for d in part) + 1
        packed = sum((d & (1 << bits) - 1) << i * bits for i, d in enumerate(part))
        out += bytes([bits, len(part) // 3]) + packed.to_bytes(-(-len(part) * bits // 8), "little")
    return out


class EmulatedPolar:
    """A Polar sensor with the PMD service.

    Parameters
    ----------
    name
        As advertised.
    offers
        Settings and their values by measurement (2 acceleration, 5 angular rate, 6 magnetic field).
    each
        Samples per frame.
    compressed
        Whether frames hold differences, and starting tells a factor; else int16 mG.
    keeps_running
        Whether streams go on when the connection is lost.
    room
        Bytes of a response after which it goes on in another.
    """

    def __init__(
        self,
        name: str,
        offers: Mapping[int, Mapping[int, Sequence[int]]],
        *,
        each: int,
        compressed: bool,
        keeps_running: bool = False,
        room: int = 512,
    ) -> None:
        self.name = name
        self.offers = offers
        self.in_charger = False
        self.epoch_ns = 599_616_000 * 10**9  # 2019-01-01
        self.control, self.data = _PMD.format(1), _PMD.format(2)
        self.services: Services = {
            _PMD.format(0): {self.control: ["read", "write", "indicate"], self.data: ["notify"]},
        }
        self.samplers = {m: Sampler(each=each, offset_ns=7_000_000 * (m - 2)) for m in offers}
        self._compressed, self._keeps_running, self._room = compressed, keeps_running, room
        self._replies: Notifications = []

    @classmethod
    def h10(cls) -> EmulatedPolar:
        offers = {2: {0: (25, 50, 100, 200), 1: (16,), 2: (2, 4, 8)}}
        return cls("Polar H10 1234567A", offers, each=10, compressed=False)

    @classmethod
    def verity(cls) -> EmulatedPolar:
        offers = {
            2: {0: (52,), 1: (16,), 2: (8,), 4: (3,)},
            5: {0: (52,), 1: (16,), 2: (2000,), 4: (3,)},
            6: {0: (10, 20, 50, 100), 1: (16,), 2: (50,), 4: (3,)},
        }
        return cls("Polar Sense 7654321B", offers, each=13, compressed=True, keeps_running=True, room=15)

    @property
    def advertisement(self) -> Advertisement:
        return Advertisement("A0:9E:1A:00:00:01", self.name)

    @property
    def measuring(self) -> bool:
        return any(sampler.running for sampler in self.samplers.values())

    def disconnected(self) -> None:
        if not self._keeps_running:
            for sampler in self.samplers.values():
                sampler.stop()

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        if characteristic != self.control:
            return
        op, measurement = data[0], data[1] if len(data) > 1 else 0
        error, parameters = self._obey(op, measurement, data[2:], elapsed_ns)
        response = bytes([0xF0, op, measurement, error])
        while True:  # the rest of a long one begins with whether more follows
            part, parameters = parameters[: self._room], parameters[self._room :]
            self._replies.append((self.control, response + bytes([bool(parameters)]) + part))
            response = b""
            if not parameters:
                return

    def _obey(self, op: int, measurement: int, rest: bytes, elapsed_ns: int) -> tuple[int, bytes]:
        if op not in (1, 2, 3):
            return 1, b""
        if measurement not in self.offers:
            return 3, b""
        sampler, offered = self.samplers[measurement], self.offers[measurement]
        if op == 1:
            forms = ((s, v, f"<BB{len(v)}{_PMD_FORMAT[s]}") for s, v in offered.items())
            return 0, b"".join(struct.pack(form, s, len(v), *v) for s, v, form in forms)
        if op == 3:
            sampler.stop()
            return 0, b""
        if self.in_charger:
            return 13, b""
        if sampler.running:
            return 6, b""
        chosen = {}
        while rest:
            form = struct.Struct(f"<BB{_PMD_FORMAT.get(rest[0], 'H')}")
            if len(rest) < form.size:
                return 4, b""
            setting, _, chosen[setting] = form.unpack_from(rest)
            rest = rest[form.size :]
        for setting, values in offered.items():
            if setting not in chosen:
                return 5, b""
            if chosen[setting] not in values:
                return _PMD_WRONG[setting], b""
        sampler.start(chosen[0], elapsed_ns=elapsed_ns)
        return 0, struct.pack("<BBf", 5, 1, self._factor(measurement)) if self._compressed else b""

    def _factor(self, measurement: int) -> float:
        return self.offers[measurement][2][0] / 32768

    def advance(self, elapsed_ns: int) -> Notifications:
        notified, self._replies = self._replies, []
        for measurement, sampler in self.samplers.items():
            for time_ns in sampler.due(elapsed_ns):
                rows = movement(time_ns / 1e9)
                units = {2: rows[:, :3] / 9.80665, 5: np.rad2deg(rows[:, 3:6]), 6: rows[:, 6:] / 100}[measurement]
                head = struct.pack("<BQ", measurement, self.epoch_ns + int(time_ns[-1]))
                if self._compressed:
                    counts = np.rint(units / self._factor(measurement)).astype(np.int64)
                    notified.append((self.data, head + b"\x80" + _with_differences(counts)))
                else:
                    notified.append((self.data, head + b"\x01" + np.rint(units * 1000).astype("<i2").tobytes()))
        return notified
