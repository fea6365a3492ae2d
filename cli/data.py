"""``kinedge data``: which public data sets there are, and fetching those whose licence allows it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from kinedge.cli.app import app
from kinedge.errors import ConfigError, StoreError

__all__ = ["data", "get", "listed"]

data = typer.Typer(
    help="Public data sets: list them, fetch them.\n\nExample: kinedge data get daphnet", no_args_is_help=True
)
app.add_typer(data, name="data")

_TO = Path("demo-data")


@data.command("list")
def listed(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Show the public data sets that are read here, with licence and citation.

    Example: kinedge data list
    """
    from kinedge.training.datasets.catalogue import CATALOGUE

    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in CATALOGUE.values()], indent=2, ensure_ascii=False))
        return
    table = Table(show_lines=True)
    for heading in ("name", "what", "licence", "fetched by 'data get'", "cite"):
        table.add_column(heading)
    for entry in CATALOGUE.values():
        table.add_row(
            entry.name,
            f"{entry.title}\n{entry.page}",
            entry.licence,
            "yes" if entry.url else "no",
            escape(entry.citation),
        )
    Console().print(table)


@data.command("get")
def get(
    name: Annotated[str, typer.Argument(help="Such as daphnet; see 'kinedge data list'.")],
    to: Annotated[Path, typer.Option(help="The folder that takes NAME/ and the lock file.")] = _TO,
    again: Annotated[bool, typer.Option("--again", help="Fetch it although it is there, and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Fetch a data set from its owner, check it, and unpack it.

    The first download is trusted, and its SHA-256 noted beside the data; a later one must be the same. A download that
    was cut off goes on where it stopped.

    Example: kinedge data get daphnet --to demo-data
    """
    from kinedge.training.datasets.catalogue import CATALOGUE
    from kinedge.training.download import LOCK, fetch, read_lock, unpack, write_lock

    entry = CATALOGUE.get(name)
    if entry is None:
        raise ConfigError(f"no data set {name!r}; known are {', '.join(CATALOGUE)}")
    if entry.url is None:
        raise ConfigError(f"{name} ({entry.licence}) is not fetched here: {entry.why_not}. Its page: {entry.page}")
    folder, archive = to / name, to / f"{name}.zip.download"
    pinned = read_lock(to).get(name)
    if folder.exists() and not again:
        _say(folder, "already there", pinned.sha256 if pinned else None, entry.citation, as_json=as_json)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=as_json) as progress:
        task = progress.add_task(f"fetching {name}", total=None)
        fetched = fetch(
            entry.url,
            archive,
            sha256=pinned.sha256 if pinned else None,
            report=lambda done, total: progress.update(task, completed=done, total=total),
        )
        if pinned is None:
            write_lock(to, name, fetched)
        progress.update(task, description=f"unpacking {name}", completed=0)
        fresh = folder.with_name(folder.name + ".fresh")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            unpack(
                archive,
                fresh,
                keep=entry.keep,
                report=lambda done, total: progress.update(task, completed=done, total=total),
            )
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
            archive.unlink()
        except OSError as e:
            raise StoreError(f"{folder}: cannot be written ({e.strerror or e})") from e
    how = f"trusted as the first, noted in {LOCK}" if pinned is None else f"the same as noted in {LOCK}"
    _say(folder, how, fetched.sha256, entry.citation, as_json=as_json)


def _say(folder: Path, how: str, sha256: str | None, citation: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "sha256": sha256, "state": how, "cite": citation}))
        return
    Console().print(
        f"{folder}: {how}\nSHA-256 {sha256 or 'not known'}\nplease cite: {escape(citation)}", soft_wrap=True
    )
