"""What a bundle's graph may be: looked at before any inference library parses it.

Allowed are the operators that kinedge's exporters write and a few that others put beside them, in ONNX's own domain.
All of them are pure arithmetic; none reads a file, runs a sub-graph, or makes its size up from data. That leaves
graphs that are too big on purpose, so all shapes are worked out for the most streams a board may have, from the
shapes the manifest promises: what would take too much memory or time is refused, and so is a result of another shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from kinedge.errors import BundleError
from kinedge.onnx_wire import MAX_RANK, GraphOutline, NodeOutline, TensorOutline, read_onnx

__all__ = ["OPERATORS", "check_graph"]

_STREAMS: Final = 256  # the most people of one gateway
_MAX_ELEMENTS: Final = 1 << 29  # of all values of a step together: 2 GiB as float32
_MAX_PRODUCTS: Final = 1 << 40  # of a step
_MIN_OPSET, _MAX_OPSET = 13, 21
_MAX_IR_VERSION: Final = 10
_FLOAT: Final = 1

Shape = tuple[int, ...]


class _Misfit(Exception):
    """A node's inputs, attributes or shapes do not go together."""


class _Shapes:
    """Shapes of all values so far, and the integers that are known."""

    def __init__(self, graph: GraphOutline, inputs: Mapping[str, Shape]) -> None:
        self.shapes: dict[str, Shape] = {}
        self.integers: dict[str, tuple[int, ...]] = {}
        self.n_elements = self.n_products = 0
        for tensor in graph.initializers:
            self.add_constant(tensor.name, tensor)
        for name, shape in inputs.items():
            self.add(name, shape)

    def add(self, name: str, shape: Shape) -> None:
        if not name or name in self.shapes:
            raise _Misfit(f"value {name!r} has no name or stands twice")
        if len(shape) > MAX_RANK or min(shape, default=0) < 0:
            raise _Misfit(f"{name} would have shape {shape}")
        self.shapes[name] = shape
        self.n_elements += math.prod(shape)

    def add_constant(self, name: str, tensor: TensorOutline) -> None:
        self.add(name, tensor.shape)
        if tensor.integers is not None:
            self.integers[name] = tensor.integers

    def of(self, node: NodeOutline, i: int) -> Shape:
        if i >= len(node.inputs) or node.inputs[i] not in self.shapes:
            raise _Misfit(f"input {i} does not exist before it")
        return self.shapes[node.inputs[i]]

    def ints(self, node: NodeOutline, i: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        if default is not None and (i >= len(node.inputs) or not node.inputs[i]):
            return default
        self.of(node, i)
        if node.inputs[i] not in self.integers:
            raise _Misfit(f"input {i} must be a constant of a few integers")
        return self.integers[node.inputs[i]]


def _int(node: NodeOutline, key: str, default: int) -> int:
    value = node.attributes.get(key, default)
    if not isinstance(value, int):
        raise _Misfit(f"{key} must be one integer")
    return value


def _tuple(node: NodeOutline, key: str, default: Shape) -> Shape:
    value = node.attributes.get(key, default)
    if not isinstance(value, tuple):
        raise _Misfit(f"{key} must be integers")
    return value


def _axis(value: int, rank: int) -> int:
    if not -rank <= value < rank:
        raise _Misfit(f"there is no axis {value} of {rank}")
    return value % rank


def _same(s: _Shapes, n: NodeOutline) -> list[Shape]:
    for i in range(1, len(n.inputs)):
        if n.inputs[i]:
            s.of(n, i)
    return [s.of(n, 0)]


def _broadcast(s: _Shapes, n: NodeOutline) -> list[Shape]:
    try:
        return [np.broadcast_shapes(s.of(n, 0), s.of(n, 1))]
    except ValueError as e:
        raise _Misfit(f"{s.of(n, 0)} and {s.of(n, 1)} do not go together") from e


def _concat(s: _Shapes, n: NodeOutline) -> list[Shape]:
    shapes = [s.of(n, i) for i in range(len(n.inputs))]
    axis = _axis(_int(n, "axis", 0), len(shapes[0])) if shapes else 0
    if len({(*x[:axis], *x[axis + 1 :]) for x in shapes}) != 1 or len({len(x) for x in shapes}) != 1:
        raise _Misfit(f"{shapes} do not go together along axis {axis}")
    return [(*shapes[0][:axis], sum(x[axis] for x in shapes), *shapes[0][axis + 1 :])]


def _matmul(s: _Shapes, n: NodeOutline) -> list[Shape]:
    a, b = s.of(n, 0), s.of(n, 1)
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise _Misfit(f"{a} times {b} is no matrix product")
    try:
        out = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    except ValueError as e:
        raise _Misfit(f"{a} and {b} do not go together") from e
    s.n_products += math.prod(out) * a[-1]
    return [out]


def _gemm(s: _Shapes, n: NodeOutline) -> list[Shape]:
    a, b = s.of(n, 0), s.of(n, 1)
    if len(a) != 2 or len(b) != 2:
        raise _Misfit(f"{a} times {b} is no matrix product")
    a = a[::-1] if _int(n, "transA", 0) else a
    b = b[::-1] if _int(n, "transB", 0) else b
    if a[1] != b[0]:
        raise _Misfit(f"{a} times {b} is no matrix product")
    s.n_products += a[0] * a[1] * b[1]
    return [(a[0], b[1])]


def _conv(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x, w = s.of(n, 0), s.of(n, 1)
    k = len(x) - 2
    strides, dilations = _tuple(n, "strides", (1,) * k), _tuple(n, "dilations", (1,) * k)
    pads, group = _tuple(n, "pads", (0,) * 2 * k), _int(n, "group", 1)
    fits = k >= 1 and len(w) == len(x) and len(strides) == len(dilations) == k and len(pads) == 2 * k and group >= 1
    if (
        not fits
        or min(*strides, *dilations, 1) < 1
        or min(pads) < 0
        or n.attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        raise _Misfit(f"{x} and weights {w}, strides {strides}, pads {pads} make no convolution")
    if x[1] != w[1] * group or w[0] % group or _tuple(n, "kernel_shape", w[2:]) != w[2:]:
        raise _Misfit(f"{x} and weights {w} of {group} groups do not go together")
    room = [x[2 + i] + pads[i] + pads[k + i] - dilations[i] * (w[2 + i] - 1) - 1 for i in range(k)]
    if min(room) < 0:
        raise _Misfit(f"{x} is smaller than the kernel {w[2:]}")
    out = (x[0], w[0], *(r // d + 1 for r, d in zip(room, strides, strict=True)))
    s.n_products += math.prod(out) * math.prod(w[1:])
    return [out]


def _reshape(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x, wanted = s.of(n, 0), list(s.ints(n, 1))
    if _int(n, "allowzero", 0) or wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        raise _Misfit(f"shape {wanted} is ambiguous")
    for i, size in enumerate(wanted):
        if size == 0:
            if i >= len(x):
                raise _Misfit(f"shape {wanted} keeps an axis that {x} does not have")
            wanted[i] = x[i]
    if -1 in wanted:
        rest = -math.prod(wanted)
        wanted[wanted.index(-1)] = math.prod(x) // rest if rest else 0
    if math.prod(wanted) != math.prod(x):
        raise _Misfit(f"{x} cannot become {wanted}")
    return [tuple(wanted)]


def _slice(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x, starts, ends = s.of(n, 0), s.ints(n, 1), s.ints(n, 2)
    axes = s.ints(n, 3, tuple(range(len(starts))))
    steps = s.ints(n, 4, (1,) * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise _Misfit("its bounds do not go together")
    out = list(x)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        i = _axis(axis, len(x))
        out[i] = len(range(*slice(start, end, step).indices(x[i])))
    return [tuple(out)]


def _split(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x, parts = s.of(n, 0), len(n.outputs)
    axis = _axis(_int(n, "axis", 0), len(x))
    even = (x[axis] // parts,) * parts if parts and x[axis] % parts == 0 else ()
    sizes = s.ints(n, 1, even)
    if len(sizes) != parts or sum(sizes) != x[axis] or min(sizes, default=0) < 0:
        raise _Misfit(f"{x} cannot be split into {sizes}")
    return [(*x[:axis], size, *x[axis + 1 :]) for size in sizes]


def _transpose(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x = s.of(n, 0)
    perm = _tuple(n, "perm", tuple(reversed(range(len(x)))))
    if sorted(perm) != list(range(len(x))):
        raise _Misfit(f"{perm} is no order of {len(x)} axes")
    return [tuple(x[i] for i in perm)]


def _gather(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x, indices = s.of(n, 0), s.of(n, 1)
    axis = _axis(_int(n, "axis", 0), len(x))
    return [(*x[:axis], *indices, *x[axis + 1 :])]


def _squeeze(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x = s.of(n, 0)
    gone = {_axis(a, len(x)) for a in s.ints(n, 1, tuple(i for i, d in enumerate(x) if d == 1))}
    if any(x[i] != 1 for i in gone):
        raise _Misfit(f"{x} has more than one row where it is squeezed")
    return [tuple(d for i, d in enumerate(x) if i not in gone)]


def _unsqueeze(s: _Shapes, n: NodeOutline) -> list[Shape]:
    x, axes = s.of(n, 0), s.ints(n, 1)
    rank = len(x) + len(axes)
    new = {_axis(a, rank) for a in axes}
    if len(new) != len(axes):
        raise _Misfit(f"axes {axes} stand twice")
    rest = iter(x)
    return [tuple(1 if i in new else next(rest) for i in range(rank))]


_RULES: Final[dict[str, Callable[[_Shapes, NodeOutline], list[Shape]]]] = {
    **dict.fromkeys(("Abs", "Cast", "Clip", "Elu", "Exp", "HardSigmoid", "HardSwish", "Identity"), _same),
    **dict.fromkeys(("LeakyRelu", "Log", "Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"), _same),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _same),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub"), _broadcast),
    "Concat": _concat,
    "Conv": _conv,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
OPERATORS: Final = frozenset(_RULES) | {"Constant"}


def check_graph(
    data: bytes, *, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]], hop: int, where: str
) -> None:
    """Refuse an ONNX graph that is not plain, not of these inputs and outputs, or too big to run.

    Parameters
    ----------
    data
        The ONNX file.
    inputs, outputs
        Name to shape as the manifest promises; ``-1`` is the streams where it comes first, else the samples. float32.
    hop
        Samples of a step.
    where
        For the error.

    Raises
    ------
    BundleError
        It must not be run.
    """
    graph = read_onnx(data, where=where)
    more = "make it with kinedge's exporter, or get the file again"
    if set(graph.opsets) - {"", "ai.onnx"}:
        raise BundleError(f"{where}: operators of {', '.join(sorted(graph.opsets))}; only ONNX's own are run; {more}")
    version = max(graph.opsets.values(), default=0)
    if not _MIN_OPSET <= version <= _MAX_OPSET or not 1 <= graph.ir_version <= _MAX_IR_VERSION:
        raise BundleError(
            f"{where}: opset {version}, IR {graph.ir_version}; opsets {_MIN_OPSET} to {_MAX_OPSET} and IR to "
            f"{_MAX_IR_VERSION} are run; {more}"
        )
    promised = {
        kind: {k: tuple((hop if i else _STREAMS) if d == -1 else d for i, d in enumerate(v)) for k, v in shapes.items()}
        for kind, shapes in (("inputs", inputs), ("outputs", outputs))
    }
    for kind, declared in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        names = [v.name for v in declared]
        if sorted(names) != sorted(promised[kind]):
            raise BundleError(f"{where}: its {kind} are {names}, expected {sorted(promised[kind])}; {more}")
        for value in declared:
            shape = promised[kind][value.name]
            fits = len(value.shape) == len(shape) and all(
                a is None or a == b for a, b in zip(value.shape, shape, strict=False)
            )
            if value.elem_type != _FLOAT or not fits:
                raise BundleError(
                    f"{where}: {value.name} is type {value.elem_type} {value.shape}, "
                    f"expected float32 like {shape}; {more}"
                )
    try:
        made = _Shapes(graph, promised["inputs"])
    except _Misfit as e:
        raise BundleError(f"{where}: {e}; {more}") from e
    for node in graph.nodes:
        label = f"{where}: node {node.op_type} that makes {', '.join(node.outputs)[:80]}"
        if node.domain not in {"", "ai.onnx"} or node.op_type not in OPERATORS:
            raise BundleError(f"{label}: operator {node.domain or 'ai.onnx'}:{node.op_type} is not allowed; {more}")
        try:
            _take(made, node)
        except _Misfit as e:
            raise BundleError(f"{label}: {e}; {more}") from e
        if made.n_elements > _MAX_ELEMENTS or made.n_products > _MAX_PRODUCTS:
            raise BundleError(f"{label}: a step of {_STREAMS} streams up to here is too big for a board; {more}")
    for name, shape in promised["outputs"].items():
        if made.shapes.get(name) != shape:
            raise BundleError(f"{where}: {name} comes out as {made.shapes.get(name)}, expected {shape}; {more}")


def _take(made: _Shapes, node: NodeOutline) -> None:
    if node.op_type == "Constant":
        tensor = node.attributes.get("value")
        if not isinstance(tensor, TensorOutline) or len(node.outputs) != 1:
            raise _Misfit("a constant needs one tensor")
        made.add_constant(node.outputs[0], tensor)
        return
    shapes = _RULES[node.op_type](made, node)
    if len(shapes) != len(node.outputs):
        raise _Misfit(f"{len(node.outputs)} outputs, expected {len(shapes)}")
    for name, shape in zip(node.outputs, shapes, strict=True):
        made.add(name, shape)
