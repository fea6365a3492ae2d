"""What is written beside a bundle: its data sheet, and what its report is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kinedge.errors import ConfigError
from kinedge.quantize.build import BuildConfig, Built, held_out
from kinedge.recording import Recording
from kinedge.training.datasheet import datasheet, datasheet_markdown
from kinedge.training.report import ReportSource
from kinedge.training.study import study

__all__ = ["report_source", "write_datasheet"]

_HELD_OUT_AS: Final = {
    "holdout": "Everything here is measured on subjects that had no part in training, stopping or calibration.",
    "cross": (
        "Each subject is scored by a model that was trained on the others, and judged by a calibration on others. "
        "The bundle's own model is trained on all, so these figures are of its siblings."
    ),
    "personal": (
        "Everything here is measured on the latest part of this person's recordings, which had no part in training or "
        "calibration. It may still be the same day: how the model does on another one is not known."
    ),
}


def report_source(built: Built, recordings: Sequence[Recording], config: BuildConfig) -> ReportSource:
    """Judge held-out recordings, and collect what a report shows.

    Parameters
    ----------
    recordings
        As they were given to :func:`kinedge.quantize.build.build_bundle`.
    """
    held = held_out(built, config)
    nobody = "Nobody was held out: raise the last of the shares, or record more people."
    return ReportSource(
        bundle=built.bundle,
        fit=built.fit,
        study=study(held, exclude_labels=config.exclude_labels, seed=config.seed),
        sheet=datasheet(
            config.name,
            recordings,
            built.parts.items(),
            split=config.split,
            exclude_labels=config.exclude_labels,
            settings=built.fit.config,
            normalisation=built.fit.normalisation,
        ),
        settings=config.model_dump(mode="json"),
        held_out_as=_HELD_OUT_AS[config.split] if held else nobody,
    )


def write_datasheet(path: Path, sheet: Mapping[str, Any]) -> list[Path]:
    """Write the data sheet as JSON, and for a reader as Markdown beside it; return both places.

    Raises
    ------
    ConfigError
        The place cannot be written.
    """
    readable = path.with_suffix(".md")
    try:
        path.write_text(json.dumps(sheet, indent=2) + "\n", encoding="utf-8")
        readable.write_text(datasheet_markdown(sheet), encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror}); give --out another place") from e
    return [path, readable]
