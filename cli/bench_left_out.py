"""``kinedge bench alarms-real`` and ``freezing-enrolled``: real people, watched by models that never saw them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from kinedge.cli.app import need_extra
from kinedge.cli.bench import MODELS, bench, deliver

__all__ = ["alarms_real", "freezing_enrolled"]

_BUNDLES = "...-PERSON.kinedge, each trained without that person; made in --models when left out."


@bench.command("alarms-real")
def alarms_real(
    data: Annotated[Path, typer.Option(help="The data set: npz, or the owner's folder or zip.")],
    bundles: Annotated[list[Path] | None, typer.Argument(help=_BUNDLES)] = None,
    name: Annotated[str, typer.Option(help="Of the data set, as in kinedge data.")] = "daphnet",
    models: Annotated[Path, typer.Option(help="Where models that are made are kept.")] = MODELS,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Enrol real people on the first half of their ordinary time, and count false episodes in the rest.

    Models that never saw them are trained first, which takes minutes each, and kept.

    Example: kinedge bench alarms-real --name gait_healthy --data gait_healthy.npz --out alarms_gait_healthy.json

    Example: kinedge bench alarms-real --data daphnet.npz without-S01.kinedge without-S02.kinedge
    """
    from kinedge.benchmarks.alarms_real import bench_alarms_real

    with Console(stderr=True).status("reading", spinner="line") as status:
        left_out = _given(bundles) or _made(name, data, models, status)
        found = bench_alarms_real(data, left_out, name=name, progress=status.update)
    deliver(found, out, as_json=as_json)


@bench.command("freezing-enrolled")
def freezing_enrolled(
    data: Annotated[Path, typer.Option(help="fog_stanford: npz, or the owner's folder or zip.")],
    bundles: Annotated[list[Path] | None, typer.Argument(help=_BUNDLES)] = None,
    models: Annotated[Path, typer.Option(help="Where models that are made are kept.")] = MODELS,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find freezes by models of the other patients, compared with those and with the patient's own other walks.

    Models that never saw them are trained first, which takes minutes each, and kept.

    Example: kinedge bench freezing-enrolled --data fog_stanford.npz --out freezing_enrolled.json

    Example: kinedge bench freezing-enrolled --data fog_stanford.npz fog-pt3.kinedge fog-pt5.kinedge
    """
    from kinedge.benchmarks.freezing import bench_freezing

    with Console(stderr=True).status("reading", spinner="line") as status:
        left_out = _given(bundles) or _made("freezing", data, models, status)
        found = bench_freezing(left_out, data, progress=status.update)
    deliver(found, out, as_json=as_json)


def _given(bundles: list[Path] | None) -> dict[str, Path]:
    """Return whom each of these leaves out, by the last part of its name."""
    return {path.stem.rpartition("-")[2]: path for path in bundles or ()}


def _made(recipe: str, data: Path, models: Path, status: Status) -> dict[str, Path]:
    with need_extra("train"):
        from kinedge.benchmarks.left_out import models_left_out

    return models_left_out(recipe, data, models, progress=status.update)
