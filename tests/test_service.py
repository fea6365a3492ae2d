"""The edge service on real ttys with a real collector: found, kept, synced; cables pulled, restarts survived."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from kinedge.cli.session import running_collector
from kinedge.edge.caution import Decision
from kinedge.edge.config import GatewayConfig, load_gateway_config
from kinedge.edge.hostclock import HostClock
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Verdict
from kinedge.envelope import parse_envelope
from kinedge.errors import BundleError, ConfigError
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, counts_from_si, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.scenario import DemoEvent, demo_recording
from kinedge.units import STANDARD_GRAVITY_M_S2

SPEED = 6.0


def gateway(tmp_path: Path, ports: list[Path], **changes: object) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "site": "clinic",
            "gateway": "gw-1",
            "store": tmp_path / "edge.db",
            "people": [{"subject": "p-001", "devices": [{"port": str(p)} for p in ports]}],
            "max_delay_s": 1.5,
            **changes,
        }
    )


async def serve(
    service: EdgeService, devices: list[PtyDevice], script: Callable[[], None] | None = None, *, at_verdict: int = 0
) -> bool:
    """Run a service while devices play; ``script`` is called once, after so many verdicts."""
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    for device in devices:
        device.start()
    called = script is None
    try:
        while not serving.done() and not all(d.finished for d in devices):
            await asyncio.wait([serving], timeout=0.02)
            if not called and getattr(service, "seen", 0) >= at_verdict:
                called = True
                await asyncio.to_thread(script)  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        return await service.finish(timeout_s=20) if not serving.done() else False
    finally:
        stop.set()
        await serving
        for device in devices:
            await asyncio.to_thread(device.stop)


def make_service(config: GatewayConfig, verdicts: list[Verdict], *, speed: float = SPEED) -> EdgeService:
    def take(_: object, verdict: Verdict) -> None:
        verdicts.append(verdict)
        service.seen = len(verdicts)  # type: ignore[attr-defined]

    service = EdgeService(config, host_clock=HostClock(speed=speed), on_scored=take)
    return service


def test_an_anomaly_on_the_wire_ends_as_one_synced_episode_at_the_right_sensor(tmp_path: Path) -> None:
    recording = demo_recording(seed=1, duration_s=40, events=(DemoEvent("noise_burst", "wrist_right", 18, 26),))
    devices = play_on_ptys(recording, tmp_path / "ttys", speed=SPEED, faults=Faults(loss=0.02, mean_burst=2))
    verdicts: list[Verdict] = []
    with running_collector(tmp_path) as url:
        ports = [d.link_path for d in devices.values()]
        service = make_service(gateway(tmp_path, ports, uplink={"url": url}), verdicts)
        assert asyncio.run(serve(service, list(devices.values())))
        listed = httpx.get(f"{url}/v1/episodes").json()["episodes"]
        with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
            kept = [s.envelope for s in store.episodes()]
        loud = [e for e in kept if e.peak_score > 1.5]
        assert len(loud) == 1
        assert loud[0].contributions[0].sensor == "wrist_right"
        assert {e["id"] for e in listed} == {e.id for e in kept}
        body = httpx.get(f"{url}/v1/episodes/{loud[0].id}").content
        assert parse_envelope(body) == loud[0]
        raw = httpx.get(f"{url}/v1/episodes/{loud[0].id}/raw").content
    arrays = np.load(io.BytesIO(raw), allow_pickle=False)
    assert arrays["counts"].shape == (loud[0].raw.n_samples, 12)  # type: ignore[union-attr]
    sent, lost = (sum(getattr(h, f) for h in service.health.values()) for f in ("samples", "lost"))
    assert lost > 0
    assert sent + lost == pytest.approx(2 * len(recording), abs=120)  # what a device says before it is heard


def test_a_pulled_cable_is_said_as_no_data_and_coming_back_resumes_by_itself(tmp_path: Path) -> None:
    recording = demo_recording(seed=2, duration_s=42, events=())
    devices = play_on_ptys(recording, tmp_path / "ttys", speed=SPEED)
    left = devices["wrist_left"]
    verdicts: list[Verdict] = []
    service = make_service(gateway(tmp_path, [d.link_path for d in devices.values()]), verdicts)

    def pull_and_push() -> None:
        left.unplug()
        n = len(verdicts)
        while len(verdicts) < n + 10:
            if left.finished:
                break
            time.sleep(0.02)
        left.replug()

    asyncio.run(serve(service, list(devices.values()), pull_and_push, at_verdict=8))
    first = [v.reasons[0].text if v.reasons else "" for v in verdicts]
    gone = [i for i, text in enumerate(first) if text == "no data from wrist_left"]
    assert len(gone) >= 5
    assert all(verdicts[i].decision is Decision.UNSURE for i in gone)
    after = [v for v in verdicts[gone[-1] + 4 : -2]]
    assert after
    assert all(v.sensor_missing["wrist_left"] < 0.2 for v in after)
    assert any("unplugged" in n for n in service.notes)


def test_a_sensor_whose_scale_is_in_g_raises_no_alarm_and_is_named(tmp_path: Path) -> None:
    recording = demo_recording(seed=4, duration_s=36, events=())
    values = recording.values.copy()
    values[:, :3] /= STANDARD_GRAVITY_M_S2
    devices = play_on_ptys(replace(recording, values=values), tmp_path / "ttys", speed=SPEED)
    verdicts: list[Verdict] = []
    service = make_service(gateway(tmp_path, [d.link_path for d in devices.values()]), verdicts)
    asyncio.run(serve(service, list(devices.values())))
    later = [v for v in verdicts if v.end_tick >= verdicts[0].end_tick + 12 * 50]
    assert len(later) >= 10
    assert {v.decision for v in later} == {Decision.UNSURE}
    assert {(v.reasons[0].code, v.reasons[0].sensor) for v in later} == {("units", "wrist_left")}
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        assert not [s.envelope for s in store.episodes() if s.envelope.peak_score > 1.5]


def test_an_episode_open_at_a_crash_is_kept_at_the_restart(tmp_path: Path) -> None:
    recording = demo_recording(seed=3, duration_s=30, events=(DemoEvent("noise_burst", "wrist_left", 12, 29),))
    devices = play_on_ptys(recording, tmp_path / "ttys", speed=SPEED)
    config = gateway(tmp_path, [d.link_path for d in devices.values()])

    async def crash() -> None:
        service = make_service(config, [])
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        for device in devices.values():
            device.start()
        while not service.store.open_drafts():
            await asyncio.sleep(0.02)
        before = service.store.counts()
        assert before.episodes == 0
        # what a kill leaves behind: no builder is closed
        service.episodes.builders.clear()
        stop.set()
        await serving

    async def again() -> EdgeService:
        service = make_service(config, [])
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        while not any("open at the restart" in n for n in service.notes):
            await asyncio.sleep(0.02)
        stop.set()
        await serving
        return service

    asyncio.run(crash())
    for device in devices.values():
        device.stop()
    asyncio.run(again())
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        (kept,) = [s.envelope for s in store.episodes()]
        assert kept.ended == "restarted"
        assert kept.contributions[0].sensor == "wrist_left"
        assert store.counts().drafts == 0
        assert store.raw(kept.id) is not None


def person_device(tmp_path: Path, name: str, sensor: str, recording: Recording) -> PtyDevice:
    hello = make_hello(SensorSpec(sensor), rate_hz=50, serial=name)
    counts = counts_from_si(recording.values[:, :6], hello=hello)
    return PtyDevice(EmulatedImu(hello, counts), link_path=tmp_path / name, speed=SPEED)


def test_a_second_sensor_that_claims_the_same_place_is_not_mixed_in(tmp_path: Path) -> None:
    r = demo_recording(seed=4, duration_s=12, events=())
    devices = [person_device(tmp_path, n, s, r) for n, s in (("a", "wrist_left"), ("b", "wrist_left"), ("c", "chest"))]
    service = make_service(gateway(tmp_path, [d.link_path for d in devices]), [])
    asyncio.run(serve(service, devices))
    assert sum("it is not used" in n for n in service.notes) >= 1
    assert any("chest is not used by the model, which expects wrist_left, wrist_right" in n for n in service.notes)
    assert service.health[("p-001", "wrist_left")].samples == pytest.approx(600, abs=20)


def test_configuration_mistakes_are_told_with_what_where_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    head = 'site = "s"\ngateway = "g"\n'
    person = '[[people]]\nsubject = "p"\ndevices = [{ port = "/dev/x" }]\n'
    for text, message in [
        (head + person + '[[people]]\nsubject = "p"\ndevices = [{ port = "/dev/y" }]\n', "subject p stands twice"),
        (head + person + '[[people]]\nsubject = "q"\ndevices = [{ port = "/dev/x" }]\n', "device /dev/x stands twice"),
        (head + 'bundel = "m"\n' + person, "did you mean 'bundle'"),
        (head + person + "[caution]\nmiss_cost = 20\n", r"caution\.miss_cost"),
        (head + person + "[episodes]\nopen_hits = 5\n", "cannot be more than"),
        (head.replace('"s"', '"Jane Doe"') + person, "site"),
        (head, "people"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_gateway_config(path)
    path.write_text(head + 'store = "x.db"\nbundle = "absent.kinedge"\n' + person)
    config = load_gateway_config(path)
    assert config.store == tmp_path / "x.db"
    with pytest.raises(BundleError, match=r"absent\.kinedge: cannot be read"):
        EdgeService(config)


def test_the_configuration_digest_follows_what_decides_and_not_where_things_lie(tmp_path: Path) -> None:
    a = gateway(tmp_path, [Path("/dev/a")])
    assert a.digest() == gateway(tmp_path / "elsewhere", [Path("/dev/b")]).digest()
    assert a.digest() != gateway(tmp_path, [Path("/dev/a")], caution={"miss_cost": 2.0}).digest()
