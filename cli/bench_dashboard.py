"""``kinedge bench dashboard``: what it costs scoring that people look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinedge.cli.bench import bench, deliver

__all__ = ["dashboard"]


@bench.command()
def dashboard(
    people: Annotated[int, typer.Option(min=1, max=100, help="With two emulated sensors each, on ttys.")] = 20,
    listeners: Annotated[int, typer.Option(min=1, max=8, help="Pages that are open, each looking at one person.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns with listeners, and as many without.")] = 5,
    turn_s: Annotated[float, typer.Option(min=1, max=600, help="Length of a turn, s.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time scoring of a running gateway while people look at its dashboard, beside nobody looking, in turns.

    Example: kinedge bench dashboard --people 20 --rounds 5 --out dashboard.json
    """
    from kinedge.benchmarks.dashboard import bench_dashboard

    found = bench_dashboard(n_people=people, n_listeners=listeners, n_rounds=rounds, turn_s=turn_s)
    columns = [
        "what",
        "score_ms_p50",
        "score_ms_p99",
        "sample_to_verdict_ms_p50",
        "sample_to_verdict_ms_p99",
        "cpu_share",
        "events_per_s",
        "kb_per_s",
    ]
    deliver(found, out, as_json=as_json, columns=columns)
