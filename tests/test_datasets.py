from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinedge.errors import SignalError
from kinedge.signals import SensorSpec
from kinedge.training.datasets import (
    DATASETS,
    load_daphnet,
    load_dataset,
    load_fog_stanford,
    load_gait_healthy,
    regions_of,
)
from kinedge.units import STANDARD_GRAVITY_M_S2

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real(name: str) -> Path:
    path = DATA / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here; see the data set's page")
    return path


def fog_file(path: Path, *, imus: tuple[str, ...] = ("imu_lumbar", "imu_ankle_l"), n: int = 20) -> Path:
    columns = [f"{imu}_{q}{axis}" for imu in imus for q in "ag" for axis in "xyz"]
    x = np.arange(n * len(columns), dtype=np.float32).reshape(n, len(columns))
    x[3, 0] = np.nan
    fog = np.zeros(n, np.uint8)
    fog[5:8] = 1
    walk = "pt7_visit_1_trial_2"
    meta = {walk: {"fs": 128.0, "columns": columns, "duplicate_imus": [list(imus[::-1])]}}
    np.savez(path, **{"meta": np.array(json.dumps(meta)), f"{walk}/X": x, f"{walk}/fog": fog})
    return path


def test_fog_walks_keep_places_freezes_and_the_note_about_copied_sensors(tmp_path: Path) -> None:
    (walk,) = load_fog_stanford(fog_file(tmp_path / "f.npz"), sensors=("ankle_left", "lumbar"))
    assert walk.sensors == (SensorSpec("ankle_left"), SensorSpec("lumbar"))
    assert (walk.subject, walk.rate_hz) == ("pt7", 128.0)
    assert [(r.start, r.end, r.label) for r in walk.labels] == [(5, 8, "freeze")]
    np.testing.assert_array_equal(walk.values[0], [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5])
    assert walk.notes == {"duplicate_imus": "ankle_left=lumbar"}
    assert not walk.valid[3, 6]
    assert walk.valid.sum() == walk.valid.size - 1


def gait_file(path: Path, counters: list[list[int]]) -> Path:
    members: dict[str, Any] = {}
    for short, counter in zip(("lb", "lf", "rf"), counters, strict=True):
        table = np.zeros((len(counter), 10), np.float32)
        table[:, 0] = counter
        table[:, 1:7] = np.arange(len(counter))[:, None] + np.arange(6) / 10
        members[f"4-2/{short}"] = table
    members["4-2/meta"] = np.array(json.dumps({"TrialBoundaries": [2, 6], "UTurnBoundaries": [3, 400]}))
    np.savez(path, **members)
    return path


def test_lost_packets_become_a_mask_on_the_counters_grid(tmp_path: Path) -> None:
    counters = [[0, 1, 2, 3, 4, 5], [1, 2, 4, 4, 7], [0, 1, 2, 5]]
    (walk,) = load_gait_healthy(gait_file(tmp_path / "g.npz", counters))
    assert len(walk) == 8
    assert [s.name for s in walk.sensors] == ["lower_back", "foot_left", "foot_right"]
    here = walk.valid[:, [0, 6, 12]].T
    assert [np.flatnonzero(h).tolist() for h in here] == [[0, 1, 2, 3, 4, 5], [1, 2, 4, 7], [0, 1, 2, 5]]
    np.testing.assert_allclose(walk.values[4, 6:12], 2 + np.arange(6) / 10)  # the first row of a count seen twice
    np.testing.assert_allclose(walk.values[7, 6:12], 4 + np.arange(6) / 10)
    assert [(r.start, r.end, r.label) for r in walk.labels] == [(2, 6, "walk"), (3, 8, "turn")]
    assert walk.notes == {"dropped_rows": "1"}


def test_a_counter_that_wraps_goes_on_and_one_that_restarts_ends_the_walk(tmp_path: Path) -> None:
    counters = [[*range(65530, 65536), *range(4)], [0, 1, 2, 0, 1], [0]]
    (walk,) = load_gait_healthy(gait_file(tmp_path / "g.npz", counters))
    assert np.flatnonzero(walk.valid[:, 0]).tolist() == list(range(65530, 65540))
    assert np.flatnonzero(walk.valid[:, 6]).tolist() == [0, 1, 2]
    assert walk.notes == {"dropped_rows": "2"}


def test_a_damaged_counter_is_refused_and_makes_no_giant_array(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="counter column is damaged"):
        load_gait_healthy(gait_file(tmp_path / "g.npz", [[0, 10**9], [0], [0]]))
    with pytest.raises(SignalError, match="negative"):
        load_gait_healthy(gait_file(tmp_path / "h.npz", [[-5, 0], [0], [0]]))


def test_daphnet_becomes_si_units_with_its_annotations_and_dead_blocks(tmp_path: Path) -> None:
    table = np.zeros((6, 11), np.int32)
    table[:, 1:4] = [100, 1000, -50]
    table[2:, 4:7] = [0, 1000, 0]  # the thigh connects late; a zero on some axes is a value
    table[:, 10] = [0, 0, 1, 1, 2, 1]
    np.savez(tmp_path / "d.npz", columns=np.array("time_ms,..."), S07R01=table)
    (recording,) = load_daphnet(tmp_path / "d.npz", sensors=("ankle", "thigh"))
    assert recording.subject == "S07"
    assert recording.sensors[0].channels == ("acc_x", "acc_y", "acc_z")
    np.testing.assert_allclose(recording.values[0, :3], np.array([0.1, 1.0, -0.05]) * STANDARD_GRAVITY_M_S2, rtol=1e-6)
    assert recording.valid[:, 3:].all(axis=1).tolist() == [False, False, True, True, True, True]
    assert recording.valid[:, :3].all()
    assert [(r.start, r.end, r.label) for r in recording.labels] == [(0, 2, "outside"), (4, 5, "freeze")]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_missing_and_foreign_files_give_one_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="cannot be read"):
        load_dataset(name, tmp_path)
    path = tmp_path / f"{name}.npz"
    path.write_bytes(b"this is no zip")
    with pytest.raises(SignalError, match="cannot be read"):
        load_dataset(name, tmp_path)
    np.savez(path, something=np.zeros(3))
    with pytest.raises(SignalError, match="is this the right data set"):
        load_dataset(name, tmp_path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(SignalError, match="not an npz"):
        load_dataset(name, tmp_path)
    path.write_bytes(fog_file(tmp_path / "whole.npz").read_bytes()[:700])
    with pytest.raises(SignalError, match="cannot be read"):
        load_dataset(name, tmp_path)


def test_objects_in_a_file_are_refused_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", S01R01=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SignalError, match="cannot be read"):
        load_daphnet(tmp_path / "d.npz")
    np.savez(tmp_path / "f.npz", meta=np.array("[1]"))
    with pytest.raises(SignalError, match="JSON object"):
        load_fog_stanford(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", meta=np.array("{"))
    with pytest.raises(SignalError, match="no JSON"):
        load_fog_stanford(tmp_path / "f.npz")
    meta = json.dumps({"w": {"columns": ["imu_a_ax"]}})
    np.savez(tmp_path / "f.npz", meta=np.array(meta))
    with pytest.raises(SignalError, match="incomplete: a"):
        load_fog_stanford(tmp_path / "f.npz")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="known are fog_stanford"):
        load_dataset("fog", tmp_path)
    with pytest.raises(SignalError, match="asked for nose"):
        load_daphnet(tmp_path / "d.npz", sensors=("nose",))
    with pytest.raises(SignalError, match="no recording with sensors nose"):
        load_fog_stanford(fog_file(tmp_path / "f.npz"), sensors=("nose",))


def test_regions_are_the_stretches_of_a_mask() -> None:
    mask = np.array([1, 1, 0, 0, 1, 0, 1], dtype=bool)
    assert [(r.start, r.end) for r in regions_of(mask, "a")] == [(0, 2), (4, 5), (6, 7)]
    assert regions_of(np.zeros(4, dtype=bool), "a") == ()


def test_the_real_fog_walks_have_freezes_gravity_and_a_copied_sensor() -> None:
    walks = load_fog_stanford(real("fog_stanford"))
    assert {w.subject for w in walks} == {"pt3", "pt5", "pt6"}
    assert sum(bool(w.labels) for w in walks) >= 8
    copied = next(w for w in walks if w.notes)
    assert copied.notes["duplicate_imus"] == "foot_left=ankle_left"
    np.testing.assert_array_equal(
        copied.values[:, copied.columns("foot_left")], copied.values[:, copied.columns("ankle_left")]
    )
    for w in walks:
        acc = np.linalg.norm(w.values[:, w.columns("lumbar")][:, :3], axis=1)
        assert np.median(acc) == pytest.approx(STANDARD_GRAVITY_M_S2, rel=0.05)
    with_wrists = load_fog_stanford(real("fog_stanford"), sensors=("wrist_left", "wrist_right"))
    assert 0 < len(with_wrists) < len(walks)


def test_the_real_healthy_walks_have_real_loss_and_steps_in_the_trial() -> None:
    walks = load_gait_healthy(real("gait_healthy"))
    assert len({w.subject for w in walks}) == 14
    losses = [1 - w.valid[:, w.columns(s.name)].mean() for w in walks for s in w.sensors]
    assert 0.02 < np.mean(losses) < 0.06
    assert max(losses) > 0.18
    for w in walks[:20]:
        gyr = np.linalg.norm(w.values[:, w.columns("foot_left")][:, 3:], axis=1) * w.valid[:, 6]
        walking = w.label_mask("walk")
        assert gyr[walking].mean() > 5 * gyr[~walking].mean()


def test_the_real_daphnet_is_upright_along_y_and_mostly_outside_or_walking() -> None:
    recordings = load_daphnet(real("daphnet"))
    assert {r.subject for r in recordings} == {"S01", "S02", "S03"}
    for r in recordings:
        used = ~r.label_mask("outside") & r.valid[:, r.columns("trunk")].all(axis=1)
        trunk = r.values[used][:, r.columns("trunk")]
        assert np.median(np.linalg.norm(trunk, axis=1)) == pytest.approx(STANDARD_GRAVITY_M_S2, rel=0.1)
        assert np.median(trunk[:, 1]) > 0.8 * STANDARD_GRAVITY_M_S2
    assert any(r.label == "freeze" for recording in recordings for r in recording.labels)
