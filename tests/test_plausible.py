"""What no body shows is no movement: another unit or range is told from the samples, named, and kept from the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kinedge.bundle import read_bundle
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.hop_facts import look_at
from kinedge.edge.narrative import abstention
from kinedge.edge.plausible import Plausibility
from kinedge.edge.reasons import Reason, reasons_of
from kinedge.edge.reliability import ReliabilityMonitor, SensorHealth
from kinedge.edge.scoring import Scorer
from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.signals import IMU6, Quantity, SensorSpec, quantity_of
from kinedge.training.datasets import load_daphnet, load_fog_stanford, load_gait_healthy, load_soccer
from kinedge.training.simulate import SimulationConfig, simulate

G = 9.80665
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
LEFT_ACC, LEFT_GYR = slice(0, 3), slice(3, 6)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(read_bundle(DEFAULT_BUNDLE))


def person(seed: int, *, duration_s: float = 40.0, **mix: float) -> F32:
    return simulate(SimulationConfig(duration_s=duration_s, subject_seed=seed, activity_mix=mix)).values[None].copy()


def watch(scorer: Scorer, values: F32) -> list[SensorHealth]:
    monitor, hop = ReliabilityMonitor(scorer.manifest), scorer.manifest.hop
    state, found = monitor.initial_state(len(values)), []
    for k in range(values.shape[1] // hop):
        part = np.ascontiguousarray(values[:, k * hop : (k + 1) * hop], np.float32)
        health, state = monitor.step(part, np.ones(part.shape, bool), state)
        found.append(health)
    return found


def told_after_s(scorer: Scorer, values: F32, sensor: int = 0) -> float | None:
    """Return when it was sure, for good, that a sensor reads what no body shows."""
    sure = [bool(h.units[0, sensor] >= 1) for h in watch(scorer, values)]
    assert not any(h.units[0, 1 - sensor] for h in watch(scorer, values))
    if not sure[-1]:
        return None
    first = len(sure) - next((i for i, x in enumerate(reversed(sure)) if not x), len(sure))
    return (first + 1) * scorer.manifest.hop / scorer.manifest.rate_hz


@pytest.mark.parametrize("mix", [{"rest": 1.0}, {"gait": 1.0}, {"arm": 1.0}, {"rest": 0.2, "gait": 0.4, "arm": 0.4}])
@pytest.mark.parametrize("seed", [40, 41])
def test_whatever_somebody_does_nothing_is_absurd(scorer: Scorer, mix: dict[str, float], seed: int) -> None:
    assert not any(h.units.any() for h in watch(scorer, person(seed, **mix)))


@pytest.mark.parametrize("mix", [{"rest": 1.0}, {"gait": 1.0}, {"arm": 1.0}])
@pytest.mark.parametrize(
    ("axes", "factor"), [(LEFT_ACC, 1 / G), (LEFT_ACC, 1000 / G), (LEFT_ACC, 2048 / G)], ids=["g", "mg", "counts"]
)
def test_acceleration_in_another_unit_is_told_within_seconds(
    scorer: Scorer, mix: dict[str, float], axes: slice, factor: float
) -> None:
    values = person(42, **mix)
    values[..., axes] *= factor
    at = told_after_s(scorer, values)
    assert at is not None and at <= 6


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_range_that_is_another_is_told_once_somebody_rests(scorer: Scorer, factor: float) -> None:
    rest, walk = person(43, rest=1.0), person(43, gait=1.0)
    values = np.concatenate([walk, rest, walk], axis=1)
    values[..., LEFT_ACC] *= factor
    at = told_after_s(scorer, values)
    assert at is not None and at <= 46  # and it is not forgotten in walking


def test_turning_in_degrees_is_told_once_the_limb_moves(scorer: Scorer) -> None:
    values = np.concatenate([person(44, rest=1.0), person(44, gait=1.0)], axis=1)
    values[..., LEFT_GYR] *= np.rad2deg(1)
    at = told_after_s(scorer, values)
    assert at is not None and 40 < at <= 55


@pytest.mark.parametrize(("mix", "within_s"), [({"rest": 1.0}, 6), ({"gait": 1.0}, 15)], ids=["rest", "gait"])
def test_acceleration_without_gravity_is_told(scorer: Scorer, mix: dict[str, float], within_s: float) -> None:
    values = person(45, **mix)
    values[..., LEFT_ACC] -= values[..., LEFT_ACC].mean(axis=1, keepdims=True)
    at = told_after_s(scorer, values)
    assert at is not None and at <= within_s


def laid(angles_deg: list[float], *, gyr: float = 1.0, turn_s: float = 0.7, clip_rad_s: float = np.inf) -> F32:
    """Return (n, 6): a sensor that rests for 2 s at each angle about its x axis, turned from one to the next."""
    rate, parts = 50, []
    for before, after in zip([angles_deg[0], *angles_deg], angles_deg, strict=False):
        way = np.concatenate([np.linspace(before, after, round(turn_s * rate)), np.full(2 * rate, after)])
        turning = np.gradient(np.deg2rad(way), 1 / rate) * gyr
        angle, nothing = np.deg2rad(way), np.zeros(len(way))
        parts.append(np.stack([nothing, G * np.sin(angle), G * np.cos(angle), turning, nothing, nothing], axis=1))
    values = np.concatenate(parts)
    noise = np.random.default_rng(0).normal(size=values.shape) * np.repeat([0.02, 0.002], 3)
    values += noise
    values[:, 3:] = np.clip(values[:, 3:], -clip_rad_s, clip_rad_s)
    return values.astype(np.float32)


def turns_too_little(
    values: F32, *, hop: int = 25, valid: NDArray[np.bool_] | None = None, saturated: NDArray[np.bool_] | None = None
) -> list[bool]:
    there = np.ones(values.shape, bool) if valid is None else valid
    at_end = np.zeros(values.shape, bool) if saturated is None else saturated
    looks = Plausibility([np.arange(3)], [np.arange(3, 6)], hop=hop, rate_hz=50)
    state, found = looks.initial(1), []
    for k in range(len(values) // hop):
        part = slice(k * hop, (k + 1) * hop)
        facts = look_at(values[None, part], there[None, part], at_end[None, part])
        state = looks.step(facts, np.ones((1, 1), bool), *state)
        units, unturned, *_ = looks.against(*state[:2])
        assert units[0, 0] >= unturned[0, 0]
        found.append(bool(unturned[0, 0]))
    return found


@pytest.mark.parametrize("gyr", [0.0, 1 / 57.3, 0.3])
def test_turning_that_is_too_small_is_told_by_the_third_way_of_resting(gyr: float) -> None:
    found = turns_too_little(laid([0, 70, 0, 70], gyr=gyr))
    assert found[-1]
    assert not any(
        turns_too_little(laid([0, 70, 0], gyr=gyr))
    )  # a change that is laid over begins and ends with a jump
    assert not any(turns_too_little(laid([0, 10, 0, 10, 0, 10], gyr=gyr)))


@settings(max_examples=50, deadline=None)
@given(
    angles=st.lists(st.floats(-170, 170), min_size=2, max_size=12),
    gyr=st.floats(0.9, 50),
    hop=st.sampled_from([5, 25, 50]),
    turn_s=st.floats(0.3, 3),
)
def test_whoever_turns_as_they_feel_is_believed(angles: list[float], gyr: float, hop: int, turn_s: float) -> None:
    assert not any(turns_too_little(laid(angles, gyr=gyr, turn_s=turn_s), hop=hop))


def test_where_it_is_not_known_how_far_it_turned_nothing_is_said_of_turning() -> None:
    angles = [0.0, 70, 0, 70, 0, 70]
    lost = laid(angles)
    valid = np.ones(lost.shape, bool)
    moves = np.abs(lost[:, 3]) > 0.5
    valid[moves] = False
    assert not any(turns_too_little(np.where(valid, lost, 0), valid=valid))
    told = laid(angles, gyr=0.0)
    assert turns_too_little(told)[-1] and not any(
        turns_too_little(told, saturated=np.repeat(moves[:, None], 6, axis=1))
    )
    n = round(2.7 * 50)  # the second turn was not seen, which excuses nobody from the others
    valid[:] = True
    valid[2 * n : 2 * n + 35] = False
    found = turns_too_little(told, valid=valid)
    assert found[5 * n // 25 - 1] and not any(found[: 4 * n // 25])
    clipped = laid(angles, turn_s=0.2, clip_rad_s=2.18)  # 125 degrees a second, where 350 are turned
    assert not any(turns_too_little(clipped))
    half = laid(angles, turn_s=0.2, gyr=0.3)
    assert turns_too_little(half)[-1]  # as little, but not at the end of a range


def test_braking_tilts_what_is_felt_and_is_no_turning() -> None:
    """A wrist in a lap, in a tram that brakes and starts at a third of gravity, eight times."""
    values = laid([0.0] * 16)
    n = len(values) // 16
    for stop in range(0, 16, 2):
        values[stop * n : (stop + 1) * n, 1] += 0.33 * G
    assert not any(turns_too_little(values))


def test_turning_as_it_feels_gives_the_trust_back() -> None:
    found = turns_too_little(np.concatenate([laid([0, 70, 0, 70], gyr=0.0), laid([70, 0])]))
    assert any(found) and not found[-1]


def test_a_sensor_that_repeats_itself_jumps_without_turning(scorer: Scorer) -> None:
    """A buffer of 0.4 s is given for 3 s each: what is between two of them was turned, and nobody saw it."""
    rng, parts = np.random.default_rng(0), []
    for angle in (0, 70, 0, 70, 0, 70, 0):
        buffer = laid([angle], turn_s=0.1)[-20:]
        parts.append(np.tile(buffer, (8, 1))[:150])
    stuck = np.concatenate(parts)
    values = np.concatenate([stuck, person(52, gait=1.0)[0, : len(stuck), 6:]], axis=1)[None]
    assert not any(h.unturned.any() for h in watch(scorer, values))
    values[..., :6] += 1e-3 * rng.normal(size=values[..., :6].shape)  # the same, but new samples
    assert watch(scorer, values)[-1].unturned[0].tolist() == [1, 0]


def test_a_rest_that_shows_gravity_gives_the_trust_back(scorer: Scorer) -> None:
    wrong, right = person(46, rest=1.0, duration_s=12), person(46, rest=1.0, duration_s=12)
    wrong[..., LEFT_ACC] *= 2
    found = watch(scorer, np.concatenate([wrong, right], axis=1))
    assert found[11].units[0, 0] == 1 and found[-1].units[0, 0] == 0


def test_jumps_knocks_and_one_absurd_sample_are_no_absurd_sensor(scorer: Scorer) -> None:
    """In the air a sensor feels nothing, and landing gives it back: over seconds the mean is gravity."""
    values = person(47, rest=1.0)
    phase = np.arange(values.shape[1]) % 40  # 0.8 s: half in the air, half on the ground at twice gravity
    values[..., LEFT_ACC] *= np.where(phase < 20, 0.02, 2.0)[:, None]
    values[..., LEFT_ACC] += (phase >= 20)[:, None] * np.random.default_rng(0).normal(size=(values.shape[1], 3))
    assert not any(h.units.any() for h in watch(scorer, values))
    recording = Recording((SensorSpec("back"),), 50.0, values[0, :, :6], np.ones(values[0, :, :6].shape, bool))
    assert not doubts(recording, 5).any()  # hops that lie in the air as a whole
    for knock in (157.0, 1e6, 1e30, np.inf):
        values = person(48, gait=1.0)
        values[:, 1000, :3] = knock
        values[:, 1010, 3:6] = knock
        with np.errstate(invalid="ignore", over="ignore"):
            assert not any(h.units.any() for h in watch(scorer, values))


def test_a_sensor_of_another_range_is_doubted_and_one_that_is_badly_calibrated_is_not(scorer: Scorer) -> None:
    for factor, sure in ((0.7, False), (1.5, False), (0.55, True), (1.9, True)):
        values = person(49, rest=1.0)
        values[..., LEFT_ACC] *= factor
        assert (watch(scorer, values)[-1].units[0, 0] == 1) == sure


def doubts(recording: Recording, hop: int) -> F64:
    """Return (n_sensors,): the most that was ever held against each sensor of a recording."""
    columns = [np.arange(recording.values.shape[1])[recording.columns(s.name)] for s in recording.sensors]
    of = [[quantity_of(c) for c in s.channels] for s in recording.sensors]
    acc, gyr = (
        [c[[x is quantity for x in q]] for c, q in zip(columns, of, strict=True)]
        for quantity in (Quantity.ACC, Quantity.GYR)
    )
    looks = Plausibility(acc, gyr, hop=hop, rate_hz=recording.rate_hz)
    state, most = looks.initial(1), np.zeros(len(columns))
    for k in range(len(recording) // hop):
        part = slice(k * hop, (k + 1) * hop)
        facts = look_at(recording.values[None, part], recording.valid[None, part])
        heard = np.array([[facts.n_valid[0, c].min() >= hop // 4 for c in columns]])
        state = looks.step(facts, heard, *state)
        most = np.maximum(most, looks.against(*state[:2])[0][0])
    return most


@pytest.mark.parametrize("channels", [IMU6[:2], IMU6[3:], IMU6[2:5]])
def test_of_sensors_without_three_axes_of_acceleration_gravity_is_not_asked(channels: tuple[str, ...]) -> None:
    values = np.full((1000, len(channels)), 0.1, np.float32)
    there = np.ones(values.shape, bool)
    recording = Recording((SensorSpec("back", channels),), 50.0, values, there)
    assert not doubts(recording, 50).any()


def test_sensors_of_real_people_are_never_called_absurd(shared_data: Path) -> None:
    recordings = [
        *load_daphnet(shared_data / "daphnet.npz")[:2],
        *load_fog_stanford(shared_data / "fog_stanford.npz")[:4],
        *load_gait_healthy(shared_data / "gait_healthy.npz")[:8],
        *load_soccer(shared_data / "soccer.npz")[:8],
    ]
    for recording in recordings:
        assert not doubts(recording, round(recording.rate_hz)).any()


def judged(scorer: Scorer, values: F32) -> list[tuple[Decision, Reason | None, list[bool]]]:
    """Return each hop's answer, its first reason, and which channels the model was asked about."""
    hop, state, found = scorer.manifest.hop, scorer.initial_state(1).owned(), []
    for k in range(values.shape[1] // hop):
        part = np.ascontiguousarray(values[:, k * hop : (k + 1) * hop], np.float32)
        there = np.ones(part.shape, bool)
        batch, state = scorer.advance(part, there, ~there, state, end_tick=(k + 1) * hop)
        reasons = reasons_of(
            0, batch.scores, batch.unusual, batch.belief, batch.sensors, batch.config, health=batch.health
        )
        scored = batch.scores.scored[0].tolist()
        found.append((Decision(int(batch.belief.decision[0])), reasons[0] if reasons else None, scored))
    return found


@pytest.mark.parametrize(
    ("axes", "factor", "says"),
    [
        (LEFT_ACC, 1 / G, "reads 1.2 m/s^2 in the mean, and a body shows 9.8 at rest"),
        (LEFT_ACC, 1000 / G, "reads 250 m/s^2 in the mean"),
        (LEFT_GYR, np.rad2deg(1), "rad/s on and on, faster than any limb"),
    ],
    ids=["g", "mg", "deg"],
)
def test_a_sensor_in_another_unit_is_a_doubt_and_no_change_of_movement(
    scorer: Scorer, axes: slice, factor: float, says: str
) -> None:
    values = person(50, gait=1.0, duration_s=60)
    values[..., axes] *= factor
    answers = judged(scorer, values)[15:]
    assert {decision for decision, _, _ in answers} == {Decision.UNSURE}
    assert all(scored == [False] * 6 + [True] * 6 for _, _, scored in answers)  # it is kept from the model
    reasons = [reason for _, reason, _ in answers]
    assert {(r.code, r.sensor) for r in reasons if r} == {("units", "wrist_left")}
    assert reasons[-1] is not None and says in reasons[-1].text
    measured = None if axes is LEFT_GYR else pytest.approx(1.2 if factor < 1 else 250, rel=0.2)
    assert reasons[-1].measured == measured
    assert "no body shows" in abstention(reasons[-1])
    assert "aucun corps" in abstention(reasons[-1], language="fr")


def test_nobody_is_enrolled_with_a_sensor_in_another_unit(scorer: Scorer) -> None:
    walk = simulate(SimulationConfig(duration_s=120, subject_seed=51, activity_mix={"gait": 1.0}))
    values = walk.values.copy()
    values[:, LEFT_ACC] /= G
    enrol_recordings(scorer, [walk], allow_short=True, made_s=0)
    with pytest.raises(SignalError, match=r"wrist_left read what no body shows for 9.* set its unit and range right"):
        enrol_recordings(scorer, [replace(walk, values=values)], allow_short=True, made_s=0)
