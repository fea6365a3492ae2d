"""Sessions to disk: what arrived, as it arrived, in segments that survive a cut; ``recorded`` reads them.

A session is a folder::

    session.json                         what it is, and what it held (once it was closed)
    segment-000000-5f3759df.parquet      a few seconds of all sensors, in order of arrival; see ``segments``
    segment-000001-...

A segment is written beside its name, synced, renamed, and its name carries the CRC-32 of its bytes: power that fails
costs the seconds since the last segment, and damage is found before anything is parsed. Each segment says how many
samples came before it, so that what a damaged one held is known and counted as lost.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from kinedge import __version__
from kinedge.errors import ConfigError, SignalError, StoreError
from kinedge.firmware_bridge.segments import (
    FORMAT,
    MANIFEST,
    PART,
    Count,
    Segment,
    Tick,
    encode_segment,
    segment_name,
    to_json,
)
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import NS_PER_S

__all__ = ["SessionWriter"]

_MAX_BUFFERED_ROWS: Final = 1 << 18
_MAX_BUFFERED_EVENTS: Final = 10_000
_MAX_BUFFERED_TICKS: Final = 100_000


class SessionWriter:
    """Writes one session.

    Parameters
    ----------
    folder
        New, or empty.
    segment_s
        Seconds of a segment: what a cut loses at most.
    facts
        About the session, for people and programs: subject, place, protocol.
    clock
        Monotonic, in ns, the links': says when a segment is due.
    wall_clock
        UTC, in ns.

    Attributes
    ----------
    n_segments, n_bytes
        Written so far.

    Raises
    ------
    ConfigError
        pyarrow is missing, ``segment_s`` is not positive, or a fact has no JSON form.
    StoreError
        The folder has something in it, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_s: float = 5.0,
        facts: Mapping[str, Any] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if not segment_s > 0:
            raise ConfigError(f"segment_s must be positive, got {segment_s}")
        encode_segment(Segment(0, {}, {}, {}))  # a missing library is told now, not after the first seconds
        self.folder = Path(folder)
        self.n_segments = self.n_bytes = 0
        self._clock = clock
        self._wall_clock = wall_clock
        self._segment_ns = round(segment_s * NS_PER_S)
        self._due_ns = clock() + self._segment_ns
        self._sensors: dict[str, SensorSpec] = {}
        self._written: dict[str, Count] = {}
        self._lost_before_next: dict[str, int] = {}
        self._chunks: list[ImuChunk] = []
        self._events: list[dict[str, Any]] = []
        self._ticks: list[tuple[int, Tick]] = []
        self._n_rows = 0
        self._closed = False
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "kinedge_version": __version__,
            "started_utc_ns": wall_clock(),
            "started_host_time_ns": clock(),
            "facts": dict(facts or {}),
            "complete": False,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            taken = any(self.folder.iterdir())
        except OSError as e:
            raise StoreError(f"{self.folder}: no session can be written there ({e.strerror})") from e
        if taken:
            raise StoreError(f"{self.folder}: there is something in it; record into a new folder")
        self._write_manifest()

    def __enter__(self) -> SessionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self, spec: SensorSpec) -> None:
        """Name the channels of a sensor: before its first chunk, and as often as the device says so.

        Raises
        ------
        SignalError
            The sensor had other channels before.
        """
        known = self._sensors.setdefault(spec.name, spec)
        if known != spec:
            raise SignalError(
                f"{spec.name}: its channels were {' '.join(known.channels)} and are now {' '.join(spec.channels)}; "
                "record these into another session"
            )

    def write(self, chunk: ImuChunk) -> None:
        """Take a chunk in, and write a segment when one is due.

        A chunk without samples is not kept; what it says is lost stands at the sensor's next one.

        Raises
        ------
        SignalError
            The sensor was not described, or has another number of channels.
        StoreError
            The session is closed, or the disk refuses; what was taken in is kept for another attempt, up to 2^18
            samples. What comes beyond is not, and counts as lost.
        """
        self._require_open()
        spec = self._sensors.get(chunk.sensor)
        if spec is None:
            raise SignalError(f"{chunk.sensor}: was not described; call describe before its first chunk")
        if spec.n_channels != chunk.values.shape[1]:
            raise SignalError(f"{chunk.sensor}: has {spec.n_channels} channels, got a chunk of {chunk.values.shape}")
        if self._n_rows >= _MAX_BUFFERED_ROWS:
            try:
                self.flush()
            except StoreError:
                self._lost_before_next[chunk.sensor] = (
                    self._lost_before_next.get(chunk.sensor, 0) + len(chunk) + chunk.lost
                )
                raise
        lost = self._lost_before_next.pop(chunk.sensor, 0) + chunk.lost
        if len(chunk):
            self._chunks.append(replace(chunk, lost=lost))
            self._n_rows += len(chunk)
        elif lost:
            self._lost_before_next[chunk.sensor] = lost
        self.flush_if_due()

    def note(self, kind: str, *, host_time_ns: int, **fields: Any) -> None:
        """Keep an event beside the samples: a lost link, a battery, a TIME_SYNC exchange.

        Raises
        ------
        ConfigError
            A field has no JSON form.
        StoreError
            The session is closed, or the disk refuses.
        """
        self._require_open()
        event = {"kind": kind, "host_time_ns": host_time_ns, **fields}
        to_json(event, where=f"event {kind}")
        if len(self._events) >= _MAX_BUFFERED_EVENTS:
            self.flush()
        self._events.append({**event, "chunk": len(self._chunks), "tick": len(self._ticks)})
        self.flush_if_due()

    def tick(self, host_time_ns: int) -> None:
        """Keep that everything so far was scored now: played again, it is scored at the same moments.

        Raises
        ------
        StoreError
            The session is closed, or the disk refuses.
        """
        self._require_open()
        if len(self._ticks) >= _MAX_BUFFERED_TICKS:
            self.flush()
        self._ticks.append((len(self._chunks), Tick(host_time_ns)))
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write a segment when the last one is ``segment_s`` old; call it now and then while nothing arrives.

        Raises
        ------
        StoreError
            The disk refuses.
        """
        if self._clock() >= self._due_ns:
            self.flush()

    def flush(self) -> None:
        """Write what was taken in since the last segment; it is on the disk when this returns.

        Raises
        ------
        StoreError
            The session is closed, or the disk refuses; nothing is lost, and the next call tries again.
        """
        self._require_open()
        self._due_ns = self._clock() + self._segment_ns
        if not self._chunks and not self._events and not self._ticks:
            return
        after = dict(self._written)
        for chunk in self._chunks:
            samples, lost = after.get(chunk.sensor, Count())
            after[chunk.sensor] = Count(samples + len(chunk), lost + chunk.lost)
        data = encode_segment(
            Segment(self.n_segments, self._sensors, self._written, after, self._chunks, self._events, self._ticks)
        )
        name = segment_name(self.n_segments, data)
        try:
            self._write_file(name, data)
        except StoreError:
            with contextlib.suppress(OSError):  # renamed, perhaps, but not known to last: it comes again
                (self.folder / name).unlink(missing_ok=True)
            raise
        self.n_segments += 1
        self.n_bytes += len(data)
        self._written = after
        self._chunks, self._events, self._ticks, self._n_rows = [], [], [], 0

    def close(self) -> None:
        """Write what is left and mark the session as complete; may be called twice.

        Raises
        ------
        StoreError
            The disk refuses.
        """
        if self._closed:
            return
        self.flush()
        for sensor, lost in self._lost_before_next.items():
            written = self._written.get(sensor, Count())
            self._written[sensor] = written._replace(lost=written.lost + lost)
        self._manifest |= {
            "complete": True,
            "ended_utc_ns": self._wall_clock(),
            "n_segments": self.n_segments,
            "held": {name: self._written.get(name, Count())._asdict() for name in self._sensors},
        }
        self._write_manifest()
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.folder}: the session is closed; start another one")

    def _write_manifest(self) -> None:
        self._write_file(MANIFEST, to_json(self._manifest, where="facts", indent=2))

    def _write_file(self, name: str, data: bytes) -> None:
        """Write beside, sync, rename, sync the folder: a name never stands for less than all of it."""
        beside = self.folder / (name + PART)
        try:
            with beside.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(self.folder / name)
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as e:
            raise StoreError(f"{self.folder / name}: cannot be written ({e.strerror}); check the disk") from e
