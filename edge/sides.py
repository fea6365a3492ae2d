"""Whether left and right are exchanged, told by the forecaster itself: which of both ways surprises it less.

Sensors that sit the same way on both sides have the same usual levels, and nothing in one hop tells left from right. A
forecaster of all channels together knows: a left foot that swings while the trunk turns as for the right one surprises
it. So while it is not known which way the sensors of a pair were put on, a second forecast runs beside the first, with
the two exchanged, and the difference of both surprises is gathered over the time in which both sensors move.

* It soon speaks for the names: the second forecast ends. Sides change when sensors are put on and at no other time, so
  that a change of movement later is not taken for an exchange. It begins again once both sensors were off the body, or
  silent for long.
* It speaks for neither, for a minute of moving: this forecaster cannot tell, and nothing is said.
* It speaks against them: ``swapped`` of both sensors' health grows, and once it is sure the hops are exchanged back
  (:mod:`kinedge.edge.reliability`). Then the second forecast, which has seen them so all along, becomes the first.

Who sits still tells nothing: the second forecast pauses, as it does while one of both is not heard. Pairs whose usual
levels are apart are told by these, without it. Like everything here it depends on whole hops of one stream alone, and
is a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Manifest
from kinedge.edge.engine import Engine, EngineState, Surprise
from kinedge.edge.hop_facts import HopFacts
from kinedge.edge.sensor_health import SensorHealth

__all__ = ["SideWatch", "SidesState"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_MOVES: Final = 0.1  # of a channel's scale, mean over channels: that sensor moves
_CLEAR: Final = 0.1  # nats per sample and channel: from there on a hop counts whole
_OWN_S: Final = 3.0  # of moving: by then it is known that they are as named
_DOUBT_S: Final = 0.5
_EXCHANGED_S: Final = 4.0
_LONGEST_S: Final = 60.0  # of moving: a forecaster that knows nothing by then is one that cannot tell
_SILENT_S: Final = 60.0  # long enough to put a sensor on anew
_PAUSE_S: Final = 10.0  # without movement, and the second forecast pauses
_NONE: Final = -1


@dataclass(frozen=True, eq=False)
class SidesState:
    """What is known of the sides; streams are the first axis of every array.

    Parameters
    ----------
    evidence : (n, n_pairs)
        Seconds of moving that speak for the names; below 0 against them.
    looked_s : (n, n_pairs)
        Seconds of moving that were looked at.
    exchanged : (n, n_pairs) bool
        The hops of these pairs are exchanged back.
    away : (n, n_pairs, 2) bool
        The sensor was off the body, or silent for long, since this was known.
    silent_s : (n, n_pairs, 2)
        For how long nothing was heard of it.
    still_s : (n, n_pairs)
        Since both sensors moved.
    pair : (n,)
        Which one the second forecast has exchanged, -1 while there is none.
    model, mu, log_sigma, held, held_age, n_seen
        Of the second forecast: see ``EngineState``. Without anything in them where the model has no such pair.
    """

    evidence: F64
    looked_s: F64
    exchanged: Mask
    away: Mask
    silent_s: F64
    still_s: F64
    pair: NDArray[np.int64]
    model: F32
    mu: F32
    log_sigma: F32
    held: F32
    held_age: NDArray[np.int32]
    n_seen: NDArray[np.int64]

    @cached_property
    def engine(self) -> EngineState:
        """The state of the second forecast: these very arrays."""
        return EngineState(self.model, self.mu, self.log_sigma, self.held, self.held_age, self.n_seen)


class SideWatch:
    """Watches which way the pairs of a model were put on.

    Parameters
    ----------
    manifest
        Of the model.
    engine
        Whose backend makes the second forecast, too.
    pairs
        Sensors with the same channels on both sides of the body that nothing else tells apart.
    """

    def __init__(self, manifest: Manifest, engine: Engine, pairs: Sequence[tuple[int, int]]) -> None:
        self._pairs = list(pairs)
        self._engine = Engine(manifest, engine.backend)  # its own memory: the first forecast is still read
        widths = [s.n_channels for s in manifest.sensor_specs]
        edges = np.concatenate([[0], np.cumsum(widths)])
        columns = [np.arange(edges[i], edges[i + 1]) for i in range(len(widths))]
        self._starts, self._widths = edges[:-1], np.array(widths, np.float64)
        self._hop, self._hop_s = manifest.hop, manifest.hop / manifest.rate_hz
        scale = np.array(manifest.scale)
        for a, b in self._pairs:
            scale[columns[a]] = scale[columns[b]] = (scale[columns[a]] + scale[columns[b]]) / 2
        self._inverse_unit: F32 = (1 / scale).astype(np.float32)
        self._order = []  # of the channels with a pair exchanged
        for a, b in self._pairs:
            order = np.arange(edges[-1])
            order[columns[a]], order[columns[b]] = columns[b], columns[a]
            self._order.append(order)

    def initial_state(self, n_streams: int) -> SidesState:
        """Return the state of streams of which nothing is known."""
        n, p = n_streams, len(self._pairs)
        engine = self._engine.initial_state(n)
        parts = {f.name: getattr(engine, f.name) for f in fields(engine)}
        if not p:
            parts = {name: np.zeros((n, 0), array.dtype) for name, array in parts.items()}
        return SidesState(
            evidence=np.zeros((n, p)),
            looked_s=np.zeros((n, p)),
            exchanged=np.zeros((n, p), bool),
            away=np.zeros((n, p, 2), bool),
            silent_s=np.zeros((n, p, 2)),
            still_s=np.full((n, p), _PAUSE_S),
            pair=np.full(n, _NONE, np.int64),
            **parts,
        )

    @property
    def watches(self) -> bool:
        """Whether there is any pair to watch."""
        return bool(self._pairs)

    def tell(self, health: SensorHealth, state: SidesState, rows: Rows) -> SensorHealth:
        """Return the health of some streams with what is known of their sides."""
        if not self._pairs or not ((state.evidence[rows] < -_DOUBT_S) | state.exchanged[rows]).any():
            return health
        swapped = health.swapped.copy()
        for k, pair in enumerate(self._pairs):
            against = -state.evidence[rows, k]
            doubt = np.clip((against - _DOUBT_S) / (_EXCHANGED_S - _DOUBT_S), 0, 1 - 1e-9)
            found = np.where(state.exchanged[rows, k], 1.0, doubt)
            for sensor in pair:
                swapped[:, sensor] = np.maximum(swapped[:, sensor], found)
        return replace(health, swapped=swapped)

    def advance(
        self,
        values: F32,
        seen: Mask,
        surprise: Surprise,
        state: SidesState,
        rows: Rows,
        *,
        facts: HopFacts,
        health: SensorHealth,
        first: EngineState,
        first_rows: Rows,
    ) -> None:
        """Take one hop of some streams, as the first forecast saw it; ``state`` and ``first`` are written to.

        Parameters
        ----------
        values, seen, surprise
            What the first forecast saw, and how it was surprised.
        state, rows
            Of all streams, and which these are.
        facts, health
            Of this hop as the sensors are named, before any exchange.
        first, first_rows
            The state of the first forecast after the hop, and which of its rows these streams are.
        """
        if not self._pairs:
            return
        pairs = np.array(self._pairs)
        heard = (np.minimum.reduceat(facts.n_valid, self._starts, axis=1) >= self._hop // 4)[:, pairs]
        spread = np.sqrt(facts.power / np.maximum(facts.n_valid, 1)) * self._inverse_unit
        of_sensor: Mask = np.add.reduceat(spread, self._starts, axis=1) / self._widths > _MOVES
        moves: Mask = np.asarray(of_sensor[:, pairs].all(axis=2))
        state.still_s[rows] = np.where(moves, 0.0, np.minimum(state.still_s[rows] + self._hop_s, _PAUSE_S))
        self._look_for_new_places(state, rows, heard, health.off_body[:, pairs] >= 1)
        pair = self._choose(state, rows, np.asarray(heard.all(axis=2)))
        for k in range(len(self._pairs)):
            if len(at := np.flatnonzero(pair == k)):
                self._compare(k, at, values, seen, surprise, state, rows[at], moves[at, k], first, first_rows[at])

    def _look_for_new_places(self, state: SidesState, rows: Rows, heard: Mask, off_body: Mask) -> None:
        """Forget the sides of pairs whose sensors both were taken off."""
        silent = np.where(heard, 0.0, state.silent_s[rows] + self._hop_s)
        away: Mask = state.away[rows] | off_body | (silent >= _SILENT_S)
        anew: Mask = np.asarray(away.all(axis=2))
        state.silent_s[rows] = np.minimum(silent, _SILENT_S)
        if anew.any():
            away[anew] = False
            for part in (state.evidence, state.looked_s):
                part[rows] = np.where(anew, 0.0, part[rows])
            state.exchanged[rows] &= ~anew
            state.pair[rows[anew.any(axis=1)]] = _NONE
        state.away[rows] = away

    def _choose(self, state: SidesState, rows: Rows, heard: Mask) -> NDArray[np.int64]:
        """Return which pair of each stream is looked at: one that is not known, else one that is exchanged, or none."""
        exchanged: Mask = state.exchanged[rows]
        can: Mask = heard & (state.still_s[rows] < _PAUSE_S)
        unknown: Mask = (state.evidence[rows] < _OWN_S) & (state.looked_s[rows] < _LONGEST_S) & ~exchanged & can
        among: Mask = np.where(unknown.any(axis=1, keepdims=True), unknown, exchanged & can)
        pair: NDArray[np.int64] = np.where(among.any(axis=1), among.argmax(axis=1), _NONE)
        begins = rows[pair != state.pair[rows]]
        if len(begins):
            for part in (state.n_seen, state.held, state.held_age):
                part[begins] = 0
            state.pair[rows] = pair
        return pair

    def _compare(
        self,
        k: int,
        at: Rows,
        values: F32,
        seen: Mask,
        surprise: Surprise,
        state: SidesState,
        own: Rows,
        moves: Mask,
        first: EngineState,
        first_own: Rows,
    ) -> None:
        """Forecast some streams with a pair exchanged, and weigh both; ``own`` and ``first_own`` are their rows."""
        order = self._order[k]
        # a permutation of two sensors is its own inverse
        turned_values: F32 = np.ascontiguousarray(values[at][..., order])
        turned_seen: Mask = np.ascontiguousarray(seen[at][..., order])
        other = self._engine.advance(turned_values, turned_seen, state.engine, own)
        both = surprise.valid[at] & other.valid[..., order]
        n_both = both.sum(axis=(1, 2, 3))
        apart = np.where(both, other.nats[..., order] - surprise.nats[at], np.float32(0))
        more = apart.sum(axis=(1, 2, 3), dtype=np.float64) / np.maximum(n_both, 1)
        exchanged = state.exchanged[own, k]
        for_names = np.clip(more / _CLEAR, -1, 1) * np.where(exchanged, -1.0, 1.0)
        counts = moves & (n_both > 0)
        evidence = state.evidence[own, k] + np.where(counts, self._hop_s * for_names, 0.0)
        looked_s = np.minimum(state.looked_s[own, k] + np.where(moves, self._hop_s, 0.0), _LONGEST_S)
        evidence = np.clip(evidence, -_EXCHANGED_S, _OWN_S)
        cannot = ~exchanged & (looked_s >= _LONGEST_S) & (np.abs(evidence) < min(_OWN_S, _EXCHANGED_S))
        state.looked_s[own, k] = looked_s
        state.evidence[own, k] = evidence = np.where(cannot, 0.0, evidence)
        turned = np.flatnonzero(np.where(exchanged, evidence >= 0, evidence <= -_EXCHANGED_S))
        if len(turned):
            state.exchanged[own[turned], k] = ~exchanged[turned]
            mine, theirs = first_own[turned], own[turned]
            for f in fields(first):
                one, two = getattr(first, f.name), getattr(state, f.name)
                one[mine], two[theirs] = two[theirs], one[mine]
