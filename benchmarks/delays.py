"""Simulated BLE delays, where the truth is known: packets of one device with its clock, and exchanges with it.

A device samples by its own clock (offset, skew that wanders with temperature), a packet waits for the next connection
event, which the host's radio times, some are repeated at later events, the host's stack adds some milliseconds, and
now and then everything stalls. No hardware took part.

What matters most is what paces the samples.

* ``own``: the IMU's oscillator, some tenths of a percent off the clock that stamps them. Packets meet connection events
  at all phases, and some wait for none.
* ``clock``: a timer of the stamping clock. It keeps step with the radio but for some ppm: the wait of *all* packets
  creeps over minutes, and no arrival tells it from drift.
* ``host``: the connection events themselves, as devices do that sample by them. The wait is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.units import NS_PER_S

__all__ = ["DEVICE_ORIGIN_NS", "FLOOR_BEYOND_INTERVAL_NS", "Delays", "SimulatedDevice", "simulate_delays"]

F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]

DEVICE_ORIGIN_NS: Final = 5_000 * NS_PER_S
FLOOR_BEYOND_INTERVAL_NS: Final = 5_000_000
"""What device and host's stack need at most of even the fastest packets."""

_PACKET_S: Final = 0.05
_OWN_PACE: Final = 0.007
_DEVICE_S: Final = 0.002
_HOST_S: Final = 0.0008
_EXCHANGE_EVERY_S: Final = (1.0, 3.0)  # as ``SessionLink`` asks


@dataclass(frozen=True)
class Delays:
    """One situation.

    Parameters
    ----------
    name
        As it stands in the table.
    connection_interval_s
        Of BLE: packets wait for the next event.
    repeat
        Probability that a packet needs another event.
    loss
        Share of packets that never arrive.
    skew_ppm
        How much faster the device clock runs.
    pace
        ``own``, ``clock`` or ``host``; see above.
    """

    name: str
    connection_interval_s: float = 0.030
    repeat: float = 0.12
    loss: float = 0.0
    skew_ppm: float = 35.0
    pace: Literal["own", "clock", "host"] = "own"

    @property
    def delay_floor_ns(self) -> int:
        """What ``ClockMap`` is to be told: an interval, and what device and host need."""
        return round(self.connection_interval_s * NS_PER_S) + FLOOR_BEYOND_INTERVAL_NS


@dataclass(frozen=True, eq=False)
class SimulatedDevice:
    """Packets of one device: when their last sample was taken by host and device clock, and when they arrived.

    ``exchanges`` holds before which packet each was answered, and its t1 to t4 in ns.
    """

    true_ns: I64
    device_ns: I64
    arrival_ns: I64
    exchanges: list[tuple[int, tuple[int, int, int, int]]]
    delay_floor_ns: int


def simulate_delays(situation: Delays, *, duration_s: float, rng: np.random.Generator) -> SimulatedDevice:
    """Simulate one device in a situation."""
    interval = situation.connection_interval_s
    phase = rng.uniform(0, interval)
    skew, wander_phase = situation.skew_ppm * 1e-6, rng.uniform(0, 2 * np.pi)

    def device_clock(at: F64) -> F64:
        """Device seconds since the start: the skew, and a slow wander of 3 ppm."""
        wander = np.cos(wander_phase) - np.cos(2 * np.pi * at / 400 + wander_phase)
        clock: F64 = at * (1 + skew) + 3e-6 * 400 / (2 * np.pi) * wander
        return clock

    def arrive(ready: F64) -> F64:
        event = np.ceil((ready - phase) / interval) * interval + phase
        event += (rng.geometric(1 - situation.repeat, len(ready)) - 1) * interval
        arrival: F64 = event + rng.gamma(1.2, 0.0015, len(ready)) + _HOST_S
        return arrival

    period_s = _PACKET_S * {"own": 1 + _OWN_PACE, "clock": 1 / (1 + skew), "host": 1.0}[situation.pace]
    taken: F64 = rng.uniform(0, period_s) + period_s * np.arange(1, int(duration_s / period_s), dtype=np.float64)
    arrival = arrive(np.add(taken, _DEVICE_S))
    for stall in np.arange(70.0, duration_s, 90.0):
        held = (taken > stall) & (taken < stall + 0.8)
        arrival[held] = np.maximum(arrival[held], stall + 0.8 + rng.uniform(0, 0.01))
    arrival = np.maximum.accumulate(arrival)
    kept = rng.random(len(taken)) >= situation.loss
    taken, arrival = taken[kept], arrival[kept]

    asked: F64 = np.cumsum(rng.uniform(*_EXCHANGE_EVERY_S, round(duration_s)))
    asked = asked[asked < duration_s - 1]
    received: F64 = np.ceil((asked + 0.001 - phase) / interval) * interval + phase + 0.0005
    answered: F64 = received + 0.0003
    returned = arrive(answered)
    before = np.searchsorted(arrival, returned).tolist()
    t1, t4 = _ns(asked).tolist(), _ns(returned).tolist()
    t2, t3 = (_device_ns(device_clock(at)).tolist() for at in (received, answered))
    return SimulatedDevice(
        _ns(taken),
        _device_ns(device_clock(taken)),
        _ns(arrival),
        list(zip(before, zip(t1, t2, t3, t4, strict=True), strict=True)),
        situation.delay_floor_ns,
    )


def _ns(seconds: F64) -> I64:
    return np.rint(seconds * NS_PER_S).astype(np.int64)


def _device_ns(seconds: F64) -> I64:
    return DEVICE_ORIGIN_NS + _ns(seconds)
