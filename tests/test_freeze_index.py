"""The freeze index and the gait preset: as a Fourier transform of every window, in any chunks, for many streams."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
from cuts import assert_any_cut_gives_the_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError
from kinedge.training.detectors.bands import BandConfig, BandRatioDetector
from kinedge.training.detectors.fusion import FusedDetector
from kinedge.training.detectors.presets import Domain, preset

F64 = NDArray[np.float64]
N_CHANNELS = 9
# Both forms round in their own way: what they may differ by, of a ratio, and of one that is next to nothing.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


def _by_transform(config: BandConfig, center: F64, x: F64) -> F64:
    """The definition: a whole Fourier transform of each trailing window, without its mean."""
    n = config.n_window
    known = np.where(np.isnan(x), 0.0, x - center)
    seen = np.concatenate([np.zeros((n - 1, x.shape[1])), known])
    windows = np.lib.stride_tricks.sliding_window_view(seen, n, axis=0)
    spectrum = np.fft.rfft(windows - windows.mean(axis=2, keepdims=True), axis=2)
    power = 2 * (np.abs(spectrum) ** 2).sum(axis=1) / n**2
    frequency = np.fft.rfftfreq(n, 1 / config.rate_hz)
    low, high = (power[:, (frequency >= a) & (frequency < b)].sum(axis=1) for a, b in (config.low_hz, config.high_hz))
    return np.asarray(high / (low + config.floor**2))


def _gait(n: int, n_channels: int = N_CHANNELS, *, seed: int = 0) -> F64:
    """Steps, trembling and rest in turns, in mg, with gravity, gaps and a knock."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None] / 64
    steps, trembles = ((rng.random(n // 100 + 1) < 0.5).repeat(100)[:n, None] for _ in range(2))
    x = 400 * steps * np.sin(2 * np.pi * 1.1 * t) + 150 * trembles * np.sin(2 * np.pi * 5 * t + 1)
    x = x * rng.random(n_channels) + rng.normal(size=(n, n_channels)) * 8 + rng.normal(size=n_channels) * 600
    for at in rng.integers(0, n, 3):
        x[at : at + 30, 0] = np.nan
        x[at + 50 : at + 53] = np.nan
    x[rng.integers(0, n)] = 20_000
    return np.asarray(x)


def _fitted(config: BandConfig, n_channels: int, *, seed: int = 0) -> tuple[BandRatioDetector, F64]:
    detector, prefix = BandRatioDetector(config), _gait(400, n_channels, seed=seed)
    detector.fit(prefix)
    return detector, np.asarray(np.nanmean(prefix, axis=0))


@pytest.fixture(scope="module")
def fused() -> FusedDetector:
    detector = preset(Domain.GAIT, lag=0)
    detector.fit(_gait(900, seed=77))
    return detector


@settings(max_examples=25, deadline=None)
@given(
    n_channels=st.sampled_from([1, 3, 9]),
    window_s=st.sampled_from([0.5, 1.03, 2.5]),
    low_hz=st.sampled_from([(0.0, 3.0), (0.5, 3.0)]),
    one_by_one=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_index_is_that_of_a_fourier_transform_of_every_window(
    n_channels: int, window_s: float, low_hz: tuple[float, float], one_by_one: bool, seed: int
) -> None:
    config = BandConfig(rate_hz=64, floor=100, window_s=window_s, low_hz=low_hz)
    detector, center = _fitted(config, n_channels, seed=seed)
    x = _gait(400, n_channels, seed=seed + 100)
    found = np.concatenate([detector.step(row) for row in x[:, None]]) if one_by_one else detector.step(x)
    np.testing.assert_allclose(found, _by_transform(config, center, x), **TOLERANCE)


@pytest.mark.parametrize("many", [False, True])
def test_what_was_loud_leaves_no_rounding_behind(many: bool) -> None:
    config = BandConfig(rate_hz=64, floor=1e-3, window_s=2.5)
    detector, center = _fitted(config, 3)
    x = center + 1e-2 * np.random.default_rng(0).normal(size=(900, 3))
    for at, n, loudness in ((170, 40, 1e9), (420, 1, 1e12), (700, 20, 1e3)):
        x[at : at + n] *= loudness
    found = detector.many(2).step(np.stack([x, x * 0 + center]))[0] if many else detector.step(x)
    # where only what was loud is left of a window, its own rounding counts: there the forms need not agree so well
    quiet = np.convolve(np.abs(x - center).max(axis=1) > 1, np.ones(config.n_window))[: len(x)] < 0.5
    assert quiet.sum() > 200
    expected = _by_transform(config, center, np.where(np.abs(x - center) > 1, center, x))
    np.testing.assert_allclose(found[quiet], expected[quiet], rtol=1e-9)


def test_no_error_piles_up_over_a_long_stream() -> None:
    config = BandConfig(rate_hz=64, floor=100)
    detector, center = _fitted(config, 2)
    x = np.tile(_gait(3000, 2, seed=5), (10, 1))
    found = detector.step(x)
    np.testing.assert_allclose(found[-300:], _by_transform(config, center, x[-900:])[-300:], **TOLERANCE)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, 449), max_size=9), seed=st.integers(0, 99))
def test_gait_scores_are_the_same_to_the_bit_however_samples_arrive(
    fused: FusedDetector, cuts: list[int], seed: int
) -> None:
    assert_any_cut_gives_the_same_bits(copy.deepcopy(fused), _gait(450, seed=seed), cuts, every=7)


@settings(max_examples=12, deadline=None)
@given(n_streams=st.integers(1, 5), cuts=st.lists(st.integers(1, 399), max_size=9), seed=st.integers(0, 99))
def test_many_gait_streams_score_as_one_detector_each_in_any_chunks(
    fused: FusedDetector, n_streams: int, cuts: list[int], seed: int
) -> None:
    x = np.stack([_gait(400, seed=seed + i) for i in range(n_streams)])
    whole = fused.many(n_streams).step(x)
    together = fused.many(n_streams)
    parts = [together.step(x[:, a:b]) for a, b in itertools.pairwise([0, *sorted(set(cuts)), 400])]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    for stream, scores in zip(x, whole, strict=True):
        np.testing.assert_allclose(scores, copy.deepcopy(fused).step(stream), **TOLERANCE)


def test_a_copy_goes_its_own_way_and_a_pickled_one_goes_on(fused: FusedDetector) -> None:
    x = _gait(300)
    one = copy.deepcopy(fused)
    one.step(x[:200])
    two, three = copy.deepcopy(one), pickle.loads(pickle.dumps(one))  # noqa: S301 -- its own bytes
    two.step(-x)
    expected = one.step(x[200:])
    np.testing.assert_array_equal(three.step(x[200:]), expected)


def test_a_refused_sample_leaves_the_gait_detector_as_it_was(fused: FusedDetector) -> None:
    detector = copy.deepcopy(fused)
    detector.step(_gait(100))
    before = detector.state
    bad = (np.full((1, N_CHANNELS), np.inf), np.zeros((1, 4)), np.zeros(N_CHANNELS))
    for samples in (*bad, np.where(np.arange(N_CHANNELS) == 3, -np.inf, 0.0)[None]):
        with pytest.raises(SignalError):
            detector.step(samples)
    for name, value in detector.state.items():
        np.testing.assert_array_equal(value, before[name])


def test_many_streams_of_the_index_refuse_what_one_would() -> None:
    detector, _ = _fitted(BandConfig(rate_hz=64, floor=100), 2)
    with pytest.raises(ConfigError, match="at least 1"):
        detector.many(0)
    with pytest.raises(SignalError, match=r"expected \(3, samples, 2\)"):
        detector.many(3).step(np.zeros((2, 5, 2)))
    with pytest.raises(SignalError, match="infinite"):
        detector.many(1).step(np.full((1, 1, 2), np.inf))
