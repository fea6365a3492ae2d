"""Unit quaternions ``(n, 4)``, scalar first, that turn sensor coordinates into world coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["about", "angular_rate", "conjugate", "matrix", "multiply", "rotate", "rotation_vector", "small_rotation"]

Array = NDArray[np.float64]
_AXES = {"x": 1, "y": 2, "z": 3}


def about(axis: str, angle_rad: Array | float) -> Array:
    """Return rotations about ``x``, ``y`` or ``z``: (n, 4) for angles (n,)."""
    half = np.atleast_1d(np.asarray(angle_rad, dtype=np.float64)) / 2
    q = np.zeros((len(half), 4))
    q[:, 0] = np.cos(half)
    q[:, _AXES[axis]] = np.sin(half)
    return q


def multiply(a: Array, b: Array) -> Array:
    """Return ``a`` after ``b``, with broadcasting over rows."""
    aw, ax, ay, az = a.T
    bw, bx, by, bz = b.T
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=1,
    )


def conjugate(q: Array) -> Array:
    """Return the inverse rotations."""
    inverse: Array = q * np.array([1.0, -1.0, -1.0, -1.0])
    return inverse


def rotate(q: Array, v: Array) -> Array:
    """Turn vectors (n, 3) by rotations (n, 4)."""
    w, x, y, z = q.T
    vx, vy, vz = v.T
    tx, ty, tz = 2 * (y * vz - z * vy), 2 * (z * vx - x * vz), 2 * (x * vy - y * vx)
    return np.stack(
        [vx + w * tx + y * tz - z * ty, vy + w * ty + z * tx - x * tz, vz + w * tz + x * ty - y * tx], axis=1
    )


def rotation_vector(q: Array) -> Array:
    """Return axis times angle, (n, 3) in rad, the short way round."""
    q = np.where(q[:, :1] < 0, -q, q)
    length = np.linalg.norm(q[:, 1:], axis=1)
    angle = 2 * np.arctan2(length, q[:, 0])
    # sin(x)/x -> 1: for tiny angles the vector part is half the rotation vector
    factor = np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)
    vector: Array = q[:, 1:] * factor[:, None]
    return vector


def angular_rate(q: Array, *, rate_hz: float) -> Array:
    """Return the body-frame angular rate (n, 3) in rad/s: the mean over the sampling interval that ends at each sample.

    That is what an integrating gyroscope reports; turning by ``rate / rate_hz`` at each sample gives ``q`` back.
    The first sample has no interval before it and repeats the second.
    """
    rate = np.zeros((len(q), 3))
    if len(q) > 1:
        rate[1:] = rotation_vector(multiply(conjugate(q[:-1]), q[1:])) * rate_hz
        rate[0] = rate[1]
    return rate


def small_rotation(rng: np.random.Generator, *, sd_deg: float) -> Array:
    """Draw one rotation (1, 4): each component of its rotation vector has this standard deviation."""
    vector = rng.normal(0.0, np.deg2rad(sd_deg), 3)
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 0 else vector
    return np.array([[np.cos(angle / 2), *(np.sin(angle / 2) * axis)]])


def matrix(q: Array) -> Array:
    """Return rotation matrices (n, 3, 3) whose columns are the turned unit vectors."""
    return np.stack([rotate(q, np.broadcast_to(unit, (len(q), 3))) for unit in np.eye(3)], axis=2)
