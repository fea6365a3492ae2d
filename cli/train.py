"""``kinedge train``: recordings to a bundle, or to a fleet of personal ones."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from kinedge.bundle import write_bundle
from kinedge.cli.app import app, need_extra
from kinedge.cli.fleet import train_fleet
from kinedge.cli.training_data import TrainConfig, recordings_of
from kinedge.config import explain_validation_error, load_toml
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.quantize.build import BuildConfig, Built, Report
    from kinedge.recording import Recording
    from kinedge.training.fit import EpochRecord

__all__ = ["train"]


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(help="A TOML file; see examples/wrists-sim.toml. With --fleet also a folder that has one.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the bundle goes (model.kinedge), or the fleet's (fleet/).")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Keep this subject out, in addition to the file's; may be repeated.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where the data lies, in place of the file's path.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, in place of the file's.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where the report goes; beside the bundle by default.")] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report and no data sheet.")] = False,
    fleet: Annotated[bool, typer.Option("--fleet", help="A model of their own for every person.")] = False,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Processes of a fleet; 0 for one a core.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, max=1024, help="Models of a fleet that a process trains at once.")] = 1,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to run a fleet on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Train a model, calibrate it on people it never saw, measure it, and write a bundle, a data sheet and a report.

    A run that was cut off goes on from its checkpoints, which lie beside the bundle until it is done; a fleet goes on
    with those who have no bundle yet.

    Example: kinedge train examples/wrists-sim.toml --out wrists.kinedge

    Example: kinedge train --fleet people/ --out models/ --workers 8
    """
    with need_extra("train"):
        from kinedge.quantize.build import build_bundle

    settings, path = _settings(config, fleet=fleet)
    how = _bundle_config(settings, path, device)
    left_out = tuple(leave_out or ())
    if fleet:
        train_fleet(
            settings, how, path, out or Path("fleet"), data=data, leave_out=left_out,
            workers=workers, at_once=at_once, dask=dask, as_json=as_json,
        )  # fmt: skip
        return
    target = out or Path("model.kinedge")
    recordings = recordings_of(settings, how, where=data, here=path.parent, leave_out=left_out)
    command = " ".join(["kinedge train", path.as_posix(), *(f"--leave-out {s}" for s in left_out)])
    checkpoints = target.with_name(target.name + ".checkpoints")
    started = time.monotonic()
    with _progress(how.fit.max_epochs, quiet=as_json) as say:
        built = build_bundle(recordings, how, command=command, report=say, checkpoints=checkpoints)
        write_bundle(target, built.data)
        written = [] if no_report else _documents(built, recordings, how, target, report, say)
    shutil.rmtree(checkpoints, ignore_errors=True)
    _tell(built, target, written, seconds=time.monotonic() - started, as_json=as_json)


def _settings(config: Path, *, fleet: bool) -> tuple[TrainConfig, Path]:
    if config.is_dir():
        if not fleet:
            raise ConfigError(f"{config} is a folder; give a TOML file, or --fleet for a model for each person in it")
        config = config / "fleet.toml"
    return load_toml(config, TrainConfig), config


def _bundle_config(settings: TrainConfig, path: Path, device: str | None) -> BuildConfig:
    from kinedge.quantize.build import BuildConfig

    fields: dict[str, Any] = dict(settings.bundle)
    if device is not None:
        fit = fields.get("fit")
        fields["fit"] = {**(fit if isinstance(fit, dict) else {}), "device": device}
    try:
        return BuildConfig.model_validate(fields)
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, BuildConfig, f"{path}: bundle")) from e


def _documents(
    built: Built, recordings: list[Recording], how: BuildConfig, target: Path, report: Path | None, say: Report
) -> list[Path]:
    """Write the data sheet and the report."""
    with need_extra("train"):
        from kinedge.quantize.documents import report_source, write_datasheet
        from kinedge.training.report import write_report

    say("report", None)
    source = report_source(built, recordings, how)
    page = report or target.with_suffix(".report.html")
    sheets = write_datasheet(target.with_suffix(".datasheet.json"), source.sheet)
    write_report(page, source)
    return [page, *sheets]


def _tell(built: Built, target: Path, written: list[Path], *, seconds: float, as_json: bool) -> None:
    manifest = built.bundle.manifest
    if as_json:
        facts = {"digest": built.bundle.digest, "training": manifest.training, "quality": manifest.quality}
        also = {"seconds": round(seconds, 1), "documents": [str(p) for p in written]}
        typer.echo(json.dumps({"out": str(target), **facts, **also}, indent=2))
        return
    title = f"{target}  ({len(built.data):,} bytes, {seconds:.0f} s, of these {built.fit.seconds:.0f} s of training)"
    table = Table(title=title, show_header=False)
    for key, value in {**manifest.training, **manifest.quality}.items():
        table.add_row(key.replace("_", " "), str(value))
    console = Console()
    console.print(table)
    for path in written:
        console.print(f"{path}", highlight=False)


@contextmanager
def _progress(max_epochs: int, *, quiet: bool) -> Iterator[Report]:
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=quiet) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, epoch: EpochRecord | None) -> None:
            if stage not in tasks:
                for done in tasks.values():
                    progress.update(done, total=progress.tasks[done].total or 1, completed=progress.tasks[done].total)
                total = max_epochs if stage.startswith("training") else 1
                tasks[stage] = progress.add_task(stage, total=total, note="")
            if epoch is not None:
                note = f"nll {epoch.train_nll:.3f}, validation {epoch.val_nll:.3f}"
                progress.update(tasks[stage], completed=epoch.epoch, note=note)

        yield report
        for done in tasks.values():
            progress.update(done, completed=progress.tasks[done].total)
