"""``kinedge bench ab``: two commits, or two ways to call a benchmark, in turns."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from kinedge.cli.bench import bench, deliver
from kinedge.errors import ConfigError

__all__ = ["ab"]


@bench.command()
def ab(
    a: Annotated[str, typer.Argument(help="A revision of git, or here: this source tree as it stands.")] = "HEAD",
    b: Annotated[str, typer.Argument(help="Another one.")] = "here",
    run: Annotated[str, typer.Option("--run", help="What to measure: arguments of kinedge bench.")] = (
        "step --streams 64 --chunks 10 --rounds 5"
    ),
    with_a: Annotated[str, typer.Option(help="Arguments that only a gets: another configuration.")] = "",
    with_b: Annotated[str, typer.Option(help="Arguments that only b gets.")] = "",
    pairs: Annotated[int, typer.Option(min=5, max=1000, help="Runs of each.")] = 10,
    measure: Annotated[str | None, typer.Option(help="Which figure; the main one when left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure two commits or two configurations in turns, each run a process, and say the ratio with its interval.

    Example: kinedge bench ab main here --run "step --streams 256 --rounds 5"

    Two configurations: kinedge bench ab here here --run "step --streams 64" --with-a "--bundle old.kinedge"
    """
    from kinedge.benchmarks.ab import HERE, Side, bench_ab

    try:
        common, only_a, only_b = (tuple(shlex.split(text)) for text in (run, with_a, with_b))
    except ValueError as e:
        raise ConfigError(f"--run, --with-a, --with-b: {e}; quote them as in a shell") from e
    if not common or common[0] in ("ab", "all", "compare", "report", "tables"):
        raise ConfigError(f"--run {run!r}: give a benchmark and its arguments, such as 'step --streams 64'")
    if a == b == HERE and only_a == only_b:
        raise ConfigError("a and b are the same: give two revisions, or other arguments by --with-a and --with-b")
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("checking out", total=None)
        found = bench_ab(
            Side("a", a, (*common, *only_a)),
            Side("b", b, (*common, *only_b)),
            pairs=pairs,
            measure=measure,
            progress=lambda what, done, of: progress.update(task, description=what, completed=done, total=of),
        )
    deliver(found, out, as_json=as_json, columns=["what", "measure", "a", "b", "b_of_a", "low", "high", "verdict"])
