"""Alarms with a promise: at most one false episode per so many hours, while the calibration is valid.

For each detector ``c`` of a person (``kinedge.edge.personal``), ``X = 1{u > g}`` tells that a block exceeds, and ``h``
how many of the four blocks before did. Normal movement exceeds with a chance of at most ``pi_h`` (the cohort's 90 %
quantile, audited at enrolment), so

    e = 1 + lambda_h (X / pi_h - 1),    R <- (R + 1) e,    alarm when  sum_c w_c R_c >= N,  then every R is 0

is a Shiryaev-Roberts e-detector: ``sum_c w_c R_c + N * #alarms - t`` is a supermartingale, and the expected number of
false alarms in ``T`` blocks is at most ``T / N``, for every ``T``. Blocks do not overlap. A block that was not heard,
or whose history was not, bets nothing (``e = 1``). Beside it, with half of the weight, runs a second ``R`` that bets on
how far a block exceeds, where the cohort's tails are known: ``X / pi_h`` is then the mean over the tail levels.

Days differ. Before all this, each detector's ``u`` is followed: where more than a tenth of blocks lie above the 95 %
quantile of the enrolment, a shift grows, by what went before alone, and is taken off; where fewer do, it sinks. It is
never below 0 and bounded, so that ``u`` can only be lowered, and a change of half a minute hardly moves it.

The condition is watched while running: the validity gate follows, with a half-life of ten minutes, how often each
detector lies above that quantile all the same. Above 0.3 somewhere, the calibration is not valid, and neither alarms
nor evidence count; and every session starts so, until ten minutes were heard. They begin once it is known how the
sensors sit today: one that was put on otherwise may look ordinary for long, and alarm as often as it likes.

Beside it stand debounce (so many exceedances in a row) and CUSUM, which promise nothing.

Sources: Shin, Ramdas, Rinaldo, "E-detectors", arXiv:2203.03532 (2022); Page, Biometrika 1954, 41:100 (CUSUM); the step
of the shift is that of online quantile estimation, Robbins, Monro, Ann. Math. Stat. 1951, 22:400. The condition on the
history is ours: blocks are dependent, and a detector that takes them for independent alarms 200 times too often.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kinedge.config import Config
from kinedge.edge.calibration import UNSCORED, EnrolledCohort
from kinedge.edge.history import N_BACK
from kinedge.errors import ConfigError, SignalError

__all__ = [
    "LEARNING_S",
    "MAX_UNLIKE",
    "AlarmConfig",
    "AlarmState",
    "AlarmStep",
    "Alarms",
    "put_streams",
    "take_streams",
]

F64 = NDArray[np.float64]

# chance to exceed, by history, of the changes that are worth finding: they set how much is bet, not what is promised
_CHANGED: Final = np.array([0.05, 0.5, 0.7, 0.85, 0.9])
_TAIL_BET: Final = np.array([0.1, 0.6, 0.8, 0.9, 0.9])
_MAX_CHANCE: Final = 0.95
_LEAST_CHANCE: Final = 5e-4  # of a tail: no cohort is large enough to show less
_TOLD_BY: Final = 1.0  # the level whose history the cohort's tails are told by
LEARNING_S: Final = 600.0
"""What a session begins with, and the half-life of the gate."""
MAX_UNLIKE: Final = 0.3
"""Share of recent blocks above the enrolment's 95 % quantile beyond which nothing is valid."""
_RISE_PER_MIN: Final = 0.15  # of a shift, in u, while every block lies above the 95 % quantile
_FASTER: Final = 4.0  # while a session begins, and nothing is valid
_USUAL_SHARE: Final = 0.1  # twice what is meant: an ordinary day is not followed
_LIMIT: Final = 1e12  # of R while no alarm may count: it must not run to infinity


class AlarmConfig(Config):
    """When an episode may be called one."""

    kind: Literal["e_detector", "debounce", "cusum"] = Field(
        default="e_detector", description="how evidence adds up; only e_detector keeps the promise"
    )
    hours_per_false_episode: float = Field(
        default=8.0,
        ge=0.25,
        le=24 * 90,
        description="at most one false episode in so many hours is expected of an enrolled person while calibration is "
        "valid and if ordinary movement behaves like the cohort's",
    )
    level: float = Field(default=1.0, gt=0, le=10, description="u that a block must exceed; 1 is the 99 % quantile")
    debounce: int = Field(default=3, ge=1, le=100, description="exceedances in a row; of kind debounce")
    follow: float = Field(
        default=1.0, ge=0, le=3, description="how far a slow shift of the day is followed, in u; 0: not at all"
    )
    cusum_slack: float = Field(default=1.0, ge=0, le=10, description="u that is forgiven in a block; of kind cusum")
    cusum_threshold: float = Field(default=4.0, gt=0, le=1000, description="sum that alarms; of kind cusum")


@dataclass(frozen=True, eq=False)
class AlarmState:
    """Of all streams.

    Parameters
    ----------
    evidence, tail_evidence : (n_streams, n_detectors)
        ``R``, the run of exceedances, or the CUSUM; and the ``R`` that bets on tails.
    shift : (n_streams, n_detectors)
        By how much today lies above the enrolment, as far as it was followed.
    exceeded, known : (n_streams, n_detectors, 4) bool
        The last blocks, the newest last.
    above : (n_streams, n_detectors)
        Share of recent blocks above the 95 % quantile of the enrolment.
    n_heard : (n_streams,) int64
        Blocks heard in this session.
    """

    evidence: F64
    tail_evidence: F64
    shift: F64
    exceeded: NDArray[np.bool_]
    known: NDArray[np.bool_]
    above: F64
    n_heard: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AlarmStep:
    """What one block of all streams says.

    Parameters
    ----------
    alarm : (n_streams,) bool
        A change is called now.
    valid : (n_streams,) bool
        The calibration is valid: the promise holds, and "normal" may be said.
    evidence : (n_streams,)
        How far along an alarm is: 1 alarms.
    learned : (n_streams,)
        How much of the first ten minutes has been heard: below 1 nothing is valid yet.
    unlike : (n_streams,)
        Largest share of recent blocks above the 95 % quantile of the enrolment; 0.05 is usual, above 0.3 is invalid.
    leading : (n_streams,) intp
        The detector with the most evidence.
    shift : (n_streams,)
        The largest shift that is taken off, in ``u``.
    """

    alarm: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    evidence: F64
    learned: F64
    unlike: F64
    leading: NDArray[np.intp]
    shift: F64


class Alarms:
    """Alarms of several enrolled people, all in one step.

    Parameters
    ----------
    cohort
        ``Calibration.enrolled``.
    n_detectors
        Of each person.
    block_s
        Seconds from one block to the next; they do not overlap.
    config
        The setting.
    worse : (n_streams, N_BACK + 1)
        At least 1: by how much each person exceeds more often than the cohort's limit, after each history; None:
        nobody does.

    Raises
    ------
    ConfigError
        The cohort was not counted at this level, so nothing could be promised.
    """

    def __init__(
        self,
        cohort: EnrolledCohort,
        *,
        n_detectors: int,
        block_s: float,
        config: AlarmConfig | None = None,
        worse: F64 | None = None,
    ) -> None:
        self.config = config or AlarmConfig()
        at = np.flatnonzero(np.isclose(cohort.levels, self.config.level))
        if not len(at):
            known = ", ".join(f"{g:g}" for g in cohort.levels)
            raise ConfigError(
                f"alarm.level: {self.config.level:g} was not counted in this model's cohort; take {known}"
            )
        self.block_s = block_s
        self._n_detectors = n_detectors
        more = np.ones((1, N_BACK + 1)) if worse is None else worse
        limit = np.minimum(cohort.limits[at[0]] * more, _MAX_CHANCE)
        bet = np.clip((_CHANGED - limit) / (1 - limit), 0.0, 0.95)
        self._factor = np.stack([1 - bet, 1 + bet * (1 / limit - 1)], axis=1)  # (n_streams, X, h)
        n_tails = len(cohort.tail_levels) if np.isclose(self.config.level, _TOLD_BY) else 0
        self._tail_levels = cohort.tail_levels[:n_tails]
        # what a bet on tails pays by the number of tail levels that a block lies above: (n_streams, n_tails + 1, h)
        tails = cohort.tails[:n_tails].reshape(n_tails, N_BACK + 1)
        chance = np.clip(tails * more[:, None], _LEAST_CHANCE, _MAX_CHANCE)
        paid = np.cumsum(1 / chance, axis=1) / max(n_tails, 1)
        paid = np.concatenate([np.zeros((len(more), 1, N_BACK + 1)), paid], axis=1)
        self._tail_factor = 1 + _TAIL_BET * (paid - 1)
        self.n_blocks = self.config.hours_per_false_episode * 3600 / block_s
        self._keep = 0.5 ** (block_s / LEARNING_S)
        self._n_learning = round(LEARNING_S / block_s)
        self._rise = _RISE_PER_MIN * block_s / 60

    def initial_state(self, n_streams: int) -> AlarmState:
        """Return the state of people whose session begins."""
        shape = (n_streams, self._n_detectors)
        return AlarmState(
            evidence=np.zeros(shape),
            tail_evidence=np.zeros(shape),
            shift=np.zeros(shape),
            exceeded=np.zeros((*shape, N_BACK), bool),
            known=np.zeros((*shape, N_BACK), bool),
            above=np.full(shape, 0.05),
            n_heard=np.zeros(n_streams, np.int64),
        )

    def step(
        self,
        u: F64,
        q95: F64,
        state: AlarmState,
        *,
        rows: NDArray[np.intp] | None = None,
        placed: NDArray[np.bool_] | None = None,
    ) -> tuple[AlarmStep, AlarmState]:
        """Take one block of some streams.

        Parameters
        ----------
        u, q95 : (n_streams, n_detectors)
            From ``Detectors.assess``, of blocks that do not overlap.
        state
            From the block before.
        rows
            Which of the people these are, for those who are ``worse``; all of them, in order, when None.
        placed : (n_streams,) bool
            Of whom it is known how the sensors sit today, against the enrolment; of all when None. Nothing is valid of
            others, and their ten minutes begin when it is known.

        Raises
        ------
        SignalError
            The shapes are not those of the state.
        """
        if u.shape != state.evidence.shape or q95.shape != u.shape:
            raise SignalError(f"alarms of {state.evidence.shape} got {u.shape} and {q95.shape}")
        if placed is not None and not placed.all():
            away = np.flatnonzero(~placed)
            state = put_streams(state, away, self.initial_state(len(away)))
            u = np.where(placed[:, None], u, UNSCORED)
        heard = u > UNSCORED
        learned = np.minimum(state.n_heard / self._n_learning, 1.0)
        u = np.where(heard, u - state.shift, u)
        above_q95 = u > q95
        shift = self._follow(above_q95, heard, learned, state.shift)
        exceeds = heard & (u > self.config.level)
        evidence, tail_evidence, total = self._gather(u, heard, exceeds, state, rows)
        anyone = heard.any(axis=1)
        n_heard = state.n_heard + anyone
        above = np.where(heard, self._keep * state.above + (1 - self._keep) * above_q95, state.above)
        learned = np.minimum(n_heard / self._n_learning, 1.0)
        unlike = above.max(axis=1)
        valid = (learned >= 1) & (unlike <= MAX_UNLIKE) & anyone
        crossed = total >= 1
        leading = (evidence + tail_evidence).argmax(axis=1)
        # evidence from before the gate opened must not alarm once it is open
        over = (crossed | ~valid)[:, None]
        after = AlarmState(
            evidence=np.where(over, 0.0, evidence),
            tail_evidence=np.where(over, 0.0, tail_evidence),
            shift=shift,
            exceeded=np.concatenate([state.exceeded[..., 1:], exceeds[..., None]], axis=2),
            known=np.concatenate([state.known[..., 1:], heard[..., None]], axis=2),
            above=above,
            n_heard=n_heard,
        )
        step = AlarmStep(
            crossed & valid, valid, np.minimum(total, 1.0), learned, unlike, leading, state.shift.max(axis=1)
        )
        return step, after

    def _follow(self, above_q95: NDArray[np.bool_], heard: NDArray[np.bool_], learned: F64, shift: F64) -> F64:
        rise = self._rise * np.where(learned < 1, _FASTER, 1.0)[:, None]
        followed: F64 = np.clip(shift + rise * (above_q95 - _USUAL_SHARE), 0.0, self.config.follow)
        return np.where(heard, followed, shift)

    def _gather(
        self,
        u: F64,
        heard: NDArray[np.bool_],
        exceeds: NDArray[np.bool_],
        state: AlarmState,
        rows: NDArray[np.intp] | None,
    ) -> tuple[F64, F64, F64]:
        """Return the evidence of each detector, that of its tails, and of all as a share of what alarms."""
        c = self.config
        if c.kind == "debounce":
            run = np.where(heard, np.where(exceeds, state.evidence + 1, 0.0), state.evidence)
            return run, state.tail_evidence, run.max(axis=1) / c.debounce
        if c.kind == "cusum":
            sums = np.where(heard, np.maximum(0.0, state.evidence + u - c.cusum_slack), state.evidence)
            return np.minimum(sums, _LIMIT), state.tail_evidence, sums.max(axis=1) / c.cusum_threshold
        h = state.exceeded.sum(axis=2)
        who = np.zeros((len(u), 1), np.intp)
        if len(self._factor) > 1:
            who = (np.arange(len(u)) if rows is None else rows)[:, None]
        bets = heard & state.known.all(axis=2)
        factor = self._factor[who, exceeds.astype(np.intp), h]
        grown = np.minimum((state.evidence + 1) * np.where(bets, factor, 1.0), _LIMIT)
        if not len(self._tail_levels):
            return grown, state.tail_evidence, grown.mean(axis=1) / self.n_blocks
        factor = self._tail_factor[who, np.searchsorted(self._tail_levels, u, side="left"), h]
        tails = np.minimum((state.tail_evidence + 1) * np.where(bets, factor, 1.0), _LIMIT)
        return grown, tails, (grown + tails).mean(axis=1) / 2 / self.n_blocks


def put_streams(state: AlarmState, rows: NDArray[np.intp], part: AlarmState) -> AlarmState:
    """Return the state with some streams replaced."""
    merged = {}
    for f in fields(state):
        merged[f.name] = getattr(state, f.name).copy()
        merged[f.name][rows] = getattr(part, f.name)
    return replace(state, **merged)


def take_streams(state: AlarmState, rows: NDArray[np.intp]) -> AlarmState:
    """Return the state of some streams."""
    return replace(state, **{f.name: getattr(state, f.name)[rows] for f in fields(state)})
