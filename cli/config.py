"""``kinedge config``: what a gateway's file may say, whether one says it right, and a file to begin with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinedge.cli.app import app
from kinedge.config_reference import KeyFact, describe_keys
from kinedge.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from kinedge.edge.config import GatewayConfig

__all__ = ["config", "starting_file"]

_HEAD: Final = """\
# A gateway of kinedge: who wears what, and where episodes go.
# What is commented out stands at its default. All keys: kinedge config --explain
# Check this file after a change: kinedge config --check {name}
"""
_PEOPLE: Final = """
# One table a person; a device is behind a serial port (port, usb, serial_number), over BLE (ble), or a stream (lsl).
[[people]]
subject = "p-001"
devices = [{ port = "/dev/ttyACM0" }, { port = "/dev/ttyACM1" }]
"""


@app.command()
def config(
    explain: Annotated[bool, typer.Option("--explain", help="Tell every key: type, unit, default, meaning.")] = False,
    check: Annotated[Path | None, typer.Option(help="Check this file and say what is wrong with it.")] = None,
    init: Annotated[Path | None, typer.Option(help="Write a commented file to begin with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a gateway's configuration may say, check one, or begin one.

    Example: kinedge config --init gateway.toml, then kinedge config --check gateway.toml
    """
    from kinedge.edge.config import GatewayConfig, load_gateway_config
    from kinedge.edge.promise import setting

    if (explain, check is not None, init is not None).count(True) != 1:
        raise ConfigError("say one of --explain, --check FILE or --init FILE")
    facts = list(describe_keys(GatewayConfig))
    if check is not None:
        settings = load_gateway_config(check)
        if as_json:
            content = {"ok": True, "digest": settings.digest(), "alarm": setting(settings.alarm)}
            content["enrolments"] = _enrolments(settings)
            content["settings"] = settings.model_dump(mode="json")
            typer.echo(json.dumps(content, indent=2))
        else:
            people = ", ".join(f"{p.subject} ({len(p.devices)} devices)" for p in settings.people)
            typer.echo(f"{check}: valid; gateway {settings.gateway} of {settings.site}: {people}")
            typer.echo(f"false episodes: {setting(settings.alarm)}")
            for subject, found in _enrolments(settings).items():
                typer.echo(f"{subject}: {found['text']}")
    elif init is not None:
        try:
            with init.open("x", encoding="utf-8") as out:
                out.write(starting_file(facts, name=init.name))
        except OSError as e:
            raise ConfigError(f"{init}: cannot be written ({e.strerror}); choose a path that does not exist") from e
        typer.echo(json.dumps({"written": str(init)}) if as_json else f"{init}: written; edit it, then kinedge run it")
    elif as_json:
        typer.echo(json.dumps([asdict(f) for f in facts], indent=2))
    else:
        Console().print(_table_of(facts))


def _enrolments(settings: GatewayConfig) -> dict[str, dict[str, str | None]]:
    """Return what the enrolments that are named found about the promise: without it the setting reads as if it held."""
    from kinedge.edge.enrolment import read_enrolment
    from kinedge.edge.promise import audited

    found: dict[str, dict[str, str | None]] = {}
    for person in settings.people:
        if person.enrolment is None:
            found[person.subject] = {"audit": None, "text": "no enrolment: nothing is promised about false episodes"}
            continue
        try:
            audit = read_enrolment(person.enrolment).manifest.audit.verdict
        except BundleError as e:
            found[person.subject] = {"audit": None, "text": f"the gateway will not start: {e}"}
            continue
        found[person.subject] = {"audit": audit, "text": audited(audit)}
    return found


def starting_file(facts: list[KeyFact], *, name: str) -> str:
    """Return a valid file that tells every key.

    Parameters
    ----------
    facts
        Of `GatewayConfig`.
    name
        Of the file, for its own head.
    """
    top = [f for f in facts if "." not in f.key and not f.is_table]
    tables = [f for f in facts if f.is_table and "[]" not in f.key]
    parts = [_HEAD.format(name=name), *(_line(f, set_=f.default is None) for f in top), _PEOPLE]
    parts += [_line(f, set_=False) for f in facts if f.key.startswith("people[].") and f.key.count(".") == 1]
    parts.append("# of a device:\n")
    parts += [_line(f, set_=False) for f in facts if f.key.startswith("people[].devices[].")]
    for table in tables:
        parts.append(f"\n# {table.meaning}\n# [{table.key}]\n")
        parts += [_line(f, set_=False) for f in facts if f.key.rpartition(".")[0] == table.key and not f.is_table]
    return "".join(parts)


def _line(fact: KeyFact, *, set_: bool) -> str:
    if fact.is_table or fact.key == "people[].subject":
        return ""
    value = fact.example if fact.default in (None, "left out") else fact.default
    told = ", ".join(t for t in (fact.meaning, fact.unit, fact.bounds) if t)
    key = fact.key.rpartition(".")[2]
    return f"{'' if set_ else '# '}{key} = {'…' if value is None else value}  # {told}\n"


def _table_of(facts: list[KeyFact]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("key", "type", "unit", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column in ("key", "unit"))
    for row in _rows(facts):
        table.add_row(*row)
    return table


def _rows(facts: list[KeyFact]) -> Iterator[tuple[Text, ...]]:
    for f in facts:
        style = "bold" if f.is_table else ""
        default = Text("must be given", style="magenta") if f.default is None else Text(f.default)
        yield Text(f.key, style), Text(f"{f.type} {f.bounds}".strip()), Text(f.unit), default, Text(f.meaning)
