"""int8 by explicit Q/DQ pairs: ranges from ONNX Runtime's calibrators, placed by a small pass that needs onnx alone.

What TensorRT asks for (``kinedge.quantize.checker`` proves it): int8 with zero point 0 everywhere, one scale per output
channel on axis 0 for weights, one per tensor for activations, a bias in float, weights stored in single precision and
quantised in the graph. Only the inputs of products are quantised; sums, state and outputs stay in float.

    x ─ Q ─ DQ ─┐                              a matrix product of weights (K, N) is written with (N, K) and a
                MatMul ─ Add (float bias)      Transpose behind DQ: scales then lie on axis 0 there too
    w ─ Q ─ DQ ─┘

An input that is never negative, behind Relu, would leave half of the levels unused: half its range is taken off before
Q (one Sub), and the bias gives it back, so that its step is half as large.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from kinedge.errors import BackendError

__all__ = [
    "LEVELS",
    "METHODS",
    "Grid",
    "Layer",
    "Method",
    "activation_scales",
    "layers_of",
    "load",
    "quantise",
    "stripped",
    "weight_scales",
]

F32 = NDArray[np.float32]
Method = Literal["minmax", "entropy", "percentile"]

METHODS: Final[tuple[Method, ...]] = ("minmax", "entropy", "percentile")
LEVELS: Final = 127  # of either sign; -128 is not used, so that the negative of a weight is one too
_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")
_PERCENTILE: Final = 99.99
_BINS: Final = {"entropy": 512, "percentile": 2048}  # the search for the least entropy takes the square of them


@dataclass(frozen=True)
class Layer:
    """A product with constant weights: what can be computed in int8.

    Parameters
    ----------
    name
        Of the weights, without ``_weight``.
    node
        Number of the node.
    activation, weight
        Names of its inputs.
    """

    name: str
    node: int
    activation: str
    weight: str


@dataclass(frozen=True, eq=False)
class Grid:
    """How a layer is rounded (``kinedge.quantize.rounding`` finds good ones).

    Parameters
    ----------
    scale
        One step of its input.
    shift
        What is taken off the input before, and given back by the bias.
    rows : (n_outputs,)
        Steps of the weights; as the largest weight of each output asks for when None.
    weight
        In place of the graph's, in its shape; rounded in full knowledge of the inputs.
    bias : (n_outputs,)
        To be added to the graph's.
    """

    scale: float
    shift: float = 0.0
    rows: F32 | None = None
    weight: F32 | None = None
    bias: F32 | None = None


def layers_of(graph: onnx.GraphProto) -> tuple[Layer, ...]:
    """Return the products with constant weights, in their order."""
    constants = {i.name for i in graph.initializer}
    return tuple(
        Layer(node.input[1].removesuffix("_weight"), at, node.input[0], node.input[1])
        for at, node in enumerate(graph.node)
        if node.op_type in _PRODUCTS and node.input[1] in constants and node.input[0] not in constants
    )


def load(graph: bytes) -> onnx.ModelProto:
    """Parse a graph.

    Raises
    ------
    BackendError
        It is none.
    """
    try:
        return onnx.load_from_string(graph)
    except Exception as e:  # the decoder is protobuf's, and so are its errors
        raise BackendError(f"this is no ONNX graph ({e}); export the model again") from e


def activation_scales(graph: bytes, feeds: Iterable[Mapping[str, F32]], *, method: Method) -> dict[str, float]:
    """Measure the range of every product's input.

    Parameters
    ----------
    graph
        In single precision.
    feeds
        What goes in, call by call: ``x``, ``mask`` and ``state``; at least one. Used one at a time.
    method
        ``minmax``: the largest magnitude. ``entropy``: where the distribution changes least. ``percentile``: what
        99.99 % of the values keep within.

    Returns
    -------
    dict
        Layer to scale: the value of one step.

    Raises
    ------
    BackendError
        ONNX Runtime cannot run the graph, or was given nothing to run it on.
    """
    from onnxruntime.quantization.calibrate import (
        CalibraterBase,
        CalibrationDataReader,
        EntropyCalibrater,
        MinMaxCalibrater,
        PercentileCalibrater,
    )

    layers = layers_of(load(graph).graph)

    class One(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feed: Mapping[str, F32]) -> None:
            self._left = [dict(feed)]

        def get_next(self) -> dict[str, F32] | None:
            return self._left.pop() if self._left else None

    with tempfile.TemporaryDirectory(prefix="kinedge-ranges-") as folder:
        source, augmented = Path(folder) / "model.onnx", str(Path(folder) / "augmented.onnx")
        source.write_bytes(graph)
        common: dict[str, Any] = {"op_types_to_calibrate": _PRODUCTS, "augmented_model_path": augmented}
        calibrater: CalibraterBase
        try:
            if method == "minmax":
                calibrater = MinMaxCalibrater(source, symmetric=True, **common)
            elif method == "entropy":
                calibrater = EntropyCalibrater(source, symmetric=True, num_bins=_BINS[method], **common)
            else:
                bins = _BINS[method]
                calibrater = PercentileCalibrater(
                    source, symmetric=True, num_bins=bins, percentile=_PERCENTILE, **common
                )
            with contextlib.redirect_stdout(io.StringIO()):  # the calibrators tell the terminal what they do
                calibrater.augment_graph()
                if method != "minmax":
                    calibrater.tensors_to_calibrate = {layer.activation for layer in layers}  # their outputs stay float
                calibrater.create_inference_session()
                for feed in feeds:
                    calibrater.collect_data(One(feed))
                ranges = calibrater.compute_data().data
        except Exception as e:  # onnxruntime raises its own classes, which are no stable API
            raise BackendError(f"ONNX Runtime cannot measure the ranges of this graph ({e}); export it again") from e
    scales = {}
    for layer in layers:
        low, high = (float(np.asarray(v).max()) for v in ranges[layer.activation].range_value)
        scales[layer.name] = max(abs(low), abs(high), 1e-6) / LEVELS
    return scales


def weight_scales(weight: F32) -> F32:
    """Return the scale (N,) of every output channel of weights whose first axis they are."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    steps: F32 = (np.maximum(largest, 1e-9) / LEVELS).astype(np.float32)
    return steps


def quantise(graph: bytes, grids: Mapping[str, float | Grid], *, layers: Collection[str]) -> bytes:
    """Put Q/DQ pairs before the products of some layers.

    Parameters
    ----------
    graph
        In single precision, without any Q/DQ.
    grids
        By layer; a number, from :func:`activation_scales`, is the step of its input, and the rest follows.
    layers
        Names of those that shall be int8.

    Raises
    ------
    BackendError
        The graph is not in single precision, or a layer or its grid is missing or does not fit it.
    """
    proto = load(graph)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node):
        raise BackendError("this graph has Q/DQ pairs already; start from the one in single precision")
    known = {layer.name: layer for layer in layers_of(proto.graph)}
    absent = sorted(set(layers) - (set(known) & set(grids)))
    if absent:
        raise BackendError(f"no layer, or no range, for {', '.join(absent)}; there are {', '.join(known)}")
    chosen = {layer.node: layer for layer in known.values() if layer.name in layers}
    placing = _Placing(proto.graph)
    nodes = []
    for at, node in enumerate(proto.graph.node):
        layer = chosen.get(at)
        if layer is not None:
            found = grids[layer.name]
            grid = found if isinstance(found, Grid) else Grid(found)
            nodes += placing.activation(layer, grid)
            nodes += placing.weight(layer, node, grid)
            node.input[0], node.input[1] = f"{layer.name}_in", f"{layer.name}_by"
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(placing.constants.values())
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def stripped(graph: bytes) -> tuple[bytes, dict[str, Grid]]:
    """Undo :func:`quantise`: to write the same weights and ranges in another form.

    Returns
    -------
    graph
        In single precision, with the weights as they stand before QuantizeLinear.
    grids
        Of the layers that were int8: with them, another form of the graph is rounded alike.

    Raises
    ------
    BackendError
        The pairs were not placed by :func:`quantise`.
    """
    proto = load(graph)
    constants = {i.name: i for i in proto.graph.initializer}
    grids: dict[str, Grid] = {}
    nodes = []
    pairs = {n.output[0]: n for n in proto.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    try:
        shifts = {n.output[0]: n for n in proto.graph.node if n.output[0].endswith("_centred")}
        for node in proto.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.output[0] in shifts:
                continue
            if node.op_type == "Transpose" and node.input[0] in pairs:
                continue
            if len(node.input) > 1 and node.input[1].endswith("_by"):
                name = node.input[1].removesuffix("_by")
                value, shift = pairs[f"{name}_in_int8"].input[0], 0.0
                if value in shifts:
                    shift = float(_array(constants[shifts[value].input[1]]))
                    value = shifts[value].input[0]
                turned = node.op_type == "MatMul"
                rows = _array(constants[f"{name}_by_rows_scale" if turned else f"{name}_by_scale"])
                grids[name] = Grid(float(_array(constants[f"{name}_in_scale"])), shift, rows)
                node.input[0], node.input[1] = value, f"{name}_weight"
                weight = _array(constants[node.input[1]])
                if shift:
                    bias = _array(constants[f"{name}_bias"]) - shift * _sums(weight, rows)
                    constants[f"{name}_bias"] = numpy_helper.from_array(bias.astype(np.float32), f"{name}_bias")
                if turned:
                    constants[node.input[1]] = numpy_helper.from_array(np.ascontiguousarray(weight.T), node.input[1])
            nodes.append(node)
    except KeyError as e:
        raise BackendError(f"{e} is missing: these Q/DQ pairs were not placed by kinedge quantize") from e
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(c for name, c in constants.items() if name in used)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data, grids


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    return numpy_helper.to_array(tensor)


def _sums(weight: F32, rows: F32) -> NDArray[np.float64]:
    """Return the sum (N,) of each output's weights as int8 holds them: what a shift of 1 adds to it."""
    steps = rows.astype(np.float64)
    levels = np.round(weight.reshape(len(weight), -1) / steps[:, None]).clip(-LEVELS, LEVELS)
    sums: NDArray[np.float64] = levels.sum(axis=1) * steps
    return sums


class _Placing:
    """Makes Q/DQ pairs, and keeps the graph's constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {i.name: i for i in graph.initializer}

    def activation(self, layer: Layer, grid: Grid) -> list[onnx.NodeProto]:
        value, nodes = layer.activation, []
        if grid.shift:
            by, value = f"{layer.name}_shift", f"{layer.name}_centred"
            self._constant(by, np.array(grid.shift, np.float32))
            nodes.append(helper.make_node("Sub", [layer.activation, by], [value], name=value))
        return nodes + self._pair(value, np.array(grid.scale, np.float32), prefix=f"{layer.name}_in", axis=None)

    def weight(self, layer: Layer, product: onnx.NodeProto, grid: Grid) -> list[onnx.NodeProto]:
        """Quantise the weights, output channels first; ``product`` is told where they lie."""
        weight = _array(self.constants.pop(layer.weight)).astype(np.float32)
        if grid.weight is not None:
            if grid.weight.shape != weight.shape:
                raise BackendError(f"{layer.name}: weights of {grid.weight.shape} for {weight.shape}; fit this graph")
            weight = grid.weight.astype(np.float32)
        transposed = product.op_type == "MatMul"
        if product.op_type == "Gemm":
            attributes = {a.name: a for a in product.attribute}
            transposed_already = "transB" in attributes and attributes["transB"].i == 1
            if not transposed_already:
                weight = weight.T
                if "transB" in attributes:
                    product.attribute.remove(attributes["transB"])
                product.attribute.append(helper.make_attribute("transB", 1))
        elif transposed:
            weight = weight.T
        name, prefix = f"{layer.name}_weight", f"{layer.name}_by"
        self._constant(name, np.ascontiguousarray(weight))
        rows = weight_scales(weight) if grid.rows is None else grid.rows
        if grid.shift or grid.bias is not None:
            self._bias(layer, product, grid, _sums(weight, rows))
        pair = self._pair(name, rows, prefix=f"{prefix}_rows" if transposed else prefix, axis=0)
        if transposed:
            pair.append(helper.make_node("Transpose", [f"{prefix}_rows"], [prefix], name=prefix, perm=[1, 0]))
        return pair

    def _bias(self, layer: Layer, product: onnx.NodeProto, grid: Grid, sums: NDArray[np.float64]) -> None:
        """Give back what the shift takes, and what the rounding of the weights took on average."""
        name = f"{layer.name}_bias"
        pads = next((list(a.ints) for a in product.attribute if a.name == "pads"), [])
        if name not in self.constants or (grid.shift and any(pads)):
            raise BackendError(
                f"{layer.name}: a shifted input needs a bias of its own and no padding; leave shift at 0"
            )
        bias = _array(self.constants[name]) + (0 if grid.bias is None else grid.bias) + grid.shift * sums
        self._constant(name, bias.astype(np.float32))

    def _pair(self, value: str, scale: F32, *, prefix: str, axis: int | None) -> list[onnx.NodeProto]:
        self._constant(f"{prefix}_scale", scale)
        self._constant(f"{prefix}_zero", np.zeros(scale.shape, np.int8))
        by = [f"{prefix}_scale", f"{prefix}_zero"]
        more: dict[str, Any] = {} if axis is None else {"axis": axis}
        return [
            helper.make_node("QuantizeLinear", [value, *by], [f"{prefix}_int8"], name=f"{prefix}_int8", **more),
            helper.make_node("DequantizeLinear", [f"{prefix}_int8", *by], [prefix], name=prefix, **more),
        ]

    def _constant(self, name: str, value: NDArray[Any]) -> None:
        self.constants[name] = numpy_helper.from_array(value, name)
