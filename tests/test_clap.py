"""The clap estimator finds the offset between two sensors, says how well, and refuses what is not clear."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.benchmarks.claps import Knocking, simulate_knocks
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clap import ClapOffset, clap_offset

F64 = NDArray[np.float64]
FINE_S = 0.0005
DURATION_S = 7.0
EPOCH_NS = 7_000_000_000_000_000
CLAPS_S = (1.2, 1.9, 3.1, 4.0, 5.7)
FULL_SCALE_M_S2 = 16 * 9.80665


def sensor(
    rng: np.random.Generator,
    claps_s: tuple[float, ...],
    rate_hz: float,
    *,
    widths_s: tuple[float, float] = (0.008, 0.020),
    noise_m_s2: float = 0.3,
    sway_m_s2: float = 1.5,
) -> tuple[F64, F64]:
    """Simulate a sensor on an arm that sways and claps.

    A clap is a half sine with a ringing tail, in a direction, strength and length of its own; the sensor is turned
    anyhow, low-passed at 0.4 of its rate, saturates at 16 g, and samples at a phase of its own. Length is that of the
    limb: it does not change much from clap to clap, and moves the peak.
    """
    fine_s = np.arange(-0.5, DURATION_S + 0.5, FINE_S)
    acc = sway_m_s2 * np.sin(2 * np.pi * 0.8 * fine_s[:, None] + rng.uniform(0, 2 * np.pi, 3))
    acc[:, 2] += 9.80665
    limb_s = rng.uniform(*widths_s)
    for clap_s in claps_s:
        since_s = np.maximum(fine_s - clap_s, 0.0)
        width_s = limb_s * rng.uniform(0.9, 1.1) if widths_s[0] < widths_s[1] else limb_s
        pulse = np.where(since_s < width_s, np.sin(np.pi * since_s / width_s), 0.0)
        tail = 0.4 * np.sin(2 * np.pi * 30 * since_s) * np.exp(-since_s / 0.03)
        direction = rng.normal(size=3)
        acc += rng.uniform(40, 120) * (pulse + tail)[:, None] * direction / np.linalg.norm(direction)
    acc @= np.linalg.qr(rng.normal(size=(3, 3)))[0]
    sigma_s = math.sqrt(math.log(2)) / (2 * math.pi * 0.4 * rate_hz)  # -3 dB there
    kernel = np.exp(-0.5 * (np.arange(-100, 101) * FINE_S / sigma_s) ** 2)
    smooth = np.stack([np.convolve(column, kernel / kernel.sum(), mode="same") for column in acc.T])
    time_s = rng.uniform(0, 1 / rate_hz) + np.arange(int(DURATION_S * rate_hz) - 1) / rate_hz
    sampled = np.stack([np.interp(time_s, fine_s, column) for column in smooth], axis=1)
    sampled += rng.normal(0, noise_m_s2, sampled.shape)
    return time_s, np.clip(sampled, -FULL_SCALE_M_S2, FULL_SCALE_M_S2)


def times_ns(time_s: F64) -> NDArray[np.int64]:
    return EPOCH_NS + np.rint(time_s * 1e9).astype(np.int64)


def estimate(
    seed: int, rates_hz: tuple[float, float], offset_s: float, claps_s: tuple[float, ...] = CLAPS_S
) -> ClapOffset:
    rng = np.random.default_rng(seed)
    time_a, acc_a = sensor(rng, claps_s, rates_hz[0])
    time_b, acc_b = sensor(rng, claps_s, rates_hz[1])
    return clap_offset(times_ns(time_a), acc_a, times_ns(time_b - offset_s), acc_b, max_offset_s=1.0)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    rates_hz=st.tuples(*[st.sampled_from((50.0, 100.0, 128.0))] * 2),
    offset_s=st.floats(-0.9, 0.9),
)
def test_the_offset_is_found_wherever_the_clocks_and_however_the_sensors_sit(
    seed: int, rates_hz: tuple[float, float], offset_s: float
) -> None:
    try:
        found = estimate(seed, rates_hz, offset_s)
    except SignalError as refusal:
        assert "clap or knock four times" in str(refusal)  # a refusal is right, a wrong offset is not
        return
    assert abs(found.offset_ns / 1e6 - offset_s * 1e3) < 2 * found.uncertainty_ms
    assert 3 <= len(found.impact_times_ns) <= len(CLAPS_S)


@pytest.mark.parametrize(
    ("rates_hz", "p95_ms"),
    [((50, 50), 12.0), ((50, 128), 10.0), ((100, 100), 4.5), ((100, 128), 4.5), ((128, 128), 4.5)],
)
def test_errors_stay_within_what_is_said_of_them(rates_hz: tuple[float, float], p95_ms: float) -> None:
    errors, said, refused = [], [], 0
    for seed in range(40):
        offset_s = np.random.default_rng(1000 + seed).uniform(-0.5, 0.5)
        try:
            found = estimate(seed, rates_hz, offset_s)
        except SignalError:
            refused += 1
            continue
        errors.append(abs(found.offset_ns / 1e6 - offset_s * 1e3))
        said.append(found.uncertainty_ms)
    print(f"{rates_hz}: median {np.median(errors):.2f} ms, 95 % {np.quantile(errors, 0.95):.2f} ms, {refused} refused")
    assert refused <= 16
    assert np.quantile(errors, 0.95) < p95_ms
    assert np.mean(np.array(errors) <= said) >= 0.9
    assert np.median(said) < 13.5


def test_the_offset_is_finer_than_a_sample_where_both_feel_the_same() -> None:
    rng = np.random.default_rng(5)
    for offset_s in np.linspace(-0.02, 0.02, 9):
        time_a, acc_a = sensor(rng, CLAPS_S, 100.0, widths_s=(0.014, 0.014), noise_m_s2=0.05, sway_m_s2=0.2)
        time_b, acc_b = sensor(rng, CLAPS_S, 128.0, widths_s=(0.014, 0.014), noise_m_s2=0.05, sway_m_s2=0.2)
        found = clap_offset(times_ns(time_a), acc_a, times_ns(time_b - offset_s), acc_b)
        assert abs(found.offset_ns / 1e6 - offset_s * 1e3) < 2.5


def test_swapping_the_sensors_turns_the_sign() -> None:
    rng = np.random.default_rng(2)
    (time_a, acc_a), (time_b, acc_b) = sensor(rng, CLAPS_S, 100.0), sensor(rng, CLAPS_S, 50.0)
    a, b = (times_ns(time_a), acc_a), (times_ns(time_b - 0.2), acc_b)
    there, back = clap_offset(*a, *b), clap_offset(*b, *a)
    assert there.offset_ns == pytest.approx(0.2e9, abs=9e6)
    assert there.offset_ns + back.offset_ns == pytest.approx(0, abs=1.5e6)
    assert there.uncertainty_ms == pytest.approx(back.uncertainty_ms, rel=0.3)


def test_a_clap_with_missing_samples_is_left_out_and_the_others_count() -> None:
    rng = np.random.default_rng(3)
    (time_a, acc_a), (time_b, acc_b) = sensor(rng, CLAPS_S, 100.0), sensor(rng, CLAPS_S, 100.0)
    acc_b[np.abs(time_b - CLAPS_S[4]) < 0.2] = np.nan
    gone = np.abs(time_b - CLAPS_S[1] - 0.12) < 0.04  # beside the peak: the impact is seen, its course is not
    found = clap_offset(times_ns(time_a), acc_a, times_ns(time_b[~gone]), acc_b[~gone])
    assert [round((t - EPOCH_NS) / 1e9, 1) for t in found.impact_times_ns] == [1.2, 3.1, 4.0]
    assert found.offset_ns == pytest.approx(0, abs=7e6)


def test_one_impact_is_enough_only_for_who_says_so() -> None:
    rng = np.random.default_rng(4)
    (time_a, acc_a), (time_b, acc_b) = sensor(rng, (3.0,), 100.0), sensor(rng, (3.0,), 100.0)
    pair = (times_ns(time_a), acc_a, times_ns(time_b + 0.1), acc_b)
    with pytest.raises(SignalError, match="3 and most of them are needed; clap or knock four"):
        clap_offset(*pair)
    assert clap_offset(*pair, min_impacts=1).offset_ns == pytest.approx(-0.1e9, abs=7e6)


def test_knocks_of_a_machine_are_clear_only_within_half_their_period() -> None:
    rng = np.random.default_rng(9)
    regular = tuple(1 + 0.5 * i for i in range(8))
    (time_a, acc_a), (time_b, acc_b) = sensor(rng, regular, 100.0), sensor(rng, regular, 100.0)
    pair = (times_ns(time_a), acc_a, times_ns(time_b - 0.1), acc_b)
    assert clap_offset(*pair).offset_ns == pytest.approx(0.1e9, abs=7e6)
    with pytest.raises(SignalError, match="more than one offset"):
        clap_offset(*pair, max_offset_s=0.6)


@pytest.mark.parametrize("rate_hz", [25.0, 50.0])
def test_slow_unfiltered_sensors_are_refused_rather_than_wrong(rate_hz: float) -> None:
    kind = Knocking(together=False, filtered=False, n_knocks=4)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        (time_a, acc_a), (time_b, acc_b) = simulate_knocks(kind, (rate_hz, rate_hz), rng=rng)
        offset_s = rng.uniform(-0.9, 0.9)
        try:
            found = clap_offset(times_ns(time_a), acc_a, times_ns(time_b - offset_s), acc_b, max_offset_s=1.0)
        except SignalError:
            continue
        assert abs(found.offset_ns / 1e9 - offset_s) < 1 / rate_hz


@pytest.mark.parametrize(
    ("claps_a", "claps_b", "says"),
    [
        ((), (), "no impact above"),
        (CLAPS_S, (), "the second sensor: no impact above"),
        (tuple(1 + 0.5 * i for i in range(8)), tuple(1 + 0.5 * i for i in range(8)), "more than one offset"),
        ((1.0, 1.6), (5.0, 5.6), "within 0.6 s"),
        ((2.0, 2.6, 3.5, 4.1, 5.5), (2.33, 3.17, 3.74, 4.4, 5.2), "clap or knock"),
    ],
)
def test_what_is_not_clear_is_refused_with_advice(
    claps_a: tuple[float, ...], claps_b: tuple[float, ...], says: str
) -> None:
    rng = np.random.default_rng(6)
    (time_a, acc_a), (time_b, acc_b) = sensor(rng, claps_a, 100.0), sensor(rng, claps_b, 100.0)
    with pytest.raises(SignalError, match=says) as refusal:
        clap_offset(times_ns(time_a), acc_a, times_ns(time_b), acc_b, max_offset_s=0.6)
    assert "clap or knock four times, hard and unevenly" in str(refusal.value)


def test_walking_is_no_clap() -> None:
    rng = np.random.default_rng(7)
    (time_a, acc_a), (time_b, acc_b) = (sensor(rng, (), 100.0, sway_m_s2=6.0) for _ in range(2))
    with pytest.raises(SignalError, match="no impact above"):
        clap_offset(times_ns(time_a), acc_a, times_ns(time_b), acc_b)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t, a: (t[:10], a[:10]), "too few"),
        (lambda t, a: (t, a[:, :2]), r"expected \(n,\) integer times"),
        (lambda t, a: (t.astype(float), a), "integer times"),
        (lambda t, a: (t[::-1], a), "increase strictly"),
        (lambda t, a: (t, np.full_like(a, np.nan)), "too few"),
        (lambda t, a: (t[:0], a[:0]), "too few"),
        (lambda t, a: (t + 3_600_000_000_000, a), "in host time"),
    ],
)
def test_input_that_cannot_be_meant_is_one_error(spoil: object, says: str) -> None:
    rng = np.random.default_rng(8)
    (time_a, acc_a), (time_b, acc_b) = sensor(rng, CLAPS_S, 50.0), sensor(rng, CLAPS_S, 50.0)
    assert callable(spoil)
    with pytest.raises(SignalError, match=says):
        clap_offset(times_ns(time_a), acc_a, *spoil(times_ns(time_b), acc_b))
    with pytest.raises(SignalError, match="must be positive"):
        clap_offset(times_ns(time_a), acc_a, times_ns(time_b), acc_b, max_offset_s=math.nan)
