"""Packets of the firmware library and of Python: each understands the other."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from firmware_program import EXAMPLES, Firmware, firmware_running, u16, u32, u64
from hypothesis import given
from hypothesis import strategies as st

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge import emulator
from kinedge.firmware_bridge.firmware_header import read_constants
from kinedge.firmware_bridge.packets import (
    ALL_STREAMS,
    Channel,
    Hello,
    HelloRequest,
    PacketType,
    SampleFlags,
    Samples,
    Status,
    TimeSync,
    parse_packet,
)

C = read_constants()
CHANNEL_NAMES = [f"{q}_{a}" for q in ("acc", "gyr", "mag") for a in "xyz"]


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firmware]:
    with firmware_running(tmp_path_factory.mktemp("firmware")) as running:
        yield running


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def hello_fields(hello: Hello, *, sensor: bytes | None = None, serial: bytes | None = None) -> bytes:
    channels = b"".join(
        struct.pack("<Bff", c.quantity << 4 | "xyz".index(c.name[-1]), c.scale, c.full_scale) for c in hello.channels
    )
    return b"".join(
        [
            struct.pack("<BII", hello.stream_id, hello.boot_id, hello.interval_ns),
            text(hello.sensor.encode() if sensor is None else sensor),
            text(hello.serial.encode() if serial is None else serial),
            bytes([len(hello.channels)]),
            channels,
        ]
    )


def samples_fields(s: Samples, *, n_channels: int) -> bytes:
    head = struct.pack("<BHQIBBB", s.stream_id, s.sequence, s.t_us, s.interval_ns, s.count, n_channels, s.flags)
    return head + s.body


def status_fields(s: Status) -> bytes:
    battery = 255 if s.battery_percent is None else s.battery_percent
    temperature = -32768 if s.temperature_c is None else round(s.temperature_c * 100)
    return struct.pack("<BIBBhIQ", s.stream_id, s.boot_id, battery, s.charging, temperature, s.dropped, s.uptime_us)


stream_ids = st.integers(0, 254)
scales = st.floats(2**-39, 2**39, width=32)
hellos = st.builds(
    Hello,
    stream_id=stream_ids,
    boot_id=u32,
    interval_ns=st.integers(100_000, 1_000_000_000),
    sensor=st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True),
    serial=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64),
    channels=st.lists(
        st.builds(Channel, st.sampled_from(CHANNEL_NAMES), scales, scales),
        min_size=1,
        max_size=9,
        unique_by=lambda c: c.name,
    ).map(tuple),
)


@st.composite
def sample_packets(draw: st.DrawFn) -> tuple[Samples, int]:
    n_channels, count = draw(st.integers(1, 9)), draw(st.integers(1, 255))
    body = np.random.default_rng(draw(u32)).integers(-32768, 32768, (count, n_channels)).astype(np.int16)
    packet = Samples.from_counts(
        body,
        stream_id=draw(stream_ids),
        sequence=draw(u16),
        t_us=draw(u64),
        interval_ns=draw(u32),
        flags=SampleFlags(draw(st.integers(0, 7))),
    )
    return packet, n_channels


statuses = st.builds(
    Status,
    stream_id=stream_ids,
    boot_id=u32,
    battery_percent=st.none() | st.integers(0, 100),
    charging=st.booleans(),
    temperature_c=st.none() | st.integers(-32767, 32767).map(lambda centi: centi / 100),
    dropped=u32,
    uptime_us=u64,
)


@EXAMPLES
@given(hello=hellos)
def test_hello_of_the_firmware_is_that_of_python(firmware: Firmware, hello: Hello) -> None:
    payload = firmware.encoded("h", hello_fields(hello))
    assert payload == hello.to_bytes()
    assert parse_packet(payload) == hello


@EXAMPLES
@given(drawn=sample_packets())
def test_samples_of_the_firmware_are_those_of_python(firmware: Firmware, drawn: tuple[Samples, int]) -> None:
    packet, n_channels = drawn
    payload = firmware.encoded("s", samples_fields(packet, n_channels=n_channels))
    assert payload == packet.to_bytes()
    assert parse_packet(payload) == packet


@EXAMPLES
@given(status=statuses)
def test_status_of_the_firmware_is_that_of_python(firmware: Firmware, status: Status) -> None:
    payload = firmware.encoded("t", status_fields(status))
    assert payload == status.to_bytes()
    assert parse_packet(payload) == status


@EXAMPLES
@given(stream_id=stream_ids, asked=st.integers(0, 255), sequence=u16, times=st.tuples(u64, u64, u64))
def test_time_request_of_python_is_answered_by_the_firmware(
    firmware: Firmware, stream_id: int, asked: int, sequence: int, times: tuple[int, int, int]
) -> None:
    t1_us, t2_us, t3_us = times[0], min(times[1:]), max(times[1:])
    body = struct.pack("<BQQ", stream_id, t2_us, t3_us) + TimeSync(asked, sequence, t1_us).to_bytes()
    kind, data = firmware.ask("r", body)
    assert kind == PacketType.TIME_SYNC
    assert struct.unpack_from("<BHQB", data) == (asked, sequence, t1_us, asked in (stream_id, ALL_STREAMS))
    answer = TimeSync(stream_id, sequence, t1_us, t2_us, t3_us, is_response=True)
    assert data[12:] == answer.to_bytes()
    assert parse_packet(data[12:]) == answer


@pytest.mark.parametrize(("asked", "meant"), [(3, 1), (4, 0), (ALL_STREAMS, 1)])
def test_hello_request_of_python_is_understood_by_the_firmware(firmware: Firmware, asked: int, meant: int) -> None:
    kind, data = firmware.ask("r", struct.pack("<BQQ", 3, 0, 0) + HelloRequest(asked).to_bytes())
    assert kind == PacketType.HELLO_REQUEST
    assert struct.unpack("<BHQB", data) == (asked, 0, 0, meant)


@EXAMPLES
@given(
    payload=st.one_of(
        st.binary(max_size=40),
        st.builds(lambda head, rest: head + rest, st.sampled_from([b"\x13\1\0", b"\x15"]), st.binary(max_size=30)),
        st.builds(lambda s: TimeSync(1, s, 5, 6, 7, is_response=bool(s % 2)).to_bytes(), u16),
    )
)
def test_the_firmware_takes_for_a_request_what_python_does(firmware: Firmware, payload: bytes) -> None:
    kind, data = firmware.ask("r", struct.pack("<BQQ", 1, 0, 0) + payload)
    try:
        packet = parse_packet(payload)
    except ProtocolError:
        packet = None
    if isinstance(packet, HelloRequest):
        assert (kind, data[0]) == (PacketType.HELLO_REQUEST, packet.stream_id)
    elif isinstance(packet, TimeSync) and not packet.is_response:
        assert kind == PacketType.TIME_SYNC
        assert struct.unpack_from("<BHQ", data) == (packet.stream_id, packet.sequence, packet.t1_us)
    else:
        assert (kind, data) == (C["ERROR_PACKET"], b"")


def test_encoders_stop_at_the_end_of_every_too_small_buffer(firmware: Firmware) -> None:
    hello = emulator.make_hello(Hello(1, 1, 10**7, "wrist_left", "SN", (Channel("acc_x", 1, 1),)).spec, rate_hz=50)
    samples = Samples.from_counts(np.ones((3, 2), np.int16), stream_id=1, sequence=0, t_us=0, interval_ns=1)
    cases = [
        ("h", hello_fields(hello), hello.to_bytes()),
        ("s", samples_fields(samples, n_channels=2), samples.to_bytes()),
        ("t", status_fields(Status(1, 1, 50, True, 20.0, 0, 0)), Status(1, 1, 50, True, 20.0, 0, 0).to_bytes()),
    ]
    for operation, body, whole in cases:
        assert firmware.encoded(operation, body, size=len(whole)) == whole
        for size in range(len(whole)):
            assert firmware.ask(operation, body, size=size) == (C["ERROR_SPACE"], b"")
    request = struct.pack("<BQQ", 1, 0, 0) + TimeSync(1, 0, 0).to_bytes()
    for size in range(C["TIME_SYNC_SIZE"]):
        assert firmware.ask("r", request, size=size)[0] == C["ERROR_SPACE"]


HELLO = Hello(3, 7, 10_000_000, "wrist_left", "SN", (Channel("acc_x", 0.5, 16384.0),))


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("h", hello_fields(HELLO, sensor=b"")),
        ("h", hello_fields(HELLO, sensor=b"Wrist")),
        ("h", hello_fields(HELLO, sensor=b"wrist left")),
        ("h", hello_fields(HELLO, sensor=b"a" * 32)),
        ("h", hello_fields(HELLO, sensor=b"a" * 250)),
        ("h", hello_fields(HELLO, serial=b"")),
        ("h", hello_fields(HELLO, serial=b"\x7f")),
        ("h", hello_fields(HELLO, serial=b"\xc3\xa9")),
        ("h", hello_fields(HELLO, serial=b"9" * 65)),
        ("h", b"\xff" + hello_fields(HELLO)[1:]),
        ("h", hello_fields(HELLO)[:5] + struct.pack("<I", 99_999) + hello_fields(HELLO)[9:]),
        ("h", hello_fields(HELLO)[:5] + struct.pack("<I", 1_000_000_001) + hello_fields(HELLO)[9:]),
        ("h", hello_fields(HELLO)[:-10] + b"\0"),
        ("h", hello_fields(HELLO)[:-9] + b"\x13" + hello_fields(HELLO)[-8:]),
        ("h", hello_fields(HELLO)[:-9] + b"\x40" + hello_fields(HELLO)[-8:]),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", float("nan"), 1)),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", 1, float("inf"))),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", 0, 1)),
        ("h", hello_fields(HELLO)[:-8] + struct.pack("<ff", np.float32(1e-12), 1)),
        ("h", hello_fields(HELLO)[:-10] + b"\2" + 2 * hello_fields(HELLO)[-9:]),
        ("s", struct.pack("<BHQIBBB", 255, 0, 0, 1, 1, 1, 0) + bytes(2)),
        ("s", struct.pack("<BHQIBBB", 1, 0, 0, 1, 0, 1, 0)),
        ("s", struct.pack("<BHQIBBB", 1, 0, 0, 1, 1, 0, 0)),
        ("s", struct.pack("<BHQIBBB", 1, 0, 0, 1, 1, 10, 0) + bytes(20)),
        ("t", struct.pack("<BIBBhIQ", 255, 0, 0, 0, 0, 0, 0)),
        ("t", struct.pack("<BIBBhIQ", 1, 0, 101, 0, 0, 0, 0)),
        ("t", struct.pack("<BIBBhIQ", 1, 0, 0, 2, 0, 0, 0)),
        ("f", b""),
        ("f", bytes(C["MAX_PAYLOAD"] + 1)),
        ("r", struct.pack("<BQQ", 255, 0, 0) + TimeSync(1, 0, 0).to_bytes()),
        ("r", struct.pack("<BQQ", 1, 1, 0) + TimeSync(1, 0, 0).to_bytes()),
    ],
)
def test_the_firmware_refuses_what_no_host_would_take(firmware: Firmware, operation: str, body: bytes) -> None:
    assert firmware.ask(operation, body)[0] == C["ERROR_VALUE"]
