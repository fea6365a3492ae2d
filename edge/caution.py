"""Caution: from unusualness and the state of the sensors to one of three answers, with its reasons.

Per sensor ``s``, a block gives a likelihood ratio ``LR = exp(b0 + b1 u_s)`` (fitted on normal blocks against synthetic
anomalies; less what packet loss adds to ``u`` by itself, ``kinedge.edge.calibration``), and the state of the sensor a
reliability ``r`` in [0, 1], to the power of which the ratio is taken: what cannot be trusted says little either way.
Far below any ``u`` that it was fitted on a ratio says nothing: nobody is normal only because they are calmer. A
person who moves as usual mostly goes on so, and so does a change: the ratios of the last seconds are gathered by a
filter of two hidden states, which forgets with a time constant of 3 s,

    odds(now) = LR^r * odds(just before, drawn towards 1).

Whoever is new may move otherwise than all of the cohort, all the time, and would be called changed by every block. So
of people who are not enrolled, evidence counts *for a change* as far as it exceeds what they show anyway: where ``log
LR`` is positive it becomes ``max(log LR - max(own, 0), 0)``, with ``own`` the mean of ``log LR`` and one standard
deviation over the last minutes. *Against "normal"* all of it counts, so what is withheld leaves "unsure"; and there a
block that is unlike what the person showed before it counts as that, too: nobody is normal only because others move so.

With ``M`` the mean of the odds over the sensors ("a change at any one of them, whichever"), and ``M'`` the mean of the
odds for which only what counts was gathered, the beliefs are those that rest on likelihood alone (Shafer 1976, ch. 11):

    Bel(anomalous) = (1 - 1 / M')_+,    Bel(normal) = (1 - M)_+,    the rest for "cannot tell".

"Anomalous anywhere" is an OR: of two arms a normal one halves the odds of the other and never outvotes it, as it would
in Dempster's rule. Nothing is believed to be normal unless every sensor can be trusted: one that is silent, flat,
stuck, copied, off the body or out of time ends "normal" at once; lost packets and clipping, which come
and go, do so when the sensor could not be trusted for 15 s. With ``without_sensor = "others"`` the sensors that are
left may be called normal, from a higher belief on, and those that are not are named. What is not believed of the one is
plausible of the other: ``Pl(anomalous) = 1 - Bel(normal)``. An answer is given when its belief is high, and "anomalous"
only of a block that is rare among the cohort's, or, of people who are not enrolled, believed surely; otherwise it is
"unsure", with what stood in the way.

The reliability is a product of shares of trust, one for each thing that can be wrong: ``(1 - missing)^0.3``,
``1 - saturated``, ``1 - repeated`` and so on, 0 for a flat line or the copy of another sensor
(``kinedge.edge.reliability``). Each takes ``-log(share)`` nats of certainty, and by that reasons are ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import UNSCORED, Calibration, Unusualness
from kinedge.edge.caution_setting import CautionConfig
from kinedge.edge.reliability import CLIPPED_POWER, SensorHealth
from kinedge.edge.scores import BlockScores

__all__ = [
    "Belief",
    "BeliefState",
    "CautionConfig",
    "Decision",
    "believe",
    "known_of",
    "left_of",
    "lost_shares",
    "shown_anyway",
    "trust_shares",
    "weight_of",
]

F64 = NDArray[np.float64]

NO_DATA: Final = 0.9  # of a block missing: nothing was heard
HALF: Final = 0.5  # of a block missing: too little to say anything
# models are trained with missing samples, and know less then by themselves: little is left to discount
LOSS_POWER: Final = 0.3
LOG_LR_LIMIT: Final = 20.0
LEAST_U: Final = -3.0  # ratios are fitted without what lies below; a block twice as far below says nothing
OWN_S: Final = 120.0  # over which what somebody shows on the whole is told
LEARNED_S: Final = 10.0  # of a sensor, after which it is known what it shows anyway
UNLIKE_FROM: Final = 0.5  # spreads above one's own mean: from there a block counts against "normal", a nat a spread
UNLIKE_SPREAD: Final = 0.6  # nats: nobody is taken for steadier
UNLIKE_MOST: Final = 3.0  # nats
MEMORY_S: Final = 3.0  # after which evidence has faded to a third
_OVERLAP: Final = 2.0  # blocks that share half their samples count whole; those that share more, less
ODDS_LIMIT: Final = 13.8  # log odds of one in a million
TRUSTED: Final = 0.3  # reliability of a sensor that may stand behind "normal"
_PASSING: Final = ("missing", "saturated")  # what comes and goes with movement and radio, and is bridged ...
LATELY_S: Final = 15.0  # ... for so long after the sensor could be trusted
LONG_S: Final = 3600.0  # counted no further: a checkpoint takes finite numbers only
SWAPPED: Final = 0.2
TINY: Final = 1e-9  # what is divided by is not less
LITTLE: Final = 0.01  # nats that no longer speak for a change: odds within a hundredth of even
CLOCK_MS: Final = (60.0, 160.0)  # apart: as good as aligned; as bad as a fault (docs/caution.md)


class Decision(IntEnum):
    """The three answers."""

    NORMAL = 0
    ANOMALOUS = 1
    UNSURE = 2

    @property
    def word(self) -> Literal["normal", "anomalous", "unsure"]:
        """The answer as it is written everywhere."""
        return _WORDS[self]


_WORDS: Final[dict[Decision, Literal["normal", "anomalous", "unsure"]]] = {
    Decision.NORMAL: "normal",
    Decision.ANOMALOUS: "anomalous",
    Decision.UNSURE: "unsure",
}


@dataclass(frozen=True, eq=False)
class BeliefState:
    """What the last seconds said.

    Parameters
    ----------
    log_odds, beyond : (n_streams, n_sensors)
        Of a change at each sensor, where 0 says nothing; by all evidence, and by what goes beyond what the person shows
        anyway.
    doubted_s : (n_streams, n_sensors)
        For how long each sensor could not be trusted; 0 where it can be, an hour where it never could.
    lost : (n_streams, n_sensors)
        Largest share of a block that was missing of late, fading as evidence does.
    shown, shown_squares, shown_weight : (n_streams, n_sensors)
        What each sensor showed over the last minutes: fading sums of log ratios, of their squares, and of how far the
        sensor could be trusted, by which both are weighed.
    channel_shown, channel_shown_squares : (n_streams, n_channels)
        The same of each channel's ``u``, weighed as its sensor is.
    coordination_shown, coordination_shown_squares : (n_streams, n_sensors)
        The same of what coordination adds to each sensor's statistic.
    channel_share : (n_streams, n_channels)
    sensor_share : (n_streams, n_sensors)
        Where what speaks for a change started. ``believe`` leaves these six as they are, and
        :mod:`kinedge.edge.attribution` goes on in them.
    """

    log_odds: F64
    beyond: F64
    doubted_s: F64
    lost: F64
    shown: F64
    shown_squares: F64
    shown_weight: F64
    channel_shown: F64
    channel_shown_squares: F64
    coordination_shown: F64
    coordination_shown_squares: F64
    channel_share: F64
    sensor_share: F64

    @classmethod
    def initial(cls, n_streams: int, n_sensors: int, n_channels: int) -> BeliefState:
        """Return the state of streams that have seen nothing."""
        zero = np.zeros((n_streams, n_sensors))
        doubted_s, nowhere = np.full((n_streams, n_sensors), LONG_S), np.zeros((n_streams, n_channels))
        return cls(
            log_odds=zero,
            beyond=zero.copy(),
            doubted_s=doubted_s,
            lost=zero.copy(),
            shown=zero.copy(),
            shown_squares=zero.copy(),
            shown_weight=zero.copy(),
            channel_shown=nowhere,
            channel_shown_squares=nowhere.copy(),
            coordination_shown=zero.copy(),
            coordination_shown_squares=zero.copy(),
            channel_share=nowhere.copy(),
            sensor_share=zero.copy(),
        )


@dataclass(frozen=True, eq=False)
class Belief:
    """Belief masses and decisions of streams.

    Parameters
    ----------
    normal, anomalous : (n_streams,)
        Belief that the movement is as usual, or is not. The rest up to 1 is "cannot tell".
    reliability : (n_streams, n_sensors)
    decision : (n_streams,) int8
        Of ``Decision``.
    lean : (n_streams,)
        Log of the odds of a change at any one of the sensors, the mean of that by all evidence and by what goes beyond
        the person's own: which way the evidence leans and how far, also where both beliefs are 0. For ranking.
    decisive : (n_streams,)
        The larger belief, as a share of what an answer needs, of the block alone, if every sensor that was scored could
        be trusted.
    lost : (n_streams, n_sensors)
        Share of the data that was missing in this block or, fading, in one of the last seconds.
    others : (n_streams,)
        Belief that what the other sensors show is as usual, where one is out; 0 unless that is asked for. It is no part
        of ``normal``.
    without : (n_streams, n_sensors) bool
        Sensors that "normal" is said without; none of any other answer.
    withheld : (n_streams, n_sensors)
        Log ratio of the block that did not count, as this person shows so much anyway.
    unlike : (n_streams, n_sensors)
        Nats against "normal" on top of the block's log ratio, as it is unlike what this person showed of late.
    enrolled : (n_streams,) bool
        Judged against the person's own enrolment.
    fresh : (n_streams,)
        What this block brought for a change, at the sensor where it brought most, as a share of that and of the most
        that was left from before; 1 where both are next to nothing.
    brought : (n_streams,)
        That, in nats; 0 where both are next to nothing.
    """

    normal: F64
    anomalous: F64
    reliability: F64
    decision: NDArray[np.int8]
    lean: F64
    decisive: F64
    lost: F64
    others: F64
    without: NDArray[np.bool_]
    withheld: F64
    unlike: F64
    enrolled: NDArray[np.bool_]
    fresh: F64
    brought: F64

    @property
    def plausible_normal(self) -> F64:
        """``Pl(normal)``: what is not believed of anomalous."""
        return 1 - self.anomalous

    @property
    def plausible_anomalous(self) -> F64:
        """``Pl(anomalous)``: what is not believed of normal."""
        return 1 - self.normal


def trust_shares(scores: BlockScores, health: SensorHealth | None, clock_ms: F64 | None) -> dict[str, F64]:
    """Return what is left of the trust in each sensor (n_streams, n_sensors) after each thing that may be wrong."""
    saturated = scores.saturated if health is None else np.maximum(scores.saturated, health.clipped)
    shares = {
        "missing": left_of(scores.missing),
        "saturated": (1 - np.minimum(saturated, 1)) ** CLIPPED_POWER,
        "flat": 1.0 - scores.flat,
    }
    if health is not None:
        shares["stuck"] = 1 - health.repeated
        shares["held"] = 1.0 - (health.held < 0)
        shares["units"] = 1 - health.units  # before what it may be mistaken for
        shares["off_body"] = 1 - health.off_body
        shares["duplicate"] = 1.0 - health.copy
        # once surely exchanged they are exchanged back before the model sees them: some trust is left
        shares["swapped"] = np.where(health.swapped < 1, 1 - health.swapped, 1 - SWAPPED)
        shares["shifted"] = 1 - health.shifted
    if clock_ms is not None:
        harmless, hopeless = CLOCK_MS
        shares["clock"] = np.clip((hopeless - clock_ms) / (hopeless - harmless), 0, 1)
    return shares


def believe(
    scores: BlockScores,
    unusual: Unusualness,
    calibration: Calibration,
    config: CautionConfig,
    state: BeliefState,
    *,
    hop_s: float,
    block_s: float,
    health: SensorHealth | None = None,
    clock_ms: F64 | None = None,
) -> tuple[Belief, BeliefState]:
    """Weigh what a block says, after those before it, against how far its data can be trusted, for all streams at once.

    Parameters
    ----------
    scores, unusual
        Of the block.
    calibration
        Holds the likelihood ratios.
    config
        When an answer is given.
    state
        From the block before; not changed.
    hop_s, block_s
        From one block to the next, and of one: samples that two blocks share count once.
    health
        Of the sensors; None where nobody watched them.
    clock_ms : (n_streams, n_sensors)
        By how much each sensor's times may be apart from another's; None where that is known to be nothing.
    """
    heard = (unusual.sensor > UNSCORED) & scores.full[:, None]
    shares = trust_shares(scores, health, clock_ms)
    passing = shares["missing"] * shares["saturated"]
    lasting = (scores.missing < NO_DATA).astype(np.float64)
    for code, share in shares.items():
        if code not in _PASSING:
            lasting *= share
    reliability = heard * passing * lasting
    ratios = calibration.likelihood
    if calibration.coordination is not None:
        apart = calibration.apart(unusual.sensor, scores.intensity)[:, None, None]
        ratios = np.where(apart, calibration.coordination.weights.likelihood, ratios)
    b0, b1, b2, b3, b4, b5 = np.moveaxis(ratios, -1, 0)
    gone, others_gone = lost_shares(np.where(heard, scores.missing, 1.0))
    said = b0 + b1 * np.maximum(unusual.sensor, LEAST_U) + b2 * np.sqrt(gone) + b3 * np.sqrt(others_gone)
    said *= known_of(unusual.sensor)
    log_lr = np.clip(said / (1 + b4 * gone + b5 * others_gone), -LOG_LR_LIMIT, LOG_LR_LIMIT)
    weight = weight_of(hop_s, block_s)
    keep, keep_own = math.exp(-hop_s / MEMORY_S), math.exp(-hop_s / OWN_S)
    shown = keep_own * state.shown + reliability * log_lr
    shown_squares = keep_own * state.shown_squares + reliability * (log_lr * log_lr)
    shown_weight = keep_own * state.shown_weight + reliability
    enrolled = np.broadcast_to(calibration.of_one > 0, len(log_lr))
    own = np.where(enrolled[:, None], 0.0, shown_anyway(shown, shown_squares, shown_weight))
    counted = np.minimum(log_lr, np.maximum(log_lr - own, 0))
    against = np.where(enrolled[:, None], log_lr, _unlike_before(log_lr, state, keep_own, hop_s))
    log_odds = _faded(state.log_odds, keep) + weight * reliability * against
    log_odds = np.clip(log_odds, -ODDS_LIMIT, ODDS_LIMIT)
    left, brought = _faded(state.beyond, keep), weight * reliability * counted
    beyond = np.clip(left + brought, -ODDS_LIMIT, ODDS_LIMIT)
    old, new = np.maximum(left.max(axis=1), 0.0), np.maximum(brought.max(axis=1), 0.0)
    both, speaks = old + new, old + new > LITTLE
    lost = np.maximum(scores.missing, keep * state.lost)
    mean, more = np.exp(log_odds).mean(axis=1), np.exp(beyond).mean(axis=1)
    anomalous = np.maximum(1 - 1 / more, 0)
    doubted_s = np.where(reliability >= TRUSTED, 0.0, np.minimum(state.doubted_s + hop_s, LONG_S))
    trusted = (lasting >= TRUSTED) & (doubted_s <= LATELY_S)
    normal = np.where(trusted.all(axis=1), np.maximum(1 - mean, 0), 0.0)
    if health is not None:
        # with sides exchanged, a change is still a change, but nothing is surely normal
        normal *= (1 - health.swapped).min(axis=1)
    needed = np.where(enrolled, config.min_belief_anomalous, config.min_belief_newcomer)
    alpha = np.where(enrolled, config.alpha, config.alpha_newcomer)
    rare = (unusual.p_value <= alpha) | (~enrolled & (anomalous > config.sure_newcomer))
    is_anomalous = (anomalous > needed) & rare
    # never both: the odds of what counts are not above those of all evidence, so one of the beliefs is 0
    is_normal = normal > config.min_belief_normal
    decision = np.where(is_anomalous, Decision.ANOMALOUS, np.where(is_normal, Decision.NORMAL, Decision.UNSURE))
    others, without = np.zeros(len(mean)), np.zeros(trusted.shape, bool)
    if config.without_sensor == "others":
        out = lasting < TRUSTED
        others = _believe_others(log_odds, mean, out, reliability, health)
        by_others = (decision == Decision.UNSURE) & (others > config.min_belief_others)
        decision = np.where(by_others, Decision.NORMAL, decision)
        without = by_others[:, None] & out
    alone = np.where(heard, np.exp(log_lr), 0.0).sum(axis=1) / np.maximum(heard.sum(axis=1), 1)
    wholly = (1 - alone) / max(config.min_belief_normal, TINY)
    odd = (1 - 1 / np.maximum(alone, TINY)) / np.maximum(needed, TINY)
    belief = Belief(
        normal=normal,
        anomalous=anomalous,
        reliability=reliability,
        decision=decision.astype(np.int8),
        lean=(np.log(mean) + np.log(more)) * 0.5,
        decisive=np.maximum(wholly, odd),
        lost=lost,
        others=others,
        without=without,
        withheld=log_lr - counted,
        unlike=against - log_lr,
        enrolled=enrolled,
        fresh=np.where(speaks, new / np.where(speaks, both, 1.0), 1.0),
        brought=np.where(speaks, new, 0.0),
    )
    after = replace(
        state,
        log_odds=log_odds,
        beyond=beyond,
        doubted_s=doubted_s,
        lost=lost,
        shown=shown,
        shown_squares=shown_squares,
        shown_weight=shown_weight,
    )
    return belief, after


def known_of(u: F64) -> F64:
    """Return how far a likelihood ratio holds of these statistics: 1 where it was fitted, 0 far below.

    Whoever is calmer than anybody that ratios were fitted on is in a place that nobody has seen: a change may be what
    is calm.
    """
    known: F64 = np.clip(2 - u / LEAST_U, 0.0, 1.0)
    return known


def lost_shares(missing: F64) -> tuple[F64, F64]:
    """Return which share of its block each sensor lost, and the others in the mean (both n_streams, n_sensors)."""
    gone = np.minimum(missing, 1.0)
    # added up one by one, as C does
    total = np.cumsum(gone, axis=1)[:, -1:]
    return gone, np.maximum(total - gone, 0.0) / max(gone.shape[1] - 1, 1)


def shown_anyway(total: F64, squares: F64, weight: F64) -> F64:
    """Return what somebody shows anyway, from fading sums: their mean and one standard deviation, at least 0."""
    mean, spread = _mean_and_spread(total, squares, weight)
    level: F64 = np.maximum(mean + spread, 0)
    return level


def _mean_and_spread(total: F64, squares: F64, weight: F64) -> tuple[F64, F64]:
    at_least = np.maximum(weight, TINY)
    mean = total / at_least
    return mean, np.sqrt(np.maximum(squares / at_least - mean * mean, 0))


def _unlike_before(log_lr: F64, state: BeliefState, keep_own: float, hop_s: float) -> F64:
    """Return what a block says against "normal", where it is unlike what the person showed before it, too."""
    known = keep_own * state.shown_weight
    mean, spread = _mean_and_spread(keep_own * state.shown, keep_own * state.shown_squares, known)
    beyond = (log_lr - mean) / np.maximum(spread, UNLIKE_SPREAD) - UNLIKE_FROM
    unlike = (known >= LEARNED_S / hop_s) & (beyond > 0)
    against: F64 = np.where(unlike, np.maximum(log_lr, np.minimum(beyond, UNLIKE_MOST)), log_lr)
    return against


def weight_of(hop_s: float, block_s: float) -> float:
    """Return what the evidence of a block counts, when so much of it is new: samples that blocks share count once."""
    return min(1.0, _OVERLAP * hop_s / block_s)


def _believe_others(
    log_odds: F64, mean: F64, out: NDArray[np.bool_], reliability: F64, health: SensorHealth | None
) -> F64:
    """Return the belief (n_streams,) that the sensors that are not ``out`` are normal; 0 where none is, or all are.

    Of the others nothing is bridged: each must be trusted now. So nothing is left out for clipping or loss, which come
    with movement. What a sensor last said of a change before it was out is remembered as long as evidence is.
    """
    n = (~out).sum(axis=1)
    odds = np.where(out, 0.0, np.exp(log_odds)).sum(axis=1) / np.maximum(n, 1)
    surely = ((reliability >= TRUSTED) | out).all(axis=1) & (mean < 1)
    others = np.where(surely & out.any(axis=1) & (n > 0), np.maximum(1 - odds, 0.0), 0.0)
    if health is not None:
        others *= (1 - health.swapped).min(axis=1)
    return others


def _faded(log_odds: F64, keep: float) -> F64:
    """Return the odds once each of the two states may have given way to the other: drawn towards even."""
    drawn: F64 = 0.5 + keep * (1 / (1 + np.exp(-log_odds)) - 0.5)
    return np.log(drawn / (1 - drawn))


def left_of(missing: Any) -> Any:
    """Return what is left of the trust in a sensor of whose block this share is missing."""
    return (1 - np.minimum(missing, 1)) ** LOSS_POWER * (missing < HALF)
