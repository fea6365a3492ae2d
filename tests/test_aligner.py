"""The aligner: one grid, a mask, gaps never bridged, the same bits for any chunking."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge.aligner import AlignedBlock, Aligner
from kinedge.errors import SignalError
from kinedge.signals import SensorSpec
from kinedge.units import NS_PER_S

LEFT = SensorSpec("wrist_left", ("acc_x", "gyr_z"))
RIGHT = SensorSpec("wrist_right", ("acc_x", "gyr_z"))
T0 = 7 * NS_PER_S


def signal(time_ns: np.ndarray) -> np.ndarray:
    t = time_ns / NS_PER_S
    return np.stack([np.sin(2 * np.pi * t), t], axis=1).astype(np.float32)


def push(aligner: Aligner, name: str, time_ns: np.ndarray, values: np.ndarray | None = None, **kwargs: object) -> None:
    values = signal(time_ns) if values is None else values
    ok = np.ones(values.shape, bool)
    interval_ns = int(kwargs.get("interval_ns", np.median(np.diff(time_ns)) if len(time_ns) > 1 else NS_PER_S // 50))
    aligner.push(name, time_ns, values, ok, ~ok, interval_ns=interval_ns)


def join(blocks: list[AlignedBlock]) -> AlignedBlock:
    blocks = [b for b in blocks if len(b)]
    for a, b in itertools.pairwise(blocks):
        assert a.first_tick + len(a) == b.first_tick
    return AlignedBlock(
        blocks[0].first_tick,
        np.concatenate([b.values for b in blocks]),
        np.concatenate([b.valid for b in blocks]),
        np.concatenate([b.saturated for b in blocks]),
    )


def test_a_value_between_two_samples_lies_on_the_line_between_them() -> None:
    aligner = Aligner([LEFT], rate_hz=50)
    push(aligner, "wrist_left", T0 + 3_000_000 + np.arange(50) * 20_000_000)
    block = aligner.pull(flush=True)
    ticks_s = (block.first_tick + np.arange(len(block))) * 0.02
    assert block.valid.all()
    assert np.allclose(block.values[:, 1], ticks_s, atol=1e-5)


def test_a_gap_is_masked_and_never_bridged() -> None:
    time = T0 + np.arange(100) * 20_000_000
    kept = np.r_[time[:40], time[60:]]
    aligner = Aligner([LEFT], rate_hz=50)
    push(aligner, "wrist_left", kept, interval_ns=20_000_000)
    block = aligner.pull(flush=True)
    valid = block.valid[:, 0]
    assert valid[:40].all()
    assert not valid[40:60].any()
    assert valid[60:].all()
    assert (block.values[~block.valid] == 0).all()


def test_a_faster_sensor_is_averaged_so_that_what_the_grid_cannot_hold_does_not_fold_back() -> None:
    time = T0 + np.arange(2000) * 5_000_000  # 200 Hz
    t = time / NS_PER_S
    high = np.sin(2 * np.pi * 99 * t + 0.3)  # would fold to 1 Hz on a grid of 50 Hz
    values = np.stack([high, t], axis=1).astype(np.float32)
    aligner = Aligner([LEFT], rate_hz=50)
    push(aligner, "wrist_left", time, values)
    block = aligner.pull(flush=True)
    assert np.abs(block.values[block.valid[:, 0], 0]).max() < 0.1


def test_a_silent_sensor_holds_the_grid_up_for_no_longer_than_the_allowed_delay() -> None:
    aligner = Aligner([LEFT, RIGHT], rate_hz=50, max_delay_s=0.2)
    time = T0 + np.arange(100) * 20_000_000
    push(aligner, "wrist_left", time)
    block = aligner.pull()
    assert block.first_tick + len(block) - 1 == (time[-1] - 200_000_000) // 20_000_000
    assert block.valid[:, :2].all()
    assert not block.valid[:, 2:].any()


def test_the_clock_moves_the_grid_when_nobody_sends() -> None:
    aligner = Aligner([LEFT], rate_hz=50, max_delay_s=0.2)
    push(aligner, "wrist_left", T0 + np.arange(10) * 20_000_000)
    block = aligner.pull(now_ns=T0 + 2 * NS_PER_S)
    assert len(block) == 91  # up to 1.8 s, both ends included
    assert block.valid[:9].all()
    assert not block.valid[10:].any()


def test_samples_that_come_after_their_tick_are_counted_and_change_nothing() -> None:
    aligner = Aligner([LEFT], rate_hz=50)
    time = T0 + np.arange(50) * 20_000_000
    push(aligner, "wrist_left", time)
    before = aligner.pull()
    push(aligner, "wrist_left", time[:10], interval_ns=20_000_000)
    assert aligner.n_late["wrist_left"] == 10
    assert len(aligner.pull()) == 0
    assert before.valid.all()


def test_nan_and_infinity_become_missing() -> None:
    aligner = Aligner([LEFT], rate_hz=50)
    time = T0 + np.arange(20) * 20_000_000
    values = signal(time)
    values[5, 0], values[9, 1] = np.nan, np.inf
    push(aligner, "wrist_left", time, values)
    block = aligner.pull(flush=True)
    assert np.isfinite(block.values).all()
    assert not block.valid[5, 0]
    assert block.valid[5, 1]
    assert not block.valid[9, 1]


def test_a_saturated_sample_marks_the_ticks_made_of_it() -> None:
    aligner = Aligner([LEFT], rate_hz=50)
    time = T0 + 1_000_000 + np.arange(20) * 20_000_000
    ok = np.ones((20, 2), bool)
    saturated = np.zeros((20, 2), bool)
    saturated[7, 0] = True
    aligner.push("wrist_left", time, signal(time), ok, saturated, interval_ns=20_000_000)
    block = aligner.pull(flush=True)
    assert block.saturated[:, 0].sum() == 2
    assert not block.saturated[:, 1].any()


def test_after_an_hour_of_silence_the_grid_starts_anew_instead_of_emitting_an_hour() -> None:
    aligner = Aligner([LEFT], rate_hz=50)
    push(aligner, "wrist_left", T0 + np.arange(50) * 20_000_000)
    aligner.pull(now_ns=T0 + NS_PER_S)
    block = aligner.pull(now_ns=T0 + 3600 * NS_PER_S)
    assert len(block) == 3000


def test_an_unknown_sensor_or_a_wrong_number_of_channels_is_refused() -> None:
    aligner = Aligner([LEFT], rate_hz=50)
    with pytest.raises(SignalError, match="no sensor 'ankle'"):
        push(aligner, "ankle", T0 + np.arange(5) * 20_000_000)
    with pytest.raises(SignalError, match="2 channels expected"):
        push(aligner, "wrist_left", T0 + np.arange(5) * 20_000_000, np.zeros((5, 3), np.float32))
    with pytest.raises(SignalError, match="distinct"):
        Aligner([LEFT, LEFT], rate_hz=50)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), rate=st.sampled_from([50.0, 52.0, 100.0, 128.0, 200.0]), seed=st.integers(0, 2**31))
def test_any_chunking_gives_the_same_bits(data: st.DataObject, rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = round(4 * rate)
    streams = {}
    for name in ("wrist_left", "wrist_right"):
        time = T0 + int(rng.integers(0, 30_000_000)) + np.round(np.arange(n) * (1e9 / rate)).astype(np.int64)
        keep = rng.random(n) > 0.1
        values = rng.normal(size=(n, 2)).astype(np.float32)
        valid = rng.random((n, 2)) > 0.05
        streams[name] = tuple(a[keep] for a in (time, values, valid, rng.random((n, 2)) > 0.95))
    interval_ns = round(1e9 / rate)

    def run(cuts: list[int]) -> AlignedBlock:
        aligner = Aligner([LEFT, RIGHT], rate_hz=50)
        blocks = []
        edges = sorted({T0, *(T0 + c * 1_000_000 for c in cuts), T0 + 5 * NS_PER_S})
        for a, b in itertools.pairwise(edges):
            for name, (time, values, valid, saturated) in streams.items():
                part = (time >= a) & (time < b)
                if part.any():
                    aligner.push(name, time[part], values[part], valid[part], saturated[part], interval_ns=interval_ns)
                    if (a // 1_000_000) % 3:
                        blocks.append(aligner.pull())
            blocks.append(aligner.pull())
        blocks.append(aligner.pull(flush=True))
        return join(blocks)

    # chunks of at most 200 ms: a sensor is never more than max_delay_s behind the other
    fine = run(list(range(0, 4000, 200)) + data.draw(st.lists(st.integers(0, 4000), max_size=40)))
    whole = run(list(range(0, 4000, 200)))
    assert fine.first_tick == whole.first_tick
    assert np.array_equal(fine.valid, whole.valid)
    assert np.array_equal(fine.values, whole.values)
    assert np.array_equal(fine.saturated, whole.saturated)
    assert 0.3 < fine.valid.mean() < 1
