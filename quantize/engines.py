"""Compile a bundle for this machine: graphs in the form TensorRT wants, and their engines, into the sealed cache.

The graph is kept beside the engine: after an update of TensorRT or of the GPU a gateway builds anew from it, and needs
no ``onnx`` for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kinedge.bundle import Bundle
from kinedge.edge.backends.cuda import Cuda
from kinedge.edge.backends.engine_cache import EngineCache
from kinedge.edge.backends.trt_build import WORKSPACE_MIB, Precision, cached_engine
from kinedge.edge.backends.trt_library import Library, driver_problem
from kinedge.errors import BackendError, BundleError
from kinedge.quantize.export_conv import conv_form
from kinedge.quantize.fp16 import to_fp16
from kinedge.quantize.int8 import quantise, stripped

__all__ = ["NO_GPU", "Compiled", "compile_bundle", "graph_for", "wanted"]

NO_GPU = "any"  # of an engine that TensorRT-RTX built without a GPU: the board specialises it when it loads


@dataclass(frozen=True)
class Compiled:
    """What became of one precision.

    Parameters
    ----------
    path
        Of the engine; None when it was in the cache, or failed.
    n_bytes, seconds
        Size of the engine and how long it took.
    problem
        Why there is none; empty when there is one.
    """

    precision: Precision
    path: str | None
    built: bool
    n_bytes: int
    seconds: float
    problem: str = ""


def wanted(bundle: Bundle, precisions: Sequence[Precision]) -> tuple[Precision, ...]:
    """Return what to build: fp16 always goes with int8, as its fallback; all that can be had when nothing is named."""
    order: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    chosen: set[str] = set(precisions) or {"fp32", "fp16", *bundle.manifest.precisions}
    if "int8" in chosen:
        chosen.add("fp16")
    return tuple(p for p in order if p in chosen)


def graph_for(bundle: Bundle, precision: Precision) -> bytes:
    """Return the graph that an engine of this precision is built from.

    Convolutions over the bundle's own weights: fp32, cast to fp16, or int8 with the bundle's ranges. An int8 graph that
    was quantised elsewhere stays as it is.

    Raises
    ------
    BundleError
        The bundle has no int8 graph.
    BackendError
        Its graph is not one that kinedge exported, or has weights beyond fp16.
    """
    if precision == "int8":
        return _int8_graph(bundle.model_bytes("int8"))
    graph = conv_form(bundle.model_bytes("fp32"))
    return to_fp16(graph) if precision == "fp16" else graph


def _int8_graph(graph: bytes) -> bytes:
    try:
        plain, scales = stripped(graph)
        form = conv_form(plain)
    except BackendError:
        return graph
    # between DequantizeLinear and a matrix product stands a Transpose; a convolution takes the weights as they are
    return quantise(form, scales, layers=list(scales))


def compile_bundle(
    bundle: Bundle,
    library: Library,
    cache: EngineCache,
    *,
    precisions: Sequence[Precision] = (),
    max_streams: int = 64,
    workspace_mib: int = WORKSPACE_MIB,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Compiled]:
    """Build what is missing in the cache.

    Parameters
    ----------
    precisions
        See ``wanted``.
    library
        From ``load_library``; TensorRT-RTX may be without a GPU.
    progress
        Told what is being built.

    Returns
    -------
    list of Compiled
        One a precision; what failed says why, and does not keep the others from being built.

    Raises
    ------
    BackendError
        There is no GPU (but see above), or ``cuda-python`` is missing.
    """
    gpu = NO_GPU if library.name == "tensorrt-rtx" and driver_problem() is not None else str(Cuda().gpu)
    done = []
    for precision in wanted(bundle, precisions):
        progress(f"{precision} for {gpu}")
        start = time.monotonic()
        try:
            graph = graph_for(bundle, precision)
            cache.put_graph(bundle.digest, precision, graph)
            cached = cached_engine(
                library,
                graph,
                bundle,
                cache,
                gpu=gpu,
                precision=precision,
                max_streams=max_streams,
                workspace_mib=workspace_mib,
            )
        except (BackendError, BundleError) as e:
            done.append(Compiled(precision, None, False, 0, round(time.monotonic() - start, 3), str(e)))
            continue
        path = None if cached.path is None else str(cached.path)
        seconds = round(time.monotonic() - start, 3)
        done.append(Compiled(precision, path, cached.built, len(cached.engine), seconds))
    return done
