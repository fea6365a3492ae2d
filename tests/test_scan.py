"""``kinedge scan`` tells which sensors are near, on the air and on the ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bumble", reason="the virtual radio needs bumble, of the extra 'dev'")

from virtual_ble import ImuPeripheral, Peripheral, Room
from virtual_uart import Uart

import kinedge.cli.scan  # noqa: F401  registers its command
from kinedge.cli.app import main
from kinedge.cli.scan import Surroundings, look_around, tell
from kinedge.cli.surroundings import BROKEN, NOTE, OK, Finding, check_port, hear_port
from kinedge.errors import LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio, Heard
from kinedge.firmware_bridge.device import Advertisement
from kinedge.firmware_bridge.devices.emulated_serial import EmulatedSerial, PtyLine
from kinedge.firmware_bridge.devices.emulated_shimmer3 import EmulatedShimmer3
from kinedge.firmware_bridge.devices.emulated_witmotion import EmulatedWitMotion
from kinedge.firmware_bridge.devices.emulated_xsens_mti import EmulatedXsensMti
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.ports import SerialPort
from kinedge.signals import SensorSpec

TIMEOUT_S = 60.0
STILL = np.tile([0.0, 0.0, 9.81, 0.0, 0.0, 0.0], (20_000, 1))


def run(doing: Coroutine[Any, Any, Surroundings]) -> Surroundings:
    return asyncio.run(asyncio.wait_for(doing, TIMEOUT_S))


def imu() -> EmulatedImu:
    return EmulatedImu(make_hello(SensorSpec("wrist_left"), rate_hz=100.0), np.zeros((100_000, 6), np.int16), seed=1)


class Chatter:
    """A device of no known family."""

    def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
        self.asked = data

    def advance(self, elapsed_ns: int) -> bytes:
        return b"temperature 21.5\r\n"


def test_scan_tells_the_family_and_strength_of_what_is_on_the_air() -> None:
    async def look() -> Surroundings:
        async with Room() as room:
            await room.add(ImuPeripheral(imu(), "F0:00:00:00:00:01", name="left one"))
            await room.add(Peripheral("Polar H10 12345678", "F0:00:00:00:00:02", services={}))
            await room.add(Peripheral("Movella DOT", "F0:00:00:00:00:03", services={}))
            await room.add(Peripheral("Fridge", "F0:00:00:00:00:04", services={}))
            return await look_around(room.radio, [], seconds=1.0, listen_s=0.0)

    found = run(look())
    assert found.bluetooth.state == OK
    families = {h.advertisement.name: h.families for h in found.heard}
    assert families == {
        "left one": ("kinedge",),
        "Polar H10 12345678": ("polar_pmd",),
        "Movella DOT": ("movella_dot",),
        "Fridge": (),
    }
    assert all(isinstance(h.advertisement.rssi_dbm, int) for h in found.heard)


def test_scan_listens_to_a_port_only_when_told_to(tmp_path: Path) -> None:
    async def look(listen_s: float) -> Surroundings:
        async with Room() as room:
            return await look_around(room.radio, [str(device.link_path)], seconds=0.1, listen_s=listen_s)

    with PtyDevice(imu(), link_path=tmp_path / "tty") as device:
        silent, listened = run(look(0.0)), run(look(1.0))
    about = f"heard on {device.link_path}"
    assert about not in [f.what for f in silent.ports]
    assert [f.state for f in silent.ports if f.what == f"port {device.link_path}"] == [OK]
    (heard,) = [f for f in listened.ports if f.what == about]
    assert "wrist_left" in heard.text
    assert heard.configure == 'serial_number = "EMULATED"'
    assert "0 lost" in heard.text


@pytest.mark.parametrize(
    ("device", "state", "says", "configure"),
    [
        (EmulatedWitMotion(STILL), OK, "witmotion at 115200 baud", 'family = "witmotion", baud = 115200'),
        (
            EmulatedXsensMti(STILL),
            OK,
            "xsens_mti at 115200 baud",
            'family = "xsens_mti", baud = 115200, serial_number = "037003F8"',
        ),
        (
            EmulatedShimmer3(STILL, name="left"),
            OK,
            "shimmer3 at 115200 baud",
            'family = "shimmer3", baud = 115200, serial_number = "left"',
        ),
        (Chatter(), NOTE, "bytes, but of no known family", ""),
    ],
)
def test_a_port_where_another_protocol_is_spoken_is_told_by_its_family(
    device: EmulatedSerial, state: str, says: str, configure: str, tmp_path: Path
) -> None:
    with PtyLine(device, link_path=tmp_path / "tty"):
        found = asyncio.run(asyncio.wait_for(hear_port(str(tmp_path / "tty"), listen_s=1.0), TIMEOUT_S))
    assert (found.state, says in found.text) == (state, True), found.text
    assert found.configure == configure


@pytest.mark.parametrize("baud", [9600, 57_600, 230_400])
def test_the_line_speed_of_a_device_is_found_by_trying(baud: int, tmp_path: Path) -> None:
    path = tmp_path / "tty"
    with PtyLine(Uart(EmulatedWitMotion(STILL), baud=baud, link_path=path), link_path=path):
        found = asyncio.run(asyncio.wait_for(hear_port(str(path), listen_s=0.6), TIMEOUT_S))
    assert found.text == f"witmotion at {baud} baud"
    assert found.configure == f'family = "witmotion", baud = {baud}'


def test_ports_are_told_with_the_line_that_configures_their_usb_chip(tmp_path: Path) -> None:
    port = tmp_path / "tty"
    port.touch()
    listed = SerialPort(str(port), "Nano 33", "2341:8057", 'A1"\x1b', "/dev/serial/by-id/usb-KE")
    assert check_port(str(port), listed=listed).configure == ""  # nothing that a terminal could choke on
    found = check_port(str(port), listed=replace(listed, usb_serial="A1B2"))
    assert found.configure == 'usb = "A1B2"'
    assert found.text == "Nano 33 [2341:8057] /dev/serial/by-id/usb-KE"


def test_without_bluetooth_the_ports_are_told_and_one_sentence_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: object, **__: object) -> list[Heard]:
        raise LinkError("cannot listen for devices: this machine has no Bluetooth adapter; plug one in")

    monkeypatch.setattr(BleRadio, "scan", nobody)
    with PtyDevice(imu(), link_path=tmp_path / "tty") as device:
        assert main(["scan", "--seconds", "0.5", "--port", str(device.link_path), "--json"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["devices"] == []
    assert told["bluetooth"]["state"] == NOTE
    assert {f["what"]: f["state"] for f in told["ports"]}[f"port {device.link_path}"] == OK
    assert err.count("\n") == 1
    assert "no Bluetooth adapter" in err
    assert main(["scan", "--seconds", "0.5", "--port", str(tmp_path / "none")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "plug the device in" in shown


def test_an_adapter_that_does_not_answer_is_an_error_with_advice() -> None:
    stuck = Finding("bluetooth", BROKEN, "the adapter does not answer", "restart the service")
    with pytest.raises(LinkError, match=r"does not answer \(restart the service\)"):
        tell(Surroundings(stuck, (), ()), as_json=True)


def test_a_name_from_the_air_moves_no_cursor_and_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    evil = Advertisement("F0:00:00:00:00:05", "\x1b[2J[red]x[/red]\r\n", rssi_dbm=None)
    tell(Surroundings(Finding("bluetooth", OK, ""), (Heard(evil, ()),), ()), as_json=False)
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    assert "\r" not in out
    assert "[red]x[/red]" in out
