"""Worn or not: a sensor that lay still for half an hour was on a table, from its first still second on.

Until that is known, its time waits apart from what is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.measures.day import Totals
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = ["Books", "is_still"]

F64 = NDArray[np.float64]
TotalsT = TypeVar("TotalsT", bound=Totals)

_STILL_SD_G: Final = 0.013
_STILL_RANGE_G: Final = 0.05


def is_still(acc_m_s2: F64) -> bool:
    """Say whether a second ``(rate_hz, 3)`` of acceleration shows no more than a sensor's noise.

    Source: van Hees et al., PLoS ONE 2011, 6:e22922 (13 mg, 50 mg).
    """
    acc_g = acc_m_s2 / STANDARD_GRAVITY_M_S2
    return bool((acc_g.std(axis=0) < _STILL_SD_G).all() and (np.ptp(acc_g, axis=0) < _STILL_RANGE_G).all())


@dataclass(frozen=True, eq=False)
class Books(Generic[TotalsT]):
    """A day so far: what is ``sure``; ``early``, since one sensor lay still; ``late``, since the other did too."""

    sure: TotalsT
    early: TotalsT
    late: TotalsT

    @classmethod
    def of(cls, nothing: TotalsT) -> Books[TotalsT]:
        """Return the books of a day that begins."""
        return cls(nothing, nothing, nothing)

    def total(self) -> TotalsT:
        """Return the day so far; time at rest counts as worn until it is known better."""
        return self.sure.plus(self.early).plus(self.late)

    def with_second(
        self, part: TotalsT, *, before: Sequence[int], still_s: Sequence[int], off_body_s: int
    ) -> Books[TotalsT]:
        """Return the books with one more second.

        Parameters
        ----------
        part
            Its totals.
        before, still_s
            How long each of two sensors has lain still, before and with this second; a sensor that is not there: 0.
        off_body_s
            After so long it was not worn.
        """
        sure, early, late = self.sure, self.early, self.late
        nothing = part.emptied()
        first = 0 if before[0] >= before[1] else 1  # who has been still for longer
        if still_s[first] == 0:
            sure, early, late = sure.plus(early), late, nothing
            first = 1 - first
            if still_s[first] == 0:
                sure, early = sure.plus(early), nothing
        elif still_s[1 - first] == 0:
            early, late = early.plus(late), nothing
        if still_s[first] >= off_body_s:
            return Books(sure.plus(early.plus(late).plus(part).as_unworn()), nothing, nothing)
        if min(still_s) > 0:
            late = late.plus(part)
        elif max(still_s) > 0:
            early = early.plus(part)
        else:
            sure = sure.plus(part)
        return Books(sure, early, late)
