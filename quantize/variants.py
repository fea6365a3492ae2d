"""A bundle and more precisions beside the one it has: int8, fp16, each with a calibration of its own, and the proof.

Who may be used for what follows from how the bundle was trained: ranges (and fine-tuning) from people it was trained
on; the method and the layers from those that stopped the training; calibration from the calibration part; the proof
from people who had no part in anything. The calibration in single precision stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kinedge.arrays import arrays_to_npz
from kinedge.bundle import CALIBRATION_NAME, CARD_NAME, Bundle, calibration_name, pack_bundle, read_bundle
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.edge.calibration import Calibration
from kinedge.edge.scoring import Scorer
from kinedge.errors import BackendError, SignalError
from kinedge.quantize.adopt import adopt
from kinedge.quantize.card import model_card
from kinedge.quantize.checker import QdqReport, check_qdq
from kinedge.quantize.choosing import Chosen, Int8Config, choose_int8
from kinedge.quantize.follow import follow_calibration
from kinedge.quantize.fp16 import to_fp16
from kinedge.quantize.parity import Proof, prove
from kinedge.quantize.parity_table import as_markdown
from kinedge.quantize.parts import Parts
from kinedge.quantize.sensitivity import Sweep, with_graph
from kinedge.recording import Recording
from kinedge.training.cohort import calibrate_cohort

__all__ = ["PARITY_NAME", "Int8Config", "Quantised", "Reduced", "add_precisions", "same_recordings"]

Reduced = Literal["int8", "fp16"]

PARITY_NAME: Final = "parity.json"


@dataclass(frozen=True, eq=False)
class Quantised:
    """A bundle with more precisions, and how its int8 model came about: None where it was not made now.

    ``changes`` tell what was changed in a graph from elsewhere.
    """

    data: bytes
    bundle: Bundle
    int8: Chosen | None
    check: QdqReport | None
    proof: Proof | None
    changes: tuple[str, ...] = ()

    @property
    def sweep(self) -> Sweep | None:
        """What each layer costs in int8; None for a graph from elsewhere."""
        return None if self.int8 is None else self.int8.sweep

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        errors = {} if self.int8 is None else self.int8.errors
        return {
            "digest": self.bundle.digest,
            "precisions": sorted(self.bundle.manifest.precisions),
            "method": None if self.int8 is None else self.int8.method,
            "score_error_by_method": {k: round(v, 6) for k, v in errors.items()},
            "sensitivity": None if self.sweep is None else self.sweep.to_dict(),
            "changes": list(self.changes),
            "contract": None if self.check is None else self.check.to_dict(),
            "parity": None if self.proof is None else self.proof.to_dict(),
        }


def same_recordings(bundle: Bundle, grid: Sequence[Recording]) -> bool:
    """Whether recordings on the model's grid are those the bundle was made of."""
    digest = sha256_hex(canonical_json(sorted(r.digest() for r in grid)))
    return bundle.manifest.training.get("data_digest") == digest


def add_precisions(
    bundle: Bundle,
    parts: Parts,
    config: Int8Config,
    *,
    precisions: Sequence[Reduced] = ("int8",),
    exclude_labels: Sequence[str],
    seed: int = 0,
    graph: bytes | None = None,
    proof: bool = False,
    recalibrate: bool = False,
    report: Callable[[str], None] | None = None,
) -> Quantised:
    """Make models in other precisions for a bundle.

    Parameters
    ----------
    bundle
        With a model in single precision. What it has in another precision that is not asked for stays.
    parts
        Recordings on its grid, split as they were for training.
    config
        Of int8.
    precisions
        Which to make.
    exclude_labels
        Regions that are no ordinary movement.
    seed
        Of what is injected for calibration and proof.
    graph
        A graph quantised to int8 elsewhere, such as by NVIDIA ModelOpt; none is made then. It is brought to the
        contract where that is possible (``kinedge.quantize.adopt``).
    proof
        Compare all forms on the test part.
    recalibrate
        Calibrate single precision anew as well: for recordings other than those the bundle was made of. All precisions
        have to be made then.
    report
        Called with what is being done.

    Raises
    ------
    SignalError
        A part that is needed is empty or too short.
    BackendError
        No layer bears int8 within the budget, or the graph breaks TensorRT's contract; or weights are beyond fp16; or a
        precision would keep a calibration of before.
    """
    say = report or (lambda what: None)
    missing = [
        n for n, part in (("calibration", parts.calibration), ("test", parts.test if proof else [1])) if not part
    ]
    if missing:
        raise SignalError(f"nobody is left for {' and '.join(missing)}: raise the shares, or give more people")
    left = sorted(set(bundle.manifest.precisions) - {"fp32", *precisions}) if recalibrate else []
    if left:
        raise BackendError(
            f"calibrated anew, {', '.join(left)} of this bundle would keep the old calibration; make it anew, too"
        )
    int8: Chosen | None = None
    check: QdqReport | None = None
    changes: tuple[str, ...] = ()
    grown = bundle
    facts: dict[str, str | int | float] = {}
    if "int8" in precisions:
        if graph is None:
            int8 = choose_int8(bundle, parts, config, exclude_labels=exclude_labels, say=say)
        else:
            found = adopt(graph)
            int8, changes = Chosen(found.graph, "elsewhere", {}, None), found.changes
        check = check_qdq(int8.graph).require(f"the int8 graph of {bundle.manifest.name}")
        if not check.int8:
            raise BackendError(f"no product of this graph is int8 ({', '.join(check.floating)} run in float)")
        grown = with_graph(grown, int8.graph, precision="int8")
        facts |= {"int8_method": int8.method, "int8_layers": len(check.int8), "int8_float_layers": len(check.floating)}
        if int8.sweep is not None:
            facts["int8_score_error"] = round(int8.sweep.error, 5)
    if "fp16" in precisions:
        grown = with_graph(grown, to_fp16(bundle.model_bytes()), precision="fp16")
    calibrations = _calibrations(
        grown, parts.calibration, precisions, exclude_labels=exclude_labels, seed=seed, recalibrate=recalibrate, say=say
    )
    members = {**grown.parts, **calibrations}
    entries = grown.manifest.model_dump(mode="json", exclude={"parts"})
    stale = (*precisions, "parity") if proof else tuple(precisions)
    quality = {k: v for k, v in entries["quality"].items() if not k.startswith(stale)} | facts
    proved: Proof | None = None
    if proof:
        proved = prove(
            read_bundle(pack_bundle({**entries, "quality": quality}, members)),
            parts.test,
            exclude_labels=exclude_labels,
            seed=seed,
            progress=lambda form: say(f"proving {form}"),
        )
        quality |= _key_figures(proved)
        members[PARITY_NAME] = json.dumps(proved.to_dict(), indent=1, sort_keys=True).encode()
    else:
        members.pop(PARITY_NAME, None)  # it was about other parts
    entries["quality"] = quality
    card = model_card(entries)
    if proved is not None:
        card += f"\n## The same answer in every form\n\n{as_markdown(proved.to_dict())}"
    members[CARD_NAME] = card.encode()
    data = pack_bundle(entries, members)
    return Quantised(data, read_bundle(data), int8, check, proved, changes)


def _calibrations(
    grown: Bundle,
    recordings: Sequence[Recording],
    precisions: Sequence[Reduced],
    *,
    exclude_labels: Sequence[str],
    seed: int,
    recalibrate: bool,
    say: Callable[[str], None],
) -> dict[str, bytes]:
    """Return the calibration parts that are new; those of other precisions follow that in single precision."""
    blank = Calibration.blank(grown.manifest)
    full = Scorer(grown, calibration=blank)
    members = {}
    if recalibrate:
        say("calibrating fp32")
        calibration = calibrate_cohort([(recordings, full)], exclude_labels=exclude_labels, seed=seed)
        members[CALIBRATION_NAME] = arrays_to_npz(calibration.to_arrays())
    else:
        calibration = Calibration.from_arrays(grown.calibration_arrays(), grown.manifest)
    for precision in precisions:
        say(f"calibrating {precision}")
        reduced = Scorer(grown, calibration=blank, precision=precision)
        followed = follow_calibration(calibration, full, reduced, recordings, exclude_labels=exclude_labels)
        members[calibration_name(precision)] = arrays_to_npz(followed.to_arrays())
    return members


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
        f"{precision}_{name}": float(f"{value:.3g}")
        for precision in ("fp16", "int8")
        for name in names
        if (value := getattr(proof.row(f"ONNX {precision}"), name)) is not None
    }
    streaming = proof.row("ONNX fp32 streaming").z_relative_rmse
    if streaming is not None:
        facts["fp32_streaming_z_relative_rmse"] = float(f"{streaming:.2e}")
    missed = [name for name, met in proof.goals().items() if not met]
    return {**facts, "parity_goals_missed": ", ".join(missed) or "none"}
