"""``kinedge bench stages``: what a verdict costs, from the bytes of a device to a row at a collector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, cast, get_args

import typer
from rich.console import Console

from kinedge.cli.app import need_extra
from kinedge.cli.bench import bench, deliver
from kinedge.edge.backends import BackendName
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import ConfigError

__all__ = ["COLUMNS", "stages"]

_QUANTILES: Final = tuple(f"{q}_{unit}" for unit in ("us", "ms") for q in ("p50", "p90", "p99", "max"))
COLUMNS: Final = ("what", "of", "backend", *_QUANTILES, "n", "late_share", "spread", "note")


@bench.command()
def stages(
    bundle: Annotated[Path, typer.Option(help="A .kinedge file of two wrists.")] = DEFAULT_BUNDLE,
    people: Annotated[int, typer.Option(min=1, max=1000, help="Two sensors each, in the simulated run.")] = 4,
    seconds: Annotated[float, typer.Option(min=5, max=3600, help="Simulated, after the warm-up.")] = 60.0,
    live_seconds: Annotated[
        float, typer.Option(min=0, max=3600, help="In real time on ttys, one person; 0: not.")
    ] = 30.0,
    backends: Annotated[
        str, typer.Option(help="Of the run in real time, with commas; left out: what a gateway takes by itself.")
    ] = "",
    loss: Annotated[float, typer.Option(min=0, max=0.5, help="Share of packets lost.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Of the people and their losses.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time decode, align, step, caution, episode, store and uplink on the real path, and samples to verdicts live.

    Example: kinedge bench stages --people 16 --backends native,onnx --out stages.json
    """
    with need_extra("upstream"):
        from kinedge.benchmarks.stages import bench_stages

    named = [name.strip() for name in backends.split(",") if name.strip()]
    if unknown := [name for name in named if name not in get_args(BackendName)]:
        raise ConfigError(f"no backend {', '.join(unknown)}; there are {', '.join(get_args(BackendName))}")

    with Console(stderr=True).status("starting", spinner="line") as status:
        found = bench_stages(
            bundle,
            people=people,
            seconds=seconds,
            live_seconds=live_seconds,
            backends=cast(list[BackendName], named),
            loss=loss,
            seed=seed,
            progress=status.update,
        )
    deliver(found, out, as_json=as_json, columns=COLUMNS, apart=("p50_us", "p50_ms"))
