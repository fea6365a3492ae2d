"""A GPU on paper: memory at real addresses, work in order, graphs that are recorded and launched; ONNX Runtime inside.

What runs is the graph itself, from the addresses that were set, at the moment the device would run it. A backend that
mixes up its two sets of states, copies too little, or launches a stale recording gives wrong numbers here too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kinedge.edge.backends.cuda import Buffer, Gpu
from kinedge.errors import BackendError

__all__ = ["VirtualEngine", "VirtualGpu"]

F32 = NDArray[np.float32]


def at(address: int, n_values: int) -> F32:
    raw = (ctypes.c_float * n_values).from_address(address)
    return np.frombuffer(raw, np.float32)


class VirtualGpu:
    """``Device`` in host memory; ``shares_memory`` as on a Jetson, else two copies of every buffer."""

    def __init__(self, *, shares_memory: bool = False, can_capture: bool = True) -> None:
        self.gpu = Gpu("paper", 0, 1024, shares_memory, 0)
        self.stream = 7
        self.can_capture = can_capture
        self.launches = 0
        self._memory: dict[int, F32] = {}
        self._capturing: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}

    @property
    def n_allocations(self) -> int:
        return len(self._memory)

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        host = at(self.allocate(4 * int(np.prod(shape))), int(np.prod(shape))).reshape(shape)
        shared = self.gpu.shares_memory
        return Buffer(host, host.ctypes.data if shared else self.allocate(host.nbytes), shared)

    def allocate(self, n_bytes: int) -> int:
        values = np.zeros(n_bytes // 4, np.float32)
        self._memory[values.ctypes.data] = values
        return values.ctypes.data

    def free(self, memory: Buffer | int) -> None:
        if isinstance(memory, int):
            del self._memory[memory]
            return
        if not memory.shared:
            del self._memory[memory.address]
        del self._memory[memory.host.ctypes.data]

    def upload(self, buffer: Buffer, n_values: int) -> None:
        if not buffer.shared:
            self._copy(buffer.address, buffer.host.ctypes.data, n_values)

    def download(self, buffer: Buffer, n_values: int) -> None:
        if not buffer.shared:
            self._copy(buffer.host.ctypes.data, buffer.address, n_values)

    def write(self, address: int, values: F32) -> None:
        at(address, values.size)[:] = values.ravel()

    def read(self, address: int, shape: tuple[int, ...]) -> F32:
        return at(address, int(np.prod(shape))).reshape(shape).copy()

    def wait(self) -> None:
        if self._capturing is not None:
            raise BackendError("CUDA: a stream cannot be waited for while it is recorded")

    def begin_capture(self) -> None:
        if not self.can_capture:
            raise BackendError("CUDA: cudaStreamBeginCapture failed: on purpose")
        self._capturing = []

    def end_capture(self) -> int:
        if self._capturing is None:
            raise BackendError("CUDA: nothing is recorded")
        self._graphs[len(self._graphs) + 1] = self._capturing
        self._capturing = None
        return len(self._graphs)

    def launch(self, graph: int) -> None:
        self.launches += 1
        for work in self._graphs[graph]:
            work()

    def drop(self, graph: int) -> None:
        self._graphs[graph] = []

    def enqueue(self, work: Callable[[], None]) -> None:
        if self._capturing is not None:
            self._capturing.append(work)
        else:
            work()

    def _copy(self, target: int, source: int, n_values: int) -> None:
        def work() -> None:
            at(target, n_values)[:] = at(source, n_values)

        self.enqueue(work)


class VirtualEngine:
    """``ICudaEngine`` over an ONNX graph; ``refuse`` names a call that its contexts answer with False."""

    def __init__(self, graph: bytes, device: VirtualGpu, *, refuse: str = "") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.device = device
        self.refuse = refuse
        self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, i: int) -> str:
        return str(self.tensors[i].name)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = next(t.shape for t in self.tensors if t.name == name)
        return tuple(n if isinstance(n, int) else -1 for n in shape)

    def create_execution_context(self) -> VirtualContext:
        return VirtualContext(self)


class VirtualContext:
    def __init__(self, engine: VirtualEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.has_run = False

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return self._allowed("set_optimization_profile_async")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self._allowed("set_input_shape")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self._allowed("set_tensor_address")

    def execute_async_v3(self, stream: int) -> bool:
        if not self._allowed("execute_async_v3") or set(self.addresses) != {t.name for t in self.engine.tensors}:
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)  # a launch fixes its arguments

        def work() -> None:
            feed: dict[str, Any] = {n: at(addresses[n], int(np.prod(s))).reshape(s) for n, s in shapes.items()}
            names = [t.name for t in self.engine.session.get_outputs()]
            for name, values in zip(names, self.engine.session.run(names, feed), strict=True):
                at(addresses[name], values.size)[:] = values.ravel()

        self.engine.device.enqueue(work)
        return True

    def _allowed(self, call: str) -> bool:
        return call != self.engine.refuse
