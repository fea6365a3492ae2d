from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.anomalies import ANOMALIES, inject, label_of, parse_label, perturb
from kinedge.training.perturb import ALL
from kinedge.training.simulate import RadioModel, SimulationConfig, simulate

SIGNAL = sorted(name for name, a in ANOMALIES.items() if a.level == "signal")
KINEMATIC = sorted(name for name, a in ANOMALIES.items() if a.level == "kinematic")
WALK = simulate(SimulationConfig(duration_s=30, activity_mix={"gait": 1.0}))
LOSSY = simulate(SimulationConfig(duration_s=30, activity_mix={"gait": 1.0}, radio=RadioModel(0.2)))
LEFT, RIGHT = WALK.columns("wrist_left"), WALK.columns("wrist_right")


def test_the_library_holds_both_kinds_and_both_ways_in() -> None:
    assert len(SIGNAL) >= 10
    assert len(KINEMATIC) >= 8
    assert all(name == a.name and a.about for name, a in ANOMALIES.items())
    assert {a.kind for a in ANOMALIES.values()} == {"movement", "sensor fault"}


@pytest.mark.parametrize("name", SIGNAL)
def test_injection_changes_its_sensor_during_its_stretch_and_nothing_else(name: str) -> None:
    before = WALK.values.copy()
    changed = inject(WALK, name, 500, 900, sensor="wrist_right", seed=1)
    np.testing.assert_array_equal(WALK.values, before)
    np.testing.assert_array_equal(changed.values[:, LEFT], WALK.values[:, LEFT])
    np.testing.assert_array_equal(changed.valid[:, LEFT], WALK.valid[:, LEFT])
    outside = np.r_[0:500, 900 : len(WALK)]
    np.testing.assert_array_equal(changed.values[outside], WALK.values[outside])
    np.testing.assert_array_equal(changed.valid[outside], WALK.valid[outside])
    assert changed.digest() != WALK.digest()
    (label,) = [r for r in changed.labels if r.label.startswith("anomaly:")]
    assert (label.start, label.end, parse_label(label.label)) == (500, 900, (name, ("wrist_right",)))


@pytest.mark.parametrize("name", sorted(set(SIGNAL) - {"dropout"}))
def test_injection_is_random_by_its_seed_alone_and_grows_with_strength(name: str) -> None:
    def by(strength: float, seed: int = 3) -> np.ndarray:
        return inject(WALK, name, 300, 800, sensor="wrist_left", seed=seed, strength=strength).values

    np.testing.assert_array_equal(by(1.0), by(1.0))
    if name not in ("axis_swap", "flat_line"):  # these have no degree
        moved = [float(np.abs(by(strength) - WALK.values).sum()) for strength in (0.3, 1.0)]
        assert 0 < moved[0] < moved[1]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(SIGNAL), cut=st.tuples(st.integers(0, 1499), st.integers(1, 1500)), seed=st.integers(0, 99))
def test_injection_into_gaps_never_invents_a_sample(name: str, cut: tuple[int, int], seed: int) -> None:
    start, end = min(cut), max(cut)
    if start == end:
        end += 1
    hostile = replace(LOSSY, values=np.where(LOSSY.valid, LOSSY.values, np.float32(np.nan)))
    changed = inject(hostile, name, start, end, sensor="wrist_left", seed=seed)  # a NaN marked valid would raise
    if name != "time_lag":
        assert not (changed.valid & ~hostile.valid).any()


def test_each_signal_anomaly_is_what_it_says() -> None:
    def during(name: str, recording: Recording = WALK) -> Recording:
        return inject(recording, name, 500, 1000, sensor="wrist_left").slice(500, 1000)

    usual = WALK.slice(500, 1000).values[:, LEFT]

    def x(name: str) -> np.ndarray:
        return during(name).values[:, LEFT]

    np.testing.assert_allclose(x("gain_change"), 1.5 * usual, rtol=1e-5)
    assert (x("flat_line") == x("flat_line")[0]).all()
    np.testing.assert_array_equal(x("time_lag"), WALK.values[485:985, LEFT])
    for name in ("sensor_rotated", "axis_swap"):
        for part in (slice(0, 3), slice(3, 6)):
            lengths = np.linalg.norm(x(name)[:, part], axis=1)
            np.testing.assert_allclose(lengths, np.linalg.norm(usual[:, part], axis=1), rtol=1e-4)
        assert np.abs(x(name) - usual).mean() > 0.3
    np.testing.assert_allclose(x("amplitude_drop").std(axis=0), 0.25 * usual.std(axis=0), rtol=1e-3)
    shift = x("bias_step") - usual
    np.testing.assert_allclose(np.ptp(shift, axis=0), 0, atol=1e-4)
    assert (np.abs(shift).min(axis=0) > 0.05).all()
    assert (np.ptp(x("saturation"), axis=0) < np.ptp(usual, axis=0)).any()
    assert (x("noise_burst") - usual).std() > 0.3
    n_spikes = ((x("spikes") != usual).any(axis=1)).sum()
    assert 15 <= n_spikes <= 20  # 2 per second for 10 s; two may meet
    assert not during("dropout").valid[:, LEFT].any()
    hz = np.fft.rfftfreq(500, 1 / 50)
    power = (np.abs(np.fft.rfft(x("tremor") - usual, axis=0)) ** 2).sum(axis=1)
    assert 4.4 < hz[power.argmax()] < 5.6


def test_a_turned_sensor_with_one_axis_missing_loses_all_three() -> None:
    valid = WALK.valid.copy()
    valid[600, 1] = False
    changed = inject(replace(WALK, valid=valid), "sensor_rotated", 500, 1000, sensor="wrist_left")
    assert not changed.valid[600, :3].any()
    assert changed.valid[600, 3:6].all()


def test_an_accelerometer_alone_can_carry_every_signal_anomaly() -> None:
    spec = SensorSpec("wrist_left", ("acc_x", "acc_y", "acc_z"))
    alone = WALK.select([spec])
    for name in SIGNAL:
        assert inject(alone, name, 10, 400, sensor="wrist_left").digest() != alone.digest()


@pytest.mark.parametrize(
    ("name", "start", "end", "sensor", "says"),
    [
        ("nonsense", 0, 10, "wrist_left", "unknown; known are"),
        ("fall", 0, 10, "wrist_left", "perturb"),
        ("tremor", 0, 10, "nose", "no sensor 'nose'"),
        ("tremor", 10, 10, "wrist_left", "is not inside"),
        ("tremor", 0, 10**6, "wrist_left", "is not inside"),
        ("tremor", -1, 10, "wrist_left", "is not inside"),
    ],
)
def test_an_impossible_injection_is_refused(name: str, start: int, end: int, sensor: str, says: str) -> None:
    with pytest.raises(SignalError, match=says):
        inject(WALK, name, start, end, sensor=sensor)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), 1e9])
def test_a_strength_that_makes_no_sense_is_refused(strength: float) -> None:
    with pytest.raises(SignalError, match="strength"):
        inject(WALK, "tremor", 0, 10, sensor="wrist_left", strength=strength)
    with pytest.raises(ConfigError, match="strength"):
        perturb(SimulationConfig(), "rest_tremor", 0, 10, strength=strength)


def test_perturb_adds_to_a_configuration_and_the_simulation_labels_it() -> None:
    config = perturb(SimulationConfig(duration_s=20), "rest_tremor", 5, 10, sensor="wrist_right")
    config = perturb(config, "slowed_movement", 12, 18)
    labels = [parse_label(r.label) for r in simulate(config).labels if r.label.startswith("anomaly:")]
    assert labels == [("rest_tremor", ("wrist_right",)), ("slowed_movement", ("wrist_left", "wrist_right"))]


@pytest.mark.parametrize(
    ("name", "sensors", "sensor", "says"),
    [
        ("tremor", ALL, None, "use inject"),
        ("nonsense", ALL, None, "known are"),
        ("limp", ("wrist_left",), None, "is seen at"),
        ("rest_tremor", ("wrist_left",), "wrist_right", "is seen at"),
    ],
)
def test_an_impossible_perturbation_is_refused(
    name: str, sensors: tuple[str, ...], sensor: str | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        perturb(SimulationConfig(sensors), name, 1, 2, sensor=sensor)


def test_labels_read_back_as_written() -> None:
    assert parse_label(label_of("fall", ("wrist_left", "wrist_right"))) == ("fall", ("wrist_left", "wrist_right"))
    assert parse_label("freeze") is None
    for broken in ("anomaly:", "anomaly:fall", "anomaly:fall@", "anomaly:@x", "anomaly:fall@a++b"):
        with pytest.raises(SignalError, match="with \\+ between"):
            parse_label(broken)
