"""Sensors that are held together and knocked: their recent acceleration, and what it says of their clocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.firmware_bridge.clap import ClapOffset, clap_offset
from kinedge.units import NS_PER_S

__all__ = ["KnockWatch"]

_KEEP_NS: Final = 40 * NS_PER_S
_MAX_CHUNKS: Final = 20_000
_REST_NS: Final = NS_PER_S
_LEAST: Final = 3


@dataclass
class _Felt:
    chunks: deque[tuple[NDArray[np.int64], NDArray[np.float32]]] = field(
        default_factory=lambda: deque(maxlen=_MAX_CHUNKS)
    )

    def course(self, since_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return times and values in order: where a clock was set back, only what came since."""
        time_ns = np.concatenate([t for t, _ in self.chunks])
        acc = np.concatenate([a for _, a in self.chunks])
        back = np.flatnonzero(np.diff(time_ns) <= 0)
        if len(back):
            time_ns, acc = time_ns[back[-1] + 1 :], acc[back[-1] + 1 :]
        first = int(np.searchsorted(time_ns, since_ns))
        return time_ns[first:], acc[first:]


class KnockWatch:
    """Waits for common knocks of several sensors, the last 40 s in mind.

    Parameters
    ----------
    n_knocks
        How many are asked for; at least half of them, and three, must be felt alike by each pair.
    """

    def __init__(self, *, n_knocks: int = 6) -> None:
        if n_knocks < _LEAST:
            raise SignalError(f"at least {_LEAST} knocks are needed to tell one offset from another, got {n_knocks}")
        self._n_needed = max(_LEAST, n_knocks // 2)
        self._felt: dict[str, _Felt] = {}

    @property
    def sensors(self) -> tuple[str, ...]:
        """In order of their first samples; the first one's time is that of the others."""
        return tuple(self._felt)

    def push(self, sensor: str, host_time_ns: NDArray[np.int64], acc_m_s2: NDArray[np.float32]) -> None:
        """Take samples of a sensor: mapped times (n,), acceleration (n, 3) with NaN where it is missing."""
        if not len(host_time_ns):
            return
        chunks = self._felt.setdefault(sensor, _Felt()).chunks
        chunks.append((host_time_ns, acc_m_s2))
        while int(chunks[0][0][-1]) < int(host_time_ns[-1]) - _KEEP_NS:
            chunks.popleft()

    def offsets(self) -> dict[str, ClapOffset]:
        """Return the offset of each sensor to the first.

        Raises
        ------
        SignalError
            There were no such knocks, or they are just being made, or three sensors contradict one another.
        """
        if len(self._felt) < 2:
            raise SignalError("knocks tell the offset between sensors; two of them are needed")
        newest_ns = min(int(felt.chunks[-1][0][-1]) for felt in self._felt.values())
        courses = {name: felt.course(newest_ns - _KEEP_NS) for name, felt in self._felt.items()}
        first, *others = courses
        found = {name: self._offset(courses, first, name) for name in others}
        last_ns = max(offset.impact_times_ns[-1] for offset in found.values())
        if newest_ns - last_ns < _REST_NS:
            raise SignalError("these look like knocks; hold the sensors still for a second")
        for a, b in pairwise(others):
            direct = self._offset(courses, a, b)
            around_ns = found[b].offset_ns - found[a].offset_ns
            allowed_ms = direct.uncertainty_ms + found[a].uncertainty_ms + found[b].uncertainty_ms
            if abs(direct.offset_ns - around_ns) > 1e6 * allowed_ms:
                raise SignalError(
                    f"{a} and {b} are {direct.offset_ns / 1e6:.0f} ms apart, but {around_ns / 1e6:.0f} ms by way of "
                    f"{first}; hold all of them together, and knock again"
                )
        return found

    def _offset(self, courses: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]], a: str, b: str) -> ClapOffset:
        try:
            return clap_offset(*courses[a], *courses[b], min_impacts=self._n_needed)
        except SignalError as e:
            raise SignalError(f"{a} and {b}: {e}") from e
