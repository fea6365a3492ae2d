"""Inference backends behind one small interface: what a bundle's graph needs, and nothing more.

A step is stateless: state comes in and goes out as an array, so that it can be saved, moved between backends in
mid-stream, and compared. Where a backend may keep it is in ``Streams``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Literal, cast, get_args

from kinedge.bundle import Bundle
from kinedge.edge.backends.base import Backend, StreamingBackend, Streams
from kinedge.edge.backends.native import NativeBackend
from kinedge.edge.backends.onnx import OnnxBackend
from kinedge.errors import BackendError

__all__ = [
    "DEFAULT_BACKENDS",
    "Backend",
    "BackendName",
    "NativeBackend",
    "OnnxBackend",
    "StreamingBackend",
    "Streams",
    "load_backend",
    "open_backend",
]

BackendName = Literal["onnx", "native", "onnx-cuda", "tensorrt", "tensorrt-rtx"]
DEFAULT_BACKENDS: Final[tuple[BackendName, ...]] = ("native", "onnx")
"""The step in C where it is built and the graph is one that it takes; ONNX Runtime for all others."""
logger = logging.getLogger(__name__)


def load_backend(bundle: Bundle, *, precision: str = "fp32") -> Backend:
    """Open the first of ``DEFAULT_BACKENDS`` that runs this graph.

    Raises
    ------
    BackendError
        The graph cannot be loaded, or is not the one the manifest describes.
    BundleError
        The bundle has no such precision.
    """
    return open_backend(bundle, precision=precision)


def open_backend(
    bundle: Bundle,
    names: Sequence[BackendName] = DEFAULT_BACKENDS,
    *,
    precision: str = "fp32",
    max_streams: int = 64,
) -> StreamingBackend:
    """Open the first of these backends that works here; one that is not named is never used.

    Parameters
    ----------
    names
        In order of preference. Whatever is passed over is logged with its reason: as a warning, where somebody chose
        the order.
    precision
        The same for all: verdicts are calibrated for it.
    max_streams
        That a TensorRT engine is compiled for.

    Raises
    ------
    BackendError
        None works; the message gives the reason of each.
    BundleError
        The bundle has no such precision.
    """
    if not names:
        raise BackendError("no backend is allowed; name at least one, such as 'onnx'")
    level = logging.INFO if tuple(names) == DEFAULT_BACKENDS else logging.WARNING
    problems = []
    for name in names:
        try:
            backend = _open(bundle, name, precision=precision, max_streams=max_streams)
        except BackendError as e:
            problems.append(f"{name}: {e}")
            continue
        for problem in problems:
            logger.log(level, "%s runs on %s, because %s", bundle.manifest.name, backend.name, problem)
        return backend
    raise BackendError("; ".join(problems))


def _open(bundle: Bundle, name: BackendName, *, precision: str, max_streams: int) -> StreamingBackend:
    if name == "onnx":
        return OnnxBackend(bundle, precision=precision)
    if name == "native":
        return NativeBackend(bundle, precision=precision)
    if name == "onnx-cuda":
        return OnnxBackend(bundle, precision=precision, device="cuda")
    # imported late: most boards have no GPU
    from kinedge.edge.backends.tensorrt import open_tensorrt
    from kinedge.edge.backends.trt_build import Precision

    if precision not in get_args(Precision):
        raise BackendError(
            f"no TensorRT engine has precision {precision!r}; {', '.join(get_args(Precision))} can be made"
        )
    return open_tensorrt(bundle, precision=cast(Precision, precision), max_streams=max_streams, library_name=name)
