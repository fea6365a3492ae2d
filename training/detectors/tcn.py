"""The network detector: the causal forecaster on channels of any kind, trained on a prefix and stepped in numpy.

Choices
-------
* The network is :class:`~kinedge.training.model.Forecaster`: linear skip and small dilated TCN, Student-t likelihood,
  two horizons. It starts as the linear model, and the best epoch on the last quarter of the prefix is kept: where there
  is too little data to learn from, it stays the linear model.
* Channels that never change in the prefix cannot be learned; they are predicted to stay as they are.
* Missing samples and hidden channels are masked: in training, some channels are hidden from the input at random.
* Surprise is that of :mod:`~kinedge.training.detectors.residuals`, over channels and both horizons, in units of the
  residuals of the last quarter. The network's own scale serves its training alone: on commands that are 0 for hours it
  becomes so small that the next command outshines everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kinedge.errors import ConfigError, SignalError
from kinedge.training.detectors.interface import Detector, Standardisation, State, checked_samples, restored
from kinedge.training.detectors.residuals import ResidualUnits, mean_surprise
from kinedge.training.linear import fit_linear
from kinedge.training.model import Forecaster, ForecasterConfig, StudentT

__all__ = ["TcnConfig", "TcnDetector"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_CHUNK: Final = 2048
_CHECK_EVERY: Final = 50


@dataclass(frozen=True)
class TcnConfig:
    """Shape and training of the network detector.

    Parameters
    ----------
    horizons, var_order, width, dilations
        As in :class:`~kinedge.training.model.ForecasterConfig`.
    clip, residual_clip, unit, floor, forget
        As in :class:`~kinedge.training.detectors.var.VarConfig`.
    ridge
        Of the linear start, in all.
    steps, batch, window, learning_rate
        Most steps of Adam; crops per step; samples of a crop that count.
    dropout
        Probability that a channel of a crop is hidden from the input.
    seed
        Equal data and seed give equal weights on one machine.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    horizons: tuple[int, ...] = (1, 5)
    var_order: int = 12
    width: int = 24
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    clip: float = 50.0
    residual_clip: float = 100.0
    unit: float = 0.02
    floor: float = 0.01
    forget: float = 1000.0
    ridge: float = 1000.0
    steps: int = 250
    batch: int = 8
    window: int = 96
    learning_rate: float = 3e-3
    dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.window < 8 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"training of a network detector needs steps, crops and a window of 8 samples, got {self}"
            )
        if (
            min(self.clip, self.residual_clip, self.unit, self.floor, self.learning_rate) <= 0
            or min(self.ridge, self.forget) < 0
        ):
            raise ConfigError(f"clips, unit, floor and rate must be above 0, ridge and forget not below it, got {self}")


class TcnDetector(Detector):
    """Mean square of the network's normalised residuals, per sample."""

    def __init__(self, config: TcnConfig = TcnConfig()) -> None:
        self.config = config
        self._n_channels = 0
        self._layers: dict[str, F32] = {}

    def fit(self, prefix: ArrayLike) -> F64:
        """Train on a prefix (n, C); the last quarter decides when to stop, and its scores set the scale of all.

        Raises
        ------
        SignalError
            No channel changes, or the prefix is too short for the receptive field.
        """
        cfg = self.config
        x = checked_samples(prefix)
        self._n_channels = x.shape[1]
        standard = Standardisation.fit(x, clip=cfg.clip, unit=cfg.unit)
        z, present = standard.apply(x)
        self._columns, self._constant = (np.flatnonzero(c) for c in (np.ptp(z, axis=0) > 0, np.ptp(z, axis=0) == 0))
        if len(self._columns) == 0:
            raise SignalError("no channel of the prefix changes; there is nothing for a network to learn")
        self._standard = standard
        self._shape = ForecasterConfig(len(self._columns), cfg.horizons, cfg.var_order, cfg.width, cfg.dilations)
        least = 4 * (self._shape.receptive_field + cfg.horizons[-1] + 8) // 3
        if len(x) < least:
            raise SignalError(f"the prefix has {len(x)} samples; this network needs at least {least}")
        data = z[:, self._columns].astype(np.float32), present[:, self._columns].astype(np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(cfg.seed)
                model = _train(self._shape, cfg, *data)
        finally:
            torch.set_num_threads(threads)
        self._layers = {name: value.numpy().copy() for name, value in model.state_dict().items()}
        self._reset()
        residual, there = self._residuals(x)
        late = 3 * len(x) // 4
        self._units = ResidualUnits(
            residual[late:], there[late:], floor=cfg.floor, clip=cfg.residual_clip, forget=cfg.forget
        )
        self._reset()
        scores = self.step(x)
        self._reset()
        return scores

    def _reset(self) -> None:
        shape = self._shape
        n_channels, horizon = shape.n_channels, shape.horizons[-1]
        self._state: State = {
            "var": np.zeros((shape.var_order - 1, n_channels), np.float32),
            "mu": np.zeros((horizon, shape.n_outputs), np.float32),
            "square": np.ones(shape.n_outputs + len(self._constant)),
            "n_seen": np.zeros(1, dtype=np.int64),
        }
        for i, kept in enumerate(shape.history):
            self._state[f"conv{i}"] = np.zeros((kept, shape.width), np.float32)

    def step(self, x: ArrayLike) -> F64:
        """Take (n, C), return the surprise (n,)."""
        values = checked_samples(x, n_channels=self._n_channels)
        parts = [self._step(values[a : a + _CHUNK]) for a in range(0, len(values), _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _step(self, x: F64) -> F64:
        residual, there = self._residuals(x)
        squares, self._state["square"] = self._units.surprise(residual, there, self._state["square"])
        return mean_surprise(squares, there)

    def _residuals(self, x: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Return what no prediction explains (n, K), and where that can be told; moves the state on."""
        whole, whole_present = self._standard.apply(x)
        z, present = whole[:, self._columns], whole_present[:, self._columns]
        state, n, n_channels = self._state, len(x), self._shape.n_channels
        mu = np.concatenate([state["mu"], self._predict(z.astype(np.float32), present.astype(np.float32))])
        first, horizon = int(state["n_seen"][0]), self._shape.horizons[-1]
        due = [
            mu[horizon - h : horizon - h + n, i * n_channels : (i + 1) * n_channels]
            for i, h in enumerate(self._shape.horizons)
        ]
        there = np.tile(present, len(due))
        there[: max(0, self._shape.receptive_field + horizon - first)] = False
        state["mu"] = mu[-horizon:]
        state["n_seen"] = np.array([first + n], dtype=np.int64)
        residual = np.concatenate(
            [np.tile(z, len(due)) - np.concatenate(due, axis=1), whole[:, self._constant]], axis=1
        )
        return residual, np.concatenate([there, whole_present[:, self._constant]], axis=1)

    def _predict(self, x: F32, mask: F32) -> F32:
        """Return the locations that :meth:`Forecaster.forward` gives, for one stream (n, C), without torch."""
        shape, layers, state, n = self._shape, self._layers, self._state, len(x)
        seen = np.concatenate([state["var"], x])
        location = _linear(_taps(seen, n, shape.var_order, 1), layers, "var")
        state["var"] = seen[len(seen) - shape.var_order + 1 :]
        h = _linear(np.concatenate([x, mask], axis=1), layers, "inp")
        for i, (kept, dilation) in enumerate(zip(shape.history, shape.dilations, strict=True)):
            seen = np.concatenate([state[f"conv{i}"], np.maximum(h, 0)])
            h = h + _linear(_taps(seen, n, shape.kernel, dilation), layers, f"convs.{i}")
            state[f"conv{i}"] = seen[len(seen) - kept :]
        correction: F32 = _linear(np.maximum(h, 0), layers, "head")[:, : shape.n_outputs]
        return location + correction

    @property
    def state(self) -> State:
        """Past inputs of every block, predictions not yet due, samples seen."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self._state = restored(self._state, state)

    @property
    def n_parameters(self) -> int:
        """Weights, two numbers per channel, one per residual."""
        n_weights = sum(layer.size for layer in self._layers.values())
        return n_weights + 2 * self._n_channels + len(self._units.deviation)


def _linear(x: F32, layers: Mapping[str, F32], name: str) -> F32:
    return np.asarray(x @ layers[f"{name}.weight"].T + layers[f"{name}.bias"], dtype=np.float32)


def _taps(seen: F32, n: int, kernel: int, dilation: int) -> F32:
    return np.concatenate([seen[k * dilation : k * dilation + n] for k in range(kernel)], axis=1)


def _train(shape: ForecasterConfig, cfg: TcnConfig, x: F32, mask: F32) -> Forecaster:
    """Return the network of the best check on the last quarter; the first check is the linear model."""
    n_fit = 3 * len(x) // 4
    linear = fit_linear(
        x, mask, np.array([0]), np.array([n_fit]),
        horizons=shape.horizons, var_order=shape.var_order, ridge=cfg.ridge / n_fit, seed=cfg.seed,
    )  # fmt: skip
    model, likelihood = Forecaster(shape), StudentT(linear.nu)
    model.begin_as(linear)
    optimiser = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=cfg.learning_rate)
    rng = np.random.default_rng(cfg.seed)
    truth, there = torch.from_numpy(x), torch.from_numpy(mask)
    length = min(shape.receptive_field + cfg.window, n_fit - shape.horizons[-1] - 1)
    best = _nll(
        model, likelihood, truth[None, n_fit - shape.receptive_field :], there[None, n_fit - shape.receptive_field :]
    )
    kept, lowest = {k: v.clone() for k, v in model.state_dict().items()}, float(best.detach())
    for step in range(1, cfg.steps + 1):
        starts = rng.integers(0, n_fit - length - shape.horizons[-1], cfg.batch)
        index = torch.from_numpy(starts[:, None] + np.arange(length + shape.horizons[-1]))
        hidden = torch.from_numpy(rng.random((cfg.batch, 1, shape.n_channels)) < cfg.dropout)
        loss = _nll(model, likelihood, truth[index], there[index], hidden=hidden)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % _CHECK_EVERY == 0:
            with torch.no_grad():
                start = n_fit - shape.receptive_field
                value = float(_nll(model, likelihood, truth[None, start:], there[None, start:]))
            if value < lowest:
                kept, lowest = {k: v.clone() for k, v in model.state_dict().items()}, value
    model.load_state_dict(kept)
    return model.eval()


def _nll(model: Forecaster, likelihood: StudentT, x: Tensor, there: Tensor, *, hidden: Tensor | None = None) -> Tensor:
    """Return the mean over present targets behind the warm-up, (B, T, C)."""
    shape = model.config
    n, first = x.shape[1] - shape.horizons[-1], min(shape.receptive_field, x.shape[1] - shape.horizons[-1] - 1)
    mask = there[:, :n] if hidden is None else there[:, :n] * ~hidden
    mu, log_sigma, _ = model(x[:, :n] * mask, mask, model.initial_state(len(x)))
    target = torch.cat([x[:, first + h : n + h] for h in shape.horizons], dim=-1)
    weight = torch.cat([there[:, first + h : n + h] for h in shape.horizons], dim=-1)
    loss: Tensor = likelihood(target, mu[:, first:], log_sigma[:, first:])
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)
