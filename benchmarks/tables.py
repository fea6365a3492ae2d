"""Tables of documents, written from the results that lie beside the source: no figure is copied by hand.

A document marks where a table goes; what stands between the marks is replaced, everything else is left as it is:

    <!-- bench:step -->
    <!-- /bench:step -->

Under each table stands the command, the date, the machine with its load, and the warnings of the run. A result that is
not there is "not measured", with the command that would measure it. Rows are left out by a rule (the sum in place of
its parts, say), never because a figure is bad.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kinedge.benchmarks.captions import caption
from kinedge.benchmarks.figures import written
from kinedge.benchmarks.headlines import headlines_text
from kinedge.benchmarks.results import Result
from kinedge.benchmarks.suite import command_of
from kinedge.errors import ConfigError

__all__ = ["TABLES", "Table", "check_documents", "fill", "read_document", "table_text"]

Row = Mapping[str, Any]
_MARK: Final = re.compile(r"<!-- bench:(?P<name>[a-z0-9-]+) -->\n(?P<old>.*?)<!-- /bench:(?P=name) -->", re.DOTALL)
_OPEN: Final = re.compile(r"<!-- /?bench:([a-z0-9-]*) -->")


@dataclass(frozen=True)
class Table:
    """One table.

    Parameters
    ----------
    sources
        Names of result files, without the ending.
    columns
        Keys of rows and what stands at the head of each column.
    keep
        Which rows.
    """

    sources: tuple[str, ...]
    columns: Mapping[str, str]
    keep: Callable[[Row], bool] = field(default=lambda _: True)


_TIMES: Final = {"what": "", "streams": "streams", "median_us": "median, µs", "p90_us": "90 %, µs", "spread": "spread"}

TABLES: Final[Mapping[str, Table]] = {
    "step": Table(
        ("step", "step_enrolled"),
        {**_TIMES, "us_per_sample": "µs per sample", "ratio": "× the bare call"}
        | {"ratio_of_backend": "× the bare call of its backend"},
    ),
    "stages": Table(
        ("stages",),
        {
            "what": "stage",
            "of": "of",
            "p50_us": "p50, µs",
            "p90_us": "p90, µs",
            "p99_us": "p99, µs",
            "max_us": "max, µs",
        }
        | {"n": "n", "spread": "spread"},
        lambda row: "p50_us" in row,
    ),
    "live": Table(
        ("stages",),
        {
            "what": "",
            "backend": "by",
            "p50_ms": "p50, ms",
            "p90_ms": "p90, ms",
            "p99_ms": "p99, ms",
            "max_ms": "max, ms",
        }
        | {
            "late_share": "share that missed the deadline",
            "n": "n",
            "spread": "spread",
            "joules": "J",
            "watts": "W",
            "note": "",
        },
        lambda row: "p50_ms" in row or "joules" in row or " to verdict" in str(row["what"]),
    ),
    "backends": Table(
        ("gpu_check",),
        {**_TIMES, "us_per_sample": "µs per sample", "status": "", "note": ""},
        lambda row: not str(row["what"]).startswith(("train", "contract")),
    ),
    "throughput": Table(
        ("throughput", "throughput_18", "throughput_enrolled"),
        {
            "what": "",
            "people": "people",
            "load": "load of a core",
            "people_per_core": "people per core",
            "late_share": "late",
        }
        | {
            "us_per_hop": "µs per person and hop",
            "ratio": "× bare ONNX Runtime",
            "ratio_of_backend": "× its bare backend",
        }
        | {"wait_p50_ms": "wait p50, ms", "wait_p99_ms": "wait p99, ms"}
        | {"sample_to_verdict_p99_ms": "sample to verdict p99, ms"}
        | {"radio_p99_ms": "of that radio", "goal_ms": "goal, ms", "kb_per_person": "kB each"},
        lambda row: not str(row["what"]).startswith(("import", "start")),
    ),
    "accuracy": Table(
        ("tsb",),
        {"what": "method", "origin": "", "lag": "lag", "vus_pr": "VUS-PR", "low": "95 % from", "high": "to"}
        | {"MSL": "MSL", "SMAP": "SMAP", "SMD": "SMD", "Daphnet": "Daphnet", "us_per_sample": "µs per sample"}
        | {"parameters": "parameters"},
    ),
    "peers": Table(
        ("peers",),
        {"what": "method", "version": "version", "vus_pr": "VUS-PR, mean", "MSL 002": "MSL", "Daphnet 018": "Daphnet"}
        | {"SMD 057": "SMD", "SMAP 144": "SMAP", "us_1_streams_chunk_1": "µs per sample, 1 stream, one by one"}
        | {"us_64_streams_chunk_1": "64 streams, one by one", "us_64_streams_chunk_50": "64 streams, in fifties"}
        | {"rss_mb_64_streams": "MB", "delay_samples": "delay, samples", "fit_s": "fit, s", "note": ""},
        lambda row: row.get("kind") == "detector",
    ),
    "runtimes": Table(
        ("peers",),
        {"what": "runtime", "version": "version", "window": "samples computed anew"}
        | {"us_1_streams_chunk_1": "µs per sample, 1 stream, one by one", "times_1_streams_chunk_1": "× ours"}
        | {"times_native_1_streams_chunk_1": "× native"}
        | {"us_64_streams_chunk_1": "64 streams, one by one", "times_64_streams_chunk_1": "× ours "}
        | {"times_native_64_streams_chunk_1": "× native "}
        | {"us_64_streams_chunk_50": "64 streams, in fifties", "times_64_streams_chunk_50": "× ours  "}
        | {"times_native_64_streams_chunk_50": "× native  "}
        | {"rss_mb_64_streams": "MB", "difference": "differs by", "spread": "spread", "note": ""},
        lambda row: row.get("kind") == "runtime",
    ),
    "promise": Table(
        ("alarms",),
        {
            "what": "",
            "hours": "hours",
            "valid": "valid time",
            "false": "false",
            "of_promise": "times the promise (95 %)",
        }
        | {"people_with_one": "people with one", "found": "found", "median_delay_s": "delay, s"},
    ),
    "promise-real": Table(
        ("alarms_daphnet", "alarms_gait_healthy", "alarms_fog_stanford"),
        {"what": "", "minutes": "minutes", "valid": "valid time", "false": "false"}
        | {"false_per_hour": "per hour (95 %)", "false_per_valid_hour": "per valid hour (95 %)"}
        | {"of_promise": "times the promise (95 %)", "freezes_found": "freezes found", "noise_found": "noise found"},
        lambda row: " all," in str(row["what"]),
    ),
    "caution": Table(
        ("caution",),
        {"what": "", "u80": "u80", "u80_band": "band of p-values", "u_plain": "plain threshold", "u65": "u65"}
        | {"u65_band": "band, u65", "u65_over_band_se": "± of u65 less the band's", "missed": "missed"}
        | {"missed_plain": "missed, plain", "false_calls": "false calls", "unsure": "unsure"}
        | {"aurc": "AURC", "aurc_plain": "AURC, plain", "right_reason": "right reason"}
        | {"u65_others": "u65, others", "u65_others_over_band_se": "± of it less the band's"}
        | {"u80_others": "u80, others", "missed_others": "missed, others", "unsure_others": "unsure, others"},
        lambda row: "second half" not in str(row["what"]),
    ),
    "caution-enrolled": Table(
        ("caution",),
        {"what": "", "u80": "u80", "u80_band": "band of p-values", "u65": "u65", "u65_band": "band, u65"}
        | {"u65_over_band_se": "± of u65 less the band's", "missed": "missed", "false_calls": "false calls"}
        | {"unsure": "unsure", "aurc": "AURC", "aurc_plain": "AURC, plain", "right_reason": "right reason"},
        lambda row: "second half" in str(row["what"]),
    ),
    "attribution": Table(
        ("attribution",),
        {"what": "", "hit_rate_100": "HitRate@100", "low": "95 % from", "high": "to", "hit_rate_150": "HitRate@150"},
        lambda row: "hit_rate_100" in row,
    ),
    "attribution-gait": Table(
        ("attribution_gait",),
        {"what": "", "verdicts": "verdicts", "people": "people", "channel": "right channel first", "channel_95": "95 %"}
        | {"sensor": "right sensor first", "sensor_95": "95 % ", "stable": "unchanged by noise"},
        lambda row: "one channel" in str(row["what"]) and " x" not in str(row["what"]),
    ),
    "parity": Table(
        ("parity",),
        {"what": "", "status": "", "flipped": "verdicts flipped", "vus_pr_change": "change of VUS-PR"}
        | {"vus_pr_injected_change": "of VUS-PR, injected", "hit_at_1_change": "of hit@1", "note": ""},
        lambda row: any(form in str(row["what"]) for form in ("int8", "fp16", "TensorRT", "whole")),
    ),
    "faults": Table(
        ("endurance", "endurance_steady"),
        {"what": "", "sent": "sent", "received": "received", "masked": "masked", "unknown": "unheard at restarts"}
        | {"unaccounted": "unaccounted", "restarts": "restarts", "reconnects": "reconnects", "duplicates": "twice"}
        | {"bad": "bad packets", "late": "late"},
        lambda row: row["what"] == "all",
    ),
    "decode": Table(
        ("decode",),
        {"what": "", "us_per_packet": "µs per packet", "ratio": "× burst", "spread": "spread"},
    ),
    "links": Table(
        ("links",),
        {"what": "", "sent": "sent", "received": "received", "lost": "lost", "unaccounted": "unaccounted"}
        | {"cpu_share": "share of a core", "us_per_sample": "µs per sample"},
    ),
    "collector": Table(
        ("collector",),
        {"what": "", "episodes_per_s": "episodes per s", "lowest": "lowest", "highest": "highest", "p50_ms": "p50, ms"}
        | {"p99_ms": "p99, ms", "cpu_ms": "processor, ms", "ratio": "of bare inserts", "note": ""},
    ),
    "anomalies": Table(
        ("anomalies",),
        {"what": "", "sessions": "sessions", "found": "found", "median_delay_s": "delay, s"}
        | {"right_sensor": "right sensor", "false_per_hour": "false per hour (95 %)", "unsure": "unsure"},
    ),
    "freezing": Table(
        ("freezing",),
        {"what": "", "found": "found", "specificity": "specificity", "false_per_hour": "false per hour (95 %)"}
        | {"median_delay_s": "delay, s", "auc": "AUC"},
    ),
}


def table_text(name: str, results: Mapping[str, Result]) -> str:
    """Write one table with its source under it.

    Parameters
    ----------
    name
        Of ``TABLES``, or ``headlines``.
    results
        By file name without the ending.

    Raises
    ------
    ConfigError
        There is no such table.
    """
    if name == "headlines":
        return headlines_text(results)
    table = TABLES.get(name)
    if table is None:
        raise ConfigError(f"no table {name!r}; there are {', '.join(TABLES)}")
    parts = []
    for source in table.sources:
        found = results.get(source)
        if found is None:
            parts.append(f"*Not measured yet: `{command_of(source)} --out {source}.json`.*\n")
            continue
        rows = [row for row in found.rows if table.keep(row)]
        parts.append(f"{_markdown(rows, table.columns)}\n\n{caption(found, command=command_of(source))}\n")
    return "\n".join(parts)


def fill(document: str, results: Mapping[str, Result], *, name: str = "the document") -> str:
    """Return a document with every marked table written anew.

    Raises
    ------
    ConfigError
        A mark names no table, or is not closed.
    """
    opened = [m[1] for m in _OPEN.finditer(document)]
    matched = [m["name"] for m in _MARK.finditer(document)]
    if sorted(opened) != sorted(2 * matched):
        odd = sorted({o for o in opened if opened.count(o) != 2 * matched.count(o)})
        raise ConfigError(f"{name}: the marks of {', '.join(odd)} do not open and close in turn")

    def written_anew(match: re.Match[str]) -> str:
        table = match["name"]
        return f"<!-- bench:{table} -->\n{table_text(table, results)}<!-- /bench:{table} -->"

    return _MARK.sub(written_anew, document)


def _markdown(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    there = {key: head for key, head in columns.items() if any(row.get(key) not in (None, "") for row in rows)}
    if not there:
        return "*No row.*"
    lines = ["| " + " | ".join(head.strip() for head in there.values()) + " |"]
    lines.append("|" + "|".join("---" if key in ("what", "note", "of") else "---:" for key in there) + "|")
    for row in rows:
        cells = (written(row.get(key)).replace("|", "\\|").replace("\n", " ") for key in there)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check_documents(paths: Sequence[Path], results: Mapping[str, Result]) -> list[Path]:
    """Return the documents whose tables are not those of the results.

    Raises
    ------
    ConfigError
        A document cannot be read, or its marks are wrong.
    """
    return [p for p in paths if (text := read_document(p)) != fill(text, results, name=str(p))]


def read_document(path: Path) -> str:
    """Read a document.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read ({e})") from e
