"""The memory: how far the last stretch of the stream is from the nearest stretch seen before.

Choices
-------
* Patches of ``length`` samples, standardised by the prefix, compared by root mean square: no training, and repeating
  patterns need no model. Every ``stride``-th patch of the prefix is kept, more sparsely where there is no room.
* The memory may go on learning (``learns``): a pattern surprises once. For anomalies that come back in the same form
  (freezing of gait) it must not. A patch enters only if it was new, and when it is old enough to belong to nothing that
  still goes on. Half of the memory belongs to the prefix for good; the other half forgets its oldest.
* The memory changes at fixed positions of the stream, every 64 samples, so that chunking changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinedge.errors import ConfigError
from kinedge.training.detectors.interface import Detector, Standardisation, State, blocks, checked_samples, restored

__all__ = ["PatchConfig", "PatchDetector"]

F64 = NDArray[np.float64]
_REFRESH: Final = 64


@dataclass(frozen=True)
class PatchConfig:
    """Shape of the memory.

    Parameters
    ----------
    length
        Of a patch, samples; 1 compares instants.
    columns
        Channels that count; None for all.
    stride
        Samples from one stored patch to the next, at least.
    budget
        Numbers the memory may hold.
    learns
        Whether it takes in what it sees after the prefix.
    delay
        Samples before a patch may enter the memory; at least ``length``. Longer than an anomaly lasts, or it would
        learn the beginning of one before its end.
    clip, unit
        Of normalised samples; scale of channels that are constant in the prefix.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    length: int = 32
    columns: tuple[int, ...] | None = None
    stride: int = 4
    budget: int = 48_000
    learns: bool = True
    delay: int = 32
    clip: float = 50.0
    unit: float = 0.02

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 4096 or self.stride < 1 or self.budget < 1:
            raise ConfigError(f"patches need a length of 1 to 4096, and stride and budget of at least 1, got {self}")
        if self.delay < self.length:
            raise ConfigError(f"a patch of {self.length} samples enters after {self.delay}: it would match itself")
        if min(self.clip, self.unit) <= 0:
            raise ConfigError(f"clip and unit of patches must be above 0, got {self.clip} and {self.unit}")
        if self.columns is not None and (not self.columns or min(self.columns) < 0):
            raise ConfigError(f"columns of patches are {self.columns}; give numbers of channels from 0 on, or none")


class PatchDetector(Detector):
    """Distance to the nearest stored patch, per sample, in deviations of the prefix."""

    def __init__(self, config: PatchConfig = PatchConfig()) -> None:
        self.config = config
        self._n_channels = 0

    def fit(self, prefix: ArrayLike) -> F64:
        """Fill the memory from a prefix (n, C); its scores leave out the neighbourhood of each patch."""
        cfg = self.config
        x = checked_samples(prefix, at_least=2 * cfg.length + 16)
        self._n_channels = x.shape[1]
        self._columns = list(range(self._n_channels)) if cfg.columns is None else list(cfg.columns)
        if max(self._columns) >= self._n_channels:
            raise ConfigError(f"columns of patches are {cfg.columns}, but there are {self._n_channels} channels")
        self._standard = Standardisation.fit(x[:, self._columns], clip=cfg.clip, unit=cfg.unit)
        size = cfg.length * len(self._columns)
        room = max(2, cfg.budget // size)
        z, _ = self._standard.apply(x[:, self._columns])
        patches = self._patches(z)
        n_fixed = room // 2 if cfg.learns else room
        ends = np.arange(0, len(patches), max(cfg.stride, -(-len(patches) // n_fixed)))
        self._memory = patches[ends]
        self._n_slots = len(ends) + (room - n_fixed if cfg.learns else 0)
        unseen = np.concatenate(
            [
                self._distance(patches[a : a + _REFRESH], self._memory, not_near=ends, first=a)
                for a in range(0, len(patches), _REFRESH)
            ]
        )
        self._usual = float(np.median(unseen))
        self._reset()
        # Before the first whole patch nothing can be compared.
        return np.concatenate([np.zeros(cfg.length - 1), unseen])

    def _reset(self) -> None:
        cfg, size = self.config, self._memory.shape[1]
        self._state: State = {
            "past": np.zeros((cfg.length - 1, len(self._columns))),
            "learned": np.zeros((self._n_slots - len(self._memory), size)),
            "waiting": np.zeros((0, size)),
            "waiting_ends": np.zeros(0, dtype=np.int64),
            "n_seen": np.zeros(1, dtype=np.int64),
            "n_learned": np.zeros(1, dtype=np.int64),
        }

    def _patches(self, z: F64) -> F64:
        """Return (n - length + 1, length * C) of (n, C)."""
        windows = np.lib.stride_tricks.sliding_window_view(z, self.config.length, axis=0)
        return windows.reshape(len(windows), -1)

    def _distance(self, patches: F64, known: F64, *, not_near: NDArray[np.int64] | None = None, first: int = 0) -> F64:
        """Return the root mean square difference to the nearest of some stored patches; 0 if none may be compared."""
        square = (patches**2).sum(axis=1)[:, None] + np.einsum("ij,ij->i", known, known) - 2 * patches @ known.T
        if not_near is not None:
            near = np.abs(first + np.arange(len(patches))[:, None] - not_near) < self.config.length
            square[near] = np.inf
        nearest = square.min(axis=1)
        nearest[np.isinf(nearest)] = 0.0
        return np.asarray(np.sqrt(np.maximum(nearest, 0.0) / known.shape[1]))

    def step(self, x: ArrayLike) -> F64:
        """Take (n, C), return distances (n,)."""
        values = checked_samples(x, n_channels=self._n_channels)
        n_seen = int(self._state["n_seen"][0])
        cuts = blocks(n_seen, len(values), size=_REFRESH)
        parts = [self._step(values[a:b][:, self._columns]) for a, b in cuts]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _step(self, x: F64) -> F64:
        cfg, state = self.config, self._state
        first = int(state["n_seen"][0])
        if cfg.learns and first % _REFRESH == 0:
            self._learn(first)
        z, _ = self._standard.apply(x)
        seen = np.concatenate([state["past"], z])
        patches = self._patches(seen)
        distance = self._distance(patches, self._memory)
        n_learned = min(int(state["n_learned"][0]), len(state["learned"]))
        if n_learned:
            distance = np.minimum(distance, self._distance(patches, state["learned"][:n_learned]))
        distance[: max(0, cfg.length - 1 - first)] = 0.0
        ends = first + np.arange(len(x))
        if cfg.learns:
            new = (ends % cfg.stride == 0) & (distance > self._usual)
            state["waiting"] = np.concatenate([state["waiting"], patches[new]])
            state["waiting_ends"] = np.concatenate([state["waiting_ends"], ends[new]])
        state["past"] = seen[len(seen) - cfg.length + 1 :]
        state["n_seen"] = np.array([first + len(x)], dtype=np.int64)
        return distance

    def _learn(self, now: int) -> None:
        """Take in the waiting patches that are old enough."""
        state = self._state
        ripe = state["waiting_ends"] < now - self.config.delay
        slots = len(state["learned"])
        for patch in state["waiting"][ripe]:
            state["learned"][int(state["n_learned"][0]) % slots] = patch
            state["n_learned"] += 1
        state["waiting"], state["waiting_ends"] = state["waiting"][~ripe], state["waiting_ends"][~ripe]

    @property
    def state(self) -> State:
        """The running part of the memory, what waits to enter it, past samples, counts."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        old, new = (
            {k: v[:0] if k.startswith("waiting") else v for k, v in parts.items()} for parts in (self._state, state)
        )
        restored(old, new)  # how many patches wait is no matter of shape
        self._state = {name: value.copy() for name, value in state.items()}

    @property
    def n_parameters(self) -> int:
        """All slots of the memory, and two numbers per channel."""
        return self._n_slots * self.config.length * len(self._columns) + 2 * len(self._columns) + 1
