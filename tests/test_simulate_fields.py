"""The simulator's two fields of use: days of both arms, and running; how sensors are put on, and how radios lose."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording
from kinedge.training.body import Motion
from kinedge.training.datasets import load_gait_healthy
from kinedge.training.day import DAY_ACTIVITIES, DayConfig, deficit_of, plan, simulate_day
from kinedge.training.donning import Donning, Worn, wear
from kinedge.training.loss_traces import GAIT_RADIO, LossModel, fit_loss, traces_of, with_loss
from kinedge.training.rotations import about, conjugate, rotate
from kinedge.training.running import RUN_SENSORS, RunConfig, simulate_run, strikes
from kinedge.training.simulate import ImuModel, SimulationConfig, motions, simulate
from kinedge.training.trends import Fatigue, Recovery
from kinedge.units import STANDARD_GRAVITY_M_S2

PERFECT = ImuModel.perfect()
EXACT = Donning(0, 0, 0, 0)
STILL = Fatigue(0.0)


def magnitude(recording: Recording, sensor: str, *, gyr: bool = False) -> np.ndarray:
    columns = recording.values[:, recording.columns(sensor)]
    return np.linalg.norm(columns[:, 3:] if gyr else columns[:, :3], axis=1)


def hours_of_use(recording: Recording) -> np.ndarray:
    """Share of the seconds in which each wrist turns, outside of walks."""
    n = int(recording.rate_hz)
    walking = recording.label_mask("activity:walk")
    shares = []
    for sensor in ("wrist_left", "wrist_right"):
        turning = magnitude(recording, sensor, gyr=True)[~walking]
        shares.append((turning[: len(turning) // n * n].reshape(-1, n).mean(1) > 0.25).mean())
    return np.array(shares)


def day(**fields: object) -> DayConfig:
    return replace(DayConfig(subject_seed=1, hours=1.0, piece_min=60.0, rate_hz=25.0, start_h=7.0), **fields)  # type: ignore[arg-type]


def test_a_day_is_planned_whole_and_as_its_person_is_used_to() -> None:
    for seed in range(5):
        planned = plan(DayConfig(subject_seed=seed))
        assert planned[0].start == 0 and planned[-1].end == 14 * 3600
        assert all(a.end == b.start for a, b in pairwise(planned))
        assert {r.label for r in planned} == set(DAY_ACTIVITIES)
        assert planned[0].label == "dress" and planned[-1].label == "dress"
        meals = [r for r in planned if r.label == "eat"]
        assert 2 <= len(meals) <= 3
        assert plan(DayConfig(subject_seed=seed)) == planned
        assert plan(DayConfig(subject_seed=seed, day=1)) != planned

    def walked(seed: int, day: int) -> float:
        return sum(r.end - r.start for r in plan(DayConfig(subject_seed=seed, day=day)) if r.label == "walk")

    by_person = np.array([[walked(seed, day) for day in range(6)] for seed in range(8)])
    assert by_person.mean(axis=1).std() > by_person.std(axis=1).mean() / np.sqrt(6)


def test_both_arms_of_a_healthy_person_are_used_about_alike_and_a_paretic_one_is_not() -> None:
    def ratio(seed: int, paretic: str | None, deficit: float) -> float:
        recovery = Recovery(deficit, deficit, day_sd=0.0)
        config = day(subject_seed=seed, paretic=paretic, recovery=recovery, start_h=11.5, hours=0.6)
        (recording,) = simulate_day(config)
        left, right = hours_of_use(recording)
        return float(left / right)

    healthy = [ratio(seed, None, 0.0) for seed in range(3)]
    assert all(0.6 < r < 1.5 for r in healthy)
    ratios = [ratio(0, "left", deficit) for deficit in (0.0, 0.4, 0.8)]
    assert ratios[0] == pytest.approx(healthy[0])
    assert ratios[0] > 1.15 * ratios[1] > 1.3 * ratios[2]
    assert ratio(0, "right", 0.8) > 1.3 * healthy[0]


def test_pieces_of_a_day_are_the_same_alone_and_fit_the_plan() -> None:
    config = day(piece_min=20.0, loss=GAIT_RADIO)
    pieces = list(simulate_day(config))
    assert [len(p) for p in pieces] == [20 * 60 * 25] * 3
    (alone,) = simulate_day(config, pieces=range(1, 2))
    assert alone.digest() == pieces[1].digest()
    assert len({p.digest() for p in pieces}) == 3
    assert len({p.session for p in pieces}) == 1
    for piece in pieces:
        assert piece.label_mask().all() and np.isfinite(piece.values).all()
    labelled = [r.label for p in pieces for r in p.labels]
    assert set(labelled) == {f"activity:{r.label}" for r in plan(config)}
    with pytest.raises(ConfigError, match="3 pieces, asked for 3"):
        list(simulate_day(config, pieces=range(3, 4)))


def test_eating_is_hand_to_mouth_dressing_is_both_arms_and_rest_is_neither() -> None:
    config = day(subject_seed=2, imu=PERFECT, donning=EXACT, fatigue=STILL, hours=2.0, piece_min=120.0)
    (recording,) = simulate_day(config)
    turning = {
        what: [
            magnitude(recording, s, gyr=True)[recording.label_mask(f"activity:{what}")].mean()
            for s in ("wrist_left", "wrist_right")
        ]
        for what in ("eat", "dress", "rest")
    }
    assert min(turning["dress"]) > 4 * max(turning["rest"])
    assert min(turning["dress"]) > 0.6 * max(turning["dress"])
    assert max(turning["eat"]) > 1.4 * min(turning["eat"])
    # the forearm points up at the mouth and down at the plate: its long axis feels gravity either way
    eating = recording.label_mask("activity:eat")
    side = "wrist_right" if turning["eat"][1] > turning["eat"][0] else "wrist_left"
    along = recording.values[:, recording.columns(side)][eating][:, 2]
    assert np.quantile(along, 0.02) < -3 and np.quantile(along, 0.5) > -3


def test_days_share_a_person_and_differ_in_how_the_sensors_sit() -> None:
    walks = []
    for number in range(3):
        config = day(day=number, imu=PERFECT, donning=Donning(), hours=0.4, piece_min=24.0)
        (recording,) = simulate_day(config)
        walks.append(recording.values[:, :3].mean(axis=0))
    angles = [np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) for a, b in pairwise(walks)]
    assert min(angles) > 2


def test_recovery_brings_the_arm_back_over_weeks_and_a_setback_takes_it_away() -> None:
    course = Recovery(0.7, 0.1, 20.0, 0.02, setback_day=60, setback=0.3)
    deficits = [deficit_of(day(day=d, paretic="left", recovery=course)) for d in (0, 20, 40, 59, 60)]
    assert deficits[0] == pytest.approx(0.7, abs=0.08)
    assert deficits[1] == pytest.approx(0.1 + 0.6 / np.e, abs=0.08)
    assert deficits[0] > deficits[1] > deficits[2] > deficits[3]
    assert deficits[4] == pytest.approx(deficits[3] + 0.3, abs=0.1)
    assert deficit_of(day(paretic=None, recovery=course)) == 0
    assert deficits[0] == deficit_of(day(day=0, paretic="left", recovery=course))


def test_fatigue_takes_half_of_what_it_takes_by_its_half_time() -> None:
    tired = Fatigue(0.2, 6.0)
    assert (tired.lost(0), tired.lost(6)) == (0, pytest.approx(0.1))
    assert tired.lost(1000) == pytest.approx(0.2)


def test_a_shifted_sensor_on_a_turning_limb_feels_what_physics_says() -> None:
    rate, n = 200.0, 400
    t = np.arange(n) / rate
    angle = 3.0 * t + 2.0 * t**2
    turning = Motion(about("z", angle), np.zeros((n, 3)))
    moved = wear(turning, Worn(np.array([[1.0, 0, 0, 0]]), np.array([0.1, 0, 0])), rate_hz=rate)
    felt = rotate(conjugate(moved.orientation), moved.acc_world)
    w, change = 3.0 + 4.0 * t, 4.0
    np.testing.assert_allclose(felt[3:-3, 0], -0.1 * w[3:-3] ** 2, rtol=1e-3)  # towards the axis
    np.testing.assert_allclose(felt[3:-3, 1], 0.1 * change, rtol=1e-3)
    assert np.abs(felt[:, 2]).max() < 1e-9


def test_a_shift_agrees_with_moving_the_point_itself() -> None:
    config = SimulationConfig(sensors=("ankle_left",), duration_s=10, rate_hz=400, activity_mix={"gait": 1.0})
    motion = motions(config)["ankle_left"]
    shift = np.array([0.01, 0.0, 0.05])
    moved = wear(motion, Worn(np.array([[1.0, 0, 0, 0]]), shift), rate_hz=400)
    path = rotate(motion.orientation, np.broadcast_to(shift, (len(motion.orientation), 3)))
    expected = np.diff(path, 2, axis=0) * 400**2
    np.testing.assert_allclose(
        (moved.acc_world - motion.acc_world)[3:-3], expected[2:-2], atol=0.02 * np.abs(expected).max()
    )


def test_donning_moves_sessions_apart_and_leaves_the_rest_alone() -> None:
    usual = SimulationConfig(duration_s=20, imu=replace(ImuModel(), donning_deg=0.0), activity_mix={"rest": 1.0})
    assert simulate(usual).digest() == simulate(replace(usual, donning=EXACT)).digest()
    angles = []
    for seed in range(6):
        exact = simulate(replace(usual, session_seed=seed)).values[:, :3].mean(axis=0)
        worn = simulate(replace(usual, session_seed=seed, donning=Donning(10, 20))).values[:, :3].mean(axis=0)
        cosine = exact @ worn / np.linalg.norm(exact) / np.linalg.norm(worn)
        angles.append(np.degrees(np.arccos(min(1.0, float(cosine)))))
    assert 4 < np.median(angles) < 40 and np.std(angles) > 1


def test_the_loss_model_loses_in_spells_at_its_rate_and_sessions_differ() -> None:
    rng = np.random.default_rng(0)
    losses = [1 - GAIT_RADIO.draw(rng, 3000, trouble=GAIT_RADIO.draw_trouble(rng)).mean() for _ in range(3000)]
    assert np.mean(losses) == pytest.approx(GAIT_RADIO.loss_rate, abs=0.006)
    assert GAIT_RADIO.quiet_share - 0.03 < (np.array(losses) == 0).mean() < GAIT_RADIO.quiet_share + 0.25
    assert np.quantile(losses, 0.9) > 2 * np.mean(losses)
    arrived = GAIT_RADIO.draw(rng, 200_000, trouble=0.3)
    assert 1 - arrived.mean() == pytest.approx(0.3 * GAIT_RADIO.loss_in_trouble, rel=0.15)
    edges = np.flatnonzero(np.diff(arrived.astype(np.int8)))
    runs = np.diff(edges)
    lost = runs[0 if not arrived[edges[0] + 1] else 1 :: 2]
    assert lost.mean() == pytest.approx(GAIT_RADIO.lost, rel=0.05)
    assert GAIT_RADIO.draw(rng, 100, trouble=0.0).all()
    assert not GAIT_RADIO.draw(rng, 5000, trouble=1.0).all()


def test_fitting_finds_the_model_that_made_the_traces() -> None:
    truth = LossModel(lost=2.5, received=4.0, runs=12.0, trouble_a=1.5, trouble_b=5.0, quiet_share=0.3)
    rng = np.random.default_rng(1)
    traces = []
    for _ in range(300):
        trouble = truth.draw_trouble(rng)
        traces.append([truth.draw(rng, 4000, trouble=trouble) for _ in range(2)])
    found = fit_loss(traces)
    assert found.lost == pytest.approx(2.5, rel=0.05)
    assert found.received == pytest.approx(4.0, rel=0.1)
    assert found.runs == pytest.approx(12.0, rel=0.2)
    assert found.trouble_a / (found.trouble_a + found.trouble_b) == pytest.approx(1.5 / 6.5, rel=0.15)
    assert found.quiet_share == pytest.approx(0.3, abs=0.06)
    with pytest.raises(SignalError, match="too few"):
        fit_loss([[np.ones(100, bool)]])


def test_the_kept_numbers_are_those_of_the_real_walks(shared_data: Path) -> None:
    walks = load_gait_healthy(shared_data / "gait_healthy.npz")
    found = fit_loss(traces_of(walks))
    for name in ("lost", "received", "runs", "trouble_a", "trouble_b", "quiet_share"):
        assert getattr(found, name) == pytest.approx(getattr(GAIT_RADIO, name), rel=2e-3)
    real = np.array([np.mean([1 - trace.mean() for trace in walk]) for walk in traces_of(walks)])
    assert GAIT_RADIO.loss_rate == pytest.approx(real.mean(), rel=0.05)


def test_loss_can_be_put_on_any_recording_and_takes_whole_samples() -> None:
    plain = simulate(SimulationConfig(duration_s=60))
    worse = next(r for s in range(20) if not (r := with_loss(plain, GAIT_RADIO, seed=s)).valid.all())
    np.testing.assert_array_equal(worse.values, plain.values)
    assert (worse.valid[:, :6] == worse.valid[:, :1]).all()
    assert not np.array_equal(worse.valid[:, 0], worse.valid[:, 6])
    simulated = simulate(SimulationConfig(duration_s=60, loss=replace(GAIT_RADIO, quiet_share=0.0, trouble_a=5.0)))
    assert 0.02 < 1 - simulated.valid.mean() < 0.4
    np.testing.assert_array_equal(simulated.values, plain.values)


def impacts_g(recording: Recording, config: RunConfig, side: str) -> np.ndarray:
    hits, rate = strikes(config), config.rate_hz
    acc = magnitude(recording, f"shank_{side}") / STANDARD_GRAVITY_M_S2
    at = hits.time_s[hits.right == (side == "right")]
    return np.array([acc[round(s * rate) : round((s + 0.05) * rate)].max() for s in at if s + 0.05 < config.duration_s])


def test_running_looks_like_running() -> None:
    for seed in range(4):
        config = RunConfig(subject_seed=seed, duration_s=30, imu=PERFECT, donning=EXACT, fatigue=STILL)
        run, hits = simulate_run(config), strikes(config)
        assert 145 < len(hits.time_s) * 2 < 185  # steps a minute
        assert 4 < impacts_g(run, config, "left").mean() < 18
        # over whole steps the body is carried: the mean specific force of the pelvis is its weight
        assert np.abs(run.values[:, run.columns("lower_back")][2000:-2000, 2].mean() - 9.8) < 0.6
        assert 500 < np.degrees(np.abs(run.values[:, run.columns("shank_left")][:, 4]).max()) < 1400
        vertical = run.values[:, run.columns("lower_back")][:, 2]
        flight = np.concatenate([vertical[: round(hits.time_s[0] * 400)], vertical])
        assert np.quantile(flight, 0.05) < 3  # near free fall


def test_impacts_grow_with_speed_and_an_injured_leg_lands_softly() -> None:
    base = RunConfig(subject_seed=3, duration_s=40, imu=PERFECT, donning=EXACT, fatigue=STILL)
    slow, fast = (simulate_run(replace(base, speed_m_s=v)) for v in (2.8, 5.0))
    fast_config = replace(base, speed_m_s=5.0)
    assert (
        impacts_g(fast, fast_config, "left").mean() > 1.4 * impacts_g(slow, replace(base, speed_m_s=2.8), "left").mean()
    )

    def asymmetry(day: int) -> float:
        config = replace(base, injured="left", day=day, recovery=Recovery(0.3, 0.0, 20.0, 0.0))
        run = simulate_run(config)
        left, right = (impacts_g(run, config, side).mean() for side in ("left", "right"))
        return float((right - left) / (0.5 * (right + left)))

    healthy = simulate_run(base)
    left, right = (impacts_g(healthy, base, side).mean() for side in ("left", "right"))
    own = float((right - left) / (0.5 * (right + left)))
    late, early = asymmetry(100), asymmetry(0)
    assert early > own + 0.15
    assert abs(late - own) < 0.08
    contacts = strikes(replace(base, injured="left", recovery=Recovery(0.3, 0.3, day_sd=0.0)))
    assert contacts.contact_s[~contacts.right].mean() < 0.95 * contacts.contact_s[contacts.right].mean()


def test_a_cut_turns_the_runner_and_lands_harder() -> None:
    config = RunConfig(subject_seed=2, duration_s=60, cuts_per_min=12, imu=PERFECT, donning=EXACT, fatigue=STILL)
    run, hits = simulate_run(config), strikes(config)
    cuts = hits.cut_rad != 0
    assert 5 <= cuts.sum() <= 22
    assert sum(r.label == "activity:cut" for r in run.labels) == cuts.sum()
    assert hits.peak_m_s2[cuts].mean() > 1.25 * hits.peak_m_s2[~cuts].mean()
    # the pelvis's vertical gyroscope sees each turn
    turned = np.abs(run.values[:, run.columns("lower_back")][:, 5]) * run.label_mask("activity:cut")
    assert (
        turned.max()
        > 3 * np.abs(run.values[:, run.columns("lower_back")][:, 5])[~run.label_mask("activity:cut")].mean()
    )
    straight = simulate_run(replace(config, cuts_per_min=0))
    assert not straight.label_mask("activity:cut").any()


def test_fatigue_of_a_long_run_slows_it_and_lands_harder() -> None:
    config = RunConfig(subject_seed=5, duration_s=3600, fatigue=Fatigue(0.2, 0.4), recovery=Recovery(0, 0, day_sd=0))
    hits = strikes(config)
    n = len(hits.time_s) // 10
    first, last = np.diff(hits.time_s[:n]).mean(), np.diff(hits.time_s[-n:]).mean()
    assert last > 1.04 * first
    assert hits.peak_m_s2[-n:].mean() > 1.1 * hits.peak_m_s2[:n].mean()
    calm = strikes(replace(config, fatigue=STILL))
    assert np.diff(calm.time_s[-n:]).mean() == pytest.approx(np.diff(calm.time_s[:n]).mean(), rel=0.01)


def test_runs_repeat_differ_by_seed_and_do_not_depend_on_the_sensors_worn() -> None:
    config = RunConfig(duration_s=4, loss=replace(GAIT_RADIO, quiet_share=0.0, trouble_a=9.0))
    whole = simulate_run(config)
    assert whole.digest() == simulate_run(config).digest()
    assert (
        len({simulate_run(replace(config, **{name: 1})).digest() for name in ("subject_seed", "session_seed", "day")})
        == 3
    )
    alone = simulate_run(replace(config, sensors=("thigh_right",)))
    np.testing.assert_array_equal(alone.values, whole.values[:, whole.columns("thigh_right")])
    assert not whole.valid.all() and whole.channel_names[0] == "shank_left.acc_x"
    assert [s.name for s in whole.sensors] == list(RUN_SENSORS)


def test_a_shank_saturates_at_twice_the_range_of_the_others() -> None:
    imu = replace(PERFECT, acc_range_m_s2=20.0)
    run = simulate_run(RunConfig(duration_s=10, imu=imu, donning=EXACT, speed_m_s=6.0))
    tops = {s.name: np.abs(run.values[:, run.columns(s.name)][:, :3]).max() for s in run.sensors}
    assert tops["shank_left"] == pytest.approx(40.0) and tops["thigh_left"] == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DayConfig(hours=0), "hours"),
        (lambda: DayConfig(paretic="both"), "paretic"),
        (lambda: DayConfig(day=-1), "negative"),
        (lambda: DayConfig(rate_hz=1), "rate_hz"),
        (lambda: RunConfig(sensors=("nose",)), "sensors"),
        (lambda: RunConfig(speed_m_s=30), "speed"),
        (lambda: RunConfig(duration_s=float("nan")), "duration_s"),
        (lambda: RunConfig(injured="both"), "injured"),
        (lambda: RunConfig(day=-1), "negative"),
        (lambda: Recovery(start=2), "deficits"),
        (lambda: Recovery(tau_days=0), "tau_days"),
        (lambda: Fatigue(most=1), "most"),
        (lambda: Donning(tilt_deg=-1), "strap"),
        (lambda: replace(GAIT_RADIO, lost=0), "run lengths"),
        (lambda: replace(GAIT_RADIO, trouble_a=0), "shares"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]
