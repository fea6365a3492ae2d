"""The wire decoder on bytes in any pieces, damaged or hostile: nothing is raised or grows, every loss counts."""

from __future__ import annotations

import itertools
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_samples import INTERVAL_NS, chunks_of, described, events_of, hello, indices, packet

from kinedge.firmware_bridge.decoder import WireDecoder
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import Samples, Status
from kinedge.signals import ImuChunk

LINE = b"".join(
    [encode_frame(hello().to_bytes()), encode_frame(hello(stream_id=2, sensor="wrist_right").to_bytes())]
    + [encode_frame(packet(i, n, stream_id=s)) for i, n in ((0, 10), (10, 10), (30, 5), (35, 9)) for s in (1, 2)]
    + [encode_frame(Status(1, 7, 80, False, 31.5, 0, 5).to_bytes()), encode_frame(packet(44)), encode_frame(packet(54))]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, len(LINE) - 1), max_size=30), st.booleans())
def test_any_chunking_of_the_bytes_gives_the_same_samples(cuts: list[int], drain: bool) -> None:
    whole, cut = WireDecoder(), WireDecoder()
    whole.receive_data(LINE)
    expected = chunks_of(whole)
    found: list[ImuChunk] = []
    edges = [0, *sorted(set(cuts)), len(LINE)]
    for start, end in itertools.pairwise(edges):
        cut.receive_data(LINE[start:end])
        if drain:
            found += chunks_of(cut)
    found += chunks_of(cut)
    for sensor in ("wrist_left", "wrist_right"):
        mine, theirs = ([c for c in chunks if c.sensor == sensor] for chunks in (found, expected))
        for name in ("device_time_ns", "values", "valid", "saturated"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(c, name) for c in mine]), np.concatenate([getattr(c, name) for c in theirs])
            )
        assert sum(c.lost for c in mine) == sum(c.lost for c in theirs) == 10
    assert cut.counters == whole.counters


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.sampled_from(["flip", "lose", "insert"]), st.integers(0, 255))
def test_damaged_byte_costs_two_packets_at_most_and_every_lost_sample_is_counted(
    at: int, kind: str, value: int
) -> None:
    decoder = described(framed=True)
    line = bytearray(b"".join(encode_frame(packet(i)) for i in range(0, 100, 10)))
    # the first and last packet are left alone: what is missing outside of them nobody can know
    frame = len(encode_frame(packet(0)))
    at = frame + at % (len(line) - frame - len(encode_frame(packet(90))) - 1)
    if kind == "flip":
        line[at] ^= value or 1
    elif kind == "lose":
        del line[at]
    else:
        line.insert(at, value)
    decoder.receive_data(bytes(line))
    chunks = chunks_of(decoder)
    found = indices(chunks)
    assert found == sorted(found) and set(found) <= set(range(100))
    assert len(found) >= 80
    assert sum(c.lost for c in chunks) == 100 - len(found)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=400), max_size=20), st.booleans())
def test_random_bytes_raise_nothing(chunks: list[bytes], framed: bool) -> None:
    decoder = WireDecoder(framed=framed)
    decoder.receive_data(encode_frame(hello().to_bytes()) if framed else hello().to_bytes())
    for chunk in chunks:
        decoder.receive_data(chunk)
        events_of(decoder)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 65535),
            st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 10**8), st.sampled_from([2**53, 2**63, 2**64 - 1])),
            st.sampled_from([0, 1, INTERVAL_NS - 1, INTERVAL_NS, INTERVAL_NS + 1, 2**32 - 1]),
            st.integers(1, 255),
        ),
        max_size=30,
    ),
    st.booleans(),
)
@pytest.mark.filterwarnings("error")
def test_hostile_sequences_and_clocks_never_overflow(packets: list[tuple[int, int, int, int]], split: bool) -> None:
    decoder = described()
    for i, (sequence, t_us, interval_ns, n) in enumerate(packets):
        counts = np.ones((n, 6), np.int16)
        payload = Samples.from_counts(
            counts, stream_id=1, sequence=sequence, t_us=t_us, interval_ns=interval_ns
        ).to_bytes()
        decoder.receive_data(payload, host_time_ns=i if split else None)
    chunks = chunks_of(decoder)
    for chunk in chunks:
        assert chunk.lost >= 0
        assert (np.diff(chunk.device_time_ns) > 0).all() or decoder.counters.timeline_resets
    assert sum(len(c) for c in chunks) == decoder.counters.samples
    assert decoder.counters.implausible <= len(packets)


def test_random_bytes_do_not_grow_memory() -> None:
    rng = random.Random(3)
    decoder = WireDecoder(max_backlog_bytes=1 << 16)
    tracemalloc.start()
    try:
        peak = 0
        for i in range(300):
            noise = rng.randbytes(4096)
            decoder.receive_data(noise if i % 2 else noise.replace(b"\0", b"\1"))
            if i == 50:
                tracemalloc.reset_peak()
            peak = tracemalloc.get_traced_memory()[1]
        assert peak < 1_000_000
    finally:
        tracemalloc.stop()


def test_backlog_is_bounded_and_what_it_drops_counts_as_lost() -> None:
    decoder = described(framed=True)
    decoder.receive_data(encode_frame(packet(0)))
    assert indices(chunks_of(decoder)) == list(range(10))
    decoder._max_backlog_bytes = 20_000
    for i in range(10, 10_000, 10):
        decoder.receive_data(encode_frame(packet(i)), host_time_ns=i)
    chunks = chunks_of(decoder)
    assert decoder.counters.backlog_dropped > 0
    assert chunks[0].lost == decoder.counters.backlog_dropped * 10
    assert indices(chunks)[-1] == 9_999


def test_other_version_is_counted_and_named() -> None:
    decoder = WireDecoder(framed=False)
    decoder.receive_data(b"\x22" + packet(0)[1:])
    assert decoder.next_event() is None
    assert decoder.counters.malformed == 1
    assert decoder.last_error is not None and "version 2" in decoder.last_error


@pytest.mark.parametrize(
    ("at", "value", "counter"),
    [(16, 9, "malformed"), (16, 0, "malformed"), (12, 1, "implausible"), (11, 0xFF, "implausible")],
)
def test_packet_that_cannot_be_is_counted_and_its_samples_are_lost(at: int, value: int, counter: str) -> None:
    decoder = described()
    broken = bytearray(packet(10))
    broken[at] = value
    if counter == "implausible" and at == 12:
        broken[12:16] = bytes(4)
    for payload in (packet(0), bytes(broken), packet(20)):
        decoder.receive_data(payload)
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(10), *range(20, 30)]
    assert sum(c.lost for c in chunks) == 10
    assert getattr(decoder.counters, counter) == 1
