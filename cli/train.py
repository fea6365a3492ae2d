"""``kinedge train``: recordings to a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from kinedge.bundle import write_bundle
from kinedge.cli.app import app, need_extra
from kinedge.config import Config, explain_validation_error, load_toml
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.quantize.build import Report
    from kinedge.recording import Recording
    from kinedge.training.fit import EpochRecord

__all__ = ["DataConfig", "SimulatedConfig", "TrainConfig", "train"]


class SimulatedConfig(Config):
    """Simulated people to train on."""

    subjects: int = Field(default=48, ge=2, le=10_000)
    sessions: int = Field(default=2, ge=1, le=100)
    minutes: float = Field(default=6, ge=0.5, le=600)
    loss: float = Field(default=0.0, ge=0, le=0.5, description="share of packets lost")
    first_seed: int = Field(default=0, ge=0)


class DataConfig(Config):
    """A recorded data set to train on."""

    name: str = Field(description="such as fog_stanford, gait_healthy or daphnet")
    path: Path
    leave_out: tuple[str, ...] = Field(default=(), description="subjects that are kept for a test")


class TrainConfig(Config):
    """The file that ``kinedge train`` reads; ``bundle`` is checked once torch is known to be there."""

    bundle: dict[str, Any] = Field(default_factory=dict)
    simulated: SimulatedConfig | None = None
    data: DataConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> TrainConfig:
        if (self.simulated is None) == (self.data is None):
            raise ValueError("give either [simulated] or [data]")
        return self


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; see examples/wrists-sim.toml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the bundle goes.")] = Path("model.kinedge"),
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Keep this subject out, in addition to the file's; may be repeated.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where the data set lies, in place of the file's path.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Train a model, calibrate it on people it never saw, measure it, and write a bundle.

    A run that was cut off goes on from its checkpoints, which lie beside the bundle until it is done.

    Example: kinedge train examples/wrists-sim.toml --out wrists.kinedge
    """
    with need_extra("train"):
        from kinedge.quantize.build import BuildConfig, build_bundle

    settings = load_toml(config, TrainConfig)
    try:
        how = BuildConfig.model_validate(settings.bundle)
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, BuildConfig, f"{config}: bundle")) from e
    left_out = tuple(leave_out or ())
    recordings = _recordings(settings, data, config.parent, left_out)
    command = " ".join(["kinedge train", config.as_posix(), *(f"--leave-out {s}" for s in left_out)])
    checkpoints = out.with_name(out.name + ".checkpoints")
    with _progress(how.fit.max_epochs, quiet=as_json) as report:
        built = build_bundle(recordings, how, command=command, report=report, checkpoints=checkpoints)
    write_bundle(out, built.data)
    shutil.rmtree(checkpoints, ignore_errors=True)
    manifest = built.bundle.manifest
    if as_json:
        facts = {"digest": built.bundle.digest, "training": manifest.training, "quality": manifest.quality}
        typer.echo(json.dumps({"out": str(out), **facts}, indent=2))
        return
    table = Table(title=f"{out}  ({len(built.data):,} bytes, {built.fit.seconds:.0f} s of training)", show_header=False)
    for key, value in {**manifest.training, **manifest.quality}.items():
        table.add_row(key.replace("_", " "), str(value))
    Console().print(table)


def _recordings(settings: TrainConfig, where: Path | None, here: Path, leave_out: tuple[str, ...]) -> list[Recording]:
    from kinedge.training.datasets import DATASETS
    from kinedge.training.simulate import RadioModel, SimulationConfig, simulate

    if settings.simulated is not None:
        s = settings.simulated
        return [
            simulate(
                SimulationConfig(
                    subject_seed=s.first_seed + subject,
                    session_seed=session,
                    duration_s=s.minutes * 60,
                    radio=RadioModel(loss_rate=s.loss),
                )
            )
            for subject in range(s.subjects)
            for session in range(s.sessions)
        ]
    data = settings.data
    if data is None or data.name not in DATASETS:
        raise ConfigError(f"no data set {data and data.name!r}; known are {', '.join(sorted(DATASETS))}")
    gone = {*data.leave_out, *leave_out}
    wanted = tuple(settings.bundle.get("sensors", ())) or None
    recordings = DATASETS[data.name](where or here / data.path, sensors=wanted)
    unknown = sorted(gone - {r.subject for r in recordings})
    if unknown:
        raise ConfigError(f"subject {', '.join(unknown)} to leave out is not in {data.name}")
    return [r for r in recordings if r.subject not in gone]


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
