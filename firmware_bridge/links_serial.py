"""A serial port as an asynchronous stream of time-stamped bytes that comes back by itself.

One thread per port does nothing but wait, read, stamp and enqueue, so that arrival times do not depend on
what the event loop is busy with. The queue is bounded; what it drops is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import termios
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import serial

from kinedge.errors import LinkError
from kinedge.firmware_bridge.device import Command
from kinedge.firmware_bridge.links import LinkClosed, LinkData, LinkEvent, LinkOpened
from kinedge.firmware_bridge.waking import waker_of

__all__ = ["LinkClosed", "LinkData", "LinkEvent", "LinkOpened", "SerialLink"]

_READ_BYTES: Final = 1 << 12  # what a tty gives at once; a larger buffer for each read splinters the heap
_EVENT_OVERHEAD: Final = 64
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_SEND_ATTEMPTS: Final = 50
_SEND_PAUSE_S: Final = 0.02


class SerialLink:
    """A tty: a USB or UART port, or a pty.

    Parameters
    ----------
    path
        Such as ``/dev/ttyACM0``, or a stable link below ``/dev/serial/by-id``.
    baud
        Line speed; USB devices and ptys ignore it.
    host_clock
        Monotonic clock in ns; a replay faster than real time passes a scaled one.
    queue_bytes
        What may wait for ``events``; beyond it the oldest is dropped.
    first_pause_s, longest_pause_s
        Between two attempts to open, doubling from one to the other.

    Attributes
    ----------
    path, name
        As given.
    dropped_bytes
        Data dropped because nobody took it in time.
    rssi_dbm
        None: a wire has none.
    """

    rssi_dbm: int | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        baud: int = 115200,
        host_clock: Callable[[], int] = time.monotonic_ns,
        queue_bytes: int = 1 << 20,
        first_pause_s: float = _FIRST_PAUSE_S,
        longest_pause_s: float = _LONGEST_PAUSE_S,
    ) -> None:
        if baud <= 0 or queue_bytes <= 0 or not 0 < first_pause_s <= longest_pause_s:
            raise LinkError(f"{path}: baud, queue_bytes and pauses must be positive, and the first pause the shortest")
        self.path = self.name = os.fspath(path)
        self.dropped_bytes = 0
        self._baud = baud
        self._host_clock = host_clock
        self._queue_bytes = queue_bytes
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._queue: deque[LinkEvent] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._port: serial.Serial | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._wake: tuple[int, int] | None = None
        self._notify: Callable[[], None] = lambda: None

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Open the port and yield what happens on it, until ``close``.

        Raises
        ------
        LinkError
            Somebody iterates over this link already.
        """
        if self._thread is not None:
            raise LinkError(f"{self.path}: events() can be used once per link; make a new SerialLink")
        if self._closing.is_set():
            return
        ready = asyncio.Event()
        waker = waker_of(asyncio.get_running_loop())
        self._notify = lambda: waker.wake(ready)
        self._thread = threading.Thread(target=self._run, name=f"kinedge-serial {self.path}", daemon=True)
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

    def write(self, data: bytes) -> bool:
        """Send to the device without waiting.

        Returns
        -------
        taken
            False where the port is not open, or the device did not take all of it: the caller may try again, the
            protocol heals what was cut short.
        """
        with self._lock:
            if self._port is None:
                return False
            try:
                return os.write(self._port.fileno(), data) == len(data)
            except OSError:
                return False  # full, or gone: the reader will notice the latter

    async def send(self, command: Command) -> None:
        """Write a command of a session, again while the line is full.

        Raises
        ------
        LinkError
            The port is not open, or took nothing for a second.
        """
        for _ in range(_SEND_ATTEMPTS):
            if self.write(command.data):
                return
            await asyncio.sleep(_SEND_PAUSE_S)
        raise LinkError(f"{self.path}: the device takes no commands; check the cable and the baud rate")

    def renew(self, reason: str) -> bool:
        """Return False: the port stays open, as opening it again would reset many boards."""
        return False

    async def close(self) -> None:
        """Close the port, end the thread and ``events``; may be called twice."""
        self._closing.set()
        with self._lock:
            if self._wake is not None:
                os.write(self._wake[1], b"\0")
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._notify()

    def _take(self) -> LinkEvent | None:
        with self._lock:
            if not self._queue:
                return None
            event = self._queue.popleft()
            self._queued_bytes -= _size(event)
            return event

    def _put(self, event: LinkEvent) -> None:
        with self._lock:
            self._queue.append(event)
            self._queued_bytes += _size(event)
            while self._queued_bytes > self._queue_bytes and len(self._queue) > 1:
                dropped = self._queue.popleft()
                self._queued_bytes -= _size(dropped)
                if isinstance(dropped, LinkData):
                    self.dropped_bytes += len(dropped.data)
        self._notify()

    # What follows runs in the thread.

    def _run(self) -> None:
        wake_fd, wake_writer = os.pipe()
        with self._lock:
            self._wake = (wake_fd, wake_writer)
        try:
            self._keep_open(wake_fd)
        finally:
            with self._lock:
                self._wake = None
            os.close(wake_fd)
            os.close(wake_writer)

    def _keep_open(self, wake_fd: int) -> None:
        pause_s = self._first_pause_s
        last_reason = ""
        while not self._closing.is_set():
            try:
                port = serial.Serial(self.path, self._baud, timeout=0, exclusive=True)
            except (OSError, ValueError, termios.error) as error:
                reason = self._explain(error)
            else:
                last_reason, pause_s = "", self._first_pause_s
                reason = self._serve(port, wake_fd)
            if self._closing.is_set():
                return
            if reason != last_reason:
                self._put(LinkClosed(reason, self._host_clock()))
                last_reason = reason
            select.select([wake_fd], [], [], pause_s)
            pause_s = min(2 * pause_s, self._longest_pause_s)

    def _serve(self, port: serial.Serial, wake_fd: int) -> str:
        """Read until the port is lost, and say why it was."""
        with self._lock:
            self._port = port
        self._put(LinkOpened(self._host_clock()))
        try:
            return self._read_until_lost(port.fileno(), wake_fd)
        finally:
            with self._lock:
                self._port = None
            with contextlib.suppress(OSError, termios.error):
                port.close()

    def _read_until_lost(self, fd: int, wake_fd: int) -> str:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(wake_fd, select.POLLIN)
        while not self._closing.is_set():
            if all(ready != fd for ready, _ in poll.poll()):
                continue
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                return self._explain(error)
            now_ns = self._host_clock()
            if not data:  # ready, yet nothing to read: the other end is gone
                return self._explain(OSError(errno.EIO, "hung up"))
            self._put(LinkData(data, now_ns))
        return "closed"

    def _explain(self, error: Exception) -> str:
        code = error.args[0] if error.args else None
        if code in (errno.EIO, errno.ENODEV, errno.ENXIO, errno.EBADF):
            return f"{self.path} was unplugged; waiting for it to come back"
        if code == errno.ENOENT:
            return f"{self.path} is not there; plug the device in, or correct the port in the configuration"
        if code in (errno.EACCES, errno.EPERM):
            return (
                f"no permission to open {self.path}; add this user to the group that owns it, as a rule with "
                "'sudo usermod -aG dialout $USER', and log in again (more in docs/serial-ports.md)"
            )
        if code in (errno.EAGAIN, errno.EBUSY):
            return f"{self.path} is in use by another program; close it there (who that may be: docs/serial-ports.md)"
        return f"{self.path} cannot be used as a serial port: {error}"


def _size(event: LinkEvent) -> int:
    return _EVENT_OVERHEAD + (len(event.data) if isinstance(event, LinkData) else 0)
