"""Courses over time that a moving body is made of: minimum-jerk moves, smooth wandering, limbs, impacts."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["acceleration", "limb", "min_jerk", "moves", "ring", "wander"]

Array = NDArray[np.float64]
_IMPACT_HZ: Final = 14.0
_IMPACT_DECAY_S: Final = 0.03


def min_jerk(s: Array) -> Array:
    """Return the minimum-jerk course from 0 to 1 for ``s`` from 0 to 1, and its ends outside (Flash & Hogan 1985)."""
    s = np.clip(s, 0.0, 1.0)
    course: Array = s**3 * (10 + s * (6 * s - 15))
    return course


def wander(rng: np.random.Generator, t: Array, *, every_s: float, sd: float) -> Array:
    """Return a smooth random course: minimum-jerk between normal values drawn every ``every_s``.

    Every course has its own child generator: a body clock that runs slower draws fewer values, and nobody notices.
    """
    at = t / every_s
    left = at.astype(np.int64)
    knots = rng.spawn(1)[0].normal(0.0, sd, int(left[-1]) + 2)
    course: Array = knots[left] + (knots[left + 1] - knots[left]) * min_jerk(at - left)
    return course


def moves(t: Array, starts: Array, durations: Array, values: Array, *, initial: float) -> Array:
    """Return a course that goes to ``values[i]`` by minimum jerk from ``starts[i]`` on, and holds it."""
    i = np.searchsorted(starts, t, side="right") - 1
    goals = np.concatenate([[initial], values])
    s = (t - starts[i]) / durations[i]
    course: Array = np.where(i < 0, initial, goals[i] + (goals[i + 1] - goals[i]) * min_jerk(s))
    return course


def limb(flexion: Array, turn: Array, length_m: float) -> Array:
    """Return the vector (n, 3) along a limb, from its upper to its lower end."""
    along = np.sin(flexion)
    return length_m * np.stack([along * np.cos(turn), along * np.sin(turn), -np.cos(flexion)], axis=1)


def acceleration(position: Array, rate_hz: float) -> Array:
    """Return the second central difference of positions (n, 3); the ends repeat their neighbours."""
    acc = np.zeros_like(position)
    if len(position) > 2:
        acc[1:-1] = np.diff(position, 2, axis=0) * rate_hz**2
        acc[0], acc[-1] = acc[1], acc[-2]
    return acc


def ring(
    t: Array, times: Array, peaks: Array, rate_hz: float, *, hz: float = _IMPACT_HZ, decay_s: float = _IMPACT_DECAY_S
) -> Array:
    """Return damped oscillations (n,) that start at ``times``, between samples too."""
    n_tail = int(np.ceil(6 * decay_s * rate_hz)) + 1
    first = np.ceil(times * rate_hz).astype(np.int64)
    index = first[:, None] + np.arange(n_tail)
    age = index / rate_hz - times[:, None]
    value = peaks[:, None] * np.exp(-age / decay_s) * np.cos(2 * np.pi * hz * age)
    inside = (index >= 0) & (index < len(t))
    ringing: Array = np.bincount(index[inside], weights=value[inside], minlength=len(t)).astype(np.float64)
    return ringing
