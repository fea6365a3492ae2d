from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError
from kinedge.recording import Recording
from kinedge.training.body import Subject
from kinedge.training.perturb import ALL, EFFECTS, Perturbation
from kinedge.training.rotations import about, conjugate, matrix, multiply, rotate, rotation_vector
from kinedge.training.simulate import ImuModel, RadioModel, SimulationConfig, motions, schedule, simulate
from kinedge.training.trends import Fatigue
from kinedge.units import STANDARD_GRAVITY_M_S2

PERFECT = ImuModel.perfect()
GAIT = {"gait": 1.0}


def norm(recording: Recording, sensor: str, what: str) -> np.ndarray:
    columns = recording.values[:, recording.columns(sensor)]
    return np.linalg.norm(columns[:, :3] if what == "acc" else columns[:, 3:], axis=1)


def share_of_power(x: np.ndarray, *, low_hz: float, high_hz: float, rate_hz: float) -> float:
    power = np.abs(np.fft.rfft(x - x.mean())) ** 2
    hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum())


def test_at_rest_the_accelerometer_reads_gravity_and_the_gyroscope_almost_nothing() -> None:
    rest = simulate(SimulationConfig(sensors=ALL, duration_s=30, activity_mix={"rest": 1.0}))
    for sensor in ALL:
        acc = norm(rest, sensor, "acc")
        assert abs(acc.mean() - STANDARD_GRAVITY_M_S2) < 0.3  # bias and scale error
        assert acc.std() < 0.1
        assert norm(rest, sensor, "gyr").mean() < 0.3


def test_a_perfect_sensor_at_rest_reads_gravity_to_a_thousandth() -> None:
    rest = simulate(SimulationConfig(sensors=ALL, duration_s=30, activity_mix={"rest": 1.0}, imu=PERFECT))
    for sensor in ALL:
        assert norm(rest, sensor, "acc").mean() == pytest.approx(STANDARD_GRAVITY_M_S2, rel=2e-3)


@pytest.mark.parametrize("mix", [GAIT, {"arm": 1.0}, {"rest": 0.3, "gait": 0.4, "arm": 0.3}], ids=str)
def test_integrating_the_noise_free_gyroscope_gives_the_orientation_back(mix: dict[str, float]) -> None:
    config = SimulationConfig(sensors=ALL, duration_s=40, activity_mix=mix, imu=PERFECT)
    recording, truth = simulate(config), motions(config)
    for sensor in ALL:
        q = truth[sensor].orientation[:1]
        gyr = recording.values[:, recording.columns(sensor)][:, 3:].astype(np.float64)
        for rate in gyr[1:]:
            turn = rate / config.rate_hz
            angle = float(np.linalg.norm(turn))
            axis = turn / angle if angle > 0 else turn
            q = multiply(q, np.array([[math.cos(angle / 2), *(math.sin(angle / 2) * axis)]]))
        error = np.linalg.norm(rotation_vector(multiply(conjugate(q), truth[sensor].orientation[-1:])))
        moved = np.abs(gyr).sum() / config.rate_hz
        assert moved > 0.01
        assert np.rad2deg(error) < 0.05, sensor


def test_accelerometer_minus_gravity_along_the_true_orientation_is_the_true_acceleration() -> None:
    config = SimulationConfig(sensors=("wrist_right", "ankle_left"), duration_s=20, activity_mix=GAIT, imu=PERFECT)
    recording, truth = simulate(config), motions(config)
    for sensor, motion in truth.items():
        acc = recording.values[:, recording.columns(sensor)][:, :3].astype(np.float64)
        world = rotate(motion.orientation, acc) - [0, 0, STANDARD_GRAVITY_M_S2]
        np.testing.assert_allclose(world, motion.acc_world, atol=1e-4)
        assert np.abs(motion.acc_world).max() > 3


def test_walking_looks_like_walking() -> None:
    for seed in range(4):
        config = SimulationConfig(sensors=ALL, duration_s=60, subject_seed=seed, activity_mix=GAIT, imu=PERFECT)
        walk, subject = simulate(config), Subject.draw(seed)
        assert 12 < norm(walk, "ankle_left", "acc").mean() < 20
        assert 20 < norm(walk, "ankle_left", "acc").max() < 80
        assert 1.5 < norm(walk, "ankle_left", "gyr").mean() < 4
        assert 1.0 < norm(walk, "lower_back", "acc").std() < 4
        assert 0.4 < norm(walk, "wrist_left", "gyr").mean() < 3
        vertical = walk.values[:, walk.columns("lower_back")][:, 2]
        power = np.abs(np.fft.rfft(vertical - vertical.mean())) ** 2
        peak_hz = np.fft.rfftfreq(len(vertical), 1 / walk.rate_hz)[power.argmax()]
        assert peak_hz == pytest.approx(2 * subject.stride_hz, rel=0.1)


def test_equal_seeds_give_equal_samples_and_other_seeds_do_not() -> None:
    config = SimulationConfig(duration_s=20, subject_seed=3, session_seed=4, radio=RadioModel(0.1))
    assert simulate(config).digest() == simulate(config).digest()
    assert simulate(config).labels == simulate(config).labels
    others = [replace(config, subject_seed=4), replace(config, session_seed=5)]
    assert len({simulate(c).digest() for c in [config, *others]}) == 3


def test_samples_of_a_sensor_do_not_depend_on_which_others_are_worn() -> None:
    alone = simulate(SimulationConfig(sensors=("ankle_right",), duration_s=15, radio=RadioModel(0.2)))
    among = simulate(SimulationConfig(sensors=ALL, duration_s=15, radio=RadioModel(0.2)))
    columns = among.columns("ankle_right")
    np.testing.assert_array_equal(among.values[:, columns], alone.values)
    np.testing.assert_array_equal(among.valid[:, columns], alone.valid)


def test_activities_cover_the_recording_in_about_the_shares_asked_for() -> None:
    config = SimulationConfig(duration_s=3600, activity_mix={"rest": 0.5, "gait": 0.3, "arm": 0.2})
    regions = schedule(config)
    assert [r.start for r in regions] == [0, *(r.end for r in regions[:-1])]
    assert regions[-1].end == config.n_samples
    seconds = {
        a: sum(r.end - r.start for r in regions if r.label == f"activity:{a}") / 50 for a in ("rest", "gait", "arm")
    }
    assert seconds["rest"] > seconds["arm"]
    assert all(300 < s < 2400 for s in seconds.values())


def test_loss_comes_in_bursts_of_whole_packets_at_the_rate_asked_for() -> None:
    config = SimulationConfig(sensors=("wrist_left",), duration_s=1200, radio=RadioModel(0.15, burst_packets=3))
    recording = simulate(config)
    lost = ~recording.valid
    assert (lost == lost[:, :1]).all()
    assert lost.mean() == pytest.approx(0.15, abs=0.04)
    packets = lost[:, 0].reshape(-1, 5)
    assert (packets == packets[:, :1]).all()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], packets[:, 0].astype(int), [0]])))
    assert np.mean(edges[1::2] - edges[::2]) == pytest.approx(3, rel=0.3)
    np.testing.assert_array_equal(recording.values, simulate(replace(config, radio=RadioModel())).values)


def test_a_sensor_saturates_at_its_range() -> None:
    small = replace(ImuModel(), acc_range_m_s2=12.0, gyr_range_rad_s=2.0)
    walk = simulate(SimulationConfig(sensors=("ankle_left",), duration_s=20, activity_mix=GAIT, imu=small))
    assert np.abs(walk.values[:, :3]).max() == pytest.approx(12.0)
    assert np.abs(walk.values[:, 3:]).max() == pytest.approx(2.0)


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_a_perturbation_changes_what_it_touches_and_nothing_before_it_begins(name: str) -> None:
    effect = EFFECTS[name]
    mix = GAIT if effect.activity else {"rest": 0.3, "gait": 0.3, "arm": 0.4}
    usual = SimulationConfig(sensors=ALL, duration_s=40, session_seed=2, activity_mix=mix)
    p = Perturbation(name, 20.0, 30.0, effect.sensors[0])
    before, after = simulate(usual), simulate(replace(usual, perturbations=(p,)))
    assert not np.array_equal(before.values, after.values)
    changed = [
        s for s in ALL if not np.array_equal(before.values[:, before.columns(s)], after.values[:, before.columns(s)])
    ]
    assert set(p.touches) <= set(changed)
    if effect.local:
        assert changed == [p.sensor]
    np.testing.assert_array_equal(before.values[: 20 * 50], after.values[: 20 * 50])
    (label,) = [r for r in after.labels if r.label.startswith("anomaly:")]
    assert (label.start, label.end) == (1000, 1500)
    assert label.label == f"anomaly:{name}@{'+'.join(s for s in ALL if s in p.touches)}"


def perturbed(name: str, sensor: str, mix: dict[str, float] = GAIT) -> tuple[Recording, Recording]:
    usual = SimulationConfig(sensors=ALL, duration_s=40, activity_mix=mix, imu=PERFECT)
    changed = replace(usual, perturbations=(Perturbation(name, 15.0, 35.0, sensor),))
    return simulate(usual).slice(800, 1700), simulate(changed).slice(800, 1700)


def test_reduced_arm_swing_and_non_use_quieten_one_wrist() -> None:
    for name in ("reduced_arm_swing", "arm_non_use"):
        usual, changed = perturbed(name, "wrist_right")
        assert norm(changed, "wrist_right", "gyr").mean() < 0.6 * norm(usual, "wrist_right", "gyr").mean()
        assert norm(changed, "wrist_left", "gyr").mean() == norm(usual, "wrist_left", "gyr").mean()


def test_freezing_stops_the_stride_and_trembles_in_the_freeze_band() -> None:
    usual, changed = perturbed("freezing_of_gait", "ankle_left")
    column = usual.columns("ankle_left").start + 4  # angular rate about the axis from side to side
    bands = [share_of_power(r.values[:, column], low_hz=3, high_hz=8, rate_hz=50) for r in (usual, changed)]
    assert bands[0] < 0.3 < 0.8 < bands[1]
    assert changed.values[:, column].std() < usual.values[:, column].std()


def test_tremor_is_a_peak_at_5_hz() -> None:
    usual, changed = perturbed("rest_tremor", "wrist_left", {"rest": 1.0})
    column = changed.columns("wrist_left").start + 5
    assert share_of_power(changed.values[:, column], low_hz=4, high_hz=6, rate_hz=50) > 0.9
    assert share_of_power(usual.values[:, column], low_hz=4, high_hz=6, rate_hz=50) < 0.2


def test_a_fall_is_low_g_then_an_impact_then_lying() -> None:
    config = SimulationConfig(sensors=("lower_back",), duration_s=30, activity_mix=GAIT, imu=PERFECT)
    fall = simulate(replace(config, perturbations=(Perturbation("fall", 10.0, 25.0, "lower_back"),)))
    acc = norm(fall, "lower_back", "acc")
    assert acc[500:520].min() < 4 < 30 < acc[520:530].max()
    lying = fall.values[700:1100, :3].mean(axis=0)
    assert abs(lying[2]) < 0.35 * STANDARD_GRAVITY_M_S2
    assert acc[700:1100].std() < 0.2


def test_tempo_and_fatigue_change_the_pace_of_a_whole_session() -> None:
    usual = SimulationConfig(sensors=("ankle_left",), duration_s=240, activity_mix=GAIT, imu=PERFECT)

    def stride_hz(config: SimulationConfig, second: int) -> float:
        # the swing of a shank comes once a stride, with the rate's strongest share
        swing = simulate(config).values[second * 50 : (second + 100) * 50, 4].astype(np.float64)
        power = np.abs(np.fft.rfft(swing - swing.mean(), 8 * len(swing))) ** 2
        return float(np.argmax(power) / (8 * len(swing)) * 50)

    assert stride_hz(replace(usual, tempo=1.1), 0) == pytest.approx(1.1 * stride_hz(usual, 0), rel=0.03)
    tired = replace(usual, fatigue=Fatigue(0.3, half_hours=0.03))
    late = stride_hz(tired, 140) / stride_hz(usual, 140)
    assert late == pytest.approx(1 - Fatigue(0.3, half_hours=0.03).lost(190 / 3600), rel=0.04)
    assert stride_hz(tired, 0) / stride_hz(usual, 0) > late + 0.02


def test_slow_movement_takes_longer_steps() -> None:
    usual, changed = perturbed("slowed_movement", "lower_back")

    def peak_hz(r: Recording) -> float:
        x = r.values[:, r.columns("lower_back")][:, 2]
        return float(np.fft.rfftfreq(len(x), 1 / 50)[(np.abs(np.fft.rfft(x - x.mean())) ** 2).argmax()])

    assert peak_hz(changed) == pytest.approx(0.55 * peak_hz(usual), rel=0.15)


@settings(max_examples=25, deadline=None)
@given(
    sensors=st.lists(st.sampled_from(ALL), min_size=1, unique=True),
    duration_s=st.floats(0.1, 12),
    rate_hz=st.sampled_from([10.0, 25.0, 50.0, 104.0, 200.0]),
    seed=st.integers(0, 2**31),
    loss=st.floats(0, 0.95),
)
def test_any_configuration_gives_a_whole_finite_recording(
    sensors: list[str], duration_s: float, rate_hz: float, seed: int, loss: float
) -> None:
    config = SimulationConfig(tuple(sensors), rate_hz, duration_s, seed, seed, radio=RadioModel(loss))
    recording = simulate(config)
    assert recording.values.shape == (config.n_samples, 6 * len(sensors))
    assert np.isfinite(recording.values).all()
    assert recording.label_mask().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sensors": ()}, "sensors must be"),
        ({"sensors": ("nose",)}, "sensors must be"),
        ({"sensors": ("wrist_left", "wrist_left")}, "each once"),
        ({"rate_hz": math.nan}, "rate_hz"),
        ({"duration_s": math.inf}, "duration_s"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"subject_seed": -1}, "seeds"),
        ({"activity_mix": {"dance": 1.0}}, "activity_mix"),
        ({"activity_mix": {"rest": 0.0}}, "activity_mix"),
        ({"activity_mix": {"rest": math.nan}}, "activity_mix"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(SimulationConfig(), **change)  # type: ignore[arg-type]


def test_a_loss_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss_rate"):
        RadioModel(1.0)


def test_rotation_matrices_and_quaternions_agree() -> None:
    q = multiply(about("z", 0.4), multiply(about("y", -1.1), about("x", 2.0)))
    v = np.array([[1.0, -2.0, 0.5]])
    np.testing.assert_allclose(matrix(q)[0] @ v[0], rotate(q, v)[0], atol=1e-12)
    np.testing.assert_allclose(rotate(conjugate(q), rotate(q, v)), v, atol=1e-12)
    np.testing.assert_allclose(rotation_vector(about("y", np.array([1e-14, 0.5, 3.0])))[:, 1], [1e-14, 0.5, 3.0])
