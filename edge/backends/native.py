"""The forecaster's step in C: for a stream sample by sample, where a runtime's hundred small nodes cost more than sums.

The weights are those of the bundle's float32 graph, the state is packed as everywhere. A row is summed alike in every
company, so neither the cut of a stream into steps nor who else is in them changes a bit.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Bundle
from kinedge.edge.backends.base import F32, check_samples, check_state
from kinedge.edge.backends.native_graph import LANES, read_forecaster
from kinedge.edge.native import implementation, library
from kinedge.edge.native.arrays import address, is_plain
from kinedge.errors import BackendError

__all__ = ["NativeBackend", "NativeBound", "NativeStreams"]

_ROWS: Final = 64  # of the C: samples that go through all layers together
_LINE: Final = 64  # bytes of a cache line
_POINTER: Final = ctypes.c_void_p
_KEPT_SAMPLES: Final = 4096  # of all streams in a step: memory for as many is kept for the next one


class NativeBackend:
    """The bundle's float32 graph, stepped by the native library.

    Parameters
    ----------
    bundle
        Checked when it was read; here its graph must be, name by name, what kinedge's exporter writes.
    precision
        ``fp32`` is all there is.

    Raises
    ------
    BackendError
        The native library is not there, or the graph is another one.
    """

    device: Final = "cpu"

    def __init__(self, bundle: Bundle, *, precision: str = "fp32") -> None:
        function = _function()
        if function is None:
            raise BackendError(f"the native step is not there: {implementation()}; use backend 'onnx'")
        graph = bundle.model_bytes(precision)
        if precision != "fp32":
            raise BackendError(f"the native step computes in fp32, not in {precision}; use backend 'onnx'")
        self.manifest = bundle.manifest
        self.name = f"native cpu {precision}"
        forecaster = read_forecaster(graph, bundle.manifest)
        s = forecaster.shape
        self.shape = s
        width, n_head, n_out = (-(-n // LANES) * LANES for n in (s.width, 2 * s.n_outputs, s.n_outputs))
        self._shape = np.array(
            [s.n_channels, s.width, s.n_outputs, s.kernel, s.var_order, *s.dilations], dtype=np.int64
        )
        self._weights = _aligned(len(forecaster.weights))
        self._weights[:] = forecaster.weights
        self._n_scratch = _ROWS * (width + s.width + n_head + n_out)
        self._function = function

    def bind(self, n_streams: int, n_samples: int, *, state: F32 | None = None) -> NativeBound:
        """Return a step of at most so many streams that stays in its memory; see ``NativeBound``."""
        return NativeBound(self, n_streams, n_samples, state=state)

    def allocate(self, n_streams: int) -> NativeStreams:
        """Return streams that have seen nothing; see ``Backend.allocate``."""
        return NativeStreams(self, n_streams)

    def step(self, x: F32, mask: F32, state: F32) -> tuple[F32, F32, F32]:
        """Advance all streams; see ``Backend.step``.

        Raises
        ------
        BackendError
            The shapes do not fit.
        """
        check_samples(x, mask, self.manifest, n_streams=len(x) if x.ndim else 0, where=self.name)
        n_streams, n_samples = x.shape[:2]
        check_state(state, self.manifest, n_streams=n_streams, where=self.name)
        x, mask, state = (np.ascontiguousarray(a) for a in (x, mask, state))
        shape = (n_streams, n_samples, self.shape.n_outputs)
        mu, log_sigma = np.empty(shape, np.float32), np.empty(shape, np.float32)
        state_out = np.empty_like(state)
        _Call(self, x, mask, state, mu, log_sigma, state_out).run(n_streams)
        return mu, log_sigma, state_out


class _Arguments(ctypes.Structure):
    """``struct kinedge_tcn`` of ``edge/native/tcn.h``."""

    _fields_ = tuple(
        (name, ctypes.c_int64 if name.startswith("n_") or name == "state_size" else _POINTER)
        for name in (
            "shape", "n_shape", "weights", "n_weights", "n_samples", "x", "mask", "state", "state_out", "state_size",
            "mu", "log_sigma", "scratch", "n_scratch", "rows", "n_rows",
        )
    )  # fmt: skip


class _Call:
    """The C function with its arguments, checked and kept alive: arrays that lie in one piece, of sizes that fit."""

    def __init__(
        self, backend: NativeBackend, x: F32, mask: F32, state: F32, mu: F32, log_sigma: F32, state_out: F32
    ) -> None:
        s, n_samples = backend.shape, x.shape[1]
        scratch = _aligned(backend._n_scratch)
        expected = [(x, s.n_channels), (mask, s.n_channels), (mu, s.n_outputs), (log_sigma, s.n_outputs)]
        fits = all(a.shape == (len(x), n_samples, width) for a, width in expected) and all(
            a.shape == (len(x), sum(s.state_sizes)) for a in (state, state_out)
        )
        arrays = (x, mask, state, mu, log_sigma, state_out, scratch, backend._weights)
        fits = fits and all(a.flags.writeable for a in (mu, log_sigma, state_out))
        if not fits or any(a.dtype != np.float32 or not a.flags.c_contiguous for a in arrays):
            raise BackendError(f"{backend.name}: a step of {x.shape} into {mu.shape} failed: its arrays do not fit")
        self._name, self._function, self._most = backend.name, backend._function, len(x)
        self._kept = (*arrays, backend._shape)
        self._of = _Arguments(
            backend._shape.ctypes.data, len(backend._shape), backend._weights.ctypes.data, len(backend._weights),
            n_samples, x.ctypes.data, mask.ctypes.data, state.ctypes.data, state_out.ctypes.data, state.shape[1],
            mu.ctypes.data, log_sigma.ctypes.data, scratch.ctypes.data, len(scratch), None, 0,
        )  # fmt: skip
        self.at = ctypes.addressof(self._of)
        self._own = state.ctypes.data, state_out.ctypes.data
        self._used: F32 | None = None

    def run(self, n_streams: int) -> None:
        """Advance the first streams.

        Raises
        ------
        BackendError
            There are not so many.
        """
        if self._used is not None:
            of, self._used = self._of, None
            (of.state, of.state_out), of.rows = self._own, None
        self._run(n_streams)

    def run_in(self, state: F32, rows: NDArray[np.int64]) -> None:
        """Advance as many streams as there are rows, whose state is read and written in these rows of another array.

        Parameters
        ----------
        state : (n, state_size) float32
            Of these streams and others.
        rows
            Of its first streams, each at most once.

        Raises
        ------
        BackendError
            The arrays are not such, or the streams too many.
        """
        self.use(state)
        if not is_plain(rows, np.int64, rows.shape):
            raise BackendError(f"{self._name}: rows of {rows.dtype} {rows.shape} cannot be read")
        self._of.rows = address(rows)
        self._run(len(rows))

    def use(self, state: F32) -> None:
        """Go on in rows of this array from here on, which C may be told by itself: the arguments lie ``at``.

        Raises
        ------
        BackendError
            It cannot be written as it lies.
        """
        of = self._of
        if self._used is state:
            return
        if not is_plain(state, np.float32, (len(state), of.state_size)) or not state.flags.writeable:
            raise BackendError(f"{self._name}: a state of {state.shape} cannot be written where it lies")
        of.state = of.state_out = address(state)
        of.n_rows, self._used = len(state), state

    def _run(self, n_streams: int) -> None:
        if not 0 <= n_streams <= self._most:
            raise BackendError(f"{self._name}: a step of {n_streams} streams failed: there are {self._most}")
        wrong = self._function(self.at, n_streams)
        if wrong:
            raise BackendError(f"{self._name}: the native step refuses its arguments ({wrong}); this is a defect")


class NativeBound:
    """A step into memory that is used again and again; see ``onnx.BoundStep``.

    ``x``, ``mask`` (n_streams, n_samples, n_channels) and ``state`` are written before ``run``, and ``mu``,
    ``log_sigma`` and ``state_out`` read behind it: their first rows, as many as there are streams. ``run_in`` goes on
    in the rows of a state that lies elsewhere.

    Parameters
    ----------
    state : (n_streams, state_size) float32
        Read and written in place; two of the step's own when None.
    """

    def __init__(self, backend: NativeBackend, n_streams: int, n_samples: int, *, state: F32 | None = None) -> None:
        m = backend.manifest
        n_out = len(m.horizons) * m.n_channels
        self.x, self.mask = (np.zeros((n_streams, n_samples, m.n_channels), np.float32) for _ in range(2))
        self.mu, self.log_sigma = (np.zeros((n_streams, n_samples, n_out), np.float32) for _ in range(2))
        self.state = np.zeros((n_streams, m.state_size), np.float32) if state is None else state
        self.state_out = np.zeros_like(self.state) if state is None else state
        call = _Call(backend, self.x, self.mask, self.state, self.mu, self.log_sigma, self.state_out)
        self.run, self.run_in, self.use, self.at = call.run, call.run_in, call.use, call.at


class NativeStreams:
    """Streams whose state is written where it is read.

    Raises
    ------
    BackendError
        Fewer than one stream.
    """

    def __init__(self, backend: NativeBackend, n_streams: int) -> None:
        if n_streams < 1:
            raise BackendError(f"{backend.name}: {n_streams} streams cannot be allocated; at least 1 can")
        self.n_streams = n_streams
        self._backend = backend
        self._state: F32 = np.zeros((n_streams, backend.manifest.state_size), np.float32)
        self._bound: NativeBound | None = None

    def step(self, x: F32, mask: F32) -> tuple[F32, F32]:
        """Advance all streams; see ``Streams.step``.

        Raises
        ------
        BackendError
            The shapes do not fit.
        """
        bound = self._bound
        if bound is None or not x.shape == mask.shape == bound.x.shape or not x.dtype == mask.dtype == bound.x.dtype:
            b = self._backend
            check_samples(x, mask, b.manifest, n_streams=self.n_streams, where=b.name)
            bound = NativeBound(b, self.n_streams, x.shape[1], state=self._state)
            self._bound = bound if self.n_streams * x.shape[1] <= _KEPT_SAMPLES else None
        bound.x[...] = x
        bound.mask[...] = mask
        bound.run(self.n_streams)
        return bound.mu.copy(), bound.log_sigma.copy()

    def save(self) -> F32:
        """Return the state; see ``Streams.save``."""
        state: F32 = self._state.copy()
        state.setflags(write=False)
        return state

    def restore(self, state: F32) -> None:
        """Go on from a saved state.

        Raises
        ------
        BackendError
            It is of another model or number of streams.
        """
        check_state(state, self._backend.manifest, n_streams=self.n_streams, where=self._backend.name)
        self._state[:] = state


def _aligned(n: int) -> F32:
    """Return zeros that begin with a line of the cache."""
    room: F32 = np.zeros(n + _LINE // 4, np.float32)
    start = -room.ctypes.data % _LINE // 4
    return room[start : start + n]


@cache
def _function() -> Any:
    found = library()
    if found is None:
        return None
    function = found.kinedge_tcn
    function.argtypes = [_POINTER, ctypes.c_int64]
    function.restype = ctypes.c_int
    return function
