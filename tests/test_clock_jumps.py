"""The machine's clock is stepped, or was never set: durations and order hold, and times come right in the end."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinedge.edge.config import GatewayConfig
from kinedge.edge.episodes import pack_raw
from kinedge.edge.hostclock import HostClock, WallClock
from kinedge.edge.redating import redate
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.envelope import Envelope
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.training.scenario import DemoEvent, demo_recording

SPEED = 6.0
NS = 10**9


class SteppedClock(HostClock):
    """A host whose wall clock somebody steps."""

    def __init__(self, step_ns: int = 0) -> None:
        super().__init__(speed=SPEED)
        self.step_ns = step_ns

    def utc_ns(self, host_time_ns: int) -> int:
        return super().utc_ns(host_time_ns) + self.step_ns


def devices_of(tmp_path: Path, *, twice: bool = False) -> list[PtyDevice]:
    """Sensors of a person who moves differently from 8 to 14 s, and once more from 40 to 46 s."""
    events = (DemoEvent("noise_burst", "wrist_left", 8, 14), DemoEvent("noise_burst", "wrist_right", 40, 46))
    recording = demo_recording(seed=3, duration_s=52 if twice else 24, events=events if twice else events[:1])
    return list(play_on_ptys(recording, tmp_path / "ttys", speed=SPEED).values())


def make(tmp_path: Path, devices: list[PtyDevice], clock: HostClock) -> EdgeService:
    config = {
        "site": "clinic",
        "gateway": "gw-1",
        "store": tmp_path / "edge.db",
        "people": [{"subject": "p-001", "devices": [{"port": str(d.link_path)} for d in devices]}],
        "max_delay_s": 1.5,
        "episodes": {"pre_roll_s": 1, "quiet": 3},
    }
    return EdgeService(GatewayConfig.model_validate(config), host_clock=clock)


async def play(service: EdgeService, devices: list[PtyDevice], script: Callable[[], bool]) -> None:
    """Serve until the devices have said all; ``script`` is asked until it says that it has done its part."""
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    for device in devices:
        device.start()
    done = False
    while not serving.done() and not all(d.finished for d in devices):
        await asyncio.sleep(0.02)
        done = done or script()
    assert done, list(service.notes)
    await service.finish()
    stop.set()
    await serving


def kept(tmp_path: Path) -> list[Envelope]:
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        assert store.counts().drafts == 0
        store.verify_audit()
        return sorted((s.envelope for s in store.episodes()), key=lambda e: e.sequence)


def audit(tmp_path: Path, event: str) -> list[dict[str, object]]:
    with sqlite3.connect(tmp_path / "edge.db") as connection:
        return [json.loads(d) for (d,) in connection.execute("SELECT detail FROM audit WHERE event = ?", (event,))]


@pytest.mark.parametrize("by_s", [3600, -3600])
def test_an_episode_keeps_its_length_through_a_step_and_the_next_has_the_new_time(tmp_path: Path, by_s: int) -> None:
    devices, clock = devices_of(tmp_path, twice=True), SteppedClock()
    service = make(tmp_path, devices, clock)
    began_utc_ns = clock.utc_ns(clock.now_ns())

    def step() -> bool:
        if any(b.is_open for b in service.episodes.builders.values()):
            clock.step_ns = by_s * NS
        return clock.step_ns != 0

    asyncio.run(play(service, devices, step))
    for device in devices:
        device.stop()
    episodes = kept(tmp_path)
    assert len(episodes) >= 2
    first, last = episodes[0], episodes[-1]
    assert 2 < (first.end_utc_ns - first.start_utc_ns) / NS < 20
    assert 0 <= (first.start_utc_ns - began_utc_ns) / NS < 1800
    times = [p.wall_time_utc_ns for p in first.trail]
    assert times == sorted(times)
    assert abs((last.start_utc_ns - first.start_utc_ns) / NS - by_s) < 60
    assert last.raw is not None and abs(last.raw.start_utc_ns - last.start_utc_ns) < 20 * NS
    (stepped,) = audit(tmp_path, "clock_stepped")
    assert abs(float(str(stepped["by_ms"])) - by_s * 1000) < 100


def test_a_board_that_woke_in_1970_gives_its_episodes_their_times_when_the_clock_is_set(tmp_path: Path) -> None:
    true_ns = time.time_ns()
    devices, clock = devices_of(tmp_path), SteppedClock(-true_ns)
    service = make(tmp_path, devices, clock)
    seen = []

    def set_when_the_first_is_over() -> bool:
        drafts = service.store.open_drafts()
        if not seen and any(d.content["clock_anchor"]["closed"] for d in drafts):
            seen.append(service.store.counts().episodes)
            assert drafts[0].content["start_utc_ns"] < 3600 * NS
            clock.step_ns = 0
        return bool(seen)

    asyncio.run(play(service, devices, set_when_the_first_is_over))
    for device in devices:
        device.stop()
    assert seen == [0], "no episode with a wrong time was committed"
    episodes = kept(tmp_path)
    assert episodes
    assert all(0 <= (e.start_utc_ns - true_ns) / NS < 3600 for e in episodes)
    assert all(e.trail[0].wall_time_utc_ns > true_ns for e in episodes)
    (stepped,) = audit(tmp_path, "clock_stepped")
    assert stepped["is_set"] is True


def test_times_come_right_even_if_the_process_ended_before_the_clock_was_set(tmp_path: Path) -> None:
    true_ns = time.time_ns()
    devices, clock = devices_of(tmp_path), SteppedClock(-true_ns)
    service = make(tmp_path, devices, clock)
    asyncio.run(play(service, devices, lambda: bool(service.store.open_drafts()) or service.keeper.n_waiting > 0))
    for device in devices:
        device.stop()
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        assert store.counts().episodes == 0
        n_drafts = store.counts().drafts
    assert n_drafts >= 1
    clock.step_ns = 0  # the same boot: the monotonic clock goes on
    again = make(tmp_path, devices, clock)

    async def start_and_stop() -> None:
        stop = asyncio.Event()
        stop.set()
        await again.run(stop)

    asyncio.run(start_and_stop())
    episodes = kept(tmp_path)
    assert len(episodes) == n_drafts
    assert all(0 <= (e.start_utc_ns - true_ns) / NS < 3600 for e in episodes)
    assert {e.ended for e in episodes} != {"restarted"}, "what was over stays as it ended"


def test_an_episode_of_another_boot_without_time_is_kept_and_the_audit_says_that_its_times_are_unknown(
    tmp_path: Path,
) -> None:
    devices, clock = devices_of(tmp_path), SteppedClock(-time.time_ns())
    service = make(tmp_path, devices, clock)
    asyncio.run(play(service, devices, lambda: bool(service.store.open_drafts()) or service.keeper.n_waiting > 0))
    for device in devices:
        device.stop()
    with EpisodeStore(tmp_path / "edge.db") as store:
        for d in store.open_drafts():
            store.save_draft(
                d.key, {**d.content, "clock_anchor": {**d.content["clock_anchor"], "boot_id": "other"}}, d.raw
            )
    clock.step_ns = 0

    async def start_and_stop() -> None:
        stop = asyncio.Event()
        stop.set()
        await make(tmp_path, devices, clock).run(stop)

    asyncio.run(start_and_stop())
    assert len(kept(tmp_path)) == len(audit(tmp_path, "times_unknown")) >= 1


def test_redating_moves_every_time_and_nothing_else() -> None:
    raw = pack_raw(np.ones((4, 1), np.float32), np.ones((4, 1), bool), ("a.acc_x",), start_utc_ns=50, rate_hz=50)
    fields = {
        "start_utc_ns": 100,
        "end_utc_ns": 200,
        "trail": [{"wall_time_utc_ns": 150, "score": 1}],
        "raw": {"start_utc_ns": 50, "sha256": "x", "n_bytes": 1, "rate_hz": 50.0},
        "abstentions": [{"code": "x", "figures": {"wall_time_utc_ns": 160, "truth": 1}}, {"code": "y"}],
        "subject": "p",
    }
    moved, blob = redate(fields, raw, by_ns=7)
    assert (moved["start_utc_ns"], moved["end_utc_ns"], moved["trail"][0]["wall_time_utc_ns"]) == (107, 207, 157)
    assert moved["abstentions"][0]["figures"] == {"wall_time_utc_ns": 167, "truth": 1}
    assert moved["abstentions"][1] == {"code": "y"}
    assert moved["subject"] == "p" and moved["raw"]["n_bytes"] == len(blob)
    with np.load(io.BytesIO(blob)) as after, np.load(io.BytesIO(raw)) as before:
        assert after["start_utc_ns"] == 57
        assert np.array_equal(after["counts"], before["counts"])
    assert redate(moved, blob, by_ns=-7)[1] == raw


def test_drift_is_followed_and_no_step_is_told() -> None:
    wall_ns = [time.time_ns()]
    start_ns = time.monotonic_ns()
    clock = WallClock(HostClock(wall_ns=lambda: wall_ns[0] + time.monotonic_ns() - start_ns))
    for _ in range(100):
        wall_ns[0] += 20_000_000
        assert clock.look() == 0
    wall_ns[0] -= 2 * NS
    assert clock.look() == pytest.approx(-2 * NS, abs=10**7)
    assert clock.is_set and not clock.was_set(3600 * NS)
