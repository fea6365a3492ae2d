"""Bytes to verdicts: the whole chain gives the same answers however the bytes are cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinedge.edge.caution import Decision
from kinedge.edge.pipeline import Pipeline, Scored
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import ClockMap, FixedClock
from kinedge.firmware_bridge.decoder import HelloReceived, WireDecoder
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, counts_from_si, make_hello
from kinedge.firmware_bridge.framing import encode_frame
from kinedge.recording import Recording
from kinedge.signals import IMU6, ImuChunk
from kinedge.training.anomalies import inject
from kinedge.units import NS_PER_S

Person = Callable[..., Recording]


def wire_bytes(recording: Recording, *, loss: float = 0.0) -> bytes:
    """All sensors of a recording on one line, packets interleaved in time as a hub would send them."""
    imus = []
    for i, spec in enumerate(recording.sensors):
        hello = make_hello(spec, rate_hz=recording.rate_hz, stream_id=i + 1, boot_id=5)
        counts = counts_from_si(recording.values[:, recording.columns(spec.name)], hello=hello)
        imus.append(EmulatedImu(hello, counts, faults=Faults(loss=loss, mean_burst=2), seed=i, start_ns=100 * NS_PER_S))
    out = bytearray()
    for step in range(round(recording.duration_s * 10) + 5):
        for imu in imus:
            for payload in imu.advance(step * NS_PER_S // 10):
                out += encode_frame(payload)
    return bytes(out)


def run_chain(scorer: Scorer, data: bytes, cuts: list[int]) -> list[Verdict]:
    pipeline = Pipeline(scorer, ["p"], make_clock=FixedClock)
    decoder = WireDecoder()
    found: list[Scored] = []
    edges = [0, *sorted(set(cuts)), len(data)]
    for a, b in itertools.pairwise(edges):
        decoder.receive_data(data[a:b])
        while (event := decoder.next_event()) is not None:
            if isinstance(event, ImuChunk):
                pipeline.push("p", event, channels=IMU6)
        found += pipeline.advance()
    found += pipeline.advance(flush=True)
    return [s.batch.verdict(s.stream) for s in found]


@pytest.fixture(scope="module")
def lossy(person: Person) -> bytes:
    return wire_bytes(inject(person(25.0), "tremor", 700, 1000, sensor="wrist_right", seed=3), loss=0.05)


@pytest.fixture(scope="module")
def expected(scorer: Scorer, lossy: bytes) -> list[Verdict]:
    # reads of up to 64 bytes: less than the delay the aligner allows between sensors
    return run_chain(scorer, lossy, list(range(0, len(lossy), 64)))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), mean=st.sampled_from([1, 7, 50, 300]))
def test_any_cutting_of_the_bytes_gives_identical_verdicts(
    scorer: Scorer, lossy: bytes, expected: list[Verdict], seed: int, mean: int
) -> None:
    rng = np.random.default_rng(seed)
    cuts = np.cumsum(rng.integers(1, 2 * mean + 1, size=len(lossy) // mean)).tolist()
    assert run_chain(scorer, lossy, [c for c in cuts if c < len(lossy)]) == expected


def test_the_chain_says_something_and_not_always_the_same(expected: list[Verdict]) -> None:
    assert len(expected) >= 24
    assert {v.decision for v in expected} >= {Decision.UNSURE, Decision.ANOMALOUS}
    assert any(r.code == "missing" for v in expected for r in v.reasons)
    assert "warming_up" in {r.code for r in expected[0].reasons}
    ends = [v.end_tick for v in expected]
    assert ends == list(range(ends[0], ends[0] + len(ends) * scorer_hop(ends), scorer_hop(ends)))


def scorer_hop(ends: list[int]) -> int:
    return ends[1] - ends[0]


def chunk(sensor: str, values: np.ndarray, *, start_ns: int, boot_id: int = 1, host_ns: int | None = None) -> ImuChunk:
    ok = np.ones(values.shape, bool)
    time = start_ns + np.arange(len(values)) * 20_000_000
    return ImuChunk(sensor, time, values, ok, ~ok, 20_000_000, boot_id=boot_id, host_time_ns=host_ns)


def play(
    pipeline: Pipeline, r: Recording, *, silent: tuple[str, int, int] | None = None, subject: str = "p"
) -> list[Verdict]:
    """Push tenths of a second of both sensors; ``silent`` keeps one of them quiet for some samples."""
    found = []
    for a in range(0, len(r), 5):
        for spec in r.sensors:
            if silent is not None and spec.name == silent[0] and silent[1] <= a < silent[2]:
                continue
            values = r.values[a : a + 5, r.columns(spec.name)]
            pipeline.push(subject, chunk(spec.name, values, start_ns=NS_PER_S + a * 20_000_000), channels=IMU6)
        found += pipeline.advance()
    return [s.batch.verdict(s.stream) for s in [*found, *pipeline.advance(flush=True)]]


def test_a_silent_sensor_is_named_and_the_answer_is_unsure_until_it_is_back(scorer: Scorer, person: Person) -> None:
    pipeline = Pipeline(scorer, ["p"], make_clock=FixedClock)
    verdicts = play(pipeline, person(30.0), silent=("wrist_left", 500, 1000))
    gone = [v for v in verdicts if 13 <= v.host_time_ns / NS_PER_S <= 20]
    assert len(gone) == 8
    for v in gone:
        assert v.decision is not Decision.NORMAL
        assert v.reasons[0].text == "no data from wrist_left"
        assert v.sensor_missing["wrist_left"] == 1
    assert verdicts[-1].sensor_missing["wrist_left"] == 0
    assert all(r.code != "no_data" for r in verdicts[-1].reasons)


def test_what_one_person_does_does_not_change_what_is_said_of_another(scorer: Scorer, person: Person) -> None:
    calm, other = person(20.0), person(20.0, seed=800_001)
    shaken = inject(other, "noise_burst", 400, 900, sensor="wrist_left", seed=0, strength=3.0)
    alone = play(Pipeline(scorer, ["p"], make_clock=FixedClock), calm)
    both = Pipeline(scorer, ["p", "q"], make_clock=FixedClock)
    found = []
    for a in range(0, len(calm), 5):
        for subject, r in (("p", calm), ("q", shaken)):
            for spec in r.sensors:
                values = r.values[a : a + 5, r.columns(spec.name)]
                both.push(subject, chunk(spec.name, values, start_ns=NS_PER_S + a * 20_000_000), channels=IMU6)
        found += both.advance()
    found += both.advance(flush=True)
    of_p = [s.batch.verdict(s.stream) for s in found if s.subject == "p"]
    assert [v.decision for v in of_p] == [v.decision for v in alone]
    assert np.allclose([v.score for v in of_p], [v.score for v in alone], rtol=1e-4, atol=1e-4)
    assert max(v.score for s in found if s.subject == "q" for v in [s.batch.verdict(s.stream)]) > 2


def test_a_restarted_device_is_mapped_anew_and_goes_on(scorer: Scorer, person: Person) -> None:
    pipeline = Pipeline(scorer, ["p"], make_clock=ClockMap)
    r = person(20.0)
    found = []
    for a in range(0, len(r), 5):
        rebooted = a >= 500
        for spec in r.sensors:
            device_ns = (a - 500 if rebooted else 10**6 + a) * 20_000_000
            host_ns = 50 * NS_PER_S + (a + 5) * 20_000_000
            values = r.values[a : a + 5, r.columns(spec.name)]
            c = chunk(spec.name, values, start_ns=device_ns, boot_id=2 if rebooted else 1, host_ns=host_ns)
            pipeline.push("p", c, channels=IMU6)
        found += pipeline.advance()
    found += pipeline.advance(flush=True)
    ends = [s.batch.end_tick for s in found]
    assert ends == list(range(ends[0], ends[-1] + 1, scorer.manifest.hop))
    assert found[-1].batch.verdict(0).sensor_missing == {"wrist_left": 0.0, "wrist_right": 0.0}
    assert pipeline.n_late("p") <= 20


def test_after_a_long_silence_the_model_starts_anew_and_says_it_is_warming_up(scorer: Scorer, person: Person) -> None:
    pipeline = Pipeline(scorer, ["p"], make_clock=FixedClock)
    r = person(10.0)
    play(pipeline, r)
    later = 3600 * NS_PER_S
    found = []
    for a in range(0, len(r), 5):
        for spec in r.sensors:
            c = chunk(spec.name, r.values[a : a + 5, r.columns(spec.name)], start_ns=later + a * 20_000_000)
            pipeline.push("p", c, channels=IMU6)
        found += pipeline.advance()
    assert len(found) < 80
    first = found[0].batch.verdict(0)
    assert first.end_tick * 20_000_000 > later - 70 * NS_PER_S
    assert "warming_up" in {x.code for x in first.reasons}


def test_a_sensor_the_model_does_not_use_is_counted_and_one_that_lacks_a_channel_is_refused(
    scorer: Scorer, person: Person
) -> None:
    pipeline = Pipeline(scorer, ["p"], make_clock=FixedClock)
    r = person(5.0)
    pipeline.push("p", chunk("ankle_left", r.values[:5, :6], start_ns=0), channels=IMU6)
    assert pipeline.n_ignored_chunks == 1
    with pytest.raises(SignalError, match="needs gyr_z"):
        pipeline.push("p", chunk("wrist_left", r.values[:5, :5], start_ns=0), channels=IMU6[:5])
    with pytest.raises(SignalError, match="no subject 'x'"):
        pipeline.push("x", chunk("wrist_left", r.values[:5, :6], start_ns=0), channels=IMU6)
    with pytest.raises(SignalError, match="distinct subjects"):
        Pipeline(scorer, ["p", "p"])


def test_channels_are_taken_by_name_whatever_their_order_on_the_wire(scorer: Scorer, person: Person) -> None:
    r = person(12.0)
    straight = play(Pipeline(scorer, ["p"], make_clock=FixedClock), r)
    pipeline = Pipeline(scorer, ["p"], make_clock=FixedClock)
    turned = tuple(reversed(IMU6))
    found = []
    for a in range(0, len(r), 5):
        for spec in r.sensors:
            c = chunk(spec.name, r.values[a : a + 5, r.columns(spec.name)], start_ns=NS_PER_S + a * 20_000_000)
            pipeline.push("p", replace(c, values=c.values[:, ::-1]), channels=turned)
        found += pipeline.advance()
    found += pipeline.advance(flush=True)
    assert [s.batch.verdict(0) for s in found] == straight


def test_a_line_with_hello_is_all_a_host_needs(lossy: bytes) -> None:
    decoder = WireDecoder()
    decoder.receive_data(lossy)
    events = []
    while (event := decoder.next_event()) is not None:
        events.append(event)
    sensors = {e.hello.sensor for e in events if isinstance(e, HelloReceived)}
    assert sensors == {"wrist_left", "wrist_right"}
    assert sum(e.lost for e in events if isinstance(e, ImuChunk)) > 50
