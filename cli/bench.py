"""``kinedge bench``: what it costs, measured side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from kinedge.benchmarks.results import seal, write_result
from kinedge.cli.app import CALLED_WITH, app, need_extra
from kinedge.cli.bench_table import show_rows
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import ConfigError

__all__ = [
    "MODELS",
    "bench",
    "clap",
    "clock",
    "command_line",
    "counts",
    "decode",
    "deliver",
    "endurance",
    "fleet",
    "gpu",
    "links",
    "parity",
    "step",
    "throughput",
]

MODELS: Final = Path("bench-models")  # of models that a benchmark trains for itself


class CpuBackend(str, Enum):
    """What runs a model without a GPU."""

    native = "native"
    onnx = "onnx"


bench = typer.Typer(help="Measure, always beside something to compare with.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.callback(invoke_without_command=True)
def _group(
    context: typer.Context,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="The same as kinedge bench compare.")
    ] = None,
) -> None:
    """Measure, always beside something to compare with."""
    if compare is not None and context.invoked_subcommand is None:
        from kinedge.cli.bench_results import show_comparison

        show_comparison(*compare)


@bench.command()
def step(
    bundle: Annotated[Path, typer.Option(help="A .kinedge file.")] = DEFAULT_BUNDLE,
    streams: Annotated[str, typer.Option(help="Numbers of streams, with commas.")] = "1,16,64,256,1024",
    chunks: Annotated[str, typer.Option(help="Samples in a decoded chunk, with commas.")] = "10,50",
    backend: Annotated[
        CpuBackend | None, typer.Option(help="What runs the model; left out: what a gateway takes by itself.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Turns each contender gets.")] = 15,
    round_s: Annotated[float, typer.Option(min=0.001, max=10, help="Length of a turn, s.")] = 0.05,
    enrolled: Annotated[
        bool, typer.Option("--enrolled", help="Also of people with an enrolment and an alarm, and being aligned.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time one step (a hop of every stream) beside the bare calls with the same model: ONNX Runtime's, and its own.

    Example: kinedge bench step --streams 1,256 --out step.json
    """
    from kinedge.benchmarks.latency import bench_step

    found = bench_step(
        bundle,
        streams=counts(streams),
        chunk_samples=counts(chunks),
        backend=None if backend is None else backend.value,
        n_rounds=rounds,
        round_s=round_s,
        enrolled=enrolled,
    )
    deliver(found, out, as_json=as_json)


@bench.command()
def throughput(
    people: Annotated[str, typer.Option(help="Sizes of the crowd, with commas.")] = "250,1000,2000,4000",
    sensors: Annotated[int, typer.Option(min=1, max=5, help="Of six channels, on each.")] = 1,
    rate_hz: Annotated[float, typer.Option("--rate-hz", min=10, max=500, help="Of all sensors.")] = 50.0,
    parameters: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Of the model, at least.")] = 50_000,
    chunk: Annotated[int, typer.Option(min=1, max=500, help="Samples in a decoded chunk.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Measured of each crowd.")] = 4.0,
    memory_people: Annotated[int, typer.Option(min=0, max=10_000, help="For the memory of one; 0: none.")] = 500,
    enrolled: Annotated[
        bool, typer.Option("--enrolled", help="Also crowds with enrolments and alarms, and being aligned.")
    ] = False,
    starts: Annotated[int, typer.Option(min=0, max=100, help="How often imports and starts are timed; 0: never.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Follow crowds on one core: how many people it carries, how late verdicts are, what one costs in memory.

    Example: kinedge bench throughput --people 600 --sensors 3 --rate-hz 100
    """
    from kinedge.benchmarks.throughput import bench_throughput

    with need_extra("train"):
        found = bench_throughput(
            people=counts(people),
            sensors=sensors,
            rate_hz=rate_hz,
            n_parameters=parameters,
            chunk_samples=chunk,
            seconds=seconds,
            memory_people=memory_people,
            enrolled=enrolled,
            starts=starts,
        )
    deliver(found, out, as_json=as_json)


@bench.command()
def clock(
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare the clock map with what others do on simulated BLE delays, and pairs with what is said of them.

    Example: kinedge bench clock --out clock.json
    """
    from kinedge.benchmarks.clock import bench_clock

    deliver(bench_clock(), out, as_json=as_json)


@bench.command()
def clap(
    trials: Annotated[int, typer.Option(min=10, max=100_000, help="Simulated pairs of each kind and rate.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count how well, how wrongly and how often not at all knocks tell the offset between two simulated sensors.

    Example: kinedge bench clap --trials 100
    """
    from kinedge.benchmarks.claps import bench_clap

    deliver(bench_clap(n_trials=trials), out, as_json=as_json)


@bench.command()
def decode(
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time the decoder of the reference protocol beside a loop over samples.

    Example: kinedge bench decode
    """
    from kinedge.benchmarks.decode import bench_decode

    deliver(bench_decode(), out, as_json=as_json)


@bench.command()
def links(
    sensors: Annotated[int, typer.Option(min=1, max=200, help="Emulated sensors, each on a tty.")] = 30,
    rate_hz: Annotated[float, typer.Option("--rate", min=1, max=1000, help="Of each, Hz.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="How long.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Listen to many sensors over ttys: what arrives, what is lost, what share of a core it takes.

    Example: kinedge bench links --sensors 10 --rate 100
    """
    from kinedge.benchmarks.links import bench_links

    deliver(bench_links(n_sensors=sensors, rate_hz=rate_hz, seconds=seconds), out, as_json=as_json)


@bench.command()
def endurance(
    minutes: Annotated[float, typer.Option(min=0.05, max=10_000, help="How long the devices misbehave.")] = 10.0,
    devices: Annotated[int, typer.Option(min=1, max=100, help="Emulated devices, each on a tty.")] = 5,
    speed: Annotated[float, typer.Option(min=0.1, max=20, help="Device seconds per second.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what happens to the devices.")] = 0,
    restarts: Annotated[bool, typer.Option(help="Whether devices start anew at times, too.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Listen to devices that fail in every way, and account for every sample and for memory.

    They connect and disconnect, stall, restart, and damage, lose, repeat and reorder packets.

    Example: kinedge bench endurance --minutes 10 --seed 0 --json
    """
    from kinedge.benchmarks.endurance import bench_endurance

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("listening", total=1.0)
        found = bench_endurance(
            minutes=minutes,
            n_devices=devices,
            speed=speed,
            seed=seed,
            restarts=restarts,
            progress=lambda share: progress.update(task, completed=share),
        )
    deliver(found, out, as_json=as_json)
    if not as_json:
        facts = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in {**found["actions"], **found["memory"]}.items())
        typer.echo(facts)


@bench.command()
def fleet(
    people: Annotated[int, typer.Option(min=2, max=1000, help="Simulated people of a fleet.")] = 8,
    minutes: Annotated[float, typer.Option(min=3, max=600, help="Recorded of each.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=2, max=100, help="Turns each contender gets.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count personal models per minute: by one and two processes, and trained one by one or many at once.

    Example: kinedge bench fleet --people 4 --out fleet.json
    """
    with need_extra("train"):
        from kinedge.benchmarks.fleet import bench_fleet

    deliver(bench_fleet(n_people=people, minutes=minutes, n_rounds=rounds), out, as_json=as_json)


@bench.command()
def gpu(
    bundle: Annotated[
        Path | None, typer.Option(help="A .kinedge file to time; one that is trained here when left out.")
    ] = None,
    streams: Annotated[str, typer.Option(help="Numbers of streams, with commas.")] = "1,16,64,256,1024",
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Turns each contender gets.")] = 15,
    round_s: Annotated[float, typer.Option(min=0.001, max=10, help="Length of a turn, s.")] = 0.05,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train, hold every backend to the contract and time a hop, on whatever this machine has.

    The exit status is 0 when every row ran, 1 when one failed, and 3 when some were not run; each says why.

    Example: kinedge bench gpu --out gpu_check.json
    """
    from kinedge.benchmarks.gpu_check import bench_gpu, exit_status

    with Console(stderr=True).status("starting", spinner="line") as status:
        found = bench_gpu(
            bundle, streams=counts(streams), n_rounds=rounds, round_s=round_s, progress=lambda w: status.update(w)
        )
    columns = ["what", "streams", "status", "median_us", "us_per_sample", "note"]
    deliver(found, out, as_json=as_json, columns=columns)
    raise typer.Exit(exit_status(found))


@bench.command()
def parity(
    bundles: Annotated[list[Path] | None, typer.Argument(help=".kinedge files that kinedge quantize made.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Prove one bundle anew, on the test part of the data it is of.")
    ] = None,
    gait: Annotated[Path | None, typer.Option(help="gait_healthy: train, quantize and prove models of it.")] = None,
    stanford: Annotated[Path | None, typer.Option(help="fog_stanford: the same.")] = None,
    models: Annotated[Path, typer.Option(help="Where models that are made are kept.")] = MODELS,
    path: Annotated[Path | None, typer.Option(help="Where the data lies, in place of the file's path.")] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="As when it was trained; may be repeated.")] = None,
    injected: Annotated[int, typer.Option(min=2, max=10_000, help="Pieces that are tampered with.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show how far every form of a model answers the same: torch, ONNX whole and streamed, fp16, int8, TensorRT.

    Without --data the proofs that the bundles carry; with it, a new one with every backend of this machine. What a
    machine does not have is "not run". With --gait and --stanford models are made first, three of each data set, which
    takes minutes each, and kept.

    Example: kinedge bench parity --gait gait_healthy.npz --out parity.json

    Example: kinedge bench parity wrists-int8.kinedge --data wrists.toml --out parity.json
    """
    from kinedge.bundle import read_bundle

    with need_extra("quantize"):
        from kinedge.benchmarks.parity import bench_parity, prove_here
        from kinedge.cli.quantize import parts_for
    given = list(bundles or ())
    made_of = {name: path for name, path in (("gait_healthy", gait), ("fog_stanford", stanford)) if path is not None}
    if bool(given) == bool(made_of):
        raise ConfigError("give bundles, or data sets to make some of (--gait, --stanford)")
    if made_of:
        with need_extra("train"):
            from kinedge.benchmarks.left_out import models_proven
        with Console(stderr=True).status("reading", spinner="line") as status:
            found = bench_parity(models_proven(made_of, models, progress=status.update))
    elif data is None:
        found = bench_parity(given)
    elif len(given) > 1:
        raise ConfigError("--data is of one bundle: give one, or leave --data out for the proofs they carry")
    else:
        bundle = read_bundle(given[0])
        with Console(stderr=True).status("loading", spinner="line") as status:
            how, parts = parts_for(
                bundle,
                data,
                where=path,
                leave_out=tuple(leave_out or ()),
                other_people=False,
                bundle_name=str(given[0]),
            )
            found = prove_here(
                bundle,
                parts.test,
                exclude_labels=how.exclude_labels,
                n_injected=injected,
                seed=how.seed,
                progress=lambda form: status.update(f"proving {form}"),
            )
    columns = ["what", "status", "z_relative_rmse", "vus_pr_injected_change", "flipped", "order_changed", "hit_at_1"]
    if out is not None:
        write_result(seal(found, command=command_line()), out)
    short = {name: facts["digest"] for name, facts in found["settings"].items()}
    deliver(found if as_json else {**found, "settings": short}, None, as_json=as_json, columns=columns)


def counts(streams: str) -> tuple[int, ...]:
    """Read numbers with commas between them, each at least 1."""
    try:
        numbers = tuple(int(s) for s in streams.split(","))
    except ValueError as e:
        raise ConfigError(f"--streams {streams!r}: expected whole numbers with commas, such as 1,64") from e
    if not numbers or min(numbers) < 1 or max(numbers) > 65_536:
        raise ConfigError(f"--streams {streams!r}: between 1 and 65536 streams can be measured")
    return numbers


def command_line() -> str:
    """Return how ``kinedge`` was called, without the folders of this machine and what only says where results go."""
    words: list[str] = []
    skip = False
    for word in CALLED_WITH.get():
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif word != "--json" and not word.startswith("--out="):
            words.append(_without_folders(word))
    return shlex.join(["kinedge", *words]) if words else ""


def _without_folders(word: str) -> str:
    before, equals, path = word.rpartition("=")
    return f"{before}{equals}{Path(path).name}" if path.startswith(("/", "~", "..")) else word


def deliver(
    found: dict[str, Any],
    out: Path | None,
    *,
    as_json: bool,
    columns: Sequence[str] | None = None,
    apart: Sequence[str] = (),
) -> None:
    """Write and print a result; ``columns`` and ``apart`` as ``show_rows`` has them."""
    found = seal(found, command=command_line())
    if out is not None:
        write_result(found, out)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    facts = found["settings"]
    title = f"{found['benchmark']}: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in facts.items())
    console = Console()
    show_rows(found["rows"], console, title=title, columns=columns, apart=apart)
    m = found["machine"]
    console.print(f"{m['cpu']}, {m['cores']} cores, load {m['load_1min']}, {found['utc']}", highlight=False)
    for warning in found["warnings"]:
        console.print(f"[magenta]warning:[/magenta] {warning}")
