"""Several detectors as one: each smoothed, put on the scale of its own prefix, compressed, and added.

Choices
-------
* Smoothing comes first and is the largest single gain; a fixed output lag the second, since a trailing mean speaks best
  of the middle of what it has seen. Both are in samples, and the lag is part of the result.
* ``weight * log(1 + mean / q99)`` with the 99 % quantile of the smoothed prefix: below it a branch says next to
  nothing, far above it counts by its order of magnitude, so that no branch can drown the others by its units.
* A floor under each quantile: on a constant prefix it would be 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinedge.errors import ConfigError
from kinedge.training.detectors.interface import Detector, State, Streams, TrailingMean, TrailingMeans

__all__ = ["Branch", "FusedDetector", "FusedStreams"]

F64 = NDArray[np.float64]
_QUANTILE: Final = 0.99


@dataclass(frozen=True, eq=False)
class Branch:
    """A detector without lag, its weight, and the least its 99 % quantile may be."""

    detector: Detector
    weight: float = 1.0
    floor: float = 1e-3


class FusedDetector(Detector):
    """Sum of log-compressed, smoothed branches.

    Parameters
    ----------
    branches
        At least one.
    smoothing
        Samples of the trailing mean.
    lag
        Samples by which the score is late; at most the smoothing.

    Raises
    ------
    ConfigError
        No branch, a branch with a lag of its own, or a lag beyond the smoothing.
    """

    def __init__(self, branches: Sequence[Branch], *, smoothing: int, lag: int = 0) -> None:
        if not branches or any(b.detector.lag for b in branches):
            raise ConfigError("fusion needs at least one branch, and branches without a lag of their own")
        if not 0 <= lag < max(smoothing, 1):
            raise ConfigError(f"a lag of {lag} with a mean over {smoothing} samples: it would leave out its own sample")
        self.branches = tuple(branches)
        self.smoothing = smoothing
        self.lag = lag
        self._means = [TrailingMean(smoothing) for _ in branches]
        self._scales = np.ones(len(self.branches))
        self._row = np.empty(len(self.branches))

    def fit(self, prefix: ArrayLike) -> F64:
        """Fit all branches on a prefix (n, C), and take their scales from it."""
        smooth = []
        for branch in self.branches:
            surprise = branch.detector.fit(prefix)
            smooth.append(TrailingMean(self.smoothing).step(surprise))
        whole = [s[min(self.smoothing, len(s) // 2) :] for s in smooth]
        self._scales = np.array(
            [np.quantile(s, _QUANTILE) + b.floor for s, b in zip(whole, self.branches, strict=True)]
        )
        self._means = [TrailingMean(self.smoothing) for _ in self.branches]
        return self.fuse(smooth)

    def step(self, x: ArrayLike) -> F64:
        """Take (n, C), return fused scores (n,)."""
        values = np.asarray(x, dtype=np.float64)
        if values.ndim == 2 and len(values) == 1:
            return np.array([self._step_one(values)])
        pairs = zip(self._means, self.branches, strict=True)
        return self.fuse([mean.step(branch.detector.step(x)) for mean, branch in pairs])

    def _step_one(self, x: F64) -> float:
        """Take (1, C): the same, without an array for every number on the way."""
        row, sample = self._row, x[0]
        for i, (mean, branch) in enumerate(zip(self._means, self.branches, strict=True)):
            surprise = branch.detector.step_one(sample)
            row[i] = mean.step_one(branch.detector.step(x)[0] if surprise is None else surprise)
        np.divide(row, self._scales, row)
        np.log1p(row, row)
        score = 0.0
        for branch, value in zip(self.branches, row.tolist(), strict=True):
            score += branch.weight * value
        return score

    def fuse(self, smooth: Sequence[F64]) -> F64:
        """Sum smoothed surprises of all branches, of any shape, on their log scale."""
        triples = zip(smooth, self._scales, self.branches, strict=True)
        first, *others = [branch.weight * np.log1p(s / scale) for s, scale, branch in triples]
        for other in others:
            first += other
        return first

    @property
    def state(self) -> State:
        """States of all branches and their running means, named by the number of the branch."""
        parts: State = {}
        for i, (mean, branch) in enumerate(zip(self._means, self.branches, strict=True)):
            parts[f"{i}/mean"] = mean.past.copy()
            parts |= {f"{i}/{name}": value for name, value in branch.detector.state.items()}
        return parts

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        for i, (mean, branch) in enumerate(zip(self._means, self.branches, strict=True)):
            own = {name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{i}/")}
            past = own.pop("mean", None)
            if past is None or past.shape != mean.past.shape:
                raise ConfigError(f"state holds no running mean of {self.smoothing} samples for branch {i}")
            branch.detector.restore(own)
            mean.past = past.copy()

    @property
    def n_parameters(self) -> int:
        """Of all branches, and one scale each."""
        return sum(b.detector.n_parameters for b in self.branches) + len(self.branches)

    def many(self, n_streams: int) -> FusedStreams:
        """Return this fitted detector for many streams at once, none of which has seen anything yet.

        Raises
        ------
        ConfigError
            No stream, or a branch that follows one stream alone (a memory, a network).
        """
        return FusedStreams(self, [b.detector.many(n_streams) for b in self.branches], n_streams)


class FusedStreams:
    """A fitted fused detector that follows many streams in one call; see ``FusedDetector.many``."""

    def __init__(self, detector: FusedDetector, branches: Sequence[Streams], n_streams: int) -> None:
        self._detector = detector
        self._pairs = [(TrailingMeans(detector.smoothing, n_streams=n_streams), branch) for branch in branches]

    def step(self, x: ArrayLike) -> F64:
        """Take the next samples of every stream (n_streams, n, C), return fused scores (n_streams, n)."""
        return self._detector.fuse([mean.step(branch.step(x)) for mean, branch in self._pairs])
