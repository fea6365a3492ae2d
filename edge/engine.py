"""The streaming engine: samples of all streams in, standardised surprise out, in one vectorised step.

A forecaster predicts every channel some horizons ahead, as a Student-t: ``z = (x - mu) / sigma`` is how far the
world was from that, and the negative log-likelihood how surprising it was. The engine keeps predictions until the
sample they speak of arrives. Its state is a value: it can be saved, restored and compared, and restoring refuses
what does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.backends import Backend
from kinedge.edge.engine_memory import StepMemory, as_plain
from kinedge.edge.gaps import Gaps
from kinedge.edge.native import NativeStep
from kinedge.edge.native.arrays import is_plain
from kinedge.errors import SignalError

__all__ = ["STREAMS_IN_CACHE", "Engine", "EngineState", "Surprise"]

F32 = NDArray[np.float32]

STREAMS_IN_CACHE: Final = 32  # that a CPU works on together: more leave the second-level cache, and cost more each
_Z_LIMIT: Final = np.float32(100.0)  # beyond that, more says nothing more, and one sample must not drown a block


@dataclass(frozen=True, eq=False)
class EngineState:
    """All that the engine remembers of ``n_streams`` streams.

    Parameters
    ----------
    model : (n_streams, state_size) float32
        The forecaster's own state.
    mu, log_sigma : (n_streams, max_horizon, n_horizons, n_channels) float32
        Predictions for samples that have not come; row ``-1`` is the youngest.
    held, held_age : (n_streams, n_channels)
        Last value of each channel, normalised, and samples since then: what is shown in a gap.
    n_seen : (n_streams,) int64
        Samples since the start, for the warm-up.
    """

    model: F32
    mu: F32
    log_sigma: F32
    held: F32
    held_age: NDArray[np.int32]
    n_seen: NDArray[np.int64]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the parts by name, to be stored."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, eq=False)
class Surprise:
    """How far each sample was from its predictions.

    Parameters
    ----------
    z : (n_streams, n_samples, n_horizons, n_channels) float32
        0 where ``valid`` is False.
    nats : the same shape, float32
        Negative log-likelihood under the predicted Student-t, less its constant; 0 where ``valid`` is False.
        Unlike ``z`` it does not shrink when the forecaster grows unsure of itself because of what it sees.
    valid : the same shape, bool
        False where the sample is missing or the forecaster had not seen enough.
    """

    z: F32
    nats: F32
    valid: NDArray[np.bool_]


class Engine:
    """Scores streams with one model.

    Parameters
    ----------
    manifest
        Of the bundle the backend was loaded from.
    backend
        Runs the graph.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest = manifest
        self.backend = backend
        self._clip = np.float32(manifest.clip)
        self._gaps = Gaps(manifest.hold_s, manifest.rate_hz)
        # a GPU wants all streams in one step
        self._at_once = STREAMS_IN_CACHE if getattr(backend, "device", "") == "cpu" else None
        self._horizons = manifest.horizons
        self._max_horizon = max(manifest.horizons)
        self._n_channels = manifest.n_channels
        self._memory: StepMemory | None = None
        self._needed = manifest.receptive_field + np.array(self._horizons, np.int64)
        self._center = np.array(manifest.center, np.float32)
        self._inverse_scale = (1.0 / np.array(manifest.scale)).astype(np.float32)

    def initial_state(self, n_streams: int) -> EngineState:
        """Return the state of streams that have seen nothing."""
        shape = (n_streams, self._max_horizon, len(self._horizons), self.manifest.n_channels)
        return EngineState(
            model=np.zeros((n_streams, self.manifest.state_size), np.float32),
            mu=np.zeros(shape, np.float32),
            log_sigma=np.zeros(shape, np.float32),
            held=np.zeros((n_streams, self.manifest.n_channels), np.float32),
            held_age=np.zeros((n_streams, self.manifest.n_channels), np.int32),
            n_seen=np.zeros(n_streams, np.int64),
        )

    def state_from_arrays(self, arrays: Mapping[str, NDArray[np.generic]], *, n_streams: int) -> EngineState:
        """Restore a saved state.

        Raises
        ------
        SignalError
            A part is missing, unused, or of another shape or type: the state is of another model.
        """
        expected = self.initial_state(n_streams).to_arrays()
        if set(arrays) != set(expected):
            odd = sorted(set(arrays) ^ set(expected))
            raise SignalError(f"engine state: parts missing or unused: {', '.join(odd)}; it is of another model")
        for name, like in expected.items():
            if arrays[name].shape != like.shape or arrays[name].dtype != like.dtype:
                raise SignalError(
                    f"engine state: {name} is {arrays[name].dtype} {arrays[name].shape}, "
                    f"expected {like.dtype} {like.shape}; it is of another model or number of streams"
                )
        return replace(self.initial_state(n_streams), **{k: v.copy() for k, v in arrays.items()})

    def step(self, values: F32, valid: NDArray[np.bool_], state: EngineState) -> tuple[Surprise, EngineState]:
        """Score the next samples of all streams.

        Parameters
        ----------
        values : (n_streams, n_samples, n_channels) float32
            SI units on the model's grid.
        valid : the same shape, bool
        state
            From the step before; not changed.

        Raises
        ------
        SignalError
            The shapes do not fit the model.
        BackendError
            The backend failed.
        """
        after = EngineState(**{f.name: np.empty_like(getattr(state, f.name)) for f in fields(state)})
        return self._run(values, valid, state, after, None), after

    def advance(
        self, values: F32, valid: NDArray[np.bool_], state: EngineState, rows: NDArray[np.intp] | None = None
    ) -> Surprise:
        """Score the next samples of some streams as ``step`` does, but write what is remembered into ``state``.

        Thousands of others are neither read nor copied. After a ``BackendError`` some of these streams have gone on.

        Parameters
        ----------
        values, valid
            Of these streams.
        state
            Of all.
        rows
            Which they are, each at most once; all in their order when None.

        Raises
        ------
        SignalError
            The shapes do not fit the model.
        BackendError
            The backend failed.
        """
        return self._run(values, valid, state, state, rows)

    def _run(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        state: EngineState,
        after: EngineState,
        rows: NDArray[np.intp] | None,
    ) -> Surprise:
        n_streams, n_samples, n_channels = values.shape
        n_states = len(state.n_seen) if rows is None else len(rows)
        if n_channels != self._n_channels or valid.shape != values.shape or n_states != n_streams:
            raise SignalError(
                f"engine: values {values.shape}, valid {valid.shape} and a state of {n_states} streams "
                f"do not fit a model of {self.manifest.n_channels} channels"
            )
        shape = (n_streams, n_samples, len(self._horizons), n_channels)
        found = Surprise(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, bool))
        if not n_streams or not n_samples:
            if after is not state:
                _copy_rows(state, after)
            return found
        at_once = self._at_once or n_streams
        if (
            NativeStep.is_there()
            and is_plain(values, np.float32, values.shape)
            and is_plain(valid, np.bool_, valid.shape)
            and self._is_plain(state)
            and (after is state or self._is_plain(after))
        ):
            self._run_native(values, valid, state, after, rows, found, at_once)
            return found
        gappy = self._fill_gaps(values, valid, state, slice(None) if rows is None else rows)
        for start in range(0, n_streams, at_once):
            piece = slice(start, min(start + at_once, n_streams))
            out = Surprise(found.z[piece], found.nats[piece], found.valid[piece])
            at = piece if rows is None else _as_slice(rows[piece])
            self._step(values[piece], valid[piece], gappy.part(piece), state, after, at, out)
        if len(gappy.rows):
            at_gaps = gappy.rows if rows is None else rows[gappy.rows]
            after.held[at_gaps], after.held_age[at_gaps] = gappy.held, gappy.age
        return found

    def _is_plain(self, state: EngineState) -> bool:
        """Whether a state lies in memory as the native library takes it."""
        if self._memory is not None and self._memory.told is state:
            return True
        n, m = len(state.n_seen), self.manifest
        predicted = (self._max_horizon, len(self._horizons), m.n_channels)
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "model": (np.float32, (m.state_size,)),
            "mu": (np.float32, predicted),
            "log_sigma": (np.float32, predicted),
            "held": (np.float32, (m.n_channels,)),
            "held_age": (np.int32, (m.n_channels,)),
            "n_seen": (np.int64, ()),
        }
        return all(is_plain(getattr(state, name), t, (n, *rest)) for name, (t, rest) in shapes.items())

    def in_place(self, state: EngineState) -> StepMemory | None:
        """Return the memory in which hops are forecast where a state lies, told of it; None where that cannot be.

        ``native_step`` of it is then to be told the hop, and its forecaster goes on in the state.
        """
        if self._at_once is None or not NativeStep.is_there() or not self._is_plain(state):
            return None
        memory = self._memory_of(1, self.manifest.hop)
        if not memory.works_in_place:
            return None
        self.native_step(memory)
        self._tell(memory, state, state)
        return memory

    def native_step(self, memory: StepMemory) -> NativeStep:
        """Return the step in C that works in some memory."""
        return memory.native_step(self._gaps.weight, clip=float(self._clip), z_limit=float(_Z_LIMIT))

    def _tell(self, memory: StepMemory, state: EngineState, after: EngineState) -> None:
        """Tell a native step where the state before and after it lies."""
        if memory.told is state and after is state:  # a pipeline's is the same hop after hop
            return
        self.native_step(memory).set(
            {"n_rows": len(state.n_seen)},
            model=state.model,
            old_mu=state.mu,
            old_log_sigma=state.log_sigma,
            held=state.held,
            held_age=state.held_age,
            n_seen=state.n_seen,
            model_after=after.model,
            mu_after=after.mu,
            log_sigma_after=after.log_sigma,
            held_after=after.held,
            held_age_after=after.held_age,
            n_seen_after=after.n_seen,
        )
        memory.tell_way(in_place=after is state and memory.works_in_place)
        memory.told = state if after is state else None

    def _run_native(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        state: EngineState,
        after: EngineState,
        rows: NDArray[np.intp] | None,
        found: Surprise,
        at_once: int,
    ) -> None:
        """Score the next samples of all streams as ``_step`` does, piece by piece, in C but for the forecast."""
        n_streams, n_samples, _ = values.shape
        memory = self._memory_of(min(at_once, n_streams), n_samples)
        step = self.native_step(memory)
        at = np.arange(n_streams) if rows is None else np.ascontiguousarray(rows, np.int64)
        in_place = after is state and memory.works_in_place
        step.set(
            {"n_streams": n_streams},
            values=values,
            valid=valid,
            rows=at,
            z=found.z,
            nats=found.nats,
            ok=found.valid,
        )
        self._tell(memory, state, after)
        for start in range(0, n_streams, at_once):
            stop = min(start + at_once, n_streams)
            step.prepare(start, stop)
            if in_place:
                memory.forecast_in(state.model, at[start:stop])
            else:
                mu, log_sigma, model_state = memory.forecast(stop - start)
            if not memory.is_bound:
                predicted = (stop - start, n_samples, len(self._horizons) * self._n_channels)
                step.set(
                    mu=as_plain(mu, predicted),
                    log_sigma=as_plain(log_sigma, predicted),
                    model_out=as_plain(model_state, (stop - start, self.manifest.state_size)),
                )
            step.surprise(start, stop, nats=found.nats[start:stop])
        step.forget("values", "valid", "rows", "z", "nats", "ok")

    def _fill_gaps(
        self, values: F32, valid: NDArray[np.bool_], state: EngineState, at: slice | NDArray[np.intp]
    ) -> _Gappy:
        """Normalise the streams in which samples are missing, and fill their gaps: all at once, as they are few."""
        rows = np.flatnonzero(~valid.reshape(len(valid), -1).all(axis=1))
        if not len(rows):
            return _Gappy(0, rows, values[:0], state.held[:0], state.held_age[:0])
        x: F32 = values[rows] - self._center
        x *= self._inverse_scale
        np.clip(x, -self._clip, self._clip, out=x)
        held, age = self._gaps.fill(x, valid[rows], state.held[at][rows], state.held_age[at][rows])
        return _Gappy(0, rows, x, held, age)

    def _step(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        gaps: _Gappy,
        state: EngineState,
        after: EngineState,
        at: slice | NDArray[np.intp],
        out: Surprise,
    ) -> None:
        """Score the next samples of a few streams, which are ``at`` these rows of ``state`` and then of ``after``."""
        n_streams, n_samples, n_channels = values.shape
        memory = self._memory_of(n_streams, n_samples)
        x = memory.x[:n_streams]
        np.subtract(_flat(values), memory.center, out=_flat(x))
        np.multiply(_flat(x), memory.inverse_scale, out=_flat(x))
        np.clip(x, -self._clip, self._clip, out=x)
        gappy = gaps.rows - gaps.start
        x[gappy] = gaps.x
        memory.mask[:n_streams] = valid
        memory.state[:n_streams] = state.model[at]
        mu, log_sigma, model_state = memory.forecast(n_streams)
        shape = (n_streams, n_samples, len(self._horizons), n_channels)
        mu, log_sigma = mu.reshape(shape), log_sigma.reshape(shape)
        old_mu, old_log_sigma, n_seen = state.mu[at], state.log_sigma[at], state.n_seen[at]

        z, nats, ok = out.z, out.nats, out.valid
        expected_log_sigma = memory.expected[:n_streams]
        for i, horizon in enumerate(self._horizons):
            # the prediction for sample t was made at t - horizon: the first few were made in the steps before
            n_old = min(horizon, n_samples)
            old = slice(self._max_horizon - horizon, self._max_horizon - horizon + n_old)
            new = slice(0, n_samples - n_old)
            np.subtract(x[:, :n_old], old_mu[:, old, i], out=z[:, :n_old, i])
            np.subtract(x[:, n_old:], mu[:, new, i], out=z[:, n_old:, i])
            expected_log_sigma[:, :n_old, i] = old_log_sigma[:, old, i]
            expected_log_sigma[:, n_old:, i] = log_sigma[:, new, i]
        np.negative(expected_log_sigma, out=nats)
        np.exp(nats, out=nats)
        z *= nats
        np.clip(z, -_Z_LIMIT, _Z_LIMIT, out=z)
        np.multiply(z, z, out=nats)
        np.multiply(_flat(nats), memory.inverse_nu, out=_flat(nats))
        nats += np.float32(1)
        np.log(nats, out=nats)  # of 1 + a square: log1p is exact for what is far below a nat, and ten times slower
        np.multiply(_flat(nats), memory.half_nu_1, out=_flat(nats))
        nats += expected_log_sigma
        if self._mark_valid(valid, n_seen, nats, out=ok):
            np.copyto(z, 0, where=~ok)
            np.copyto(nats, 0, where=~ok)
        elif len(gappy):
            gone = ~ok[gappy]
            for part in (z, nats):
                some = part[gappy]
                some[gone] = 0
                part[gappy] = some
        after.model[at] = model_state
        after.mu[at] = self._youngest(old_mu, mu)
        after.log_sigma[at] = self._youngest(old_log_sigma, log_sigma)
        after.held[at] = x[:, -1]
        after.held_age[at] = 0
        after.n_seen[at] = n_seen + n_samples

    def _memory_of(self, n_streams: int, n_samples: int) -> StepMemory:
        """Return memory for a step; hops of a few streams have theirs, which is used again and stays in the cache."""
        usual = n_samples == self.manifest.hop and self._at_once is not None and n_streams <= self._at_once
        if not usual:
            return self._new_memory(n_streams, n_samples)
        if self._memory is None:
            self._memory = self._new_memory(STREAMS_IN_CACHE, n_samples)
        return self._memory

    def _new_memory(self, n_streams: int, n_samples: int) -> StepMemory:
        return StepMemory(
            self.manifest,
            self.backend,
            n_streams,
            n_samples,
            center=self._center,
            inverse_scale=self._inverse_scale,
            needed=self._needed,
        )

    def _mark_valid(
        self, valid: NDArray[np.bool_], n_seen: NDArray[np.int64], nats: F32, *, out: NDArray[np.bool_]
    ) -> bool:
        """Mark what was scored; return whether anything but missing samples was not."""
        for i in range(len(self._horizons)):
            out[:, :, i] = valid
        more = False
        needed = self._needed
        if n_seen.min(initial=needed[-1]) < needed[-1]:
            age = n_seen[:, None] + np.arange(valid.shape[1])
            out &= (age[..., None] >= needed)[..., None]
            more = True
        finite = np.isfinite(nats)
        if not finite.all():
            out &= finite
            more = True
        return more

    def _youngest(self, old: F32, new: F32) -> F32:
        """Return the last predictions of each stream, as many as the longest horizon."""
        n_samples = new.shape[1]
        if n_samples >= self._max_horizon:
            return new[:, n_samples - self._max_horizon :]
        return np.concatenate([old[:, n_samples:], new], axis=1)


@dataclass(frozen=True, eq=False)
class _Gappy:
    """Streams in which samples are missing: ``rows`` less ``start`` of a piece, normalised and filled, and after it."""

    start: int
    rows: NDArray[np.intp]
    x: F32
    held: F32
    age: NDArray[np.int32]

    def part(self, piece: slice) -> _Gappy:
        """Return those of a piece of all streams."""
        own = slice(*np.searchsorted(self.rows, (piece.start, piece.stop)))
        return _Gappy(piece.start, self.rows[own], self.x[own], self.held[own], self.age[own])


def _copy_rows(state: EngineState, after: EngineState) -> None:
    for f in fields(state):
        getattr(after, f.name)[:] = getattr(state, f.name)


def _flat(a: F32) -> F32:
    """Return an array with one row per stream; a view, or what is written to it is lost."""
    return a.reshape(len(a), -1)


def _as_slice(rows: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return rows that follow each other as a slice: what is taken by it is not copied."""
    first, n = int(rows[0]), len(rows)
    if int(rows[-1]) - first == n - 1 and (n == 1 or bool((rows[1:] > rows[:-1]).all())):
        return slice(first, first + n)
    return rows
