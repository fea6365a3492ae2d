"""Calibrations that no data was needed for, to hold C against numpy."""

from __future__ import annotations

import numpy as np

from kinedge.edge.calibration import Calibration
from kinedge.edge.coordination import Coordination, Lines, Weights


def calibration_of(rng: np.random.Generator, edges: np.ndarray) -> Calibration:
    """Return one that no data was needed for; of the cohort, or of a person with other knots."""
    n_knots, n_channels, n_sensors = int(rng.integers(2, 7)), int(edges[-1]), len(edges) - 1
    return Calibration(
        knots=np.cumsum(rng.uniform(0.1, 2, (n_knots, n_sensors)), axis=0) - 4,
        center=rng.normal(size=(n_knots, n_channels)),
        spread=rng.uniform(0.5, 2, (n_knots, n_channels)),
        reference=np.sort(rng.normal(size=int(rng.integers(1, 300)))),
        likelihood=np.concatenate([rng.normal(size=(n_sensors, 4)) * 3, rng.uniform(0, 9, (n_sensors, 2))], axis=1),
        precision=np.eye(n_channels),
        additive=np.ones(1),
        of_one=np.array(float(rng.integers(2))),
    )


def coordination_of(rng: np.random.Generator, n_sensors: int) -> Coordination:
    """How some sensors may move together."""
    shape = int(rng.integers(2, 6)), n_sensors
    low, middle, high = np.sort(rng.normal(0, 2, (3, *shape)), axis=0)
    mix = rng.normal(0, 0.7, (n_sensors, n_sensors + 1))
    levels, weight = np.sort(rng.normal(-2, 3, shape), axis=0), rng.choice([0.0, 0.7, 1.9], n_sensors)
    usual, reference = rng.random(n_sensors), np.sort(rng.normal(size=int(rng.integers(1, 300))))
    likelihood = np.concatenate([rng.normal(size=(n_sensors, 4)) * 3, rng.uniform(0, 9, (n_sensors, 2))], axis=1)
    late = rng.uniform(0.1, 0.5, n_sensors), rng.random(n_sensors), rng.choice([0.0, 0.4, 1.1], n_sensors)
    return Coordination(
        Lines(mix, levels, low, middle, high),
        Weights(usual, weight, *late, reference, likelihood, rng.random(1)),
    )
