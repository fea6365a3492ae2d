"""Samples of one sensor of many people until their hop is final.

What comes is only noted. When a person's hop is to be taken, the chunks of everybody who is due are mapped to host time
and copied in one step; what a burst brings beyond the room that a hop needs waits in its chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.edge import native
from kinedge.firmware_bridge.clock import Mapping
from kinedge.signals import ImuChunk

__all__ = ["HOST_TIME", "NEVER", "Buffers", "Chunk", "before_in_group", "host_time"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

NEVER: Final = -(2**62)
_SPARE: Final = 32  # samples that a buffer holds beyond what it must
HOST_TIME: Final[Mapping] = (0, 0, 0.0, 0.0, 0.0)  # of times that are host times already


Chunk: TypeAlias = tuple[I64, F32, Mask, Mask, Mapping]
"""Samples that wait: time (n,) as the mapping takes it; values, valid and saturated (n, n_channels). No time is behind
the base of the mapping, unless it is host time already. A plain tuple, as one is made of every chunk."""


def host_time(time: I64, base: Any, offset: Any, published: Any, slope: Any) -> I64:
    """Return host times (n,); what maps them is one number, or one for each. The bits are those of ``to_host_ns``."""
    since = (time - base).astype(np.float64)
    since *= slope
    since += published
    host: I64 = np.rint(since, out=since).astype(np.int64)
    host += time
    host += offset
    return host


class Buffers:
    """What one sensor of everybody has sent and ticks still need: the oldest sample of a person in slot 0.

    Parameters
    ----------
    n_channels
        Of the sensor.
    span_ns
        That the slots hold.
    by_hops
        Whoever takes, takes no more than that: as much again may wait in chunks before somebody is ``full``.
    """

    def __init__(self, n_channels: int, span_ns: int, *, by_hops: bool) -> None:
        self.n_channels = n_channels
        self._span_ns = span_ns
        self._by_hops = by_hops
        self.n_slots = self.most_held = 1  # until an interval is known
        self.n: I64 = np.zeros(0, np.int64)  # in their slots
        self._number(*(np.zeros(0, np.int64) for _ in range(4)))
        self.n_late: list[int] = []
        self.chunks: list[list[Chunk]] = []
        self.waiting: set[int] = set()  # people who have chunks
        self.full: set[int] = set()  # people whose chunks have no room until a hop is taken
        self.averaged = False  # anybody's samples are averaged
        self.some_invalid = self.some_saturated = False  # of all slots; else nothing need be copied
        self._use(
            np.zeros((0, 1), np.int64),
            np.zeros((0, 1, n_channels), np.float32),
            np.ones((0, 1, n_channels), bool),
            np.zeros((0, 1, n_channels), bool),
        )

    def _number(self, held: I64, last: I64, interval: I64, widths: I64) -> None:
        """Keep these numbers of each person; a view of bytes is read and written one by one as fast as a list is."""
        self.held, self.last, self.interval, self.widths = held, last, interval, widths
        self._slots: native.Slots | None = None
        self.n_held, self.last_ns = held.data, last.data  # of slots and chunks
        self.interval_ns, self.width = interval.data, widths.data

    def _use(self, time: I64, values: F32, valid: Mask, saturated: Mask) -> None:
        self.time, self.values, self.valid, self.saturated = time, values, valid, saturated
        self._slots = None

    @property
    def slots(self) -> native.Slots:
        """Where all of it lies."""
        if self._slots is None:
            self._slots = native.Slots.of(
                self.time,
                self.n,
                self.held,
                self.last,
                self.interval,
                self.widths,
                self.values,
                self.valid,
                self.saturated,
            )
        return self._slots

    @property
    def flat(self) -> tuple[F32, Mask, Mask]:
        """Values, valid and saturated with the slots of all people in one row."""
        c = self.n_channels
        return self.values.reshape(-1, c), self.valid.reshape(-1, c), self.saturated.reshape(-1, c)

    def rearrange(self, people: Sequence[int]) -> None:
        """Let row ``i`` be that of the former row ``people[i]``, or of somebody new where that is negative."""
        kept = [i for i, old in enumerate(people) if old >= 0]
        before = [people[i] for i in kept]

        def moved(old: NDArray[Any], blank: Any = 0) -> NDArray[Any]:
            new = np.full((len(people), *old.shape[1:]), blank, old.dtype)
            new[kept] = old[before]
            return new

        self._use(moved(self.time), moved(self.values), moved(self.valid, True), moved(self.saturated))
        self.n = moved(self.n)
        self._number(moved(self.held), moved(self.last, NEVER), moved(self.interval), moved(self.widths, 1))
        self.full = {new for new, old in enumerate(people) if old in self.full}
        self.chunks = [[] if old < 0 else self.chunks[old] for old in people]
        self.waiting = {person for person, chunks in enumerate(self.chunks) if chunks}
        self.n_late = [0 if old < 0 else self.n_late[old] for old in people]
        self.averaged = bool((self.widths > 1).any())

    def clear(self, person: int) -> None:
        """Forget what a person has sent."""
        self.n[person] = self.n_held[person] = 0
        self.last_ns[person] = NEVER
        self.chunks[person] = []
        self.waiting.discard(person)
        self.full.discard(person)

    def set_interval(self, person: int, interval_ns: int, width: int) -> None:
        """Take another sample interval, and make room for a hop of it; ``width`` samples are averaged per tick."""
        self.interval_ns[person] = interval_ns
        self.width[person] = width
        self.averaged = self.averaged or width > 1
        needed = -(-self._span_ns // interval_ns) + 4 * width + _SPARE
        if needed > self.n_slots:
            self._resize(needed)

    def let_in(self, people: Sequence[int], until_ns: Sequence[int] | None = None) -> None:
        """Map and copy what has come of some people, as far as there is room; make room for all up to a time."""
        if self.waiting.isdisjoint(people):
            return
        self._copy(people)
        if until_ns is None:
            return
        for person, until in zip(people, until_ns, strict=True):
            # slots are made for the nominal rate, and for those who have nothing old in them
            while self.chunks[person] and self.time[person, self.n[person] - 1] <= until:
                self._resize(2 * self.n_slots)
                self._copy((person,))

    def _copy(self, people: Iterable[int]) -> None:
        rows: list[int] = []
        found: list[list[Chunk]] = []
        cut: list[int] = []
        for person in people:
            chunks = self.chunks[person]
            if not chunks:
                continue
            if self.n_held[person] > self.n_slots or person in self.full:
                cut.append(person)
                continue
            self.chunks[person] = []
            self.waiting.discard(person)
            rows.append(person)
            found.append(chunks)
        self._write(rows, found)
        if cut:  # apart, so that the others' chunks are of one length, as they mostly are
            parts = {person: chunks for person in cut if (chunks := self._with_room(person))}
            self._write(list(parts), list(parts.values()))

    def _write(self, rows: list[int], found: list[list[Chunk]]) -> None:
        """Copy chunks to the slots of these people, behind what is there."""
        every = list(chain.from_iterable(found))
        if not every:
            return
        time, values, valid, saturated, mappings = zip(*every, strict=True)
        host_ns, lengths = _host_times(time, mappings)
        # where each person's samples go: behind those that are there
        row = np.array(rows, np.intp)
        n_chunks = np.fromiter(map(len, found), np.int64, len(found))
        n_new = np.add.reduceat(lengths, np.cumsum(n_chunks) - n_chunks)
        first = row * self.n_slots + self.n[row]
        slots = (first - np.cumsum(n_new) + n_new).repeat(n_new)
        slots += np.arange(len(slots))
        self.n[row] += n_new
        self._lay(slots, host_ns, *self._joined(values, valid, saturated))

    def lay(self, people: Rows, n_new: I64, starts: I64, host_ns: I64, chunks: Sequence[ImuChunk]) -> Mask:
        """Copy chunks straight to the slots, behind what is there, where nothing of their people is unusual.

        Parameters
        ----------
        people, n_new, starts : (n,)
            Whose each chunk is, how many samples it has, and where these begin in ``host_ns``; those of one person in
            their order.
        host_ns : (n_samples,) int64
            Of all of them, and maybe others.
        chunks
            What is in them.

        Returns
        -------
        (n,) bool
            Which were left: all of a person of whom one is of another interval, averaged, late, or without room, or for
            whom others wait.
        """
        intervals = np.array([c.interval_ns for c in chunks], np.int64)
        values, valid, saturated = self._joined(
            [c.values for c in chunks], [c.valid for c in chunks], [c.saturated for c in chunks]
        )
        plain = self._are_plain(people, n_new, intervals, host_ns[starts], host_ns[starts + n_new - 1])
        people, n_new, starts, rows = people[plain], n_new[plain], starts[plain], plain.repeat(n_new)
        if not len(people):
            return ~plain
        first = people * self.n_slots + self.n[people] + before_in_group(people, n_new)
        at = np.arange(int(n_new.sum()))
        begin = np.cumsum(n_new) - n_new
        times = host_ns[(starts - begin).repeat(n_new) + at]
        slots_at = (first - begin).repeat(n_new) + at
        np.add.at(self.n, people, n_new)
        np.add.at(self.held, people, n_new)
        np.maximum.at(self.last, people, host_ns[starts + n_new - 1])  # the last of each: they increase
        self._lay(slots_at, times, values[rows], *(None if a is None else a[rows] for a in (valid, saturated)))
        return ~plain

    def _are_plain(self, people: Rows, n_new: I64, intervals: I64, first_ns: I64, last_ns: I64) -> Mask:
        """Return (n,) of which people nothing is unusual."""
        plain: Mask = self.interval[people] == intervals
        plain &= self.widths[people] == 1
        held = self.n[people]
        plain &= self.held[people] == held
        held += before_in_group(people, n_new)
        held += n_new
        plain &= held <= self.n_slots
        order = np.argsort(people, kind="stable")
        same = people[order[1:]] == people[order[:-1]]
        before_ns = self.last[people]
        before_ns[order[1:][same]] = last_ns[order[:-1][same]]
        plain &= first_ns > before_ns
        if not plain.all():
            plain &= ~np.isin(people, people[~plain])
        return plain

    def _joined(
        self, values: Sequence[F32], valid: Sequence[Mask], saturated: Sequence[Mask]
    ) -> tuple[F32, Mask | None, Mask | None]:
        """Return what is in some chunks; None for valid and saturated where all are as all slots are."""
        # nearly always all are valid and none saturated, and so are all slots
        new_valid, new_saturated = np.concatenate(valid), np.concatenate(saturated)
        self.some_invalid = self.some_invalid or not new_valid.all()
        self.some_saturated = self.some_saturated or bool(new_saturated.any())
        return (
            np.concatenate(values),
            new_valid if self.some_invalid else None,
            new_saturated if self.some_saturated else None,
        )

    def _lay(self, slots: I64, host_ns: I64, values: F32, valid: Mask | None, saturated: Mask | None) -> None:
        self.time.reshape(-1)[slots] = host_ns
        all_values, all_valid, all_saturated = self.flat
        all_values[slots] = values
        if valid is not None:
            all_valid[slots] = valid
        if saturated is not None:
            all_saturated[slots] = saturated

    def _with_room(self, person: int) -> list[Chunk]:
        """Return, and no longer keep, the chunks that have room; the last one may be cut."""
        room = self.n_slots - int(self.n[person])
        left, now = self.chunks[person], []
        while left and room:
            chunk, n = left[0], len(left[0][0])
            if n > room:
                left[0] = _part(chunk, slice(room, None))
                chunk, n = _part(chunk, slice(0, room)), room
            else:
                del left[0]
            now.append(chunk)
            room -= n
        if not left:
            self.waiting.discard(person)
            self.full.discard(person)
        return now

    def first_from(self, person: int, time_ns: int) -> int | None:
        """Return of when the first sample at or after a time is, in the slots or in chunks."""
        in_slots = self.time[person, : self.n[person]]
        for host_ns in chain([in_slots], (host_time(c[0], *c[4][:4]) for c in self.chunks[person])):
            at = int(np.searchsorted(host_ns, time_ns))
            if at < len(host_ns):
                return int(host_ns[at])
        return None

    def ends(self, person: int) -> tuple[int, int] | None:
        """Return of when the first and the last average in the slots are; None before there is one."""
        n, width = int(self.n[person]), self.width[person]
        if n < width:
            return None
        time = self.time[person]
        first, last = int(time[0]), int(time[n - width])
        if width == 1:
            return first, last
        return first + (int(time[width - 1]) - first) // 2, last + (int(time[n - 1]) - last) // 2

    def forget_marks(self) -> None:
        """Note where all slots are valid, and none is saturated, again."""
        self.some_invalid = self.some_invalid and not self.valid.all()
        self.some_saturated = self.some_saturated and bool(self.saturated.any())

    def drop_before(self, people: Rows, time_ns: I64) -> None:
        """Forget samples that no tick at or after these times (n_people,) can need, and move the others up."""
        kept = np.zeros(len(people), np.int64)
        if self.averaged:
            kept[:] = [2 * (self.width[p] - 1) for p in people.tolist()]
        done = native.drop_before(
            self.slots, people, time_ns, kept, some_invalid=self.some_invalid, some_saturated=self.some_saturated
        )
        if not done:
            self._drop_before(people, time_ns, kept)
        self.forget_marks()

    def _drop_before(self, people: Rows, time_ns: I64, kept: I64) -> None:
        n = self.n[people]
        used = max(int(n.max(initial=0)), 1)
        past = self.time[people, :used] <= time_ns[:, None]
        past &= np.arange(used) < n[:, None]
        gone = np.count_nonzero(past, axis=1)
        gone -= 1
        gone -= kept
        np.maximum(gone, 0, out=gone)
        left = n - gone
        most = int(left.max(initial=0))
        slots = people[:, None] * self.n_slots + np.minimum(gone[:, None] + np.arange(most), self.n_slots - 1)
        self.time[people, :most] = self.time.reshape(-1).take(slots)
        self.values[people, :most] = self.values.reshape(-1, self.n_channels).take(slots, axis=0)
        if self.some_invalid:
            self.valid[people, :most] = self.valid.reshape(-1, self.n_channels).take(slots, axis=0)
            self.valid[people, most:] = True
        if self.some_saturated:
            self.saturated[people, :most] = self.saturated.reshape(-1, self.n_channels).take(slots, axis=0)
            self.saturated[people, most:] = False
        self.n[people] = left
        self.held[people] -= gone

    def _resize(self, n_slots: int) -> None:
        def grown(old: NDArray[Any], blank: Any = 0) -> NDArray[Any]:
            new = np.full((len(self.n), n_slots, *old.shape[2:]), blank, old.dtype)
            new[: old.shape[0], : old.shape[1]] = old
            return new

        self._use(grown(self.time), grown(self.values), grown(self.valid, True), grown(self.saturated))
        self.n_slots = n_slots
        self.most_held = n_slots << self._by_hops  # in slots and chunks, before a person is full


def before_in_group(groups: Rows, numbers: I64) -> I64:
    """Return (n,) the sum of the numbers that come before each in its own group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    before = np.zeros(len(groups), np.int64)
    if not begins.all():
        total = np.cumsum(numbers[order]) - numbers[order]
        before[order] = total - np.maximum.accumulate(np.where(begins, total, 0))
    return before


def _part(chunk: Chunk, at: slice) -> Chunk:
    time, values, valid, saturated, mapping = chunk
    return time[at], values[at], valid[at], saturated[at], mapping


def _host_times(time: Sequence[I64], mappings: Sequence[Mapping]) -> tuple[I64, I64]:
    """Return the host times of all samples of some chunks, one chunk behind the other, and how many each has."""
    base, offset, published, slope, _ = zip(*mappings, strict=True)
    of_each = [
        np.array(numbers, kind)
        for numbers, kind in ((base, np.int64), (offset, np.int64), (published, np.float64), (slope, np.float64))
    ]
    lengths = np.fromiter(map(len, time), np.int64, len(time))
    together, n = np.concatenate(time), int(lengths[0])
    if (lengths == n).all():
        host_ns = host_time(together.reshape(-1, n), *(a[:, None] for a in of_each))
        return host_ns.reshape(-1), lengths
    return host_time(together, *(a.repeat(lengths) for a in of_each)), lengths
