"""Graphs in the form that NVIDIA ModelOpt writes are brought to the contract; where it is installed, its own are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from kinedge.bundle import Bundle
from kinedge.edge.backends.trt_build import build_engine
from kinedge.edge.backends.trt_library import load_library
from kinedge.errors import BackendError
from kinedge.quantize.adopt import adopt
from kinedge.quantize.checker import check_qdq
from kinedge.quantize.export_conv import conv_form
from kinedge.quantize.int8 import activation_scales, layers_of, load, quantise, weight_scales
from kinedge.quantize.sensitivity import feed_of
from kinedge.training.simulate import SimulationConfig, simulate

FORMS = {"products": lambda graph: graph, "convolutions": conv_form}


@pytest.fixture(scope="module")
def feed(bundle: Bundle) -> dict[str, np.ndarray]:
    person = simulate(SimulationConfig(subject_seed=740, duration_s=20))
    return feed_of(person.select(bundle.manifest.sensor_specs), bundle)


def as_modelopt_writes(graph: bytes, scales: dict[str, float]) -> bytes:
    """The form that ModelOpt 0.47 gave these graphs: its names, opset and IR; pairs that all consumers share, also on
    what goes into sums; weights of matrix products with a scale per column on axis 1."""
    proto = load(graph)
    constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    pairs: list[onnx.NodeProto] = []

    def pair(value: str, scale: np.ndarray, **axis: Any) -> str:
        by = [f"{value}_scale", f"{value}_zero_point"]
        for by_name, array in zip(by, (scale, np.zeros(scale.shape, np.int8)), strict=True):
            proto.graph.initializer.append(numpy_helper.from_array(array, by_name))
        made = []
        for kind, source in (("QuantizeLinear", value), ("DequantizeLinear", f"{value}_QuantizeLinear_Output")):
            made.append(
                helper.make_node(kind, [source, *by], [f"{value}_{kind}_Output"], name=f"{value}_{kind}", **axis)
            )
        pairs.extend(made)
        return made[1].output[0]

    replaced: dict[str, str] = {}
    for layer in layers_of(proto.graph):
        weight, product = constants[layer.weight], proto.graph.node[layer.node]
        if product.op_type == "Conv":
            replaced[layer.weight] = pair(layer.weight, weight_scales(weight), axis=0)
        else:
            replaced[layer.weight] = pair(layer.weight, weight_scales(np.ascontiguousarray(weight.T)), axis=1)
        replaced.setdefault(layer.activation, pair(layer.activation, np.array(scales[layer.name], np.float32)))
    sums = [n for n in proto.graph.node if n.op_type == "Add" and n.output[0].startswith("h_")]
    for value in dict.fromkeys(name for n in sums for name in n.input):
        replaced.setdefault(value, pair(value, np.array(0.05, np.float32)))
    for node in proto.graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    order = {out: i for i, node in enumerate(proto.graph.node) for out in node.output}
    placed = [(order.get(n.input[0].removesuffix("_QuantizeLinear_Output"), -1) + 0.5, n) for n in pairs]
    nodes = [n for _, n in sorted([*placed, *((i, n) for i, n in enumerate(proto.graph.node))], key=lambda p: p[0])]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.opset_import[0].version, proto.ir_version = 19, 10
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data


def run(graph: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, feed)


def off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_modelopt_breaks_the_contract_and_keeps_it_once_adopted(
    form: str, bundle: Bundle, feed: dict[str, np.ndarray]
) -> None:
    plain = FORMS[form](bundle.model_bytes())
    scales = activation_scales(bundle.model_bytes(), [feed], method="minmax")
    foreign = as_modelopt_writes(plain, scales)
    rules = {f.rule for f in check_qdq(foreign).findings}
    assert rules == ({"axis"} if form == "products" else {"beside"})
    adopted = adopt(foreign)
    report = check_qdq(adopted.graph)
    assert not report.findings
    assert len(report.int8) + len(report.floating) == len(scales)
    assert len(report.floating) == (0 if form == "products" else 1)  # the first stands behind a Reshape
    assert any("before they are rounded" in c for c in adopted.changes)
    kinds = Counter(n.op_type for n in load(adopted.graph).graph.node)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 2 * len(report.int8)
    exact, theirs, ours = (run(g, feed) for g in (plain, foreign, adopted.graph))
    for a, b, c in zip(exact, theirs, ours, strict=True):
        assert off(c, a) < off(b, a)  # what was taken back had only rounded more
    same = quantise(plain, scales, layers=[n.removesuffix("_product") for n in report.int8])
    for a, b, c in zip(exact, run(same, feed), ours, strict=True):
        assert off(c, b) < 0.05 * off(b, a) + 1e-6  # the products that stay are the tool's own


@pytest.mark.parametrize("form", FORMS)
def test_what_is_adopted_parses_and_builds(form: str, bundle: Bundle, feed: dict[str, np.ndarray]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed here")
    scales = activation_scales(bundle.model_bytes(), [feed], method="minmax")
    graph = adopt(as_modelopt_writes(FORMS[form](bundle.model_bytes()), scales)).graph
    library = load_library("tensorrt-rtx", need_gpu=False)
    assert len(build_engine(library, graph, bundle.manifest, precision="int8", max_streams=1).engine) > 10_000


def test_a_graph_that_keeps_the_contract_is_not_touched(bundle: Bundle, feed: dict[str, np.ndarray]) -> None:
    scales = activation_scales(bundle.model_bytes(), [feed], method="minmax")
    ours = quantise(bundle.model_bytes(), scales, layers=["conv_1", "conv_2"])
    assert adopt(ours) == type(adopt(ours))(ours, ())
    assert adopt(bundle.model_bytes()).graph == bundle.model_bytes()
    with pytest.raises(BackendError, match="no ONNX graph"):
        adopt(b"nothing of the kind")


def test_what_cannot_be_mended_stays_for_the_checker(bundle: Bundle, feed: dict[str, np.ndarray]) -> None:
    scales = activation_scales(bundle.model_bytes(), [feed], method="minmax")
    proto = load(as_modelopt_writes(bundle.model_bytes(), scales))
    zero = next(i for i in proto.graph.initializer if i.name == "conv_1_weight_zero_point")
    zero.CopyFrom(numpy_helper.from_array(np.ones(numpy_helper.to_array(zero).shape, np.int8), zero.name))
    assert {f.rule for f in check_qdq(adopt(proto.SerializeToString()).graph).findings} == {"zero_point"}


@pytest.mark.parametrize("form", FORMS)
def test_what_modelopt_itself_writes_is_adopted(
    form: str, bundle: Bundle, feed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    tool = pytest.importorskip("modelopt.onnx.quantization", reason="nvidia-modelopt is not installed here")
    source, target = tmp_path / "model.onnx", tmp_path / "model.quant.onnx"
    source.write_bytes(FORMS[form](bundle.model_bytes()))
    tool.quantize(
        str(source),
        quantize_mode="int8",
        calibration_data=feed,
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(target),
        high_precision_dtype="fp32",
    )
    assert not check_qdq(target.read_bytes()).ok
    report = check_qdq(adopt(target.read_bytes()).graph)
    assert not report.findings
    assert len(report.int8) >= 6
