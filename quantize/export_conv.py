"""The same forecaster as convolutions, for TensorRT: Conv2d of height 1, which is what its quantiser and its fast
kernels are made for. Inputs, outputs and the packed state are those of the matrix form, so that either graph goes on
where the other stopped.

It is made from the matrix form, not from the network: the weights are the same by construction, and a board needs
``onnx`` for it but no torch. Height 1 because TensorRT's parser puts an Unsqueeze between DequantizeLinear and a
Conv1d, which then stays in float.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from kinedge.errors import BackendError
from kinedge.quantize.graph import INPUTS, OUTPUTS, Graph

__all__ = ["conv_form"]

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Weights:
    """What the matrix form holds; every weight is (inputs, outputs), taps oldest first."""

    inp: F32
    inp_bias: F32
    convs: tuple[tuple[F32, F32], ...]
    head: F32
    head_bias: F32
    var: F32 | None
    limits: tuple[float, float]
    state_sizes: tuple[int, ...]

    @property
    def n_channels(self) -> int:
        return int(self.inp.shape[0]) // 2

    @property
    def width(self) -> int:
        return int(self.inp.shape[1])

    @property
    def n_outputs(self) -> int:
        return int(self.head.shape[1]) // 2

    @property
    def var_order(self) -> int:
        return 0 if self.var is None else int(self.var.shape[0]) // self.n_channels

    @property
    def kernel(self) -> int:
        return int(self.convs[0][0].shape[0]) // self.width

    @property
    def kept(self) -> tuple[int, ...]:
        """Past rows of each block."""
        return tuple(size // self.width for size in self.state_sizes[self.var is not None :])


def conv_form(matrix_form: bytes) -> bytes:
    """Rewrite a graph of ``export_onnx`` with convolutions; equal graphs give equal bytes.

    Parameters
    ----------
    matrix_form
        The bundle's fp32 graph.

    Returns
    -------
    bytes
        Opset 17; Concat, Conv, Relu and what reshapes. B and T are free.

    Raises
    ------
    BackendError
        It is no such graph, or its weights contradict each other.
    """
    w = _read(matrix_form)
    g = Graph()
    c, width = w.n_channels, w.width
    blocks = "state"
    if w.var is not None:
        blocks = "state_blocks"
        g.split("state", (w.state_sizes[0], sum(w.state_sizes[1:])), outs=("state_var", blocks), axis=1)
    pasts = [f"past_{i}" for i in range(1, len(w.kept) + 1)]
    g.split(_to_images(g, blocks, rows=sum(w.kept), width=width), w.kept, outs=pasts, axis=3)

    g.op("Concat", ["x", "mask"], out="seen", axis=2)
    g.op("Transpose", ["seen"], out="seen_columns", perm=(0, 2, 1))
    g.op("Reshape", ["seen_columns", g.integers(0, 2 * c, 1, -1)], out="seen_images")
    h = _conv(g, "seen_images", w.inp, w.inp_bias, taps=1, dilation=1, out="inp")
    lasts = []
    for i, ((weight, bias), past, kept) in enumerate(zip(w.convs, pasts, w.kept, strict=True), start=1):
        active = g.op("Relu", [h], out=f"relu_{i}")
        line = g.op("Concat", [past, active], out=f"line_{i}", axis=3)
        lasts.append(g.piece(line, -kept, 0, axis=3, out=f"last_{i}"))
        dilation = kept // (w.kernel - 1)
        h = g.op(
            "Add", [h, _conv(g, line, weight, bias, taps=w.kernel, dilation=dilation, out=f"conv_{i}")], out=f"h_{i}"
        )

    head = _conv(g, g.op("Relu", [h], out="relu_head"), w.head, w.head_bias, taps=1, dilation=1, out="head")
    location = "mu_images" if w.var is None else "correction"
    g.split(head, (w.n_outputs, w.n_outputs), outs=(location, "log_sigma_raw"), axis=1)
    new_state = []
    if w.var is not None:
        past_var = _to_images(g, "state_var", rows=w.var_order - 1, width=c)
        now = g.piece("seen_images", 0, c, axis=1, out="var_now")
        line = g.op("Concat", [past_var, now], out="var_line", axis=3)
        last_var = g.piece(line, -(w.var_order - 1), 0, axis=3, out="var_last")
        linear = _conv(g, line, w.var, None, taps=w.var_order, dilation=1, out="var")
        g.op("Add", [linear, "correction"], out="mu_images")
        new_state.append(_to_state(g, last_var, rows=w.var_order - 1, width=c))
    bounds = [
        g.constant(f"log_sigma_{k}", np.array(v, np.float32)) for k, v in zip(("min", "max"), w.limits, strict=True)
    ]
    g.op("Clip", ["log_sigma_raw", *bounds], out="log_sigma_images")
    for name in ("mu", "log_sigma"):
        g.op("Reshape", [f"{name}_images", g.integers(0, w.n_outputs, -1)], out=f"{name}_columns")
        g.op("Transpose", [f"{name}_columns"], out=name, perm=(0, 2, 1))

    g.op("Concat", lasts, out="last_blocks", axis=3)
    new_state.append(_to_state(g, "last_blocks", rows=sum(w.kept), width=width))
    g.op("Concat", new_state, out="state_out", axis=1)
    return g.serialise(n_channels=c, n_outputs=w.n_outputs, state_size=sum(w.state_sizes))


def _to_images(g: Graph, value: str, *, rows: int, width: int) -> str:
    """(B, rows * width) of packed state to (B, width, 1, rows)."""
    g.op("Reshape", [value, g.integers(0, rows, width)], out=f"{value}_rows")
    g.op("Transpose", [f"{value}_rows"], out=f"{value}_columns", perm=(0, 2, 1))
    return g.op("Reshape", [f"{value}_columns", g.integers(0, width, 1, rows)], out=f"{value}_images")


def _to_state(g: Graph, value: str, *, rows: int, width: int) -> str:
    """(B, width, 1, rows) to (B, rows * width) of packed state."""
    g.op("Reshape", [value, g.integers(0, width, rows)], out=f"{value}_columns")
    g.op("Transpose", [f"{value}_columns"], out=f"{value}_rows", perm=(0, 2, 1))
    return g.op("Reshape", [f"{value}_rows", g.integers(0, rows * width)], out=f"{value}_state")


def _conv(g: Graph, value: str, weight: F32, bias: F32 | None, *, taps: int, dilation: int, out: str) -> str:
    # (taps * in, out), tap-major, to (out, in, 1, taps)
    image = weight.reshape(taps, -1, weight.shape[1]).transpose(2, 1, 0)[:, :, None, :]
    inputs = [value, g.constant(f"{out}_weight", image)]
    if bias is not None:
        inputs.append(g.constant(f"{out}_bias", bias))
    return g.op("Conv", inputs, out=out, kernel_shape=(1, taps), dilations=(1, dilation), strides=(1, 1), pads=(0,) * 4)


def _read(matrix_form: bytes) -> _Weights:
    try:
        graph = onnx.load_from_string(matrix_form).graph
        arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        split = next(n for n in graph.node if n.op_type == "Split" and n.input[0] == "state")
        n_blocks = sum(n.op_type == "MatMul" and n.input[1].startswith("conv_") for n in graph.node)
        weights = _Weights(
            inp=arrays["inp_weight"],
            inp_bias=arrays["inp_bias"],
            convs=tuple((arrays[f"conv_{i}_weight"], arrays[f"conv_{i}_bias"]) for i in range(1, n_blocks + 1)),
            head=arrays["head_weight"],
            head_bias=arrays["head_bias"],
            var=arrays.get("var_weight"),
            limits=(float(arrays["log_sigma_min"].item()), float(arrays["log_sigma_max"].item())),
            state_sizes=tuple(int(n) for n in arrays[split.input[1]]),
        )
        _check(weights, [v.name for v in graph.input], [v.name for v in graph.output])
    except BackendError:
        raise
    except Exception as e:
        raise BackendError(f"this is no fp32 graph that kinedge exported ({type(e).__name__}: {e})") from e
    return weights


def _check(w: _Weights, inputs: list[str], outputs: list[str]) -> None:
    """Refuse weights that do not fit together; what fits is rewritten, whatever the old nodes were."""
    if tuple(inputs) != INPUTS or tuple(outputs) != OUTPUTS:
        raise BackendError(f"a graph from {', '.join(inputs)} to {', '.join(outputs)} is none that kinedge exported")
    chain = [w.inp, *(weight for weight, _ in w.convs), w.head]
    weights = chain if w.var is None else [*chain, w.var]
    fits = (
        all(a.dtype == np.float32 and a.ndim == 2 and a.size for a in weights)
        and w.inp.shape[0] % 2 == 0
        and len(w.kept) == len(w.convs) > 0
        and all(weight.shape == (w.kernel * w.width, w.width) for weight, _ in w.convs)
        and w.kernel >= 2
        and w.head.shape == (w.width, 2 * w.n_outputs)
        and w.var_order != 1
        and (
            w.var is None
            or (
                w.var.shape == (w.var_order * w.n_channels, w.n_outputs)
                and w.state_sizes[0] == (w.var_order - 1) * w.n_channels
            )
        )
        and all(
            size == kept * w.width and kept % (w.kernel - 1) == 0
            for size, kept in zip(w.state_sizes[w.var is not None :], w.kept, strict=True)
        )
        and w.inp_bias.shape == (w.width,)
        and w.head_bias.shape == (2 * w.n_outputs,)
        and all(bias.shape == (w.width,) for _, bias in w.convs)
    )
    if not fits:
        shapes = ", ".join(str(a.shape) for a in weights)
        raise BackendError(f"weights of {shapes} and a state of {w.state_sizes} are no forecaster that kinedge exports")
