"""One network in one runtime, in a process of its own: what a sample costs where state is kept, and where it is not.

The network is the model that ships with the package. ``kinedge engine`` keeps what it has seen and computes new samples
alone; the others get the last ``receptive field`` samples again for every score (windowed recomputation), as one does
with a runtime that knows of no streams. All answer the same: ``difference`` is the largest from the engine's, as a
share of its largest answer.

    python -m kinedge.benchmarks.peer_runtimes METHOD OUT.json STREAMS
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.peer_worker import MISSING, cost_of, resident_mb
from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE

__all__ = ["RUNTIMES", "main"]

F32 = NDArray[np.float32]


class Runtime(ABC):
    """Gives the location of the last samples' forecasts.

    Attributes
    ----------
    distribution
        Whose version is told.
    """

    distribution = ""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.window = self.manifest.receptive_field

    @abstractmethod
    def streams(self, n: int) -> Callable[[NDArray[np.float64]], F32]:
        """Return what takes the next samples (n, k, C) of ``n`` streams."""


class Windowed(Runtime):
    """Runs whole windows, as one does with a runtime that knows of no streams."""

    @abstractmethod
    def run(self, x: F32) -> F32:
        """Forecast from windows (n, window + k - 1, C); return (n, k, outputs) of the last k samples."""

    def streams(self, n: int) -> Callable[[NDArray[np.float64]], F32]:
        past = [np.zeros((n, self.window - 1, self.manifest.n_channels), np.float32)]

        def step(x: NDArray[np.float64]) -> F32:
            k = x.shape[1]
            seen = np.concatenate([past[0], x.astype(np.float32)], axis=1)
            past[0] = seen[:, k:]
            return self.run(seen)[:, -k:]

        return step

    def feed(self, x: F32) -> dict[str, F32]:
        """Return the inputs of the graph that ships, with nothing remembered."""
        return {"x": x, "mask": np.ones_like(x), "state": np.zeros((len(x), self.manifest.state_size), np.float32)}


class Engine(Runtime):
    """Ours in ONNX Runtime: state is kept, new samples alone are computed."""

    distribution = "kinedge"
    window = 0

    def __init__(self, bundle: Bundle) -> None:
        from kinedge.edge.backends import OnnxBackend

        super().__init__(bundle)
        self._backend = OnnxBackend(bundle)
        self.window = 0

    def streams(self, n: int) -> Callable[[NDArray[np.float64]], F32]:
        state = [np.zeros((n, self.manifest.state_size), np.float32)]

        def step(x: NDArray[np.float64]) -> F32:
            given = x.astype(np.float32)
            mu, _, state[0] = self._backend.step(given, np.ones_like(given), state[0])
            return np.asarray(mu, np.float32)

        return step


class NativeEngine(Runtime):
    """Ours as a board runs it: the step in C, bound to its memory; the state is written where it is read."""

    distribution = "kinedge"

    def __init__(self, bundle: Bundle) -> None:
        from kinedge.edge.backends import NativeBackend

        super().__init__(bundle)
        self._backend = NativeBackend(bundle)
        self.window = 0

    def streams(self, n: int) -> Callable[[NDArray[np.float64]], F32]:
        state = np.zeros((n, self.manifest.state_size), np.float32)
        bound: dict[int, Any] = {}

        def step(x: NDArray[np.float64]) -> F32:
            of = bound.get(x.shape[1])
            if of is None:
                of = bound[x.shape[1]] = self._backend.bind(n, x.shape[1], state=state)
                of.mask[...] = 1
            of.x[...] = x
            of.run(n)
            return np.array(of.mu)

        return step


class OnnxWindowed(Windowed):
    """ONNX Runtime, whole windows."""

    distribution = "onnxruntime"

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        super().__init__(bundle)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(bundle.model_bytes(), options, providers=["CPUExecutionProvider"])

    def run(self, x: F32) -> F32:
        return np.asarray(self._session.run(["mu"], self.feed(x))[0], np.float32)


class TorchWindowed(Windowed):
    """The same network in PyTorch, whole windows."""

    distribution = "torch"

    def __init__(self, bundle: Bundle) -> None:
        import torch

        from kinedge.quantize.restore import restore_model

        super().__init__(bundle)
        torch.set_num_threads(1)
        self._torch = torch
        self._model = restore_model(bundle.model_bytes(), bundle.manifest).eval()

    def run(self, x: F32) -> F32:
        torch = self._torch
        with torch.inference_mode():
            given = torch.from_numpy(x)
            mu, _, _ = self._model(given, torch.ones_like(given), self._model.initial_state(len(x)))
        return np.asarray(mu.numpy(), np.float32)


class OpenVino(Windowed):
    """OpenVINO reads the same ONNX file; whole windows, or our state carried from call to call."""

    distribution = "openvino"

    def __init__(self, bundle: Bundle, *, streaming: bool = False) -> None:
        import openvino

        super().__init__(bundle)
        if streaming:
            self.window = 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(bundle.model_bytes())
            core = openvino.Core()
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
            self._request = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()
        self._streaming = streaming

    def run(self, x: F32) -> F32:
        return np.array(self._request.infer(self.feed(x))["mu"])

    def streams(self, n: int) -> Callable[[NDArray[np.float64]], F32]:
        if not self._streaming:
            return super().streams(n)
        state = [np.zeros((n, self.manifest.state_size), np.float32)]

        def step(x: NDArray[np.float64]) -> F32:
            given = x.astype(np.float32)
            found = self._request.infer({"x": given, "mask": np.ones_like(given), "state": state[0]})
            state[0] = np.array(found["state_out"])
            return np.array(found["mu"])

        return step


RUNTIMES: Final[Mapping[str, Callable[[Bundle], Runtime]]] = {
    "kinedge engine": Engine,
    "kinedge engine, native": NativeEngine,
    "ONNX Runtime, windowed": OnnxWindowed,
    "PyTorch, windowed": TorchWindowed,
    "OpenVINO, windowed": OpenVino,
    "OpenVINO, our state": lambda bundle: OpenVino(bundle, streaming=True),
}


def difference_from_engine(runtime: Runtime, x: NDArray[np.float64]) -> float:
    """Return the largest difference over the last samples of a stream, as a share of the engine's largest answer."""
    bundle = runtime.bundle
    n = bundle.manifest.receptive_field + 10
    reference, other = Engine(bundle).streams(1), runtime.streams(1)
    a = np.concatenate([reference(x[None, i : i + 1]) for i in range(n)], axis=1)
    b = np.concatenate([other(x[None, i : i + 1]) for i in range(n)], axis=1)
    return float(np.abs(a[:, -10:] - b[:, -10:]).max() / np.abs(a[:, -10:]).max())


def main(argv: list[str]) -> int:
    """Run one task and write what came of it."""
    method, out, streams = argv
    bundle = read_bundle(DEFAULT_BUNDLE)
    x = np.random.default_rng(0).normal(size=(4096, bundle.manifest.n_channels))
    gc.collect()
    before_mb = resident_mb()
    try:
        runtime = RUNTIMES[method](bundle)
    except ModuleNotFoundError as e:
        sys.stderr.write(f"{e.name} is not installed\n")
        return MISSING
    facts: dict[str, Any] = {"method": method, "window": runtime.window}
    facts |= cost_of(runtime.streams, x, int(streams))
    facts["rss_mb"] = resident_mb() - before_mb
    facts["difference"] = float(f"{difference_from_engine(runtime, x):.2g}")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        facts["version"] = importlib.metadata.version(runtime.distribution)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
