"""Packets: bytes -> packet -> bytes, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.packets import (
    ALL_STREAMS,
    MAX_PAYLOAD,
    Channel,
    Hello,
    HelloRequest,
    Packet,
    SampleFlags,
    Samples,
    Status,
    TimeSync,
    parse_packet,
)
from kinedge.signals import IMU6, SensorSpec

ACC_X = Channel("acc_x", 0.5, 16384.0)
GYR_Z = Channel("gyr_z", 0.25, 8192.0)
HELLO = Hello(3, 0xDEADBEEF, 10_000_000, "wrist_left", "SN-0042", (ACC_X, GYR_Z))

# One table drives both directions: every byte is written out once, by hand from the layout.
VECTORS: list[tuple[str, Packet]] = [
    (
        "11 03 efbeadde 80969800 02 0a 77726973745f6c656674 07 534e2d30303432"
        "10 01 0000003f 00008046  22 02 0000803e 00000046",
        HELLO,
    ),
    (
        "12 03 feff 4e61bc0000000000 80969800 02 05 0100 ffff 0080 ff7f",
        Samples(
            3,
            65534,
            12_345_678,
            10_000_000,
            2,
            struct.pack("<4h", 1, -1, -32768, 32767),
            SampleFlags.ACC_CLIPPED | SampleFlags.OVERFLOWED,
        ),
    ),
    (
        "13 ff 00 00 0700 e803000000000000 0000000000000000 0000000000000000",
        TimeSync(ALL_STREAMS, 7, 1000),
    ),
    (
        "13 03 01 00 0700 e803000000000000 d007000000000000 b80b000000000000",
        TimeSync(3, 7, 1000, 2000, 3000, is_response=True),
    ),
    ("14 03 efbeadde 5a 01 27f6 05000000 40420f0000000000", Status(3, 0xDEADBEEF, 90, True, -25.21, 5, 1_000_000)),
    ("14 03 00000000 ff 00 0080 00000000 0000000000000000", Status(3, 0, None, False, None, 0, 0)),
    ("15 ff", HelloRequest()),
]


@pytest.mark.parametrize(("text", "packet"), VECTORS, ids=lambda v: type(v).__name__ if not isinstance(v, str) else "")
def test_packet_and_bytes_are_two_forms_of_one_thing(text: str, packet: Packet) -> None:
    assert parse_packet(bytes.fromhex(text)) == packet
    assert packet.to_bytes().hex() == bytes.fromhex(text).hex()


@pytest.mark.parametrize(("text", "packet"), VECTORS, ids=lambda v: type(v).__name__ if not isinstance(v, str) else "")
def test_packet_that_is_cut_or_has_trailing_bytes_is_refused(text: str, packet: Packet) -> None:
    payload = bytes.fromhex(text)
    for end in range(len(payload)):
        # a SAMPLES packet may be cut to fewer channels; without its description that cannot be told
        if isinstance(packet, Samples) and end >= 18 and (end - 18) % 4 == 0 and end > 18:
            continue
        with pytest.raises(ProtocolError):
            parse_packet(payload[:end])
    with pytest.raises(ProtocolError):
        parse_packet(payload + b"\1")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=MAX_PAYLOAD // 8), st.sampled_from([b"", b"\x11", b"\x12\1", b"\x13\1\1", b"\x14\1"]))
def test_random_bytes_raise_nothing_but_protocol_error_and_what_parses_is_written_back(
    rest: bytes, start: bytes
) -> None:
    payload = start + rest
    try:
        packet = parse_packet(payload)
    except ProtocolError:
        return
    assert parse_packet(packet.to_bytes()) == packet


def _hello_with(patch: dict[int, int]) -> bytes:
    payload = bytearray(HELLO.to_bytes())
    for at, value in patch.items():
        payload[at] = value
    return bytes(payload)


CHANNEL_AT = 30  # header 11, name 1 + 10, serial 1 + 7


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"\x21\x03", "version 2"),
        (b"\x1f\x03", "type 15"),
        (_hello_with({1: 255}), "stream id"),
        (_hello_with({6: 0, 7: 0, 8: 0, 9: 0}), "interval_ns"),
        (_hello_with({12: ord("W")}), "sensor name"),
        (_hello_with({12: 0xFF}), "UTF-8"),
        (_hello_with({23: 0x1B}), "serial"),
        (_hello_with({CHANNEL_AT: 0x40}), "channel code 0x40"),
        (_hello_with({CHANNEL_AT: 0x13}), "channel code 0x13"),
        (_hello_with({CHANNEL_AT + 1: 2}), "unit code 2 does not fit ACC"),
        (_hello_with({CHANNEL_AT + 5: 0xFF, CHANNEL_AT + 4: 0xFF}), "scale"),
        (Hello(3, 1, 10_000_000, "a", "b", (ACC_X,)).to_bytes()[:-10], "HELLO with 1 channels"),
        (bytes.fromhex("13 03 02 00 0700") + bytes(24), "op must be"),
        (bytes.fromhex("14 03 00000000 65 00 0000 00000000 0000000000000000"), "battery"),
        (bytes.fromhex("12 03 0000 0000000000000000 80969800 00 00 0100"), "1 to 255"),
        (bytes.fromhex("12 03 0000 0000000000000000 80969800 02 00 0100"), "whole int16"),
    ],
)
def test_refusal_says_what_is_wrong(payload: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        parse_packet(payload)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Samples(1, 65536, 0, 1, 1, b"\0\0"),
        lambda: Samples(1, 0, 1 << 64, 1, 1, b"\0\0"),
        lambda: Samples(255, 0, 0, 1, 1, b"\0\0"),
        lambda: Samples.from_counts(np.zeros(3, np.int16), stream_id=1, sequence=0, t_us=0, interval_ns=1),
        lambda: TimeSync(1, -1, 0),
        lambda: Status(1, 0, 101, False, None, 0, 0),
        lambda: Status(1, 0, None, False, 400.0, 0, 0),
        lambda: Channel("acc_w", 1.0, 1.0),
        lambda: Channel("acc_x", 0.0, 1.0),
        lambda: Channel("acc_x", 1.0, float("nan")),
        lambda: Hello(1, 0, 10_000_000, "wrist_left", "x", (ACC_X, ACC_X)),
        lambda: Hello(1, 0, 10_000_000, "wrist_left", "x", ()),
        lambda: Hello(1, 0, 10_000_000, "wrist_left", "", (ACC_X,)),
        lambda: Hello(1, 0, 99_999, "wrist_left", "x", (ACC_X,)),
    ],
)
def test_packet_that_has_no_bytes_cannot_be_made(make: Any) -> None:
    with pytest.raises(ProtocolError):
        make()


def test_samples_give_back_their_counts() -> None:
    counts = np.arange(-6, 6, dtype=np.int16).reshape(4, 3)
    packet = Samples.from_counts(counts, stream_id=1, sequence=2, t_us=3, interval_ns=4)
    assert packet.count == 4
    np.testing.assert_array_equal(packet.counts, counts)


def test_hello_names_the_sensor_and_the_end_of_the_range() -> None:
    hello = Hello(1, 1, 10_000_000, "shank_left", "x", tuple(Channel(n, 16 / 32768, 16) for n in IMU6[:5]))
    assert hello.spec == SensorSpec("shank_left", IMU6[:5])
    assert hello.saturation_counts.tolist() == [32767] * 5
    half_range = Hello(1, 1, 10_000_000, "shank_left", "x", (Channel("acc_x", 16 / 32768, 8),))
    assert half_range.saturation_counts.tolist() == [16384]
