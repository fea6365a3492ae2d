"""Write ONNX graphs node by node, in one order, so that equal weights give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["INPUTS", "IR_VERSION", "OPSET", "OUTPUTS", "Graph"]

OPSET: Final = 17
IR_VERSION: Final = 8  # of opset 17; the newest that TensorRT 8.6 reads
INPUTS: Final = ("x", "mask", "state")
OUTPUTS: Final = ("mu", "log_sigma", "state_out")
_TO_THE_END: Final = np.iinfo(np.int64).max


class Graph:
    """Nodes and constants in the order they are written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, inputs: Sequence[str], *, out: str, **attributes: Any) -> str:
        """Add a node of one output, and return its name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def split(self, value: str, sizes: Sequence[int], *, outs: Sequence[str], axis: int) -> None:
        """Cut ``value`` into pieces of these sizes."""
        inputs = [value, self.integers(*sizes)]
        self.nodes.append(helper.make_node("Split", inputs, list(outs), name=f"split_{value}", axis=axis))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, and return its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of integers, once, and return its name."""
        name = "ints_" + "_".join("end" if v == _TO_THE_END else str(v).replace("-", "m") for v in values)
        return self.constant(name, np.array(values, dtype=np.int64))

    def piece(self, value: str, start: int, end: int, *, axis: int, out: str) -> str:
        """Cut ``[start, end)`` out of one axis; an end of 0 is the end."""
        bounds = (self.integers(start), self.integers(end or _TO_THE_END), self.integers(axis))
        return self.op("Slice", [value, *bounds], out=out)

    def serialise(self, *, n_channels: int, n_outputs: int, state_size: int) -> bytes:
        """Return the checked graph with the inputs and outputs that every backend expects."""
        samples: list[str | int] = ["B", "T", n_channels]
        predicted: list[str | int] = ["B", "T", n_outputs]
        state: list[str | int] = ["B", state_size]

        def tensors(names: Sequence[str], shapes: Sequence[list[str | int]]) -> list[onnx.ValueInfoProto]:
            pairs = zip(names, shapes, strict=True)
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in pairs]

        graph = helper.make_graph(
            self.nodes,
            "forecaster",
            tensors(INPUTS, [samples, samples, state]),
            tensors(OUTPUTS, [predicted, predicted, state]),
            list(self.constants.values()),
        )
        proto = helper.make_model(
            graph, producer_name="kinedge", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(proto, full_check=True)
        data: bytes = proto.SerializeToString(deterministic=True)
        return data
