"""Frames of the firmware library and of Python: each understands the other, also what is damaged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from firmware_program import EXAMPLES, Firmware, firmware_running, u16, u64
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.firmware_bridge import framing
from kinedge.firmware_bridge.firmware_header import read_constants
from kinedge.firmware_bridge.framing import FrameSplitter, encode_frame
from kinedge.firmware_bridge.packets import HelloRequest, TimeSync

C = read_constants()


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firmware]:
    with firmware_running(tmp_path_factory.mktemp("firmware")) as running:
        yield running


RUNS = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"\0", b"\1" * 251, b"\2" * 252, b"\3" * 254, b"\4" * 508])),
    max_size=6,
).map(b"".join)


@EXAMPLES
@given(data=st.binary(max_size=300))
def test_crc_of_the_firmware_is_that_of_python(firmware: Firmware, data: bytes) -> None:
    whole = encode_frame(data)
    crc, _ = firmware.ask("c", data)
    assert framing.cobs_decode(whole[:-1])[-2:] == crc.to_bytes(2, "little")


@EXAMPLES
@given(payload=RUNS.filter(len))
def test_frame_of_the_firmware_is_that_of_python_and_needs_no_more_room_than_the_macro_says(
    firmware: Firmware, payload: bytes
) -> None:
    frame = encode_frame(payload)
    assert firmware.encoded("f", payload) == frame
    assert len(frame) <= len(payload) + 2 + (len(payload) + 2) // 254 + 2
    assert firmware.encoded("f", payload, size=len(frame)) == frame
    for size in {0, 1, len(frame) // 2, len(frame) - 2, len(frame) - 1}:
        assert firmware.ask("f", payload, size=size) == (C["ERROR_SPACE"], b"")


requests = st.one_of(
    st.builds(HelloRequest, st.integers(0, 255)),
    st.builds(TimeSync, st.integers(0, 255), u16, u64),
).map(lambda packet: packet.to_bytes())


@EXAMPLES
@given(payloads=st.lists(requests, max_size=8))
def test_framed_requests_of_python_reach_the_firmware_whole(firmware: Firmware, payloads: list[bytes]) -> None:
    found, good, bad = firmware.decode(b"".join(map(encode_frame, payloads)), size=C["REQUEST_BUFFER_SIZE"])
    assert found == payloads
    assert (good, bad) == (len(payloads), 0)


@settings(deadline=None, max_examples=250)
@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=60),
            requests.map(encode_frame),
            RUNS.filter(lambda p: len(p) > 1).map(encode_frame),
            RUNS.map(lambda p: framing.cobs_encode(p) + b"\0"),
        ),
        max_size=6,
    ),
    flip=st.none() | st.tuples(st.integers(0, 2000), st.integers(1, 255)),
)
def test_any_bytes_give_the_firmware_the_same_payloads_as_python(
    firmware: Firmware, parts: list[bytes], flip: tuple[int, int] | None
) -> None:
    line = bytearray(b"".join(parts))
    if flip is not None and line:
        line[flip[0] % len(line)] ^= flip[1]
    splitter = FrameSplitter()
    expected = splitter.feed(bytes(line))
    found, good, bad = firmware.decode(bytes(line), size=4610)
    assert [f for f in found if isinstance(f, bytes)] == expected
    errors = [f for f in found if isinstance(f, int)]
    assert (good, bad) == (splitter.counters.frames, len(errors))
    assert errors.count(C["ERROR_CRC"]) == splitter.counters.bad_crc
    assert errors.count(C["ERROR_FRAME"]) == splitter.counters.bad_frame


@settings(deadline=None, max_examples=100)
@given(line=st.binary(max_size=3000), size=st.integers(0, 64))
def test_random_bytes_and_small_buffers_cost_the_decoder_nothing_but_the_frame(
    firmware: Firmware, line: bytes, size: int
) -> None:
    whole = TimeSync(1, 2, 3).to_bytes()
    found, _, _ = firmware.decode(line + b"\0" + encode_frame(whole), size=size)
    assert found[-1] == (whole if size >= len(whole) + 2 else C["ERROR_FRAME"])
