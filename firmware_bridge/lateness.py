"""Which packets came late: measured against the fastest ones, as no clock of a device is ours."""

from __future__ import annotations

from typing import Final

from kinedge.signals import ImuChunk
from kinedge.units import NS_PER_S

__all__ = ["Lateness"]

_WINDOW_NS: Final = 60 * NS_PER_S
_MAX_SENSORS: Final = 256


class Lateness:
    """Judge of the packets of one link.

    Arrival less device time is a clock offset plus a delay. The least one of the last one to two minutes stands
    for no delay: two clocks drift apart by less than 12 ms in that time (100 ppm each way).

    Parameters
    ----------
    late_ns
        A packet is late when it took so much longer than that.
    """

    def __init__(self, late_ns: int) -> None:
        self._late_ns = late_ns
        self._windows: dict[str, _Window] = {}

    def is_late(self, chunk: ImuChunk) -> bool:
        """Take in a chunk, and say whether it came late; False where its arrival is not known."""
        if chunk.host_time_ns is None or not len(chunk):
            return False
        window = self._windows.get(chunk.sensor)
        offset_ns = chunk.host_time_ns - int(chunk.device_time_ns[-1])
        if window is None or window.boot_id != chunk.boot_id:
            if len(self._windows) >= _MAX_SENSORS:
                self._windows.clear()
            window = self._windows[chunk.sensor] = _Window(chunk.boot_id, chunk.host_time_ns, offset_ns)
        return offset_ns - window.least(chunk.host_time_ns, offset_ns) > self._late_ns


class _Window:
    """The least offset of this minute and the one before."""

    def __init__(self, boot_id: int, start_ns: int, offset_ns: int) -> None:
        self.boot_id = boot_id
        self._start_ns = start_ns
        self._before = self._now = offset_ns

    def least(self, now_ns: int, offset_ns: int) -> int:
        if now_ns - self._start_ns > _WINDOW_NS:
            self._start_ns, self._before, self._now = now_ns, self._now, offset_ns
        self._now = min(self._now, offset_ns)
        return min(self._before, self._now)
