"""Models that real people are watched with: made without them, kept, and made anew when the data are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinedge.benchmarks import left_out
from kinedge.benchmarks.alarms_real import bench_alarms_real
from kinedge.benchmarks.left_out import RECIPES, Recipe, grouped, models_left_out, models_proven
from kinedge.benchmarks.parity import bench_parity
from kinedge.bundle import read_bundle
from kinedge.cli import main
from kinedge.errors import ConfigError, SignalError
from kinedge.quantize.build import BuildConfig
from kinedge.training.settings import FitConfig

PEOPLE = ("S01", "S02", "S03", "S10")
RATE_HZ = 64


def walk(seed: int, *, seconds: float = 30.0) -> np.ndarray:
    """Return a recording as Daphnet's owner has it (n, 11): three swinging limbs under gravity, mg, no freeze."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pace = 0.9 + 0.03 * rng.standard_normal() + 0.01 * np.cumsum(rng.standard_normal(len(t))) / len(t) ** 0.5
    phase = 2 * np.pi * np.cumsum(pace) / RATE_HZ
    table = np.zeros((len(t), 11), np.int32)
    table[:, 0], table[:, 10] = t * 1000, 1
    for limb in range(3):
        for axis in range(3):
            wave = 300 * np.sin(phase + limb + 2 * axis) + 90 * np.sin(2 * phase + axis)
            table[:, 1 + 3 * limb + axis] = wave + 40 * rng.standard_normal(len(t)) + (1000 if axis == 1 else 0)
    return table


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("people") / "d.npz"
    np.savez(path, **{f"{name}R01": walk(seed) for seed, name in enumerate(PEOPLE)})
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a recipe in place that takes seconds: the linear baseline."""
    fit = FitConfig(max_epochs=0, dilations=(1, 2), width=4)
    build = BuildConfig(name="small", rate_hz=RATE_HZ, hop_s=2.0, split="cross", fit=fit)
    monkeypatch.setattr(left_out, "RECIPES", {"small": Recipe("daphnet", build, 2)})
    return "small"


def test_everybody_is_left_out_once_and_groups_are_as_even_as_they_can_be() -> None:
    for n_people in range(1, 15):
        names = [str(i) for i in range(n_people)]
        for n_models in range(6):
            groups = grouped(names, n_models)
            assert sorted(sum(groups, ()), key=int) == names
            assert max(map(len, groups)) - min(map(len, groups)) <= 1
            assert len(groups) == (min(n_models, n_people) or n_people)


def test_people_are_watched_by_a_model_that_never_saw_them_and_it_is_made_once(
    people: Path, small: str, tmp_path: Path
) -> None:
    said: list[str] = []
    models = models_left_out(small, people, tmp_path, progress=said.append, limit=1)
    assert list(models) == ["S01", "S03"] and len(set(models.values())) == 1
    bundle = read_bundle(models["S01"])
    assert models["S01"].stem == "without-S01-S03" and bundle.manifest.training["subjects"] == 2
    assert any("model 1 of 1" in s for s in said) and not list(tmp_path.rglob("*.checkpoints"))
    said.clear()
    assert models_left_out(small, people, tmp_path, progress=said.append, limit=1) == models and not said

    # a model too small to promise anything is not watched with
    with pytest.raises(SignalError, match="only 16 s can be used"):
        bench_alarms_real(people, {"S01": models["S01"]}, name="daphnet")
    with pytest.raises(SignalError, match="nothing of S77, whom without-S01-S03"):
        bench_alarms_real(people, {"S77": models["S01"]}, name="daphnet")

    # other data have models of their own
    np.savez(tmp_path / "other.npz", **{f"{name}R01": walk(seed + 50) for seed, name in enumerate(PEOPLE)})
    assert not models_left_out(small, tmp_path / "other.npz", tmp_path, limit=0)
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2


def test_proofs_are_made_once_and_every_form_of_the_model_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = tmp_path / "d.npz"
    np.savez(people, **{f"{name}R01": walk(seed, seconds=40.0) for seed, name in enumerate(PEOPLE)})
    fit = FitConfig(max_epochs=1, steps_per_epoch=20, dilations=(1, 2), width=8)
    build = BuildConfig(name="small", rate_hz=RATE_HZ, hop_s=2.0, shares=(0.25, 0.25, 0.25), fit=fit)
    monkeypatch.setattr(left_out, "PROVEN", {"daphnet": build})
    said: list[str] = []
    models = models_proven({"daphnet": people}, tmp_path, seeds=1, progress=said.append)
    assert "daphnet, seed 0: proving ONNX int8" in said
    said.clear()
    assert models_proven({"daphnet": people}, tmp_path, seeds=1, progress=said.append) == models and not said
    rows = {row["what"]: row["status"] for row in bench_parity(models)["rows"]}
    ran = ("torch fp32", "ONNX fp32 whole", "ONNX fp32 streaming", "ONNX fp16", "ONNX int8")
    assert all(rows[f"small: {form}"] == "ran" for form in ran)
    assert rows["small: TensorRT int8"] == "not run"


def test_what_cannot_be_made_is_said(people: Path, small: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe for 'nothing'; there are small"):
        models_left_out("nothing", people, tmp_path)
    np.savez(tmp_path / "two.npz", S01R01=walk(0), S02R01=walk(1))
    with pytest.raises(SignalError, match="fewer than two people are left without S01"):
        models_left_out(small, tmp_path / "two.npz", tmp_path)


def test_the_recipe_for_freezing_is_that_of_the_example() -> None:
    from kinedge.cli.training_data import TrainConfig
    from kinedge.config import load_toml

    example = load_toml(Path(__file__).parent.parent / "examples" / "freezing-of-gait.toml", TrainConfig)
    written = BuildConfig.model_validate(example.bundle)
    assert written.model_copy(update={"intended_use": ""}) == RECIPES["freezing"].build.model_copy(
        update={"intended_use": ""}
    )


def test_one_command_names_the_models_and_the_interpreters_of_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("daphnet.npz", "tsb_ad_m.npz"):
        (tmp_path / name).touch()
    arguments = ["bench", "all", "--only", "peers,alarms_daphnet", "--data", str(tmp_path), "--folder", str(tmp_path)]
    assert main([*arguments, "--python", "tsb-ad=apart/bin/python", "--dry-run"]) == 0
    peers, alarms = capsys.readouterr().out.splitlines()
    assert f"bench peers --data {tmp_path}/tsb_ad_m.npz --python=tsb-ad=apart/bin/python (about" in peers
    assert f"bench alarms-real --name daphnet --data {tmp_path}/daphnet.npz (about" in alarms
