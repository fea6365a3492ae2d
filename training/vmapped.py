"""Many small models trained at once: their weights stacked, one vectorised step for all (``torch.func.vmap``).

Every model has its own recordings, draws, learning-rate schedule and early stopping, as in
:func:`kinedge.training.fit.fit`; a model that has stopped leaves the stack. What differs is the order of additions
in the products, so results agree with training one by one to rounding, not to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from kinedge.errors import ConfigError, KinedgeError, SignalError
from kinedge.recording import Recording
from kinedge.training.fit import FitResult, finish, prepare, threads
from kinedge.training.loop import EpochRecord, Loop, masked_nll
from kinedge.training.settings import FitConfig

__all__ = ["FitTask", "fit_many"]

_MAX_NORM: Final = 1.0  # of a model's gradient, as in the loop
_OWN: Final = frozenset({"seed"})  # what may differ between models of one stack


@dataclass(frozen=True, eq=False)
class FitTask:
    """What :func:`kinedge.training.fit.fit` takes, for one of many models."""

    train: Sequence[Recording]
    val: Sequence[Recording]
    config: FitConfig


def fit_many(
    tasks: Sequence[FitTask], *, progress: Callable[[int, EpochRecord], None] | None = None
) -> list[FitResult | KinedgeError]:
    """Train one model per task, all at once.

    Parameters
    ----------
    tasks
        Configurations may differ in their seed alone; channels and ``steps_per_epoch`` must be the same for all.
    progress
        Called with the number of the task and its epoch.

    Returns
    -------
    list
        In the order of the tasks; an error where a task's recordings cannot be trained on.

    Raises
    ------
    ConfigError
        The tasks do not fit in one stack.
    """
    if not tasks:
        return []
    common = _common(tasks)
    results: dict[int, FitResult | KinedgeError] = {}
    started = time.monotonic()
    with threads(common.threads):
        loops: dict[int, Loop] = {}
        for i, task in enumerate(tasks):
            try:
                loops[i] = prepare(task.train, task.val, task.config)
                loops[i].start(None if progress is None else _numbered(progress, i))
            except SignalError as e:
                loops.pop(i, None)
                results[i] = e
        if len({loop.model.config for loop in loops.values()}) > 1:
            raise ConfigError("models trained at once need equally many channels; group them by their sensors")
        running = {i: loop for i, loop in loops.items() if loop.may_go_on()}
        stack = _Stack(list(running.values())) if running else None
        while stack is not None and running:
            for i, record in zip(running, stack.epoch(), strict=True):
                if progress is not None:
                    progress(i, record)
            going = [loop.may_go_on() for loop in running.values()]
            running = {i: loop for (i, loop), on in zip(running.items(), going, strict=True) if on}
            if running and not all(going):
                stack.keep(going)
        seconds = (time.monotonic() - started) / len(tasks)
        results.update({i: finish(loop, seconds=seconds) for i, loop in loops.items()})
    return [results[i] for i in range(len(tasks))]


def _common(tasks: Sequence[FitTask]) -> FitConfig:
    first = tasks[0].config
    differing = {
        name
        for task in tasks
        for name in FitConfig.model_fields
        if name not in _OWN and getattr(task.config, name) != getattr(first, name)
    }
    if differing:
        raise ConfigError(f"models trained at once differ in {', '.join(sorted(differing))}; only the seed may differ")
    if first.steps_per_epoch is None:
        raise ConfigError("models trained at once need steps_per_epoch: one pass is not equally long for all")
    if first.compile:
        raise ConfigError("compile does not go with models trained at once; set compile = false")
    return first


def _numbered(progress: Callable[[int, EpochRecord], None], i: int) -> Callable[[EpochRecord], None]:
    return lambda record: progress(i, record)


class _Stack:
    """Weights and optimiser state of models side by side; the loops keep all else."""

    def __init__(self, loops: list[Loop]) -> None:
        self.loops = loops
        self._template, self._likelihood = loops[0].model, loops[0].likelihood
        names = [n for n, _ in self._template.named_parameters()]
        self.weights = {n: self._join([dict(x.model.named_parameters())[n] for x in loops]) for n in names}
        self.tails = self._join([x.likelihood.raw for x in loops])
        self.optimiser = self._optimiser()
        self._gradients = vmap(grad_and_value(self._loss, argnums=(0, 1), has_aux=True), randomness="error")

    def _join(self, parts: Sequence[Tensor]) -> nn.Parameter:
        return nn.Parameter(torch.stack([p.detach() for p in parts]))

    def _optimiser(self) -> torch.optim.AdamW:
        """AdamW works number by number: on stacked weights it is each model's own."""
        groups: list[dict[str, Any]] = []
        for group in self.loops[0].optimiser.param_groups:
            mine = {id(p) for p in group["params"]}
            params = [self.weights[n] for n, p in self._template.named_parameters() if id(p) in mine]
            params += [self.tails] if id(self._likelihood.raw) in mine else []
            groups.append({"params": params, "weight_decay": group["weight_decay"], "factor": group["factor"]})
        return torch.optim.AdamW(groups, lr=self.loops[0].config.learning_rate)

    def _loss(
        self, weights: dict[str, Tensor], raw: Tensor, truth: Tensor, there: Tensor, shown: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        shape, config = self._template.config, self.loops[0].config
        state = torch.zeros(truth.shape[0], shape.state_size, device=truth.device)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.bf16):
            mu, log_sigma, _ = functional_call(self._template, weights, (shown, seen, state))

        def likelihood(target: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
            loss: Tensor = functional_call(self._likelihood, {"raw": raw}, (target, mu, log_sigma))
            return loss

        first = shape.receptive_field
        return masked_nll(likelihood, truth, there, mu.float(), log_sigma.float(), shape, first=first)

    def epoch(self) -> list[EpochRecord]:
        """Train all for one epoch; every model validates on its own recordings."""
        begun = time.monotonic()
        number = len(self.loops[0].history)
        rngs = [loop.draws_of(number) for loop in self.loops]
        n_steps = self.loops[0].n_steps
        total, count = torch.zeros(len(self.loops)), torch.zeros(len(self.loops))
        for step in range(n_steps):
            rate = self.loops[0].rate((number - 1) * n_steps + step)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            drawn = zip(*(loop.draw(rng) for loop, rng in zip(self.loops, rngs, strict=True)), strict=True)
            truth, there, shown, seen = (torch.stack(parts) for parts in drawn)
            detached = {n: p.detach() for n, p in self.weights.items()}
            (slopes, raw_slope), (loss, weight) = self._gradients(
                detached, self.tails.detach(), truth, there, shown, seen
            )
            self._set_gradients(slopes, raw_slope)
            self.optimiser.step()
            total += (loss.detach() * weight).cpu()
            count += weight.cpu()
        seconds_each = (time.monotonic() - begun) / len(self.loops)
        records = []
        for k, loop in enumerate(self.loops):
            self._hand_back(k)
            begun_alone = time.monotonic() - seconds_each
            records.append(loop.close_epoch(float(total[k] / count[k].clamp(min=1.0)), begun=begun_alone))
        return records

    def _set_gradients(self, slopes: dict[str, Tensor], raw_slope: Tensor) -> None:
        """Scale each model's gradient down to the norm allowed, as ``clip_grad_norm_`` does."""
        squares = torch.stack([g.flatten(1).square().sum(1) for g in slopes.values()])
        factor = (_MAX_NORM / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for name, slope in slopes.items():
            self.weights[name].grad = slope * factor.reshape(-1, *[1] * (slope.ndim - 1))
        self.tails.grad = raw_slope

    def _hand_back(self, k: int) -> None:
        loop = self.loops[k]
        with torch.no_grad():
            for name, parameter in loop.model.named_parameters():
                parameter.copy_(self.weights[name][k])
            loop.likelihood.raw.copy_(self.tails[k])

    def keep(self, going: Sequence[bool]) -> None:
        """Let models that have stopped go, with their part of the optimiser's state."""
        rows = torch.tensor([k for k, on in enumerate(going) if on], device=self.tails.device)
        self.loops = [loop for loop, on in zip(self.loops, going, strict=True) if on]
        with torch.no_grad():
            for group in self.optimiser.param_groups:
                for p in group["params"]:
                    p.data, p.grad = p.data[rows].clone(), None
                    state = self.optimiser.state[p]
                    state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"][rows], state["exp_avg_sq"][rows]
