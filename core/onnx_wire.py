"""The structure of an ONNX file, read from its protobuf bytes without the ``onnx`` package and without trusting it.

Only the fields that a plain inference graph has are known; any other is refused, and with them sub-graphs, local
functions, training information, sparse tensors and tensors kept in other files. Nothing is copied: a tensor's numbers
are counted, and read only where they are a few integers, the shapes that a graph computes with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from kinedge.errors import BundleError

__all__ = ["GraphOutline", "NodeOutline", "TensorOutline", "ValueOutline", "read_onnx"]

MAX_RANK: Final = 8
_MAX_FIELDS: Final = 100_000
_MAX_ITEMS: Final = 4096  # nodes, tensors, values
_MAX_TEXT: Final = 512
_MAX_CONSTANT: Final = 64  # integers of a tensor that are read, not only counted

# field numbers of onnx.proto (IR version 8)
_MODEL: Final = {1: "ir_version", 2: "", 3: "", 4: "", 5: "", 6: "", 7: "graph", 8: "opset", 14: ""}
_GRAPH: Final = {1: "node", 2: "", 5: "initializer", 10: "", 11: "input", 12: "output", 13: ""}
_NODE: Final = {1: "input", 2: "output", 3: "", 4: "op_type", 5: "attribute", 6: "", 7: "domain"}
_ATTRIBUTE: Final = {1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 7: "floats", 8: "ints", 13: "", 20: "type"}
_TENSOR: Final = {
    1: "dims",
    2: "data_type",
    4: "fixed32",
    5: "varints",
    7: "varints",
    8: "name",
    9: "raw",
    12: "",
    14: "location",
}
_OPSET: Final = {1: "domain", 2: "version"}
_VALUE: Final = {1: "name", 2: "type", 3: ""}
_TYPE: Final = {1: "tensor"}
_TENSOR_TYPE: Final = {1: "elem_type", 2: "shape"}
_SHAPE: Final = {1: "dim"}
_DIM: Final = {1: "value", 2: "param", 3: ""}

_ITEM_BYTES: Final = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2}  # float, uint8, int8, int32, int64, bool, float16
_INT64: Final = 7


@dataclass(frozen=True)
class TensorOutline:
    """A constant: its type (ONNX's number), shape, and its values where they are a few int64.

    ``raw`` is where its bytes lie in the file, little-endian and as many as its shape needs; None if not in one block.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    integers: tuple[int, ...] | None = None
    raw: memoryview | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class NodeOutline:
    """A node; ``attributes`` holds integers, tuples of integers, tensors and None for what shapes do not depend on."""

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int | tuple[int, ...] | bytes | TensorOutline | None]


@dataclass(frozen=True)
class ValueOutline:
    """An input or output as declared; a dimension is None where it is left open."""

    name: str
    elem_type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphOutline:
    """What a graph is made of."""

    ir_version: int
    opsets: dict[str, int]
    nodes: tuple[NodeOutline, ...]
    initializers: tuple[TensorOutline, ...]
    inputs: tuple[ValueOutline, ...]
    outputs: tuple[ValueOutline, ...]


def read_onnx(data: bytes, *, where: str) -> GraphOutline:
    """Read the outline of an ONNX file.

    Raises
    ------
    BundleError
        It is no ONNX file, is damaged, or has anything but a plain graph with its constants inside.
    """
    return _Reader(where).model(memoryview(data))


class _Reader:
    def __init__(self, where: str) -> None:
        self._where = where
        self._n_fields = 0

    def _refuse(self, what: str) -> BundleError:
        return BundleError(f"{self._where}: {what}; it is damaged or not of kinedge's exporter: get the file again")

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = 0
        for i in range(10):
            if at + i >= len(data):
                break
            byte = data[at + i]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value & (1 << 64) - 1, at + i + 1
        raise self._refuse("a number in the graph does not end")

    def _fields(self, data: memoryview, known: dict[int, str], what: str) -> Iterator[tuple[str, int | memoryview]]:
        """Yield known fields as name and value: an integer, or the bytes of anything else."""
        at = 0
        while at < len(data):
            self._n_fields += 1
            if self._n_fields > _MAX_FIELDS:
                raise self._refuse(f"more than {_MAX_FIELDS} fields in the graph")
            tag, at = self._varint(data, at)
            number, kind = tag >> 3, tag & 7
            if number not in known:
                raise self._refuse(f"field {number} of {what} is not allowed in a bundle's graph")
            value: int | memoryview
            if kind == 0:
                value, at = self._varint(data, at)
            else:
                if kind == 2:
                    length, at = self._varint(data, at)
                elif kind in (1, 5):
                    length = 8 if kind == 1 else 4
                else:
                    raise self._refuse(f"{what} has a field of unknown kind {kind}")
                if length > len(data) - at:
                    raise self._refuse(f"{what} is cut off")
                value, at = data[at : at + length], at + length
            if known[number]:
                yield known[number], value

    def _int(self, value: int | memoryview, what: str) -> int:
        if not isinstance(value, int):
            raise self._refuse(f"{what} is no number")
        return value - (1 << 64) if value >> 63 else value

    def _bytes(self, value: int | memoryview, what: str) -> memoryview:
        if isinstance(value, int):
            raise self._refuse(f"{what} is a number")
        return value

    def _text(self, value: int | memoryview, what: str) -> str:
        raw = self._bytes(value, what)
        if len(raw) > _MAX_TEXT:
            raise self._refuse(f"{what} is a name of {len(raw)} bytes")
        try:
            return bytes(raw).decode()
        except UnicodeDecodeError as e:
            raise self._refuse(f"{what} is no text") from e

    def _ints(self, value: int | memoryview, what: str) -> list[int]:
        """Read one number, or many packed."""
        if isinstance(value, int):
            return [self._int(value, what)]
        found, at = [], 0
        while at < len(value):
            number, at = self._varint(value, at)
            found.append(self._int(number, what))
            if len(found) > _MAX_CONSTANT:
                raise self._refuse(f"{what} has more than {_MAX_CONSTANT} numbers")
        return found

    def model(self, data: memoryview) -> GraphOutline:
        ir_version, opsets, graphs = 0, dict[str, int](), list[memoryview]()
        for name, value in self._fields(data, _MODEL, "the model"):
            if name == "ir_version":
                ir_version = self._int(value, "ir_version")
            elif name == "graph":
                graphs.append(self._bytes(value, "graph"))
            else:
                domain, version = "", 0
                for key, part in self._fields(self._bytes(value, "opset"), _OPSET, "an opset"):
                    if key == "domain":
                        domain = self._text(part, "domain")
                    else:
                        version = self._int(part, "version")
                if domain in opsets:
                    raise self._refuse(f"opset {domain!r} stands twice")
                opsets[domain] = version
        if len(graphs) != 1:
            raise self._refuse(f"{len(graphs)} graphs, where one is expected")
        return self._graph(graphs[0], ir_version, opsets)

    def _graph(self, data: memoryview, ir_version: int, opsets: dict[str, int]) -> GraphOutline:
        nodes, initializers = list[NodeOutline](), list[TensorOutline]()
        inputs, outputs = list[ValueOutline](), list[ValueOutline]()
        for name, value in self._fields(data, _GRAPH, "the graph"):
            part = self._bytes(value, name)
            if name == "node":
                nodes.append(self._node(part))
            elif name == "initializer":
                initializers.append(self._tensor(part))
            else:
                (inputs if name == "input" else outputs).append(self._value(part))
            if max(len(nodes), len(initializers), len(inputs), len(outputs)) > _MAX_ITEMS:
                raise self._refuse(f"more than {_MAX_ITEMS} parts of one kind in the graph")
        return GraphOutline(ir_version, opsets, tuple(nodes), tuple(initializers), tuple(inputs), tuple(outputs))

    def _node(self, data: memoryview) -> NodeOutline:
        names: dict[str, list[str]] = {"input": [], "output": [], "op_type": [], "domain": []}
        attributes: dict[str, int | tuple[int, ...] | bytes | TensorOutline | None] = {}
        for name, value in self._fields(data, _NODE, "a node"):
            if name == "attribute":
                key, content = self._attribute(self._bytes(value, name))
                if key in attributes:
                    raise self._refuse(f"attribute {key} stands twice")
                attributes[key] = content
            else:
                names[name].append(self._text(value, name))
        return NodeOutline(
            "".join(names["op_type"]),
            "".join(names["domain"]),
            tuple(names["input"]),
            tuple(names["output"]),
            attributes,
        )

    def _attribute(self, data: memoryview) -> tuple[str, int | tuple[int, ...] | bytes | TensorOutline | None]:
        key, content, many = "", None, list[int]()
        found: int | bytes | TensorOutline | None = content
        for name, value in self._fields(data, _ATTRIBUTE, "an attribute"):
            if name == "name":
                key = self._text(value, name)
            elif name == "i":
                found = self._int(value, name)
            elif name == "s":
                found = self._text(value, name).encode()
            elif name == "t":
                found = self._tensor(self._bytes(value, name))
            elif name == "ints":
                many.extend(self._ints(value, name))
        return key, tuple(many) if many else found

    def _tensor(self, data: memoryview) -> TensorOutline:
        label, data_type, dims = "", 0, list[int]()
        n_items, integers, raws = 0, list[int](), list[memoryview]()
        for name, value in self._fields(data, _TENSOR, "a tensor"):
            if name == "name":
                label = self._text(value, name)
            elif name == "data_type":
                data_type = self._int(value, name)
            elif name == "dims":
                dims.extend(self._ints(value, name))
            elif name == "raw":
                raws.append(self._bytes(value, name))
            elif name == "location":
                if value != 0:
                    raise self._refuse(f"tensor {label} is kept in another file")
            elif name == "fixed32":
                n_items += len(self._bytes(value, name)) // 4
            elif isinstance(value, int):
                n_items += 1
                integers.append(self._int(value, name))
            else:
                n_items += int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))
                if n_items <= _MAX_CONSTANT:
                    integers.extend(self._ints(value, name))
        size = _ITEM_BYTES.get(data_type)
        if size is None:
            raise self._refuse(f"tensor {label} is of type {data_type}")
        if len(dims) > MAX_RANK or min(dims, default=0) < 0 or len(raws) > 1 or (raws and n_items):
            raise self._refuse(f"tensor {label} has shape {dims} and {len(raws)} blocks of data")
        n_expected = 1
        for dim in dims:
            n_expected *= dim
        n_found = n_items if not raws else len(raws[0]) / size
        if n_found != n_expected:
            raise self._refuse(f"tensor {label} claims shape {dims} and holds {n_found:g} numbers")
        if data_type == _INT64 and n_expected <= _MAX_CONSTANT:
            read = struct.unpack(f"<{n_expected}q", raws[0]) if raws else tuple(integers)
            return TensorOutline(label, data_type, tuple(dims), read)
        return TensorOutline(label, data_type, tuple(dims), raw=raws[0] if raws else None)

    def _value(self, data: memoryview) -> ValueOutline:
        label, elem_type, shape = "", 0, list[int | None]()
        for name, value in self._fields(data, _VALUE, "an input or output"):
            if name == "name":
                label = self._text(value, name)
                continue
            for _, tensor in self._fields(self._bytes(value, name), _TYPE, f"the type of {label}"):
                for key, part in self._fields(self._bytes(tensor, name), _TENSOR_TYPE, f"the type of {label}"):
                    if key == "elem_type":
                        elem_type = self._int(part, key)
                        continue
                    for _, dim in self._fields(self._bytes(part, key), _SHAPE, f"the shape of {label}"):
                        sizes = self._fields(self._bytes(dim, key), _DIM, f"the shape of {label}")
                        known = [self._int(v, k) for k, v in sizes if k == "value"]
                        shape.append(known[-1] if known else None)
        return ValueOutline(label, elem_type, tuple(shape))
