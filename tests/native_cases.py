"""Random hops through the native library and through numpy: both must say the same, to the last bit.

Tests run this with the library that is installed, and, as a script, with one that is built with sanitizers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kinedge.edge.engine import Engine, EngineState
from kinedge.edge.grid import Grid
from kinedge.edge.hop_facts import look_at
from kinedge.edge.native import hops, loader, surprise
from kinedge.signals import IMU6, SensorSpec

PERIOD_NS = 20_000_000


@contextmanager
def numpy_only() -> Iterator[None]:
    """Let numpy do the work for a while."""
    kept = hops._functions, surprise._functions
    hops._functions = lambda: (None,) * len(hops._SIGNATURES)  # type: ignore[assignment]
    surprise._functions = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        hops._functions, surprise._functions = kept


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


def lossy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Which samples are there: all, some, or none of a channel."""
    valid = rng.random(shape) >= rng.choice([0.0, 0.1, 0.9])
    valid[rng.random(shape[0]) < 0.3] = True
    valid[rng.integers(shape[0]), :, rng.integers(shape[2])] = False
    return valid


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


def marks(seed: int) -> None:
    """Samples that repeat themselves, within a sensor, between sensors and from hop to hop, with gaps."""
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 7, int(rng.integers(1, 4)))
    edges = np.array([0, *np.cumsum(widths)], np.int64)
    factors = rng.integers(1, 2**63, edges[-1], dtype=np.uint64) | np.uint64(1)
    n, hop = int(rng.integers(1, 40)), int(rng.choice([1, 10, 50]))
    before = np.zeros((n, len(widths), hop * int(rng.integers(1, 5))), np.uint64)
    for _ in range(5):
        values = rng.integers(0, 30, (n, hop, edges[-1])).astype(np.float32)
        valid = lossy(rng, values.shape)
        found = hops.mark(values, valid, factors, edges, before)
        assert found is not None
        own = np.zeros((n, len(widths), hop), np.uint64)
        for g in range(len(widths)):
            part = slice(edges[g], edges[g + 1])
            numbers = (values[..., part].view(np.uint32) * factors[part]).sum(axis=2, dtype=np.uint64) | np.uint64(1)
            own[:, g] = np.where(valid[..., part].all(axis=2), numbers, np.uint64(0))
        after = np.concatenate([before[:, :, hop:], own], axis=2)
        same(found[0], after)
        distinct = np.array([[len(set(row.tolist()) - {0}) for row in stream] for stream in after])
        same(found[1], (after != 0).sum(axis=2))
        same(found[2], (after != 0).sum(axis=2) - distinct)
        before = found[0]


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
            if not len(due):
                break
            n_taken += len(due)
            found = one.take(due, hop)
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


CASES = {"facts": facts, "marks": marks, "grid": grid, "engine": engine}


if __name__ == "__main__":
    loader._FILE = Path(sys.argv[1])
    assert loader.implementation() == "native", loader.implementation()
    for case in CASES.values():
        for number in range(int(sys.argv[2])):
            case(number)
    print("all the same")
