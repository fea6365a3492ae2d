"""``kinedge bench peers``: other people's detectors and runtimes on the same data in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kinedge.cli.app import need_extra
from kinedge.cli.bench import bench, deliver
from kinedge.errors import ConfigError

__all__ = ["peers"]


@bench.command()
def peers(
    data: Annotated[Path, typer.Option(help="TSB-AD-M, as npz.")],
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="LIBRARY=PYTHON", help="Interpreter of a library that lives apart; may be given again."),
    ] = None,
    parts: Annotated[
        Path | None, typer.Option(help="Where outcomes of tasks are kept; what is there is not run again.")
    ] = None,
    per_source: Annotated[int, typer.Option(min=1, max=20, help="Series of each source, first by name.")] = 1,
    longest: Annotated[int | None, typer.Option(min=600, help="Only so many samples of each: a trial.")] = None,
    limit_s: Annotated[
        float, typer.Option("--limit", min=5, max=36_000, help="Processor seconds a task may take.")
    ] = 600.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run River, PySAD, PyOD, tsb-ad, PyTorch, ONNX Runtime and OpenVINO beside kinedge: accuracy, time, memory, delay.

    Each task is a process with a limit; a run that was cut off goes on where it stopped (docs/peers.md).

    Example: kinedge bench peers --data tsb_ad_m.npz --python tsb-ad=tsb/bin/python --out peers.json
    """
    with need_extra("bench"):
        from kinedge.benchmarks.peers import ALL, bench_peers, parts_of
    pythons = {}
    for given in python or []:
        library, _, where = given.partition("=")
        if not library or not Path(where).is_file():
            raise ConfigError(f"--python {given!r}: expected LIBRARY=PYTHON, such as tsb-ad=tsb/bin/python")
        pythons[library] = where
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("starting", total=None)
        found = bench_peers(
            data,
            methods=tuple(method or ALL),
            pythons=pythons,
            parts=parts or parts_of(out),
            per_source=per_source,
            longest=longest,
            limit_s=limit_s,
            progress=lambda what, done, of: progress.update(task, description=what, completed=done, total=of),
        )
    shown = ["what", "vus_pr", "us_1_streams_chunk_1", "us_64_streams_chunk_1", "us_64_streams_chunk_50"]
    deliver(found, out, as_json=as_json, columns=[*shown, "rss_mb_64_streams", "delay_samples", "note"])
