"""Likelihood ratios of a sensor's statistic, and what packet loss does to that statistic by itself.

A forecaster that is told too little is wrong by itself: the same ordinary seconds look more unusual when samples of
them are missing, the more so the fewer people it was trained on. What that adds to ``u``, in the mean and in scatter,
is measured on the blocks a model is calibrated on, with and without loss. The mean is taken off; and with the scatter
beside that of ordinary blocks, a block says ``1 / (1 + scatter² / spread²)`` of what it would (the ratio of two normal
distributions a fixed way apart).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import UNSCORED, Calibration
from kinedge.edge.caution import LEAST_U, lost_shares
from kinedge.edge.offline import score_recording
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording

__all__ = ["FEWEST", "LossRows", "fit_likelihood_ratio", "fit_slopes", "limited", "loss_rows", "loss_terms"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
LossRows = F64
"""(n, n_sensors, 6): the shares that are missing, own and of others; what they added to the statistic, by the cohort's
yardstick and by the person's own; and the same of ``u`` alone. NaN where there is none, as of the statistic of a block
that is judged by ``u`` alone."""

FEWEST: Final = 5  # blocks of either kind
_RATES: Final = (0.05, 0.15, 0.3)  # of packets
_BURST_S: Final = 0.2  # mean of a lost run
_MIN_SPREAD: Final = 0.05
_LIMITS: Final = (LEAST_U, 4.0)


def limited(u: F64) -> F64:
    """Return ``u`` without its tails, which must not bend a line where decisions are made."""
    return np.clip(u, *_LIMITS)


def fit_likelihood_ratio(normal_u: F64, anomalous_u: F64) -> tuple[float, float]:
    """Fit ``log LR = b0 + b1 u`` by logistic regression with balanced classes (Newton, ridge on the slope).

    Parameters
    ----------
    normal_u, anomalous_u : (n,)
        A sensor's statistic on normal blocks and on blocks with a synthetic anomaly at that sensor.

    Returns
    -------
    b0, b1
        ``b1`` is at least 0: more unusual never speaks for normal.

    Raises
    ------
    SignalError
        One of the two has fewer than 5 blocks.
    """
    if min(len(normal_u), len(anomalous_u)) < FEWEST:
        raise SignalError(f"a likelihood ratio needs at least {FEWEST} normal and {FEWEST} anomalous blocks")
    b0, b1 = fit_slopes(limited(normal_u)[:, None], limited(anomalous_u)[:, None])
    return float(b0), float(max(b1, 0.0))


def fit_slopes(normal: F64, anomalous: F64) -> F64:
    """Return offset and slopes of a logistic regression with balanced classes (Newton, ridge on the slopes).

    Parameters
    ----------
    normal, anomalous : (n, n_features)
        At least one block of each.
    """
    x = np.concatenate([normal, anomalous])
    y = np.concatenate([np.zeros(len(normal)), np.ones(len(anomalous))])
    w = np.where(y > 0, 0.5 / len(anomalous), 0.5 / len(normal))
    design = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    beta = np.zeros(design.shape[1])
    ridge = np.diag([0.0, *[1e-3] * x.shape[1]])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (w * (p - y)) + ridge @ beta
        hessian = (design * (w * p * (1 - p))[:, None]).T @ design + ridge + 1e-9 * np.eye(len(beta))
        step = np.linalg.solve(hessian, gradient)
        beta -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return beta


def loss_rows(judge: Scorer, own: Calibration | None, piece: Recording, *, rng: np.random.Generator) -> LossRows:
    """Score an ordinary piece as it is and with loss of several kinds, and return what each loss added, block by block.

    Parameters
    ----------
    judge
        The model, with the cohort's calibration. It may know the piece, which is held against itself.
    own
        The calibration to the person, where there is one.
    piece
        On the model's grid.
    rng
        Draws what is lost.
    """
    usual = list(_statistics(judge, own, piece))
    rows = []
    for valid in _losses(piece, rng):
        for (before, _), (after, missing) in zip(
            usual, _statistics(judge, own, replace(piece, valid=valid)), strict=True
        ):
            heard = (before > UNSCORED) & (after > UNSCORED)
            shares = lost_shares(np.where(after[2:3] > UNSCORED, missing, 1.0))
            added = np.where(heard, limited(after) - limited(before), np.nan)
            rows.append(np.stack([*(s[0] for s in shares), *added], axis=1))
    return np.reshape(rows, (-1, len(judge.sensors), 6))


def loss_terms(rows: LossRows, slopes: F64, spread: F64, *, own: bool, alone: bool = False) -> F64:
    """Return ``b2`` to ``b5`` (n_sensors, 4) of likelihood ratios.

    Parameters
    ----------
    rows
        Of all pieces.
    slopes, spread : (n_sensors,)
        ``b1`` of each sensor, and the standard deviation of the statistic on ordinary blocks.
    own, alone
        Whether by the person's own yardstick, and by ``u`` alone.
    """
    column = 2 + own + 2 * alone
    terms = np.zeros((len(slopes), 4))
    for i, slope in enumerate(slopes):
        known = rows[np.isfinite(rows[:, i, column]), i]
        if len(known):
            shares, added = known[:, :2], known[:, column]
            mean = _least_squares(np.sqrt(shares), added)
            scatter = _least_squares(shares, (added - np.sqrt(shares) @ mean) ** 2)
            terms[i] = [*(-slope * mean), *(scatter / max(float(spread[i]), _MIN_SPREAD) ** 2)]
    return terms


def _least_squares(x: F64, y: F64) -> F64:
    """Return the two weights that are not negative and fit best."""
    both = np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], np.float64)
    if (both >= 0).all():
        return both
    # the best lies on an edge
    alone = np.maximum((x * y[:, None]).sum(axis=0) / np.maximum((x * x).sum(axis=0), 1e-12), 0)
    edges = np.diag(alone)
    wrong = ((y[:, None] - x @ edges.T) ** 2).sum(axis=0)
    return np.asarray(edges[wrong.argmin()], np.float64)


def _statistics(judge: Scorer, own: Calibration | None, piece: Recording) -> Iterator[tuple[F64, F64]]:
    """Yield what is told of each block (4, n_sensors) and what is missing of it (1, n_sensors).

    Told are the statistic by either yardstick, where it goes by more than ``u`` or never does, and ``u`` by either.
    """
    unknown = np.full((4, len(judge.sensors)), UNSCORED)
    starts = [g.start for g in judge.groups]
    for _, scores, _ in score_recording(judge, piece):
        found = unknown.copy()
        for row, calibration in enumerate((judge.calibration, own) if scores.full[0] else ()):
            if calibration is None:
                continue
            unusual, together = calibration.assess(scores, judge.groups), calibration.coordination
            found[2 + row] = np.maximum.reduceat(unusual.channel[0], starts)
            if together is None or not together.adds or not calibration.apart(unusual.sensor, scores.intensity)[0]:
                found[row] = unusual.sensor[0]
        yield found, scores.missing


def _losses(piece: Recording, rng: np.random.Generator) -> Iterator[Mask]:
    """Yield masks with lost packets at all sensors, and with each sensor silent in turn."""
    columns = [piece.columns(s.name) for s in piece.sensors]
    mean = max(_BURST_S * piece.rate_hz, 1.0)
    for rate in _RATES:
        valid = piece.valid.copy()
        for c in columns:
            n = len(piece) // 2 + 1
            runs = np.stack([rng.geometric(1 / (mean * (1 - rate) / rate), n), rng.geometric(1 / mean, n)], axis=1)
            arrived = np.repeat(np.tile([True, False], n), runs.ravel())[: len(piece)]
            valid[np.ix_(~arrived, np.arange(valid.shape[1])[c])] = False
        yield valid
    for c in columns if len(columns) > 1 else ():
        valid = piece.valid.copy()
        valid[:, c] = False
        yield valid
