"""Radio loss as it really comes: a burst model with few numbers, fitted to traces of which samples arrived.

Real loss comes in troubled spells: single lost samples and short bursts with a few received ones in between, then
clear stretches. Sessions differ far more than chance would have it: some lose nothing, others are in trouble half of
the time. So the model has two levels: a session
draws its share of troubled time from a beta distribution; within it, lost runs and both kinds of received runs are
geometric. All sensors of a session share its share of trouble; their runs are drawn apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError
from kinedge.recording import Recording

__all__ = ["GAIT_RADIO", "LossModel", "fit_loss", "traces_of", "with_loss"]

Mask = NDArray[np.bool_]
_ITERATIONS: Final = 200


@dataclass(frozen=True)
class LossModel:
    """Numbers of the process; run lengths in samples of the radio's rate.

    Parameters
    ----------
    lost, received
        Mean lengths of lost and received runs within a troubled spell.
    runs
        Mean number of lost runs in a spell.
    trouble_a, trouble_b
        Of the beta distribution of a session's share of troubled time.
    quiet_share
        Share of sessions that lose nothing.

    Raises
    ------
    ConfigError
        A length or number is below 1, a parameter of the beta distribution not positive, or the share not in [0, 1].
    """

    lost: float
    received: float
    runs: float
    trouble_a: float
    trouble_b: float
    quiet_share: float = 0.0

    def __post_init__(self) -> None:
        if not all(1 <= mean <= 1e6 for mean in (self.lost, self.received, self.runs)):
            raise ConfigError(f"run lengths and runs must lie between 1 and 1e6, got {self}")
        if not (0 < self.trouble_a < 1e6 and 0 < self.trouble_b < 1e6 and 0 <= self.quiet_share <= 1):
            raise ConfigError(f"the shares of trouble and of quiet sessions make no sense: {self}")

    @property
    def spell(self) -> float:
        """Mean length of a troubled spell, which begins and ends with a lost run."""
        return self.runs * self.lost + (self.runs - 1) * self.received

    @property
    def loss_in_trouble(self) -> float:
        """Share of a troubled spell that is lost."""
        return self.runs * self.lost / self.spell

    @property
    def loss_rate(self) -> float:
        """Share of samples that are lost, over all sessions."""
        trouble = self.trouble_a / (self.trouble_a + self.trouble_b)
        return (1 - self.quiet_share) * trouble * self.loss_in_trouble

    def draw_trouble(self, rng: np.random.Generator) -> float:
        """Draw a session's share of troubled time."""
        trouble = rng.beta(self.trouble_a, self.trouble_b)
        return 0.0 if rng.random() < self.quiet_share else float(trouble)

    def draw(self, rng: np.random.Generator, n: int, *, trouble: float) -> Mask:
        """Draw which of ``n`` samples arrive while this share of the time is troubled."""
        if trouble * n < 1e-6:
            return np.ones(n, dtype=bool)
        trouble = min(trouble, 0.98)
        clear = min(max(1.0, self.spell * (1 - trouble) / trouble), 1e9)
        within = 1 - 1 / self.runs
        mean_received = within * self.received + (1 - within) * clear
        begin = int(rng.integers(0, int(self.runs * (self.lost + mean_received)) + 1))
        n_runs = int(2 * (n + begin) / (self.lost + mean_received)) + 16
        while True:
            spell_goes_on = rng.random(n_runs) < within
            good = rng.geometric(1 / np.where(spell_goes_on, self.received, clear))
            runs = np.stack([good, rng.geometric(1 / self.lost, n_runs)], axis=1).ravel()
            # the process runs already when the recording begins
            runs = np.minimum(runs, begin + n + 1)
            if runs.sum() >= begin + n:
                break
            n_runs *= 2
        states = np.repeat(np.arange(2 * n_runs) % 2 == 0, runs)
        return states[begin : begin + n]


def traces_of(recordings: Sequence[Recording]) -> list[list[Mask]]:
    """Return, per recording and sensor, which samples arrived, from its first to its last valid one."""
    found = []
    for recording in recordings:
        sensors = []
        for spec in recording.sensors:
            arrived = np.asarray(recording.valid[:, recording.columns(spec.name)].any(axis=1))
            at = np.flatnonzero(arrived)
            if len(at):
                sensors.append(arrived[at[0] : at[-1] + 1])
        found.append(sensors)
    return found


def fit_loss(traces: Sequence[Sequence[Mask]]) -> LossModel:
    """Fit the model to sessions.

    Received runs within and between spells are told apart by expectation-maximisation over two geometric
    distributions; a session's share of trouble is its loss divided by that of a spell, and the beta distribution has
    their mean and variance.

    Parameters
    ----------
    traces
        Per session, per sensor: (n,) bool, whether a sample arrived; see :func:`traces_of`.

    Raises
    ------
    SignalError
        There are fewer than 20 lost runs or fewer than 3 sessions with loss: too few to fit anything.
    """
    lost: list[NDArray[np.int64]] = []
    received: list[NDArray[np.int64]] = []
    losses = np.array([np.mean([1 - trace.mean() for trace in session]) for session in traces if session])
    for session in traces:
        for trace in session:
            edges = np.flatnonzero(np.diff(np.concatenate([[True], trace, [True]]).astype(np.int8)))
            starts, ends = edges[::2], edges[1::2]
            lost.append(ends - starts)
            received.append(starts[1:] - ends[:-1])  # the first and the last are cut by the recording
    bad = np.concatenate(lost).astype(np.float64) if lost else np.empty(0)
    good = np.concatenate(received).astype(np.float64) if received else np.empty(0)
    troubled = losses[losses > 0]
    if len(bad) < 20 or len(good) < 20 or len(troubled) < 3:
        raise SignalError(f"{len(bad)} lost runs in {len(troubled)} sessions are too few to fit a model of loss")
    short, long, share = max(1.0, float(np.median(good))), max(2.0, float(good.mean() * 4)), 0.8
    for _ in range(_ITERATIONS):
        of_short = share * _geometric(good, short)
        of_long = (1 - share) * _geometric(good, long)
        weight = of_short / np.maximum(of_short + of_long, 1e-300)
        share = float(np.clip(weight.mean(), 1e-6, 1 - 1e-6))
        short = max(1.0, float((weight * good).sum() / max(weight.sum(), 1e-12)))
        long = max(1.0, float(((1 - weight) * good).sum() / max((1 - weight).sum(), 1e-12)))
    if short > long:
        short, share = long, 1 - share
    shape = LossModel(float(bad.mean()), short, 1 / (1 - share), 1.0, 1.0)
    trouble = np.clip(troubled / shape.loss_in_trouble, 1e-6, 0.98)
    mean, variance = float(trouble.mean()), float(trouble.var())
    spread = mean * (1 - mean) / max(variance, 1e-9) - 1
    spread = max(spread, 0.05)
    quiet_share = 1 - len(troubled) / len(losses)
    return replace(shape, trouble_a=mean * spread, trouble_b=(1 - mean) * spread, quiet_share=quiet_share)


def _geometric(n: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    p = 1 / max(mean, 1.0)
    probability: NDArray[np.float64] = p * (1 - p) ** (n - 1)
    return probability


def with_loss(recording: Recording, model: LossModel, *, seed: int) -> Recording:
    """Return the recording as it would have come over such a radio; whole samples of a sensor are lost."""
    trouble = model.draw_trouble(np.random.default_rng([seed, 0]))
    valid = recording.valid.copy()
    for i, spec in enumerate(recording.sensors):
        arrived = model.draw(np.random.default_rng([seed, 1 + i]), len(recording), trouble=trouble)
        valid[~arrived, recording.columns(spec.name)] = False
    return replace(recording, valid=valid)


# Fitted, by ``fit_loss(traces_of(load_gait_healthy(path)))``, to 80 walks of 14 people with sensors on lower back and
# feet, 100 samples a second (Voisard et al. 2023); only these numbers come from there.
GAIT_RADIO: Final = LossModel(
    lost=1.610, received=3.355, runs=18.30, trouble_a=0.7058, trouble_b=4.152, quiet_share=0.2125
)
