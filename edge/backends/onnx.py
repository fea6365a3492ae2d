"""ONNX Runtime: any graph on the CPU, or on an NVIDIA GPU.

It is imported when a graph is loaded: a board that steps natively never needs it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from kinedge.bundle import Bundle, Manifest
from kinedge.edge.backends.base import F32, check_samples, check_state
from kinedge.errors import BackendError

__all__ = ["BoundStep", "OnnxBackend", "OnnxStreams"]

_INPUTS: Final = ("x", "mask", "state")
_OUTPUTS: Final = ("mu", "log_sigma", "state_out")
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# ten bits of mantissa are not what fp32 promises
_OPTIONS: Final[dict[str, dict[str, str]]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}


class OnnxBackend:
    """The bundle's graph in an ONNX Runtime session.

    Parameters
    ----------
    bundle
        Checked when it was read; the graph is checked against its manifest here.
    precision
        Which of the bundle's graphs.
    n_threads
        Of one step. One is fastest for models of this size, and leaves the other cores to the radio.
    device
        ``cuda`` needs ``onnxruntime-gpu``; it never becomes the CPU by itself.

    Raises
    ------
    BackendError
        The graph cannot be loaded, or is not the one the manifest describes; or there is no CUDA.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        n_threads: int = 1,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        onnxruntime = _runtime()
        graph = bundle.model_bytes(precision)
        self.manifest = bundle.manifest
        self.device = device
        self.name = f"onnxruntime {onnxruntime.__version__} {device} {precision}"
        provider = _PROVIDERS[device]
        if provider not in onnxruntime.get_available_providers():
            raise BackendError(
                f"onnxruntime {onnxruntime.__version__} here has no {provider}; put onnxruntime-gpu in its place, "
                "or use backend 'onnx'"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # fused integer kernels overflow on x86 without VNNI: 16 bits saturate, and scores move three times as far
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # spinning threads would eat the core that reads the radio
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session: Any = onnxruntime.InferenceSession(graph, options, providers=[(provider, _OPTIONS[device])])
        except Exception as e:
            raise BackendError(f"bundle {bundle.manifest.name}: ONNX Runtime refuses its {precision} graph: {e}") from e
        # a provider that does not start is dropped with a warning, and the CPU takes its place
        if self.session.get_providers()[0] != provider:
            raise BackendError(f"{self.name}: {provider} did not start (driver, CUDA and cuDNN?); use backend 'onnx'")
        self.session.disable_fallback()
        _check_graph(self.session, bundle.manifest)

    def bind(self, n_streams: int, n_samples: int) -> BoundStep:
        """Return a step of at most so many streams whose inputs and outputs stay where they are.

        Raises
        ------
        BackendError
            The graph does not run on the CPU.
        """
        if self.device != "cpu":
            raise BackendError(f"{self.name}: only what runs on the CPU can be bound to its memory")
        return BoundStep(self, n_streams, n_samples)

    def allocate(self, n_streams: int) -> OnnxStreams:
        """Return streams that have seen nothing; see ``Backend.allocate``."""
        return OnnxStreams(self, n_streams)

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        """Advance all streams; see ``Backend.step``.

        Raises
        ------
        BackendError
            ONNX Runtime failed, or the shapes do not fit.
        """
        try:
            mu, log_sigma, state_out = self.session.run(_OUTPUTS, {"x": x, "mask": mask, "state": state})
        except Exception as e:
            raise BackendError(f"{self.name}: a step of {x.shape} failed: {e}") from e
        return mu, log_sigma, state_out


class BoundStep:
    """A step into memory that is used again and again: nothing is allocated, and it stays in the cache.

    ``x``, ``mask`` (n_streams, n_samples, n_channels) and ``state`` are written before ``run``, and ``mu``,
    ``log_sigma`` and ``state_out`` read behind it: their first rows, as many as there are streams.
    """

    def __init__(self, backend: OnnxBackend, n_streams: int, n_samples: int) -> None:
        m = backend.manifest
        n_out = len(m.horizons) * m.n_channels
        self._backend = backend
        self._bindings: dict[int, Any] = {}
        self.x, self.mask = (np.zeros((n_streams, n_samples, m.n_channels), np.float32) for _ in range(2))
        self.mu, self.log_sigma = (np.zeros((n_streams, n_samples, n_out), np.float32) for _ in range(2))
        self.state, self.state_out = (np.zeros((n_streams, m.state_size), np.float32) for _ in range(2))

    def run(self, n_streams: int) -> None:
        """Advance the first streams.

        Raises
        ------
        BackendError
            ONNX Runtime failed.
        """
        b = self._backend
        try:
            binding = self._bindings.get(n_streams)
            if binding is None:
                binding = self._bindings[n_streams] = self._bound(n_streams)
            b.session.run_with_iobinding(binding)
        except Exception as e:
            raise BackendError(f"{b.name}: a step of {self.x[:n_streams].shape} failed: {e}") from e

    def _bound(self, n_streams: int) -> Any:
        binding = self._backend.session.io_binding()
        for name in _INPUTS:
            rows = getattr(self, name)[:n_streams]
            binding.bind_input(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        for name in _OUTPUTS:
            rows = getattr(self, name)[:n_streams]
            binding.bind_output(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        return binding


class OnnxStreams:
    """Streams whose state stays where ONNX Runtime left it: on the GPU, it does not travel.

    Raises
    ------
    BackendError
        Fewer than one stream.
    """

    def __init__(self, backend: OnnxBackend, n_streams: int) -> None:
        if n_streams < 1:
            raise BackendError(f"{backend.name}: {n_streams} streams cannot be allocated; at least 1 can")
        self.n_streams = n_streams
        self._backend = backend
        self._state: Any = None
        self._kept: F32 | None = None
        self.restore(np.zeros((n_streams, backend.manifest.state_size), np.float32))

    def step(self, x: F32, mask: F32) -> tuple[F32, F32]:
        """Advance all streams; see ``Streams.step``.

        Raises
        ------
        BackendError
            ONNX Runtime failed, or the shapes do not fit.
        """
        b = self._backend
        check_samples(x, mask, b.manifest, n_streams=self.n_streams, where=b.name)
        # a bound numpy array is not kept alive by the binding: these names are
        x, mask = np.ascontiguousarray(x), np.ascontiguousarray(mask)
        try:
            binding = b.session.io_binding()
            binding.bind_cpu_input("x", x)
            binding.bind_cpu_input("mask", mask)
            binding.bind_ortvalue_input("state", self._state)
            binding.bind_output("mu", "cpu")
            binding.bind_output("log_sigma", "cpu")
            binding.bind_output("state_out", b.device)
            b.session.run_with_iobinding(binding)
            mu, log_sigma, self._state = binding.get_outputs()
        except Exception as e:
            raise BackendError(f"{b.name}: a step of {x.shape} failed: {e}") from e
        self._kept = None  # what it was bound from is no longer needed
        return mu.numpy(), log_sigma.numpy()

    def save(self) -> F32:
        """Return the state; see ``Streams.save``."""
        state: F32 = np.array(self._state.numpy())
        state.setflags(write=False)
        return state

    def restore(self, state: F32) -> None:
        """Go on from a saved state.

        Raises
        ------
        BackendError
            It is of another model or number of streams.
        """
        b = self._backend
        check_state(state, b.manifest, n_streams=self.n_streams, where=b.name)
        self._kept = np.array(state)  # a copy: the value may be bound to this very memory
        self._state = _runtime().OrtValue.ortvalue_from_numpy(self._kept, b.device, 0)


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as e:
        raise BackendError(f"ONNX Runtime does not load: {e}; install it (pip install onnxruntime)") from e
    return onnxruntime


def _check_graph(session: Any, manifest: Manifest) -> None:
    n = manifest.n_channels
    expected = {
        "x": n,
        "mask": n,
        "state": manifest.state_size,
        "mu": n * len(manifest.horizons),
        "log_sigma": n * len(manifest.horizons),
        "state_out": manifest.state_size,
    }
    found = {t.name: t for t in (*session.get_inputs(), *session.get_outputs())}
    if set(found) != set(expected):
        raise BackendError(
            f"bundle {manifest.name}: its graph has {', '.join(sorted(found))}; "
            f"{', '.join(_INPUTS)} and {', '.join(_OUTPUTS)} were expected"
        )
    for name, width in expected.items():
        tensor = found[name]
        if tensor.type != "tensor(float)" or tensor.shape[-1] != width:
            raise BackendError(
                f"bundle {manifest.name}: {name} is {tensor.type} {tensor.shape}; "
                f"float with {width} in the last dimension was expected"
            )
