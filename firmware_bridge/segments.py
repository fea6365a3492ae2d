"""A few seconds of chunks as the bytes of one Parquet file, and back: the form in which sessions are kept.

A row is a sample. Columns: ``sensor``, ``chunk`` (which of the segment's chunks it came in), ``device_time_ns``,
``host_time_ns`` (arrival, null where unknown), ``boot_id``, ``interval_ns``, ``lost`` (before this sample; stands at
the first of a chunk), then per channel ``acc_x`` (float32 in SI units, null where invalid) and ``acc_x_saturated``;
both are null for a sensor without this channel. The schema's metadata describes the segment under the key ``kinedge``:
sensors, counts, events and ticks. Events and ticks say before which chunk they came, so that all that happened can be
told again in its order.

A segment's name carries its index and the CRC-32 of its bytes. pyarrow is an extra: it is imported when first needed.
"""

from __future__ import annotations

import importlib
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError, StoreError
from kinedge.signals import ImuChunk, SensorSpec

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PART",
    "SEGMENT_NAME",
    "Count",
    "Segment",
    "Tick",
    "decode_segment",
    "describe_segment",
    "encode_segment",
    "segment_name",
    "to_json",
]

FORMAT: Final = "kinedge-session 1"
MANIFEST: Final = "session.json"
PART: Final = ".part"
SEGMENT_NAME: Final = re.compile(r"segment-([0-9]{6,12})-([0-9a-f]{8})\.parquet")

_KEY: Final = b"kinedge"
_MAX_ROWS: Final = 1 << 20
_MAX_COLUMNS: Final = 64
_MAX_TIME_NS: Final = 1 << 62


class Count(NamedTuple):
    """Samples of one sensor, and how many were lost on the way."""

    samples: int = 0
    lost: int = 0


class Tick(NamedTuple):
    """All that came before was scored at this moment of the host's clock, by whom the session was recorded."""

    host_time_ns: int


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of a session.

    Parameters
    ----------
    index
        From 0, without gaps.
    sensors
        By name: all that the session had described by then.
    before, after
        By name: what the session held before this segment, and with it.
    chunks
        In order of arrival, none of them empty.
    events
        JSON objects, each with ``host_time_ns``, and ``chunk``: how many of the chunks came before.
    ticks
        Each with how many of the chunks came before.
    """

    index: int
    sensors: Mapping[str, SensorSpec]
    before: Mapping[str, Count]
    after: Mapping[str, Count]
    chunks: Sequence[ImuChunk] = ()
    events: Sequence[Mapping[str, Any]] = ()
    ticks: Sequence[tuple[int, Tick]] = ()

    def in_order(self) -> Iterator[ImuChunk | Mapping[str, Any] | Tick]:
        """Yield chunks, events and ticks as they came."""
        events, ticks = deque(self.events), deque(self.ticks)
        for i in range(len(self.chunks) + 1):
            last = i == len(self.chunks)
            while True:
                tick_is_next = bool(ticks) and (last or ticks[0][0] <= i)
                event_is_next = bool(events) and (last or events[0]["chunk"] <= i)
                # between two chunks, an event knows how many ticks were before it
                if event_is_next and not (tick_is_next and events[0]["tick"] > len(self.ticks) - len(ticks)):
                    yield events.popleft()
                elif tick_is_next:
                    yield ticks.popleft()[1]
                else:
                    break
            if not last:
                yield self.chunks[i]


def segment_name(index: int, data: bytes) -> str:
    """Return the name of the file with these bytes."""
    return f"segment-{index:06}-{zlib.crc32(data):08x}.parquet"


def to_json(content: Any, *, where: str, indent: int | None = None) -> bytes:
    """Serialise.

    Raises
    ------
    ConfigError
        The content has no JSON form.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False).encode()
    except (TypeError, ValueError) as e:
        raise ConfigError(
            f"{where}: has no JSON form ({e}); use texts, finite numbers, lists and tables of them"
        ) from e


def encode_segment(segment: Segment) -> bytes:
    """Write a segment.

    Raises
    ------
    ConfigError
        pyarrow is not installed, or an event has no JSON form.
    """
    pa, parquet = _pyarrow()
    description = {
        "format": FORMAT,
        "index": segment.index,
        "sensors": {name: list(spec.channels) for name, spec in segment.sensors.items()},
        "before": segment.before,
        "after": segment.after,
        "events": segment.events,
        "ticks": [(chunk, tick.host_time_ns) for chunk, tick in segment.ticks],
    }
    table = pa.table(_columns(pa, segment))
    sink = pa.BufferOutputStream()
    metadata = {_KEY: to_json(description, where=f"segment {segment.index}")}
    parquet.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _columns(pa: Any, segment: Segment) -> dict[str, Any]:
    chunks, channels_of = segment.chunks, {name: spec.channels for name, spec in segment.sensors.items()}
    lengths = [len(c) for c in chunks]
    stops = np.cumsum([0, *lengths])
    names = list(dict.fromkeys(name for c in chunks for name in channels_of[c.sensor]))
    shape = (int(stops[-1]), len(names))
    values, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
    saturated, present = np.zeros(shape, bool), np.zeros(shape, bool)
    for c, start, stop in zip(chunks, stops[:-1], stops[1:], strict=True):
        columns = [names.index(name) for name in channels_of[c.sensor]]
        values[start:stop, columns] = c.values
        valid[start:stop, columns] = c.valid
        saturated[start:stop, columns] = c.saturated
        present[start:stop, columns] = True

    def per_chunk(of_chunk: list[int]) -> NDArray[np.int64]:
        return np.repeat(np.array(of_chunk, np.int64), lengths)

    lost = np.zeros(shape[0], np.int64)
    lost[stops[:-1]] = [c.lost for c in chunks]
    sensors = sorted({c.sensor for c in chunks})
    sensor_at = per_chunk([sensors.index(c.sensor) for c in chunks]).astype(np.int32)
    columns_by_name = {
        "sensor": pa.DictionaryArray.from_arrays(pa.array(sensor_at), pa.array(sensors, pa.string())),
        "chunk": pa.array(per_chunk(list(range(len(chunks))))),
        "device_time_ns": pa.array(np.concatenate([np.empty(0, np.int64), *(c.device_time_ns for c in chunks)])),
        "host_time_ns": pa.array(
            per_chunk([c.host_time_ns or 0 for c in chunks]),
            mask=per_chunk([c.host_time_ns is None for c in chunks]).astype(bool),
        ),
        "boot_id": pa.array(per_chunk([c.boot_id for c in chunks])),
        "interval_ns": pa.array(per_chunk([c.interval_ns for c in chunks])),
        "lost": pa.array(lost),
    }
    for j, name in enumerate(names):
        columns_by_name[name] = pa.array(values[:, j], mask=~valid[:, j])
        columns_by_name[f"{name}_saturated"] = pa.array(saturated[:, j], mask=~present[:, j])
    return columns_by_name


def describe_segment(data: bytes, *, where: str) -> Segment:
    """Read what a segment says of itself, without its chunks.

    Raises
    ------
    ConfigError
        pyarrow is not installed.
    StoreError
        The bytes are no segment of this version.
    """
    return _open(data, where)[1]


def decode_segment(data: bytes, *, where: str) -> Segment:
    """Read a segment.

    Parameters
    ----------
    data
        As ``encode_segment`` returned it.
    where
        Named in errors.

    Returns
    -------
    segment
        With its chunks as they were written; invalid values are 0, as nobody must read them.

    Raises
    ------
    ConfigError
        pyarrow is not installed.
    StoreError
        The bytes are no segment of this version.
    """
    file, described = _open(data, where)
    pa, _ = _pyarrow()
    try:
        table = file.read()
        chunks = _chunks(table, described.sensors)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, SignalError) as e:
        raise StoreError(f"{where}: its samples cannot be read ({e})") from e
    return replace(described, chunks=chunks)


def _open(data: bytes, where: str) -> tuple[Any, Segment]:
    pa, parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(pa.BufferReader(data))
        description = json.loads((file.schema_arrow.metadata or {})[_KEY])
        if description["format"] != FORMAT:
            raise StoreError(f"{where}: its format is {description['format']!r:.80}; {FORMAT!r} is read here")
        if file.metadata.num_rows > _MAX_ROWS or file.metadata.num_columns > _MAX_COLUMNS:
            raise StoreError(f"{where}: more than {_MAX_ROWS} rows or {_MAX_COLUMNS} columns; no recorder writes that")
        sensors = {str(name): SensorSpec(name, tuple(channels)) for name, channels in description["sensors"].items()}
        before, after = (
            {name: Count(*map(int, description[when].get(name, ()))) for name in sensors}
            for when in ("before", "after")
        )
        events = [
            {
                **event,
                "host_time_ns": _time(event["host_time_ns"]),
                "chunk": int(event.get("chunk", 0)),
                "tick": int(event.get("tick", 0)),  # not in recordings of before
            }
            for event in description["events"]
        ]
        ticks = [(int(chunk), Tick(_time(time_ns))) for chunk, time_ns in description.get("ticks", ())]
        return file, Segment(int(description["index"]), sensors, before, after, (), events, ticks)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError, SignalError) as e:
        raise StoreError(f"{where}: is no segment of a session ({type(e).__name__}: {e})") from e


def _time(time_ns: Any) -> int:
    """Return a host time that nobody's arithmetic runs over with."""
    if not isinstance(time_ns, int) or not abs(time_ns) < _MAX_TIME_NS:
        raise ValueError(f"{time_ns!r:.40} is no time")
    return time_ns


def _chunks(table: Any, sensors: Mapping[str, SensorSpec]) -> list[ImuChunk]:
    """Cut the rows back into chunks."""
    names = table.column("sensor").to_pylist()
    present = [sensors[name] for name in sorted(set(names))]
    wanted = ("device_time_ns", "boot_id", "interval_ns", "lost")
    numbers = {name: table.column(name).to_numpy().astype(np.int64) for name in wanted}
    arrival = table.column("host_time_ns")
    arrived, host_time_ns = arrival.is_valid().to_numpy(), arrival.fill_null(0).to_numpy()
    channels = [name for name in table.column_names if f"{name}_saturated" in table.column_names]
    at = {spec.name: np.array([channels.index(name) for name in spec.channels]) for spec in present}
    shape = (table.num_rows, len(channels))
    values, valid, saturated = np.empty(shape, np.float32), np.empty(shape, bool), np.empty(shape, bool)
    for j, name in enumerate(channels):
        values[:, j] = table.column(name).fill_null(0).to_numpy()
        valid[:, j] = table.column(name).is_valid().to_numpy()
        saturated[:, j] = table.column(f"{name}_saturated").fill_null(False).to_numpy()
    chunk_at = table.column("chunk").to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(chunk_at)) + 1).tolist(), len(chunk_at)] if len(chunk_at) else []
    chunks = []
    for start, stop in pairwise(edges):
        columns = at[names[start]]
        chunks.append(
            ImuChunk(
                names[start],
                numbers["device_time_ns"][start:stop],
                values[start:stop].take(columns, axis=1),
                valid[start:stop].take(columns, axis=1),
                saturated[start:stop].take(columns, axis=1),
                int(numbers["interval_ns"][start]),
                int(numbers["lost"][start]),
                int(numbers["boot_id"][start]),
                int(host_time_ns[start]) if arrived[start] else None,
            )
        )
    return chunks


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as e:
        raise ConfigError("pyarrow is not installed; recording needs: pip install 'kinedge[record]'") from e
