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
starts: the shares are gathered as the evidence is (``gather``), each block counting for what it brought. Of people who
are not enrolled, evidence counts as far as it exceeds what they show anyway, and so does each channel (``go_on``); and
where a sensor moves otherwise beside the others than it should, it is named as a whole, by the part which that has in
its statistic. What
a channel shows anyway is learned as it comes for ten seconds, and slowly then: a change that lasts must go on being
named, though belief may have taken it for the person's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration, Unusualness
from kinedge.edge.caution import LEARNED_S, OWN_S, Belief, BeliefState, shown_anyway
from kinedge.edge.scores import BlockScores

__all__ = ["attribute", "by_sensor", "energies", "fewest", "gather", "go_on", "smallest_set"]

F64 = NDArray[np.float64]

AT_MOST: Final = 0.1  # u: once it is known what a channel shows anyway, a block counts for no more above that
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
    scores: BlockScores,
    unusual: Unusualness,
    calibration: Calibration,
    groups: Sequence[slice],
    *,
    anyway: F64 | None = None,
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
    anyway : (n_streams, n_channels)
        How much ``u`` each channel shows anyway, which counts for nothing; None for 0. Where no channel exceeds it,
        it does not matter.

    Returns
    -------
    channel_share : (n_streams, n_channels)
        Sums to 1, or all 0 where nothing was scored.
    sensor_share : (n_streams, n_sensors)
    """
    method = "excess" if calibration.additive[0] else "drop"
    energy = energies(scores, unusual)[method]
    if anyway is not None:
        # of what a channel shows, the part beyond: once of nats and once of u, or of the drop
        u = unusual.channel
        part = np.where(anyway > 0, np.maximum(u - anyway, 0.0) / np.where(u > anyway, u, 1.0), 1.0)
        beyond = energy * part * part if method == "excess" else energy * part
        energy = np.where((beyond > 0).any(axis=1, keepdims=True), beyond, energy)
    return _shares(energy), _shares(by_sensor(method, energy, groups))


def go_on(
    scores: BlockScores,
    unusual: Unusualness,
    belief: Belief,
    calibration: Calibration,
    groups: Sequence[slice],
    state: BeliefState,
    *,
    hop_s: float,
) -> BeliefState:
    """Return the state with what each channel shows anyway, and where what speaks for a change started, after a block.

    Parameters
    ----------
    scores, unusual, belief, calibration, groups
        Of the block.
    state
        As ``believe`` left it.
    hop_s
        From the block before to this one.
    """
    widths = [g.stop - g.start for g in groups]
    trusted, weight = (np.repeat(x, widths, axis=1) for x in (belief.reliability, state.shown_weight))
    u = np.where(scores.scored, unusual.channel, 0.0)
    before = state.channel_shown, state.channel_shown_squares
    shown, squares = _learned(u, *before, trusted=trusted, weight=weight, hop_s=hop_s)
    counts = (belief.brought > 0) & ~belief.enrolled
    anyway = np.where(counts[:, None], shown_anyway(shown, squares, weight), 0.0)
    channel, sensor = attribute(scores, unusual, calibration, groups, anyway=anyway)
    if calibration.coordination is not None:
        beyond = np.where(scores.scored, np.maximum(unusual.channel - anyway, 0.0), 0.0)
        alone = np.maximum.reduceat(beyond, [g.start for g in groups], axis=1)
        strongest = alone.max(axis=1)
        state, left = _coordinated(unusual, belief, groups, state, counts, hop_s=hop_s)
        # a sensor that surprises more by itself misleads the lines of the others
        misled = (alone < strongest[:, None]) & (left < strongest[:, None])
        channel, sensor = _with_coordination(channel, sensor, np.where(misled, 0.0, left), strongest, widths)
    return replace(
        state,
        channel_shown=shown,
        channel_shown_squares=squares,
        channel_share=gather(state.channel_share, channel, belief.fresh),
        sensor_share=gather(state.sensor_share, sensor, belief.fresh),
    )


def _learned(value: F64, shown: F64, squares: F64, *, trusted: F64, weight: F64, hop_s: float) -> tuple[F64, F64]:
    """Return the fading sums of what is shown and of its squares, ``weight`` being that of both after the block."""
    keep, known = math.exp(-hop_s / OWN_S), weight - trusted
    shown, squares = keep * shown, keep * squares
    most = shown_anyway(shown, squares, known) + AT_MOST
    value = np.where(known >= LEARNED_S / hop_s, np.minimum(value, most), value)
    return shown + trusted * value, squares + trusted * (value * value)


def _coordinated(
    unusual: Unusualness,
    belief: Belief,
    groups: Sequence[slice],
    state: BeliefState,
    counts: NDArray[np.bool_],
    *,
    hop_s: float,
) -> tuple[BeliefState, F64]:
    """Go on in what coordination adds to each sensor anyway; return what it adds beyond that where something counts."""
    more = unusual.sensor - np.maximum.reduceat(unusual.channel, [g.start for g in groups], axis=1)
    more = np.maximum(more, 0.0)
    before, weight = (state.coordination_shown, state.coordination_shown_squares), state.shown_weight
    shown, squares = _learned(more, *before, trusted=belief.reliability, weight=weight, hop_s=hop_s)
    anyway = np.where(counts[:, None], shown_anyway(shown, squares, weight), 0.0)
    after = replace(state, coordination_shown=shown, coordination_shown_squares=squares)
    return after, np.maximum(more - anyway, 0.0)


def _with_coordination(channel: F64, sensor: F64, left: F64, strongest: F64, widths: Sequence[int]) -> tuple[F64, F64]:
    """Give what coordination adds its part of the shares: of a sensor as a whole, all its channels alike."""
    far = left.max(axis=1)
    total = far + strongest
    part = np.where(total > 0, far / np.where(total > 0, total, 1.0), 0.0)[:, None]
    by = _shares(left * left)
    of_channels = np.repeat(by / np.array(widths), widths, axis=1)
    return (1 - part) * channel + part * of_channels, (1 - part) * sensor + part * by


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
