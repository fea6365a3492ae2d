"""``kinedge bench all``: every benchmark behind the results, one after the other."""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kinedge.benchmarks.suite import Entry, chosen, is_done, with_data
from kinedge.cli.app import main
from kinedge.cli.bench import bench
from kinedge.errors import BackendError

__all__ = ["all_"]


@bench.command("all")
def all_(
    folder: Annotated[Path, typer.Option(help="Of results; what is there of this commit is not run again.")] = Path(
        "benchmarks/results"
    ),
    data: Annotated[Path | None, typer.Option(help="Folder of data sets, for benchmarks on recordings.")] = None,
    only: Annotated[str, typer.Option(help="Names with commas; all when left out.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="A minute for all: that they run, not what they say.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Run also what is there already.")] = False,
    tables: Annotated[list[Path] | None, typer.Option(help="Documents whose tables are written at the end.")] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="LIBRARY=PYTHON", help="Handed to kinedge bench peers; may be given again."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and how long it takes.")] = False,
) -> None:
    """Measure everything that the results are made of; a run that was cut off goes on where it stopped.

    Example: kinedge bench all --data ../data --tables docs/results.md

    That every benchmark runs, in a minute: kinedge bench all --quick
    """
    entries = [_with_python(e, python or []) for e in chosen([n for n in only.split(",") if n], quick=quick)]
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinedge-quick-")))
        outcomes: list[tuple[Entry, str, float]] = []
        if dry_run:
            for entry in entries:
                command, problem = with_data(entry, data, quick=quick)
                done = is_done(folder / f"{entry.name}.json") and not again
                why = "there already" if done else problem or f"about {entry.minutes:g} min"
                typer.echo(f"{entry.name}: kinedge bench {command} ({why})")
            return
        folder.mkdir(parents=True, exist_ok=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(entries))
            for entry in entries:
                progress.update(task, description=entry.name)
                began_s = time.monotonic()
                said = _one(entry, folder, data, quick=quick, again=again)
                outcomes.append((entry, said, time.monotonic() - began_s))
                progress.advance(task)
        _show(outcomes)
        if tables and not quick:
            from kinedge.cli.bench_results import tables as write_tables

            write_tables(list(tables), results=folder, check=False)
    if failed := [entry.name for entry, said, _ in outcomes if said.startswith("failed")]:
        raise BackendError(f"{', '.join(failed)} failed; run them alone with kinedge bench to see more")


def _with_python(entry: Entry, python: list[str]) -> Entry:
    """Return the entry of peers with the interpreters of libraries that live apart."""
    if entry.name != "peers" or not python:
        return entry
    return replace(entry, command=f"{entry.command} {shlex.join(f'--python={p}' for p in python)}")


def _one(entry: Entry, folder: Path, data: Path | None, *, quick: bool, again: bool) -> str:
    """Run one benchmark; say what came of it."""
    out = folder / f"{entry.name}.json"
    if not again and is_done(out):
        return "there already"
    command, problem = with_data(entry, data, quick=quick)
    if problem:
        return f"not run: {problem}"
    arguments = ["bench", *shlex.split(command), "--out", str(out), "--json"]
    if quick:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = main(arguments)
        text = said.getvalue()
    else:
        # a process of its own each: what one leaves in memory, the next does not have
        done = subprocess.run(
            [sys.executable, "-m", "kinedge", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        status, text = done.returncode, done.stderr
    if is_done(out):  # a GPU's check has a status of its own when it could not run everything
        return "measured"
    return f"failed ({status}): {' '.join(text.split())[-200:]}"


def _show(outcomes: list[tuple[Entry, str, float]]) -> None:
    table = Table(title="kinedge bench all", title_justify="left")
    for column in ("benchmark", "outcome", "s"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for entry, said, seconds in outcomes:
        colour = {"m": "green", "f": "red"}.get(said[0], "dim")
        table.add_row(entry.name, f"[{colour}]{said}[/{colour}]", f"{seconds:.1f}")
    Console().print(table)
