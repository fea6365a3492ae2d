"""One contract for every backend that is here. TensorRT's runs on a GPU on paper, unless there is a real one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from virtual_gpu import VirtualEngine, VirtualGpu

from kinedge.bundle import Bundle
from kinedge.edge.backends import NativeBackend, OnnxBackend, StreamingBackend, open_backend
from kinedge.edge.backends.tensorrt import TensorRTBackend
from kinedge.edge.backends.trt_build import stream_ranges
from kinedge.edge.backends.trt_library import TrtLog, driver_problem
from kinedge.edge.native import implementation, library
from kinedge.edge.offline import align_recording, hops
from kinedge.edge.scoring import Scorer
from kinedge.errors import BackendError
from kinedge.quantize.export_conv import conv_form
from kinedge.recording import Recording

KINDS = ["onnx", "native", "onnx-cuda", "tensorrt", "tensorrt-rtx", "paper", "paper-shared", "paper-no-graphs"]
CLOSE = 2e-5  # of the largest value: the forms add up in another order


def on_paper(bundle: Bundle, device: VirtualGpu, *, refuse: str = "") -> TensorRTBackend:
    engine = VirtualEngine(conv_form(bundle.model_bytes()), device, refuse=refuse)
    return TensorRTBackend(
        engine, device, bundle.manifest, ranges=stream_ranges(64), log=TrtLog(), name="tensorrt on paper"
    )


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> StreamingBackend:
    kind = request.param
    if kind == "paper":
        return on_paper(bundle, VirtualGpu())
    if kind == "paper-shared":
        return on_paper(bundle, VirtualGpu(shares_memory=True))
    if kind == "paper-no-graphs":
        return on_paper(bundle, VirtualGpu(can_capture=False))
    if kind not in ("onnx", "native") and driver_problem() is not None:
        pytest.skip(f"{kind}: {driver_problem()}")
    try:
        return open_backend(bundle, [kind])
    except BackendError as e:
        pytest.skip(str(e))


def some_input(bundle: Bundle, n_streams: int, n_samples: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (rng.random((n_streams, n_samples, bundle.manifest.n_channels)) < 0.9).astype(np.float32)
    return rng.normal(size=mask.shape).astype(np.float32) * mask, mask


def zeros(bundle: Bundle, n_streams: int) -> np.ndarray:
    return np.zeros((n_streams, bundle.manifest.state_size), np.float32)


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=CLOSE * float(np.abs(b).max()), rtol=0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(st.sampled_from([1, 7, 49, 50, 51, 120]), min_size=1, max_size=6),
    n=st.integers(1, 20),
    kept=st.booleans(),
)
def test_any_chunking_gives_what_one_call_of_the_reference_gives(
    backend: StreamingBackend, bundle: Bundle, chunks: list[int], n: int, kept: bool
) -> None:
    x, mask = some_input(bundle, n, sum(chunks))
    expected = OnnxBackend(bundle).step(x, mask, zeros(bundle, n))
    streams, state = backend.allocate(n), zeros(bundle, n)
    pieces, start = [], 0
    for length in chunks:
        part = slice(start, start + length)
        if kept:
            pieces.append(streams.step(x[:, part], mask[:, part]))
        else:
            mu, log_sigma, state = backend.step(x[:, part], mask[:, part], state)
            pieces.append((mu, log_sigma))
        start += length
    for i in (0, 1):
        assert_close(np.concatenate([p[i] for p in pieces], axis=1), expected[i])
    assert_close(streams.save() if kept else state, expected[2])


def test_many_hops_in_a_row_stay_with_the_reference(backend: StreamingBackend, bundle: Bundle) -> None:
    hop = bundle.manifest.hop
    x, mask = some_input(bundle, 3, 9 * hop)
    expected = OnnxBackend(bundle).step(x, mask, zeros(bundle, 3))
    streams = backend.allocate(3)
    found = [streams.step(x[:, i : i + hop], mask[:, i : i + hop]) for i in range(0, 9 * hop, hop)]
    assert_close(np.concatenate([f[0] for f in found], axis=1), expected[0])
    assert_close(streams.save(), expected[2])


def test_a_saved_state_goes_on_anywhere_and_is_not_changed_by_what_comes(
    backend: StreamingBackend, bundle: Bundle
) -> None:
    hop = bundle.manifest.hop
    x, mask = some_input(bundle, 4, 3 * hop)
    a = backend.allocate(4)
    a.step(x[:, :hop], mask[:, :hop])
    state = a.save()
    copy = state.copy()
    first = a.step(x[:, hop:], mask[:, hop:])
    np.testing.assert_array_equal(state, copy)
    b = backend.allocate(4)
    b.step(x[:, :7], mask[:, :7])
    b.restore(state)
    for mine, other in zip(b.step(x[:, hop:], mask[:, hop:]), first, strict=True):
        assert_close(mine, other)
    a.restore(state)
    for mine, other in zip(a.step(x[:, hop:], mask[:, hop:]), first, strict=True):
        assert_close(mine, other)
    assert_close(backend.step(x[:, hop:], mask[:, hop:], state)[0], first[0])


def test_a_state_seen_before_is_not_taken_for_the_newest(backend: StreamingBackend, bundle: Bundle) -> None:
    x, mask = some_input(bundle, 2, 100)
    old = backend.step(x[:, :50], mask[:, :50], zeros(bundle, 2))[2]
    new = backend.step(x[:, 50:], mask[:, 50:], old)[2]
    again = backend.step(x[:, 50:], mask[:, 50:], old)[2]
    assert_close(again, new)
    assert not np.allclose(backend.step(x[:, 50:], mask[:, 50:], new)[2], new)


def test_results_are_the_callers_own(backend: StreamingBackend, bundle: Bundle) -> None:
    x, mask = some_input(bundle, 2, 50)
    streams = backend.allocate(2)
    mu, log_sigma = streams.step(x, mask)
    kept = mu.copy(), log_sigma.copy()
    streams.step(2 * x, mask)
    np.testing.assert_array_equal(mu, kept[0])
    np.testing.assert_array_equal(log_sigma, kept[1])


def test_streams_come_and_go_without_touching_the_others(backend: StreamingBackend, bundle: Bundle) -> None:
    hop = bundle.manifest.hop
    x, mask = some_input(bundle, 3, 4 * hop)
    alone = [backend.step(x[[i]], mask[[i]], zeros(bundle, 1)) for i in range(3)]
    state = zeros(bundle, 2)
    rows = [0, 1]
    found: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for hop_no in range(4):
        part = slice(hop_no * hop, (hop_no + 1) * hop)
        mu, _, state = backend.step(x[rows, part], mask[rows, part], state)
        for i, row in enumerate(rows):
            found[row].append(mu[i])
        if hop_no == 0:  # the third person comes, late: their stream begins at the second hop
            rows, state = [0, 1, 2], np.concatenate([state, zeros(bundle, 1)])
        elif hop_no == 2:  # the first goes
            rows, state = [1, 2], state[1:].copy()
    assert_close(np.concatenate(found[1]), alone[1][0][0])
    assert_close(np.concatenate(found[0]), alone[0][0][0, : 3 * hop])
    late = backend.step(x[[2], hop:], mask[[2], hop:], zeros(bundle, 1))
    assert_close(np.concatenate(found[2]), late[0][0])


def test_nan_in_one_stream_stays_there(backend: StreamingBackend, bundle: Bundle) -> None:
    x, mask = some_input(bundle, 5, 150)
    clean = backend.step(x, mask, zeros(bundle, 5))
    x[2, 60] = np.nan
    dirty = backend.step(x, mask, zeros(bundle, 5))
    others = [0, 1, 3, 4]
    for a, b in zip(dirty, clean, strict=True):
        assert_close(a[others], b[others])
    assert np.isnan(dirty[0][2, 60:]).any()
    assert_close(dirty[0][2, :60], clean[0][2, :60])


def test_what_does_not_fit_is_refused_and_changes_nothing(backend: StreamingBackend, bundle: Bundle) -> None:
    n = bundle.manifest.n_channels
    x, mask = some_input(bundle, 2, 50)
    streams = backend.allocate(2)
    streams.step(x, mask)
    before = streams.save().copy()
    wrong = [(x[:1], mask[:1]), (x[..., : n - 1], mask[..., : n - 1]), (x, mask[:, :10]), (x[0], mask[0])]
    wrong += [(x.astype(np.float64), mask), (x[:, :0], mask[:, :0])]
    for bad in wrong:
        with pytest.raises(BackendError, match="failed"):
            streams.step(*bad)
    for bad_state in (before[:1], before[:, :-1], before.astype(np.float64)):
        with pytest.raises(BackendError, match="was expected"):
            streams.restore(bad_state)
    np.testing.assert_array_equal(streams.save(), before)
    with pytest.raises(BackendError, match="failed"):
        backend.step(x, mask, before[:, :-1])
    with pytest.raises(BackendError):
        backend.allocate(0)


def test_verdicts_go_on_when_the_state_moves_to_another_backend(
    backend: StreamingBackend, bundle: Bundle, person: Callable[..., Recording]
) -> None:
    reference, other = Scorer(bundle), Scorer(bundle, backend=backend)
    recording = align_recording(person(90.0), rate_hz=reference.manifest.rate_hz)
    hop = reference.manifest.hop
    state = moved = reference.initial_state(1)
    told = []
    for i, hop_of in enumerate(hops(recording, hop)):
        expected, state = reference.step(*hop_of, state, end_tick=(i + 1) * hop)
        found, moved = (other if 20 <= i < 60 else reference).step(*hop_of, moved, end_tick=(i + 1) * hop)
        mine, theirs = found.verdict(0), expected.verdict(0)
        assert mine.decision == theirs.decision
        assert mine.score == pytest.approx(theirs.score, abs=1e-3)
        told.append(theirs.decision)
    assert len(told) > 80 and len(set(told)) > 1


def test_the_first_backend_that_works_is_used_and_only_a_named_one(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    if driver_problem() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"tensorrt: .*onnx-cuda: "):
        open_backend(bundle, ["tensorrt", "onnx-cuda"])
    assert open_backend(bundle, ["tensorrt", "onnx"]).name.startswith("onnxruntime")
    assert "because tensorrt" in caplog.text and str(driver_problem()) in caplog.text
    with pytest.raises(BackendError, match="no backend is allowed"):
        open_backend(bundle, [])


def test_whole_hops_are_launched_as_graphs_and_memory_is_given_back(bundle: Bundle) -> None:
    device = VirtualGpu()
    backend = on_paper(bundle, device)
    x, mask = some_input(bundle, 9, 10 * bundle.manifest.hop)
    backend.allocate(9).step(x, mask)
    assert device.launches == 8  # each way round runs once by itself first
    assert device.n_allocations == 0
    for n in range(1, 10):
        backend.step(x[:n, :50], mask[:n, :50], zeros(bundle, n))
    assert device.n_allocations == 4 * 10  # four sizes: 4 buffers on both sides and 2 states each


@pytest.mark.parametrize(
    "call", ["execute_async_v3", "set_input_shape", "set_tensor_address", "set_optimization_profile_async"]
)
def test_a_refusal_of_tensorrt_is_one_error_with_what_it_said(bundle: Bundle, call: str) -> None:
    backend = on_paper(bundle, VirtualGpu(), refuse=call)
    x, mask = some_input(bundle, 1, 50)
    with pytest.raises(BackendError, match=r"tensorrt on paper: .*TensorRT said: nothing"):
        backend.step(x, mask, zeros(bundle, 1))


def test_more_streams_than_compiled_for_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="compiled for 1 to 64"):
        on_paper(bundle, VirtualGpu()).allocate(65)


@pytest.mark.parametrize("kind", [OnnxBackend, NativeBackend])
@pytest.mark.parametrize("n_streams", [32, 5, 1])
def test_a_step_bound_to_its_memory_is_the_step_to_the_bit(bundle: Bundle, n_streams: int, kind: type) -> None:
    if kind is NativeBackend and library() is None:
        pytest.skip(implementation())
    backend, hop = kind(bundle), bundle.manifest.hop
    bound = backend.bind(32, hop)
    state = zeros(bundle, n_streams)
    for k in range(3):
        x, mask = some_input(bundle, n_streams, hop, seed=k)
        bound.x[:n_streams], bound.mask[:n_streams], bound.state[:n_streams] = x, mask, state
        bound.run(n_streams)
        *forecast, state = backend.step(x, mask, state)
        for own, expected in zip((bound.mu, bound.log_sigma, bound.state_out), (*forecast, state), strict=True):
            assert np.array_equal(own[:n_streams], expected)
