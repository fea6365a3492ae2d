"""Emulated devices on a real pty, in real time: what a host sees is a tty like any other.

The tty is found through a symbolic link, so that a device can be unplugged and come back under the same path,
as USB devices do below ``/dev/serial/by-id``.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from kinedge.errors import ConfigError, LinkError
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, FaultyWire
from kinedge.firmware_bridge.framing import FrameSplitter
from kinedge.units import NS_PER_S

__all__ = ["PtyDevice"]

_BUFFER_BYTES: Final = 1 << 14
_READ_BYTES: Final = 1 << 12
_WRITABLE_RETRY_S: Final = 0.01
_ANSWER_TIMEOUT_S: Final = 5.0


@dataclass
class _Order:
    """Something for the thread to do, and what came of it."""

    what: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)
    error: LinkError | None = None


class PtyDevice:
    """Devices that share one serial line, running in a thread of their own.

    A device never waits for its host: what finds no room is dropped, counted and told in flags and STATUS, and the
    sequence goes on, as it does while the line is unplugged.

    Parameters
    ----------
    imus
        One device, or several with different stream ids (a hub).
    link_path
        Where the symbolic link to the tty is made.
    speed
        Device seconds per second.
    await_host
        Switched on by the first packet from the host, not by ``start``: then nothing is sent that nobody hears.
    held
        Switched on by ``switch_on`` alone: several devices begin at one moment, once ``heard_host`` of each.

    Raises
    ------
    ConfigError
        No device, a stream id twice, or a speed that is not positive.

    Examples
    --------
    >>> with PtyDevice(imu, link_path=Path("/tmp/wrist_left")) as device:  # doctest: +SKIP
    ...     device.unplug()
    ...     device.replug()
    """

    def __init__(
        self,
        imus: EmulatedImu | Sequence[EmulatedImu],
        *,
        link_path: Path,
        speed: float = 1.0,
        await_host: bool = False,
        held: bool = False,
    ) -> None:
        if not speed > 0:
            raise ConfigError(f"speed must be positive, got {speed}")
        self.link_path = Path(link_path)
        self._speed = speed
        self.imus, self._wires = _wired(imus)
        self._off = await_host or held
        self._held = held
        self._heard = threading.Event()
        self._stalled = False
        self._splitter = FrameSplitter()
        self._out = bytearray()
        self._fds: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._orders: list[_Order] = []
        self._wake: tuple[int, int] | None = None
        self._start_ns = 0

    @property
    def finished(self) -> bool:
        """Whether all values have been sent and taken, or the device was stopped."""
        return self._finished.is_set()

    @property
    def heard_host(self) -> bool:
        """Whether a packet has come from the host."""
        return self._heard.is_set()

    def wait_finished(self, *, timeout_s: float | None = None) -> bool:
        """Wait until ``finished``; return whether it is."""
        return self._finished.wait(timeout_s)

    def __enter__(self) -> PtyDevice:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Plug in and switch on.

        Raises
        ------
        LinkError
            Started before, or there is a file at ``link_path`` that is no symbolic link.
        """
        if self._thread is not None:
            raise LinkError(f"{self.link_path}: this device was started before; make a new one")
        self._plug()
        self._wake = os.pipe()
        self._start_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name=f"kinedge-pty {self.link_path.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Switch off; the tty and the link are gone afterwards. May be called twice."""
        self._stopping.set()
        self._poke()
        if self._thread is not None:
            self._thread.join()

    def switch_on(self) -> None:
        """Switch a held device on: its time begins now. Nothing happens when it is on.

        Raises
        ------
        LinkError
            The device is not running.
        """
        self._order(self._switch_on)

    def unplug(self) -> None:
        """Pull the cable: the tty hangs up and the link disappears; the device goes on measuring.

        Raises
        ------
        LinkError
            The device is not running.
        """
        self._order(self._unplug)

    def replug(self) -> None:
        """Plug the cable in again: a new tty under the same path.

        Raises
        ------
        LinkError
            The device is not running, or a file of somebody else has taken the path.
        """
        self._order(self._plug)

    def restart(self, imus: EmulatedImu | Sequence[EmulatedImu]) -> None:
        """Switch off and on: other devices take over the line, plugged in or not, and their time begins now.

        Raises
        ------
        LinkError
            The device is not running.
        ConfigError
            As for the class.
        """
        wired = _wired(imus)

        def start_anew() -> None:
            self.imus, self._wires = wired
            self._start_ns = time.monotonic_ns()
            self._off = False
            self._finished.clear()

        self._order(start_anew)

    def stall(self) -> None:
        """Hold back what is sent, as far as there is room for it, until ``resume``.

        Raises
        ------
        LinkError
            The device is not running.
        """
        self._order(lambda: setattr(self, "_stalled", True))

    def resume(self) -> None:
        """End a stall: what was held back comes at once.

        Raises
        ------
        LinkError
            The device is not running.
        """
        self._order(lambda: setattr(self, "_stalled", False))

    def set_faults(self, faults: Faults) -> None:
        """Let other things go wrong from now on.

        Raises
        ------
        LinkError
            The device is not running.
        """

        def change() -> None:
            for imu, wire in zip(self.imus, self._wires, strict=True):
                imu.faults = wire.faults = faults

        self._order(change)

    # Between the threads.

    def _poke(self) -> None:
        with self._lock:
            if self._wake is not None:
                os.write(self._wake[1], b"\0")

    def _order(self, what: Callable[[], None]) -> None:
        """Have the thread do something, and wait until it has: only it touches the tty."""
        order = _Order(what)
        with self._lock:
            if self._wake is None:
                raise LinkError(f"{self.link_path}: the device is not running")
            self._orders.append(order)
        self._poke()
        if not order.done.wait(_ANSWER_TIMEOUT_S):
            raise LinkError(f"{self.link_path}: the device does not answer")
        if order.error is not None:
            raise order.error

    # What follows runs in the thread (the first plugging in before it starts).

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._obey()
                self._advance()
                self._flush()
                if all(imu.finished for imu in self.imus) and not self._out:
                    self._finished.set()
                self._wait()
        finally:
            with self._lock:
                wake, self._wake = self._wake, None
            self._obey()
            self._unplug()
            self._finished.set()
            for fd in wake or ():
                os.close(fd)

    def _obey(self) -> None:
        with self._lock:
            orders, self._orders = self._orders, []
        for order in orders:
            try:
                order.what()
            except LinkError as error:
                order.error = error
            order.done.set()

    def _switch_on(self) -> None:
        if self._off:
            self._off, self._start_ns = False, time.monotonic_ns()

    def _elapsed_ns(self) -> int:
        return 0 if self._off else int((time.monotonic_ns() - self._start_ns) * self._speed)

    def _advance(self) -> None:
        if self._off:
            return
        elapsed_ns = self._elapsed_ns()
        for imu, wire in zip(self.imus, self._wires, strict=True):
            for payload in imu.advance(elapsed_ns):
                frame = wire.carry(payload)
                if self._fds is not None and len(self._out) + len(frame) <= _BUFFER_BYTES:
                    self._out += frame
                else:
                    imu.drop(payload)

    def _flush(self) -> None:
        if self._fds is None or self._stalled:
            return
        try:
            while self._out:
                del self._out[: os.write(self._fds[0], self._out)]
        except BlockingIOError:
            pass  # the host does not read: the rest waits, as far as there is room

    def _wait(self) -> None:
        """Sleep until something is due, the host says something, or a person pulls a cable."""
        dues = [] if self._off else [due for imu in self.imus if (due := imu.next_due_ns) is not None]
        timeout_s = None
        if dues:
            due_ns = self._start_ns + min(dues) / self._speed
            timeout_s = max(0.0, (due_ns - time.monotonic_ns()) / NS_PER_S)
        if self._out and not self._stalled:
            timeout_s = _WRITABLE_RETRY_S if timeout_s is None else min(timeout_s, _WRITABLE_RETRY_S)
        if self._wake is None:
            return
        wake_fd = self._wake[0]
        watched = [wake_fd] if self._fds is None else [wake_fd, self._fds[0]]
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if wake_fd in ready:
            os.read(wake_fd, _READ_BYTES)
        if self._fds is not None and self._fds[0] in ready:
            self._listen(self._fds[0])

    def _listen(self, fd: int) -> None:
        payloads = self._splitter.feed(os.read(fd, _READ_BYTES))
        if payloads:
            self._heard.set()
            if not self._held:
                self._switch_on()
        elapsed_ns = self._elapsed_ns()
        for payload in payloads:
            for imu in self.imus:
                imu.receive_data(payload, elapsed_ns=elapsed_ns)
        self._advance()

    def _plug(self) -> None:
        if self._fds is not None:
            return
        if self.link_path.exists() and not self.link_path.is_symlink():
            raise LinkError(f"{self.link_path} is a file of somebody else; choose another path for the device")
        # This side holds the tty open as well, so that a host may come and go without a hang-up here.
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._fds = (master, slave)
        self.link_path.unlink(missing_ok=True)
        self.link_path.symlink_to(os.ttyname(slave))

    def _unplug(self) -> None:
        if self._fds is None:
            return
        tty_path = os.ttyname(self._fds[1])
        with contextlib.suppress(OSError):
            if os.readlink(self.link_path) == tty_path:
                self.link_path.unlink()
        for fd in self._fds:
            os.close(fd)
        self._fds = None
        self._out.clear()
        self._splitter.reset()


def _wired(imus: EmulatedImu | Sequence[EmulatedImu]) -> tuple[tuple[EmulatedImu, ...], list[FaultyWire]]:
    devices = (imus,) if isinstance(imus, EmulatedImu) else tuple(imus)
    if not devices or len({imu.hello.stream_id for imu in devices}) != len(devices):
        raise ConfigError("a line needs devices with different stream ids, at least one")
    return devices, [FaultyWire(faults=imu.faults, seed=imu.seed) for imu in devices]
