"""TensorRT, found and opened with care: it is not on PyPI, differs between boards, and crashes where no GPU is.

Versions 8.6, 10 and 11 and TensorRT-RTX are told apart by what their bindings have, not by their numbers. The driver
is asked through ctypes before ``tensorrt`` is imported: without a GPU its ``Builder()`` is null, and some builds
then end the process.
"""

from __future__ import annotations

import ctypes
import importlib
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal

from kinedge.errors import BackendError

__all__ = ["Library", "LibraryName", "TrtLog", "driver_problem", "load_library"]

LibraryName = Literal["tensorrt", "tensorrt-rtx"]
_MAX_MESSAGES: Final = 50
_INSTALL: Final = {
    "tensorrt": "it comes with JetPack, or from NVIDIA's own index (https://developer.nvidia.com/tensorrt)",
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13",
}


def driver_problem() -> str | None:
    """Return why no NVIDIA GPU can be used, in words, or None when one can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) on this machine"
    status = int(driver.cuInit(0))
    if status:
        return f"the NVIDIA driver found no usable GPU (cuInit says {status})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver sees no GPU"
    return None


class TrtLog:
    """What TensorRT said, the last few lines of it; becomes part of one error."""

    def __init__(self) -> None:
        self._messages: deque[str] = deque(maxlen=_MAX_MESSAGES)

    def add(self, message: str) -> None:
        """Take a line of at least warning level."""
        self._messages.append(message.strip()[:500])

    def clear(self) -> None:
        """Forget; called before each piece of work, so that an error tells of that work alone."""
        self._messages.clear()

    def error(self, what: str) -> BackendError:
        """Make the one error for what failed."""
        said = "; ".join(dict.fromkeys(self._messages)) or "nothing"
        return BackendError(f"{what}; TensorRT said: {said}")


@dataclass(frozen=True, eq=False)
class Library:
    """An opened TensorRT.

    Parameters
    ----------
    module
        The bindings.
    logger
        Kept alive as long as anything made with it.
    log
        What it collected.
    """

    name: LibraryName
    module: ModuleType
    logger: Any
    log: TrtLog

    @property
    def version(self) -> str:
        """As the bindings tell it."""
        return str(self.module.__version__)

    @property
    def strongly_typed(self) -> bool:
        """Whether the graph alone decides precisions: 10, 11 and RTX; 8.6 needs flags."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def load_library(name: LibraryName = "tensorrt", *, need_gpu: bool = True) -> Library:
    """Import TensorRT.

    Parameters
    ----------
    need_gpu
        TensorRT-RTX alone can parse and build without one. TensorRT itself is never touched without.

    Raises
    ------
    BackendError
        There is no GPU, no driver, no TensorRT, or one that cannot be used.
    """
    problem = driver_problem()
    if problem is not None and (need_gpu or name == "tensorrt"):
        raise BackendError(f"{name}: {problem}; use backend 'onnx' here")
    try:
        module = importlib.import_module(name.replace("-", "_"))
    except (ImportError, OSError, RuntimeError) as e:
        raise BackendError(f"{name} is not installed or does not load ({e}); {_INSTALL[name]}") from e
    if not hasattr(module, "Builder") or not hasattr(module, "OnnxParser"):
        raise BackendError(f"{name} here is a stub without a builder; {_INSTALL[name]}")
    if not hasattr(module.IExecutionContext, "execute_async_v3"):
        raise BackendError(f"{name} {module.__version__} is too old; 8.6 (JetPack 6) is the oldest that works")
    log = TrtLog()
    return Library(name=name, module=module, logger=_collector(module, log), log=log)


def _collector(module: Any, log: TrtLog) -> Any:
    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind11 wants its own base called, not super()

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR, module.ILogger.WARNING):
                log.add(message)

    return Collector()
