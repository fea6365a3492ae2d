"""Graphs quantised by other tools, brought to TensorRT's contract where that costs nothing.

NVIDIA ModelOpt 0.47 (tried on a CPU) quantises every input of a sum as well, lets the slices of the state read what was
rounded, and gives the weights of matrix products one scale per column. The first two are taken back: whatever is no
product reads the value before it was rounded, so that the state stays in float. Weights are turned, with their scales.
A product whose input is quantised right behind a Reshape or Slice, which fails to build on Orin, goes back to float.
The scales and the rounding of the products that stay are the tool's own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kinedge.errors import BackendError
from kinedge.quantize.checker import MOVES, PRODUCTS
from kinedge.quantize.int8 import load

__all__ = ["Adopted", "adopt"]

_Q: Final = "QuantizeLinear"
_DQ: Final = "DequantizeLinear"


@dataclass(frozen=True)
class Adopted:
    """A graph, and what was changed in it, in words."""

    graph: bytes
    changes: tuple[str, ...]


def adopt(graph: bytes) -> Adopted:
    """Bring a quantised graph to the contract as far as that is possible; ``check_qdq`` has the last word.

    A graph that needs nothing is returned as it is, byte for byte.

    Raises
    ------
    BackendError
        It is no ONNX graph, or one that ONNX refuses.
    """
    proto = load(graph)
    work = _Work(proto.graph)
    n_others = work.free_others()
    back = work.products_behind_moves()
    turned = work.turn_weights()
    changes = [
        text
        for n, text in (
            (n_others, f"{n_others} nodes that are no products read values before they are rounded"),
            (len(back), f"back to float, right behind a Reshape or the like: {', '.join(back)}"),
            (len(turned), f"weights turned, output channels first: {', '.join(turned)}"),
        )
        if n
    ]
    if not changes:
        return Adopted(graph, ())
    work.prune()
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as e:  # the checker raises its own classes
        raise BackendError(f"the quantised graph cannot be brought to the contract ({e})") from e
    return Adopted(proto.SerializeToString(deterministic=True), tuple(changes))


class _Work:
    """A graph that is being changed in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {i.name: i for i in graph.initializer}

    def _producer(self) -> dict[str, onnx.NodeProto]:
        return {out: node for node in self._graph.node for out in node.output}

    def _consumers(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        found: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in self._graph.node:
            for i, name in enumerate(node.input):
                found[name].append((node, i))
        return found

    def _source(self, dequantised: str, producer: dict[str, onnx.NodeProto]) -> str | None:
        """Return what was quantised to give this value; None where it is no pair."""
        after = producer.get(dequantised)
        before = producer.get(after.input[0]) if after is not None and after.op_type == _DQ else None
        return before.input[0] if before is not None and before.op_type == _Q else None

    def free_others(self) -> int:
        """Let everything but products read values before they are rounded."""
        producer, n = self._producer(), 0
        for node in self._graph.node:
            if node.op_type in (*PRODUCTS, _Q, _DQ):
                continue
            changed = False
            for i, name in enumerate(node.input):
                source = self._source(name, producer)
                weight = node.op_type == "Transpose" and source in self._constants
                if source is not None and not weight:
                    node.input[i] = source
                    changed = True
            n += changed
        return n

    def products_behind_moves(self) -> list[str]:
        """Take the pairs off products whose input is quantised behind a node that only moves values."""
        producer, names = self._producer(), []
        for node in self._graph.node:
            if node.op_type not in PRODUCTS:
                continue
            sources = [self._source(name, producer) for name in node.input[:2]]
            mover = producer.get(sources[0] or "")
            if mover is not None and mover.op_type in MOVES and sources[1] in self._constants:
                node.input[0], node.input[1] = sources[0] or "", sources[1] or ""
                names.append(node.name or node.output[0])
        return names

    def turn_weights(self) -> list[str]:
        """Give weights (K, N) of matrix products with scales on axis 1 as (N, K), with scales on axis 0."""
        producer, consumers = self._producer(), self._consumers()
        names, nodes = [], []
        for node in self._graph.node:
            by = producer.get(node.input[1]) if node.op_type == "MatMul" else None
            pair = [] if by is None or by.op_type != _DQ else [by]
            if pair and (before := producer.get(pair[0].input[0])) is not None:
                pair.append(before)
            weight = pair[-1].input[0] if pair else ""
            axes = [a for p in pair for a in p.attribute if a.name == "axis"]
            alone = all(len(consumers[name]) == 1 for name in (weight, *(p.output[0] for p in pair)))
            turns = (
                pair and weight in self._constants and alone and len(axes) == len(pair) and all(a.i == 1 for a in axes)
            )
            if turns:
                value = numpy_helper.to_array(self._constants[weight])
                self._constants[weight].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.T), weight))
                for axis in axes:
                    axis.i = 0
                turned = f"{pair[0].output[0]}_turned"
                nodes.append(helper.make_node("Transpose", [node.input[1]], [turned], name=turned, perm=[1, 0]))
                node.input[1] = turned
                names.append(node.name or node.output[0])
            nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return names

    def prune(self) -> None:
        """Drop nodes and constants that nothing reads any more."""
        outputs = {o.name for o in self._graph.output}
        while True:
            read = {name for node in self._graph.node for name in node.input} | outputs
            kept = [node for node in self._graph.node if read.intersection(node.output)]
            if len(kept) == len(self._graph.node):
                break
            del self._graph.node[:]
            self._graph.node.extend(kept)
        constants = [c for c in self._graph.initializer if c.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(constants)
