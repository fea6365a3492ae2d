"""Sensors mounted otherwise, for tests of how they are turned back."""

from __future__ import annotations

import numpy as np

from kinedge.edge.offline import turn_recording
from kinedge.edge.orientation import Alignment
from kinedge.recording import Recording
from kinedge.training.rotations import matrix

__all__ = ["degrees", "random_turns", "turned"]


def random_turns(seed: int, n: int) -> np.ndarray:
    """Return ``n`` rotation matrices (n, 3, 3), evenly over all there are."""
    q = np.random.default_rng(seed).normal(size=(n, 4))
    return matrix(q / np.linalg.norm(q, axis=1, keepdims=True))


def turned(recording: Recording, turns: np.ndarray) -> Recording:
    """Mount the sensors otherwise: readings are what a sensor turned by ``turns`` would give."""
    n = len(turns)
    return turn_recording(recording, Alignment(turns, np.zeros(n), np.zeros(n), np.ones(n, bool)))


def degrees(rotation: np.ndarray) -> np.ndarray:
    """Return the angles of rotation matrices (..., 3, 3)."""
    return np.rad2deg(np.arccos(np.clip((np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2, -1, 1)))
