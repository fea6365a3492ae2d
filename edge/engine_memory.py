"""The memory of a step of the engine, and the forecaster that works in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.backends import Backend
from kinedge.edge.backends.native import NativeBackend, NativeBound
from kinedge.edge.backends.onnx import BoundStep, OnnxBackend
from kinedge.edge.native import NativeStep
from kinedge.errors import BackendError

__all__ = ["StepMemory", "as_plain"]

F32 = NDArray[np.float32]


class StepMemory:
    """What a step of a few streams writes to. Constants are as long as a hop: numpy is slow along twelve channels.

    Parameters
    ----------
    manifest, backend
        The model, and what runs it.
    n_streams, n_samples
        The most streams of a step, and the samples of each.
    center, inverse_scale : (n_channels,) float32
        What normalises a sample.
    needed : (n_horizons,) int64
        Samples that a stream has seen before a prediction counts.

    Attributes
    ----------
    x, mask, state
        What the forecaster is given, (n_streams, n_samples, n_channels) and (n_streams, state_size) float32.
    expected : (n_streams, n_samples, n_horizons, n_channels) float32
        The log of the scale that was predicted for each sample.
    told
        The state whose arrays the native step knows.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        n_streams: int,
        n_samples: int,
        *,
        center: F32,
        inverse_scale: F32,
        needed: NDArray[np.int64],
    ) -> None:
        m = self._manifest = manifest
        nu = np.array(m.student_t_nu, np.float32)
        self._of_a_sample = (center, inverse_scale, needed)
        self.center: F32 = np.tile(center, n_samples)
        self.inverse_scale: F32 = np.tile(inverse_scale, n_samples)
        self.inverse_nu: F32 = np.tile((np.float32(1) / nu).ravel(), n_samples)
        self.half_nu_1: F32 = np.tile(((nu + np.float32(1)) / np.float32(2)).ravel(), n_samples)
        self.expected: F32 = np.empty((n_streams, n_samples, len(m.horizons), m.n_channels), np.float32)
        self._backend = backend
        self._bound: BoundStep | NativeBound | None = None
        # a backend that does more than this one, or otherwise, is asked by its step
        plain = type(backend) in (OnnxBackend, NativeBackend) and "step" not in vars(backend)
        if plain and backend.device == "cpu" and n_samples == m.hop:  # type: ignore[attr-defined]
            self._bound = backend.bind(n_streams, n_samples)  # type: ignore[attr-defined]
        self.x: F32
        self.mask: F32
        self.state: F32
        if self._bound is None:
            self.x, self.mask = (np.empty((n_streams, n_samples, m.n_channels), np.float32) for _ in range(2))
            self.state = np.empty((n_streams, m.state_size), np.float32)
        else:
            self.x, self.mask, self.state = self._bound.x, self._bound.mask, self._bound.state
        self._native: NativeStep | None = None
        self.told: object = None

    @property
    def is_bound(self) -> bool:
        """Whether the forecaster writes to memory that stays where it is."""
        return self._bound is not None

    def outputs(self, n: int) -> tuple[F32, F32, F32]:
        """Return where the forecaster writes of the first ``n`` streams, where it is bound."""
        if self._bound is None:
            raise ValueError("this backend returns arrays of its own")
        return self._bound.mu[:n], self._bound.log_sigma[:n], self._bound.state_out[:n]

    def forecast(self, n: int) -> tuple[F32, F32, F32]:
        """Return what the forecaster makes of ``x``, ``mask`` and ``state`` of the first ``n`` streams.

        These are ``mu``, ``log_sigma`` and its state, valid until the next call.
        """
        if self._bound is None:
            # it may keep what it is given
            return self._backend.step(self.x[:n], self.mask[:n].copy(), self.state[:n].copy())
        self._bound.run(n)
        return self.outputs(n)

    @property
    def works_in_place(self) -> bool:
        """Whether the forecaster can go on where a state lies, ``forecast_in``: nothing is brought to it and back."""
        return isinstance(self._bound, NativeBound)

    def forecast_in(self, state: F32, rows: NDArray[np.int64]) -> None:
        """Let the forecaster go on in these rows of a state, for the first streams of ``x`` and ``mask``."""
        if not isinstance(self._bound, NativeBound):
            raise TypeError("this backend has a state of its own")
        self._bound.run_in(state, rows)

    def forecaster_at(self, state: F32) -> int:
        """Return where the forecaster's arguments lie, for C that lets it go on in rows of this state."""
        if not isinstance(self._bound, NativeBound):
            raise TypeError("this backend has a state of its own")
        self._bound.use(state)
        return self._bound.at

    def tell_way(self, *, in_place: bool) -> None:
        """Tell the native step where it brings a state to and takes it from: nowhere if the forecaster has it."""
        if self._native is not None:
            self._native.set(model_in=None if in_place else self.state)
            if self._bound is not None:
                self._native.set(model_out=None if in_place else self._bound.state_out)

    def native_step(self, weight: F32, *, clip: float, z_limit: float) -> NativeStep:
        """Return the step in C that works in this memory.

        Parameters
        ----------
        weight : (n,) float32
            What a held value counts, by the samples since it was measured.
        clip, z_limit
            Of a normalised sample, and of its surprise.
        """
        if self._native is not None:
            return self._native
        m, step = self._manifest, NativeStep()
        n_memory, n_samples, _ = self.x.shape
        center, inverse_scale, needed = self._of_a_sample
        step.set(
            {
                "n_memory": n_memory,
                "n_samples": n_samples,
                "n_horizons": len(m.horizons),
                "n_channels": m.n_channels,
                "max_horizon": max(m.horizons),
                "state_size": m.state_size,
                "n_weights": len(weight),
                "clip": clip,
                "z_limit": z_limit,
            },
            horizons=np.array(m.horizons, np.int64),
            needed=needed,
            center=center,
            inverse_scale=inverse_scale,
            inverse_nu=self.inverse_nu,
            half_nu_1=self.half_nu_1,
            weight=weight,
            x=self.x,
            mask=self.mask,
            expected=self.expected,
        )
        if self.is_bound:
            mu, log_sigma, _ = self.outputs(n_memory)
            step.set(mu=mu, log_sigma=log_sigma)
        self._native = step
        return step


def as_plain(a: F32, shape: tuple[int, ...]) -> F32:
    """Return what a backend gave as C takes it.

    Raises
    ------
    BackendError
        It is of another size: C would read beyond its end.
    """
    if a.size != np.prod(shape):
        raise BackendError(f"a backend answered {a.shape} where {shape} was expected")
    return np.ascontiguousarray(a, np.float32).reshape(shape)
