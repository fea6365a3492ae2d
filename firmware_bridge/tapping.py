"""Which of several sensors is in a hand: the one that is tapped or shaken while the others are not.

No clock is needed: times are those of arrival, good to some tens of ms. A tap is an impact that stands out from the
sensor's own movement; shaking is movement that stays lively for a second. Either must be several times stronger than
whatever the other sensors felt at the same time: somebody who walks by is no answer, and two sensors at once are none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.firmware_bridge.clap import STANDS_OUT, above_mean
from kinedge.signals import ImuChunk
from kinedge.units import NS_PER_S

__all__ = ["Felt", "TapFinder"]

_KEEP_NS: Final = 3 * NS_PER_S
_WINDOW_NS: Final = 3 * NS_PER_S // 2
_SETTLE_NS: Final = 3 * NS_PER_S // 10  # until the others have told what they felt meanwhile
_TAP_M_S2: Final = 10.0
_SHAKE_M_S2: Final = 8.0  # a tenth of the time above the mean of half a second
_STRONGER: Final = 3.0
_MAX_CHUNKS: Final = 4000


@dataclass(frozen=True)
class Felt:
    """What was found.

    Parameters
    ----------
    where
        The device; None while there is no clear answer.
    how
        ``tap`` or ``shake``; ``several`` when more than one moves that much, ``nothing`` otherwise.
    strength_m_s2
        Of the strongest.
    """

    where: str | None
    how: Literal["tap", "shake", "several", "nothing"]
    strength_m_s2: float = 0.0


class TapFinder:
    """Listens to the acceleration of all devices from its making on."""

    def __init__(self) -> None:
        self._felt: dict[str, deque[tuple[NDArray[np.int64], NDArray[np.float32]]]] = {}

    def push(self, where: str, chunk: ImuChunk, channels: tuple[str, ...], *, arrived_ns: int) -> None:
        """Take samples of a device; who has no three-axis acceleration cannot be found."""
        try:
            columns = [channels.index(f"acc_{axis}") for axis in "xyz"]
        except ValueError:
            return
        if not len(chunk):
            return
        acc = np.where(chunk.valid[:, columns], chunk.values[:, columns], np.float32(np.nan))
        times = arrived_ns - np.arange(len(chunk) - 1, -1, -1, dtype=np.int64) * chunk.interval_ns
        chunks = self._felt.setdefault(where, deque(maxlen=_MAX_CHUNKS))
        if chunks and int(times[0]) <= int(chunks[-1][0][-1]):  # a burst: it was measured before it arrived
            fresh = times > chunks[-1][0][-1]
            times, acc = times[fresh], acc[fresh]
            if not len(times):
                return
        chunks.append((times, acc))
        while int(chunks[0][0][-1]) < arrived_ns - _KEEP_NS:
            chunks.popleft()

    def look(self, now_ns: int) -> Felt:
        """Say which device it is, as of now."""
        strengths: dict[str, float] = {}
        kinds: dict[str, Literal["tap", "shake"]] = {}
        for where, chunks in self._felt.items():
            strongest, kind = self._strength(chunks, now_ns)
            strengths[where] = strongest
            if kind is not None:
                kinds[where] = kind
        if not kinds:
            return Felt(None, "nothing", max(strengths.values(), default=0.0))
        best = max(kinds, key=lambda w: strengths[w])
        rivals = [s for w, s in strengths.items() if w != best]
        if rivals and max(rivals) * _STRONGER > strengths[best]:
            return Felt(None, "several", strengths[best])
        return Felt(best, kinds[best], strengths[best])

    @staticmethod
    def _strength(
        chunks: deque[tuple[NDArray[np.int64], NDArray[np.float32]]], now_ns: int
    ) -> tuple[float, Literal["tap", "shake"] | None]:
        times, acc = np.concatenate([t for t, _ in chunks]), np.concatenate([a for _, a in chunks])
        try:
            times, above = above_mean(times, acc)
        except SignalError:
            return 0.0, None
        recent = times >= now_ns - _WINDOW_NS
        if not recent.any():
            return 0.0, None
        strongest, lively = float(above[recent].max()), float(np.quantile(above[recent], 0.9))
        settled = above[recent & (times <= now_ns - _SETTLE_NS)].max(initial=0.0)
        usual = float(np.quantile(above, 0.9))
        if settled >= max(_TAP_M_S2, STANDS_OUT * usual):
            return strongest, "tap"
        return strongest, "shake" if lively >= _SHAKE_M_S2 else None
