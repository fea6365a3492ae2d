"""Offset between two sensors from what both felt at once: a clap, or two sensors knocked against each other.

A fallback where no clock can be asked: the wearer claps a few times, unevenly, and both wrists feel it at once.
What is compared is how far |acc| stands above its mean of half a second: that needs no orientation.

1. Impacts are the peaks of each sensor that stand out from its other movement.
2. The coarse offset is the one at which both courses, clipped, fall together best; where another is nearly as good, or
   brings nearly as many impacts together, all are refused.
3. Around each pair the two courses are laid on a grid of 1 ms, smoothed alike with a Gaussian as wide as the longer
   sample interval, and correlated; a parabola through the three greatest values gives the offset between grid points.
4. The offset is the mean over the impacts that agree with their median within half a sample interval; where fewer than
   ``min_impacts`` do, or where most do not, it is refused.

A refusal costs three more knocks, a wrong offset a study: each of these rules is there to refuse.

What it cannot know: sensors' own filters, and limbs, delay impacts by some ms, differently where devices or places
differ. The offset contains that, and the uncertainty an allowance for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.units import NS_PER_S

__all__ = ["STANDS_OUT", "ClapOffset", "above_mean", "clap_offset"]

F64 = NDArray[np.float64]

_MEAN_S: Final = 0.5
_APART_S: Final = 0.2
STANDS_OUT: Final = 5.0
"""Times the 90th percentile of the other movement: what stands out so far is an impact."""
_MAX_IMPACTS: Final = 64
_PAIRED_S: Final = 0.05
_COARSE_S: Final = 0.005
_COARSE_KERNEL: Final = np.exp(-0.5 * (np.arange(-12, 13) * _COARSE_S / 0.015) ** 2)
_RIVAL: Final = 0.7  # of the best offset's score
_FEWER: Final = 2  # impacts that any other offset brings together
_COMMON: Final = 0.6  # of the impacts of the sensor that has more of them
_AGREED: Final = 0.5  # sample intervals
_LEAST_AGREED_S: Final = 0.005
_MAX_SPAN_S: Final = 600.0
_HALF_WINDOW_S: Final = 0.15
_GRID_S: Final = 0.001
_MIN_CORRELATION: Final = 0.8
_GAP: Final = 2.5  # sample intervals
_MIN_SAMPLES: Final = 32
_SD_OF_INTERVALS: Final = 0.15  # of the sum of both; this and the next from simulated claps, see the tests
_SD_OF_LIMBS_MS: Final = 2.0
_ADVICE: Final = "clap or knock four times, hard and unevenly, with a second of rest before and after"


@dataclass(frozen=True)
class ClapOffset:
    """How far the times of two sensors are apart.

    Parameters
    ----------
    offset_ns
        Add it to the second sensor's times to get those of the first.
    uncertainty_ms
        Twice the standard deviation.
    impact_times_ns
        Of the first sensor, of the impacts that were used.
    """

    offset_ns: int
    uncertainty_ms: float
    impact_times_ns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Course:
    """How far |acc| stands above its mean (m/s^2), over seconds since a common origin."""

    name: str
    time_s: F64
    above: F64
    interval_s: float


def clap_offset(
    host_time_a_ns: NDArray[np.int64],
    acc_a_m_s2: NDArray[np.floating],
    host_time_b_ns: NDArray[np.int64],
    acc_b_m_s2: NDArray[np.floating],
    *,
    max_offset_s: float = 0.25,
    min_impact_m_s2: float = 8.0,
    min_impacts: int = 3,
) -> ClapOffset:
    """Estimate the offset between two sensors from common impacts.

    Parameters
    ----------
    host_time_a_ns, host_time_b_ns : (n,), (m,) int64
        Times mapped to the host, strictly increasing; rates may differ, and samples may be missing.
    acc_a_m_s2, acc_b_m_s2 : (n, 3), (m, 3)
        Acceleration with gravity; rows with NaN are missing samples.
    max_offset_s
        Impacts further apart are not the same. Clock maps leave less than the default; more makes mistakes possible.
    min_impact_m_s2
        What is weaker is no impact.
    min_impacts
        Common ones needed that agree. One or two alone may be different ones, each missed by the other sensor.

    Raises
    ------
    SignalError
        There is no clear common impact, or more than one offset explains those there are.
    """
    if not (math.isfinite(max_offset_s) and max_offset_s > 0 and min_impact_m_s2 > 0):
        raise SignalError(
            f"max_offset_s and min_impact_m_s2 must be positive, got {max_offset_s} and {min_impact_m_s2}"
        )
    origin_ns = int(host_time_a_ns[0]) if host_time_a_ns.size else 0
    a = _course("the first sensor", host_time_a_ns, acc_a_m_s2, origin_ns)
    b = _course("the second sensor", host_time_b_ns, acc_b_m_s2, origin_ns)
    threshold_a, threshold_b = _threshold(a, min_impact_m_s2), _threshold(b, min_impact_m_s2)
    times_a, times_b = _impacts(a, threshold_a), _impacts(b, threshold_b)
    coarse_s = _coarse_offset(a, b, threshold_a, threshold_b, max_offset_s)
    pairs = _pair(times_a, times_b, coarse_s)
    _refuse_rivals(times_a, times_b, len(pairs), coarse_s, max_offset_s)
    measured = [(at, offset) for at, coarse in pairs if (offset := _refine(a, b, at, coarse)) is not None]
    offsets_s = np.array([offset for _, offset in measured])
    agreed_s = max(_AGREED * max(a.interval_s, b.interval_s), _LEAST_AGREED_S)
    agree = np.abs(offsets_s - np.median(offsets_s)) <= agreed_s if measured else np.zeros(0, bool)
    if agree.sum() < max(1, min_impacts) or 2 * agree.sum() <= len(pairs):
        raise SignalError(
            f"{agree.sum()} of {len(pairs)} common impacts look alike on both sensors, without missing samples, and "
            f"agree; {max(1, min_impacts)} and most of them are needed; {_ADVICE}"
        )
    offsets_ms = 1e3 * offsets_s[agree]
    offset_ms = float(np.mean(offsets_ms))
    # nothing but the spread becomes less with more impacts: filters and limbs delay all of them alike
    spread_ms = float(np.std(offsets_ms)) / math.sqrt(max(len(offsets_ms) - 1, 1))
    sampling_ms = 1e3 * _SD_OF_INTERVALS * (a.interval_s + b.interval_s)
    return ClapOffset(
        offset_ns=round(offset_ms * 1e6),
        uncertainty_ms=2 * math.hypot(spread_ms, sampling_ms, _SD_OF_LIMBS_MS),
        impact_times_ns=tuple(
            origin_ns + round(at * NS_PER_S) for (at, _), used in zip(measured, agree, strict=True) if used
        ),
    )


def above_mean(host_time_ns: NDArray[np.int64], acc_m_s2: NDArray[np.floating]) -> tuple[NDArray[np.int64], F64]:
    """Return how far |acc| of one sensor stands above its mean of half a second, and when.

    Parameters
    ----------
    host_time_ns, acc_m_s2
        As for ``clap_offset``.

    Returns
    -------
    host_time_ns, above_m_s2 : (m,)
        Of the samples that are not missing.

    Raises
    ------
    SignalError
        The samples are too few, or out of order.
    """
    origin_ns = int(host_time_ns[0]) if host_time_ns.size else 0
    course = _course("the sensor", host_time_ns, acc_m_s2, origin_ns)
    return host_time_ns[np.isfinite(acc_m_s2).all(axis=1)], course.above


def _course(name: str, time_ns: NDArray[np.int64], acc: NDArray[np.floating], origin_ns: int) -> _Course:
    if time_ns.ndim != 1 or acc.shape != (time_ns.size, 3) or not np.issubdtype(time_ns.dtype, np.integer):
        raise SignalError(f"{name}: expected (n,) integer times and (n, 3) values, got {time_ns.shape}, {acc.shape}")
    there = np.isfinite(acc).all(axis=1)
    time_s = (time_ns[there] - origin_ns) / NS_PER_S
    if time_s.size < _MIN_SAMPLES:
        raise SignalError(f"{name}: {time_s.size} samples are too few; give some seconds around the claps")
    steps = np.diff(time_s)
    if (steps <= 0).any():
        raise SignalError(f"{name}: its times must increase strictly; sort them, and drop duplicates")
    interval_s = float(np.median(steps))
    norm = np.linalg.norm(acc[there].astype(np.float64), axis=1)
    half = max(1, round(_MEAN_S / 2 / interval_s))
    total = np.concatenate(([0.0], np.cumsum(norm)))
    index = np.arange(norm.size)
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, norm.size)
    return _Course(name, time_s, np.maximum(norm - (total[high] - total[low]) / (high - low), 0.0), interval_s)


def _threshold(course: _Course, least_m_s2: float) -> float:
    return max(least_m_s2, STANDS_OUT * float(np.quantile(course.above, 0.9)))


def _impacts(course: _Course, threshold: float) -> F64:
    """Return times of the peaks above a threshold, of those closer than ``_APART_S`` the highest."""
    candidates = np.flatnonzero(course.above >= threshold)
    kept: list[float] = []
    for i in candidates[np.argsort(-course.above[candidates], kind="stable")]:
        if all(abs(course.time_s[i] - at) >= _APART_S for at in kept):
            kept.append(float(course.time_s[i]))
            if len(kept) > _MAX_IMPACTS:
                raise SignalError(
                    f"{course.name}: more than {_MAX_IMPACTS} impacts; give some seconds around the claps"
                )
    if not kept:
        raise SignalError(f"{course.name}: no impact above {threshold:.0f} m/s^2 stands out; {_ADVICE}")
    return np.sort(np.array(kept))


def _coarse_offset(a: _Course, b: _Course, threshold_a: float, threshold_b: float, max_offset_s: float) -> float:
    """Return the offset at which the impacts of both, also those too weak to be used, fall together best."""
    start = min(a.time_s[0], b.time_s[0])
    span_s = max(a.time_s[-1], b.time_s[-1]) - start
    if span_s > _MAX_SPAN_S:
        raise SignalError(
            f"the samples span {span_s:.0f} s, at most {_MAX_SPAN_S:g} s can be compared; give some seconds around the "
            "claps, in host time"
        )
    grid = start + _COARSE_S * np.arange(math.ceil(span_s / _COARSE_S) + 1)
    n_fft = 1 << (2 * grid.size - 1).bit_length()
    spectra = []
    for course, threshold in ((a, threshold_a), (b, threshold_b)):
        # clipped: three claps of which one is hard shall count as three
        strength = np.clip(course.above / threshold - 0.3, 0.0, 0.7)
        raw = np.interp(grid, course.time_s, strength, left=0.0, right=0.0)
        spectra.append(np.fft.rfft(np.convolve(raw, _COARSE_KERNEL, mode="same"), n_fft))
    together = np.fft.irfft(spectra[0] * np.conj(spectra[1]), n_fft)
    reach = min(math.floor(max_offset_s / _COARSE_S), grid.size - 1)
    lags = np.arange(-reach, reach + 1)
    score = together[lags]
    top = int(score.argmax())
    rivals = score[np.abs(lags - lags[top]) * _COARSE_S > 2 * _PAIRED_S]
    if score[top] <= 1e-9:
        raise SignalError(f"no impact of one sensor is within {max_offset_s:g} s of one of the other; {_ADVICE}")
    if rivals.size and rivals.max() > _RIVAL * score[top]:
        raise SignalError(f"more than one offset explains the impacts; {_ADVICE}")
    return float(lags[top] * _COARSE_S)


def _pair(times_a: F64, times_b: F64, coarse: float) -> list[tuple[float, float]]:
    """Return (time, offset) of each impact of the first sensor that has one of the second about ``coarse`` away."""
    lags = times_a[:, None] - times_b[None, :]
    nearest = np.abs(lags - coarse).argmin(axis=1)
    offsets = lags[np.arange(times_a.size), nearest]
    common = np.abs(offsets - coarse) <= _PAIRED_S
    if common.sum() < _COMMON * max(times_a.size, times_b.size):
        raise SignalError(f"of {times_a.size} and {times_b.size} impacts only {common.sum()} can be common; {_ADVICE}")
    return list(zip(times_a[common].tolist(), offsets[common].tolist(), strict=True))


def _refuse_rivals(times_a: F64, times_b: F64, n_common: int, coarse: float, max_offset_s: float) -> None:
    """Refuse where another offset brings nearly as many impacts together: regular knocks, or few."""
    lags = (times_a[:, None] - times_b[None, :]).ravel()
    others = lags[(np.abs(lags) <= max_offset_s + _PAIRED_S) & (np.abs(lags - coarse) > 2 * _PAIRED_S)]
    together = (np.abs(others[:, None] - lags[None, :]) <= _PAIRED_S).sum(axis=1)
    if together.size and together.max() > n_common - _FEWER:
        raise SignalError(f"{n_common} impacts fall together at one offset, {together.max()} at another; {_ADVICE}")


def _refine(a: _Course, b: _Course, at: float, coarse: float) -> float | None:
    """Return the offset at one impact; None where samples are missing, or the courses do not look alike."""
    sigma_s = max(a.interval_s, b.interval_s)
    reach_s = _PAIRED_S + sigma_s
    half_a = round(_HALF_WINDOW_S / _GRID_S)
    half_b = half_a + round(reach_s / _GRID_S)
    x = _smooth(a, at, half_a, sigma_s)
    y = _smooth(b, at - coarse, half_b, sigma_s)
    if x is None or y is None:
        return None
    energy = np.correlate(y * y, np.ones_like(x), mode="valid")
    likeness = np.correlate(y, x, mode="valid") / np.sqrt(np.maximum(energy * (x @ x), 1e-12))
    top = int(likeness.argmax())
    if likeness[top] < _MIN_CORRELATION or not 0 < top < likeness.size - 1:
        return None
    before, peak, after = likeness[top - 1 : top + 2]
    curvature = before - 2 * peak + after
    shift = top + (0.5 * (before - after) / curvature if curvature < 0 else 0.0)
    return coarse - (shift - (half_b - half_a)) * _GRID_S


def _smooth(course: _Course, at: float, half: int, sigma_s: float) -> F64 | None:
    """Return the course on ``2 half + 1`` points of the grid around a time."""
    margin = math.ceil(4 * sigma_s / _GRID_S)
    grid = at + _GRID_S * np.arange(-half - margin, half + margin + 1)
    first, last = np.searchsorted(course.time_s, (grid[0], grid[-1]))
    if first == 0 or last == course.time_s.size:
        return None
    if np.diff(course.time_s[first - 1 : last + 1]).max() > _GAP * course.interval_s:
        return None
    kernel = np.exp(-0.5 * (np.arange(-margin, margin + 1) * _GRID_S / sigma_s) ** 2)
    raw = np.interp(grid, course.time_s, course.above)
    return np.convolve(raw, kernel / kernel.sum(), mode="valid")
