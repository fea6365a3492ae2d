"""From recordings to a bundle: fit, export, calibrate on people the model never saw, measure, pack.

``holdout``: subjects are split once into those that train, that stop the training, that calibrate, and that test.
``cross``: for few subjects. Each is scored by a model trained on the others, and these scores calibrate the model
that is trained on all; nobody is scored by a model that saw them. ``personal``: one person's own recordings, split
in the order of time, so that what calibrates and what tests is later than what was trained on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kinedge import __version__
from kinedge.arrays import arrays_to_npz
from kinedge.bundle import CALIBRATION_NAME, CARD_NAME, Bundle, pack_bundle, read_bundle
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config
from kinedge.edge.calibration import Calibration
from kinedge.edge.offline import align_recording
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError, SignalError
from kinedge.quantize.card import model_card
from kinedge.quantize.export import export_onnx
from kinedge.quantize.parts import Parts, some_to_stop, split_in_time, split_subjects
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.cohort import calibrate_cohort
from kinedge.training.evaluate import EpisodeMetrics, episodes_of, match_events
from kinedge.training.fit import EpochRecord, FitConfig, FitResult, fit
from kinedge.training.windows import labelled

__all__ = [
    "BuildConfig",
    "Built",
    "Parts",
    "build_bundle",
    "complete",
    "fit_settings",
    "held_out",
    "on_grid",
    "split_in_time",
    "split_parts",
    "split_subjects",
]

Report = Callable[[str, EpochRecord | None], None]
Scored = tuple[Sequence[Recording], Scorer]
_MAX_FOLDS = 6  # of the cohort, when everybody is to be judged by a calibration they had no part in


class BuildConfig(Config):
    """How a bundle is made; what ``kinedge train`` reads from TOML."""

    name: str = Field(default="model", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    intended_use: str = (
        "Shows where a person's movement differs from what is usual. For research and development. It is no medical "
        "device and makes no diagnosis."
    )
    sensors: tuple[str, ...] = Field(default=(), description="in column order; all of the recordings' when empty")
    rate_hz: float = Field(default=50.0, ge=10, le=500)
    hop_s: float = Field(default=1.0, gt=0, le=60, description="a verdict every so often")
    block_s: float = Field(default=2.0, gt=0, le=120, description="what a verdict looks back; a multiple of hop_s")
    split: Literal["holdout", "cross", "personal"] = "holdout"
    shares: tuple[float, float, float] = Field(
        default=(0.15, 0.25, 0.15),
        description="that stop the training, calibrate, and test; of subjects (holdout) or of time (personal). With 0 "
        "subjects to stop it, a quarter of the training recordings does",
    )
    exclude_labels: tuple[str, ...] = Field(
        default=("freeze", "outside", "anomaly:*"), description="regions that are no ordinary movement"
    )
    fit: FitConfig = FitConfig()
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Built:
    """A bundle with what is known of its making.

    ``scorers`` are the models that scored what it was calibrated on: recordings, and a model that never saw them.
    """

    data: bytes
    bundle: Bundle
    fit: FitResult
    test: EpisodeMetrics | None
    parts: Parts
    scorers: Sequence[Scored]


def build_bundle(
    recordings: Sequence[Recording],
    config: BuildConfig,
    *,
    command: str = "",
    report: Report | None = None,
    checkpoints: Path | None = None,
    made_s: int | None = None,
) -> Built:
    """Train, calibrate, measure and pack.

    Parameters
    ----------
    recordings
        At any rate; they are brought to the model's grid by the live aligner.
    config
        How.
    command
        What makes this bundle again; goes into the manifest.
    report
        Called with a stage's name, and with each epoch.
    checkpoints
        A folder; a run that was cut off goes on from what lies there.
    made_s
        When the bundle was made, in seconds of the Unix epoch; ``SOURCE_DATE_EPOCH`` or now when None.

    Raises
    ------
    SignalError
        Too few subjects or too little ordinary movement.
    ConfigError
        The settings contradict each other.
    """
    say: Report = report or (lambda stage, epoch: None)
    say("aligning", None)
    grid = on_grid(recordings, config)
    if config.split != "cross":
        parts = split_parts(grid, config)
        result = _fit(parts.training, parts.stopping, config, "training", say, checkpoints)
        return complete(grid, parts, result, config, command=command, report=say, made_s=made_s)
    scorers: list[Scored] = []
    subjects = sorted({r.subject for r in grid})
    if len(subjects) < 2:
        raise SignalError("split = 'cross' needs at least 2 subjects")
    for subject in subjects:
        own = [r for r in grid if r.subject == subject]
        others = [r for r in grid if r.subject != subject]
        partial = _fit(*some_to_stop(others), config, f"training without {subject}", say, checkpoints)
        scorers.append((own, _provisional(partial, config)))
    result = _fit(*some_to_stop(grid), config, "training on all", say, checkpoints)
    parts = Parts(training=grid)
    return complete(grid, parts, result, config, scorers=scorers, command=command, report=say, made_s=made_s)


def on_grid(recordings: Sequence[Recording], config: BuildConfig) -> list[Recording]:
    """Select the sensors, and bring recordings to the model's grid.

    Raises
    ------
    SignalError
        A sensor is not there.
    ConfigError
        The times of block and hop do not go together.
    """
    hop, block = _samples(config)
    if hop < 1 or block % hop:
        raise ConfigError(f"block_s {config.block_s} must be a whole number of hop_s {config.hop_s}")
    specs = _wanted_sensors(recordings, config.sensors)
    return [align_recording(r.select(specs), rate_hz=config.rate_hz) for r in recordings]


def split_parts(grid: Sequence[Recording], config: BuildConfig) -> Parts:
    """Split recordings on the grid by subject, or, for a person's own model, by time.

    Raises
    ------
    SignalError
        There are too few subjects or samples; or several people where there must be one.
    """
    if config.split == "holdout":
        training, stopping, calibration, test = split_subjects(grid, config.shares, seed=config.seed)
        if not stopping:
            training, stopping = some_to_stop(training)
        return Parts(training, stopping, calibration, test)
    subjects = sorted({r.subject for r in grid})
    if len(subjects) > 1:
        raise SignalError(f"split = 'personal' takes one person's recordings, got those of {', '.join(subjects)}")
    channels = sum(s.n_channels for s in grid[0].sensors)
    gap = config.fit.forecaster(channels).receptive_field + _samples(config)[1]
    return Parts(*split_in_time(grid, config.shares, gap=gap))


def complete(
    grid: Sequence[Recording],
    parts: Parts,
    result: FitResult,
    config: BuildConfig,
    *,
    scorers: Sequence[Scored] = (),
    command: str = "",
    report: Report | None = None,
    made_s: int | None = None,
) -> Built:
    """Calibrate a trained model, measure it on the test part, and pack.

    Parameters
    ----------
    grid
        All recordings, for the manifest.
    parts
        The same by what they are used for.
    scorers
        What to calibrate on; the calibration part, scored by this very model, when empty.
    """
    say: Report = report or (lambda stage, epoch: None)
    say("calibrating", None)
    running = _provisional(result, config)
    others, scorers = bool(scorers), scorers or [(parts.calibration, running)]
    calibration = calibrate_cohort(
        scorers, exclude_labels=config.exclude_labels, seed=config.seed, running=running if others else None
    )
    manifest = _manifest_fields(result, config, grid, command=command, made_s=made_s)
    bundle = _pack(manifest, result, calibration)
    say("measuring", None)
    quality: dict[str, str | int | float] = {
        "validation_nll": round(result.val_nll, 5),
        "validation_nll_linear_baseline": round(result.linear_val_nll, 5),
        "calibration_blocks": len(calibration.reference),
        "calibration_subjects": sum(len({r.subject for r in rs}) for rs, _ in scorers),
    }
    metrics = None
    if parts.test:
        scorer = Scorer(read_bundle(bundle))
        metrics = EpisodeMetrics()
        for recording in parts.test:
            found, n, unsure = episodes_of(scorer, recording)
            events = labelled(recording, config.exclude_labels)
            metrics += match_events(found, events, rate_hz=config.rate_hz, duration_s=recording.duration_s)
            metrics.n_verdicts += n
            metrics.n_unsure += unsure
        quality["test_subjects"] = len({r.subject for r in parts.test})
        quality["test_hours_of_ordinary_movement"] = round(metrics.hours, 3)
        quality["test_false_episodes"] = metrics.n_false
        quality["test_unsure_share"] = round(metrics.n_unsure / max(metrics.n_verdicts, 1), 4)
    data = _pack({**manifest, "quality": quality}, result, calibration)
    return Built(data, read_bundle(data), result, metrics, parts, scorers)


def held_out(built: Built, config: BuildConfig) -> list[Scored]:
    """Return recordings with models that had no part in them, neither in training nor in calibration.

    The test part, where there is one. Else (``cross``) the cohort in up to six folds, each judged by a calibration
    on the others.
    """
    if built.parts.test:
        return [(built.parts.test, Scorer(built.bundle))]
    if len(built.scorers) < 2:
        return []
    judged: list[Scored] = []
    for k in range(min(_MAX_FOLDS, len(built.scorers))):
        others = [pair for i, pair in enumerate(built.scorers) if i % _MAX_FOLDS != k]
        calibration = calibrate_cohort(others, exclude_labels=config.exclude_labels, seed=config.seed)
        judged += [
            (recordings, Scorer(scorer.bundle, backend=scorer.engine.backend, calibration=calibration))
            for recordings, scorer in built.scorers[k::_MAX_FOLDS]
        ]
    return judged


def _samples(config: BuildConfig) -> tuple[int, int]:
    """Return hop and block."""
    return round(config.hop_s * config.rate_hz), round(config.block_s * config.rate_hz)


def _wanted_sensors(recordings: Sequence[Recording], names: Sequence[str]) -> tuple[SensorSpec, ...]:
    if not recordings:
        raise SignalError("no recordings to train on")
    known = {s.name: s for s in recordings[0].sensors}
    missing = [n for n in names if n not in known]
    if missing:
        raise SignalError(f"{recordings[0].source}: no sensor {', '.join(missing)}; there are {', '.join(known)}")
    return tuple(known[n] for n in names) if names else recordings[0].sensors


def _fit(
    train: Sequence[Recording],
    val: Sequence[Recording],
    config: BuildConfig,
    stage: str,
    say: Report,
    checkpoints: Path | None,
) -> FitResult:
    say(stage, None)
    settings = fit_settings(config)
    checkpoint = None
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        checkpoint = checkpoints / f"{stage.replace(' ', '-')}.checkpoint"
    return fit(train, val, settings, progress=lambda epoch: say(stage, epoch), checkpoint=checkpoint)


def fit_settings(config: BuildConfig) -> FitConfig:
    """Return how the network is trained: what is no ordinary movement is said once for all stages."""
    return config.fit.model_copy(update={"exclude_labels": config.exclude_labels})


def _provisional(result: FitResult, config: BuildConfig) -> Scorer:
    """Score before there is a calibration: only scores are read, no verdicts."""
    entries = _manifest_fields(result, config, (), command="", made_s=None)
    manifest = read_bundle(_pack(entries, result, None)).manifest
    return Scorer(read_bundle(_pack(entries, result, Calibration.blank(manifest))))


def _manifest_fields(
    result: FitResult, config: BuildConfig, recordings: Sequence[Recording], *, command: str, made_s: int | None
) -> dict[str, Any]:
    hop, block = _samples(config)
    model = result.model
    n, outputs = model.config.n_channels, model.config.n_outputs
    if made_s is None:
        made_s = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))  # set it to make the same bytes again
    digests = sorted(r.digest() for r in recordings)
    return {
        "name": config.name,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made_s)),
        "kinedge_version": __version__,
        "intended_use": config.intended_use,
        "sensors": [{"name": s.name, "channels": list(s.channels)} for s in result.sensors],
        "rate_hz": result.rate_hz,
        "horizons": list(model.config.horizons),
        "receptive_field": model.receptive_field,
        "hop": hop,
        "block": block,
        "center": [float(v) for v in result.center],
        "scale": [float(v) for v in result.scale],
        "clip": result.clip,
        "hold_s": result.config.hold_s,
        "channel_dropout": result.config.channel_dropout if result.best_epoch else 0.0,  # the baseline learned none
        "student_t_nu": [[float(v) for v in row] for row in result.nu],
        "inputs": [
            {"name": "x", "shape": [-1, -1, n]},
            {"name": "mask", "shape": [-1, -1, n]},
            {"name": "state", "shape": [-1, model.state_size]},
        ],
        "outputs": [
            {"name": "mu", "shape": [-1, -1, outputs]},
            {"name": "log_sigma", "shape": [-1, -1, outputs]},
            {"name": "state_out", "shape": [-1, model.state_size]},
        ],
        "state_size": model.state_size,
        "precisions": {"fp32": "model.fp32.onnx"},
        "n_parameters": model.n_parameters,
        "training": {
            "command": command,
            "seed": config.seed,
            "split": config.split,
            "subjects": len({r.subject for r in recordings}),
            "recordings": len(recordings),
            "hours": round(sum(r.duration_s for r in recordings) / 3600, 3),
            "sources": ", ".join(sorted({r.source.split("/")[0] for r in recordings}))[:200],
            "data_digest": sha256_hex(canonical_json(digests)),
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
        },
    }


def _pack(fields: dict[str, Any], result: FitResult, calibration: Calibration | None) -> bytes:
    parts = {
        "model.fp32.onnx": export_onnx(result.model),
        CALIBRATION_NAME: arrays_to_npz(calibration.to_arrays() if calibration is not None else {}),
        CARD_NAME: model_card(fields).encode(),
    }
    return pack_bundle(fields, parts)
