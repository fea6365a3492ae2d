"""Which channels began it: hit rates against the root causes labelled in server metrics (SMD, ASD).

For a labelled segment with ``n`` true channels, ``HitRate@P%`` is the share of them among the first ``P % * n`` of a
ranking (Su et al. 2019, OmniAnomaly). The segment is given: this measures the ranking, not the detection. Models
are fitted on the training part alone, with their default settings; nothing is chosen on the labels.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.harness import result
from kinedge.errors import ConfigError, SignalError
from kinedge.training.detectors.interface import Standardisation
from kinedge.training.detectors.var import VarConfig, VarDetector

__all__ = ["Machine", "bench_attribution", "hit_rate", "read_machines"]

F64 = NDArray[np.float64]
_CAUSE: Final = re.compile(r"(\d+)-(\d+):(\d+(?:,\d+)*)")
_SHARES: Final = (1.0, 1.5)
_CONFIG: Final = VarConfig(forget=0)


@dataclass(frozen=True, eq=False)
class Machine:
    """One machine: values to fit on and to explain (n, C), and its causes as (start, end, channels), end excluded."""

    name: str
    train: F64
    test: F64
    causes: tuple[tuple[int, int, tuple[int, ...]], ...]


def read_machines(path: Path) -> Iterator[Machine]:
    """Read an npz of ``<machine>/train``, ``/test`` and ``interp``, JSON of ``"start-end:channels from 1"``.

    Raises
    ------
    ConfigError
        There is no such file, or it is none.
    SignalError
        A cause lies outside its machine's values, or is not written as it should be.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            for name, lines in sorted(json.loads(str(data["interp"])).items()):
                train, test = (np.asarray(data[f"{name}/{part}"], dtype=np.float64) for part in ("train", "test"))
                yield Machine(name, train, test, tuple(_cause(line, test, f"{path}: {name}") for line in lines))
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as e:
        raise ConfigError(
            f"{path} cannot be read as labelled machines ({e}); give an npz with train, test, interp"
        ) from e


def _cause(line: str, test: F64, where: str) -> tuple[int, int, tuple[int, ...]]:
    found = _CAUSE.fullmatch(line)
    if found is None:
        raise SignalError(f"{where}: cause {line!r} is not written as start-end:channel,channel")
    start, end, channels = int(found[1]), int(found[2]) + 1, tuple(int(c) - 1 for c in found[3].split(","))
    if not 0 <= start < end <= len(test) or min(channels) < 0 or max(channels) >= test.shape[1]:
        raise SignalError(f"{where}: cause {line!r} lies outside the {test.shape} values")
    return start, end, channels


def hit_rate(order: NDArray[np.int64], causes: tuple[int, ...], *, share: float) -> float:
    """Return the share of true channels among the first ``floor(share * n)`` of a ranking."""
    return len(set(order[: int(share * len(causes))].tolist()) & set(causes)) / len(causes)


def bench_attribution(path: Path, *, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Rank the channels of every labelled segment by each method, and count hits.

    Raises
    ------
    ConfigError, SignalError
        The data cannot be read.
    """
    hits: dict[str, list[tuple[float, ...]]] = {}
    n_machines = 0
    for machine in read_machines(path):
        if progress is not None:
            progress(machine.name)
        n_machines += 1
        for what, scores in _scores(machine).items():
            for over, summary in (("peak", np.max), ("mean", np.mean)):
                for start, end, causes in machine.causes:
                    order = np.argsort(-summary(scores[start:end], axis=0), kind="stable")
                    rates = tuple(hit_rate(order, causes, share=share) for share in _SHARES)
                    hits.setdefault(f"{what}, {over}", []).append(rates)
    if not hits:
        raise ConfigError(f"{path} names no cause")
    rows = []
    for what, found in hits.items():
        values = np.array(found)
        draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
        low, high = np.quantile(values[draws, 0].mean(axis=1), [0.025, 0.975])
        at_100, at_150 = values.mean(axis=0)
        figures = {"hit_rate_100": at_100, "low": low, "high": high, "hit_rate_150": at_150}
        rows.append({"what": what, **{k: round(float(v), 4) for k, v in figures.items()}})
    n_causes = len(next(iter(hits.values())))
    return result("attribution", rows, settings={"data": path.stem, "machines": n_machines, "segments": n_causes})


def _scores(machine: Machine) -> dict[str, F64]:
    """Return the surprise of every channel (n, C) by each method."""
    whole = VarDetector(_CONFIG)
    whole.fit(machine.train)
    alone = []
    for c in range(machine.train.shape[1]):
        one = VarDetector(_CONFIG)
        one.fit(machine.train[:, [c]])
        alone.append(one.step(machine.test[:, [c]]))
    level, _ = Standardisation.fit(machine.train, clip=_CONFIG.clip, unit=_CONFIG.unit).apply(machine.test)
    return {
        "residual given all channels": whole.channel_surprise(machine.test),
        "residual given its own past": np.stack(alone, axis=1),
        "distance from its mean": level**2,
    }
