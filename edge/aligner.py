"""All sensors of one person onto one grid: linear between neighbours, a mask elsewhere, never across a gap.

Tick ``k`` stands at host time ``k * period_ns``, for every person and every restart, so that all people on a
board share one grid and can be scored in one step.

* A sensor that is faster than the grid is averaged over ``round(sensor rate / grid rate)`` consecutive samples
  first (a short low-pass against aliasing), stamped with their middle.
* A tick gets a value when it lies between two samples not further apart than 1.5 nominal intervals.
* A tick is final when every sensor has a sample behind it, or when the newest data (or the clock) is
  ``max_delay_s`` ahead; what comes later for it is counted as late and not used.

Each tick depends on its two neighbours alone, so any chunking of the input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.signals import SensorSpec
from kinedge.units import period_ns

__all__ = ["AlignedBlock", "Aligner"]

_GAP_FACTOR: Final = 1.5
_MAX_CATCH_UP_S: Final = 60.0  # after a longer silence (a board that slept) the grid starts anew


@dataclass(frozen=True, eq=False)
class AlignedBlock:
    """Consecutive ticks of the common grid.

    Parameters
    ----------
    first_tick
        Host time of the first row is ``first_tick * period_ns``.
    values, valid, saturated : (n, n_channels)
        Columns in the order of the sensors; a value where ``valid`` is False is 0 and means nothing.
    """

    first_tick: int
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    saturated: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.values.shape[0])


class _Track:
    """Samples of one sensor that ticks still need, after the anti-aliasing average."""

    def __init__(self, n_channels: int) -> None:
        self.n_channels = n_channels
        self.interval_ns = 0
        self.clear()

    def clear(self) -> None:
        n = self.n_channels
        self.time = np.empty(0, np.int64)
        self.values = np.empty((0, n), np.float32)
        self.valid = np.empty((0, n), bool)
        self.saturated = np.empty((0, n), bool)
        # raw samples kept for the average that spans two chunks
        self.raw: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]] = (
            self.time,
            self.values,
            self.valid,
            self.saturated,
        )

    @property
    def last_raw_ns(self) -> int | None:
        return int(self.raw[0][-1]) if len(self.raw[0]) else None

    def append(
        self,
        time: NDArray[np.int64],
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        width: int,
    ) -> None:
        time = np.concatenate([self.raw[0], time])
        values = np.concatenate([self.raw[1], values])
        valid = np.concatenate([self.raw[2], valid])
        saturated = np.concatenate([self.raw[3], saturated])
        keep = max(width - 1, 1)  # at least the last one, for `last_raw_ns`
        if width == 1:
            start = len(self.raw[0])
            new = (time[start:], values[start:], valid[start:], saturated[start:])
        else:
            new = _moving_average(time, values, valid, saturated, width, self.interval_ns)
        self.raw = (time[-keep:], values[-keep:], valid[-keep:], saturated[-keep:])
        self.time = np.concatenate([self.time, new[0]])
        self.values = np.concatenate([self.values, new[1]])
        self.valid = np.concatenate([self.valid, new[2]])
        self.saturated = np.concatenate([self.saturated, new[3]])

    def drop_before(self, time_ns: int) -> None:
        """Forget samples that no tick at or after ``time_ns`` can need."""
        first = int(np.searchsorted(self.time, time_ns, side="right")) - 1
        if first > 0:
            self.time = self.time[first:]
            self.values = self.values[first:]
            self.valid = self.valid[first:]
            self.saturated = self.saturated[first:]


def _moving_average(
    time: NDArray[np.int64],
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    saturated: NDArray[np.bool_],
    width: int,
    interval_ns: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    n = max(0, len(time) - width + 1)
    total = values[:n].copy()
    ok = valid[:n].copy()
    sat = saturated[:n].copy()
    for i in range(1, width):  # a fixed order of summation: the same bits for any chunking
        total += values[i : i + n]
        ok &= valid[i : i + n]
        ok &= (time[i : i + n] - time[i - 1 : i - 1 + n] <= interval_ns * _GAP_FACTOR)[:, None]
        sat |= saturated[i : i + n]
    middle = time[:n] + (time[width - 1 : width - 1 + n] - time[:n]) // 2
    return middle, total * np.float32(1 / width), ok, sat


class Aligner:
    """Bring the sensors of one person onto the common grid.

    Parameters
    ----------
    sensors
        In column order.
    rate_hz
        Of the grid.
    max_delay_s
        How long a tick waits for a slow sensor. It is the price of alignment: it adds to the latency only
        while a sensor is late or silent.

    Raises
    ------
    SignalError
        No sensor, one twice, or an impossible rate.
    """

    def __init__(self, sensors: Sequence[SensorSpec], *, rate_hz: float, max_delay_s: float = 0.25) -> None:
        if not sensors or len({s.name for s in sensors}) != len(sensors):
            raise SignalError("an aligner needs distinct sensors, at least one")
        self.sensors = tuple(sensors)
        self.period_ns = period_ns(rate_hz)
        self._max_delay_ns = round(max_delay_s * 1e9)
        self._max_catch_up = round(_MAX_CATCH_UP_S * rate_hz)
        self._tracks = {s.name: _Track(s.n_channels) for s in self.sensors}
        self._channels = {s.name: s.channels for s in self.sensors}
        self._next_tick: int | None = None
        self.n_late = dict.fromkeys(self._tracks, 0)

    def push(
        self,
        sensor: str,
        host_time_ns: NDArray[np.int64],
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        *,
        interval_ns: int,
    ) -> None:
        """Take samples of one sensor, in host time.

        Samples that are not newer than what this sensor gave before are dropped and counted in ``n_late``.

        Parameters
        ----------
        sensor
            One of ``sensors``.
        host_time_ns : (n,) int64
            Increasing.
        values, valid, saturated : (n, n_channels)
            SI units; NaN and infinity become invalid.
        interval_ns
            Nominal sample interval of the device.

        Raises
        ------
        SignalError
            The sensor is unknown, or has another number of channels.
        """
        track = self._tracks.get(sensor)
        if track is None:
            raise SignalError(f"no sensor {sensor!r} here; expected one of {', '.join(self._tracks)}")
        if values.ndim != 2 or values.shape[1] != track.n_channels:
            raise SignalError(f"{sensor}: {track.n_channels} channels expected, got an array {values.shape}")
        finite = np.isfinite(values)
        if not finite.all():
            valid = valid & finite
            values = np.where(finite, values, np.float32(0))
        last = track.last_raw_ns
        if last is not None or (len(host_time_ns) > 1 and (np.diff(host_time_ns) <= 0).any()):
            running = np.maximum.accumulate(host_time_ns)
            fresh = host_time_ns > (last if last is not None else -(2**62))
            fresh[1:] &= host_time_ns[1:] > running[:-1]
            if not fresh.all():
                self.n_late[sensor] += int((~fresh).sum())
                host_time_ns, values = host_time_ns[fresh], values[fresh]
                valid, saturated = valid[fresh], saturated[fresh]
        if not len(host_time_ns):
            return
        track.interval_ns = interval_ns
        width = max(1, round(self.period_ns / interval_ns))
        track.append(host_time_ns, values, valid, saturated, width)

    def reset_sensor(self, sensor: str) -> None:
        """Forget what is buffered of a sensor: it restarted, its times may jump."""
        self._tracks[sensor].clear()

    def pull(self, *, now_ns: int | None = None, flush: bool = False) -> AlignedBlock:
        """Return the ticks that are final and not yet returned; there may be none.

        Parameters
        ----------
        now_ns
            Host clock. Without it only data moves the grid, which is what a replay wants.
        flush
            Take all ticks that data covers, waiting for nobody (the end of a recording).
        """
        lasts = [int(t.time[-1]) for t in self._tracks.values() if len(t.time)]
        newest = max(lasts) if lasts else None
        if self._next_tick is None:
            if newest is None:
                return self._empty(0)
            first_ns = min(int(t.time[0]) for t in self._tracks.values() if len(t.time))
            waited_ns = max(newest, now_ns or newest) - first_ns
            if len(lasts) < len(self._tracks) and waited_ns <= self._max_delay_ns and not flush:
                return self._empty(0)  # a sensor that is still to be heard may begin earlier
            self._next_tick = -(-first_ns // self.period_ns)
        horizon = -1  # last tick that is final
        if newest is not None:
            if flush:
                horizon = newest // self.period_ns
            else:
                horizon = (newest - self._max_delay_ns) // self.period_ns
                if len(lasts) == len(self._tracks):
                    horizon = max(horizon, (min(lasts) - 1) // self.period_ns)
        if now_ns is not None:
            horizon = max(horizon, (now_ns - self._max_delay_ns) // self.period_ns)
        n = horizon - self._next_tick + 1
        if n <= 0:
            return self._empty(self._next_tick)
        if n > self._max_catch_up:
            # nothing was heard for a minute or the clock leapt: do not emit an hour of empty ticks
            self._next_tick = horizon - self._max_catch_up + 1
            n = self._max_catch_up
        first = self._next_tick
        ticks_ns = (first + np.arange(n, dtype=np.int64)) * self.period_ns
        parts = [self._interpolate(self._tracks[s.name], ticks_ns) for s in self.sensors]
        self._next_tick = first + n
        for track in self._tracks.values():
            track.drop_before(self._next_tick * self.period_ns)
        return AlignedBlock(
            first_tick=first,
            values=np.concatenate([p[0] for p in parts], axis=1),
            valid=np.concatenate([p[1] for p in parts], axis=1),
            saturated=np.concatenate([p[2] for p in parts], axis=1),
        )

    def _empty(self, first_tick: int) -> AlignedBlock:
        n = sum(s.n_channels for s in self.sensors)
        return AlignedBlock(first_tick, np.empty((0, n), np.float32), np.empty((0, n), bool), np.empty((0, n), bool))

    @staticmethod
    def _interpolate(
        track: _Track, ticks_ns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        n = len(ticks_ns)
        if not len(track.time):
            shape = (n, track.n_channels)
            return np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
        before = np.searchsorted(track.time, ticks_ns, side="right") - 1
        inside = before >= 0
        j = np.maximum(before, 0)
        k = np.minimum(j + 1, len(track.time) - 1)
        step = track.time[k] - track.time[j]
        offset = ticks_ns - track.time[j]
        on_sample = offset == 0
        bridged = (step > 0) & (step <= track.interval_ns * _GAP_FACTOR) & (k > j)
        usable = inside & (bridged | on_sample)
        weight = np.where(on_sample, 0.0, offset / np.maximum(step, 1))
        weight = np.where(usable, weight, 0.0).astype(np.float32)[:, None]
        values = track.values[j] + weight * (track.values[k] - track.values[j])
        both = track.valid[j] & (track.valid[k] | on_sample[:, None])
        valid = both & usable[:, None]
        saturated = (track.saturated[j] | (track.saturated[k] & ~on_sample[:, None])) & usable[:, None]
        values = np.where(valid, values, np.float32(0))
        return values, valid, saturated
