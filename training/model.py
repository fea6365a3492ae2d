"""The causal forecaster: a linear vector-autoregressive skip plus a small dilated TCN, in one readable file.

Choices
-------
* Everything is ``(batch, time, channel)``: a causal convolution is "gather the taps, then one matrix product".
  The exported graph has the same form, which costs no transposes and turns 256 streams into one large product.
* Location = VAR(p) on the input + a correction by the TCN. The correction starts at zero, so that an
  untrained network IS the linear baseline and training can only be judged against it. Without the VAR (order 0) a
  network forecasts less well, and is less at a loss where samples are: a detector may want that.
* The TCN sees ``[x, mask]``. Where the mask is 0, ``x`` is what :class:`~kinedge.edge.gaps.Gaps` shows: the last
  value, fading. Zeros there were tried: the linear part took every edge of a gap for a jump.
* Pre-activation residual blocks, ``h + conv(relu(h))``: one product per block. A second 1x1 convolution per block
  doubles the products of a streaming step, and the step is what a board pays for.
* State is one float32 tensor ``(batch, S)``: for the VAR, then for each block, the past inputs of its taps,
  time-major. Zeros are "nothing seen yet". The new state is the last rows of old state + new input, which also
  holds for chunks shorter than the state.
* The Student-t degrees of freedom stand apart (:class:`StudentT`): they are learned, but are no part of the graph.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kinedge.errors import ConfigError
from kinedge.training.linear import LinearFit

__all__ = ["LOG_SIGMA_MAX", "LOG_SIGMA_MIN", "Forecaster", "ForecasterConfig", "StudentT", "taps"]

LOG_SIGMA_MIN: Final = -7.0  # 1e-3 of a normalised unit: below it a quantised or flat channel would explode z
LOG_SIGMA_MAX: Final = 5.0
_NU_MIN: Final = 2.05  # finite variance, with room for rounding


@dataclass(frozen=True)
class ForecasterConfig:
    """Shape of a forecaster.

    Parameters
    ----------
    n_channels
        Of all sensors together.
    horizons
        Samples ahead, increasing. The output at ``t`` predicts ``x[t + h]``.
    var_order
        Samples the linear skip sees, the present one included; 0 leaves it out.
    width
        Channels inside the TCN.
    dilations, kernel
        One residual block per dilation, ``kernel`` taps each.

    Raises
    ------
    ConfigError
        A value cannot make a network.
    """

    n_channels: int
    horizons: tuple[int, ...] = (2, 10)
    var_order: int = 16
    width: int = 24
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.n_channels < 1 or self.width < 1:
            raise ConfigError(f"n_channels and width must be at least 1, got {self.n_channels} and {self.width}")
        if self.var_order < 0 or self.var_order == 1 or self.kernel < 2:
            raise ConfigError(
                f"var_order must be 0 or at least 2 and kernel at least 2, got {self.var_order} and {self.kernel}"
            )
        if not self.horizons or min(self.horizons) < 1 or list(self.horizons) != sorted(set(self.horizons)):
            raise ConfigError(f"horizons must be increasing numbers of samples from 1 on, got {self.horizons}")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"dilations must be at least one number from 1 on, got {self.dilations}")

    @property
    def n_outputs(self) -> int:
        """Columns of ``mu`` and of ``log_sigma``: horizon-major, then channel."""
        return len(self.horizons) * self.n_channels

    @property
    def receptive_field(self) -> int:
        """Samples that one prediction looks back, the present one included."""
        return max(self.var_order, 1 + (self.kernel - 1) * sum(self.dilations))

    @property
    def history(self) -> tuple[int, ...]:
        """Past samples kept for each block of the TCN."""
        return tuple((self.kernel - 1) * d for d in self.dilations)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Floats of state for the VAR and for each block, in their order in the state."""
        return max(0, self.var_order - 1) * self.n_channels, *(past * self.width for past in self.history)

    @property
    def state_size(self) -> int:
        """Floats of state per stream."""
        return sum(self.state_sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest or a checkpoint."""
        return asdict(self)


def taps(past_and_now: Tensor, *, n: int, kernel: int, dilation: int) -> Tensor:
    """Gather the taps of a causal convolution, oldest first.

    Parameters
    ----------
    past_and_now : (B, (kernel - 1) * dilation + n, C)
    n
        New samples: those that get an output.

    Returns
    -------
    (B, n, kernel * C)
    """
    return torch.cat([past_and_now[:, k * dilation : k * dilation + n] for k in range(kernel)], dim=-1)


class Forecaster(nn.Module):
    """Predict location and log-scale of every channel at every horizon, sample by sample.

    ``inp`` maps ``[x, mask]`` to the width, ``convs`` are the blocks, ``head`` maps ``relu(h)`` to
    [correction of location, log-scale], and ``var`` is the linear skip.
    """

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        c, w = config.n_channels, config.width
        self.var = nn.Linear(config.var_order * c, config.n_outputs) if config.var_order else None
        self.inp = nn.Linear(2 * c, w)
        self.head = nn.Linear(w, 2 * config.n_outputs)
        convs = [nn.Linear(config.kernel * w, w) for _ in config.dilations]
        for conv in convs:  # each block adds its share: the sum keeps the scale of its input
            nn.init.normal_(conv.weight, std=(2.0 / conv.in_features / len(convs)) ** 0.5)
            nn.init.zeros_(conv.bias)
        for linear in (self.var, self.head):
            if linear is not None:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        self.convs = nn.ModuleList(convs)

    @property
    def receptive_field(self) -> int:
        """Samples that one prediction looks back, the present one included."""
        return self.config.receptive_field

    @property
    def state_size(self) -> int:
        """Floats of state per stream."""
        return self.config.state_size

    @property
    def n_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    def begin_as(self, linear: LinearFit) -> None:
        """Become the linear model: the correction is zero, the log-scale that of its residuals.

        Raises
        ------
        ConfigError
            There is no linear skip.
        """
        if self.var is None:
            raise ConfigError("a network without the linear skip cannot begin as the linear model; give a var_order")
        log_sigma = np.clip(np.log(linear.sigma), LOG_SIGMA_MIN, LOG_SIGMA_MAX).flatten()
        with torch.no_grad():
            self.var.weight.copy_(torch.from_numpy(linear.weight))
            self.var.bias.copy_(torch.from_numpy(linear.bias))
            self.head.bias[self.config.n_outputs :] = torch.from_numpy(log_sigma)

    def initial_state(self, n_streams: int) -> Tensor:
        """Return the state (B, S) of streams that have seen nothing."""
        return torch.zeros(n_streams, self.state_size, device=self.inp.weight.device)

    def forward(self, x: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advance every stream by the samples given; any cutting of a stream into chunks gives the same numbers.

        Parameters
        ----------
        x : (B, T, C) float32
            Normalised and clipped; where masked, what :class:`~kinedge.edge.gaps.Gaps` shows there.
        mask : (B, T, C) float32
            1 where a sample is there, 0 where it is missing.
        state : (B, S) float32

        Returns
        -------
        mu, log_sigma : (B, T, H * C) float32
            In normalised units, horizon-major; row ``t`` predicts ``x[t + h]``.
        state : (B, S) float32
        """
        cfg = self.config
        n_streams, n = x.shape[0], x.shape[1]
        var_past, *conv_pasts = torch.split(state, list(cfg.state_sizes), dim=1)
        location, new_state = torch.zeros((), device=x.device), []
        if self.var is not None:
            seen = torch.cat([var_past.reshape(n_streams, -1, cfg.n_channels), x], dim=1)
            location = self.var(taps(seen, n=n, kernel=cfg.var_order, dilation=1))
            new_state.append(seen[:, -(cfg.var_order - 1) :].flatten(1))

        h = self.inp(torch.cat([x, mask], dim=-1))
        for conv, past, kept, dilation in zip(self.convs, conv_pasts, cfg.history, cfg.dilations, strict=True):
            seen = torch.cat([past.reshape(n_streams, kept, cfg.width), torch.relu(h)], dim=1)
            h = h + conv(taps(seen, n=n, kernel=cfg.kernel, dilation=dilation))
            new_state.append(seen[:, -kept:].flatten(1))

        correction, log_sigma = self.head(torch.relu(h)).chunk(2, dim=-1)
        return location + correction, log_sigma.clamp(LOG_SIGMA_MIN, LOG_SIGMA_MAX), torch.cat(new_state, dim=1)


class StudentT(nn.Module):
    """Negative log-likelihood under Student-t residuals; holds nu per horizon and channel, outside the network."""

    def __init__(self, nu: NDArray[np.float32]) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.log(torch.from_numpy(np.maximum(nu - _NU_MIN, 1e-2)).flatten()))

    @property
    def nu(self) -> Tensor:
        """Degrees of freedom (H * C,), above 2."""
        return _NU_MIN + torch.exp(self.raw.clamp(-6.0, 5.0))

    def forward(self, target: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
        """Return the negative log-likelihood of every element (..., H * C)."""
        nu = self.nu
        constant = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + 0.5 * torch.log(math.pi * nu)
        z = (target - mu) * torch.exp(-log_sigma)
        loss: Tensor = constant + log_sigma + (nu + 1) / 2 * torch.log1p(z * z / nu)
        return loss
