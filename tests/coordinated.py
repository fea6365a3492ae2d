"""People whose sensors move together, for tests of what gives away one that does not."""

from __future__ import annotations

import numpy as np

from kinedge.edge.scores import NO_STEP
from kinedge.training.calibrating import SubjectScores

HALF = np.log(0.25)  # half as far is a quarter of the power


def walker(seed: int, *, shift: float = 0.0, n: int = 400, n_sensors: int = 3) -> SubjectScores:
    """Whose sensors move together, each by .2; the last one ``shift`` more than that of others."""
    rng = np.random.default_rng(seed)
    pace = rng.normal(-2, 1.5, (n, 1))
    intensity = pace + np.arange(n_sensors) + 0.2 * rng.normal(size=(n, n_sensors))
    intensity[:, -1] += shift
    late = rng.normal(-1, 0.3, (n, n_sensors))  # in time
    return SubjectScores(
        str(seed), rng.normal(size=(n, 2 * n_sensors)), intensity, np.full(intensity.shape, NO_STEP), late
    )
