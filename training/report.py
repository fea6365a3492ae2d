"""The training report: one HTML file that needs nothing else, with figures inside, for a person to judge a model by."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kinedge.bundle import Bundle
from kinedge.edge.scoring import Scorer
from kinedge.errors import ConfigError
from kinedge.training import figures
from kinedge.training.evaluate import EpisodeMetrics, poisson_interval
from kinedge.training.fit import FitResult
from kinedge.training.study import Example, KindFigures, Study

__all__ = ["ReportSource", "render_report", "write_report"]

_TEMPLATES: Final = Path(__file__).parent / "templates"
_MAX_SUBJECTS: Final = 40  # that are shown one by one
_LOSS_SHOWN: Final = (0.1, 0.3)
_OUTCOME: Final = {"found": "Found", "missed": "Missed", "false": "Flagged without a known reason"}


@dataclass(frozen=True, eq=False)
class ReportSource:
    """What a report is made from.

    Parameters
    ----------
    bundle, fit
        The model and its training.
    study
        Of held-out recordings.
    sheet
        From :func:`kinedge.training.datasheet.datasheet`.
    settings
        All settings, as plain values.
    held_out_as
        One sentence: who was held out, and how.
    """

    bundle: Bundle
    fit: FitResult
    study: Study
    sheet: Mapping[str, Any]
    settings: Mapping[str, Any]
    held_out_as: str


def render_report(source: ReportSource) -> str:
    """Return the report as HTML; equal sources give equal bytes."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    manifest, study = source.bundle.manifest, source.study
    channels = [name for s in manifest.sensor_specs for name in s.full_names]
    sensors = [s.name for s in manifest.sensor_specs]
    shown = list(study.subjects)
    if len(shown) > _MAX_SUBJECTS:
        shown = sorted(shown, key=lambda s: -s.metrics.n_false / max(s.metrics.hours, 1e-9))[:_MAX_SUBJECTS]
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        digest=source.bundle.digest,
        fit=source.fit,
        gain=source.fit.linear_val_nll - source.fit.val_nll,
        sheet=source.sheet,
        settings=json.dumps(source.settings, indent=2, sort_keys=True),
        held_out_as=source.held_out_as,
        study=study,
        ordinary=_ordinary(study.ordinary),
        subjects=[{"name": s.subject, **_ordinary(s.metrics), "blocks": len(s.p_values)} for s in shown],
        kinds=_kinds(study),
        examples=[{"title": _title(e), "image": _image(figures.example(e))} for e in study.examples],
        loss=_image(figures.loss_curves(source.fit.history, source.fit.best_epoch)),
        residuals=_image(figures.residuals(study, channels, sensors)) if len(study.residuals) else "",
        calibration=_image(figures.calibration(study)) if study.subjects else "",
        lossy=_lossy(source.bundle),
        together=_together(source.bundle),
        false_alarms=_image(figures.false_alarms(shown)) if study.subjects else "",
    )


def write_report(path: Path, source: ReportSource) -> None:
    """Render and write a report, whole or not at all.

    Raises
    ------
    ConfigError
        The place cannot be written.
    """
    text = render_report(source)
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror}); give --report another place") from e


def _image(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _ordinary(m: EpisodeMetrics) -> dict[str, Any]:
    hours = m.hours
    low, high = poisson_interval(m.n_false)
    return {
        "hours": hours,
        "n_false": m.n_false,
        "rate": m.n_false / hours if hours else None,
        "low": low / hours if hours else None,
        "high": high / hours if hours else None,
        "flagged": m.flagged_s / 3600 / hours if hours else None,
        "unsure": m.n_unsure / m.n_verdicts if m.n_verdicts else None,
    }


def _lossy(bundle: Bundle) -> list[dict[str, Any]]:
    """Return a row per sensor: what loss at all sensors adds to ``u``, and how much a block still says."""
    rows: list[dict[str, Any]] = []
    scorer = Scorer(bundle)
    for sensor, terms in zip(scorer.sensors, scorer.calibration.likelihood.tolist(), strict=True):
        _, slope, own, others, lessens, by_others = terms
        cells = [
            {
                "added": abs(own + others) * math.sqrt(share) / slope if slope > 0 else None,
                "says": 1 / (1 + (lessens + by_others) * share),
            }
            for share in _LOSS_SHOWN
        ]
        rows.append({"sensor": sensor.replace("_", " "), "cells": cells})
    return rows


def _together(bundle: Bundle) -> list[dict[str, Any]]:
    """Return a row per sensor: how far it moves for what the others do, at their middle level; what that weighs."""
    scorer = Scorer(bundle)
    found = scorer.calibration.coordination
    if found is None:
        return []
    lines, weights = found.lines, found.weights
    k = len(lines.levels) // 2
    # intensities are logarithms of power: half of that is of how far
    ranges = np.exp(np.stack([lines.low[k] - lines.middle[k], lines.high[k] - lines.middle[k]]) / 2)
    columns = zip(scorer.sensors, *ranges.tolist(), weights.weight.tolist(), weights.late_weight.tolist(), strict=True)
    return [
        {"sensor": sensor.replace("_", " "), "least": least, "most": most, "weight": weight, "late": late}
        for sensor, least, most, weight, late in columns
    ]


def _kinds(study: Study) -> list[dict[str, Any]]:
    """Return a row per kind with its cells for each strength, the ones found least first."""
    rows: dict[str, dict[float | None, KindFigures]] = {}
    for k in study.kinds:
        rows.setdefault(k.kind, {})[k.strength] = k

    def cell(figures: KindFigures | None) -> dict[str, Any] | None:
        if figures is None:
            return None
        s = figures.metrics.summary()
        return {"found": s["found"], "of": s["events"], "delay_s": s["median_delay_s"], "placed": s["right_sensor"]}

    strengths = sorted({k.strength for k in study.kinds if k.strength is not None})
    return [
        {
            "kind": kind.replace("_", " "),
            "real": None in cells,
            "cells": [cell(cells.get(None))] if None in cells else [cell(cells.get(s)) for s in strengths],
        }
        for kind, cells in sorted(rows.items(), key=lambda item: (None not in item[1], item[0]))
    ]


def _title(shown: Example) -> str:
    what = shown.kind.replace("_", " ") or f"episode at {shown.sensor.replace('_', ' ')}"
    where = f" at {shown.sensor.replace('_', ' ')}" if shown.kind else ""
    return f"{_OUTCOME[shown.outcome]}: {what}{where}, subject {shown.recording.subject}"
