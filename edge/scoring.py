"""One step of scoring: hops of all streams in, verdicts out. Pure: ``step(input, state) -> (output, state)``.

The same code scores a live stream, a replay, a benchmark and a calibration set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Bundle
from kinedge.edge.backends import Backend, load_backend
from kinedge.edge.calibration import Calibration
from kinedge.edge.caution import BeliefState, CautionConfig
from kinedge.edge.engine import Engine, EngineState, Surprise
from kinedge.edge.reliability import HealthState, ReliabilityMonitor
from kinedge.edge.scores import BlockScorer, BlockScores, ScorerState
from kinedge.edge.verdict import VerdictBatch, judge
from kinedge.units import period_ns

__all__ = ["Scorer", "ScoringState", "put_rows", "take_rows"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
StateT = TypeVar("StateT", EngineState, ScorerState, HealthState, BeliefState)


@dataclass(frozen=True, eq=False)
class ScoringState:
    """State of all streams: the forecaster's, the blocks', that of the sensors' health, and what was believed."""

    engine: EngineState
    blocks: ScorerState
    health: HealthState
    belief: BeliefState

    def take(self, rows: NDArray[np.intp]) -> ScoringState:
        """Return the state of some streams."""
        return ScoringState(
            take_rows(self.engine, rows),
            take_rows(self.blocks, rows),
            take_rows(self.health, rows),
            take_rows(self.belief, rows),
        )

    def put(self, rows: NDArray[np.intp], part: ScoringState) -> ScoringState:
        """Return the state with some streams replaced."""
        return ScoringState(
            put_rows(self.engine, rows, part.engine),
            put_rows(self.blocks, rows, part.blocks),
            put_rows(self.health, rows, part.health),
            put_rows(self.belief, rows, part.belief),
        )

    def owned(self) -> ScoringState:
        """Return a copy whose arrays nobody else has."""
        return self.take(np.arange(len(self.engine.n_seen)))

    def write(self, rows: NDArray[np.intp], part: ScoringState) -> None:
        """Replace some streams in place, of a state that is ``owned``: thousands of others are not copied."""
        _write_rows(self.engine, rows, part.engine)
        _write_rows(self.blocks, rows, part.blocks)
        _write_rows(self.health, rows, part.health)
        _write_rows(self.belief, rows, part.belief)


def take_rows(state: StateT, rows: NDArray[np.intp]) -> StateT:
    """Return the state of some streams."""
    parts: Mapping[str, Any] = {f.name: getattr(state, f.name)[rows] for f in fields(state)}
    return replace(state, **parts)


def _write_rows(state: StateT, rows: NDArray[np.intp], part: StateT) -> None:
    for f in fields(state):
        getattr(state, f.name)[rows] = getattr(part, f.name)


def put_rows(state: StateT, rows: NDArray[np.intp], part: StateT) -> StateT:
    """Return the state with some streams replaced."""
    merged: dict[str, Any] = {}
    for f in fields(state):
        whole = getattr(state, f.name).copy()
        whole[rows] = getattr(part, f.name)
        merged[f.name] = whole
    return replace(state, **merged)


class Scorer:
    """Everything of a bundle that scoring needs, loaded once.

    Parameters
    ----------
    bundle
        As read and checked.
    backend
        ONNX Runtime on the CPU when None.
    calibration
        The bundle's own when None.
    caution
        When an answer is given, and when not.
    precision
        Which of the bundle's models; it comes with a calibration of its own.

    Raises
    ------
    BackendError
        The graph does not load.
    BundleError
        The calibration does not fit the model.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: Backend | None = None,
        calibration: Calibration | None = None,
        caution: CautionConfig | None = None,
        precision: str = "fp32",
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.precision = precision
        if calibration is None:
            calibration = Calibration.from_arrays(bundle.calibration_arrays(precision), self.manifest)
        self.calibration = calibration
        self.caution = caution or CautionConfig()
        self.engine = Engine(self.manifest, backend or load_backend(bundle, precision=precision))
        self.blocks = BlockScorer(self.manifest, calibration.precision)
        self.groups = self.blocks.groups
        self.monitor = ReliabilityMonitor(self.manifest)
        self.sensors = tuple(s.name for s in self.manifest.sensor_specs)
        self.channels = tuple(name for s in self.manifest.sensor_specs for name in s.full_names)
        self.period_ns = period_ns(self.manifest.rate_hz)

    def initial_state(self, n_streams: int) -> ScoringState:
        """Return the state of streams that have seen nothing."""
        n = n_streams
        return ScoringState(
            self.engine.initial_state(n),
            self.blocks.initial_state(n),
            self.monitor.initial_state(n),
            BeliefState.initial(n, len(self.sensors)),
        )

    def score(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScoringState,
        *,
        calibration: Calibration | None = None,
        used: NDArray[np.bool_] | None = None,
    ) -> tuple[BlockScores, Surprise, ScoringState]:
        """Score one hop of all streams, without judging it (calibration needs no more).

        Parameters
        ----------
        values, valid, saturated : (n_streams, hop, n_channels)
            SI units on the model's grid.
        calibration
            Of these streams, from ``stack_calibrations``; the scorer's own for all when None.
        used : (n_streams, n_channels)
            Channels that the model may see; all when None.
        """
        precision = None if calibration is None or calibration.which is None else calibration.precision
        seen = valid if used is None or used.all() else valid & used[:, None]
        surprise, engine_state = self.engine.step(values, seen, state.engine)
        scores, block_state = self.blocks.step(surprise, values, valid, saturated, state.blocks, precision=precision)
        return scores, surprise, ScoringState(engine_state, block_state, state.health, state.belief)

    def step(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScoringState,
        *,
        end_tick: int,
        calibration: Calibration | None = None,
        clock_ms: F64 | None = None,
    ) -> tuple[VerdictBatch, ScoringState]:
        """Score and judge one hop of all streams.

        ``end_tick`` is the first tick behind it; ``clock_ms`` (n_streams, n_sensors) by how much each sensor's times
        may be apart from another's.
        """
        after: list[EngineState] = []

        def run(values: F32, seen: NDArray[np.bool_]) -> Surprise:
            surprise, engine = self.engine.step(values, seen, state.engine)
            after.append(engine)
            return surprise

        before = state.blocks, state.health, state.belief
        batch, blocks, health, belief = self._step(
            values, valid, saturated, before, run, end_tick, calibration, clock_ms
        )
        return batch, ScoringState(after[0], blocks, health, belief)

    def advance(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        state: ScoringState,
        rows: NDArray[np.intp] | None = None,
        *,
        end_tick: int,
        calibration: Calibration | None = None,
        clock_ms: F64 | None = None,
    ) -> tuple[VerdictBatch, ScoringState]:
        """Score and judge one hop of some streams as ``step`` does, to the bit, and use up the state.

        Parameters
        ----------
        values, valid, saturated, calibration, clock_ms
            Of these streams.
        state
            Of all streams, ``owned``: it must not be used any more, as the one that is returned has its arrays.
        rows
            Which they are, each at most once; all in their order when None.
        """

        def run(values: F32, seen: NDArray[np.bool_]) -> Surprise:
            return self.engine.advance(values, seen, state.engine, rows)

        before = state.blocks, state.health, state.belief
        if rows is not None:
            before = take_rows(before[0], rows), take_rows(before[1], rows), take_rows(before[2], rows)
        batch, blocks, health, belief = self._step(
            values, valid, saturated, before, run, end_tick, calibration, clock_ms
        )
        if rows is None:
            return batch, ScoringState(state.engine, blocks, health, belief)
        _write_rows(state.blocks, rows, blocks)
        _write_rows(state.health, rows, health)
        _write_rows(state.belief, rows, belief)
        return batch, state

    def _step(
        self,
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        before: tuple[ScorerState, HealthState, BeliefState],
        run: Callable[[F32, NDArray[np.bool_]], Surprise],
        end_tick: int,
        calibration: Calibration | None,
        clock_ms: F64 | None,
    ) -> tuple[VerdictBatch, ScorerState, HealthState, BeliefState]:
        blocks, health_state, believed = before
        facts = self.monitor.look_at(values, valid, saturated)
        health, health_state = self.monitor.step(values, valid, health_state, facts=facts)
        values, valid, saturated, used = self.monitor.repair(values, valid, saturated, health)
        facts = self.monitor.repair_facts(facts, health)
        surprise = run(values, valid if used.all() else valid & used[:, None])
        precision = None if calibration is None or calibration.which is None else calibration.precision
        scores, blocks = self.blocks.step(surprise, values, valid, saturated, blocks, precision=precision, facts=facts)
        chosen = calibration or self.calibration
        unusual = chosen.assess(scores, self.groups)
        health_state = self.monitor.learn(unusual.sensor, health_state)
        batch, believed = judge(
            scores,
            surprise,
            unusual,
            chosen,
            self.caution,
            believed,
            hop_s=self.manifest.hop / self.manifest.rate_hz,
            block_s=self.manifest.block / self.manifest.rate_hz,
            health=health,
            clock_ms=clock_ms,
            end_tick=end_tick,
            host_time_ns=end_tick * self.period_ns,
            groups=self.groups,
            sensors=self.sensors,
            channels=self.channels,
        )
        return batch, blocks, health_state, believed
