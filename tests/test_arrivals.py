"""Chunks on their way to the grid: taken in together, they do what each would have done when it came."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge import arrivals as module
from kinedge.edge.arrivals import Arrivals
from kinedge.edge.grid import Grid
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock, ClockMap, FixedClock
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import NS_PER_S

CHANNELS = ("acc_x", "gyr_z")
SPECS = [SensorSpec("wrist_left", CHANNELS), SensorSpec("wrist_right", CHANNELS)]
INTERVAL = 20_000_000


def seen(clock: Clock | None) -> object:
    """What somebody who asks a clock is told."""
    return (clock.n_updates, clock.mapping) if isinstance(clock, ClockMap) and clock.n_updates else None


@dataclass
class Edge:
    """Arrivals and their grid, as a pipeline has them; ``eager`` takes every chunk in at once, by itself."""

    subjects: list[str]
    eager: bool
    grid: Grid = field(init=False)
    arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        self.grid = Grid(SPECS, self.phases, rate_hz=50, hop=50)
        self.arrivals = Arrivals(self.grid, self.subjects, ClockMap)

    @property
    def phases(self) -> np.ndarray:
        return np.array([int(s[1:]) * 7 for s in self.subjects])

    def push(self, subject: str, chunk: ImuChunk, channels: tuple[str, ...]) -> None:
        with contextlib.suppress(SignalError):  # no arrival of this boot has been seen yet
            self.arrivals.push(subject, chunk, channels)
        if self.eager:
            self.arrivals.settle()

    def hops(self, *, flush: bool = False) -> list[object]:
        self.arrivals.settle()
        found: list[object] = [tuple(sorted(self.grid.due))]
        while len(due := np.flatnonzero(self.grid.n_final(flush=flush) >= 50)):
            first = self.grid.next_tick[due].tolist()
            found += [(*first, *due.tolist()), *(a.tobytes() for a in self.grid.take(due, 50))]
        return found

    def state(self) -> list[object]:
        clocks = {s: {n: seen(c) for n, c in of.items()} for s, of in self.arrivals.clocks.items()}
        late = [self.grid.n_late(i) for i in range(len(self.subjects))]
        return [clocks, late, self.grid.next_tick.tolist(), self.arrivals.n_ignored]

    def hand_over(self, sensor: str, giver: str, taker: str) -> None:
        if self.arrivals.clocks[giver].get(sensor) is None:
            return
        self.arrivals.hand_over(sensor, giver=giver, taker=taker)
        for subject in (giver, taker):
            self.grid.reset_sensor(self.subjects.index(subject), sensor)

    def use(self, subjects: list[str]) -> None:
        self.arrivals.settle()
        before = [self.subjects.index(s) if s in self.subjects else -1 for s in subjects]
        self.subjects = subjects
        self.grid.rearrange(before, self.phases)
        self.arrivals.use_subjects(subjects)


class Sensor:
    """A device that sends chunks of random lengths, and sometimes does what devices do."""

    def __init__(self, name: str, rng: np.random.Generator, *, odd: float) -> None:
        self.name, self.rng, self.odd = name, rng, odd
        self.offset_ns, self.n, self.boot_id = int(rng.integers(10**12, 10**14)), 0, 1
        self.typical = int(rng.choice([3, 10, 50]))
        self.width = 2 if odd and rng.random() < 0.1 else 1

    def chunk(self, now_ns: int) -> tuple[ImuChunk, tuple[str, ...]]:
        rng, interval_ns = self.rng, INTERVAL // self.width
        if rng.random() < self.odd:
            what = rng.choice(["restart", "repeat", "gap", "silence"])
            if what == "restart":
                self.boot_id, self.offset_ns = self.boot_id + 1, int(rng.integers(10**12, 10**14))
            self.n += {"restart": 0, "repeat": -10, "gap": 25, "silence": 5000}[str(what)]
        n = int(rng.integers(1, 2 * self.typical))
        if rng.random() < self.odd:
            n = int(rng.choice([0, 400]))
        time = self.offset_ns + (self.n + np.arange(n)) * interval_ns
        self.n += n
        values = rng.normal(size=(n, 2)).astype(np.float32)
        values[rng.random(values.shape) < self.odd / 4] = np.nan
        valid, saturated = rng.random(values.shape) >= self.odd / 4, rng.random(values.shape) < self.odd / 4
        channels: tuple[str, ...] = CHANNELS
        if rng.random() < self.odd:
            channels = ("gyr_x", "gyr_z", "acc_x")
            twice = [0, 1, 0]
            values, valid, saturated = values[:, twice], valid[:, twice], saturated[:, twice]
        end_ns = now_ns + int(rng.integers(0, 15_000_000))
        host_ns = None if self.n > n and n and rng.random() < self.odd / 4 else end_ns
        return ImuChunk(self.name, time, values, valid, saturated, interval_ns, 0, self.boot_id, host_ns), channels


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    n_people=st.sampled_from([1, 3, 12]),
    odd=st.sampled_from([0.0, 0.01, 0.1]),
    few=st.sampled_from([1, 24]),
    many=st.sampled_from([5, 1024]),
    asks=st.sampled_from([0.02, 0.3]),
)
def test_chunks_taken_in_together_do_what_each_would_have_done_when_it_came(
    seed: int, n_people: int, odd: float, few: int, many: int, asks: float
) -> None:
    rng = np.random.default_rng(seed)
    subjects = [f"p{i}" for i in range(n_people)]
    eager, lazy = Edge(subjects, eager=True), Edge(subjects, eager=False)
    sensors = {(s, spec.name): Sensor(spec.name, rng, odd=odd) for s in subjects for spec in SPECS}
    n_hops = 0
    with pytest.MonkeyPatch.context() as patch:
        for step in range(800 // (n_people + 4)):
            for key in sorted(sensors):
                if key[0] not in eager.subjects or rng.random() < 0.2:
                    continue
                chunk, channels = sensors[key].chunk(10**15 + step * NS_PER_S // 5)
                for edge in (eager, lazy):
                    patch.setattr(module, "_FEW", 10**9 if edge.eager else few)
                    patch.setattr(module, "_MANY", many)
                    edge.push(key[0], chunk, channels)
                if rng.random() < odd / 10:  # whoever looks at a clock sees the latest
                    clocks = [e.arrivals.clocks[key[0]].get(key[1]) for e in (eager, lazy)]
                    patch.setattr(module, "_FEW", few)
                    assert seen(clocks[0]) == seen(clocks[1])
            patch.setattr(module, "_FEW", few)
            if rng.random() < asks:
                hops = eager.hops()
                assert hops == lazy.hops()
                n_hops += len(hops) - 1
            if rng.random() < odd / 4:
                giver, taker = rng.choice(eager.subjects, 2)
                for edge in (eager, lazy):
                    edge.hand_over("wrist_left", str(giver), str(taker))
            if rng.random() < odd / 4:
                now = [f"p{i}" for i in rng.permutation(n_people + 2)[: max(n_people - 1, 1)].tolist()]
                sensors |= {(s, p.name): Sensor(p.name, rng, odd=odd) for s in now for p in SPECS if s not in subjects}
                for edge in (eager, lazy):
                    edge.use(now)
        assert eager.state() == lazy.state()
        assert eager.hops(flush=True) == lazy.hops(flush=True)
    assert n_hops or asks < 0.1 or odd


def test_a_clock_of_another_kind_and_one_of_two_sensors_are_asked_at_once() -> None:
    edges = [Edge(["p0"], eager=True), Edge(["p0"], eager=False)]
    for edge in edges:
        shared = ClockMap()
        edge.arrivals.use_clock("p0", "wrist_left", shared)
        edge.arrivals.use_clock("p0", "wrist_right", shared)
        for k in range(40):
            for name in ("wrist_left", "wrist_right"):
                time = NS_PER_S + (k * 10 + np.arange(10)) * INTERVAL
                values = np.full((10, 2), k, np.float32)
                ok = np.ones(values.shape, bool)
                chunk = ImuChunk(name, time, values, ok, ~ok, INTERVAL, host_time_ns=int(time[-1]) + k % 7 * 10**6)
                edge.push("p0", chunk, CHANNELS)
            if k == 20:
                edge.arrivals.use_clock("p0", "wrist_right", FixedClock())
        assert shared.n_updates == 61
    assert edges[0].hops() == edges[1].hops()


def test_a_chunk_that_cannot_be_taken_is_refused_when_it_comes_and_an_impossible_time_harms_nobody_else() -> None:
    edge = Edge(["p0"], eager=False)
    ok = np.ones((10, 2), bool)

    def chunk(k: int, *, name: str = "wrist_left", width: int = 2, host_ns: int | None = None) -> ImuChunk:
        time = NS_PER_S + (k * 10 + np.arange(10)) * INTERVAL
        mask = ok[:, :width]
        host_ns = int(time[-1]) if host_ns is None else host_ns
        return ImuChunk(name, time, np.zeros(mask.shape, np.float32), mask, ~mask, INTERVAL, host_time_ns=host_ns)

    edge.push("p0", chunk(0), CHANNELS)
    with pytest.raises(SignalError, match="2 channels expected"):
        edge.arrivals.push("p0", chunk(1, width=1), CHANNELS)
    with pytest.raises(SignalError, match="the model needs gyr_z"):
        edge.arrivals.push("p0", chunk(1), ("acc_x", "acc_y"))
    with pytest.raises(SignalError, match="no subject 'q'"):
        edge.arrivals.push("q", chunk(1), CHANNELS)
    for k in range(1, 40):
        edge.push("p0", chunk(k), CHANNELS)
        edge.push("p0", chunk(k, name="wrist_right", host_ns=2**70 if k == 1 else None), CHANNELS)
    assert len(edge.hops()) > 1
    assert edge.arrivals.n_ignored == 1
    assert edge.arrivals.clocks["p0"]["wrist_left"].n_updates == 41  # one of them was of a chunk that was refused
