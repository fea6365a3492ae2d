"""How far each sensor can be trusted, told from its samples alone: hop by hop, for all streams at once.

A model only knows that something is unlike what it learned. Whether the person or the sensor is the cause is told here:

* ``repeated``: samples that stood in the block before, bit for bit (a stuck buffer, a flat line). Noise never repeats.
* ``clipped``: samples at the end of a range that the device did not report (:mod:`kinedge.edge.range_ends`). Of either,
  what a sensor shows by chance for its resolution is taken off (:mod:`kinedge.edge.resolution`).
* ``held``: one axis stands at one number while the others move (:mod:`kinedge.edge.held_axes`).
* ``off_body``: so still, for so long, that no living body carries it; sooner where another sensor moves meanwhile.
* ``units``: no body shows what it reads (:mod:`kinedge.edge.plausible`).
* ``twin``: two sensors give the same signal, exactly or within two per cent of its power (one is a copy, both are worn
  at one place, or one stream was given two names). Where its level is clearly that of one of the two, that one is
  the original, and the other the ``copy``; else neither can be trusted.
* ``swapped``: left and right fit each other's usual level of acceleration better than their own. Sensors that sit much
  the same way on both sides cannot be told apart like this; a second forecast tells them (:mod:`kinedge.edge.sides`).
* ``shifted``: unusual for minutes on end, and gravity points elsewhere than before. That is a sensor put on anew or
  slipped, or a lasting change of posture: nobody can tell from this sensor alone.

A sensor that is wrong misleads the forecaster about all others, too. So what is known to be wrong is taken out before
the model sees it, by :meth:`ReliabilityMonitor.repair`: such a sensor counts as missing, which models are trained for,
and sides that are surely exchanged are exchanged back, neither trusted again for it. A held axis alone may be missing.

Everything is O(1) in time, depends on whole hops only, and is a value: ``step(input, state) -> (health, state)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge import resolution
from kinedge.edge.calibration import UNSCORED
from kinedge.edge.held_axes import HeldAxes
from kinedge.edge.hop_facts import HopFacts, look_at
from kinedge.edge.native import NativeHealth
from kinedge.edge.plausible import LIMITS, Plausibility
from kinedge.edge.range_ends import RangeEnds
from kinedge.edge.reliability_marks import Marks
from kinedge.edge.sensor_health import CLIPPED_POWER, FINE, HealthState, SensorHealth
from kinedge.edge.state_rows import take_rows, write_rows
from kinedge.signals import Quantity, quantity_of

__all__ = ["CLIPPED_POWER", "HealthState", "ReliabilityMonitor", "SensorHealth"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STILL: Final = {Quantity.ACC: 0.04, Quantity.GYR: 0.01, Quantity.MAG: np.inf}  # standard deviation in a hop, SI units
_STILL_S: Final = 30.0  # a person who rests moves more than that
_LONE_S: Final = 6.0  # while another sensor moves
_MOVES: Final = 0.1  # of a channel's scale, mean over channels: that sensor moves
_SHAKES: Final = 0.5  # it moves so much that the whole body must: stillness elsewhere counts fourfold
_TWIN: Final = 0.02  # of the power
_ALIKE_S: Final = 4.0
_TWIN_EQUAL: Final = 0.9  # of the samples
_CLIPPED_S: Final = 10.0  # of memory: a range that was too small a moment ago still is
_SWAP_S: Final = 10.0  # of memory
_SWAP_AFTER_S: Final = 5.0
_SWAP_APART: Final = 1.0  # squared distance of the two sides' usual levels, in scales, that can be told
_SIDES_APART: Final = 4.0  # two scales: from there on levels tell left from right whatever the posture
_SWAP_LIMITS: Final = (0.1, -0.15)  # of the way from one's own level (1) to the other's (-1): doubted, believed
_LEVEL_S: Final = 20.0
_USUAL_S: Final = 120.0
_UNUSUAL: Final = 0.5  # u of a sensor: halfway from the median to the 99 % quantile
_PERSIST_S: Final = 90.0
_PERSIST_LIMITS: Final = (0.6, 0.8)  # share of recent hops that were unusual
_NEVER_S: Final = 10.0
_AXES: Final = 3
_FITS: Final = 0.4  # of the way between two sensors' usual levels: clearly that of the one
_TURNED: Final = float(np.cos(np.deg2rad(25.0)))


class ReliabilityMonitor:
    """Watches the sensors of any number of people.

    Parameters
    ----------
    manifest
        Gives sensors, block, hop, and the usual level and scale of each channel.
    """

    def __init__(self, manifest: Manifest) -> None:
        specs = manifest.sensor_specs
        self._hop, self._n_hops = manifest.hop, manifest.block // manifest.hop
        self._hop_s = manifest.hop / manifest.rate_hz
        self._n_alike = max(self._n_hops, math.ceil(_ALIKE_S / self._hop_s))
        self._groups: list[slice] = []
        start = 0
        for spec in specs:
            self._groups.append(slice(start, start + spec.n_channels))
            start += spec.n_channels
        self._starts = [g.start for g in self._groups]
        self._widths = np.array([s.n_channels for s in specs], np.float64)
        quantities = [quantity_of(c) for s in specs for c in s.channels]
        self._still_limit: F32 = np.array([_STILL[q] for q in quantities], np.float32)
        self._center, self._scale = np.array(manifest.center), np.array(manifest.scale)
        self._acc, self._gyr = (
            [np.array([c for c in range(g.start, g.stop) if quantities[c] is of], np.intp) for g in self._groups]
            for of in (Quantity.ACC, Quantity.GYR)
        )
        self._plausibility = Plausibility(self._acc, self._gyr, hop=self._hop, rate_hz=manifest.rate_hz)
        self._has_gravity = np.array([len(c) == _AXES for c in self._acc])
        self._range_ends = RangeEnds(self._groups, self._scale, self._hop_s)
        lone = manifest.channel_dropout > 0
        self._held_axes = HeldAxes(self._groups, self._scale, quantities, self._hop, self._hop_s, alone=lone)
        self._marks = Marks(self._groups, self._hop)
        pairs = [(a, b) for a, b in combinations(range(len(specs)), 2) if specs[a].channels == specs[b].channels]
        self._pairs = pairs
        # one unit for both of a pair, or a copy would differ from itself
        self._unit = np.empty(start)
        for g, spec in zip(self._groups, specs, strict=True):
            alike = [h for h, other in zip(self._groups, specs, strict=True) if other.channels == spec.channels]
            self._unit[g] = np.mean([self._scale[h] for h in alike], axis=0)
        self._inverse_unit: F32 = (1 / self._unit).astype(np.float32)
        names = [s.name for s in specs]
        self._apart = np.array([self._levels_apart(a, b) for a, b in pairs])
        sides = [k for k, (a, b) in enumerate(pairs) if _other_side(names[a]) == names[b]]
        self._sides = [k for k in sides if self._apart[k] >= _SIDES_APART]
        self._alike_sides = [k for k in sides if self._apart[k] < _SIDES_APART]
        self._native = self.in_c() if NativeHealth.is_there() else None

    def in_c(self) -> NativeHealth:
        """Return a monitor in C, told all that it must know of the model."""
        edges = np.array([*self._starts, len(self._center)], np.int64)
        acc, gyr = (
            np.array([c if len(c) == _AXES else [-1] * _AXES for c in of], np.int64) for of in (self._acc, self._gyr)
        )
        return NativeHealth(
            {
                "hop": self._hop,
                "n_channels": len(self._center),
                "n_sensors": len(self._groups),
                "block": self._hop * self._n_hops,
                "n_alike": self._n_alike,
                "n_pairs": len(self._pairs),
                "heard_from": self._hop // 4,
                "moves": _MOVES,
                "shakes": _SHAKES,
                "clipped_keep": np.exp(-self._hop_s / _CLIPPED_S),
                "twin": _TWIN,
                "twin_equal": _TWIN_EQUAL,
                "fits": _FITS,
                "side_keep": np.exp(-self._hop_s / _SWAP_S),
                "known_from": 1 - np.exp(-_SWAP_AFTER_S / _SWAP_S),
                "doubt": _SWAP_LIMITS[0],
                "belief": _SWAP_LIMITS[1],
                "hop_s": self._hop_s,
                "still_share": self._hop_s / _STILL_S,
                "lone_share": self._hop_s / _LONE_S,
                "gravity_keep": np.exp(-self._hop_s / _LEVEL_S),
                "persist_low": _PERSIST_LIMITS[0],
                "persist_high": _PERSIST_LIMITS[1],
                "turned": _TURNED,
                "never_from": 1 - np.exp(-_NEVER_S / _USUAL_S),
                "usual_keep": np.exp(-self._hop_s / _USUAL_S),
                "persist_keep": np.exp(-self._hop_s / _PERSIST_S),
                "unusual_from": _UNUSUAL,
                "unscored": UNSCORED,
                "strength_keep": self._plausibility.keep,
                "strange_share": self._plausibility.share,
                "comparable_below": FINE,
                **LIMITS,
                **resolution.LIMITS,
                **self._range_ends.numbers,
                **self._held_axes.numbers,
            },
            starts=edges,
            acc=acc,
            gyr=gyr,
            pairs=np.array(self._pairs, np.int64).reshape(-1, 2),
            factors=self._marks.factors,
            still_limit=self._still_limit,
            inverse_unit=self._inverse_unit,
            weight=self._inverse_unit**2,
            range=self._range_ends.least,
            **self._held_axes.arrays,
            center=self._center,
            unit=self._unit,
            widths=self._widths,
            apart=self._apart,
            enough=2 * self._hop * self._n_alike * self._widths[[a for a, _ in self._pairs]] * _MOVES**2,
            told_apart=self._apart >= _SWAP_APART,
            sides=np.isin(np.arange(len(self._pairs)), self._sides),
        )

    @property
    def alike_sides(self) -> list[tuple[int, int]]:
        """Sensors on both sides whose levels do not tell them apart; left first."""
        return [self._pairs[k] for k in self._alike_sides]

    def initial_state(self, n_streams: int) -> HealthState:
        """Return the state of streams that have seen nothing."""
        n, s = n_streams, len(self._groups)
        n_strange, strength, rested = self._plausibility.initial(n)
        return HealthState(
            marks=np.zeros((n, s, self._hop * self._n_hops), np.uint64),
            clipped=np.zeros((n, s)),
            reach=self._range_ends.initial(n),
            held=np.zeros((n, s)),
            coarse=np.ones((n, len(self._center))),
            likeness=np.zeros((n, self._n_alike, len(self._pairs), 2)),
            n_still=np.zeros((n, s), np.int64),
            n_lone=np.zeros((n, s), np.int64),
            n_strange=n_strange,
            strength=strength,
            rested=rested,
            side=np.zeros((n, len(self._pairs))),
            side_weight=np.zeros((n, len(self._pairs))),
            belongs=np.zeros((n, len(self._pairs))),
            gravity=np.zeros((n, s, 3)),
            usual_gravity=np.zeros((n, s, 3)),
            last=np.zeros((n, s, 3)),
            usual_weight=np.zeros((n, s)),
            unusual=np.zeros((n, s)),
        )

    @property
    def pair_columns(self) -> list[tuple[slice, slice]]:
        """Columns of each two sensors with the same channels."""
        return [(self._groups[a], self._groups[b]) for a, b in self._pairs]

    def look_at(self, values: F32, valid: Mask, saturated: Mask | None = None) -> HopFacts:
        """Return the facts of one hop, as ``step`` and the block scores take them."""
        return look_at(values, valid, saturated, pairs=self.pair_columns)

    def step(
        self, values: F32, valid: Mask, state: HealthState, *, facts: HopFacts | None = None, raw: F32 | None = None
    ) -> tuple[SensorHealth, HealthState]:
        """Judge the sensors of all streams by one hop.

        Parameters
        ----------
        values, valid : (n_streams, hop, n_channels), in SI units
        state
            From the step before; not changed.
        facts
            From ``look_at``, where somebody has looked before.
        raw : (n_streams, hop, n_channels)
            The samples as the sensors gave them, where ``values`` are turned: equal ones and ends of ranges are theirs.
        """
        facts = facts or self.look_at(values, valid)
        values, given = (values, facts) if raw is None else (raw, look_at(raw, valid))
        heard = np.minimum.reduceat(facts.n_valid, self._starts, axis=1) >= self._hop // 4
        spread: F32 = np.sqrt(facts.power / np.maximum(facts.n_valid, 1))

        marks, n_known, n_again = self._marks.push(values, valid, state.marks)
        repeated = self._marks.repeated(values, valid, given, marks, n_again / np.maximum(n_known - 1, 1))
        turned = None if raw is None else np.logical_or.reduceat(given.level != facts.level, self._starts, axis=1)
        axes, was, coarse, held = self._held_axes.step(values, valid, given, state, turned=turned)
        at_ends, reach = self._range_ends.step(values, valid, given, state.reach, held=held)
        at_ends = at_ends * (1 - repeated)  # given again, extremes are, too
        clipped = np.maximum(state.clipped * np.exp(-self._hop_s / _CLIPPED_S), at_ends)
        n_still, n_lone = self._still(spread, heard, state)
        n_strange, strength, rested = self._plausibility.step(
            facts, heard, state.n_strange, state.strength, state.rested, comparable=(repeated < FINE) & (clipped < FINE)
        )
        side, side_weight, belongs = self._side(facts.level, heard, state)
        gravity, last = self._gravity(facts.level, heard, state)
        after = replace(
            state,
            marks=marks,
            clipped=clipped,
            reach=reach,
            held=was,
            coarse=coarse,
            likeness=_push(state.likeness, self._likeness(facts)),
            n_still=n_still,
            n_lone=n_lone,
            n_strange=n_strange,
            strength=strength,
            rested=rested,
            side=side,
            side_weight=side_weight,
            belongs=belongs,
            gravity=gravity,
            last=last,
        )
        return self._health(after, repeated, axes), after

    def advance(
        self,
        values: F32,
        valid: Mask,
        state: HealthState,
        rows: NDArray[np.intp],
        *,
        facts: HopFacts,
        raw: F32 | None = None,
    ) -> SensorHealth:
        """Judge the sensors of some streams as ``step`` does, to the bit, but write what is remembered into ``state``.

        Parameters
        ----------
        values, valid, facts, raw
            Of these streams.
        state
            Of all, each array its own.
        rows : (n_streams,)
            Which they are, each at most once.
        """
        if self._native is not None:
            given = facts.whole if raw is None else look_at(raw, valid).whole
            of = values if raw is None else raw
            found = self._native.step(of, valid, facts.whole, facts.together, state, rows, given=given)
            if found is not None:
                return SensorHealth.of(*found)
        health, after = self.step(values, valid, take_rows(state, rows), facts=facts, raw=raw)
        write_rows(state, rows, after)
        return health

    def learn_from(self, sensor_u: F64, state: HealthState, rows: NDArray[np.intp]) -> None:
        """Take in how unusual the hop was that ``advance`` has just looked at, as ``learn`` does."""
        if self._native is None or not self._native.learn(sensor_u, state, rows):
            write_rows(state, rows, self.learn(sensor_u, take_rows(state, rows)))

    def learn(self, sensor_u: F64, state: HealthState) -> HealthState:
        """Take in how unusual the hop just looked at was; without it nothing is ever found shifted.

        Parameters
        ----------
        sensor_u : (n_streams, n_sensors)
            ``Unusualness.sensor``; ``UNSCORED`` where nobody knows.
        """
        slow, persist = np.exp(-self._hop_s / _USUAL_S), np.exp(-self._hop_s / _PERSIST_S)
        known = sensor_u > UNSCORED
        odd = sensor_u > _UNUSUAL
        usual = known & ~odd
        mixed = slow * state.usual_gravity + (1 - slow) * state.last
        return replace(
            state,
            usual_gravity=np.where(usual[..., None], mixed, state.usual_gravity),
            usual_weight=np.where(usual, slow * state.usual_weight + (1 - slow), state.usual_weight),
            unusual=np.where(known, persist * state.unusual + (1 - persist) * odd, state.unusual),
        )

    def repair(
        self, values: F32, valid: Mask, saturated: Mask, health: SensorHealth
    ) -> tuple[F32, Mask, Mask, Mask | None]:
        """Return a hop as the model shall see it: values, valid, saturated, and which channels it may use, if not all.

        Sides that are surely exchanged are exchanged back; sensors that are ``out`` may not be used, nor a held axis.
        """
        used = None if health.is_fine else ~health.hidden(self._widths.astype(np.int64))
        for rows, there, back in self._exchanges(health):
            values, valid, saturated = (part.copy() for part in (values, valid, saturated))
            for part in (values, valid, saturated):
                part[np.ix_(rows, np.arange(self._hop), there)] = part[np.ix_(rows, np.arange(self._hop), back)]
            if used is not None:
                used[np.ix_(rows, there)] = used[np.ix_(rows, back)]
        return values, valid, saturated, used

    def leaves(self, health: SensorHealth) -> bool:
        """Whether ``repair`` would change nothing of a hop."""
        if (health.swapped >= 1).any() or health.held.any():
            return False
        return health.is_fine or not bool(health.out.any())

    def repair_facts(self, facts: HopFacts, health: SensorHealth) -> HopFacts:
        """Return the facts of a hop after ``repair``."""
        for rows, there, back in self._exchanges(health):
            facts = facts.exchanged(rows, there, back)
        return facts

    def _exchanges(self, health: SensorHealth) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
        """Yield which streams' channels are to be taken from which others."""
        for k in (*self._sides, *self._alike_sides):
            a, b = (self._groups[i] for i in self._pairs[k])
            rows = np.flatnonzero(health.swapped[:, self._pairs[k][0]] >= 1)
            if len(rows):
                yield rows, np.r_[a, b], np.r_[b, a]

    def _health(self, state: HealthState, repeated: F64, held: F64) -> SensorHealth:
        swapped = np.zeros(state.n_still.shape)
        doubt, belief = _SWAP_LIMITS
        known = state.side_weight > 1 - np.exp(-_SWAP_AFTER_S / _SWAP_S)
        towards = state.side / np.maximum(state.side_weight, 1e-9)
        for k in self._sides:
            sign = np.where(known[:, k], _within((doubt - towards[:, k]) / (doubt - belief), 0, 1), 0.0)
            for sensor in self._pairs[k]:
                swapped[:, sensor] = sign
        twin, copy = self._twin(state)
        lain = np.maximum(state.n_still * (self._hop_s / _STILL_S), state.n_lone * (self._hop_s / _LONE_S))
        units, unturned, acc_m_s2, gyr_rad_s = self._plausibility.against(state.n_strange, state.strength)
        return SensorHealth(
            repeated=repeated,
            clipped=state.clipped.copy(),  # a state may be written to later
            off_body=_within(1.5 * lain - 0.5, 0, 1),
            units=units,
            swapped=swapped,
            shifted=self._shifted(state),
            still_s=state.n_still.astype(np.float64) * self._hop_s,
            unturned=unturned,
            acc_m_s2=acc_m_s2,
            gyr_rad_s=gyr_rad_s,
            held=held,
            twin=twin,
            copy=copy,
        )

    def _likeness(self, facts: HopFacts) -> F64:
        weight = self._inverse_unit**2
        power = np.add.reduceat(facts.power * weight, self._starts, axis=1)
        likeness = np.zeros((len(power), len(self._pairs), 2))
        for k, (a, b) in enumerate(self._pairs):
            shared = facts.shared[k] * weight[self._groups[a]]
            both = power[:, a] + power[:, b]
            likeness[:, k, 0], likeness[:, k, 1] = both - 2 * shared.sum(axis=1), both
        return likeness

    def _twin(self, state: HealthState) -> tuple[NDArray[np.int64], Mask]:
        twin = np.full(state.n_still.shape, -1, np.int64)
        copy = np.zeros(twin.shape, bool)
        difference, both = np.moveaxis(state.likeness.sum(axis=1), 2, 0)
        n = self._hop * self._n_alike
        belongs = state.belongs / np.maximum(state.side_weight, 1e-9)
        for k, (a, b) in enumerate(self._pairs):
            enough = both[:, k] > 2 * n * self._widths[a] * _MOVES**2
            same = enough & (difference[:, k] < _TWIN * both[:, k])
            equal = (state.marks[:, a] == state.marks[:, b]) & (state.marks[:, a] != 0)
            same |= equal.mean(axis=1) > _TWIN_EQUAL
            twin[same, a], twin[same, b] = b, a
            copy[:, a] |= same & (belongs[:, k] < _FITS)
            copy[:, b] |= same & (belongs[:, k] > -_FITS)
        return twin, copy

    def _still(self, spread: F32, heard: Mask, state: HealthState) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        still = np.logical_and.reduceat(spread < self._still_limit, self._starts, axis=1)
        moves = np.add.reduceat(spread * self._inverse_unit, self._starts, axis=1) / self._widths
        n_still = np.where(still, state.n_still + 1, 0)
        # itself it does not move: what moves most is another one
        most = moves.max(axis=1, keepdims=True)
        n_lone = np.where(still, state.n_lone + (most > _MOVES) + 3 * (most > _SHAKES), 0)
        # while nothing is heard of it, nothing is known either
        return np.where(heard, n_still, state.n_still), np.where(heard, n_lone, state.n_lone)

    def _side(self, level: F32, heard: Mask, state: HealthState) -> tuple[F64, F64, F64]:
        side, weight, belongs = state.side.copy(), state.side_weight.copy(), state.belongs.copy()
        keep = np.exp(-self._hop_s / _SWAP_S)
        for k, (a, b) in enumerate(self._pairs):
            if self._apart[k] < _SWAP_APART:
                continue
            first = self._distance(level, a, b) - self._distance(level, a, a)
            second = self._distance(level, b, a) - self._distance(level, b, b)
            both = heard[:, a] & heard[:, b]
            for sums, now in ((side, (first + second) / 2), (belongs, first), (weight, self._apart[k])):
                mean = _within(now / self._apart[k], -2.0, 2.0)
                sums[:, k] = np.where(both, keep * sums[:, k] + (1 - keep) * mean, sums[:, k])
        return side, weight, belongs

    def _distance(self, level: F32, sensor: int, like: int) -> F64:
        """Return (n,): squared distance of a sensor's acceleration from the usual one of another, in scales."""
        own, usual = self._acc[sensor], self._acc[like]
        distance: F64 = np.square((level[:, own] - self._center[usual]) / self._unit[usual]).sum(axis=1)
        return distance

    def _levels_apart(self, a: int, b: int) -> float:
        if not (self._has_gravity[a] and self._has_gravity[b]):
            return 0.0
        own, other = self._acc[a], self._acc[b]
        return float(np.square((self._center[own] - self._center[other]) / self._unit[own]).sum())

    def _gravity(self, level: F32, heard: Mask, state: HealthState) -> tuple[F64, F64]:
        quick = np.exp(-self._hop_s / _LEVEL_S)
        last = np.zeros_like(state.last)
        for i, columns in enumerate(self._acc):
            if self._has_gravity[i]:
                last[:, i] = level[:, columns]
        last = np.where(heard[..., None], last, state.last)
        return np.where(heard[..., None], quick * state.gravity + (1 - quick) * last, state.gravity), last

    def _shifted(self, state: HealthState) -> F64:
        low, high = _PERSIST_LIMITS
        lasting = _within((state.unusual - low) / (high - low), 0, 1)  # of a full memory: never at once
        product = (state.gravity * state.usual_gravity).sum(axis=2)
        length = np.linalg.norm(state.gravity, axis=2) * np.linalg.norm(state.usual_gravity, axis=2)
        turned = product < _TURNED * length
        never_usual = state.usual_weight < 1 - np.exp(-_NEVER_S / _USUAL_S)  # worn otherwise from the start
        shifted: F64 = np.where((turned | never_usual) & self._has_gravity, lasting, 0.0)
        return shifted


def _other_side(name: str) -> str:
    stem, _, side = name.rpartition("_")
    return f"{stem}_right" if side == "left" else ""


def _within(x: F64, low: float, high: float) -> Any:
    return np.minimum(np.maximum(x, low), high)  # of few numbers, half as dear as np.clip


def _push(ring: NDArray[Any], row: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([ring[:, 1:], row[:, None]], axis=1)
