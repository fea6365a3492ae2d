"""From surprise per sample to scores per block: one row per hop, over the last ``block`` samples.

A channel's score is its mean negative log-likelihood (nats) over the block and the horizons. Beside it stands how
strongly the sensor moved, since vigorous movement is harder to predict and must be compared with its like, and
the facts that caution needs: how much was missing, saturated, flat. The state is a ring of per-hop sums, added up
in a fixed order, so that any chunking gives the same bits. A hop is summed in single precision, sample after sample, so
that the bits do not depend on who else is in the step either; sums of hops are in double precision.

Deviation from common practice: ``log mean z^2`` was tried and lost. A well-trained forecaster widens its sigma
when it sees something odd, and ``z`` then hides what the likelihood still shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.engine import STREAMS_IN_CACHE, Surprise
from kinedge.edge.hop_facts import FAR, HopFacts, look_at
from kinedge.edge.native import NativeBlocks
from kinedge.edge.state_rows import take_rows, write_rows
from kinedge.edge.timing import UNTOLD

__all__ = ["NO_STEP", "BlockScorer", "BlockScores", "ScorerState", "sensor_groups"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_N_SUMS: Final = 4
_MIN_SHARE: Final = 0.25  # of a block's samples that a channel needs to be scored at all
_INTENSITY_FLOOR: Final = 1e-5  # of the mean squared step, in normalised units: a sensor on a table
NO_STEP: Final = float(
    np.log(_INTENSITY_FLOOR)
)  # the intensity where no two samples follow each other, or all are equal


def sensor_groups(manifest: Manifest) -> tuple[slice, ...]:
    """Return the columns of each sensor, in the manifest's order."""
    groups, start = [], 0
    for sensor in manifest.sensors:
        groups.append(slice(start, start + len(sensor.channels)))
        start += len(sensor.channels)
    return tuple(groups)


@dataclass(frozen=True, eq=False)
class ScorerState:
    """Per-hop sums of the last block, the newest in row ``-1``; all but the last two (n_streams, n_hops, n_channels).

    ``moved`` (n_streams, n_sensors) is what the intensity of the last block is the logarithm of.
    """

    nats: F64
    z2: F64
    y2: F64
    step2: F64
    n_steps: NDArray[np.int32]
    n_scored: NDArray[np.int32]
    n_missing: NDArray[np.int32]
    n_saturated: NDArray[np.int32]
    low: F32
    high: F32
    n_hops_seen: NDArray[np.int64]
    moved: F64


@dataclass(frozen=True, eq=False)
class BlockScores:
    """What a block says, for each stream.

    Parameters
    ----------
    channel : (n_streams, n_channels)
        Mean negative log-likelihood, nats; 0 where ``scored`` is False.
    scored : (n_streams, n_channels) bool
        Enough samples of the channel were scored.
    intensity : (n_streams, n_sensors)
        Log of the mean squared step from sample to sample, in normalised units.
    before : (n_streams, n_sensors)
        The same of the block that ended a hop ago; ``NO_STEP`` where there was none.
    power, drop : (n_streams, n_channels)
        Mean ``z^2``, and mean ``y^2 / P_cc`` with ``y = P z``.
    missing, saturated : (n_streams, n_sensors)
        Share of the block's samples, as far as a block has been seen.
    flat : (n_streams, n_sensors) bool
        Every channel of the sensor stood still: no living body does that.
    full : (n_streams,) bool
        A whole block has been seen.
    late : (n_streams, n_sensors)
        Above 0 where a sensor moves later or earlier beside the others than it did: see ``kinedge.edge.timing``.
    """

    channel: F64
    scored: NDArray[np.bool_]
    intensity: F64
    before: F64
    power: F64
    drop: F64
    missing: F64
    saturated: F64
    flat: NDArray[np.bool_]
    full: NDArray[np.bool_]
    late: F64


class BlockScorer:
    """Turns surprise into block scores.

    Parameters
    ----------
    manifest
        Gives block, hop and sensors.
    precision : (n_channels, n_channels)
        Of the residuals on normal movement, for the attribution.
    """

    def __init__(self, manifest: Manifest, precision: F64) -> None:
        self.manifest = manifest
        self.groups = sensor_groups(manifest)
        self._precision = precision.astype(np.float32)
        self._diagonal: F64 = np.diag(precision)
        self._inverse_scale = (1.0 / np.array(manifest.scale)).astype(np.float32)
        self._n_hops = manifest.block // manifest.hop
        self._starts = [g.start for g in self.groups]
        self._square: F32 = np.square(self._inverse_scale)
        self._y: F32 = np.empty(0, np.float32)
        self._native = self.in_c() if NativeBlocks.is_there() else None

    def in_c(self) -> NativeBlocks:
        """Return a scorer of blocks in C, told all that it must know of the model."""
        manifest = self.manifest
        return NativeBlocks(
            {
                "hop": manifest.hop,
                "n_channels": manifest.n_channels,
                "n_sensors": len(self.groups),
                "n_hops": self._n_hops,
                "scored_from": self._scored_from,
                "flat_below": 1 - _MIN_SHARE,
                "floor": _INTENSITY_FLOOR,
            },
            starts=np.array([*self._starts, manifest.n_channels], np.int64),
            square=self._square,
        )

    @property
    def _scored_from(self) -> float:
        """Of a block: samples and horizons of a channel that must have been scored."""
        return _MIN_SHARE * self.manifest.block * len(self.manifest.horizons)

    def initial_state(self, n_streams: int) -> ScorerState:
        """Return the state of streams that have seen nothing."""
        shape = (n_streams, self._n_hops, self.manifest.n_channels)

        def count() -> NDArray[np.int32]:
            return np.zeros(shape, np.int32)

        return ScorerState(
            nats=np.zeros(shape),
            z2=np.zeros(shape),
            y2=np.zeros(shape),
            step2=np.zeros(shape),
            n_steps=count(),
            n_scored=count(),
            n_missing=count(),
            n_saturated=count(),
            low=np.full(shape, FAR),
            high=np.full(shape, -FAR),
            n_hops_seen=np.zeros(n_streams, np.int64),
            moved=np.full((n_streams, len(self.groups)), _INTENSITY_FLOOR),
        )

    def step(
        self,
        surprise: Surprise,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScorerState,
        *,
        precision: F64 | None = None,
        facts: HopFacts | None = None,
        late: F64 | None = None,
    ) -> tuple[BlockScores, ScorerState]:
        """Add one hop and score the block that ends with it.

        Parameters
        ----------
        surprise
            Of the hop, from the engine.
        values, valid, saturated : (n_streams, hop, n_channels)
            The hop itself, SI units.
        state
            From the step before; not changed.
        precision : (n_streams, n_channels, n_channels)
            Each stream's own; the scorer's for all when None.
        facts
            Of the hop, where somebody has looked at it before.
        late : (n_streams, n_sensors)
            From ``Timing``; nothing is told of it when None.
        """
        facts = facts or look_at(values, valid, saturated)
        sums, diagonal = self._sums(surprise, precision)
        nats, z2, y2, n_scored = sums
        step2, n_steps = _push(state.step2, facts.step2 * self._square), _push(state.n_steps, facts.n_steps)
        after = ScorerState(
            nats=_push(state.nats, nats),
            z2=_push(state.z2, z2),
            y2=_push(state.y2, y2),
            step2=step2,
            n_steps=n_steps,
            n_scored=_push(state.n_scored, n_scored),
            n_missing=_push(state.n_missing, values.shape[1] - facts.n_valid),
            n_saturated=_push(state.n_saturated, facts.n_saturated),
            low=_push(state.low, facts.low),
            high=_push(state.high, facts.high),
            n_hops_seen=state.n_hops_seen + 1,
            moved=self._moved(step2, n_steps),
        )
        return self._score(after, diagonal, late, np.log(state.moved)), after

    def advance(
        self,
        surprise: Surprise,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScorerState,
        rows: NDArray[np.intp],
        *,
        precision: F64 | None = None,
        facts: HopFacts,
        late: F64,
    ) -> BlockScores:
        """Add one hop of some streams and score as ``step`` does, to the bit, but write into ``state``.

        Parameters
        ----------
        surprise, values, valid, saturated, precision, facts, late
            Of these streams.
        state
            Of all.
        rows : (n_streams,)
            Which they are, each at most once.
        """
        if self._native is not None:
            sums, diagonal = self._sums(surprise, precision)
            found = self._native.step(sums, facts.whole, diagonal, state, rows)
            if found is not None:
                (channel, power, drop), of_sensors, scored, flat, full = found
                np.log(of_sensors[:2], out=of_sensors[:2])
                intensity, before, missing, gone = of_sensors
                return BlockScores(channel, scored, intensity, before, power, drop, missing, gone, flat, full, late)
        part = take_rows(state, rows)
        scores, after = self.step(surprise, values, valid, saturated, part, precision=precision, facts=facts, late=late)
        write_rows(state, rows, after)
        return scores

    def precision_of(self, precision: F64 | None) -> tuple[F32, F64]:
        """Return a precision as it is multiplied by, and its diagonal; those of the scorer for None."""
        if precision is None:
            return self._precision, self._diagonal
        return precision.astype(np.float32), np.diagonal(precision, axis1=1, axis2=2)

    def _sums(self, surprise: Surprise, precision: F64 | None) -> tuple[F32, F64]:
        """Return the sums of nats, z^2, y^2 and scored samples, (4, n_streams, n_channels), and the diagonal."""
        n_streams, n_samples, n_horizons, n_channels = surprise.z.shape
        own, diagonal = self.precision_of(precision)
        out = np.empty((_N_SUMS, n_streams, n_channels), np.float32)
        flat = (n_streams, n_samples * n_horizons, n_channels)
        z, nats, ok = surprise.z.reshape(flat), surprise.nats.reshape(flat), surprise.valid.reshape(flat)
        if self._y.shape[1:] != flat[1:]:
            self._y = np.empty((STREAMS_IN_CACHE, *flat[1:]), np.float32)
        for start in range(0, n_streams, STREAMS_IN_CACHE):
            rows = slice(start, min(start + STREAMS_IN_CACHE, n_streams))
            y = np.matmul(z[rows], own if own.ndim == 2 else own[rows], out=self._y[: rows.stop - start])
            if not NativeBlocks.sums(z[rows], y, nats[rows], ok[rows], out=out, start=start):
                _add(z[rows], y, nats[rows], ok[rows], out=out[:, rows])
        return out, diagonal

    def _moved(self, step2: F64, n_steps: NDArray[np.int32]) -> F64:
        """Return (n_streams, n_sensors): the mean squared step of a block, and what stands for none."""
        total = np.add.reduceat(step2.sum(axis=1), self._starts, axis=1)
        n = np.add.reduceat(n_steps.sum(axis=1), self._starts, axis=1)
        moved: F64 = total / np.maximum(n, 1) + _INTENSITY_FLOOR
        return moved

    def _score(self, state: ScorerState, diagonal: F64, late: F64 | None, before: F64) -> BlockScores:
        n_scored = state.n_scored.sum(axis=1)
        scored = n_scored >= self._scored_from
        n = np.maximum(n_scored, 1)

        def mean(sums: F64) -> F64:
            averaged: F64 = np.where(scored, sums.sum(axis=1) / n, 0.0)
            return averaged

        n_seen = self.manifest.hop * np.clip(state.n_hops_seen, 1, self._n_hops)[:, None]
        missing = self._largest(state.n_missing.sum(axis=1) / n_seen)
        still = state.high.max(axis=1) <= state.low.min(axis=1)
        return BlockScores(
            channel=mean(state.nats),
            scored=scored,
            intensity=np.log(state.moved),
            before=before,
            power=mean(state.z2),
            drop=mean(state.y2) / diagonal,
            missing=missing,
            saturated=self._largest(state.n_saturated.sum(axis=1) / n_seen),
            flat=np.logical_and.reduceat(still, self._starts, axis=1) & (missing < 1 - _MIN_SHARE),
            full=state.n_hops_seen >= self._n_hops,
            late=np.full(missing.shape, UNTOLD) if late is None else late,
        )

    def _largest(self, per_channel: F64) -> F64:
        """Return (n_streams, n_sensors): the largest of each sensor's channels."""
        largest: F64 = np.maximum.reduceat(per_channel, self._starts, axis=1)
        return largest


def _push(ring: NDArray[Any], row: F32) -> NDArray[Any]:
    return np.concatenate([ring[:, 1:], row[:, None].astype(ring.dtype)], axis=1)


def _add(z: F32, y: F32, nats: F32, ok: NDArray[np.bool_], *, out: F32) -> None:
    """Write the sums over samples of nats, z^2, y^2 and scored samples, ``out`` (4, n_streams, n_channels)."""
    counted = ok.astype(np.float32)
    y *= counted
    y *= y
    for to, samples in zip(out, (nats, z * z, y, counted), strict=True):
        # sample after sample; time first, as what is taken over time then runs along memory
        np.add.reduce(np.ascontiguousarray(samples.transpose(1, 0, 2)), axis=0, out=to)
