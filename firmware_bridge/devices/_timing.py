"""Times of samples, for device families whose packets carry less than a time per sample.

A device may stamp each packet once, with a counter that wraps, or not at all; and it may send acceleration and
angular rate in packets of their own. What is here turns that into one strictly increasing time per sample,
the number of samples that are missing, and rows that hold all channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.units import NS_PER_S

__all__ = ["CountClock", "Samples", "StampClock", "StreamMerger", "Unwrapper", "spread_back"]

_MAX_GAP_NS: Final = 24 * 3600 * NS_PER_S
_GAP_FACTOR: Final = 1.5
_MAX_BACK_NS: Final = 2 * NS_PER_S
_MAX_AHEAD_NS: Final = 30 * NS_PER_S
_CONFIRMATIONS: Final = 3
_MAX_RATE_ERROR: Final = 0.1


class Unwrapper:
    """A counter of ``bits`` bits as one that does not wrap.

    Each value is taken for the one nearest to the last (plus ``elapsed``, where the caller knows about how many
    ticks have passed), so that a late packet steps back instead of a whole wrap ahead.
    """

    def __init__(self, *, bits: int) -> None:
        self._wrap = 1 << bits
        self._last: int | None = None

    def unwrap(self, raw: int, *, elapsed: int = 0) -> int:
        """Return the count without wraps; the first one is returned as it is."""
        if self._last is None:
            self._last = raw
        else:
            half = self._wrap // 2
            self._last += (raw - self._last - elapsed + half) % self._wrap - half + elapsed
        return self._last

    def reset(self) -> None:
        """Forget the place."""
        self._last = None


@dataclass
class _Suspect:
    """A timeline far from ours that some packets seem to follow."""

    last_ns: int
    packets: int = 0


class StampClock:
    """Sample times of packets that carry one time stamp for all their samples.

    The interval between samples starts at the nominal one, and is learned from the stamps within 10 % of it: spreading
    the time between two stamps evenly would hide a lost packet. Samples stand that interval apart before the
    stamp of the last one, closer where they would overlap the packet before.

    Packets not newer than the last, by up to 2 s, are repetitions. A stamp further back, or ahead by more than a day
    or by 30 s more than the host clock advanced, is refused as implausible; when three in a row continue one another,
    the device restarted or its clock was set: theirs is adopted, with a new ``boot_id``.

    Parameters
    ----------
    interval_ns
        Nominal.

    Attributes
    ----------
    boot_id
        Changes when the device clock starts anew.
    repeated, implausible
        Samples refused as such; the implausible ones come to count as lost.
    """

    def __init__(self, *, interval_ns: int) -> None:
        self.nominal_ns = interval_ns
        self.boot_id = 0
        self.repeated = 0
        self.implausible = 0
        self._interval = float(interval_ns)
        self._last_ns: int | None = None
        self._last_host_ns: int | None = None
        self._refused = 0
        self._suspect: _Suspect | None = None
        self._origin_ns = 0
        self._since_origin = 0

    @property
    def interval_ns(self) -> float:
        """Interval between samples as learned so far."""
        return self._interval

    def elapsed_ns(self, host_time_ns: int | None) -> int:
        """Host time since the last packet, for ``Unwrapper.unwrap``; 0 when it is not known."""
        return 0 if host_time_ns is None or self._last_host_ns is None else host_time_ns - self._last_host_ns

    def place_first(
        self, stamp_ns: int, n: int, *, host_time_ns: int | None = None
    ) -> tuple[NDArray[np.int64], int] | None:
        """Place ``n`` samples of which the first is stamped; else as ``place_last``."""
        return self.place_last(stamp_ns + round((n - 1) * self._interval), n, host_time_ns=host_time_ns)

    def place_last(
        self, stamp_ns: int, n: int, *, host_time_ns: int | None = None
    ) -> tuple[NDArray[np.int64], int] | None:
        """Place ``n >= 1`` samples of which the last is stamped.

        Parameters
        ----------
        stamp_ns
            Without wraps, and small enough for int64.
        n
            Samples of the packet.
        host_time_ns
            When it arrived.

        Returns
        -------
        device_time_ns : (n,) int64
            Later than all returned before with the same ``boot_id``.
        lost
            Samples missing before them; None (instead of both) when the packet is not to be used.
        """
        admitted = self.admit_last(stamp_ns, n, host_time_ns=host_time_ns)
        if admitted is None:
            return None
        spacing_ns, lost = admitted
        return spread_back(stamp_ns, spacing_ns, n), lost

    def admit_last(self, stamp_ns: int, n: int, *, host_time_ns: int | None = None) -> tuple[float, int] | None:
        """Judge a packet as ``place_last`` does; return what samples stand apart, for ``spread_back``, and ``lost``."""
        lost = 0
        if self._last_ns is None:
            self._restart(stamp_ns)
        else:
            step = stamp_ns - self._last_ns
            most = _MAX_GAP_NS
            if host_time_ns is not None and self._last_host_ns is not None:
                most = min(most, host_time_ns - self._last_host_ns + _MAX_AHEAD_NS)
            if n <= step <= most:  # at least a nanosecond per sample
                if step > _GAP_FACTOR * n * self._interval:
                    lost = max(1, round(step / self._interval) - n)
                self._refused, self._suspect = 0, None
            elif -_MAX_BACK_NS < step < n:
                self.repeated += n
                return None
            else:
                if not self._confirmed(stamp_ns, n):
                    self.implausible += n
                    self._refused += n
                    return None
                lost = self._refused
                self._refused, self._suspect = 0, None
                self.boot_id += 1
                self._restart(stamp_ns)
        before, self._last_ns, self._last_host_ns = self._last_ns, stamp_ns, host_time_ns
        spacing = self._interval if before is None else min(self._interval, (stamp_ns - before) / n)
        self._learn(stamp_ns, n + lost)
        return spacing, lost

    def _restart(self, stamp_ns: int) -> None:
        self._last_ns = None
        self._origin_ns, self._since_origin = stamp_ns, 0

    def _learn(self, stamp_ns: int, n: int) -> None:
        if stamp_ns == self._origin_ns:
            return
        self._since_origin += n
        learned = (stamp_ns - self._origin_ns) / self._since_origin
        if abs(learned - self.nominal_ns) <= _MAX_RATE_ERROR * self.nominal_ns:
            self._interval = learned

    def _confirmed(self, stamp_ns: int, n: int) -> bool:
        suspect = self._suspect
        if suspect is None or not 0 < stamp_ns - suspect.last_ns <= 2 * _GAP_FACTOR * n * self._interval:
            suspect = self._suspect = _Suspect(stamp_ns)
        suspect.last_ns = stamp_ns
        suspect.packets += 1
        return suspect.packets >= _CONFIRMATIONS


def spread_back(
    stamp_ns: int | NDArray[np.int64], spacing_ns: float | NDArray[np.float64], n: int
) -> NDArray[np.int64]:
    """Return times of ``n`` samples of which the last is stamped; columns of stamps and spacings give rows."""
    if n == 1 and isinstance(stamp_ns, int):
        return np.array([stamp_ns], np.int64)
    return stamp_ns - np.rint(spacing_ns * np.arange(n - 1, -1, -1)).astype(np.int64)


class CountClock:
    """Sample times of a device that sends no time: its samples are counted, and held to the host clock.

    The count runs at an interval that follows the fastest arrivals (the least delay of every second steers phase and
    rate, the latter within 5 % of nominal). A least delay that stays above 0.2 s for a second means that samples
    are missing: time jumps ahead, and they are reported as lost. After a silence a quarter of a second is enough,
    unless delays become less meanwhile: then packets were held up, and catch up. Without host times the nominal rate
    is all there is.
    """

    _SLIP_NS: Final = NS_PER_S // 5
    _SETTLE_NS: Final = NS_PER_S // 4
    _MAX_SETTLES: Final = 8
    _CATCHES_UP: Final = 0.8
    _MAX_RATE_ERROR: Final = 0.05

    def __init__(self, *, interval_ns: int) -> None:
        self.nominal_ns = interval_ns
        self._rate_interval = float(interval_ns)
        self._interval = self._placed_interval = float(interval_ns)
        self._next: float | None = None
        self._least: float | None = None
        self._window_end = 0
        self._last_host_ns = 0
        self._settling = 0
        self._settling_from = 0.0

    @property
    def interval_ns(self) -> float:
        """Interval between samples of the last packet."""
        return self._placed_interval

    def place(self, n: int, *, host_time_ns: int | None, missing: int = 0) -> tuple[NDArray[np.int64], int]:
        """Return times (n,) int64 of ``n`` samples, and how many are missing before them (``missing`` and found)."""
        lost = missing
        if self._next is not None:
            self._next += missing * self._interval
        if self._next is None:
            self._next = 0.0 if host_time_ns is None else float(host_time_ns) - (n - 1) * self._interval
            self._window_end = (host_time_ns or 0) + NS_PER_S
        elif host_time_ns is not None:
            delay = host_time_ns - (self._next + (n - 1) * self._interval)
            if host_time_ns - self._last_host_ns > self._SLIP_NS + 2 * n * self._interval:
                self._settle(host_time_ns, delay)
            self._least = delay if self._least is None else min(self._least, delay)
            if host_time_ns >= self._window_end:
                if self._catches_up(delay):
                    self._settle(host_time_ns, delay)
                else:
                    lost += self._steer(self._least)
                    self._window_end, self._least, self._settling = host_time_ns + NS_PER_S, None, 0
        self._last_host_ns = host_time_ns or 0
        self._placed_interval = self._interval
        times = np.rint(self._next + self._interval * np.arange(n)).astype(np.int64)
        self._next += n * self._interval
        return times, lost

    def _settle(self, host_time_ns: int, delay: float) -> None:
        """See from here how delays go on, and forget those before."""
        self._window_end, self._least = host_time_ns + self._SETTLE_NS, None
        self._settling, self._settling_from = self._settling + 1, delay

    def _catches_up(self, delay: float) -> bool:
        return (
            0 < self._settling <= self._MAX_SETTLES and self._SLIP_NS < delay < self._CATCHES_UP * self._settling_from
        )

    def _steer(self, least: float) -> int:
        lost = 0
        if self._next is not None and least > self._SLIP_NS:
            lost = round(least / self.nominal_ns)
            self._next += least
            least = 0.0
        limit = self._MAX_RATE_ERROR * self.nominal_ns
        rate = self._rate_interval * (1 + 0.05 * least / NS_PER_S)
        self._rate_interval = min(max(rate, self.nominal_ns - limit), self.nominal_ns + limit)
        self._interval = self._rate_interval * (1 + min(max(0.3 * least / NS_PER_S, -0.05), 0.05))
        return lost


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of one stream: times (n,) int64; values float32, valid and saturated bool, all (n, n_channels)."""

    device_time_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    saturated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.device_time_ns)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.device_time_ns[rows], self.values[rows], self.valid[rows], self.saturated[rows])

    def __add__(self, other: Samples) -> Samples:
        return Samples(
            np.concatenate([self.device_time_ns, other.device_time_ns]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.valid, other.valid]),
            np.concatenate([self.saturated, other.saturated]),
        )

    @classmethod
    def empty(cls, n_channels: int) -> Samples:
        """No rows."""
        shape = (0, n_channels)
        return cls(np.empty(0, np.int64), np.empty(shape, np.float32), np.empty(shape, bool), np.empty(shape, bool))


class StreamMerger:
    """Streams of one device clock as rows with all channels, at the times of the first stream.

    The others are interpolated linearly between two samples at most 1.5 intervals apart, and invalid elsewhere. A row
    waits until every other stream has a sample behind it, or the first stream is ``max_wait_ns`` ahead of it. No
    stream keeps more than ``max_samples``.

    Parameters
    ----------
    widths
        Channels of each stream.
    interval_ns
        Nominal interval of each stream.
    max_wait_ns
        A little more than the longest packet of any stream lasts.
    """

    def __init__(
        self, widths: Sequence[int], *, interval_ns: Sequence[int], max_wait_ns: int = NS_PER_S, max_samples: int = 8192
    ) -> None:
        self._widths = tuple(widths)
        self._interval_ns = tuple(interval_ns)
        self._max_wait_ns = max_wait_ns
        self._max_samples = max_samples
        self.reset()

    def reset(self) -> None:
        """Forget what waits: the device clock started anew."""
        self._streams = [Samples.empty(width) for width in self._widths]

    def push(self, stream: int, samples: Samples) -> None:
        """Take samples of one stream, later than all pushed before."""
        self._streams[stream] = (self._streams[stream] + samples)[-self._max_samples :]

    def pull(self, *, flush: bool = False) -> Samples:
        """Return the rows that are final, possibly none; all that wait with ``flush``."""
        master, *others = self._streams
        if not len(master):
            return Samples.empty(sum(self._widths))
        times = master.device_time_ns
        behind = min((int(o.device_time_ns[-1]) if len(o) else -(2**62) for o in others), default=2**62)
        until = 2**62 if flush else max(behind, int(times[-1]) - self._max_wait_ns)
        n = int(np.searchsorted(times, until, side="right"))
        rows = master[:n]
        at = rows.device_time_ns
        parts = [
            _interpolate(other, at, round(_GAP_FACTOR * interval))
            for other, interval in zip(others, self._interval_ns[1:], strict=True)
        ]
        self._streams[0] = master[n:]
        if n:
            for i, other in enumerate(others, start=1):
                first = max(int(np.searchsorted(other.device_time_ns, at[-1], side="right")) - 1, 0)
                self._streams[i] = other[first:]
        return Samples(
            at,
            np.concatenate([rows.values, *(p.values for p in parts)], axis=1),
            np.concatenate([rows.valid, *(p.valid for p in parts)], axis=1),
            np.concatenate([rows.saturated, *(p.saturated for p in parts)], axis=1),
        )


def _interpolate(samples: Samples, at: NDArray[np.int64], max_step_ns: int) -> Samples:
    if not len(samples):
        shape = (len(at), samples.values.shape[1])
        return Samples(at, np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool))
    time = samples.device_time_ns
    j = np.searchsorted(time, at, side="right") - 1
    left = np.maximum(j, 0)
    on_sample = (j >= 0) & (time[left] == at)
    right = np.where(on_sample, left, np.minimum(left + 1, len(time) - 1))
    step = time[right] - time[left]
    usable = (j >= 0) & (on_sample | ((step > 0) & (step <= max_step_ns)))
    weight = np.where(usable, (at - time[left]) / np.maximum(step, 1), 0.0).astype(np.float32)[:, None]
    values = samples.values[left] + weight * (samples.values[right] - samples.values[left])
    valid = samples.valid[left] & samples.valid[right] & usable[:, None]
    saturated = (samples.saturated[left] | samples.saturated[right]) & usable[:, None]
    return Samples(at, np.where(valid, values, np.float32(0)), valid, saturated)
