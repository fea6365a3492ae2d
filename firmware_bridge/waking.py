"""Wake an event loop for many reading threads at once: a wake-up costs more than decoding a packet.

What a thread reads is stamped and queued there and then; its consumer learns of it a few milliseconds later,
together with what other threads have read by then. Times of arrival do not depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Final
from weakref import WeakKeyDictionary, ref

__all__ = ["Waker", "waker_of"]

_GATHER_S: Final = 0.005


class Waker:
    """Sets the events of one loop, from any thread.

    Parameters
    ----------
    loop
        Whose events these are; not kept alive.
    gather_s
        From the first ``wake`` to when all events named by then are set.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, gather_s: float = _GATHER_S) -> None:
        self._loop = ref(loop)
        self._gather_s = gather_s
        self._lock = threading.Lock()
        self._named: set[asyncio.Event] = set()

    def wake(self, event: asyncio.Event) -> None:
        """Have an event set soon; nothing happens where the loop is closed."""
        with self._lock:
            first = not self._named
            self._named.add(event)
        loop = self._loop() if first else None
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.call_later, self._gather_s, self._set_all)

    def _set_all(self) -> None:
        with self._lock:
            named, self._named = self._named, set()
        for event in named:
            event.set()


_WAKERS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Waker]] = WeakKeyDictionary()


def waker_of(loop: asyncio.AbstractEventLoop) -> Waker:
    """Return the waker that all links of a running loop share; to be called in that loop."""
    return _WAKERS.setdefault(loop, Waker(loop))
