"""Data sets as their owners publish them: made up here in the owners' layouts, as a folder and as a zip."""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinedge.errors import SignalError
from kinedge.training.datasets import (
    DATASETS,
    SERIES,
    Cause,
    load_arm_use,
    load_daphnet,
    load_dataset,
    load_fog_stanford,
    load_gait_healthy,
    load_rehab_exercises,
    load_smd,
    load_soccer,
    load_tsb_ad_m,
)
from kinedge.training.datasets.sheet import read_sheet
from kinedge.units import STANDARD_GRAVITY_M_S2

Files = dict[str, bytes]
SMD = "OmniAnomaly-master/ServerMachineDataset"


def rows(table: np.ndarray, delimiter: str) -> bytes:
    return "\n".join(delimiter.join(f"{x:g}" for x in row) for row in table).encode() + b"\n"


def sheet(heading: list[str], table: np.ndarray, *, shared: bool = True) -> bytes:
    """Return an .xlsx as a spreadsheet program writes it: shared strings, references, empty cells left out."""

    def letters(i: int) -> str:
        return (letters(i // 26 - 1) if i >= 26 else "") + chr(65 + i % 26)

    cells = [
        "".join(
            f'<c r="{letters(i)}1" t="s"><v>{i}</v></c>'
            if shared
            else f'<c r="{letters(i)}1" t="inlineStr"><is><t>{name}</t></is></c>'
            for i, name in enumerate(heading)
        )
    ]
    for r, row in enumerate(table):
        cells.append(
            "".join(f'<c r="{letters(i)}{r + 2}"><v>{x!r}</v></c>' for i, x in enumerate(row.tolist()) if x == x)
        )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    body = "".join(f'<row r="{i + 1}">{row}</row>' for i, row in enumerate(cells))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{body}</sheetData></worksheet>")
        strings = "".join(f"<si><t>{name}</t></si>" for name in heading)
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{strings}</sst>")
    return buffer.getvalue()


def daphnet() -> Files:
    table = np.zeros((6, 11))
    table[:, 0] = 15 * np.arange(6)
    table[:, 1:4] = [100, 1000, -50]
    table[2:, 4:7] = [0, 1000, 0]
    table[:, 10] = [0, 0, 1, 1, 2, 1]
    return {
        "dataset_fog_release/README": b"hello",
        "dataset_fog_release/dataset/S07R01.txt": rows(table, " "),
        "dataset_fog_release/dataset/S08R02.txt": rows(table, " "),
    }


def gait() -> Files:
    heading = (
        b"Acquisition frequency: 100 Hz\nPacketCounter\tAcc_X\tAcc_Y\tAcc_Z\tGyr_X\tGyr_Y\tGyr_Z\tMag_X\tMag_Y\tMag_Z\n"
    )
    files = {"ipol_dataset_1-main/GaitData/4-2.json": json.dumps({"TrialBoundaries": [2, 6]}).encode()}
    for short, counter in (("lb", [0, 1, 2, 3]), ("lf", [0, 1, 4]), ("rf", [0, 5])):
        table = np.zeros((len(counter), 10))
        table[:, 0] = counter
        table[:, 1:7] = np.arange(len(counter))[:, None] + np.arange(6) / 10
        files[f"ipol_dataset_1-main/GaitData/4-2_{short}.txt"] = heading + rows(table, "\t")
    return files


def fog() -> Files:
    def walk(imus: list[str], copied: bool) -> bytes:
        rng = np.random.default_rng(1)
        signals = rng.normal(0, 1, (20, 6 * len(imus))).round(4)
        signals[3, 0] = np.nan
        if copied:
            signals[:, -6:] = signals[:, :6]
        label = np.zeros((20, 1))
        label[5:8] = 1
        heading = [
            "subject_ID",
            "time",
            *(f"{imu}_{a}" for imu in imus for a in ("ax", "ay", "az", "gx", "gy", "gz")),
            "freeze_label",
        ]
        return sheet(heading, np.hstack([np.full((20, 1), 7), np.arange(20)[:, None] / 128, signals, label]))

    base = "imu-fog-detection-main/data/raw"
    return {
        f"{base}/imus6_subjects7/pt7_visit_1_tbc_walklr_0_trial_2.xlsx": walk(["imu_lumbar", "imu_ankle_l"], False),
        f"{base}/imus11_subjects4/pt7_visit_1_tbc_walklr_0_trial_2.xlsx": walk(
            ["imu_lumbar", "imu_ankle_l", "imu_wrist_r"], True
        ),
        f"{base}/imus6_subjects7/pt9_visit_1_tbc_walklr_0_trial_1.xlsx": walk(["imu_lumbar", "imu_ankle_l"], True),
        f"{base}/../imus6_subjects7_configs.xlsx": b"never opened",
    }


def rehab() -> Files:
    heading = b"time index;acc_x;acc_y;acc_z;gyr_x;gyr_y;gyr_z;mag_x;mag_y;mag_z\n"
    files = {"s1/e2/template_times.txt": b"execution type;start;end\n1;2;5\n2;7.5;9.25\n3;11;99\n"}
    for unit in range(1, 6):
        for part, n in (("template_session", 12), ("test", 8)):
            n -= unit == 5 and part == "test"
            table = np.arange(1, n + 1)[:, None] + np.arange(10) / 100 + 100 * unit
            table[:, 0] = np.arange(1, n + 1)
            files[f"s1/e2/u{unit}/{part}.txt"] = heading + rows(table, ";")
    return files


def soccer() -> Files:
    table = np.random.default_rng(0).normal(0, 1, (30, 21 * 16)).round(4)
    table[10] = table[9]
    # one sensor that repeats itself while the others move is a measurement
    table[20, 26:32] = table[19, 26:32]
    return {f"Expert-NoviceSoccerDataset-master/MotionData/Player3/S{i:02}.txt": rows(table, ",") for i in (5, 36)}


def smd() -> Files:
    table = np.arange(40.0).reshape(10, 4)
    label = np.zeros((10, 1))
    label[4:6] = 1
    return {
        f"{SMD}/train/machine-1-1.txt": rows(table, ","),
        f"{SMD}/test/machine-1-1.txt": rows(table + 100, ","),
        f"{SMD}/test_label/machine-1-1.txt": rows(label, ","),
        f"{SMD}/interpretation_label/machine-1-1.txt": b"4-6:1,4\n",
        f"{SMD}/interpretation_label/other.txt": b"never read",
    }


def tsb() -> Files:
    text = b"x1,x2,Label\n" + rows(np.column_stack([np.arange(8.0), -np.arange(8.0), [0, 0, 0, 1, 1, 0, 1, 0]]), ",")
    return {f"TSB-AD-M/00{i}_SMD_id_1_Facility_tr_3_1st_3.csv": text for i in (1, 2)}


@pytest.fixture(params=["folder", "zip"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """Put files into a folder or a zip."""

    def make(files: Files) -> Path:
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
                for name, data in files.items():
                    packed.writestr(name, data)
            return tmp_path / "a.zip"
        for name, data in files.items():
            path = tmp_path / "a" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "a"

    return make


def test_daphnet_as_its_owner_publishes_it(put: Callable[[Files], Path]) -> None:
    first, second = load_daphnet(put(daphnet()), sensors=("ankle", "thigh"))
    assert (first.subject, first.session, second.subject, first.rate_hz) == ("S07", "S07R01", "S08", 64.0)
    np.testing.assert_allclose(first.values[0, :3], np.array([0.1, 1, -0.05]) * STANDARD_GRAVITY_M_S2, rtol=1e-6)
    assert first.valid[:, 3].tolist() == [False, False, True, True, True, True]
    assert [(r.start, r.end, r.label) for r in first.labels] == [(0, 2, "outside"), (4, 5, "freeze")]


def test_a_zip_inside_a_zip_is_read_as_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as packed:
        for name, data in daphnet().items():
            packed.writestr(name, data)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as packed:
        packed.write(tmp_path / "inner.zip", "dataset_fog_release.zip")
    assert len(load_daphnet(tmp_path / "outer.zip")) == 2


def test_gait_as_its_owner_publishes_it_keeps_its_loss(put: Callable[[Files], Path]) -> None:
    (walk,) = load_gait_healthy(put(gait()))
    assert (walk.subject, walk.session, len(walk)) == ("4", "4-2", 6)
    assert [np.flatnonzero(v).tolist() for v in walk.valid[:, [0, 6, 12]].T] == [[0, 1, 2, 3], [0, 1, 4], [0, 5]]
    np.testing.assert_allclose(walk.values[4, 6:12], 2 + np.arange(6) / 10, rtol=1e-6)
    assert [(r.start, r.end, r.label) for r in walk.labels] == [(2, 6, "walk")]


def test_fog_walks_as_their_owner_publishes_them(put: Callable[[Files], Path]) -> None:
    seven, nine = load_fog_stanford(put(fog()))
    assert [s.name for s in seven.sensors] == ["lumbar", "ankle_left", "wrist_right"]  # the fuller of two copies
    assert (seven.subject, nine.subject, seven.rate_hz) == ("pt7", "pt9", 128.0)
    assert [(r.start, r.end, r.label) for r in seven.labels] == [(5, 8, "freeze")]
    assert np.argwhere(~seven.valid).tolist() == [[3, 0], [3, 12]]
    assert seven.notes == {"duplicate_imus": "wrist_right=lumbar"}
    assert nine.notes == {"duplicate_imus": "ankle_left=lumbar"}


def test_exercises_as_their_owner_publishes_them(put: Callable[[Files], Path]) -> None:
    template, test = load_rehab_exercises(put(rehab()), sensors=("unit_2", "unit_5"))
    assert (template.subject, template.session, test.session) == ("s1", "s1-e2-template", "s1-e2-test")
    np.testing.assert_allclose(template.values[3, 6:], 504 + np.arange(1, 7) / 100, rtol=1e-6)
    # times count from 1 and both ends belong: 2 to 5 are samples 1 to 4; from 7.5 to 9.25 lie 8 and 9, samples 7 and 8
    assert [(r.start, r.end, r.label) for r in template.labels] == [
        (1, 5, "exercise:right"),
        (7, 9, "exercise:fast"),
        (10, 12, "exercise:small"),
    ]
    assert test.labels == () and len(test) == 8
    assert test.valid[:, 0].all() and not test.valid[7, 6]


def test_repetitions_labelled_by_others_are_taken_and_told_apart(put: Callable[[Files], Path]) -> None:
    times = b'"rep.number","execution.type","start","end"\n1,1,1,3\n2,3,5,7\n'
    _, test = load_rehab_exercises(put({**rehab(), "s1/e2/test_times.csv": times}))
    assert [(r.start, r.end, r.label) for r in test.labels] == [(0, 3, "exercise:right"), (4, 7, "exercise:small")]
    assert test.notes == {"labels": "test_times.csv, not the owner's"}


def test_soccer_as_its_owner_publishes_it_masks_repeated_frames_only(put: Callable[[Files], Path]) -> None:
    first, last = load_soccer(put(soccer()), sensors=("chest", "thigh_right"))
    table = np.loadtxt(next(iter(soccer().values())).decode().splitlines(), delimiter=",")
    np.testing.assert_allclose(
        first.values[0, :3], -STANDARD_GRAVITY_M_S2 * table[0, 17 * 16 + 10 : 17 * 16 + 13], rtol=1e-5
    )
    np.testing.assert_allclose(first.values[0, 9:], table[0, 16 + 13 : 16 + 16], rtol=1e-5)
    assert np.flatnonzero(~first.valid.all(axis=1)).tolist() == [10]
    assert not first.valid[10].any()
    assert first.notes == {"repeated_frames": "1"}
    assert (first.subject, first.labels[0].label, last.labels[0].label) == (
        "Player3",
        "action:free_kick",
        "action:juggling",
    )


def test_server_metrics_as_their_owner_publishes_them(put: Callable[[Files], Path]) -> None:
    (machine,) = load_smd(put(smd()), names=["machine-1-1"])
    assert (machine.name, machine.values.shape, machine.train_end) == ("machine-1-1", (20, 4), 10)
    assert machine.values[10, 0] == 100
    assert np.flatnonzero(machine.anomalous).tolist() == [14, 15]
    assert machine.causes == (Cause(14, 16, (0, 3)),)


def test_whether_the_last_row_of_a_cause_belongs_to_it_is_read_from_the_labels(put: Callable[[Files], Path]) -> None:
    files = smd()
    files[f"{SMD}/interpretation_label/machine-1-1.txt"] = b"4-5:1,4\n"
    (machine,) = load_smd(put(files))
    assert machine.causes == (Cause(14, 16, (0, 3)),)


def test_tsb_ad_as_its_owner_publishes_it(put: Callable[[Files], Path]) -> None:
    path = put(tsb())
    assert [s.name[:3] for s in load_tsb_ad_m(path)] == ["001", "002"]
    (series,) = load_tsb_ad_m(path, names=["002_SMD_id_1_Facility_tr_3_1st_3"])
    assert series.train_end == 3 and series.values.shape == (8, 2) and series.values[2, 1] == -2
    assert [(r.start, r.end, r.label) for r in series.labels] == [(3, 5, "anomaly"), (6, 7, "anomaly")]
    if path.is_dir():
        (alone,) = load_tsb_ad_m(path / "TSB-AD-M" / "001_SMD_id_1_Facility_tr_3_1st_3.csv")
        np.testing.assert_array_equal(alone.values, series.values)


def test_arm_use_keeps_persons_sides_tasks_and_labels(tmp_path: Path) -> None:
    names = "ax_mean,ax_var,ay_mean,ay_var,az_mean,az_var,a2_mean,a2_var,a2_min,a2_max,entropy"
    text = f"time,{names},subject,task,t_inst,t_maj,t_mid\n"
    for i, (who, task, use) in enumerate([(2, " ", 0), (2, "DrinkCup", 1), (2, "DrinkCup", 0), (1, "DrinkCup", 1)]):
        text += f"2020-03-11 12:18:34.{100 + 240 * i}," + ",".join(["0.5"] * 11) + f",{who},{task},0,{use}.0,0\n"
    with lzma.open(tmp_path / "patient_left_4hz.csv.xz", "wt") as file:
        file.write(text)
    own = tmp_path / "control" / "features"
    own.mkdir(parents=True)
    (own / "right_4hz.csv").write_text(text)
    people = load_arm_use(tmp_path)
    assert [(p.subject, p.side, len(p.use)) for p in people] == [
        ("control1", "right", 1),
        ("control2", "right", 3),
        ("patient1", "left", 1),
        ("patient2", "left", 3),
    ]
    person = people[3]
    assert person.use.tolist() == [False, True, False]
    assert [(r.start, r.end, r.label) for r in person.tasks] == [(1, 3, "DrinkCup")]
    np.testing.assert_allclose(person.time_s, [0, 0.24, 0.48])
    assert person.values.shape == (3, 11)
    (own / "right_4hz.csv").write_text(text.replace("0.5", "half"))
    with pytest.raises(SignalError, match="no row of numbers"):
        load_arm_use(tmp_path)
    with pytest.raises(SignalError, match="right data set"):
        load_arm_use(own)


@pytest.mark.parametrize(
    ("files", "name", "new", "says"),
    [
        (daphnet, "dataset_fog_release/dataset/S07R01.txt", b"1 2 3\n", "3 columns instead of 11"),
        (daphnet, "dataset_fog_release/dataset/S07R01.txt", b"a b\n", "no table of numbers"),
        (daphnet, "dataset_fog_release/dataset/S07R01.txt", b"\n", "no line of numbers"),
        (daphnet, "dataset_fog_release/dataset/S07R01.txt", b"\xff\xfe", "no UTF-8"),
        (gait, "ipol_dataset_1-main/GaitData/4-2.json", b"[" * 99_999, "no JSON"),
        (gait, "ipol_dataset_1-main/GaitData/4-2_lf.txt", None, "complete"),
        (rehab, "s1/e2/template_times.txt", b"execution type;start;end\n9;2;5\n", "no line of execution type"),
        (rehab, "s1/e2/template_times.txt", b"execution type;start;end\n1;5;2\n", "no line of execution type"),
        (rehab, "s1/e2/template_times.txt", b"execution type;start;end\n1;nan;inf\n", "no line of execution type"),
        (rehab, "s1/e2/template_times.txt", None, "complete"),
        (rehab, "s1/e2/u4/test.txt", None, "complete"),
        (smd, f"{SMD}/interpretation_label/machine-1-1.txt", b"4-6:5", "columns 1 to 4"),
        (smd, f"{SMD}/interpretation_label/machine-1-1.txt", b"9-99:1", "does not lie"),
        (smd, f"{SMD}/test_label/machine-1-1.txt", b"1\n", "do not fit"),
        (tsb, "TSB-AD-M/001_SMD_id_1_Facility_tr_3_1st_3.csv", b"a,b\n1,2\n", "not 'Label'"),
        (tsb, "TSB-AD-M/001_SMD_id_1_Facility_tr_3_1st_3.csv", b"a,Label\nnan,0\n1,1\n2,1\n3,1\n", "NaN"),
        (tsb, "TSB-AD-M/001_SMD_id_1_Facility_tr_3_1st_3.csv", b"a,Label\n1,0\n", "training prefix"),
    ],
)  # fmt: skip
def test_damaged_files_are_named_with_what_is_wrong(
    files: Callable[[], Files], name: str, new: bytes | None, says: str, put: Callable[[Files], Path]
) -> None:
    changed = files()
    if new is None:
        del changed[name]
    else:
        changed[name] = new
    loaders = {"daphnet": load_daphnet, "gait": load_gait_healthy, "rehab": load_rehab_exercises, "smd": load_smd}
    loader = loaders.get(files.__name__, load_tsb_ad_m)
    with pytest.raises(SignalError, match=says):
        loader(put(changed))


@pytest.mark.parametrize("name", sorted({*DATASETS, *SERIES}))
def test_an_empty_folder_a_foreign_zip_and_no_zip_are_refused(name: str, tmp_path: Path) -> None:
    loader = {**DATASETS, **SERIES}[name]
    with pytest.raises(SignalError, match="right data set"):
        loader(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("hello.txt", "hi")
    with pytest.raises(SignalError, match="right data set"):
        loader(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(SignalError, match="cannot be read"):
        loader(tmp_path / "a.zip")
    with pytest.raises(SignalError, match="cannot be read"):
        loader(tmp_path / "none.zip")


def test_the_owners_folder_is_found_by_name_where_there_is_no_npz(tmp_path: Path) -> None:
    for name, data in daphnet().items():
        path = tmp_path / "daphnet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert len(load_dataset("daphnet", tmp_path)) == 2


def test_a_sheet_is_read_with_gaps_inline_strings_and_far_columns() -> None:
    heading = [f"c{i}" for i in range(30)]
    table = np.arange(60.0).reshape(2, 30)
    table[0, 28:] = np.nan
    table[1, 3] = np.nan
    for shared in (True, False):
        found, numbers = read_sheet(sheet(heading, table, shared=shared), where="x")
        assert found == heading
        np.testing.assert_array_equal(numbers, table)


@pytest.mark.parametrize(
    ("part", "xml", "says"),
    [
        ("xl/worksheets/sheet1.xml", "<worksheet", "cannot be read as a spreadsheet"),
        ("xl/worksheets/sheet1.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares entities"),
        ("xl/worksheets/sheet1.xml", "<a/>", "no heading and rows"),
        ("xl/worksheets/other.xml", "<a/>", "no sheet"),
        ("xl/worksheets/sheet1.xml", 'ROW<c r="A1" t="s"><v>7</v></c>', "is damaged"),
        ("xl/worksheets/sheet1.xml", 'ROW<c r="A1"><v>one</v></c>', "is damaged"),
        ("xl/worksheets/sheet1.xml", 'ROW<c r="B1"><v>1</v></c><c r="A1"><v>1</v></c>', "out of order"),
        ("xl/worksheets/sheet1.xml", 'ROW<c r="ZZZ1"><v>1</v></c>', "out of order or no reference"),
    ],
)
def test_a_sheet_that_is_none_is_refused(part: str, xml: str, says: str, tmp_path: Path) -> None:
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    if xml.startswith("ROW"):
        xml = f"<worksheet {space}><sheetData><row>{xml[3:]}</row></sheetData></worksheet>"
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as book:
        book.writestr(part, xml)
    with pytest.raises(SignalError, match=says):
        read_sheet((tmp_path / "a.xlsx").read_bytes(), where="x")


def test_the_real_exercises_have_gravity_and_one_of_each_kind(shared_data: Path) -> None:
    sessions = load_rehab_exercises(shared_data / "rehab_exercises.npz", sensors=("unit_1", "unit_4"))
    assert len(sessions) == 64 and {s.subject for s in sessions} == {"s1", "s2", "s3", "s4"}
    for s in sessions:
        if s.session.endswith("template"):
            assert [r.label for r in s.labels] == ["exercise:right", "exercise:fast", "exercise:small"]
        acc = np.linalg.norm(s.values[:, :3], axis=1)
        assert np.median(acc) == pytest.approx(STANDARD_GRAVITY_M_S2, rel=0.05)
    lengths = {
        k: np.mean([r.end - r.start for s in sessions for r in s.labels if r.label == f"exercise:{k}"])
        for k in ("right", "fast")
    }
    assert lengths["fast"] < 0.7 * lengths["right"]


def test_the_real_soccer_repeats_a_fifth_of_its_frames(shared_data: Path) -> None:
    trials = load_soccer(shared_data / "soccer.npz", sensors=("pelvis", "foot_left"))
    assert len(trials) == 214 and len({t.subject for t in trials}) == 6
    assert 0.18 < np.mean([1 - t.valid.mean() for t in trials]) < 0.22
    acc = np.concatenate([np.linalg.norm(t.values[:, :3], axis=1)[t.valid[:, 0]] for t in trials])
    assert np.median(acc) == pytest.approx(STANDARD_GRAVITY_M_S2, rel=0.1)
    pelvis = np.concatenate([t.values[:, 1][t.valid[:, 1]] for t in trials])
    assert np.median(pelvis) > 0.8 * STANDARD_GRAVITY_M_S2  # upright along y


def test_the_causes_of_the_real_series_cover_their_labels(shared_data: Path) -> None:
    for name in ("smd", "asd"):
        for machine in load_smd(shared_data / f"{name}.npz"):
            causes = np.zeros(len(machine), bool)
            for cause in machine.causes:
                causes[cause.start : cause.end] = True
            assert (causes == machine.anomalous).mean() > 0.999, machine.name
    series = load_tsb_ad_m(shared_data / "tsb_ad_m.npz")
    assert len(series) == 30
    for s in series:
        assert s.labels and s.train_end == int(s.name.split("_tr_")[1].split("_")[0])


def test_real_arm_use_is_more_on_the_unaffected_side(shared_data: Path) -> None:
    people = load_arm_use(shared_data / "arm_use")
    assert len(people) == 22
    share = {(p.subject, p.side): p.use.mean() for p in people}
    patients = {p.subject for p in people if p.group == "patient"}
    assert len(patients) == 3
    assert np.mean([share[s, "right"] - share[s, "left"] for s in patients]) > 0.1
