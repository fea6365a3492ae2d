"""``kinedge sync``: clocks are watched, DOTs are synced, knocks become offsets that ``kinedge run`` takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from virtual_ble import Room
from virtual_devices import DevicePeripheral, EmulatedDot

import kinedge.cli.sync  # noqa: F401  registers the command
from kinedge.benchmarks.claps import Knocking, simulate_knocks
from kinedge.cli.app import main
from kinedge.cli.live import LiveView
from kinedge.cli.run import serve_until
from kinedge.edge.config import GatewayConfig
from kinedge.edge.service import EdgeService
from kinedge.errors import ConfigError, SignalError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.device import Advertisement
from kinedge.firmware_bridge.devices import movella_dot
from kinedge.firmware_bridge.devices.movella_dot import DotSync
from kinedge.firmware_bridge.emulator import EmulatedImu, counts_from_si, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.knocks import KnockWatch
from kinedge.firmware_bridge.open_device import DeviceConfig, open_device
from kinedge.firmware_bridge.sync_file import Offset, SyncFile, SyncGroup, clock_maker, read_sync_file, sync_path
from kinedge.firmware_bridge.syncing import sync_links
from kinedge.signals import SensorSpec

MS = 1_000_000
S = 1_000_000_000
RATE_HZ = 100.0
KNOCKS_S = (1.0, 1.6, 2.7, 3.2, 4.3)


def knocking_imu(sensor: str, *, lag_s: float, knocks: bool = True) -> EmulatedImu:
    """A device that feels knocks, and feels them late."""
    hello = make_hello(SensorSpec(sensor), rate_hz=RATE_HZ)
    at_s = np.arange(60 * int(RATE_HZ)) / RATE_HZ
    acc_gyr = np.zeros((len(at_s), 6))
    acc_gyr[:, 2] = 9.80665
    for k, knock_s in enumerate(KNOCKS_S if knocks else ()):
        acc_gyr[:, k % 3] += 80 * np.exp(-0.5 * ((at_s - knock_s - lag_s) / 0.008) ** 2)
    return EmulatedImu(hello, counts_from_si(acc_gyr, hello=hello), start_ns=77 * S)


def test_knocks_of_two_devices_tell_the_lag_of_one_and_run_takes_it(tmp_path: Path) -> None:
    ports = [tmp_path / "left", tmp_path / "right"]
    devices = [
        PtyDevice(knocking_imu(port.name, lag_s=lag_s), link_path=port)
        for port, lag_s in zip(ports, (0.0, 0.09), strict=True)
    ]
    configs = [DeviceConfig(port=str(port)) for port in ports]
    said: list[str] = []

    async def run() -> None:
        links = {c.where: open_device(c, radio=BleRadio()) for c in configs}
        for device in devices:
            device.start()
        floors = dict.fromkeys(links, 10 * MS)
        found = await sync_links(links, floors_ns=floors, knocks=5, listen_s=0, timeout_s=40, on_tick=said.append)
        (offset,) = found.offsets
        assert {c.where for c in found.clocks.values()} == set(links)
        late = -1 if offset.device == str(ports[1]) else 1
        assert offset.offset_ms == pytest.approx(late * 90, abs=25)  # and what the starts are apart
        assert offset.lasts
        assert 0 < found.pairs[0].ms < 30
        assert found.dots == {}

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        for device in devices:
            device.stop()
    assert any("knock them" in text for text in said)


def test_sync_command_tells_the_clocks_and_keeps_nothing_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = (
        PtyDevice(knocking_imu(name, lag_s=0, knocks=False), link_path=tmp_path / name) for name in ("left", "right")
    )
    gateway = tmp_path / "gateway.toml"
    gateway.write_text(
        'site = "s"\ngateway = "g"\n[[people]]\nsubject = "p-1"\n'
        f'devices = [{{ port = "{left.link_path}" }}, {{ port = "{right.link_path}" }}]\n'
    )
    with left, right:
        assert main(["sync", str(gateway), "--listen", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["clocks"]) == {"left", "right"}
    assert all(clock["exchanges"] > 0 for clock in told["clocks"].values())  # asked without anybody's help
    (pair,) = told["pairs"]
    assert 0 < pair["ms"] <= sum(clock["uncertainty_ms"] for clock in told["clocks"].values()) + 0.01
    assert told["kept_at"] is None
    assert not list(tmp_path.glob("*.sync.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "at least two devices"),
        (["--port", "/dev/null", "--port", "/dev/null"], "stands twice"),
        (["--port", "/dev/a", "--port", "/dev/b", "--knocks", "2"], "make six"),
        (["--port", "/dev/a", "--port", "/dev/b", "--knocks", "6"], "--out"),
        (["--port", "/dev/a", "--port", "/dev/b", "--dot-root", "D4:CA:6E:F1:69:3D", "--out", "x"], "no two Movella"),
        (["--port", "/nowhere/a", "--port", "/nowhere/b", "--timeout", "1"], "nothing is heard of /nowhere/a"),
    ],
)
def test_what_cannot_be_synced_is_said(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sync", *arguments]) == 1
    assert says in " ".join(capsys.readouterr().err.split())


class Dot(EmulatedDot):
    """A DOT with an address of its own, which may refuse to sync."""

    def __init__(self, address: str, *, refuses: bool = False) -> None:
        super().__init__(wraps_after_s=600)
        self.address, self.refuses, self.asked = address, refuses, b""

    @property
    def advertisement(self) -> Advertisement:
        return Advertisement(self.address, "Movella DOT", manufacturer_data={0x0886: b"\x01\x02"})

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        if characteristic == movella_dot.MESSAGE_CONTROL and self.refuses:
            self.asked = data
            self._replies.append((movella_dot.MESSAGE_ACK, movella_dot.message(2, bytes([3, 7]))))
            return
        super().write(characteristic, data, elapsed_ns=elapsed_ns)


@pytest.mark.parametrize("refuses", [False, True])
def test_each_dot_says_whether_it_took_the_sync(refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movella_dot, "_SYNC_S", 0.2)
    addresses = ["D4:CA:6E:F1:69:3D", "D4:CA:6E:F1:69:3E"]

    async def run() -> None:
        async with Room() as room:
            for address, refused in zip(addresses, (False, refuses), strict=True):
                await room.add(DevicePeripheral(Dot(address, refuses=refused)))
            options = {"sync_root": addresses[0]}
            configs = [
                DeviceConfig(ble=a, family="movella_dot", sensor=f"s{i}", rate_hz=60, options=options)
                for i, a in enumerate(addresses)
            ]
            links = {c.where: open_device(c, radio=room.radio) for c in configs}
            found = await sync_links(links, floors_ns=dict.fromkeys(links, 55 * MS), listen_s=0.5, timeout_s=40)
            second = DotSync.REFUSED if refuses else DotSync.ACKNOWLEDGED
            assert found.dots == {addresses[0]: DotSync.ACKNOWLEDGED, addresses[1]: second}
            assert found.failed_dots == (addresses[1:] if refuses else [])
            assert all(clock.exchanges == 0 for clock in found.clocks.values())  # they tell no time when asked

    asyncio.run(asyncio.wait_for(run(), 90))


def devices(*wheres: str) -> list[DeviceConfig]:
    return [DeviceConfig(ble=w, family="movella_dot", sensor=f"s{i}") for i, w in enumerate(wheres)]


def test_an_offset_is_used_only_where_the_clocks_cannot_explain_it() -> None:
    lags = Offset(device="A", offset_ms=-90.0, uncertainty_ms=5.0, clocks_ms=20.0)
    may_be_the_radio = Offset(device="B", offset_ms=22.0, uncertainty_ms=5.0, clocks_ms=20.0)
    make = clock_maker(devices("A", "B"), SyncFile(offsets=(lags, may_be_the_radio)), utc_ns=0)
    a, b, unknown = make("A"), make("B"), make("/dev/ttyACM0")
    for clock in (a, b, unknown):
        clock.update(0, S)
    at = np.array([0])
    assert [int(c.to_host_ns(at)[0]) for c in (a, b, unknown)] == [S - 90 * MS, S, S]
    assert a.error_bounds_ns == (25 * MS, 80 * MS)
    assert b.error_bounds_ns == (0, 55 * MS)
    assert unknown.error_bounds_ns == (0, 10 * MS)


def test_synced_clocks_share_a_map_for_an_hour() -> None:
    sync = SyncFile(groups=(SyncGroup(devices=("A", "B", "gone"), set_utc_ns=5 * S),))
    fresh, old = (clock_maker(devices("A", "B"), sync, utc_ns=utc_ns) for utc_ns in (6 * S, 3700 * S))
    for make, shared in ((fresh, True), (old, False)):
        a, b = make("A"), make("B")
        a.update(0, S)
        b.update(0, S + 30 * MS)
        apart = int(b.to_host_ns(np.array([0]))[0] - a.to_host_ns(np.array([0]))[0])
        assert (apart == 0) == shared


def test_sync_file_survives_the_disk_and_a_damaged_one_is_one_error(tmp_path: Path) -> None:
    path = sync_path(tmp_path / "kinedge-edge.db")
    assert path.name == "kinedge-edge.sync.json"
    assert read_sync_file(path) == SyncFile()
    kept = SyncFile(offsets=(Offset(device="A", offset_ms=1, uncertainty_ms=2, clocks_ms=3),))
    path.write_text(kept.model_dump_json())
    assert read_sync_file(path) == kept
    for text in ("{", '{"format": "kinedge-sync-2"}', '{"offsets": [{"device": "A", "offset_ms": 1e9}]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="kinedge sync"):
            read_sync_file(path)
    config = {"site": "s", "gateway": "g", "store": tmp_path / "kinedge-edge.db"}
    people = [{"subject": "p", "devices": [{"port": "/dev/null"}]}]
    with pytest.raises(ConfigError, match="remove it"):
        EdgeService(GatewayConfig.model_validate({**config, "people": people}))


def watch_of(seed: int, lags_s: Sequence[float], *, n_knocks: int = 6, cut_s: float = 99.0) -> KnockWatch:
    """Three sensors that were knocked together; what each says in packets of ten samples."""
    rng = np.random.default_rng(seed)
    watch = KnockWatch(n_knocks=n_knocks)
    state = rng.bit_generator.state
    for i, lag_s in enumerate(lags_s):
        rng.bit_generator.state = state  # the same knocks
        time_s, acc = simulate_knocks(Knocking(n_knocks=n_knocks, filtered=True), (100.0, 100.0), rng=rng)[0]
        time_s, acc = time_s[time_s < cut_s], acc[time_s < cut_s].astype(np.float32)
        acc += np.random.default_rng([seed, i]).normal(0, 0.2, acc.shape).astype(np.float32)
        host_ns = 10**15 + np.rint((time_s + lag_s) * 1e9).astype(np.int64)
        for at in range(0, len(host_ns), 10):
            watch.push(f"s{i}", host_ns[at : at + 10], acc[at : at + 10])
    return watch


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), lags_ms=st.tuples(*[st.floats(-100, 100)] * 2))
def test_three_sensors_get_offsets_to_the_first(seed: int, lags_ms: tuple[float, float]) -> None:
    found = watch_of(seed, (0.0, lags_ms[0] / 1e3, lags_ms[1] / 1e3)).offsets()
    assert list(found) == ["s1", "s2"]
    for name, lag_ms in zip(found, lags_ms, strict=True):
        assert found[name].offset_ns / 1e6 == pytest.approx(-lag_ms, abs=3)


def test_knocks_are_not_judged_while_they_are_made_nor_without_a_second_sensor() -> None:
    watch = KnockWatch()
    watch.push("s0", np.arange(10, dtype=np.int64), np.zeros((10, 3), np.float32))
    with pytest.raises(SignalError, match="two of them"):
        watch.offsets()
    with pytest.raises(SignalError, match=r"hold the sensors still|no impact|are needed"):
        watch_of(1, (0.0, 0.01), cut_s=4.5).offsets()
    with pytest.raises(SignalError, match="at least 3"):
        KnockWatch(n_knocks=2)


def test_watch_forgets_what_is_long_ago() -> None:
    watch = watch_of(2, (0.0, 0.02))
    assert watch.offsets()["s1"].offset_ns / 1e6 == pytest.approx(-20, abs=3)
    late_ns = 10**15 + 3600 * S + np.arange(4100, dtype=np.int64) * 10 * MS
    for name in watch.sensors:
        watch.push(name, late_ns, np.full((4100, 3), 5.66, np.float32))
    with pytest.raises(SignalError, match="no impact"):
        watch.offsets()


def test_run_tells_how_far_the_worst_pair_may_be_apart_and_takes_what_sync_kept(tmp_path: Path) -> None:
    ports = [tmp_path / "wrist_left", tmp_path / "wrist_right"]
    store = tmp_path / "kinedge-edge.db"
    lags = Offset(device=str(ports[1]), offset_ms=-2000, uncertainty_ms=5, clocks_ms=20)
    sync_path(store).write_text(SyncFile(offsets=(lags,)).model_dump_json())
    people = [{"subject": "p-1", "devices": [{"port": str(port)} for port in ports]}]
    config = GatewayConfig.model_validate({"site": "s", "gateway": "g", "store": store, "people": people})
    service, shown = EdgeService(config), Console(record=True, width=120)

    def both_heard() -> bool:
        return bool(service.pipeline.alignment("p-1"))

    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(PtyDevice(knocking_imu(port.name, lag_s=0), link_path=port))
        asyncio.run(asyncio.wait_for(serve_until(service, until=both_heard), 60))
    (pair,) = service.pipeline.alignment("p-1")
    assert (pair.first, pair.second) == ("wrist_left", "wrist_right")
    assert pair.ms >= 25  # the offset is no better known than knocks and clocks were
    shown.print(LiveView._sensors(service))
    assert f"wrist_left and wrist_right are aligned within {pair.ms:.1f} ms" in shown.export_text()
    at = np.array([77 * S + 2 * S])
    clocks = [service.pipeline.clock("p-1", port.name) for port in ports]
    left, right = (int(c.to_host_ns(at)[0]) for c in clocks if c is not None)
    assert (right - left) / 1e9 == pytest.approx(-2, abs=1)
