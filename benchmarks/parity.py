"""One result out of the parity proofs that bundles carry: every form of every model, with its data and its goals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kinedge.benchmarks.harness import result
from kinedge.bundle import read_bundle
from kinedge.errors import BundleError
from kinedge.quantize.variants import PARITY_NAME

__all__ = ["bench_parity"]


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
            raise BundleError(f"{path} carries no parity proof; make it with kinedge quantize --prove")
        proof = json.loads(bundle.parts[PARITY_NAME])
        manifest = bundle.manifest
        settings[manifest.name] = {
            "digest": bundle.digest[:16],
            "training": {k: v for k, v in manifest.training.items() if k != "command"},
            "int8": {k: v for k, v in manifest.quality.items() if k.startswith("int8_")},
            **{k: v for k, v in proof.items() if k != "rows"},
        }
        rows += [{"what": f"{manifest.name}: {row['form']}", **row} for row in proof["rows"]]
    return result("parity", rows, settings=settings)
