"""ONNX Runtime on the CPU: the default backend."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kinedge.bundle import Bundle, Manifest
from kinedge.errors import BackendError

__all__ = ["OnnxBackend"]

F32 = NDArray[np.float32]
_INPUTS: Final = ("x", "mask", "state")
_OUTPUTS: Final = ("mu", "log_sigma", "state_out")


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

    Raises
    ------
    BackendError
        The graph cannot be loaded, or is not the one the manifest describes.
    """

    def __init__(self, bundle: Bundle, *, precision: str = "fp32", n_threads: int = 1) -> None:
        graph = bundle.model_bytes(precision)
        self.name = f"onnxruntime {onnxruntime.__version__} cpu {precision}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # spinning threads would eat the core that reads the radio
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as e:
            raise BackendError(f"bundle {bundle.manifest.name}: ONNX Runtime refuses its {precision} graph: {e}") from e
        _check_graph(self._session, bundle.manifest)

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        """Advance all streams; see ``Backend.step``.

        Raises
        ------
        BackendError
            ONNX Runtime failed, or the shapes do not fit.
        """
        try:
            mu, log_sigma, state_out = self._session.run(_OUTPUTS, {"x": x, "mask": mask, "state": state})
        except Exception as e:
            raise BackendError(f"{self.name}: a step of {x.shape} failed: {e}") from e
        return mu, log_sigma, state_out


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
