"""A short fine-tuning with int8 in the forward pass: the network learns to say in int8 what it said in float.

Weights and inputs of the chosen layers are rounded as Q/DQ will round them; gradients pass the rounding unchanged
(straight-through). The teacher is the network itself before, not the recordings: the location, in units of the
teacher's sigma, and the log-scale shall stay where they were. What a verdict means then stays the same, too. Ranges of
activations stay as they were measured; those of weights follow the weights.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018). Deviations: symmetric, ranges of activations fixed, distilled from the network itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from kinedge.config import Config
from kinedge.edge.gaps import Gaps
from kinedge.errors import BackendError, SignalError
from kinedge.quantize.int8 import Grid, weight_scales
from kinedge.recording import Recording
from kinedge.training.model import Forecaster
from kinedge.training.windows import Normalisation, Pieces, filled

__all__ = ["QatConfig", "fake_quantised", "tune"]

_LOWEST: Final = -128
_HIGHEST: Final = 127


class QatConfig(Config):
    """How long and how fast."""

    steps: int = Field(default=150, ge=1, le=100_000)
    batch: int = Field(default=8, ge=1, le=4096)
    window: int = Field(default=256, ge=16, le=65_536, description="samples of a crop that count")
    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    seed: int = Field(default=0, ge=0)


def _linears(model: Forecaster) -> dict[str, tuple[str, nn.Module]]:
    """Return parameter name and module of every layer, by the layer's name in the exported graph."""
    layers: dict[str, tuple[str, nn.Module]] = {
        name: (f"{name}.weight", layer)
        for name, layer in (("inp", model.inp), ("head", model.head), ("var", model.var))
        if layer is not None
    }
    for i, conv in enumerate(model.convs):
        layers[f"conv_{i + 1}"] = (f"convs.{i}.weight", conv)
    return layers


@contextmanager
def fake_quantised(
    model: Forecaster, grids: Mapping[str, float | Grid], *, layers: Collection[str]
) -> Iterator[Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Give a forward pass that rounds as the int8 graph does; ``model`` itself computes it only inside the block.

    Parameters
    ----------
    grids
        Steps and shifts of the layers' inputs; weights are rounded to the nearest level.
    layers
        That are int8.

    Raises
    ------
    BackendError
        A layer is unknown, or has no scale.
    """
    known = _linears(model)
    absent = sorted(set(layers) - (set(known) & set(grids)))
    if absent:
        raise BackendError(f"no layer, or no range, for {', '.join(absent)}; there are {', '.join(known)}")

    def rounded(found: float | Grid) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
        grid = found if isinstance(found, Grid) else Grid(found)
        step = float(np.float32(grid.scale))

        def rounding(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            del module
            centred = inputs[0] - grid.shift
            return torch.fake_quantize_per_tensor_affine(centred, step, 0, _LOWEST, _HIGHEST) + grid.shift

        return rounding

    hooks = [known[name][1].register_forward_pre_hook(rounded(grids[name])) for name in layers]
    parameters = dict(model.named_parameters())

    def forward(x: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        changed = {}
        for name in layers:
            weight = parameters[known[name][0]]
            steps = torch.from_numpy(weight_scales(weight.detach().cpu().numpy())).to(weight.device)
            zero = torch.zeros(len(steps), dtype=torch.int32, device=weight.device)
            changed[known[name][0]] = torch.fake_quantize_per_channel_affine(weight, steps, zero, 0, _LOWEST, _HIGHEST)
        out: tuple[Tensor, Tensor, Tensor] = functional_call(model, changed, (x, mask, state))
        return out

    try:
        yield forward
    finally:
        for hook in hooks:
            hook.remove()


def tune(
    model: Forecaster,
    grids: Mapping[str, float | Grid],
    recordings: Sequence[Recording],
    normalisation: Normalisation,
    config: QatConfig,
    *,
    layers: Collection[str],
    exclude_labels: Sequence[str],
    gaps: Gaps | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Forecaster, tuple[float, float]]:
    """Return a network that says nearly the same in int8, and what it was taught: the loss of first and last steps.

    Parameters
    ----------
    model
        The teacher; it is not changed.
    grids, layers
        As for :func:`fake_quantised`.
    recordings
        That the model may be trained on, on its grid.
    gaps
        What is shown of missing samples; zeros when None.
    progress
        Called with step and loss.

    Returns
    -------
    model
        In single precision; to be exported and quantised with the same steps and shifts.
    losses
        Means over the first and the last tenth of the steps: mean squared differences of location, in sigmas, and of
        log-scale. Equal data, configuration and seed give equal weights on one machine.

    Raises
    ------
    BackendError
        A layer is unknown.
    SignalError
        The recordings are too short.
    """
    teacher = copy.deepcopy(model).eval()
    student = copy.deepcopy(model).train()
    first = model.receptive_field
    pieces = Pieces.of(recordings, exclude_labels=exclude_labels, min_length=first + config.window)
    rng = np.random.default_rng(config.seed)
    optimiser = torch.optim.Adam(student.parameters(), lr=config.learning_rate)
    state = model.initial_state(config.batch)
    losses = []
    with fake_quantised(student, grids, layers=layers) as forward:
        for step in range(config.steps):
            values, valid, _ = pieces.crops(rng, n_crops=config.batch, length=first + config.window)
            there, present = normalisation.apply(values, valid)
            shown = there if gaps is None else filled(there, present, gaps)
            x, mask = torch.from_numpy(shown), torch.from_numpy(present)
            with torch.no_grad():
                mu, log_sigma, _ = teacher(x, mask, state)
            got_mu, got_log_sigma, _ = forward(x, mask, state)
            distance = ((got_mu - mu) * torch.exp(-log_sigma))[:, first:], (got_log_sigma - log_sigma)[:, first:]
            loss = sum((torch.mean(d * d) for d in distance), start=torch.zeros(()))
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * (0.51 + 0.49 * math.cos(math.pi * step / config.steps))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, losses[-1])
    if not np.isfinite(losses).all():
        raise SignalError("fine-tuning in int8 diverged; take a lower learning_rate")
    tenth = max(1, len(losses) // 10)
    return student.eval(), (float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:])))
