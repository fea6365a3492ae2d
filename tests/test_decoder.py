"""The wire decoder: samples in SI units with device time, and exact counts of what is lost."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_samples import INTERVAL_NS, chunks_of, described, events_of, indices, packet

from kinedge.firmware_bridge.decoder import StatusReceived, TimeSyncReceived, WireDecoder
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.firmware_bridge.packets import Channel, Hello, HelloRequest, SampleFlags, Samples, Status, TimeSync


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


def test_status_and_time_sync_come_through_with_their_arrival() -> None:
    decoder = described()
    status, answer = Status(1, 7, 80, True, None, 3, 4), TimeSync(1, 2, 3, 4, 5, is_response=True)
    for payload in (status.to_bytes(), answer.to_bytes(), TimeSync(1, 2, 3).to_bytes(), HelloRequest().to_bytes()):
        decoder.receive_data(payload, host_time_ns=11)
    assert events_of(decoder) == [StatusReceived(status, 11), TimeSyncReceived(answer, 11)]
