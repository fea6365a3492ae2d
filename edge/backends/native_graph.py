"""The forecaster's weights out of a bundle's graph, for a step that is written in C: no ``onnx`` package, no doubt.

The graph that kinedge's exporter writes for a network of this shape is written down here once more, node by node. A
graph that differs in one name is none of it and is refused: what is computed without a graph must be what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.errors import BackendError
from kinedge.onnx_wire import GraphOutline, NodeOutline, TensorOutline, read_onnx

__all__ = ["LANES", "Forecaster", "Shape", "read_forecaster"]

F32 = NDArray[np.float32]
LANES: Final = 8  # numbers of a vector: each row of weights is padded to whole ones
_MAX_TAPS: Final = 64
_MAX_BLOCKS: Final = 32
_MAX_SIZE: Final = 4096
_MAX_DILATION: Final = 1 << 20
_OPSET, _IR_VERSION = 17, 8  # of the exporter
_FLOAT, _INT64 = 1, 7
_END: Final = (1 << 63) - 1
_Node = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, int]]


@dataclass(frozen=True)
class Shape:
    """A dilated causal TCN over kept state.

    Parameters
    ----------
    n_channels, width, n_outputs
        Numbers of a sample, of a hidden row, of ``mu`` for one sample.
    kernel
        Taps of each block.
    var_order
        Taps of the linear skip, 0 without one.
    dilations
        Samples between the taps, one per block.
    """

    n_channels: int
    width: int
    n_outputs: int
    kernel: int
    var_order: int
    dilations: tuple[int, ...]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Floats of state: of the linear skip if there is one, and of each block."""
        linear = ((self.var_order - 1) * self.n_channels,) if self.var_order else ()
        return (*linear, *((self.kernel - 1) * d * self.width for d in self.dilations))

    @property
    def floats(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of floats by name, in the order in which the step reads them."""
        c, w, n = self.n_channels, self.width, self.n_outputs
        found: dict[str, tuple[int, ...]] = {"inp_bias": (w,), "inp_weight": (2 * c, w)}
        for i in range(1, len(self.dilations) + 1):
            found |= {f"conv_{i}_bias": (w,), f"conv_{i}_weight": (self.kernel * w, w)}
        found |= {"head_bias": (2 * n,), "head_weight": (w, 2 * n)}
        if self.var_order:
            found["var_weight"] = (self.var_order * c, n)
        return found | {"log_sigma_min": (1,), "log_sigma_max": (1,)}


@dataclass(frozen=True, eq=False)
class Forecaster:
    """What a step needs: the shape, and all weights in one row, laid out for it."""

    shape: Shape
    weights: F32


def read_forecaster(data: bytes, manifest: Manifest) -> Forecaster:
    """Read the weights of a float32 graph that kinedge exported.

    Raises
    ------
    BackendError
        It is another graph, or not the one the manifest describes, or larger than the native step.
    BundleError
        It is no ONNX file, or is damaged.
    """
    where = f"bundle {manifest.name}"
    graph = read_onnx(data, where=where)
    tensors = {t.name: t for t in graph.initializers}
    shape = _shape(tensors, graph, manifest, where)
    _compare(graph, tensors, shape, where)
    parts = []
    for name, dims in shape.floats.items():
        raw = tensors[name].raw
        if raw is None or len(raw) != 4 * int(np.prod(dims)):
            raise _refused(where, f"{name} is not in one block")
        values = np.frombuffer(raw, "<f4").astype(np.float32).reshape(-1, dims[-1])
        if not np.isfinite(values).all():
            raise _refused(where, f"{name} holds NaN or infinity")
        if not name.startswith("log_sigma"):
            values = np.pad(values, ((0, 0), (0, -dims[-1] % LANES)))
        parts.append(values.ravel())
    weights: F32 = np.concatenate(parts)
    return Forecaster(shape, weights)


def _refused(where: str, what: str) -> BackendError:
    return BackendError(
        f"{where}: {what}; the native step takes float32 graphs of kinedge's exporter alone: use backend 'onnx'"
    )


def _shape(tensors: dict[str, TensorOutline], graph: GraphOutline, manifest: Manifest, where: str) -> Shape:
    """Tell the shape from a few tensors; whether the graph has it is looked at afterwards."""

    def dims(name: str, rank: int) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else ()
        if len(found) != rank or min(found) < 1:
            raise _refused(where, f"its graph has no {name} of {rank} dimensions")
        return found

    c, n_outputs = manifest.n_channels, manifest.n_channels * len(manifest.horizons)
    width = dims("inp_weight", 2)[1]
    n_blocks = sum(1 for name in tensors if name.startswith("conv_") and name.endswith("_weight"))
    kernel = dims("conv_1_weight", 2)[0] // width
    var_order = dims("var_weight", 2)[0] // c if "var_weight" in tensors else 0
    first = graph.nodes[0] if graph.nodes else None
    split = tensors.get(first.inputs[1]) if first is not None and len(first.inputs) == 2 else None
    sizes = (split.integers if split is not None else None) or ()
    if len(sizes) != n_blocks + (var_order > 0) or kernel < 2:
        raise _refused(where, f"its state is cut into {len(sizes)} pieces for {n_blocks} blocks of {kernel} taps")
    dilations = tuple(size // ((kernel - 1) * width) for size in sizes[var_order > 0 :])
    found = Shape(c, width, n_outputs, kernel, var_order, dilations)
    fits = (
        max(c, width, n_outputs) <= _MAX_SIZE
        and kernel <= _MAX_TAPS
        and (var_order == 0 or 2 <= var_order <= _MAX_TAPS)
        and 1 <= n_blocks <= _MAX_BLOCKS
        and all(1 <= d <= _MAX_DILATION for d in dilations)
    )
    if not fits:
        raise _refused(where, f"a network of {found} is larger than the native step")
    if found.state_sizes != tuple(sizes) or sum(sizes) != manifest.state_size:
        raise _refused(where, f"a state of {sizes} does not fit {found} or the manifest's {manifest.state_size}")
    return found


def _compare(graph: GraphOutline, tensors: dict[str, TensorOutline], shape: Shape, where: str) -> None:
    """Refuse a graph that is not, to the last name, what the exporter writes for this shape."""
    integers: dict[str, tuple[int, ...]] = {}
    nodes = [NodeOutline(kind, "", ins, outs, dict(more)) for kind, ins, outs, more in _nodes(shape, integers)]
    if (graph.ir_version, graph.opsets) != (_IR_VERSION, {"": _OPSET}):
        raise _refused(where, f"its graph is of IR {graph.ir_version} and opset {graph.opsets}")
    if len(graph.nodes) != len(nodes):
        raise _refused(where, f"its graph has {len(graph.nodes)} nodes, expected {len(nodes)}")
    for found, expected in zip(graph.nodes, nodes, strict=True):
        if found != expected:
            raise _refused(where, f"node {found.op_type} that makes {', '.join(found.outputs)[:80]} is not expected")
    constants = {name: TensorOutline(name, _FLOAT, dims) for name, dims in shape.floats.items()}
    constants |= {name: TensorOutline(name, _INT64, (len(v),), v) for name, v in integers.items()}
    if len(tensors) != len(graph.initializers) or tensors != constants:
        odd = sorted(name for name in {*tensors, *constants} if tensors.get(name) != constants.get(name))
        raise _refused(where, f"its constants are not those expected ({', '.join(odd)[:80] or 'one stands twice'})")
    declared = [v.name for v in (*graph.inputs, *graph.outputs)]
    if declared != ["x", "mask", "state", "mu", "log_sigma", "state_out"]:
        raise _refused(where, f"its graph goes from and to {', '.join(declared)[:80]}")


def _nodes(shape: Shape, integers: dict[str, tuple[int, ...]]) -> Iterator[_Node]:
    """Yield what ``quantize/export.py`` writes, in its order; constants of integers go to ``integers``."""

    def ints(*values: int) -> str:
        name = "ints_" + "_".join("end" if v == _END else str(v).replace("-", "m") for v in values)
        integers[name] = values
        return name

    def rows(value: str, start: int, end: int, out: str) -> _Node:
        return "Slice", (value, ints(start), ints(end or _END), ints(1)), (out,), {}

    def remember(i: int, now: str, kept: int, width: int) -> Iterator[_Node]:
        yield "Reshape", (f"past_{i}", ints(0, kept, width)), (f"rows_{i}",), {}
        yield "Concat", (f"rows_{i}", now), (f"line_{i}",), {"axis": 1}
        yield rows(f"line_{i}", -kept, 0, f"last_{i}")
        yield "Reshape", (f"last_{i}", ints(0, kept * width)), (f"next_{i}",), {}

    def taps(i: int, now: str, kernel: int, dilation: int) -> Iterator[_Node]:
        for k in range(kernel - 1):
            yield rows(f"line_{i}", k * dilation, -(kernel - 1 - k) * dilation, f"taps_{i}_{k}")
        yield "Concat", (*(f"taps_{i}_{k}" for k in range(kernel - 1)), now), (f"taps_{i}",), {"axis": 2}

    def linear(value: str, name: str) -> Iterator[_Node]:
        yield "MatMul", (value, f"{name}_weight"), (f"{name}_product",), {}
        yield "Add", (f"{name}_product", f"{name}_bias"), (name,), {}

    first, n_blocks = (0 if shape.var_order else 1), len(shape.dilations)
    pasts = tuple(f"past_{i}" for i in range(first, n_blocks + 1))
    yield "Split", ("state", ints(*shape.state_sizes)), pasts, {"axis": 1}
    yield "Concat", ("x", "mask"), ("inp_taps",), {"axis": 2}
    yield from linear("inp_taps", "inp")
    h = "inp"
    for i, dilation in enumerate(shape.dilations, start=1):
        yield "Relu", (h,), (f"relu_{i}",), {}
        yield from remember(i, f"relu_{i}", (shape.kernel - 1) * dilation, shape.width)
        yield from taps(i, f"relu_{i}", shape.kernel, dilation)
        yield from linear(f"taps_{i}", f"conv_{i}")
        yield "Add", (h, f"conv_{i}"), (f"h_{i}",), {}
        h = f"h_{i}"
    yield "Relu", (h,), ("relu_head",), {}
    yield from linear("relu_head", "head")
    halves = ("correction" if shape.var_order else "mu", "log_sigma_raw")
    yield "Split", ("head", ints(shape.n_outputs, shape.n_outputs)), halves, {"axis": 2}
    if shape.var_order:
        yield from remember(0, "x", shape.var_order - 1, shape.n_channels)
        yield from taps(0, "x", shape.var_order, 1)
        yield "MatMul", ("taps_0", "var_weight"), ("var_product",), {}
        yield "Add", ("var_product", "correction"), ("mu",), {}
    yield "Clip", ("log_sigma_raw", "log_sigma_min", "log_sigma_max"), ("log_sigma",), {}
    yield "Concat", tuple(f"next_{i}" for i in range(first, n_blocks + 1)), ("state_out",), {"axis": 1}
