"""``kinedge measures``: recordings and stores, as tables, JSON, CSV and a picture; and the same from a live gateway."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from measures_feeder import START_UTC_S, chunk

from kinedge.cli.app import main
from kinedge.edge.config import GatewayConfig
from kinedge.edge.hostclock import HostClock
from kinedge.edge.measures.person import MeasuresRow
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.signals import SensorSpec
from kinedge.training.scenario import demo_recording

DAY = START_UTC_S // 86_400


def record(folder, seconds, *, start_s=0, subject="p-007", sensors=("wrist_left", "wrist_right")):
    """Write a session of both wrists that begins so many seconds after ten o'clock."""
    wall, host = (START_UTC_S + start_s) * 10**9, start_s * 10**9
    with SessionWriter(folder, facts={"subject": subject}, clock=lambda: host, wall_clock=lambda: wall) as writer:
        for sensor in sensors:
            writer.describe(SensorSpec(sensor))
        for second in range(start_s, start_s + seconds):
            for sensor in sensors:
                writer.write(chunk(sensor, second))


def row(day, ratio, *, state=None, worn_s=36_000.0):
    content = {
        "worn_s": worn_s, "unworn_s": 0.0, "missing_s": 60.0, "walking_s": 900.0, "complete": state is not None,
        "measures": {
            "use_ratio": {"value": ratio, "low": ratio - 0.05, "high": ratio + 0.05, "unit": ""},
            "active_share": {"value": 0.31, "low": None, "high": None, "unit": ""},
        },
    }  # fmt: skip
    if state is not None:
        trend = {"state": "lower" if state == "one_arm_lower" else state, "expected": 0.7, "spread": 0.05, "short": 1.0}
        content["watched"] = {"state": state, "trends": {"use_ratio": trend}}
    return MeasuresRow("arm", "day", day, content)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "edge.db"
    with EpisodeStore(path) as opened:
        states = ["as_usual", "unsure", "one_arm_lower", None]
        rows = [row(DAY + i, 0.7 - 0.1 * i, state=s) for i, s in enumerate(states)]
        MeasuresStore(opened.database).save("p-001", rows, {})
    return path


def test_a_recording_is_measured_by_the_same_code(tmp_path, capsys):
    record(tmp_path / "all" / "b", 40, start_s=600)
    record(tmp_path / "all" / "a", 60)
    assert main(["measures", str(tmp_path / "all"), "--json", "--timezone", "UTC"]) == 0
    (day,) = json.loads(capsys.readouterr().out)
    assert day["subject"] == "p-007" and day["part"] == "arm" and day["worn_s"] == pytest.approx(100, abs=2)
    assert day["missing_s"] == pytest.approx(540, abs=2)  # between the two
    assert day["start_local"] == "2023-11-14" and day["measures"]["use_ratio"]["value"] == pytest.approx(1, abs=0.05)


def test_a_segment_stands_for_its_recording_and_hours_can_be_asked_for(tmp_path, capsys):
    record(tmp_path / "one", 30, start_s=3590)
    segment = next((tmp_path / "one").glob("segment-*.parquet"))
    assert main(["measures", str(segment), "--csv", "--hours", "--timezone", "UTC"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    worn = {line["start_local"]: float(line["worn_s"]) for line in lines}
    assert worn == {"2023-11-14T10:00": pytest.approx(10, abs=1), "2023-11-14T11:00": pytest.approx(20, abs=1)}
    assert {"use_ratio", "active_h_left"} <= {line["measure"] for line in lines}


def test_a_recording_without_the_sensors_says_what_is_there(tmp_path, capsys):
    record(tmp_path / "one", 5, sensors=("ankle_left",))
    assert main(["measures", str(tmp_path / "one")]) == 1
    assert re.search("here are ankle_left; see --legs", " ".join(capsys.readouterr().err.split()))


def test_legs_of_a_recording_are_measured_when_they_are_named(tmp_path, capsys):
    record(tmp_path / "one", 20, sensors=("ankle_left", "ankle_right"))
    legs = ["--legs", "ankle_left", "--legs", "ankle_right", "--leg-rate", "50"]
    assert main(["measures", str(tmp_path / "one"), *legs, "--json"]) == 0
    (day,) = json.loads(capsys.readouterr().out)
    assert day["part"] == "gait" and day["worn_s"] == pytest.approx(20, abs=1)
    assert day["measures"]["steps_left"]["value"] == 0  # arms that reach are no steps


def test_a_week_is_a_table_with_two_numbers_and_what_they_mean(store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["measures", str(store), "all"]) == 0
    told = capsys.readouterr().out
    assert "0.70 0.65 to 0.75" in told and "0.31" in told and "10:00" in told
    assert "unsure" in told and "one arm does less than its trend" in told and "not over yet" in told


def test_nothing_today_is_said_so(store, capsys):
    assert main(["measures", str(store)]) == 0
    assert "nothing was measured today" in " ".join(capsys.readouterr().out.split())


def test_the_picture_shows_every_day_and_marks_the_one_that_fell_short(store, tmp_path):
    assert main(["measures", str(store), "all", "--plot", str(tmp_path / "p.svg")]) == 0
    root = ET.parse(tmp_path / "p.svg").getroot()
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    ratio = [c for c in circles if c.get("stroke") == "#c0392b"]
    assert len(circles) == 8 and len(ratio) == 1 and ratio[0].get("fill") == "#c0392b"
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polygon")) == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--json", "--csv"], "choose one"),
        (["--plot", "p.png"], "drawn as SVG"),
    ],
)
def test_wishes_that_exclude_each_other_are_refused(store, more, says, capsys):
    assert main(["measures", str(store), *more]) == 1
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_gateway_that_measures_nothing_says_how_to(tmp_path, capsys):
    config = tmp_path / "gateway.toml"
    config.write_text('site = "s"\ngateway = "g"\n[[people]]\nsubject = "p"\ndevices = [{ port = "/dev/null" }]\n')
    assert main(["measures", str(config)]) == 1
    assert "add a [measures] table" in " ".join(capsys.readouterr().err.split())


@pytest.mark.timeout(180)
def test_a_gateway_with_sensors_on_ttys_keeps_the_day_of_each_person(tmp_path: Path, capsys) -> None:
    speed = 6.0
    recording = demo_recording(seed=3, duration_s=30, events=())
    devices = play_on_ptys(recording, tmp_path / "ttys", speed=speed)
    config = GatewayConfig.model_validate(
        {
            "site": "s", "gateway": "g", "store": tmp_path / "edge.db", "max_delay_s": 1.5, "measures": {},
            "people": [{"subject": "p-001", "devices": [{"port": str(d.link_path)} for d in devices.values()]}],
        }
    )  # fmt: skip
    service = EdgeService(config, host_clock=HostClock(speed=speed))

    async def serve():
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        for device in devices.values():
            device.start()
        while not serving.done() and not all(d.finished for d in devices.values()):
            await asyncio.wait([serving], timeout=0.02)
        await asyncio.sleep(0.3)
        stop.set()
        await serving
        for device in devices.values():
            await asyncio.to_thread(device.stop)

    asyncio.run(serve())
    assert main(["measures", str(tmp_path / "edge.db"), "all", "--json"]) == 0
    (day,) = json.loads(capsys.readouterr().out)
    assert day["subject"] == "p-001" and day["worn_s"] + day["missing_s"] >= 24 and day["worn_s"] >= 20
