"""Shimmer3: the conversation before the stream, packets without a checksum, calibration and a clock of 24 bits."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from device_talk import START_NS, SerialTalk, events_of, feed, join, movement, n_samples, talk_over_tty
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, DeviceInfo, Doubt, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices._shimmer3_layout import (
    Calibration,
    packet_dtype,
    parse_calibration,
    parse_inquiry,
)
from kinedge.firmware_bridge.devices.emulated_serial import PtyLine
from kinedge.firmware_bridge.devices.emulated_shimmer3 import EmulatedShimmer3, calibration_block
from kinedge.firmware_bridge.devices.shimmer3 import Shimmer3Driver, Shimmer3Session
from kinedge.signals import ImuChunk

CHANNELS = bytes([4, 5, 6, 0x0A, 0x0B, 0x0C])
INTERVAL = 328
RATE_HZ = 32768 / INTERVAL
SIZE = 16
IDENTITY = Calibration(np.zeros(3), np.full(3, 400.0), np.eye(3))
GYR_IDENTITY = Calibration(np.zeros(3), np.full(3, 16.4), np.eye(3))


def open_session(**config: object) -> Shimmer3Session:
    asked = {"rate_hz": 100.0, **config}
    return Shimmer3Driver().open(SessionConfig("shank_left", **asked), transport="serial")  # type: ignore[arg-type]


def inquiry(channels: bytes = CHANNELS, *, interval: int = INTERVAL) -> bytes:
    return b"\xff\x02" + interval.to_bytes(2, "little") + bytes([0x20, 1, 2, 3, len(channels), 1]) + channels


def calibration() -> bytes:
    wide, gyr = calibration_block(IDENTITY), calibration_block(GYR_IDENTITY, sensitivity_unit=0.01)
    return b"\xff\x2d" + wide + gyr + wide + wide


def streaming(**config: object) -> Shimmer3Session:
    """A session that has been answered everything, and has sent START."""
    session = open_session(**config)
    list(iter(session.next_command, None))
    events = feed(session, b"\xff" * 5 + calibration() + inquiry(), cuts=())
    assert [type(e) for e in events] == [DeviceInfo]
    assert [c.data for c in iter(session.next_command, None)] == [b"\x07"]
    return session


def packet(index: int, *, interval: int = INTERVAL, first: int = 1000) -> bytes:
    """Sample ``index``, which its gyr_z tells."""
    tick = (first + index * interval) % (1 << 24)
    acc = np.array([400, -800, 3923], "<i2").tobytes()
    return b"\0" + tick.to_bytes(3, "little") + acc + np.array([164, 0, index % 10_000], ">i2").tobytes()


def index_of(joined) -> list[int]:  # type: ignore[no-untyped-def]
    return np.rint(np.rad2deg(joined.values[:, 5]) * 16.4).astype(int).tolist()


def test_published_packets_have_their_time_and_channel() -> None:
    data = bytes.fromhex("00DED0B22607 001ED1B2FC06")
    dtype = packet_dtype([0x0D])
    packets = np.frombuffer(data, dtype)
    ticks = packets["time"].astype(int) @ [1, 256, 65536]
    assert ticks.tolist() == [0xB2D0DE, 0xB2D11E] and ticks[0] == 11718878
    assert packets["0D"].tolist() == [1830, 0x06FC]


def test_published_packets_go_through_a_session_with_their_time() -> None:
    session = open_session(rate_hz=512, acc_range_g=2)
    list(iter(session.next_command, None))
    feed(session, calibration() + inquiry(bytes([0x0D]), interval=64), cuts=())
    list(iter(session.next_command, None))
    joined = join(feed(session, bytes.fromhex("FF 00DED0B22607 001ED1B2FC06"), cuts=()))
    assert joined.time_ns.tolist() == [t * 1_953_125 // 64 for t in (0xB2D0DE, 0xB2D11E)]
    assert not joined.valid.any()  # one channel, and neither acceleration nor angular rate


def test_session_sends_these_commands_in_this_order() -> None:
    session = open_session(rate_hz=51.2, acc_range_g=8, gyr_range_deg_s=500)
    commands = [c.data.hex() for c in iter(session.next_command, None)]
    assert commands == ["20", "2e", "08401000", "058002", "4901", "0902", "2c", "01"]
    low_noise = [c.data.hex() for c in iter(open_session(acc_range_g=2).next_command, None)]
    assert "08c00000" in low_noise and not any(c.startswith("09") for c in low_noise)
    assert [c.data for c in session.stop_commands()] == [b"\x20"]


def test_start_is_sent_only_when_the_channels_are_known() -> None:
    session = open_session()
    list(iter(session.next_command, None))
    feed(session, b"\xff" * 5 + calibration(), cuts=())
    assert session.next_command() is None
    feed(session, inquiry()[:-1], cuts=())
    assert session.next_command() is None
    feed(session, inquiry()[-1:], cuts=())
    command = session.next_command()
    assert command is not None and command.data == b"\x07"


def test_values_are_calibrated_with_both_byte_orders() -> None:
    joined = join(feed(streaming(), packet(7) + packet(8), cuts=()))
    np.testing.assert_allclose(joined.values[0, :3], [1.0, -2.0, 3923 / 400], rtol=1e-6)
    np.testing.assert_allclose(joined.values[0, 3:], np.deg2rad([10.0, 0.0, 7 / 16.4]), rtol=1e-5)
    assert joined.time_ns.tolist() == [(1000 + i * INTERVAL) * 1_953_125 // 64 for i in (7, 8)]


def test_calibration_blocks_round_trip_and_invert_the_alignment() -> None:
    turned = Calibration(
        np.array([10.0, -20.0, 30.0]),
        np.array([1600.0, 1610.0, 1620.0]),
        np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1.0]]),
    )
    found = parse_calibration(calibration_block(turned))
    assert found is not None
    counts = np.array([[10.0, -20.0 - 1610.0, 30.0 - 3240.0]])
    np.testing.assert_allclose((counts - found.offset) @ found.matrix().T, [[1.0, 0.0, 2.0]], atol=1e-12)
    assert parse_calibration(b"\xff" * 21) is None
    assert parse_calibration(bytes(21)) is None


def test_a_device_without_calibration_is_doubted_and_gets_the_nominal_one() -> None:
    session = open_session()
    list(iter(session.next_command, None))
    events = feed(session, b"\xff\x2d" + b"\xff" * 84 + inquiry(), cuts=())
    assert [type(e) for e in events] == [Doubt, Doubt, DeviceInfo]
    list(iter(session.next_command, None))
    joined = join(feed(session, packet(0) + packet(1), cuts=()))
    np.testing.assert_allclose(joined.values[0, :3], [-400 / 408, -800 / 408, -3923 / 408], rtol=1e-5)


def test_a_range_other_than_asked_for_is_doubted() -> None:
    session = open_session(acc_range_g=16)
    list(iter(session.next_command, None))
    events = feed(session, calibration() + inquiry(), cuts=())
    assert any(isinstance(e, Doubt) and "asked for 16 g" in e.text for e in events)


def test_inquiry_is_read_and_what_cannot_be_is_refused() -> None:
    found = parse_inquiry(inquiry()[2:])
    assert found.channels == tuple(CHANNELS) and found.rate_hz == pytest.approx(99.9, abs=0.01)
    for bad in (
        inquiry()[2:-1],
        inquiry(interval=0)[2:],
        inquiry(bytes([4, 4]))[2:],
        inquiry(b"")[2:],
        inquiry(b"\x77")[2:],
    ):
        with pytest.raises(ProtocolError):
            parse_inquiry(bad)


def test_stream_comes_out_the_same_in_any_chunking_with_acks_and_status_in_it() -> None:
    stream = b"\xff" + b"".join(
        packet(i) + (b"\x8a\x71\x02" if i % 7 == 3 else b"") + (b"\xff" if i % 5 == 1 else b"") for i in range(60)
    )
    whole = join(feed(streaming(), stream + packet(60)[:9], cuts=()))
    single = join(feed(streaming(), stream + packet(60)[:9]))
    for a, b in zip(vars(whole).values(), vars(single).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert index_of(whole) == list(range(60)) and whole.lost == 0


def test_a_burst_is_one_chunk() -> None:
    events = feed(streaming(), b"".join(packet(i) for i in range(200)), cuts=())
    assert [len(e) for e in events if isinstance(e, ImuChunk)] == [200]


def test_time_goes_on_over_the_wrap_of_its_24_bits() -> None:
    joined = join(feed(streaming(), b"".join(packet(i, first=(1 << 24) - 2000) for i in range(20)), cuts=()))
    assert set(np.diff(joined.time_ns).tolist()) == {INTERVAL * 1_953_125 // 64, INTERVAL * 1_953_125 // 64 + 1}
    assert joined.lost == 0 and joined.boot_ids == [0]


def test_an_outage_longer_than_the_clock_is_told_by_the_host_clock() -> None:
    session = streaming()
    for i in range(10):
        session.receive_data(packet(i), channel=SERIAL_CHANNEL, host_time_ns=START_NS + i * 10_000_000)
    session.link_reopened()
    list(iter(session.next_command, None))
    session.receive_data(calibration() + inquiry(), channel=SERIAL_CHANNEL)
    list(iter(session.next_command, None))
    after = round(1300 * RATE_HZ)  # 1300 s: the clock wrapped twice
    for i in range(after, after + 10):
        at = START_NS + round(i / RATE_HZ * 1e9)
        session.receive_data(packet(i), channel=SERIAL_CHANNEL, host_time_ns=at)
    joined = join(events_of(session))
    assert joined.boot_ids == [0]
    assert joined.lost == after - 10
    assert joined.time_ns[-1] - joined.time_ns[0] == pytest.approx((after + 9) * INTERVAL * 30517.578125, abs=1)


def test_lost_packets_are_counted_by_time() -> None:
    kept = [i for i in range(40) if i not in (11, 12, 30)]
    joined = join(feed(streaming(), b"".join(packet(i) for i in kept), cuts=()))
    assert index_of(joined) == kept and joined.lost == 3


@settings(deadline=None, max_examples=80)
@given(at=st.integers(0, 20 * SIZE - 1), kind=st.sampled_from(["lose", "double"]))
def test_finds_its_place_again_after_a_lost_or_doubled_byte(at: int, kind: str) -> None:
    data = bytearray(b"".join(packet(i) for i in range(24)))
    if kind == "lose":
        del data[at]
    else:
        data.insert(at, data[at])
    session = streaming()
    joined = join(feed(session, bytes(data), cuts=()))
    # Without a checksum the damaged packet itself may pass, with its own time.
    touched = {at // SIZE - 1, at // SIZE, at // SIZE + 1}
    by_time = np.rint((joined.time_ns * 64 / 1_953_125 - 1000) / INTERVAL).astype(int).tolist()
    found = {i: index for i, index in zip(by_time, index_of(joined), strict=True) if i not in touched}
    assert found == {i: i for i in range(24) if i not in touched}
    assert (np.diff(joined.time_ns) > 0).all()


def test_ends_of_the_range_are_saturated() -> None:
    acc = np.array([32752, -32768, 0], "<i2").tobytes()
    data = b"\0" + (1000).to_bytes(3, "little") + acc + np.array([32767, 0, -32768], ">i2").tobytes()
    joined = join(feed(streaming(), data + packet(1), cuts=()))
    assert joined.saturated.tolist() == [[True, True, False, True, False, True], [False] * 6]


def test_saturation_follows_the_alignment_of_the_axes() -> None:
    turned = Calibration(np.zeros(3), np.full(3, 400.0), np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1.0]]))
    blocks = [calibration_block(turned), calibration_block(GYR_IDENTITY, sensitivity_unit=0.01)]
    session = open_session()
    list(iter(session.next_command, None))
    feed(session, b"\xff\x2d" + blocks[0] + blocks[1] + blocks[0] * 2 + inquiry(), cuts=())
    list(iter(session.next_command, None))
    counts = np.array([-32768, 0, 10], "<i2").tobytes() + bytes(6)
    joined = join(feed(session, b"\0" + (1000).to_bytes(3, "little") + counts + packet(1), cuts=()))
    assert joined.saturated[0].tolist() == [False, True, False, False, False, False]
    np.testing.assert_allclose(joined.values[0, :3], [0, 32768 / 400, -10 / 400], atol=1e-6)


def test_driver_recognises_an_answer_to_its_probe() -> None:
    shimmer = driver("shimmer3")
    assert shimmer.serial_probe() == b"\x01"
    assert shimmer.recognise_serial(b"\x00\xff\x02" + inquiry())
    assert not shimmer.recognise_serial(inquiry()[:-1])
    assert not shimmer.recognise_serial(bytes.fromhex("55510008000000F8F609A5") * 4)
    with pytest.raises(ConfigError, match="positive"):
        open_session(rate_hz=0.0)


@pytest.mark.parametrize(("acc_g", "tolerance"), [(2.0, 0.01), (8.0, 0.002)])
def test_conversation_streams_what_the_device_measured(acc_g: float, tolerance: float) -> None:
    values = movement(400)
    device = EmulatedShimmer3(values, start_ticks=(1 << 24) - 30_000, status_every=9)
    session = open_session(acc_range_g=acc_g)
    talk = SerialTalk(session, device)
    events = talk.run(4.0)
    info = next(e for e in events if isinstance(e, DeviceInfo))
    assert info.rate_hz == RATE_HZ and info.firmware == "0.16.11"
    assert not [e for e in events if isinstance(e, Doubt)]
    joined = join(events)
    n = len(joined.time_ns)
    assert n > 250 and joined.lost == 0
    np.testing.assert_allclose(joined.values, values[:n], atol=tolerance)
    for command in session.stop_commands():
        device.receive_data(command.data, elapsed_ns=talk.elapsed_ns)
    assert n_samples(talk.run(0.5)) == 0


def test_session_streams_over_a_real_tty_and_resumes_after_unplugging(tmp_path: Path) -> None:
    device = EmulatedShimmer3(np.tile(movement(500), (20, 1)))
    session = open_session()
    path = tmp_path / "shimmer"
    with PtyLine(device, link_path=path) as line:
        pulled = False

        def until(events: list) -> bool:  # type: ignore[type-arg]
            nonlocal pulled
            if not pulled and n_samples(events) > 30:
                pulled = True
                line.unplug()
                line.replug()
            return n_samples(events) > 90

        joined = join(talk_over_tty(session, path, until=until))
    assert (np.diff(joined.time_ns) > 0).all()
    elapsed = round((joined.time_ns[-1] - joined.time_ns[0]) * RATE_HZ / 1e9) + 1
    assert len(joined.time_ns) + joined.lost == elapsed


@settings(deadline=None, max_examples=150)
@given(
    begun=st.booleans(),
    parts=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.just(calibration()),
            st.builds(inquiry, st.binary(max_size=8), interval=st.integers(0, 65535)),
            st.builds(packet, st.integers(0, 30000)),
        )
    ),
)
def test_any_bytes_raise_nothing_but_a_protocol_error(begun: bool, parts: list[bytes]) -> None:
    session = streaming() if begun else open_session()
    for part in parts:
        with contextlib.suppress(ProtocolError):
            session.receive_data(part, channel=SERIAL_CHANNEL, host_time_ns=1)
        session.next_command()
        assert len(session._buffer) < 400
    for event in events_of(session):
        if isinstance(event, ImuChunk):
            assert np.isfinite(event.values).all() and (np.diff(event.device_time_ns) > 0).all()


def test_noise_does_not_grow_memory() -> None:
    noise = np.random.default_rng(0).choice(np.frombuffer(b"\0\0\0\xff\x8a\x71\x01", np.uint8), 10_000).tobytes()
    session = streaming()
    tracemalloc.start()
    for _ in range(2):
        feed(session, noise, cuts=range(250, 10_000, 250))
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(8):
        feed(session, noise, cuts=range(250, 10_000, 250))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000
