"""Recordings to a bundle, and a real walk through the whole chain."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import httpx
import pytest

from kinedge.bundle import read_bundle, write_bundle
from kinedge.cli.replay_dataset import play
from kinedge.cli.session import running_collector
from kinedge.cli.training_data import DataConfig, RecordingsConfig, SimulatedConfig
from kinedge.config import Config
from kinedge.edge.offline import verdicts_of
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.errors import ConfigError, SignalError
from kinedge.firmware_bridge.emulator import Faults
from kinedge.quantize.build import BuildConfig, Built, build_bundle, split_subjects
from kinedge.recording import Recording
from kinedge.training.anomalies import inject
from kinedge.training.datasets import load_fog_stanford
from kinedge.training.fit import FitConfig
from kinedge.training.settings import AUGMENT_OPTIONS
from kinedge.training.simulate import SimulationConfig, simulate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

QUICK = FitConfig(
    max_epochs=2, steps_per_epoch=15, window=192, batch=8, width=8, dilations=(1, 4, 16), learning_rate=3e-3
)


@pytest.fixture(scope="module")
def people() -> list[Recording]:
    return [simulate(SimulationConfig(subject_seed=s, duration_s=70)) for s in range(6)]


@pytest.fixture(scope="module")
def built(people: list[Recording]) -> Built:
    return build_bundle(people, BuildConfig(name="tiny", fit=QUICK), command="kinedge train tiny.toml")


def test_the_linear_baseline_has_not_learned_to_be_without_a_channel(people: list[Recording]) -> None:
    config = BuildConfig(name="line", fit=QUICK.model_copy(update={"max_epochs": 0}))
    assert build_bundle(people, config).bundle.manifest.channel_dropout == 0


def test_a_bundle_is_made_measured_and_scores(built: Built, people: list[Recording]) -> None:
    manifest = built.bundle.manifest
    assert manifest.training["command"] == "kinedge train tiny.toml"
    assert manifest.training["subjects"] == 6
    assert manifest.channel_dropout == QUICK.channel_dropout > 0
    assert manifest.quality["test_subjects"] == 1
    assert isinstance(manifest.quality["validation_nll_linear_baseline"], float)
    assert read_bundle(built.data).digest == built.bundle.digest
    assert b"What it is not" in built.bundle.parts["card.md"]
    verdicts = verdicts_of(Scorer(built.bundle), people[0])
    assert len(verdicts) == 70
    assert len({v.decision for v in verdicts}) > 1


def test_the_same_recordings_and_seed_give_the_same_bytes(
    built: Built, people: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    config = BuildConfig(name="tiny", fit=QUICK)
    first, second = build_bundle(people, config), build_bundle(people, config)
    assert first.data == second.data
    assert first.bundle.parts["model.fp32.onnx"] == built.bundle.parts["model.fp32.onnx"]


def test_nobody_stands_on_both_sides_of_a_split(people: list[Recording]) -> None:
    parts = split_subjects([*people, *people], (0.2, 0.3), seed=3)
    subjects = [{r.subject for r in part} for part in parts]
    assert sum(len(s) for s in subjects) == 6
    assert set.union(*subjects) == {r.subject for r in people}
    assert [len(p) for p in parts] == [2 * len(s) for s in subjects]
    with pytest.raises(SignalError, match="cannot be split"):
        split_subjects(people[:2], (0.2, 0.3), seed=0)


def test_mistakes_in_the_settings_are_told(people: list[Recording]) -> None:
    with pytest.raises(ConfigError, match="whole number of hop_s"):
        build_bundle(people, BuildConfig(block_s=2.5, fit=QUICK))
    with pytest.raises(SignalError, match="no sensor chest"):
        build_bundle(people, BuildConfig(sensors=("chest",), fit=QUICK))
    with pytest.raises(SignalError, match="at least 2 subjects"):
        build_bundle(people[:1], BuildConfig(split="cross", fit=QUICK))
    with pytest.raises(SignalError, match="no recordings"):
        build_bundle([], BuildConfig(fit=QUICK))


@pytest.mark.timeout(240)
def test_a_real_walk_goes_all_the_way_to_synced_episodes(shared_data: Path, tmp_path: Path) -> None:
    sensors = ("lumbar", "ankle_left", "ankle_right")
    walks = load_fog_stanford(shared_data / "fog_stanford.npz", sensors=sensors)
    # trained on the freeze-free parts of OTHER patients
    others = [r for r in walks if r.subject == "pt5"][1:3] + [r for r in walks if r.subject == "pt6"][:2]
    better = QUICK.model_copy(update={"steps_per_epoch": 60, "max_epochs": 4, "width": 16, "rotation_deg": 10.0})
    config = BuildConfig(name="walk", sensors=sensors, rate_hz=64, split="cross", fit=better)
    built = build_bundle(others, config)
    bundle = tmp_path / "walk.kinedge"
    write_bundle(bundle, built.data)
    walk = next(r for r in walks if r.subject == "pt3").slice(0, 128 * 30)
    # a freeze may or may not be found by so small a model; a sensor gone wild must be
    walk = inject(walk, "noise_burst", 128 * 20, 128 * 27, sensor="ankle_left", seed=0, strength=4.0)
    label = "anomaly:noise_burst@ankle_left"
    with running_collector(tmp_path) as url:
        played = asyncio.run(play(walk, bundle, tmp_path / "000", url=url, label=label, speed=6, faults=Faults()))
        listed = httpx.get(f"{url}/v1/episodes").json()["episodes"]
    assert played.synced
    assert played.metrics.n_found == 1
    assert played.n_lost == 0
    assert played.n_samples == 3 * len(walk)
    with EpisodeStore(tmp_path / "000" / "edge.db", read_only=True) as store:
        kept = [s.envelope for s in store.episodes()]
    assert {e["id"] for e in listed} == {e.id for e in kept}
    assert any(e.contributions[0].sensor == "ankle_left" for e in kept)
    assert all(e.model_digest == built.bundle.digest for e in kept)


def documented(section: str) -> dict[str, str]:
    """Return key -> default of a table of the page on training."""
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    (part,) = re.findall(rf"^### `\[{section}\]`\n(.*?)(?=^##|\Z)", page, flags=re.DOTALL | re.MULTILINE)
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("simulated", SimulatedConfig),
        ("data", DataConfig),
        ("recordings", RecordingsConfig),
        ("bundle", BuildConfig),
        ("bundle.fit", FitConfig),
    ],
)
def test_the_page_on_training_names_every_key_with_its_default(section: str, model: type[Config]) -> None:
    said = documented(section)
    fields = {name: f for name, f in model.model_fields.items() if name != "fit"}
    assert list(said) == list(fields)
    for name, field in fields.items():
        if field.is_required():
            assert said[name] == "required"
        elif name not in ("intended_use",) and (section, name) != ("bundle.fit", "exclude_labels"):
            (value,) = tomllib.loads(f"x = {said[name].strip('`')}").values()
            default = field.get_default(call_default_factory=True)
            assert (tuple(value) if isinstance(value, list) else value) == default


def test_the_page_on_training_names_every_option_of_augmentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    (sentence,) = re.findall(r"^`augment` takes.*?(?=\n\n)", page, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", sentence)) == {"augment", *AUGMENT_OPTIONS}
