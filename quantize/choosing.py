"""Choose an int8 graph: ranges, how weights are rounded, and which layers stay in float.

Ranges and what goes into the layers come from people the network was trained on, the choice from those who stopped the
training: nobody that calibrates or tests has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from kinedge.bundle import Bundle
from kinedge.config import Config
from kinedge.edge.gaps import Gaps
from kinedge.errors import BackendError, SignalError
from kinedge.quantize.export import export_onnx
from kinedge.quantize.int8 import METHODS, Grid, Method, activation_scales, quantise
from kinedge.quantize.parts import Parts
from kinedge.quantize.qat import QatConfig, tune
from kinedge.quantize.restore import restore_model
from kinedge.quantize.rounding import fitted, measure_inputs
from kinedge.quantize.sensitivity import ScoreError, Sweep, excerpts, feed_of, sweep
from kinedge.training.windows import Normalisation

__all__ = ["Chosen", "Int8Config", "choose_int8"]


class Int8Config(Config):
    """How an int8 model is made."""

    method: Literal["auto", "minmax", "entropy", "percentile", "qat"] = "auto"
    budget: float = Field(default=0.002, gt=0, le=10, description="largest score error that layers in int8 may cause")
    range_s: float = Field(default=600, ge=10, description="of recordings that ranges are measured on")
    compare_s: float = Field(default=600, ge=10, description="of recordings that methods and layers are chosen on")
    qat: QatConfig = QatConfig()


@dataclass(frozen=True, eq=False)
class Chosen:
    """An int8 graph, and how it came about; ``errors`` are score errors by method, on equal layers."""

    graph: bytes
    method: str
    errors: dict[str, float]
    sweep: Sweep | None


def choose_int8(
    bundle: Bundle, parts: Parts, config: Int8Config, *, exclude_labels: Sequence[str], say: Callable[[str], None]
) -> Chosen:
    """Choose ranges and layers.

    Parameters
    ----------
    bundle
        With a model in single precision.
    parts
        ``training`` and ``stopping`` are used.
    exclude_labels
        Regions that are no ordinary movement; not tuned on.
    say
        Told what is being done.

    Raises
    ------
    SignalError
        A part that is needed is empty or too short.
    BackendError
        No layer bears int8 within the budget.
    """
    for name, part in (("ranges", parts.training), ("the choice of layers", parts.stopping)):
        if not part:
            raise SignalError(f"no recordings for {name}: the split leaves none")
    fp32 = bundle.model_bytes()
    ranges_from = excerpts(parts.training, total_s=config.range_s)
    error = ScoreError(bundle, excerpts(parts.stopping, total_s=config.compare_s))
    wanted: tuple[Method, ...] = METHODS if config.method in ("auto", "qat") else (config.method,)  # type: ignore[assignment]
    say("what goes into the layers")
    inputs = measure_inputs(fp32, (feed_of(r, bundle) for r in ranges_from))
    grids: dict[Method, dict[str, Grid]] = {}
    for method in wanted:
        say(f"ranges by {method}")
        scales = activation_scales(fp32, (feed_of(r, bundle) for r in ranges_from), method=method)
        grids[method] = fitted(fp32, scales, inputs)

    def swept(method: Method) -> Sweep:
        return sweep(fp32, grids[method], error, budget=config.budget, progress=lambda name: say(f"{name} by {method}"))

    found = swept(wanted[0])
    errors: dict[str, float] = {}
    for method in wanted:
        errors[method] = (
            error.of(quantise(fp32, grids[method], layers=found.int8)) if found.int8 else found.rows[0].alone
        )
    best = min(wanted, key=lambda m: errors[m])
    if best != wanted[0]:
        found = swept(best)
    if not found.int8:
        row = found.rows[0]
        raise BackendError(
            f"no layer bears int8 within a score error of {config.budget:g}: "
            f"{row.layer}, the best, causes {row.alone:.3g}. Take --precision fp16, or train with linear_skip = true "
            "(docs/quantization.md)"
        )
    chosen = Chosen(quantise(fp32, grids[best], layers=found.int8), best, errors, found)
    if config.method != "qat":
        return chosen
    m = bundle.manifest
    say("fine-tuning in int8")
    nearest = {name: Grid(grid.scale, grid.shift) for name, grid in grids[best].items()}  # weights are still to move
    tuned, _ = tune(
        restore_model(fp32, m),
        nearest,
        parts.training,
        Normalisation(np.array(m.center, np.float32), np.array(m.scale, np.float32), m.clip),
        config.qat,
        layers=found.int8,
        exclude_labels=exclude_labels,
        gaps=Gaps(m.hold_s, m.rate_hz),
        progress=lambda step, loss: say(f"fine-tuning in int8: step {step}") if step % 25 == 0 else None,
    )
    fine = quantise(export_onnx(tuned), nearest, layers=found.int8)
    errors["qat"] = error.of(fine)
    if errors["qat"] >= found.error:  # tuning that does not help is not shipped; the errors say so
        return chosen
    return Chosen(fine, "qat", errors, replace(found, error=errors["qat"]))
