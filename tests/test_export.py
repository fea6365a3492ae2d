from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import BackendError, SignalError
from kinedge.quantize.export import INPUTS, OUTPUTS, export_onnx, parity
from kinedge.training.model import Forecaster, ForecasterConfig

# Documented by TensorRT 8.6 and ONNX Runtime 1.23 alike; a new operator needs a look at both lists.
PLAIN = {"Add", "Clip", "Concat", "MatMul", "Mul", "Relu", "Reshape", "Slice", "Split"}


def random_model(config: ForecasterConfig) -> Forecaster:
    generator = torch.Generator().manual_seed(7)
    model = Forecaster(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


MODEL = random_model(ForecasterConfig(12))
GRAPH = export_onnx(MODEL)


def random_input(n_streams: int, n: int, n_channels: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_streams, n, n_channels)).astype(np.float32)
    return x, (rng.random(x.shape) < 0.85).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 150), min_size=1, max_size=15), n_streams=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_torch_and_the_graph_agree_whole_and_in_any_chunks(chunks: list[int], n_streams: int, seed: int) -> None:
    x, mask = random_input(n_streams, sum(chunks), 12, seed=seed)
    differences = parity(MODEL, GRAPH, x, mask, chunks=chunks)
    assert set(differences) == {"whole", "streaming", "state"}
    assert max(differences.values()) <= 1e-5


@settings(max_examples=12, deadline=None)
@given(
    n_channels=st.integers(1, 8),
    horizons=st.sampled_from([(1,), (2, 10), (1, 3, 9)]),
    var_order=st.sampled_from([0, 2, 5, 9]),
    width=st.integers(1, 9),
    dilations=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    kernel=st.integers(2, 4),
)
def test_every_shape_of_network_exports(
    n_channels: int, horizons: tuple[int, ...], var_order: int, width: int, dilations: list[int], kernel: int
) -> None:
    model = random_model(ForecasterConfig(n_channels, horizons, var_order, width, tuple(dilations), kernel))
    x, mask = random_input(2, 50, n_channels)
    assert max(parity(model, export_onnx(model), x, mask, seed=1).values()) <= 1e-5


def test_the_graph_keeps_its_contract() -> None:
    graph = onnx.load_from_string(GRAPH)
    onnx.checker.check_model(graph, full_check=True)
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {
        "x": ["B", "T", 12],
        "mask": ["B", "T", 12],
        "state": ["B", MODEL.state_size],
        "mu": ["B", "T", 24],
        "log_sigma": ["B", "T", 24],
        "state_out": ["B", MODEL.state_size],
    }
    assert (tuple(v.name for v in graph.graph.input), tuple(v.name for v in graph.graph.output)) == (INPUTS, OUTPUTS)
    assert {node.op_type for node in graph.graph.node} <= PLAIN
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert graph.ir_version == 8
    assert not any(t.external_data for t in graph.graph.initializer)
    assert len(GRAPH) < 6 * MODEL.n_parameters


def test_equal_weights_give_equal_bytes() -> None:
    assert export_onnx(random_model(ForecasterConfig(12))) == GRAPH
    other = random_model(ForecasterConfig(12))
    with torch.no_grad():
        other.inp.bias[0] += 1e-3
    assert export_onnx(other) != GRAPH


@pytest.mark.parametrize(
    "name", ["var.weight", "var.bias", "inp.weight", "convs.3.weight", "convs.5.bias", "head.weight"]
)
def test_parity_notices_a_weight_that_was_changed(name: str) -> None:
    other = random_model(ForecasterConfig(12))
    with torch.no_grad():
        other.get_parameter(name).add_(0.05)
    x, mask = random_input(1, 200, 12)
    assert parity(other, GRAPH, x, mask)["whole"] > 1e-4


def test_a_network_that_diverged_is_not_exported() -> None:
    model = random_model(ForecasterConfig(3))
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    with pytest.raises(BackendError, match=r"NaN or infinity in head\.bias"):
        export_onnx(model)


def test_parity_refuses_what_cannot_be_compared() -> None:
    x, mask = random_input(1, 20, 12)
    with pytest.raises(SignalError, match="must both be"):
        parity(MODEL, GRAPH, x[:, :, :5], mask[:, :, :5])
    with pytest.raises(SignalError, match="sum to the 20"):
        parity(MODEL, GRAPH, x, mask, chunks=[5, 5])
    with pytest.raises(SignalError, match="must be positive"):
        parity(MODEL, GRAPH, x, mask, chunks=[21, -1])
    with pytest.raises(BackendError, match="refuses the graph"):
        parity(MODEL, b"no graph", x, mask)
