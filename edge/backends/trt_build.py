"""Build TensorRT engines: one code path for 8.6, 10, 11 and TensorRT-RTX.

What decides is looked up in the bindings. ``STRONGLY_TYPED`` where it exists: precisions are those of the graph, fp16
by casting it, int8 by explicit Q/DQ. Only 8.6 lacks it, and takes ``EXPLICIT_BATCH`` and the flags of its precision.
No call here was removed in 11 (calibrators, ``max_workspace_size``, dynamic ranges, bindings were).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from kinedge.bundle import Bundle, Manifest
from kinedge.canonical import sha256_hex
from kinedge.edge.backends.engine_cache import EngineCache, EngineKey
from kinedge.edge.backends.trt_library import Library
from kinedge.errors import BackendError

__all__ = [
    "WORKSPACE_MIB",
    "Built",
    "Cached",
    "Precision",
    "StreamRange",
    "build_engine",
    "cached_engine",
    "stream_ranges",
]

Precision = Literal["fp32", "fp16", "int8"]
WORKSPACE_MIB: Final = 256
_STEPS: Final = (1, 16, 64, 256, 1024)


@dataclass(frozen=True)
class StreamRange:
    """One optimisation profile: from ``least`` to ``most`` streams, fastest at ``most``; 1 to ``hop`` samples."""

    least: int
    most: int


@dataclass(frozen=True, eq=False)
class Built:
    """An engine's bytes, and what the next build may reuse of its timings."""

    engine: bytes
    timing_cache: bytes


@dataclass(frozen=True, eq=False)
class Cached:
    """An engine with its key, where it lies, and whether it had to be built now."""

    engine: bytes
    key: EngineKey
    path: Path | None
    built: bool


def cached_engine(
    library: Library,
    graph: bytes,
    bundle: Bundle,
    cache: EngineCache,
    *,
    gpu: str,
    precision: Precision,
    max_streams: int,
    workspace_mib: int = WORKSPACE_MIB,
    again: bool = False,
) -> Cached:
    """Return the engine for this bundle, library, GPU, precision and profiles; build it when there is none.

    Parameters
    ----------
    gpu
        As ``str(Gpu)``, or ``any`` when built without one.
    again
        Build even if there is one: it did not load.

    Raises
    ------
    BackendError
        The cache was tampered with, or the build fails; see ``build_engine``.
    """
    ranges = [[r.least, r.most] for r in stream_ranges(max_streams)]
    key = EngineKey(
        bundle=bundle.digest,
        graph=sha256_hex(graph),
        library=f"{library.name} {library.version}",
        gpu=gpu,
        precision=precision,
        profiles=json.dumps({"streams": ranges, "samples": bundle.manifest.hop, "workspace_mib": workspace_mib}),
    )
    found = None if again else cache.engine(key)
    if found is not None:
        return Cached(engine=found, key=key, path=None, built=False)
    built = build_engine(
        library,
        graph,
        bundle.manifest,
        precision=precision,
        max_streams=max_streams,
        workspace_mib=workspace_mib,
        timing_cache=cache.timings(key.library, gpu),
    )
    if built.timing_cache:
        cache.put_timings(key.library, gpu, built.timing_cache)
    return Cached(engine=built.engine, key=key, path=cache.put_engine(key, built.engine), built=True)


def stream_ranges(max_streams: int) -> tuple[StreamRange, ...]:
    """Return the profiles for 1 to ``max_streams`` streams.

    Several, because an engine is tuned for one size a profile: kernels for 256 streams are slow ones for one.

    Raises
    ------
    BackendError
        ``max_streams`` is not 1 to 4096.
    """
    if not 1 <= max_streams <= 4096:
        raise BackendError(f"an engine for {max_streams} streams cannot be built; 1 to 4096 can")
    tops = [n for n in _STEPS if n < max_streams] + [max_streams]
    return tuple(StreamRange(least=below + 1, most=top) for below, top in zip([0, *tops[:-1]], tops, strict=True))


def build_engine(
    library: Library,
    graph: bytes,
    manifest: Manifest,
    *,
    precision: Precision,
    max_streams: int,
    workspace_mib: int = WORKSPACE_MIB,
    timing_cache: bytes = b"",
) -> Built:
    """Parse a graph and build it.

    Parameters
    ----------
    library
        From ``load_library``.
    graph
        ONNX with the inputs and outputs of the manifest; its types are already those of ``precision``.
    precision
        Only TensorRT 8.6 still needs to be told.
    max_streams
        See ``stream_ranges``.
    workspace_mib
        Memory TensorRT may use while it runs, MiB.
    timing_cache
        From an earlier build on this machine; one that TensorRT does not take is left out.

    Raises
    ------
    BackendError
        The graph is refused or the build fails; the message holds what TensorRT said.
    """
    trt: Any = library.module
    log = library.log
    log.clear()
    what = f"{library.name} {library.version}: {manifest.name} {precision}"
    builder = trt.Builder(library.logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED if library.strongly_typed else None
    if flag is None:
        flag = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    network = builder.create_network(1 << int(flag))
    if network is None:
        raise log.error(f"{what}: no network can be made")
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(graph):
        for i in range(parser.num_errors):
            log.add(parser.get_error(i).desc())
        raise log.error(f"{what}: the graph was refused")

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa are not what fp32 promises
    if not library.strongly_typed:
        if precision in ("fp16", "int8"):
            config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    sharing = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if sharing is not None:  # 8.6 alone: later ones let two contexts use one profile anyway
        config.set_preview_feature(sharing, True)
    for streams in stream_ranges(max_streams):
        _add_profile(builder, config, manifest, streams, what=what, library=library)
    # RTX tunes when it runs; its timing cache does nothing
    timings = None if library.name == "tensorrt-rtx" else _timing_cache(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise log.error(f"{what}: the build failed")
    data = bytes(memoryview(engine))
    if not data:
        raise log.error(f"{what}: the build gave an empty engine")
    return Built(engine=data, timing_cache=b"" if timings is None else bytes(memoryview(timings.serialize())))


def _add_profile(
    builder: Any, config: Any, manifest: Manifest, streams: StreamRange, *, what: str, library: Library
) -> None:
    profile = builder.create_optimization_profile()
    hop, n = manifest.hop, manifest.n_channels
    for name in ("x", "mask"):
        profile.set_shape(name, (streams.least, 1, n), (streams.most, hop, n), (streams.most, hop, n))
    size = manifest.state_size
    profile.set_shape("state", (streams.least, size), (streams.most, size), (streams.most, size))
    if config.add_optimization_profile(profile) < 0:
        raise library.log.error(f"{what}: the profile for {streams.least} to {streams.most} streams was refused")


def _timing_cache(config: Any, data: bytes) -> Any:
    """Attach a timing cache: the one given, or a fresh one where TensorRT does not take that."""
    for candidate in (data, b""):
        cache = config.create_timing_cache(candidate)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None
