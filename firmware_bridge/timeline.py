"""Which packets of a stream are new, and how many samples are missing before each.

``sequence`` counts samples modulo 65536, so a gap is known exactly up to whole wraps; the device clock says
how many wraps. All arithmetic is on integers. A run of packets that plainly follow one another is passed at once;
any other is judged packet by packet, so that a burst and its packets one by one come to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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

    @property
    def begun(self) -> bool:
        """Whether a packet was admitted since the device started."""
        return self._next_sequence is not None

    def missing(self, sequence: int, start_ns: int, interval_ns: int) -> int:
        """Return the samples missing before a packet; negative where it lies behind what was admitted.

        This is the gap by sequence, with as many wraps as bring it nearest to the gap by time. What was missing before
        the first packet since the device started is not known, and counts as 0.
        """
        if self._next_sequence is None:
            return 0
        gap = (sequence - self._next_sequence) % _WRAP
        half = _NEAR * interval_ns
        return gap + _WRAP * ((start_ns - self._next_ns - gap * interval_ns + half) // (2 * half))

    def admit(self, sequence: int, start_ns: int, interval_ns: int, *, n: int) -> int | None:
        """Judge a packet of ``n`` samples.

        Parameters
        ----------
        sequence, start_ns, interval_ns
            Of the first sample; and from sample to sample, positive.
        n
            Samples in it.

        Returns
        -------
        lost
            Samples missing before it; None where it is not new.
        """
        lost = self.missing(sequence, start_ns, interval_ns)
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

    def admit_run(
        self, sequence: NDArray[np.int64], start_ns: NDArray[np.int64], interval_ns: NDArray[np.int64], *, n: int
    ) -> bool:
        """Pass packets of ``n`` samples each, if each is the next one after that before it.

        Parameters
        ----------
        sequence, start_ns, interval_ns : (n_packets,) int64
            In order of arrival, as for ``admit``.

        Returns
        -------
        passed
            True where ``admit`` would have said 0 for each. False where that is not plain: nothing has changed then,
            and ``admit`` must judge them.
        """
        first, first_ns = int(sequence[0]), int(start_ns[0])
        next_sequence, next_ns = self._next_sequence, self._next_ns
        if next_sequence is None:
            next_sequence, next_ns = first, first_ns
        end_ns = start_ns + n * interval_ns
        least_ns = int(interval_ns.min())
        count = np.arange(next_sequence, next_sequence + n * len(sequence), n)
        if (
            ((sequence ^ count) & (_WRAP - 1)).any()
            or first_ns <= self._last_ns
            or abs(first_ns - next_ns) >= _NEAR * least_ns
            or (np.abs(start_ns[1:] - end_ns[:-1]) >= least_ns).any()
        ):
            return False
        self._move(int(sequence[-1]), int(end_ns[-1]), int(interval_ns[-1]), n)
        return True

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
