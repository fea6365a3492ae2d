"""Xsens MTi: Xbus messages, their items in all precisions, time, loss, clipping, and the whole conversation."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from device_talk import SerialTalk, events_of, feed, join, movement, n_samples, talk_over_tty
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, DeviceInfo, Doubt, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices.emulated_serial import PtyLine
from kinedge.firmware_bridge.devices.emulated_xsens_mti import EmulatedXsensMti
from kinedge.firmware_bridge.devices.xsens_mti import (
    MAX_PAYLOAD,
    Message,
    XsensMtiDriver,
    XsensMtiSession,
    encode_message,
    parse_items,
    split,
)
from kinedge.signals import ImuChunk

# Recorded from an MTi-300 with firmware 1.8.2.
ALL_ITEMS = bytes.fromhex(
    "102002a6551060040057472e2010103f7f7dc4bc10107d3ba15770bd7ec65640200cbda21af8be2a8e96411d27a240100cb94fc800b9da2400"
    "3cc9288040300c3c02c89c3c35f6c83cdb0c0080200cbbb17d81bb9632003c01e8418030103f800000b6e33001b6c0400037264800c0200cbe"
    "999c243fb61b563f166aeb301004000186dee0200400400003"
)
SHAKEN = bytes.fromhex(  # hard enough to clip
    "102002fb8510600401a498de2010103f2a1463bed7efa73cdee5083f1dcec940200cc1f246c3c1ece076c28f853f40100cbd932cccbd920a16"
    "be3a6eec40300c42519464c27b5a5ac1ccc0ae80200c40854d6dc125559ec0908e1f8030103f7ff8983baa9ee5bc539ec0bbb9060cc0200c3e"
    "dc7439be752b483faf9a3f301004000186dee0200400481401"
)
NO_IMU = bytes.fromhex("102002468210600401c4fc3e2010103f71ce6cbea56bcf3c613bd8bd691d25e0200400400003")


def open_session(**config: object) -> XsensMtiSession:
    return XsensMtiDriver().open(SessionConfig("shank_left", **config), transport="serial")  # type: ignore[arg-type]


def item(xdi: int, data: bytes) -> bytes:
    return xdi.to_bytes(2, "big") + bytes([len(data)]) + data


def sample(index: int, *, rate_hz: int = 100, status: int = 3, acc: tuple[float, ...] = (1.0, 2.0, 9.5)) -> bytes:
    """The message of sample ``index``; its gyr_x says which it is."""
    return encode_message(
        0x36,
        item(0x1020, struct.pack(">H", index & 0xFFFF))
        + item(0x1060, struct.pack(">I", index * (10_000 // rate_hz) & 0xFFFFFFFF))
        + item(0x4020, struct.pack(">3f", *acc))
        + item(0x8020, struct.pack(">3f", index / 1000, 0.25, -0.5))
        + item(0xE020, struct.pack(">I", status)),
    )


def test_recorded_message_decodes_to_si_units() -> None:
    session = open_session(rate_hz=100)
    events = feed(session, encode_message(0x36, ALL_ITEMS), cuts=())
    info, chunk = events
    assert info == DeviceInfo(session.spec, 100.0)
    assert isinstance(chunk, ImuChunk)
    assert chunk.device_time_ns.tolist() == [5719854 * 100_000]
    np.testing.assert_allclose(
        chunk.values[0], [-0.079153, -0.16655955, 9.82217598, -0.00541657, -0.0045836, 0.00792891], rtol=1e-5
    )
    assert chunk.valid.all() and not chunk.saturated.any()


def test_recorded_message_of_a_shake_is_saturated_on_the_axes_that_clipped() -> None:
    _, chunk = feed(open_session(rate_hz=100), encode_message(0x36, SHAKEN), cuts=())
    assert isinstance(chunk, ImuChunk)
    assert chunk.device_time_ns.tolist() == [27564254 * 100_000]
    np.testing.assert_allclose(
        chunk.values[0], [-30.28455162, -29.60960007, -71.76024628, 4.16570139, -10.33340263, -4.51734877], rtol=1e-6
    )
    assert chunk.valid.all()
    assert chunk.saturated[0].tolist() == [False, False, True, False, True, False]


def test_recorded_message_has_the_items_that_were_recorded() -> None:
    items = parse_items(NO_IMU)
    _, counter, _ = items[0x1020]
    _, time, _ = items[0x1060]
    _, quaternion, size = items[0x2010]
    assert int.from_bytes(NO_IMU[counter : counter + 2], "big") == 18050
    assert int.from_bytes(NO_IMU[time : time + 4], "big") == 29686846
    np.testing.assert_allclose(
        np.frombuffer(NO_IMU, ">f4", count=size // 4, offset=quaternion),
        [0.944556, -0.32308814, 0.01374718, -0.05691256],
        rtol=1e-6,
    )
    assert parse_items(ALL_ITEMS)[0xE020][2] == 4


def test_documented_commands_and_answers_are_what_we_write_and_read() -> None:
    assert encode_message(0x30) == bytes.fromhex("FAFF3000D1")
    assert encode_message(0x10) == bytes.fromhex("FAFF1000F1")
    assert split(bytes.fromhex("FAFF0304037003F88C")) == ([Message(3, bytes.fromhex("037003F8"))], 9, 0)


def test_session_starts_and_stops_with_these_bytes() -> None:
    session = open_session(rate_hz=100)
    sent = [command.data for command in iter(session.next_command, None)]
    assert sent[0] == bytes.fromhex("FAFF3000D1")
    assert sent[1:3] == [bytes.fromhex("FAFF000001"), bytes.fromhex("FAFF1200EF")]
    assert sent[3][:4] == bytes.fromhex("FAFFC014")
    assert sent[3][4:-1] == bytes.fromhex("1020FFFF 1060FFFF 40200064 80200064 E020FFFF")
    assert sent[4] == bytes.fromhex("FAFF1000F1")
    assert [command.data for command in session.stop_commands()] == [bytes.fromhex("FAFF3000D1")]
    assert open_session(rate_hz=90).rate_hz == 100 and open_session(rate_hz=60).rate_hz == 50


@pytest.mark.parametrize(
    ("precision", "encode"),
    [
        (0, lambda v: np.asarray(v, ">f4").tobytes()),
        (1, lambda v: np.rint(np.asarray(v) * 2**20).astype(">i4").tobytes()),
        (2, lambda v: b"".join(_fixed_16_32(x) for x in v)),
        (3, lambda v: np.asarray(v, ">f8").tobytes()),
    ],
)
def test_all_precisions_of_an_item_give_the_same_values(precision: int, encode: object) -> None:
    acc, gyr = (-9.75, 0.125, 19.40625), (-0.5, 1.25, -3.0)
    payload = item(0x4020 | precision, encode(acc)) + item(0x8020 | precision, encode(gyr))  # type: ignore[operator]
    joined = join(feed(open_session(), encode_message(0x36, payload), cuts=()))
    np.testing.assert_allclose(joined.values, [[*acc, *gyr]], atol=1e-6)


def _fixed_16_32(value: float) -> bytes:
    raw = round(value * 2**32).to_bytes(6, "big", signed=True)
    return raw[2:] + raw[:2]  # fraction first


def test_bytes_come_out_the_same_in_any_chunking() -> None:
    stream = b"".join(sample(i) for i in range(40)) + b"\xfa\xff"
    whole = join(feed(open_session(rate_hz=100), stream, cuts=()))
    single = join(feed(open_session(rate_hz=100), stream))
    assert len(whole.time_ns) == 40 and whole.lost == 0
    for a, b in zip(vars(whole).values(), vars(single).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.diff(whole.time_ns), 10_000_000)
    np.testing.assert_allclose(whole.values[:, 3], np.arange(40) / 1000, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(at=st.integers(0, 20 * len(sample(0)) - 1), kind=st.sampled_from(["flip", "lose", "double"]))
def test_a_damaged_byte_costs_only_the_messages_it_touches(at: int, kind: str) -> None:
    data = bytearray(b"".join(sample(i) for i in range(20)))
    if kind == "flip":
        data[at] ^= 0x10
    elif kind == "lose":
        del data[at]
    else:
        data.insert(at, data[at])
    session = open_session(rate_hz=100)
    joined = join(feed(session, bytes(data) + sample(20), cuts=()))
    missing = 21 - len(joined.time_ns)
    assert missing <= 1
    if missing and at >= len(sample(0)):  # what was missed before the first is not known
        assert joined.lost == 1
    index = np.rint(joined.values[:, 3] * 1000)
    np.testing.assert_array_equal(joined.time_ns, index * 10_000_000)


def test_a_false_start_does_not_stall_the_stream() -> None:
    for bogus in (
        b"\xfa\xff\x36\xff\xff\xf0",
        b"\xfa\xff\x36\xff" + (MAX_PAYLOAD).to_bytes(2, "big"),
        b"\xfa\xff\x36\xfe",
    ):
        session = open_session(rate_hz=100)
        stream = bogus + b"".join(sample(i) for i in range(30))
        joined = join(feed(session, stream))
        assert len(joined.time_ns) >= 30 - (MAX_PAYLOAD // len(sample(0)) + 1), bogus.hex()
        assert join(feed(session, b"".join(sample(i) for i in range(30, 45)))).time_ns[-1] == 44 * 10_000_000


def test_lost_messages_are_counted_by_time() -> None:
    kept = [i for i in range(60) if i not in (7, 8, 9, 30)]
    joined = join(feed(open_session(rate_hz=100), b"".join(sample(i) for i in kept), cuts=()))
    assert joined.lost == 4
    assert len(joined.time_ns) == len(kept)


def test_a_counter_of_internal_samples_is_not_taken_for_loss() -> None:
    def message(i: int) -> bytes:
        return encode_message(
            0x36,
            item(0x1020, struct.pack(">H", 4 * i & 0xFFFF))
            + item(0x1060, struct.pack(">I", 100 * i))
            + item(0x4020, struct.pack(">3f", 0, 0, 9.8)),
        )

    joined = join(feed(open_session(rate_hz=100), b"".join(message(i) for i in range(20)), cuts=()))
    assert joined.lost == 0 and len(joined.time_ns) == 20
    assert joined.valid[:, :3].all() and not joined.valid[:, 3:].any()


def test_without_time_the_counter_tells_time_and_loss_over_its_wrap() -> None:
    def message(i: int) -> bytes:
        return encode_message(
            0x36, item(0x1020, struct.pack(">H", i & 0xFFFF)) + item(0x4020, struct.pack(">3f", 0, 0, 9))
        )

    kept = [i for i in range(65_530, 65_545) if i != 65_538]
    joined = join(feed(open_session(rate_hz=50), b"".join(message(i) for i in kept), cuts=()))
    assert joined.lost == 1
    np.testing.assert_array_equal(joined.time_ns, np.array(kept) * 20_000_000)


def test_time_goes_on_over_the_wrap_of_its_32_bits() -> None:
    first = (1 << 32) // 100 - 5
    joined = join(feed(open_session(rate_hz=100), b"".join(sample(first + i) for i in range(12)), cuts=()))
    np.testing.assert_array_equal(np.diff(joined.time_ns), 10_000_000)
    assert joined.boot_ids == [0]


def test_a_restarted_device_gets_a_new_boot_id() -> None:
    before = b"".join(sample(100_000 + i) for i in range(10))
    joined = join(feed(open_session(rate_hz=100), before + b"".join(sample(i) for i in range(10)), cuts=()))
    assert joined.boot_ids == [0, 1]
    assert joined.time_ns[-1] == 9 * 10_000_000


def test_status_bits_mark_the_axes_that_clipped() -> None:
    stream = sample(0, status=3) + sample(1, status=1 << 19 | 1 << 8 | 1 << 12) + sample(2, status=1 << 19)
    stream += sample(3, status=1 << 19 | 1 << 15)
    saturated = join(feed(open_session(rate_hz=100), stream, cuts=())).saturated
    assert saturated.astype(int).tolist() == [[0] * 6, [1, 0, 0, 0, 1, 0], [1] * 6, [0] * 6]


def test_numbers_that_cannot_be_are_masked() -> None:
    stream = sample(0, acc=(np.nan, np.inf, 1e30)) + sample(1)
    joined = join(feed(open_session(rate_hz=100), stream, cuts=()))
    assert joined.valid.astype(int).tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6]
    assert np.isfinite(joined.values).all()


def test_device_answers_with_another_rate_and_it_is_used() -> None:
    session = open_session(rate_hz=80)
    ack = encode_message(0xC1, bytes.fromhex("1020FFFF 1060FFFF 40200064 80200064"))
    (info,) = feed(session, ack, cuts=())
    assert isinstance(info, DeviceInfo) and info.rate_hz == 100
    joined = join(feed(session, b"".join(sample(i) for i in range(10)), cuts=()))
    assert joined.lost == 0


def test_refusal_is_one_error_that_says_what_to_check() -> None:
    session = open_session(rate_hz=400)
    with pytest.raises(ProtocolError, match=r"error 0x04.*400 Hz"):
        session.receive_data(encode_message(0x42, b"\x04") + sample(0), channel=SERIAL_CHANNEL)
    assert n_samples(events_of(session)) == 1


def test_device_that_sends_no_imu_data_is_a_doubt_said_once() -> None:
    session = open_session()
    events = [e for _ in range(3) for e in feed(session, encode_message(0x36, NO_IMU) * 150, cuts=())]
    assert [type(e) for e in events] == [Doubt]


def test_driver_recognises_its_own_bytes_only() -> None:
    mti = driver("xsens_mti")
    assert mti.recognise_serial(b"\x00\xfa" + sample(0))
    assert mti.recognise_serial(bytes.fromhex("FAFF0304037003F88C"))
    assert not mti.recognise_serial(sample(0)[:-1])
    assert not mti.recognise_serial(bytes.fromhex("55510008000000F8F609A5") * 4)
    assert mti.serial_probe() == bytes.fromhex("FAFF000001")
    with pytest.raises(ConfigError, match="transport"):
        mti.open(SessionConfig("wrist_left"), transport="ble")
    with pytest.raises(ConfigError, match="unknown option"):
        mti.open(SessionConfig("wrist_left", options={"a": "b"}), transport="serial")


def test_conversation_configures_streams_and_stops() -> None:
    values = movement(400)
    device = EmulatedXsensMti(values, start_ticks=(1 << 32) - 5000)
    session = open_session(rate_hz=80)
    talk = SerialTalk(session, device)
    events = talk.run(2.0)
    info = next(e for e in events if isinstance(e, DeviceInfo))
    assert info == DeviceInfo(session.spec, 80.0, "037003F8", "1.8.2")
    joined = join(events)
    n = len(joined.time_ns)
    assert n > 120 and joined.lost == 0
    # rows measured before the configuration was taken were sent as orientation alone
    first = device.source.n_sent - n
    np.testing.assert_allclose(joined.values, values[first : first + n], atol=1e-5)
    np.testing.assert_array_equal(np.diff(joined.time_ns), 12_500_000)
    for command in session.stop_commands():
        device.receive_data(command.data, elapsed_ns=talk.elapsed_ns)
    assert n_samples(talk.run(0.5)) == 0


def test_session_streams_over_a_real_tty_and_resumes_after_unplugging(tmp_path: Path) -> None:
    device = EmulatedXsensMti(np.tile(movement(500), (20, 1)))
    session = open_session(rate_hz=100)
    path = tmp_path / "mti"
    with PtyLine(device, link_path=path) as line:
        pulled = False

        def until(events: list) -> bool:
            nonlocal pulled
            if not pulled and n_samples(events) > 30:
                pulled = True
                line.unplug()
                line.replug()
            return n_samples(events) > 100

        joined = join(talk_over_tty(session, path, until=until))
    assert (np.diff(joined.time_ns) > 0).all()
    elapsed = round((joined.time_ns[-1] - joined.time_ns[0]) / 10_000_000) + 1
    assert abs(len(joined.time_ns) + joined.lost - elapsed) <= 2


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.builds(encode_message, st.sampled_from([0x36, 0xC1, 0x42, 1, 0x13]), st.binary(max_size=60)),
        )
    )
)
@example([b"\xfa\xff\x36\xff\x02\x00" * 40])
def test_any_bytes_raise_nothing_but_a_protocol_error(parts: list[bytes]) -> None:
    session = open_session()
    for part in parts:
        with contextlib.suppress(ProtocolError):
            session.receive_data(part, channel=SERIAL_CHANNEL, host_time_ns=1)
        for event in events_of(session):
            if isinstance(event, ImuChunk):
                assert np.isfinite(event.values).all()


def test_noise_does_not_grow_memory() -> None:
    session = open_session()
    noise = np.random.default_rng(0).choice(np.frombuffer(b"\xfa\xff\x36\x00\x20", np.uint8), 20_000).tobytes()
    tracemalloc.start()
    for _ in range(3):
        feed(session, noise, cuts=range(500, 20_000, 500))
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        feed(session, noise, cuts=range(500, 20_000, 500))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000
    assert session.counters["bad"] > 0
