"""Chunks between their arrival and the grid: whose they are, which clock maps them, and all of it for many at once.

What is pushed waits until somebody asks: for a verdict, for whose hop is complete, for a clock. Then the clock maps of
all sensors that were heard are updated in one step, and their samples are copied to the grid in another. It is as if
each chunk had been taken in when it came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge import native
from kinedge.edge.grid import Grid
from kinedge.edge.grid_buffers import HOST_TIME, NEVER, host_time
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock, ClockMap
from kinedge.firmware_bridge.clock_table import FOREVER, SANE, ClockTable
from kinedge.signals import ImuChunk

__all__ = ["Arrivals"]

F64 = NDArray[np.float64]
Rows = NDArray[np.intp]

# chunks that are taken in one by one, as a step for all costs more
_FEW: Final = 24 if native.library() is None else 1
_MANY: Final = 1024  # chunks that wait at most to be taken in: more of them leave the caches


@dataclass(frozen=True, slots=True, eq=False)
class _Feed:
    """Where the chunks of one sensor of one person go, as long as they are of one boot and have these channels."""

    row: int
    column: int
    clock: Clock
    is_map: bool
    boot_id: int
    channels: tuple[str, ...]
    columns: list[int] | None
    n_columns: int  # of chunks
    clock_row: int  # in the table of clocks; -1 for a clock that is not there
    number: int  # of its numbers among those of all feeds


def _picked(chunk: ImuChunk, columns: list[int]) -> ImuChunk:
    return replace(
        chunk,
        values=chunk.values[:, columns],
        valid=chunk.valid[:, columns],
        saturated=chunk.saturated[:, columns],
    )


class Arrivals:
    """What comes of the sensors of some people.

    Parameters
    ----------
    grid
        Where samples go; a row for each person.
    subjects
        Pseudonyms, in the order of its rows.
    make_clock
        Makes the clock map of each sensor.

    Attributes
    ----------
    clocks, clocks_by_row
        By person and sensor.
    n_ignored
        Chunks of sensors that are not in the grid, or of times that no clock can have.
    """

    def __init__(self, grid: Grid, subjects: Sequence[str], make_clock: Callable[[], Clock]) -> None:
        self._grid = grid
        self._make_clock = make_clock
        self._channels = {s.name: s.channels for s in grid.sensors}
        self._columns: dict[tuple[str, tuple[str, ...]], list[int] | None] = {}
        self.clocks: dict[str, dict[str, Clock]] = {}
        self.n_ignored = 0
        self._boot_ids: dict[tuple[str, str], int] = {}
        self._feeds: dict[tuple[str, str], _Feed] = {}
        self._table, self._mapped = ClockTable(0), list[ClockMap]()
        self._waiting: list[tuple[_Feed, ImuChunk]] = []
        self._native = native.NativeArrivals(grid, never=NEVER)
        self.use_subjects(subjects)

    def use_subjects(self, subjects: Sequence[str]) -> None:
        """Let these be the people of the rows; of who leaves nothing is kept. Settle before the rows change."""
        self._row = {s: i for i, s in enumerate(subjects)}
        self.clocks = {s: self.clocks.get(s, {}) for s in subjects}
        self.clocks_by_row = tuple(self.clocks.values())
        self._boot_ids = {key: boot for key, boot in self._boot_ids.items() if key[0] in self._row}
        self._gather_clocks()

    def use_clock(self, subject: str, sensor: str, clock: Clock) -> None:
        """Map a sensor by this clock from its next chunk on."""
        self.settle()
        self.clocks[subject][sensor] = clock
        self._forget_feed(subject, sensor)

    def hand_over(self, sensor: str, *, giver: str, taker: str) -> None:
        """Let a sensor be of another person from its next chunk on, with its clock.

        Raises
        ------
        SignalError
            It was never heard at the giver.
        """
        self.settle()
        clock = self.clocks[giver].pop(sensor, None)
        if clock is None:
            raise SignalError(f"{giver}: {sensor} was never heard, and cannot be handed over")
        self.clocks[taker][sensor] = clock
        boot_id = self._boot_ids.get((giver, sensor))
        for subject in (giver, taker):
            self._forget_feed(subject, sensor)
            self._boot_ids.pop((subject, sensor), None)
        if boot_id is not None:
            self._boot_ids[(taker, sensor)] = boot_id

    def take_off(self, subject: str, sensor: str) -> None:
        """Forget a sensor that nobody wears any more."""
        self.settle()
        self.clocks[subject].pop(sensor, None)
        self._forget_feed(subject, sensor)
        self._boot_ids.pop((subject, sensor), None)

    def _forget_feed(self, subject: str, sensor: str) -> None:
        self._feeds.pop((subject, sensor), None)
        if sensor in self._channels:
            self._bounded[self._row[subject], self._grid.column(sensor)] = -1

    def error_bounds_ns(self, people: Rows) -> tuple[F64, F64] | None:
        """Return by how much mapped times of all sensors of some people may be early, and late, as their clocks do.

        Returns
        -------
        early, late : (n_people, n_sensors)
            Whole ns; NaN where a clock must be asked. None where each must be.
        """
        self.settle()
        rows, delay_ns, shift_ns = np.moveaxis(self._bounded[people], 2, 0)
        bounds = native.clock_bounds(self._table, rows.reshape(-1))
        if bounds is None:
            return None
        line, to_move = bounds.reshape(2, *rows.shape)
        more = to_move + shift_ns
        return np.rint(line + more), np.rint(delay_ns + more)

    def push(self, subject: str, chunk: ImuChunk, channels: Sequence[str]) -> None:
        """Take a chunk, see ``Pipeline.push``."""
        feed = self._feeds.get((subject, chunk.sensor))
        if feed is None or feed.boot_id != chunk.boot_id or feed.channels != channels:
            self.settle()
            feed = self._feed(subject, chunk, tuple(channels))
            if feed is None:
                return
        n_samples, n_columns = chunk.values.shape
        if chunk.host_time_ns is None or feed.clock_row < 0 or n_columns != feed.n_columns:
            self.settle()
            self._take_in(feed, chunk)
            return
        if not n_samples:
            return
        waiting = self._waiting
        waiting.append((feed, chunk))
        if len(waiting) >= _MANY:
            self.settle()

    def _take_in(self, feed: _Feed, chunk: ImuChunk) -> None:
        """Map one chunk, and give it to the grid."""
        time_ns, mapping = chunk.device_time_ns, HOST_TIME
        if not len(time_ns):
            return
        clock, last_ns = feed.clock, time_ns.item(-1)
        if chunk.host_time_ns is not None:
            clock.update(last_ns, chunk.host_time_ns)
        if feed.is_map:
            mapping = clock.mapping  # type: ignore[attr-defined]
        if not feed.is_map or last_ns > mapping[0]:
            mapping, time_ns = HOST_TIME, clock.to_host_ns(time_ns)
        values, valid, saturated = chunk.values, chunk.valid, chunk.saturated
        if feed.columns is not None:
            values, valid, saturated = values[:, feed.columns], valid[:, feed.columns], saturated[:, feed.columns]
        self._grid.put(
            feed.row, feed.column, time_ns, values, valid, saturated, interval_ns=chunk.interval_ns, mapping=mapping
        )

    def settle(self) -> None:
        """Take in the chunks that came since this was done last: clocks, late samples, and whose hop is complete."""
        arrived = self._waiting
        if not arrived:
            return
        self._waiting = []
        if len(arrived) < _FEW:
            self._take_in_each(arrived)
            return
        chunks = [(f.number, c if f.columns is None else _picked(c, f.columns)) for f, c in arrived]
        odd = self._native.take_in(chunks, self._numbers, self._table, self._update_alone)
        if odd is None:
            self._settle_in_numpy(arrived)
        elif odd.any():
            # whatever is unusual of a person (another rate, averages, late samples, no room) is looked at by itself
            at = np.flatnonzero(odd).tolist()
            for k in at:
                number, chunk = chunks[k]
                _, row, column = self._numbers[:, number].tolist()
                time_ns = host_time(chunk.device_time_ns, *self._native.mapping(k))
                told = chunk.values, chunk.valid, chunk.saturated
                self._grid.put(row, column, time_ns, *told, interval_ns=chunk.interval_ns)
            self._grid.look_at(self._numbers[1, [chunks[k][0] for k in at]])

    def _settle_in_numpy(self, arrived: list[tuple[_Feed, ImuChunk]]) -> None:
        times = [chunk.device_time_ns for _, chunk in arrived]
        lengths = np.fromiter(map(len, times), np.int64, len(times))
        device_ns = np.concatenate(times)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        rows, people, columns = self._numbers.take([feed.number for feed, _ in arrived], axis=1)
        try:
            came_ns = np.array([chunk.host_time_ns for _, chunk in arrived], np.int64)
        except OverflowError:
            came_ns = np.full(len(arrived), FOREVER)
        last_ns = device_ns[ends - 1]
        if max(np.abs(came_ns).max(), np.abs(device_ns).max()) >= SANE:
            self._take_in_each(arrived)
            return
        found = self._table.update(rows, last_ns, came_ns, self._update_alone)
        host_ns = host_time(device_ns, *(a.repeat(lengths) for a in found))
        chunks = [chunk if feed.columns is None else _picked(chunk, feed.columns) for feed, chunk in arrived]
        if len(self._grid.sensors) == 1:
            self._grid.put_many(0, people, lengths, starts, host_ns, chunks)
        else:
            for column in range(len(self._grid.sensors)):
                at = np.flatnonzero(columns == column)
                if len(at):
                    of = [chunks[k] for k in at.tolist()]
                    self._grid.put_many(column, people[at], lengths[at], starts[at], host_ns, of)
        self._grid.look_at(people)

    def _take_in_each(self, arrived: list[tuple[_Feed, ImuChunk]]) -> None:
        for feed, chunk in arrived:
            try:
                self._take_in(feed, chunk)
            except SignalError:  # a time beyond 64 bits
                self.n_ignored += 1

    def _update_alone(self, row: int, device_ns: int, host_ns: int) -> None:
        self._mapped[row].update(device_ns, host_ns)

    def _in_table(self, clock: ClockMap) -> int:
        """Return the row of the table in which a clock is kept from here on."""
        row = clock.row_of(self._table)
        if row is None and len(self._mapped) == len(self._table):
            self._gather_clocks(clock)
            row = self._mapped.index(clock)
        elif row is None:
            row = len(self._mapped)
            self._mapped.append(clock)
            clock.move_to(self._table, row, settle=self.settle)
        return row

    def _gather_clocks(self, *more: ClockMap) -> None:
        """Begin a table of the clocks that are in use, with room for those that are still to come."""
        self.settle()
        used = [c for of_one in self.clocks.values() for c in of_one.values() if type(c) is ClockMap]
        used = list(dict.fromkeys([*used, *more]))
        gone = set(self._mapped) - set(used)
        table = ClockTable(max(len(self._row) * len(self._channels), len(used) + 1))
        for row, clock in enumerate(used):
            clock.move_to(table, row, settle=self.settle)
        for clock in gone:
            clock.move_to(ClockTable(1), 0)
        self._table, self._mapped = table, used
        self._feeds.clear()  # they know rows of the table before
        # of each feed: the row of its clock, of its person, and its column
        self._numbers = np.zeros((3, len(self._row) * len(self._channels)), np.intp)
        self._number_of: dict[tuple[str, str], int] = {}
        # of each person and column: the row of the clock, -1 where it must be asked itself, and what that was told
        self._bounded = np.full((len(self._row), len(self._channels), 3), -1, np.int64)

    def _feed(self, subject: str, chunk: ImuChunk, channels: tuple[str, ...]) -> _Feed | None:
        """Look up where the chunks of a sensor go, when something about them is new; None for one nobody uses."""
        row = self._row.get(subject)
        if row is None:
            raise SignalError(f"no subject {subject!r} here")
        sensor = chunk.sensor
        if sensor not in self._channels:
            self.n_ignored += 1
            return None
        if not len(chunk):
            return None
        columns = self._columns_of(sensor, channels)
        clocks, key = self.clocks[subject], (subject, sensor)
        clock = clocks.get(sensor)
        if clock is None:
            clock = clocks[sensor] = self._make_clock()
        elif self._boot_ids.get(key, chunk.boot_id) != chunk.boot_id:
            clock.reset()
            self._grid.reset_sensor(row, sensor)
        self._boot_ids[key] = chunk.boot_id
        clock_row = self._in_table(clock) if type(clock) is ClockMap else -1
        column, number = self._grid.column(sensor), self._number_of.setdefault(key, len(self._number_of))
        self._numbers[:, number] = clock_row, row, column
        self._bounded[row, column] = (clock_row, *clock.known_ns) if type(clock) is ClockMap else -1
        feed = _Feed(
            row=row,
            column=column,
            clock=clock,
            is_map=clock_row >= 0,
            boot_id=chunk.boot_id,
            channels=channels,
            columns=columns,
            n_columns=len(channels),
            clock_row=clock_row,
            number=number,
        )
        self._feeds[key] = feed
        return feed

    def _columns_of(self, sensor: str, channels: tuple[str, ...]) -> list[int] | None:
        """Return which columns the model wants; None for all of them in their order."""
        key = (sensor, channels)
        if key not in self._columns:
            wanted = self._channels[sensor]
            missing = [c for c in wanted if c not in channels]
            if missing:
                raise SignalError(
                    f"{sensor}: the model needs {', '.join(missing)}, the sensor has {', '.join(channels)}"
                )
            self._columns[key] = None if channels == wanted else [channels.index(c) for c in wanted]
        return self._columns[key]
