"""Chunks of many sensors from their arrival to their slots, by ``arrive.c``, which reads them where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import is_
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import HEAD, address, can_read, is_plain
from kinedge.edge.native.hops import SlotTable
from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import INT64, POINTER, Record, structure
from kinedge.firmware_bridge.clock_table import ClockTable
from kinedge.signals import ImuChunk

__all__ = ["NativeArrivals"]

I64 = NDArray[np.int64]
Rows = NDArray[np.intp]

_Arrive: Final = structure(
    "_Arrive",
    (INT64, "n_chunks n_people n_sensors n_numbers n_clocks period_ns never head"),
    (POINTER, "time_type value_type mark_type"),
    (POINTER, "chunks numbers ints floats at residual slots last first next_tick hop_end"),
    (POINTER, "rows newest came base offset published slope memory odd complete"),
    (INT64, "n_complete"),
)
_I64, _F32, _BOOL = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.bool_)


@cache
def _functions() -> tuple[Any, ...] | None:
    names = ("kinedge_arrive_clocks", "kinedge_arrive_lay", "kinedge_arrive_look")
    return typed({names[0]: [POINTER, INT64], names[1]: [POINTER], names[2]: [POINTER]}, wide=names)


@cache
def _reads_heads() -> bool:
    """Whether this Python and numpy keep arrays as C takes them for: tried on some of each kind."""
    (plain,) = typed({"kinedge_plain": [POINTER, INT64, POINTER]}, wide=("kinedge_plain",)) or (None,)
    if plain is None or not can_read():
        return False
    whole = np.zeros((4, 6), np.float32)
    apart = np.frombuffer(bytes(9), np.uint8)[1:].view(_I64)
    cases = (whole, whole[1:], whole[:, 1:3], whole.T, whole > 0, np.zeros(3), np.zeros((0, 2), np.float32), apart)
    return all(
        plain(id(a), HEAD, id(kind)) == (address(a) if is_plain(a, kind, a.shape) else 0)
        for a in cases
        for kind in (_I64, _F32, _BOOL)
    )


class NativeArrivals:
    """Takes in chunks of the sensors of a grid.

    Parameters
    ----------
    grid
        Where they go; ``Grid``.
    never
        Before the first sample of somebody.
    """

    def __init__(self, grid: Any, *, never: int) -> None:
        self._grid = grid
        self._record = Record(_Arrive)
        self._record.set({"period_ns": grid.period_ns, "never": never, "n_sensors": len(grid.sensors), "head": HEAD})
        fields = self._record.fields
        fields.time_type, fields.value_type, fields.mark_type = id(_I64), id(_F32), id(_BOOL)
        self._slots = SlotTable(grid.buffers)
        self._record.set(slots=self._slots.numbers)
        self._told: tuple[object, ...] = (None, None, None)
        self._room = 0

    def take_in(
        self,
        chunks: Sequence[tuple[int, ImuChunk]],
        numbers: I64,
        table: ClockTable,
        alone: Callable[[int, int, int], None],
    ) -> NDArray[np.bool_] | None:
        """Update clocks by chunks, and lay them behind what is there; note whose hop is complete then.

        Parameters
        ----------
        chunks
            With samples, each behind the number of its sensor of its person; only read, and must not change later.
        numbers : (3, n)
            Of each such number: the row of its clock, that of its person, and its sensor.
        table
            Of the clocks.
        alone
            Takes in one arrival of a row of it, device time and host time: its ``ClockMap.update``.

        Returns
        -------
        (n_chunks,) bool
            Which chunks were not laid: all of a sensor of a person of which one is not plain (see ``Buffers.lay``).
            Their samples are then to be mapped by ``mapping``. None, with nothing done, where C cannot do it.
        """
        functions, grid, n = _functions(), self._grid, len(chunks)
        if functions is None or not _reads_heads():
            return None
        listed: list[int | None] = []
        for number, chunk in chunks:
            listed += (
                id(chunk.device_time_ns),
                id(chunk.values),
                id(chunk.valid),
                id(chunk.saturated),
                len(chunk.values),
                chunk.interval_ns,
                chunk.host_time_ns,
                number,
            )
        try:
            of_chunks = np.array(listed, np.int64)
        except OverflowError:  # a time that no clock can have
            return None
        self._tell(numbers, table, n)
        fields = self._record.fields
        fields.n_chunks, fields.chunks = n, address(of_chunks)
        if functions[2](self._record.at):
            return None
        at, done = self._record.at, 0
        while done < n:
            done = functions[0](at, done)
            if done == -2:  # a time is absurd: found at the first look at all of them
                return None
            if done < 0:
                raise IndexError("an arrival of a clock or a person that is not there")
            if done < n:  # something is unusual about this one
                row = int(self._rows[done])
                alone(row, int(self._newest[done]), int(self._came[done]))
                for array, part in zip(self._mappings, table.mapping(row), strict=True):
                    array[done] = part
                done += 1
        self._slots.tell_marks()
        odd = functions[1](at)
        self._slots.take_marks()
        if fields.n_complete:
            grid.due.update(self._complete[: fields.n_complete].tolist())
        return self._odd[:n] if odd else self._none[:n]

    def mapping(self, chunk: int) -> tuple[int, int, float, float]:
        """Return what maps the times of a chunk of the last ``take_in``: base, offset, published, slope."""
        base, offset, published, slope = (array[chunk].item() for array in self._mappings)
        return base, offset, published, slope

    def _tell(self, numbers: I64, table: ClockTable, n: int) -> None:
        """Tell where all of it lies, where that has changed."""
        grid = self._grid
        told = numbers, table, grid.next_tick
        if n > self._room:
            self._make_room(n)
        self._slots.tell()
        if all(map(is_, told, self._told)):
            return
        self._told = told
        last, first, hop_end = grid.ends
        self._record.set(
            {"n_people": len(grid), "n_numbers": numbers.shape[1], "n_clocks": len(table)},
            numbers=numbers,
            ints=table.ints,
            floats=table.floats,
            at=table.at,
            residual=table.residual,
            last=last,
            first=first,
            next_tick=grid.next_tick,
            hop_end=hop_end,
            memory=np.empty((3, len(grid) * len(grid.buffers)), np.int64),
        )

    def _make_room(self, n: int) -> None:
        self._room = n = max(2 * n, 64)
        self._rows, self._newest, self._came, base, offset, complete = np.empty((6, n), np.int64)
        published, slope = np.empty((2, n))
        self._mappings, self._complete = (base, offset, published, slope), complete
        self._odd, self._none = np.empty(n, bool), np.zeros(n, bool)
        self._record.set(
            rows=self._rows,
            newest=self._newest,
            came=self._came,
            base=base,
            offset=offset,
            published=published,
            slope=slope,
            complete=complete,
            odd=self._odd,
        )
