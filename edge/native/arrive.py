"""Chunks of many sensors from their arrival to their slots, by ``arrive.c``, which reads them where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import is_
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address
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
    (INT64, "n_chunks n_people n_sensors n_numbers n_clocks period_ns never"),
    (POINTER, "chunks numbers ints floats at residual slots last first next_tick hop_end"),
    (POINTER, "rows newest came base offset published slope memory odd complete"),
    (INT64, "n_complete"),
)
_I64, _F32, _BOOL = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.bool_)


@cache
def _functions() -> tuple[Any, ...] | None:
    names = ("kinedge_arrive_clocks", "kinedge_arrive_lay")
    return typed({names[0]: [POINTER, INT64], names[1]: [POINTER]}, wide=names)


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
        self._record.set({"period_ns": grid.period_ns, "never": never, "n_sensors": len(grid.sensors)})
        self._slots = SlotTable(grid.buffers)
        self._record.set(slots=self._slots.numbers)
        self._told: tuple[object, ...] = (None, None, None)
        self._room = 0

    def take_in(
        self,
        chunks: Sequence[tuple[ImuChunk, int]],
        numbers: I64,
        table: ClockTable,
        alone: Callable[[int, int, int], None],
    ) -> NDArray[np.bool_] | None:
        """Update clocks by chunks, and lay them behind what is there; note whose hop is complete then.

        Parameters
        ----------
        chunks
            Each with the number of its sensor of its person; they are only read, and must not change later.
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
        if functions is None:
            return None
        listed: list[int | None] = []
        for chunk, number in chunks:
            time, values, valid, saturated = chunk.device_time_ns, chunk.values, chunk.valid, chunk.saturated
            if not (
                time.dtype is _I64
                and values.dtype is _F32
                and valid.dtype is saturated.dtype is _BOOL
                and time.flags.c_contiguous
                and values.flags.c_contiguous
                and valid.flags.c_contiguous
                and saturated.flags.c_contiguous
            ):
                return None
            listed += (
                address(time),
                address(values),
                address(valid),
                address(saturated),
                len(time),
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
