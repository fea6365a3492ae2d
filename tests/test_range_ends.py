"""The end of a range is one value that a channel comes back to; a turn and a pause are not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.hop_facts import look_at
from kinedge.edge.range_ends import RangeEnds
from kinedge.edge.reliability import ReliabilityMonitor

F32 = NDArray[np.float32]
HOP = 50


def shares(hops: list[F32], *, scale: float = 1.0) -> list[float]:
    """Let one sensor of two channels show hops (50, 2), and tell the share of each that stands at an end."""
    ends = RangeEnds([slice(0, 2)], np.full(2, scale), 1.0)
    reach, found = ends.initial(1), []
    for hop in hops:
        values, valid = hop[None].astype(np.float32), np.ones((1, HOP, 2), bool)
        share, reach = ends.step(values, valid, look_at(values, valid), reach)
        found.append(float(share[0, 0]))
    return found


def sway(rng: np.random.Generator, size: float) -> F32:
    """Both channels sway, in steps of a hundredth."""
    t = np.arange(HOP) + rng.uniform(0, 50)
    x = size * np.stack([np.sin(0.9 * t), np.cos(0.83 * t)], axis=1) + 0.05 * rng.normal(size=(HOP, 2))
    return np.asarray(np.round(x, 2), np.float32)


def test_a_range_that_ends_is_seen_at_once_and_one_that_is_set_smaller_on_the_way_from_the_second_hop_on() -> None:
    rng = np.random.default_rng(0)
    short = [np.clip(sway(rng, 10), -6, 6) for _ in range(4)]
    assert min(shares(short)) > 0.3
    found = shares([*[sway(rng, 10) for _ in range(3)], *short])
    assert found[:4] == [0, 0, 0, 0] and min(found[4:]) > 0.3


def test_samples_that_heap_up_below_what_was_reached_of_late_are_no_end_and_a_small_channel_has_none() -> None:
    rng = np.random.default_rng(1)
    paused = [sway(rng, 10) for _ in range(5)]
    for i, hop in enumerate(paused):
        hop[20:35, 0] = hop[:, 0].max() - 0 if i == 0 else 5 + 0.31 * i
        np.clip(hop[:, 0], None, hop[20, 0], out=hop[:, 0])  # each stays at another height
    assert shares(paused)[1:] == [0, 0, 0, 0]
    short = [np.clip(sway(rng, 10), -6, 6) for _ in range(3)]
    assert shares(short, scale=50.0) == [0, 0, 0]


def test_a_channel_forgets_within_minutes_how_far_it_reached() -> None:
    rng = np.random.default_rng(2)
    ends = RangeEnds([slice(0, 2)], np.ones(2), 1.0)
    reach = ends.initial(1)
    for k in range(400):
        values = (sway(rng, 10) if k == 0 else sway(rng, 2))[None]
        valid = np.ones((1, HOP, 2), bool)
        _, reach = ends.step(values, valid, look_at(values, valid), reach)
        if k in (0, 30):
            assert reach[0, 0].min() > 7
    assert reach[0, 0].max() < 3 and reach[0, 1].min() > -3
    gone = np.zeros((1, HOP, 2), bool)
    _, after = ends.step(values, gone, look_at(values, gone), reach)
    np.testing.assert_array_equal(after, reach)  # nothing was heard: nothing changes


def test_a_buffer_that_is_given_again_is_stuck_and_not_clipped_for_its_extremes() -> None:
    manifest = read_bundle(DEFAULT_BUNDLE).manifest
    monitor, rng = ReliabilityMonitor(manifest), np.random.default_rng(3)
    buffer = np.array(manifest.center) + 3 * np.array(manifest.scale) * rng.normal(size=(10, 12))
    values = np.tile(buffer, (5, 1))[None].astype(np.float32)
    state = monitor.initial_state(1)
    for _ in range(4):
        health, state = monitor.step(values, np.ones(values.shape, bool), state)
    assert health.repeated.min() > 0.9 and health.clipped.max() < 0.1
