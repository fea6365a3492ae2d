"""Recorded sessions played again: the same verdicts bit for bit, gaps and damage as they were, told and counted."""

from __future__ import annotations

import asyncio
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sent_packets import INTERVAL_NS, START_NS, packets

from kinedge.cli.app import main
from kinedge.cli.replay_session import gateway_of, sessions_by_subject
from kinedge.edge.config import GatewayConfig
from kinedge.edge.hostclock import HostClock
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_hours import VerdictHours
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.errors import ConfigError, StoreError
from kinedge.firmware_bridge.device import Battery, ClockExchange, DeviceInfo, Doubt
from kinedge.firmware_bridge.emulator import Faults
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.recorded import read_session
from kinedge.firmware_bridge.recorded_source import Arrival, RecordedSource, read_sessions
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.firmware_bridge.segments import Tick
from kinedge.firmware_bridge.session_log import SessionLog, link_events
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.training.scenario import DemoEvent, demo_recording

pytest.importorskip("pyarrow", reason="the extra 'record' is not installed")

import kinedge.cli.replay  # noqa: F401  registers its command

SPEED = 6.0
TIMEOUT_S = 90.0
UTC_NS = 1_700_000_000 * 10**9

Said = list[tuple[str, Verdict]]


class Clock:
    """A host's clock that a test moves."""

    now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns


def write_session(
    folder: Path,
    chunks: list[ImuChunk],
    *,
    subject: str = "p-001",
    segment_s: float = 2.0,
    close: bool = True,
    told: dict[str, Any] | None = None,
) -> None:
    """Record chunks as ``kinedge record`` does: nobody scores them meanwhile."""
    clock = Clock()
    facts = {"subject": subject, **(told or {})}
    writer = SessionWriter(folder, segment_s=segment_s, facts=facts, clock=clock, wall_clock=lambda: UTC_NS)
    log = SessionLog(writer, host_clock=clock)
    for sensor in sorted({c.sensor for c in chunks}):
        log.take(f"port {sensor}", DeviceInfo(SensorSpec(sensor), 50.0, serial=f"S-{sensor}"))
    for chunk in chunks:
        clock.now_ns = chunk.host_time_ns or clock.now_ns
        log.take(f"port {chunk.sensor}", chunk)
    if close:
        writer.close()


def collecting(said: Said) -> Callable[[Any, Verdict], None]:
    return lambda scored, verdict: said.append((scored.subject, verdict))


def play(folder: Path, store: Path, *, speed: float = math.inf) -> tuple[EdgeService, Said]:
    said: Said = []
    sessions = sessions_by_subject(read_sessions(folder))
    source = RecordedSource(sessions, speed=speed)
    service = EdgeService(gateway_of(sessions, store), on_scored=collecting(said), source=source)
    asyncio.run(asyncio.wait_for(service.run(asyncio.Event()), TIMEOUT_S))
    return service, said


def of_verdicts(said: Said) -> Counter[tuple[str, str, str]]:
    """Count verdicts by subject, answer and the heaviest reason of what was unsure."""
    return Counter((s, v.decision.word, v.reasons[0].code if v.decision.word == "unsure" else "") for s, v in said)


def counted(path: Path) -> Counter[tuple[str, str, str]]:
    """Return the same as a store has it."""
    found: Counter[tuple[str, str, str]] = Counter()
    with EpisodeStore(path, read_only=True) as store:
        for hour in VerdictHours(store.database).rows():
            for word, n in hour.counts.items():
                if word != "unsure":
                    found[hour.subject, word, ""] += n
            for (code, _), n in hour.reasons.items():
                found[hour.subject, "unsure", code] += n
    return found


async def score_live(config: GatewayConfig, devices: dict[str, Any], said: Said) -> EdgeService:
    """Score devices on ptys until they have sent all, and stop as Ctrl-C does."""
    service = EdgeService(config, host_clock=HostClock(speed=SPEED), on_scored=collecting(said))
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    for device in devices.values():
        device.start()
    try:
        while not serving.done() and not all(d.finished for d in devices.values()):
            await asyncio.wait([serving], timeout=0.05)
        enough = len(said) + 1
        while not serving.done() and len(said) < enough:  # silence, then, is scored too
            await asyncio.wait([serving], timeout=0.05)
    finally:
        stop.set()
        await serving
        for device in devices.values():
            await asyncio.to_thread(device.stop)
    return service


def test_a_replay_gives_the_verdicts_of_the_live_session_bit_for_bit(tmp_path: Path) -> None:
    people = {}
    devices = {}
    for subject, seed in (("p-001", 1), ("p-002", 2)):
        event = DemoEvent("noise_burst", "wrist_right", 8, 16)
        recording = demo_recording(seed=seed, duration_s=26, events=(event,))
        own = play_on_ptys(
            recording, tmp_path / subject, speed=SPEED, faults=Faults(loss=0.05, mean_burst=3), seed=seed
        )
        people[subject] = [{"port": str(d.link_path)} for d in own.values()]
        devices |= {f"{subject} {name}": device for name, device in own.items()}
    config = GatewayConfig.model_validate(
        {
            "site": "clinic",
            "gateway": "gw-1",
            "store": tmp_path / "live.db",
            "people": [{"subject": s, "devices": d} for s, d in people.items()],
            "record": {"folder": tmp_path / "recordings", "segment_s": 3},
            "caution": {"miss_cost": 2.0},
            "max_delay_s": 0.3,
        }
    )
    live: Said = []
    service = asyncio.run(score_live(config, devices, live))
    assert service.tape is not None
    played, again = play(service.tape.folder, tmp_path / "again.db")
    assert len(live) > 40
    assert [json.dumps(verdict_as_json(*v)) for v in again] == [json.dumps(verdict_as_json(*v)) for v in live]
    assert again == live  # every float, to the last bit
    assert {v.decision.word for _, v in live} >= {"anomalous", "unsure"}
    assert played.config.caution.miss_cost == 2.0
    assert counted(tmp_path / "live.db") == counted(tmp_path / "again.db") == of_verdicts(live)
    for key, health in service.health.items():
        assert (played.health[key].samples, played.health[key].lost) == (health.samples, health.lost)
    assert sum(h.lost for h in service.health.values()) > 0
    episodes = []
    for name in ("live.db", "again.db"):
        with EpisodeStore(tmp_path / name, read_only=True) as store:
            episodes.append([s.envelope for s in store.episodes()])
    for ours, theirs in zip(*episodes, strict=True):
        assert ours.contributions == theirs.contributions
        assert (ours.peak_score, len(ours.trail)) == (theirs.peak_score, len(theirs.trail))
        assert abs(ours.start_utc_ns - theirs.start_utc_ns) < 10**7


def test_a_session_that_nobody_scored_gives_the_same_verdicts_at_any_speed(tmp_path: Path) -> None:
    recording = demo_recording(seed=4, duration_s=20, events=(DemoEvent("noise_burst", "wrist_left", 8, 14),))
    write_session(tmp_path / "s", packets(recording))
    service, fast = play(tmp_path / "s", tmp_path / "fast.db")
    _, slow = play(tmp_path / "s", tmp_path / "slow.db", speed=25)
    assert {s for s, _ in fast} == {"p-001"}
    assert 19 <= len(fast) <= 20
    assert fast == slow
    assert sum(v.decision.word == "anomalous" for _, v in fast) >= 3
    assert {h.serial for h in service.health.values()} == {"S-wrist_left", "S-wrist_right"}
    with EpisodeStore(tmp_path / "fast.db", read_only=True) as store:
        (episode, *_) = [s.envelope for s in store.episodes()]
    assert episode.contributions[0].sensor == "wrist_left"
    assert UTC_NS < episode.start_utc_ns < UTC_NS + 20 * 10**9  # when it was recorded, not when it was played


def test_a_pause_is_silence_and_a_lost_segment_is_loss_where_they_were(tmp_path: Path) -> None:
    recording = demo_recording(seed=4, duration_s=36, events=())
    away = range(START_NS + 12 * 10**9, START_NS + 17 * 10**9)
    chunks = [c for c in packets(recording) if c.host_time_ns not in away]
    write_session(tmp_path / "s", chunks)
    _, whole = play(tmp_path / "s", tmp_path / "whole.db")
    missing = [v.sensor_missing["wrist_left"] for _, v in whole]
    assert len(whole) >= 35
    assert max(missing[:9]) < 0.1
    assert max(missing[12:17]) > 0.9
    (lost_file,) = (tmp_path / "s").glob("segment-000010-*")
    lost_file.unlink()
    session = read_session(tmp_path / "s")
    assert 190 <= sum(session.missing.values()) <= 220
    service, damaged = play(tmp_path / "s", tmp_path / "damaged.db")
    assert sum(h.lost for h in service.health.values()) == sum(session.missing.values())
    assert len(damaged) == len(whole)
    gone = [i for i, (a, b) in enumerate(zip(whole, damaged, strict=True)) if a != b]
    assert gone
    assert all(damaged[i][1].sensor_missing["wrist_left"] > whole[i][1].sensor_missing["wrist_left"] for i in gone[:1])
    first = damaged[: gone[0]]
    assert first == whole[: gone[0]]
    assert len(first) > 15


def test_a_session_cut_by_a_crash_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    recording = demo_recording(seed=5, duration_s=16, events=())
    write_session(tmp_path / "s", packets(recording), close=False)
    (tmp_path / "s" / "segment-000099-00000000.parquet.part").write_bytes(b"half")
    (tmp_path / "s" / "session.json").write_bytes(b"{")
    service, said = play(tmp_path / "s", tmp_path / "x.db")
    assert 11 <= len(said) <= 16
    assert {s for s, _ in said} == {"s"}  # nobody knows whose it was: the folder's name
    assert service.clock.utc_ns(START_NS) > UTC_NS


times = st.integers(-(2**61), 2**61)
texts = st.text(max_size=20)
events = st.one_of(
    st.builds(LinkOpened, times),
    st.builds(LinkClosed, texts, times),
    st.builds(Battery, st.none() | st.integers(0, 100), st.booleans(), st.none() | st.floats(-40, 85)),
    st.builds(Doubt, texts),
    st.builds(ClockExchange, st.just("chest"), times, times, times, times),
    st.builds(DeviceInfo, st.just(SensorSpec("chest")), st.floats(1, 1000), texts, texts),
    st.integers(1, 5),  # a chunk of so many samples
    st.none(),  # a tick
)


@settings(deadline=None, max_examples=25)
@given(plan=st.lists(events, max_size=30), per_segment=st.integers(1, 10))
def test_everything_a_link_can_say_comes_back_in_its_order(plan: list[Any], per_segment: int) -> None:
    told: list[SessionEvent | Tick] = [DeviceInfo(SensorSpec("chest"), 50.0)]
    for at, item in enumerate(plan, 1):
        if isinstance(item, int):
            shape = (item, 6)
            values = np.full(shape, at, np.float32)
            index = np.arange(item, dtype=np.int64) + 10 * at
            valid = np.ones(shape, bool)
            told.append(ImuChunk("chest", index, values, valid, ~valid, INTERVAL_NS, host_time_ns=at))
        else:
            told.append(Tick(at) if item is None else item)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        with SessionWriter(Path(folder), segment_s=per_segment, clock=clock) as writer:
            log = SessionLog(writer, host_clock=clock)
            for event in told:
                clock.now_ns += 10**9
                if isinstance(event, Tick):
                    writer.tick(event.host_time_ns)
                else:
                    log.take("port", event)
        session = read_session(Path(folder))
        found = list(link_events(session.in_order(), session.sensors))
    assert all(isinstance(f, Tick) or f.link == "port" for f in found)
    assert len(found) == len(told)
    # beside one another and without samples between them, ticks may stand behind events: nothing depends on it
    for stretch, other in zip(
        stretches(told), stretches([f if isinstance(f, Tick) else f.event for f in found]), strict=True
    ):
        assert stretch == other


def stretches(items: list[Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield what stands between chunks, events apart from ticks; a chunk is known by its values."""
    events: list[Any] = []
    ticks: list[Any] = []
    for item in items:
        if isinstance(item, ImuChunk):
            yield [*events, (len(item), float(item.values[0, 0]), item.host_time_ns)], ticks
            events, ticks = [], []
        else:
            (ticks if isinstance(item, Tick) else events).append(item)
    yield events, ticks


async def all_of(source: RecordedSource) -> list[Arrival | Tick]:
    return [item async for item in source.events()]


def test_people_of_one_run_are_told_in_order_of_arrival_with_ticks_between(tmp_path: Path) -> None:
    recordings = {s: demo_recording(seed=i, duration_s=6, events=()) for i, s in enumerate(("a", "b"))}
    for subject, recording in recordings.items():
        write_session(tmp_path / subject, packets(recording, start_ns=START_NS + 3_000_000), subject=subject)
    sessions = {s: read_session(tmp_path / s) for s in recordings}
    items = asyncio.run(all_of(RecordedSource(sessions, speed=math.inf)))
    arrivals = [i for i in items if isinstance(i, Arrival) and isinstance(i.event, ImuChunk)]
    stamps = [i.event.host_time_ns for i in arrivals]  # type: ignore[union-attr]
    assert stamps == sorted(stamps)  # type: ignore[type-var]
    assert [sum(i.subject == s for i in arrivals) for s in ("a", "b")] == [60, 60]
    ticks = [i.host_time_ns for i in items if isinstance(i, Tick)]
    assert {b - a for a, b in pairwise(ticks)} == {50_000_000}
    assert ticks[-1] <= stamps[-1] < ticks[-1] + 50_000_000  # type: ignore[operator]
    last = 0
    for item in items:
        if isinstance(item, Tick):
            last = item.host_time_ns
        elif isinstance(item.event, ImuChunk):
            assert last <= item.event.host_time_ns < last + 50_000_000 or not last  # type: ignore[operator]


def test_a_replay_at_a_given_speed_takes_its_time(tmp_path: Path) -> None:
    write_session(tmp_path / "s", packets(demo_recording(seed=1, duration_s=6, events=())))
    source = RecordedSource({"p": read_session(tmp_path / "s")}, speed=10)
    start_s = time.monotonic()
    items = asyncio.run(all_of(source))
    assert len(items) > 100
    assert time.monotonic() - start_s >= 0.57  # 5.8 s from the first arrival to the last
    assert source.n_samples == 600


def test_sessions_that_do_not_belong_together_are_not_played_together(tmp_path: Path) -> None:
    chunks = packets(demo_recording(seed=1, duration_s=2, events=()))
    for name in ("monday", "tuesday"):
        write_session(tmp_path / name, chunks)
    with pytest.raises(StoreError, match="not of one run"):
        read_sessions(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no recorded session"):
        read_sessions(tmp_path / "empty")
    with pytest.raises(ConfigError, match="both of p-001"):
        sessions_by_subject([read_session(tmp_path / n) for n in ("monday", "tuesday")])
    with pytest.raises(ConfigError, match="speed"):
        RecordedSource({"p": read_session(tmp_path / "monday")}, speed=0)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({}, ("native", "onnx")),
        ({"backend": "native cpu fp32", "backends": ["native", "onnx"]}, ("native", "onnx")),
        ({"backend": "onnxruntime 1.0 cpu fp32", "backends": ["native", "onnx"]}, ("onnx", "native")),
        ({"backend": "onnxruntime 1.0 cuda fp32", "backends": ["onnx-cuda"]}, ("onnx-cuda", "native", "onnx")),
    ],
)
def test_a_session_is_replayed_with_what_ran_the_model_when_it_was_recorded(
    tmp_path: Path, recorded: dict[str, Any], expected: tuple[str, ...]
) -> None:
    write_session(tmp_path / "s", packets(demo_recording(seed=1, duration_s=2, events=())), told=recorded)
    session = read_session(tmp_path / "s")
    assert gateway_of({"p-001": session}, tmp_path / "edge.db").backend == expected


def lines_until(process: subprocess.Popen[str], n: int) -> list[str]:
    """Read ``n`` lines of a process that may never end."""
    assert process.stdout is not None
    end_s = time.monotonic() + TIMEOUT_S
    lines: list[str] = []
    while len(lines) < n:
        assert select.select([process.stdout], [], [], max(0.0, end_s - time.monotonic()))[0], "no more lines came"
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()[1]
    return lines


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kinedge", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment, bufsize=1
    )


def test_what_run_printed_is_what_replay_prints_line_by_line(tmp_path: Path) -> None:
    devices = play_on_ptys(demo_recording(seed=6, duration_s=60, events=()), tmp_path / "ttys")
    ports = ", ".join(f'{{ port = "{d.link_path}" }}' for d in devices.values())
    head = 'site = "s"\ngateway = "g"\n[[people]]\nsubject = "p-001"\n'
    (tmp_path / "gateway.toml").write_text(f"{head}devices = [{ports}]\n")
    for device in devices.values():
        device.start()
    try:
        with started("run", "gateway.toml", "--json", "--record", "kept", cwd=tmp_path) as process:
            printed = lines_until(process, 6)
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0
    finally:
        for device in devices.values():
            device.stop()
    (folder,) = (tmp_path / "kept").iterdir()
    with started("replay", str(folder), "--speed", "max", "--json", cwd=tmp_path) as process:
        replayed, told = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, told) == (0, "")
    assert replayed == "".join(printed) + rest


def test_control_c_ends_a_replay_gracefully(tmp_path: Path) -> None:
    write_session(tmp_path / "s", packets(demo_recording(seed=1, duration_s=120, events=())))
    with started("replay", "s", "--speed", "4", "--json", cwd=tmp_path) as process:
        lines_until(process, 3)
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, told) == (0, "")
    assert all(json.loads(line)["subject"] == "p-001" for line in rest.splitlines())


def test_the_command_tells_damage_losses_and_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_session(tmp_path / "s", packets(demo_recording(seed=1, duration_s=12, events=())))
    (hit,) = (tmp_path / "s").glob("segment-000002-*")
    hit.write_bytes(hit.read_bytes()[:-1])
    manifest = json.loads(Path("s/session.json").read_text())
    manifest["facts"]["model_digest"] = "0" * 64
    Path("s/session.json").write_text(json.dumps(manifest))
    assert main(["replay", "s", "--speed", "max"]) == 0
    told = capsys.readouterr()
    errors, out = (" ".join(text.split()) for text in (told.err, told.out))
    assert "segment-000002" in errors
    assert "cut or damaged" in errors
    assert "another model scored this" in errors
    assert "samples of wrist_left were in damaged segments; they count as lost" in errors
    assert "normal" in out
    assert "wrist_right" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "no recorded session is there"),
        (["s.npz"], "--dataset"),
        (["s.xdf"], "--from-xdf"),
        (["s", "--speed", "fast"], "expected a factor"),
        (["s", "--loss", "0.1"], "for data sets"),
        (["s", "--subject", "x"], "nobody is called 'x'"),
        (["s.npz", "--dataset", "fog_stanford", "--speed", "max"], "real ttys"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_session(tmp_path / "s", packets(demo_recording(seed=1, duration_s=2, events=())))
    for name in ("s.npz", "s.xdf"):
        Path(name).write_bytes(b"")
    assert main(["replay", *arguments]) == 1
    assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()
