"""Whose surprise it is: what is left of a sensor's surprise once another sensor is not heard.

A forecaster that hears all sensors tells each from the others, too. A wrist that trembles misleads it about the other
one, which lies still, and that may surprise more than the tremor does. So when a change is told, the last seconds are
forecast once more for each sensor without it, as if it were silent, which models are trained for. Where that takes away
half of what another sensor surprises by and more, and not the other way round, the one that was left out is whose
surprise it is: the shares of the other go to it.

It takes a forecast of some seconds for each sensor, so it is done where a change was told twice on end, once more when
a block lies in the change from end to end, and every 32 hops while it lasts: that bounds what a whole team costs that
begins to warm up. The sensor that surprises most, and the one that would be named, are asked first; where no other one
takes half of that with it, nothing is passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.calibration import Calibration
from kinedge.edge.caution import Decision
from kinedge.edge.engine import Engine
from kinedge.edge.verdict import VerdictBatch

__all__ = ["Without", "WithoutState", "passed_on"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_SECOND: Final = 4  # hops from the first look at a change to the second: what is seen first is half of it
_AGAIN: Final = 32  # from there on
_APART: Final = 16  # hops from one answer of "different" to the next that are about one change
_LEAST: Final = 0.5  # u of a sensor that has anything to pass on
_MOST_OF: Final = 0.5  # of a sensor's u that goes once another is not heard
_LITTLE_OF: Final = 0.3  # that goes the other way round at most
_PARTS: Final = 512.0  # of a channel's scale: far finer than any sensor's noise, and 64 scales reach beyond every clip
_FARTHEST: Final = np.float32(32767)
_UNSEEN: Final = -32768


@dataclass(frozen=True, eq=False)
class WithoutState:
    """What is remembered of each stream.

    Parameters
    ----------
    samples : (n, n_hops, hop, n_channels) int16
        The last hops as the model saw them, in parts of a channel's scale; ``turn`` tells which comes next.
    turn : (n,)
        Hops so far.
    called : (n,)
        The last of them at which a change was told; far before the first at the beginning.
    looked, looks : (n,)
        At which of them it was looked whose surprise this change is, and how often.
    passed : (n, n_sensors, n_sensors)
        What each sensor passes on of its shares, to which.
    """

    samples: NDArray[np.int16]
    turn: NDArray[np.int64]
    called: NDArray[np.int64]
    looked: NDArray[np.int64]
    looks: NDArray[np.int64]
    passed: F32


class Without:
    """Looks whose surprise it is.

    Parameters
    ----------
    manifest
        Of the model.
    engine
        Whose backend forecasts.
    groups
        Columns of each sensor.
    watches
        Whether it looks at all.
    """

    def __init__(self, manifest: Manifest, engine: Engine, groups: Sequence[slice], *, watches: bool = True) -> None:
        self._engine = Engine(manifest, engine.backend)  # its own memory: the first forecast is still read
        self._groups = list(groups)
        self._starts = [g.start for g in groups]
        self._hop, self._block = manifest.hop, manifest.block
        needed = manifest.receptive_field + max(manifest.horizons) + manifest.block
        self._n_hops = -(-needed // manifest.hop)
        self._n_channels = manifest.n_channels
        self._gain: F32 = (_PARTS / np.array(manifest.scale)).astype(np.float32)
        self._middle: F32 = np.array(manifest.center, np.float32) * self._gain
        self._n_sensors = len(self._groups)
        self.watches = watches and self._n_sensors > 1

    def initial_state(self, n_streams: int) -> WithoutState:
        """Return the state of streams that have seen nothing."""
        n_hops = self._n_hops if self.watches else 0
        return WithoutState(
            samples=np.full((n_streams, n_hops, self._hop, self._n_channels), _UNSEEN, np.int16),
            turn=np.zeros(n_streams, np.int64),
            called=np.full(n_streams, -_APART - 1, np.int64),
            looked=np.zeros(n_streams, np.int64),
            looks=np.zeros(n_streams, np.int64),
            passed=np.zeros((n_streams, self._n_sensors, self._n_sensors), np.float32),
        )

    def keep(self, values: F32, seen: Mask, state: WithoutState, rows: Rows) -> None:
        """Remember one hop of some streams, (n_streams, hop, n_channels), as the model saw it."""
        if not self.watches:
            return
        slot = state.turn[rows] % self._n_hops
        held = values * self._gain
        held -= self._middle
        np.clip(held, -_FARTHEST, _FARTHEST, out=held)
        if not seen.all():
            np.copyto(held, _UNSEEN, where=~seen)
        state.samples[rows, slot] = held
        state.turn[rows] += 1

    def look(
        self,
        batch: VerdictBatch,
        decision: NDArray[np.int8],
        calibration: Calibration,
        state: WithoutState,
        rows: Rows,
    ) -> None:
        """Find out whose surprise it is where a change is told, and remember it; forget it once a change is over.

        Parameters
        ----------
        batch, decision, calibration
            Of the block of each of these streams; of a batch, parts are made when they are asked for.
        state, rows
            Of all streams, whose hop has been kept; and which these are.
        """
        some = np.flatnonzero(decision == Decision.ANOMALOUS)
        if not len(some):
            return
        at, turn = rows[some], state.turn[rows[some]]
        since = turn - state.called[at]
        state.called[at] = turn
        begins = at[since > _APART]
        state.looks[begins], state.passed[begins] = 0, 0
        looks = state.looks[at]
        waited = turn - state.looked[at] >= np.where(looks == 1, _SECOND, _AGAIN)
        due = (since == 1) & (turn >= self._n_hops) & ((looks == 0) | waited)
        for i in some[due]:
            u = np.maximum.reduceat(batch.unusual.channel[i], self._starts)
            if (u > _LEAST).sum() < 2:
                continue
            own = calibration.rows(np.array([i])) if calibration.which is not None else calibration
            row, most = int(rows[i]), int(u.argmax())
            asked = {most, int(batch.sensor_share[i].argmax())}  # one of these is, or will be, named
            left = np.tile(u, (self._n_sensors, 1))  # what is not asked stays as it was
            others = [s for s in range(self._n_sensors) if asked != {s}]
            left[others] = self._left(batch.scores.intensity[i], own, state, row, u, others)
            if asked == {most} and passed_on(u, left)[most].any():
                left[most] = self._left(batch.scores.intensity[i], own, state, row, u, [most])[0]
            state.passed[row] = passed_on(u, left)
            state.looked[row], state.looks[row] = state.turn[row], state.looks[row] + 1

    def shares(
        self, batch: VerdictBatch, decision: NDArray[np.int8], state: WithoutState, rows: Rows
    ) -> tuple[F64, F64, F64] | None:
        """Return the shares of channels and sensors with what is another's passed on to it; None where nothing is.

        And how much each sensor passed on to which, (n_streams, n_sensors, n_sensors).
        """
        lately = state.turn[rows] - state.called[rows] <= _APART
        some = np.flatnonzero((decision != Decision.NORMAL) & lately & state.passed[rows].any(axis=(1, 2)))
        if not len(some):
            return None
        channel_share, sensor_share = batch.channel_share, batch.sensor_share
        passed, before = state.passed[rows[some]].astype(np.float64), sensor_share[some]
        after = before * (1 - passed.sum(axis=2))
        for i in range(self._n_sensors):
            after += before[:, [i]] * passed[:, i]
        of_channels = channel_share[some]
        for i, group in enumerate(self._groups):
            of_group = of_channels[:, group].sum(axis=1)
            can = of_group > 0  # else nothing is known of its channels
            of_channels[:, group] *= np.where(can, after[:, i] / np.where(can, of_group, 1.0), 1.0)[:, None]
        total = of_channels.sum(axis=1, keepdims=True)
        channel, sensor = channel_share.copy(), sensor_share.copy()
        channel[some], sensor[some] = of_channels / np.where(total > 0, total, 1.0), after
        every = np.zeros((len(rows), self._n_sensors, self._n_sensors))
        every[some] = passed
        return channel, sensor, every

    def _left(
        self, intensity: F64, calibration: Calibration, state: WithoutState, row: int, u: F64, out: Sequence[int]
    ) -> F64:
        """Return (len(out), n_sensors): how much each sensor surprises without each of these; else ``u``."""
        order = np.arange(state.turn[row] - self._n_hops, state.turn[row]) % self._n_hops
        samples = state.samples[row, order].reshape(1, -1, self._n_channels)
        values: F32 = (samples.astype(np.float32) + self._middle) / self._gain
        heard = np.repeat(samples != _UNSEEN, len(out), axis=0)
        for i, sensor in enumerate(out):
            heard[i, :, self._groups[sensor]] = False
        silent = self._engine.initial_state(len(out))
        surprise, _ = self._engine.step(np.repeat(values, len(out), axis=0), heard, silent)
        nats, valid = (a[:, -self._block :].sum(axis=(1, 2), dtype=np.float64) for a in (surprise.nats, surprise.valid))
        center, spread = calibration.usual(intensity[None], self._groups)
        scored = valid > 0
        without = np.where(scored, (nats / np.maximum(valid, 1) - center) / spread, -np.inf)
        left: F64 = np.maximum.reduceat(without, self._starts, axis=1)
        return np.where(np.maximum.reduceat(scored, self._starts, axis=1), left, u)


def passed_on(u: F64, left: F64) -> F64:
    """Return (n_sensors, n_sensors): what each sensor passes on of its shares, to which other.

    Parameters
    ----------
    u : (n_sensors,)
        How much each sensor surprises with all heard.
    left : (n_sensors, n_sensors)
        How much without each; the one that was left out first.
    """
    gone = np.where(u > _LEAST, np.maximum(u - np.maximum(left, 0.0), 0.0) / np.maximum(u, _LEAST), 0.0).T
    passed = np.where((gone > _MOST_OF) & (gone.T < _LITTLE_OF), gone, 0.0)
    total: F64 = passed.sum(axis=1, keepdims=True)
    return passed / np.maximum(total, 1.0)
