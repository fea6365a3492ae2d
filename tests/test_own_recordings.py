"""One's own recordings: plain CSV with units, sessions that were recorded, and splits by subject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinedge.errors import ConfigError, KinedgeError, SignalError
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.recording import Recording
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.training.datasets import CsvConfig, load_csv, load_session
from kinedge.training.splits import Split, k_fold, leave_one_subject_out, subjects_of
from kinedge.units import STANDARD_GRAVITY_M_S2


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_heading_with_units_says_all(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "walk.csv",
        "time_ms,wrist_left.gyr_deg_s.z,wrist_left.acc_g.x,ankle_right.acc_mg.y,wrist_left.mag_G.x,label\n"
        "100,180,1,1000,0.5,\n110,90,,500,0.5,walk\n120,0,inf,0,nan,walk\n150,-90,2,250,1,rest\n160,0,0,0,0,rest\n",
    )
    recording = load_csv(path)
    assert recording.sensors == (
        SensorSpec("wrist_left", ("acc_x", "gyr_z", "mag_x")),
        SensorSpec("ankle_right", ("acc_y",)),
    )
    assert recording.rate_hz == pytest.approx(100.0)
    assert len(recording) == 7
    g = STANDARD_GRAVITY_M_S2
    np.testing.assert_allclose(recording.values[0], [g, np.pi, 50, g], rtol=1e-6)
    assert recording.valid[:, 0].tolist() == [True, False, False, False, False, True, True]
    assert recording.valid[:, 1].tolist() == [True, True, True, False, False, True, True]
    assert [(r.start, r.end, r.label) for r in recording.labels] == [(1, 3, "walk"), (5, 7, "rest")]
    assert (recording.session, recording.source) == ("walk", str(path))


def test_a_mapping_gives_foreign_headings_a_meaning(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "Acc X (g);Gz;junk;what\n1;57.29577951308232;x;\n0;0;y;sit\n")
    mapping = tmp_path / "a.toml"
    mapping.write_text(
        'subject = "p01"\nrate_hz = 50.0\nlabel = "what"\ndelimiter = ";"\n[columns]\n'
        '"Acc X (g)" = { to = "wrist_left.acc_x", unit = "g" }\n"Gz" = { to = "wrist_left.gyr_z", unit = "deg_s" }\n'
    )
    recording = load_csv(path, mapping=mapping)
    assert (recording.subject, recording.rate_hz, recording.channel_names) == (
        "p01",
        50.0,
        ("wrist_left.acc_x", "wrist_left.gyr_z"),
    )
    np.testing.assert_allclose(recording.values, [[STANDARD_GRAVITY_M_S2, 1], [0, 0]], rtol=1e-6)
    assert [(r.start, r.end, r.label) for r in recording.labels] == [(1, 2, "sit")]
    assert load_csv(path, mapping=mapping, rate_hz=25).rate_hz == 25


def test_rounded_times_give_the_true_rate(tmp_path: Path) -> None:
    times = np.floor(np.arange(2000) * 1000 / 64).astype(int)  # whole milliseconds: 15 and 16 in turn
    path = csv(tmp_path / "a.csv", "time_ms,a.acc_g.x\n" + "\n".join(f"{t},{i}" for i, t in enumerate(times)))
    recording = load_csv(path)
    assert recording.rate_hz == pytest.approx(64, rel=1e-3)
    assert len(recording) == 2000 and recording.valid.all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time_s,wrist.acc.x\n0,1\n", "tells no unit; call it wrist.acc_m_s2.x or wrist.acc_g.x"),
        ("time_s,wrist.acc_dps.x\n0,1\n", "unit 'dps'.* acc is in m_s2, g, mg"),
        ("time_s,wrist.gyr_dps.x\n0,1\n1,1\n", "did you mean 'deg_s'"),
        ("time_s,wrist.acc_m/s^2.x\n0,1\n1,1\n", "did you mean 'm_s2'"),
        ("time_s,wrist.gyr_rad.x\n0,1\n1,1\n", "did you mean 'rad_s'"),
        ("time,wrist.acc_g.x\n0,1\n", "call it time_s, time_ms"),
        ("time_h,wrist.acc_g.x\n0,1\n1,1\n", "time unit 'h'.*known are s, ms"),
        ("wrist.acc_g.x\n0\n", "give rate_hz"),
        ("time_s,AccX\n0,1\n", "says not what it is"),
        ("time_s,label\n0,1\n", "no column of a sensor"),
        ("time_s,wrist.acc_g.x\n0,1\n0,1\n", "do not at line 3"),
        ("time_s,wrist.acc_g.x\n0,1\n1,1\n2,1\n1.5,1\n", "do not at line 5"),
        ("time_s,wrist.acc_g.x\nnan,1\n1,1\n", "must be finite"),
        ("time_s,wrist.acc_g.x\n0,1\n1\n", "line 3 has 1 cells, not 2"),
        ("time_s,wrist.acc_g.x\n0,one\n1,1\n", "no number"),
        ("time_s,wrist.acc_g.x\n", "at least one line"),
        ("time_s,wrist.acc_g.x,wrist.acc_g.x\n0,1,1\n", "distinct names"),
        ("time_s,wrist.acc_g.x,wrist.acc_mg.x\n0,1,1\n1,1,1\n", "two columns for wrist.acc_x"),
        ("", "at least one line"),
        ("time_s,wrist.acc_g.x\n0,1\n1,1\n2,1\n3,1\n1e300,1\n", "times span more than"),
        ("time_s,wrist.acc_g.x\n" + "".join(f"{i},1\n{i + 0.001},1\n" for i in range(9)), "9 of 17 steps"),
        ("time_s,wrist.acc_g.x\n" + "".join(f"{i},1\n" for i in range(9)) + "8.4,1\n8.8,1\n9.2,1\n", "that is taken"),
    ],
)
def test_what_a_csv_does_not_say_or_says_wrongly_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=says):
        load_csv(csv(tmp_path / "a.csv", text))


def worn(path: Path, *, acc: float, acc_unit: str, gyr: float = 1.0, gyr_unit: str = "rad_s", n: int = 150) -> Path:
    """Write a sensor that turns about, as numbers in some unit under the heading of another."""
    rng = np.random.default_rng(0)
    a, g = acc * (np.array([0, 0, 1]) + 0.1 * rng.normal(size=(n, 3))), gyr * rng.normal(size=(n, 3))
    heading = [f"wrist.{q}_{u}.{c}" for q, u in (("acc", acc_unit), ("gyr", gyr_unit)) for c in "xyz"]
    lines = [",".join(map(str, [i / 50, *a[i], *g[i]])) for i in range(n)]
    return csv(path, "\n".join([",".join(["time_s", *heading]), *lines]))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"acc": 1.0, "acc_unit": "m_s2"}, "is it in g.* gravity taken off"),
        ({"acc": 9.8, "acc_unit": "g"}, "acceleration is 9.* where gravity alone is 9.8: is it in m_s2"),
        ({"acc": 1000, "acc_unit": "m_s2"}, "is it in mg"),
        ({"acc": 16384, "acc_unit": "g"}, "raw counts need a scale"),
        ({"acc": 1.0, "acc_unit": "g", "gyr": 60, "gyr_unit": "rad_s"}, "no sensor measures: is it in deg_s"),
    ],
)
def test_a_unit_that_cannot_be_the_right_one_is_refused(told: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=f"wrist: as .*{says}"):
        load_csv(worn(tmp_path / "a.csv", **told))


@pytest.mark.parametrize(
    "told",
    [
        {"acc": 9.8, "acc_unit": "m_s2"},
        {"acc": 1.5, "acc_unit": "g", "gyr": 600, "gyr_unit": "deg_s"},  # running
        {"acc": 0.3, "acc_unit": "m_s2"},  # without gravity: told by no unit
        {"acc": 1.0, "acc_unit": "m_s2", "n": 99},  # too little to tell
    ],
)
def test_a_unit_that_may_be_the_right_one_is_believed(told: dict[str, Any], tmp_path: Path) -> None:
    assert load_csv(worn(tmp_path / "a.csv", **told)).valid.all()


def test_a_mapping_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "AccX,t\n1,0\n")
    column = {"to": "wrist.acc_x", "unit": "g"}
    with pytest.raises(SignalError, match="did you mean 'AccX'"):
        load_csv(path, mapping=CsvConfig.model_validate({"columns": {"Accx": column}, "rate_hz": 5}))
    with pytest.raises(SignalError, match="no column 'u'"):
        time = {"column": "u", "unit": "s"}
        load_csv(path, mapping=CsvConfig.model_validate({"columns": {"AccX": column}, "time": time}))
    with pytest.raises(SignalError, match="unknown channel"):
        wrong = {"to": "wrist.acc_w", "unit": "g"}
        load_csv(path, mapping=CsvConfig.model_validate({"columns": {"AccX": wrong}, "rate_hz": 5}))
    (tmp_path / "m.toml").write_text("colums = 1")
    with pytest.raises(ConfigError, match="did you mean 'columns'"):
        load_csv(path, mapping=tmp_path / "m.toml")
    with pytest.raises(SignalError, match="cannot be read"):
        load_csv(tmp_path / "none.csv")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_recording_or_one_of_our_errors(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    for content in (data, b"time_s,wrist.acc_g.x,label\n" + data, b"time_s,wrist.acc_g.x\n0,1\n" + data):
        path.write_bytes(content)
        try:
            recording = load_csv(path)
        except KinedgeError:
            continue
        assert np.isfinite(recording.values).all() and len(recording)


def chunk(sensor: str, start: int, n: int, *, interval_ns: int, host_ns: int | None, lag_ns: int = 0) -> ImuChunk:
    k = np.arange(start, start + n, dtype=np.int64)
    values = np.repeat((k * interval_ns / 1e9)[:, None], 6, axis=1).astype(np.float32)  # every channel is device time
    ones = np.ones(values.shape, bool)
    host = None if host_ns is None else host_ns + int(k[-1]) * interval_ns + lag_ns
    return ImuChunk(sensor, k * interval_ns, values, ones, ~ones, interval_ns, host_time_ns=host)


def recorded(folder: Path, *, arrival: bool, gap: bool = True) -> Path:
    pytest.importorskip("pyarrow")
    with SessionWriter(folder, facts={"subject": "p07"}, segment_s=1.0, clock=lambda: 0) as writer:
        writer.describe(SensorSpec("wrist_left"))
        writer.describe(SensorSpec("wrist_right"))
        for i in range(40):
            if not (gap and 20 <= i < 24):
                host = 5_000_000_000 if arrival else None
                writer.write(chunk("wrist_left", 10 * i, 10, interval_ns=10_000_000, host_ns=host))
            host = 5_000_000_000 if arrival else None
            writer.write(chunk("wrist_right", 5 * i, 5, interval_ns=20_000_000, host_ns=host))
            if i % 10 == 9:
                writer.flush()
    return folder


@pytest.mark.parametrize("arrival", [True, False])
def test_a_recorded_session_comes_onto_one_grid_with_its_gap(tmp_path: Path, arrival: bool) -> None:
    recording = load_session(recorded(tmp_path / "s", arrival=arrival))
    assert recording.subject == "p07" and recording.session == "s"
    assert recording.rate_hz == pytest.approx(50.0)
    assert [s.name for s in recording.sensors] == ["wrist_left", "wrist_right"]
    assert ("clock" in recording.notes) == (not arrival)
    here = recording.valid[:, 0]
    assert recording.valid[1:, 6].all()
    assert 19 <= (~here[5:-5]).sum() <= 22  # 0.4 s at 50 Hz
    both = here & recording.valid[:, 6]
    # both sensors tell their own time: on one grid they agree (the faster one is averaged over two samples)
    np.testing.assert_allclose(recording.values[both, 0], recording.values[both, 6], atol=0.0051)
    ticks = np.arange(len(recording))[both] / 50
    np.testing.assert_allclose(np.diff(recording.values[both, 6]), np.diff(ticks), atol=1e-3)


def test_a_session_can_be_loaded_in_part_and_at_another_rate(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "s", arrival=True, gap=False)
    recording = load_session(folder, sensors=("wrist_left",), rate_hz=25.0)
    assert recording.rate_hz == 25.0 and len(recording.sensors) == 1
    assert 98 <= len(recording) <= 101
    assert load_session(folder, sensors=("wrist_left",)).rate_hz == pytest.approx(100.0)
    with pytest.raises(SignalError, match="no sensor nose; here are wrist_left, wrist_right"):
        load_session(folder, sensors=("nose",))


def test_a_damaged_segment_is_a_gap_and_noted(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "s", arrival=True, gap=False)
    whole = load_session(folder)
    segments = sorted(folder.glob("segment-*"))
    assert len(segments) == 4
    segments[1].write_bytes(b"damaged")
    part = load_session(folder)
    assert part.notes["damage"] == "1 files not read"
    assert len(part) == len(whole)
    assert part.valid.mean() == pytest.approx(0.75, abs=0.03)
    for segment in segments:
        segment.write_bytes(b"damaged")
    with pytest.raises(KinedgeError):
        load_session(folder)


def people(subjects: list[str]) -> list[Recording]:
    sensor = (SensorSpec("a", ("acc_x",)),)
    return [
        Recording(sensor, 10.0, np.zeros((3, 1), np.float32), np.ones((3, 1), bool), subject=s, session=f"{s}-{i}")
        for i, s in enumerate(subjects)
    ]


def test_each_subject_is_left_out_once_with_all_its_recordings() -> None:
    recordings = people(["S10", "S2", "S2", "S1"])
    splits = list(leave_one_subject_out(recordings))
    assert [s.test_subjects for s in splits] == [("S1",), ("S2",), ("S10",)]
    assert [len(s.test) for s in splits] == [1, 2, 1]
    assert all(len(s.train) + len(s.test) == 4 for s in splits)


@settings(max_examples=50, deadline=None)
@given(
    owners=st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=30), k=st.integers(2, 7), seed=st.integers(0, 9)
)
def test_folds_never_share_a_subject_and_test_everybody_once(owners: list[str], k: int, seed: int) -> None:
    recordings = people(owners)
    if k > len(set(owners)):
        with pytest.raises(SignalError, match="k must lie between 2 and"):
            list(k_fold(recordings, k, seed=seed))
        return
    splits = list(k_fold(recordings, k, seed=seed))
    assert sorted(s for split in splits for s in split.test_subjects) == sorted(set(owners))
    for split in splits:
        assert not {r.subject for r in split.train} & {r.subject for r in split.test}
        assert len(split.train) + len(split.test) == len(recordings)
    sizes = [len(s.test_subjects) for s in splits]
    assert max(sizes) - min(sizes) <= 1


def test_any_other_split_is_impossible() -> None:
    one, two = people(["a", "b"])
    with pytest.raises(SignalError, match="subject a is on both sides"):
        Split((one,), (two, replace(one, session="another")))
    with pytest.raises(SignalError, match="on both sides"):
        Split((one,), ())
    with pytest.raises(SignalError, match="whose recording"):
        subjects_of([replace(one, subject="unknown")])
    with pytest.raises(SignalError, match="whose recording"):
        Split((one,), (replace(two, subject=""),))
    with pytest.raises(SignalError, match="at least two"):
        list(leave_one_subject_out([one]))
