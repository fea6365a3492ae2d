"""The measures of one person, from samples of their sensors to hours, days and changes: no I/O, no clock of its own.

Arms and legs have a grid each, at the rate that their measures need, whatever rate the model has; a sensor that the
model does not know is measured all the same. A second is booked at its UTC, forward only: what was booked before, by
this process or by the one before it, is not booked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.aligner import Aligner
from kinedge.edge.hop_facts import look_at
from kinedge.edge.measures.arm import ArmUse, ArmUseConfig
from kinedge.edge.measures.config import MeasuresConfig, Side, side_of
from kinedge.edge.measures.day import (
    BLOCKS_AN_HOUR,
    MISSING,
    UNWORN,
    WALKING,
    WORN,
    Estimate,
    MeasuredDay,
    Part,
)
from kinedge.edge.measures.legs import LegColumns, LegsUse
from kinedge.edge.measures.seconds import Second, SecondCutter, state_from_arrays, state_to_arrays
from kinedge.edge.measures.trend import DailyTrendConfig
from kinedge.edge.measures.watch import Change, DayWatch, DayWatchState, WatchedDay
from kinedge.edge.plausible import Plausibility
from kinedge.edge.zone import Zone
from kinedge.errors import SignalError
from kinedge.signals import IMU6, SensorSpec
from kinedge.units import NS_PER_S

__all__ = ["MeasuresRow", "PersonMeasures", "day_row"]

F32 = NDArray[np.float32]
StateT = TypeVar("StateT")

_MAX_DELAY_S: Final = 2.0  # nobody waits for a measure
_DAY_S: Final = 86_400
_SLOWER: Final = 1.25  # than the grid, at most


@dataclass(frozen=True)
class MeasuresRow:
    """An hour or a day of one part, as it is kept: ``start`` in local hours or days since 1970-01-01."""

    part: Part
    level: Literal["hour", "day"]
    start: int
    content: dict[str, Any]


class _Meter(Protocol[StateT]):
    """What arms and legs have in common."""

    def initial_state(self) -> StateT: ...
    def step(self, second: Second, state: StateT, *, local_s: int) -> tuple[MeasuredDay | None, StateT]: ...
    def unheard(self, state: StateT, first_s: int, end_s: int) -> StateT: ...
    def day(self, state: StateT) -> MeasuredDay | None: ...
    def estimates(self, blocks: NDArray[np.float64]) -> dict[str, Estimate]: ...


@dataclass(frozen=True, eq=False)
class _PartState:
    measure: Any  # ArmUseState or LegsUseState
    watch: DayWatchState
    last_utc_s: NDArray[np.int64]
    n_strange: NDArray[np.int64]
    strength: NDArray[np.float64]
    rested: NDArray[np.float64]


class _PartOf:
    """One part of one person: grid, seconds, measure, and the days that are watched."""

    def __init__(self, part: Part, sensors: tuple[str, ...], rate_hz: int, meter: _Meter[Any], watch: DayWatch) -> None:
        self.part = part
        self._sensors, self._rate_hz = sensors, rate_hz
        self._meter, self._watch = meter, watch
        self.restart_clock()
        self._ended: list[MeasuresRow] = []
        self._kept: NDArray[np.float64] | None = None  # blocks of the day under way, as last kept
        columns = [np.arange(len(IMU6) * i, len(IMU6) * (i + 1)) for i in range(len(sensors))]
        self._plausibility = Plausibility(
            [c[:3] for c in columns], [c[3:] for c in columns], hop=rate_hz, rate_hz=rate_hz
        )
        self.state = _PartState(
            meter.initial_state(), watch.initial_state(), np.asarray(-1), *self._plausibility.initial(1)
        )

    def restart_clock(self) -> None:
        specs = [SensorSpec(s) for s in self._sensors]
        self.aligner = Aligner(specs, rate_hz=self._rate_hz, max_delay_s=_MAX_DELAY_S)
        self._cutter = SecondCutter(self._rate_hz, len(IMU6) * len(specs))

    def advance(self, *, now_ns: int | None, flush: bool, offset_s: int, zone: Zone) -> list[Change]:
        block = self.aligner.pull(now_ns=now_ns, flush=flush)
        if not len(block):
            return []
        changes: list[Change] = []
        for second in self._cutter.push(block.first_tick, block.values, block.valid, block.saturated):
            changes += self._take(replace(second, index=second.index + offset_s), zone)
        return changes

    def _take(self, second: Second, zone: Zone) -> list[Change]:
        """Book a second whose index is its UTC; one that was booked before is left out."""
        utc_s, last = second.index, int(self.state.last_utc_s)
        if utc_s <= last:
            return []
        measure, watch = self.state.measure, self.state.watch
        changes: list[Change] = []
        local_s = utc_s + zone.offset_s(utc_s)
        day, of_day = divmod(local_s, _DAY_S)
        if last >= 0 and (gap := utc_s - last - 1):
            first = max(0, of_day - gap) if int(measure.day) == day else of_day
            measure = self._meter.unheard(measure, first, of_day)
        if int(measure.day) not in (-1, day):
            self._ended += self._hours(measure)
        second, n_strange, strength, rested = self._believed(second)
        ended, measure = self._meter.step(second, measure, local_s=local_s)
        if ended is not None:
            watched, changes, watch = self._watch.step(ended, watch)
            self._ended.append(day_row(ended, watched))
            self._kept = None
        self.state = _PartState(measure, watch, np.asarray(utc_s), n_strange, strength, rested)
        return changes

    def _believed(self, second: Second) -> tuple[Second, NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return a second without sensors that read what no body shows: in another unit an arm would do a tenth."""
        there = second.valid.reshape(self._rate_hz, len(self._sensors), len(IMU6)).sum(axis=0).min(axis=1)
        clipped = None if second.saturated is None else second.saturated[None]
        facts = look_at(second.values[None], second.valid[None], clipped)
        heard = there[None] >= self._rate_hz // 4
        known = self._plausibility.step(facts, heard, self.state.n_strange, self.state.strength, self.state.rested)
        absurd = self._plausibility.against(*known[:2])[0][0] >= 1
        if absurd.any():
            second = replace(second, valid=second.valid & ~np.repeat(absurd, len(IMU6)))
        return second, *known

    def rows(self) -> list[MeasuresRow]:
        """Return what changed since ``keep``."""
        day = self._meter.day(self.state.measure)
        under_way = [] if day is None else [*self._hours(self.state.measure), day_row(day, None)]
        return self._ended + under_way

    def keep(self) -> None:
        """Take note that the rows of now are kept."""
        self._ended = []
        self._kept = self.state.measure.books.total().blocks

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> str | None:
        """Go on from a saved state; return what could not be used of it, if anything."""
        try:
            self.state = state_from_arrays(self.state, arrays)
        except SignalError as e:
            watch = {k.removeprefix("watch."): v for k, v in arrays.items() if k.startswith("watch.")}
            try:
                self.state = replace(self.state, watch=state_from_arrays(self.state.watch, watch))
            except SignalError:
                return f"{self.part}: days and trend start anew: {e}"
            return f"{self.part}: the day starts anew, its trend goes on: {e}"
        return None

    def _hours(self, measure: Any) -> list[MeasuresRow]:
        blocks = measure.books.total().blocks.reshape(24, BLOCKS_AN_HOUR, -1)
        kept = np.zeros_like(blocks) if self._kept is None else self._kept.reshape(blocks.shape)
        return [
            MeasuresRow(
                self.part,
                "hour",
                int(measure.day) * 24 + hour,
                _content(blocks[hour].sum(axis=0)[: WALKING + 1].tolist(), self._meter.estimates(blocks[hour])),
            )
            for hour in np.flatnonzero((blocks != kept).any(axis=(1, 2))).tolist()
        ]


class PersonMeasures:
    """All measures of one person.

    Parameters
    ----------
    config
        Which sensors, at which rates.
    affected
        The side of the weaker arm, if one is: ratios are of it to the other.
    """

    def __init__(self, config: MeasuresConfig, *, affected: Side | None = None) -> None:
        self._zone = Zone(config.timezone)
        self.sensors = config.sensors()
        trend = DailyTrendConfig(learning_days=config.learning_days, min_worn_h=config.min_worn_h)
        self._parts: list[_PartOf] = []
        if config.arms is not None:
            arms = tuple(sorted(config.arms, key=lambda s: (side_of(s) != affected, side_of(s))))
            use = ArmUse(
                config.arm_rate_hz,
                paretic=slice(0, 6),
                other=slice(6, 12),
                config=ArmUseConfig(
                    active_counts=config.active_counts,
                    off_body_s=round(config.off_body_min * 60),
                    forearm_axis="xyz".index(config.forearm_axis[1]),
                    forearm_sign=1 if config.forearm_axis[0] == "+" else -1,
                ),
                names=(side_of(arms[0]), side_of(arms[1])),
            )
            watch = DayWatch("arm", affected=affected is not None, config=trend)
            self._parts.append(_PartOf("arm", arms, config.arm_rate_hz, use, watch))
        if config.legs:
            legs = tuple(sorted(config.legs, key=side_of))
            columns = [
                LegColumns(side_of(s), slice(6 * i, 6 * i + 6), "foot" if "foot" in s else "shank")
                for i, s in enumerate(legs)
            ]
            trunk = None if config.trunk is None else slice(6 * len(legs), 6 * len(legs) + 3)
            gait = LegsUse(config.leg_rate_hz, legs=columns, trunk=trunk)
            sensors = legs if config.trunk is None else (*legs, config.trunk)
            self._parts.append(_PartOf("gait", sensors, config.leg_rate_hz, gait, DayWatch("gait", config=trend)))

    @property
    def last_utc_s(self) -> int:
        """The last second that was booked; -1 before the first."""
        return max((int(p.state.last_utc_s) for p in self._parts), default=-1)

    @property
    def zone_offset_s(self) -> int:
        """Local time less UTC, at the last second that was booked."""
        return self._zone.offset_s(max(self.last_utc_s, 0))

    def push(
        self,
        sensor: str,
        host_time_ns: NDArray[np.int64],
        values: F32,
        valid: NDArray[np.bool_],
        saturated: NDArray[np.bool_],
        *,
        interval_ns: int,
    ) -> None:
        """Take samples (n, 6) of one sensor, acceleration first, in host time; of other sensors nothing is taken.

        Raises
        ------
        SignalError
            The shapes do not fit, or the sensor is slower than its grid: samples in between would be made up, and
            measures that need this rate with them.
        """
        for part in self._parts:
            if any(s.name == sensor for s in part.aligner.sensors):
                if interval_ns > _SLOWER * part.aligner.period_ns:
                    raise SignalError(
                        f"{sensor} gives {NS_PER_S / interval_ns:.0f} Hz and the grid of {part.part} has "
                        f"{NS_PER_S / part.aligner.period_ns:.0f} Hz; lower the rate of that grid"
                    )
                part.aligner.push(sensor, host_time_ns, values, valid, saturated, interval_ns=interval_ns)

    def reset_sensor(self, sensor: str) -> None:
        """Forget what is buffered of a sensor whose clock started anew."""
        for part in self._parts:
            if any(s.name == sensor for s in part.aligner.sensors):
                part.aligner.reset_sensor(sensor)

    def restart_clock(self) -> None:
        """Forget what is buffered: what comes next is told on another host clock."""
        for part in self._parts:
            part.restart_clock()

    def advance(self, *, utc_offset_s: int, now_ns: int | None = None, flush: bool = False) -> list[Change]:
        """Book every second that is complete; return the changes that days which ended with it tell.

        Parameters
        ----------
        utc_offset_s
            UTC less host time, in whole seconds.
        now_ns
            Host clock; without it only data moves the grids.
        flush
            Wait for nobody.
        """
        return [
            change
            for part in self._parts
            for change in part.advance(now_ns=now_ns, flush=flush, offset_s=utc_offset_s, zone=self._zone)
        ]

    def rows(self) -> list[MeasuresRow]:
        """Return the hours and days that changed since ``keep`` was called."""
        return [row for part in self._parts for row in part.rows()]

    def states(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return all that is needed to go on later, by part."""
        return {part.part: state_to_arrays(part.state) for part in self._parts}

    def keep(self) -> None:
        """Take note that rows and states of now are kept."""
        for part in self._parts:
            part.keep()

    def restore(self, states: Mapping[str, Mapping[str, NDArray[Any]]]) -> list[str]:
        """Go on from saved states; return what could not be used of them."""
        notes = [p.restore(states[p.part]) for p in self._parts if p.part in states]
        return [note for note in notes if note is not None]


def day_row(day: MeasuredDay, watched: WatchedDay | None) -> MeasuresRow:
    """Return a day as it is kept; ``watched`` is None while it is under way."""
    seconds = [h * 3600 for h in (day.worn_h, day.unworn_h, day.missing_h, day.walking_h)]
    content = _content(seconds, day.measures)
    content["complete"] = watched is not None
    if watched is not None:
        content["watched"] = {"state": watched.state, "trends": {k: asdict(t) for k, t in watched.trends.items()}}
    return MeasuresRow(day.part, "day", day.day, content)


def _content(seconds: list[float], measures: Mapping[str, Estimate]) -> dict[str, Any]:
    names = {WORN: "worn_s", UNWORN: "unworn_s", MISSING: "missing_s", WALKING: "walking_s"}
    return {name: round(seconds[i], 1) for i, name in names.items()} | {
        "measures": {
            name: {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(found).items()}
            for name, found in measures.items()
        }
    }
