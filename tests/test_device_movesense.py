from __future__ import annotations

import struct

import numpy as np
import pytest
from device_checks import chunks, commands, doubts, feed, hostile_payloads, survives, together
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices import movesense as ms
from kinedge.units import rad_s_from_deg_s

# Two samples at 12345 ms, reference 0x63: accelerations, then angular rates.
VECTOR = bytes.fromhex("026339300000") + struct.pack("<12f", 1, 2, 9, 1.5, 2.5, 9.5, 10, 20, 30, 40, 50, 60)
REST = (0.1, 0.2, 9.8)


def message(time_ms: int, n: int, *, acc=REST, gyr=(1.0, 2.0, 3.0), interleaved: bool = False) -> bytes:
    rows = np.tile([*acc, *gyr], (n, 1)).astype("<f4")
    body = rows if interleaved else rows.reshape(n, 2, 3).transpose(1, 0, 2)
    return struct.pack("<BBI", 2, 99, time_ms % 2**32) + body.tobytes()


def split(whole: bytes, at: int) -> list[bytes]:
    return [whole[:at], b"\3" + whole[1:2] + whole[at:]]


def session(rate_hz: float = 52.0, **options: str) -> ms.MovesenseSession:
    return ms.MovesenseDriver().open(SessionConfig("ankle_right", rate_hz, options=options), transport="ble")


def test_commands_are_the_documented_bytes() -> None:
    opened = session(100.0)
    hello, subscribe = commands(opened)
    assert (hello.channel, hello.data) == (ms.WRITE, b"\x00\x01")
    assert subscribe.data == b"\x01\x63/Meas/IMU6/104"
    assert [c.data for c in opened.stop_commands()] == [b"\x02\x63"]
    assert commands(session(10.0, resource="IMU9"))[1].data == b"\x01\x63/Meas/IMU9/13"
    opened.link_reopened()
    assert commands(opened) == [hello, subscribe]


@pytest.mark.parametrize(
    "packets", [[VECTOR], split(VECTOR, 20), split(VECTOR, 31), [VECTOR[:2], *split(VECTOR, 2)[1:]]]
)
def test_a_message_reads_the_same_whole_and_in_two_notifications(packets: list[bytes]) -> None:
    found = feed(session(), [*packets, VECTOR[:2]], channel=ms.NOTIFY)
    times, values = together(found)
    assert times[0] == 12_345_000_000
    np.testing.assert_allclose(values[:, :3], [[1, 2, 9], [1.5, 2.5, 9.5]])
    np.testing.assert_allclose(values[:, 3:], rad_s_from_deg_s(np.array([[10, 20, 30], [40, 50, 60]])), rtol=1e-6)


def test_once_the_length_is_known_a_message_is_delivered_when_it_is_complete() -> None:
    opened = session(104.0)
    for k in range(4):
        whole = message(1000 + round(k * 8e3 / 104), 8)
        first, second = split(whole, 160)
        opened.receive_data(first, channel=ms.NOTIFY)
        chunks(opened)
        opened.receive_data(second, channel=ms.NOTIFY)
        assert len(chunks(opened)) == (1 if k else 0)


def test_a_lost_continuation_costs_its_message_and_nothing_is_read_wrong() -> None:
    opened = session(104.0)
    found = []
    for k in range(10):
        first, second = split(message(1000 + round(k * 8e3 / 104), 8), 6 + 24 * 7)  # the rest looks whole: 7 samples
        found += feed(opened, [first] if k == 5 else [first, second], channel=ms.NOTIFY)
    _, values = together(found)
    np.testing.assert_allclose(values[:, :3], np.tile(REST, (72, 1)), rtol=1e-6)
    assert opened.counters["bad"] == 1
    assert opened.counters["lost"] == 8


def test_a_new_message_length_is_learned_after_three() -> None:
    opened = session(52.0)
    found = feed(opened, [message(1000 + round(k * 4e3 / 52), 4) for k in range(4)], channel=ms.NOTIFY)
    found += feed(opened, [message(2000 + round(k * 2e3 / 52), 2) for k in range(9)], channel=ms.NOTIFY)
    assert len(found) == 4 + 7
    assert opened.counters["bad"] == 2


def test_millisecond_stamps_become_even_times_at_the_learned_rate() -> None:
    opened = session(104.0)
    interval = 1000 / 105.3  # the crystal is off by more than a percent
    n = 60
    found = feed(opened, [message(int(5000 + k * 8 * interval), 8) for k in range(n)], channel=ms.NOTIFY)
    times, _ = together(found)
    assert sum(c.lost for c in found) == 0
    assert len(times) == 8 * n
    true = (5000 + np.arange(8 * n) * interval) * 1e6
    assert np.abs(times - true)[8 * 20 :].max() < 2e6
    assert (np.diff(times) > 0).all()


def test_imu9_has_the_magnetic_field_in_microtesla() -> None:
    opened = session(resource="IMU9")
    body = struct.pack("<9f", *REST, 1, 2, 3, 20, -30, 40)
    (chunk,) = feed(opened, [b"\2\x63" + bytes(4) + body, b"\2\x63"], channel=ms.NOTIFY)
    np.testing.assert_allclose(chunk.values[0, 6:], [20, -30, 40])


def test_the_interleaved_layout_is_read_when_it_is_asked_for() -> None:
    opened = session(52.0, layout="interleaved")
    whole = struct.pack("<BBI12f", 2, 99, 5, *REST, 1, 2, 3, *REST, 4, 5, 6)
    (chunk,) = feed(opened, [whole, b"\2\x63"], channel=ms.NOTIFY)
    np.testing.assert_allclose(chunk.values[:, :3], [REST, REST], rtol=1e-6)


@pytest.mark.parametrize("other", [True, False])
def test_the_other_layout_raises_one_doubt(other: bool) -> None:
    opened = session(52.0)
    texts = []
    for k in range(80):
        whole = message(round(k * 4e3 / 52), 4, gyr=(1.0, -2.0, 0.5), interleaved=other)
        opened.receive_data(whole, channel=ms.NOTIFY)
        texts += doubts(opened)
    assert [text for text in texts if "layout" in text] == texts
    assert len(texts) == int(other)


def test_a_refused_subscription_is_an_error_in_either_byte_order() -> None:
    for status in (b"\xfb\x01", b"\x01\xfb"):
        with pytest.raises(ProtocolError, match="status 507"):
            session().receive_data(b"\x01\x63" + status, channel=ms.NOTIFY)
    for status in (b"\xc8\x00", b"\x00\xc8"):
        session().receive_data(b"\x01\x63" + status, channel=ms.NOTIFY)


def test_the_wrap_of_the_millisecond_clock_and_a_lost_message_are_seen() -> None:
    opened = session(52.0)
    start = 2**32 - 300
    packets = [message(start + round(k * 4e3 / 52), 4) for k in range(12) if k != 8]
    found = feed(opened, packets, channel=ms.NOTIFY)
    times, _ = together(found)
    assert (np.diff(times) > 0).all()
    assert times[-1] - times[0] < 10**9
    assert sum(c.lost for c in found) == 4


def test_saturation_is_at_the_end_of_the_default_range() -> None:
    opened = session()
    (chunk,) = feed(opened, [message(5, 1, acc=(8 * 9.80665, 0, 0), gyr=(0, -2000, 0)), b"\2\x63"], channel=ms.NOTIFY)
    assert chunk.saturated.tolist() == [[True, False, False, False, True, False]]


def test_driver_is_registered_and_recognises_its_devices() -> None:
    family = driver("movesense")
    assert family.recognise(Advertisement("a", name="Movesense 214530001234"))
    assert family.recognise(Advertisement("a", service_uuids=("0000fdf3-0000-1000-8000-00805f9b34fb",)))
    assert not family.recognise(Advertisement("a", name="WT901BLE"))
    with pytest.raises(ConfigError, match="layout"):
        session(layout="columns")


@settings(deadline=None, max_examples=60)
@given(hostile_payloads([VECTOR, *split(VECTOR, 20), message(50, 4), b"\1\x63\xc8\0", b"\1\1\xc8\0"]))
def test_no_bytes_break_a_session(payloads: list[bytes]) -> None:
    survives(session(), payloads, channels=[ms.NOTIFY])


def test_an_endless_message_does_not_grow() -> None:
    opened = session()
    opened.receive_data(VECTOR, channel=ms.NOTIFY)
    for _ in range(200):
        opened.receive_data(b"\3\x63" + bytes(200), channel=ms.NOTIFY)
    assert opened.counters["bad"] > 100


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=3, max_size=80).filter(lambda kept: kept[0] and kept[-1]))
def test_received_and_lost_are_what_was_sent(kept: list[bool]) -> None:
    opened = session(104.0)
    feed(opened, [message(round(k * 8e3 / 104), 8) for k, keep in enumerate(kept) if keep], channel=ms.NOTIFY)
    opened.receive_data(b"\2\x63", channel=ms.NOTIFY)
    assert opened.counters["samples"] == 8 * sum(kept)
    assert opened.counters["lost"] == 8 * (len(kept) - sum(kept))
