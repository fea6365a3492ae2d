"""From surprise per sample to scores per block: one row per hop, over the last ``block`` samples.

A channel's score is ``log mean z^2`` over the block and the horizons; a sensor's is the mean of its
channels'. Beside the scores stand the facts that caution needs: how much was missing, saturated, flat.
The state is a ring of per-hop sums, added up in a fixed order, so that any chunking gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.engine import Surprise

__all__ = ["BlockScorer", "BlockScores", "ScorerState", "sensor_groups"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_FLOOR: Final = 1e-3  # of mean z^2: a perfect prediction is no news, and its logarithm must stay finite
_MIN_SHARE: Final = 0.25  # of a block's samples that a channel needs to be scored at all


def sensor_groups(manifest: Manifest) -> tuple[slice, ...]:
    """Return the columns of each sensor, in the manifest's order."""
    groups, start = [], 0
    for sensor in manifest.sensors:
        groups.append(slice(start, start + len(sensor.channels)))
        start += len(sensor.channels)
    return tuple(groups)


@dataclass(frozen=True, eq=False)
class ScorerState:
    """Per-hop sums of the last block; the ring's newest row is ``-1``. All ``(n_streams, n_hops, n_channels)``."""

    z2: F64
    y2: F64
    n_scored: NDArray[np.int32]
    n_missing: NDArray[np.int32]
    n_saturated: NDArray[np.int32]
    low: F32
    high: F32
    n_hops_seen: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockScores:
    """What a block says, for each stream.

    Parameters
    ----------
    channel : (n_streams, n_channels)
        ``log mean z^2``; 0 where ``scored`` is False.
    scored : (n_streams, n_channels) bool
        Enough samples of the channel were scored.
    sensor : (n_streams, n_sensors)
        Mean of the sensor's scored channels.
    sensor_scored : (n_streams, n_sensors) bool
    power, drop : (n_streams, n_channels)
        Mean ``z^2``, and mean ``y^2 / P_cc`` with ``y = P z``: the two attributions.
    missing, saturated : (n_streams, n_sensors)
        Share of the block's samples.
    flat : (n_streams, n_sensors) bool
        Every channel of the sensor stood still: no living body does that.
    full : (n_streams,) bool
        A whole block has been seen.
    """

    channel: F64
    scored: NDArray[np.bool_]
    sensor: F64
    sensor_scored: NDArray[np.bool_]
    power: F64
    drop: F64
    missing: F64
    saturated: F64
    flat: NDArray[np.bool_]
    full: NDArray[np.bool_]


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
        self._inverse_diagonal = (1.0 / np.diag(precision)).astype(np.float64)
        self._n_hops = manifest.block // manifest.hop

    def initial_state(self, n_streams: int) -> ScorerState:
        """Return the state of streams that have seen nothing."""
        shape = (n_streams, self._n_hops, self.manifest.n_channels)
        return ScorerState(
            z2=np.zeros(shape),
            y2=np.zeros(shape),
            n_scored=np.zeros(shape, np.int32),
            n_missing=np.full(shape, self.manifest.hop, np.int32),
            n_saturated=np.zeros(shape, np.int32),
            low=np.full(shape, np.inf, np.float32),
            high=np.full(shape, -np.inf, np.float32),
            n_hops_seen=np.zeros(n_streams, np.int64),
        )

    def step(
        self,
        surprise: Surprise,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScorerState,
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
        """
        z, ok = surprise.z, surprise.valid
        hop_z2 = np.einsum("bthc,bthc->bc", z, z, dtype=np.float64)
        y = z @ self._precision
        y[~ok] = 0
        hop_y2 = np.einsum("bthc,bthc->bc", y, y, dtype=np.float64)
        after = ScorerState(
            z2=_push(state.z2, hop_z2),
            y2=_push(state.y2, hop_y2),
            n_scored=_push(state.n_scored, ok.sum(axis=(1, 2), dtype=np.int32)),
            n_missing=_push(state.n_missing, (~valid).sum(axis=1, dtype=np.int32)),
            n_saturated=_push(state.n_saturated, saturated.sum(axis=1, dtype=np.int32)),
            low=_push(state.low, np.where(valid, values, np.inf).min(axis=1).astype(np.float32)),
            high=_push(state.high, np.where(valid, values, -np.inf).max(axis=1).astype(np.float32)),
            n_hops_seen=state.n_hops_seen + 1,
        )
        return self._score(after), after

    def _score(self, state: ScorerState) -> BlockScores:
        block = self.manifest.block
        n_scored = state.n_scored.sum(axis=1)
        scored = n_scored >= _MIN_SHARE * block * len(self.manifest.horizons)
        n = np.maximum(n_scored, 1)
        power = np.where(scored, state.z2.sum(axis=1) / n, 0.0)
        drop = np.where(scored, state.y2.sum(axis=1) / n * self._inverse_diagonal, 0.0)
        channel = np.where(scored, np.log(power + _FLOOR), 0.0)
        missing = state.n_missing.sum(axis=1) / block
        saturated = state.n_saturated.sum(axis=1) / block
        still = state.high.max(axis=1) <= state.low.min(axis=1)
        per_sensor = []
        for group in self.groups:
            ok = scored[:, group]
            n_ok = ok.sum(axis=1)
            per_sensor.append(
                (
                    np.where(n_ok > 0, channel[:, group].sum(axis=1) / np.maximum(n_ok, 1), 0.0),
                    n_ok > 0,
                    missing[:, group].max(axis=1),
                    saturated[:, group].max(axis=1),
                    still[:, group].all(axis=1) & (missing[:, group].max(axis=1) < 1 - _MIN_SHARE),
                )
            )
        sensor, sensor_scored, sensor_missing, sensor_saturated, flat = (
            np.stack(column, axis=1) for column in zip(*per_sensor, strict=True)
        )
        return BlockScores(
            channel=channel,
            scored=scored,
            sensor=sensor,
            sensor_scored=sensor_scored,
            power=power,
            drop=drop,
            missing=sensor_missing,
            saturated=sensor_saturated,
            flat=flat,
            full=state.n_hops_seen >= self._n_hops,
        )


def _push(ring: NDArray[Any], row: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([ring[:, 1:], row[:, None]], axis=1)
