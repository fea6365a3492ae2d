"""What each part of a model is worth: the same small training without it, on simulated people, clean and not.

Every variant is trained on the same people with the same small budget and the last weights are taken. The score of a
block of two seconds is its mean negative log-likelihood under the variant's own head. Its threshold is the 99 %
quantile over clean blocks of people that no part was trained on, so that a false-alarm share of 1 % is promised; what
is kept of that is told for other people under four conditions:

``clean``
    As in training.
``loss``
    30 % of packets lost, in bursts.
``re-donned``
    Another day: sensors put on anew, turned by about 15 degrees and slipped.
``re-donned, aligned``
    The same, turned back by what walking tells (:mod:`kinedge.edge.orientation`) against the first day.

The area under the curve is that of blocks in signal anomalies of one wrist against ordinary blocks of the same
condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinedge.benchmarks.alarms import roc_auc, spread
from kinedge.benchmarks.harness import result
from kinedge.edge.offline import frames_of, turn_recording
from kinedge.edge.orientation import align
from kinedge.quantize.export import export_onnx
from kinedge.quantize.int8 import activation_scales, quantise
from kinedge.recording import Recording
from kinedge.training.anomalies import inject
from kinedge.training.donning import Donning
from kinedge.training.fit import prepare
from kinedge.training.loop import Loop
from kinedge.training.model import Forecaster, StudentT
from kinedge.training.settings import FitConfig
from kinedge.training.simulate import RadioModel, SimulationConfig, simulate
from kinedge.training.windows import filled

__all__ = ["CONDITIONS", "VARIANTS", "bench_ablations"]

F64 = NDArray[np.float64]

CONDITIONS: Final = ("clean", "loss", "re-donned", "re-donned, aligned")
_SENSORS: Final = ("wrist_left", "wrist_right")
_ANOMALIES: Final = ("tremor", "amplitude_drop", "gain_change", "bias_step", "noise_burst", "time_lag")
_STRENGTH: Final = 0.5
_QUANTILE: Final = 0.99
_LOSS: Final = 0.3
_DONNING: Final = Donning(tilt_deg=8.0, twist_deg=15.0)
_MIX: Final = {"rest": 0.2, "gait": 0.5, "arm": 0.3}  # enough walking to tell how a sensor sits
_BLOCK_S: Final = 2.0
_ANOMALY_S: Final = 12.0
_FRAMES_S: Final = 300.0  # of the first day, that tell how the sensors sat


class _Gaussian(StudentT):
    """A Gaussian head in the place of the Student-t one; what it holds of nu is not used."""

    def forward(self, target: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
        """Return the negative log-likelihood of every element."""
        z = (target - mu) * torch.exp(-log_sigma)
        loss: Tensor = 0.5 * np.log(2 * np.pi) + log_sigma + 0.5 * z * z
        return loss


def _as_is(loop: Loop) -> None:
    """Change nothing."""


def _with_gaussian(loop: Loop) -> None:
    """Give the head of a Gaussian, beginning with the deviation that the Student-t residuals have."""
    nu = loop.likelihood.nu.detach()
    head = _Gaussian(np.full(tuple(nu.reshape(-1, loop.model.config.n_channels).shape), 5.0, np.float32))
    head.load_state_dict(loop.likelihood.state_dict())
    loop.likelihood = head
    with torch.no_grad():
        loop.model.head.bias[loop.model.config.n_outputs :] += 0.5 * torch.log(nu / (nu - 2))


class _Int8(torch.nn.Module):
    """The trained network with its blocks in int8, by ONNX Runtime; first layer, head and linear skip in float."""

    def __init__(self, model: Forecaster, feeds: Sequence[dict[str, NDArray[np.float32]]]) -> None:
        super().__init__()
        fp32 = export_onnx(model)
        scales = activation_scales(fp32, feeds, method="minmax")
        graph = quantise(fp32, scales, layers=[name for name in scales if name.startswith("conv_")])
        self.config = model.config
        self._session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def initial_state(self, n: int) -> Tensor:
        """Return the state of streams that have seen nothing."""
        return torch.zeros(n, self.config.state_size)

    def forward(self, x: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Return location, log scale and the state after."""
        feed = {"x": x.numpy(), "mask": mask.numpy(), "state": state.numpy()}
        return tuple(torch.from_numpy(a) for a in self._session.run(None, feed))


def _in_int8(loop: Loop, train: Sequence[Recording]) -> None:
    """Put the trained network into int8, with ranges from what it was trained on."""
    feeds = []
    for recording in train:
        x, there = loop.normalisation.apply(recording.values, recording.valid)
        state = np.zeros((1, loop.model.config.state_size), np.float32)
        feeds.append({"x": filled(x, there, loop.gaps)[None], "mask": there[None], "state": state})
    loop.model = _Int8(loop.model, feeds)  # type: ignore[assignment]  # what is called of it is there


def _left(loop: Loop, train: Sequence[Recording]) -> None:
    """Leave the trained network as it is."""


@dataclass(frozen=True)
class _Variant:
    """Changes of the configuration, of a run that has its linear part, and of the trained network."""

    config: dict[str, Any]
    change: Callable[[Loop], None]
    after: Callable[[Loop, Sequence[Recording]], None] = _left


VARIANTS: Final[dict[str, _Variant]] = {
    "full": _Variant({}, _as_is),
    "no mask-dropout": _Variant(
        {"sensor_dropout": 0.0, "burst_dropout": 0.0, "packet_dropout": 0.0, "channel_dropout": 0.0}, _as_is
    ),
    "no VAR skip": _Variant({"linear_skip": False}, _as_is),
    "zeros in gaps": _Variant({"hold_s": 0.0}, _as_is),
    "Gaussian head": _Variant({}, _with_gaussian),
    "linear alone": _Variant({"max_epochs": 0}, _as_is),
    "int8": _Variant({}, _as_is, _in_int8),
}


def bench_ablations(
    *,
    seeds: int = 2,
    epochs: int = 5,
    steps: int = 60,
    people: int = 6,
    seconds: float = 240.0,
    first_seed: int = 700_000,
    variants: Sequence[str] | None = None,
    conditions: Sequence[str] = CONDITIONS,
    shuffle_labels: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train and measure every variant.

    Parameters
    ----------
    seeds
        Trainings of each variant; they differ in first weights and draws, the people are the same.
    epochs, steps
        Of each training.
    people
        That are scored; as many are trained on, and half as many give the threshold.
    seconds
        Of each person and day.
    first_seed
        Of the people.
    shuffle_labels
        Forget which blocks hold an anomaly: areas must then be those of chance.
    """
    people_of = {
        "train": range(first_seed, first_seed + people),
        "threshold": range(first_seed + 1000, first_seed + 1000 + max(2, people // 2)),
        "test": range(first_seed + 2000, first_seed + 2000 + people),
    }
    progress("simulating")
    train = [_day(p, 0, seconds) for p in people_of["train"]]
    held = [_day(p, 0, seconds) for p in people_of["threshold"]]
    tests = {condition: [_tested(p, condition, seconds) for p in people_of["test"]] for condition in conditions}
    rng = np.random.default_rng(first_seed) if shuffle_labels else None
    rows = []
    for name in variants or VARIANTS:
        found: dict[str, list[tuple[float, float]]] = {condition: [] for condition in conditions}
        for seed in range(seeds if VARIANTS[name].config.get("max_epochs") != 0 else 1):
            progress(f"{name}, seed {seed}")
            loop = _train(VARIANTS[name], train, held, epochs=epochs, steps=steps, seed=seed)
            limit = float(np.quantile(np.concatenate([_blocks(loop, r)[0] for r in held]), _QUANTILE))
            for condition, recordings in tests.items():
                ordinary, odd = _scores(loop, recordings, rng)
                found[condition].append((float((ordinary > limit).mean()), roc_auc(ordinary, odd)))
        for condition, figures in found.items():
            rows.append(
                {
                    "what": f"{name}, {condition}",
                    "false_alarm_share": spread([f[0] for f in figures], 4),
                    "auc": spread([f[1] for f in figures]),
                    "trainings": len(figures),
                }
            )
    settings = {
        "people": people,
        "seconds": seconds,
        "epochs": epochs,
        "steps": steps,
        "first_seed": first_seed,
        "anomalies": f"{len(_ANOMALIES)} kinds, strength {_STRENGTH}",
        "int8": "blocks in int8; first layer, head and linear skip in float",
    }
    return result("ablations", rows, settings=settings)


def _day(person: int, day: int, seconds: float, *, loss: float = 0.0) -> Recording:
    config = SimulationConfig(
        sensors=_SENSORS,
        duration_s=seconds,
        subject_seed=person,
        session_seed=2 * person + day,
        radio=RadioModel(loss_rate=loss),
        donning=_DONNING if day else None,
        activity_mix=_MIX,
    )
    return simulate(config)


def _tested(person: int, condition: str, seconds: float) -> tuple[Recording, list[Recording]]:
    """Return an ordinary recording under a condition, and copies with an anomaly in the middle."""
    day = int(condition.startswith("re-donned"))
    recording = _day(person, day, seconds, loss=_LOSS if condition == "loss" else 0.0)
    n = round(_ANOMALY_S * recording.rate_hz)
    start = (len(recording) - n) // 2
    odd = [
        inject(recording, name, start, start + n, sensor=_SENSORS[(person + i) % 2], seed=person, strength=_STRENGTH)
        for i, name in enumerate(_ANOMALIES)
    ]
    if condition != "re-donned, aligned":
        return recording, odd
    alignment = align(frames_of(recording), frames_of(_day(person, 0, _FRAMES_S)))
    return turn_recording(recording, alignment), [turn_recording(r, alignment) for r in odd]


def _train(
    variant: _Variant, train: list[Recording], held: list[Recording], *, epochs: int, steps: int, seed: int
) -> Loop:
    options: dict[str, Any] = {"width": 16, "max_epochs": epochs, "steps_per_epoch": steps, "patience": max(epochs, 1)}
    loop = prepare(train, held, FitConfig(seed=seed, **{**options, **variant.config}))
    loop.start(None)
    variant.change(loop)
    for _ in range(loop.config.max_epochs):
        loop.epoch()
    loop.model.eval()
    variant.after(loop, train)
    return loop


def _blocks(loop: Loop, recording: Recording) -> tuple[F64, NDArray[np.int64]]:
    """Return the mean negative log-likelihood of whole blocks that hold a target, and their first samples."""
    shape = loop.model.config
    horizon, first = shape.horizons[-1], shape.receptive_field
    x, there = loop.normalisation.apply(np.where(recording.valid, recording.values, np.float32(0)), recording.valid)
    truth, present = (torch.from_numpy(a)[None] for a in (x, there))
    n = len(recording) - horizon
    shown = torch.from_numpy(filled(x[:n], there[:n], loop.gaps))[None]
    with torch.no_grad():
        mu, log_sigma, _ = loop.model(shown, present[:, :n], loop.model.initial_state(1))
        target, weight = (torch.cat([a[:, h : n + h] for h in shape.horizons], dim=-1) for a in (truth, present))
        loss = (loop.likelihood(target, mu, log_sigma) * weight)[0, first:].sum(dim=1).double().numpy()
        count = weight[0, first:].sum(dim=1).double().numpy()
    block = round(_BLOCK_S * recording.rate_hz)
    whole = len(loss) // block
    total, known = (a[: whole * block].reshape(whole, block).sum(axis=1) for a in (loss, count))
    kept = known > 0
    return np.asarray(total[kept] / known[kept]), first + block * np.flatnonzero(kept)


def _scores(
    loop: Loop, recordings: Sequence[tuple[Recording, list[Recording]]], rng: np.random.Generator | None
) -> tuple[F64, F64]:
    ordinary = np.concatenate([_blocks(loop, r)[0] for r, _ in recordings])
    odd = np.concatenate([part for _, copies in recordings for copy in copies for part in _inside(loop, copy)])
    if rng is not None:
        both = rng.permutation(np.concatenate([ordinary, odd]))
        ordinary, odd = both[: len(ordinary)], both[len(ordinary) :]
    return ordinary, odd


def _inside(loop: Loop, recording: Recording) -> Iterator[F64]:
    """Yield the scores of blocks that lie whole inside the last label, the anomaly's."""
    region = recording.labels[-1]
    score, starts = _blocks(loop, recording)
    end = starts + round(_BLOCK_S * recording.rate_hz)
    yield score[(starts >= region.start) & (end <= region.end)]
