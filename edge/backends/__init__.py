"""Inference backends behind one small interface: what a bundle's graph needs, and nothing more.

A backend is stateless: state comes in and goes out as an array, so that it can be saved, moved between
backends in mid-stream, and compared.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Bundle
from kinedge.edge.backends.onnx import OnnxBackend

__all__ = ["Backend", "OnnxBackend", "load_backend"]

F32 = NDArray[np.float32]


class Backend(Protocol):
    """One model, ready to step."""

    name: str

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        """Advance all streams by some samples.

        Parameters
        ----------
        x : (n_streams, n_samples, n_channels) float32
            Normalised, 0 where masked.
        mask : the same shape, 1 where ``x`` is real
        state : (n_streams, state_size) float32

        Returns
        -------
        mu, log_sigma : (n_streams, n_samples, n_horizons * n_channels) float32
            Row ``t`` predicts ``x[t + horizon]``.
        state : (n_streams, state_size) float32
        """


def load_backend(bundle: Bundle, *, precision: str = "fp32") -> Backend:
    """Load the bundle's graph into ONNX Runtime on the CPU.

    Raises
    ------
    BackendError
        The graph cannot be loaded, or is not the one the manifest describes.
    BundleError
        The bundle has no such precision.
    """
    return OnnxBackend(bundle, precision=precision)
