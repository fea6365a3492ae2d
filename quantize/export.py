"""The forecaster as one ONNX graph for whole recordings and for streaming, and the proof that it is the same model.

    inputs    x (B, T, C), mask (B, T, C), state (B, S)
    outputs   mu (B, T, H * C), log_sigma (B, T, H * C), state_out (B, S)

B and T are free. The graph is written node by node from the weights: 99 plain nodes (Mul, Split, Reshape, Concat,
Slice, MatMul, Add, Relu, Clip; opset 17, IR 8), chosen because TensorRT 8.6 and ONNX Runtime 1.23 document them all.
Tried on one x86 thread of a shared machine (12 channels, 16.9k parameters, ONNX Runtime 1.32; microseconds, best of 7,
give or take 30 %; streams x samples):

                                                  1 x 1   16 x 10   256 x 1
    this form                                       110       283      1427
    torch.onnx.export(dynamo=True), 141 nodes       149       326      1590
    convolution nodes, 56 nodes (another run)        99       378      3458

A convolution node works stream by stream; a matrix product takes all streams at once. The state is cut and joined
once, piece by piece: going through one (B, time, width) block saves eight nodes and copies everything twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from kinedge.errors import BackendError, SignalError
from kinedge.quantize.graph import INPUTS, OPSET, OUTPUTS, Graph
from kinedge.training.model import LOG_SIGMA_MAX, LOG_SIGMA_MIN, Forecaster

__all__ = ["INPUTS", "OPSET", "OUTPUTS", "export_onnx", "parity"]


class _Graph(Graph):
    """A graph of matrix products over gathered taps."""

    def rows(self, value: str, start: int, end: int, *, out: str) -> str:
        """``value[:, start:end]``; an end of 0 is the end."""
        return self.piece(value, start, end, axis=1, out=out)

    def taps(self, past_and_now: str, now: str, *, kernel: int, dilation: int, out: str) -> str:
        older = [
            self.rows(past_and_now, k * dilation, -(kernel - 1 - k) * dilation, out=f"{out}_{k}")
            for k in range(kernel - 1)
        ]
        return self.op("Concat", [*older, now], out=out, axis=2)

    def linear(self, value: str, layer: torch.nn.Linear, *, out: str, bias: NDArray[np.float32] | None) -> str:
        weight = layer.weight.detach().cpu().numpy().astype(np.float32).T
        product = self.op("MatMul", [value, self.constant(f"{out}_weight", weight)], out=f"{out}_product")
        if bias is None:
            return product
        return self.op("Add", [product, self.constant(f"{out}_bias", bias)], out=out)


def export_onnx(model: Forecaster) -> bytes:
    """Write the forecaster as ONNX; equal weights give equal bytes.

    Raises
    ------
    BackendError
        A weight is not finite.
    """
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise BackendError(f"cannot export: NaN or infinity in {', '.join(broken)}; train again with a lower rate")
    cfg = model.config
    g = _Graph()
    pasts = [f"past_{i}" for i in range(len(cfg.state_sizes))]
    first = 0 if model.var is not None else 1  # without the linear skip there is no line 0
    g.split("state", cfg.state_sizes[first:], outs=pasts[first:], axis=1)
    kept = (cfg.var_order - 1, *cfg.history)
    widths = (cfg.n_channels, *(cfg.width for _ in cfg.history))
    new_state = []

    def remember(i: int, now: str) -> str:
        """Put the past rows of tap line ``i`` before the new ones, and keep its last rows for the next call."""
        past = g.op("Reshape", [pasts[i], g.integers(0, kept[i], widths[i])], out=f"rows_{i}")
        both = g.op("Concat", [past, now], out=f"line_{i}", axis=1)
        last = g.rows(both, -kept[i], 0, out=f"last_{i}")
        new_state.append(g.op("Reshape", [last, g.integers(0, kept[i] * widths[i])], out=f"next_{i}"))
        return both

    h = g.op("Concat", ["x", "mask"], out="inp_taps", axis=2)
    h = g.linear(h, model.inp, out="inp", bias=_bias(model.inp))
    for i, (conv, dilation) in enumerate(zip(model.convs, cfg.dilations, strict=True), start=1):
        if not isinstance(conv, torch.nn.Linear):
            raise BackendError(f"cannot export: block {i} is a {type(conv).__name__}, not a Linear over taps")
        active = g.op("Relu", [h], out=f"relu_{i}")
        line = remember(i, active)
        gathered = g.taps(line, active, kernel=cfg.kernel, dilation=dilation, out=f"taps_{i}")
        h = g.op("Add", [h, g.linear(gathered, conv, out=f"conv_{i}", bias=_bias(conv))], out=f"h_{i}")

    head_bias = _bias(model.head)
    if model.var is not None:  # the bias of the linear skip is folded into that of the head: one Add less
        head_bias[: cfg.n_outputs] += _bias(model.var)
    head = g.linear(g.op("Relu", [h], out="relu_head"), model.head, out="head", bias=head_bias)
    location = "mu" if model.var is None else "correction"
    g.split(head, (cfg.n_outputs, cfg.n_outputs), outs=(location, "log_sigma_raw"), axis=2)
    if model.var is not None:
        line = remember(0, "x")
        gathered = g.taps(line, "x", kernel=cfg.var_order, dilation=1, out="taps_0")
        g.op("Add", [g.linear(gathered, model.var, out="var", bias=None), "correction"], out="mu")
        new_state.insert(0, new_state.pop())
    low = g.constant("log_sigma_min", np.array(LOG_SIGMA_MIN, dtype=np.float32))
    high = g.constant("log_sigma_max", np.array(LOG_SIGMA_MAX, dtype=np.float32))
    g.op("Clip", ["log_sigma_raw", low, high], out="log_sigma")
    g.op("Concat", new_state, out="state_out", axis=1)
    return g.serialise(n_channels=cfg.n_channels, n_outputs=cfg.n_outputs, state_size=cfg.state_size)


def _bias(layer: torch.nn.Linear) -> NDArray[np.float32]:
    bias: NDArray[np.float32] = layer.bias.detach().cpu().numpy().astype(np.float32, copy=True)
    return bias


def parity(
    model: Forecaster,
    onnx_bytes: bytes,
    x: NDArray[np.float32],
    mask: NDArray[np.float32],
    *,
    chunks: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Compare the torch model with its graph, whole and streamed.

    Parameters
    ----------
    x, mask : (B, T, C) float32
        Normalised input, as for :meth:`Forecaster.forward`.
    chunks
        Lengths that sum to T; drawn at random (1 to 64) from ``seed`` when None.

    Returns
    -------
    dict
        ``whole`` (torch against ONNX in one call), ``streaming`` (torch against ONNX in chunks) and ``state`` (final
        states of those two): the largest absolute difference over the largest magnitude, worst output.

    Raises
    ------
    SignalError
        The shapes do not fit, or the chunks do not sum to T.
    """
    if x.ndim != 3 or x.shape != mask.shape or x.shape[2] != model.config.n_channels or x.size == 0:
        raise SignalError(f"x and mask must both be (B, T, {model.config.n_channels}), got {x.shape} and {mask.shape}")
    n_streams, n = x.shape[:2]
    lengths = list(chunks) if chunks is not None else _random_chunks(n, np.random.default_rng(seed))
    if sum(lengths) != n or min(lengths) < 1:
        raise SignalError(f"chunks must be positive and sum to the {n} samples, got {lengths[:8]}")

    was_training = model.training
    model.eval()
    device = model.inp.weight.device
    with torch.no_grad():
        tensors = [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)).to(device) for a in (x, mask)]
        expected = [t.cpu().numpy() for t in model(*tensors, model.initial_state(n_streams))]
    model.train(was_training)

    session = _session(onnx_bytes)
    zero = np.zeros((n_streams, model.state_size), dtype=np.float32)
    whole = session.run(list(OUTPUTS), {"x": x, "mask": mask, "state": zero})
    state, pieces, start = zero, [], 0
    for length in lengths:
        part = slice(start, start + length)
        mu, log_sigma, state = session.run(
            list(OUTPUTS),
            {"x": np.ascontiguousarray(x[:, part]), "mask": np.ascontiguousarray(mask[:, part]), "state": state},
        )
        pieces.append((mu, log_sigma))
        start += length
    streamed = [np.concatenate([p[i] for p in pieces], axis=1) for i in (0, 1)]
    return {
        "whole": max(_relative(e, w) for e, w in zip(expected[:2], whole[:2], strict=True)),
        "streaming": max(_relative(e, s) for e, s in zip(expected[:2], streamed, strict=True)),
        "state": max(_relative(expected[2], whole[2]), _relative(expected[2], state)),
    }


def _session(onnx_bytes: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime raises its own classes, which are no stable API
        raise BackendError(f"ONNX Runtime refuses the graph ({e}); export it again with this version") from e


def _relative(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    scale = max(float(np.abs(expected).max()), 1e-6)
    return float(np.abs(expected.astype(np.float64) - got).max()) / scale


def _random_chunks(n: int, rng: np.random.Generator) -> list[int]:
    lengths: list[int] = []
    while (left := n - sum(lengths)) > 0:
        lengths.append(min(left, int(rng.integers(1, 65))))
    return lengths
