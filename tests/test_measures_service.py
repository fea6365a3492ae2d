"""Measures in a running gateway: booked beside the scoring, kept through kills, told upstream once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from measures_feeder import START_UTC_S, chunk, feed

from kinedge.edge.config import GatewayConfig
from kinedge.edge.hostclock import HostClock, RecordedClock
from kinedge.edge.measures.config import MeasuresConfig
from kinedge.edge.measures.day import Estimate
from kinedge.edge.measures.notice import episode_of
from kinedge.edge.measures.watch import Change
from kinedge.edge.measures_keeper import MeasuresKeeper
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError
from kinedge.signals import IMU6

FEEDER = Path(__file__).parent / "measures_feeder.py"
CHANGE = Change(
    part="arm", kind="one_arm_lower", measure="use_ratio", since_day=20_000, day=20_003,
    value=Estimate(0.42, 0.38, 0.47), expected=0.61, spread=0.05, shortfall=6.2, threshold=5.0, worn_h=11.5,
)  # fmt: skip


def rows_of(path):
    with EpisodeStore(path, read_only=True) as store:
        return {(r.level, r.start): r.content for r in MeasuresStore(store.database).rows()}


def test_what_was_fed_is_in_the_store_by_the_hour_and_the_day(tmp_path):
    asyncio.run(feed(tmp_path / "edge.db", 3590, 3610))
    rows = rows_of(tmp_path / "edge.db")
    assert {k[0]: v["worn_s"] for k, v in rows.items() if k[0] == "day"} == {"day": 20}
    assert [v["worn_s"] for k, v in sorted(rows.items()) if k[0] == "hour"] == [10, 10]


@pytest.mark.timeout(300)
def test_a_kill_loses_at_most_a_minute_and_counts_nothing_twice(tmp_path):
    store, first, end, kills = tmp_path / "edge.db", 0, 400, [95, 70, 110]
    for n in [*kills, None]:
        process = subprocess.Popen(
            [sys.executable, str(FEEDER), str(store), str(first), str(end)], stdout=subprocess.PIPE, text=True
        )
        seen = []
        for line in process.stdout:
            seen.append(line)
            if n is not None and len(seen) == n:
                process.kill()
                break
        else:
            assert n is None
        process.wait()
        process.stdout.close()
        assert not [line for line in seen if line.startswith("note")]
        first = int(seen[-1]) + 1
    (day,) = [content for (level, _), content in rows_of(store).items() if level == "day"]
    assert day["worn_s"] + day["missing_s"] == end
    assert 0 < day["missing_s"] <= 61 * len(kills)


def keeper_on(store, notes):
    return MeasuresKeeper(
        store, MeasuresConfig(timezone="UTC"), {"p-001": "left"}, site="s", gateway="g", config_digest="a" * 64,
        clock=RecordedClock(0, START_UTC_S * 10**9), note=notes.append,
    )  # fmt: skip


def test_a_change_becomes_one_episode_for_the_collector_even_if_it_is_told_twice(tmp_path):
    with EpisodeStore(tmp_path / "edge.db") as store:
        for _ in range(2):
            keeper = keeper_on(store, [])
            keeper._changes.append(("p-001", CHANGE))
            keeper.end()
            asyncio.run(keeper.run())
        (stored,) = store.episodes()
        assert store.counts().ready == 1
    envelope = stored.envelope
    assert envelope.change is not None and envelope.change.first_day == str(date.fromordinal(719_163 + 20_000))
    assert envelope.ended == "ongoing" and envelope.peak_score == pytest.approx(6.2 / 5)
    assert "the left wrist has done less beside the other arm" in envelope.sentence and "0.42" in envelope.sentence
    assert "0,42" in envelope.change.text["fr"] and "le poignet gauche" in envelope.change.text["fr"]
    assert envelope.change.low == 0.38 and envelope.contributions[0].sensor == "wrist_left"


def test_a_change_waits_while_the_disk_refuses(tmp_path, monkeypatch):
    notes = []
    with EpisodeStore(tmp_path / "edge.db") as store:
        keeper = keeper_on(store, notes)
        keeper._changes.append(("p-001", CHANGE))

        def refuse(*_, **__):
            raise StoreError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(store, "commit", refuse)
            keeper._keep()
        assert not store.episodes() and "tried again" in notes[0]
        keeper._keep()
        assert len(store.episodes()) == 1


def test_both_kinds_of_change_of_one_day_are_two_episodes():
    both = {**vars(CHANGE), "kind": "both_arms_lower", "measure": "active_share"}
    options = dict(subject="p", affected=None, zone_offset_s=0, end_utc_s=20_004 * 86_400, config_digest="a" * 64)
    first, second = (episode_of(c, MeasuresConfig(), kinedge_version="0", **options) for c in (CHANGE, Change(**both)))
    assert first["start_utc_ns"] == second["start_utc_ns"] and first["model_digest"] != second["model_digest"]


def test_a_sensor_without_an_angular_rate_is_told_once_and_left_alone(tmp_path):
    notes = []
    with EpisodeStore(tmp_path / "edge.db") as store:
        keeper = keeper_on(store, notes)
        for second in range(3):
            keeper.push("p-001", chunk("wrist_left", second), channels=(*IMU6[:5], "mag_x"), clock=None)
            keeper.push("p-001", chunk("lower_back", second), channels=IMU6, clock=None)
    assert len(notes) == 1 and "gyr_z" in notes[0]


def test_a_queue_that_is_full_lets_go_and_says_so(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("kinedge.edge.measures_keeper._MAX_WAITING", 4)
    with EpisodeStore(tmp_path / "edge.db") as store:
        keeper = keeper_on(store, notes)
        for second in range(10):
            keeper.push("p-001", chunk("wrist_left", second), channels=IMU6, clock=None)
        assert keeper.n_dropped == 6 and len(notes) == 1


def test_a_restarted_sensor_begins_anew_and_the_rest_of_the_second_is_not_invented(tmp_path):
    with EpisodeStore(tmp_path / "edge.db") as store:
        clock = RecordedClock(0, START_UTC_S * 10**9)
        keeper = MeasuresKeeper(
            store, MeasuresConfig(timezone="UTC"), {"p-001": None}, site="s", gateway="g", config_digest="a" * 64,
            clock=clock, note=lambda _: None,
        )  # fmt: skip

        async def run():
            running = asyncio.create_task(keeper.run())
            for second in range(40):
                for sensor in ("wrist_left", "wrist_right"):
                    part = chunk(sensor, second)
                    if sensor == "wrist_left" and second >= 20:  # its clock counts from nought again
                        part = type(part)(
                            sensor, part.device_time_ns - 20 * 10**9, part.values, part.valid, part.saturated,
                            part.interval_ns, boot_id=1, host_time_ns=part.host_time_ns,
                        )  # fmt: skip
                    keeper.push("p-001", part, channels=IMU6, clock=None)
                clock.move_to((second + 1) * 10**9)
                keeper.tick(clock.now_ns())
                await keeper.join()
            keeper.end()
            await running

        asyncio.run(run())
        (day,) = [r.content for r in MeasuresStore(store.database).rows(level="day")]
    assert day["worn_s"] + day["missing_s"] == 40 and day["worn_s"] >= 38


def test_nothing_is_booked_while_the_clock_is_not_set(tmp_path):
    notes, utc_ns = [], [5 * 10**9]
    with EpisodeStore(tmp_path / "edge.db") as store:
        clock = HostClock(wall_ns=lambda: utc_ns[0] + time.monotonic_ns())
        keeper = MeasuresKeeper(
            store, MeasuresConfig(timezone="UTC"), {"p-001": None}, site="s", gateway="g", config_digest="a" * 64,
            clock=clock, note=notes.append,
        )  # fmt: skip

        async def run():
            running = asyncio.create_task(keeper.run())
            for second in range(20):
                if second == 8:
                    utc_ns[0] = 1_800_000_000 * 10**9
                keeper.tick((second + 1) * 10**9)
                for sensor in ("wrist_left", "wrist_right"):
                    keeper.push("p-001", chunk(sensor, second), channels=IMU6, clock=None)
                await keeper.join()
            keeper.end()
            await running

        asyncio.run(run())
        days = MeasuresStore(store.database).rows(level="day")
    assert [d.start for d in days] == [1_800_000_000 // 86_400]
    assert days[0].content["worn_s"] <= 12 and notes == ["nothing is measured until this machine's clock is set"]


def test_measures_and_the_weaker_side_are_read_from_the_configuration():
    base = {"site": "s", "gateway": "g", "people": [{"subject": "p", "devices": [{"port": "/dev/null"}]}]}
    assert GatewayConfig.model_validate(base).measures is None
    person = {**base["people"][0], "affected": "right"}
    config = GatewayConfig.model_validate({**base, "people": [person], "measures": {"legs": ["ankle_left"]}})
    assert config.measures.sensors() == ("wrist_left", "wrist_right", "ankle_left")
    assert config.people[0].affected == "right" and np.isclose(config.measures.min_worn_h, 6)
