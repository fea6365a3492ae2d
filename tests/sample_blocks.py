"""Scored blocks as a person's ordinary movement gives them, for tests of baselines and audits."""

from __future__ import annotations

import numpy as np

from kinedge.edge.personal import Blocks
from kinedge.edge.scores import NO_STEP
from kinedge.edge.timing import UNTOLD


def normal_blocks(rng: np.random.Generator, n: int, *, n_channels: int = 12, n_sensors: int = 2) -> Blocks:
    intensity = rng.normal(-3, 1.5, size=(n, n_sensors))
    trend = 0.4 * np.repeat(intensity, n_channels // n_sensors, axis=1)
    channel = trend + 0.3 * rng.gumbel(size=(n, n_channels))
    return Blocks(channel, intensity, np.full(intensity.shape, NO_STEP), np.full(intensity.shape, UNTOLD), np.arange(n))
