"""Samples of one sensor of many people until their hop is final; what a burst brings beyond that waits in chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "Buffers", "Chunk"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

NEVER: Final = -(2**62)
_SPARE: Final = 16  # samples that a buffer holds beyond what it must


@dataclass(slots=True, eq=False)
class Chunk:
    """Samples that wait: host time (n,), values, valid and saturated (n, n_channels)."""

    time: I64
    values: F32
    valid: Mask
    saturated: Mask

    def rest(self, start: int) -> Chunk:
        """Return the samples from ``start`` on."""
        return Chunk(self.time[start:], self.values[start:], self.valid[start:], self.saturated[start:])


class Buffers:
    """What one sensor of everybody has sent and ticks still need: the oldest sample of a person in slot 0."""

    def __init__(self, n_channels: int, span_ns: int) -> None:
        self.n_channels = n_channels
        self._span_ns = span_ns
        self.n_slots = 1  # until an interval is known
        self.n: list[int] = []  # plain lists: they are read and written one by one, with every chunk
        self.last_ns: list[int] = []
        self.interval_ns: list[int] = []
        self.width: list[int] = []
        self.n_late: list[int] = []
        self.waiting: dict[int, deque[Chunk]] = {}
        self._use(
            np.zeros((0, 1), np.int64),
            np.zeros((0, 1, n_channels), np.float32),
            np.zeros((0, 1, n_channels), bool),
            np.zeros((0, 1, n_channels), bool),
        )

    @property
    def arrays(self) -> tuple[I64, F32, Mask, Mask]:
        """Time (n_people, n_slots), and values, valid, saturated with channels behind."""
        return self.time, self.values, self.valid, self.saturated

    def _use(self, time: I64, values: F32, valid: Mask, saturated: Mask) -> None:
        self.time, self.values, self.valid, self.saturated = time, values, valid, saturated
        # one index is found faster than two
        self._flat_time = time.reshape(-1)
        self._flat_values, self._flat_valid, self._flat_saturated = self.flat

    @property
    def flat(self) -> tuple[F32, Mask, Mask]:
        """Values, valid and saturated with the slots of all people in one row."""
        c = self.n_channels
        return self.values.reshape(-1, c), self.valid.reshape(-1, c), self.saturated.reshape(-1, c)

    def rearrange(self, people: Sequence[int]) -> None:
        """Let row ``i`` be that of the former row ``people[i]``, or of somebody new where that is negative."""
        kept = [i for i, old in enumerate(people) if old >= 0]
        before = [people[i] for i in kept]

        def moved(old: NDArray[Any]) -> NDArray[Any]:
            new = np.zeros((len(people), *old.shape[1:]), old.dtype)
            new[kept] = old[before]
            return new

        self._use(*(moved(a) for a in self.arrays))
        self.waiting = {people.index(p): chunks for p, chunks in self.waiting.items() if p in people}
        for name, value in (("n", 0), ("last_ns", NEVER), ("interval_ns", 0), ("width", 1), ("n_late", 0)):
            numbers = getattr(self, name)
            setattr(self, name, [value if old < 0 else numbers[old] for old in people])

    def clear(self, person: int) -> None:
        """Forget what a person has sent."""
        self.n[person], self.last_ns[person] = 0, NEVER
        self.waiting.pop(person, None)

    def set_interval(self, person: int, interval_ns: int, width: int) -> None:
        """Take another sample interval, and make room for a hop of it; ``width`` samples are averaged per tick."""
        self.interval_ns[person], self.width[person] = interval_ns, width
        needed = -(-self._span_ns // interval_ns) + 4 * width + _SPARE
        if needed > self.n_slots:
            self._resize(needed)

    def put(self, person: int, time: I64, values: F32, valid: Mask, saturated: Mask) -> bool:
        """Copy samples; False, and nothing copied, if there is no room or others wait for it."""
        start = self.n[person]
        end = start + len(time)
        if end > self.n_slots or person in self.waiting:
            return False
        self.n[person] = end
        own = slice(person * self.n_slots + start, person * self.n_slots + end)
        self._flat_time[own] = time
        self._flat_values[own] = values
        self._flat_valid[own] = valid
        self._flat_saturated[own] = saturated
        return True

    def let_in(self, person: int) -> None:
        """Copy what waits, as far as there is room."""
        chunks = self.waiting.pop(person)
        while chunks and (room := self.n_slots - self.n[person]):
            chunk = chunks.popleft()
            self.put(person, chunk.time[:room], chunk.values[:room], chunk.valid[:room], chunk.saturated[:room])
            if len(chunk.time) > room:
                chunks.appendleft(chunk.rest(room))
        if chunks:
            self.waiting[person] = chunks

    def ends(self, person: int) -> tuple[int, int] | None:
        """Return of when the first and the last average are; None before there is one."""
        n, width = self.n[person], self.width[person]
        if n < width:
            return None
        time = self.time[person]
        first, last = int(time[0]), int(time[n - width])
        if width == 1:
            return first, last
        return first + (int(time[width - 1]) - first) // 2, last + (int(time[n - 1]) - last) // 2

    def drop_before(self, people: Rows, time_ns: I64) -> None:
        """Forget samples that no tick at or after these times (n_people,) can need, and move the others up."""
        n = np.array([self.n[p] for p in people.tolist()], np.int64)
        margin = np.array([2 * (self.width[p] - 1) for p in people.tolist()], np.int64)
        held = np.arange(self.n_slots) < n[:, None]
        n_past = (held & (self.time[people] <= time_ns[:, None])).sum(axis=1)
        gone = np.maximum(n_past - 1 - margin, 0)
        left = n - gone
        most = int(left.max(initial=0))
        slots = people[:, None] * self.n_slots + np.minimum(gone[:, None] + np.arange(most), self.n_slots - 1)
        for array in self.arrays:
            array[people, :most] = array.reshape(-1, *array.shape[2:]).take(slots, axis=0)
        for person, rest in zip(people.tolist(), left.tolist(), strict=True):
            self.n[person] = rest

    def _resize(self, n_slots: int) -> None:
        def grown(old: NDArray[Any]) -> NDArray[Any]:
            new = np.zeros((len(self.n), n_slots, *old.shape[2:]), old.dtype)
            new[: old.shape[0], : old.shape[1]] = old
            return new

        self._use(*(grown(a) for a in self.arrays))
        self.n_slots = n_slots
