"""Sessions from disk: checked, damage told and counted, chunks as they arrived; ``recorder`` writes them."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kinedge.errors import StoreError
from kinedge.firmware_bridge.segments import (
    FORMAT,
    MANIFEST,
    PART,
    SEGMENT_NAME,
    Count,
    Segment,
    Tick,
    decode_segment,
    describe_segment,
)
from kinedge.signals import ImuChunk, SensorSpec

__all__ = ["Damage", "RecordedSession", "read_session"]

_MAX_SEGMENT_BYTES: Final = 1 << 28
_MAX_MANIFEST_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Damage:
    """A file of a session that is not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class RecordedSession:
    """A session that was recorded.

    Parameters
    ----------
    folder
        Where it lies.
    manifest
        Content of ``session.json``; empty when that is damaged.
    sensors
        By name.
    events
        As noted, in order.
    damage
        Files that are skipped.
    missing
        By sensor: samples known to have been in skipped segments. Of a session that was cut off, nobody knows
        what came after its last segment.
    held
        By sensor: how much the session held up to its last readable segment.
    scored
        Whether it was scored while it was recorded, and holds when.
    """

    folder: Path
    manifest: Mapping[str, Any]
    sensors: Mapping[str, SensorSpec]
    events: tuple[Mapping[str, Any], ...]
    damage: tuple[Damage, ...]
    missing: Mapping[str, int]
    held: Mapping[str, Count]
    scored: bool
    _segments: tuple[tuple[str, Mapping[str, int]], ...]

    @property
    def complete(self) -> bool:
        """Whether the recorder closed it, and every segment is readable."""
        return self.manifest.get("complete") is True and not self.damage

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was told about the session when it was recorded."""
        facts = self.manifest.get("facts")
        return facts if isinstance(facts, dict) else {}

    def chunks(self) -> Iterator[ImuChunk]:
        """Yield the chunks in order of arrival, as ``in_order`` does.

        Raises
        ------
        StoreError
            A segment cannot be read any more.
        """
        return (item for item in self.in_order() if isinstance(item, ImuChunk))

    def in_order(self) -> Iterator[ImuChunk | Mapping[str, Any] | Tick]:
        """Yield chunks, events and ticks as they came; one segment is in memory at a time.

        What skipped segments held is added to ``lost`` of the sensor's next chunk.

        Raises
        ------
        StoreError
            A segment cannot be read any more.
        """
        pending: dict[str, int] = {}
        for name, lost_before in self._segments:
            for sensor, lost in lost_before.items():
                pending[sensor] = pending.get(sensor, 0) + lost
            for item in decode_segment(_checked(self.folder / name)[1], where=name).in_order():
                if isinstance(item, ImuChunk) and (lost := pending.pop(item.sensor, 0)):
                    yield replace(item, lost=item.lost + lost)
                else:
                    yield item


def read_session(folder: Path) -> RecordedSession:
    """Open a session; every segment is checked, damaged ones are skipped and reported.

    Parameters
    ----------
    folder
        As given to ``SessionWriter``; the recorder may have been killed, or still be writing.

    Raises
    ------
    ConfigError
        pyarrow is not installed.
    StoreError
        This is no session, or nothing of it is readable.
    """
    folder = Path(folder)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as e:
        raise StoreError(f"{folder}: no session can be read there ({e.strerror})") from e
    unfinished = "is not finished: the session was cut off there, or is still being recorded"
    damage = [Damage(name, unfinished) for name in names if name.endswith(PART)]
    manifest = _read_manifest(folder, damage)
    segments: dict[int, tuple[str, Segment]] = {}
    sensors: dict[str, SensorSpec] = {}
    scored = False
    for name in names:
        if not name.startswith("segment-") or name.endswith(PART):
            continue
        try:
            index, data = _checked(folder / name)
            segment = describe_segment(data, where=name)
            if segment.index != index or index in segments:
                raise StoreError(f"{name}: is segment {segment.index}, by what it says; its name says another, or two")
            if any(sensors.get(spec.name, spec) != spec for spec in segment.sensors.values()):
                raise StoreError(f"{name}: its sensors have other channels than in the segments before")
        except StoreError as e:
            damage.append(Damage(name, str(e)))
            continue
        scored = scored or bool(segment.ticks)
        segments[index] = (name, replace(segment, ticks=()))  # there are many: not kept of all segments at once
        sensors.update(segment.sensors)
    if not manifest and not segments:
        raise StoreError(f"{folder}: is no session: neither {MANIFEST} nor a readable segment is there")
    read, missing = _account(segments, manifest, damage)
    in_order = [segment for _, (_, segment) in sorted(segments.items())]
    return RecordedSession(
        folder=folder,
        manifest=manifest,
        sensors=sensors,
        events=tuple(event for segment in in_order for event in segment.events),
        damage=tuple(damage),
        missing=missing,
        held=in_order[-1].after if in_order else {},
        scored=scored,
        _segments=read,
    )


def _account(
    segments: Mapping[int, tuple[str, Segment]], manifest: Mapping[str, Any], damage: list[Damage]
) -> tuple[tuple[tuple[str, Mapping[str, int]], ...], dict[str, int]]:
    """Say what to read, with what was lost before it; and which samples are known to be missing."""
    read: list[tuple[str, Mapping[str, int]]] = []
    missing: Counter[str] = Counter()
    so_far: Mapping[str, Count] = {}
    next_index = 0

    def compare(expected: Mapping[str, Count]) -> dict[str, int]:
        lost = {}
        for sensor, count in expected.items():
            known = so_far.get(sensor, Count())
            missing[sensor] += max(0, count.samples - known.samples)
            lost[sensor] = max(0, sum(count) - sum(known))
        return lost

    found = {int(match[1]) for d in damage if (match := SEGMENT_NAME.fullmatch(d.name))}

    def note_gap(start: int, stop: int) -> None:
        gone = max(0, stop - start) - sum(start <= i < stop for i in found)
        if gone > 0:
            damage.append(Damage(f"segment-{start:06}", f"is not there: {gone} of the segments {start} to {stop - 1}"))

    for index, (name, segment) in sorted(segments.items()):
        note_gap(next_index, index)
        read.append((name, compare(segment.before)))
        so_far, next_index = segment.after, index + 1
    if manifest.get("complete") is True:
        note_gap(next_index, manifest["n_segments"])
        compare({name: Count(**count) for name, count in manifest["held"].items()})
    return tuple(read), dict(+missing)


def _read_manifest(folder: Path, damage: list[Damage]) -> Mapping[str, Any]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ValueError(f"more than {_MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise StoreError(f"{folder}: its format is {manifest['format']!r:.80}; {FORMAT!r} is read here")
        if manifest["complete"] is True:
            _ = manifest["n_segments"] + 0, {n: Count(**c).samples + 0 for n, c in manifest["held"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        damage.append(Damage(MANIFEST, f"cannot be read ({type(e).__name__}: {e}); the segments speak for themselves"))
        return {}
    return dict(manifest)


def _checked(path: Path) -> tuple[int, bytes]:
    """Read a segment whose bytes are those its name tells; return the index that it tells, too."""
    match = SEGMENT_NAME.fullmatch(path.name)
    if match is None:
        raise StoreError(f"{path.name}: is no name of a segment")
    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MAX_SEGMENT_BYTES:
            raise StoreError(f"{path.name}: {n_bytes} bytes are more than a recorder writes")
        data = path.read_bytes()
    except OSError as e:
        raise StoreError(f"{path.name}: cannot be read ({e.strerror})") from e
    if f"{zlib.crc32(data):08x}" != match[2]:
        raise StoreError(f"{path.name}: its {len(data)} bytes are cut or damaged")
    return int(match[1]), data
