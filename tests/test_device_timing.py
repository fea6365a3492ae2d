from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import Doubt, SessionConfig
from kinedge.firmware_bridge.devices._common import (
    QueueSession,
    check_options,
    full_scale,
    nearest,
    samples_in_range,
)
from kinedge.firmware_bridge.devices._timing import CountClock, Samples, StampClock, StreamMerger, Unwrapper
from kinedge.firmware_bridge.gravity import GravityCheck
from kinedge.signals import IMU6, ImuChunk, SensorSpec
from kinedge.units import NS_PER_S

MS = 1_000_000


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 32), st.lists(st.floats(-0.45, 0.45), max_size=50))
def test_unwrapping_undoes_any_wraps_of_small_steps(bits: int, steps: list[float]) -> None:
    counts = np.cumsum([5, *(int(s * 2**bits) for s in steps)]).tolist()
    unwrapper = Unwrapper(bits=bits)
    assert [unwrapper.unwrap(c % 2**bits) for c in counts] == [c - counts[0] + counts[0] % 2**bits for c in counts]


def test_elapsed_time_tells_how_often_a_counter_wrapped() -> None:
    unwrapper = Unwrapper(bits=16)
    unwrapper.unwrap(100)
    assert unwrapper.unwrap((100 + 1_000_000) % 2**16, elapsed=990_000) == 1_000_100


def test_stamps_of_first_and_last_samples_give_the_same_times() -> None:
    first, last = StampClock(interval_ns=10 * MS), StampClock(interval_ns=10 * MS)
    for k in range(5):
        a = first.place_first(k * 40 * MS, 4)
        b = last.place_last((k * 40 + 30) * MS, 4)
        assert a is not None
        assert b is not None
        assert a[0].tolist() == b[0].tolist() == [(k * 40 + 10 * i) * MS for i in range(4)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-(10**11), 10**11), st.integers(1, 60)), max_size=60), st.booleans())
def test_times_increase_within_a_boot_whatever_the_stamps(stamps: list[tuple[int, int]], hosted: bool) -> None:
    clock = StampClock(interval_ns=20 * MS)
    last: dict[int, int] = {}
    placed_samples, lost = 0, 0
    for i, (stamp, n) in enumerate(stamps):
        placed = clock.place_last(stamp, n, host_time_ns=i * NS_PER_S if hosted else None)
        if placed is None:
            continue
        times, missing = placed
        assert len(times) == n
        assert missing >= 0
        assert (np.diff(times) > 0).all()
        assert times[0] > last.get(clock.boot_id, -(2**62))
        last[clock.boot_id] = int(times[-1])
        placed_samples += n
        lost += missing
    assert placed_samples + clock.repeated + clock.implausible == sum(n for _, n in stamps)


def test_one_wild_stamp_is_refused_and_three_that_agree_are_a_new_boot() -> None:
    clock = StampClock(interval_ns=10 * MS)
    clock.place_last(100 * NS_PER_S, 1)
    assert clock.place_last(5 * NS_PER_S, 1) is None
    placed = clock.place_last(100 * NS_PER_S + 20 * MS, 1)
    assert placed is not None
    assert placed[1] == 1
    results = [clock.place_last(5 * NS_PER_S + i * 10 * MS, 1) for i in range(4)]
    assert [r is not None for r in results] == [False, False, True, True]
    assert clock.boot_id == 1
    assert clock.implausible == 3


@pytest.mark.parametrize("error", [0.0, 0.01, -0.02, 0.04])
def test_counted_samples_keep_to_the_host_clock_at_a_wrong_nominal_rate(error: float) -> None:
    rng = np.random.default_rng(1)
    clock = CountClock(interval_ns=20 * MS)
    interval = 20 * MS * (1 + error)
    off, lost = [], 0
    for i in range(5000):
        if 2500 <= i < 2600:
            continue
        true = i * interval
        times, missing = clock.place(1, host_time_ns=round(true + 5 * MS + rng.exponential(10 * MS)))
        lost += missing
        off.append((i, (int(times[0]) - true) / MS))
    late = np.array([o for i, o in off if 1500 < i < 2490 or i > 4000])
    assert late.mean() == pytest.approx(5.2, abs=0.3)
    assert late.std() < 0.3
    assert 95 <= lost <= 105


@pytest.mark.parametrize(("silence_s", "held"), [(1.7, False), (0.5, False), (1.7, True), (0.6, True)])
def test_a_silence_is_loss_within_a_moment_unless_what_was_held_up_comes(silence_s: float, held: bool) -> None:
    rng = np.random.default_rng(3)
    clock = CountClock(interval_ns=10 * MS)
    end_ns, lost, off = round((5 + silence_s) * NS_PER_S), 0, []
    for k in range(1500):
        true = k * 10 * MS
        silent = 5 * NS_PER_S <= true < end_ns
        if silent and not held:
            continue
        # what was held up comes four times as fast as it was made
        host = max(true, end_ns + (true - 5 * NS_PER_S) // 4) if true >= 5 * NS_PER_S and held else true
        times, missing = clock.place(1, host_time_ns=host + 5 * MS + int(rng.exponential(5 * MS)))
        lost += missing
        if true > 2 * NS_PER_S and not (5 * NS_PER_S <= true < end_ns + 400 * MS):
            off.append(abs(int(times[0]) - true) / MS)
    assert max(off) < 40
    assert lost == pytest.approx(0 if held else silence_s * 100, abs=3)


def test_without_host_times_samples_are_counted_at_the_nominal_rate() -> None:
    clock = CountClock(interval_ns=20 * MS)
    assert clock.place(3, host_time_ns=None)[0].tolist() == [0, 20 * MS, 40 * MS]
    times, lost = clock.place(2, host_time_ns=None, missing=2)
    assert (times.tolist(), lost) == ([100 * MS, 120 * MS], 2)


def samples(times_ms: list[int], values: list[float]) -> Samples:
    array = np.array(values, np.float32)[:, None]
    return Samples(np.array(times_ms, np.int64) * MS, array, np.ones(array.shape, bool), np.zeros(array.shape, bool))


def test_merged_rows_hold_the_second_stream_interpolated_and_masked_over_gaps() -> None:
    merger = StreamMerger([1, 1], interval_ns=[10 * MS, 10 * MS])
    merger.push(0, samples([0, 10, 20, 30, 40, 50], [0, 1, 2, 3, 4, 5]))
    merger.push(1, samples([5, 15, 45], [50, 150, 450]))
    rows = merger.pull()
    assert rows.device_time_ns.tolist() == [0, 10 * MS, 20 * MS, 30 * MS, 40 * MS]
    assert rows.valid[:, 1].tolist() == [False, True, False, False, False]
    assert rows.values[1].tolist() == [1, 100]
    merger.push(1, samples([55], [550]))
    assert merger.pull().values.tolist() == [[5, 500]]


def test_a_silent_second_stream_holds_the_first_no_longer_than_told() -> None:
    merger = StreamMerger([1, 1], interval_ns=[10 * MS, 10 * MS], max_wait_ns=100 * MS)
    n = 0
    for k in range(50):
        merger.push(0, samples([10 * k], [k]))
        rows = merger.pull()
        n += len(rows)
        assert not rows.valid[:, 1].any()
    assert n == 40
    assert len(merger.pull(flush=True)) == 10


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12))
def test_merging_does_not_depend_on_the_packets(sizes: list[int]) -> None:
    n = 60
    a, b = samples([10 * i for i in range(n)], list(range(n))), samples([9 * i + 3 for i in range(n)], list(range(n)))
    whole = StreamMerger([1, 1], interval_ns=[10 * MS, 9 * MS])
    whole.push(0, a)
    whole.push(1, b)
    expected = whole.pull(flush=True)
    merger, parts, at = StreamMerger([1, 1], interval_ns=[10 * MS, 9 * MS]), [], 0
    while at < n:
        size = sizes[at % len(sizes)]
        merger.push(0, a[at : at + size])
        merger.push(1, b[at : at + size])
        parts.append(merger.pull())
        at += size
    parts.append(merger.pull(flush=True))
    together = parts[0]
    for part in parts[1:]:
        together = together + part
    np.testing.assert_array_equal(together.device_time_ns, expected.device_time_ns)
    np.testing.assert_array_equal(together.values, expected.values)
    np.testing.assert_array_equal(together.valid, expected.valid)


def test_gravity_is_doubted_at_rest_alone() -> None:
    times = np.arange(0, 20 * NS_PER_S, 20 * MS)
    still = np.tile(np.array([0, 0, 9.7], np.float32), (len(times), 1))
    half = still / 2
    moving = half + np.random.default_rng(0).normal(0, 2, half.shape).astype(np.float32)

    def said(acc: np.ndarray) -> list[float]:
        check = GravityCheck()
        found = [check.feed(times[i : i + 10], acc[i : i + 10]) for i in range(0, len(times), 10)]
        return [f for f in found if f is not None]

    assert said(still) == []
    assert said(moving) == []
    assert said(half) == [pytest.approx(4.85)]


def test_gravity_is_asked_of_the_channels_that_run_now() -> None:
    """A family whose streams come and go tells other channels later; turning is no acceleration."""
    for channels, doubts in ((IMU6, 1), (IMU6[3:], 0)):
        session = QueueSession(SessionConfig("wrist_left"), rate_hz=50)
        session.spec = SensorSpec("wrist_left", channels)
        values = np.full((100, len(channels)), 0.5, np.float32)
        for k in range(20):
            times = (np.arange(100) + 100 * k) * 20 * MS
            session.deliver(Samples(times, values, values > 0, values < 0))
        found = []
        while (event := session.next_event()) is not None:
            found.append(event)
        assert sum(isinstance(e, Doubt) for e in found) == doubts


def test_values_get_validity_and_saturation() -> None:
    ends = full_scale(IMU6, acc_g=2, gyr_deg_s=250)
    values = np.array([[2 * 9.80665, 50, 1, np.nan, -4.3633, 0]])
    found = samples_in_range(np.array([5]), values, IMU6, full_scale=ends)
    assert found.valid.tolist() == [[True, False, True, False, True, True]]
    assert found.saturated.tolist() == [[True, False, False, False, True, False]]
    assert found.values[0, [1, 3]].tolist() == [0, 0]


def test_a_session_nobody_reads_keeps_a_bounded_queue_and_an_exact_account() -> None:
    session = QueueSession(SessionConfig("wrist_left"), rate_hz=50)
    row = np.zeros((1, 6), np.float32)
    for k in range(6000):
        session.deliver(Samples(np.array([k * 20 * MS]), row, row == 0, row != 0), lost=1 if k == 10 else 0)
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    delivered = [e for e in found if isinstance(e, ImuChunk)]
    assert len(found) <= 4096
    assert session.counters["samples"] == sum(len(c) for c in delivered)
    session.deliver(Samples(np.array([6001 * 20 * MS]), row, row == 0, row != 0))
    last = session.next_event()
    assert isinstance(last, ImuChunk)
    assert len(delivered) + sum(c.lost for c in delivered) + last.lost == 6001


def test_nearest_and_options() -> None:
    assert nearest((25, 50, 100), 60) == 50
    assert nearest((1, 3), 2) == 3
    with pytest.raises(ConfigError, match="one of a, b"):
        check_options("x", {"k": "c"}, {"k": ("a", "b")})
