"""WitMotion WT901 family: WT901BLECL and BLE5 over BLE here, serial and USB models in ``_witmotion_serial``.

Over BLE the device sends frames of 20 bytes, ``55 61`` and nine int16 (acceleration, angular rate, angle), with no
time stamp, no sequence number and no checksum. Frames are cut and joined over notifications in any way.

* A frame is believed when it begins with ``55 61`` or ``55 71`` and ends where the bytes end or the next frame begins;
  a bare 55 is common among the values and never taken for a start.
* Time is the count of samples, held to the host clock by ``CountClock``, which also estimates loss: samples lost less
  than 0.2 s long are not seen.
* FFE4 notifies and FFE9 is written; on some units the two are said to be swapped, and older ones have a transparent
  UART instead. ``characteristics_found`` chooses by property. The service has a base of its own,
  ``...9a34fb``, not that of the Bluetooth SIG: the short form of the UUIDs is another characteristic.

The magnetometer is not delivered: its unit differs between models. Settings hold until the device is switched off, or
for good with the option ``save = "yes"``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, Command, SessionConfig
from kinedge.firmware_bridge.devices._common import QueueSession, check_options, nearest, require_transport
from kinedge.firmware_bridge.devices._timing import CountClock, Samples
from kinedge.firmware_bridge.devices._witmotion import (
    ACC_RANGE_G,
    DOUBTFUL,
    GYR_RANGE_DEG_S,
    RATE_CODES,
    REG_RATE,
    SCALES,
    at_end,
    setup_commands,
)
from kinedge.firmware_bridge.devices._witmotion_serial import (
    ACC,
    FRAME_BYTES,
    FRAMES_PER_SAMPLE,
    GYR,
    WitMotionSerialSession,
    split_serial,
)

__all__ = ["NOTIFY", "SERVICE", "WRITE", "WitMotionBleSession", "WitMotionDriver", "split_ble"]

SERVICE: Final = "0000ffe5-0000-1000-8000-00805f9a34fb"
NOTIFY: Final = "0000ffe4-0000-1000-8000-00805f9a34fb"
WRITE: Final = "0000ffe9-0000-1000-8000-00805f9a34fb"

_UART_NOTIFY: Final = "49535343-1e4d-4bd9-ba61-23c647249616"
_UART_WRITE: Final = "49535343-8841-43f4-a8d4-ecbe34729bb3"
_BLE_BYTES: Final = 20
_BLE_SAMPLE, _BLE_REGISTER = b"\x55\x61", b"\x55\x71"
_BAUDS: Final = ("9600", "19200", "38400", "57600", "115200", "230400", "460800", "921600")


def split_ble(data: bytes) -> tuple[list[bytes], int, int]:
    """Cut bytes into BLE frames: frames, bytes consumed, and how many of these belong to none."""
    frames: list[bytes] = []
    at, skipped, n = 0, 0, len(data)
    while n - at >= 2:
        if not _starts_ble(data, at):
            start = min(i for i in (data.find(_BLE_SAMPLE, at), data.find(_BLE_REGISTER, at), n) if i >= 0)
            if start == n and data[-1] == 0x55:
                start = n - 1
            skipped += start - at
            at = start
        elif n - at < _BLE_BYTES:
            break
        elif _starts_ble(data, at + _BLE_BYTES):
            frames.append(data[at : at + _BLE_BYTES])
            at += _BLE_BYTES
        else:
            skipped += 2
            at += 2
    if n - at == 1 and data[at] != 0x55:
        return frames, n, skipped + 1
    return frames, at, skipped


def _starts_ble(data: bytes, at: int) -> bool:
    """Whether a frame can begin here, as far as bytes are there."""
    start = data[at : at + 2]
    return start in (_BLE_SAMPLE, _BLE_REGISTER, b"\x55", b"")


class WitMotionBleSession(QueueSession):
    """One BLE device; it streams as soon as it is connected, and cannot be told to stop."""

    def __init__(self, config: SessionConfig) -> None:
        rate_hz = nearest(tuple(RATE_CODES), config.rate_hz)
        self.subscriptions = (NOTIFY,)
        self._write, self._response = WRITE, False
        self._buffer = b""
        self._rate_code = RATE_CODES[rate_hz]
        self._boot_id = 0
        super().__init__(config, rate_hz=rate_hz, doubtful=DOUBTFUL)
        self._clock = CountClock(interval_ns=self.interval_ns)

    def start_commands(self) -> Sequence[Command]:
        """Return: unlock and set the rate, then save if asked to."""
        save = self.config.options.get("save") == "yes"
        return setup_commands(self._write, [(REG_RATE, self._rate_code)], save=save, response=self._response)

    def characteristics_found(self, properties: Mapping[str, Collection[str]]) -> None:
        """Choose what to listen on and what to write to; see ``ChoosesCharacteristics``."""
        notify = [u for u in (NOTIFY, WRITE, _UART_NOTIFY) if {"notify", "indicate"} & set(properties.get(u, ()))]
        write = [
            u
            for u in (WRITE, NOTIFY, _UART_WRITE, _UART_NOTIFY)
            if {"write", "write-without-response"} & set(properties.get(u, ()))
        ]
        if not notify or not write:
            raise ProtocolError(
                f"{self.config.sensor}: neither FFE4/FFE9 nor the transparent UART can be "
                f"{'written to' if notify else 'listened to'}; is this a WitMotion device?"
            )
        self.subscriptions = (notify[0],)
        self._write, self._response = write[0], "write-without-response" not in properties[write[0]]
        self._commands.clear()
        self._commands.extend(self.start_commands())

    def link_reopened(self) -> None:
        """Forget half a frame; as nothing tells how many samples were missed, time starts anew."""
        super().link_reopened()
        self._buffer = b""
        self._restart_clock()

    def next_command(self) -> Command | None:
        """Return the next command; with the last, time starts anew: what came before had perhaps another rate."""
        command = super().next_command()
        if command is not None and not self._commands and self.counters["samples"]:
            self._restart_clock()
        return command

    def _restart_clock(self) -> None:
        self._boot_id += 1
        self._clock = CountClock(interval_ns=self.interval_ns)

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take a notification; frames may be cut and joined."""
        received = self._buffer + data
        frames, consumed, skipped = split_ble(received)
        self._buffer = received[consumed:]
        self.counters["packets"] += len(frames)
        if skipped:
            self.reject(f"{skipped} bytes belong to no frame")
            self.counters["bytes_skipped"] += skipped
        rows = [frame for frame in frames if frame.startswith(_BLE_SAMPLE)]
        if not rows:
            return
        counts = np.frombuffer(b"".join(rows), "<i2").reshape(-1, _BLE_BYTES // 2)[:, 1:7]
        times, lost = self._clock.place(len(rows), host_time_ns=host_time_ns)
        values = (counts * SCALES).astype(np.float32)
        samples = Samples(times, values, np.ones(values.shape, bool), at_end(counts))
        self.deliver(samples, lost=lost, boot_id=self._boot_id, host_time_ns=host_time_ns)


class WitMotionDriver:
    """The WT901 family, over BLE and serial."""

    name = "witmotion"
    transports = frozenset({"ble", "serial"})
    bauds = (9_600, 115_200, 230_400, 460_800, 921_600, 57_600, 38_400, 19_200)

    def recognise(self, advertisement: Advertisement) -> bool:
        """Whether the service is theirs, or the name begins as theirs do."""
        if SERVICE in advertisement.service_uuids:
            return True
        return advertisement.name.upper().startswith(("WT", "BWT"))

    def recognise_serial(self, data: bytes) -> bool:
        """Whether there is a whole frame, and another or its beginning behind it."""
        frames, _, _ = split_serial(data)
        if not frames:
            return False
        end = data.find(frames[0]) + FRAME_BYTES
        return data[end : end + 1] in (b"", b"\x55") and any(frame[1] in (ACC, GYR) for frame in frames)

    def serial_probe(self) -> bytes:
        """Nothing: it speaks by itself."""
        return b""

    def open(self, config: SessionConfig, *, transport: str) -> WitMotionBleSession | WitMotionSerialSession:
        """Start a session.

        Raises
        ------
        ConfigError
            Another range than 16 g and 2000 deg/s, an unknown option, or a rate too high for the ``baud`` of a
            serial line (9600 as delivered; change it with WitMotion's program).
        """
        require_transport(self.name, transport, self.transports)
        known = {"save": ("yes", "no")}
        check_options(self.name, config.options, known if transport == "ble" else {**known, "baud": _BAUDS})
        if config.acc_range_g not in (None, ACC_RANGE_G) or config.gyr_range_deg_s not in (None, GYR_RANGE_DEG_S):
            raise ConfigError(f"{self.name}: the ranges are 16 g and 2000 deg/s; leave them out")
        if transport == "ble":
            return WitMotionBleSession(config)
        session = WitMotionSerialSession(config)
        baud = int(config.options.get("baud", "115200"))
        bits_per_s = session.rate_hz * FRAMES_PER_SAMPLE * FRAME_BYTES * 10
        if bits_per_s > baud:
            raise ConfigError(
                f"{self.name}: {session.rate_hz:g} Hz need {bits_per_s:.0f} baud, and the line has {baud}; "
                "raise the baud rate of device and port, or lower rate_hz"
            )
        return session
