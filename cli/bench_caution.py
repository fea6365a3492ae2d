"""``kinedge bench caution``: what three answers are worth under faults of the sensors, beside plain rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kinedge.cli.app import need_extra
from kinedge.cli.bench import bench, deliver
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import ConfigError

__all__ = ["caution"]


@bench.command()
def caution(
    bundle: Annotated[Path, typer.Option(help="A .kinedge file for two wrists.")] = DEFAULT_BUNDLE,
    gait: Annotated[Path | None, typer.Option(help="Healthy walks: npz, or the owner's folder or zip.")] = None,
    stanford: Annotated[Path | None, typer.Option(help="Stanford's walks: the same.")] = None,
    daphnet: Annotated[Path | None, typer.Option(help="Daphnet: the same.")] = None,
    subjects: Annotated[int, typer.Option(min=2, max=1000, help="Simulated people that are scored.")] = 24,
    tuning: Annotated[int, typer.Option(min=2, max=1000, help="Other ones, for the rivals' limits.")] = 12,
    epochs: Annotated[int, typer.Option(min=0, max=1000, help="Of the models for real recordings.")] = 8,
    networks: Annotated[
        int, typer.Option(min=1, max=100, help="Trained for each person of data sets of up to six people.")
    ] = 1,
    faults: Annotated[str, typer.Option(help="Of the sensors, with commas; all if left out.")] = "",
    enrolled: Annotated[
        bool, typer.Option("--enrolled", help="Judge real people against their own first half, too.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Weigh normal, anomalous and unsure under loss, dead, stuck, swapped, copied and unworn sensors.

    Real recordings are judged by small models trained on the other people, which takes minutes.

    Example: kinedge bench caution --gait gait_healthy.npz --enrolled --out caution.json
    """
    named = {"gait_healthy": gait, "fog_stanford": stanford, "daphnet": daphnet}
    data = {name: path for name, path in named.items() if path is not None}
    with need_extra("train"):
        from kinedge.benchmarks.caution import bench_caution
        from kinedge.benchmarks.caution_cases import FAULTS

    wanted = tuple(f.strip() for f in faults.split(",")) if faults else tuple(FAULTS)
    if unknown := sorted(set(wanted) - set(FAULTS)):
        raise ConfigError(f"--faults: unknown {', '.join(unknown)}; there are {', '.join(FAULTS)}")

    with Console(stderr=True).status("simulating", spinner="line") as status:
        found = bench_caution(
            bundle,
            data=data,
            n_subjects=subjects,
            n_tuning=tuning,
            epochs=epochs,
            networks=networks,
            faults=wanted,
            enrolled=enrolled,
            progress=status.update,
        )
    columns = ["what", "u65", "u65_band", "u80", "u80_band", "missed", "unsure", "aurc", "aurc_plain", "right_reason"]
    deliver(found, out, as_json=as_json, columns=columns)
