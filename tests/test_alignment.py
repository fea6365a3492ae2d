"""What is said of two sensors' alignment holds on simulated delays, and clocks that were set alike share a map."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.benchmarks.delays import Delays, SimulatedDevice, simulate_delays
from kinedge.errors import SignalError
from kinedge.firmware_bridge.alignment import ClockGroup, alignment_of, pair_uncertainty_ns
from kinedge.firmware_bridge.clock import Clock, ClockMap, FixedClock
from kinedge.firmware_bridge.clock_lines import lines_between

MS = 1_000_000
S = 1_000_000_000
IN_STEP = Delays("in step", connection_interval_s=0.05, skew_ppm=80.0, loss=0.02, pace="clock")
NOT_IN_STEP = Delays("not in step", connection_interval_s=0.03, loss=0.02)


def play(clock: Clock, device: SimulatedDevice, *, two_way: bool, every: int = 40) -> tuple[np.ndarray, ...]:
    """Follow a device; return when (true time), error and bounds of every so many packets."""
    exchanges = iter(device.exchanges if two_way else [])
    waiting = next(exchanges, None)
    at, errors, bounds = [], [], []
    for i, (stamp, arrival) in enumerate(zip(device.device_ns.tolist(), device.arrival_ns.tolist(), strict=True)):
        while waiting is not None and waiting[0] <= i:
            clock.update_two_way(*waiting[1])
            waiting = next(exchanges, None)
        clock.update(stamp, arrival)
        if i % every == 0:
            at.append(device.true_ns[i])
            errors.append(int(clock.to_host_ns(device.device_ns[i : i + 1])[0]) - int(device.true_ns[i]))
            bounds.append(clock.error_bounds_ns)
    return np.array(at), np.array(errors), np.array(bounds)


@pytest.mark.parametrize("situation", [IN_STEP, NOT_IN_STEP], ids=lambda s: s.name)
def test_true_misalignment_is_within_the_figure_of_each_pair(situation: Delays) -> None:
    rng = np.random.default_rng(11)
    played = []
    for k in range(4):
        device = simulate_delays(situation, duration_s=150.0, rng=rng)
        clock = ClockMap(delay_floor_ns=device.delay_floor_ns)
        played.append((clock, *play(clock, device, two_way=k % 2 == 0)))
    for (clock_a, _, error_a, bounds_a), (clock_b, _, error_b, bounds_b) in combinations(played, 2):
        n = min(len(error_a), len(error_b))  # after so many packets each, at about the same time
        apart = np.abs(error_a[:n] - error_b[:n])
        said = np.maximum(bounds_a[:n, 1] + bounds_b[:n, 0], bounds_b[:n, 1] + bounds_a[:n, 0])
        assert (apart <= said).mean() >= 0.98
        assert pair_uncertainty_ns(clock_a, clock_b) == pair_uncertainty_ns(clock_b, clock_a)
    one_way = pair_uncertainty_ns(played[1][0], played[3][0])
    two_way = pair_uncertainty_ns(played[0][0], played[2][0])
    assert two_way < one_way < 1.5 * situation.delay_floor_ns  # not the sum of both


@pytest.mark.parametrize("seed", range(3))
def test_two_way_bounds_hold_where_all_packets_creep_against_the_radio(seed: int) -> None:
    device = simulate_delays(IN_STEP, duration_s=200.0, rng=np.random.default_rng(seed))
    _, errors, bounds = play(ClockMap(delay_floor_ns=device.delay_floor_ns), device, two_way=True)
    held = (-bounds[:, 0] <= errors) & (errors <= bounds[:, 1])
    assert held[1:].all()  # the very first packet may be no fast one
    assert np.median(bounds) < 0.6 * device.delay_floor_ns


def test_figure_of_a_one_way_pair_is_the_longer_delay_and_what_each_is_not_sure_of() -> None:
    slow, fast = ClockMap(delay_floor_ns=50 * MS), ClockMap(delay_floor_ns=5 * MS)
    for clock in (slow, fast):
        clock.update(0, 3 * S)
    assert pair_uncertainty_ns(slow, fast) == 50 * MS
    assert pair_uncertainty_ns(fast, FixedClock()) == 5 * MS
    assert pair_uncertainty_ns(FixedClock(), FixedClock(7)) == 0
    shifted = ClockMap(delay_floor_ns=5 * MS, shift_ns=20 * MS, shift_uncertainty_ns=2 * MS)
    shifted.update(0, 3 * S)
    assert shifted.to_host_ns(np.array([0])).tolist() == [3 * S + 20 * MS]
    assert shifted.error_bounds_ns == (2 * MS, 7 * MS)
    with pytest.raises(SignalError, match="must not be negative"):
        ClockMap(shift_uncertainty_ns=-1)


def test_every_pair_has_a_figure_and_the_worst_comes_first() -> None:
    clocks = {name: ClockMap(delay_floor_ns=floor * MS) for name, floor in (("a", 10), ("b", 40), ("c", 20))}
    assert alignment_of(clocks) == ()
    for clock in clocks.values():
        clock.update(5, 5)
    clocks["never heard"] = ClockMap()
    pairs = alignment_of(clocks)
    assert [(p.first, p.second, p.ms) for p in pairs] == [("a", "b", 40.0), ("b", "c", 40.0), ("a", "c", 20.0)]


def test_exchanges_that_ended_are_forgotten_with_the_window() -> None:
    clock = ClockMap(delay_floor_ns=30 * MS)
    clock.update(0, 10 * MS)
    clock.update_two_way(1 * MS, 3 * MS, 3 * MS, 14 * MS)
    assert clock.bounded
    assert clock.uncertainty_ns < 30 * MS
    for k in range(1, 200):
        clock.update(k * S, k * S + 10 * MS)
    assert not clock.bounded
    assert clock.error_bounds_ns[1] >= 30 * MS


@settings(deadline=None, max_examples=80)
@given(
    below=st.lists(st.tuples(st.integers(-100, 0), st.integers(-50, 20)), min_size=1, max_size=12),
    above=st.lists(st.tuples(st.integers(-100, 0), st.integers(-20, 60)), min_size=1, max_size=12),
)
def test_lines_between_two_sets_reach_as_far_as_the_best_of_many(
    below: list[tuple[int, int]], above: list[tuple[int, int]]
) -> None:
    below, above = (sorted(dict(points).items()) for points in (below, above))
    found = lines_between([(x, -y) for x, y in below], [(x, float(y)) for x, y in above], max_slope=1.0)
    slopes = np.linspace(-1, 1, 4001)
    low = np.max([y - slopes * x for x, y in below], axis=0)
    high = np.min([y - slopes * x for x, y in above], axis=0)
    room = high - low
    assert room.max() <= (found.high - found.low) + 1e-9 or room.max() <= 0
    if room.max() > 0.2:  # a grid of slopes finds the best to within its steps
        possible = room >= 0
        assert found.low <= low[possible].min() + 1e-9
        assert found.high >= high[possible].max() - 1e-9
        assert found.low == pytest.approx(low[possible].min(), abs=0.2)
        assert found.high == pytest.approx(high[possible].max(), abs=0.2)
        at = np.max([y - found.slope * x for x, y in below]), np.min([y - found.slope * x for x, y in above])
        assert at[1] - at[0] == pytest.approx(room.max(), abs=0.2)
    elif room.max() < 0:
        assert found.low <= found.high
        assert found.high - found.low == pytest.approx(-room.max(), abs=0.2)


def together(group: ClockGroup, delays_ms: tuple[float, float]) -> tuple[Clock, Clock]:
    a, b = group.member(), group.member()
    for k in range(40):
        for clock, delay_ms in ((a, delays_ms[0]), (b, delays_ms[1])):
            clock.update(k * S, k * S + round(delay_ms * MS) + 77 * S)
    return a, b


def test_clocks_that_were_set_alike_differ_by_their_setting_and_not_by_the_radio() -> None:
    group = ClockGroup(agreement_ns=2 * MS, make_clock=lambda: ClockMap(delay_floor_ns=55 * MS))
    a, b = together(group, (3.0, 41.0))
    at = np.array([39 * S])
    assert a.to_host_ns(at).tolist() == b.to_host_ns(at).tolist() == [39 * S + 3 * MS + 77 * S]
    assert pair_uncertainty_ns(a, b) == 2 * MS
    own = ClockMap(delay_floor_ns=55 * MS)
    own.update(39 * S, 39 * S + 77 * S)
    assert pair_uncertainty_ns(a, own) >= 55 * MS


def test_member_that_was_not_set_or_started_anew_goes_by_its_own_clock() -> None:
    group = ClockGroup(make_clock=lambda: ClockMap(delay_floor_ns=55 * MS))
    a, b = together(group, (3.0, 4.0))
    stranger = group.member()
    stranger.update(900 * S, 200 * S)
    assert stranger.to_host_ns(np.array([900 * S])).tolist() == [200 * S]
    assert not stranger.belongs
    assert pair_uncertainty_ns(a, stranger) >= 55 * MS
    before = a.to_host_ns(np.array([39 * S]))
    b.reset()
    assert not b.belongs
    b.update(5, 140 * S)
    assert b.to_host_ns(np.array([5])).tolist() == [140 * S]
    assert a.to_host_ns(np.array([39 * S])).tolist() == before.tolist()
    with pytest.raises(SignalError, match="must not be negative"):
        ClockGroup(agreement_ns=-1)


def test_setting_that_has_grown_old_is_left_without_a_step() -> None:
    group = ClockGroup(lifetime_ns=60 * S, make_clock=lambda: ClockMap(delay_floor_ns=55 * MS))
    a, b = group.member(), group.member()
    mapped = []
    for k in range(220):
        a.update(k * S, k * S + 3 * MS)
        b.update(k * S, k * S + 41 * MS)
        mapped.append(int(b.to_host_ns(np.array([k * S]))[0]))
    steps = np.diff(mapped)
    assert abs(steps - S).max() <= 501_000
    assert mapped[55] == 55 * S + 3 * MS  # with the others
    assert mapped[-1] == 219 * S + 41 * MS  # by itself
    assert pair_uncertainty_ns(a, b) >= 55 * MS
    assert ClockGroup(lifetime_ns=0).member().belongs is False
