"""The common grid of many people: samples as they come, hops of everybody at once.

What comes is only noted. Clock maps, copies and arithmetic are done once per hop, in one step for all people whose hop
is final. Buffers hold a hop and what a tick may wait for; a burst longer than that (a device that empties its memory
after a long silence) waits in its chunks and enters hop by hop, so that memory does not grow with it.

The rules are those of ``kinedge.edge.aligner``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge import native
from kinedge.edge.grid_buffers import HOST_TIME, NEVER, Buffers, host_time
from kinedge.edge.grid_ticks import averaged, interpolate, track
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Mapping
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import period_ns

__all__ = ["Grid"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_MAX_CATCH_UP_S: Final = 60.0  # after a longer silence (a board that slept) the grid starts anew


class Grid:
    """The common grid of many people.

    Parameters
    ----------
    sensors
        In column order, the same for everybody.
    phase : (n_people,) int64
        Hops of a person begin at this tick modulo ``hop``.
    rate_hz
        Of the grid.
    hop
        Ticks that are taken together.
    max_delay_s
        How long a tick waits for a slow sensor. It is the price of alignment: it adds to the latency only
        while a sensor is late or silent.
    buffer_s
        Of samples that are taken in before a hop must be taken; a hop and two such delays if that is more.

    Raises
    ------
    SignalError
        No sensor, one twice, or an impossible rate.
    """

    def __init__(
        self,
        sensors: Sequence[SensorSpec],
        phase: I64,
        *,
        rate_hz: float,
        hop: int = 1,
        max_delay_s: float = 0.25,
        buffer_s: float = 0.0,
    ) -> None:
        if not sensors or len({s.name for s in sensors}) != len(sensors):
            raise SignalError("an aligner needs distinct sensors, at least one")
        self.sensors = tuple(sensors)
        self.period_ns = period_ns(rate_hz)
        self.hop = hop
        self._max_delay_ns = round(max_delay_s * 1e9)
        self._max_catch_up = max(hop, round(_MAX_CATCH_UP_S * rate_hz) // hop * hop)
        self._column = {s.name: i for i, s in enumerate(self.sensors)}
        edges = np.cumsum([0, *(s.n_channels for s in self.sensors)])
        self._columns = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        span_ns = max(hop * self.period_ns + 2 * self._max_delay_ns, round(buffer_s * 1e9))
        self._buffers = [Buffers(s.n_channels, span_ns, by_hops=hop > 1) for s in self.sensors]
        self._phase, self.next_tick, self._first = (np.zeros(0, np.int64) for _ in range(3))
        self._begun: list[bool] = []
        self._hop_end = np.zeros(0, np.int64)
        self._hop_end_ns = self._hop_end.data  # the same, read and written one by one
        self.due: set[int] = set()  # people whose hop all sensors have passed
        self._last = np.zeros((0, len(self.sensors)), np.int64)
        self._native = native.NativeGrid(self)
        self.rearrange([-1] * len(phase), phase)

    def __len__(self) -> int:
        return len(self._phase)

    @property
    def n_slots(self) -> int:
        """Samples of one sensor that can be buffered for each person, of the sensor with the most."""
        return max(b.n_slots for b in self._buffers)

    def rearrange(self, people: Sequence[int], phase: I64) -> None:
        """Let people join, leave and change places; what is buffered of those who stay stays.

        Parameters
        ----------
        people
            For each row from now on, its row so far, or -1 for somebody new.
        phase : (n_people,) int64
            Of each row from now on.
        """
        old = np.array(people, np.intp).reshape(-1)
        kept = old >= 0
        self._phase = phase % self.hop

        def moved(numbers: I64) -> I64:
            new = np.full((len(old), *numbers.shape[1:]), NEVER)
            new[kept] = numbers[old[kept]]
            return new

        self.next_tick, self._first, self._last = moved(self.next_tick), moved(self._first), moved(self._last)
        self._begun = (self.next_tick > NEVER).tolist()
        self._hop_end = np.full(len(old), NEVER)
        has_begun = self.next_tick > NEVER
        self._hop_end[has_begun] = (self.next_tick[has_begun] + self.hop) * self.period_ns
        self._hop_end_ns = self._hop_end.data
        for buffers in self._buffers:
            buffers.rearrange(people)
        self.due = set()
        for person in range(len(old)):
            self._look(person)

    def go_on_from(self, person: int, tick: int) -> None:
        """Take the ticks of somebody new from here on: what was missed is missing, and not forgotten."""
        self.next_tick[person] = tick - (tick - self._phase[person]) % self.hop
        self._begin(person)

    def push(
        self,
        person: int,
        sensor: str,
        host_time_ns: I64,
        values: F32,
        valid: Mask,
        saturated: Mask,
        *,
        interval_ns: int,
    ) -> None:
        """Take samples of one sensor, in host time.

        Samples that are not newer than what this sensor gave before are dropped and counted as late.

        Parameters
        ----------
        person, sensor
            Whose; one of ``sensors``.
        host_time_ns : (n,) int64
            Increasing.
        values, valid, saturated : (n, n_channels)
            SI units; NaN and infinity become invalid.
        interval_ns
            Nominal sample interval of the device.

        Raises
        ------
        SignalError
            The sensor is unknown, or has another number of channels.
        """
        column = self.column(sensor)
        self.put(person, column, host_time_ns, values, valid, saturated, interval_ns=interval_ns)

    def column(self, sensor: str) -> int:
        """Return the number of a sensor.

        Raises
        ------
        SignalError
            It is unknown.
        """
        column = self._column.get(sensor)
        if column is None:
            raise SignalError(f"no sensor {sensor!r} here; expected one of {', '.join(self._column)}")
        return column

    def put(
        self,
        person: int,
        column: int,
        time_ns: I64,
        values: F32,
        valid: Mask,
        saturated: Mask,
        *,
        interval_ns: int,
        mapping: Mapping = HOST_TIME,
    ) -> None:
        """Take samples of one sensor, in device time, with what maps it as of now; none is behind its ``base_ns``.

        The arrays are only read, and must not change later. Otherwise as ``push``.

        Raises
        ------
        SignalError
            The sensor has another number of channels.
        """
        buffers = self._buffers[column]
        if values.ndim != 2 or values.shape[1] != buffers.n_channels:
            name = self.sensors[column].name
            raise SignalError(f"{name}: {buffers.n_channels} channels expected, got an array {values.shape}")
        n = len(time_ns)
        if not n:
            return
        if interval_ns != buffers.interval_ns[person]:
            buffers.set_interval(person, interval_ns, max(1, round(self.period_ns / interval_ns)))
        base, offset, published, slope, _ = mapping
        # as host_time does it, of two numbers
        first, last = time_ns.item(0), time_ns.item(-1)
        first_ns: int = first + offset + round((first - base) * slope + published)
        last_ns: int = last + offset + round((last - base) * slope + published)
        before_ns = buffers.last_ns[person]
        if first_ns <= before_ns:
            host_time_ns = host_time(time_ns, base, offset, published, slope)
            late = int(np.searchsorted(host_time_ns, before_ns, side="right"))
            buffers.n_late[person] += late
            time_ns, values, valid, saturated = time_ns[late:], values[late:], valid[late:], saturated[late:]
            n -= late
            if not n:
                return
            first_ns = int(host_time_ns[late])
        buffers.last_ns[person] = last_ns
        buffers.chunks[person].append((time_ns, values, valid, saturated, mapping))
        buffers.waiting.add(person)
        held = buffers.n_held[person] = buffers.n_held[person] + n
        has_room = held <= buffers.most_held and not (buffers.full and person in buffers.full)
        if not has_room:
            buffers.full.add(person)
        width = buffers.width[person]
        if has_room and width == 1:
            if not self._begun[person]:
                known = int(self._first[person])
                self._first[person] = first_ns if known == NEVER else min(known, first_ns)
            self._last[person, column] = last_ns
        elif has_room and n >= width and self._begun[person]:
            first = time_ns.item(-width)
            first_ns = first + offset + round((first - base) * slope + published)
            self._last[person, column] = first_ns + (last_ns - first_ns) // 2
        else:
            self._let_in(person, column)
        if last_ns > self._hop_end_ns[person] - self.period_ns and person not in self.due:
            self._look(person)

    def put_many(
        self, column: int, people: Rows, lengths: I64, starts: I64, host_ns: I64, chunks: Sequence[ImuChunk]
    ) -> None:
        """Take chunks of one sensor of many people, in host time; as if each was ``put``, in one step for most.

        Ask ``look_at`` about these people afterwards.

        Parameters
        ----------
        column
            The sensor.
        people, lengths, starts : (n,)
            Whose each chunk is, how many samples it has, at least one, and where these begin in ``host_ns``. Those of
            one person come in their order.
        host_ns : (n_samples,) int64
            Of all chunks, and maybe others.
        chunks
            With the sensor's channels; they are only read, and must not change later.
        """
        buffers = self._buffers[column]
        odd = buffers.lay(people, lengths, starts, host_ns, chunks)
        first_ns = host_ns[starts]
        if odd.any():
            # whatever is unusual of a person (another rate, averages, late samples, no room) is looked at by itself
            for k in np.flatnonzero(odd).tolist():
                c, time_ns = chunks[k], host_ns[starts[k] : starts[k] + lengths[k]]
                self.put(int(people[k]), column, time_ns, c.values, c.valid, c.saturated, interval_ns=c.interval_ns)
            people, first_ns = people[~odd], first_ns[~odd]
        self._last[people, column] = buffers.last[people]
        new = np.flatnonzero(self.next_tick[people] == NEVER)
        for person, first in zip(people[new].tolist(), first_ns[new].tolist(), strict=True):
            known = int(self._first[person])
            self._first[person] = first if known == NEVER else min(known, first)

    def look_at(self, people: Rows) -> None:
        """Note whose hop is complete, of people who were put something."""
        end_ns = self._hop_end[people] - self.period_ns
        complete = self._buffers[0].last[people] > end_ns
        for buffers in self._buffers[1:]:
            complete &= buffers.last[people] > end_ns
        if complete.any():
            self.due.update(people[complete].tolist())

    @property
    def buffers(self) -> Sequence[Buffers]:
        """What each sensor of everybody has sent."""
        return self._buffers

    @property
    def max_delay_ns(self) -> int:
        """How long a tick waits for a slow sensor."""
        return self._max_delay_ns

    @property
    def ends(self) -> tuple[I64, I64, I64]:
        """Newest sample of each sensor, first one of who has not begun, and where the hop of each person ends."""
        return self._last, self._first, self._hop_end

    def reset_sensor(self, person: int, sensor: str) -> None:
        """Forget what is buffered of a sensor: it restarted, its times may jump."""
        column = self._column[sensor]
        self._buffers[column].clear(person)
        self._last[person, column] = NEVER
        self.due.discard(person)

    def n_late(self, person: int) -> dict[str, int]:
        """Return how many samples of each sensor came too late to be used."""
        return {s.name: b.n_late[person] for s, b in zip(self.sensors, self._buffers, strict=True)}

    def n_final(self, *, now_ns: int | None = None, flush: bool = False) -> I64:
        """Return how many ticks of each person (n_people,) are final and not yet taken.

        Parameters
        ----------
        now_ns
            Host clock. Without it only data moves the grid, which is what a replay wants.
        flush
            Take all ticks that data covers, waiting for nobody (the end of a recording).
        """
        newest, oldest = self._last.max(axis=1), self._last.min(axis=1)
        everything = oldest > NEVER
        waiting = (newest > NEVER) & (self.next_tick == NEVER)
        if waiting.any():
            latest = newest if now_ns is None else np.maximum(newest, now_ns)
            # a sensor that is still to be heard may begin earlier
            begins = waiting & (flush | everything | (latest - self._first > self._max_delay_ns))
            first = -(-self._first[begins] // self.period_ns)
            self.next_tick[begins] = first - (first - self._phase[begins]) % self.hop
            for person in np.flatnonzero(begins).tolist():
                self._begin(person)
        if flush:
            final = newest // self.period_ns
        else:
            final = (newest - self._max_delay_ns) // self.period_ns
            final = np.where(everything, np.maximum(final, (oldest - 1) // self.period_ns), final)
        if now_ns is not None:
            final = np.maximum(final, (now_ns - self._max_delay_ns) // self.period_ns)
        for i, buffers in enumerate(self._buffers):
            for person in buffers.full:
                # what waits behind a full buffer is not late
                final[person] = min(final[person], (int(self._last[person, i]) - 1) // self.period_ns)
        n = np.where(self.next_tick > NEVER, final - self.next_tick + 1, 0)
        for person in np.flatnonzero(n > self._max_catch_up + self.hop).tolist():
            n[person] = self._leap(person, int(n[person]))
        return np.maximum(n, 0)

    def ready(self, *, now_ns: int | None = None, flush: bool = False) -> tuple[Rows, bool]:
        """Return whose hop is final and not yet taken, as ``n_final`` tells, and whether more may be then."""
        found = None
        if not any(b.full for b in self._buffers):
            found = native.ready(
                self._last,
                self.next_tick,
                period_ns=self.period_ns,
                max_delay_ns=self._max_delay_ns,
                now_ns=now_ns,
                flush=flush,
                hop=self.hop,
                most=self._max_catch_up + self.hop,
                never=NEVER,
            )
        if found is None:
            # who begins or leaps, or has chunks that wait for room, may have more than is seen yet
            found = np.flatnonzero(self.n_final(now_ns=now_ns, flush=flush) >= self.hop), True
        return found

    def _leap(self, person: int, n: int) -> int:
        """Leave ticks out: nothing was heard for a minute or the clock leapt, and nobody wants an hour of empty ticks.

        A burst that is still to be let in is not left out.
        """
        tick = int(self.next_tick[person])
        firsts = [b.first_from(person, tick * self.period_ns) for b in self._buffers if b.n_held[person] > b.n_slots]
        heard = [t for t in firsts if t is not None]
        most = min(n, min(heard) // self.period_ns - tick) if heard else n
        by = max((most - self._max_catch_up) // self.hop * self.hop, 0)
        self.next_tick[person] += by
        if n - by > self._max_catch_up + self.hop:  # after the next hop there may be nothing left that keeps it
            return self.hop
        return n - by

    def take(self, people: Rows, n: int) -> tuple[F32, Mask, Mask]:
        """Return the next ``n`` ticks of some people: values, valid, saturated, each (n_people, n, n_channels)."""
        shape = (len(people), n, self._columns[-1].stop)
        values, valid, saturated = np.empty(shape, np.float32), np.empty(shape, bool), np.empty(shape, bool)
        apart = any(b.averaged or b.full for b in self._buffers)
        if not apart and self._native.take(people, (values, valid, saturated)):
            return values, valid, saturated
        first_ns = self.next_tick[people] * self.period_ns
        self.next_tick[people] += n
        next_ns = self.next_tick[people] * self.period_ns
        who, until_ns = people.tolist(), (next_ns + self._max_delay_ns).tolist()
        for column, (columns, buffers) in enumerate(zip(self._columns, self._buffers, strict=True)):
            full = buffers.full & set(who) if buffers.full else ()
            buffers.let_in(who, until_ns)
            whole = (values, valid, saturated)
            if not buffers.averaged and native.interpolate(
                buffers.slots,
                people,
                first_ns,
                self.period_ns,
                some_invalid=buffers.some_invalid,
                some_saturated=buffers.some_saturated,
                column=columns.start,
                out=whole,
            ):
                buffers.drop_before(people, next_ns)
                for person in full:
                    self._let_in(person, column)
                continue
            width = np.array([buffers.width[p] for p in who]) if buffers.averaged else np.ones(len(who), np.intp)
            for w in set(width.tolist()) if buffers.averaged else (1,):
                at = slice(None) if (width == w).all() else np.flatnonzero(width == w)
                tracks = track(buffers, people[at]) if w == 1 else averaged(buffers, people[at], w)
                part = interpolate(tracks, first_ns[at], self.period_ns, n)
                for all_of_it, found in zip(whole, part, strict=True):
                    all_of_it[at, :, columns] = found
            buffers.drop_before(people, next_ns)
            for person in full:
                self._let_in(person, column)
        self._note_due(who, people, next_ns + self.hop * self.period_ns)
        return values, valid, saturated

    def _note_due(self, who: list[int], people: Rows, hop_end_ns: I64) -> None:
        """Note where the hops of some people end now, and whose is complete already."""
        self._hop_end[people] = hop_end_ns
        if any(b.averaged or b.full for b in self._buffers):
            for person in who:
                self._look(person)
            return
        complete = (self._last[people] > (hop_end_ns - self.period_ns)[:, None]).all(axis=1)
        self.due.difference_update(who)
        self.due.update(people[complete].tolist())

    def _begin(self, person: int) -> None:
        self._begun[person] = True
        self._hop_end_ns[person] = (int(self.next_tick[person]) + self.hop) * self.period_ns
        self._look(person)

    def _look(self, person: int) -> None:
        """Note whether the hop of a person is complete, without waiting for the next look at everybody."""
        end_ns = self._hop_end_ns[person] - self.period_ns
        for buffers in self._buffers:
            if buffers.last_ns[person] <= end_ns:
                self.due.discard(person)
                return
        # who has not begun is looked at once: then they do
        self.due.add(person)

    def _let_in(self, person: int, column: int) -> None:
        """Copy what has come of one person, where the slots must be looked at to know its ends."""
        buffers = self._buffers[column]
        buffers.let_in((person,))
        if buffers.chunks[person]:
            buffers.full.add(person)  # what its slots end with is all that is known
        ends = buffers.ends(person)
        if ends is None:
            return
        if not self._begun[person]:
            first = int(self._first[person])
            self._first[person] = ends[0] if first == NEVER else min(first, ends[0])
        self._last[person, column] = ends[1]
