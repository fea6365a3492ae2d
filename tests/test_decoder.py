"""The wire decoder: exact counts of what is lost, whatever happens to bytes, packets and clocks."""

from __future__ import annotations

import itertools
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.firmware_bridge.decoder import (
    Event,
    HelloReceived,
    StatusReceived,
    TimeSyncReceived,
    WireDecoder,
)
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import (
    Channel,
    Hello,
    HelloRequest,
    SampleFlags,
    Samples,
    Status,
    TimeSync,
)
from kinedge.signals import IMU6, ImuChunk

INTERVAL_NS = 10_000_000
ACC_SCALE, GYR_SCALE = 0.0048828125, 0.0009765625
CHANNELS = tuple(Channel(n, ACC_SCALE if n[0] == "a" else GYR_SCALE, 160.0 if n[0] == "a" else 32.0) for n in IMU6)


def hello(*, stream_id: int = 1, boot_id: int = 7, sensor: str = "wrist_left", serial: str = "SN1") -> Hello:
    return Hello(stream_id, boot_id, INTERVAL_NS, sensor, serial, CHANNELS)


def counts_of(index: int, n: int) -> np.ndarray:
    """Counts that tell which sample they are."""
    k = np.arange(index, index + n)[:, None] * 7 + np.arange(6) * 1009
    return (k % 40_000 - 20_000).astype(np.int16)


def packet(index: int, n: int = 10, *, stream_id: int = 1, flags: SampleFlags = SampleFlags.NONE) -> bytes:
    """SAMPLES with samples ``[index, index + n)`` of a device that was switched on at 1 s."""
    return Samples.from_counts(
        counts_of(index, n),
        stream_id=stream_id,
        sequence=index % 65536,
        t_us=1_000_000 + index * INTERVAL_NS // 1000,
        interval_ns=INTERVAL_NS,
        flags=flags,
    ).to_bytes()


def events_of(decoder: WireDecoder) -> list[Event]:
    found = []
    while (event := decoder.next_event()) is not None:
        found.append(event)
    return found


def chunks_of(decoder: WireDecoder) -> list[ImuChunk]:
    return [e for e in events_of(decoder) if isinstance(e, ImuChunk)]


def described(*, framed: bool = False) -> WireDecoder:
    decoder = WireDecoder(framed=framed)
    payload = hello().to_bytes()
    decoder.receive_data(encode_frame(payload) if framed else payload)
    assert isinstance(decoder.next_event(), HelloReceived)
    return decoder


def indices(chunks: list[ImuChunk]) -> list[int]:
    """Which samples were delivered, by their time; values must be those of these samples."""
    found: list[int] = []
    for chunk in chunks:
        index = (chunk.device_time_ns - 1_000_000_000) // INTERVAL_NS
        for i, values in zip(index.tolist(), chunk.values, strict=True):
            np.testing.assert_array_equal(values, counts_of(i, 1)[0] * np.array([ACC_SCALE] * 3 + [GYR_SCALE] * 3))
        found += index.tolist()
    return found


def test_samples_come_out_in_si_units_with_device_time() -> None:
    decoder = described()
    counts = np.array([[100, -100, 0, 1000, -1000, 1]], np.int16)
    decoder.receive_data(
        Samples.from_counts(counts, stream_id=1, sequence=5, t_us=123, interval_ns=INTERVAL_NS).to_bytes(),
        host_time_ns=99,
    )
    (chunk,) = chunks_of(decoder)
    np.testing.assert_allclose(chunk.values, [[0.48828125, -0.48828125, 0, 0.9765625, -0.9765625, 0.0009765625]])
    assert chunk.device_time_ns.tolist() == [123_000]
    assert (chunk.sensor, chunk.boot_id, chunk.host_time_ns, chunk.lost) == ("wrist_left", 7, 99, 0)
    assert chunk.interval_ns == INTERVAL_NS
    assert chunk.valid.all() and not chunk.saturated.any()


def test_burst_of_frames_is_one_chunk_and_equals_its_packets_one_by_one() -> None:
    together, apart = described(framed=True), described(framed=True)
    frames = [encode_frame(packet(i)) for i in range(0, 640, 10)]
    together.receive_data(b"".join(frames), host_time_ns=5)
    (whole,) = chunks_of(together)
    parts = []
    for i, frame in enumerate(frames):
        apart.receive_data(frame, host_time_ns=i)
        parts += chunks_of(apart)
    assert [p.host_time_ns for p in parts] == list(range(64))
    for name in ("device_time_ns", "values", "valid", "saturated"):
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(p, name) for p in parts]))
    assert indices([whole]) == list(range(640))


def test_reads_at_one_host_time_share_a_chunk_and_others_do_not() -> None:
    decoder = described()
    for index, host_time_ns in ((0, 1), (10, 1), (20, 2)):
        decoder.receive_data(packet(index), host_time_ns=host_time_ns)
    assert [(len(c), c.host_time_ns) for c in chunks_of(decoder)] == [(20, 1), (10, 2)]


def test_chunk_bears_the_time_of_the_read_that_completed_it() -> None:
    decoder = described(framed=True)
    frame = encode_frame(packet(0))
    decoder.receive_data(frame[:30], host_time_ns=1)
    decoder.receive_data(frame[30:], host_time_ns=2)
    (chunk,) = chunks_of(decoder)
    assert chunk.host_time_ns == 2


def test_marked_and_clipped_samples_are_masked() -> None:
    decoder = described()
    counts = np.array([[32767, -32767, -32768, 0, 0, 0], [0, 0, 0, 32767, 0, -32768]], np.int16)
    decoder.receive_data(
        Samples.from_counts(counts, stream_id=1, sequence=0, t_us=0, interval_ns=INTERVAL_NS).to_bytes()
    )
    (chunk,) = chunks_of(decoder)
    np.testing.assert_array_equal(chunk.valid, counts != -32768)
    # the accelerometer's range ends at 160 m/s^2 = 32768 counts, the gyroscope's at 32 rad/s = 32768 counts
    np.testing.assert_array_equal(chunk.saturated, np.abs(counts.astype(int)) == 32767)


def test_range_below_the_int16_end_saturates_within_half_a_count_of_it() -> None:
    decoder = WireDecoder(framed=False)
    decoder.receive_data(Hello(1, 7, INTERVAL_NS, "wrist_left", "SN", (Channel("acc_x", 0.01, 100.0),)).to_bytes())
    counts = np.array([[9999], [10000], [-9999], [-10000]], np.int16)
    decoder.receive_data(
        Samples.from_counts(counts, stream_id=1, sequence=0, t_us=0, interval_ns=INTERVAL_NS).to_bytes()
    )
    (chunk,) = chunks_of(decoder)
    assert chunk.saturated.ravel().tolist() == [False, True, False, True]


def test_clipping_that_only_the_device_saw_marks_its_quantity_in_the_whole_packet() -> None:
    decoder = described()
    decoder.receive_data(packet(0), host_time_ns=1)
    decoder.receive_data(packet(10, flags=SampleFlags.ACC_CLIPPED | SampleFlags.OVERFLOWED), host_time_ns=1)
    (chunk,) = chunks_of(decoder)
    expected = np.zeros((20, 6), bool)
    expected[10:, :3] = True
    np.testing.assert_array_equal(chunk.saturated, expected)
    assert decoder.counters.overflows == 1


@pytest.mark.parametrize("gap", [1, 10, 65535, 65536, 65537, 200_000, 9_999_990])
def test_gap_is_counted_exactly_over_any_number_of_wraps(gap: int) -> None:
    decoder = described()
    for index in (0, 10, 20 + gap, 30 + gap):
        decoder.receive_data(packet(index))
    assert sum(c.lost for c in chunks_of(decoder)) == gap == decoder.counters.lost


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
    st.booleans(),
)
def test_lost_is_exact_under_loss_repetition_and_reordering(
    sizes: list[int], rng: random.Random, reach: int, split: bool
) -> None:
    starts = np.cumsum([65_500, *sizes[:-1]]).tolist()
    sent = [(s, n) for s, n in zip(starts, sizes, strict=True) if rng.random() > 0.2]
    sent += [p for p in sent if rng.random() < 0.2]
    sent = [p for _, p in sorted(enumerate(sent), key=lambda ip: ip[1][0] / 20 + rng.random() * reach)]
    decoder = described()
    for i, (start, n) in enumerate(sent):
        decoder.receive_data(packet(start, n), host_time_ns=i if split else 0)
    chunks = chunks_of(decoder)
    # the model: a packet counts when it begins behind all that was delivered
    expected: list[int] = []
    for start, n in sent:
        if not expected or start > expected[-1]:
            expected += range(start, start + n)
    assert indices(chunks) == expected
    counters = decoder.counters
    if expected:
        assert sum(c.lost for c in chunks) == expected[-1] - expected[0] + 1 - len(expected) == counters.lost
    assert counters.samples == len(expected)
    assert counters.samples + counters.duplicates == sum(n for _, n in sent)
    assert counters.implausible == counters.timeline_resets == 0


DEFECTS = st.sampled_from(["none"] * 8 + ["lost", "twice", "late", "count", "interval", "t_us", "slow", "back"])


@settings(deadline=None, max_examples=200)
@given(st.lists(DEFECTS, min_size=9, max_size=40), st.integers(0, 70_000))
def test_burst_and_its_packets_one_by_one_come_to_the_same(defects: list[str], first: int) -> None:
    payloads = []
    for i, defect in enumerate(defects):
        payload = bytearray(packet(first + 10 * i))
        if defect == "lost":
            continue
        if defect == "count":
            payload[16] += 1
        elif defect in ("interval", "slow"):
            payload[12:16] = (INTERVAL_NS * 2 if defect == "interval" else INTERVAL_NS * 6 // 5).to_bytes(4, "little")
        elif defect in ("t_us", "back"):
            t_us = 1 << 60 if defect == "t_us" else 1_000_000 + (first + 10 * i - 7) * INTERVAL_NS // 1000
            payload[4:12] = t_us.to_bytes(8, "little")
        payloads.insert(len(payloads) - (defect == "late"), bytes(payload))
        if defect == "twice":
            payloads.append(bytes(payload))
    together, apart = described(), described()
    for i, payload in enumerate(payloads):
        together.receive_data(payload, host_time_ns=0)
        apart.receive_data(payload, host_time_ns=i)
    whole, parts = chunks_of(together), chunks_of(apart)
    assert len(whole) == bool(parts)
    for chunk in whole:
        for name in ("device_time_ns", "values", "valid", "saturated"):
            np.testing.assert_array_equal(getattr(chunk, name), np.concatenate([getattr(c, name) for c in parts]))
    assert sum(c.lost for c in whole) == sum(c.lost for c in parts)
    assert together.counters == apart.counters


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


def test_samples_before_hello_are_counted_and_the_stream_starts_with_hello() -> None:
    decoder = WireDecoder(framed=False)
    decoder.receive_data(packet(0))
    decoder.receive_data(hello().to_bytes())
    decoder.receive_data(packet(10))
    assert indices(chunks_of(decoder)) == list(range(10, 20))
    assert (decoder.counters.undescribed, decoder.counters.lost) == (10, 0)


def test_repeated_hello_changes_nothing() -> None:
    decoder = described()
    for payload in (packet(0), hello().to_bytes(), packet(20)):
        decoder.receive_data(payload)
    assert [c.lost for c in chunks_of(decoder)] == [0, 10]


@pytest.mark.parametrize("change", [{"boot_id": 8}, {"serial": "SN2"}])
def test_device_that_started_anew_begins_anew(change: dict[str, int]) -> None:
    decoder = described()
    for payload in (packet(5000), hello(**change).to_bytes(), packet(40)):  # type: ignore[arg-type]
        decoder.receive_data(payload)
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(5000, 5010), *range(40, 50)]
    assert [c.lost for c in chunks] == [0, 0]
    assert chunks[1].boot_id == change.get("boot_id", 7)


@pytest.mark.parametrize("split", [False, True])
def test_restart_whose_hello_was_lost_costs_no_sample_once_a_hello_comes(split: bool) -> None:
    decoder = described()
    sent = [packet(i) for i in (*range(0, 500, 10), *range(0, 80, 10))]
    for i, payload in enumerate(sent):
        decoder.receive_data(payload, host_time_ns=i if split else 0)
    assert indices(chunks_of(decoder)) == [*range(500)]
    assert decoder.counters.hello_due == 1 + split  # when they began to wait, and half a second later
    decoder.receive_data(hello(boot_id=8).to_bytes(), host_time_ns=100)
    decoder.receive_data(packet(80), host_time_ns=100)
    kinds = events_of(decoder)
    assert isinstance(kinds[0], HelloReceived)
    chunks = [e for e in kinds if isinstance(e, ImuChunk)]
    assert indices(chunks) == [*range(90)]
    assert {c.boot_id for c in chunks} == {8}
    assert chunks[0].host_time_ns == (50 if split else 0)
    assert decoder.counters.lost == decoder.counters.duplicates == decoder.counters.undescribed == 0


def test_samples_behind_a_reopened_link_belong_to_the_boot_that_the_next_hello_names() -> None:
    # power was cycled while nobody listened, and the new counter goes on just where the old one was
    decoder = described()
    decoder.receive_data(packet(0))
    decoder.link_reopened()
    decoder.receive_data(packet(10))
    decoder.receive_data(packet(30))
    assert [c.boot_id for c in chunks_of(decoder)] == [7]
    decoder.receive_data(hello(boot_id=8).to_bytes())
    decoder.receive_data(packet(40))
    chunks = chunks_of(decoder)
    assert [(c.boot_id, len(c), c.lost) for c in chunks] == [(8, 10, 0), (8, 10, 10), (8, 10, 0)]
    # and here it was not: the gap is counted
    decoder.link_reopened()
    decoder.receive_data(packet(60))
    decoder.receive_data(hello(boot_id=8).to_bytes())
    assert [(c.boot_id, c.lost) for c in chunks_of(decoder)] == [(8, 10)]


@pytest.mark.parametrize("unnamed", [50, 0])
def test_boot_that_no_hello_has_named_is_not_taken_for_another(unnamed: int) -> None:
    decoder = described()
    for index in (*range(0, 500, 10), *range(0, 300, 10), *range(0, unnamed, 10)):
        decoder.receive_data(packet(index))
    assert len(indices(chunks_of(decoder))) == 500
    decoder.receive_data(hello(boot_id=9).to_bytes())
    decoder.receive_data(packet(unnamed))
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(unnamed + 10)]
    assert {c.boot_id for c in chunks} == {9}
    assert decoder.counters.undescribed == 300


def test_samples_do_not_wait_for_a_hello_for_ever() -> None:
    decoder = described()
    decoder.receive_data(packet(0))
    assert len(chunks_of(decoder)) == 1
    decoder.link_reopened()
    for index in range(10, 1010, 10):
        decoder.receive_data(packet(index))
        assert not chunks_of(decoder)
    decoder.receive_data(packet(1010))
    assert indices(chunks_of(decoder)) == [*range(10, 1020)]


def test_sensor_that_moves_to_another_stream_is_taken_from_there() -> None:
    decoder = described()
    for payload in (hello(stream_id=2).to_bytes(), packet(0), packet(0, stream_id=2)):
        decoder.receive_data(payload)
    assert len(chunks_of(decoder)) == 1
    assert decoder.counters.undescribed == 10


def test_time_far_away_is_refused_but_a_stream_that_stays_there_is_followed() -> None:
    decoder = described()
    for index in (50_000_000, 50_000_010):
        decoder.receive_data(packet(index))
    decoder.receive_data(packet(0), host_time_ns=1)
    decoder.receive_data(hello().to_bytes())
    assert [len(c) for c in chunks_of(decoder)] == [20]
    assert decoder.counters.implausible == 1
    decoder.receive_data(packet(50_000_020), host_time_ns=2)
    decoder.receive_data(packet(10), host_time_ns=3)
    assert [c.lost for c in chunks_of(decoder)] == [0]
    # a clock that went back for good, as at a restart under the same boot id: the third packet is believed
    for index in (20, 30, 40, 50):
        decoder.receive_data(packet(index), host_time_ns=index)
    decoder.receive_data(hello().to_bytes())
    chunks = chunks_of(decoder)
    assert indices(chunks) == [*range(30, 60)]
    assert [c.lost for c in chunks] == [20, 0, 0]
    assert decoder.counters.timeline_resets == 1


def test_outage_of_days_ends() -> None:
    decoder = described()
    start = 30_000_000
    for index in (0, start, start + 10, start + 20, start + 30):
        decoder.receive_data(packet(index), host_time_ns=index)
    chunks = chunks_of(decoder)
    assert [c.lost for c in chunks] == [0, start + 20 - 10, 0]


def test_clock_that_steps_back_a_little_never_repeats_a_time() -> None:
    decoder = described()
    decoder.receive_data(packet(0))
    for index in range(10, 150, 10):
        behind = 45 if index >= 50 else 0  # sequence goes on, the clock stepped back by 45 samples
        shifted = Samples.from_counts(
            counts_of(index, 10),
            stream_id=1,
            sequence=index,
            t_us=1_000_000 + (index - behind) * 10_000,
            interval_ns=INTERVAL_NS,
        )
        decoder.receive_data(shifted.to_bytes(), host_time_ns=index)
    chunks = chunks_of(decoder)
    times = np.concatenate([c.device_time_ns for c in chunks])
    assert (np.diff(times) > 0).all()
    assert (len(times), sum(c.lost for c in chunks), decoder.counters.implausible) == (100, 50, 5)


def test_status_and_time_sync_come_through_with_their_arrival() -> None:
    decoder = described()
    status, answer = Status(1, 7, 80, True, None, 3, 4), TimeSync(1, 2, 3, 4, 5, is_response=True)
    for payload in (status.to_bytes(), answer.to_bytes(), TimeSync(1, 2, 3).to_bytes(), HelloRequest().to_bytes()):
        decoder.receive_data(payload, host_time_ns=11)
    assert events_of(decoder) == [StatusReceived(status, 11), TimeSyncReceived(answer, 11)]


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
