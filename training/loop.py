"""The training loop: one epoch after the other, each resumable, and what it all is measured by."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kinedge.edge.gaps import Gaps
from kinedge.errors import ConfigError, SignalError
from kinedge.training.augment import Augment, apply
from kinedge.training.linear import fit_linear
from kinedge.training.model import Forecaster, ForecasterConfig, StudentT
from kinedge.training.settings import FitConfig
from kinedge.training.windows import Normalisation, Pieces, filled

__all__ = ["EpochRecord", "Loop", "evaluate_nll", "masked_nll"]

_WARM_UP_STEPS: Final = 50
_EVALUATION_CHUNK: Final = 8_192
_CHECKPOINT_FORMAT: Final = 1
_ONE_AT_A_TIME: Final = threading.Lock()


@dataclass(frozen=True)
class EpochRecord:
    """One epoch; negative log-likelihoods are means per channel, horizon and sample, in normalised units."""

    epoch: int
    train_nll: float
    val_nll: float
    seconds: float


class Loop:
    """One training run: everything that changes from epoch to epoch, and its checkpoint."""

    def __init__(
        self,
        config: FitConfig,
        shape: ForecasterConfig,
        pieces: Pieces,
        val_pieces: Pieces,
        normalisation: Normalisation,
        *,
        digests: tuple[str, str],
    ) -> None:
        self.config = config
        self.pieces = pieces
        self.val_pieces = val_pieces
        self.normalisation = normalisation
        self.gaps = Gaps(config.hold_s, pieces.rate_hz)
        self.digests = digests
        self.history: list[EpochRecord] = []
        # torch draws first weights from one state for the whole process; trainings may share it in threads
        with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Forecaster(shape).to(config.device)
        self._forward = torch.compile(self.model) if config.compile else self.model
        self.likelihood = StudentT(np.full((len(shape.horizons), shape.n_channels), 5.0, np.float32)).to(config.device)
        self.best: dict[str, dict[str, Tensor]] = {}
        counted = len(pieces.values) - len(pieces.starts) * shape.receptive_field
        self.n_steps = config.steps_per_epoch or max(1, math.ceil(counted / (config.batch * config.window)))
        matrices = [p for name, p in self.model.named_parameters() if name.endswith("weight") and "var" not in name]
        others = [p for name, p in self.model.named_parameters() if not name.endswith("weight") or "var" in name]
        # The linear part stands already: it follows slowly, and is not pulled towards zero.
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay, "factor": 1.0},
                {"params": others, "weight_decay": 0.0, "factor": 0.3},
                {"params": list(self.likelihood.parameters()), "weight_decay": 0.0, "factor": 1.0},
            ],
            lr=config.learning_rate,
        )

    def start(self, progress: Callable[[EpochRecord], None] | None) -> None:
        """Solve the linear part; record it as epoch 0."""
        begun = time.monotonic()
        p = self.pieces
        x, mask = self.normalisation.apply(p.values, p.valid)
        for start, end in zip(p.starts, p.ends, strict=True):
            x[start:end] = filled(x[start:end], mask[start:end], self.gaps)
        shape = self.model.config
        linear = fit_linear(
            x, mask, p.starts, p.ends,
            horizons=shape.horizons, var_order=self.config.var_order, ridge=self.config.ridge, seed=self.config.seed,
        )  # fmt: skip
        baseline = self.model
        if not self.config.linear_skip:
            with torch.random.fork_rng(devices=[]):
                baseline = Forecaster(replace(shape, var_order=self.config.var_order)).to(self.config.device)
        baseline.begin_as(linear)
        self.likelihood.load_state_dict(StudentT(linear.nu).state_dict())
        train_nll, val_nll = (
            evaluate_nll(baseline, self.likelihood, p, self.normalisation, self.gaps)
            for p in (self.pieces, self.val_pieces)
        )
        self.history = [EpochRecord(0, train_nll, val_nll, time.monotonic() - begun)]
        self._keep_best()
        if progress is not None:
            progress(self.history[0])

    def may_go_on(self) -> bool:
        """Whether another epoch is allowed and may still help."""
        done = self.history[-1].epoch
        return done < self.config.max_epochs and done - self.best_record.epoch < self.config.patience

    @property
    def best_record(self) -> EpochRecord:
        """Epoch with the best validation; the linear baseline's only if the network has it in itself."""
        own = self.history if self.config.linear_skip else self.history[1:] or self.history
        return min(own, key=lambda r: r.val_nll)

    def epoch(self) -> EpochRecord:
        """Train for one epoch and validate. Its draws depend on seed and epoch alone, so it can be resumed."""
        begun = time.monotonic()
        number = len(self.history)
        rng = self.draws_of(number)
        self.model.train()
        total, count = 0.0, 0.0
        for step in range(self.n_steps):
            rate = self.rate((number - 1) * self.n_steps + step)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            loss, weight = self._loss(rng)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            total += float(loss.detach()) * float(weight)
            count += float(weight)
        return self.close_epoch(total / max(count, 1.0), begun=begun)

    def close_epoch(self, train_nll: float, *, begun: float) -> EpochRecord:
        """Validate, and keep the weights if they are the best so far."""
        record = EpochRecord(len(self.history), train_nll, self._nll(self.val_pieces), time.monotonic() - begun)
        self.history.append(record)
        if record.val_nll <= self.best_record.val_nll:
            self._keep_best()
        return record

    def draws_of(self, epoch: int) -> np.random.Generator:
        """Return the generator of all that is drawn in an epoch."""
        return np.random.default_rng([self.config.seed, epoch])

    def rate(self, step: int) -> float:
        """Learning rate: a short linear rise, then half a cosine down to 2 %."""
        total = max(1, self.config.max_epochs * self.n_steps)
        cosine = 0.51 + 0.49 * math.cos(math.pi * min(1.0, step / total))
        return self.config.learning_rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * cosine

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw a batch of crops, augmented.

        Returns
        -------
        truth, there : (batch, n_input + horizon, C)
            What is to be predicted, and whether it is there.
        shown, seen : (batch, n_input, C)
            What the network is shown, and where that is a sample that it may look at.
        """
        shape, config = self.model.config, self.config
        n_input = shape.receptive_field + config.window
        values, valid, _ = self.pieces.crops(rng, n_crops=config.batch, length=n_input + shape.horizons[-1])
        if config.augment:
            options = Augment(**config.augment)
            sensors, rate_hz = self.pieces.sensors, self.pieces.rate_hz
            values, valid = apply(options, rng, values, valid, sensors=sensors, rate_hz=rate_hz)
        config.augmentation.rotate(rng, values, valid, self.pieces.sensors)
        x, present = self.normalisation.apply(values, valid)
        seen = present[:, :n_input].copy()
        config.augmentation.drop(rng, seen, self.pieces.sensors, rate_hz=self.pieces.rate_hz)
        shown = filled(x[:, :n_input], seen, self.gaps)
        truth, there, inputs, mask = (torch.from_numpy(a).to(config.device) for a in (x, present, shown, seen))
        return truth, there, inputs, mask

    def _loss(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        shape, config = self.model.config, self.config
        truth, there, shown, seen = self.draw(rng)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.bf16):
            mu, log_sigma, _ = self._forward(shown, seen, self.model.initial_state(config.batch))
        return masked_nll(
            self.likelihood, truth, there, mu.float(), log_sigma.float(), shape, first=shape.receptive_field
        )

    def _nll(self, pieces: Pieces) -> float:
        return evaluate_nll(self.model, self.likelihood, pieces, self.normalisation, self.gaps)

    def _keep_best(self) -> None:
        parts = {"model": self.model, "likelihood": self.likelihood}
        self.best = {k: {n: t.detach().cpu().clone() for n, t in m.state_dict().items()} for k, m in parts.items()}

    def best_model(self) -> tuple[Forecaster, NDArray[np.float32]]:
        """Return the best epoch's network on the CPU, and its nu (H, C)."""
        shape = self.model.config
        model = Forecaster(shape)
        model.load_state_dict(self.best["model"])
        self.likelihood.load_state_dict(self.best["likelihood"])
        nu = self.likelihood.nu.detach().cpu().numpy().reshape(len(shape.horizons), shape.n_channels)
        return model.eval(), nu.astype(np.float32)

    def _identity(self) -> str:
        """Name the run: a checkpoint of other data or another configuration must not be continued."""
        return hashlib.sha256(f"{self.config.model_dump_json()}|{self.digests}".encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        part = path.with_name(path.name + ".part")
        content = {
            "format": _CHECKPOINT_FORMAT,
            "identity": self._identity(),
            "history": [asdict(r) for r in self.history],
            "model": self.model.state_dict(),
            "likelihood": self.likelihood.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
        }
        try:
            torch.save(content, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as e:
            raise ConfigError(f"checkpoint {path} cannot be written ({e}); give a path in a folder that exists") from e

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of this very run."""
        try:
            content: dict[str, Any] = torch.load(path, map_location=self.config.device, weights_only=True)
            identity, version = content["identity"], content["format"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as e:
            raise ConfigError(f"checkpoint {path} cannot be read ({e}); delete it to start anew") from e
        if version != _CHECKPOINT_FORMAT or identity != self._identity():
            raise ConfigError(f"checkpoint {path} is of other data or another configuration; delete it to start anew")
        self.history = [EpochRecord(**r) for r in content["history"]]
        self.model.load_state_dict(content["model"])
        self.likelihood.load_state_dict(content["likelihood"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.best = {k: {n: t.cpu() for n, t in part.items()} for k, part in content["best"].items()}


def masked_nll(
    likelihood: Callable[[Tensor, Tensor, Tensor], Tensor],
    truth: Tensor,
    there: Tensor,
    mu: Tensor,
    log_sigma: Tensor,
    shape: ForecasterConfig,
    *,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Return the mean over present targets, and their number; predictions before row ``first`` do not count."""
    n = mu.shape[1]
    target = torch.cat([truth[:, first + h : n + h] for h in shape.horizons], dim=-1)
    weight = torch.cat([there[:, first + h : n + h] for h in shape.horizons], dim=-1)
    loss = likelihood(target, mu[:, first:], log_sigma[:, first:])
    count = weight.sum()
    return (loss * weight).sum() / count.clamp(min=1.0), count


def evaluate_nll(
    model: Forecaster, likelihood: StudentT, pieces: Pieces, normalisation: Normalisation, gaps: Gaps
) -> float:
    """Return the mean negative log-likelihood of all present targets behind each piece's warm-up.

    Parameters
    ----------
    pieces
        Long ones are streamed in chunks: the figure does not depend on how.

    Raises
    ------
    SignalError
        No target is present.
    """
    shape = model.config
    horizon = shape.horizons[-1]
    device = model.inp.weight.device
    model.eval()
    total, count = 0.0, 0.0
    with torch.no_grad():
        for start, end in zip(pieces.starts, pieces.ends, strict=True):
            state = model.initial_state(1)
            last, age = np.zeros((1, shape.n_channels), np.float32), np.zeros((1, shape.n_channels), np.int32)
            for at in range(int(start), int(end) - horizon, _EVALUATION_CHUNK):
                stop = min(at + _EVALUATION_CHUNK, int(end) - horizon)
                x, there = normalisation.apply(pieces.values[at : stop + horizon], pieces.valid[at : stop + horizon])
                n = stop - at
                shown = x[None, :n].copy()
                last, age = gaps.fill(shown, there[None, :n] > 0, last, age)
                truth, present = (torch.from_numpy(a)[None].to(device) for a in (x, there))
                mu, log_sigma, state = model(torch.from_numpy(shown).to(device), present[:, :n], state)
                first = max(0, shape.receptive_field - (at - int(start)))
                if first < n:
                    loss, weight = masked_nll(likelihood, truth, present, mu, log_sigma, shape, first=first)
                    total += float(loss) * float(weight)
                    count += float(weight)
    if count == 0:
        raise SignalError("no present sample to evaluate on; the recordings hold nothing but gaps")
    return total / count
