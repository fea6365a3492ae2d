"""A MetaMotion that does not exist, over BLE."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.firmware_bridge.device import Advertisement
from kinedge.firmware_bridge.devices.emulated_serial import SampleSource, counts_of
from kinedge.firmware_bridge.devices.metamotion import NOTIFY, SERVICE, WRITE
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["EmulatedMetaMotion"]

_ACC, _GYR = 0x03, 0x13
_PACKED: Final = {_ACC: b"\x03\x1c", _GYR: b"\x13\x07"}
_LSB_PER_G: Final = {0x03: 16384.0, 0x05: 8192.0, 0x08: 4096.0, 0x0C: 2048.0}
_LSB_PER_DEG_S: Final = {0: 16.4, 1: 32.8, 2: 65.6, 3: 131.2, 4: 262.4}
_RATES_HZ: Final = {6: 25.0, 7: 50.0, 8: 100.0, 9: 200.0}
_PER_PACKET: Final = 3


class EmulatedMetaMotion:
    """A board: silent until acceleration or angular rate is configured, subscribed, enabled and powered.

    Parameters
    ----------
    values : (n, 6)
        m/s^2 and rad/s, one row per sample of the chip since the first of the two was powered.
    drop
        Notifications that the board drops, by index of all that it makes.
    """

    def __init__(self, values: NDArray[np.floating], *, drop: frozenset[int] = frozenset()) -> None:
        self.source = SampleSource(values, rate_hz=100.0)
        self.service = SERVICE
        self.characteristics = {NOTIFY: frozenset({"notify"}), WRITE: frozenset({"write-without-response"})}
        self.n_dropped_samples = 0
        self._drop = drop
        self._n_made = 0
        self._config = {_ACC: (8, 0x03), _GYR: (8, 0)}
        self._on: dict[int, set[str]] = {_ACC: set(), _GYR: set()}
        self._held: dict[int, list[bytes]] = {_ACC: [], _GYR: []}
        self._replies: list[tuple[str, bytes]] = []

    @property
    def advertisement(self) -> Advertisement:
        """What it says of itself."""
        return Advertisement("C0:00:00:00:03:13", "MetaWear", (SERVICE,))

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        """Take a write."""
        if characteristic != WRITE or len(data) < 2:
            return
        module, register, argument = data[0], data[1], data[2:]
        if data[:2] == b"\x13\x80":
            self._replies.append((NOTIFY, b"\x13\x80\x00\x01"))
        elif data[:2] == b"\x11\x8c":
            self._replies.append((NOTIFY, b"\x11\x8c\x63\x34\x10"))
        elif module in self._config and argument:
            self._set(module, register, argument, elapsed_ns)

    def advance(self, elapsed_ns: int) -> list[tuple[str, bytes]]:
        """Return (characteristic, value) of the notifications due."""
        notified, self._replies = self._replies, []
        for _, row in self.source.due(elapsed_ns):
            for module, units in ((_ACC, row[:3] / STANDARD_GRAVITY_M_S2), (_GYR, np.rad2deg(row[3:]))):
                if self._on[module] != {"data", "enabled", "power"}:
                    continue
                code = self._config[module][1]
                scale = 1 / (_LSB_PER_G[code] if module == _ACC else _LSB_PER_DEG_S[code])
                held = self._held[module]
                held.append(counts_of(units, np.full(3, scale)).astype("<i2").tobytes())
                if len(held) == _PER_PACKET:
                    if self._n_made in self._drop:
                        self.n_dropped_samples += _PER_PACKET
                    else:
                        notified.append((NOTIFY, _PACKED[module] + b"".join(held)))
                    self._n_made += 1
                    held.clear()
        return notified

    def _set(self, module: int, register: int, argument: bytes, elapsed_ns: int) -> None:
        on = self._on[module]
        if register == 0x03:
            self._config[module] = (argument[0] & 0xF, argument[1])
        elif register == _PACKED[module][1]:
            self._switch(on, "data", on_now=bool(argument[0]))
        elif register == 0x02:
            self._switch(on, "enabled", on_now=argument[0] == 1)
        elif register == 0x01:
            self._switch(on, "power", on_now=argument[0] == 1)
            if "power" in on and not self.source.running:
                self.source.start(elapsed_ns, rate_hz=_RATES_HZ[self._config[module][0]])
            elif not any("power" in state for state in self._on.values()):
                self.source.stop()

    @staticmethod
    def _switch(on: set[str], what: str, *, on_now: bool) -> None:
        (on.add if on_now else on.discard)(what)
