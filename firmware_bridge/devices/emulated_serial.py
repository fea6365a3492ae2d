"""Devices that do not exist, on a real pty: each does what its family does when it is told what a driver tells it.

An emulated device is sans-IO: it takes bytes, is told how much time has passed, and returns what it would have sent
by then. ``PtyLine`` lets one run in real time behind a tty.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import tty
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import LinkError, SignalError
from kinedge.units import period_ns

__all__ = ["EmulatedSerial", "PtyLine", "SampleSource", "counts_of"]

_READ_BYTES: Final = 1 << 12
_BUFFER_BYTES: Final = 1 << 16
_TURN_S: Final = 0.005
_ANSWER_TIMEOUT_S: Final = 5.0


class EmulatedSerial(Protocol):
    """What ``PtyLine`` runs."""

    def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
        """Take what the host wrote; answers come with the next ``advance``."""
        ...

    def advance(self, elapsed_ns: int) -> bytes:
        """Return what is sent up to a time since power on, not falling."""
        ...


class SampleSource:
    """Rows of a movement, one per sample interval while it runs.

    Parameters
    ----------
    values : (n, 6)
        m/s^2 and rad/s; the device falls silent when they run out.
    rate_hz
        At power on.

    Attributes
    ----------
    n_sent
        Rows measured so far, which is also the index of the next one.
    """

    def __init__(self, values: NDArray[np.floating], *, rate_hz: float) -> None:
        if values.ndim != 2 or values.shape[1] != 6:
            raise SignalError(f"an emulated device measures (n, 6) values, got {values.shape}")
        self.n_sent = 0
        self.interval_ns = period_ns(rate_hz)
        self._values = values
        self._next_ns: int | None = None

    @property
    def running(self) -> bool:
        """Whether it measures."""
        return self._next_ns is not None

    def start(self, elapsed_ns: int, *, rate_hz: float | None = None) -> None:
        """Measure from now on, the first row one interval from now."""
        if rate_hz is not None:
            self.interval_ns = period_ns(rate_hz)
        self._next_ns = elapsed_ns + self.interval_ns

    def stop(self) -> None:
        """Measure no more."""
        self._next_ns = None

    def due(self, elapsed_ns: int) -> list[tuple[int, NDArray[np.floating]]]:
        """Return (time, row) of what was measured up to now and not returned before."""
        rows = []
        while self._next_ns is not None and self._next_ns <= elapsed_ns and self.n_sent < len(self._values):
            rows.append((self._next_ns, self._values[self.n_sent]))
            self.n_sent += 1
            self._next_ns += self.interval_ns
        return rows


def counts_of(row: NDArray[np.floating], scales: NDArray[np.floating]) -> NDArray[np.int16]:
    """Quantise one row to int16, clipped at the ends of the range."""
    counts: NDArray[np.int16] = np.clip(np.rint(row / scales), -32768, 32767).astype(np.int16)
    return counts


class PtyLine:
    """One emulated device on a tty, in a thread of its own, until ``stop`` or the end of ``with``.

    Parameters
    ----------
    device
        What speaks there.
    link_path
        Where the symbolic link to the tty is made; it survives ``replug``.
    """

    def __init__(self, device: EmulatedSerial, *, link_path: Path) -> None:
        self.device = device
        self.link_path = link_path
        self._fds: tuple[int, int] | None = None
        self._out = bytearray()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._start_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name=f"kinedge-pty {link_path.name}", daemon=True)

    def __enter__(self) -> PtyLine:
        self.replug()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Switch off; may be called twice."""
        self._stopping.set()
        self._thread.join(_ANSWER_TIMEOUT_S)
        self.unplug()
        if self._failure is not None:
            raise LinkError(f"{self.link_path}: the emulated device failed: {self._failure}") from self._failure

    def unplug(self) -> None:
        """Pull the cable: the tty hangs up, the link is gone, the device goes on measuring."""
        with self._lock:
            if self._fds is None:
                return
            self.link_path.unlink(missing_ok=True)
            for fd in self._fds:
                os.close(fd)
            self._fds = None

    def replug(self) -> None:
        """Plug the cable in (again): a new tty under the same path."""
        with self._lock:
            if self._fds is not None:
                return
            master, slave = os.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._fds = (master, slave)
            self._out.clear()
            self.link_path.unlink(missing_ok=True)
            self.link_path.symlink_to(os.ttyname(slave))

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with self._lock:
                    self._serve()
                fd = self._fds[0] if self._fds is not None else None
                with contextlib.suppress(OSError, ValueError):  # unplugged in between
                    select.select([] if fd is None else [fd], [], [], _TURN_S)
        except BaseException as error:  # told by stop()
            self._failure = error
            raise

    def _serve(self) -> None:
        elapsed_ns = time.monotonic_ns() - self._start_ns
        if self._fds is not None:
            with contextlib.suppress(BlockingIOError):
                self.device.receive_data(os.read(self._fds[0], _READ_BYTES), elapsed_ns=elapsed_ns)
        sent = self.device.advance(elapsed_ns)
        if self._fds is None or len(self._out) + len(sent) > _BUFFER_BYTES:
            return  # nobody listens
        self._out += sent
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: os.write(self._fds[0], self._out)]
