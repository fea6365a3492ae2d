"""Device time to host time, on simulated Bluetooth delays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.edge.grid_buffers import host_time
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock, ClockMap, FixedClock
from kinedge.firmware_bridge.clock_lines import edge_below, lower_hull

I64 = NDArray[np.int64]
S = 1_000_000_000


@dataclass(frozen=True)
class Arrivals:
    """Packets in order: when the last sample was taken (host clock), what the device clock said, when it arrived."""

    true_ns: I64
    device_ns: I64
    host_ns: I64


def bluetooth(
    *,
    seed: int,
    duration_s: float = 400.0,
    period_s: float = 0.05,
    connection_interval_s: float = 0.030,
    skew_ppm: float = 35.0,
    loss: float = 0.02,
    retry: float = 0.12,
) -> Arrivals:
    """Packets wait for a connection event, sometimes for several, then for the operating system; with stalls."""
    rng = np.random.default_rng(seed)
    true = 100 + period_s * np.arange(1, int(duration_s / period_s))
    skew = (skew_ppm + 3 * np.sin(2 * np.pi * true / 400)) * 1e-6
    device = 5000 + np.cumsum(np.diff(true, prepend=true[0]) * (1 + skew))
    phase = rng.uniform(0, connection_interval_s)
    event = np.ceil((true + 0.002 - phase) / connection_interval_s) * connection_interval_s + phase
    event += (rng.geometric(1 - retry, len(true)) - 1) * connection_interval_s
    host = event + rng.gamma(1.2, 0.0015, len(true)) + 0.0008
    for stall in np.arange(170, 100 + duration_s, 90):
        blocked = (true > stall) & (true < stall + 0.8)
        host[blocked] = np.maximum(host[blocked], stall + 0.8)
    host = np.maximum.accumulate(host)
    kept = rng.random(len(true)) >= loss
    return Arrivals(*((a[kept] * 1e9).astype(np.int64) for a in (true, device, host)))


def follow(clock: ClockMap, arrivals: Arrivals, *, every: int = 1) -> tuple[I64, I64]:
    """Map every packet as it comes; also return the uncertainty at each."""
    mapped, uncertainty = [], []
    for i, (device, host) in enumerate(zip(arrivals.device_ns.tolist(), arrivals.host_ns.tolist(), strict=True)):
        clock.update(device, host)
        mapped.append(clock.to_host_ns(np.array([device]))[0])
        uncertainty.append(clock.uncertainty_ns if i % every == 0 else uncertainty[-1])
    return np.array(mapped), np.array(uncertainty)


@pytest.mark.parametrize("seed", [1, 2])
def test_mapped_time_scatters_by_less_than_150_us_while_arrivals_scatter_by_ms(seed: int) -> None:
    arrivals = bluetooth(seed=seed)
    clock = ClockMap(delay_floor_ns=35_000_000)
    mapped, uncertainty = follow(clock, arrivals, every=5)
    settled = arrivals.true_ns > 220e9
    error = mapped - arrivals.true_ns
    assert error[settled].std() < 0.15e6
    assert (arrivals.host_ns - arrivals.true_ns)[settled].std() > 5e6
    assert np.abs(error[arrivals.true_ns > 120e9] - np.median(error[settled])).max() < 0.5e6
    assert clock.skew_ppm == pytest.approx(35, abs=4)
    # the uncertainty holds from the first packet on, and is not much wider than the floor that nobody can see
    assert (np.abs(error) <= uncertainty).mean() > 0.99
    assert np.median(uncertainty[settled]) < 36e6
    assert (np.diff(mapped) > 0).all()


def test_two_way_exchanges_take_the_unseen_delay_off() -> None:
    arrivals = bluetooth(seed=3, duration_s=200)
    one_way, two_way = ClockMap(), ClockMap()
    rng = np.random.default_rng(0)
    follow(one_way, arrivals)
    for i, (true, device, host) in enumerate(
        zip(arrivals.true_ns.tolist(), arrivals.device_ns.tolist(), arrivals.host_ns.tolist(), strict=True)
    ):
        two_way.update(device, host)
        if i % 40 == 0:  # the way there is as fast as the fastest way back: 3 ms
            two_way.update_two_way(true - 3_000_000 - int(rng.exponential(3e6)), device, device, host)
    at = arrivals.device_ns[-1:]
    biased = int((one_way.to_host_ns(at) - arrivals.true_ns[-1])[0])
    error = int((two_way.to_host_ns(at) - arrivals.true_ns[-1])[0])
    assert biased > 2_500_000
    assert abs(error) < biased / 2
    assert abs(error) <= two_way.uncertainty_ns < one_way.uncertainty_ns


@pytest.mark.parametrize(
    "exchange",
    [
        (100, 5 * S, 5 * S + 1, 99),  # answered before it was asked
        (100, 5 * S + 1, 5 * S, 200),
        (6 * S, 3600 * S, 3600 * S + 1, 6 * S + 1),  # of another device
        (6 * S, 2**64 * 1000 - 2, 2**64 * 1000 - 1, 6 * S + 1),
    ],
)
def test_exchange_that_cannot_be_of_this_device_is_ignored(exchange: tuple[int, int, int, int]) -> None:
    clock, untouched = ClockMap(), ClockMap()
    clock.update_two_way(*exchange)
    for c in (clock, untouched):
        c.update(5 * S, 6 * S)
    clock.update_two_way(*exchange)
    for c in (clock, untouched):
        c.update(6 * S, 7 * S + 1000)
    at = np.array([6 * S])
    assert clock.to_host_ns(at).tolist() == untouched.to_host_ns(at).tolist()
    assert clock.uncertainty_ns == untouched.uncertainty_ns


def test_reset_forgets_the_clock_of_before() -> None:
    arrivals = bluetooth(seed=4, duration_s=60)
    used, fresh = ClockMap(), ClockMap()
    follow(used, arrivals)
    used.reset()
    assert used.n_updates == 0
    for clock in (used, fresh):
        clock.update(17, 2_000_000_000_017)
    at = np.array([17, 1_000_017])
    assert used.to_host_ns(at).tolist() == fresh.to_host_ns(at).tolist() == [2_000_000_000_017, 2_000_001_000_017]


def test_clock_that_fell_back_without_a_word_starts_anew() -> None:
    clock = ClockMap()
    follow(clock, bluetooth(seed=5, duration_s=30))
    clock.update(1_000, 900_000_000_000)
    assert clock.n_updates == 1
    assert clock.to_host_ns(np.array([1_000])).tolist() == [900_000_000_000]


def test_before_ten_seconds_the_map_is_the_smallest_delay() -> None:
    clock = ClockMap()
    for k, delay_ms in enumerate([5, 9, 2, 30, 12, 8, 40]):
        clock.update(k * 1_000_000_000, k * 1_000_000_000 + 7_000_000_000 + delay_ms * 1_000_000)
    assert clock.skew_ppm == 0.0
    assert clock.to_host_ns(np.array([6_000_000_000])).tolist() == [13_002_000_000]


def test_skew_beyond_200_ppm_is_not_believed() -> None:
    clock = ClockMap()
    for k in range(60):
        clock.update(k * 1_000_000_000, int(k * 1_000_000_000 * 1.01))
    assert clock.skew_ppm == pytest.approx(-200)


def test_times_far_from_zero_lose_no_nanosecond() -> None:
    clock = ClockMap()
    device, host = 9_007_199_254_740_993_000, 4_000_000_000_000_000_001
    clock.update(device, host)
    assert clock.to_host_ns(np.array([device, device + 1])).tolist() == [host, host + 1]


def test_map_without_an_arrival_says_so() -> None:
    with pytest.raises(SignalError, match="no arrival yet"):
        ClockMap().to_host_ns(np.array([0]))
    with pytest.raises(SignalError, match="no arrival yet"):
        _ = ClockMap().uncertainty_ns


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3_000), st.integers(0, 2_000)), min_size=2, max_size=80))
def test_mapped_time_never_steps_back_whatever_arrives(steps: list[tuple[int, int]]) -> None:
    clock = ClockMap()
    device, last = 0, None
    for step_ms, delay_ms in steps:
        times = np.linspace(device + 1_000_000, device + step_ms * 1_000_000, min(step_ms, 50)).astype(np.int64)
        device += step_ms * 1_000_000
        clock.update(device, device + delay_ms * 1_000_000)
        mapped = clock.to_host_ns(times)
        assert (np.diff(mapped) > 0).all()
        assert last is None or mapped[0] > last
        last = mapped[-1]


def test_state_is_bounded() -> None:
    clock = ClockMap()
    for k in range(2_000):
        clock.update(k * 500_000_000, k * 500_000_000 + (k * 7919) % 1_000_000)
        clock.update_two_way(k * 500_000_000, k * 500_000_000 + 1, k * 500_000_000 + 2, k * 500_000_000 + 3_000_000)
    assert len(clock._latest) <= 122 and len(clock._earliest) <= 122


def test_fixed_clock_adds_its_offset() -> None:
    clock: Clock = FixedClock(-5)
    clock.update(1, 100)
    assert clock.to_host_ns(np.array([10, 2**60 + 1])).tolist() == [5, 2**60 - 4]
    assert (clock.n_updates, clock.uncertainty_ns, clock.skew_ppm) == (1, 0, 0.0)
    clock.reset()
    assert clock.n_updates == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_line_that_still_fits_is_the_one_that_a_new_fit_would_lay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy, eager = ClockMap(), ClockMap()
    monkeypatch.setattr(eager, "_still_fits", lambda: False)
    rng = np.random.default_rng(seed)
    device_ns, skew = 0, rng.uniform(-150e-6, 150e-6)
    for _ in range(3000):
        long_silence = rng.random() < 0.001
        device_ns += int(rng.integers(10**9, 3 * 10**10)) if long_silence else int(rng.choice([10**8, 2 * 10**8]))
        host_ns = 10**12 + round(device_ns * (1 + skew)) + int(rng.exponential(8e6)) + 5_000_000
        for clock in (lazy, eager):
            clock.update(device_ns, host_ns)
        times = device_ns - np.arange(9, -1, -1) * 10_000_000
        assert np.abs(lazy.to_host_ns(times) - eager.to_host_ns(times)).max() <= 1  # rounding
        assert np.abs(np.subtract(lazy.error_bounds_ns, eager.error_bounds_ns)).max() <= 1


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(2, 130),
    spread=st.sampled_from([0.0, 1e3, 1e7]),
)
def test_the_edge_below_a_point_is_that_of_the_hull(seed: int, n: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.integers(1, 2 * S, n))
    y = rng.normal(0, spread, n).astype(np.int64)
    at = int(rng.integers(x[0] + 1, x[-1] + 1))
    left, right = edge_below(x, y, at)
    assert x[left] < at <= x[right]
    line = y[left] + (y[right] - y[left]) * ((x - x[left]) / (x[right] - x[left]))
    assert (y - line).min() > -1e-3  # nothing lies below it
    hull = lower_hull(list(zip(x.tolist(), y.tolist(), strict=True)))
    (x0, y0), (x1, y1) = next((a, b) for a, b in pairwise(hull) if a[0] < at <= b[0])
    assert y0 + (y1 - y0) * ((at - x0) / (x1 - x0)) == pytest.approx(
        y[left] + (y[right] - y[left]) * ((at - x[left]) / (x[right] - x[left])), abs=1e-3
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_a_map_are_what_it_does(seed: int) -> None:
    clock, rng, device_ns = ClockMap(shift_ns=123), np.random.default_rng(seed), 2**52
    for _ in range(500):
        device_ns += int(rng.integers(10**7, 10**9))
        clock.update(device_ns, device_ns + 7 * 10**15 + int(rng.exponential(8e6)))
        times = device_ns - np.arange(30, -1, -1) * 20_000_000
        base, offset, published, before, _ = clock.mapping
        assert base == device_ns
        assert np.array_equal(host_time(times, base, offset, published, before), clock.to_host_ns(times))
        alone = int(times[3]) + offset + round((int(times[3]) - base) * before + published)
        assert alone == clock.to_host_ns(times)[3]
