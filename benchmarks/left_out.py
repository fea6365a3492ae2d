"""Models that real people are measured with, trained without them: made where they are missing, kept where they are.

``alarms-real`` and ``freezing-enrolled`` need a model that never saw the person it watches, ``parity`` one with people
kept for the proof. Which people go together, and how each model is trained, stands here, so that anybody with the data
set makes the same models. A model is kept in a folder named after all that it depends on: the recipe, the data and the
version of kinedge. A training that was cut off goes on from its checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kinedge import __version__
from kinedge.bundle import read_bundle, write_bundle
from kinedge.errors import ConfigError, SignalError, StoreError
from kinedge.quantize.build import BuildConfig, build_bundle, on_grid, split_parts
from kinedge.quantize.variants import Int8Config, add_precisions
from kinedge.training.datasets import DATASETS
from kinedge.training.fit import EpochRecord
from kinedge.training.settings import FitConfig

__all__ = ["PROVEN", "RECIPES", "Recipe", "grouped", "models_left_out", "models_proven"]

Progress = Callable[[str], None]
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """How models without some people are made.

    Parameters
    ----------
    data
        Name of the data set.
    build
        How one is trained; what is left when people are left out is small, so everybody is scored by a model of the
        others (``split = "cross"``).
    n_models
        People are left out together, as many at a time as so many models make it; 0: one model for each.
    """

    data: str
    build: BuildConfig
    n_models: int = 0


_WALK: Final = FitConfig(max_epochs=25, learning_rate=3e-3, rotation_deg=20, patience=10)
_THREE: Final = ("lumbar", "ankle_left", "ankle_right")

RECIPES: Final[Mapping[str, Recipe]] = {
    "daphnet": Recipe(
        "daphnet",
        BuildConfig(name="daphnet-left-out", rate_hz=64, split="cross", fit=FitConfig(max_epochs=25, rotation_deg=20)),
        3,
    ),
    "gait_healthy": Recipe(
        "gait_healthy",
        BuildConfig(name="gait-left-out", rate_hz=50, split="cross", fit=FitConfig(max_epochs=10, rotation_deg=20)),
        3,
    ),
    # walks of under a minute: with hops of half a second there are blocks enough to enrol a cohort
    "fog_stanford": Recipe(
        "fog_stanford",
        BuildConfig(name="fog-left-out", sensors=_THREE, rate_hz=64, hop_s=0.5, split="cross", fit=_WALK),
    ),
    # as examples/freezing-of-gait.toml
    "freezing": Recipe(
        "fog_stanford", BuildConfig(name="freezing-of-gait", sensors=_THREE, rate_hz=64, split="cross", fit=_WALK)
    ),
}

PROVEN: Final[Mapping[str, BuildConfig]] = {
    "gait_healthy": BuildConfig(
        name="gait-healthy",
        rate_hz=50,
        shares=(0.15, 0.3, 0.25),
        fit=FitConfig(max_epochs=10, learning_rate=6e-3, rotation_deg=10),
    ),
    "fog_stanford": BuildConfig(
        name="freezing-holdout",
        sensors=_THREE,
        rate_hz=64,
        shares=(0, 0.34, 0.34),
        fit=FitConfig(max_epochs=10, learning_rate=3e-3, rotation_deg=20),
    ),
}


def grouped(people: Sequence[str], n_models: int) -> list[tuple[str, ...]]:
    """Share people out among models by their order alone; ``n_models`` 0: each alone.

    Examples
    --------
    >>> grouped(["a", "b", "c", "d", "e"], 2)
    [('a', 'c', 'e'), ('b', 'd')]
    """
    n = n_models or len(people)
    return [group for group in (tuple(people[i::n]) for i in range(n)) if group]


def models_left_out(
    recipe: str, data: Path, folder: Path, *, progress: Progress = lambda _: None, limit: int | None = None
) -> dict[str, Path]:
    """Return for each person of a data set a model that was trained without them, made where it is missing.

    Parameters
    ----------
    recipe
        Of ``RECIPES``.
    data
        The data set, as its owner publishes it or as npz.
    folder
        Where models are kept.
    progress
        Called with what is being done.
    limit
        Only so many models: a trial.

    Raises
    ------
    ConfigError
        There is no such recipe.
    SignalError, StoreError
        The data cannot be read, or the folder cannot be written to.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"no recipe for {recipe!r}; there are {', '.join(RECIPES)}")
    how = RECIPES[recipe]
    recordings = DATASETS[how.data](data, sensors=how.build.sensors or None)
    people = sorted({r.subject for r in recordings}, key=lambda s: (len(s), s))
    kept = _folder_of(folder, recipe, how.build, data, how.n_models)
    found: dict[str, Path] = {}
    groups = grouped(people, how.n_models)[:limit]
    for number, group in enumerate(groups, 1):
        path = kept / f"without-{'-'.join(group)}.kinedge"
        if not path.exists():
            where = f"{recipe}, model {number} of {len(groups)}"
            others = [r for r in recordings if r.subject not in group]
            if len({r.subject for r in others}) < 2:
                raise SignalError(f"{data}: fewer than two people are left without {', '.join(group)}")
            checkpoints = path.with_suffix(".checkpoints")
            built = build_bundle(others, how.build, report=_say(progress, where), checkpoints=checkpoints, made_s=0)
            write_bundle(path, built.data)
            shutil.rmtree(checkpoints, ignore_errors=True)
        found |= dict.fromkeys(group, path)
    return found


def models_proven(
    data: Mapping[str, Path], folder: Path, *, seeds: int = 3, progress: Progress = lambda _: None
) -> list[Path]:
    """Return models in every precision, each with the proof that they answer the same, made where one is missing.

    Parameters
    ----------
    data
        Data sets of ``PROVEN``, by name.
    folder
        Where models are kept.
    seeds
        Each is another split of the people and another training.
    progress
        Called with what is being done.

    Raises
    ------
    SignalError, StoreError
        The data cannot be read, or the folder cannot be written to.
    """
    found = []
    for name, path in data.items():
        for seed in range(seeds):
            build = PROVEN[name]
            build = build.model_copy(update={"seed": seed, "fit": build.fit.model_copy(update={"seed": seed})})
            out = _folder_of(folder, f"proven-{name}", build, path, 0) / f"seed-{seed}.kinedge"
            if not out.exists():
                _prove(path, name, build, out, _say(progress, f"{name}, seed {seed}"))
            found.append(out)
    return found


def _prove(
    data: Path, name: str, build: BuildConfig, out: Path, say: Callable[[str, EpochRecord | None], None]
) -> None:
    recordings = DATASETS[name](data, sensors=build.sensors or None)
    single = out.with_suffix(".fp32.kinedge")
    if not single.exists():
        checkpoints = out.with_suffix(".checkpoints")
        write_bundle(single, build_bundle(recordings, build, report=say, checkpoints=checkpoints, made_s=0).data)
        shutil.rmtree(checkpoints, ignore_errors=True)
    made = add_precisions(
        read_bundle(single),
        split_parts(on_grid(recordings, build), build),
        Int8Config(),
        precisions=("int8", "fp16"),
        exclude_labels=build.exclude_labels,
        seed=build.seed,
        proof=True,
        report=lambda what: say(what, None),
    )
    write_bundle(out, made.data)
    single.unlink()


def _say(progress: Progress, where: str) -> Callable[[str, EpochRecord | None], None]:
    def say(stage: str, epoch: EpochRecord | None) -> None:
        progress(f"{where}: {stage}" if epoch is None else f"{where}: {stage}, epoch {epoch.epoch}")

    return say


def _folder_of(folder: Path, name: str, build: BuildConfig, data: Path, n_models: int) -> Path:
    """Return the folder of what follows from these, made if need be."""
    facts: dict[str, Any] = {"kinedge": __version__, "build": build.model_dump(mode="json"), "models": n_models}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in sorted(data.rglob("*")) if data.is_dir() else [data]:
        if path.is_file():
            digest.update(_digest(path))
    made = folder / f"{name}-{digest.hexdigest()[:12]}"
    try:
        made.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"{made}: cannot be made ({e.strerror})") from e
    return made


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
    except OSError as e:
        raise SignalError(f"{path}: cannot be read ({e.strerror})") from e
    return digest.digest()
