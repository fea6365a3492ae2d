"""What a training file names as data, as recordings or as people of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from kinedge.config import Config
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.quantize.build import BuildConfig
    from kinedge.quantize.personal import Source
    from kinedge.recording import Recording

__all__ = ["DataConfig", "RecordingsConfig", "SimulatedConfig", "TrainConfig", "people_of", "recordings_of"]


class SimulatedConfig(Config):
    """Simulated people to train on."""

    subjects: int = Field(default=48, ge=1, le=10_000)
    sessions: int = Field(default=2, ge=1, le=100)
    minutes: float = Field(default=6, ge=0.5, le=600)
    loss: float = Field(default=0.0, ge=0, le=0.5, description="share of packets lost")
    first_seed: int = Field(default=0, ge=0)


class DataConfig(Config):
    """A recorded data set to train on."""

    name: str = Field(description="such as fog_stanford, gait_healthy or daphnet")
    path: Path
    leave_out: tuple[str, ...] = Field(default=(), description="subjects that are kept for a test")


class RecordingsConfig(Config):
    """Recordings of one's own: a folder with one folder per person, of sessions and CSV files."""

    path: Path
    leave_out: tuple[str, ...] = Field(default=(), description="people that are kept for a test")


class TrainConfig(Config):
    """The file that ``kinedge train`` reads; ``bundle`` is checked once torch is known to be there."""

    bundle: dict[str, Any] = Field(default_factory=dict)
    simulated: SimulatedConfig | None = None
    data: DataConfig | None = None
    recordings: RecordingsConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> TrainConfig:
        if sum(part is not None for part in (self.simulated, self.data, self.recordings)) != 1:
            raise ValueError("give either [simulated] or [data] or [recordings]")
        return self


def recordings_of(
    settings: TrainConfig, how: BuildConfig, *, where: Path | None, here: Path, leave_out: tuple[str, ...]
) -> list[Recording]:
    """Load everything.

    Parameters
    ----------
    where
        In place of the file's path.
    here
        What a path in the file is relative to.
    leave_out
        In addition to the file's.

    Raises
    ------
    ConfigError
        The data set, or somebody to leave out, is unknown.
    SignalError, StoreError
        The recordings cannot be read.
    """
    if settings.data is not None:
        recordings = _data_set(settings.data, how, where or here / settings.data.path)
        gone = {*settings.data.leave_out, *leave_out}
    else:
        recordings = [r for source in _sources(settings, how, where, here).values() for r in source()]
        gone = {*(settings.recordings.leave_out if settings.recordings else ()), *leave_out}
    unknown = sorted(gone - {r.subject for r in recordings})
    if unknown:
        raise ConfigError(f"subject {', '.join(unknown)} to leave out is not in the data")
    return [r for r in recordings if r.subject not in gone]


def people_of(
    settings: TrainConfig, how: BuildConfig, *, where: Path | None, here: Path, leave_out: tuple[str, ...]
) -> dict[str, Source]:
    """Return the people of a fleet, and how a worker gets at their recordings; the rest as ``recordings_of``."""
    from kinedge.quantize.personal import Recorded

    if settings.data is None:
        people = _sources(settings, how, where, here)
        gone = {*(settings.recordings.leave_out if settings.recordings else ()), *leave_out}
        if "" in people:
            raise ConfigError("whose recordings lie beside the people's folders? put each into one with a name")
        unknown = sorted(gone - set(people))
        if unknown:
            raise ConfigError(f"subject {', '.join(unknown)} to leave out is not in the data")
        return {name: source for name, source in people.items() if name not in gone}
    recordings = recordings_of(settings, how, where=where, here=here, leave_out=leave_out)
    subjects = sorted({r.subject for r in recordings})
    return {s: Recorded(tuple(r for r in recordings if r.subject == s)) for s in subjects}


def _sources(settings: TrainConfig, how: BuildConfig, where: Path | None, here: Path) -> dict[str, Source]:
    from kinedge.quantize.personal import Simulated
    from kinedge.training.own import find_people

    if settings.recordings is not None:
        folder = where or here / settings.recordings.path
        return dict(find_people(folder, rate_hz=how.rate_hz, sensors=how.sensors))
    s = settings.simulated
    if s is None:
        raise ConfigError("give either [simulated] or [data] or [recordings]")
    seeds = range(s.first_seed, s.first_seed + s.subjects)
    return {f"sim{seed}": Simulated(seed, s.sessions, s.minutes * 60, s.loss) for seed in seeds}


def _data_set(data: DataConfig, how: BuildConfig, path: Path) -> list[Recording]:
    from kinedge.training.datasets import DATASETS

    if data.name not in DATASETS:
        raise ConfigError(f"no data set {data.name!r}; known are {', '.join(sorted(DATASETS))}")
    return DATASETS[data.name](path, sensors=how.sensors or None)
