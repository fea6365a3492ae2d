"""TensorRT's contract for Q/DQ, proven without TensorRT: good graphs pass, each breach has its own name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kinedge.errors import BackendError
from kinedge.quantize.checker import check_qdq
from kinedge.quantize.int8 import weight_scales

WEIGHT = np.random.default_rng(0).normal(size=(6, 4, 1, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


class Sketch:
    """A graph of one product; every choice can be made wrongly."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(
        self,
        value: str,
        out: str,
        scale: Any,
        *,
        kind: Any = np.int8,
        zero: int = 0,
        axis: int | None = None,
        dq_scale: Any = None,
    ) -> str:
        scale = np.asarray(scale, np.float32)
        by = [self.constant(f"{out}_scale", scale), self.constant(f"{out}_zero", np.full(scale.shape, zero, kind))]
        more = {} if axis is None else {"axis": axis}
        back = by if dq_scale is None else [self.constant(f"{out}_other", np.float32(dq_scale)), by[1]]
        self.nodes.append(helper.make_node("QuantizeLinear", [value, *by], [f"{out}_q"], name=f"{out}_q", **more))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{out}_q", *back], [out], name=out, **more))
        return out

    def op(self, kind: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def model(self, shape: list[int], *, out: str = "y", opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def convolution(
    *,
    activation: dict[str, Any] | None = None,
    weight: dict[str, Any] | None = None,
    bias: Callable[[Sketch], str] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A convolution as it should be, but for what is said here; ``{}`` leaves a pair out."""
    s = Sketch()
    s.constant("w", WEIGHT)
    activation = {"scale": 0.1} if activation is None else activation
    weight = {"scale": weight_scales(WEIGHT), "axis": 0} if weight is None else weight
    x = s.pair("x", "x_dq", **activation) if activation else "x"
    w = s.pair("w", "w_dq", **weight) if weight else "w"
    b = s.constant("b", np.zeros(6, np.float32)) if bias is None else bias(s)
    s.op("Conv", [x, w, b], "y")
    return s.model([1, 4, 1, 9], opset=opset)


def rules(model: onnx.ModelProto) -> set[str]:
    report = check_qdq(model)
    assert not report.ok
    return {f.rule for f in report.findings if f.level == "error"}


def test_a_convolution_as_it_should_be_passes() -> None:
    report = check_qdq(convolution().SerializeToString())
    assert report.ok
    assert (report.findings, report.int8, report.floating) == ((), ("y",), ())
    assert report.require("the graph") is report


def quantised_bias(s: Sketch) -> str:
    by = [s.constant("b_scale", np.float32(0.01)), s.constant("b_zero", np.int32(0))]
    s.op("DequantizeLinear", [s.constant("b_int", np.zeros(6, np.int32)), *by], "b_dq")
    return "b_dq"


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (convolution(activation={"scale": 0.1, "kind": np.uint8}), "type"),
        (convolution(activation={"scale": 0.1, "zero": 3}), "zero_point"),
        (convolution(weight={"scale": weight_scales(WEIGHT), "axis": 0, "zero": -1}), "zero_point"),
        (convolution(bias=quantised_bias), "bias"),
        (convolution(activation={}), "half"),
        (convolution(weight={}), "half"),
        (convolution(weight={"scale": np.full(4, 0.1), "axis": 1}), "axis"),
        (convolution(activation={"scale": np.full(4, 0.1), "axis": 1}), "per_tensor"),
        (convolution(activation={"scale": 0.1, "dq_scale": 0.2}), "pair"),
        (convolution(activation={"scale": 0.0}), "scale"),
        (convolution(activation={"scale": np.nan}), "scale"),
        (convolution(opset=12), "scale"),
    ],
)
def test_each_breach_is_named(model: onnx.ModelProto, rule: str) -> None:
    assert rule in rules(model)
    with pytest.raises(BackendError, match=f"the graph breaks.*{rule}"):
        check_qdq(model).require("the graph")


@pytest.mark.parametrize("move", ["Reshape", "Slice", "Squeeze"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_pair_beside_a_reshape_or_slice_is_found(move: str, where: str) -> None:
    s = Sketch()
    s.constant("w", WEIGHT)
    numbers = {
        "Reshape": [np.array([1, 4, 1, 9])],
        "Slice": [np.array([0]), np.array([9]), np.array([3])],
        "Squeeze": [np.array([4])],
    }[move]
    more = [s.constant(f"n_{i}", n.astype(np.int64)) for i, n in enumerate(numbers)]
    if where == "before":
        x = s.pair(s.op(move, ["x", *more], "moved"), "x_dq", 0.1)
    else:
        x = s.op(move, [s.pair("x", "x_dq", 0.1), *more], "moved")
    w = s.pair("w", "w_dq", weight_scales(WEIGHT), axis=0)
    s.op("Conv", [x, w], "y")
    assert "beside" in rules(s.model([1, 4, 1, 9, 1] if move == "Squeeze" else [1, 4, 1, 9]))


def test_a_quantizer_without_its_partner_is_found() -> None:
    s = Sketch()
    by = [s.constant("scale", np.float32(0.1)), s.constant("zero", np.int8(0))]
    s.op("QuantizeLinear", ["x", *by], "q")
    s.op("Cast", ["q"], "y", to=TensorProto.FLOAT)
    assert rules(s.model([1, 4])) == {"pair"}
    s = Sketch()
    by = [s.constant("scale", np.float32(0.1)), s.constant("zero", np.int8(0))]
    s.op("Cast", ["x"], "c", to=TensorProto.INT8)
    s.op("DequantizeLinear", ["c", *by], "d")
    s.op("Relu", ["d"], "y")
    assert rules(s.model([1, 4])) == {"pair"}


def test_a_zero_point_left_out_means_uint8() -> None:
    s = Sketch()
    s.op("QuantizeLinear", ["x", s.constant("scale", np.float32(0.1))], "q")
    s.op("DequantizeLinear", ["q", "scale"], "d")
    s.op("Relu", ["d"], "y")
    assert rules(s.model([1, 4])) == {"type"}


def test_operators_of_implicit_quantisation_are_refused() -> None:
    s = Sketch()
    s.op("MatMulInteger", ["x", s.constant("w", np.ones((4, 6), np.int8))], "y")
    assert rules(s.model([1, 4])) == {"operator"}


def matmul(*, turned: bool, axis: int) -> onnx.ModelProto:
    s = Sketch()
    weight = ROWS if turned else ROWS.T
    s.constant("w", weight)
    w = s.pair("w", "w_dq", np.full(weight.shape[axis], 0.02), axis=axis)
    if turned:
        w = s.op("Transpose", [w], "w_t", perm=[1, 0])
    s.op("MatMul", [s.pair("x", "x_dq", 0.1), w], "y")
    return s.model([2, 4])


def test_weights_of_a_product_need_their_output_channels_first() -> None:
    assert check_qdq(matmul(turned=True, axis=0)).ok
    assert rules(matmul(turned=True, axis=1)) == {"axis"}
    assert rules(matmul(turned=False, axis=1)) == {"axis"}
    assert rules(matmul(turned=False, axis=0)) == {"axis"}  # that would be one scale per input


def modelopt_form() -> onnx.ModelProto:
    """As NVIDIA ModelOpt writes it: weights stored as int8, scales as Constant nodes, no name on some nodes."""
    s = Sketch()
    steps = weight_scales(WEIGHT)
    rounded = np.round(WEIGHT / steps[:, None, None, None]).astype(np.int8)
    for name, value in {"xs": np.float32(0.1), "xz": np.int8(0), "ws": steps, "wz": np.zeros(6, np.int8)}.items():
        s.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value))))
    s.constant("w", rounded)
    s.nodes.append(helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]))
    s.nodes.append(helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"]))
    s.nodes.append(helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0))
    s.op("Conv", ["d", "wd"], "y")
    return s.model([1, 4, 1, 9])


def test_a_graph_of_modelopt_is_accepted_with_a_note_on_old_parsers() -> None:
    report = check_qdq(modelopt_form())
    assert report.ok
    assert [(f.level, f.rule) for f in report.findings] == [("note", "weight")]
    assert report.int8 == ("y",)


def test_products_in_float_are_listed_and_allowed() -> None:
    report = check_qdq(convolution(activation={}, weight={}))
    assert report.ok
    assert (report.int8, report.floating) == ((), ("y",))
    assert report.to_dict() == {"ok": True, "findings": [], "int8": [], "floating": ["y"]}


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(BackendError, match="no ONNX graph"):
        check_qdq(b"\xff\xff\xff")
