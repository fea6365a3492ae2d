"""``kinedge bench collector``: what one collector commits, beside its database alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kinedge.cli.app import need_extra
from kinedge.cli.bench import bench, deliver

__all__ = ["collector"]


@bench.command()
def collector(
    databases: Annotated[str, typer.Option(help="sqlite, postgresql, or both with a comma.")] = "sqlite,postgresql",
    episodes: Annotated[int, typer.Option(min=10, max=1_000_000, help="In each turn.")] = 600,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Gateways at once.")] = 32,
    rounds: Annotated[int, typer.Option(min=2, max=1000, help="Turns each contender gets.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count episodes a second that a collector commits, beside the database's own bare insert rate.

    Example: kinedge bench collector --rounds 5 --out collector.json
    """
    with need_extra("upstream"):
        from kinedge.benchmarks.collector import bench_collector

    with Console(stderr=True).status("starting", spinner="line") as status:
        found = bench_collector(
            databases=databases.split(","),
            n_episodes=episodes,
            connections=connections,
            n_rounds=rounds,
            progress=status.update,
        )
    columns = [
        "what",
        "episodes_per_s",
        "lowest",
        "highest",
        "p50_ms",
        "p99_ms",
        "cpu_ms",
        "load_cpu_ms",
        "ratio",
        "unstable",
        "note",
    ]
    deliver(found, out, as_json=as_json, columns=columns)
