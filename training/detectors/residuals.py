"""From residuals to surprise: the part that all forecasting detectors share.

Choices
-------
* A residual is divided by its deviation on the prefix, plus a floor, clipped, squared, and averaged over channels and
  horizons.
* Its unit follows slowly: a machine that has become noisier for good is not anomalous for good. The unit never falls
  below that of the prefix, and one residual counts as at most five units, so that an anomaly cannot hide itself.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.training.detectors.interface import row_sums

__all__ = ["ResidualUnits", "mean_surprise"]

F64 = NDArray[np.float64]
_LOUD: Final = 5.0


class ResidualUnits:
    """Deviations of residuals on the prefix, and how they have grown since.

    Parameters
    ----------
    residual : (n, K)
        Of the prefix.
    present : (n, K)
        Where there was something to predict.
    floor
        Added to the deviation.
    clip
        Of residuals in their units.
    forget
        Time constant of the unit, samples; 0 keeps that of the prefix.
    """

    def __init__(self, residual: F64, present: NDArray[np.bool_], *, floor: float, clip: float, forget: float) -> None:
        count = np.maximum(present.sum(axis=0), 1)
        known = np.where(present, residual, 0.0)
        deviation = np.where(present, known - known.sum(axis=0) / count, 0.0)
        self.deviation = np.sqrt((deviation**2).sum(axis=0) / count) + floor
        self.clip = clip
        self.forget = forget

    def surprise(self, residual: F64, present: NDArray[np.bool_], square: F64) -> tuple[F64, F64]:
        """Return the surprise of residuals (n, K), 1 being usual, and the running mean square (K,) behind them.

        Parameters
        ----------
        square : (K,)
            The running mean square before them; ones at the start.
        """
        return self.surprise_in_units(residual / self.deviation, present, square)

    def surprise_in_units(self, z: F64, present: NDArray[np.bool_], square: F64) -> tuple[F64, F64]:
        """Return the same for residuals (n, K) that are divided by their deviation already."""
        squares = np.where(present, np.clip(z, -self.clip, self.clip) ** 2, 0.0)
        if self.forget:
            units = np.empty_like(squares)
            for t in range(len(squares)):
                units[t] = square
                square = self._followed(square, squares[t], present[t])
            squares /= units
        return squares, square

    def surprise_at(self, z: F64, present: NDArray[np.bool_], square: F64) -> tuple[F64, F64]:
        """Return the same for one instant of many streams (n_streams, K), each with a running mean square of its own.

        Residuals are divided by their deviation already.

        Parameters
        ----------
        square : (n_streams, K)
            The running mean squares before it.
        """
        squares = np.where(present, np.clip(z, -self.clip, self.clip) ** 2, 0.0)
        return squares / square, self._followed(square, squares, present)

    def surprise_of_whole(self, squares: F64, square: F64) -> tuple[F64, F64]:
        """Return the same for one instant (K,) of one stream, of which nothing is missing and nothing clipped.

        For a unit that follows; one that stays leaves the squares as they are.

        Parameters
        ----------
        squares : (K,)
            Squared residuals in their units.
        square : (K,)
            The running mean square before it.
        """
        return squares / square, self._followed(square, squares, 1.0)

    def _followed(self, square: F64, squares: F64, present: NDArray[np.bool_] | float) -> F64:
        """Return the running mean square behind an instant."""
        step = np.minimum(squares, _LOUD**2 * square) - square
        return np.asarray(np.maximum(square + present / self.forget * step, 1.0))


def mean_surprise(squares: F64, present: NDArray[np.bool_]) -> F64:
    """Return the mean over what is present (n,) of (n, K); 0 where nothing is."""
    return np.asarray(row_sums(squares) / np.maximum(present.sum(axis=1), 1))
