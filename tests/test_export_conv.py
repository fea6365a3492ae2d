from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from kinedge.bundle import Bundle
from kinedge.errors import BackendError
from kinedge.quantize.export import export_onnx, parity
from kinedge.quantize.export_conv import conv_form
from kinedge.quantize.fp16 import to_fp16
from kinedge.training.model import Forecaster, ForecasterConfig

# Operators of opset 17 that TensorRT 8.6, 10 and 11 and ONNX Runtime 1.23 all document.
PLAIN = {"Add", "Clip", "Concat", "Conv", "Mul", "Relu", "Reshape", "Slice", "Split", "Transpose"}


def random_model(config: ForecasterConfig) -> Forecaster:
    generator = torch.Generator().manual_seed(7)
    model = Forecaster(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


MODEL = random_model(ForecasterConfig(12))
MATRIX = export_onnx(MODEL)
CONV = conv_form(MATRIX)


def run(graph: bytes, x: np.ndarray, mask: np.ndarray, state: np.ndarray) -> Sequence[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found: Sequence[np.ndarray] = session.run(["mu", "log_sigma", "state_out"], {"x": x, "mask": mask, "state": state})
    return found


def random_input(n_streams: int, n: int, n_channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n_streams, n, n_channels)).astype(np.float32)
    return x, (rng.random(x.shape) < 0.85).astype(np.float32)


@settings(max_examples=12, deadline=None)
@given(
    n_channels=st.integers(1, 8),
    horizons=st.sampled_from([(1,), (2, 10), (1, 3, 9)]),
    var_order=st.sampled_from([0, 2, 5, 9]),
    width=st.integers(1, 9),
    dilations=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    kernel=st.integers(2, 4),
)
def test_convolutions_agree_with_torch_for_every_shape_of_network(
    n_channels: int, horizons: tuple[int, ...], var_order: int, width: int, dilations: list[int], kernel: int
) -> None:
    model = random_model(ForecasterConfig(n_channels, horizons, var_order, width, tuple(dilations), kernel))
    x, mask = random_input(3, 60, n_channels)
    differences = parity(model, conv_form(export_onnx(model)), x, mask, seed=1)
    assert max(differences.values()) <= 1e-5


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 299), conv_first=st.booleans())
def test_a_state_goes_on_in_the_other_form(cut: int, conv_first: bool) -> None:
    x, mask = random_input(2, 300, 12)
    state = np.zeros((2, MODEL.state_size), np.float32)
    whole = run(MATRIX, x, mask, state)
    first, second = (CONV, MATRIX) if conv_first else (MATRIX, CONV)
    a = run(first, x[:, :cut], mask[:, :cut], state)
    b = run(second, x[:, cut:], mask[:, cut:], a[2])
    for i in (0, 1):
        np.testing.assert_allclose(np.concatenate([a[i], b[i]], axis=1), whole[i], atol=1e-5 * np.abs(whole[i]).max())
    np.testing.assert_allclose(b[2], whole[2], atol=1e-5 * np.abs(whole[2]).max())


def test_the_shipped_model_has_a_convolution_form_with_the_same_answers(bundle: Bundle) -> None:
    matrix = bundle.model_bytes()
    m = bundle.manifest
    x, mask = random_input(4, 400, m.n_channels)
    state = np.zeros((4, m.state_size), np.float32)
    for a, b in zip(run(matrix, x, mask, state), run(conv_form(matrix), x, mask, state), strict=True):
        assert float(np.abs(a - b).max()) <= 1e-5 * float(np.abs(a).max())


def test_the_form_keeps_to_operators_that_every_tensorrt_parses() -> None:
    graph = onnx.load_from_string(CONV)
    assert {n.op_type for n in graph.graph.node} <= PLAIN
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert graph.ir_version == 8
    weights = {t.name: t for t in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Conv":
            assert weights[node.input[1]].dims[2] == 1
            assert all(weights[name].data_type == onnx.TensorProto.FLOAT for name in node.input[1:])
    assert conv_form(MATRIX) == CONV


def test_graphs_that_are_not_ours_are_refused() -> None:
    with pytest.raises(BackendError, match="no fp32 graph that kinedge exported"):
        conv_form(b"no graph")
    with pytest.raises(BackendError, match="no forecaster that kinedge exports"):
        conv_form(CONV)
    odd = onnx.load_from_string(MATRIX)
    head = next(t for t in odd.graph.initializer if t.name == "head_weight")
    head.CopyFrom(numpy_helper.from_array(np.zeros((5, 48), np.float32), "head_weight"))
    with pytest.raises(BackendError, match="no forecaster that kinedge exports"):
        conv_form(odd.SerializeToString())


@pytest.mark.parametrize("form", [MATRIX, CONV], ids=["matrix", "convolution"])
def test_half_precision_stays_near_and_keeps_its_inputs_and_state_in_float32(form: bytes) -> None:
    half = to_fp16(form)
    graph = onnx.load_from_string(half).graph
    kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert {t.data_type for t in graph.initializer} == {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    assert len(half) < 0.7 * len(form)
    x, mask = random_input(2, 200, 12)
    state = np.zeros((2, MODEL.state_size), np.float32)
    for a, b in zip(run(form, x, mask, state), run(half, x, mask, state), strict=True):
        difference = float(np.abs(a - b).max()) / float(np.abs(a).max())
        assert 0 < difference < 5e-3


def test_weights_that_half_precision_cannot_hold_are_refused() -> None:
    model = random_model(ForecasterConfig(3))
    with torch.no_grad():
        model.inp.weight[0, 0] = 1e6
    with pytest.raises(BackendError, match="inp_weight has weights beyond 65504"):
        to_fp16(export_onnx(model))
    with pytest.raises(BackendError, match="start from the fp32 graph"):
        to_fp16(to_fp16(MATRIX))
    with pytest.raises(BackendError, match="no readable ONNX graph"):
        to_fp16(b"no graph")
