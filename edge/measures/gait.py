"""Steps, impacts and loads of walking and running from shank or foot sensors, a second at a time.

Events come from the angular rate in the sagittal plane: a swing is a peak of its smoothed course; on a shank toe-off is
the trough before it and initial contact the first trough after it, on a foot the zeros next to it.

Sources: Salarian et al., IEEE TBME 2004, 51:1434 (events); IMeasureU's convention (impact bins); Boyd, Ball, Aughey,
Int J Sports Physiol Perform 2011, 6:311 (PlayerLoad); Zifchock et al., Gait Posture 2008, 27:622 (symmetry angle);
Moe-Nilssen, Helbostad, J Biomech 2004, 37:121 (regularity).

Deviations: the sagittal axis is the principal axis of the angular rate over the window, signed so that the swing is
positive, so that a strap may sit in any direction; PlayerLoad is taken at exactly 100 Hz after a low-pass at
45 Hz, or it is not given: the same movement at another rate is another number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.measures.filters import Resampler
from kinedge.edge.measures.seconds import whole_rate
from kinedge.edge.measures.walking import autocorrelation
from kinedge.errors import SignalError
from kinedge.units import STANDARD_GRAVITY_M_S2

__all__ = [
    "GaitEvents",
    "GaitState",
    "PlayerLoad",
    "PlayerLoadState",
    "Step",
    "impact_bins",
    "regularity",
    "symmetry_angle_percent",
    "symmetry_index_percent",
]

F64 = NDArray[np.float64]
Place = Literal["shank", "foot"]

_WINDOW_S: Final = 4
_DONE_S: Final = 2  # a swing is settled when it is so old: its contacts lie inside the window
_SWING_RAD_S: Final = 1.5
_SWING_SHARE: Final = 0.3  # of the highest peak in the window
_APART_S: Final = 0.5
_SMOOTH_S: Final = 0.25
_REACH_S: Final = 0.6
_TROUGH_S: Final = 0.15
_STANCE_S: Final = (0.1, 2.0)
_LOAD_HZ: Final = 100
_NEVER_S: Final = -1e9
_BINS_G: Final = (6.0, 21.0)


@dataclass(frozen=True)
class Step:
    """One step of one leg; times in seconds of the grid's clock.

    Parameters
    ----------
    toe_off_s, swing_s, contact_s
        When the foot left the ground, swung fastest, and came down.
    stance_s
        Ground contact before this swing; None for the first step after a pause.
    peak_g
        Largest acceleration within 0.15 s of the contact, gravity included.
    clipped
        The sensor was at the end of its range there: the peak is at least this.
    """

    toe_off_s: float
    swing_s: float
    contact_s: float
    stance_s: float | None
    peak_g: float
    clipped: bool


@dataclass(frozen=True, eq=False)
class GaitState:
    """The last seconds (n, 6), where they are saturated (n,), how many are real; the last contact and swing, in s."""

    window: F64
    saturated: NDArray[np.bool_]
    n_seconds: NDArray[np.int64]
    last_contact_s: F64
    last_swing_s: F64


class GaitEvents:
    """Finds the steps of one leg; each is told two seconds after its swing.

    Parameters
    ----------
    rate_hz
        Of the grid; contact times are no better than its period, and impact peaks need 200 Hz or more.
    place
        Where on the leg: on the shank (or ankle) contacts are troughs of the rotation, on the foot its zeros.
    """

    def __init__(self, rate_hz: float, *, place: Place = "shank") -> None:
        self._rate = whole_rate(rate_hz)
        self._place = place

    def initial_state(self) -> GaitState:
        """Return the state before the first second."""
        n = _WINDOW_S * self._rate
        return GaitState(
            np.zeros((n, 6)), np.zeros(n, bool), np.zeros((), np.int64), np.asarray(_NEVER_S), np.asarray(_NEVER_S)
        )

    def step(
        self, index: int, values: F64, saturated: NDArray[np.bool_], state: GaitState
    ) -> tuple[list[Step], GaitState]:
        """Take one second and return the steps that are settled.

        Parameters
        ----------
        index
            Whole seconds of the grid's clock.
        values : (rate_hz, 6)
            Acceleration (m/s^2) and angular rate (rad/s) of one shank or foot.
        saturated : (rate_hz,)
            Where the accelerometer was at the end of its range.
        state
            From the second before; the initial one after seconds that were missing.
        """
        rate = self._rate
        window = np.vstack([state.window[rate:], values])
        clipped = np.append(state.saturated[rate:], saturated)
        n_seconds = min(int(state.n_seconds) + 1, _WINDOW_S)
        last_contact, last_swing = float(state.last_contact_s), float(state.last_swing_s)
        steps: list[Step] = []
        if n_seconds == _WINDOW_S:
            origin_s = index + 1 - _WINDOW_S
            rotation, smooth = sagittal(window[:, 3:], rate)
            # the second that is settled now
            first = (_WINDOW_S - _DONE_S - 1) * rate
            for k in _swings(smooth, rate):
                swing_s = origin_s + k / rate
                if not first <= k < first + rate or swing_s - last_swing < _APART_S:
                    continue
                toe_off, contact = _contacts(rotation, k, rate, self._place)
                near = slice(max(0, contact - round(0.15 * rate)), contact + round(0.15 * rate) + 1)
                toe_off_s, contact_s = origin_s + toe_off / rate, origin_s + contact / rate
                stance_s = toe_off_s - last_contact
                steps.append(
                    Step(
                        toe_off_s,
                        swing_s,
                        contact_s,
                        stance_s if _STANCE_S[0] <= stance_s <= _STANCE_S[1] else None,
                        float(np.linalg.norm(window[near, :3], axis=1).max()) / STANDARD_GRAVITY_M_S2,
                        bool(clipped[near].any()),
                    )
                )
                last_contact, last_swing = contact_s, swing_s
        return steps, GaitState(
            window, clipped, np.asarray(n_seconds), np.asarray(last_contact), np.asarray(last_swing)
        )


def sagittal(gyr_rad_s: F64, rate_hz: int) -> tuple[F64, F64]:
    """Return the angular rate about its principal axis, forward swing positive, as it is and smoothed: (n,) each.

    A foot turns back at push-off even faster than it swings, but for a shorter time: the sign is that of the skewed
    rate after a mean over a quarter of a second.
    """
    _, axes = np.linalg.eigh(gyr_rad_s.T @ gyr_rad_s)
    rotation: F64 = gyr_rad_s @ axes[:, -1]
    width = max(3, round(_SMOOTH_S * rate_hz)) | 1
    padded = np.pad(rotation, width // 2, mode="edge")
    smooth: F64 = np.lib.stride_tricks.sliding_window_view(padded, width).mean(axis=-1)
    return (rotation, smooth) if (smooth**3).sum() >= 0 else (-rotation, -smooth)


def _swings(smooth: F64, rate: int) -> list[int]:
    """Return the highest peaks that stand half a second apart, in order of time."""
    least = max(_SWING_RAD_S, _SWING_SHARE * float(smooth.max()))
    inner = smooth[1:-1]
    peaks = 1 + np.flatnonzero((inner >= smooth[:-2]) & (inner > smooth[2:]) & (inner >= least))
    taken: list[int] = []
    for k in peaks[np.argsort(-smooth[peaks], kind="stable")]:
        if all(abs(int(k) - t) >= _APART_S * rate for t in taken):
            taken.append(int(k))
    return sorted(taken)


def _crossings(rotation: F64, swing: int, rate: int) -> tuple[int, int]:
    """Return where the rotation turns forward before the swing, and where it turns back after it."""
    reach = round(_REACH_S * rate)
    before = np.flatnonzero(rotation[max(0, swing - reach) : swing] <= 0)
    after = np.flatnonzero(rotation[swing : swing + reach] <= 0)
    forward = max(0, swing - reach) + int(before[-1]) + 1 if len(before) else max(0, swing - reach)
    back = swing + int(after[0]) if len(after) else min(len(rotation) - 1, swing + reach)
    return forward, back


def _contacts(rotation: F64, swing: int, rate: int, place: Place) -> tuple[int, int]:
    """Return toe-off and initial contact around a swing."""
    forward, back = _crossings(rotation, swing, rate)
    if place == "foot":
        return forward, back
    near = round(_TROUGH_S * rate)
    before, after = rotation[max(0, forward - near) : forward + 1], rotation[back : back + near + 1]
    low = np.flatnonzero((after[1:-1] <= after[:-2]) & (after[1:-1] < after[2:])) + 1
    return max(0, forward - near) + int(before.argmin()), back + int(low[0] if len(low) else after.argmin())


@dataclass(frozen=True, eq=False)
class PlayerLoadState:
    """History of the resampler (n_history, 3), the last sample at 100 Hz (3,), and whether it has begun."""

    history: F64
    last: F64
    begun: NDArray[np.bool_]


class PlayerLoad:
    """Sum of the changes of acceleration, in g, over 100; at exactly 100 Hz.

    Parameters
    ----------
    rate_hz
        Of the grid, at least 100 Hz.

    Raises
    ------
    SignalError
        The rate is lower: the number could not be compared with any other.
    """

    def __init__(self, rate_hz: float) -> None:
        rate = whole_rate(rate_hz)
        if rate < _LOAD_HZ:
            raise SignalError(f"PlayerLoad is defined here at {_LOAD_HZ} Hz; the grid has {rate} Hz")
        self._resampler = Resampler.between(rate, _LOAD_HZ)

    def initial_state(self) -> PlayerLoadState:
        """Return the state before the first second."""
        return PlayerLoadState(np.zeros((self._resampler.n_history, 3)), np.zeros(3), np.zeros((), bool))

    def step(self, acc_m_s2: F64, state: PlayerLoadState) -> tuple[float, PlayerLoadState]:
        """Return the load of one second ``(rate_hz, 3)``."""
        acc_g = acc_m_s2 / STANDARD_GRAVITY_M_S2
        history = state.history if state.begun else np.repeat(acc_g[:1], self._resampler.n_history, axis=0)
        passed, history = self._resampler.step(acc_g, history)
        before = state.last if state.begun else passed[0]
        change = np.diff(np.vstack([before, passed]), axis=0)
        load = float(np.linalg.norm(change, axis=1).sum()) / 100.0
        return load, PlayerLoadState(history, passed[-1], np.ones((), bool))


def impact_bins(peaks_g: F64) -> tuple[int, int, int]:
    """Count low (below 6 g), medium, and high (21 g and more) impacts."""
    low, high = (int((peaks_g >= edge).sum()) for edge in _BINS_G)
    return len(peaks_g) - low, low - high, high


def symmetry_index_percent(left: float, right: float) -> float:
    """Return ``(right - left) / mean * 100``.

    Raises
    ------
    SignalError
        Both are 0, or one is below 0.
    """
    if min(left, right) < 0 or left + right == 0:
        raise SignalError(f"a symmetry index needs values of at least 0, not both 0; got {left:g} and {right:g}")
    return (right - left) / (0.5 * (left + right)) * 100


def symmetry_angle_percent(left: float, right: float) -> float:
    """Return ``(45 deg - atan2(left, right)) / 90 deg * 100``; its thresholds are not those of the index.

    Raises
    ------
    SignalError
        Both are 0, or one is below 0.
    """
    if min(left, right) < 0 or left + right == 0:
        raise SignalError(f"a symmetry angle needs values of at least 0, not both 0; got {left:g} and {right:g}")
    return (45.0 - math.degrees(math.atan2(left, right))) / 90.0 * 100.0


def regularity(acc_m_s2: F64, rate_hz: float, *, stride_s: float) -> tuple[float, float]:
    """Return step and stride regularity (Ad1, Ad2): the unbiased autocorrelation at one step and at one stride.

    Parameters
    ----------
    acc_m_s2 : (n,)
        One axis, or the size, of the acceleration of the trunk over at least 15 strides.
    rate_hz
        Samples a second.
    stride_s
        Median stride time; the peaks are looked for within a quarter of a step around it and its half.

    Raises
    ------
    SignalError
        Fewer than 15 strides.
    """
    if stride_s <= 0 or len(acc_m_s2) < 15 * stride_s * rate_hz:
        raise SignalError("regularity needs at least 15 strides of steady walking; give a longer stretch")
    stride = stride_s * rate_hz
    r = autocorrelation(acc_m_s2[:, None], longest=round(1.125 * stride))[:, 0]
    step, whole = (
        float(r[max(1, round(at - stride / 8)) : round(at + stride / 8) + 1].max()) for at in (stride / 2, stride)
    )
    return step, whole
