"""The next ticks of some people, by ``take.c``."""

from __future__ import annotations

from functools import cache
from operator import is_
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.arrays import address, is_plain
from kinedge.edge.native.hops import SlotTable
from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import INT64, POINTER, Record, structure

__all__ = ["NativeGrid"]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

_Ticks: Final = structure(
    "_Ticks",
    (INT64, "n_rows n_people n_sensors n_channels n_ticks hop period_ns"),
    (POINTER, "slots last next_tick hop_end now_ns kept rows values valid saturated complete"),
    (INT64, "n_complete"),
)
_I64: Final = np.dtype(np.int64)


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed({"kinedge_take": [POINTER]})


class NativeGrid:
    """Takes ticks of a grid.

    Parameters
    ----------
    grid
        ``Grid``.
    """

    def __init__(self, grid: Any) -> None:
        self._grid = grid
        self._slots = SlotTable(grid.buffers)
        self._record = Record(_Ticks)
        self._record.set(
            {
                "n_sensors": len(grid.buffers),
                "n_channels": sum(b.n_channels for b in grid.buffers),
                "hop": grid.hop,
                "period_ns": grid.period_ns,
            },
            slots=self._slots.numbers,
        )
        self._told: tuple[object, ...] = (None, None, None)
        self._room = 0

    def take(self, people: Rows, out: tuple[F32, Mask, Mask]) -> bool:
        """Do what ``Grid.take`` does where nobody's samples are averaged, or have no room.

        Parameters
        ----------
        people : (n_people,)
            Whose.
        out
            Values, valid and saturated, (n_people, n_ticks, n_channels): new arrays.

        Returns
        -------
        Whether it was done; else nothing was, and numpy must.
        """
        functions, grid, n = _functions(), self._grid, len(people)
        if functions is None or not is_plain(people, _I64, (n,)):
            return False
        n_ticks = out[0].shape[1]
        who = people.tolist()
        for buffers in grid.buffers:
            if not buffers.waiting.isdisjoint(who):
                until_ns = (grid.next_tick[people] + n_ticks) * grid.period_ns + grid.max_delay_ns
                buffers.let_in(who, until_ns.tolist())
        if n > self._room:
            self._make_room(n)
        self._slots.tell()
        last, _, hop_end = grid.ends
        told = last, grid.next_tick, hop_end
        if not all(map(is_, told, self._told)):
            self._told = told
            self._record.set({"n_people": len(grid)}, last=last, next_tick=grid.next_tick, hop_end=hop_end)
        self._slots.tell_marks()
        fields = self._record.fields
        fields.n_rows, fields.n_ticks, fields.rows = n, n_ticks, address(people)
        fields.values, fields.valid, fields.saturated = map(address, out)
        if functions[0](self._record.at):
            return False
        grid.due.difference_update(who)
        if fields.n_complete:
            grid.due.update(self._complete[: fields.n_complete].tolist())
        for buffers in grid.buffers:
            if buffers.some_invalid or buffers.some_saturated:
                buffers.forget_marks()
        return True

    def _make_room(self, n: int) -> None:
        self._room = n = max(2 * n, 64)
        now_ns, self._complete = np.empty((2, n), np.int64)
        self._record.set(now_ns=now_ns, complete=self._complete, kept=np.zeros(n, np.int64))
