"""What every backend is: loaded once, stateless by ``step``, and with streams that keep their state where it runs.

The packed state has one layout everywhere. It can be saved in one backend and restored in another, in mid-stream.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.errors import BackendError

__all__ = ["F32", "Backend", "StreamingBackend", "Streams", "check_samples", "check_state"]

F32 = NDArray[np.float32]


class Streams(Protocol):
    """Some streams in step, their state kept by the backend."""

    n_streams: int

    def step(self, x: F32, mask: F32) -> tuple[F32, F32]:
        """Advance all streams; see ``Backend.step``. The arrays returned are the caller's."""

    def save(self) -> F32:
        """Return the state (n_streams, state_size), to be kept or moved; it cannot be written to."""

    def restore(self, state: F32) -> None:
        """Go on from a saved state."""


class Backend(Protocol):
    """One model, ready to step; all that the engine asks for."""

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

        Raises
        ------
        BackendError
            The shapes do not fit, or the step failed.
        """


class StreamingBackend(Backend, Protocol):
    """A backend that can keep the state of streams itself."""

    def allocate(self, n_streams: int) -> Streams:
        """Return streams that have seen nothing.

        Raises
        ------
        BackendError
            That number cannot be had.
        """


def check_samples(x: F32, mask: F32, manifest: Manifest, *, n_streams: int, where: str) -> None:
    """Refuse samples that are no (n_streams, n_samples, n_channels) float32.

    Raises
    ------
    BackendError
        They are not.
    """
    n = manifest.n_channels
    fits = x.ndim == 3 and x.shape[0] == n_streams and x.shape[1] > 0 and x.shape[2] == n and mask.shape == x.shape
    if not fits or x.dtype != np.float32 or mask.dtype != np.float32:
        raise BackendError(
            f"{where}: a step of x {x.dtype} {x.shape} and mask {mask.dtype} {mask.shape} failed: "
            f"float32 ({n_streams}, samples, {n}) was expected"
        )


def check_state(state: F32, manifest: Manifest, *, n_streams: int, where: str) -> None:
    """Refuse a state of another model or number of streams.

    Raises
    ------
    BackendError
        It is.
    """
    expected = (n_streams, manifest.state_size)
    if state.shape != expected or state.dtype != np.float32:
        raise BackendError(
            f"{where}: a state of {state.dtype} {state.shape} failed to fit: float32 {expected} was expected"
        )
