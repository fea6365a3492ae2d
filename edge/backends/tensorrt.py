"""TensorRT on an NVIDIA GPU: state stays on the device in two sets that take turns, a hop is one CUDA graph.

A step reads one set of states and writes the other, so that nothing is copied between steps; the next step has them
the other way round. Each way round is recorded once as a CUDA graph (copies, engine, copies back) after it has run
once by itself, which TensorRT asks for. Steps shorter than a hop use a context of their own and no graph.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kinedge.bundle import Bundle, Manifest
from kinedge.edge.backends.base import F32, check_samples, check_state
from kinedge.edge.backends.cuda import Buffer, Cuda, Device
from kinedge.edge.backends.engine_cache import EngineCache
from kinedge.edge.backends.trt_build import WORKSPACE_MIB, Precision, StreamRange, cached_engine, stream_ranges
from kinedge.edge.backends.trt_library import LibraryName, TrtLog, load_library
from kinedge.errors import BackendError

__all__ = ["TensorRTBackend", "TensorRTStreams", "open_tensorrt"]

logger = logging.getLogger(__name__)

_MAX_KEPT: Final = 4  # numbers of streams whose buffers ``step`` keeps


def open_tensorrt(
    bundle: Bundle,
    *,
    precision: Precision = "fp16",
    max_streams: int = 64,
    workspace_mib: int = WORKSPACE_MIB,
    library_name: LibraryName = "tensorrt",
    cache: EngineCache | None = None,
    cuda_graphs: bool = True,
) -> TensorRTBackend:
    """Load the engine of a bundle on this machine's GPU; build it first when anything it depends on has changed.

    Parameters
    ----------
    max_streams
        As given to ``kinedge compile``; another number is another engine.
    cache
        The user's own when None.

    Raises
    ------
    BackendError
        No GPU, driver, TensorRT or ``cuda-python``; the bundle was never compiled here; the cache was tampered with; or
        TensorRT failed, with what it said.
    """
    library = load_library(library_name)
    device = Cuda()
    cache = cache or EngineCache.default()
    graph = cache.graph(bundle.digest, precision)
    if graph is None:
        raise BackendError(
            f"{bundle.manifest.name} was not compiled to {precision} on this machine; run: kinedge compile BUNDLE "
            f"--precision {precision}"
        )
    runtime = library.module.Runtime(library.logger)
    engine = None
    for again in (False, True):  # a driver that was updated may refuse an engine whose key still fits
        library.log.clear()
        cached = cached_engine(
            library,
            graph,
            bundle,
            cache,
            gpu=str(device.gpu),
            precision=precision,
            max_streams=max_streams,
            workspace_mib=workspace_mib,
            again=again,
        )
        engine = runtime.deserialize_cuda_engine(cached.engine)
        if engine is not None or cached.built:
            break
    name = f"{library.name} {library.version} {device.gpu} {precision}"
    if engine is None:
        raise library.log.error(f"{name}: the engine of {bundle.manifest.name} does not load")
    return TensorRTBackend(
        engine,
        device,
        bundle.manifest,
        ranges=stream_ranges(max_streams),
        log=library.log,
        name=name,
        cuda_graphs=cuda_graphs,
        keep=(runtime, library),
    )


class TensorRTBackend:
    """An engine on a device; see ``open_tensorrt``.

    Parameters
    ----------
    engine
        ``ICudaEngine`` with one profile for each of ``ranges``.
    device
        Where it runs.
    ranges
        Of streams.
    log
        What TensorRT says.
    keep
        What must live as long as the engine.

    Raises
    ------
    BackendError
        The engine is not the one the manifest describes.
    """

    def __init__(
        self,
        engine: Any,
        device: Device,
        manifest: Manifest,
        *,
        ranges: Sequence[StreamRange],
        log: TrtLog,
        name: str,
        cuda_graphs: bool = True,
        keep: Sequence[object] = (),
    ) -> None:
        self.name = name
        self.engine = engine
        self.device = device
        self.manifest = manifest
        self.ranges = tuple(ranges)
        self.log = log
        self.cuda_graphs = cuda_graphs
        self._keep = tuple(keep)
        self._streams: OrderedDict[int, TensorRTStreams] = OrderedDict()
        outputs = manifest.n_channels * len(manifest.horizons)
        self.widths = {
            "x": manifest.n_channels,
            "mask": manifest.n_channels,
            "state": manifest.state_size,
            "mu": outputs,
            "log_sigma": outputs,
            "state_out": manifest.state_size,
        }
        found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        wrong = sorted(found ^ set(self.widths))
        wrong += [n for n in found & set(self.widths) if tuple(engine.get_tensor_shape(n))[-1] != self.widths[n]]
        if wrong:
            raise BackendError(f"{name}: {', '.join(wrong)} of the engine do not fit {manifest.name}; compile it again")

    def allocate(self, n_streams: int) -> TensorRTStreams:
        """Return streams that have seen nothing; see ``Backend.allocate``.

        Raises
        ------
        BackendError
            More streams than the engine was built for, or no memory.
        """
        return TensorRTStreams(self, n_streams)

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        """Advance all streams; see ``Backend.step``.

        A state that this backend returned last goes on from where it lies on the device; any other is uploaded.
        """
        n = len(state)
        streams = self._streams.get(n)
        if streams is None:
            streams = self._streams[n] = self.allocate(n)
            if len(self._streams) > _MAX_KEPT:
                self._streams.popitem(last=False)[1].close()
        self._streams.move_to_end(n)
        if state is not streams.saved:
            streams.restore(state)
        mu, log_sigma = streams.step(x, mask)
        return mu, log_sigma, streams.save()


class TensorRTStreams:
    """Streams whose state stays on the device."""

    def __init__(self, backend: TensorRTBackend, n_streams: int) -> None:
        self._b = backend
        self.n_streams = n_streams
        self._profile = next((i for i, r in enumerate(backend.ranges) if r.least <= n_streams <= r.most), -1)
        if self._profile < 0:
            most = backend.ranges[-1].most
            raise BackendError(f"{backend.name}: {n_streams} streams; it was compiled for 1 to {most} (--max-streams)")
        self.saved: F32 | None = None  # as saved last, while it still is what the device holds
        self._now = 0  # the set of states to read
        self._contexts: dict[bool, Any] = {}
        self._graphs: dict[int, int] = {}
        self._samples = 0
        device, widths, hop = backend.device, backend.widths, backend.manifest.hop
        self._inputs = {name: device.buffer((n_streams * hop * widths[name],)) for name in ("x", "mask")}
        self._outputs = {name: device.buffer((n_streams * hop * widths[name],)) for name in ("mu", "log_sigma")}
        self._states = [device.allocate(4 * n_streams * widths["state"]) for _ in range(2)]
        memory: list[Buffer | int] = [*self._inputs.values(), *self._outputs.values(), *self._states]
        self._give_back = weakref.finalize(self, _free, device, self._graphs, memory)
        self._give_back.atexit = False  # the driver may have gone before

    def step(self, x: F32, mask: F32) -> tuple[F32, F32]:
        """Advance all streams; see ``Streams.step``. More samples than a hop go in several turns.

        Raises
        ------
        BackendError
            The shapes do not fit, or the device failed.
        """
        b = self._b
        check_samples(x, mask, b.manifest, n_streams=self.n_streams, where=b.name)
        n, n_samples, _ = x.shape
        mu, log_sigma = (np.empty((n, n_samples, b.widths["mu"]), np.float32) for _ in range(2))
        for start in range(0, n_samples, b.manifest.hop):
            part = slice(start, min(start + b.manifest.hop, n_samples))
            self._turn(x[:, part], mask[:, part], mu[:, part], log_sigma[:, part])
        return mu, log_sigma

    def save(self) -> F32:
        """Return the state; see ``Streams.save``."""
        if self.saved is None:
            self.saved = self._b.device.read(self._states[self._now], (self.n_streams, self._b.widths["state"]))
            self.saved.setflags(write=False)  # it stands for what the device holds
        return self.saved

    def restore(self, state: F32) -> None:
        """Go on from a saved state.

        Raises
        ------
        BackendError
            It is of another model or number of streams.
        """
        check_state(state, self._b.manifest, n_streams=self.n_streams, where=self._b.name)
        self._b.device.write(self._states[self._now], state)
        self.saved = None

    def close(self) -> None:
        """Give the memory back, as happens when nobody holds this any more; nothing may be called afterwards."""
        self._contexts.clear()
        self._give_back()

    def _turn(self, x: F32, mask: F32, mu: F32, log_sigma: F32) -> None:
        device = self._b.device
        n_samples = x.shape[1]
        for name, values in (("x", x), ("mask", mask)):
            _shaped(self._inputs[name], values.shape)[...] = values
        whole = n_samples == self._b.manifest.hop
        self.saved = None
        if whole and self._now in self._graphs:
            device.launch(self._graphs[self._now])
            device.wait()
        else:
            self._enqueue(n_samples, whole=whole)
            device.wait()
            if whole and self._b.cuda_graphs:
                self._record(n_samples)
        for name, target in (("mu", mu), ("log_sigma", log_sigma)):
            target[...] = _shaped(self._outputs[name], target.shape)
        self._now ^= 1

    def _record(self, n_samples: int) -> None:
        """Record the turn just made; if that cannot be done, go on without, and say so."""
        device = self._b.device
        try:
            device.begin_capture()
            try:
                self._enqueue(n_samples, whole=True)
            finally:
                graph = device.end_capture()
        except BackendError as e:
            logger.warning("%s: no CUDA graph, every step is launched by itself: %s", self._b.name, e)
            self._b.cuda_graphs = False
            return
        self._graphs[self._now] = graph

    def _enqueue(self, n_samples: int, *, whole: bool) -> None:
        b, device = self._b, self._b.device
        context = self._context(n_samples, whole=whole)
        b.log.clear()
        addresses = {
            **{name: buffer.address for name, buffer in (*self._inputs.items(), *self._outputs.items())},
            "state": self._states[self._now],
            "state_out": self._states[1 - self._now],
        }
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise b.log.error(f"{b.name}: the address of {name} was refused")
        for name, buffer in self._inputs.items():
            device.upload(buffer, self.n_streams * n_samples * b.widths[name])
        if not context.execute_async_v3(device.stream):
            raise b.log.error(f"{b.name}: a step of {self.n_streams} streams and {n_samples} samples failed")
        for name, buffer in self._outputs.items():
            device.download(buffer, self.n_streams * n_samples * b.widths[name])

    def _context(self, n_samples: int, *, whole: bool) -> Any:
        """Return the context for whole hops, whose shapes never change, or the one for the rest."""
        b = self._b
        context = self._contexts.get(whole)
        if context is None:
            b.log.clear()
            context = b.engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(self._profile, b.device.stream):
                raise b.log.error(f"{b.name}: no context for {self.n_streams} streams")
            b.device.wait()
            self._contexts[whole] = context
        elif whole or n_samples == self._samples:
            return context
        if not whole:
            self._samples = n_samples
        for name in ("x", "mask", "state"):
            shape = (self.n_streams, b.widths[name]) if name == "state" else (self.n_streams, n_samples, b.widths[name])
            if not context.set_input_shape(name, shape):
                raise b.log.error(f"{b.name}: {name} of {shape} was refused")
        return context


def _free(device: Device, graphs: dict[int, int], memory: Sequence[Buffer | int]) -> None:
    device.wait()
    for graph in graphs.values():
        device.drop(graph)
    for piece in memory:
        device.free(piece)


def _shaped(buffer: Buffer, shape: tuple[int, ...]) -> F32:
    """The part of a buffer that a shape fills, seen in that shape."""
    values: F32 = buffer.host[: int(np.prod(shape))].reshape(shape)
    return values
