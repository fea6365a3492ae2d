"""Random hops through the native library and through numpy: both must say the same, to the last bit.

Tests run this with the library that is installed, and, as a script, with one that is built with sanitizers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from native_sensors import hold, lay_down, lossy, sensors_of, worn
from random_calibrations import calibration_of, coordination_of

from kinedge.bundle import read_bundle
from kinedge.edge.arrivals import Arrivals
from kinedge.edge.calibration import UNSCORED, stack_calibrations
from kinedge.edge.caution import BeliefState, CautionConfig
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.engine import Engine, EngineState, Surprise
from kinedge.edge.grid import Grid
from kinedge.edge.hop_facts import look_at
from kinedge.edge.judgement import Judgement
from kinedge.edge.native import arrive, belief, blocks, clocks, health, hops, loader, surprise, take, timing
from kinedge.edge.reliability import ReliabilityMonitor
from kinedge.edge.scores import NO_STEP, BlockScorer, BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.edge.sensor_health import N_FOUND, SensorHealth
from kinedge.edge.state_rows import take_rows
from kinedge.edge.timing import UNTOLD, Timing
from kinedge.firmware_bridge.clock import ClockMap
from kinedge.signals import IMU6, ImuChunk, SensorSpec

PERIOD_NS = 20_000_000
# modules whose functions are all there, or none
WHOLE: tuple[Any, ...] = (arrive, belief, blocks, clocks, health, surprise, take, timing)


@contextmanager
def numpy_only() -> Iterator[None]:
    """Let numpy do the work for a while."""
    kept = {module: module._functions for module in (hops, *WHOLE)}
    hops._functions = lambda: (None,) * len(hops._SIGNATURES)  # type: ignore[assignment]
    for module in WHOLE:
        module._functions = lambda: None
    try:
        yield
    finally:
        for module, functions in kept.items():
            module._functions = functions  # type: ignore[attr-defined]


def same(a: Any, b: Any) -> None:
    """Compare arrays, tuples of them, or objects with them."""
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        for f in fields(a):
            same(getattr(a, f.name), getattr(b, f.name))


def facts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_channels = int(rng.integers(1, 20))
    shape = int(rng.integers(1, 70)), int(rng.integers(1, 70)), n_channels
    values = rng.normal(size=shape).astype(np.float32)
    if seed % 3 == 0:  # many at the extremes
        values = np.clip(values, -0.5, 0.7)
    if seed % 3 == 1:
        values = (values * np.float32(1e6)).astype(np.float32)
    valid = np.ones(shape, bool) if seed % 2 else lossy(rng, shape)
    saturated = None if seed % 5 == 0 else rng.random(shape) < 0.1
    half = n_channels // 2
    pairs = [(slice(0, half), slice(half, 2 * half)), (slice(0, 1), slice(n_channels - 1, n_channels))][: seed % 3]
    found = look_at(values, valid, saturated, pairs=pairs)
    with numpy_only():
        same(found, look_at(values, valid, saturated, pairs=pairs))


def sensor_health(seed: int) -> None:
    """Sensors that are fine or not, hop after hop, in changing company."""
    rng = np.random.default_rng(seed)
    m = sensors_of(rng, hop=int(rng.choice([5, 10, 50])))
    monitor, n = ReliabilityMonitor(m), int(rng.integers(1, 20))
    before = monitor.initial_state(n)
    for name in ("side", "side_weight", "belongs", "usual_gravity", "usual_weight", "unusual"):
        at = getattr(before, name)
        at[:] = rng.uniform(-1 if name in ("side", "belongs", "usual_gravity") else 0, 1, at.shape)
    before.coarse[:] = rng.choice([0.0, 0.09, 0.11, 1.0], before.coarse.shape)
    before.n_strange[..., 1] = rng.integers(0, 3, before.n_strange.shape[:2])  # times that it turned too little
    states = [before, take_rows(before, np.arange(n))]
    for turn in range(14):
        if turn % 5 == 0:
            values = worn(rng, n, m.sensor_specs, np.array(m.center), 5 * m.hop)
            lay_down(rng, values, m.sensor_specs)
            hold(rng, values)
        rows = np.arange(n) if turn % 3 == 0 else rng.permutation(n)[: int(rng.integers(1, n + 1))]
        now = np.ascontiguousarray(values[rows, turn % 5 * m.hop : (turn % 5 + 1) * m.hop])
        valid = lossy(rng, now.shape)
        u = rng.choice([UNSCORED, 0.1, 2.0], (len(rows), len(m.sensors)))
        seen = monitor.look_at(now, valid)
        raw = None if turn % 2 else np.round(now[..., ::-1] * 8) / 8  # as if turned sensors sat otherwise
        if raw is not None:
            raw[::2] = now[::2]  # of people who are not
        found = monitor.advance(now, valid, states[0], rows, facts=seen, raw=raw)
        assert monitor._native is not None and monitor._native.record.has_state(states[0])
        monitor.learn_from(u, states[0], rows)
        with numpy_only():
            same(found, monitor.advance(now, valid, states[1], rows, facts=seen, raw=raw))
            monitor.learn_from(u, states[1], rows)
        same(states[0], states[1])
        states.reverse()


def block_scores(seed: int) -> None:
    """Surprise of hop after hop, in changing company, with gaps, and with a precision for all or for each."""
    rng = np.random.default_rng(seed)
    m = sensors_of(rng, hop=int(rng.choice([5, 10])))
    m.sensors = [SimpleNamespace(channels=s.channels) for s in m.sensor_specs]
    n, n_channels = int(rng.choice([1, 5, 33, 70])), m.n_channels
    scorer = BlockScorer(m, rng.uniform(0.1, 2.0, (n_channels, n_channels)))
    states = [scorer.initial_state(n) for _ in range(2)]
    for turn in range(8):
        rows = np.arange(n) if turn % 3 == 0 else rng.permutation(n)[: int(rng.integers(1, n + 1))]
        shape = (len(rows), m.hop, len(m.horizons), n_channels)
        z = rng.normal(0, 3, shape).astype(np.float32)
        told = Surprise(z, rng.normal(0, 9, shape).astype(np.float32), rng.random(shape) < rng.choice([0.1, 0.3, 1.0]))
        values = worn(rng, len(rows), m.sensor_specs, np.array(m.center), m.hop)
        valid, saturated = lossy(rng, values.shape), rng.random(values.shape) < 0.1
        seen = look_at(values, valid, saturated)
        own = rng.uniform(0.1, 2.0, (len(rows), n_channels, n_channels)) if turn % 2 else None
        late = rng.normal(size=(len(rows), len(m.sensors)))
        found = scorer.advance(told, values, valid, saturated, states[0], rows, precision=own, facts=seen, late=late)
        assert scorer._native is not None and scorer._native.record.has_state(states[0])
        with numpy_only():
            same(
                found,
                scorer.advance(told, values, valid, saturated, states[1], rows, precision=own, facts=seen, late=late),
            )
        same(states[0], states[1])
        states.reverse()


def judged(seed: int) -> None:
    """Blocks of all kinds, against the cohort or each against its own, in changing company."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum([0, *rng.integers(1, 12, int(rng.integers(1, 5)))])
    groups, n, s = [slice(a, b) for a, b in pairwise(edges)], int(rng.integers(1, 30)), len(edges) - 1
    asked: Any = {"without_sensor": rng.choice(["unsure", "others"]), "miss_cost": float(rng.choice([0.5, 1.0]))}
    hop_s, blocks = float(rng.choice([1.0, 5.0])), float(rng.choice([1.0, 2.0, 4.0]))
    judgement = Judgement(groups, CautionConfig(**asked), hop_s=hop_s, block_s=hop_s * blocks)
    some = [coordination_of(rng, s) for _ in range(n)] if seed % 3 and s > 1 else [None] * n
    some = [some[int(rng.integers(n))] for _ in some]  # some in common, as people whose calibration is the cohort's
    cohort = replace(calibration_of(rng, edges), additive=np.array([float(seed % 2)]), coordination=some[0])
    each = stack_calibrations([replace(calibration_of(rng, edges), coordination=own) for own in some])
    states = [take_rows(BeliefState.initial(n, s, int(edges[-1])), np.arange(n)) for _ in range(2)]
    for turn in range(12):
        rows = np.arange(n) if turn % 3 == 0 else rng.permutation(n)[: int(rng.integers(1, n + 1))]
        channels, sensors = (len(rows), int(edges[-1])), (len(rows), s)

        def share(p: float, shape: tuple[int, ...] = sensors) -> np.ndarray:
            return np.where(rng.random(shape) < p, rng.choice([1.0, 0.3, 0.02], shape), 0.0)

        scored = rng.random(channels) < rng.choice([0.1, 0.9, 1.0])
        scores = BlockScores(
            channel=np.where(scored, rng.normal(size=channels) * rng.choice([0.5, 3.0]), 0.0),
            scored=scored,
            intensity=np.where(rng.random(sensors) < 0.1, NO_STEP, rng.normal(-2, 3, sensors)),
            before=np.where(rng.random(sensors) < 0.1, NO_STEP, rng.normal(-2, 3, sensors)),
            power=rng.random(channels),
            drop=rng.random(channels) * (rng.random((len(rows), 1)) < 0.9),
            missing=share(0.2),
            saturated=share(0.1),
            flat=rng.random(sensors) < 0.03,
            full=rng.random(len(rows)) < 0.95,
            late=np.where(rng.random(sensors) < 0.2, UNTOLD, rng.normal(0, 0.4, sensors)),
        )
        wrong = np.stack([share(0.07) for _ in range(N_FOUND)])
        seen = SensorHealth.of(wrong, np.zeros(sensors, np.int64), rng.random(sensors) < 0.05)
        clock_ms = None if turn % 4 == 3 else rng.choice([0.0, 40.0, 90.0, 200.0], sensors, p=[0.7, 0.2, 0.08, 0.02])
        with_whom = cohort if turn % 2 else each.rows(rows)
        told: Any = {"health": seen, "clock_ms": clock_ms}
        found = judgement.advance(scores, with_whom, states[0], rows, **told)
        assert judgement._native is not None and judgement._native.record.has_state(states[0])
        with numpy_only():
            same(found, judgement.advance(scores, with_whom, states[1], rows, **told))
        same(states[0], states[1])
        states.reverse()


def beside(seed: int) -> None:
    """Steps of people in changing company, with gaps and pauses, and sensors of every kind."""
    rng = np.random.default_rng(seed)
    m = sensors_of(rng, hop=int(rng.choice([1, 5, 10, 50])))
    m.sensors = m.sensor_specs
    m.rate_hz = float(rng.choice([10.0, 50.0, 64.0]))
    n = int(rng.choice([1, 5, 33]))
    watch = Timing(m)
    states = [watch.initial_state(n) for _ in range(2)]
    for turn in range(40):
        rows = np.arange(n) if turn % 3 == 0 else rng.permutation(n)[: int(rng.integers(1, n + 1))]
        values = rng.normal(0, rng.choice([0.01, 3.0]), (len(rows), m.hop, m.n_channels)).astype(np.float32)
        valid = lossy(rng, values.shape)
        values[~valid] = np.nan
        found = watch.advance(values, valid, states[0], rows)
        assert watch._native is not None and watch._native.record.has_state(states[0])
        with numpy_only():
            same(found, watch.advance(values, valid, states[1], rows))
        same(states[0], states[1])
        states.reverse()


def grid(seed: int) -> None:
    """Chunks of several people and sensors, with gaps, jitter, what is not finite, bursts and people who leave."""
    rng = np.random.default_rng(seed)
    n_people, hop = int(rng.integers(1, 9)), int(rng.choice([1, 5, 50]))
    specs = [SensorSpec("a", IMU6), SensorSpec("b", IMU6[: int(rng.integers(1, 6))])]
    phase = rng.integers(0, hop, n_people)

    def make() -> Grid:
        return Grid(specs, phase, rate_hz=50, hop=hop)

    one, other = make(), make()
    interval = {"a": PERIOD_NS + int(rng.integers(-200_000, 200_000)), "b": int(PERIOD_NS / rng.choice([1, 1, 2.1, 4]))}
    now = {(p, s): int(rng.integers(0, PERIOD_NS)) for p in range(n_people) for s in interval}
    order, n_taken = list(range(n_people)), 0
    for turn in range(12):
        for (person, sensor), begin in now.items():
            n = int(rng.integers(0, 80 if turn % 5 else 200))
            step = rng.integers(-1_000_000, 1_000_000, n) + interval[sensor]
            step[rng.random(n) < 0.03] += 7 * PERIOD_NS
            time = begin + np.cumsum(step)
            if n:
                now[person, sensor] = int(time[-1])
            if seed % 2 and n:  # on the ticks themselves
                time = np.unique(time // PERIOD_NS * PERIOD_NS)
                n = len(time)
            c = next(s.n_channels for s in specs if s.name == sensor)
            values = rng.normal(size=(n, c)).astype(np.float32)
            values[rng.random((n, c)) < 0.01 * (seed % 3)] = rng.choice([np.nan, np.inf, -np.inf])
            valid, saturated = rng.random((n, c)) >= 0.01 * (seed % 4), rng.random((n, c)) < 0.02 * (seed % 2)
            for g in (one, other):
                g.push(person, sensor, time, values, valid, saturated, interval_ns=interval[sensor])
        for _ in range(8):
            final = one.n_final()
            with numpy_only():
                same(final, other.n_final())
            due = np.flatnonzero(final >= hop)
            now_ns = None if turn % 3 else max(now.values()) + int(rng.integers(-(10**9), 10**9))
            with numpy_only():
                expected = other.ready(now_ns=now_ns, flush=turn == 11)
            ready, again = one.ready(now_ns=now_ns, flush=turn == 11)
            same(ready, expected[0])
            if not len(due):
                break
            n_taken += len(due)
            when = {"now_ns": now_ns, "flush": turn == 11}
            found = one.take(due, hop)
            if not again and len(due) == len(ready):
                assert not len(one.ready(**when)[0])
            with numpy_only(), np.errstate(all="ignore"):
                same(found, other.take(due, hop))
            same((one.next_tick, one._last), (other.next_tick, other._last))
            for a, b in zip(one._buffers, other._buffers, strict=True):
                assert (a.n_held, a.last_ns, a.some_invalid, a.some_saturated) == (
                    b.n_held,
                    b.last_ns,
                    b.some_invalid,
                    b.some_saturated,
                )
                same(a.n, b.n)
        if turn == 7 and n_people > 2:
            order = [*order[1:], -1]
            for g in (one, other):
                g.rearrange(order, phase)
    assert n_taken > n_people


def arrivals(seed: int) -> None:
    """Chunks of many people that wait together: clocks that drift, are silent, start anew or go astray, and bursts."""
    rng = np.random.default_rng(seed)
    specs = [SensorSpec("a", IMU6[:2]), SensorSpec("b", IMU6[:3])][: 1 + seed % 2]
    people = [f"p{i}" for i in range(int(rng.integers(1, 25)))]
    both = []
    for _ in range(2):
        grid = Grid(specs, np.zeros(len(people), np.int64), rate_hz=50, hop=10)
        both.append((grid, Arrivals(grid, people, ClockMap)))
    keys = [(p, s) for p in people for s in specs]
    device = {(p, s.name): int(rng.integers(0, 10**13)) for p, s in keys}
    offset = int(rng.integers(-(10**15), 10**15))
    for turn in range(24):
        for p, s in keys:
            for _ in range(int(rng.choice([0, 1, 1, 1, 3]))):
                n, key = int(rng.integers(1, 12)), (p, s.name)
                if rng.random() < 0.02:
                    device[key] += int(rng.choice([-150, -1, 0, 5, 15, 70])) * 10**9
                time = device[key] + np.arange(1, n + 1) * PERIOD_NS
                device[key] = int(time[-1])
                values = rng.normal(size=(n, s.n_channels)).astype(np.float32)
                shape, late = values.shape, int(rng.exponential(8e6)) + (10**16 if rng.random() < 0.003 else 0)
                odd = rng.random() < 0.1 * (seed % 3)
                valid, saturated = rng.random(shape) >= 0.1 * odd, rng.random(shape) < 0.1 * odd
                host_ns = int(device[key] * (1 + 2e-5)) + offset + late
                interval_ns = PERIOD_NS if rng.random() < 0.99 else PERIOD_NS // 2
                chunk = ImuChunk(s.name, time, values, valid, saturated, interval_ns, host_time_ns=host_ns)
                for _, a in both:
                    a.push(p, chunk, s.channels)
        (one, a), (other, b) = both
        a.settle()
        with numpy_only():
            b.settle()
        assert one.due == other.due
        same((one._last, one._first), (other._last, other._first))
        for k, buffers in enumerate(one._buffers):
            used = np.arange(buffers.n_slots) < buffers.n[:, None]  # what lies behind that is nobody's
            for name in ("n", "held", "last"):
                same(getattr(buffers, name), getattr(other._buffers[k], name))
            for name in ("time", "values", "valid", "saturated"):
                same(getattr(buffers, name)[used], getattr(other._buffers[k], name)[used])
        for p, s in keys:
            clock, own = a.clocks[p].get(s.name), b.clocks[p].get(s.name)
            if isinstance(clock, ClockMap) and isinstance(own, ClockMap) and clock.n_updates:
                assert (clock.mapping, clock.error_bounds_ns) == (own.mapping, own.error_bounds_ns)
        if turn % 3 == 2:
            due = np.flatnonzero(one.n_final() >= 10)
            with numpy_only():
                same(due, np.flatnonzero(other.n_final() >= 10))
            found = one.take(due, 10)
            with numpy_only(), np.errstate(all="ignore"):
                same(found, other.take(due, 10))


class Backend:
    """A forecaster whose answer hangs on all that it is given; its scale is sometimes not to be believed."""

    name, device = "test", "cpu"

    def __init__(self, manifest: Any) -> None:
        self._m = manifest

    def step(self, x: np.ndarray, mask: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n_horizons = len(self._m.horizons)
        mu = np.repeat(x * np.float32(0.7) + mask * np.float32(0.1), n_horizons, axis=2) + state[:, :1, None]
        log_sigma = np.tile(x * np.float32(0.3), (1, 1, n_horizons))
        log_sigma[np.abs(log_sigma) > 1.4] *= np.float32(100)
        after = state * np.float32(0.5) + x.mean(axis=(1, 2), keepdims=True)[:, 0]
        return mu, log_sigma, after


def engine(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_channels, horizons = int(rng.integers(1, 14)), tuple(sorted({1, *rng.integers(1, 9, 2).tolist()}))
    manifest: Any = SimpleNamespace(
        n_channels=n_channels,
        horizons=horizons,
        clip=float(rng.choice([2.0, 8.0])),
        hold_s=float(rng.choice([0.0, 0.1])),
        rate_hz=50.0,
        hop=10,
        receptive_field=17,
        state_size=int(rng.integers(1, 9)),
        center=rng.normal(size=n_channels).tolist(),
        scale=rng.uniform(0.1, 3.0, n_channels).tolist(),
        student_t_nu=rng.uniform(2, 9, (len(horizons), n_channels)).tolist(),
    )
    scoring = Engine(manifest, Backend(manifest))
    n = int(rng.choice([1, 3, 33, 70, 300]))
    states = [scoring.initial_state(n) for _ in range(2)]
    for turn in range(8):
        n_samples = int(rng.choice([10, 10, 1, 3, 25]))
        rows = None if turn % 3 == 0 else rng.permutation(n)[: int(rng.integers(1, n + 1))]
        shape = (n if rows is None else len(rows), n_samples, n_channels)
        values, valid = rng.normal(0, 4, shape).astype(np.float32), lossy(rng, shape)
        values[~valid] = rng.choice([0.0, 1e30])
        with np.errstate(all="ignore"):
            found = scoring.advance(values, valid, states[0], rows)
        with numpy_only(), np.errstate(all="ignore"):
            expected = scoring.advance(values, valid, states[1], rows)
        same(found, expected)
        same(states[0], states[1])
        if rows is None:
            with np.errstate(all="ignore"):
                pure, after = scoring.step(values, valid, states[0])
            with numpy_only(), np.errstate(all="ignore"):
                same((pure, after), scoring.step(values, valid, states[1]))
        states.reverse()  # the state moves from the one to the other
    assert isinstance(states[0], EngineState)


@cache
def shipped() -> Scorer:
    return Scorer(read_bundle(DEFAULT_BUNDLE))


def whole_hop(seed: int) -> None:
    """Hops of some streams in one piece, and by their parts one by one, on a copy of the state."""
    rng, scorer = np.random.default_rng(seed), shipped()
    m, n = scorer.manifest, int(rng.integers(1, 40))
    pure, kept = scorer.initial_state(n), scorer.initial_state(n).owned()
    pure.health.coarse[:] = kept.health.coarse[:] = 0.0  # as after a minute
    for turn in range(4):
        rows = rng.permutation(n)[: int(rng.integers(1, n + 1))]
        shape = len(rows), m.hop, m.n_channels
        values = rng.normal(np.array(m.center), np.array(m.scale), shape).astype(np.float32)
        values[: seed % 2, :, : m.n_channels // 2] = 0.0
        values[rows % 4 == 3, :, 3:6] *= 1e3  # no limb turns like that
        valid, saturated = lossy(rng, shape) if seed % 3 else np.ones(shape, bool), rng.random(shape) > 0.99
        clock_ms = None if turn % 2 else rng.choice([0.0, 60.0], (len(rows), len(m.sensors)))
        values[:, :, 1] = values[:, :1, 1] if turn == 3 else values[:, :, 1]
        raw = np.clip(values, -5, 5) if (seed + turn) % 2 else None
        told: Any = {"end_tick": 0, "clock_ms": clock_ms, "raw": raw}
        expected, after = scorer.step(values, valid, saturated, pure.take(rows), **told)
        pure = pure.put(rows, after)
        found, kept = scorer.advance(values, valid, saturated, kept, rows, **told)
        for part in ("scores", "surprise", "unusual", "belief", "health"):
            same(getattr(found, part), getattr(expected, part))
        for part in ("engine", "blocks", "health", "belief", "sides"):
            same(getattr(kept, part), getattr(pure, part))


CASES = {
    "hop": whole_hop,
    "arrivals": arrivals,
    "belief": judged,
    "blocks": block_scores,
    "timing": beside,
    "facts": facts,
    "health": sensor_health,
    "grid": grid,
    "engine": engine,
}


if __name__ == "__main__":
    loader._FILE = Path(sys.argv[1])
    assert loader.implementation() == "native", loader.implementation()
    for case in CASES.values():
        for number in range(int(sys.argv[2])):
            case(number)
    print("all the same")
