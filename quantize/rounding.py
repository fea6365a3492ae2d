"""Rounding a layer in full knowledge of what goes into it: weights by least squares, inputs that use every level.

A weight that is rounded up makes an error that the weights after it can take back, as far as their inputs go together.
Each output's weights are rounded one after the other, the strongest input first, and what is left over is spread over
those still to come; what remains on average goes into the bias. The answer of the layer then moves two to three times
less than by rounding each weight to the nearest level (docs/quantization.md).

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023).
Deviations: the inputs' covariance stands for their second moments, since the bias takes the mean; no blocks, because
layers are small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kinedge.errors import BackendError
from kinedge.quantize.int8 import LEVELS, Grid, layers_of, load, weight_scales

__all__ = ["Inputs", "fitted", "measure_inputs", "round_weights"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_RIDGE: Final = 0.01  # of the mean power: what the recordings never showed must not be spread over


@dataclass(frozen=True, eq=False)
class Inputs:
    """What goes into a layer: how many rows were seen, lowest value, mean (K,) and covariance (K, K)."""

    n: int
    lowest: float
    mean: F64
    covariance: F64


def measure_inputs(graph: bytes, feeds: Iterable[Mapping[str, F32]]) -> dict[str, Inputs]:
    """Run a graph and describe what goes into its products.

    Parameters
    ----------
    graph
        In single precision, in the form of matrix products.
    feeds
        What goes in, call by call, used one at a time.

    Raises
    ------
    BackendError
        ONNX Runtime cannot run the graph, or was given nothing to run it on.
    """
    proto = load(graph)
    layers = layers_of(proto.graph)
    wanted = list(dict.fromkeys(layer.activation for layer in layers))
    outputs = {o.name for o in proto.graph.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted if name not in outputs
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sums: dict[str, list[Any]] = {}
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for feed in feeds:
            for name, value in zip(wanted, session.run(wanted, dict(feed)), strict=True):
                rows = value.reshape(-1, value.shape[-1]).astype(np.float64)
                new = [len(rows), float(rows.min()), rows.sum(axis=0), rows.T @ rows]
                n, lowest, total, power = sums.setdefault(name, [0, np.inf, 0.0, 0.0])
                sums[name] = [n + new[0], min(lowest, new[1]), total + new[2], power + new[3]]
    except Exception as e:  # onnxruntime raises its own classes, which are no stable API
        raise BackendError(f"ONNX Runtime cannot run this graph on the recordings ({e}); export it again") from e
    if not sums:
        raise BackendError("no recordings to measure a layer's inputs on; give some")
    found = {}
    for name, (n, lowest, total, power) in sums.items():
        mean = total / n
        found[name] = Inputs(n, lowest, mean, power / n - np.outer(mean, mean))
    return {layer.name: found[layer.activation] for layer in layers}


def round_weights(weight: F64, covariance: F64, rows: F32) -> F64:
    """Round weights to their steps, so that what comes out of the layer changes least.

    Parameters
    ----------
    weight : (K, N)
    covariance : (K, K)
        Of the inputs.
    rows : (N,)
        Step of each output's weights.

    Returns
    -------
    (K, N)
        Multiples of the steps, at most 127 of them.
    """
    k = len(weight)
    power = covariance + np.eye(k) * max(_RIDGE * float(np.trace(covariance)) / k, 1e-12)
    order = np.argsort(-np.diag(power), kind="stable")
    left = weight[order].astype(np.float64)
    # row i of this factor says how much of the error of input i each later input takes back
    factor = np.linalg.cholesky(np.linalg.inv(power[np.ix_(order, order)])).T
    rounded: F64 = np.empty_like(left)
    for i in range(k):
        level = np.clip(np.round(left[i] / rows), -LEVELS, LEVELS)
        rounded[order[i]] = level * rows
        left[i + 1 :] -= np.outer(factor[i, i + 1 :], (left[i] - level * rows) / factor[i, i])
    return rounded


def fitted(graph: bytes, scales: Mapping[str, float], inputs: Mapping[str, Inputs]) -> dict[str, Grid]:
    """Return good grids for all layers of a graph in the form of matrix products.

    Parameters
    ----------
    scales
        Of the inputs, from :func:`kinedge.quantize.int8.activation_scales`.
    inputs
        From :func:`measure_inputs`.
    """
    proto = load(graph)
    constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    grids = {}
    for layer in layers_of(proto.graph):
        weight, into = constants[layer.weight].astype(np.float64), inputs[layer.name]
        rows = weight_scales(weight.T.astype(np.float32))
        rounded = round_weights(weight, into.covariance, rows)
        scale, shift, bias = scales[layer.name], 0.0, None
        if f"{layer.name}_bias" in constants:
            bias = (into.mean @ (weight - rounded)).astype(np.float32)
            if into.lowest >= 0:
                scale /= 2
                shift = LEVELS * float(np.float32(scale))  # so that 0 stays a level
        grids[layer.name] = Grid(scale, shift, rows, rounded.astype(np.float32), bias)
    return grids
