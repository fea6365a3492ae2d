"""How long each stage takes, and whether scoring moves on at all."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Progress", "StageSummary", "StageTimes"]

_KEPT: Final = 1024  # durations of a stage that its quantiles are taken from


@dataclass(frozen=True)
class StageSummary:
    """Durations of one stage, in seconds: quantiles of the last ``1024``, count and sum since the start."""

    p50_s: float
    p99_s: float
    count: int
    sum_s: float


@dataclass
class _Stage:
    last_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_KEPT))
    count: int = 0
    sum_s: float = 0.0


class StageTimes:
    """Durations by stage, in bounded memory."""

    def __init__(self) -> None:
        self._stages: defaultdict[str, _Stage] = defaultdict(_Stage)

    def add(self, stage: str, duration_s: float) -> None:
        """Take one duration."""
        kept = self._stages[stage]
        kept.last_s[kept.count % _KEPT] = duration_s
        kept.count += 1
        kept.sum_s += duration_s

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Take how long the block lasts, also when it raises."""
        began_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter_ns() - began_ns) / 1e9)

    def summary(self) -> dict[str, StageSummary]:
        """Return all stages that have happened, by name."""
        found = {}
        for name, kept in sorted(self._stages.items()):
            p50_s, p99_s = np.quantile(kept.last_s[: kept.count], [0.5, 0.99])
            found[name] = StageSummary(float(p50_s), float(p99_s), kept.count, kept.sum_s)
        return found


class Progress:
    """Says when scoring stands still: the sign of life that a watchdog is fed with.

    Parameters
    ----------
    tick_limit_s
        The scorer must look for work so often.
    verdict_limit_s
        When samples arrive, a verdict must follow within this.
    monotonic_s
        The clock.
    """

    def __init__(
        self,
        *,
        tick_limit_s: float = 10.0,
        verdict_limit_s: float = 60.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tick_limit_s = tick_limit_s
        self._verdict_limit_s = verdict_limit_s
        self._monotonic_s = monotonic_s
        self._ticked_s = self._moved_s = monotonic_s()
        self._seen = (0, 0)

    def ticked(self, *, n_used: int, n_verdicts: int) -> None:
        """Take that the scorer has looked, with how many samples and verdicts there have been so far."""
        self._ticked_s = self._monotonic_s()
        used, verdicts = self._seen
        if n_verdicts != verdicts or n_used == used:
            self._moved_s, self._seen = self._ticked_s, (n_used, n_verdicts)

    def stuck(self) -> str:
        """Say what stands still; nothing when all goes on."""
        now_s = self._monotonic_s()
        if (idle_s := now_s - self._ticked_s) > self._tick_limit_s:
            return f"the scorer has not looked for work for {idle_s:.0f} s"
        if (idle_s := now_s - self._moved_s) > self._verdict_limit_s:
            return f"samples arrive, and for {idle_s:.0f} s no verdict came of them"
        return ""
