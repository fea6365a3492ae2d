"""Nothing that a device makes goes missing without being counted, however it fails: received + masked = sent."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from virtual_ble import ImuPeripheral, Room, wait_until

from kinedge.benchmarks import endurance
from kinedge.benchmarks.endurance import bench_endurance
from kinedge.benchmarks.endurance_account import Account
from kinedge.benchmarks.endurance_devices import RATE_HZ, counts_at
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, SessionConfig
from kinedge.firmware_bridge.devices.kinedge_imu import KinedgeDriver, KinedgeSession
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, FaultyWire, make_hello
from kinedge.firmware_bridge.framing import FrameSplitter
from kinedge.firmware_bridge.links_ble import BleLink, channels_of
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk, SensorSpec

SENSOR = "sensor_0"
TICK_NS = 20_000_000
LEAST_TICKS = (
    150  # 3 s: of a device that starts anew sooner, its HELLO unheard, the samples may pass for the old boot's
)
BAD = Faults(loss=0.1, mean_burst=3.0, corruption=2e-3, duplication=0.1, reordering=0.1)


class Tap:
    """What a device measures until it is closed."""

    def __init__(self, boot_id: int) -> None:
        self.boot_id, self.open = boot_id, True

    def __iter__(self) -> Iterator[np.ndarray]:
        start = 0
        while self.open:
            yield counts_at(np.arange(start, start + 10), boot_id=self.boot_id)
            start += 10


def imu(boot_id: int, *, faults: Faults | None = None, seed: int = 0) -> tuple[EmulatedImu, Tap]:
    tap = Tap(boot_id)
    hello = make_hello(SensorSpec(SENSOR), rate_hz=RATE_HZ, boot_id=boot_id, serial="SN")
    return EmulatedImu(hello, tap, faults=faults, seed=seed), tap


def chunk(first: int, n: int, *, boot_id: int = 1, lost: int = 0) -> ImuChunk:
    index = np.arange(first, first + n)
    scales = make_hello(SensorSpec(SENSOR), rate_hz=RATE_HZ).scales
    values = counts_at(index, boot_id=boot_id) * scales
    yes = np.ones(values.shape, bool)
    return ImuChunk(SENSOR, index * 10_000_000, values, yes, ~yes, 10_000_000, lost, boot_id)


class Bench:
    """A session, and a device on a line of its own, without any clock."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.account = Account(SENSOR)
        self.session: KinedgeSession = KinedgeDriver().open(SessionConfig(SENSOR), transport="serial")
        self.made: list[tuple[int, int]] = []
        self.plugged, self.now_ns, self.host_ns = True, 0, 0
        self.line, self.frames_of_host = bytearray(), FrameSplitter()
        self.start(Faults())

    def start(self, faults: Faults) -> None:
        self.imu, self.tap = imu(len(self.made) + 1, faults=faults, seed=self.rng.randrange(1 << 30))
        self.wire = FaultyWire(faults=faults, seed=self.rng.randrange(1 << 30))
        self.now_ns = 0

    def restart(self, faults: Faults) -> None:
        self.made.append((self.imu.hello.boot_id, self.imu.n_made))
        self.start(faults)

    def set_faults(self, faults: Faults) -> None:
        self.imu.faults = self.wire.faults = faults

    def tick(self, *, stalled: bool = False) -> None:
        self.now_ns += TICK_NS
        self.host_ns += TICK_NS
        while self.plugged and (command := self.session.next_command()) is not None:
            for payload in self.frames_of_host.feed(command.data):
                self.imu.receive_data(payload)
        for payload in self.imu.advance(self.now_ns):
            frame = self.wire.carry(payload)
            if self.plugged:
                self.line += frame
            else:
                self.imu.drop(payload)
        if stalled or not self.plugged:
            return
        while self.line:  # cut anywhere; the rest of it comes with the next read
            n = self.rng.choice([1, 40, 1000, 100_000])
            self.session.receive_data(bytes(self.line[:n]), channel=SERIAL_CHANNEL, host_time_ns=self.host_ns)
            del self.line[:n]
            while (event := self.session.next_event()) is not None:
                if isinstance(event, ImuChunk):
                    self.account.take(event)

    def unplug(self) -> None:
        self.plugged = False
        self.line.clear()

    def replug(self) -> None:
        self.plugged = True
        self.frames_of_host.reset()
        self.session.link_reopened()

    def balance(self) -> dict[str, int]:
        """Let it end well."""
        self.set_faults(Faults())
        for _ in range(120):  # a HELLO comes within 2 s
            self.tick()
        self.tap.open = False
        while not self.imu.finished:
            self.tick()
        self.tick()
        self.made.append((self.imu.hello.boot_id, self.imu.n_made))
        return self.account.balance(self.made)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["bad", "good", "stall", "unplug", "restart", "power cycle", "two restarts"]),
        st.integers(LEAST_TICKS, 250),
        st.integers(1, 60),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=40)
@example([("unplug", 160, 1), ("power cycle", 194, 1), ("power cycle", 205, 19), ("bad", 150, 1)], 96501)
@given(ACTIONS, st.integers(0, 1 << 30))
def test_every_sample_is_accounted_for_whatever_happens_on_a_line(
    actions: list[tuple[str, int, int]], seed: int
) -> None:
    bench = Bench(seed)
    for _ in range(10):
        bench.tick()
    for action, pause, length in actions:
        for _ in range(pause):
            bench.tick()
        if action in ("bad", "good"):
            bench.set_faults(BAD if action == "bad" else Faults())
        elif action == "stall":
            for _ in range(length):
                bench.tick(stalled=True)
        elif action == "restart":
            bench.restart(BAD)
        elif action == "two restarts":
            bench.restart(BAD)
            for _ in range(LEAST_TICKS):
                bench.tick()
            bench.restart(BAD)
        else:
            bench.unplug()
            for i in range(length):
                if action == "power cycle" and i == length // 2:
                    bench.restart(BAD)
                bench.tick()
            bench.replug()
    found = bench.balance()
    assert found["unaccounted"] == 0, found
    assert found["received"] + found["masked"] + found["unknown"] == found["sent"]
    if not any("restart" in action or "cycle" in action for action, _, _ in actions):
        assert found["unknown"] == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_sample_of_unruly_devices_on_ttys_is_accounted_for(seed: int) -> None:
    shares: list[float] = []
    found = bench_endurance(minutes=0.05, n_devices=3, speed=5.0, seed=seed, progress=shares.append)
    json.dumps(found)
    everything, *devices = found["rows"]
    assert len(devices) == 3
    assert everything["unaccounted"] == 0, devices
    for row in found["rows"]:
        assert row["received"] + row["masked"] + row["unknown"] == row["sent"]
    assert everything["received"] > 3 * 100 and sum(found["actions"].values()) > 0
    assert shares == sorted(shares) and 0 <= shares[-1] <= 1
    assert found["memory"]["traced_kib_end"] > 0


def test_every_sample_over_the_air_is_accounted_for() -> None:
    async def main() -> None:
        async with Room() as room:
            devices = []
            for i in range(2):
                unreliable = replace(BAD, corruption=0.0)  # a radio checks what it delivers
                device, tap = imu(1 + i, seed=i)
                peripheral = ImuPeripheral(device, f"F0:00:00:00:00:0{i}")
                await room.add(peripheral)
                session = KinedgeDriver().open(SessionConfig(SENSOR), transport="ble")
                ble = BleLink(
                    peripheral.address,
                    radio=room.radio,
                    choose=channels_of(session),
                    first_pause_s=0.02,
                    longest_pause_s=0.1,
                    find_timeout_s=5.0,
                )
                devices.append((peripheral, tap, SessionLink(ble, session), Account(SENSOR), unreliable))

            async def follow(link: SessionLink, account: Account) -> None:
                async for event in link.events():
                    if isinstance(event, ImuChunk):
                        account.take(event)

            tasks = [asyncio.create_task(follow(link, account)) for _, _, link, account, _ in devices]
            for peripheral, _, _, account, unreliable in devices:
                await wait_until(lambda account=account: bool(account.boots))  # type: ignore[misc]
                peripheral.imu.faults = unreliable
            for turn in range(1, 3):
                for peripheral, _, link, account, _ in devices:
                    await peripheral.disconnect()
                    await wait_until(lambda link=link, turn=turn: link.counters.reconnects == turn)  # type: ignore[misc]
                    n = account.boots[0].received
                    await wait_until(lambda account=account, n=n: account.boots[0].received > n)  # type: ignore[misc]
            for peripheral, tap, link, account, _ in devices:
                peripheral.imu.faults = Faults()
                n = account.boots[0].received
                await wait_until(lambda account=account, n=n: account.boots[0].received > n)  # type: ignore[misc]
                tap.open = False
                await wait_until(
                    lambda account=account, imu=peripheral.imu: (  # type: ignore[misc]
                        imu.finished and account.boots[-1].next_index == imu.n_made
                    )
                )
                await link.close()
                first = account.boots[0].first
                found = account.balance([(peripheral.imu.hello.boot_id, peripheral.imu.n_made)])
                # it was on the air before anybody listened: that much the session cannot know
                assert found["unaccounted"] == first
                assert found["unknown"] == first and found["masked"] > 0
                assert found["received"] + found["masked"] + first == found["sent"]
                assert link.counters.lost == found["masked"] and link.counters.restarts == 0
            await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), 120))


def test_account_is_exact_where_all_is_well() -> None:
    account = Account(SENSOR)
    for part in (chunk(0, 10), chunk(20, 10, lost=10), chunk(5, 10, boot_id=2)):
        account.take(part)
    assert account.balance([(1, 30), (2, 15)]) == {
        "sent": 45,
        "received": 30,
        "masked": 10,
        "unknown": 5,
        "unaccounted": 0,
        "restarts": 1,
    }


@pytest.mark.parametrize(
    ("parts", "made"),
    [
        ([chunk(0, 10), chunk(20, 10)], [(1, 30)]),  # a gap of which the session says nothing
        ([chunk(0, 10), chunk(10, 10, lost=10)], [(1, 20)]),  # a loss that was none
        ([chunk(0, 10), chunk(0, 10)], [(1, 10)]),  # the same again
        ([chunk(0, 10)], [(1, 20)]),  # the end is missing
        ([chunk(10, 10)], [(1, 20)]),  # the beginning is missing
        ([replace(chunk(0, 10, boot_id=2), boot_id=1)], [(1, 10)]),  # another boot's samples under this one's name
        ([replace(chunk(0, 10), values=chunk(0, 10).values + 1)], [(1, 10)]),
        ([replace(chunk(0, 10), valid=~chunk(0, 10).valid)], [(1, 10)]),
        ([chunk(0, 10), chunk(0, 10, boot_id=2)], [(1, 10)]),  # a boot that never was
        ([chunk(0, 10)], [(1, 10), (2, 10)]),  # the last boot was never heard
    ],
)
def test_account_notices(parts: list[ImuChunk], made: list[tuple[int, int]]) -> None:
    account = Account(SENSOR)
    for part in parts:
        account.take(part)
    assert account.balance(made)["unaccounted"] > 0


def test_memory_is_judged_by_its_floor() -> None:
    seconds = np.arange(600.0)
    resident = 50_000.0 + 3000 * (np.arange(600) % 7 == 3)  # bursts come and go
    traced = 1000.0 + seconds  # 60 KiB/min
    found = endurance._memory(np.column_stack([seconds, resident, traced]))
    assert (found["resident_kib_start"], found["resident_kib_end"], found["resident_kib_per_min"]) == (
        50_000,
        50_000,
        0,
    )
    assert found["traced_kib_per_min"] == pytest.approx(60, rel=0.01)
    assert found["traced_kib_start"] < found["traced_kib_middle"] < found["traced_kib_end"]
