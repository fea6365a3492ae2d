"""People and sensors come and go, a state is kept and gone on from, and nobody else notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.grid import Grid
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline, Scored, phases_for
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import ClockMap, FixedClock
from kinedge.recording import Recording
from kinedge.signals import IMU6, ImuChunk, SensorSpec
from kinedge.units import NS_PER_S

Person = Callable[..., Recording]
_INTERVAL = 20_000_000
_SECONDS = 16


@pytest.fixture(scope="module")
def recordings(person: Person) -> dict[str, Recording]:
    return {s: person(float(_SECONDS), seed=800_001 + i) for i, s in enumerate("abcd")}


def chunk(recording: Recording, sensor: str, start: int, n: int, *, late_ns: int = 0) -> ImuChunk:
    columns = recording.columns(sensor)
    part = slice(start, start + n)
    valid = recording.valid[part, columns]
    time = NS_PER_S + (start + np.arange(n)) * _INTERVAL
    host_ns = int(time[-1]) + 3_000_000 + late_ns
    return ImuChunk(sensor, time, recording.values[part, columns], valid, ~valid, _INTERVAL, host_time_ns=host_ns)


def second(pipeline: Pipeline, recordings: dict[str, Recording], at: int) -> list[Scored]:
    """Push one second of everybody who is there, in chunks of a fifth."""
    found = []
    for start in range(at * 50, at * 50 + 50, 10):
        for subject in pipeline.subjects:
            r = recordings[subject]
            for spec in r.sensors:
                late_ns = (start * 7919 + len(spec.name)) % 2_000_000
                pipeline.push(subject, chunk(r, spec.name, start, 10, late_ns=late_ns), channels=IMU6)
        found += pipeline.advance()
    return found


def of(subject: str, found: list[Scored]) -> list[Verdict]:
    return [s.batch.verdict(s.stream) for s in found if s.subject == subject]


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(1, _SECONDS - 2), st.sampled_from(["bc", "dcb", "c", ""])), max_size=3),
    first=st.booleans(),
    n_phases=st.sampled_from([1, 7]),
)
def test_whoever_joins_or_leaves_changes_no_bit_for_the_others(
    scorer: Scorer, recordings: dict[str, Recording], changes: list[tuple[int, str]], first: bool, n_phases: int
) -> None:
    alone = Pipeline(scorer, ["a"], make_clock=ClockMap, n_phases=n_phases)
    expected = [s for at in range(_SECONDS) for s in second(alone, recordings, at)]
    pipeline = Pipeline(scorer, ["a", "b"], make_clock=ClockMap, n_phases=n_phases)
    found = []
    plan = dict(changes)
    for at in range(_SECONDS):
        if at in plan:
            subjects = ("a", *plan[at]) if first else (*plan[at], "a")
            pipeline.use_people(People(scorer, subjects))
        found += second(pipeline, recordings, at)
    assert of("a", found) == of("a", expected)
    assert len(of("a", expected)) >= _SECONDS - 2


def test_somebody_who_joins_warms_up_and_then_gets_answers(scorer: Scorer, recordings: dict[str, Recording]) -> None:
    pipeline = Pipeline(scorer, ["a"], make_clock=FixedClock)
    for at in range(4):
        second(pipeline, recordings, at)
    pipeline.use_people(People(scorer, ("a", "b")))
    verdicts = of("b", [s for at in range(4, _SECONDS) for s in second(pipeline, recordings, at)])
    assert verdicts[0].reasons[0].code in {"warming_up", "no_data"}
    assert "warming_up" not in {r.code for r in verdicts[-1].reasons}
    pipeline.use_people(People(scorer, ("b",)))
    with pytest.raises(SignalError, match="no subject 'a'"):
        pipeline.push("a", chunk(recordings["a"], "wrist_left", 0, 10), channels=IMU6)
    with pytest.raises(SignalError, match="at least one subject"):
        pipeline.use_people(People(scorer, ()))


def test_a_sensor_that_is_handed_over_is_missing_at_the_giver_and_heard_at_the_taker(
    scorer: Scorer, recordings: dict[str, Recording]
) -> None:
    pipeline = Pipeline(scorer, ["a", "b"], make_clock=ClockMap)
    mine = {"a": recordings["a"], "b": recordings["b"]}
    found: list[Scored] = []

    def play(at: int, *, left_of_b: str) -> None:
        for start in range(at * 50, at * 50 + 50, 10):
            for subject, sensor, who in (
                ("a", "wrist_left", "a"), ("a", "wrist_right", "a"),
                ("b", "wrist_right", "b"), ("b", "wrist_left", left_of_b),
            ):  # fmt: skip
                if subject == "a" and sensor == "wrist_left" and left_of_b == "a":
                    continue
                if left_of_b or sensor == "wrist_right" or subject == "a":
                    pipeline.push(subject, chunk(mine[who or "b"], sensor, start, 10), channels=IMU6)
            found.extend(pipeline.advance())

    for at in range(8):
        play(at, left_of_b="")
    assert of("b", found)[-1].sensor_missing["wrist_left"] == 1
    clock = pipeline.clock("a", "wrist_left")
    pipeline.hand_over("wrist_left", giver="a", taker="b")
    assert pipeline.clock("b", "wrist_left") is clock
    assert pipeline.clock("a", "wrist_left") is None
    for at in range(8, _SECONDS):
        play(at, left_of_b="a")
    assert of("a", found)[-1].sensor_missing == {"wrist_left": 1.0, "wrist_right": 0.0}
    assert of("b", found)[-1].sensor_missing == {"wrist_left": 0.0, "wrist_right": 0.0}
    with pytest.raises(SignalError, match="never heard"):
        pipeline.hand_over("wrist_left", giver="a", taker="b")
    with pytest.raises(SignalError, match="no subject 'x'"):
        pipeline.hand_over("wrist_left", giver="b", taker="x")


def test_a_pipeline_that_goes_on_from_a_saved_state_says_missing_and_does_not_warm_up(
    scorer: Scorer, recordings: dict[str, Recording]
) -> None:
    before = Pipeline(scorer, ["a", "b"], make_clock=FixedClock)
    for at in range(8):
        second(before, recordings, at)
    after = Pipeline(scorer, ["b", "d"], make_clock=FixedClock)
    after.load({k: v.copy() for k, v in before.save().items()}, {1: 0})
    found = [s for at in range(11, _SECONDS) for s in second(after, recordings, at)]
    verdicts = of("b", found)
    ends = [v.end_tick for v in verdicts]
    assert ends == list(range(ends[0], ends[-1] + 1, 50))
    gone = [v for v in verdicts if 10 <= v.host_time_ns / NS_PER_S <= 12]
    assert gone
    assert all("no_data" in {r.code for r in v.reasons} for v in gone)
    assert "warming_up" not in {r.code for v in verdicts for r in v.reasons}
    assert of("d", found)[0].reasons[0].code in {"warming_up", "no_data"}


def test_a_state_of_another_model_is_refused(scorer: Scorer) -> None:
    pipeline = Pipeline(scorer, ["a"])
    saved = pipeline.save()
    with pytest.raises(SignalError, match=r"another model: blocks\.nats"):
        pipeline.load({**saved, "blocks.nats": saved["blocks.nats"][:, :, :3]}, {0: 0})
    with pytest.raises(SignalError, match="another model: extra"):
        pipeline.load({**saved, "extra": np.zeros(1)}, {0: 0})
    with pytest.raises(SignalError, match="n_phases"):
        Pipeline(scorer, ["a"], n_phases=0)


def test_phases_spread_the_ends_of_hops_and_a_limit_scores_the_oldest_first(
    scorer: Scorer, recordings: dict[str, Recording]
) -> None:
    limited, free = (Pipeline(scorer, list("abcd"), make_clock=FixedClock, n_phases=50) for _ in range(2))
    expected = [s for at in range(6) for s in second(free, recordings, at)]
    assert len({s.batch.end_tick % 50 for s in expected}) > 1
    for at in range(6):
        for subject in "abcd":
            for spec in recordings[subject].sensors:
                limited.push(subject, chunk(recordings[subject], spec.name, at * 50, 50), channels=IMU6)
    found = []
    while part := limited.advance(at_most=3):
        assert len(part) <= 3
        found += part
    assert [s.batch.end_tick for s in found] == sorted(s.batch.end_tick for s in found)
    for subject in "abcd":
        mine = of(subject, found)
        assert len(mine) >= 4
        assert mine == of(subject, expected)[: len(mine)]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), n=st.integers(100, 3000), width=st.sampled_from([1, 3]))
def test_a_burst_of_minutes_gives_the_same_bits_as_a_trickle_and_no_larger_buffers(
    seed: int, n: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    spec = SensorSpec("wrist_left", ("acc_x", "gyr_z"))
    interval = _INTERVAL // width
    keep = rng.random(n * width) > 0.02
    time = (NS_PER_S + np.arange(n * width) * interval + rng.integers(0, 1000, n * width))[keep]
    values = rng.normal(size=(len(time), 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.01] = np.nan
    valid, saturated = rng.random(values.shape) > 0.05, rng.random(values.shape) > 0.9

    def run(step: int) -> tuple[list[np.ndarray], Grid]:
        grid = Grid([spec], np.array([13, 0]), rate_hz=50, hop=50)
        hops = []
        for start in range(0, len(time), step):
            part = slice(start, start + step)
            grid.push(0, "wrist_left", time[part], values[part], valid[part], saturated[part], interval_ns=interval)
            while grid.n_final()[0] >= 50:
                hops += [np.concatenate(grid.take(np.array([0]), 50), axis=2)]
        return hops, grid

    burst, after_burst = run(len(time))
    trickle, after_trickle = run(7)
    assert len(burst) == len(trickle) >= (n - 80) // 50
    assert np.array_equal(np.array(burst), np.array(trickle))
    assert np.array_equal(after_burst.next_tick, after_trickle.next_tick)
    assert after_burst.n_slots == after_trickle.n_slots < 100 * width + 50


def test_hops_of_many_people_end_at_many_moments_and_those_of_few_at_one() -> None:
    assert [phases_for(n, 50) for n in (1, 64, 65, 256, 1000, 4000)] == [1, 1, 5, 21, 50, 50]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_chunks_of_any_length_of_many_people_give_the_bits_of_each_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    specs = [SensorSpec("wrist_left", ("acc_x", "gyr_z"))]  # one: it is never late, however long its chunks
    n_people, n = 5, 700
    width, typical = rng.choice([1, 1, 2], n_people), rng.choice([10, 50, 300], n_people)
    sent: list[list[tuple[int, str, tuple[np.ndarray, ...], int]]] = []
    for i in range(n_people):
        mine = []
        for spec in specs:
            time = NS_PER_S + np.arange(n * width[i]) * (_INTERVAL // width[i])
            values = rng.normal(size=(len(time), 2)).astype(np.float32)
            arrays = (time, values, rng.random(values.shape) > 0.05 * (i % 2), rng.random(values.shape) > 0.99)
            cuts = np.cumsum(rng.integers(1, 2 * typical[i], 2 * n))
            for a, b in itertools.pairwise([0, *cuts[cuts < len(time)].tolist(), len(time)]):
                if rng.random() > 0.03:  # else lost
                    mine.append(
                        (int(time[b - 1]), spec.name, tuple(x[a:b] for x in arrays), int(_INTERVAL // width[i]))
                    )
        sent.append(sorted(mine, key=lambda chunk: chunk[:2]))

    def run(people: list[int]) -> dict[int, list[np.ndarray]]:
        grid, found = Grid(specs, np.zeros(len(people), np.int64), rate_hz=50, hop=50), {}
        chunks = sorted((at, name, k, i) for k, p in enumerate(people) for i, (at, name, *_) in enumerate(sent[p]))
        for count, (_, name, k, i) in enumerate(chunks):
            *_, arrays, interval_ns = sent[people[k]][i]
            grid.push(k, name, *arrays, interval_ns=interval_ns)
            if count % 7 and count < len(chunks) - 1:
                continue
            while len(due := np.flatnonzero(grid.n_final() >= 50)):
                for row, hop in zip(due, np.concatenate(grid.take(due, 50), axis=2), strict=True):
                    found.setdefault(people[row], []).append(hop)
        return found

    together = run(list(range(n_people)))
    for i in range(n_people):
        alone = run([i])[i]
        assert alone
        shared = min(len(alone), len(together[i]))
        assert np.array_equal(alone[:shared], together[i][:shared]) and abs(len(alone) - len(together[i])) <= 1


def test_what_an_axis_gives_is_looked_at_before_its_sensor_is_turned(
    scorer: Scorer, recordings: dict[str, Recording], person: Person
) -> None:
    enrolment = enrol_recordings(scorer, [person(150.0, seed=800_001)], subject="a", allow_short=True)
    pipeline = Pipeline(scorer, ["a", "b"], people=People(scorer, ["a", "b"], {"a": enrolment}))
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    mirror = np.eye(3) - 2 * np.outer(axis, axis)
    pipeline.people._rotations[0, 0] = -mirror  # no axis stays what it was
    pipeline.people._turned[0] = pipeline.people._some_turned = True
    broken = {k: replace(r, values=r.values.copy()) for k, r in recordings.items()}
    broken["a"].values[630:, 1] = broken["a"].values[630, 1]
    said = [of("a", second(pipeline, broken, at)) for at in range(16)]
    codes = [{(r.code, r.sensor, r.channel) for v in vs for r in v.reasons if r.code == "held"} for vs in said]
    assert codes[15:] == [{("held", scorer.sensors[0], "acc_y")}]
    assert not any(codes[:12])


def test_who_was_turned_by_one_enrolment_begins_anew_without_it(
    scorer: Scorer, recordings: dict[str, Recording], person: Person
) -> None:
    enrolment = enrol_recordings(scorer, [person(150.0, seed=800_001)], subject="a", allow_short=True)
    pipeline = Pipeline(scorer, ["a", "b"], people=People(scorer, ["a", "b"], {"a": enrolment}))
    pipeline.people._turned[0] = True  # as after a minute of walking with a sensor that was put on otherwise
    pipeline.people._rotations[0, 0] = np.diag([1.0, -1.0, -1.0])
    for at in range(8):
        second(pipeline, recordings, at)
    pipeline.use_people(People(scorer, ("a", "b")))
    found = second(pipeline, recordings, 8)
    assert "warming_up" in {r.code for r in of("a", found)[0].reasons}
    assert "warming_up" not in {r.code for r in of("b", found)[0].reasons}
