"""Training: recordings to a forecaster, with the linear baseline's figure beside the network's.

The linear part is solved first, in closed form; the network starts as exactly that model and trains jointly on the
Student-t likelihood of what comes next. Equal data, configuration and seed give equal weights on one machine, also
when training was interrupted and resumed from its checkpoint.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec
from kinedge.training.loop import EpochRecord, Loop, evaluate_nll
from kinedge.training.model import Forecaster
from kinedge.training.settings import FitConfig
from kinedge.training.windows import Normalisation, Pieces, common_layout

__all__ = ["EpochRecord", "FitConfig", "FitResult", "evaluate_nll", "finish", "fit", "prepare", "threads"]


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
    with threads(config.threads):
        loop = prepare(train, val, config)
        if checkpoint is not None and checkpoint.exists():
            loop.restore(checkpoint)
        else:
            loop.start(progress)
        while loop.may_go_on():
            record = loop.epoch()
            if checkpoint is not None:
                loop.save(checkpoint)
            if progress is not None:
                progress(record)
        return finish(loop, seconds=time.monotonic() - started)


def prepare(train: Sequence[Recording], val: Sequence[Recording], config: FitConfig) -> Loop:
    """Cut recordings into pieces and set a run up; ``fit`` says what may be wrong with them."""
    if not (train and val):
        raise SignalError("training and validation need at least one recording each")
    common_layout([*train, *val])
    config = config.on_this_machine()
    shape = config.forecaster(sum(s.n_channels for s in train[0].sensors))
    needed = shape.receptive_field + shape.horizons[-1] + 1
    pieces, val_pieces = (Pieces.of(r, exclude_labels=config.exclude_labels, min_length=needed) for r in (train, val))
    normalisation = Normalisation.fit(pieces, clip=config.clip)
    return Loop(config, shape, pieces, val_pieces, normalisation, digests=(_digest(train), _digest(val)))


def finish(loop: Loop, *, seconds: float) -> FitResult:
    """Hand out the best epoch of a run."""
    model, nu = loop.best_model()
    best = loop.best_record
    return FitResult(
        model=model,
        config=loop.config,
        sensors=loop.pieces.sensors,
        rate_hz=loop.pieces.rate_hz,
        center=loop.normalisation.center,
        scale=loop.normalisation.scale,
        clip=loop.config.clip,
        nu=nu,
        history=tuple(loop.history),
        best_epoch=best.epoch,
        val_nll=best.val_nll,
        linear_val_nll=loop.history[0].val_nll,
        train_digest=loop.digests[0],
        val_digest=loop.digests[1],
        seconds=seconds,
    )


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use this many threads, and give back those it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _digest(recordings: Sequence[Recording]) -> str:
    return hashlib.sha256("".join(r.digest() for r in recordings).encode()).hexdigest()
