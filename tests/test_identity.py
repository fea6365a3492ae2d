"""Serial devices are found by what they are: swapped, replugged, behind a wrong line speed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_uart import Uart, misread

from kinedge.errors import ConfigError, LinkError
from kinedge.firmware_bridge import ports as ports_module
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.device import DeviceInfo, Doubt, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices.emulated_serial import EmulatedSerial, PtyLine
from kinedge.firmware_bridge.devices.emulated_shimmer3 import EmulatedShimmer3
from kinedge.firmware_bridge.devices.emulated_witmotion import EmulatedWitMotion
from kinedge.firmware_bridge.devices.emulated_xsens_mti import EmulatedXsensMti
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.links_seeking import SeekingLink, TellsIdentity, common_bauds
from kinedge.firmware_bridge.open_device import DeviceConfig, open_device
from kinedge.firmware_bridge.ports import SerialPort, list_ports
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk, SensorSpec

TIMEOUT_S = 60.0
FULL_SCALE_COUNT = 16 * 9.80665 / 32768
STILL = np.tile([0.0, 0.0, 9.81, 0.0, 0.0, 0.0], (20_000, 1))


def imu(serial: str, level: int, *, sensor: str = "wrist_left", boot_id: int = 1) -> EmulatedImu:
    """A device all of whose acc_x read ``level`` counts, so that each sample says whose it is."""
    hello = make_hello(SensorSpec(sensor), rate_hz=100, serial=serial, boot_id=boot_id)
    counts = np.zeros((200_000, 6), np.int16)
    counts[:, 0] = level
    return EmulatedImu(hello, counts)


def levels_of(events: Sequence[Any], sensor: str) -> set[int]:
    """What the samples that go by a name read."""
    values = [e.values[:, 0] for e in events if isinstance(e, ImuChunk) and e.sensor == sensor]
    return {int(v) for v in np.rint(np.concatenate(values) / FULL_SCALE_COUNT)} if values else set()


def n_samples(events: Sequence[Any]) -> int:
    return sum(len(e) for e in events if isinstance(e, ImuChunk))


def n_opened(events: Sequence[Any]) -> int:
    return sum(isinstance(e, LinkOpened) for e in events)


def reasons(events: Sequence[Any]) -> list[str]:
    return [e.reason for e in events if isinstance(e, LinkClosed)]


@contextlib.asynccontextmanager
async def heard(config: DeviceConfig) -> AsyncIterator[list[Any]]:
    """The events of a device so far; they keep coming."""
    link = open_device(config, radio=BleRadio())
    events: list[Any] = []

    async def take() -> None:
        async for event in link.events():
            events.append(event)

    taking = asyncio.create_task(take())
    try:
        yield events
    finally:
        await link.close()
        await asyncio.wait_for(taking, TIMEOUT_S)


async def until(happened: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    end = asyncio.get_running_loop().time() + TIMEOUT_S
    while not happened():
        assert asyncio.get_running_loop().time() < end, f"it did not happen in time: {what()}"
        await asyncio.sleep(0.005)


async def more(of_links: Sequence[list[Any]], count: Callable[[Sequence[Any]], int], n: int) -> None:
    """Wait until each link has brought so many more."""
    wanted = [count(events) + n for events in of_links]
    await until(
        lambda: all(count(events) >= at_least for events, at_least in zip(of_links, wanted, strict=True)),
        lambda: [reasons(events) for events in of_links],
    )


def swap(first: PtyDevice | PtyLine, second: PtyDevice | PtyLine) -> None:
    """Plug each into the port of the other."""
    first.unplug()
    second.unplug()
    first.link_path, second.link_path = second.link_path, first.link_path
    first.replug()
    second.replug()


def test_two_devices_swapped_in_mid_stream_keep_their_names_and_no_sample_goes_by_the_other(tmp_path: Path) -> None:
    async def main(a: PtyDevice, b: PtyDevice) -> None:
        pattern = str(tmp_path / "tty*")
        left = DeviceConfig(port=pattern, serial_number="KE-A", sensor="wrist_left")
        right = DeviceConfig(port=pattern, serial_number="KE-B", sensor="wrist_right")
        async with heard(left) as of_left, heard(right) as of_right:
            both = (of_left, of_right)
            for _ in range(3):
                await more(both, n_samples, 50)
                after_swap = asyncio.create_task(more(both, n_opened, 1))
                await asyncio.to_thread(swap, a, b)
                await after_swap
            await more(both, n_samples, 50)
        assert levels_of(of_left, "wrist_left") == {100}
        assert levels_of(of_right, "wrist_right") == {-100}
        assert {e.sensor for e in of_left if isinstance(e, ImuChunk)} == {"wrist_left"}
        assert {e.serial for e in of_left if isinstance(e, DeviceInfo)} == {"KE-A"}
        for e in both:
            chunks = [x for x in e if isinstance(x, ImuChunk)]
            times = np.concatenate([c.device_time_ns for c in chunks])
            assert (np.diff(times) > 0).all()
            assert len(times) + sum(c.lost for c in chunks[1:]) == round((times[-1] - times[0]) / 1e7) + 1

    with (
        PtyDevice(imu("KE-A", 100), link_path=tmp_path / "tty0") as a,
        PtyDevice(imu("KE-B", -100), link_path=tmp_path / "tty1") as b,
    ):
        asyncio.run(main(a, b))


def test_device_on_the_port_of_another_is_named_and_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [SerialPort(str(tmp_path / name)) for name in ("tty0", "tty1")]
    monkeypatch.setattr(ports_module, "list_ports", lambda: listed)

    async def main() -> None:
        config = DeviceConfig(port=str(tmp_path / "tty0"), serial_number="ke-b")
        async with heard(config) as events:
            await until(lambda: n_samples(events) > 20)
        assert levels_of(events, "ankle_right") == {-100}
        assert isinstance(events[0], LinkOpened)  # the search was quick, and did not fail

    async def nobody() -> None:
        async with heard(DeviceConfig(port=str(tmp_path / "tty0"), serial_number="KE-C")) as events:
            await until(lambda: bool(reasons(events)))
        (reason, *_) = reasons(events)
        assert f"KE-A answers on {listed[0].path}, and KE-C is expected" in reason
        assert f"KE-B answers on {listed[1].path}" in reason
        assert not n_samples(events)

    with (
        PtyDevice(imu("KE-A", 100), link_path=tmp_path / "tty0"),
        PtyDevice(imu("KE-B", -100, sensor="ankle_right"), link_path=tmp_path / "tty1"),
    ):
        asyncio.run(main())
        asyncio.run(nobody())


def test_usb_serial_number_is_found_on_whatever_port_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices that tell nothing on the line, told apart by the chips of their cables."""
    where = {"A1": tmp_path / "tty0", "B2": tmp_path / "tty1"}

    def listed() -> list[SerialPort]:
        return [SerialPort(str(path), "", "0403:6001", serial) for serial, path in where.items()]

    monkeypatch.setattr(ports_module, "list_ports", listed)
    moving = STILL + np.array([3.0, 0, 0, 0, 0, 0])

    async def main(a: PtyLine, b: PtyLine) -> None:
        config = DeviceConfig(usb="a1", family="witmotion", sensor="wrist_left")
        async with heard(config) as events:
            await until(lambda: n_samples(events) > 20)
            await asyncio.to_thread(swap, a, b)
            where["A1"], where["B2"] = where["B2"], where["A1"]
            await until(lambda: n_opened(events) > 1)
            await more([events], n_samples, 20)
        values = np.concatenate([e.values[:, 0] for e in events if isinstance(e, ImuChunk)])
        assert np.abs(values).max() < 0.1
        assert config.where == "usb:a1"

    async def absent() -> None:
        async with heard(DeviceConfig(usb="C3")) as events:
            await until(lambda: bool(reasons(events)))
        assert "plug the device in" in reasons(events)[0] and "usb:C3" in reasons(events)[0]

    with (
        PtyLine(EmulatedWitMotion(STILL), link_path=where["A1"]) as a,
        PtyLine(EmulatedWitMotion(moving), link_path=where["B2"]) as b,
    ):
        asyncio.run(main(a, b))
        asyncio.run(absent())


@pytest.mark.parametrize(
    ("family", "devices", "wanted"),
    [
        (
            "xsens_mti",
            [EmulatedXsensMti(STILL + 1, device_id="03700001"), EmulatedXsensMti(STILL, device_id="037003AB")],
            "037003ab",
        ),
        ("shimmer3", [EmulatedShimmer3(STILL + 1, name="Shimmer_11"), EmulatedShimmer3(STILL, name="left")], "left"),
    ],
)
def test_devices_of_other_makers_are_found_by_what_they_tell(
    family: str, devices: list[EmulatedSerial], wanted: str, tmp_path: Path
) -> None:
    async def main() -> None:
        config = DeviceConfig(
            port=str(tmp_path / "tty*"), serial_number=wanted, family=family, sensor="shank_left", rate_hz=100
        )
        async with heard(config) as events:
            await until(lambda: n_samples(events) > 20, lambda: events[-3:])
        values = np.concatenate([e.values for e in events if isinstance(e, ImuChunk)])
        assert np.abs(values - STILL[0]).max() < 0.2

    with contextlib.ExitStack() as stack:
        for i, device in enumerate(devices):
            stack.enter_context(PtyLine(device, link_path=tmp_path / f"tty{i}"))
        asyncio.run(main())


def test_without_a_configured_identity_the_names_follow_the_devices_not_the_old_ones(tmp_path: Path) -> None:
    """Each port is one of kinedge's devices that says itself where it is worn: what comes first after a swap, too."""

    async def main(a: PtyDevice, b: PtyDevice) -> None:
        async with heard(DeviceConfig(port=str(a.link_path))) as events:
            await until(lambda: n_samples(events) > 20)
            await asyncio.to_thread(swap, a, b)
            await until(lambda: any(e.sensor == "wrist_right" for e in events if isinstance(e, ImuChunk)))
            await asyncio.to_thread(swap, a, b)
            await more([events], n_samples, 20)
        assert levels_of(events, "wrist_left") == {100}
        assert levels_of(events, "wrist_right") == {-100}
        assert any("KE-B answers now where KE-A did" in e.text for e in events if isinstance(e, Doubt))

    with (
        PtyDevice(imu("KE-A", 100), link_path=tmp_path / "tty0") as a,
        PtyDevice(imu("KE-B", -100, sensor="wrist_right"), link_path=tmp_path / "tty1") as b,
    ):
        asyncio.run(main(a, b))


def test_kinedge_session_holds_back_what_comes_before_the_device_says_who_it_is() -> None:
    def talk(device: EmulatedImu, *, from_s: float, to_s: float) -> bytes:
        if from_s:
            device.advance(round(from_s * 1e9))  # nobody hears that
        return b"".join(encode_frame(p) for p in device.advance(round(to_s * 1e9)))

    session = driver("kinedge").open(SessionConfig("unnamed", options={"placement": "device"}), transport="serial")

    def events() -> list[Any]:
        return list(iter(session.next_event, None))

    a, b = imu("KE-A", 100), imu("KE-B", -100, sensor="wrist_right")
    session.receive_data(talk(a, from_s=0.0, to_s=1.0), channel="serial", host_time_ns=1)
    assert levels_of(events(), "wrist_left") == {100}
    session.link_reopened()
    session.receive_data(talk(b, from_s=0.5, to_s=1.5), channel="serial", host_time_ns=2)
    assert events() == []
    session.receive_data(talk(b, from_s=1.5, to_s=2.5), channel="serial", host_time_ns=3)
    found = events()
    # what was held back and came before the HELLO is described by nobody
    assert levels_of(found, "wrist_left") == set() and levels_of(found, "wrist_right") == {-100}
    assert session.counters["samples"] == 100 + n_samples(found)
    session.link_reopened()
    session.receive_data(talk(b, from_s=2.6, to_s=3.5), channel="serial", host_time_ns=4)
    assert events() == []
    session.receive_data(talk(b, from_s=3.5, to_s=4.5), channel="serial", host_time_ns=5)
    again = events()
    # the same device: nothing that was held back is lost
    times = np.concatenate([e.device_time_ns for e in again if isinstance(e, ImuChunk)])
    assert (times[0], times[-1]) <= (2_620_000_000, 4_500_000_000) and (np.diff(times) == 10_000_000).all()


def test_device_that_takes_the_place_of_the_configured_one_on_an_open_line_is_not_believed(tmp_path: Path) -> None:
    options = {"serial_number": "ke-a"}
    session = driver("kinedge").open(SessionConfig("wrist_left", options=options), transport="serial")
    a, b = imu("KE-A", 100), imu("KE-B", -100)
    for device in (a, b, a):
        frames = b"".join(encode_frame(p) for p in (device.hello.to_bytes(), *device.advance(1_000_000_000)))
        device.advance(1_500_000_000)
        session.receive_data(frames, channel="serial", host_time_ns=1)
    a_again = b"".join(encode_frame(p) for p in a.advance(3_000_000_000))
    session.receive_data(a_again, channel="serial", host_time_ns=2)
    found = list(iter(session.next_event, None))
    assert levels_of(found, "wrist_left") == {100}
    assert session.counters["foreign"] >= 90
    assert session.counters["samples"] == n_samples(found)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_identities_are_read_from_any_bytes_in_bounded_ways(noise: bytes, cuts: list[int]) -> None:
    told = {
        "kinedge": encode_frame(imu("KE-A", 0).hello.to_bytes()),
        "xsens_mti": bytes.fromhex("faff0104037003f88e"),
        "shimmer3": b"\xff\xff\x7a\x05left1",
    }
    names = {"kinedge": "KE-A", "xsens_mti": "037003F8", "shimmer3": "left1"}
    for family, answer in told.items():
        teller = driver(family)
        assert isinstance(teller, TellsIdentity)
        assert names[family] in teller.identities_in(b"\0" + answer)
        for cut in cuts:
            assert names[family] not in teller.identities_in(answer[: cut % len(answer)])
        assert all(isinstance(name, str) and name for name in teller.identities_in(noise + answer[:-1]))


def test_configuration_says_what_cannot_be_meant() -> None:
    for wrong, says in (
        ({"usb": "A", "port": "/dev/ttyACM0"}, "give"),
        ({"ble": "AA:BB", "serial_number": "x"}, "over BLE the address"),
        ({"port": "/dev/ttyACM*"}, "is a pattern"),
        ({}, "give"),
    ):
        with pytest.raises(ValueError, match=says):
            DeviceConfig(**wrong)
    narrow = DeviceConfig(port="/dev/ttyUSB0", baud=9600, family="witmotion", sensor="wrist_left", rate_hz=50)
    with pytest.raises(ConfigError, match="50 Hz need 16500 baud"):
        open_device(narrow, radio=BleRadio())
    silent = DeviceConfig(port="/dev/ttyUSB0", serial_number="x", family="witmotion", sensor="wrist_left")
    with pytest.raises(ConfigError, match="give usb"):
        open_device(silent, radio=BleRadio())
    with pytest.raises(LinkError, match="usb = "):
        SeekingLink("x", driver("witmotion"), ports=list, serial_number="x")
    assert DeviceConfig.way_of("usb:A1") == {"usb": "A1"}
    assert DeviceConfig.way_of("id:KE-1") == {"serial_number": "KE-1"}
    assert DeviceConfig.way_of("/dev/serial/by-id/usb-x") == {"port": "/dev/serial/by-id/usb-x"}
    assert DeviceConfig.way_of("A0:9E:1A:00:00:01") == {"ble": "A0:9E:1A:00:00:01"}


def test_ports_are_told_with_usb_identity_and_stable_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import serial.tools.list_ports as list_ports_module
    from serial.tools.list_ports_common import ListPortInfo

    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (tmp_path / "ttyACM0").touch()
    (by_id / "usb-KE_A1B2-if00").symlink_to(tmp_path / "ttyACM0")
    usb, uart = ListPortInfo(str(tmp_path / "ttyACM0")), ListPortInfo("/dev/ttyS9")
    usb.vid, usb.pid, usb.serial_number, usb.description = 0x2341, 0x8057, "A1B2", "Nano 33"
    monkeypatch.setattr(list_ports_module, "comports", lambda: [usb, uart])
    found = {port.path: port for port in list_ports(by_id=by_id)}
    nano = found[str(tmp_path / "ttyACM0")]
    assert (nano.usb_id, nano.usb_serial, nano.by_id) == ("2341:8057", "A1B2", str(by_id / "usb-KE_A1B2-if00"))
    assert nano.identity == "A1B2"
    assert all(map(nano.is_usb, ("a1b2", "2341:8057", "2341:8057:A1B2")))
    assert not any(map(nano.is_usb, ("", ":", "A1", "2341")))
    assert found["/dev/ttyS9"].identity == "" and not found["/dev/ttyS9"].is_usb("")


@contextlib.contextmanager
def at_baud(device: EmulatedSerial, baud: int, path: Path) -> Iterator[PtyLine]:
    with PtyLine(Uart(device, baud=baud, link_path=path), link_path=path) as line:
        yield line


def test_misreading_is_that_of_a_uart() -> None:
    data = bytes(range(256)) * 3
    assert misread(data, sent_baud=9600, read_baud=9600) == data
    assert misread(data, sent_baud=9600, read_baud=9700) == data  # within what a UART tolerates
    assert misread(b"\x00", sent_baud=9600, read_baud=19200) == b"\x00"
    assert misread(b"UUUU", sent_baud=19200, read_baud=9600) != b"UUUU"
    fast = misread(data, sent_baud=9600, read_baud=115200)
    assert fast != data and len(set(fast)) < 30  # runs of equal bits alone


@pytest.mark.parametrize("baud", [115_200, 57_600])
def test_wrong_line_speed_is_told_with_what_to_try(baud: int, tmp_path: Path) -> None:
    async def main() -> None:
        config = DeviceConfig(port=str(tmp_path / "tty"), baud=baud, family="witmotion", sensor="wrist_left")
        async with heard(config) as events:
            await until(lambda: any("is the baud rate right" in r for r in reasons(events)), lambda: events[-3:])
        (reason,) = {r for r in reasons(events) if "is the baud rate right" in r}
        assert f"{tmp_path / 'tty'} at {baud} baud" in reason and "witmotion" in reason and "try baud = 9600" in reason
        assert not n_samples(events)

    with at_baud(EmulatedWitMotion(STILL), 9600, tmp_path / "tty"):
        asyncio.run(main())


def test_right_line_speed_is_never_doubted(tmp_path: Path) -> None:
    async def main() -> None:
        config = DeviceConfig(
            port=str(tmp_path / "tty"), baud=9600, family="witmotion", sensor="wrist_left", rate_hz=10
        )
        async with heard(config) as events:
            await until(lambda: n_samples(events) > 35)
        assert reasons(events) == []

    with at_baud(EmulatedWitMotion(STILL), 9600, tmp_path / "tty"):
        asyncio.run(main())


def test_device_that_cannot_be_understood_is_not_called_another_one(tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "tty")
        link = SeekingLink(
            "KE-A", driver("kinedge"), ports=lambda: [path], serial_number="KE-A", baud=9600, identify_s=1.0
        )
        closed = await asyncio.wait_for(anext(aiter(link.events())), TIMEOUT_S)
        assert isinstance(closed, LinkClosed)
        assert "is the baud rate right? try baud = 115200" in closed.reason
        await link.close()

    class Line:
        def __init__(self) -> None:
            self.imu = imu("KE-A", 100)

        def receive_data(self, data: bytes, *, elapsed_ns: int) -> None:
            pass

        def advance(self, elapsed_ns: int) -> bytes:
            return b"".join(map(encode_frame, self.imu.advance(elapsed_ns)))

    with at_baud(Line(), 115_200, tmp_path / "tty"):
        asyncio.run(main())


def test_speeds_to_try_are_those_of_the_family() -> None:
    assert common_bauds(driver("witmotion"))[0] == 9600
    assert set(common_bauds(driver("kinedge"))) >= {115_200, 921_600}
    assert 115_200 in common_bauds(driver("movella_dot"))  # none of its own: the usual ones


def test_link_leaves_no_thread_however_it_ends(tmp_path: Path) -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("kinedge-serial")]

    def seeking(serial_number: str) -> SessionLink:
        family = driver("kinedge")
        session = family.open(SessionConfig("wrist_left"), transport="serial")
        path = str(tmp_path / "tty")
        return SessionLink(SeekingLink("it", family, ports=lambda: [path], serial_number=serial_number), session)

    async def closed(serial_number: str, *, wait: bool) -> None:
        link = seeking(serial_number)
        taking = asyncio.create_task(_first(link, wait=wait))
        await until(lambda: bool(threads()))
        if wait:
            await asyncio.wait_for(taking, TIMEOUT_S)
        await link.close()
        with contextlib.suppress(StopAsyncIteration):
            await asyncio.wait_for(taking, TIMEOUT_S)
        assert not threads()

    async def _first(link: SessionLink, *, wait: bool) -> None:
        async for event in link.events():
            if wait and isinstance(event, ImuChunk):
                return

    with PtyDevice(imu("KE-A", 100), link_path=tmp_path / "tty"):
        asyncio.run(closed("KE-A", wait=True))
        asyncio.run(closed("KE-A", wait=False))
        asyncio.run(closed("KE-X", wait=False))


def test_silent_device_with_an_identity_is_looked_for_anew(tmp_path: Path) -> None:
    async def main(device: PtyDevice) -> None:
        family = driver("kinedge")
        link = SeekingLink("KE-A", family, ports=lambda: [str(tmp_path / "tty")], serial_number="KE-A")
        events: list[Any] = []

        async def take() -> None:
            async for event in link.events():
                events.append(event)

        taking = asyncio.create_task(take())
        await until(lambda: any(isinstance(e, LinkOpened) for e in events))
        assert link.path == str(tmp_path / "tty")
        assert link.renew("it fell silent") and link.renew("twice")
        await until(lambda: n_opened(events) == 2)
        assert reasons(events) == ["it fell silent"]
        await link.close()
        await asyncio.wait_for(taking, TIMEOUT_S)
        plain = SeekingLink("tty", family, ports=lambda: [str(tmp_path / "tty")])
        assert plain.renew("it fell silent") is False

    with PtyDevice(imu("KE-A", 100), link_path=tmp_path / "tty") as device:
        asyncio.run(main(device))
