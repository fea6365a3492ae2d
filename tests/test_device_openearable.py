from __future__ import annotations

import struct

import numpy as np
import pytest
from device_checks import chunks, commands, doubts, events, feed, hostile_payloads, survives, together
from hypothesis import given, settings

from kinedge.errors import ConfigError, ProtocolError
from kinedge.firmware_bridge.device import Advertisement, AsksTime, ClockExchange, SessionConfig
from kinedge.firmware_bridge.devices import driver
from kinedge.firmware_bridge.devices import openearable as oe

REST = (0.1, -0.2, 9.8)


def packet(t_us: int, *, acc=REST, gyr=(10.0, 20.0, 30.0), mag=(20.0, 0.0, -40.0)) -> bytes:
    return struct.pack("<BBQ9f", 0, 36, t_us, *acc, *gyr, *mag)


def old_packet(t_ms: int) -> bytes:
    return struct.pack("<BI9f", 0, t_ms % 2**32, *REST, 10, 20, 30, 20, 0, -40)


def session(rate_hz: float = 50.0, **options: str) -> oe.OpenEarableSession:
    return oe.OpenEarableDriver().open(SessionConfig("ear_left", rate_hz, options=options), transport="ble")


def test_a_constructed_packet_reads_back() -> None:
    read = oe.parse_packet(struct.pack("<BBQ9f", 0, 36, 1_700_000_000_123_456, *range(9)))
    assert (read.sensor_id, read.time_us, read.wraps) == (0, 1_700_000_000_123_456, False)
    assert struct.unpack("<9f", read.data) == tuple(range(9))


def test_the_form_of_the_readme_reads_as_well() -> None:
    read = oe.parse_packet(old_packet(77))
    assert (read.sensor_id, read.time_us, read.wraps) == (0, 77_000, True)
    assert len(read.data) == 36


@pytest.mark.parametrize(("rate_hz", "start"), [(20, b"\0\0\1"), (50, b"\0\1\1"), (100, b"\0\2\1"), (800, b"\0\2\1")])
def test_commands_are_the_documented_bytes(rate_hz: float, start: bytes) -> None:
    opened = session(rate_hz)
    (command,) = commands(opened)
    assert (command.channel, command.data) == (oe.CONFIG, start)
    assert [c.data for c in opened.stop_commands()] == [start[:2] + b"\0"]


@pytest.mark.parametrize("old", [True, False])
def test_samples_become_si_units_with_times_and_gaps(old: bool) -> None:
    opened = session(50.0)
    start_ms = 2**32 - 100 if old else 500
    packets = [old_packet(start_ms + 20 * i) if old else packet(1000 * (start_ms + 20 * i)) for i in range(20)]
    del packets[10:13]
    times, values = together(feed(opened, packets, channel=oe.DATA))
    assert (times[0], times[-1]) == (start_ms * 1_000_000, (start_ms + 380) * 1_000_000)
    np.testing.assert_allclose(values[0], [*REST, *np.deg2rad([10, 20, 30]), 20, 0, -40], rtol=1e-6)
    assert opened.counters["lost"] == 3
    assert opened.counters["samples"] == 17


def test_other_sensors_of_the_device_are_counted_apart() -> None:
    opened = session()
    assert feed(opened, [struct.pack("<BBQ2f", 1, 8, 5, 1, 2)], channel=oe.DATA) == []
    assert opened.counters["other"] == 1
    assert opened.counters["bad"] == 0


@pytest.mark.parametrize("bad", [b"", b"\0", packet(5)[:-1], packet(5) + b"\0", packet(2**60)])
def test_packets_of_neither_form_are_refused(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        oe.parse_packet(bad)
    opened = session()
    assert feed(opened, [bad], channel=oe.DATA) == []
    assert opened.counters["bad"] == 1


def test_the_range_widens_once_a_value_lies_beyond_it() -> None:
    opened = session()
    end = 2 * 9.80665
    (a,) = feed(opened, [packet(0, acc=(end, 0, 1))], channel=oe.DATA)
    assert a.saturated[0].tolist() == [True] + [False] * 8
    (b,) = feed(opened, [packet(20_000, acc=(1.5 * end, 0, 1))], channel=oe.DATA)
    assert b.valid.all()
    assert not b.saturated.any()
    (c,) = feed(opened, [packet(40_000, acc=(end, 0, 1))], channel=oe.DATA)
    assert not c.saturated.any()


def test_the_device_clock_is_asked_and_its_answer_becomes_an_exchange() -> None:
    opened = session()
    assert isinstance(opened, AsksTime)
    question = opened.time_request(5_000_123_456)
    assert question is not None
    assert question.channel == oe.TIME
    version, op, sequence, t1_us, t2_us, t3_us = struct.unpack("<BBHQQQ", question.data)
    assert (version, op, t1_us, t2_us, t3_us) == (1, 0, 5_000_123, 0, 0)
    answer = struct.pack("<BBHQQQ", 1, 1, sequence, t1_us, 700, 800)
    wrong = struct.pack("<BBHQQQ", 1, 1, sequence + 1, t1_us, 700, 800)
    for data in (wrong, answer, answer):
        opened.receive_data(data, channel=oe.TIME, host_time_ns=5_010_000_000)
    assert events(opened) == [ClockExchange("ear_left", 5_000_123_456, 700_000, 800_000, 5_010_000_000)]


def test_acceleration_in_g_raises_a_doubt() -> None:
    opened = session()
    texts = []
    for i in range(50 * 15):
        opened.receive_data(packet(20_000 * i, acc=(0, 0, 1)), channel=oe.DATA)
        texts += doubts(opened)
    assert len(texts) == 1
    assert "1.00 m/s^2" in texts[0]


def test_driver_is_registered_and_recognises_its_devices() -> None:
    family = driver("openearable")
    assert family.recognise(Advertisement("a", name="OpenEarable-1234"))
    assert not family.recognise(Advertisement("a", name="Open"))
    with pytest.raises(ConfigError, match="unknown option"):
        session(mode="1")


@settings(deadline=None, max_examples=60)
@given(hostile_payloads([packet(5), packet(20_005), old_packet(5), struct.pack("<BBHQQQ", 1, 1, 1, 0, 7, 8)]))
def test_no_bytes_break_a_session(payloads: list[bytes]) -> None:
    opened = session()
    opened.time_request(1)
    for payload in payloads:
        opened.receive_data(payload, channel=oe.TIME, host_time_ns=2)
    events(opened)
    survives(opened, payloads, channels=[oe.DATA])
    assert chunks(opened) == []
