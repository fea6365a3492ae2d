"""int8 by explicit Q/DQ pairs: ranges from ONNX Runtime's calibrators, placed by a small pass that needs onnx alone.

What TensorRT asks for (``kinedge.quantize.checker`` proves it): int8 with zero point 0 everywhere, one scale per output
channel on axis 0 for weights, one per tensor for activations, a bias in float, weights stored in single precision and
quantised in the graph. Only the inputs of products are quantised; sums, state and outputs stay in float.

    x ─ Q ─ DQ ─┐                              a matrix product of weights (K, N) is written with (N, K) and a
                MatMul ─ Add (float bias)      Transpose behind DQ: scales then lie on axis 0 there too
    w ─ Q ─ DQ ─┘
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

__all__ = ["METHODS", "Layer", "Method", "activation_scales", "layers_of", "quantise", "stripped", "weight_scales"]

F32 = NDArray[np.float32]
Method = Literal["minmax", "entropy", "percentile"]

METHODS: Final[tuple[Method, ...]] = ("minmax", "entropy", "percentile")
_LEVELS: Final = 127  # of either sign; -128 is not used, so that the negative of a weight is one too
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
        scales[layer.name] = max(abs(low), abs(high), 1e-6) / _LEVELS
    return scales


def weight_scales(weight: F32) -> F32:
    """Return the scale (N,) of every output channel of weights whose first axis they are."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    steps: F32 = (np.maximum(largest, 1e-9) / _LEVELS).astype(np.float32)
    return steps


def quantise(graph: bytes, scales: Mapping[str, float], *, layers: Collection[str]) -> bytes:
    """Put Q/DQ pairs before the products of some layers.

    Parameters
    ----------
    graph
        In single precision, without any Q/DQ.
    scales
        From :func:`activation_scales`.
    layers
        Names of those that shall be int8.

    Raises
    ------
    BackendError
        The graph is not in single precision, or a layer or its scale is missing.
    """
    proto = load(graph)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node):
        raise BackendError("this graph has Q/DQ pairs already; start from the one in single precision")
    known = {layer.name: layer for layer in layers_of(proto.graph)}
    absent = sorted(set(layers) - (set(known) & set(scales)))
    if absent:
        raise BackendError(f"no layer, or no range, for {', '.join(absent)}; there are {', '.join(known)}")
    chosen = {layer.node: layer for layer in known.values() if layer.name in layers}
    placing = _Placing(proto.graph)
    nodes = []
    for at, node in enumerate(proto.graph.node):
        layer = chosen.get(at)
        if layer is not None:
            nodes += placing.activation(layer, scales[layer.name])
            nodes += placing.weight(layer, node)
            node.input[0], node.input[1] = f"{layer.name}_in", f"{layer.name}_by"
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(placing.constants.values())
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def stripped(graph: bytes) -> tuple[bytes, dict[str, float]]:
    """Undo :func:`quantise`: to write the same weights and ranges in another form.

    Returns
    -------
    graph
        In single precision, with the weights as they were before rounding.
    scales
        Of the layers that were int8.

    Raises
    ------
    BackendError
        The pairs were not placed by :func:`quantise`.
    """
    proto = load(graph)
    constants = {i.name: i for i in proto.graph.initializer}
    scales: dict[str, float] = {}
    nodes = []
    pairs = {n.output[0]: n for n in proto.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    try:
        for node in proto.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                continue
            if node.op_type == "Transpose" and node.input[0] in pairs:
                continue
            if len(node.input) > 1 and node.input[1].endswith("_by"):
                name = node.input[1].removesuffix("_by")
                scales[name] = float(numpy_helper.to_array(constants.pop(f"{name}_in_scale")))
                node.input[0], node.input[1] = pairs[f"{name}_in_int8"].input[0], f"{name}_weight"
                if node.op_type == "MatMul":
                    rows = numpy_helper.to_array(constants[node.input[1]])
                    constants[node.input[1]] = numpy_helper.from_array(np.ascontiguousarray(rows.T), node.input[1])
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
    return data, scales


class _Placing:
    """Makes Q/DQ pairs, and keeps the graph's constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {i.name: i for i in graph.initializer}

    def activation(self, layer: Layer, scale: float) -> list[onnx.NodeProto]:
        return self._pair(layer.activation, np.array(scale, np.float32), prefix=f"{layer.name}_in", axis=None)

    def weight(self, layer: Layer, product: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Quantise the weights, output channels first; ``product`` is told where they lie."""
        weight = numpy_helper.to_array(self.constants.pop(layer.weight)).astype(np.float32)
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
        pair = self._pair(name, weight_scales(weight), prefix=f"{prefix}_rows" if transposed else prefix, axis=0)
        if transposed:
            pair.append(helper.make_node("Transpose", [f"{prefix}_rows"], [prefix], name=prefix, perm=[1, 0]))
        return pair

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
