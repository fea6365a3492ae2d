"""A bundle and an int8 model beside the one it has: ranges, what stays in float, its own calibration, the proof.

Who may be used for what follows from how the bundle was trained: ranges (and fine-tuning) from people it was trained
on; the method and the layers from those that stopped the training; calibration from the calibration part; the proof
from people who had no part in anything. The calibration in single precision stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from kinedge.arrays import arrays_to_npz
from kinedge.bundle import CALIBRATION_NAME, CARD_NAME, Bundle, calibration_name, pack_bundle, read_bundle
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config
from kinedge.edge.backends import OnnxBackend
from kinedge.edge.calibration import Calibration
from kinedge.edge.scoring import Scorer
from kinedge.errors import BackendError, SignalError
from kinedge.quantize.card import model_card
from kinedge.quantize.checker import QdqReport, check_qdq
from kinedge.quantize.export import export_onnx
from kinedge.quantize.int8 import METHODS, Method, activation_scales, quantise
from kinedge.quantize.parity import Proof, prove
from kinedge.quantize.parity_table import as_markdown
from kinedge.quantize.parts import Parts
from kinedge.quantize.qat import QatConfig, tune
from kinedge.quantize.restore import restore_model
from kinedge.quantize.sensitivity import ScoreError, Sweep, excerpts, feed_of, sweep, with_graph
from kinedge.recording import Recording
from kinedge.training.cohort import calibrate_cohort
from kinedge.training.windows import Normalisation

__all__ = ["PARITY_NAME", "Int8Config", "Quantised", "add_int8", "same_recordings"]

PARITY_NAME: Final = "parity.json"
_INT8: Final = "int8"


class Int8Config(Config):
    """How an int8 model is made."""

    method: Literal["auto", "minmax", "entropy", "percentile", "qat"] = "auto"
    budget: float = Field(default=0.02, gt=0, le=10, description="largest score error that layers in int8 may cause")
    range_s: float = Field(default=600, ge=10, description="of recordings that ranges are measured on")
    compare_s: float = Field(default=600, ge=10, description="of recordings that methods and layers are chosen on")
    qat: QatConfig = QatConfig()


@dataclass(frozen=True, eq=False)
class Quantised:
    """A bundle with an int8 model, and how that came about; ``errors`` are score errors by method, on equal layers."""

    data: bytes
    bundle: Bundle
    method: str
    errors: dict[str, float]
    sweep: Sweep | None
    check: QdqReport
    proof: Proof | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        return {
            "digest": self.bundle.digest,
            "method": self.method,
            "score_error_by_method": {k: round(v, 6) for k, v in self.errors.items()},
            "sensitivity": None if self.sweep is None else self.sweep.to_dict(),
            "contract": self.check.to_dict(),
            "parity": None if self.proof is None else self.proof.to_dict(),
        }


def same_recordings(bundle: Bundle, grid: Sequence[Recording]) -> bool:
    """Whether recordings on the model's grid are those the bundle was made of."""
    digest = sha256_hex(canonical_json(sorted(r.digest() for r in grid)))
    return bundle.manifest.training.get("data_digest") == digest


def add_int8(
    bundle: Bundle,
    parts: Parts,
    config: Int8Config,
    *,
    exclude_labels: Sequence[str],
    seed: int = 0,
    graph: bytes | None = None,
    proof: bool = False,
    recalibrate: bool = False,
    report: Callable[[str], None] | None = None,
) -> Quantised:
    """Make an int8 model for a bundle.

    Parameters
    ----------
    bundle
        With a model in single precision.
    parts
        Recordings on its grid, split as they were for training.
    exclude_labels
        Regions that are no ordinary movement.
    seed
        Of what is injected for the calibration; the one of the training makes both calibrations comparable.
    graph
        A graph quantised elsewhere, such as by NVIDIA ModelOpt; none is made then.
    proof
        Compare all forms on the test part.
    recalibrate
        Calibrate single precision anew as well: for recordings other than those the bundle was made of.
    report
        Called with what is being done.

    Raises
    ------
    SignalError
        A part that is needed is empty or too short.
    BackendError
        No layer bears int8 within the budget, or the graph breaks TensorRT's contract.
    """
    say = report or (lambda what: None)
    missing = [
        n for n, part in (("calibration", parts.calibration), ("test", parts.test if proof else [1])) if not part
    ]
    if missing:
        raise SignalError(f"nobody is left for {' and '.join(missing)}: raise the shares, or give more people")
    errors: dict[str, float] = {}
    swept: Sweep | None = None
    if graph is None:
        graph, method, errors, swept = _quantised(bundle, parts, config, exclude_labels, say)
    else:
        method = "elsewhere"
    check = check_qdq(graph).require(f"the int8 graph of {bundle.manifest.name}")
    if not check.int8:
        raise BackendError(f"no product of this graph is int8 ({', '.join(check.floating)} run in float)")

    def calibrated(precision: str) -> Calibration:
        say(f"calibrating {precision}")
        backend = OnnxBackend(grown, precision=precision)
        blank = Calibration.blank(bundle.manifest)
        scorers = [(parts.calibration, Scorer(grown, backend=backend, calibration=blank))]
        return calibrate_cohort(scorers, exclude_labels=exclude_labels, seed=seed)

    grown = with_graph(bundle, graph, precision=_INT8)
    members = {**grown.parts, calibration_name(_INT8): arrays_to_npz(calibrated(_INT8).to_arrays())}
    if recalibrate:
        members[CALIBRATION_NAME] = arrays_to_npz(calibrated("fp32").to_arrays())
    entries = grown.manifest.model_dump(mode="json", exclude={"parts"})
    quality: dict[str, str | int | float] = {k: v for k, v in entries["quality"].items() if not k.startswith(_INT8)}
    quality |= {"int8_method": method, "int8_layers": len(check.int8), "int8_float_layers": len(check.floating)}
    if swept is not None:
        quality["int8_score_error"] = round(swept.error, 5)
    packed = pack_bundle({**entries, "quality": quality}, members)
    proved: Proof | None = None
    if proof:
        proved = prove(
            read_bundle(packed),
            parts.test,
            exclude_labels=exclude_labels,
            seed=seed,
            progress=lambda form: say(f"proving {form}"),
        )
        quality |= _key_figures(proved)
        members[PARITY_NAME] = json.dumps(proved.to_dict(), indent=1, sort_keys=True).encode()
    entries["quality"] = quality
    card = model_card(entries)
    if proved is not None:
        card += f"\n## The same answer in every form\n\n{as_markdown(proved.to_dict())}"
    members[CARD_NAME] = card.encode()
    data = pack_bundle(entries, members)
    return Quantised(data, read_bundle(data), method, errors, swept, check, proved)


def _quantised(
    bundle: Bundle, parts: Parts, config: Int8Config, exclude_labels: Sequence[str], say: Callable[[str], None]
) -> tuple[bytes, str, dict[str, float], Sweep]:
    """Choose ranges and layers; return graph, method, the methods' errors on equal layers, and the sweep."""
    for name, part in (("ranges", parts.training), ("the choice of layers", parts.stopping)):
        if not part:
            raise SignalError(f"no recordings for {name}: the split leaves none")
    fp32 = bundle.model_bytes()
    ranges_from = excerpts(parts.training, total_s=config.range_s)
    error = ScoreError(bundle, excerpts(parts.stopping, total_s=config.compare_s))
    wanted: tuple[Method, ...] = METHODS if config.method in ("auto", "qat") else (config.method,)  # type: ignore[assignment]
    scales: dict[Method, dict[str, float]] = {}
    for method in wanted:
        say(f"ranges by {method}")
        scales[method] = activation_scales(fp32, (feed_of(r, bundle) for r in ranges_from), method=method)

    def swept(method: Method) -> Sweep:
        return sweep(
            fp32, scales[method], error, budget=config.budget, progress=lambda name: say(f"{name} by {method}")
        )

    found = swept(wanted[0])
    errors: dict[str, float] = {}
    for method in wanted:
        errors[method] = (
            error.of(quantise(fp32, scales[method], layers=found.int8)) if found.int8 else found.rows[0].alone
        )
    best = min(wanted, key=lambda m: errors[m])
    if best != wanted[0]:
        found = swept(best)
    if not found.int8:
        row = found.rows[0]
        raise BackendError(
            f"no layer bears int8 within a score error of {config.budget:g}: "
            f"{row.layer}, the best, causes {row.alone:.3g}"
        )
    graph = quantise(fp32, scales[best], layers=found.int8)
    if config.method != "qat":
        return graph, best, errors, found
    m = bundle.manifest
    say("fine-tuning in int8")
    tuned, _ = tune(
        restore_model(fp32, m),
        scales[best],
        parts.training,
        Normalisation(np.array(m.center, np.float32), np.array(m.scale, np.float32), m.clip),
        config.qat,
        layers=found.int8,
        exclude_labels=exclude_labels,
        progress=lambda step, loss: say(f"fine-tuning in int8: step {step}") if step % 25 == 0 else None,
    )
    fine = quantise(export_onnx(tuned), scales[best], layers=found.int8)
    errors["qat"] = error.of(fine)
    if errors["qat"] >= found.error:  # tuning that does not help is not shipped; the errors say so
        return graph, best, errors, found
    return fine, "qat", errors, replace(found, error=errors["qat"])


def _key_figures(proof: Proof) -> dict[str, str | int | float]:
    """Return what the manifest says of the proof."""
    names = (
        "z_relative_rmse",
        "vus_pr_change",
        "vus_pr_injected_change",
        "flipped",
        "order_changed",
        "hit_at_1_change",
    )
    facts: dict[str, str | int | float] = {
        f"int8_{name}": round(value, 6)
        for name in names
        if (value := getattr(proof.row("ONNX int8"), name)) is not None
    }
    streaming = proof.row("ONNX fp32 streaming").z_relative_rmse
    if streaming is not None:
        facts["fp32_streaming_z_relative_rmse"] = float(f"{streaming:.2e}")
    missed = [name for name, met in proof.goals().items() if not met]
    return {**facts, "parity_goals_missed": ", ".join(missed) or "none"}
