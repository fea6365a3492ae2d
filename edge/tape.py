"""What a gateway hears, recorded while it scores: a session per person, with the moments of scoring.

The service goes on whatever the disk does. What waits for the disk is bounded: beyond it samples are dropped, and count
as lost, in the recording alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from kinedge.edge.hostclock import HostClock
from kinedge.errors import KinedgeError, StoreError
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.session_log import SessionLog
from kinedge.signals import ImuChunk

__all__ = ["Tape"]

_WRITE_EVERY_S: Final = 0.25
_MAX_WAITING: Final = 1 << 14
_FOLDERS_TRIED: Final = 100


class _Heard(NamedTuple):
    subject: str
    link: str
    event: SessionEvent
    host_time_ns: int


class Tape:
    """Records into a folder of its own, ``PARENT/TIME/SUBJECT``.

    Parameters
    ----------
    parent
        Where recordings lie.
    facts_of
        By the pseudonym of each person: what is kept with their session.
    segment_s
        What a cut loses at most.
    clock
        The links'.
    note
        Told what goes wrong.

    Attributes
    ----------
    folder
        Of this run.

    Raises
    ------
    ConfigError
        pyarrow is missing.
    StoreError
        Nothing can be written there.
    """

    def __init__(
        self,
        parent: Path,
        facts_of: Mapping[str, Mapping[str, Any]],
        *,
        segment_s: float,
        clock: HostClock,
        note: Callable[[str], None],
    ) -> None:
        self.folder = _fresh_folder(parent)
        self._clock = clock
        self._note = note
        self._segment_s = segment_s
        self._logs = {subject: self._log(subject, facts) for subject, facts in facts_of.items()}
        self._waiting: deque[_Heard | int] = deque()
        self._untold: Counter[tuple[str, str]] = Counter()
        self._heard_samples = False
        self._ending = asyncio.Event()
        self._said: dict[str, str] = {}

    def join(self, subject: str, facts: Mapping[str, Any]) -> None:
        """Record somebody who joined, too."""
        if subject not in self._logs:
            self._logs = {**self._logs, subject: self._log(subject, facts)}  # another thread may look at the old one

    @property
    def n_waiting(self) -> int:
        """Events that are not written yet."""
        return len(self._waiting)

    def _log(self, subject: str, facts: Mapping[str, Any]) -> SessionLog:
        clock = self._clock
        writer = SessionWriter(
            self.folder / subject,
            segment_s=self._segment_s,
            facts={"subject": subject, "run": self.folder.name, **facts},
            clock=clock.now_ns,
            wall_clock=lambda: clock.utc_ns(clock.now_ns()),
        )
        return SessionLog(writer, host_clock=clock.now_ns)

    def put(self, subject: str, link: str, event: SessionEvent) -> None:
        """Take what happened; it is written soon."""
        if isinstance(event, ImuChunk):
            self._heard_samples = True
            if len(self._waiting) >= _MAX_WAITING:
                self._untold[subject, event.sensor] += len(event) + event.lost
                return
            if self._untold and (lost := self._untold.pop((subject, event.sensor), 0)):
                self._note(
                    f"the recording in {self.folder} was too slow: {lost} samples of {event.sensor} are not in it"
                )
                event = replace(event, lost=event.lost + lost)
        self._waiting.append(_Heard(subject, link, event, self._clock.now_ns()))

    def tick(self, host_time_ns: int) -> None:
        """Take that all so far is scored now; before the first samples there is nothing to score."""
        if self._heard_samples and len(self._waiting) < _MAX_WAITING:
            self._waiting.append(host_time_ns)

    def end(self) -> None:
        """Let ``run`` write what is left, close the sessions and return."""
        self._ending.set()

    async def run(self) -> None:
        """Write what comes, each time in a thread, until ``end``."""
        while not self._ending.is_set() or self._waiting:  # more may have come while the last was written
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _WRITE_EVERY_S)
            batch, self._waiting = self._waiting, deque()
            for text in await asyncio.to_thread(self._write, batch):
                self._note(text)
        for text in await asyncio.to_thread(self._close):
            self._note(text)

    def _write(self, batch: Iterable[_Heard | int]) -> list[str]:
        """Write, and return what went wrong for the first time."""
        troubles = []
        for heard in batch:
            logs = self._logs.items() if isinstance(heard, int) else [(heard.subject, self._logs[heard.subject])]
            for subject, log in logs:
                try:
                    if isinstance(heard, int):
                        log.writer.tick(heard)
                    else:
                        log.take(heard.link, heard.event, host_time_ns=heard.host_time_ns)
                except KinedgeError as e:
                    # names of segments differ from attempt to attempt: a disk that refuses is told once
                    kind = "disk" if isinstance(e, StoreError) else str(e)
                    if self._said.get(subject) != kind:
                        self._said[subject] = kind
                        troubles.append(f"recording {subject}: {e}; it is tried again, and nothing else is held up")
        return troubles

    def _close(self) -> list[str]:
        troubles = []
        for subject, log in self._logs.items():
            try:
                log.writer.close()
            except KinedgeError as e:
                troubles.append(f"recording {subject}: could not be closed: {e}")
        return troubles


def _fresh_folder(parent: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for suffix in ("", *(f"-{i}" for i in range(2, _FOLDERS_TRIED))):
        folder = parent / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as e:
            raise StoreError(f"{folder}: no recording can be made there ({e.strerror})") from e
        return folder
    raise StoreError(f"{parent}: no fresh folder could be made; move old recordings away")
