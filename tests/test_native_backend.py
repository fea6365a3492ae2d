"""The native step: of every network that is exported, to the bit in any company, and of no other graph."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from firmware_program import compile_c
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from test_export_conv import random_input, random_model, run

from kinedge.bundle import Bundle
from kinedge.edge.backends import NativeBackend, OnnxBackend, open_backend
from kinedge.edge.backends.native_graph import Forecaster, read_forecaster
from kinedge.edge.native import implementation, library
from kinedge.errors import BackendError, BundleError
from kinedge.quantize.export import export_onnx
from kinedge.quantize.export_conv import conv_form
from kinedge.training.model import ForecasterConfig

C_SOURCES = Path(__file__).resolve().parents[1] / "edge" / "native"
needs_library = pytest.mark.skipif(library() is None, reason=implementation())
SHAPES = {
    "n_channels": st.integers(1, 9),
    "horizons": st.sampled_from([(1,), (2, 10), (1, 3, 9)]),
    "var_order": st.sampled_from([0, 2, 5, 16]),
    "width": st.integers(1, 33),
    "dilations": st.lists(st.integers(1, 9), min_size=1, max_size=4),
    "kernel": st.integers(2, 4),
}


def bundle_of(config: ForecasterConfig, graph: bytes) -> Bundle:
    manifest = SimpleNamespace(
        name="made", n_channels=config.n_channels, horizons=config.horizons, state_size=config.state_size
    )
    return cast(Bundle, SimpleNamespace(manifest=manifest, model_bytes=lambda _precision="fp32": graph))


def by_numpy(
    f: Forecaster, x: np.ndarray, mask: np.ndarray, state: np.ndarray, *, fused: bool
) -> tuple[np.ndarray, ...]:
    """One stream, sample by sample: the sums of the C in the order of the C, each product rounded or not."""
    s, parts, at = f.shape, {}, 0
    for name, dims in s.floats.items():
        padded = dims[-1] if name.startswith("log") else -(-dims[-1] // 8) * 8
        n_rows = int(np.prod(dims[:-1]))
        parts[name] = f.weights[at : at + n_rows * padded].reshape(n_rows, padded)[:, : dims[-1]]
        at += n_rows * padded
    assert at == len(f.weights)

    def sums(rows: list[np.ndarray], name: str) -> np.ndarray:
        total = np.zeros(parts[name].shape[1], np.float32)
        for value, weights in zip(np.concatenate(rows), parts[name], strict=True):
            product = np.longdouble(value) * weights if fused else value * weights
            total = (total + product).astype(np.float32)
        return total

    cuts = np.cumsum(s.state_sizes)[:-1]
    widths = ([s.n_channels] if s.var_order else []) + [s.width] * len(s.dilations)
    lines = [list(p.reshape(-1, w)) for p, w in zip(np.split(state, cuts), widths, strict=True)]
    blocks = lines[s.var_order > 0 :]
    mus, scales = [], []
    for now, there in zip(x, mask, strict=True):
        h = sums([now, there], "inp_weight") + parts["inp_bias"][0]
        for i, (line, d) in enumerate(zip(blocks, s.dilations, strict=True), start=1):
            line.append(np.maximum(h, 0))
            h = h + (sums(line[::d], f"conv_{i}_weight") + parts[f"conv_{i}_bias"][0])
            del line[0]
        head = sums([np.maximum(h, 0)], "head_weight") + parts["head_bias"][0]
        mu = head[: s.n_outputs]
        if s.var_order:
            lines[0].append(now)
            mu = sums(lines[0], "var_weight") + mu
            del lines[0][0]
        mus.append(mu)
        scales.append(np.clip(head[s.n_outputs :], parts["log_sigma_min"][0], parts["log_sigma_max"][0]))
    return np.stack(mus), np.stack(scales), np.concatenate([np.ravel(line) for line in lines])


@needs_library
@settings(max_examples=25, deadline=None)
@given(n_streams=st.integers(1, 6), n=st.integers(1, 70), **SHAPES)
def test_every_shape_of_network_gives_the_bits_of_its_sums_and_what_onnx_runtime_gives(
    n_streams: int, n: int, **shape: Any
) -> None:
    config = ForecasterConfig(**{**shape, "dilations": tuple(shape["dilations"])})
    graph = export_onnx(random_model(config))
    backend = NativeBackend(bundle_of(config, graph))
    x, mask = random_input(n_streams, n, config.n_channels)
    state = np.random.default_rng(n).normal(size=(n_streams, config.state_size)).astype(np.float32)
    found = backend.step(x, mask, state)
    for own, other in zip(found, run(graph, x, mask, state), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-5 * max(1.0, float(np.abs(other).max())))
    forecaster = read_forecaster(graph, backend.manifest)
    for i in {0, n_streams - 1}:
        own = [part[i] for part in found]
        both = (by_numpy(forecaster, x[i], mask[i], state[i], fused=fused) for fused in (True, False))
        assert any(all(map(np.array_equal, own, expected)) for expected in both)


@needs_library
@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.sampled_from([1, 2, 7, 50, 63, 64, 65, 130]), min_size=1, max_size=6),
    n_streams=st.integers(1, 70),
)
def test_neither_chunks_nor_company_nor_where_the_state_is_kept_change_a_bit(
    bundle: Bundle, chunks: list[int], n_streams: int
) -> None:
    backend = NativeBackend(bundle)
    x, mask = random_input(n_streams, sum(chunks), bundle.manifest.n_channels)
    state = np.zeros((n_streams, bundle.manifest.state_size), np.float32)
    whole = backend.step(x, mask, state)
    kept, pieces, start = backend.allocate(n_streams), [], 0
    for length in chunks:
        pieces.append(kept.step(x[:, start : start + length], mask[:, start : start + length]))
        start += length
    for i in (0, 1):
        np.testing.assert_array_equal(np.concatenate([p[i] for p in pieces], axis=1), whole[i])
    np.testing.assert_array_equal(kept.save(), whole[2])
    some = n_streams // 2
    alone = backend.step(x[[some]], mask[[some]], state[[some]])
    for one, all_of_them in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(one[0], all_of_them[some])


@needs_library
def test_memory_that_does_not_fit_never_reaches_the_c(bundle: Bundle) -> None:
    bound = NativeBackend(bundle).bind(3, 5)
    for n in (-1, 4, 1 << 70):
        with pytest.raises(BackendError, match="there are 3"):
            bound.run(n)


@needs_library
@pytest.mark.parametrize("n_samples", [1, 20, 70])
def test_a_state_that_is_gone_on_in_where_it_lies_is_the_one_that_is_brought(bundle: Bundle, n_samples: int) -> None:
    backend, rng = NativeBackend(bundle), np.random.default_rng(n_samples)
    x, mask = random_input(5, n_samples, bundle.manifest.n_channels)
    state = rng.normal(size=(9, bundle.manifest.state_size)).astype(np.float32)
    rows, bound, own = rng.permutation(9)[:5], backend.bind(5, n_samples), state.copy()
    bound.x[:], bound.mask[:], bound.state[:] = x, mask, state[rows]
    bound.run_in(own, rows)
    found = bound.mu.copy(), bound.log_sigma.copy()
    bound.run(5)  # of its own, which nobody has touched
    np.testing.assert_array_equal(found, (bound.mu, bound.log_sigma))
    state[rows] = bound.state_out
    np.testing.assert_array_equal(own, state)
    with pytest.raises(BackendError, match="refuses"):
        bound.run_in(own, np.array([0, 9]))
    for wrong in (own[:, :-1], own.astype(np.float64), np.frombuffer(own.tobytes(), np.float32).reshape(own.shape)):
        with pytest.raises(BackendError, match="where it lies"):
            bound.run_in(wrong, rows)
    with pytest.raises(BackendError, match="cannot be read"):
        bound.run_in(own, rows.astype(np.int32))
    with pytest.raises(BackendError, match="there are 5"):
        bound.run_in(own, np.arange(6))


def changed(graph: bytes, change: str) -> bytes:
    """A valid graph that is not quite the exporter's."""
    model = onnx.load_from_string(graph)
    nodes, tensors = model.graph.node, {t.name: t for t in model.graph.initializer}

    def put(name: str, value: np.ndarray) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))

    if change == "leaky":
        next(n for n in nodes if n.op_type == "Relu").op_type = "Tanh"
    elif change == "another order":
        concat = next(n for n in nodes if n.output[0] == "taps_2")
        concat.input[:] = reversed(concat.input)
    elif change == "another name":
        next(n for n in nodes if n.output[0] == "log_sigma").name = "other"  # a label: it says nothing
        next(n for n in nodes if n.output[0] == "head").input[1] = "inp_bias"
    elif change == "an axis":
        next(n for n in nodes if n.op_type == "Concat").attribute[0].i = 1
    elif change == "opset":
        model.opset_import[0].version = 18
    elif change == "nan":
        weight = numpy_helper.to_array(tensors["conv_3_weight"]).copy()
        weight[5, 5] = np.nan
        put("conv_3_weight", weight)
    elif change == "narrow":
        put("head_weight", numpy_helper.to_array(tensors["head_weight"])[:, :-1])
    elif change == "no weight":
        model.graph.initializer.remove(tensors["inp_weight"])
    elif change == "no rank":
        put("inp_weight", np.zeros((), np.float32))
    elif change == "taps":
        put("conv_1_weight", np.zeros((24 * 65, 24), np.float32))
    elif change == "one more":
        nodes.append(onnx.helper.make_node("Relu", ["mu"], ["more"]))
    elif change == "one more constant":
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "more"))
    elif change == "twice":
        model.graph.initializer.append(tensors["inp_bias"])
    elif change == "state":
        name = nodes[0].input[1]
        put(name, np.array([1 << 40, *numpy_helper.to_array(tensors[name])[1:]]))
    elif change == "not in one block":
        values = numpy_helper.to_array(tensors["inp_bias"]).copy()
        tensors["inp_bias"].CopyFrom(onnx.helper.make_tensor("inp_bias", 1, values.shape, values))
    return bytes(model.SerializeToString())


CHANGES = (
    "leaky", "another order", "another name", "an axis", "opset", "nan", "narrow", "no weight", "no rank", "taps",
    "one more", "one more constant", "twice", "state", "not in one block",
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_that_is_not_the_exporters_is_refused(bundle: Bundle, change: str) -> None:
    read_forecaster(changed(bundle.model_bytes(), ""), bundle.manifest)
    with pytest.raises(BackendError, match="the native step takes float32 graphs"):
        read_forecaster(changed(bundle.model_bytes(), change), bundle.manifest)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_the_file_is_refused_or_fits(bundle: Bundle, data: st.DataObject) -> None:
    graph = bytearray(bundle.model_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_forecaster(bytes(graph), bundle.manifest)
    except (BackendError, BundleError):
        return
    assert found.shape.state_sizes and sum(found.shape.state_sizes) == bundle.manifest.state_size
    assert np.isfinite(found.weights).all()


@needs_library
def test_other_graphs_go_to_onnx_runtime_only_where_it_is_named(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    other = replace(bundle, parts={**bundle.parts, "model.fp32.onnx": conv_form(bundle.model_bytes())})
    caplog.set_level(logging.INFO)
    with pytest.raises(BackendError, match=r"native: .*use backend 'onnx'"):
        open_backend(other, ["native"])
    assert open_backend(other).name.startswith("onnxruntime")
    assert open_backend(other, ["native", "onnx"]).name.startswith("onnxruntime")
    assert "because native" in caplog.text
    assert open_backend(bundle, ["native", "onnx"]).name == "native cpu fp32"
    as_int8 = bundle.manifest.model_copy(update={"precisions": {"fp32": "model.fp32.onnx", "int8": "model.fp32.onnx"}})
    with pytest.raises(BackendError, match="not in int8"):
        NativeBackend(replace(bundle, manifest=as_int8), precision="int8")


@needs_library
def test_by_default_a_board_steps_natively_and_never_imports_a_runtime() -> None:
    code = """
import sys
import kinedge.edge.service
from kinedge.bundle import read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.scoring import Scorer
print(Scorer(read_bundle(DEFAULT_BUNDLE)).engine.backend.name, "onnxruntime" in sys.modules)
"""
    environment = {k: v for k, v in os.environ.items() if k != "KINEDGE_NATIVE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "native cpu fp32 False"
    off = {**environment, "KINEDGE_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=off, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnxruntime") and done.stdout.strip().endswith("True")


def test_without_the_library_it_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinedge.edge.backends.native._function", lambda: None)
    with pytest.raises(BackendError, match=r"the native step is not there: .*use backend 'onnx'"):
        NativeBackend(bundle)


@needs_library
def test_the_shipped_model_keeps_the_promise_of_parity(bundle: Bundle) -> None:
    x, mask = random_input(4, 500, bundle.manifest.n_channels)
    state = np.zeros((4, bundle.manifest.state_size), np.float32)
    for own, other in zip(
        NativeBackend(bundle).step(x, mask, state), OnnxBackend(bundle).step(x, mask, state), strict=True
    ):
        assert float(np.abs(own - other).max()) <= 1e-5 * float(np.abs(other).max())


@pytest.mark.parametrize("width", ["KINEDGE_NARROW", "OF_THIS_PROCESSOR"])
def test_the_c_stays_within_its_arrays(tmp_path: Path, width: str) -> None:
    flags = ["-std=gnu99", "-O1", f"-I{C_SOURCES}", f"-D{width}"]
    program = compile_c(tmp_path / "tcn", Path(__file__).with_name("native_tcn.c"), C_SOURCES / "tcn.c", flags=flags)
    done = subprocess.run([program, "200"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 50


@pytest.mark.skipif(platform.machine() != "x86_64", reason="all others have one width of vectors")
def test_a_processor_without_wide_vectors_gives_its_own_sums(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler here")
    built = tmp_path / "narrow.so"
    flags = ["-std=gnu99", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-DKINEDGE_NARROW"]
    subprocess.run(["gcc", *flags, C_SOURCES / "tcn.c", "-o", built], check=True, timeout=120)
    function = ctypes.CDLL(str(built)).kinedge_tcn
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    monkeypatch.setattr("kinedge.edge.backends.native._function", lambda: function)
    x, mask = random_input(2, 70, bundle.manifest.n_channels)
    state = np.random.default_rng(1).normal(size=(2, bundle.manifest.state_size)).astype(np.float32)
    found = NativeBackend(bundle).step(x, mask, state)
    forecaster = read_forecaster(bundle.model_bytes(), bundle.manifest)
    for i in range(2):
        for own, expected in zip(found, by_numpy(forecaster, x[i], mask[i], state[i], fused=False), strict=True):
            np.testing.assert_array_equal(own[i], expected)
