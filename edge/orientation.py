"""How a sensor sits on the body, and how to turn today's way into that of the enrolment.

Sensors are never put on twice alike, and a forecaster knows the difference. Two directions in a sensor's own frame tell
how it sits, both taken from walking alone, since posture at rest is anybody's choice: the mean direction of gravity,
and the axis about which the segment swings (the first principal axis of its angular rate). The rotation that takes
today's pair to the enrolled pair is Wahba's problem, solved by singular values, each direction weighted by how little
it scatters between stretches of walking.

A swing axis has no sign. Of the two rotations that are left, the one is taken under which the cross-covariance of
acceleration and angular rate agrees better with the enrolled one: a limb swings forward otherwise than backward.

Nothing turns by itself while a session runs: a rotation is proposed once enough walking was seen, or when somebody
asks, with its uncertainty; whoever applies it starts that person's scoring anew.

Source: Markley, "Attitude determination using vector observations and the singular value decomposition", Journal of the
Astronautical Sciences 36 (1988).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.signals import Quantity, SensorSpec, quantity_of

__all__ = [
    "MAX_WINDOWS",
    "WINDOW_S",
    "Alignment",
    "FrameEstimator",
    "Frames",
    "Walking",
    "align",
    "angle_of",
    "rotate_samples",
    "rotation_between",
    "triads_of",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

WINDOW_S: Final = 4.0
"""Samples of so long are looked at together."""
_STEP_S: Final = (0.4, 1.6)  # from a quick step to a slow stride
_MIN_REGULARITY: Final = 0.5  # autocorrelation of the length of the acceleration at such a lag
_MIN_SD_M_S2: Final = 0.4  # of that length: a body that walks shakes its sensors
_STRETCHES: Final = 8  # that the scatter is taken between
MAX_WINDOWS: Final = 600
"""Of walking, 40 min; older ones are forgotten."""
_MIN_ANISOTROPY: Final = 1.5  # of the power about the swing axis over that about the next; below, there is no axis
_MAX_ERROR_RAD: Final = float(np.deg2rad(10.0))
_FLOOR_RAD: Final = float(np.deg2rad(0.5))  # nobody's frame is better known


def triads_of(sensors: Sequence[SensorSpec]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the columns (n_triads, 3) of x, y, z of every quantity that has all three, and their sensors' numbers."""
    columns, owner, start = [], [], 0
    for i, spec in enumerate(sensors):
        for quantity in Quantity:
            found = {c[-1]: start + j for j, c in enumerate(spec.channels) if quantity_of(c) is quantity}
            if len(found) == 3:
                columns.append([found[axis] for axis in "xyz"])
                owner.append(i)
        start += spec.n_channels
    return np.array(columns, np.intp).reshape(-1, 3), np.array(owner, np.intp)


def rotate_samples(
    values: F32,
    valid: NDArray[np.bool_],
    saturated: NDArray[np.bool_],
    rotations: F32,
    triads: NDArray[np.intp],
    owner: NDArray[np.intp],
) -> tuple[F32, NDArray[np.bool_], NDArray[np.bool_]]:
    """Turn the samples of all streams at once; a turned axis is made of three, and as good as the worst of them.

    Parameters
    ----------
    values, valid, saturated : (n_streams, n_samples, n_channels)
        Not changed; masks that stay as they are are given back themselves.
    rotations : (n_streams, n_sensors, 3, 3)
        From today's sensor frame to that of the enrolment.
    triads, owner
        From ``triads_of``.
    """
    turned = values.copy()
    turned[..., triads] = np.einsum("nkij,ntkj->ntki", rotations[:, owner], values[..., triads])
    if not valid.all():
        ok = valid.copy()
        ok[..., triads] = valid[..., triads].all(axis=-1, keepdims=True)
        turned[~ok] = 0
        valid = ok
    if saturated.any():
        end = saturated.copy()
        end[..., triads] = saturated[..., triads].any(axis=-1, keepdims=True)
        saturated = end
    return turned, valid, saturated


@dataclass(frozen=True, eq=False)
class Frames:
    """How each sensor of a person sits.

    Parameters
    ----------
    gravity, axis : (n_sensors, 3)
        Unit vectors in the sensor's frame: mean acceleration in walking, and swing axis (its sign means nothing).
    cross : (n_sensors, 3, 3)
        Covariance of acceleration (rows) with angular rate (columns) in walking.
    error_rad : (n_sensors, 2)
        Standard errors of the two directions.
    anisotropy : (n_sensors,)
        Power about the swing axis over that about the next; 0 where a sensor measures no acceleration or rotation.
    walking_s : (n_sensors,)
        Walking that this was taken from.
    """

    gravity: F64
    axis: F64
    cross: F64
    error_rad: F64
    anisotropy: F64
    walking_s: F64


@dataclass(frozen=True, eq=False)
class Alignment:
    """From today's frames to those of an enrolment.

    Parameters
    ----------
    rotation : (n_sensors, 3, 3)
        The identity where it could not be told.
    angle_rad, error_rad : (n_sensors,)
        How far it turns, and its standard error; the error is infinite where it could not be told.
    usable : (n_sensors,) bool
        The error is at most 10 degrees.
    """

    rotation: F64
    angle_rad: F64
    error_rad: F64
    usable: NDArray[np.bool_]


class Walking:
    """Tells what windows of several people say of how their sensors sit; what is no walking says nothing.

    Parameters
    ----------
    sensors
        In column order.
    rate_hz
        Of the grid.

    Attributes
    ----------
    window
        Samples that are looked at together.
    sensors
        Which can be told of: those with all axes of acceleration and of angular rate.
    """

    def __init__(self, sensors: Sequence[SensorSpec], *, rate_hz: float) -> None:
        self.n_sensors = len(sensors)
        names = [c for spec in sensors for c in spec.channels]
        pairs: dict[int, dict[Quantity, list[int]]] = {}
        for triad, sensor in zip(*(a.tolist() for a in triads_of(sensors)), strict=True):
            pairs.setdefault(sensor, {})[quantity_of(names[triad[0]])] = triad
        both = {i: f for i, f in pairs.items() if Quantity.ACC in f and Quantity.GYR in f}
        self.sensors = tuple(both)
        self._columns = np.array([[f[Quantity.ACC], f[Quantity.GYR]] for f in both.values()], np.intp)
        self._in_order = self._columns.ravel().tolist() == list(range(len(names)))
        self.window = round(WINDOW_S * rate_hz)
        self._lags = (max(1, round(_STEP_S[0] * rate_hz)), min(self.window - 2, round(_STEP_S[1] * rate_hz)))
        self._n_transformed = _quick_length(self.window + self._lags[1])

    def look(self, windows: F32) -> tuple[NDArray[np.intp], NDArray[np.intp], F64]:
        """Look at one window of each of some people.

        Parameters
        ----------
        windows : (n_people, window, n_channels)
            NaN where a sample is missing: a sensor with a gap says nothing.

        Returns
        -------
        person, sensor : (n,)
            Who walked with which sensor.
        moments : (n, 7, 3)
            What it said: mean acceleration, covariance of the swing, and cross-covariance.
        """
        nothing = np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros((0, 7, 3))
        if not self.sensors:
            return nothing
        # (n_people, n_sensors, acceleration or rate, axis, window), samples of an axis side by side
        samples = np.ascontiguousarray(windows.transpose(0, 2, 1), np.float64)
        shape = (len(samples), *self._columns.shape, self.window)
        samples = samples.reshape(shape) if self._in_order else samples[:, self._columns]
        acc, gyr = samples[:, :, 0], samples[:, :, 1]
        whole = np.isfinite(samples).all(axis=(2, 3, 4))
        walks = np.zeros(whole.shape, bool)
        walks[whole] = self._repeats(np.sqrt((acc[whole] ** 2).sum(axis=1)))
        n_walking = walks.sum(axis=1)
        # a body that walks shakes most of its sensors
        walks &= (2 * n_walking >= whole.sum(axis=1))[:, None]
        person, which = np.nonzero(walks)
        if not len(person):
            return nothing
        acc, gyr = acc[walks], gyr[walks]
        mean = acc.mean(axis=2)
        swing = gyr - gyr.mean(axis=2)[..., None]
        across = swing.swapaxes(1, 2)
        power, cross = swing @ across / self.window, (acc - mean[..., None]) @ across / self.window
        return person, np.array(self.sensors)[which], np.concatenate([mean[:, None], power, cross], axis=1)

    def _repeats(self, length: F64) -> NDArray[np.bool_]:
        """Whether lengths of the acceleration (n, window) repeat themselves at the pace of steps or strides."""
        x = length - length.mean(axis=1)[:, None]
        power = (x * x).sum(axis=1)
        found: NDArray[np.bool_] = power >= _MIN_SD_M_S2**2 * self.window
        if found.any():
            low, high = self._lags
            lags = np.arange(low, high + 1)
            # with room for the longest lag, nothing of the end comes round to the beginning
            spectrum = np.fft.rfft(x[found], self._n_transformed, axis=1)
            product = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, self._n_transformed, axis=1)[:, lags]
            rho = product / power[found, None] * self.window / (self.window - lags)
            found[found] = rho.max(axis=1) >= _MIN_REGULARITY
        return found

    def frames(self, found: Mapping[int, tuple[F64, F64]]) -> Frames:
        """Return what the moments of each sensor say: their mean (7, 3), and those of windows or of equal stretches.

        A sensor with fewer than eight of the latter (n, 7, 3) is not known.
        """
        s = self.n_sensors
        gravity, axis = np.tile([0.0, 0.0, 1.0], (s, 1)), np.tile([1.0, 0.0, 0.0], (s, 1))
        cross, error = np.zeros((s, 3, 3)), np.full((s, 2), np.pi)
        anisotropy, walking = np.zeros(s), np.zeros(s)
        for i, (mean, windows) in found.items():
            walking[i] = len(windows) * WINDOW_S
            if len(windows) < _STRETCHES:
                continue
            gravity[i] = _unit(mean[0])
            power, directions = np.linalg.eigh(mean[1:4])
            axis[i], cross[i] = directions[:, 2], mean[4:]
            anisotropy[i] = power[2] / max(power[1], 1e-12)
            stretches = [part.mean(axis=0) for part in np.array_split(windows, _STRETCHES)]
            turns = [
                (angle_of(_unit(m[0]), gravity[i]), _line_angle(np.linalg.eigh(m[1:4])[1][:, 2], axis[i]))
                for m in stretches
            ]
            error[i] = np.sqrt(np.mean(np.square(turns), axis=0) / (_STRETCHES - 1))
        return Frames(gravity, axis, cross, np.maximum(error, _FLOOR_RAD), anisotropy, walking)


def _quick_length(least: int) -> int:
    """Return a length of at least so much that a Fourier transform is quick with."""
    lengths = [(1 << i) * k for i in range(1, 17) for k in (1, 3, 9, 27)]
    return min(length for length in lengths if length >= least)


class FrameEstimator:
    """Learns how a person's sensors sit while they walk; what is no walking is not used.

    Parameters
    ----------
    sensors
        In column order.
    rate_hz
        Of the grid.
    """

    def __init__(self, sensors: Sequence[SensorSpec], *, rate_hz: float) -> None:
        self._walking = Walking(sensors, rate_hz=rate_hz)
        self._rows: list[F32] = []
        self._n = 0
        self._found: dict[int, deque[F64]] = {i: deque(maxlen=MAX_WINDOWS) for i in self._walking.sensors}

    @property
    def walking_s(self) -> float:
        """Walking seen so far, of the sensor with the least; 0 when none can be used."""
        return min((len(f) for f in self._found.values()), default=0) * WINDOW_S

    def add(self, values: F32, valid: NDArray[np.bool_]) -> None:
        """Take consecutive samples (n, n_channels); those of a window with a gap are not used."""
        self._rows.append(np.where(valid, values, np.float32(np.nan)))
        self._n += len(values)
        window = self._walking.window
        while self._n >= window:
            rows = np.concatenate(self._rows)
            _, sensors, moments = self._walking.look(rows[None, :window])
            for sensor, found in zip(sensors.tolist(), moments, strict=True):
                self._found[sensor].append(found)
            self._rows, self._n = [rows[window:]], self._n - window

    def clear(self) -> None:
        """Forget what was seen."""
        self._rows, self._n = [], 0
        for found in self._found.values():
            found.clear()

    def frames(self) -> Frames:
        """Return what is known now; a sensor with fewer than eight windows of walking is not known."""
        found = {sensor: np.stack(own) for sensor, own in self._found.items() if own}
        return self._walking.frames({sensor: (own.mean(axis=0), own) for sensor, own in found.items()})


def align(today: Frames, enrolled: Frames) -> Alignment:
    """Find the rotations that take today's frames to the enrolled ones.

    The standard error is that of both directions in both sessions; the angle between gravity and swing axis does not
    depend on how a sensor sits, so a difference there is counted as error too.
    """
    n = len(today.gravity)
    rotation = np.tile(np.eye(3), (n, 1, 1))
    angle, error = np.zeros(n), np.full(n, np.inf)
    for i in range(n):
        if min(today.anisotropy[i], enrolled.anisotropy[i]) < _MIN_ANISOTROPY:
            continue
        tilt, heading = np.hypot(today.error_rad[i], enrolled.error_rad[i])
        candidates = []
        for sign in (1.0, -1.0):
            pairs = ((enrolled.gravity[i], today.gravity[i], tilt), (enrolled.axis[i], sign * today.axis[i], heading))
            turn = rotation_between(pairs)
            agreement = float((turn @ today.cross[i] @ turn.T * enrolled.cross[i]).sum())
            candidates.append((agreement, turn))
        rotation[i] = max(candidates, key=lambda c: c[0])[1]
        between = [_line_angle(f.gravity[i], f.axis[i]) for f in (today, enrolled)]
        lever = max(float(np.sin(min(between))), 1e-3)
        error[i] = np.sqrt(2 * tilt**2 + (heading / lever) ** 2 + (between[0] - between[1]) ** 2)
        angle[i] = np.arccos(np.clip((np.trace(rotation[i]) - 1) / 2, -1.0, 1.0))
    usable = error <= _MAX_ERROR_RAD
    rotation[~usable] = np.eye(3)
    return Alignment(rotation, angle, error, usable)


def rotation_between(pairs: Sequence[tuple[F64, F64, float]]) -> F64:
    """Return the rotation (3, 3) that takes each second vector to its first, weighted by their errors in rad."""
    profile = sum(np.outer(to, of) / error**2 for to, of, error in pairs)
    u, _, v = np.linalg.svd(np.asarray(profile))
    turn: F64 = u @ np.diag([1.0, 1.0, np.linalg.det(u) * np.linalg.det(v)]) @ v
    return turn


def _unit(v: F64) -> F64:
    unit: F64 = v / max(float(np.linalg.norm(v)), 1e-12)
    return unit


def angle_of(a: F64, b: F64) -> float:
    """Return the angle between two vectors, in rad."""
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


def _line_angle(a: F64, b: F64) -> float:
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), abs(a @ b)))
