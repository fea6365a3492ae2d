"""A model of one's own for everybody in a fleet: the jobs that :func:`kinedge.training.fleet.run_fleet` runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kinedge import __version__
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.errors import ConfigError, KinedgeError
from kinedge.quantize.build import BuildConfig, Built, build_bundle, complete, fit_settings, on_grid, split_parts
from kinedge.recording import Recording
from kinedge.training.fleet import FleetTask, Made, person_seed
from kinedge.training.own import OnDisk
from kinedge.training.simulate import RadioModel, SimulationConfig, simulate
from kinedge.training.vmapped import FitTask, fit_many

__all__ = ["Person", "PersonalJob", "Recorded", "Simulated", "Source", "personal_tasks"]


@dataclass(frozen=True, eq=False)
class Recorded:
    """Recordings in memory; they travel to the worker."""

    recordings: tuple[Recording, ...]

    def __call__(self) -> Sequence[Recording]:
        """Return the recordings."""
        return self.recordings

    def key(self) -> str:
        """Name the data."""
        return sha256_hex("".join(r.digest() for r in self.recordings).encode())


@dataclass(frozen=True)
class Simulated:
    """A simulated person; simulated in the worker."""

    subject_seed: int
    n_sessions: int
    duration_s: float
    loss: float = 0.0

    def __call__(self) -> Sequence[Recording]:
        """Simulate the sessions."""
        radio = RadioModel(loss_rate=self.loss)
        return [
            simulate(
                SimulationConfig(
                    subject_seed=self.subject_seed, session_seed=session, duration_s=self.duration_s, radio=radio
                )
            )
            for session in range(self.n_sessions)
        ]

    def key(self) -> str:
        """Name the data."""
        return sha256_hex(canonical_json(asdict(self)))


Source: TypeAlias = Recorded | Simulated | OnDisk  # picklable; gives recordings in the order of time, and a key


@dataclass(frozen=True)
class Person:
    """Somebody, and how to get at their recordings, in the order of time."""

    name: str
    source: Source


@dataclass(frozen=True)
class PersonalJob:
    """Make the bundles of some people; all of it is picklable, and is run in a worker.

    Parameters
    ----------
    people
        One; or several whose networks are trained at once.
    config
        Of everybody; name and seeds become the person's.
    command
        For the manifest.
    checkpoints
        A folder that the worker can write to: training that was cut off goes on from there. Not used at once.
    """

    people: tuple[Person, ...]
    config: BuildConfig
    command: str = ""
    checkpoints: Path | None = None

    def __call__(self, made_s: int) -> list[Made]:
        """Train, calibrate and pack; what cannot be made says why."""
        if len(self.people) > 1:
            return self._at_once(made_s)
        (person,) = self.people
        folder = self.checkpoints / person.name if self.checkpoints is not None else None
        config = config_of(person.name, self.config)
        try:
            built = build_bundle(person.source(), config, command=self.command, checkpoints=folder, made_s=made_s)
        except KinedgeError as e:
            return [Made(person.name, error=str(e))]
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return [_made(person.name, built)]

    def _at_once(self, made_s: int) -> list[Made]:
        made: dict[str, Made] = {}
        ready = {}
        for person in self.people:
            config = config_of(person.name, self.config)
            try:
                grid = on_grid(person.source(), config)
                ready[person.name] = (grid, split_parts(grid, config), config)
            except KinedgeError as e:
                made[person.name] = Made(person.name, error=str(e))
        tasks = [FitTask(parts.training, parts.stopping, fit_settings(config)) for _, parts, config in ready.values()]
        for name, result in zip(ready, fit_many(tasks), strict=True):
            grid, parts, config = ready[name]
            try:
                if isinstance(result, KinedgeError):
                    raise result
                built = complete(grid, parts, result, config, command=self.command, made_s=made_s)
                made[name] = _made(name, built)
            except KinedgeError as e:
                made[name] = Made(name, error=str(e))
        return [made[p.name] for p in self.people]


def config_of(person: str, config: BuildConfig) -> BuildConfig:
    """Return the configuration of one person's model: its own name, and seeds that follow from who it is."""
    seed = person_seed(person, config.seed)
    name = f"{config.name}-{person.lower()}"[:64]
    fit = config.fit.model_copy(update={"seed": person_seed(person, config.fit.seed)})
    return config.model_copy(update={"split": "personal", "name": name, "seed": seed, "fit": fit})


def _made(name: str, built: Built) -> Made:
    facts: dict[str, Any] = {"digest": built.bundle.digest, **built.bundle.manifest.quality}
    return Made(name, built.data, facts)


def personal_tasks(
    people: Mapping[str, Source],
    config: BuildConfig,
    *,
    at_once: int = 1,
    command: str = "",
    checkpoints: Path | None = None,
) -> list[FleetTask]:
    """Return the tasks of a fleet, in the order of the names.

    Parameters
    ----------
    people
        Name and recordings.
    at_once
        How many models are trained side by side; who trains with whom depends on the names alone.

    Raises
    ------
    ConfigError
        The configuration asks for another split than a person's own.
    """
    if "split" in config.model_fields_set and config.split != "personal":
        raise ConfigError(f"a fleet makes personal models; split = {config.split!r} does not go with it: leave it out")
    persons = [Person(name, people[name]) for name in sorted(people)]
    tasks = []
    for k in range(0, len(persons), at_once):
        group = tuple(persons[k : k + at_once])
        content = [[p.name, p.source.key()] for p in group]
        key = sha256_hex(canonical_json([__version__, content, config.model_dump(mode="json")]))
        job = PersonalJob(group, config, command, checkpoints)
        tasks.append(FleetTask(tuple(p.name for p in group), key, job))
    return tasks
