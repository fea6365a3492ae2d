"""A gateway over Bluetooth, end to end on a virtual radio: two wrists, an anomaly, a sensor that leaves and returns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from virtual_ble import ImuPeripheral, Room, wait_until

from kinedge.edge.caution import Decision
from kinedge.edge.config import GatewayConfig, load_gateway_config
from kinedge.edge.service import EdgeService
from kinedge.edge.verdict import Verdict
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.emulator import EmulatedImu, counts_from_si, make_hello
from kinedge.training.scenario import DemoEvent, demo_recording

ADDRESSES = {"wrist_left": "F0:00:00:00:00:01", "wrist_right": "F0:00:00:00:00:02"}


def gateway(tmp_path: Path) -> GatewayConfig:
    devices = [{"ble": a, "sensor": s, "family": "kinedge"} for s, a in ADDRESSES.items()]
    return GatewayConfig.model_validate(
        {
            "site": "s",
            "gateway": "g",
            "store": tmp_path / "edge.db",
            "people": [{"subject": "p", "devices": devices}],
            "max_delay_s": 0.5,
        }
    )


@pytest.mark.timeout(180)
def test_two_wrists_over_bluetooth_give_verdicts_and_a_lost_one_is_named(tmp_path: Path) -> None:
    recording = demo_recording(seed=5, duration_s=60, events=(DemoEvent("noise_burst", "wrist_left", 20, 59),))
    verdicts: list[Verdict] = []

    async def main() -> EdgeService:
        async with Room() as room:
            peripherals = {}
            for spec in recording.sensors:
                hello = make_hello(spec, rate_hz=50, serial=f"SN-{spec.name}")
                counts = counts_from_si(recording.values[:, recording.columns(spec.name)], hello=hello)
                device = ImuPeripheral(EmulatedImu(hello, counts), ADDRESSES[spec.name])
                peripherals[spec.name] = await room.add(device)
            service = EdgeService(gateway(tmp_path), on_scored=lambda _, v: verdicts.append(v), radio=room.radio)
            stop = asyncio.Event()
            serving = asyncio.create_task(service.run(stop))
            await wait_until(lambda: any(v.decision is Decision.ANOMALOUS for v in verdicts))
            right = peripherals["wrist_right"]
            assert isinstance(right, ImuPeripheral)
            right.stalled = True
            await wait_until(lambda: bool(verdicts) and verdicts[-1].sensor_missing["wrist_right"] == 1)
            right.stalled = False
            await wait_until(lambda: verdicts[-1].sensor_missing["wrist_right"] == 0)
            stop.set()
            await serving
            return service

    service = asyncio.run(main())
    loud = next(v for v in verdicts if v.decision is Decision.ANOMALOUS)
    assert loud.top_sensor == "wrist_left"
    assert any(r.text == "no data from wrist_right" for v in verdicts for r in v.reasons)
    assert {h.serial for h in service.health.values()} == {"SN-wrist_left", "SN-wrist_right"}
    assert all(h.samples > 100 for h in service.health.values())


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ('{ sensor = "wrist_left" }', "either port"),
        ('{ port = "/dev/x", ble = "y" }', "either port"),
        ('{ ble = "AA:BB", family = "polar_pmd" }', "sensor must say where"),
        ('{ port = "/dev/x", rate = 50 }', "did you mean 'rate_hz'"),
    ],
)
def test_a_device_that_cannot_be_meant_is_refused_when_the_file_is_read(
    tmp_path: Path, device: str, message: str
) -> None:
    path = tmp_path / "g.toml"
    path.write_text(f'site = "s"\ngateway = "g"\n[[people]]\nsubject = "p"\ndevices = [{device}]\n')
    with pytest.raises(ConfigError, match=message):
        load_gateway_config(path)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ('{ port = "/dev/x", family = "polar_pmd", sensor = "chest" }', "polar_pmd speaks over ble only"),
        ('{ ble = "AA", family = "dance", sensor = "chest" }', "no device family 'dance'"),
        ('{ ble = "AA", struct_map = "absent.toml", sensor = "chest" }', "absent.toml"),
    ],
)
def test_a_device_that_cannot_do_what_is_asked_is_refused_before_anything_starts(
    tmp_path: Path, device: str, message: str
) -> None:
    path = tmp_path / "g.toml"
    path.write_text(f'site = "s"\ngateway = "g"\n[[people]]\nsubject = "p"\ndevices = [{device}]\n')
    with pytest.raises(ConfigError, match=message):
        EdgeService(load_gateway_config(path))
