"""What the dashboard remembers of each person and each device: the newest, and a bounded past.

Taking something in costs some microseconds and makes no text: it happens on the way of every packet and verdict.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.verdict import Verdict
from kinedge.firmware_bridge.device import Battery, DeviceInfo
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.signals import ImuChunk

__all__ = ["HISTORY_S", "DeviceTrack", "PersonTrack", "Point", "SignalBuffer"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

HISTORY_S: Final = 900.0
_RECENT_S: Final = 20.0
_LOSS_NS: Final = 15_000_000_000
_SILENT_NS: Final = 2_000_000_000
_SIGNAL_HZ: Final = 50.0
_MAX_PENDING: Final = 200  # chunks of a sensor between two looks


class Point(NamedTuple):
    """One verdict of the past."""

    utc_ns: int
    decision: str
    score: float
    p_value: float
    normal: float
    anomalous: float


@dataclass
class DeviceTrack:
    """What was heard of the device at one place.

    Parameters
    ----------
    where
        Whom it is known by.
    """

    where: str
    info: DeviceInfo | None = None
    connected: bool = False
    battery: float | None = None
    heard_ns: int | None = None
    _now: list[int] = field(default_factory=lambda: [0, 0, 0])  # since when, samples, lost
    _before: tuple[int, int] = (0, 0)

    def hear(self, event: SessionEvent, now_ns: int) -> None:
        """Take what the device says."""
        if isinstance(event, ImuChunk):
            if now_ns - self._now[0] > _LOSS_NS:
                self._before = (self._now[1], self._now[2])
                self._now = [now_ns, 0, 0]
            self._now[1] += len(event)
            self._now[2] += event.lost
            self.heard_ns, self.connected = now_ns, True
        elif isinstance(event, DeviceInfo):
            self.info, self.connected = event, True
        elif isinstance(event, LinkOpened):
            self.connected = True
        elif isinstance(event, LinkClosed):
            self.connected = False
        elif isinstance(event, Battery) and event.percent is not None:
            self.battery = event.percent / 100

    @property
    def loss(self) -> float:
        """Share of samples that never arrived, of the last 15 to 30 s."""
        samples, lost = self._now[1] + self._before[0], self._now[2] + self._before[1]
        return lost / max(samples + lost, 1)

    def state(self, now_ns: int) -> str:
        """Return ``streaming``, ``silent`` (the link is up), ``lost`` (it is not) or ``none`` (never heard)."""
        if self.info is None and self.heard_ns is None:
            return "none"
        if not self.connected:
            return "lost"
        return "streaming" if self.heard_ns is not None and now_ns - self.heard_ns < _SILENT_NS else "silent"


class PersonTrack:
    """The verdicts about one person: the newest, those of the last 20 s, and a line of each for 15 minutes.

    Parameters
    ----------
    hop_s
        Between two verdicts.
    """

    def __init__(self, hop_s: float) -> None:
        self.verdict: Verdict | None = None
        self.utc_ns: int | None = None
        self.recent: deque[Verdict] = deque(maxlen=max(1, round(_RECENT_S / hop_s)))
        self.points: deque[Point] = deque(maxlen=max(1, round(HISTORY_S / hop_s)))
        self.counts: Counter[str] = Counter()
        self._day = -1

    def take(self, verdict: Verdict, utc_ns: int) -> None:
        """Take the newest."""
        self.verdict, self.utc_ns = verdict, utc_ns
        self.recent.append(verdict)
        word = verdict.of_all.word
        self.points.append(
            Point(utc_ns, word, verdict.score, verdict.p_value, verdict.belief_normal, verdict.belief_anomalous)
        )
        day = time.localtime(utc_ns // 1_000_000_000).tm_yday
        if day != self._day:
            self._day = day
            self.counts.clear()
        self.counts[word] += 1


class SignalBuffer:
    """Samples of one sensor between two looks, thinned to 50 Hz at most; what is missing is NaN.

    Parameters
    ----------
    channels
        Names of the columns.
    rate_hz
        Of the sensor.

    Attributes
    ----------
    sent_hz
        What is left of its rate.
    """

    def __init__(self, channels: Sequence[str], rate_hz: float) -> None:
        self.channels = tuple(channels)
        self._step = max(1, math.ceil(rate_hz / _SIGNAL_HZ))
        self.sent_hz = rate_hz / self._step
        self._pending: deque[tuple[I64, F32]] = deque(maxlen=_MAX_PENDING)
        self._left: tuple[I64, F32] | None = None

    def push(self, utc_ns: I64, values: F32, valid: NDArray[np.bool_]) -> None:
        """Take samples: times (n,), values and mask (n, n_channels)."""
        self._pending.append((utc_ns, np.where(valid, values, np.float32(np.nan))))

    def take(self) -> tuple[I64, F32] | None:
        """Return what came since, averaged over as many samples as bring it to 50 Hz or less; None for nothing."""
        parts = ([] if self._left is None else [self._left]) + list(self._pending)
        self._pending.clear()
        if not parts:
            return None
        times, values = np.concatenate([t for t, _ in parts]), np.concatenate([v for _, v in parts])
        step = self._step
        whole = len(times) // step * step
        self._left = None if whole == len(times) else (times[whole:], values[whole:])
        if not whole:
            return None
        if step == 1:
            return times, values
        cut = values[:whole].reshape(-1, step, values.shape[1])
        there = np.isfinite(cut)
        n = there.sum(axis=1)
        mean = np.where(there, cut, 0).sum(axis=1) / np.maximum(n, 1)
        return times[:whole:step] + (times[step - 1 : whole : step] - times[:whole:step]) // 2, np.where(
            n > 0, mean, np.nan
        ).astype(np.float32)
