"""Detectors: causal, streaming equals batch, missing and constant channels, what each one is good at."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from cuts import assert_any_cut_gives_the_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError
from kinedge.training.detectors.bands import BandConfig, BandRatioDetector
from kinedge.training.detectors.fusion import Branch, FusedDetector
from kinedge.training.detectors.interface import Detector, score_series
from kinedge.training.detectors.patches import PatchConfig, PatchDetector
from kinedge.training.detectors.presets import Domain, linear_preset, memory_preset, network_preset, preset
from kinedge.training.detectors.tcn import TcnConfig, TcnDetector
from kinedge.training.detectors.var import VarConfig, VarDetector

F64 = NDArray[np.float64]
N_PREFIX = 400


def _stream(n: int = 900, *, seed: int = 0) -> F64:
    """A wave in four channels with noise, one constant, one command now and then."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    wave = np.stack([np.sin(t / 5), np.cos(t / 5), np.sin(t / 9)], axis=1) + 0.1 * rng.normal(size=(n, 3))
    return np.column_stack([wave, np.full(n, 0.3), rng.random(n) < 0.03])


def _fused(lag: int) -> FusedDetector:
    memory = PatchDetector(PatchConfig(length=8, columns=(0, 1), budget=2000, delay=20))
    return FusedDetector([Branch(VarDetector(VarConfig(order=4))), Branch(memory, 2.0, 0.05)], smoothing=20, lag=lag)


MAKERS: dict[str, Callable[[], Detector]] = {
    "var": lambda: VarDetector(VarConfig(order=5, forget=50)),
    "var, fixed unit": lambda: VarDetector(VarConfig(order=5, forget=0)),
    "memory": lambda: PatchDetector(PatchConfig(length=8, budget=3000)),
    "instants": lambda: PatchDetector(PatchConfig(length=1, budget=300, delay=3)),
    "memory that does not learn": lambda: PatchDetector(PatchConfig(length=8, learns=False)),
    "bands": lambda: BandRatioDetector(BandConfig(rate_hz=64, floor=0.1, window_s=1.0)),
    "tcn": lambda: TcnDetector(TcnConfig(steps=5, dilations=(1, 2, 4), width=8)),
    "fused": lambda: _fused(0),
    "fused, late": lambda: _fused(7),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def fitted(request: pytest.FixtureRequest) -> Detector:
    detector = MAKERS[request.param]()
    detector.fit(_stream()[:N_PREFIX])
    return detector


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_detector_fits_scores_and_counts_itself(name: str) -> None:
    detector = MAKERS[name]()
    scores = detector.fit(_stream()[:N_PREFIX])
    assert scores.shape == (N_PREFIX,)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert scores.std() > 0
    assert detector.n_parameters > 0
    assert detector.n_bytes == 4 * detector.n_parameters


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, 899), max_size=12), seed=st.integers(0, 3))
def test_any_chunking_gives_the_same_scores(fitted: Detector, cuts: list[int], seed: int) -> None:
    x = _stream(seed=seed)
    fresh = fitted.state
    whole = fitted.step(x)
    fitted.restore(fresh)
    edges = [0, *sorted(set(cuts)), len(x)]
    parts = np.concatenate([fitted.step(x[a:b]) for a, b in itertools.pairwise(edges)])
    fitted.restore(fresh)
    np.testing.assert_allclose(parts, whole, rtol=1e-3 if isinstance(fitted, TcnDetector) else 1e-6, atol=1e-5)


def test_sample_by_sample_is_the_same_as_at_once(fitted: Detector) -> None:
    x = _stream(300, seed=5)
    fresh = fitted.state
    whole = fitted.step(x)
    fitted.restore(fresh)
    single = np.concatenate([fitted.step(x[t : t + 1]) for t in range(len(x))])
    fitted.restore(fresh)
    np.testing.assert_allclose(single, whole, rtol=1e-3 if isinstance(fitted, TcnDetector) else 1e-6, atol=1e-5)


def _eventful(n: int, n_channels: int, *, seed: int) -> F64:
    """Noise with what leaves the short way of a single sample: gaps, values beyond the clips, anomalies."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_channels))
    x[40:43] = np.nan
    x[90:120, 0] = np.nan
    x[130] = 1e6
    x[150:170] += 40
    x[200, -1] = 1e200
    return x


@settings(max_examples=40, deadline=None)
@given(
    n_channels=st.sampled_from([1, 2, 5, 9, 33]),
    order=st.sampled_from([1, 4, 16]),
    forget=st.sampled_from([0.0, 60.0]),
    smoothing=st.sampled_from([1, 2, 50]),
    cuts=st.lists(st.integers(1, 259), max_size=8),
    seed=st.integers(0, 9),
)
def test_linear_scores_are_the_same_to_the_bit_however_samples_arrive(
    n_channels: int, order: int, forget: float, smoothing: int, cuts: list[int], seed: int
) -> None:
    detector = FusedDetector([Branch(VarDetector(VarConfig(order=order, forget=forget)))], smoothing=smoothing)
    detector.fit(np.random.default_rng(seed).normal(size=(120, n_channels)))
    x = _eventful(260, n_channels, seed=seed)
    with np.errstate(over="ignore"):
        assert_any_cut_gives_the_same_bits(detector, x, cuts, every=3)


def test_a_refused_sample_leaves_the_linear_detector_as_it_was() -> None:
    detector = linear_preset(lag=0)
    x = _stream()
    detector.fit(x[:N_PREFIX])
    detector.step(x[:100])
    before = detector.state
    for bad in (np.full((1, 5), np.inf), np.zeros((1, 4)), np.zeros(5)):
        with pytest.raises(SignalError):
            detector.step(bad)
    for name, value in detector.state.items():
        np.testing.assert_array_equal(value, before[name])


@settings(max_examples=8, deadline=None)
@given(at=st.integers(50, 850), seed=st.integers(0, 3))
def test_the_future_beyond_the_lag_changes_nothing(fitted: Detector, at: int, seed: int) -> None:
    x = _stream(seed=seed)
    other = x.copy()
    other[at:] = np.random.default_rng(seed).normal(size=other[at:].shape) * 9
    fresh = fitted.state
    one = score_series(fitted, x)
    fitted.restore(fresh)
    two = score_series(fitted, other)
    fitted.restore(fresh)
    known = at - fitted.lag
    np.testing.assert_allclose(two[:known], one[:known], rtol=1e-5, atol=1e-5)
    assert not np.allclose(two[at:], one[at:])


def test_the_state_can_be_kept_and_taken_back(fitted: Detector) -> None:
    x = _stream(500, seed=2)
    fresh = fitted.state
    fitted.step(x[:200])
    kept = fitted.state
    first = fitted.step(x[200:])
    fitted.restore(kept)
    np.testing.assert_array_equal(fitted.step(x[200:]), first)
    fitted.restore(fresh)


def test_a_state_of_another_detector_is_refused(fitted: Detector) -> None:
    state = fitted.state
    with pytest.raises(ConfigError):
        fitted.restore({})
    with pytest.raises(ConfigError):
        fitted.restore({**state, next(iter(state)): np.zeros((3, 3, 3))})
    fitted.restore(state)


def test_missing_values_are_no_surprise(fitted: Detector) -> None:
    x = _stream(seed=1)
    gaps = x.copy()
    gaps[500:520] = np.nan
    gaps[600:640, 1] = np.nan
    fresh = fitted.state
    scores = fitted.step(gaps)
    fitted.restore(fresh)
    wild = np.where(np.isnan(gaps), 30.0, gaps)
    louder = fitted.step(wild)
    fitted.restore(fresh)
    assert np.isfinite(scores).all()
    if not isinstance(fitted, BandRatioDetector):
        assert scores[500:520].max() < louder[500:520].max()


def test_other_channels_and_infinite_values_are_refused(fitted: Detector) -> None:
    with pytest.raises(SignalError, match="channels"):
        fitted.step(np.zeros((3, 2)))
    with pytest.raises(SignalError, match="infinite"):
        fitted.step(np.full((3, 5), np.inf))


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_short_or_flat_prefix_gives_one_clear_error_or_finite_scores(name: str) -> None:
    with pytest.raises(SignalError):
        MAKERS[name]().fit(np.zeros((5, 3)))
    detector = MAKERS[name]()
    try:
        detector.fit(np.ones((N_PREFIX, 3)))
    except SignalError as e:
        assert "changes" in str(e)
    else:
        assert np.isfinite(detector.step(_stream(100)[:, :3])).all()


@pytest.mark.parametrize("make", [lambda: VarDetector(), lambda: TcnDetector(TcnConfig(steps=5))])
def test_the_first_change_of_a_constant_channel_is_seen_by_forecasters(make: Callable[[], Detector]) -> None:
    x = _stream()
    x[700, 3] = 0.4
    detector = make()
    detector.fit(x[:N_PREFIX])
    scores = detector.step(x)
    assert int(np.argmax(scores[150:])) + 150 in range(700, 703)


def test_the_unit_follows_a_stream_that_stays_noisier_and_a_fixed_one_does_not() -> None:
    x = _stream(6000)
    x[1000:] += np.random.default_rng(1).normal(size=x[1000:].shape)
    following, fixed = VarDetector(VarConfig(forget=300)), VarDetector(VarConfig(forget=0))
    late = {}
    for name, detector in (("following", following), ("fixed", fixed)):
        detector.fit(x[:N_PREFIX])
        late[name] = detector.step(x)[5000:].mean()
    assert late["following"] < 3
    assert late["fixed"] > 30


def test_a_memory_that_learns_is_surprised_once_and_the_other_every_time() -> None:
    x = _stream(2000)
    x[800:860, :3] += 6
    x[1500:1560, :3] += 6
    peaks = {}
    for learns in (True, False):
        detector = PatchDetector(PatchConfig(length=8, columns=(0, 1, 2), learns=learns, delay=100, budget=20_000))
        detector.fit(x[:N_PREFIX])
        scores = detector.step(x)
        peaks[learns] = scores[820:860].mean(), scores[1520:1560].mean()
    assert peaks[False][1] > 0.8 * peaks[False][0]
    assert peaks[True][1] < 0.5 * peaks[True][0]


def test_the_memory_stays_within_its_budget_for_ever() -> None:
    detector = PatchDetector(PatchConfig(length=4, budget=400, delay=4))
    x = np.random.default_rng(0).normal(size=(9000, 2)).cumsum(axis=0)
    detector.fit(x[:300])
    detector.step(x)
    state = detector.state
    assert detector.n_parameters <= 400 + 2 * 2 + 1
    assert int(state["n_learned"][0]) > len(state["learned"])
    assert len(state["waiting"]) <= 64 + 4


def test_trembling_raises_the_freeze_index_and_neither_walking_nor_rest_does() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(640) / 64
    rest = rng.normal(size=(640, 3)) * 8
    walking = rest + 400 * np.sin(2 * np.pi * 1.0 * t)[:, None] + 100 * np.sin(2 * np.pi * 4.0 * t)[:, None]
    freezing = rest + 60 * np.sin(2 * np.pi * 1.0 * t)[:, None] + 150 * np.sin(2 * np.pi * 5.0 * t)[:, None]
    detector = BandRatioDetector(BandConfig(rate_hz=64, floor=100))
    detector.fit(rest)
    scores = detector.step(np.concatenate([rest, walking, freezing]))
    assert scores[400:640].max() < 0.2
    assert scores[900:1280].max() < 0.2
    assert scores[1600:1920].min() > 1


def test_fusion_is_not_moved_by_the_unit_of_a_branch() -> None:
    class Louder(VarDetector):
        def step(self, x: F64) -> F64:  # type: ignore[override]
            return 1e6 * super().step(x)

    x = _stream()
    scores = []
    for make in (VarDetector, Louder):
        detector = FusedDetector([Branch(make(), floor=1e-9)], smoothing=10)
        detector.fit(x[:N_PREFIX])
        scores.append(detector.step(x))
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6)


@pytest.mark.parametrize("domain", list(Domain))
@pytest.mark.parametrize("lag", [0, 25])
def test_every_preset_stays_below_a_hundred_thousand_parameters(domain: Domain, lag: int) -> None:
    x = np.random.default_rng(0).normal(size=(1200, {"telemetry": 55, "machines": 38, "gait": 9}[domain.value]))
    for make in (preset, memory_preset):
        detector = make(domain, lag=lag)
        detector.fit(x)
        assert detector.lag == lag
        assert 0 < detector.n_parameters <= 100_000


def test_the_network_preset_differs_from_the_linear_one() -> None:
    x = _stream()
    scores = []
    for detector in (network_preset(Domain.TELEMETRY, lag=0), linear_preset(lag=0)):
        detector.fit(x[:N_PREFIX])
        scores.append(detector.step(x))
    assert np.corrcoef(scores[0][100:], scores[1][100:])[0, 1] < 0.999


@pytest.mark.parametrize(
    "make",
    [
        lambda: VarConfig(order=0),
        lambda: VarConfig(ridge=-1),
        lambda: PatchConfig(length=0),
        lambda: PatchConfig(length=64, delay=32),
        lambda: PatchConfig(columns=()),
        lambda: BandConfig(rate_hz=10, floor=1),
        lambda: BandConfig(rate_hz=64, floor=1, window_s=0.1),
        lambda: TcnConfig(batch=0),
        lambda: TcnConfig(clip=0),
        lambda: FusedDetector([], smoothing=5),
        lambda: FusedDetector([Branch(VarDetector())], smoothing=5, lag=5),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("forget", [0.0, 200.0])
def test_many_streams_at_once_score_as_one_detector_each(forget: float) -> None:
    rng = np.random.default_rng(0)
    fitted = FusedDetector([Branch(VarDetector(VarConfig(forget=forget)))], smoothing=20)
    fitted.fit(rng.normal(size=(300, 4)))
    x = rng.normal(size=(3, 130, 4))
    x[1, 40:60] += 8
    x[2, 10:15, 1] = np.nan
    together = fitted.many(3)
    found = np.concatenate([together.step(part) for part in np.split(x, [1, 2, 50, 57], axis=1)], axis=1)
    for stream, scores in zip(x, found, strict=True):
        np.testing.assert_allclose(scores, copy.deepcopy(fitted).step(stream), rtol=1e-9, atol=1e-12)


def test_many_streams_refuse_what_one_would_and_memories_that_follow_one() -> None:
    fitted = FusedDetector([Branch(VarDetector(VarConfig(forget=0)))], smoothing=5)
    fitted.fit(np.random.default_rng(0).normal(size=(100, 2)))
    many = fitted.many(2)
    with pytest.raises(SignalError, match=r"expected \(2, samples, 2\)"):
        many.step(np.zeros((3, 4, 2)))
    with pytest.raises(SignalError, match="infinite"):
        many.step(np.full((2, 4, 2), np.inf))
    with pytest.raises(ConfigError, match="at least 1"):
        fitted.many(0)
    memory = FusedDetector([Branch(PatchDetector(PatchConfig(length=1)))], smoothing=5)
    with pytest.raises(ConfigError, match="PatchDetector follows one stream"):
        memory.many(2)
