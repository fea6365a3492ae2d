"""A stream of LSL as a link: found, followed, and found again, with events like those of every device.

LSL mends short interruptions by itself; what is said here is that no samples come, and that they come again. A stream
that cannot be used now (it is not on, or does not say its units) is asked for again, like a port that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Final

from kinedge.errors import ConfigError, LinkError
from kinedge.firmware_bridge.device import DeviceInfo, Doubt
from kinedge.firmware_bridge.event_queue import EventQueue, SessionEvent
from kinedge.firmware_bridge.gravity import GravityCheck, feels_gravity
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.lsl import LslInlet, require_lsl
from kinedge.units import NS_PER_S

__all__ = ["LslLink"]

_QUEUE_BYTES: Final = 1 << 22
_FIND_S: Final = 1.0
_PULL_S: Final = 0.1
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0


class LslLink:
    """Follows one stream in a thread of its own.

    Parameters
    ----------
    wanted
        Name or source id of the stream.
    sensor
        Where it is worn.
    options
        For streams that do not say enough: a unit by ``acc``, ``gyr`` or ``mag``, a label by channel, such as
        ``{"acc": "g", "acc_x": "IMU-3"}``.
    rate_hz
        For streams that do not tell theirs.
    host_clock
        Monotonic, in ns.
    stale_s
        When no samples came for so long, that is said.

    Raises
    ------
    ConfigError
        pylsl or liblsl is missing, or an option has another name.
    """

    def __init__(
        self,
        wanted: str,
        sensor: str,
        *,
        options: Mapping[str, str] | None = None,
        rate_hz: float | None = None,
        host_clock: Callable[[], int] = time.monotonic_ns,
        stale_s: float = 5.0,
    ) -> None:
        require_lsl()
        self.name = wanted
        self._sensor = sensor
        options = options or {}
        self._unit_of = {k: v for k, v in options.items() if k in ("acc", "gyr", "mag")}
        self._mapping = {k: v for k, v in options.items() if k[3:] in ("_x", "_y", "_z")} or None
        if unknown := set(options) - set(self._unit_of) - set(self._mapping or ()):
            raise ConfigError(
                f"LSL stream {wanted!r}: unknown options {', '.join(sorted(unknown))}; known are acc, gyr and mag "
                "(their units) and channels such as acc_x (their labels)"
            )
        self._rate_hz = rate_hz
        self._host_clock = host_clock
        self._stale_ns = round(stale_s * NS_PER_S)
        self._queue = EventQueue(_QUEUE_BYTES)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._notify: Callable[[], None] = lambda: None

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Find the stream, and yield what happens until ``close``.

        Raises
        ------
        LinkError
            Somebody iterates over this link already.
        """
        if self._thread is not None:
            raise LinkError(f"{self.name}: events() can be used once per link; make a new LslLink")
        if self._closing.is_set():
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed while the link was open
                loop.call_soon_threadsafe(ready.set)

        self._notify = notify
        self._thread = threading.Thread(target=self._run, name=f"kinedge-lsl {self.name}", daemon=True)
        self._thread.start()
        try:
            while True:
                await ready.wait()
                ready.clear()
                while (event := self._take()) is not None:
                    yield event
                if self._closing.is_set():
                    return
        finally:
            await self.close()

    async def close(self) -> None:
        """End the thread and ``events``; may be called twice."""
        self._closing.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._notify()

    def _take(self) -> SessionEvent | None:
        with self._lock:
            return self._queue.take() if self._queue else None

    def _put(self, event: SessionEvent) -> None:
        with self._lock:
            self._queue.put(event)
        self._notify()

    # What follows runs in the thread.

    def _run(self) -> None:
        pause_s, said, boots = _FIRST_PAUSE_S, "", 0
        while not self._closing.is_set():
            try:
                with LslInlet(
                    self.name,
                    self._sensor,
                    by="any",
                    mapping=self._mapping,
                    unit_of=self._unit_of,
                    rate_hz=self._rate_hz,
                    timeout_s=_FIND_S,
                    host_clock=self._host_clock,
                ) as inlet:
                    said, pause_s = "", _FIRST_PAUSE_S
                    self._follow(inlet, boots)
            except (LinkError, ConfigError) as e:
                if str(e) != said:
                    said = str(e)
                    self._put(LinkClosed(said, self._host_clock()))
            boots += 1
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _follow(self, inlet: LslInlet, boots: int) -> None:
        """Hand chunks on until the link is closed or the stream is lost."""
        last_ns = self._host_clock()
        silent = False
        gravity = GravityCheck() if feels_gravity(inlet.spec) else None
        self._put(LinkOpened(last_ns))
        self._put(DeviceInfo(inlet.spec, inlet.rate_hz))
        while not self._closing.is_set():
            chunk = inlet.pull(timeout_s=_PULL_S)
            now_ns = self._host_clock()
            if chunk is None:
                if not silent and now_ns - last_ns > self._stale_ns:
                    silent = True
                    text = f"LSL stream {self.name!r} sent no samples for {self._stale_ns / NS_PER_S:g} s"
                    self._put(LinkClosed(text, now_ns))
                continue
            if silent:
                silent = False
                self._put(LinkOpened(now_ns))
            last_ns = now_ns
            if gravity is not None:
                doubt = gravity.doubt(chunk.device_time_ns, chunk.values, chunk.valid)
                if doubt is not None:
                    self._put(Doubt(f"{self._sensor}: {doubt}; check the unit of the stream"))
            # another inlet: nobody knows whether the source kept its clock
            self._put(replace(chunk, boot_id=(boots << 16) + chunk.boot_id))
