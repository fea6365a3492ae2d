"""Clock maps in a table: many updated in one step are what each would be by itself, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.firmware_bridge import clock_table
from kinedge.firmware_bridge.clock import ClockMap
from kinedge.firmware_bridge.clock_lines import edge_below, edges_below
from kinedge.firmware_bridge.clock_table import N_BINS, ClockTable

S = 1_000_000_000
Arrival = tuple[int, int, int]


def everything(clock: ClockMap) -> list[object]:
    """All that a map remembers."""
    start, end = clock._ints[clock_table.START], clock._ints[clock_table.END]
    kept = [v for i, v in enumerate(clock._ints.tolist()) if i not in (clock_table.START, clock_table.END)]
    edge = slice(clock_table.EDGE_LEFT - 2, clock_table.EDGE_RIGHT - 1)
    if not clock._ints[clock_table.HAS_EDGE]:
        kept[edge] = [0, 0]
    bins = clock._latest
    assert end - start == len(bins) <= 122
    floats = np.array(clock._floats).view(np.int64).tolist()  # bits
    return [kept, floats, bins.at.tolist(), bins.residual.tolist(), clock.mapping, clock.error_bounds_ns]


def arrivals_of(rng: np.random.Generator, n_clocks: int, n: int, *, odd: float) -> list[Arrival]:
    """Arrivals of some clocks that drift, are silent, restart, repeat themselves and go astray."""
    device = rng.integers(0, 10**15, n_clocks)
    offset, skew = rng.integers(-(10**15), 10**15, n_clocks), rng.uniform(-300e-6, 300e-6, n_clocks)
    step = rng.choice([2 * 10**8, 5 * 10**8, 10**9], n_clocks)
    found = []
    for _ in range(n):
        for row in rng.permutation(n_clocks)[: int(rng.integers(1, n_clocks + 1))].tolist():
            for _ in range(int(rng.choice([1, 1, 1, 1, 3]))):
                by = int(step[row])
                if rng.random() < odd:
                    by = int(rng.choice([-200 * S, -3 * S, 0, 20 * S, 130 * S, 2**61]))
                device[row] = (int(device[row]) + by) % 2**61
                late = int(rng.exponential(8e6)) if rng.random() > odd else int(rng.choice([-(10**9), 10**16]))
                at = int(device[row])
                found.append((row, at, at + int(offset[row]) + round((at % 10**14) * float(skew[row])) + late))
    return found


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n_clocks=st.sampled_from([1, 3, 40]),
    odd=st.sampled_from([0.0, 0.002, 0.1]),
    few=st.sampled_from([1, 16]),
    most=st.sampled_from([3, 60, 400]),
)
def test_many_clocks_updated_in_one_step_are_what_each_would_be_by_itself(
    seed: int, n_clocks: int, odd: float, few: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    arrivals = arrivals_of(rng, n_clocks, 6000 // (n_clocks + 10), odd=odd)
    table = ClockTable(n_clocks)
    clocks, alone = [ClockMap() for _ in range(n_clocks)], [ClockMap() for _ in range(n_clocks)]
    for row, clock in enumerate(clocks):
        clock.move_to(table, row)
    at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock_table, "_FEW", few)
        while at < len(arrivals):
            part = arrivals[at : at + int(rng.integers(1, most + 1))]
            at += len(part)
            rows, device, host = (np.array(numbers, np.int64) for numbers in zip(*part, strict=True))
            mapped = table.update(rows, device, host, lambda row, d, h: clocks[row].update(d, h))
            for k, (row, d, h) in enumerate(part):
                alone[row].update(d, h)
                assert tuple(a[k] for a in mapped) == alone[row].mapping[:4]
            if rng.random() < 0.05:  # an exchange now and then: such a clock is left to itself until it is forgotten
                row, d, h = part[-1]
                for one in (clocks[row], alone[row]):
                    one.update_two_way(h - 9_000_000, d, d + 1, h + 1_000_000)
    for row in {a[0] for a in arrivals}:
        assert everything(clocks[row]) == everything(alone[row])


def test_for_hours_the_bins_of_many_clocks_stay_within_their_room() -> None:
    table, clocks, alone = ClockTable(20), [ClockMap() for _ in range(20)], ClockMap()
    for row, clock in enumerate(clocks):
        clock.move_to(table, row)
    rows, rng = np.arange(20), np.random.default_rng(1)
    for second in range(4 * N_BINS):
        late = int(rng.exponential(8e6))
        device = np.full(20, second * S)
        table.update(rows, device, device + late, lambda row, d, h: clocks[row].update(d, h))
        alone.update(second * S, second * S + late)
    assert {len(c._latest) for c in clocks} == {121}
    assert all(everything(c) == everything(alone) for c in clocks)


def test_a_clock_that_moves_takes_everything_along_and_leaves_nothing_behind() -> None:
    clock, stays = ClockMap(shift_ns=5), ClockMap(shift_ns=5)
    for k in range(300):
        for one in (clock, stays):
            one.update(k * S, k * S + 7_000_000 + k * 991 % 5_000_000)
    first, second = ClockTable(3), ClockTable(2)
    clock.move_to(first, 2)
    clock.move_to(second, 0)
    first.ints[:], first.at[:] = 0, 0
    for one in (clock, stays):
        one.update(300 * S, 300 * S + 6_000_000)
    assert everything(clock) == everything(stays)


def test_whoever_asks_a_clock_sees_what_waited_to_be_taken_in() -> None:
    clock, waiting = ClockMap(), [(S, 2 * S), (2 * S, 3 * S)]

    def settle() -> None:
        while waiting:
            clock.update(*waiting.pop(0))

    clock.move_to(ClockTable(1), 0, settle=settle)
    assert clock.n_updates == 2
    assert clock.mapping[0] == 2 * S
    waiting.append((3 * S, 4 * S))
    clock.update(4 * S, 5 * S)
    assert clock.n_updates == 4


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.0, 1e3, 1e7]))
def test_edges_of_many_hulls_are_those_of_each(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 60, 12)
    x, y = np.zeros((12, 60), np.int64), np.zeros((12, 60), np.int64)
    at: NDArray[np.int64] = np.zeros(12, np.int64)
    for k, m in enumerate(n.tolist()):
        x[k, :m] = np.cumsum(rng.integers(1, 2 * S, m))
        y[k, :m] = rng.normal(0, spread, m)
        at[k] = rng.integers(x[k, 0] + 1, x[k, m - 1] + 1)
    left, right, known = edges_below(x, y, at, np.arange(60) < n[:, None])
    assert known.any()
    for k in np.flatnonzero(known).tolist():
        assert (left[k], right[k]) == edge_below(x[k, : n[k]], y[k, : n[k]], int(at[k]))
