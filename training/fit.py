"""Training: recordings to a forecaster, with the linear baseline's figure beside the network's.

The linear part is solved first, in closed form; the network starts as exactly that model and trains jointly on the
Student-t likelihood of what comes next. Equal data, configuration and seed give equal weights on one machine, also
when training was interrupted and resumed from its checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from kinedge.config import Config
from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.linear import LinearFit, fit_linear
from kinedge.training.model import LOG_SIGMA_MAX, LOG_SIGMA_MIN, Forecaster, ForecasterConfig, StudentT
from kinedge.training.windows import Augmentation, Normalisation, Pieces, common_layout

__all__ = ["EpochRecord", "FitConfig", "FitResult", "evaluate_nll", "fit"]

_WARM_UP_STEPS: Final = 50
_EVALUATION_CHUNK: Final = 8_192
_CHECKPOINT_FORMAT: Final = 1


class FitConfig(Config):
    """How a forecaster is trained.

    The network: ``horizons`` to ``kernel`` as in :class:`~kinedge.training.model.ForecasterConfig`. A crop holds
    the receptive field, which counts for nothing, and ``window`` samples that count. ``steps_per_epoch`` is None for
    one pass over the training data. Regions labelled with one of ``exclude_labels`` (``freeze``, ``anomaly:*``) are
    cut out of training and validation.
    """

    horizons: tuple[int, ...] = (2, 10)
    var_order: int = Field(default=16, ge=2, le=64)
    width: int = Field(default=24, ge=4, le=256)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    kernel: int = Field(default=3, ge=2, le=9)
    clip: float = Field(default=20.0, gt=0, le=1000)

    ridge: float = Field(default=1e-4, ge=0, le=1e3)
    window: int = Field(default=256, ge=16, le=65_536)
    batch: int = Field(default=16, ge=1, le=4096)
    steps_per_epoch: int | None = Field(default=100, ge=1)
    max_epochs: int = Field(default=40, ge=0, le=10_000)
    patience: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=1.2e-2, gt=0, le=1)
    weight_decay: float = Field(default=1e-2, ge=0, le=1)

    sensor_dropout: float = Field(default=0.1, ge=0, lt=1)
    burst_dropout: float = Field(default=0.25, ge=0, le=1)
    burst_s: float = Field(default=2.0, gt=0, le=60)
    rotation_deg: float = Field(default=0.0, ge=0, le=90)
    exclude_labels: tuple[str, ...] = ("freeze", "outside", "anomaly:*")

    seed: int = Field(default=0, ge=0)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _makes_a_network(self) -> FitConfig:
        try:
            self.forecaster(1)
        except ConfigError as e:
            raise ValueError(str(e)) from e
        return self

    def forecaster(self, n_channels: int) -> ForecasterConfig:
        """Return the shape of the network for this many channels."""
        return ForecasterConfig(n_channels, self.horizons, self.var_order, self.width, self.dilations, self.kernel)

    @property
    def augmentation(self) -> Augmentation:
        """What is done to crops."""
        return Augmentation(self.sensor_dropout, self.burst_dropout, self.burst_s, self.rotation_deg)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch; negative log-likelihoods are means per channel, horizon and sample, in normalised units."""

    epoch: int
    train_nll: float
    val_nll: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FitResult:
    """A trained forecaster and what is needed to use and to judge it.

    Parameters
    ----------
    model
        On the CPU, in evaluation mode, with the weights of the best epoch.
    center, scale : (C,)
        Of the normalisation, in SI units.
    nu : (H, C)
        Student-t degrees of freedom, above 2.
    val_nll, linear_val_nll
        Of the network and of the linear baseline, on the same validation samples.
    train_digest, val_digest
        SHA-256 over the digests of the recordings.
    """

    model: Forecaster
    config: FitConfig
    sensors: tuple[SensorSpec, ...]
    rate_hz: float
    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    clip: float
    nu: NDArray[np.float32]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    val_nll: float
    linear_val_nll: float
    train_digest: str
    val_digest: str
    seconds: float

    @property
    def normalisation(self) -> Normalisation:
        """Center, scale and clip as the function that training used."""
        return Normalisation(self.center, self.scale, self.clip)


def fit(
    train: Sequence[Recording],
    val: Sequence[Recording],
    config: FitConfig,
    *,
    progress: Callable[[EpochRecord], None] | None = None,
    checkpoint: Path | None = None,
) -> FitResult:
    """Train a forecaster.

    Parameters
    ----------
    train, val
        Recordings on the model's grid with equal sensors and rate; keep subjects apart.
    progress
        Called after each epoch; epoch 0 is the linear baseline.
    checkpoint
        Written after each epoch; when it exists already, training goes on from there.

    Raises
    ------
    SignalError
        The recordings differ in layout or are too short.
    ConfigError
        The device is not there, or the checkpoint is damaged or of another run.
    """
    started = time.monotonic()
    if not (train and val):
        raise SignalError("training and validation need at least one recording each")
    common_layout([*train, *val])
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no such device here; use cpu")
    shape = config.forecaster(sum(s.n_channels for s in train[0].sensors))
    needed = shape.receptive_field + shape.horizons[-1] + 1
    pieces, val_pieces = (Pieces.of(r, exclude_labels=config.exclude_labels, min_length=needed) for r in (train, val))
    normalisation = Normalisation.fit(pieces, clip=config.clip)
    with _torch_settings(config):
        run = _Run(config, shape, pieces, val_pieces, normalisation, digests=(_digest(train), _digest(val)))
        if checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint)
        else:
            run.start(progress)
        while run.may_go_on():
            record = run.epoch()
            if checkpoint is not None:
                run.save(checkpoint)
            if progress is not None:
                progress(record)
        model, nu = run.best_model()
    best = min(run.history, key=lambda r: r.val_nll)
    return FitResult(
        model=model,
        config=config,
        sensors=pieces.sensors,
        rate_hz=pieces.rate_hz,
        center=normalisation.center,
        scale=normalisation.scale,
        clip=config.clip,
        nu=nu,
        history=tuple(run.history),
        best_epoch=best.epoch,
        val_nll=best.val_nll,
        linear_val_nll=run.history[0].val_nll,
        train_digest=run.digests[0],
        val_digest=run.digests[1],
        seconds=time.monotonic() - started,
    )


@contextmanager
def _torch_settings(config: FitConfig) -> Iterator[None]:
    """Use the threads asked for, and give them and the random state back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _digest(recordings: Sequence[Recording]) -> str:
    return hashlib.sha256("".join(r.digest() for r in recordings).encode()).hexdigest()


class _Run:
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
        self.digests = digests
        self.history: list[EpochRecord] = []
        self.model = Forecaster(shape).to(config.device)
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
        shape = self.model.config
        linear = fit_linear(
            x, mask, p.starts, p.ends,
            horizons=shape.horizons, var_order=shape.var_order, ridge=self.config.ridge, seed=self.config.seed,
        )  # fmt: skip
        _install(linear, self.model)
        self.likelihood.load_state_dict(StudentT(linear.nu).state_dict())
        self.history = [EpochRecord(0, self._nll(self.pieces), self._nll(self.val_pieces), time.monotonic() - begun)]
        self._keep_best()
        if progress is not None:
            progress(self.history[0])

    def may_go_on(self) -> bool:
        """Whether another epoch is allowed and may still help."""
        best = min(self.history, key=lambda r: r.val_nll)
        done = self.history[-1].epoch
        return done < self.config.max_epochs and done - best.epoch < self.config.patience

    def epoch(self) -> EpochRecord:
        """Train for one epoch and validate. Its draws depend on seed and epoch alone, so it can be resumed."""
        begun = time.monotonic()
        number = len(self.history)
        rng = np.random.default_rng([self.config.seed, number])
        self.model.train()
        total, count = 0.0, 0.0
        for step in range(self.n_steps):
            rate = self._rate((number - 1) * self.n_steps + step)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            loss, weight = self._loss(rng)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            total += float(loss.detach()) * weight
            count += weight
        record = EpochRecord(number, total / max(count, 1.0), self._nll(self.val_pieces), time.monotonic() - begun)
        self.history.append(record)
        if record.val_nll <= min(r.val_nll for r in self.history):
            self._keep_best()
        return record

    def _rate(self, step: int) -> float:
        """Learning rate: a short linear rise, then half a cosine down to 2 %."""
        total = max(1, self.config.max_epochs * self.n_steps)
        cosine = 0.51 + 0.49 * math.cos(math.pi * min(1.0, step / total))
        return self.config.learning_rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * cosine

    def _loss(self, rng: np.random.Generator) -> tuple[Tensor, float]:
        shape, config = self.model.config, self.config
        horizon = shape.horizons[-1]
        n_input = shape.receptive_field + config.window
        values, valid, _ = self.pieces.crops(rng, n_crops=config.batch, length=n_input + horizon)
        config.augmentation.rotate(rng, values, valid, self.pieces.sensors)
        x, present = self.normalisation.apply(values, valid)
        seen = present[:, :n_input].copy()
        config.augmentation.drop(rng, seen, self.pieces.sensors, rate_hz=self.pieces.rate_hz)
        truth, there = (torch.from_numpy(a).to(config.device) for a in (x, present))
        mask = torch.from_numpy(seen).to(config.device)
        mu, log_sigma, _ = self.model(truth[:, :n_input] * mask, mask, self.model.initial_state(config.batch))
        return _masked_nll(self.likelihood, truth, there, mu, log_sigma, shape, first=shape.receptive_field)

    def _nll(self, pieces: Pieces) -> float:
        return evaluate_nll(self.model, self.likelihood, pieces, self.normalisation)

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


def _install(linear: LinearFit, model: Forecaster) -> None:
    """Make the network the linear model: its own correction is zero, its log-scale the residuals'."""
    log_sigma = np.clip(np.log(linear.sigma), LOG_SIGMA_MIN, LOG_SIGMA_MAX).flatten()
    with torch.no_grad():
        model.var.weight.copy_(torch.from_numpy(linear.weight))
        model.var.bias.copy_(torch.from_numpy(linear.bias))
        model.head.bias[model.config.n_outputs :] = torch.from_numpy(log_sigma)


def _masked_nll(
    likelihood: StudentT,
    truth: Tensor,
    there: Tensor,
    mu: Tensor,
    log_sigma: Tensor,
    shape: ForecasterConfig,
    *,
    first: int,
) -> tuple[Tensor, float]:
    """Return the mean over present targets, and their number; predictions before row ``first`` do not count."""
    n = mu.shape[1]
    target = torch.cat([truth[:, first + h : n + h] for h in shape.horizons], dim=-1)
    weight = torch.cat([there[:, first + h : n + h] for h in shape.horizons], dim=-1)
    loss = likelihood(target, mu[:, first:], log_sigma[:, first:])
    count = weight.sum()
    return (loss * weight).sum() / count.clamp(min=1.0), float(count)


def evaluate_nll(model: Forecaster, likelihood: StudentT, pieces: Pieces, normalisation: Normalisation) -> float:
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
            for at in range(int(start), int(end) - horizon, _EVALUATION_CHUNK):
                stop = min(at + _EVALUATION_CHUNK, int(end) - horizon)
                x, there = normalisation.apply(pieces.values[at : stop + horizon], pieces.valid[at : stop + horizon])
                truth, present = (torch.from_numpy(a)[None].to(device) for a in (x, there))
                n = stop - at
                mu, log_sigma, state = model(truth[:, :n], present[:, :n], state)
                first = max(0, shape.receptive_field - (at - int(start)))
                if first < n:
                    loss, weight = _masked_nll(likelihood, truth, present, mu, log_sigma, shape, first=first)
                    total += float(loss) * weight
                    count += weight
    if count == 0:
        raise SignalError("no present sample to evaluate on; the recordings hold nothing but gaps")
    return total / count
