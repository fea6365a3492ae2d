"""What a session's link has for a consumer that may be slow: bounded, and honest about what it dropped."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import Final, TypeAlias

from kinedge.firmware_bridge.device import DeviceEvent
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.signals import ImuChunk

__all__ = ["EventQueue", "SessionEvent"]

SessionEvent: TypeAlias = LinkOpened | LinkClosed | DeviceEvent

_EVENT_OVERHEAD: Final = 1024


class EventQueue:
    """Events in order, up to a size; beyond it the oldest samples go, and count as lost in the next ones.

    Parameters
    ----------
    max_bytes
        Of all that waits.

    Attributes
    ----------
    dropped_samples
        So far.
    """

    def __init__(self, max_bytes: int) -> None:
        self.dropped_samples = 0
        self._max_bytes = max_bytes
        self._events: deque[tuple[SessionEvent, int]] = deque()  # with their sizes
        self._bytes = 0
        self._untold: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: SessionEvent) -> None:
        """Add an event."""
        size = _size(event)
        self._events.append((event, size))
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._events) > 1:
            # What the device is, and that it was lost, is worth more than old samples.
            at = next((i for i, (e, _) in enumerate(self._events) if isinstance(e, ImuChunk)), 0)
            dropped, size = self._events[at]
            del self._events[at]
            self._bytes -= size
            if isinstance(dropped, ImuChunk):
                self.dropped_samples += len(dropped)
                self._untold[dropped.sensor] += len(dropped) + dropped.lost

    def take(self) -> SessionEvent:
        """Remove and return the oldest event; there must be one."""
        event, size = self._events.popleft()
        self._bytes -= size
        if self._untold and isinstance(event, ImuChunk):
            return replace(event, lost=event.lost + self._untold.pop(event.sensor, 0))
        return event


def _size(event: SessionEvent) -> int:
    if isinstance(event, ImuChunk):
        return _EVENT_OVERHEAD + event.device_time_ns.nbytes + event.values.nbytes + 2 * event.valid.nbytes
    return _EVENT_OVERHEAD
