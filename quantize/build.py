"""From recordings to a bundle: fit, export, calibrate on people the model never saw, measure, pack.

``holdout``: subjects are split once into those that train, that stop the training, that calibrate, and that test.
``cross``: for few subjects. Each is scored by a model trained on the others, and these scores calibrate the model
that is trained on all; nobody is scored by a model that saw them.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
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
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.cohort import calibrate_cohort
from kinedge.training.evaluate import EpisodeMetrics, episodes_of, match_events
from kinedge.training.fit import EpochRecord, FitConfig, FitResult, fit

__all__ = ["BuildConfig", "Built", "build_bundle", "split_subjects"]

Report = Callable[[str, EpochRecord | None], None]


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
    split: Literal["holdout", "cross"] = "holdout"
    shares: tuple[float, float, float] = Field(
        default=(0.15, 0.25, 0.15), description="of subjects that stop the training, calibrate, and test (holdout)"
    )
    exclude_labels: tuple[str, ...] = Field(
        default=("freeze", "outside", "anomaly:*"), description="regions that are no ordinary movement"
    )
    fit: FitConfig = FitConfig()
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Built:
    """A bundle with what is known of its making."""

    data: bytes
    bundle: Bundle
    fit: FitResult
    test: EpisodeMetrics | None


def split_subjects(
    recordings: Sequence[Recording], shares: Sequence[float], *, seed: int
) -> tuple[list[Recording], ...]:
    """Split by subject into the rest and one part per share.

    Raises
    ------
    SignalError
        There are too few subjects for every part to have one.
    """
    subjects = sorted({r.subject for r in recordings})
    counts = [max(1, round(s * len(subjects))) if s > 0 else 0 for s in shares]
    if sum(counts) >= len(subjects):
        raise SignalError(
            f"{len(subjects)} subjects cannot be split into training and {sum(c > 0 for c in counts)} other parts; "
            "record more people, or use split = 'cross'"
        )
    order = [subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))]
    edges = np.cumsum([0, *counts])
    parts = [set(order[a:b]) for a, b in itertools.pairwise(edges)]
    rest = set(order[edges[-1] :])
    return tuple([r for r in recordings if r.subject in part] for part in (rest, *parts))


def build_bundle(
    recordings: Sequence[Recording],
    config: BuildConfig,
    *,
    command: str = "",
    report: Report | None = None,
    checkpoints: Path | None = None,
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

    Raises
    ------
    SignalError
        Too few subjects or too little ordinary movement.
    ConfigError
        The settings contradict each other.
    """
    hop, block = round(config.hop_s * config.rate_hz), round(config.block_s * config.rate_hz)
    if hop < 1 or block % hop:
        raise ConfigError(f"block_s {config.block_s} must be a whole number of hop_s {config.hop_s}")
    say: Report = report or (lambda stage, epoch: None)
    say("aligning", None)
    specs = _wanted_sensors(recordings, config.sensors)
    grid = [align_recording(r.select(specs), rate_hz=config.rate_hz) for r in recordings]
    test: list[Recording] = []
    if config.split == "holdout":
        train, val, calibrate, test = split_subjects(grid, config.shares, seed=config.seed)
        result = _fit(train, val, config, "training", say, checkpoints)
        say("calibrating", None)
        scorers = [(calibrate, _provisional(result, config, hop=hop, block=block))]
    else:
        scorers = []
        subjects = sorted({r.subject for r in grid})
        if len(subjects) < 2:
            raise SignalError("split = 'cross' needs at least 2 subjects")
        for subject in subjects:
            own = [r for r in grid if r.subject == subject]
            others = [r for r in grid if r.subject != subject]
            partial = _fit(*_some_to_stop(others), config, f"training without {subject}", say, checkpoints)
            scorers.append((own, _provisional(partial, config, hop=hop, block=block)))
        result = _fit(*_some_to_stop(grid), config, "training on all", say, checkpoints)
        say("calibrating", None)
    calibration = calibrate_cohort(scorers, exclude_labels=config.exclude_labels, seed=config.seed)
    manifest = _manifest_fields(result, config, grid, hop=hop, block=block, command=command)
    bundle = _pack(manifest, result, calibration)
    say("measuring", None)
    quality: dict[str, str | int | float] = {
        "validation_nll": round(result.val_nll, 5),
        "validation_nll_linear_baseline": round(result.linear_val_nll, 5),
        "calibration_blocks": len(calibration.reference),
        "calibration_subjects": sum(len({r.subject for r in rs}) for rs, _ in scorers),
    }
    metrics = None
    if test:
        scorer = Scorer(read_bundle(bundle))
        metrics = EpisodeMetrics()
        for recording in test:
            found, n, unsure = episodes_of(scorer, recording)
            metrics += match_events(found, (), rate_hz=config.rate_hz, duration_s=recording.duration_s)
            metrics.n_verdicts += n
            metrics.n_unsure += unsure
        quality["test_subjects"] = len({r.subject for r in test})
        quality["test_hours_of_ordinary_movement"] = round(metrics.hours, 3)
        quality["test_false_episodes"] = metrics.n_false
        quality["test_unsure_share"] = round(metrics.n_unsure / max(metrics.n_verdicts, 1), 4)
    data = _pack({**manifest, "quality": quality}, result, calibration)
    return Built(data=data, bundle=read_bundle(data), fit=result, test=metrics)


def _wanted_sensors(recordings: Sequence[Recording], names: Sequence[str]) -> tuple[SensorSpec, ...]:
    if not recordings:
        raise SignalError("no recordings to train on")
    known = {s.name: s for s in recordings[0].sensors}
    missing = [n for n in names if n not in known]
    if missing:
        raise SignalError(f"{recordings[0].source}: no sensor {', '.join(missing)}; there are {', '.join(known)}")
    return tuple(known[n] for n in names) if names else recordings[0].sensors


def _some_to_stop(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Set every fourth recording aside to stop the training; with one recording, its last quarter."""
    if len(recordings) == 1:
        r = recordings[0]
        cut = len(r) * 3 // 4
        return [r.slice(0, cut)], [r.slice(cut, len(r))]
    held = {i for i in range(len(recordings)) if i % 4 == 3} or {len(recordings) - 1}
    return [r for i, r in enumerate(recordings) if i not in held], [r for i, r in enumerate(recordings) if i in held]


def _fit(
    train: list[Recording],
    val: list[Recording],
    config: BuildConfig,
    stage: str,
    say: Report,
    checkpoints: Path | None,
) -> FitResult:
    say(stage, None)
    settings = config.fit.model_copy(update={"exclude_labels": config.exclude_labels})
    checkpoint = None
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        checkpoint = checkpoints / f"{stage.replace(' ', '-')}.checkpoint"
    return fit(train, val, settings, progress=lambda epoch: say(stage, epoch), checkpoint=checkpoint)


def _provisional(result: FitResult, config: BuildConfig, *, hop: int, block: int) -> Scorer:
    """Score before there is a calibration: only scores are read, no verdicts."""
    fields = _manifest_fields(result, config, (), hop=hop, block=block, command="")
    manifest = read_bundle(_pack(fields, result, None)).manifest
    return Scorer(read_bundle(_pack(fields, result, Calibration.blank(manifest))))


def _manifest_fields(
    result: FitResult, config: BuildConfig, recordings: Sequence[Recording], *, hop: int, block: int, command: str
) -> dict[str, Any]:
    model = result.model
    n, outputs = model.config.n_channels, model.config.n_outputs
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
