"""``kinedge train --fleet``: a model of their own for every person."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kinedge.cli.training_data import TrainConfig, people_of
from kinedge.errors import KinedgeError

if TYPE_CHECKING:
    from kinedge.quantize.build import BuildConfig
    from kinedge.training.fleet import FleetReport

__all__ = ["train_fleet"]

_MAX_TOLD = 10  # failures on the screen; the ledger has all


def train_fleet(
    settings: TrainConfig,
    how: BuildConfig,
    path: Path,
    out: Path,
    *,
    data: Path | None,
    leave_out: tuple[str, ...],
    workers: int,
    at_once: int,
    dask: str | None,
    as_json: bool,
) -> None:
    """Train, tell, and fail at the end if somebody has no bundle.

    Raises
    ------
    KinedgeError
        Somebody could not be trained for; everybody else was.
    """
    from kinedge.quantize.personal import personal_tasks
    from kinedge.training.executors import dask_executors, process_executors
    from kinedge.training.fleet import run_fleet

    people = people_of(settings, how, where=data, here=path.parent, leave_out=leave_out)
    command = f"kinedge train --fleet {path.as_posix()}"
    # workers elsewhere see no folder of ours: there, a training that is cut off starts anew
    checkpoints = out.absolute() / "checkpoints" if dask is None else None
    tasks = personal_tasks(people, how, at_once=at_once, command=command, checkpoints=checkpoints)
    crew = dask_executors(dask) if dask is not None else process_executors(min(workers or _cores(), len(tasks)))
    made_s = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with (
        crew as (executors, n_workers),
        Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True), disable=as_json) as progress,
    ):
        bar = progress.add_task(f"people, {n_workers} workers", total=len(people))
        found = run_fleet(
            tasks, out, executors=executors, n_workers=n_workers, made_s=made_s,
            progress=lambda person: progress.advance(bar),
        )  # fmt: skip
    _tell(found, out, seconds=time.monotonic() - started, as_json=as_json)
    if found.failed:
        raise KinedgeError(f"{len(found.failed)} of {len(people)} people have no bundle; start again to try them again")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _tell(found: FleetReport, out: Path, *, seconds: float, as_json: bool) -> None:
    if as_json:
        facts = {"made": sorted(found.made), "kept": sorted(found.kept), "failed": found.failed}
        more = {"worker_pools_lost": found.n_pools_lost, "seconds": round(seconds, 1)}
        typer.echo(json.dumps({"out": str(out), **facts, **more}, indent=2))
        return
    console = Console()
    lost = f", {found.n_pools_lost} times a worker was lost" if found.n_pools_lost else ""
    counts = f"{len(found.made)} made, {len(found.kept)} were there, {len(found.failed)} failed"
    console.print(f"{out}: {counts}; {seconds:.0f} s{lost}", highlight=False)
    for person, why in sorted(found.failed.items())[:_MAX_TOLD]:
        console.print(f"  [magenta]{escape(person)}[/magenta]: {escape(why)}", highlight=False)
    if len(found.failed) > _MAX_TOLD:
        console.print(f"  and {len(found.failed) - _MAX_TOLD} more; see {out / 'fleet.jsonl'}", highlight=False)
