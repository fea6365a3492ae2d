"""Many episodes as one file, a page in memory at a time: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, Literal

from kinedge.canonical import canonical_json
from kinedge.envelope import parse_envelope
from kinedge.errors import ConfigError
from kinedge.upstream.summary import StoredSummary

__all__ = ["EXPORT_TYPES", "ExportFormat", "export", "export_days"]

ExportFormat = Literal["jsonl", "csv", "parquet"]
EXPORT_TYPES: Final[dict[ExportFormat, str]] = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_INTEGERS: Final = frozenset(
    {"arrival", "sequence", "start_utc_ns", "end_utc_ns", "received_utc_ns", "raw_n_bytes", "as_of_utc_ns"}
)
_FLOATS: Final = frozenset(
    {
        "peak_score",
        "min_p_value",
        "unsure_share",
        "worn_s",
        "unworn_s",
        "missing_s",
        "walking_s",
        "value",
        "low",
        "high",
    }
    | {"expected", "spread", "short"}
)
_BOOLEANS: Final = frozenset({"has_raw", "complete"})
_COLUMNS: Final = (
    "arrival", "id", "site", "gateway", "subject", "sequence", "start_utc_ns", "end_utc_ns", "received_utc_ns",
    "decision", "status", "has_raw", "ended", "peak_score", "min_p_value", "unsure_share", "sentence", "sensors",
    "raw_sha256", "raw_n_bytes", "model_digest", "enrolment_digest", "kinedge_version",
)  # fmt: skip
_DAY_COLUMNS: Final = (
    "arrival", "id", "site", "gateway", "subject", "part", "day", "as_of_utc_ns", "received_utc_ns", "complete",
    "worn_s", "unworn_s", "missing_s", "walking_s", "state", "measure", "value", "low", "high", "unit", "expected",
    "spread", "short", "trend", "config_digest", "kinedge_version",
)  # fmt: skip
_GROUP: Final = 1000  # rows at a time
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def export(found: Iterable[tuple[StoredSummary, bytes]], format: ExportFormat) -> Iterator[bytes]:
    """Give the bytes of a file with these episodes.

    ``jsonl``: one object a line, ``{"arrival", "status", ..., "envelope"}``, the envelope whole. ``csv``: one row an
    episode; a text that a spreadsheet would take for a formula begins with an apostrophe. ``parquet``: the same
    columns, typed.

    Raises
    ------
    ConfigError
        Parquet was asked for and pyarrow is not installed.
    """
    if format == "jsonl":
        return _jsonl(found)
    rows = (_row(summary, body) for summary, body in found)
    return _csv(rows, _COLUMNS) if format == "csv" else _parquet(rows, _COLUMNS)


def export_days(found: Iterable[dict[str, Any]], format: ExportFormat) -> Iterator[bytes]:
    """Give the bytes of a file with days of measures, as `MeasuresBook.every_day` gives them.

    ``jsonl``: one day a line, whole. ``csv`` and ``parquet``: one row a number, with the day's wear time and, where it
    is watched, what was expected of it.

    Raises
    ------
    ConfigError
        Parquet was asked for and pyarrow is not installed.
    """
    if format == "jsonl":
        return (canonical_json(day) + b"\n" for day in found)
    rows = (row for day in found for row in _numbers(day))
    return _csv(rows, _DAY_COLUMNS) if format == "csv" else _parquet(rows, _DAY_COLUMNS)


def _numbers(day: dict[str, Any]) -> Iterator[dict[str, Any]]:
    watched = day["watched"] or {"state": None, "trends": {}}
    of_day = {name: day[name] for name in _DAY_COLUMNS if name in day} | {"state": watched["state"]}
    for name, number in sorted(day["measures"].items()):
        trend = watched["trends"].get(name) or {}
        told = {key: trend.get(key) for key in ("expected", "spread", "short")}
        yield of_day | {"measure": name, **number, **told, "trend": trend.get("state")}


def _row(summary: StoredSummary, body: bytes) -> dict[str, Any]:
    envelope = parse_envelope(body)
    return vars(summary) | {
        "ended": envelope.ended,
        "peak_score": envelope.peak_score,
        "min_p_value": envelope.min_p_value,
        "unsure_share": envelope.unsure_share,
        "sentence": envelope.sentence,
        "sensors": " ".join(envelope.sensors),
        "raw_sha256": envelope.raw and envelope.raw.sha256,
        "raw_n_bytes": envelope.raw and envelope.raw.n_bytes,
        "model_digest": envelope.model_digest,
        "enrolment_digest": envelope.enrolment_digest,
        "kinedge_version": envelope.kinedge_version,
    }


def _jsonl(found: Iterable[tuple[StoredSummary, bytes]]) -> Iterator[bytes]:
    for summary, body in found:
        yield canonical_json({**vars(summary), "envelope": json.loads(body)}) + b"\n"


def _csv(rows: Iterator[dict[str, Any]], names: tuple[str, ...]) -> Iterator[bytes]:
    yield (",".join(names) + "\r\n").encode()
    while group := list(islice(rows, 200)):
        text = io.StringIO()
        writer = csv.writer(text)
        for row in group:
            writer.writerow([_cell(row[c]) for c in names])
        yield text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _parquet(rows: Iterator[dict[str, Any]], names: tuple[str, ...]) -> Iterator[bytes]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
        import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError as e:
        raise ConfigError("pyarrow is not installed; Parquet needs: pip install 'kinedge[record]'") from e

    types = {**dict.fromkeys(_INTEGERS, pa.int64()), **dict.fromkeys(_FLOATS, pa.float64())}
    types |= dict.fromkeys(_BOOLEANS, pa.bool_())
    schema = pa.schema([(c, types.get(c, pa.string())) for c in names])

    def give() -> Iterator[bytes]:
        with tempfile.TemporaryFile() as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                first = list(islice(rows, _GROUP))
                groups = chain([first], iter(lambda: list(islice(rows, _GROUP)), []))
                for group in groups:
                    columns = [pa.array([row[c] for row in group], schema.field(c).type) for c in names]
                    writer.write_batch(pa.record_batch(columns, schema=schema))
            file.seek(0)
            while part := file.read(1 << 16):
                yield part

    return give()
