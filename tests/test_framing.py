"""Frames on a serial line: against an independent COBS, in any chunking, and through damage."""

from __future__ import annotations

import pytest
from cobs import cobs as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.framing import (
    MAX_FRAME,
    FrameSplitter,
    cobs_decode,
    cobs_encode,
    encode_frame,
)
from kinedge.firmware_bridge.packets import MAX_PAYLOAD

ZEROS_AND_MORE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\0", b"\0\0", b"\xff" * 253, b"\1" * 254, b"\2" * 255, b"\3" * 508]),
    ),
    max_size=6,
).map(b"".join)
PAYLOADS = st.binary(min_size=2, max_size=300)


@settings(deadline=None, max_examples=400)
@given(ZEROS_AND_MORE)
def test_cobs_agrees_with_an_independent_one(data: bytes) -> None:
    encoded = cobs_encode(data)
    assert encoded == reference.encode(data)
    assert cobs_decode(encoded) == data


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=600))
def test_cobs_decodes_what_an_independent_one_decodes_and_refuses_the_rest(frame: bytes) -> None:
    try:
        expected = reference.decode(frame) if frame else None
    except reference.DecodeError:
        expected = None
    if expected is None:
        with pytest.raises(ProtocolError):
            cobs_decode(frame)
    else:
        assert cobs_decode(frame) == expected


def test_frame_carries_the_ccitt_false_crc() -> None:
    # check value of CRC-16/CCITT-FALSE: 0x29B1 for "123456789"
    assert encode_frame(b"123456789") == b"\x0c123456789\xb1\x29\x00"


@settings(deadline=None)
@given(st.lists(PAYLOADS, max_size=8), st.data())
def test_any_chunking_of_the_bytes_gives_the_same_payloads(payloads: list[bytes], data: st.DataObject) -> None:
    line = b"".join(encode_frame(p) for p in payloads)
    splitter = FrameSplitter()
    found = []
    while line:
        n = data.draw(st.integers(1, len(line)))
        found += splitter.feed(line[:n])
        line = line[n:]
    assert found == payloads
    assert splitter.counters.frames == len(payloads)
    assert splitter.counters.bad_crc == splitter.counters.bad_frame == splitter.counters.bytes_skipped == 0


def test_longest_packet_passes_and_one_byte_more_does_not() -> None:
    splitter = FrameSplitter()
    payload = b"\1" * MAX_PAYLOAD
    assert splitter.feed(encode_frame(payload)) == [payload]
    assert len(encode_frame(payload)) <= MAX_FRAME + 1
    assert splitter.feed(b"\1" * (MAX_FRAME + 1) + b"\0") == []
    assert (splitter.counters.bad_frame, splitter.counters.bytes_skipped) == (1, MAX_FRAME + 1)


def test_endless_frame_is_skipped_without_being_kept() -> None:
    splitter = FrameSplitter(max_frame=64)
    for _ in range(1000):
        assert splitter.feed(b"\x07" * 50) == []
    assert len(splitter._tail) <= 64
    assert splitter.feed(b"\0" + encode_frame(b"hello")) == [b"hello"]
    assert (splitter.counters.bad_frame, splitter.counters.bytes_skipped) == (1, 50_000)


def test_half_a_frame_of_a_lost_port_does_not_spoil_the_first_one_after() -> None:
    splitter = FrameSplitter()
    splitter.feed(encode_frame(b"before")[:4])
    splitter.reset()
    assert splitter.feed(encode_frame(b"after")) == [b"after"]
    assert splitter.counters.bad_frame == 1


@settings(deadline=None, max_examples=300)
@given(st.lists(PAYLOADS, min_size=3, max_size=6), st.data())
def test_damaged_byte_costs_at_most_the_frames_it_touches(payloads: list[bytes], data: st.DataObject) -> None:
    frames = [encode_frame(p) for p in payloads]
    line = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(line) - 1))
    kind = data.draw(st.sampled_from(["flip", "lose", "insert"]))
    if kind == "flip":
        line[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "lose":
        del line[at]
    else:
        line.insert(at, data.draw(st.integers(0, 255)))
    ends = [sum(map(len, frames[: i + 1])) for i in range(len(frames))]
    hit = next(i for i, end in enumerate(ends) if at < end)
    touched = {hit, hit + 1} if at == ends[hit] - 1 else {hit, hit - 1} if kind == "insert" else {hit}
    found = FrameSplitter().feed(bytes(line))
    for i, payload in enumerate(payloads):
        if i not in touched:
            assert payload in found
    assert len(found) >= len(payloads) - 2


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=500), max_size=20))
def test_random_bytes_never_raise_and_are_all_accounted_for(chunks: list[bytes]) -> None:
    splitter = FrameSplitter(max_frame=128)
    kept = 0
    for chunk in chunks:
        kept += sum(len(encode_frame(p)) - 1 for p in splitter.feed(chunk))
        assert len(splitter._tail) <= 128
    splitter.reset()
    total = sum(len(c) - c.count(0) for c in chunks)
    assert splitter.counters.bytes_skipped + kept == total
