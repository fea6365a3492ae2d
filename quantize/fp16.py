"""A graph in half precision: weights and everything between in float16, inputs, outputs and state in float32.

Strongly typed TensorRT takes precisions from the graph, so an fp16 engine is a cast graph. Callers see no
difference, and a state can go on in any precision.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kinedge.errors import BackendError

__all__ = ["to_fp16"]

_LARGEST: Final = float(np.finfo(np.float16).max)


def to_fp16(fp32: bytes) -> bytes:
    """Cast a graph to float16 within.

    Raises
    ------
    BackendError
        It cannot be read, is quantised or not float32, or a weight is too large for float16.
    """
    try:
        model = onnx.load_from_string(fp32)
    except Exception as e:
        raise BackendError(f"no readable ONNX graph ({type(e).__name__}: {e})") from e
    graph = model.graph
    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast") for n in graph.node):
        raise BackendError("a graph with casts or quantisation is not cast to fp16; start from the fp32 graph")
    if any(v.type.tensor_type.elem_type != TensorProto.FLOAT for v in (*graph.input, *graph.output)):
        raise BackendError("only a graph with float32 inputs and outputs is cast to fp16")

    constants = []
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            if not np.all(np.abs(value) <= _LARGEST):
                raise BackendError(f"{tensor.name} has weights beyond {_LARGEST:g}: fp16 cannot hold them, use fp32")
            tensor = numpy_helper.from_array(value.astype(np.float16), tensor.name)
        constants.append(tensor)

    inside = {v.name: f"{v.name}_fp16" for v in (*graph.input, *graph.output)}
    nodes = [_cast(v.name, inside[v.name], TensorProto.FLOAT16) for v in graph.input]
    for old in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        node.input[:] = [inside.get(name, name) for name in old.input]
        node.output[:] = [inside.get(name, name) for name in old.output]
        nodes.append(node)
    nodes += [_cast(inside[v.name], v.name, TensorProto.FLOAT) for v in graph.output]

    cast = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), constants)
    proto = helper.make_model(
        cast, producer_name=model.producer_name, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)
