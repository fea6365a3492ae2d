"""``kinedge bench``: how well it does, on simulated and on real people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from kinedge.cli.app import need_extra
from kinedge.cli.bench import bench, deliver
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import ConfigError

__all__ = [
    "ablations",
    "alarms",
    "anomalies",
    "arm_use",
    "attribution",
    "enrolment",
    "exercises",
    "freezing",
    "gait",
    "tsb",
]


@bench.command()
def anomalies(
    bundle: Annotated[Path, typer.Option(help="A .kinedge file for two wrists.")] = DEFAULT_BUNDLE,
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Simulated people.")] = 12,
    minutes: Annotated[float, typer.Option(min=1, max=600, help="Of ordinary movement per person.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count what is found of each kind of synthetic anomaly, and how often ordinary movement is flagged.

    Example: kinedge bench anomalies --subjects 24 --out anomalies.json
    """
    from kinedge.benchmarks.anomalies import bench_anomalies

    deliver(bench_anomalies(bundle, n_subjects=subjects, ordinary_minutes=minutes), out, as_json=as_json)


@bench.command()
def tsb(
    data: Annotated[Path, typer.Option(help="The series, as npz.")],
    published: Annotated[Path | None, typer.Option(help="CSV of published figures per series.")] = None,
    tuning: Annotated[bool, typer.Option("--tuning", help="Score the three tuning series instead.")] = False,
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score TSB-AD-M by its official metric, lag 0 and fixed lag apart, beside published figures.

    Example: kinedge bench tsb --data tsb_ad_m.npz --published tsb_ad_m_published_vus_pr.csv --out tsb.json
    """
    from kinedge.benchmarks.tsb import METHODS, bench_tsb

    with Console(stderr=True).status("reading") as status:
        found = bench_tsb(
            data, published=published, tuning=tuning, methods=tuple(method or METHODS), progress=status.update
        )
    columns = ["what", "lag", "vus_pr", "MSL", "SMAP", "SMD", "Daphnet", "parameters"]
    deliver(found, out, as_json=as_json, columns=columns)


@bench.command()
def enrolment(
    bundle: Annotated[Path, typer.Option(help="A .kinedge file of two wrists.")] = DEFAULT_BUNDLE,
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Simulated people.")] = 12,
    donning_deg: Annotated[float, typer.Option(min=0, max=90, help="How differently sensors are put on.")] = 6.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare people with the cohort and with themselves, on the same day and on another, frames aligned or not.

    Example: kinedge bench enrolment --donning-deg 25 --out enrolment.json
    """
    from kinedge.benchmarks.enrolment import bench_enrolment

    deliver(bench_enrolment(bundle, n_subjects=subjects, donning_deg=donning_deg), out, as_json=as_json)


@bench.command()
def alarms(
    bundle: Annotated[Path, typer.Option(help="A .kinedge file of two wrists.")] = DEFAULT_BUNDLE,
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Simulated people.")] = 24,
    hours: Annotated[float, typer.Option(min=0.25, max=2160, help="At most one false episode in so many.")] = 8.0,
    donning_deg: Annotated[float, typer.Option(min=0, max=90, help="How differently sensors are put on.")] = 25.0,
    new_minutes: Annotated[float, typer.Option(min=16, max=600, help="Watched on the new day, each person.")] = 75.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count false episodes against those promised, the time it is valid, and what is found, on the day and a new one.

    Example: kinedge bench alarms --subjects 48 --out alarms.json
    """
    from kinedge.benchmarks.alarms_promise import bench_alarms

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("people", total=subjects)
        found = bench_alarms(
            bundle,
            n_subjects=subjects,
            hours=hours,
            donning_deg=donning_deg,
            minutes=(40.0, 30.0, new_minutes),
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    columns = ["what", "hours", "valid", "false", "of_promise", "people_with_one", "found", "median_delay_s"]
    deliver(found, out, as_json=as_json, columns=columns)


@bench.command()
def attribution(
    data: Annotated[Path | None, typer.Option(help="Machines with labelled root causes, as npz.")] = None,
    gait: Annotated[Path | None, typer.Option(help="gait_healthy: walks to be spoilt and explained.")] = None,
    stanford: Annotated[Path | None, typer.Option(help="fog_stanford: the same.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Walks: of training and of what is spoilt.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, max=200, help="Walks: at most so many, for each model.")] = 12,
    people: Annotated[int | None, typer.Option(min=1, help="Walks: only so many of the people.")] = None,
    walks: Annotated[int | None, typer.Option(min=1, help="Walks: spoil so many of each person.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say where a surprise starts: labelled root causes of machines, or channels and sensors spoilt in real walks.

    Example: kinedge bench attribution --data smd.npz; kinedge bench attribution --gait gait_healthy.npz
    """
    walked = {name: path for name, path in (("gait_healthy", gait), ("fog_stanford", stanford)) if path is not None}
    if (data is None) == (not walked):
        raise ConfigError("give machines (--data), or walks (--gait, --stanford)")
    with Console(stderr=True).status("reading") as status:
        if data is not None:
            from kinedge.benchmarks.attribution import bench_attribution

            found = bench_attribution(data, progress=status.update)
        else:
            with need_extra("train"):
                from kinedge.benchmarks.attribution_gait import bench_gait_attribution
                from kinedge.training.settings import FitConfig
            fit = FitConfig(max_epochs=epochs, steps_per_epoch=80, patience=4, seed=seed)
            found = bench_gait_attribution(
                walked, fit=fit, seed=seed, walks=walks, people=people, progress=status.update
            )
    deliver(found, out, as_json=as_json)


@bench.command()
def freezing(
    daphnet: Annotated[Path | None, typer.Option(help="Daphnet: npz, or the owner's folder or zip.")] = None,
    stanford: Annotated[Path | None, typer.Option(help="Stanford's walks: the same.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the forests.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find freezes of gait that no method was ever shown, leaving one patient out, beside simple baselines.

    Example: kinedge bench freezing --daphnet daphnet.npz --stanford fog_stanford.npz --out freezing.json
    """
    from kinedge.benchmarks.freezing_detectors import METHODS, bench_freezing_detectors

    _known(method, METHODS)
    with Console(stderr=True).status("reading") as status:
        found = bench_freezing_detectors(
            daphnet=daphnet, stanford=stanford, methods=method, seed=seed, progress=status.update
        )
    columns = ["what", "found", "specificity", "false_per_hour", "median_delay_s", "auc"]
    deliver(found, out, as_json=as_json, columns=columns)


@bench.command("arm-use")
def arm_use(
    data: Annotated[Path, typer.Option(help="Folder of the four tables of features.")],
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the forest.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell functional use of healthy and stroke arms, leaving one person out, beside GMAC and a movement threshold.

    Example: kinedge bench arm-use --data arm_use --out arm_use.json
    """
    from kinedge.benchmarks.arm_use import METHODS, bench_arm_use

    _known(method, METHODS)
    with Console(stderr=True).status("reading") as status:
        found = bench_arm_use(data, methods=method, seed=seed, progress=status.update)
    deliver(found, out, as_json=as_json, columns=["what", "wrists", "sensitivity", "specificity", "youden", "auc"])


@bench.command()
def exercises(
    data: Annotated[Path, typer.Option(help="The exercises: npz, or the owner's folder or zip.")],
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell exercises done too fast or too small from right ones, knowing right ones alone.

    Example: kinedge bench exercises --data rehab_exercises.npz --out exercises.json
    """
    from kinedge.benchmarks.exercises import METHODS, bench_exercises

    _known(method, METHODS)
    with Console(stderr=True).status("reading") as status:
        found = bench_exercises(data, methods=method, progress=status.update)
    deliver(found, out, as_json=as_json)


@bench.command()
def gait(
    data: Annotated[
        Path | None, typer.Option("--gait", help="Healthy walks: npz, or the owner's folder or zip.")
    ] = None,
    soccer: Annotated[Path | None, typer.Option(help="Soccer actions: the same.")] = None,
    subjects: Annotated[int | None, typer.Option(min=2, help="Only so many people of each.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of whose radio loss is put on whose walk.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count false alarms on healthy people not met before, with real radio loss, and find deficits of one foot.

    Example: kinedge bench gait --gait gait_healthy.npz --soccer soccer.npz --out gait.json
    """
    from kinedge.benchmarks.gait import bench_gait

    with Console(stderr=True).status("reading") as status:
        found = bench_gait(gait=data, soccer=soccer, n_subjects=subjects, seed=seed, progress=status.update)
    deliver(found, out, as_json=as_json)


@bench.command()
def ablations(
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each variant.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Of each training.")] = 5,
    people: Annotated[
        int, typer.Option(min=2, max=1000, help="Simulated people to train on, and as many to score.")
    ] = 6,
    seconds: Annotated[float, typer.Option(min=60, max=36_000, help="Of each person and day.")] = 240.0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train the model without each of its parts, and say what that costs: clean, with loss, and put on anew.

    Example: kinedge bench ablations --seeds 3 --out ablations.json
    """
    with need_extra("train"):
        from kinedge.benchmarks.ablations import bench_ablations

    with Console(stderr=True).status("simulating") as status:
        found = bench_ablations(seeds=seeds, epochs=epochs, people=people, seconds=seconds, progress=status.update)
    deliver(found, out, as_json=as_json)


def _known(asked: list[str] | None, methods: Mapping[str, object]) -> None:
    unknown = [name for name in asked or () if name not in methods]
    if unknown:
        raise ConfigError(f"no method {', '.join(unknown)}; there are {', '.join(methods)}")
