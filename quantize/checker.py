"""Proves, without running it, that a graph keeps TensorRT's contract for explicit Q/DQ, and names what falls to float.

Whoever quantised the graph: this package, NVIDIA ModelOpt, or another tool. A finding is an ``error`` when a TensorRT
from 8.6 on refuses the graph or computes something else; a ``note`` when only old parsers refuse it. A product that is
not int8 on both sides runs in float: that is allowed, and listed.

Source: NVIDIA TensorRT documentation, "Working with Quantized Types"; TensorRT issue 4832 (a DequantizeLinear beside
Reshape or Slice fails to build on Orin).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from kinedge.errors import BackendError
from kinedge.quantize.int8 import load

__all__ = ["MOVES", "PRODUCTS", "Finding", "QdqReport", "check_qdq"]

_Q: Final = "QuantizeLinear"
_DQ: Final = "DequantizeLinear"
PRODUCTS: Final = frozenset({"Conv", "Gemm", "MatMul"})
MOVES: Final = frozenset({"Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
_IMPLICIT: Final = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearAdd", "QLinearConv", "QLinearMatMul"}
)
_TYPES: Final = {TensorProto.DataType.Value(n): n.lower() for n in TensorProto.DataType.keys()}  # noqa: SIM118  # no dict
_PER_AXIS_SINCE: Final = 13


@dataclass(frozen=True)
class Finding:
    """One breach: ``rule`` names it for programs, ``text`` for people."""

    level: Literal["error", "note"]
    rule: str
    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.level} {self.rule} at {self.node}: {self.text}"


@dataclass(frozen=True)
class QdqReport:
    """What a check found.

    Parameters
    ----------
    findings
        In the order of the graph.
    int8, floating
        Names of products that run in int8, and that fall back to float.
    """

    findings: tuple[Finding, ...]
    int8: tuple[str, ...]
    floating: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no TensorRT from 8.6 on has a reason to refuse it; notes are allowed."""
        return all(f.level != "error" for f in self.findings)

    def require(self, what: str) -> QdqReport:
        """Return itself.

        Raises
        ------
        BackendError
            There is an error; ``what`` is the graph's name for the message.
        """
        errors = [str(f) for f in self.findings if f.level == "error"]
        if errors:
            more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
            raise BackendError(f"{what} breaks TensorRT's Q/DQ contract: {'; '.join(errors[:3])}{more}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        return {
            "ok": self.ok,
            "findings": [str(f) for f in self.findings],
            "int8": list(self.int8),
            "floating": list(self.floating),
        }


def check_qdq(graph: bytes | onnx.ModelProto) -> QdqReport:
    """Check a graph.

    Raises
    ------
    BackendError
        It is no ONNX graph.
    """
    return _Checker(load(graph) if isinstance(graph, bytes) else graph).report()


class _Checker:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {i.name: i for i in model.graph.initializer}
        for node in self.nodes:  # ModelOpt and others write scales as Constant nodes, too
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.producer = {out: node for node in self.nodes for out in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = {o.name for o in model.graph.output}
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)

    def report(self) -> QdqReport:
        findings: list[Finding] = []
        int8: list[str] = []
        floating: list[str] = []
        for node in self.nodes:
            if node.op_type in (_Q, _DQ):
                findings += self._parameters(node)
                findings += self._quantised(node) if node.op_type == _Q else self._dequantised(node)
            elif node.op_type in _IMPLICIT:
                findings.append(
                    _error("operator", node, f"{node.op_type} is no explicit Q/DQ; TensorRT does not read it")
                )
            elif node.op_type in PRODUCTS:
                sides = [self._dequantiser(node, i) is not None for i in (0, 1)]
                (int8 if all(sides) else floating).append(_name(node))
                if any(sides) and not all(sides):
                    text = f"{('its input', 'the weight')[sides[0]]} has no Q/DQ pair, and the other has"
                    findings.append(_error("half", node, text))
                findings += self._axes(node)
                findings += self._bias(node)
        return QdqReport(tuple(findings), tuple(int8), tuple(floating))

    # one rule a method; each yields what it finds

    def _parameters(self, node: onnx.NodeProto) -> Iterator[Finding]:
        if node.domain not in ("", "ai.onnx"):
            yield _error("operator", node, f"it is of domain {node.domain}; use the standard one")
        scale = self._value(node, 1)
        if scale is None:
            yield _error("scale", node, "its scale is not a constant")
        elif not np.isfinite(scale).all() or not (scale > 0).all():
            yield _error("scale", node, "a scale is not positive and finite")
        elif scale.ndim > 1:
            yield _error(
                "scale",
                node,
                f"its scale has shape {scale.shape}; blocks are not supported, one value or one per channel",
            )
        elif scale.size > 1 and self.opset < _PER_AXIS_SINCE:
            yield _error("scale", node, f"scales per channel need opset {_PER_AXIS_SINCE}, the graph has {self.opset}")
        kind, zero = self._type(node), self._value(node, 2)
        if kind == TensorProto.INT32:
            yield _error("bias", node, "an int32 bias; TensorRT wants it in float, without Q/DQ")
        elif kind != TensorProto.INT8:
            yield _error(
                "type",
                node,
                f"it is {_TYPES.get(kind, 'of an unknown type')}; only int8 is symmetric and read by all versions",
            )
        if len(node.input) > 2 and node.input[2]:
            if zero is None:
                yield _error("zero_point", node, "its zero point is not a constant")
            elif zero.astype(np.float32).any():
                yield _error("zero_point", node, "its zero point is not 0")

    def _quantised(self, node: onnx.NodeProto) -> Iterator[Finding]:
        after = self.consumers[node.output[0]]
        if not after or node.output[0] in self.outputs or any(c.op_type != _DQ for c in after):
            others = ", ".join(sorted({c.op_type for c in after if c.op_type != _DQ})) or "nothing"
            yield _error("pair", node, f"its output goes to {others}; only a {_DQ} may read it")
        for partner in (c for c in after if c.op_type == _DQ):
            if not self._alike(node, partner):
                yield _error("pair", node, f"scale, zero point or axis differ from those of {_name(partner)}")
        before = self.producer.get(node.input[0])
        if before is not None and before.op_type in MOVES:
            yield _error(
                "beside", node, f"it stands behind {before.op_type} {_name(before)}; on Orin that fails to build"
            )

    def _dequantised(self, node: onnx.NodeProto) -> Iterator[Finding]:
        before = self.producer.get(node.input[0])
        if node.input[0] in self.constants:
            if self._type(node) == TensorProto.INT8:
                yield Finding(
                    "note", "weight", _name(node), "weights are stored as int8: the parser of TensorRT 8.6 refuses that"
                )
        elif before is None or before.op_type != _Q:
            yield _error("pair", node, f"no {_Q} stands before it")
        for after in self.consumers[node.output[0]]:
            weight = after.op_type == "Transpose" and self._is_constant(node)
            if after.op_type in MOVES and not weight:
                yield _error("beside", node, f"{after.op_type} {_name(after)} reads it; on Orin that fails to build")
        if node.output[0] in self.outputs:
            yield _error("pair", node, "its output leaves the graph")

    def _axes(self, node: onnx.NodeProto) -> Iterator[Finding]:
        activation, weight = self._dequantiser(node, 0), self._dequantiser(node, 1)
        if activation is not None and (scale := self._value(activation, 1)) is not None and scale.size > 1:
            yield _error(
                "per_tensor", activation, f"{scale.size} scales for the input of {_name(node)}; it must be one"
            )
        if weight is None or (scale := self._value(weight, 1)) is None or scale.size == 1:
            return
        turned = (
            node.op_type == "MatMul"
            and (p := self.producer.get(node.input[1])) is not None
            and p.op_type == "Transpose"
        )
        turned |= node.op_type == "Gemm" and _attribute(node, "transB", 0) == 1
        axis = _attribute(weight, "axis", 1)
        if axis != 0 or not (turned or node.op_type == "Conv"):
            how = "" if node.op_type == "Conv" else "; write them output channels first, with transB or a Transpose"
            yield _error(
                "axis",
                weight,
                f"the weights of {_name(node)} have scales on axis {axis}; it must be 0, of output channels{how}",
            )

    def _bias(self, node: onnx.NodeProto) -> Iterator[Finding]:
        if node.op_type != "MatMul" and len(node.input) > 2 and self._dequantiser(node, 2) is not None:
            yield _error("bias", node, "its bias is quantised; TensorRT wants it in float, without Q/DQ")

    # looking around in the graph

    def _dequantiser(self, node: onnx.NodeProto, which: int) -> onnx.NodeProto | None:
        """Return the DQ that feeds an input, looking through the Transpose of a weight."""
        before = self.producer.get(node.input[which])
        if before is not None and before.op_type == "Transpose" and which == 1:
            before = self.producer.get(before.input[0])
        return before if before is not None and before.op_type == _DQ else None

    def _is_constant(self, dequantiser: onnx.NodeProto) -> bool:
        before = self.producer.get(dequantiser.input[0])
        name = before.input[0] if before is not None and before.op_type == _Q else dequantiser.input[0]
        return name in self.constants

    def _value(self, node: onnx.NodeProto, which: int) -> NDArray[Any] | None:
        constant = self.constants.get(node.input[which]) if len(node.input) > which else None
        return None if constant is None else numpy_helper.to_array(constant)

    def _type(self, node: onnx.NodeProto) -> int:
        """Return the quantised type: that of the zero point, else as the operator's specification says."""
        if len(node.input) > 2 and node.input[2] in self.constants:
            return int(self.constants[node.input[2]].data_type)
        if node.op_type == _Q:
            return int(_attribute(node, "output_dtype", 0)) or int(TensorProto.UINT8)
        if node.input[0] in self.constants:
            return int(self.constants[node.input[0]].data_type)
        before = self.producer.get(node.input[0])
        return self._type(before) if before is not None and before.op_type == _Q else int(TensorProto.UNDEFINED)

    def _alike(self, first: onnx.NodeProto, second: onnx.NodeProto) -> bool:
        for which in (1, 2):
            a, b = self._value(first, which), self._value(second, which)
            if which == 2:  # left out means zeros
                a, b = (np.zeros(1) if v is None else v for v in (a, b))
            if a is None or b is None or a.size != b.size or not np.array_equal(a.ravel(), b.ravel()):
                return False
        scale = self._value(first, 1)
        return scale is None or scale.size == 1 or _attribute(first, "axis", 1) == _attribute(second, "axis", 1)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} of {node.output[0]}"


def _error(rule: str, node: onnx.NodeProto, text: str) -> Finding:
    return Finding("error", rule, _name(node), text)
