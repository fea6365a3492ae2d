"""Emulated devices: what they send, what the faults take, and the same over a real pty."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import numpy as np
import pytest

from kinedge.errors import ConfigError, LinkError, SignalError
from kinedge.firmware_bridge.decoder import (
    Event,
    HelloReceived,
    StatusReceived,
    TimeSyncReceived,
    WireDecoder,
)
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, FaultyWire, counts_from_si, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import HelloRequest, TimeSync
from kinedge.signals import ImuChunk, SensorSpec

S = 1_000_000_000
SPEC = SensorSpec("wrist_left")
HELLO = make_hello(SPEC, rate_hz=100, boot_id=9)


def ramp(n: int, *, start: int = 0) -> np.ndarray:
    return ((np.arange(start, start + n)[:, None] + np.arange(6) * 100) % 30_000).astype(np.int16)


def decode(payloads: list[bytes], *, framed: bool = False) -> tuple[list[Event], WireDecoder]:
    decoder = WireDecoder(framed=framed)
    events: list[Event] = []
    for payload in payloads:
        decoder.receive_data(payload)
    while (event := decoder.next_event()) is not None:
        events.append(event)
    return events, decoder


def chunks_of(events: list[Event]) -> list[ImuChunk]:
    return [e for e in events if isinstance(e, ImuChunk)]


def test_device_sends_what_is_due_and_nothing_before() -> None:
    imu = EmulatedImu(HELLO, ramp(1000), start_ns=3 * S)
    first, _ = decode(imu.advance(0))
    assert [type(e) for e in first] == [HelloReceived, StatusReceived]
    assert imu.advance(89_999_999) == []
    assert imu.next_due_ns == 90_000_000  # the tenth sample is taken at 90 ms
    events, _ = decode([HELLO.to_bytes(), *imu.advance(90_000_000)])
    (chunk,) = chunks_of(events)
    np.testing.assert_array_equal(chunk.device_time_ns, 3 * S + np.arange(10) * 10_000_000)
    np.testing.assert_allclose(chunk.values, ramp(10) * HELLO.scales, rtol=1e-6)


@pytest.mark.parametrize("step_ns", [7_000_000, 333_333_333, 20 * S])
def test_any_steps_of_time_send_the_same_bytes(step_ns: int) -> None:
    whole, stepped = (EmulatedImu(HELLO, ramp(995), faults=Faults(loss=0.1, mean_burst=2), seed=5) for _ in range(2))
    sent: list[bytes] = []
    elapsed = 0
    while not stepped.finished:
        elapsed += step_ns
        sent += stepped.advance(elapsed)
    assert sent == whole.advance(10**12)
    events, _ = decode(sent)
    assert sum(isinstance(e, HelloReceived) for e in events) in (4, 5)  # every 2 s, some lost


def test_blocks_of_any_size_are_sent_as_one_signal() -> None:
    blocks = (ramp(n, start=start) for start, n in ((0, 3), (3, 25), (28, 0), (28, 1), (29, 66)))
    assert EmulatedImu(HELLO, blocks).advance(10 * S) == EmulatedImu(HELLO, ramp(95)).advance(10 * S)


def test_last_packet_may_be_short_and_then_the_device_is_silent() -> None:
    imu = EmulatedImu(HELLO, ramp(25))
    chunks = chunks_of(decode(imu.advance(1 * S))[0])
    assert sum(map(len, chunks)) == 25
    assert imu.finished and imu.next_due_ns is None
    assert imu.advance(100 * S) == []


def test_skewed_clock_runs_ahead_and_samples_with_it() -> None:
    imu = EmulatedImu(HELLO, ramp(200_000), skew_ppm=100)
    events, _ = decode(imu.advance(1000 * S))
    last_ns = max(int(c.device_time_ns[-1]) for c in chunks_of(events))
    assert 1000 * S < last_ns <= 1000.1 * S


def test_decoder_counts_what_the_channel_lost_and_losses_come_in_bursts() -> None:
    imu = EmulatedImu(HELLO, ramp(30_000), faults=Faults(loss=0.05, mean_burst=4), seed=2)
    events, decoder = decode([HELLO.to_bytes(), *imu.advance(10**12)])
    assert decoder.counters.samples == imu.n_sent == 30_000 - imu.n_lost
    assert decoder.counters.lost == imu.n_lost
    assert 0.03 < imu.n_lost / 30_000 < 0.07
    gaps = [gap for c in chunks_of(events) for gap in np.diff(c.device_time_ns) // 10_000_000 if gap > 1]
    assert 2.5 < (np.mean(gaps) - 1) / 10 < 6


def test_impossible_faults_are_refused() -> None:
    for make in (
        lambda: Faults(loss=1.0),
        lambda: Faults(loss=0.9, mean_burst=1),
        lambda: Faults(mean_burst=0.5),
        lambda: Faults(corruption=-0.1),
        lambda: EmulatedImu(HELLO, ramp(1), packet_samples=256),
        lambda: EmulatedImu(HELLO, ramp(1), start_ns=-1),
    ):
        with pytest.raises(ConfigError):
            make()


def test_corrupted_line_costs_samples_that_are_all_counted() -> None:
    imu = EmulatedImu(HELLO, ramp(20_000), seed=3)
    wire = FaultyWire(faults=Faults(corruption=2e-4), seed=3)
    payloads = imu.advance(10**12)
    frames = [encode_frame(HELLO.to_bytes()), *map(wire.carry, payloads[:-1]), encode_frame(payloads[-1])]
    events, decoder = decode(frames, framed=True)
    counters = decoder.counters
    assert wire.n_damaged > 20
    assert 0 < counters.bad_crc + counters.bad_frame <= 2 * wire.n_damaged
    assert counters.samples + counters.lost == 20_000
    for chunk in chunks_of(events):
        index = chunk.device_time_ns // 10_000_000
        np.testing.assert_allclose(chunk.values, ramp(20_000)[index] * HELLO.scales, rtol=1e-6)


def test_quantised_values_come_back_within_half_a_count_and_masks_exactly() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (300, 6)) * [60, 60, 60, 15, 15, 15]
    valid = rng.random((300, 6)) > 0.1
    values[5, 2] = np.nan
    imu = EmulatedImu(HELLO, counts_from_si(values, hello=HELLO, valid=valid))
    chunks = chunks_of(decode([HELLO.to_bytes(), *imu.advance(10 * S)])[0])
    got, ok = np.concatenate([c.values for c in chunks]), np.concatenate([c.valid for c in chunks])
    saturated = np.concatenate([c.saturated for c in chunks])
    expected_ok = valid & np.isfinite(values)
    np.testing.assert_array_equal(ok, expected_ok)
    limit = np.array([channel.full_scale for channel in HELLO.channels])
    beyond = np.abs(values) > limit
    assert beyond[ok].any() and saturated[ok & beyond].all()
    inside = ok & ~beyond
    assert (np.abs(got - values)[inside] <= (np.broadcast_to(HELLO.scales, got.shape) * 0.51)[inside]).all()


def test_counts_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(SignalError, match="counts must be"):
        EmulatedImu(HELLO, np.zeros((5, 3), np.int16))
    with pytest.raises(SignalError, match="counts must be"):
        EmulatedImu(HELLO, np.zeros((5, 6), np.float32))  # type: ignore[arg-type]
    with pytest.raises(SignalError, match="must be"):
        counts_from_si(np.zeros((5, 3)), hello=HELLO)


def test_host_gets_an_answer_to_its_requests() -> None:
    imu = EmulatedImu(HELLO, ramp(1000), start_ns=7 * S)
    imu.advance(1 * S)
    imu.receive_data(HelloRequest().to_bytes())
    imu.receive_data(HelloRequest(HELLO.stream_id + 1).to_bytes())
    imu.receive_data(b"nonsense")
    imu.receive_data(TimeSync(1, 5, 123).to_bytes(), elapsed_ns=S + 2_000_000)
    events, _ = decode(imu.advance(S + 3_000_000))
    hello, answer = events
    assert isinstance(hello, HelloReceived) and hello.hello == HELLO
    assert isinstance(answer, TimeSyncReceived)
    assert answer.time_sync == TimeSync(1, 5, 123, 8_002_000, 8_003_000, is_response=True)


def test_what_the_device_drops_is_told_in_flags_and_status() -> None:
    imu = EmulatedImu(HELLO, ramp(2000))
    payloads = imu.advance(1 * S)
    imu.drop(payloads.pop())
    events, decoder = decode(payloads + imu.advance(6 * S))
    assert decoder.counters.lost == 10 and decoder.counters.overflows == 1
    assert [e.status.dropped for e in events if isinstance(e, StatusReceived)] == [0, 10]


class Host:
    """The other end of a pty, read without the serial link; it does not flush what the device said first."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.decoder = WireDecoder()
        self.events: list[Event] = []

    def read(self, *, timeout_s: float = 5.0) -> bool:
        """Read once; False when the line is dead or silent."""
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.decoder.receive_data(data)
        while (event := self.decoder.next_event()) is not None:
            self.events.append(event)
        return bool(data)

    def read_until(self, n_samples: int) -> None:
        while self.decoder.counters.samples < n_samples:
            assert self.read(), f"silent after {self.decoder.counters}"

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def wait_until(condition: object, *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def test_two_devices_on_one_pty_send_everything_in_their_own_time(tmp_path: Path) -> None:
    imus = [
        EmulatedImu(make_hello(SensorSpec(name), rate_hz=100, stream_id=i), ramp(600), seed=i)
        for i, name in enumerate(("wrist_left", "wrist_right"))
    ]
    started = time.monotonic()
    with PtyDevice(imus, link_path=tmp_path / "hub", speed=20.0) as device, Host(tmp_path / "hub") as host:
        host.read_until(1200)
        assert device.wait_finished(timeout_s=5)
        assert time.monotonic() - started >= 5.99 / 20
    for name in ("wrist_left", "wrist_right"):
        values = np.concatenate([e.values for e in host.events if isinstance(e, ImuChunk) and e.sensor == name])
        np.testing.assert_allclose(values, ramp(600) * HELLO.scales, rtol=1e-6)
    assert host.decoder.counters.lost == 0
    assert not os.path.lexists(tmp_path / "hub")


def test_device_that_nobody_reads_does_not_wait_and_counts_what_it_drops(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(60_000))
    with PtyDevice(imu, link_path=tmp_path / "imu", speed=500.0), Host(tmp_path / "imu") as host:
        wait_until(lambda: imu.n_dropped > 5_000)
        wait_until(lambda: imu.finished)
        while host.read(timeout_s=0.2):
            pass
        # the end of the recording fell into the full buffer: what lies behind the last packet read is not known
        counters = host.decoder.counters
        assert 0 < counters.samples <= imu.n_sent
        assert imu.n_sent + imu.n_dropped == 60_000
        assert counters.bad_crc == counters.bad_frame == 0


def test_unplugged_device_hangs_up_and_comes_back_under_the_same_path(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(100_000))
    path = tmp_path / "imu"
    with PtyDevice(imu, link_path=path, speed=20.0) as device:
        with Host(path) as host:
            host.read_until(100)
            device.unplug()
            assert not path.is_symlink()
            while host.read():
                pass
            decoder = host.decoder
            before = decoder.counters.samples
        wait_until(lambda: imu.n_dropped >= 200)
        device.replug()
        with Host(path) as host:
            decoder.link_reopened()
            host.decoder = decoder
            host.read_until(before + 100)
        assert decoder.counters.lost >= 200
        device.unplug()
        device.unplug()
        path.write_text("somebody else's")
        with pytest.raises(LinkError, match="somebody else"):
            device.replug()
    assert path.read_text() == "somebody else's"
    with pytest.raises(LinkError, match="not running"):
        device.replug()


def test_device_answers_over_the_pty(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(10_000), start_ns=5 * S)
    with PtyDevice(imu, link_path=tmp_path / "imu") as device, Host(tmp_path / "imu") as host:
        assert device.imus == (imu,)
        os.write(host.fd, encode_frame(HelloRequest().to_bytes()) + encode_frame(TimeSync(1, 3, 77).to_bytes()))
        deadline = time.monotonic() + 5
        while not any(isinstance(e, TimeSyncReceived) for e in host.events):
            assert time.monotonic() < deadline and host.read()
    (answer,) = (e.time_sync for e in host.events if isinstance(e, TimeSyncReceived))
    assert (answer.sequence, answer.t1_us) == (3, 77)
    assert 5_000_000 <= answer.t2_us <= answer.t3_us < 5_000_000 + 10_000_000


def test_line_without_devices_or_with_one_stream_twice_is_refused(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(10))
    for imus in ([], [imu, imu]):
        with pytest.raises(ConfigError, match="stream ids"):
            PtyDevice(imus, link_path=tmp_path / "x")
    with pytest.raises(ConfigError, match="speed"):
        PtyDevice(imu, link_path=tmp_path / "x", speed=0)


def test_packets_come_twice_and_after_the_next_one_as_told_and_none_is_missing() -> None:
    imu = EmulatedImu(HELLO, ramp(5000), faults=Faults(duplication=0.2, reordering=0.2), seed=4)
    events, decoder = decode([HELLO.to_bytes(), *imu.advance(60 * S)])
    starts = [e.device_time_ns[0] for e in chunks_of(events)]
    assert imu.n_made == 5000 and imu.finished
    counters = decoder.counters
    # what was overtaken comes too late for the decoder: it is lost, and a duplicate
    assert counters.samples + counters.lost == 5000
    assert counters.samples + counters.duplicates == imu.n_sent > 5000
    assert counters.lost > 500 and starts == sorted(starts)


def test_device_that_awaits_its_host_begins_with_the_first_packet_from_it(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(100_000))
    with PtyDevice(imu, link_path=tmp_path / "imu", speed=50.0, await_host=True) as device:
        fd = os.open(tmp_path / "imu", os.O_RDWR)
        try:
            device.stall()  # an order passes through the thread: were the device on, it would have begun by now
            device.resume()
            assert imu.n_made == 0 and not select.select([fd], [], [], 0)[0]
            os.write(fd, encode_frame(HelloRequest().to_bytes()))
            events, _ = read_until(fd, n_samples=200)
            assert chunks_of(events)[0].device_time_ns[0] == 0
        finally:
            os.close(fd)


def test_held_device_hears_its_host_and_begins_when_it_is_switched_on(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(100_000))
    with PtyDevice(imu, link_path=tmp_path / "imu", speed=50.0, held=True) as device:
        fd = os.open(tmp_path / "imu", os.O_RDWR)
        try:
            assert not device.heard_host
            os.write(fd, encode_frame(HelloRequest().to_bytes()))
            end = time.monotonic() + 20
            while not device.heard_host and time.monotonic() < end:
                time.sleep(0.01)
            device.stall()  # an order passes through the thread
            device.resume()
            assert device.heard_host and imu.n_made == 0
            device.switch_on()
            events, _ = read_until(fd, n_samples=200)
            assert chunks_of(events)[0].device_time_ns[0] == 0
            made = imu.n_made
            device.switch_on()  # it is on: its time goes on
            assert imu.n_made >= made >= 200
        finally:
            os.close(fd)


def test_stalled_device_holds_back_and_loses_nothing_that_fits(tmp_path: Path) -> None:
    imu = EmulatedImu(HELLO, ramp(400), seed=1)
    with PtyDevice(imu, link_path=tmp_path / "imu", speed=100.0, await_host=True) as device:
        fd = os.open(tmp_path / "imu", os.O_RDWR)
        try:
            device.stall()
            os.write(fd, encode_frame(HelloRequest().to_bytes()))
            end = time.monotonic() + 20
            while not imu.finished and time.monotonic() < end:
                select.select([fd], [], [], 0.01)
            assert imu.finished and not device.finished and not select.select([fd], [], [], 0)[0]
            device.resume()
            events, decoder = read_until(fd, n_samples=400)
            assert sum(map(len, chunks_of(events))) == 400 and decoder.counters.lost == 0
        finally:
            os.close(fd)


def test_restarted_device_counts_from_nought_and_faults_can_change_meanwhile(tmp_path: Path) -> None:
    second = EmulatedImu(make_hello(SPEC, rate_hz=100, boot_id=10), ramp(100_000))
    with PtyDevice(EmulatedImu(HELLO, ramp(100_000)), link_path=tmp_path / "imu", speed=50.0) as device:
        fd = os.open(tmp_path / "imu", os.O_RDWR)
        try:
            decoder = WireDecoder()
            read_until(fd, n_samples=100, decoder=decoder)
            device.set_faults(Faults(corruption=1.0))
            device.restart(second)
            assert device.imus == (second,)
            events, _ = read_until(fd, n_samples=100, decoder=decoder, boot_id=10)
            chunk = next(e for e in chunks_of(events) if e.boot_id == 10)
            assert chunk.device_time_ns[0] == 0 and chunk.lost == 0
            device.set_faults(Faults(loss=0.5, mean_burst=3))
            read_until(fd, n_samples=500, decoder=decoder, boot_id=10)
        finally:
            os.close(fd)
        with pytest.raises(ConfigError):
            device.restart([])


def read_until(
    fd: int, *, n_samples: int, decoder: WireDecoder | None = None, boot_id: int = 9
) -> tuple[list[Event], WireDecoder]:
    decoder, events = decoder or WireDecoder(), []
    end = time.monotonic() + 20
    while sum(len(c) for c in chunks_of(events) if c.boot_id == boot_id) < n_samples:
        assert time.monotonic() < end, "the device did not send enough in time"
        if select.select([fd], [], [], 1.0)[0]:
            decoder.receive_data(os.read(fd, 4096))
        while (event := decoder.next_event()) is not None:
            events.append(event)
    return events, decoder
