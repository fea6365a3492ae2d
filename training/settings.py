"""How a forecaster is trained: the table ``[bundle.fit]`` of a training file."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Final, Literal

import torch
from pydantic import Field, field_validator, model_validator

from kinedge.config import Config
from kinedge.errors import ConfigError
from kinedge.training.augment import Augment
from kinedge.training.model import ForecasterConfig
from kinedge.training.windows import Augmentation

__all__ = ["AUGMENT_OPTIONS", "FitConfig"]

_HERE: Final = {"rotation_deg", "session_rotation_deg", "sensor_dropout", "burst_dropout", "burst_s"}
AUGMENT_OPTIONS: Final = tuple(f.name for f in fields(Augment) if f.name not in _HERE)


class FitConfig(Config):
    """How a forecaster is trained.

    The network: ``horizons`` to ``kernel`` as in :class:`~kinedge.training.model.ForecasterConfig`. Without
    ``linear_skip``, the linear model of ``var_order`` is solved as the baseline, and is no part of the network. A
    crop holds the receptive field, which counts for nothing, and ``window`` samples that count. ``steps_per_epoch``
    is None for one pass over the training data. Regions labelled with one of ``exclude_labels`` (``freeze``,
    ``anomaly:*``) are cut out of training and validation.

    ``hold_s`` is the time in which a value that is held through a gap fades; 0 shows the network zeros there.

    ``augment`` holds further changes to crops by the name of the :class:`~kinedge.training.augment.Augment` option,
    such as ``gain`` or ``time_warp``; every crop counts as a session of its own.

    ``device`` is where the network is trained; ``auto`` takes a CUDA device where torch finds one. ``bf16`` computes
    the products of a training step in bfloat16 (autocast), ``compile`` hands the network to ``torch.compile``:
    both change the last digits, and neither pays for a network this small on a CPU.
    """

    horizons: tuple[int, ...] = (2, 10)
    var_order: int = Field(default=16, ge=2, le=64)
    linear_skip: bool = True
    width: int = Field(default=24, ge=4, le=256)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    kernel: int = Field(default=3, ge=2, le=9)
    hold_s: float = Field(default=0.3, ge=0, le=60)
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
    packet_dropout: float = Field(default=0.5, ge=0, le=1)
    channel_dropout: float = Field(default=0.1, ge=0, le=1)
    rotation_deg: float = Field(default=0.0, ge=0, le=90)
    augment: dict[str, float] = Field(default_factory=dict)
    exclude_labels: tuple[str, ...] = ("freeze", "outside", "anomaly:*")

    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    bf16: bool = False
    compile: bool = False
    threads: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _makes_a_network(self) -> FitConfig:
        try:
            self.forecaster(1)
        except ConfigError as e:
            raise ValueError(str(e)) from e
        return self

    @field_validator("augment")
    @classmethod
    def _known_options(cls, options: dict[str, float]) -> dict[str, float]:
        for name in options:
            if name in _HERE:
                raise ValueError(f"{name} belongs to the table around augment (session_rotation_deg: rotation_deg)")
            if name not in AUGMENT_OPTIONS:
                near = difflib.get_close_matches(name, AUGMENT_OPTIONS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(AUGMENT_OPTIONS)}"
                raise ValueError(f"{name}: unknown key; {hint}")
        try:
            Augment(**options)
        except ConfigError as e:
            raise ValueError(str(e)) from e
        return options

    def forecaster(self, n_channels: int) -> ForecasterConfig:
        """Return the shape of the network for this many channels."""
        return ForecasterConfig(
            n_channels,
            self.horizons,
            self.var_order if self.linear_skip else 0,
            self.width,
            self.dilations,
            self.kernel,
        )

    def on_this_machine(self) -> FitConfig:
        """Return the configuration with the device that ``auto`` means here.

        Raises
        ------
        ConfigError
            The device is not there.
        """
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise ConfigError("device is cuda, but torch finds no such device here; use cpu, or auto for either")
        return self.model_copy(update={"device": "cuda" if there else "cpu"}) if self.device == "auto" else self

    @property
    def augmentation(self) -> Augmentation:
        """What is done to crops: mounting, and what is hidden."""
        return Augmentation(
            self.sensor_dropout,
            self.burst_dropout,
            self.burst_s,
            self.packet_dropout,
            self.channel_dropout,
            self.rotation_deg,
        )
