"""Host times of every family of devices increase, never step and stay near the truth, whatever befalls the packets.

Every emulated device is listened to in emulated time through a link that delays, loses, holds, repeats and swaps
packets, over wraps of its stamps and over a restart; its times are mapped as ``kinedge run`` maps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_devices import EmulatedDot, EmulatedMovesense, EmulatedOpenEarable, table
from virtual_polar import EmulatedPolar

from kinedge.firmware_bridge.clock import ClockMap
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, AsksTime, ClockExchange, Session, SessionConfig
from kinedge.firmware_bridge.devices import driver, drivers
from kinedge.firmware_bridge.devices.emulated_metamotion import EmulatedMetaMotion
from kinedge.firmware_bridge.devices.emulated_shimmer3 import EmulatedShimmer3
from kinedge.firmware_bridge.devices.emulated_witmotion import EmulatedWitMotion, EmulatedWitMotionBle
from kinedge.firmware_bridge.devices.emulated_xsens_mti import EmulatedXsensMti
from kinedge.firmware_bridge.devices.kinedge_imu import CONTROL_UUID, DATA_UUID
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.signals import ImuChunk, SensorSpec

MS = 1_000_000
S = 1_000_000_000
START_NS = 5_000 * S
STEP_NS = 5 * MS
FLOOR_NS = 55 * MS
SECONDS = 14


class KinedgeOnAir:
    """One of ours, with the face of the other emulated devices; each start has another boot id, as firmware must."""

    _boots = count(1)

    def __init__(self) -> None:
        counts = np.arange(SECONDS * 200 * 6).reshape(-1, 6) % 20_000
        hello = make_hello(SensorSpec("wrist_left"), rate_hz=100, boot_id=next(self._boots))
        self._imu = EmulatedImu(hello, counts.astype(np.int16), packet_samples=5, start_ns=9 * S)

    def write(self, characteristic: str, data: bytes, *, elapsed_ns: int) -> None:
        assert characteristic == CONTROL_UUID
        self._imu.receive_data(data, elapsed_ns=elapsed_ns)

    def advance(self, elapsed_ns: int) -> list[tuple[str, bytes]]:
        return [(DATA_UUID, payload) for payload in self._imu.advance(elapsed_ns)]


@dataclass(frozen=True)
class Case:
    """A device. ``counted``: it sends no stamps of its own; then what is lost shows only after a while."""

    device: Callable[[], Any]
    rate_hz: float
    transport: str = "ble"
    options: Mapping[str, str] = field(default_factory=dict)
    counted: bool = False


def long_table() -> np.ndarray:
    return np.tile(table(), (2, 1))


CASES = {
    "kinedge": Case(KinedgeOnAir, 100),
    "movella_dot": Case(lambda: EmulatedDot(wraps_after_s=3), 60),
    "movesense": Case(lambda: EmulatedMovesense(room=240, wraps_after_s=3), 104),
    "openearable": Case(EmulatedOpenEarable, 100),
    "polar_pmd": Case(EmulatedPolar.h10, 100),
    "metamotion": Case(lambda: EmulatedMetaMotion(long_table()), 100, counted=True),
    "witmotion": Case(lambda: EmulatedWitMotionBle(long_table()), 100, counted=True),
    "witmotion, serial": Case(lambda: EmulatedWitMotion(long_table()), 100, "serial", counted=True),
    "shimmer3": Case(lambda: EmulatedShimmer3(long_table(), start_ticks=(1 << 24) - 100_000), 51.2, "serial"),
    "xsens_mti": Case(lambda: EmulatedXsensMti(long_table(), start_ticks=(1 << 32) - 30_000), 100, "serial"),
}


def test_every_family_is_here() -> None:
    assert {name.split(",")[0] for name in CASES} == set(drivers())


@dataclass(frozen=True)
class Trouble:
    """What befalls the packets: shares of them, and times in s since the first device got power."""

    seed: int
    loss: float = 0.0
    repeated: float = 0.0
    swapped: float = 0.0
    gap_s: float = 0.0
    held_s: float = 0.0
    restarted: bool = False


@dataclass
class Heard:
    """Chunks with their mapped times, and when the last sample of each was taken by host clock, about."""

    chunks: list[ImuChunk] = field(default_factory=list)
    mapped: list[np.ndarray] = field(default_factory=list)
    sent_ns: list[int] = field(default_factory=list)
    said_ns: list[int] = field(default_factory=list)


class Talk:
    """A session, its clock, and a device behind a bad link."""

    def __init__(self, case: Case, name: str, trouble: Trouble) -> None:
        config = SessionConfig("wrist_left", rate_hz=case.rate_hz, options=dict(case.options))
        self.session: Session = driver(name.split(",", maxsplit=1)[0]).open(config, transport=case.transport)
        self.heard = Heard()
        self._case, self._trouble = case, trouble
        self._rng = np.random.default_rng(trouble.seed)
        self._clock = ClockMap(delay_floor_ns=FLOOR_NS)
        self._boot_id: int | None = None
        self._serial = case.transport == "serial"
        self._waiting: list[tuple[int, int, str, bytes]] = []  # arrives, was sent, channel, data
        self._last_arrival_ns = 0

    def run(self) -> Heard:
        device, born_ns, next_write_ns = self._case.device(), 0, 0
        for now_ns in range(STEP_NS, SECONDS * S, STEP_NS):
            if self._trouble.restarted and born_ns == 0 and now_ns >= 6 * S:
                device, born_ns = self._case.device(), now_ns
                self._waiting.clear()
                self.session.link_reopened()
            if now_ns >= next_write_ns and (command := self.session.next_command()) is not None:
                self._write(device, command.channel, command.data, now_ns - born_ns)
                next_write_ns = now_ns + round(command.pause_s * S)
            elif isinstance(self.session, AsksTime) and now_ns % (500 * MS) == 0:
                request = self.session.time_request(START_NS + now_ns)
                if request is not None:
                    self._write(device, request.channel, request.data, now_ns - born_ns)
            self._send(device, now_ns - born_ns, now_ns)
            self._deliver(now_ns)
        return self.heard

    def _write(self, device: Any, channel: str, data: bytes, elapsed_ns: int) -> None:
        if self._serial:
            device.receive_data(data, elapsed_ns=elapsed_ns)
        else:
            device.write(channel, data, elapsed_ns=elapsed_ns)

    def _send(self, device: Any, elapsed_ns: int, now_ns: int) -> None:
        sent = device.advance(elapsed_ns)
        packets = [(SERIAL_CHANNEL, sent)] if self._serial and sent else list(sent)
        trouble, rng = self._trouble, self._rng
        for channel, data in packets:
            streaming = now_ns > 2 * S  # what the start needs is not lost: a link repeats it, this one does not
            in_gap = 4 * S < now_ns < 4 * S + trouble.gap_s * S
            if streaming and (in_gap or rng.random() < trouble.loss):
                continue
            arrival_ns = now_ns + 2 * MS + round(rng.exponential(8 * MS))
            if 9 * S < now_ns < (9 + trouble.held_s) * S:
                arrival_ns = round((9 + trouble.held_s) * S)
            arrival_ns = self._last_arrival_ns = max(arrival_ns, self._last_arrival_ns)
            self._waiting.append((arrival_ns, now_ns, channel, data))
            if streaming and not self._serial:
                if rng.random() < trouble.repeated:
                    self._waiting.append(self._waiting[-1])
                if len(self._waiting) > 1 and rng.random() < trouble.swapped:
                    (arrives, *last), (arrived, *before) = self._waiting[-1], self._waiting[-2]
                    self._waiting[-2:] = [(arrived, *last), (arrives, *before)]

    def _deliver(self, now_ns: int) -> None:
        while self._waiting and self._waiting[0][0] <= now_ns:
            arrival_ns, sent_ns, channel, data = self._waiting.pop(0)
            if channel in (SERIAL_CHANNEL, *self.session.subscriptions):
                self.session.receive_data(data, channel=channel, host_time_ns=START_NS + arrival_ns)
            while (event := self.session.next_event()) is not None:
                if isinstance(event, ImuChunk) and len(event):
                    self._map(event, sent_ns)
                elif isinstance(event, ClockExchange):
                    self._clock.update_two_way(event.t1_ns, event.t2_ns, event.t3_ns, event.t4_ns)

    def _map(self, chunk: ImuChunk, sent_ns: int) -> None:
        if self._boot_id not in (None, chunk.boot_id):
            self._clock.reset()
        self._boot_id = chunk.boot_id
        assert chunk.host_time_ns is not None
        self._clock.update(int(chunk.device_time_ns[-1]), chunk.host_time_ns)
        self.heard.chunks.append(chunk)
        self.heard.mapped.append(self._clock.to_host_ns(chunk.device_time_ns))
        self.heard.sent_ns.append(START_NS + sent_ns)
        self.heard.said_ns.append(self._clock.uncertainty_ns)


def require_steady(heard: Heard) -> None:
    """Within each boot mapped times increase, and by as much as device times do but for what a map may slew."""
    for boot_id in {c.boot_id for c in heard.chunks}:
        of_boot = [i for i, c in enumerate(heard.chunks) if c.boot_id == boot_id]
        assert of_boot == list(range(of_boot[0], of_boot[-1] + 1))
        device = np.diff(np.concatenate([heard.chunks[i].device_time_ns for i in of_boot]))
        mapped = np.diff(np.concatenate([heard.mapped[i] for i in of_boot]))
        assert (device > 0).all()
        assert (mapped > 0).all()
        assert (np.abs(mapped - device) <= 0.0505 * device + 1_000).all()


def require_near_the_truth(heard: Heard, case: Case, trouble: Trouble) -> None:
    """A second after a start the last sample of a packet is not mapped away from when it was sent."""
    packet_ns = max(int(c.device_time_ns[-1] - c.device_time_ns[0]) for c in heard.chunks)
    slack_ns = packet_ns + 2 * heard.chunks[-1].interval_ns + 4 * STEP_NS
    if case.counted:  # missing samples are noticed when a second's fastest packet is 0.2 s late
        slack_ns += 260 * MS
        lossy = trouble.loss + trouble.repeated > 0
        slack_ns += 500 * MS if lossy or trouble.gap_s or trouble.held_s or trouble.restarted else 0
    since: dict[int, int] = {}
    for chunk, mapped, sent_ns, said_ns in zip(heard.chunks, heard.mapped, heard.sent_ns, heard.said_ns, strict=True):
        start_ns = since.setdefault(chunk.boot_id, sent_ns)
        after_gap_ns = sent_ns - START_NS - round((4 + trouble.gap_s) * S)
        if case.counted and trouble.gap_s and 0 <= after_gap_ns < 400 * MS:
            continue  # lost, or only held up: that takes a moment to see
        if sent_ns - start_ns > S:
            assert abs(int(mapped[-1]) - sent_ns) <= said_ns + slack_ns


troubles = st.builds(
    Trouble,
    seed=st.integers(0, 2**31),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    repeated=st.sampled_from([0.0, 0.05]),
    swapped=st.sampled_from([0.0, 0.05]),
    gap_s=st.sampled_from([0.0, 0.3, 1.7]),
    held_s=st.sampled_from([0.0, 0.8]),
    restarted=st.booleans(),
)


@pytest.mark.parametrize("name", CASES)
def test_a_good_link_gives_all_samples_at_their_times(name: str) -> None:
    case, trouble = CASES[name], Trouble(1)
    heard = Talk(case, name, trouble).run()
    require_steady(heard)
    require_near_the_truth(heard, case, trouble)
    # samples that a device made before it took the wanted rate count as loss
    assert sum(c.lost for c, sent_ns in zip(heard.chunks, heard.sent_ns, strict=True) if sent_ns > START_NS + S) == 0
    assert sum(map(len, heard.chunks)) > 0.7 * SECONDS * case.rate_hz


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=3)
@given(trouble=troubles)
def test_host_times_are_steady_and_true_whatever_befalls_the_packets(name: str, trouble: Trouble) -> None:
    case = CASES[name]
    heard = Talk(case, name, trouble).run()
    assert sum(map(len, heard.chunks)) > 0.2 * SECONDS * case.rate_hz
    require_steady(heard)
    require_near_the_truth(heard, case, trouble)
