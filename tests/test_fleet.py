"""Many small trainings: the same bundles whoever makes them, and however often a worker dies."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fleet_jobs import Break, Die, KilledInTraining, Say, Wait
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.bundle import read_bundle
from kinedge.cli import main
from kinedge.errors import ConfigError
from kinedge.quantize.build import BuildConfig
from kinedge.quantize.personal import Recorded, Simulated, personal_tasks
from kinedge.recording import Recording
from kinedge.training.executors import dask_executors, process_executors
from kinedge.training.fit import FitConfig, fit
from kinedge.training.fleet import LEDGER_NAME, FleetReport, FleetTask, person_seed, run_fleet
from kinedge.training.simulate import SimulationConfig, simulate
from kinedge.training.vmapped import FitTask, fit_many

MADE_S = 1_700_000_000
QUICK = FitConfig(
    max_epochs=2, steps_per_epoch=5, window=64, batch=4, width=6, var_order=4, dilations=(1, 4), learning_rate=3e-3
)
CONFIG = BuildConfig(name="own", fit=QUICK)
ANNA, BEN, CLEO = (Simulated(subject_seed=s, n_sessions=2, duration_s=100) for s in (1, 2, 3))
PEOPLE: dict[str, Recorded | Simulated] = {"Anna": ANNA, "ben": BEN, "cleo": CLEO}


def in_threads(n: int = 1) -> Callable[[], Executor]:
    return lambda: ThreadPoolExecutor(n)


def run(tasks: Sequence[FleetTask], folder: Path, *, made_s: int = MADE_S) -> FleetReport:
    return run_fleet(tasks, folder, executors=in_threads(), n_workers=1, made_s=made_s)


def say(*names: str, key: str = "k") -> list[FleetTask]:
    return [FleetTask((n,), key, Say((n,))) for n in names]


def bundles(folder: Path) -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in sorted(folder.glob("*.kinedge"))}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Everybody's bundle, made one after the other in this process."""
    folder = tmp_path_factory.mktemp("reference")
    report = run(personal_tasks(PEOPLE, CONFIG), folder)
    assert report.failed == {}
    return bundles(folder)


def test_everybody_gets_a_bundle_of_their_own(reference: dict[str, bytes]) -> None:
    assert sorted(reference) == ["Anna", "ben", "cleo"]
    read = {name: read_bundle(data) for name, data in reference.items()}
    assert {b.manifest.name for b in read.values()} == {"own-anna", "own-ben", "own-cleo"}
    assert len({b.parts["model.fp32.onnx"] for b in read.values()}) == 3
    for name, bundle in read.items():
        assert bundle.manifest.training["split"] == "personal"
        assert bundle.manifest.training["recordings"] == 2
        assert bundle.manifest.training["seed"] == person_seed(name)
        assert bundle.manifest.created_utc == "2023-11-14T22:13:20Z"


@pytest.mark.timeout(600)
def test_a_worker_killed_in_training_costs_time_and_not_one_byte(reference: dict[str, bytes], tmp_path: Path) -> None:
    two = {name: PEOPLE[name] for name in ("ben", "cleo")}
    tasks = personal_tasks(two, CONFIG, checkpoints=tmp_path / "checkpoints")
    killed = [
        replace(t, job=KilledInTraining(t.job, tmp_path / "killed")) if t.people == ("ben",) else t for t in tasks
    ]
    with process_executors(2) as (executors, n_workers):
        out = tmp_path / "out"
        report = run_fleet(killed, out, executors=executors, n_workers=n_workers, made_s=MADE_S)
    assert (tmp_path / "killed").exists()
    assert report.n_pools_lost == 1
    assert report.failed == {}
    assert bundles(out) == {name: reference[name] for name in two}


def test_dask_makes_the_same_bundles(reference: dict[str, bytes], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, scheduler_port=0
    )
    with cluster, dask_executors(cluster.scheduler_address) as (executors, n_workers):
        assert n_workers == 2
        tasks = personal_tasks(PEOPLE, CONFIG)
        report = run_fleet(tasks, tmp_path, executors=executors, n_workers=n_workers, made_s=MADE_S)
    assert report.failed == {}
    assert bundles(tmp_path) == reference


def test_no_dask_at_the_address_is_one_clear_error() -> None:
    pytest.importorskip("distributed")
    with (
        pytest.raises(ConfigError, match="no Dask scheduler answers"),
        dask_executors("tcp://127.0.0.1:9", timeout_s=1),
    ):
        raise AssertionError("there is nobody")


def moving(activity: str, seed: int) -> list[Recording]:
    return [simulate(SimulationConfig(duration_s=20, subject_seed=seed, activity_mix={activity: 1.0}))]


def test_models_trained_at_once_are_those_trained_alone_up_to_rounding() -> None:
    # the second gets worse at once, stops early, and leaves the others training
    config = QUICK.model_copy(update={"max_epochs": 4, "patience": 1, "learning_rate": 3e-2})
    tasks = [
        FitTask(moving(activity, k), moving(activity, k + 3), config.model_copy(update={"seed": k}))
        for k, activity in enumerate(("gait", "arm", "gait"))
    ]
    seen: list[tuple[int, int]] = []
    together = fit_many(tasks, progress=lambda i, r: seen.append((i, r.epoch)))
    alone = [fit(t.train, t.val, t.config) for t in tasks]
    for i, (result, other) in enumerate(zip(together, alone, strict=True)):
        assert not isinstance(result, Exception)
        assert [e for k, e in seen if k == i] == [r.epoch for r in other.history]
        assert result.best_epoch == other.best_epoch
        for a, b in zip(result.history, other.history, strict=True):
            assert a.train_nll == pytest.approx(b.train_nll, abs=2e-4)
            assert a.val_nll == pytest.approx(b.val_nll, abs=2e-4)
        for name, weight in other.model.state_dict().items():
            torch.testing.assert_close(result.model.state_dict()[name], weight, atol=2e-3, rtol=0)
    assert len(alone[1].history) < len(alone[0].history) == 5


def test_what_does_not_fit_in_one_stack_is_refused() -> None:
    walk = [simulate(SimulationConfig(duration_s=20))]
    with pytest.raises(ConfigError, match="differ in width"):
        fit_many([FitTask(walk, walk, QUICK), FitTask(walk, walk, QUICK.model_copy(update={"width": 7}))])
    with pytest.raises(ConfigError, match="steps_per_epoch"):
        fit_many([FitTask(walk, walk, QUICK.model_copy(update={"steps_per_epoch": None}))])
    one = [simulate(SimulationConfig(duration_s=20, sensors=("wrist_left",)))]
    with pytest.raises(ConfigError, match="equally many channels"):
        fit_many([FitTask(walk, walk, QUICK), FitTask(one, one, QUICK)])
    assert fit_many([]) == []


def test_people_trained_at_once_get_bundles_and_one_who_cannot_does_not_stop_them(
    reference: dict[str, bytes], tmp_path: Path
) -> None:
    brief = Simulated(subject_seed=9, n_sessions=1, duration_s=4)
    report = run(personal_tasks({**PEOPLE, "brief": brief}, CONFIG, at_once=4), tmp_path)
    assert sorted(report.made) == sorted(reference)
    assert re.search("too few|no piece", report.failed["brief"])
    for name, data in bundles(tmp_path).items():
        ours, theirs = read_bundle(data).manifest, read_bundle(reference[name]).manifest
        assert ours.center == theirs.center
        assert ours.quality["validation_nll"] == pytest.approx(theirs.quality["validation_nll"], abs=1e-3)


def test_what_is_done_is_not_done_again_and_keeps_its_date(tmp_path: Path) -> None:
    assert run(say("a", "b"), tmp_path).made == ["a", "b"]
    again = run(say("a", "b", "c"), tmp_path, made_s=MADE_S + 5)
    assert (again.kept, again.made) == (["a", "b"], ["c"])
    assert bundles(tmp_path)["c"] == f"c {MADE_S}".encode()
    # other data or settings, a damaged file, a missing file: made again
    assert run(say("a", key="other"), tmp_path).made == ["a"]
    (tmp_path / "b.kinedge").write_bytes(b"damaged")
    (tmp_path / "c.kinedge").unlink()
    assert run(say("a", "b", "c"), tmp_path).made == ["a", "b", "c"]


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 400), names=st.permutations(["a", "b", "c", "d"]))
def test_a_ledger_cut_off_anywhere_loses_at_most_its_last_line(
    cut: int, names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    run(say(*names), folder)
    path = folder / LEDGER_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    lines_left = whole[:cut].count(b"\n")
    report = run(say(*names), folder)
    assert report.kept == names[: max(0, lines_left - 1)] or whole[:cut].endswith(b"}")
    assert sorted(report.kept + report.made) == sorted(names)
    assert run(say(*names), folder).kept == names


def test_a_worker_that_dies_for_good_fails_one_task_and_the_rest_is_done(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    tasks = [
        *say("a", "b"),
        FleetTask(("once",), "k", Die("once", marks, 1)),
        FleetTask(("always",), "k", Die("always", marks, 99)),
        *say("c", "d"),
    ]
    with process_executors(2) as (executors, n_workers):
        out = tmp_path / "out"
        report = run_fleet(tasks, out, executors=executors, n_workers=n_workers, made_s=MADE_S)
    assert sorted(report.made) == ["a", "b", "c", "d", "once"]
    assert list(report.failed) == ["always"]
    assert "died again and again" in report.failed["always"]
    assert report.n_pools_lost <= 6


def test_an_unforeseen_error_is_told_and_stops_nobody(tmp_path: Path) -> None:
    report = run([FleetTask(("x",), "k", Break("x")), *say("y")], tmp_path)
    assert report.made == ["y"]
    assert report.failed == {"x": f"ZeroDivisionError: x at {MADE_S}"}
    entries = [json.loads(line) for line in (tmp_path / LEDGER_NAME).read_text().splitlines()]
    assert [e.get("person") for e in entries] == [None, "x", "y"]
    assert entries[2]["sha256"] == hashlib.sha256(f"y {MADE_S}".encode()).hexdigest()
    # what failed is tried again
    assert run(say("x", "y"), tmp_path).made == ["x"]


def test_tasks_run_side_by_side(tmp_path: Path) -> None:
    # the first waits for a file that the second makes: one at a time would wait in vain
    tasks = [FleetTask(("first",), "k", Wait("first", tmp_path / "second.kinedge")), *say("second")]
    report = run_fleet(tasks, tmp_path, executors=in_threads(2), n_workers=2, made_s=MADE_S)
    assert sorted(report.made) == ["first", "second"]


def test_a_folder_takes_one_fleet_at_a_time_and_only_fleets(tmp_path: Path) -> None:
    run(say("a"), tmp_path)
    with (tmp_path / LEDGER_NAME).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another fleet is writing"):
            run(say("a"), tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / LEDGER_NAME).write_text('{"a": 1}\n')
    with pytest.raises(ConfigError, match="no ledger"):
        run(say("a"), foreign)
    with pytest.raises(ConfigError, match="cannot be written"):
        run(say("a"), tmp_path / "a.kinedge" / "x")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a" * 101, "ä"])
def test_a_name_that_cannot_name_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a file"):
        run(say("fine", name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nobody_stands_twice_and_another_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'a' stands twice"):
        run(say("a", "b", "a"), tmp_path)
    with pytest.raises(ConfigError, match="personal models"):
        personal_tasks(PEOPLE, BuildConfig(split="cross", fit=QUICK))


def test_seeds_follow_from_who_it_is() -> None:
    assert person_seed("anna") == person_seed("anna")
    assert len({person_seed(f"p{i}") for i in range(1000)}) == 1000
    assert person_seed("anna", 1) != person_seed("anna")


def test_the_command_makes_a_fleet_and_goes_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text(
        "[simulated]\nsubjects = 2\nsessions = 2\nminutes = 1.7\n[bundle]\nname = 'own'\n[bundle.fit]\n"
        "max_epochs = 1\nsteps_per_epoch = 3\nwindow = 64\nbatch = 4\nwidth = 6\nvar_order = 4\ndilations = [1, 4]\n"
    )
    out = tmp_path / "fleet"
    arguments = ["train", str(config), "--fleet", "--out", str(out), "--workers", "1", "--at-once", "2", "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["made"] == sorted(p.stem for p in out.glob("*.kinedge"))
    assert len(first["made"]) == 2
    assert main(arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["kept"], second["made"]) == (first["made"], [])
