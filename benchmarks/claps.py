"""How well common impacts tell the offset between two sensors: simulated knocks, where the truth is known.

Two ways to make them:

* ``held together``: two sensors in one hand are knocked against a table. Both feel one pulse, each with a gain of its
  own, in its own axes.
* ``worn``: two wrists clap. Each limb makes a pulse of its own length, which moves its peak by some ms.

A knock is a half sine of 8 to 20 ms with a ringing tail, in a direction and strength of its own; sensors have noise,
saturate at 16 g, and sample at phases of their own: ``unfiltered``, where a knock falls between two samples of a slow
sensor, or low-passed at 0.4 of the rate, as most IMUs do. No hardware took part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.harness import result
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clap import ClapOffset, clap_offset
from kinedge.units import NS_PER_S, STANDARD_GRAVITY_M_S2

__all__ = ["Knocking", "bench_clap", "simulate_knocks"]

F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]

_FINE_S: Final = 0.0005
_LEAD_S: Final = 1.5  # rest before the first knock and after the last
_PAUSE_S: Final = (0.45, 1.4)
_FULL_SCALE_M_S2: Final = 16 * STANDARD_GRAVITY_M_S2
_RATES_HZ: Final = (25.0, 50.0, 100.0, 200.0)
_ORIGIN_NS: Final = 7_000_000 * NS_PER_S


@dataclass(frozen=True)
class Knocking:
    """How knocks are made and felt.

    Parameters
    ----------
    together
        Both sensors feel one pulse; else each limb has its own.
    filtered
        Whether the sensors low-pass before they sample.
    n_knocks
        How often.
    noise_m_s2, sway_m_s2
        Of the sensor, and of the arm beside the knocks.
    """

    together: bool = True
    filtered: bool = False
    n_knocks: int = 6
    noise_m_s2: float = 0.3
    sway_m_s2: float = 1.5

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{'held together' if self.together else 'worn'}, {'filtered' if self.filtered else 'unfiltered'}"


def simulate_knocks(
    knocking: Knocking, rates_hz: tuple[float, float], *, rng: np.random.Generator
) -> tuple[tuple[F64, F64], tuple[F64, F64]]:
    """Simulate what two sensors feel; (times (n,) in s, acceleration (n, 3) in m/s^2) of each, on one clock."""
    knocks_s = _LEAD_S + np.cumsum(np.concatenate(([0.0], rng.uniform(*_PAUSE_S, knocking.n_knocks - 1))))
    pulses = _pulses(knocks_s, rng)
    found = []
    for rate_hz in rates_hz:
        if not knocking.together:
            pulses = _pulses(knocks_s, rng)
        gain = rng.uniform(0.7, 1.3)
        fine_s = np.arange(0, knocks_s[-1] + _LEAD_S, _FINE_S)
        acc = knocking.sway_m_s2 * np.sin(2 * np.pi * 0.8 * fine_s[:, None] + rng.uniform(0, 2 * np.pi, 3))
        acc[:, 2] += STANDARD_GRAVITY_M_S2
        for at_s, width_s, vector in pulses:
            acc += gain * _pulse(fine_s - at_s, width_s)[:, None] * vector
        acc @= np.linalg.qr(rng.normal(size=(3, 3)))[0]
        if knocking.filtered:
            acc = _low_pass(acc, rate_hz)
        time_s = rng.uniform(0, 1 / rate_hz) + np.arange(int(fine_s[-1] * rate_hz) - 1) / rate_hz
        sampled = np.stack([np.interp(time_s, fine_s, column) for column in acc.T], axis=1)
        sampled += rng.normal(0, knocking.noise_m_s2, sampled.shape)
        found.append((time_s, np.clip(sampled, -_FULL_SCALE_M_S2, _FULL_SCALE_M_S2)))
    return found[0], found[1]


def _pulse(since_s: F64, width_s: float) -> F64:
    """Return a half sine with a ringing tail, 0 before it begins."""
    after_s = np.maximum(since_s, 0.0)
    half_sine = np.where(after_s < width_s, np.sin(np.pi * after_s / width_s), 0.0)
    pulse: F64 = half_sine + 0.4 * np.sin(2 * np.pi * 30 * after_s) * np.exp(-after_s / 0.03)
    return pulse


def _pulses(knocks_s: F64, rng: np.random.Generator) -> list[tuple[float, float, F64]]:
    """Return when each pulse begins, how long it is, and its vector: one limb's are of about one length."""
    limb_s = rng.uniform(0.008, 0.020)
    vectors = rng.normal(size=(len(knocks_s), 3))
    vectors *= rng.uniform(40, 120, (len(knocks_s), 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return list(zip(knocks_s.tolist(), (limb_s * rng.uniform(0.9, 1.1, len(knocks_s))).tolist(), vectors, strict=True))


def _low_pass(acc: F64, rate_hz: float) -> F64:
    """Smooth with a Gaussian that has -3 dB at 0.4 of the rate."""
    sigma_s = math.sqrt(math.log(2)) / (2 * math.pi * 0.4 * rate_hz)
    half = math.ceil(4 * sigma_s / _FINE_S)
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) * _FINE_S / sigma_s) ** 2)
    padded = np.pad(acc, ((half, half), (0, 0)), mode="edge")
    return np.stack([np.convolve(c, kernel / kernel.sum(), mode="valid") for c in padded.T], axis=1)


def bench_clap(*, n_trials: int = 500, seed: int = 3) -> dict[str, Any]:
    """Estimate the offset of ``n_trials`` simulated pairs of each kind and rate.

    Returns
    -------
    dict
        Rows by kind, rate and ``max_offset_s``. ``refused``: share of trials; of the others, ``sd_ms`` and ``max_ms``:
        of the error; ``beyond_a_sample``: how many are off by more than a sample interval; ``said_ms``: median of what
        is said of the error, and ``covered``: the share of errors within it.
    """
    rows = []
    kinds = [Knocking(together=t, filtered=f) for t in (True, False) for f in (False, True)]
    for kind in kinds:
        for rate_hz in _RATES_HZ:
            for max_offset_s in (0.25, 1.0):
                rng = np.random.default_rng([seed, round(rate_hz), kind.together, kind.filtered])
                trials = [_trial(kind, rate_hz, max_offset_s, rng) for _ in range(n_trials)]
                rows.append(
                    {"what": kind.name, "rate_hz": rate_hz, "max_offset_s": max_offset_s, **_sum_up(trials, rate_hz)}
                )
    return result("clap", rows, settings={"n_trials": n_trials, "n_knocks": kinds[0].n_knocks, "seed": seed})


def _trial(
    kind: Knocking, rate_hz: float, max_offset_s: float, rng: np.random.Generator
) -> tuple[float, ClapOffset] | None:
    """Return the error in ms with what was found; None where it was refused."""
    (time_a, acc_a), (time_b, acc_b) = simulate_knocks(kind, (rate_hz, rate_hz), rng=rng)
    offset_s = rng.uniform(-0.9, 0.9) * max_offset_s
    try:
        found = clap_offset(_ns(time_a), acc_a, _ns(time_b - offset_s), acc_b, max_offset_s=max_offset_s)
    except SignalError:
        return None
    return found.offset_ns / 1e6 - offset_s * 1e3, found


def _sum_up(trials: list[tuple[float, ClapOffset] | None], rate_hz: float) -> dict[str, Any]:
    told = [t for t in trials if t is not None]
    errors = np.array([error for error, _ in told])
    said = np.array([found.uncertainty_ms for _, found in told])
    nothing = not told
    return {
        "refused": round(1 - len(told) / len(trials), 3),
        "sd_ms": "" if nothing else round(float(np.sqrt(np.mean(errors**2))), 2),
        "max_ms": "" if nothing else round(float(np.abs(errors).max()), 2),
        "beyond_a_sample": int((np.abs(errors) > 1000 / rate_hz).sum()),
        "said_ms": "" if nothing else round(float(np.median(said)), 1),
        "covered": "" if nothing else round(float(np.mean(np.abs(errors) <= said)), 4),
    }


def _ns(seconds: F64) -> I64:
    return _ORIGIN_NS + np.rint(seconds * NS_PER_S).astype(np.int64)
