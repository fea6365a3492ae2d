"""What a forecaster is shown where a sample is missing: the last value of the channel, which fades.

A linear part that reads 0 for every lost sample sees a jump at each edge of a gap, and surprise follows where nothing
happened but bad radio. The last value is a far better guess for a tenth of a second, and none at all for a minute: it
fades towards the channel's center, and the mask beside it tells the network which is which.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gaps"]

F32 = NDArray[np.float32]

_LEAST: Final = 0.01  # of a value, below which nothing of it is left


class Gaps:
    """Fills gaps, for any number of streams; what it remembers of them is the caller's.

    Parameters
    ----------
    hold_s
        Time in which a held value fades to 37 %; 0 shows zeros from the first missing sample on.
    rate_hz
        Of the grid.
    """

    def __init__(self, hold_s: float, rate_hz: float) -> None:
        samples = hold_s * rate_hz
        n = math.ceil(-math.log(_LEAST) * samples)
        fading = np.exp(-np.arange(1, n + 1) / samples) if n else np.zeros(0)
        self.weight: F32 = np.concatenate([[1.0], fading, [0.0]]).astype(np.float32)

    def fill(
        self, x: F32, valid: NDArray[np.bool_], last: F32, age: NDArray[np.int32]
    ) -> tuple[F32, NDArray[np.int32]]:
        """Put held values where samples are missing, in place; any cutting into chunks gives the same bits.

        Parameters
        ----------
        x : (n_streams, n_samples, n_channels) float32
            Normalised; read only where ``valid``.
        valid : the same shape, bool
        last, age : (n_streams, n_channels)
            Last value of each channel, and samples since then. Zeros at the start.

        Returns
        -------
        last, age
            After these samples.
        """
        n = x.shape[1]
        if n == 0:
            return last, age
        rows = np.flatnonzero(~valid.all(axis=(1, 2)))
        new_last, new_age = x[:, -1].copy(), np.zeros_like(age)
        if len(rows):
            at = np.arange(n, dtype=np.int32)[None, :, None]
            # the sample that each one shows: itself where it is there, -1 where none of these is
            shown = np.maximum.accumulate(np.where(valid[rows], at, np.int32(-1)), axis=1)
            before = shown < 0
            value = np.take_along_axis(x[rows], np.maximum(shown, 0), axis=1)
            value = np.where(before, last[rows, None], value)
            gap = np.minimum(np.where(before, age[rows, None] + at + 1, at - shown), len(self.weight) - 1)
            x[rows] = value * self.weight[gap]
            new_last[rows], new_age[rows] = value[:, -1], gap[:, -1]
        return new_last, new_age
