"""``kinedge record`` keeps what devices send; ``kinedge doctor`` says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import numpy as np
import pytest

from kinedge.cli.app import main
from kinedge.cli.doctor import check_model
from kinedge.cli.record import Progress, open_links, record_links
from kinedge.cli.surroundings import check_port, hear_port
from kinedge.edge.backends import NativeBackend
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.native import implementation, library
from kinedge.errors import ConfigError, StoreError
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.recorded import read_session
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.signals import SensorSpec

pytest.importorskip("pyarrow", reason="the extra 'record' is not installed")

import kinedge.cli.doctor
import kinedge.cli.record  # noqa: F401  both register their command

TIMEOUT_S = 20.0
RATE_HZ = 100.0


def device(folder: Path, sensor: str = "wrist_left", *, n: int = 100_000, loss: float = 0.0) -> PtyDevice:
    hello = make_hello(SensorSpec(sensor), rate_hz=RATE_HZ)
    counts = (np.arange(n * 6).reshape(n, 6) % 30_000).astype(np.int16)
    return PtyDevice(EmulatedImu(hello, counts, faults=Faults(loss=loss), seed=3), link_path=folder / sensor, speed=4)


def record_until(
    links_of: list[str], writer: SessionWriter, wanted: int, progress: Progress, *, sensors: list[str] | None = None
) -> None:
    """Record until every sensor has so many samples."""

    async def run() -> None:
        stop = asyncio.Event()

        def on_tick() -> None:
            if progress.samples and min(progress.samples.values()) >= wanted:
                stop.set()

        links = open_links(links_of, sensors or [], rate_hz=RATE_HZ, baud=115_200)
        await asyncio.wait_for(
            record_links(links, writer, stop=stop, progress=progress, on_tick=on_tick), timeout=TIMEOUT_S
        )

    asyncio.run(run())


def test_record_keeps_every_sample_of_two_devices_and_counts_what_was_lost(tmp_path: Path) -> None:
    progress = Progress()
    with (
        device(tmp_path) as left,
        device(tmp_path, "wrist_right", loss=0.2) as right,
        SessionWriter(tmp_path / "s", segment_s=0.5) as writer,
    ):
        ports = [str(d.link_path) for d in (left, right)]
        record_until(ports, writer, 600, progress)
    session = read_session(tmp_path / "s")
    assert session.complete
    assert set(session.sensors) == {"wrist_left", "wrist_right"}
    for name in session.sensors:
        chunks = [c for c in session.chunks() if c.sensor == name]
        assert sum(map(len, chunks)) == progress.samples[name] >= 600
        assert sum(c.lost for c in chunks) == progress.lost[name]
        times = np.concatenate([c.device_time_ns for c in chunks])
        span = round((times[-1] - times[0]) / 1e9 * RATE_HZ) + 1
        assert len(times) + sum(c.lost for c in chunks) == span
    assert progress.lost["wrist_left"] == 0 < progress.lost["wrist_right"]
    kinds = [e["kind"] for e in session.events]
    assert kinds.count("device") >= 2
    assert kinds.count("link_opened") == 2
    exchange = next(e for e in session.events if e["kind"] == "clock_exchange")
    t1_ns, t2_ns, t3_ns, t4_ns = exchange["times_ns"]
    assert t1_ns < t4_ns
    assert t2_ns <= t3_ns


def test_record_goes_on_after_a_cable_was_pulled(tmp_path: Path) -> None:
    progress = Progress()

    async def run() -> None:
        stop, pulled = asyncio.Event(), False

        def on_tick() -> None:
            nonlocal pulled
            seen = progress.samples.get("wrist_left", 0)
            if not pulled and seen >= 100:
                left.unplug()
                pulled = True
            elif pulled and "unplugged" in progress.note:
                left.replug()
                progress.note = ""
            elif pulled and progress.lost["wrist_left"] and seen >= 300:
                stop.set()

        links = open_links([str(left.link_path)], [], rate_hz=RATE_HZ, baud=115_200)
        await asyncio.wait_for(record_links(links, writer, stop=stop, progress=progress, on_tick=on_tick), TIMEOUT_S)

    with device(tmp_path) as left, SessionWriter(tmp_path / "s") as writer:
        asyncio.run(run())
    session = read_session(tmp_path / "s")
    kinds = [e["kind"] for e in session.events]
    assert [k for k in kinds if k.startswith("link")][:3] == ["link_opened", "link_closed", "link_opened"]
    assert sum(c.lost for c in session.chunks()) == progress.lost["wrist_left"] > 0


def test_a_place_given_by_hand_names_the_sensor(tmp_path: Path) -> None:
    progress = Progress()
    with device(tmp_path) as left, SessionWriter(tmp_path / "s") as writer:
        record_until([], writer, 50, progress, sensors=[f"lower_back=kinedge@{left.link_path}"])
    assert list(read_session(tmp_path / "s").sensors) == ["lower_back"]


def test_two_devices_for_one_place_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    progress = Progress()
    with (
        device(tmp_path) as one,
        device(tmp_path / "other") as two,
        SessionWriter(tmp_path / "s") as writer,
    ):
        record_until([str(d.link_path) for d in (one, two)], writer, 300, progress)
    session = read_session(tmp_path / "s")
    (doubt,) = [e["text"] for e in session.events if e["kind"] == "doubt"]
    assert "it is not recorded" in doubt
    times = np.concatenate([c.device_time_ns for c in session.chunks()])
    assert (np.diff(times) > 0).all()


def test_record_ends_with_one_error_when_the_disk_refuses(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    writer = SessionWriter(folder, segment_s=0.2)
    folder.rename(tmp_path / "away")
    with device(tmp_path) as left, pytest.raises(StoreError, match="cannot be written"):
        record_until([str(left.link_path)], writer, 10**9, Progress())


@pytest.mark.parametrize(
    ("ports", "sensors", "says"),
    [
        ([], [], "nothing to record"),
        (["/dev/x", "/dev/x"], [], "stands twice"),
        ([], ["wrist_left"], "PLACE=FAMILY@WHERE"),
        ([], ["wrist_left=kinedge@"], "PLACE=FAMILY@WHERE"),
        ([], ["wrist_left=nothing@/dev/x"], "no device family"),
        ([], ["Wrist=kinedge@/dev/x"], "lower case"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    ports: list[str], sensors: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        open_links(ports, sensors, rate_hz=RATE_HZ, baud=115_200)


def test_record_command_tells_what_it_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with device(tmp_path) as left:
        arguments = ["record", str(tmp_path / "s"), "--port", str(left.link_path), "--duration", "1.5", "--json"]
        assert main([*arguments, "--subject", "p-001"]) == 0
    told = json.loads(capsys.readouterr().out)
    session = read_session(tmp_path / "s")
    assert told["sensors"]["wrist_left"]["samples"] == sum(map(len, session.chunks())) > 0
    assert session.manifest["facts"] == {"subject": "p-001"}


def test_record_command_fails_when_nothing_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", str(tmp_path / "s"), "--port", str(tmp_path / "none"), "--duration", "0.5"]) == 1
    assert "is not there" in capsys.readouterr().err
    assert main(["record", str(tmp_path / "t")]) == 1
    assert not (tmp_path / "t").exists()


def test_doctor_hears_a_device_with_its_rate(tmp_path: Path) -> None:
    with device(tmp_path) as left:
        finding = asyncio.run(hear_port(str(left.link_path), listen_s=1.0))
    assert finding.state == "ok"
    assert "wrist_left" in finding.text
    assert "at 100.0 Hz, 0 lost" in finding.text


def test_doctor_exits_with_1_when_a_wanted_port_is_missing_and_0_when_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with device(tmp_path) as left:
        assert main(["doctor", "--port", str(left.link_path), "--json"]) == 0
    findings = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings[f"port {left.link_path}"]["state"] == "ok"
    assert findings["onnxruntime"]["state"] == "ok"
    assert "bluetooth" in findings
    assert main(["doctor", "--port", str(tmp_path / "none")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "broken" in shown
    assert "plug the device in" in shown


def test_doctor_loads_the_shipped_model_and_tells_a_damaged_one(tmp_path: Path) -> None:
    good = check_model(DEFAULT_BUNDLE)
    assert good.state == "ok"
    assert ("native cpu fp32" if library() else "onnxruntime") in good.text
    damaged = tmp_path / "x.kinedge"
    data = bytearray(DEFAULT_BUNDLE.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    found = check_model(damaged)
    assert (found.state, bool(found.advice)) == ("broken", True)


@pytest.mark.skipif(library() is None, reason=implementation())
def test_doctor_tells_a_native_step_that_computes_otherwise_than_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    step = NativeBackend.step

    def wrong(self: NativeBackend, x: np.ndarray, mask: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, ...]:
        mu, log_sigma, after = step(self, x, mask, state)
        return mu * np.float32(1.001), log_sigma, after

    monkeypatch.setattr(NativeBackend, "step", wrong)
    found = check_model(DEFAULT_BUNDLE)
    assert found.state == "broken"
    assert "from ONNX Runtime" in found.text
    assert 'backend = ["onnx"]' in found.advice


def test_doctor_says_how_to_get_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = tmp_path / "ttyACM0"
    port.touch()
    port.chmod(0o660)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may everything
    found = check_port(str(port))
    assert found.state == "broken"
    assert "usermod -aG" in found.advice or "udev rule" in found.advice
    assert check_port(str(port), needed=False).state == "note"
