"""Enrolment: what is learned, refused, told, packed and applied."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_blocks import normal_blocks

import kinedge.cli.enrol
from kinedge.cli.app import main
from kinedge.edge.calibration import UNSCORED, stack_calibrations
from kinedge.edge.config import GatewayConfig
from kinedge.edge.enrol import EnrolmentBuilder, enrol_recordings
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.offline import hops, verdicts_of
from kinedge.edge.people import People
from kinedge.edge.personal import Blocks, Detectors, detector_names, fit_baseline
from kinedge.edge.pipeline import Pipeline, Scored
from kinedge.edge.scores import NO_STEP, BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.edge.timing import UNTOLD
from kinedge.edge.trusted import load_trusted
from kinedge.errors import BundleError, ConfigError, SignalError
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.recording import Recording
from kinedge.signals import ImuChunk
from kinedge.signing import generate_key, load_signing_key, public_path, sign_archive
from kinedge.training.simulate import SimulationConfig, simulate

Person = Callable[..., Recording]
_ = kinedge.cli.enrol

SHORT_S = 300.0


@pytest.fixture(scope="module")
def half(person: Person) -> Recording:
    """Five minutes of one person to enrol from."""
    return person(SHORT_S, seed=810_000)


@pytest.fixture(scope="module")
def enrolment(scorer: Scorer, half: Recording) -> Enrolment:
    return enrol_recordings(scorer, [half], subject="p-001", allow_short=True, made_s=0)


@pytest.fixture(scope="module")
def packed(scorer: Scorer, half: Recording) -> bytes:
    return collected(scorer, half).finish("p-001", source="test", allow_short=True, made_s=0)


def collected(scorer: Scorer, recording: Recording) -> EnrolmentBuilder:
    builder, state = EnrolmentBuilder(scorer), scorer.initial_state(1)
    for k, (values, valid, saturated) in enumerate(hops(recording, scorer.manifest.hop), 1):
        batch, state = scorer.step(values, valid, saturated, state, end_tick=k * scorer.manifest.hop)
        builder.add_scored(Scored("p-001", batch, 0, values, valid))
    return builder


def detectors_of(blocks: Blocks, scorer: Scorer, baseline: object) -> np.ndarray:
    calibration = baseline.calibration(scorer.calibration, scorer.groups)  # type: ignore[attr-defined]
    center, spread = calibration.usual(blocks.intensity, scorer.groups)
    u = (blocks.channel - center) / spread
    return Detectors([baseline], scorer.groups).assess(u, blocks.intensity, blocks.before)[0]  # type: ignore[list-item]


def test_one_per_cent_of_a_persons_later_blocks_lies_above_their_own_99_per_cent(scorer: Scorer) -> None:
    rng = np.random.default_rng(0)
    baseline = fit_baseline(normal_blocks(rng, 3000), np.eye(12), cohort=scorer.calibration, groups=scorer.groups)
    later = normal_blocks(rng, 6000)
    u = detectors_of(later, scorer, baseline)
    assert u.shape[1] == len(detector_names(scorer.sensors, scorer.channels, together=True)) == 12 + 3 * 2 + 1
    over = (u > 1).mean(axis=0)
    assert (over > 0.004).all()
    assert (over < 0.02).all()
    assert np.abs(np.median(u, axis=0)).max() < 0.06
    for calm in (later.intensity[:, 0] < -4.5, later.intensity[:, 0] > -1.5):
        assert (u[calm, :6] > 1).mean() == pytest.approx(0.01, abs=0.01)  # in every context


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.001, 0.03), st.floats(8, 1000))
def test_a_few_abnormal_minutes_hardly_move_the_baseline(scorer: Scorer, seed: int, share: float, by: float) -> None:
    rng = np.random.default_rng(seed)
    clean = normal_blocks(rng, 1500)
    bad = rng.random(1500) < share
    dirty = replace(clean, channel=clean.channel + by * bad[:, None])
    cohort, groups = scorer.calibration, scorer.groups
    a, b = (fit_baseline(x, np.eye(12), cohort=cohort, groups=groups) for x in (clean, dirty))
    assert b.n_trimmed[0] >= bad.sum()
    spread = (a.q99 - a.median)[:, :12]
    assert (np.abs(a.median - b.median)[:, :12] < 0.2 * spread).all()
    assert (np.abs(a.q99 - b.q99)[:, :12] < 0.6 * spread).all()


def test_a_short_enrolment_leans_on_the_cohort_for_what_is_rare(scorer: Scorer) -> None:
    rng = np.random.default_rng(1)
    cohort = scorer.calibration
    prior = cohort.usual(np.full((3, 2), -3.0), scorer.groups)[1][0]

    def distance(n: int) -> float:
        blocks = normal_blocks(rng, n)
        calm = replace(blocks, intensity=np.full_like(blocks.intensity, -3.0), channel=10 * blocks.channel)
        baseline = fit_baseline(calm, np.eye(12), cohort=cohort, groups=scorer.groups)
        return float((np.abs((baseline.q99 - baseline.median)[:, :12] - prior)).mean())

    assert distance(40) < 0.6 * distance(4000)
    with pytest.raises(SignalError, match="at least 30"):
        fit_baseline(normal_blocks(rng, 29), np.eye(12), cohort=cohort, groups=scorer.groups)


def test_an_enrolment_is_the_same_file_for_the_same_movement_and_reads_back_whole(
    packed: bytes, enrolment: Enrolment, scorer: Scorer, half: Recording
) -> None:
    again = collected(scorer, half).finish("p-001", source="test", allow_short=True, made_s=0)
    assert again == packed
    read = read_enrolment(packed)
    assert read.manifest.subject == "p-001"
    assert read.manifest.bundle_digest == scorer.bundle.digest
    assert read.manifest.short
    # a wrist that lies still while the other moves may lie on a table: such seconds are not learned from
    assert read.manifest.usable_s == pytest.approx(SHORT_S - 10, abs=4)
    assert read.manifest.walking_s > 40
    for f in fields(read.baseline):
        assert getattr(read.baseline, f.name) == pytest.approx(getattr(enrolment.baseline, f.name), rel=1e-9, abs=1e-12)
    assert len(packed) < 20_000


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_damage_to_an_enrolment_raises_anything_but_a_bundle_error(packed: bytes, data: st.DataObject) -> None:
    whole = bytearray(packed)
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        whole[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del whole[at:]
    else:
        whole[at:at] = data.draw(st.binary(min_size=1, max_size=50))
    try:
        read = read_enrolment(bytes(whole))
    except BundleError:
        return
    assert read.digest == read_enrolment(packed).digest


def rewritten(packed: bytes, name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    return out.getvalue()


def test_an_altered_or_foreign_enrolment_is_refused(packed: bytes, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="altered"):
        read_enrolment(rewritten(packed, "baseline.npz", b"x" * 10))
    with pytest.raises(BundleError, match="unknown key"):
        read_enrolment(rewritten(packed, "enrolment.json", b'{"a": 1}'))
    with pytest.raises(BundleError, match="cannot be read"):
        read_enrolment(tmp_path / "absent.enrolment")
    with pytest.raises(BundleError, match="no enrolment"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("enrolment.json", b"{}")
        read_enrolment(out.getvalue())


def test_too_little_a_silent_sensor_or_bad_data_is_refused_with_what_to_do(scorer: Scorer, half: Recording) -> None:
    with pytest.raises(SignalError, match=r"4\.8 min .* 30 are needed.*--allow-short.*26%"):
        collected(scorer, half).finish("p", source="")
    with pytest.raises(SignalError, match="nothing was recorded"):
        EnrolmentBuilder(scorer).finish("p", source="")
    silent = half.slice(0, 3000)
    valid = silent.valid.copy()
    valid[:, 6:] = False
    with pytest.raises(SignalError, match="no data from wrist_right"):
        collected(scorer, replace(silent, valid=valid)).finish("p", source="", allow_short=True)
    lossy = silent.valid & np.repeat(np.random.default_rng(0).random((len(silent), 1)) > 0.4, 12, axis=1)
    lossy[:1000] = True
    with pytest.raises(SignalError, match="can be used, mostly because of wrist_left"):
        collected(scorer, replace(silent, valid=lossy)).finish("p", source="", allow_short=True)
    with pytest.raises(SignalError, match="of one person"):
        enrol_recordings(scorer, [half, replace(half, subject="other")])


def test_a_sensor_of_which_an_axis_stands_still_cannot_be_learned_from_and_is_the_one_that_is_named(
    scorer: Scorer,
) -> None:
    walk = simulate(SimulationConfig(duration_s=120, subject_seed=760_102, activity_mix={"gait": 1.0}))
    values = walk.values.copy()
    values[1500:, 10] = values[1500, 10]
    with pytest.raises(SignalError, match=r"only [1-4].% .* mostly because of wrist_right \(.*faulty\)"):
        enrol_recordings(scorer, [replace(walk, values=values)], allow_short=True)


def test_streams_with_calibrations_of_their_own_get_what_each_would_get_alone(
    scorer: Scorer, enrolment: Enrolment, person: Person
) -> None:
    own = enrolment.baseline.calibration(scorer.calibration, scorer.groups)
    stacked = stack_calibrations([own, scorer.calibration, own])
    recording = person(20.0, seed=810_000)
    state = scorer.initial_state(3)
    hop = scorer.manifest.hop
    alone = [
        verdicts_of(Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=c), recording)
        for c in (own, scorer.calibration)
    ]
    assert alone[0] != alone[1]
    for i in range(len(recording) // hop):
        rows = slice(i * hop, (i + 1) * hop)
        values, valid = (np.stack([x[rows]] * 3) for x in (recording.values, recording.valid))
        batch, state = scorer.step(values, valid, ~valid, state, end_tick=(i + 1) * hop, calibration=stacked)
        for stream, expected in ((0, alone[0][i]), (1, alone[1][i]), (2, alone[0][i])):
            got = batch.verdict(stream)
            assert got.decision == expected.decision
            assert got.score == pytest.approx(expected.score, rel=1e-4, abs=1e-4)
            assert got.p_value == pytest.approx(expected.p_value, abs=2e-3)
            assert got.channel_share == pytest.approx(expected.channel_share, abs=1e-3)


def test_without_an_enrolled_cohort_blocks_are_ranked_among_the_persons_own(
    scorer: Scorer, enrolment: Enrolment
) -> None:
    old = replace(scorer.calibration, enrolled=None)
    baseline = enrolment.baseline
    assert len(baseline.reference) == enrolment.manifest.n_blocks
    assert (baseline.calibration(old, scorer.groups).reference == baseline.reference).all()
    assert baseline.calibration(scorer.calibration, scorer.groups).reference is scorer.calibration.enrolled.reference  # type: ignore[union-attr]
    few = replace(baseline, reference=np.zeros(0))
    assert few.calibration(old, scorer.groups).reference is old.reference


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_p_values_of_stacked_references_count_each_streams_own(scorer: Scorer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    references = [np.sort(rng.normal(size=int(rng.integers(1, 40)))) for _ in range(4)]
    own = [replace(scorer.calibration, reference=r) for r in references]
    stacked = stack_calibrations([own[i] for i in (0, 1, 2, 3, 1)])
    scores = BlockScores(
        rng.normal(size=(5, 12)), np.ones((5, 12), bool), rng.normal(-3, 1, (5, 2)), np.full((5, 2), NO_STEP),
        np.zeros((5, 12)), np.zeros((5, 12)), np.zeros((5, 2)), np.zeros((5, 2)), np.zeros((5, 2), bool),
        np.ones(5, bool), np.full((5, 2), UNTOLD),
    )  # fmt: skip
    found = stacked.assess(scores, scorer.groups)
    for stream, i in enumerate((0, 1, 2, 3, 1)):
        n = len(references[i])
        assert found.p_value[stream] == pytest.approx((1 + (references[i] >= found.score[stream]).sum()) / (n + 1))
    part = stacked.rows(np.array([3, 0])).which
    assert part is not None
    assert part.tolist() == [3, 0]


def test_what_was_not_scored_is_never_unusual_to_any_detector(scorer: Scorer, enrolment: Enrolment) -> None:
    detectors = Detectors([enrolment.baseline] * 2, scorer.groups)
    u = np.zeros((2, 12))
    u[:, 6:] = UNSCORED
    u[1] = UNSCORED
    found, q95 = detectors.assess(u, np.full((2, 2), -3.0), np.full((2, 2), -3.0))
    names = detector_names(scorer.sensors, scorer.channels, together=True)
    for name, value in zip(names, found[0], strict=True):
        assert (value == UNSCORED) == ("right" in name or "beside" in name), name
    assert (found[1] == UNSCORED).all()
    assert ((q95 > 0) & (q95 < 1.01)).all()  # between the median and the 99 % quantile


def test_a_pipeline_says_whom_each_person_is_compared_with(
    scorer: Scorer, enrolment: Enrolment, person: Person
) -> None:
    people = People(scorer, ["p-001", "p-002"], {"p-001": enrolment}, unsigned={"p-001": ("enrolment",)})
    pipeline = Pipeline(scorer, ["p-001", "p-002"], people=people)
    recording = person(12.0, seed=810_000)
    for subject in ("p-001", "p-002"):
        for chunk in chunks_of(recording):
            pipeline.push(subject, chunk, channels=recording.sensors[0].channels)
    verdicts = {s.subject: s.batch.verdict(s.stream) for s in pipeline.advance(flush=True)}
    assert verdicts["p-001"].basis.calibration == "personal"
    assert verdicts["p-001"].basis.enrolment_digest == enrolment.digest
    assert verdicts["p-001"].basis.unsigned == ("enrolment",)
    assert verdicts["p-002"].basis.calibration == "cohort"
    assert verdicts["p-001"].score != verdicts["p-002"].score


def chunks_of(recording: Recording, *, n: int = 50) -> list[ImuChunk]:
    found = []
    for start in range(0, len(recording), n):
        rows = slice(start, min(start + n, len(recording)))
        time = (np.arange(rows.start, rows.stop, dtype=np.int64) + 1) * 20_000_000
        for sensor in recording.sensors:
            values = recording.values[rows, recording.columns(sensor.name)]
            valid = recording.valid[rows, recording.columns(sensor.name)]
            arrival = int(time[-1]) + 5_000_000
            found.append(ImuChunk(sensor.name, time, values, valid, ~valid, 20_000_000, host_time_ns=arrival))
    return found


def settings_of(tmp_path: Path, **changes: object) -> GatewayConfig:
    person = {"subject": "p-001", "enrolment": tmp_path / "p-001.enrolment", "devices": [{"port": "/dev/null"}]}
    return GatewayConfig.model_validate(
        {"site": "s", "gateway": "g", "store": tmp_path / "e.db", "people": [person], **changes}
    )


def test_a_gateway_takes_a_signed_enrolment_and_an_unsigned_one_only_when_told(
    packed: bytes, enrolment: Enrolment, tmp_path: Path
) -> None:
    place = tmp_path / "p-001.enrolment"
    with pytest.raises(ConfigError, match=r"people p-001: .*cannot be read"):
        load_trusted(settings_of(tmp_path))
    place.write_bytes(packed)
    with pytest.raises(ConfigError, match=r"people p-001: .* not signed.*allow_unsigned"):
        load_trusted(settings_of(tmp_path))
    _, people = load_trusted(settings_of(tmp_path, trust={"allow_unsigned": True}))
    assert people.bases[0].unsigned == ("enrolment",)
    generate_key(tmp_path / "k.pem")
    key = load_signing_key(tmp_path / "k.pem")
    place.write_bytes(sign_archive(packed, key, kind="enrolment", digest=read_enrolment(packed).digest))
    _, people = load_trusted(settings_of(tmp_path, trust={"keys": [public_path(tmp_path / "k.pem")]}))
    assert people.bases[0].unsigned == ()
    assert people.bases[0].calibration == "personal"


def test_an_enrolment_of_another_person_or_model_is_one_clear_config_error(
    scorer: Scorer, enrolment: Enrolment
) -> None:
    with pytest.raises(ConfigError, match=r"p-002: the enrolment is of p-001"):
        People(scorer, ["p-002"], {"p-002": enrolment})
    other = replace(enrolment, manifest=enrolment.manifest.model_copy(update={"bundle_digest": "0" * 64}))
    with pytest.raises(ConfigError, match=r"made with wrists-sim 0000.*enrol again"):
        People(scorer, ["p-001"], {"p-001": other})


def test_a_recorded_session_becomes_a_signed_enrolment_with_a_picture(
    tmp_path: Path, half: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    with SessionWriter(tmp_path / "monday", facts={"subject": "p-007"}) as writer:
        for sensor in half.sensors:
            writer.describe(sensor)
        for chunk in chunks_of(half.slice(0, 50 * 200), n=5):
            writer.write(chunk)
    generate_key(tmp_path / "k.pem")
    out, picture = tmp_path / "p-007.enrolment", tmp_path / "p.svg"
    command = ["enrol", str(tmp_path / "monday"), "--out", str(out), "--json"]
    assert main(command) == 1
    assert re.search("30 are needed", capsys.readouterr().err)
    assert not out.exists()
    extra = ["--allow-short", "--key", str(tmp_path / "k.pem"), "--picture", str(picture)]
    gateway = tmp_path / "gateway.toml"
    gateway.write_text(
        'site = "s"\ngateway = "g"\n[alarm]\nhours_per_false_episode = 24\n'
        f'[[people]]\nsubject = "p-007"\nenrolment = "{out}"\ndevices = [{{ port = "/dev/ttyACM0" }}]\n'
    )
    assert main(["config", "--check", str(gateway)]) == 0  # on another machine than where the enrolment will lie
    assert "will not start" in capsys.readouterr().out
    assert main([*command, *extra, "--gateway", str(gateway)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "24 hours" in told["promise"]
    read = read_enrolment(out)
    assert main(["config", "--check", str(gateway), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["enrolments"]["p-007"]
    assert found["audit"] == read.manifest.audit.verdict
    assert "at enrolment" in found["text"]
    assert told["subject"] == read.manifest.subject == "p-007"
    assert told["digest"] == read.digest
    assert told["signed_by"] == read.signatures[0].key
    assert 190 < read.manifest.usable_s <= 200
    drawn = ET.fromstring(picture.read_text())
    texts = " ".join("".join(e.itertext()) for e in drawn.iter() if e.tag.endswith("text"))
    assert "p-007" in texts
    assert "wrist left" in texts
    assert sum(e.tag.endswith("polyline") for e in drawn.iter()) >= 2 + 12
