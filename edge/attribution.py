"""Where the surprise starts: the share of each channel and sensor, in closed form.

``drop``: with ``P`` the precision of the residuals on normal movement and ``y = P z``, ``y_c^2 / P_cc`` is exactly
how far ``z' P z`` falls when channel ``c`` is replaced by what the others make expected: a counterfactual in
closed form. ``excess``: the nats above what is usual at this intensity, times how unusual that many are of this
channel, so that one channel far out is not outvoted by many that are a little off because their forecast saw it, times
the root of the drop, which sees single samples that a mean of nats does not; a sensor counts by the squares of its
channels. Which of the two is used was chosen on validation data and is stored with the calibration. Neither is a cause;
it is where the surprise starts.

``drop`` alone is blind where the forecaster grows unsure of the very sensor that is odd: its residuals shrink, and
those of other sensors, whose forecast it misleads, do not. The likelihood counts the growing uncertainty as well.

Belief rests on the evidence of the last seconds, not on the last block alone, and so does what is said of where it
starts: the shares are gathered as the evidence is (``gather``), each block counting for what it brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration, Unusualness
from kinedge.edge.scores import BlockScores

__all__ = ["attribute", "by_sensor", "energies", "fewest", "gather", "smallest_set"]

F64 = NDArray[np.float64]

_ACCOUNTS_FOR: Final = 0.8


def energies(scores: BlockScores, unusual: Unusualness) -> dict[str, F64]:
    """Return what each method gives each channel (n_streams, n_channels), by its name."""
    far = np.maximum(unusual.excess, 0.0) * np.maximum(unusual.channel, 0.0)
    return {"drop": scores.drop, "excess": far * np.sqrt(scores.drop)}


def by_sensor(method: str, energy: F64, groups: Sequence[slice]) -> F64:
    """Return what a method gives each sensor (n_streams, n_sensors), from what it gives each channel."""
    power = 2 if method == "excess" else 1
    return np.stack([(energy[:, group] ** power).sum(axis=1) for group in groups], axis=1)


def attribute(
    scores: BlockScores, unusual: Unusualness, calibration: Calibration, groups: Sequence[slice]
) -> tuple[F64, F64]:
    """Split the surprise of each stream's block.

    Parameters
    ----------
    scores, unusual
        Of the block.
    calibration
        Chooses the method.
    groups
        Columns of each sensor.

    Returns
    -------
    channel_share : (n_streams, n_channels)
        Sums to 1, or all 0 where nothing was scored.
    sensor_share : (n_streams, n_sensors)
    """
    method = "excess" if calibration.additive[0] else "drop"
    energy = energies(scores, unusual)[method]
    return _shares(energy), _shares(by_sensor(method, energy, groups))


def gather(before: F64, block: F64, fresh: F64) -> F64:
    """Return the shares (n_streams, n) of what speaks for a change, after the block.

    Parameters
    ----------
    before, block : (n_streams, n)
        Shares of what was gathered until then, and of the block.
    fresh : (n_streams,)
        Of the evidence for a change, the share that the block brought (``Belief.fresh``): 1 forgets what was before.
    """
    gathered: F64 = (1 - fresh)[:, None] * before + fresh[:, None] * block
    return gathered


def _shares(energy: F64) -> F64:
    total = energy.sum(axis=1, keepdims=True)
    shares: F64 = np.where(total > 0, energy / np.where(total > 0, total, 1.0), 0.0)
    return shares


def fewest(shares: F64, *, share: float = _ACCOUNTS_FOR) -> tuple[int, ...]:
    """Return the few channels whose shares (n_channels,) add up to this much, the heaviest first."""
    order = np.argsort(-shares, kind="stable")
    enough = int(np.searchsorted(np.cumsum(shares[order]), share * shares.sum() - 1e-12)) + 1
    return tuple(int(c) for c in order[:enough] if shares[c] > 0)


def smallest_set(z: F64, ok: NDArray[np.bool_], precision: F64, *, share: float = _ACCOUNTS_FOR) -> tuple[int, ...]:
    """Return the few channels that account for most of a stream's surprise, the heaviest first.

    For a set ``G`` the fall of ``z' P z`` when all of it is replaced by what the others make expected is
    ``y_G' (P_GG)^-1 y_G``; channels are added greedily until that is ``share`` of the whole.

    Parameters
    ----------
    z : (n, n_channels)
        Residuals of one stream.
    ok : (n, n_channels) bool
        Where they mean something.
    precision : (n_channels, n_channels)
        Of the residuals on normal movement.
    """
    z = np.where(ok, z, 0.0).astype(np.float64)
    y = np.where(ok, z @ precision, 0.0)
    moments, left = y.T @ y, precision.astype(np.float64)
    total = float((y * z).sum())
    can = np.diagonal(moments) > 0
    chosen: list[int] = []
    found = 0.0
    while can.any() and total > 0 and found < share * total:
        falls = np.where(can, np.diagonal(moments) / np.diagonal(left), -1.0)
        best = int(falls.argmax())
        chosen.append(best)
        found += float(falls[best])
        can[best] = False
        # what the others still explain once this one is replaced (a Schur complement), so that nothing is solved anew
        weight = left[best] / left[best, best]
        cross = np.outer(weight, moments[best])
        moments = moments - cross - cross.T + np.outer(weight, weight) * moments[best, best]
        left = left - np.outer(weight, left[best])
        left[~can, ~can] = 1.0
    return tuple(chosen)
