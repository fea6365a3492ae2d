"""What is shown in a gap: the last value, fading, for any cutting of the stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.edge.gaps import Gaps
from kinedge.training.windows import filled

F32 = np.float32


def nothing(n_streams: int, n_channels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n_streams, n_channels), F32), np.zeros((n_streams, n_channels), np.int32)


def test_a_gap_shows_the_last_value_which_fades_to_37_percent_in_the_time_given() -> None:
    x = np.array([3, 5, np.nan, np.nan, np.nan, 2], F32)[None, :, None]
    valid = np.isfinite(x)
    last, age = Gaps(0.04, 50).fill(x, valid, *nothing(1, 1))
    np.testing.assert_allclose(x[0, :, 0], [3, 5, 5 * np.exp(-0.5), 5 * np.exp(-1), 5 * np.exp(-1.5), 2], rtol=1e-6)
    assert (last[0, 0], age[0, 0]) == (2, 0)


def test_before_the_first_sample_and_long_after_the_last_one_zeros_are_shown() -> None:
    x = np.full((1, 400, 1), 7, F32)
    valid = np.zeros((1, 400, 1), bool)
    valid[0, 10] = True
    Gaps(0.1, 50).fill(x, valid, *nothing(1, 1))
    assert (x[0, :10] == 0).all()
    assert (np.diff(x[0, 10:30, 0]) < 0).all()
    assert (x[0, 40:] == 0).all()


def test_without_a_time_to_hold_zeros_are_shown_from_the_first_missing_sample_on() -> None:
    x = np.ones((2, 5, 3), F32)
    valid = np.ones((2, 5, 3), bool)
    valid[1, 2:4, 1] = False
    expected = np.where(valid, x, 0)
    Gaps(0.0, 50).fill(x, valid, *nothing(2, 3))
    np.testing.assert_array_equal(x, expected)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    hold_s=st.sampled_from([0.0, 0.02, 0.3, 2.0]),
    seed=st.integers(0, 2**31),
)
def test_any_cutting_into_chunks_shows_the_same_bits(cuts: list[int], hold_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = sum(cuts)
    values = rng.normal(size=(3, n, 2)).astype(F32)
    valid = rng.random((3, n, 2)) < rng.choice([0.1, 0.5, 0.95])
    valid[0] = True
    gaps = Gaps(hold_s, 50)
    whole = values.copy()
    after = gaps.fill(whole, valid, *nothing(3, 2))
    state, parts, at = nothing(3, 2), [], 0
    for length in cuts:
        part = values[:, at : at + length].copy()
        state = gaps.fill(part, valid[:, at : at + length], *state)
        parts.append(part)
        at += length
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    for a, b in zip(after, state, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole[valid], values[valid])


def test_training_pieces_each_begin_with_nothing_seen() -> None:
    x = np.ones((2, 4, 1), F32)
    mask = np.ones_like(x)
    mask[1, :2] = 0
    shown = filled(x, mask, Gaps(1.0, 50))
    assert shown[1, :, 0].tolist() == [0, 0, 1, 1]
    assert (x == 1).all()
    single = filled(x[1], mask[1], Gaps(1.0, 50))
    assert single.tolist() == shown[1].tolist()
    assert filled(np.zeros((0, 1), F32), np.zeros((0, 1), F32), Gaps(1.0, 50)).shape == (0, 1)


def test_a_held_value_is_bounded_by_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 200, 1)).astype(F32)
    valid = rng.random((1, 200, 1)) < 0.3
    most = np.abs(x[valid]).max()
    Gaps(0.5, 50).fill(x, valid, *nothing(1, 1))
    assert np.abs(x).max() == pytest.approx(most)
