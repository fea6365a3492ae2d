"""WitMotion WT901 family on a serial line or USB.

Frames have 11 bytes: ``55``, type, eight of data and the sum of the ten before. Type 50 (time) comes before 51
(acceleration) and 52 (angular rate): a sample is what stands between two of them, and what is missing of it is masked.
Time is that of 50, in whole milliseconds, which this session asks for; without 50, the count of samples.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

import numpy as np

from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Command, SessionConfig
from kinedge.firmware_bridge.devices._common import nearest
from kinedge.firmware_bridge.devices._stamped import StampedSession
from kinedge.firmware_bridge.devices._timing import CountClock
from kinedge.firmware_bridge.devices._witmotion import (
    DOUBTFUL,
    RATE_CODES,
    REG_CONTENT,
    REG_RATE,
    SCALES,
    at_end,
    setup_commands,
)

__all__ = [
    "ACC",
    "FRAMES_PER_SAMPLE",
    "FRAME_BYTES",
    "GYR",
    "TIME",
    "WitMotionSerialSession",
    "encode_serial_frame",
    "parse_time",
    "split_serial",
]

FRAME_BYTES: Final = 11
FRAMES_PER_SAMPLE: Final = 3
TIME, ACC, GYR = 0x50, 0x51, 0x52

_TYPES: Final = range(0x50, 0x60)
_TIME_ACC_GYR: Final = 0x0007
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=timezone.utc)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass
class _Sample:
    """What has come of a sample."""

    time_ns: int | None = None
    acc: bytes | None = None
    gyr: bytes | None = None


def encode_serial_frame(kind: int, data: bytes) -> bytes:
    """Return a serial frame of 8 bytes of data."""
    frame = bytes([0x55, kind]) + data
    return frame + bytes([sum(frame) & 0xFF])


def split_serial(data: bytes) -> tuple[list[bytes], int, int]:
    """Cut bytes into frames with the right sum: frames, bytes consumed, and how many of these belong to none."""
    frames: list[bytes] = []
    at, skipped, n = 0, 0, len(data)
    while True:
        start = data.find(0x55, at)
        if start < 0:
            return frames, n, skipped + n - at
        skipped += start - at
        at = start
        if n - at >= 2 and data[at + 1] not in _TYPES:
            at, skipped = at + 1, skipped + 1
            continue
        end = at + FRAME_BYTES
        if end > n:
            return frames, at, skipped
        if sum(data[at : end - 1]) & 0xFF == data[end - 1]:
            frames.append(data[at:end])
            at = end
        else:
            at, skipped = at + 1, skipped + 1


def parse_time(frame: bytes) -> int | None:
    """Return the time of a frame of type 50 in ns since 2000, None where it is no date; a clock never set sends 0."""
    year, month, day, hour, minute, second, milliseconds = struct.unpack_from("<6BH", frame, 2)
    if year > 99 or milliseconds > 999:
        return None
    try:
        at = datetime(2000 + year, month or 1, day or 1, hour, minute, second, milliseconds * 1000, timezone.utc)
    except ValueError:
        return None
    return (at - _EPOCH) // _MILLISECOND * 1_000_000


class WitMotionSerialSession(StampedSession):
    """One serial device; it streams as soon as it has power, and cannot be told to stop."""

    def __init__(self, config: SessionConfig) -> None:
        rate_hz = nearest(tuple(RATE_CODES), config.rate_hz)
        self._rate_code = RATE_CODES[rate_hz]
        self._buffer = b""
        self._sample = _Sample()
        self._has_time = False
        self._last_ns = 0
        super().__init__(config, rate_hz=rate_hz, doubtful=DOUBTFUL)
        self._counted = CountClock(interval_ns=self.interval_ns)

    def start_commands(self) -> Sequence[Command]:
        """Return: unlock and ask for time, acceleration and angular rate; set the rate; save if asked to."""
        registers = [(REG_CONTENT, _TIME_ACC_GYR), (REG_RATE, self._rate_code)]
        save = self.config.options.get("save") == "yes"
        return setup_commands(SERIAL_CHANNEL, registers, save=save, response=False)

    def link_reopened(self) -> None:
        """Forget half a frame and half a sample."""
        super().link_reopened()
        self._buffer, self._sample = b"", _Sample()

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take bytes in any chunking."""
        received = self._buffer + data
        frames, consumed, skipped = split_serial(received)
        self._buffer = received[consumed:]
        self.counters["packets"] += len(frames)
        if skipped:
            self.reject(f"{skipped} bytes belong to no frame")
            self.counters["bytes_skipped"] += skipped
        samples: list[_Sample] = []
        for frame in frames:
            kind = frame[1]
            if kind == TIME:
                self._end(samples)
                self._sample.time_ns = parse_time(frame)
                if self._sample.time_ns is None:
                    self.reject(f"the time frame {frame.hex()} is no date")
            elif kind == ACC:
                if self._sample.acc is not None or self._sample.gyr is not None:
                    self._end(samples)
                self._sample.acc = frame[2:8]
            elif kind == GYR:
                if self._sample.gyr is not None:
                    self._end(samples)
                self._sample.gyr = frame[2:8]
                if self._sample.acc is not None:
                    self._end(samples)
        # Samples from before the device took the command to send its time are counted.
        first = 0 if self._has_time else next((i for i, s in enumerate(samples) if s.time_ns is not None), len(samples))
        if first:
            times, _ = self._counted.place(first, host_time_ns=host_time_ns)
            self._deliver(samples[:first], [int(t) for t in times], host_time_ns)
        if samples[first:]:
            if not self._has_time:
                self._has_time = True
                self.restart_clock()
            self._deliver(samples[first:], self._stamps(samples[first:]), host_time_ns)

    def _end(self, samples: list[_Sample]) -> None:
        """Close the sample, if there is anything of it."""
        if self._sample.acc is not None or self._sample.gyr is not None:
            samples.append(self._sample)
            self._sample = _Sample()

    def _stamps(self, samples: Sequence[_Sample]) -> list[int]:
        """Return device times; a sample whose time frame was damaged comes an interval after the last."""
        stamps = []
        for sample in samples:
            self._last_ns = self._last_ns + self.interval_ns if sample.time_ns is None else sample.time_ns
            stamps.append(self._last_ns)
        return stamps

    def _deliver(self, samples: Sequence[_Sample], stamps_ns: Sequence[int], host_time_ns: int | None) -> None:
        none = bytes(6)
        raw = b"".join((s.acc or none) + (s.gyr or none) for s in samples)
        counts = np.frombuffer(raw, "<i2").reshape(-1, 6)
        valid = np.repeat([(s.acc is not None, s.gyr is not None) for s in samples], 3, axis=1)
        self.deliver_stamped(stamps_ns, counts * SCALES, valid, at_end(counts), host_time_ns=host_time_ns)
