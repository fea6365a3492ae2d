"""The same answer in every form: a model proved on this machine, or the proofs that bundles carry, as one result.

Every form of a model has a row: one that this machine cannot run is "not run", with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinedge.benchmarks.harness import result
from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.backends import Backend, NativeBackend
from kinedge.edge.backends.tensorrt import open_tensorrt
from kinedge.errors import BackendError, BundleError
from kinedge.quantize.parity import prove
from kinedge.quantize.variants import PARITY_NAME
from kinedge.recording import Recording

__all__ = ["bench_parity", "prove_here"]

_TENSORRT = "TensorRT "


def bench_parity(bundles: Sequence[Path]) -> dict[str, Any]:
    """Collect the proofs of bundles that ``kinedge quantize --prove`` made.

    Raises
    ------
    BundleError
        A bundle cannot be read, or carries no proof.
    """
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for path in bundles:
        bundle = read_bundle(path)
        if PARITY_NAME not in bundle.parts:
            raise BundleError(f"{path} carries no parity proof; make it with kinedge quantize --prove, or give --data")
        proof = json.loads(bundle.parts[PARITY_NAME])
        name = bundle.manifest.name
        label = name if name not in settings else f"{name} {bundle.digest[:8]}"  # the same training with another seed
        settings[label] = _settings(bundle, proof)
        rows += _rows(label, proof, {}, otherwise="not run where the proof was made")
    return result("parity", rows, settings=settings)


def prove_here(
    bundle: Bundle,
    recordings: Sequence[Recording],
    *,
    exclude_labels: Sequence[str],
    n_injected: int = 60,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Prove a bundle anew with every backend that this machine has.

    Parameters
    ----------
    bundle
        With the precisions to be proved.
    recordings
        On the model's grid, of people that neither trained nor calibrated it.
    exclude_labels, n_injected, seed, progress
        As for :func:`kinedge.quantize.parity.prove`.

    Raises
    ------
    SignalError
        There is nothing to compare on.
    BackendError, BundleError
        A form that is always there does not load.
    """
    others: dict[str, Backend] = {}
    why = {f"ONNX {p}": "the bundle has no such model" for p in ("fp16", "int8")}
    try:
        NativeBackend(bundle)
    except BackendError as e:
        why["native fp32"] = str(e)
    for precision in ("fp32", "fp16", "int8"):
        form = _TENSORRT + precision
        if precision not in bundle.manifest.precisions:
            why[form] = "the bundle has no such model"
            continue
        try:
            others[form] = open_tensorrt(bundle, precision=precision)
        except BackendError as e:
            why[form] = str(e)
    proof = prove(
        bundle,
        recordings,
        exclude_labels=exclude_labels,
        others=others,
        n_injected=n_injected,
        seed=seed,
        progress=progress,
    ).to_dict()
    settings = {bundle.manifest.name: _settings(bundle, proof)}
    return result("parity", _rows(bundle.manifest.name, proof, why, otherwise=""), settings=settings)


def _settings(bundle: Bundle, proof: Mapping[str, Any]) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "digest": bundle.digest[:16],
        "training": {k: v for k, v in manifest.training.items() if k != "command"},
        "int8": {k: v for k, v in manifest.quality.items() if k.startswith("int8_")},
        **{k: v for k, v in proof.items() if k != "rows"},
    }


def _rows(label: str, proof: Mapping[str, Any], why: Mapping[str, str], *, otherwise: str) -> list[dict[str, Any]]:
    return [
        {
            "what": f"{label}: {row['form']}",
            "status": "ran" if row["run"] else "not run",
            "note": "" if row["run"] else why.get(row["form"], otherwise),
            **{k: v for k, v in row.items() if k != "run"},
        }
        for row in proof["rows"]
    ]
