"""The little of CUDA that a backend needs, through ``cuda-python``: buffers, one stream, graphs.

On a Jetson the processor and the GPU share memory: a mapped buffer is read by the GPU where it lies, and nothing is
copied. Elsewhere a buffer is a pinned half on the host and a half on the device, copied on the stream.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.backends.trt_library import driver_problem
from kinedge.errors import BackendError

__all__ = ["Buffer", "Cuda", "Device", "Gpu"]

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Gpu:
    """Which GPU."""

    name: str
    sm: int
    memory_mib: int
    shares_memory: bool
    driver: int

    def __str__(self) -> str:
        return f"{self.name} sm_{self.sm}"


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory the host and the device both reach.

    Parameters
    ----------
    host : float32
        What the host reads and writes.
    address
        Where the device reads and writes; the same memory when ``shared``.
    """

    host: F32
    address: int
    shared: bool


class Device(Protocol):
    """What a backend asks of a GPU; everything happens in order on ``stream``."""

    gpu: Gpu
    stream: int

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Return zeroed memory for host and device."""

    def allocate(self, n_bytes: int) -> int:
        """Return the address of zeroed device memory."""

    def upload(self, buffer: Buffer, n_values: int) -> None:
        """Bring the first values of a buffer to the device."""

    def download(self, buffer: Buffer, n_values: int) -> None:
        """Bring them back; they are there after ``wait``."""

    def write(self, address: int, values: F32) -> None:
        """Copy an array to device memory, and wait."""

    def read(self, address: int, shape: tuple[int, ...]) -> F32:
        """Copy device memory to a new array, and wait."""

    def free(self, memory: Buffer | int) -> None:
        """Give a buffer or an allocation back."""

    def drop(self, graph: int) -> None:
        """Give what was recorded back."""

    def wait(self) -> None:
        """Wait until the stream is done."""

    def begin_capture(self) -> None:
        """Record what follows instead of doing it."""

    def end_capture(self) -> int:
        """Return what was recorded, ready to launch."""

    def launch(self, graph: int) -> None:
        """Do what was recorded."""


class Cuda:
    """The first GPU, through ``cuda-python``.

    Raises
    ------
    BackendError
        No GPU, no driver, or no ``cuda-python``.
    """

    def __init__(self) -> None:
        problem = driver_problem()
        if problem is not None:
            raise BackendError(f"CUDA: {problem}; use backend 'onnx' here")
        self._rt = _runtime()
        rt = self._rt
        self._graphs: dict[int, Any] = {}
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name
        self.gpu = Gpu(
            name=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
            sm=10 * properties.major + properties.minor,
            memory_mib=int(properties.totalGlobalMem) >> 20,
            shares_memory=bool(properties.integrated and properties.canMapHostMemory),
            driver=int(self._call("cudaDriverGetVersion")),
        )
        self._call("cudaSetDevice", 0)
        self._stream = self._call("cudaStreamCreateWithFlags", rt.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """See ``Device``."""
        n_bytes = 4 * int(np.prod(shape))
        shared = self.gpu.shares_memory
        flag = self._rt.cudaHostAllocMapped if shared else self._rt.cudaHostAllocDefault
        pointer = int(self._call("cudaHostAlloc", n_bytes, flag))
        raw = (ctypes.c_float * (n_bytes // 4)).from_address(pointer)
        host: F32 = np.ctypeslib.as_array(raw).reshape(shape)
        host[...] = 0
        address = int(self._call("cudaHostGetDevicePointer", pointer, 0)) if shared else self.allocate(n_bytes)
        return Buffer(host=host, address=address, shared=shared)

    def allocate(self, n_bytes: int) -> int:
        """See ``Device``."""
        address = int(self._call("cudaMalloc", n_bytes))
        self._call("cudaMemsetAsync", address, 0, n_bytes, self._stream)
        self.wait()
        return address

    def upload(self, buffer: Buffer, n_values: int) -> None:
        """See ``Device``."""
        if not buffer.shared:
            self._copy(buffer.address, buffer.host.ctypes.data, 4 * n_values, "cudaMemcpyHostToDevice")

    def download(self, buffer: Buffer, n_values: int) -> None:
        """See ``Device``."""
        if not buffer.shared:
            self._copy(buffer.host.ctypes.data, buffer.address, 4 * n_values, "cudaMemcpyDeviceToHost")

    def write(self, address: int, values: F32) -> None:
        """See ``Device``."""
        values = np.ascontiguousarray(values, np.float32)
        self._copy(address, values.ctypes.data, values.nbytes, "cudaMemcpyHostToDevice")
        self.wait()

    def read(self, address: int, shape: tuple[int, ...]) -> F32:
        """See ``Device``."""
        values: F32 = np.empty(shape, np.float32)
        self._copy(values.ctypes.data, address, values.nbytes, "cudaMemcpyDeviceToHost")
        self.wait()
        return values

    def wait(self) -> None:
        """See ``Device``."""
        self._call("cudaStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """See ``Device``."""
        # thread-local: another thread's CUDA calls must not spoil the recording
        self._call(
            "cudaStreamBeginCapture", self._stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )

    def end_capture(self) -> int:
        """See ``Device``."""
        graph = self._call("cudaStreamEndCapture", self._stream)
        ready = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        self._graphs[int(ready)] = ready
        return int(ready)

    def launch(self, graph: int) -> None:
        """See ``Device``."""
        self._call("cudaGraphLaunch", self._graphs[graph], self._stream)

    def drop(self, graph: int) -> None:
        """See ``Device``."""
        self._call("cudaGraphExecDestroy", self._graphs.pop(graph))

    def free(self, memory: Buffer | int) -> None:
        """See ``Device``."""
        if isinstance(memory, int):
            self._call("cudaFree", memory)
            return
        if not memory.shared:
            self._call("cudaFree", memory.address)
        self._call("cudaFreeHost", memory.host.ctypes.data)

    def _copy(self, target: int, source: int, n_bytes: int, way: str) -> None:
        self._call("cudaMemcpyAsync", target, source, n_bytes, getattr(self._rt.cudaMemcpyKind, way), self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the runtime; it answers with a status and its results."""
        status, *results = getattr(self._rt, name)(*arguments)
        if int(status):
            raise BackendError(f"CUDA: {name} failed: {getattr(status, 'name', status)}")
        return results[0] if results else None


def _runtime() -> Any:
    # cuda-python 12.8 moved its modules; JetPack 6 boards still have the older name
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BackendError("cuda-python is not installed; pip install 'kinedge[tensorrt]'")
