"""Checkpoints: a killed edge goes on where it was; what is damaged, foreign or old is not used, and says so once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from kinedge.edge.checkpoint import MAX_AGE_S, CheckpointKeeper, checkpoint_path, read_checkpoint
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.errors import StoreError
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.recording import Recording
from kinedge.signals import IMU6, ImuChunk
from kinedge.units import NS_PER_S

Person = Callable[..., Recording]


def run(pipeline: Pipeline, recording: Recording, first: int, end: int) -> set[str]:
    """Play these seconds to everybody; return the codes of all reasons."""
    codes = set()
    for start in range(first * 50, end * 50, 25):
        for subject in pipeline.subjects:
            for spec in recording.sensors:
                part = recording.values[start : start + 25, recording.columns(spec.name)]
                ok = np.ones(part.shape, bool)
                time_ns = NS_PER_S + (start + np.arange(25)) * 20_000_000
                pipeline.push(subject, ImuChunk(spec.name, time_ns, part, ok, ~ok, 20_000_000), channels=IMU6)
        for scored in pipeline.advance():
            codes |= {r.code for r in scored.batch.verdict(scored.stream).reasons}
    return codes


class Bench:
    """A keeper with a clock and a memory of its own."""

    def __init__(self, path: Path, *, settings: str = "a") -> None:
        self.now_ns = 10 * NS_PER_S
        self.notes: list[str] = []
        self.keeper = CheckpointKeeper(
            path, settings=settings, every_s=30, now_ns=lambda: self.now_ns, note=self.notes.append
        )


def kept(scorer: Scorer, person: Person, path: Path) -> Bench:
    bench = Bench(path)
    pipeline = Pipeline(scorer, ["p", "q"], make_clock=FixedClock)
    run(pipeline, person(16.0), 0, 8)
    bench.keeper.end(pipeline)
    assert not bench.notes
    return bench


def test_a_new_pipeline_goes_on_without_warming_up(scorer: Scorer, person: Person, tmp_path: Path) -> None:
    path = tmp_path / "edge.checkpoint"
    bench = kept(scorer, person, path)
    after = Pipeline(scorer, ["new", "q"], make_clock=FixedClock)
    assert bench.keeper.restore(after) == ("q",)
    after_q = Pipeline(scorer, ["q"], make_clock=FixedClock)
    assert bench.keeper.restore(after_q) == ("q",)
    codes = run(after_q, person(16.0), 10, 16)
    assert "no_data" in codes
    assert "warming_up" not in codes
    assert "warming_up" in run(Pipeline(scorer, ["q"], make_clock=FixedClock), person(16.0), 10, 16)
    assert path.stat().st_mode & 0o777 == 0o600


def test_somebody_of_whom_nothing_was_heard_yet_stops_nobody_from_going_on(
    scorer: Scorer, person: Person, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "edge.checkpoint")
    bench.keeper.end(Pipeline(scorer, ["p", "q"], make_clock=FixedClock))
    assert bench.keeper.restore(Pipeline(scorer, ["p", "q"], make_clock=FixedClock)) == ("p", "q")
    assert not bench.notes


def test_every_part_of_the_state_is_kept(scorer: Scorer, person: Person) -> None:
    before = Pipeline(scorer, ["p", "q"], make_clock=FixedClock)
    run(before, person(16.0), 0, 8)
    after = Pipeline(scorer, ["q"], make_clock=FixedClock)
    after.load(before.save(), {1: 0})
    saved, loaded, blank = before.save(), after.save(), scorer.initial_state(1)
    kept = {f"{part.name}.{f.name}" for part in fields(blank) for f in fields(getattr(blank, part.name))}
    assert kept <= set(saved)
    assert "belief.log_odds" in kept
    assert all(np.array_equal(saved[name][1], loaded[name][0]) for name in kept)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_or_foreign_file_is_put_aside_with_one_message(
    scorer: Scorer, person: Person, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "edge.checkpoint"
    bench = kept(scorer, person, path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": bytes(data[:-9]), "flipped": bytes(data), "foreign": b"PK\3\4 a zip", "empty": b""}[damage]
    )
    broken = path.read_bytes()
    with pytest.raises(StoreError):
        read_checkpoint(path)
    assert bench.keeper.restore(Pipeline(scorer, ["p"])) == ()
    assert len(bench.notes) == 1
    assert "put aside as edge.checkpoint.aside" in bench.notes[0]
    assert not path.exists()
    assert path.with_name("edge.checkpoint.aside").read_bytes() == broken
    assert bench.keeper.restore(Pipeline(scorer, ["p"])) == ()
    assert len(bench.notes) == 1


def test_what_is_too_old_or_of_other_settings_is_not_used(scorer: Scorer, person: Person, tmp_path: Path) -> None:
    path = tmp_path / "edge.checkpoint"
    bench = kept(scorer, person, path)
    other = Bench(path, settings="b")
    assert other.keeper.restore(Pipeline(scorer, ["p"])) == ()
    assert other.notes == ["the checkpoint is not used: it is of other settings; everybody warms up anew"]
    bench.now_ns += round((MAX_AGE_S + 1) * NS_PER_S)
    assert bench.keeper.restore(Pipeline(scorer, ["p"])) == ()
    assert "601 s old" in bench.notes[0]
    bench.now_ns = 0
    assert bench.keeper.restore(Pipeline(scorer, ["p"])) == ()
    assert path.exists()


def test_a_disk_that_refuses_is_told_once(scorer: Scorer, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "nowhere" / "edge.checkpoint")
    for _ in range(3):
        bench.keeper.end(Pipeline(scorer, ["p"]))
    assert len(bench.notes) == 1
    assert "could not be written" in bench.notes[0]


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def verdicts(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]


@pytest.mark.timeout(300)
def test_an_edge_that_was_killed_goes_on_without_a_new_warm_up(tmp_path: Path) -> None:
    kinedge = [sys.executable, "-m", "kinedge"]
    ready = tmp_path / "ready.json"
    emulator = subprocess.Popen(
        [*kinedge, "emulate", str(tmp_path / "ttys"), "--duration", "600", "--loss", "0", "--no-anomalies",
         "--ready-file", str(ready)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    processes = [emulator]
    try:
        wait_for(ready.exists)
        ports = json.loads(ready.read_text())["ports"]
        devices = ", ".join(f'{{ port = "{port}" }}' for port in ports.values())
        config = tmp_path / "gateway.toml"
        config.write_text(
            f'site = "s"\ngateway = "g"\nstore = "edge.db"\ncheckpoint_s = 0.5\n'
            f'[[people]]\nsubject = "p"\ndevices = [{devices}]\n'
        )

        def start(out: Path) -> subprocess.Popen[bytes]:
            with out.open("wb") as file:
                process = subprocess.Popen(
                    [*kinedge, "run", str(config), "--json"], stdout=file, stderr=subprocess.DEVNULL
                )
            processes.append(process)
            return process

        def codes(verdict: dict[str, object]) -> set[str]:
            return {r["code"] for r in verdict["reasons"]}  # type: ignore[attr-defined]

        def warming(verdict: dict[str, object]) -> bool:
            return "warming_up" in codes(verdict)

        first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
        edge = start(first)
        wait_for(lambda: len(v := verdicts(first)) > 3 and not warming(v[-1]))
        assert warming(verdicts(first)[0])
        kept_at = checkpoint_path(tmp_path / "edge.db")
        written = kept_at.stat().st_mtime_ns
        wait_for(lambda: kept_at.stat().st_mtime_ns > written)
        edge.send_signal(signal.SIGKILL)
        edge.wait()
        start(second)

        silent = {"no_data", "missing"}
        wait_for(lambda: any(not codes(v) & silent for v in verdicts(second)))
        found = verdicts(second)
        assert not any(warming(v) for v in found)
        assert any(codes(v) & silent for v in found)  # while nobody was there
    finally:
        for process in processes:
            process.kill()
            process.wait()
