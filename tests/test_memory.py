"""What a person takes in memory, in every state of theirs: counted over all that a pipeline can reach."""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import fields, replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.benchmarks.crowd import Crowd, untrained_bundle
from kinedge.benchmarks.enrolled import BEING_ALIGNED, COHORT, ENROLLED, Kind, any_enrolment, pipeline_of
from kinedge.bundle import Bundle
from kinedge.edge.enrolment import Enrolment, pack_enrolment, read_enrolment
from kinedge.edge.frame_watch import FrameWatch
from kinedge.edge.kept_enrolments import KeptEnrolments
from kinedge.edge.moments import Moments
from kinedge.edge.orientation import Alignment, Walking
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.pose import PoseFrames
from kinedge.edge.scoring import Scorer
from kinedge.signals import IMU6, SensorSpec
from kinedge.signing import generate_key, load_signing_key, sign_archive

MANY, FEW = 48, 16


@pytest.fixture(scope="module")
def model() -> Bundle:
    """A model of the size that the goal of 64 kB is meant for."""
    return untrained_bundle([SensorSpec("wrist_left")], rate_hz=50.0, n_parameters=50_000)


@pytest.fixture(scope="module")
def enrolment(model: Bundle) -> Enrolment:
    return any_enrolment(Scorer(model))


def n_bytes(root: object) -> int:
    """Return the bytes of all that can be reached, arrays that are only looked at by others included."""
    seen: dict[int, object] = {}
    left = [root]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen[id(one)] = one
        left += gc.get_referents(one)
        if isinstance(one, np.ndarray) and one.base is not None:
            left.append(one.base)
        if isinstance(one, memoryview):
            left.append(one.obj)
    return sum(sys.getsizeof(one) for one in seen.values())


def followed(model: Bundle, enrolment: Enrolment, n: int, kind: Kind, seconds: int) -> Pipeline:
    scorer = Scorer(model)
    crowd = Crowd(model.manifest, n, chunk_samples=25, walking=kind == BEING_ALIGNED)
    pipeline = pipeline_of(scorer, crowd.subjects, kind, enrolment)
    crowd.know_clocks(pipeline)
    for arrivals in crowd.chunks(0, 2 * seconds):
        for arrival in arrivals:
            pipeline.push(arrival.subject, arrival.chunk, channels=IMU6)
        pipeline.advance()
    return pipeline


def kb_each(model: Bundle, enrolment: Enrolment, kind: Kind, *, seconds: int, alignment: str) -> float:
    many, few = (followed(model, enrolment, n, kind, seconds) for n in (MANY, FEW))
    assert {b.alignment for b in many.people.bases} == {alignment}
    return (n_bytes(many) - n_bytes(few)) / (MANY - FEW) / 1024


@pytest.mark.parametrize(("kind", "alignment", "most_kb"), [(COHORT, "none", 40.5), (ENROLLED, "same", 44.5)])
def test_a_person_takes_so_much_memory(
    model: Bundle, enrolment: Enrolment, kind: Kind, alignment: str, most_kb: float
) -> None:
    assert kb_each(model, enrolment, kind, seconds=6, alignment=alignment) < most_kb


def test_a_person_who_is_being_aligned_takes_a_few_kilobytes_more_however_long_they_walk(
    model: Bundle, enrolment: Enrolment
) -> None:
    assert kb_each(model, enrolment, BEING_ALIGNED, seconds=6, alignment="pending") < 51.0
    # by then it was looked at twice, and failed: noise about no axis
    assert kb_each(model, enrolment, BEING_ALIGNED, seconds=132, alignment="failed") < 51.0


def test_a_person_who_was_aligned_takes_no_more_than_one_whose_sensors_stayed_on(
    model: Bundle, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = np.array([[[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    found = Alignment(turn, np.array([1.5]), np.array([0.05]), np.array([True]))
    monkeypatch.setattr("kinedge.edge.people.ALIGN_AFTER_S", 4.0)
    monkeypatch.setattr("kinedge.edge.people.align", lambda today, enrolled: found)
    assert kb_each(model, enrolment, BEING_ALIGNED, seconds=8, alignment="done") < 45.0


def test_of_a_batch_nothing_is_kept_once_nobody_has_its_verdicts(scorer: Scorer) -> None:
    crowd = Crowd(scorer.manifest, 3, chunk_samples=25)
    pipeline = pipeline_of(scorer, crowd.subjects, COHORT)
    channels = {s.name: s.channels for s in crowd.sensors}
    watched: list[weakref.ref[Any]] = []
    for arrivals in crowd.chunks(0, 8):
        for arrival in arrivals:
            pipeline.push(arrival.subject, arrival.chunk, channels=channels[arrival.chunk.sensor])
        for scored in pipeline.advance():
            surprise = scored.batch.surprise
            watched += [weakref.ref(a) for a in (surprise.z, surprise.nats, surprise.valid, scored._values)]
        scored = surprise = arrival = None  # type: ignore[assignment]
    assert watched and not any(kept() is not None for kept in watched)


def test_windows_of_a_crowd_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(
        Walking, "look", lambda self, windows: (looked.append(len(windows)), *[np.zeros(0, int)] * 3)[1:]
    )
    watch = FrameWatch([SensorSpec("wrist_left")], 100, rate_hz=50.0)
    watch.begin(np.arange(100))
    for _ in range(4):
        watch.add(np.arange(100), np.zeros((100, 50, 6), np.float32), np.ones((100, 50, 6), bool))
    assert sum(looked) == 100 and max(looked) <= 32


def test_who_is_no_longer_being_aligned_leaves_no_memory_behind() -> None:
    watch = FrameWatch([SensorSpec("wrist_left")], 400, rate_hz=50.0)
    alone = watch.nbytes
    watch.begin(np.arange(400))
    samples = np.zeros((400, 50, 6), np.float32)
    watch.add(np.arange(400), samples, np.ones(samples.shape, bool))
    everybody = watch.nbytes - alone
    for row in range(10, 400):
        watch.end(row)
    assert 0 < watch.nbytes - alone < everybody / 8
    watch.add(np.arange(10), samples[:10], np.ones((10, 50, 6), bool))
    for row in range(10):
        watch.end(row)
    assert watch.nbytes == alone and not watch


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([1, 7, 15, 16, 17, 31, 32, 33, 65, 200, 599, 600, 615, 700]))
def test_moments_of_any_length_of_walking_keep_their_mean_and_stretches_of_equal_length(seed: int, n: int) -> None:
    windows = np.random.default_rng(seed).normal(size=(n, 7, 3))
    moments = Moments(2, 1)
    before = moments.nbytes
    assert [moments.add(1, 0, w) for w in windows] == np.minimum(np.arange(1, n + 1), 600).tolist()
    mean, kept = moments.told(1, 0)
    assert moments.nbytes == before and len(kept) < 32
    if n < 600:
        assert np.array_equal(mean, windows.mean(axis=0))
        span = next(s for s in (1, 2, 4, 8, 16, 32) if n // s < 32)
        stretches = windows[: n // span * span].reshape(-1, span, 7, 3).mean(axis=1)
        assert np.allclose(kept, stretches, rtol=1e-5, atol=1e-6)
        assert n > 15 or np.array_equal(kept, windows)
    else:  # the last 40 min of windows of 4 s, up to a stretch of 32
        assert 576 <= 32 * len(kept) <= 600
        assert np.allclose(kept[-1], windows[n // 32 * 32 - 32 : n // 32 * 32].mean(axis=0), atol=1e-6)
        assert np.allclose(mean, windows[-(len(kept) * 32 + n % 32) :].mean(axis=0), atol=1e-6)
    moments.clear(1)
    assert moments.add(1, 0, windows[0]) == 1 and np.array_equal(moments.told(1, 0)[0], windows[0])


def test_kept_enrolments_are_what_was_kept_and_take_a_tenth(enrolment: Enrolment, tmp_path: Path) -> None:
    generate_key(tmp_path / "key")
    key = load_signing_key(tmp_path / "key")
    poses = PoseFrames(np.tile([0.0, 0.0, 1.0], (2, 1, 1)), np.full((2, 1), 0.01), np.ones((2, 1)))
    plain = {**enrolment.manifest.model_dump(), "subject": "q"}
    packed = pack_enrolment(plain, enrolment.baseline, enrolment.frames, poses)
    own = read_enrolment(sign_archive(packed, key, kind="enrolment", digest=read_enrolment(packed).digest))
    kept = KeptEnrolments()
    kept.keep("p", enrolment)
    kept.keep("q", own)
    for subject, before in (("p", enrolment), ("q", own)):
        after = kept[subject]
        assert (after.manifest, after.digest, after.signatures) == (before.manifest, before.digest, before.signatures)
        for part in ("baseline", "frames", "poses"):
            one, other = getattr(before, part), getattr(after, part)
            assert (one is None) == (other is None)
            for f in fields(one) if one is not None else ():
                assert np.array_equal(getattr(one, f.name), getattr(other, f.name))
        assert kept.digest(subject) == before.digest
    assert kept.get("r") is None and kept.digest("r") is None and list(kept) == ["p", "q"]
    others = kept.only({"q", "r"})
    others.keep("r", replace(own, digest="0" * 64))
    assert list(others) == ["q", "r"] and list(kept) == ["p", "q"]
    small = KeptEnrolments(own_reference=False)
    for k in range(32):
        small.keep(f"p{k}", own)
    assert small.nbytes / 32 < 2200 < n_bytes(own) / 10
    assert len(small["p3"].baseline.reference) == 0
