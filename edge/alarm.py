"""Alarms with a promise: at most one false episode per so many hours, while the calibration is valid.

For each detector ``c`` of a person (``kinedge.edge.personal``), ``X = 1{u > g}`` tells that a block exceeds, and ``h``
how many of the four blocks before did. Normal movement exceeds with a chance of at most ``pi_h`` (the cohort's 90 %
quantile, audited at enrolment), so

    e = 1 + lambda_h (X / pi_h - 1),    R <- (R + 1) e,    alarm when  sum_c w_c R_c >= N,  then every R is 0

is a Shiryaev-Roberts e-detector: ``sum_c w_c R_c + N * #alarms - t`` is a supermartingale, and the expected number of
false alarms in ``T`` blocks is at most ``T / N``, for every ``T``. Blocks do not overlap. A block that was not heard,
or whose history was not, bets nothing (``e = 1``).

The condition is watched while running: the validity gate follows, with a half-life of ten minutes, how often each
detector lies above the 95 % quantile of the enrolment. Above 0.3 somewhere, the calibration is not valid, and neither
alarms nor evidence count; and every session starts so, until ten minutes were heard.

Beside it stand debounce (so many exceedances in a row) and CUSUM, which promise nothing.

Sources: Shin, Ramdas, Rinaldo, "E-detectors", arXiv:2203.03532 (2022); Page, Biometrika 1954, 41:100 (CUSUM). The
condition on the history is ours: blocks are dependent, and a detector that takes them for independent alarms 200 times
too often.
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

__all__ = ["AlarmConfig", "AlarmState", "AlarmStep", "Alarms", "Watched", "promise", "put_streams", "take_streams"]

F64 = NDArray[np.float64]

# chance to exceed, by history, of the changes that are worth finding: they set how much is bet, not what is promised
_CHANGED: Final = np.array([0.05, 0.5, 0.7, 0.85, 0.9])
_HALF_LIFE_S: Final = 600.0
_INVALID: Final = 0.3
_LIMIT: Final = 1e12  # of R while no alarm may count: it must not run to infinity


class AlarmConfig(Config):
    """When an episode may be called one."""

    kind: Literal["e_detector", "debounce", "cusum"] = Field(
        default="e_detector", description="how evidence adds up; only e_detector keeps the promise"
    )
    hours_per_false_episode: float = Field(
        default=8.0, ge=0.25, le=24 * 90, description="at most one false episode in so many hours is expected"
    )
    level: float = Field(default=1.0, gt=0, le=10, description="u that a block must exceed; 1 is the 99 % quantile")
    debounce: int = Field(default=3, ge=1, le=100, description="exceedances in a row; of kind debounce")
    cusum_slack: float = Field(default=1.0, ge=0, le=10, description="u that is forgiven in a block; of kind cusum")
    cusum_threshold: float = Field(default=4.0, gt=0, le=1000, description="sum that alarms; of kind cusum")


@dataclass(frozen=True, eq=False)
class AlarmState:
    """Of all streams.

    Parameters
    ----------
    evidence : (n_streams, n_detectors)
        ``R``, the run of exceedances, or the CUSUM.
    exceeded, known : (n_streams, n_detectors, 4) bool
        The last blocks, the newest last.
    above : (n_streams, n_detectors)
        Share of recent blocks above the 95 % quantile of the enrolment.
    n_heard : (n_streams,) int64
        Blocks heard in this session.
    """

    evidence: F64
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
    """

    alarm: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    evidence: F64
    learned: F64
    unlike: F64
    leading: NDArray[np.intp]


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

    Raises
    ------
    ConfigError
        The cohort was not counted at this level, so nothing could be promised.
    """

    def __init__(
        self, cohort: EnrolledCohort, *, n_detectors: int, block_s: float, config: AlarmConfig | None = None
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
        self._limit = cohort.limits[at[0]]
        bet = np.clip((_CHANGED - self._limit) / (1 - self._limit), 0.0, 0.95)
        self._factor = np.stack([1 - bet, 1 + bet * (1 / self._limit - 1)])  # of X = 0 and 1, by h
        self.n_blocks = self.config.hours_per_false_episode * 3600 / block_s
        self._keep = 0.5 ** (block_s / _HALF_LIFE_S)
        self._n_learning = round(_HALF_LIFE_S / block_s)

    def initial_state(self, n_streams: int) -> AlarmState:
        """Return the state of people whose session begins."""
        shape = (n_streams, self._n_detectors)
        return AlarmState(
            evidence=np.zeros(shape),
            exceeded=np.zeros((*shape, N_BACK), bool),
            known=np.zeros((*shape, N_BACK), bool),
            above=np.full(shape, 0.05),
            n_heard=np.zeros(n_streams, np.int64),
        )

    def step(self, u: F64, above_q95: NDArray[np.bool_], state: AlarmState) -> tuple[AlarmStep, AlarmState]:
        """Take one block of all streams.

        Parameters
        ----------
        u, above_q95 : (n_streams, n_detectors)
            From ``Detectors.assess``, of blocks that do not overlap.
        state
            From the block before.

        Raises
        ------
        SignalError
            The shapes are not those of the state.
        """
        if u.shape != state.evidence.shape or above_q95.shape != u.shape:
            raise SignalError(f"alarms of {state.evidence.shape} got {u.shape} and {above_q95.shape}")
        heard = u > UNSCORED
        exceeds = heard & (u > self.config.level)
        evidence, total = self._gather(u, heard, exceeds, state)
        anyone = heard.any(axis=1)
        n_heard = state.n_heard + anyone
        above = np.where(heard, self._keep * state.above + (1 - self._keep) * above_q95, state.above)
        learned = np.minimum(n_heard / self._n_learning, 1.0)
        unlike = above.max(axis=1)
        valid = (learned >= 1) & (unlike <= _INVALID) & anyone
        crossed = total >= 1
        leading = evidence.argmax(axis=1)
        after = AlarmState(
            # evidence from before the gate opened must not alarm once it is open
            evidence=np.where((crossed | ~valid)[:, None], 0.0, evidence),
            exceeded=np.concatenate([state.exceeded[..., 1:], exceeds[..., None]], axis=2),
            known=np.concatenate([state.known[..., 1:], heard[..., None]], axis=2),
            above=above,
            n_heard=n_heard,
        )
        return AlarmStep(crossed & valid, valid, np.minimum(total, 1.0), learned, unlike, leading), after

    def _gather(
        self, u: F64, heard: NDArray[np.bool_], exceeds: NDArray[np.bool_], state: AlarmState
    ) -> tuple[F64, F64]:
        """Return the evidence of each detector, and of all as a share of what alarms."""
        c = self.config
        if c.kind == "debounce":
            run = np.where(heard, np.where(exceeds, state.evidence + 1, 0.0), state.evidence)
            return run, run.max(axis=1) / c.debounce
        if c.kind == "cusum":
            sums = np.where(heard, np.maximum(0.0, state.evidence + u - c.cusum_slack), state.evidence)
            return np.minimum(sums, _LIMIT), sums.max(axis=1) / c.cusum_threshold
        h = state.exceeded.sum(axis=2)
        factor = self._factor[exceeds.astype(np.intp), h]
        bets = heard & state.known.all(axis=2)
        grown = np.minimum((state.evidence + 1) * np.where(bets, factor, 1.0), _LIMIT)
        return grown, grown.mean(axis=1) / self.n_blocks


@dataclass(frozen=True)
class Watched:
    """How one person's alarm stands.

    Parameters
    ----------
    alarm
        A change is called with this verdict.
    valid
        The promise holds now.
    evidence
        1 alarms.
    learned
        Share of the first ten minutes that has been heard.
    unlike
        Largest share of recent blocks above the enrolment's 95 % quantile; above 0.3 nothing is valid.
    leading
        The detector with the most evidence.
    promise
        What the setting promises, in words.
    """

    alarm: bool
    valid: bool
    evidence: float
    learned: float
    unlike: float
    leading: str
    promise: str

    @property
    def why_invalid(self) -> str:
        """Why nothing is promised now; empty while it is."""
        if self.valid:
            return ""
        if self.learned < 1:
            return f"calibration not valid yet: {10 * self.learned:.0f} of the first 10 minutes heard"
        return "calibration not valid: recent movement is unlike that of the enrolment"


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


def promise(
    config: AlarmConfig, *, audit: Literal["holds", "doubtful", "does not hold"] | None, n_subjects: int
) -> str:
    """Say what the setting promises, and under which condition; shown wherever the setting is.

    Parameters
    ----------
    config
        The setting.
    audit
        What the enrolment found about the condition; None without an enrolment.
    n_subjects
        How many people the condition was counted on.
    """
    if config.kind != "e_detector":
        return f"{config.kind} promises nothing about false episodes; it stands here for comparison"
    if audit is None:
        return "nothing is promised about false episodes before an enrolment"
    hours = config.hours_per_false_episode
    often = f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"
    condition = {
        "holds": "at enrolment it did",
        "doubtful": "at enrolment that was doubtful",
        "does not hold": "at enrolment it did not: do not rely on this",
    }[audit]
    return (
        f"while calibration is valid, at most one false episode per {often} is expected, if ordinary movement "
        f"behaves like that of the {n_subjects} people the model was calibrated on; {condition}"
    )
