"""Which packets of a stream are new, and how many samples are missing before each.

``sequence`` counts samples modulo 65536, so a gap is known exactly up to whole wraps; the device clock says
how many wraps. All arithmetic is on integers, in one form for arrays and for single packets, so that a burst
and its packets one by one are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_GAP", "MAX_T_US", "Timeline"]

MAX_T_US: Final = 1 << 53
"""Device clocks beyond 285 years are refused: in nanoseconds they would not fit int64."""
MAX_GAP: Final = 10_000_000
"""More samples lost at once than this is taken for a broken time stamp."""

_WRAP: Final = 1 << 16
_NEAR: Final = _WRAP // 2
_CONFIRMATIONS: Final = 3

_Ints = TypeVar("_Ints", int, NDArray[np.int64])


@dataclass
class _Suspect:
    """A timeline far from ours that some packets seem to follow."""

    first_sequence: int
    next_sequence: int
    next_ns: int
    packets: int


class Timeline:
    """Sequence and time of one stream since its device started.

    A packet is new if it lies behind the last one both by sequence and by time. A packet up to 32768 samples
    back is a repetition, or came late. A packet further back, or more than ``MAX_GAP`` samples ahead, is refused
    as implausible; but when three in a row continue one another, it is this timeline that is wrong (after
    an outage of days, or a broken time stamp that passed the CRC), and theirs is adopted. Only then may
    time step back within one boot.

    Attributes
    ----------
    repeated
        Samples of packets that were not new.
    implausible
        Packets refused.
    resets
        Timelines adopted.
    """

    def __init__(self) -> None:
        self.repeated = 0
        self.implausible = 0
        self.resets = 0
        self.restart()

    def restart(self) -> None:
        """Forget the place, as when the device started anew; the counts stay."""
        self._next_sequence: int | None = None
        self._next_ns = 0
        self._last_ns = -1
        self._suspect: _Suspect | None = None

    def admit(
        self, sequence: NDArray[np.int64], start_ns: NDArray[np.int64], interval_ns: NDArray[np.int64], *, n: int
    ) -> tuple[NDArray[np.intp] | None, int]:
        """Judge packets of ``n`` samples each, in order of arrival.

        Parameters
        ----------
        sequence, start_ns, interval_ns : (n_packets,) int64
            Of the first sample; and from sample to sample, positive.
        n
            Samples in every packet.

        Returns
        -------
        kept : (n_kept,) intp or None
            Index of the packets that are new; None for all of them.
        lost
            Samples missing before and between them. What was missing before the first packet since the device
            started is not known, and counts as 0.
        """
        end_ns = start_ns + n * interval_ns
        if self._next_sequence is None:
            self._next_sequence, self._next_ns = int(sequence[0]), int(start_ns[0])
        if len(sequence) > 1:
            expected = np.empty_like(sequence)
            expected[0], expected[1:] = self._next_sequence, sequence[:-1] + n
            expected_ns = np.empty_like(start_ns)
            expected_ns[0], expected_ns[1:] = self._next_ns, end_ns[:-1]
            last_ns = np.empty_like(start_ns)
            last_ns[0], last_ns[1:] = self._last_ns, end_ns[:-1] - interval_ns[:-1]
            lost = _n_missing(sequence, expected, start_ns, expected_ns, interval_ns)
            if bool(((lost >= 0) & (lost <= MAX_GAP) & (start_ns > last_ns)).all()):
                self._move(int(sequence[-1]), int(end_ns[-1]), int(interval_ns[-1]), n)
                return None, int(lost.sum())
        kept, total = [], 0
        for i, packet in enumerate(zip(sequence.tolist(), start_ns.tolist(), interval_ns.tolist(), strict=True)):
            missing = self._admit_one(*packet, n)
            if missing is not None:
                kept.append(i)
                total += missing
        return np.array(kept, dtype=np.intp), total

    def _admit_one(self, sequence: int, start_ns: int, interval_ns: int, n: int) -> int | None:
        if self._next_sequence is None:
            self._next_sequence, self._next_ns = sequence, start_ns
        lost = _n_missing(sequence, self._next_sequence, start_ns, self._next_ns, interval_ns)
        if 0 <= lost <= MAX_GAP:
            if start_ns <= self._last_ns:
                self.implausible += 1  # the clock stepped back a little: it will catch up
                return None
        elif -_NEAR <= lost < 0:
            self.repeated += n
            return None
        else:
            adopted = self._suspect_more(sequence, start_ns, interval_ns, n)
            if not adopted:
                self.implausible += 1
                return None
            lost = max(lost, adopted)
            self.resets += 1
        self._move(sequence, start_ns + n * interval_ns, interval_ns, n)
        return lost

    def _suspect_more(self, sequence: int, start_ns: int, interval_ns: int, n: int) -> int:
        """Follow another timeline; return the samples refused on it once it is believed, else 0."""
        suspect = self._suspect
        if (
            suspect is None
            or sequence != suspect.next_sequence
            or not 0 <= start_ns - suspect.next_ns + interval_ns <= 2 * interval_ns
        ):
            suspect = self._suspect = _Suspect(sequence, sequence, start_ns, packets=0)
        suspect.packets += 1
        suspect.next_sequence, suspect.next_ns = (sequence + n) % _WRAP, start_ns + n * interval_ns
        return (sequence - suspect.first_sequence) % _WRAP if suspect.packets >= _CONFIRMATIONS else 0

    def _move(self, sequence: int, end_ns: int, interval_ns: int, n: int) -> None:
        self._next_sequence = (sequence + n) % _WRAP
        self._next_ns = end_ns
        self._last_ns = end_ns - interval_ns
        self._suspect = None


def _n_missing(sequence: _Ints, expected: _Ints, start_ns: _Ints, expected_ns: _Ints, interval_ns: _Ints) -> _Ints:
    """Return the gap by sequence, with as many wraps as bring it nearest to the gap by time."""
    gap = (sequence - expected) % _WRAP
    half = _NEAR * interval_ns
    return gap + _WRAP * ((start_ns - expected_ns - gap * interval_ns + half) // (2 * half))
