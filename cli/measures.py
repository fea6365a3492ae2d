"""``kinedge measures``: what arms and legs did today, this week or in a recording, with wear time and intervals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kinedge.bundle import write_bundle
from kinedge.cli.app import app
from kinedge.cli.measures_picture import draw_days
from kinedge.edge.config import load_gateway_config
from kinedge.edge.measures.config import MeasuresConfig, Side
from kinedge.edge.measures.person import PersonMeasures
from kinedge.edge.measures.recorded import measure_session, started_utc_ns
from kinedge.edge.measures_store import KeptRow, MeasuresStore
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault, vault_beside
from kinedge.errors import ConfigError, StoreError
from kinedge.firmware_bridge.recorded import RecordedSession, read_session
from kinedge.firmware_bridge.recorded_source import is_recording

__all__ = ["Affected", "Measured", "measure_folder", "measures"]

_EPOCH: Final = datetime(1970, 1, 1)
_SECONDS: Final = ("worn_s", "unworn_s", "missing_s", "walking_s")
_TWO: Final = {  # of each part, what carries most
    "arm": ("use_ratio", "active_share"),
    "gait": ("contact_symmetry_index", "stride_s"),
}
_WORDS: Final = {
    "learning": "learning what is usual",
    "unsure": "unsure",
    "as_usual": "as usual",
    "one_arm_lower": "one arm does less than its trend",
    "arms_less_even": "arms less even than their trend",
    "both_arms_lower": "both arms do less than their trend",
    "contact_less_even": "contact less even than its trend",
    "impacts_less_even": "impacts less even than their trend",
}


class Period(str, Enum):
    """How far back."""

    today = "today"
    week = "week"
    all = "all"


class Affected(str, Enum):
    """Side of the weaker arm."""

    left = "left"
    right = "right"


@dataclass(frozen=True)
class Measured:
    """What was measured, and where."""

    where: str
    rows: list[KeptRow]


@app.command()
def measures(
    source: Annotated[Path, typer.Argument(help="A gateway's TOML or store, or a recording: a folder or a segment.")],
    period: Annotated[Period | None, typer.Argument(help="today, week or all; of a recording all.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this person.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The master key of a sealed store; a gateway's TOML names its own.")
    ] = None,
    hours: Annotated[bool, typer.Option("--hours", help="Hours in place of days.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one measure a line.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the days there, as SVG.")] = None,
    affected: Annotated[Affected | None, typer.Option(help="Recording: side of the weaker arm.")] = None,
    legs: Annotated[list[str] | None, typer.Option(help="Recording: sensors of the legs; may be repeated.")] = None,
    trunk: Annotated[str | None, typer.Option(help="Recording: sensor on the trunk.")] = None,
    leg_rate: Annotated[int, typer.Option(min=25, max=800, help="Recording: rate of the legs' grid, in Hz.")] = 100,
    timezone: Annotated[str, typer.Option(help="Recording: such as Europe/Paris; this machine's when empty.")] = "",
) -> None:
    """Show arm use and gait of each person by day, each number with its 95 % interval and the time worn.

    Days against the person's own trend: a day says "unsure" where too little was worn, and recovery is never told.

    Example: kinedge measures gateway.toml week --subject p-001 --plot p-001.svg
    """
    if as_json and as_csv:
        raise ConfigError("choose one of --json and --csv")
    if plot is not None and plot.suffix.lower() != ".svg":
        raise ConfigError(f"{plot}: pictures are drawn as SVG; name it {plot.with_suffix('.svg')}")
    folder = source.parent if source.suffix == ".parquet" else source
    if is_recording(folder):
        config = MeasuresConfig.model_validate(
            {"legs": tuple(legs or ()), "trunk": trunk, "leg_rate_hz": leg_rate, "timezone": timezone}
        )
        found = measure_folder(folder, config, None if affected is None else affected.value, quiet=as_json or as_csv)
        period = period or Period.all
    else:
        store, timezone, vault = _store_of(source, key)
        with EpisodeStore(store, read_only=True, vault=vault) as opened:
            found = Measured(str(store), MeasuresStore(opened.database).rows(subject=subject))
        period = period or Period.today
    rows = _within(found.rows, period, level="hour" if hours else "day", subject=subject, timezone=timezone)
    if plot is not None:
        days = _within(found.rows, period, level="day", subject=subject, timezone=timezone)
        write_bundle(plot, draw_days(days, title=f"{found.where}, {period.value}").encode())
    if as_json:
        typer.echo(json.dumps([_as_json(row) for row in rows], indent=2))
    elif as_csv:
        typer.echo(_as_csv(rows), nl=False)
    else:
        _show(found.where, rows, period)


def _store_of(source: Path, key: Path | None) -> tuple[Path, str, Vault | None]:
    if source.suffix != ".toml":
        return source, "", vault_beside(source, key)
    config = load_gateway_config(source)
    if config.measures is None:
        raise ConfigError(f"{source}: nothing is measured there; add a [measures] table")
    if config.keys is not None and key is None:
        return config.store, config.measures.timezone, config.keys.vault(config.store)
    return config.store, config.measures.timezone, vault_beside(config.store, key)


def measure_folder(folder: Path, config: MeasuresConfig, affected: Side | None, *, quiet: bool) -> Measured:
    """Measure every session in a folder, in order of time, whoever wore what."""
    own = folder.joinpath("session.json").exists() or any(folder.glob("segment-*.parquet"))
    folders = [folder] if own else sorted(p for p in folder.iterdir() if p.is_dir() and is_recording(p))
    sessions = sorted((read_session(f) for f in folders), key=lambda s: started_utc_ns(s) or 0)
    people: dict[str, PersonMeasures] = {}
    total = sum(c.samples for s in sessions for c in s.held.values())
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task("measuring", total=total or None)
        n_used = sum(
            measure_session(
                session,
                people.setdefault(_subject(session), PersonMeasures(config, affected=affected)),
                progress=lambda n: progress.advance(task, n),
            )
            for session in sessions
        )
    if not n_used:
        there = sorted({name for s in sessions for name in s.sensors})
        raise StoreError(f"{folder}: no {' or '.join(config.sensors())} in it; here are {', '.join(there)}; see --legs")
    rows = [
        KeptRow(name, r.part, r.level, r.start, 0, r.content) for name, person in people.items() for r in person.rows()
    ]
    return Measured(str(folder), rows)


def _subject(session: RecordedSession) -> str:
    return str(session.facts.get("subject") or session.folder.name)


def _within(
    rows: Sequence[KeptRow], period: Period, *, level: str, subject: str | None, timezone: str
) -> list[KeptRow]:
    today = (datetime.now(ZoneInfo(timezone) if timezone else None).replace(tzinfo=None) - _EPOCH).days
    first = {Period.today: today, Period.week: today - 6, Period.all: 0}[period]
    per_day = 24 if level == "hour" else 1
    return [
        r for r in rows if r.level == level and r.start >= first * per_day and (subject is None or r.subject == subject)
    ]


def _start(row: KeptRow) -> str:
    step = timedelta(hours=1) if row.level == "hour" else timedelta(days=1)
    return (_EPOCH + row.start * step).strftime("%Y-%m-%dT%H:%M" if row.level == "hour" else "%Y-%m-%d")


def _as_json(row: KeptRow) -> dict[str, Any]:
    return {"subject": row.subject, "part": row.part, "level": row.level, "start_local": _start(row), **row.content}


def _as_csv(rows: Sequence[KeptRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["subject", "part", "level", "start_local", *_SECONDS, "measure", "value", "low", "high", "unit", "state"]
    )
    for row in rows:
        state = row.content.get("watched", {}).get("state", "")
        for name, m in row.content["measures"].items():
            when = [row.subject, row.part, row.level, _start(row), *(row.content[s] for s in _SECONDS)]
            writer.writerow([*when, name, m["value"], m["low"], m["high"], m["unit"], state])
    return out.getvalue()


def _show(where: str, rows: Sequence[KeptRow], period: Period) -> None:
    console = Console()
    if not rows:
        console.print(f"{where}: nothing was measured {'today' if period is Period.today else 'in that time'}.")
        return
    for subject, part in sorted({(r.subject, r.part) for r in rows}):
        own = [r for r in rows if (r.subject, r.part) == (subject, part)]
        title = f"{subject}, {part}"
        console.print(_days(own, title) if len(own) > 1 else _one(own[0], title))


def _one(row: KeptRow, title: str) -> Table:
    """Show one day or hour with all its numbers."""
    table = Table(title=f"{title}, {_start(row)}")
    table.add_column("measure")
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    for name in _SECONDS:
        table.add_row(name.removesuffix("_s"), _time(row.content[name]), "", "h:min")
    for name, m in row.content["measures"].items():
        table.add_row(name.replace("_", " "), _number(m["value"]), _interval(m), m["unit"])
    table.caption = _said(row)
    return table


def _days(rows: Sequence[KeptRow], title: str) -> Table:
    """Show days below each other, with the two numbers that carry most."""
    table = Table(title=title)
    for column in ("", "worn", *(n.replace("_", " ") for n in _TWO[rows[0].part]), "compared with their own trend"):
        table.add_column(column)
    for row in rows:
        two = [row.content["measures"].get(n, {}) for n in _TWO[row.part]]
        cells = [f"{_number(m.get('value'))} {_interval(m)}".strip() for m in two]
        table.add_row(_start(row), _time(row.content["worn_s"]), *cells, _said(row))
    return table


def _said(row: KeptRow) -> str:
    if row.level == "hour":
        return ""
    watched = row.content.get("watched")
    return "not over yet" if watched is None else _WORDS.get(watched["state"], watched["state"])


def _time(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _interval(m: dict[str, Any]) -> str:
    return "" if m.get("low") is None else f"{_number(m['low'])} to {_number(m['high'])}"
