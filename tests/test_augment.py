from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, SignalError
from kinedge.signals import SensorSpec
from kinedge.training.augment import Augment, apply, hide

SENSORS = (SensorSpec("wrist_left"), SensorSpec("ankle_left", ("acc_x", "acc_y", "acc_z")))
RATE_HZ = 50.0


def windows(n: int = 12, length: int = 100, *, seed: int = 0, loss: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (n, length, 9)).astype(np.float32)
    valid = rng.random(values.shape) >= loss
    return np.where(valid, values, 0).astype(np.float32), valid


def changed(config: Augment, *, seed: int = 3, **given: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, valid = windows(**{k: v for k, v in given.items() if k != "session"})  # type: ignore[arg-type]
    new, ok = apply(
        config,
        np.random.default_rng(seed),
        values,
        valid,
        sensors=SENSORS,
        rate_hz=RATE_HZ,
        session=given.get("session"),  # type: ignore[arg-type]
    )
    return values, new, ok


def test_nothing_asked_for_changes_nothing_and_draws_nothing() -> None:
    values, valid = windows(loss=0.2)
    rng = np.random.default_rng(1)
    new, ok = apply(Augment(), rng, values, valid, sensors=SENSORS, rate_hz=RATE_HZ)
    np.testing.assert_array_equal(new, values)
    np.testing.assert_array_equal(ok, valid)
    np.testing.assert_array_equal(hide(Augment(), rng, valid, sensors=SENSORS, rate_hz=RATE_HZ), valid)
    assert rng.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize(
    "config",
    [
        Augment(rotation_deg=20),
        Augment(session_rotation_deg=20),
        Augment(whole_rotation=1),
        Augment(axis_permutation=1),
    ],
    ids=str,
)
def test_a_turned_sensor_keeps_lengths_angles_and_handedness(config: Augment) -> None:
    values, new, _ = changed(config)
    acc, gyr = values[:, :, :3].astype(np.float64), values[:, :, 3:6].astype(np.float64)
    acc_new, gyr_new = new[:, :, :3].astype(np.float64), new[:, :, 3:6].astype(np.float64)
    assert not np.allclose(acc, acc_new, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(acc_new, axis=2), np.linalg.norm(acc, axis=2), rtol=1e-4)
    # the accelerometer and the gyroscope of a sensor turn as one, and no turn is a mirror
    np.testing.assert_allclose((acc_new * gyr_new).sum(2), (acc * gyr).sum(2), atol=1e-4)
    volume = np.einsum("nti,nti->nt", np.cross(acc[:, 1:], acc[:, :-1]), gyr[:, 1:])
    volume_new = np.einsum("nti,nti->nt", np.cross(acc_new[:, 1:], acc_new[:, :-1]), gyr_new[:, 1:])
    np.testing.assert_allclose(volume_new, volume, atol=1e-3)
    # two sensors turn independently
    own = np.linalg.lstsq(acc[0], acc_new[0], rcond=None)[0]
    other = np.linalg.lstsq(values[0, :, 6:].astype(np.float64), new[0, :, 6:], rcond=None)[0]
    assert not np.allclose(own, other, atol=0.01)


@pytest.mark.parametrize("field", ["session_rotation_deg", "whole_rotation", "axis_permutation"])
def test_windows_of_a_session_turn_alike_and_sessions_do_not(field: str) -> None:
    config = Augment(**{field: 30.0 if field.endswith("deg") else 1.0})
    values, new, _ = changed(config, session=np.array([7] * 6 + [2] * 6))
    turns = [np.linalg.lstsq(values[i, :, :3], new[i, :, :3], rcond=None)[0] for i in range(12)]
    for i in range(6):
        np.testing.assert_allclose(turns[i], turns[0], atol=1e-3)
        np.testing.assert_allclose(turns[6 + i], turns[6], atol=1e-3)
    assert not np.allclose(turns[0], turns[6], atol=0.01)


def test_an_axis_permutation_only_exchanges_and_flips() -> None:
    values, new, _ = changed(Augment(axis_permutation=1))
    np.testing.assert_array_equal(np.sort(np.abs(values[:, :, :3]), axis=2), np.sort(np.abs(new[:, :, :3]), axis=2))


def test_any_rotation_is_uniform_over_all_orientations() -> None:
    values = np.zeros((4000, 1, 9), np.float32)
    values[:, :, 2] = 1
    new, _ = apply(
        Augment(whole_rotation=1),
        np.random.default_rng(0),
        values,
        np.ones(values.shape, bool),
        sensors=SENSORS,
        rate_hz=50,
    )
    pointed = new[:, 0, :3].astype(np.float64)
    np.testing.assert_allclose(pointed.mean(0), 0, atol=0.04)
    np.testing.assert_allclose(np.cov(pointed.T), np.eye(3) / 3, atol=0.03)


def test_a_turned_sample_with_an_axis_missing_loses_all_three_and_no_more() -> None:
    values, valid = windows()
    valid[4, 10, 1] = False
    _, ok = apply(Augment(rotation_deg=5), np.random.default_rng(0), values, valid, sensors=SENSORS, rate_hz=RATE_HZ)
    assert np.argwhere(~ok).tolist() == [[4, 10, 0], [4, 10, 1], [4, 10, 2]]


def test_gain_and_bias_are_constant_in_a_window_and_of_the_size_asked_for() -> None:
    values, new, _ = changed(Augment(gain=0.1), n=2000, length=4)
    gains = new / values
    np.testing.assert_allclose(gains, np.broadcast_to(gains[:, :1], gains.shape), rtol=1e-4)
    assert np.log(gains[:, 0]).std() == pytest.approx(0.1, rel=0.05)
    values, new, _ = changed(Augment(bias_acc_m_s2=0.5, bias_gyr_rad_s=0.02), n=2000, length=4)
    added = new - values
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1], added.shape), atol=1e-5)
    assert added[:, 0, [0, 1, 2, 6, 7, 8]].std() == pytest.approx(0.5, rel=0.05)
    assert added[:, 0, 3:6].std() == pytest.approx(0.02, rel=0.05)


def test_a_warped_window_runs_at_another_pace_and_its_gyroscope_agrees() -> None:
    t = np.arange(200) / RATE_HZ
    angle = np.sin(2 * np.pi * 0.5 * t)
    values = np.zeros((30, 200, 9), np.float32)
    values[:, :, 0] = angle
    values[:, :, 3] = np.gradient(angle, t)
    new, ok = apply(
        Augment(time_warp=0.2),
        np.random.default_rng(0),
        values,
        np.ones(values.shape, bool),
        sensors=SENSORS,
        rate_hz=RATE_HZ,
    )
    assert ok.all()
    assert np.abs(new[:, :, 0] - angle).max() > 0.3
    # an angle and its rate still belong together, at every window's own pace
    again = np.gradient(new[:, :, 0].astype(np.float64), t, axis=1)
    np.testing.assert_allclose(new[:, 5:-5, 3], again[:, 5:-5], atol=0.25)
    assert np.sqrt(((new[:, 5:-5, 3] - again[:, 5:-5]) ** 2).mean()) < 0.06


def test_a_warp_never_joins_across_a_gap() -> None:
    values, valid = windows(n=1, length=100)
    valid[0, 40:60] = False
    _, ok = apply(Augment(time_warp=0.1), np.random.default_rng(0), values, valid, sensors=SENSORS, rate_hz=RATE_HZ)
    assert 12 <= (~ok[0, :, 0]).sum() <= 32


def test_hidden_sensors_and_bursts_come_at_their_rates_and_one_sensor_stays() -> None:
    _, valid = windows(n=4000, length=50)
    seen = hide(Augment(sensor_dropout=0.4), np.random.default_rng(0), valid, sensors=SENSORS, rate_hz=RATE_HZ)
    gone = np.stack([~seen[:, :, :6].any((1, 2)), ~seen[:, :, 6:].any((1, 2))], 1)
    assert not gone.all(1).any()
    assert gone.mean() == pytest.approx(0.2, abs=0.02)  # half of the draws are taken back: one of two must stay
    seen = hide(
        Augment(burst_dropout=0.5, burst_s=0.2), np.random.default_rng(0), valid, sensors=SENSORS, rate_hz=RATE_HZ
    )
    lost = (~seen[:, :, 0]).sum(1)
    assert (lost > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert lost.max() == 10
    edges = np.abs(np.diff(np.pad((~seen[:, :, 0]).astype(int), ((0, 0), (1, 1))), axis=1)).sum(1)
    assert edges.max() == 2


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 4),
    warp=st.sampled_from([0.0, 0.1, 0.5]),
    n=st.integers(0, 5),
    length=st.integers(1, 30),
    loss=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_combination_is_finite_repeatable_pure_and_adds_no_sample(
    numbers: tuple[float, ...], warp: float, n: int, length: int, loss: float, seed: int
) -> None:
    config = Augment(20 * numbers[0], 9 * numbers[1], numbers[2], numbers[3], 0.1, 0.1, 0.1, warp, 0.5, 0.5)
    values, valid = windows(n, length, seed=seed, loss=loss)
    before = values.copy(), valid.copy()

    def once() -> tuple[np.ndarray, np.ndarray]:
        return apply(config, np.random.default_rng(seed), values, valid, sensors=SENSORS, rate_hz=RATE_HZ)

    (new, ok), again = once(), once()
    np.testing.assert_array_equal(new, again[0])
    np.testing.assert_array_equal(values, before[0])
    np.testing.assert_array_equal(valid, before[1])
    assert new.dtype == np.float32 and new.shape == values.shape == ok.shape
    assert np.isfinite(new).all() and (new[~ok] == 0).all()
    if not warp:
        assert not (ok & ~valid).any()
    seen = hide(config, np.random.default_rng(seed), ok, sensors=SENSORS, rate_hz=RATE_HZ)
    assert not (seen & ~ok).any()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="sensor_dropout is a probability"):
        Augment(sensor_dropout=1.5)
    with pytest.raises(ConfigError, match="gain must lie between 0 and"):
        Augment(gain=float("nan"))
    values, valid = windows()
    rng = np.random.default_rng(0)
    with pytest.raises(SignalError, match=r"windows must be \(n, T, 9\)"):
        apply(Augment(), rng, values[:, :, :8], valid[:, :, :8], sensors=SENSORS, rate_hz=50)
    with pytest.raises(SignalError, match="12 windows but sessions"):
        apply(Augment(), rng, values, valid, sensors=SENSORS, rate_hz=50, session=np.zeros(3, np.int64))
