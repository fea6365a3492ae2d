"""WitMotion: BLE frames without a checksum, serial frames with one, and how samples are put together."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
from device_talk import START_NS, BleTalk, SerialTalk, events_of, feed, join, movement, n_samples, talk_over_tty
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import (
    SERIAL_CHANNEL,
    Advertisement,
    ChoosesCharacteristics,
    DeviceInfo,
    Doubt,
    SessionConfig,
)
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices._witmotion_serial import encode_serial_frame, parse_time, split_serial
from kinedge.firmware_bridge.devices.emulated_serial import PtyLine
from kinedge.firmware_bridge.devices.emulated_witmotion import EmulatedWitMotion, EmulatedWitMotionBle
from kinedge.firmware_bridge.devices.witmotion import NOTIFY, SERVICE, WRITE, WitMotionDriver, split_ble
from kinedge.signals import ImuChunk
from kinedge.units import STANDARD_GRAVITY_M_S2 as G

CAPTURED = bytes.fromhex("55617702A8FE92FE060230FECDFFF8F053FCABC4")
TIME, ACC, GYR, ANGLE = 0x50, 0x51, 0x52, 0x53
ACC_LSB, GYR_LSB = 16 * G / 32768, np.deg2rad(2000) / 32768
UNLOCK = bytes.fromhex("FFAA6988B5")


def open_session(transport: str = "ble", **config: object):  # type: ignore[no-untyped-def]
    return WitMotionDriver().open(SessionConfig("wrist_left", **config), transport=transport)  # type: ignore[arg-type]


def ble_frame(index: int) -> bytes:
    """A frame whose values are full of 55, and whose gyr_x says which it is."""
    counts = np.array([0x5555, 0x0155, 0x5500, index, -0x0155, 0x5551], "<i2")
    return b"\x55\x61" + counts.tobytes() + b"\x55\x51\x55\x55\x00\x55"


def notify(session, data: bytes, *, at_ms: int | None = None) -> list:  # type: ignore[no-untyped-def, type-arg]
    session.receive_data(data, channel=NOTIFY, host_time_ns=None if at_ms is None else START_NS + at_ms * 1_000_000)
    return events_of(session)


def index_of(joined) -> list[int]:  # type: ignore[no-untyped-def]
    return np.rint(joined.values[:, 3] / GYR_LSB).astype(int).tolist()


def test_captured_frame_decodes_to_si_units() -> None:
    info, chunk = notify(open_session(rate_hz=50), CAPTURED)
    assert isinstance(info, DeviceInfo) and info.rate_hz == 50
    assert isinstance(chunk, ImuChunk)
    np.testing.assert_allclose(chunk.values[0, :3], np.array([0.308105, -0.167969, -0.178711]) * G, atol=1e-5)
    np.testing.assert_allclose(chunk.values[0, 3:], np.deg2rad([31.616, -28.32, -3.113]), atol=1e-5)
    assert chunk.valid.all() and not chunk.saturated.any()


def test_documented_serial_frame_decodes_to_one_g_up_and_one_down() -> None:
    frame = bytes.fromhex("55510008000000F8F609A5")
    assert encode_serial_frame(ACC, frame[2:10]) == frame
    session = open_session("serial")
    joined = join(feed(session, frame + encode_serial_frame(GYR, bytes(8)), cuts=()))
    np.testing.assert_allclose(joined.values, [[G, 0, -G, 0, 0, 0]], atol=1e-5)


def test_commands_are_unlock_register_and_save() -> None:
    session = open_session(rate_hz=200)
    commands = list(iter(session.next_command, None))
    assert [c.data for c in commands] == [UNLOCK, bytes.fromhex("FFAA030B00")]
    assert {c.channel for c in commands} == {WRITE}
    assert [c.data for c in iter(open_session(options={"save": "yes"}).next_command, None)][2:] == [
        UNLOCK,
        bytes.fromhex("FFAA000000"),
    ]
    serial = open_session("serial", rate_hz=100)
    assert [c.data.hex().upper() for c in iter(serial.next_command, None)] == [
        UNLOCK.hex().upper(),
        "FFAA020700",
        UNLOCK.hex().upper(),
        "FFAA030900",
    ]
    assert list(serial.stop_commands()) == []  # it cannot be told to stop


@pytest.mark.parametrize(("asked", "code"), [(1, 3), (4, 5), (10, 6), (60, 8), (100, 9), (500, 0x0B)])
def test_rates_become_the_nearest_that_exists(asked: float, code: int) -> None:
    commands = [c.data for c in iter(open_session(rate_hz=asked).next_command, None)]
    assert commands[1] == bytes([0xFF, 0xAA, 0x03, code, 0])


def test_a_serial_line_too_slow_for_the_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="66000 baud, and the line has 9600"):
        open_session("serial", rate_hz=200, options={"baud": "9600"})
    with pytest.raises(ConfigError, match="16 g"):
        open_session(acc_range_g=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 20 * 20 - 1), max_size=12))
def test_frames_come_out_of_any_splitting_and_joining(cuts: list[int]) -> None:
    joined = join(feed(open_session(), b"".join(ble_frame(i) for i in range(20)), cuts=sorted(set(cuts))))
    assert index_of(joined) == list(range(20))
    np.testing.assert_array_equal(np.diff(joined.time_ns), 20_000_000)


def test_a_bare_55_is_no_start() -> None:
    tail = ble_frame(0)[7:]  # begins inside a frame, with many 55 before the next start
    joined = join(feed(open_session(), tail + b"".join(ble_frame(i) for i in range(1, 6)), cuts=()))
    assert index_of(joined) == [1, 2, 3, 4, 5]
    frames, consumed, skipped = split_ble(b"\x55" * 50 + CAPTURED)
    assert (frames, consumed, skipped) == ([CAPTURED], 70, 50)


def test_register_replies_among_samples_are_no_samples() -> None:
    reply = b"\x55\x71\x3a\x00" + bytes(16)
    session = open_session()
    joined = join(feed(session, ble_frame(0) + reply + ble_frame(1), cuts=()))
    assert index_of(joined) == [0, 1]
    assert session.counters["packets"] == 3 and session.counters["bad"] == 0


@settings(deadline=None, max_examples=60)
@given(at=st.integers(0, 399), kind=st.sampled_from(["lose", "double"]))
def test_resynchronises_after_a_lost_or_doubled_byte(at: int, kind: str) -> None:
    data = bytearray(b"".join(ble_frame(i) for i in range(21)))
    if kind == "lose":
        del data[at]
    else:
        data.insert(at, data[at])
    found = index_of(join(feed(open_session(), bytes(data), cuts=())))
    touched = at // 20
    assert [i for i in found if i not in (touched - 1, touched)] == [
        i for i in range(21) if i not in (touched - 1, touched)
    ]


def test_time_is_the_count_held_to_the_host_clock() -> None:
    rng = random.Random(1)
    session = open_session(rate_hz=100)
    events, arrivals = [], []
    for i in range(6000):  # this device runs 1 % slow, and radio adds up to 40 ms
        true_ms = i * 10.1
        arrivals.append(max(arrivals[-1] if arrivals else 0, true_ms + rng.random() * 40))
        events += notify(session, ble_frame(i), at_ms=round(arrivals[-1]))
    joined = join(events)
    assert joined.lost == 0
    assert (np.diff(joined.time_ns) > 0).all()
    error_ms = (joined.time_ns - joined.time_ns[0]) / 1e6 - np.arange(6000) * 10.1
    assert np.ptp(error_ms[3000:]) < 8


def test_an_outage_is_counted_as_loss() -> None:
    session = open_session(rate_hz=100)
    events = []
    for i in [*range(1000), *range(1100, 2500)]:  # one second missing
        events += notify(session, ble_frame(i), at_ms=i * 10)
    assert 95 <= join(events).lost <= 105


def test_ends_of_the_range_are_saturated() -> None:
    counts = np.array([32767, -32768, 32766, -32767, 0, 1], "<i2")
    joined = join(notify(open_session(), b"\x55\x61" + counts.tobytes() + bytes(6)))
    assert joined.saturated.tolist() == [[True, True, False, True, False, False]]


def test_a_changed_range_is_noticed_at_rest() -> None:
    session = open_session(rate_hz=100)
    counts = np.array([0, 0, 4096, 0, 0, 0], "<i2")  # 2 g in a range of 16 g: the device was set to 8 g
    events = [e for _ in range(2000) for e in notify(session, b"\x55\x61" + counts.tobytes() + bytes(6))]
    (doubt,) = [e for e in events if isinstance(e, Doubt)]
    assert "19.61" in doubt.text and "16 g" in doubt.text


def test_characteristics_are_chosen_by_what_they_can_do() -> None:
    session = open_session()
    assert isinstance(session, ChoosesCharacteristics)
    session.characteristics_found({NOTIFY: {"write"}, WRITE: {"notify"}})
    commands = list(iter(session.next_command, None))
    assert session.subscriptions == (WRITE,)
    assert {c.channel for c in commands} == {NOTIFY} and all(c.response for c in commands)
    uart = {
        "49535343-1e4d-4bd9-ba61-23c647249616": {"notify"},
        "49535343-8841-43f4-a8d4-ecbe34729bb3": {"write-without-response"},
    }
    session.characteristics_found(uart)
    assert session.subscriptions == ("49535343-1e4d-4bd9-ba61-23c647249616",)
    with pytest.raises(ProtocolError, match="is this a WitMotion device"):
        session.characteristics_found({NOTIFY: {"read"}, WRITE: {"write"}})


def test_driver_recognises_its_advertisement_and_its_bytes() -> None:
    wit = driver("witmotion")
    assert wit.recognise(Advertisement("a", "", (SERVICE,)))
    assert wit.recognise(Advertisement("a", "WT901BLE68"))
    assert not wit.recognise(Advertisement("a", "NEWTON", ("0000ffe5-0000-1000-8000-00805f9b34fb",)))
    good = encode_serial_frame(ACC, bytes(8)) + encode_serial_frame(GYR, bytes(8))
    assert wit.recognise_serial(good) and wit.recognise_serial(b"\x00\x55" + good[:15])
    assert not wit.recognise_serial(good[:10])
    assert not wit.recognise_serial(bytes.fromhex("FAFF0304037003F88C") * 3)


@pytest.mark.parametrize("swapped", [False, True])
def test_ble_conversation_sets_the_rate_and_streams(swapped: bool) -> None:
    values = movement(500)
    device = EmulatedWitMotionBle(values, n_joined=3, swapped=swapped)
    assert driver("witmotion").recognise(device.advertisement)
    session = open_session(rate_hz=100)
    session.characteristics_found(device.characteristics)
    joined = join(BleTalk(session, device).run(3.0))
    assert 280 <= len(joined.time_ns) <= 300
    np.testing.assert_allclose(joined.values, values[: len(joined.values)], atol=0.005)


# Serial.


def serial_sample(index: int, *, with_time: bool = True) -> bytes:
    """Time, acceleration, angular rate and angle of sample ``index`` at 100 Hz."""
    milliseconds = 10 * index
    clock = bytes([26, 11, 22, 10, 0, milliseconds // 1000 % 60]) + (milliseconds % 1000).to_bytes(2, "little")
    out = encode_serial_frame(TIME, clock) if with_time else b""
    out += encode_serial_frame(ACC, np.array([0, 0x5155, 2048, 0x5550], "<i2").tobytes())
    out += encode_serial_frame(GYR, np.array([index, 0x5255, -7, 0], "<i2").tobytes())
    return out + encode_serial_frame(ANGLE, b"\x55\x51" * 4)


def test_serial_samples_have_the_time_of_their_frame() -> None:
    stream = b"".join(serial_sample(i) for i in range(150))
    whole = join(feed(open_session("serial", rate_hz=100), stream, cuts=()))
    single = join(feed(open_session("serial", rate_hz=100), stream))
    for a, b in zip(vars(whole).values(), vars(single).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert index_of(whole) == list(range(150)) and whole.lost == 0
    np.testing.assert_array_equal(np.diff(whole.time_ns), 10_000_000)


@settings(deadline=None, max_examples=60)
@given(at=st.integers(44, 20 * 44 - 1), kind=st.sampled_from(["flip", "lose", "double"]))
def test_a_damaged_serial_byte_masks_only_what_it_touches(at: int, kind: str) -> None:
    data = bytearray(b"".join(serial_sample(i) for i in range(21)))
    if kind == "flip":
        data[at] ^= 0x04
    elif kind == "lose":
        del data[at]
    else:
        data.insert(at, data[at])
    session = open_session("serial", rate_hz=100)
    joined = join(feed(session, bytes(data), cuts=()))
    assert len(joined.time_ns) in (20, 21)
    assert joined.valid.sum() >= 6 * 21 - 6
    index = index_of(joined)
    here = joined.valid[:, 3]
    expected_ns = (joined.time_ns[-1] // 10_000_000 - 20 + np.array(index)) * 10_000_000
    np.testing.assert_array_equal(joined.time_ns[here], expected_ns[here])


def test_a_missing_frame_masks_its_quantity_and_a_missing_sample_is_loss() -> None:
    frames = [serial_sample(i) for i in range(10)]
    frames[3] = frames[3][:22] + frames[3][33:]  # no angular rate
    frames[5] = frames[5][:11] + frames[5][22:]  # no acceleration
    frames[6] = frames[6][11:]  # no time
    del frames[8]
    joined = join(feed(open_session("serial", rate_hz=100), b"".join(frames), cuts=()))
    assert joined.lost == 1
    assert joined.valid[:, [0, 3]].tolist() == [[i != 5, i != 3] for i in (0, 1, 2, 3, 4, 5, 6, 7, 9)]
    np.testing.assert_array_equal(
        joined.time_ns - joined.time_ns[0], np.array([0, 1, 2, 3, 4, 5, 6, 7, 9]) * 10_000_000
    )


def test_without_time_frames_samples_are_counted_until_they_come() -> None:
    session = open_session("serial", rate_hz=100)
    stream = b"".join(serial_sample(i, with_time=i >= 5) for i in range(10))
    joined = join(feed(session, stream, cuts=()))
    assert index_of(joined) == list(range(10))
    assert joined.boot_ids == [0, 1]


def test_a_time_that_is_no_date_is_bad() -> None:
    frame = encode_serial_frame(TIME, bytes([26, 13, 1, 0, 0, 0, 0, 0]))
    assert parse_time(frame) is None
    assert parse_time(encode_serial_frame(TIME, bytes([0, 0, 0, 0, 0, 1, 2, 0]))) == 1_002_000_000
    session = open_session("serial")
    feed(session, frame, cuts=())
    assert session.counters["bad"] == 1


def test_serial_conversation_over_a_real_tty(tmp_path: Path) -> None:
    values = np.tile(movement(500), (10, 1))
    session = open_session("serial", rate_hz=100)
    path = tmp_path / "wit"
    with PtyLine(EmulatedWitMotion(values), link_path=path):
        events = talk_over_tty(session, path, until=lambda e: n_samples(e) > 150)
    chunks = [e for e in events if isinstance(e, ImuChunk)]
    assert {c.interval_ns for c in chunks} == {10_000_000}
    joined = join(events)
    np.testing.assert_allclose(joined.values[:100], values[:100], atol=0.005)
    assert np.median(np.diff(joined.time_ns[-50:])) == 10_000_000


def test_serial_conversation_at_the_rate_that_was_asked_for() -> None:
    session = open_session("serial", rate_hz=200)
    joined = join(SerialTalk(session, EmulatedWitMotion(movement(1000))).run(4.0))
    late = joined.time_ns > joined.time_ns[-1] - 2_000_000_000
    assert late.sum() == 400
    assert set(np.diff(joined.time_ns[late]).tolist()) == {5_000_000}


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["ble", "serial"]),
    st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.builds(encode_serial_frame, st.integers(0x50, 0x5F), st.binary(min_size=8, max_size=8)),
            st.builds(lambda b: b"\x55\x61" + b, st.binary(max_size=20)),
        )
    ),
)
def test_any_bytes_raise_nothing_and_are_not_kept(transport: str, parts: list[bytes]) -> None:
    session = open_session(transport)
    for part in parts:
        with contextlib.suppress(ProtocolError):
            session.receive_data(part, channel=SERIAL_CHANNEL, host_time_ns=1)
        assert len(session._buffer) < 20
    for event in events_of(session):
        if isinstance(event, ImuChunk):
            assert np.isfinite(event.values).all() and (np.diff(event.device_time_ns) > 0).all()


def test_splitters_account_for_every_byte() -> None:
    rng = np.random.default_rng(3)
    for split, n in ((split_ble, 20), (split_serial, 11)):
        for _ in range(300):
            data = rng.choice(np.frombuffer(b"\x55\x61\x71\x51\x00", np.uint8), 60).tobytes()
            frames, consumed, skipped = split(data)
            assert consumed == n * len(frames) + skipped
            assert 0 <= len(data) - consumed < n
