"""The engine: streaming equals batch, state is a value, what is masked cannot matter."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinedge.bundle import Bundle, pack_bundle
from kinedge.edge.backends import OnnxBackend, load_backend
from kinedge.edge.engine import Engine, EngineState, Surprise
from kinedge.edge.scoring import Scorer
from kinedge.errors import BackendError, BundleError, SignalError
from kinedge.recording import Recording

Person = Callable[..., Recording]


def stream(engine: Engine, r: Recording, cuts: list[int]) -> tuple[Surprise, EngineState]:
    state = engine.initial_state(1)
    parts = []
    edges = [0, *sorted(set(cuts)), len(r)]
    for a, b in itertools.pairwise(edges):
        if a < b:
            surprise, state = engine.step(r.values[None, a:b], r.valid[None, a:b], state)
            parts.append(surprise)
    joined = Surprise(*(np.concatenate([getattr(p, f) for p in parts], axis=1) for f in ("z", "nats", "valid")))
    return joined, state


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 599), max_size=12))
def test_any_chunking_gives_the_same_surprise(scorer: Scorer, person: Person, cuts: list[int]) -> None:
    r = person(12.0)
    whole, end = stream(scorer.engine, r, [])
    chunked, chunked_end = stream(scorer.engine, r, cuts)
    assert np.array_equal(whole.valid, chunked.valid)
    scale = np.abs(whole.z).max()
    assert np.abs(whole.z - chunked.z).max() <= 1e-5 * scale
    assert np.abs(whole.nats - chunked.nats).max() <= 1e-5 * max(1.0, np.abs(whole.nats).max())
    assert np.array_equal(end.n_seen, chunked_end.n_seen)


def test_z_is_how_far_a_sample_was_from_the_prediction_made_a_horizon_ago(scorer: Scorer, person: Person) -> None:
    engine, m = scorer.engine, scorer.manifest
    r = person(8.0)
    surprise, _ = stream(engine, r, [123])
    x = np.clip((r.values - np.array(m.center, np.float32)) / np.array(m.scale, np.float32), -m.clip, m.clip)
    state = np.zeros((1, m.state_size), np.float32)
    mu, log_sigma, _ = engine.backend.step(x[None], r.valid[None].astype(np.float32), state)
    shape = (len(r), len(m.horizons), m.n_channels)
    t = 300
    for i, h in enumerate(m.horizons):
        expected = (x[t] - mu.reshape(shape)[t - h, i]) / np.exp(log_sigma.reshape(shape)[t - h, i])
        assert np.allclose(surprise.z[0, t, i], np.clip(expected, -100, 100), rtol=1e-3, atol=1e-4)


def test_nothing_is_scored_before_the_forecaster_has_seen_its_past(scorer: Scorer, person: Person) -> None:
    surprise, _ = stream(scorer.engine, person(8.0), [])
    for i, h in enumerate(scorer.manifest.horizons):
        first = scorer.manifest.receptive_field + h
        assert not surprise.valid[0, :first, i].any()
        assert surprise.valid[0, first:, i].all()


def test_what_stands_where_the_mask_is_false_cannot_matter(scorer: Scorer, person: Person) -> None:
    r = person(10.0)
    valid = r.valid.copy()
    valid[200:240, :6] = False
    a, _ = scorer.engine.step(np.where(valid, r.values, 0)[None], valid[None], scorer.engine.initial_state(1))
    b, _ = scorer.engine.step(np.where(valid, r.values, 777)[None], valid[None], scorer.engine.initial_state(1))
    assert np.array_equal(a.z, b.z)
    assert not a.valid[0, 200:240, :, :6].any()
    assert (a.z[~a.valid] == 0).all()


def test_streams_do_not_touch_each_other(scorer: Scorer, person: Person) -> None:
    a, b = person(8.0), person(8.0, seed=800_001)
    both, _ = scorer.engine.step(
        np.stack([a.values, b.values]), np.stack([a.valid, b.valid]), scorer.engine.initial_state(2)
    )
    alone, _ = scorer.engine.step(b.values[None], b.valid[None], scorer.engine.initial_state(1))
    assert np.allclose(both.z[1], alone.z[0], rtol=1e-4, atol=1e-4)
    assert not np.allclose(both.z[0], both.z[1], atol=0.1)


def test_a_saved_state_goes_on_as_if_nothing_had_happened(scorer: Scorer, person: Person) -> None:
    engine, r = scorer.engine, person(10.0)
    _, middle = engine.step(r.values[None, :250], r.valid[None, :250], engine.initial_state(1))
    restored = engine.state_from_arrays({k: v.copy() for k, v in middle.to_arrays().items()}, n_streams=1)
    a, _ = engine.step(r.values[None, 250:], r.valid[None, 250:], middle)
    b, _ = engine.step(r.values[None, 250:], r.valid[None, 250:], restored)
    assert np.array_equal(a.z, b.z)
    assert a.valid.any()


def test_a_state_of_another_model_is_refused(scorer: Scorer) -> None:
    arrays = scorer.engine.initial_state(2).to_arrays()
    with pytest.raises(SignalError, match="missing or unused: mu"):
        scorer.engine.state_from_arrays({k: v for k, v in arrays.items() if k != "mu"}, n_streams=2)
    with pytest.raises(SignalError, match="missing or unused: extra"):
        scorer.engine.state_from_arrays({**arrays, "extra": np.zeros(1)}, n_streams=2)
    with pytest.raises(SignalError, match="expected"):
        scorer.engine.state_from_arrays(arrays, n_streams=3)


def test_shapes_that_do_not_fit_are_refused(scorer: Scorer) -> None:
    n = scorer.manifest.n_channels
    with pytest.raises(SignalError, match="do not fit"):
        scorer.engine.step(
            np.zeros((1, 5, n + 1), np.float32), np.ones((1, 5, n + 1), bool), scorer.engine.initial_state(1)
        )
    with pytest.raises(BackendError, match="failed"):
        scorer.engine.backend.step(
            np.zeros((1, 5, n + 1), np.float32), np.ones((1, 5, n + 1), np.float32), np.zeros((1, 3), np.float32)
        )


def test_a_graph_that_is_not_the_one_the_manifest_describes_is_refused(bundle: Bundle) -> None:
    fields = bundle.manifest.model_dump(mode="json")
    fields.pop("parts")
    from kinedge.bundle import read_bundle

    no_graph = {**bundle.parts, "model.fp32.onnx": b"no graph"}
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx: .*not allowed"):
        read_bundle(pack_bundle(fields, no_graph))
    with pytest.raises(BackendError, match="ONNX Runtime refuses"):
        OnnxBackend(replace(bundle, parts=no_graph))
    other = {**fields, "state_size": fields["state_size"] + 1}
    with pytest.raises(BundleError, match="state"):
        read_bundle(pack_bundle(other, dict(bundle.parts)))
    with pytest.raises(BackendError, match="state"):
        load_backend(replace(bundle, manifest=bundle.manifest.model_copy(update={"state_size": other["state_size"]})))
    with pytest.raises(BundleError, match="no 'int8' model"):
        load_backend(bundle, precision="int8")


def test_a_stream_gets_the_same_bits_alone_and_among_seventy(scorer: Scorer, person: Person) -> None:
    m = scorer.manifest
    rng = np.random.default_rng(0)
    values = rng.normal(np.array(m.center), np.array(m.scale), (70, 4 * m.hop, m.n_channels)).astype(np.float32)
    valid = rng.random(values.shape) > 0.02

    def blocks(rows: slice) -> list[np.ndarray]:
        state = scorer.initial_state(len(values[rows]))
        found = []
        for start in range(0, 4 * m.hop, m.hop):
            hop = slice(start, start + m.hop)
            scores, surprise, state = scorer.score(
                values[rows, hop], valid[rows, hop], np.zeros_like(valid[rows, hop]), state
            )
            found += [scores.channel, scores.drop, scores.intensity, surprise.z, surprise.nats]
        return found

    together = blocks(slice(0, 70))
    assert all(np.isfinite(a).all() for a in together)
    for i in (0, 31, 32, 69):
        assert all(np.array_equal(a[i : i + 1], b) for a, b in zip(together, blocks(slice(i, i + 1)), strict=True))
