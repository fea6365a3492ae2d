"""One peer in a process of its own: fitted, scored and timed on data it is given, by its library's own calls.

This file is also run by other Python environments, as a plain script, for libraries that do not bear ours beside them.
So it imports nothing but the standard library and numpy, and each library inside the class that needs it.

    python peer_worker.py METHOD series.npz OUT.json      X (n, C) and n_prefix: scores of all samples go to OUT.npy
    python peer_worker.py METHOD series.npz OUT.json 64   what one sample costs when 64 streams come in at once

Times are of the processor (``time.process_time``): other work on the machine does not count.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["DISTRIBUTIONS", "METHODS", "MISSING", "cost_of", "main", "resident_mb"]

F64 = NDArray[np.float64]
#: Exit status that says a library is not there.
MISSING: Final = 3
_BUDGET_S: Final = 1.5
_FEWEST: Final = 5
_CHUNKS: Final = (1, 50)
_WINDOW: Final = 16  # of the tabular detectors, which know no time of their own; chosen before anything was scored


class Peer(ABC):
    """A method, fitted on a prefix, that scores a whole series, or streams as they come.

    Attributes
    ----------
    delay
        Samples behind the one that is judged which a score needs; None: all of them, it does not run online.
    window
        Samples that are computed anew for each score; 0 where state is kept.
    """

    delay: int | None = 0
    window = 0

    @abstractmethod
    def fit(self, prefix: F64) -> None:
        """Learn from the prefix (n, C)."""

    @abstractmethod
    def series(self, x: F64) -> F64:
        """Return scores (n,) of a whole series, as the library's documentation scores one."""

    @abstractmethod
    def streams(self, n: int) -> Callable[[F64], object]:
        """Return what scores the next samples (n, k, C) of ``n`` streams."""


class River(Peer):
    """Half-space trees behind a min-max scaler, scored before they learn, as in River's documentation."""

    def __init__(self) -> None:
        self._learnt: list[Any] = []

    def _new(self) -> Any:
        from river import anomaly, compose, preprocessing

        return compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=42))

    def fit(self, prefix: F64) -> None:
        self._model = self._new()
        for row in prefix:
            self._model.learn_one(dict(enumerate(row.tolist())))

    def series(self, x: F64) -> F64:
        return np.array([self._one(self._model, row) for row in x])

    def streams(self, n: int) -> Callable[[F64], object]:
        from copy import deepcopy

        models = [deepcopy(self._model) for _ in range(n)]
        return lambda x: [[self._one(m, row) for row in rows] for m, rows in zip(models, x, strict=True)]

    @staticmethod
    def _one(model: Any, row: F64) -> float:
        sample = dict(enumerate(row.tolist()))
        score = float(model.score_one(sample))
        model.learn_one(sample)
        return score


class XStream(Peer):
    """PySAD's xStream, each sample fitted and then scored, as in its documentation."""

    def _new(self) -> Any:
        models: Any = importlib.import_module("pysad.models")
        return models.xStream(random_state=0)

    def fit(self, prefix: F64) -> None:
        self._model = self._new()
        for row in prefix:
            self._model.fit_partial(row)

    def series(self, x: F64) -> F64:
        return np.array([float(self._model.fit_score_partial(row)) for row in x]).ravel()

    def streams(self, n: int) -> Callable[[F64], object]:
        from copy import deepcopy

        models = [deepcopy(self._model) for _ in range(n)]
        return lambda x: [[m.fit_score_partial(row) for row in rows] for m, rows in zip(models, x, strict=True)]


class Windowed(Peer):
    """What scores windows, all of those of the new samples in one call."""

    @abstractmethod
    def windows(self, x: F64) -> F64:
        """Score windows (n, window, C), each by its last sample."""

    def series(self, x: F64) -> F64:
        first = np.repeat(x[:1], self.window - 1, axis=0)
        whole = np.concatenate([first, x])
        starts, length = range(0, len(x), 2048), 2048 + self.window - 1
        return np.concatenate([self.windows(_windows(whole[a : a + length], self.window)) for a in starts])

    def streams(self, n: int) -> Callable[[F64], object]:
        past: list[F64] = []

        def step(x: F64) -> object:
            if not past:
                past.append(np.repeat(x[:, :1], self.window - 1, axis=1))
            seen = np.concatenate([past[0], x], axis=1)
            past[0] = seen[:, seen.shape[1] - self.window + 1 :]
            return self.windows(np.concatenate([_windows(rows, self.window) for rows in seen]))

        return step


class PyOd(Windowed):
    """A detector of PyOD with its defaults, on standardised windows of 16 samples laid flat."""

    window = _WINDOW

    def __init__(self, module: str, name: str, **settings: Any) -> None:
        self._where, self._settings = (f"pyod.models.{module}", name), settings

    def fit(self, prefix: F64) -> None:
        preprocessing: Any = importlib.import_module("sklearn.preprocessing")
        flat = _windows(prefix, self.window).reshape(len(prefix) - self.window + 1, -1)
        self._scaler = preprocessing.StandardScaler().fit(flat)
        module, name = self._where
        self._model = getattr(importlib.import_module(module), name)(**self._settings)
        self._model.fit(self._scaler.transform(flat))

    def windows(self, x: F64) -> F64:
        return np.asarray(self._model.decision_function(self._scaler.transform(x.reshape(len(x), -1))))


class TsbNet(Windowed):
    """A network of tsb-ad with the settings its authors found best for many channels, trained as its wrapper does."""

    def __init__(self, name: str, *, forecasts: bool, **settings: Any) -> None:
        self._name, self._forecasts, self._settings = name, forecasts, settings
        length = int(settings.get("window_size") or settings["win_size"])
        self.window = length + forecasts
        self.delay = 0 if forecasts else length - 1  # a reconstructed window is booked on its first sample

    def fit(self, prefix: F64) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        np.random.seed(0)  # noqa: NPY002 -- the library's own generator
        module = importlib.import_module(f"TSB_AD.models.{self._name}")
        more = {"batch_size": 128} if self._forecasts else {}
        self._model = getattr(module, self._name)(feats=prefix.shape[1], **self._settings, **more)
        self._model.fit(prefix)

    def series(self, x: F64) -> F64:
        return np.asarray(self._model.decision_function(x)).ravel()

    def windows(self, x: F64) -> F64:
        import torch

        given = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        net, n, c = self._model.model.eval(), len(x), x.shape[2]
        with torch.inference_mode():
            if self._forecasts:
                error = (net(given[:, :-1]).reshape(n, c) - given[:, -1]) ** 2
            elif self._name == "USAD":
                first, _, both = net(given)
                flat = given.reshape(n, -1)
                error = 0.1 * (first - flat) ** 2 + 0.9 * (both - flat) ** 2
            else:
                error = (net(given)[0] - given.reshape(n, -1)) ** 2
            return np.asarray(error.mean(dim=-1).numpy(), np.float64)


class TsbPca(Windowed):
    """PCA of tsb-ad, as its wrapper runs it: fitted on the whole series that it then scores, windows of 100."""

    window = 100
    delay = None

    def fit(self, prefix: F64) -> None:
        self._fit(prefix)

    def _fit(self, x: F64) -> None:
        from TSB_AD.models.PCA import PCA

        self._model = model = PCA(slidingWindow=self.window, n_components=0.25)
        model.fit(x)
        # fit drops columns that are 0 throughout, its decision_function does not
        flat = _windows(x, self.window).transpose(0, 2, 1).reshape(len(x) - self.window + 1, -1)
        scaled = model.scaler_.transform(flat) if model.standardization else flat
        kept = np.any(scaled != 0, axis=0)
        self._kept = None if kept.all() or len(kept) == model.selected_components_.shape[1] else kept

    def series(self, x: F64) -> F64:
        self._fit(x)
        return np.asarray(self._model.decision_scores_).ravel()

    def windows(self, x: F64) -> F64:
        # what its decision_function computes, for the windows that are new
        model = self._model
        flat = x.transpose(0, 2, 1).reshape(len(x), -1)
        if model.standardization:
            flat = model.scaler_.transform(flat)
        if self._kept is not None:
            flat = flat[:, self._kept]
        distance: Any = importlib.import_module("scipy.spatial.distance")
        return np.asarray(
            (distance.cdist(flat, model.selected_components_) / model.selected_w_components_).sum(axis=1)
        ).ravel()


class Kinedge(Peer):
    """Our detectors of ``kinedge bench tsb``, lag 0."""

    def __init__(self, name: str) -> None:
        self._name = name

    def fit(self, prefix: F64) -> None:
        from kinedge.benchmarks.tsb import METHODS as OURS
        from kinedge.training.detectors.presets import Domain

        self._model = OURS[self._name](Domain(os.environ.get("KINEDGE_PEER_DOMAIN", "machines")), 0)
        self._model.fit(prefix)

    def series(self, x: F64) -> F64:
        from kinedge.training.detectors.interface import score_series

        return np.asarray(score_series(self._model, x))

    def streams(self, n: int) -> Callable[[F64], object]:
        from copy import deepcopy

        from kinedge.errors import ConfigError

        if n == 1:
            model = deepcopy(self._model)
            return lambda x: model.step(x[0])
        try:
            together = self._model.many(n)
        except ConfigError:  # its memory follows one stream
            models = [deepcopy(self._model) for _ in range(n)]
            return lambda x: [m.step(rows) for m, rows in zip(models, x, strict=True)]
        return together.step


METHODS: Final[Mapping[str, Callable[[], Peer]]] = {
    "kinedge fused": lambda: Kinedge("fused"),
    "kinedge linear": lambda: Kinedge("linear"),
    "kinedge network": lambda: Kinedge("fused, network"),
    "River half-space trees": River,
    "PySAD xStream": XStream,
    "PyOD isolation forest": lambda: PyOd("iforest", "IForest", random_state=0),
    "PyOD ECOD": lambda: PyOd("ecod", "ECOD"),
    "tsb-ad PCA": TsbPca,
    "tsb-ad CNN": lambda: TsbNet("CNN", forecasts=True, window_size=50, num_channel=[32, 32, 40]),
    "tsb-ad LSTM-AD": lambda: TsbNet("LSTMAD", forecasts=True, window_size=150, lr=0.0008),
    "tsb-ad USAD": lambda: TsbNet("USAD", forecasts=False, win_size=100, lr=0.001),
    "tsb-ad OmniAnomaly": lambda: TsbNet("OmniAnomaly", forecasts=False, win_size=100, lr=0.002),
}
DISTRIBUTIONS: Final = {"River": "river", "PySAD": "pysad", "PyOD": "pyod", "tsb-ad": "tsb-ad", "kinedge": "kinedge"}


def _windows(x: F64, length: int) -> F64:
    return np.asarray(np.lib.stride_tricks.sliding_window_view(x, length, axis=0).transpose(0, 2, 1))


def resident_mb() -> float:
    """Return the resident memory of this process, MiB."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return float("nan")


def cost_of(streams: Callable[[int], Callable[[F64], object]], x: F64, n_streams: int) -> dict[str, Any]:
    """Time chunks of one and of fifty samples of every stream; what is fed is the series, shifted for each."""
    found: dict[str, Any] = {}
    for chunk in _CHUNKS:
        step = streams(n_streams)
        shifts = np.arange(n_streams) * 37
        at = 0
        times: list[float] = []
        began = time.process_time()
        while len(times) < _FEWEST + 1 or (time.process_time() - began < _BUDGET_S and len(times) < 400):
            rows = (at + shifts[:, None] + np.arange(chunk)) % len(x)
            given = np.ascontiguousarray(x[rows])
            start = time.process_time()
            step(given)
            times.append((time.process_time() - start) / (n_streams * chunk) * 1e6)
            at += chunk
            if time.process_time() - began > 4 * _BUDGET_S and len(times) > 2:
                break
        kept = times[1:]  # the first one warms up
        low, middle, high = np.quantile(kept, [0.25, 0.5, 0.75])
        found[f"us_chunk_{chunk}"] = float(middle)
        found[f"spread_chunk_{chunk}"] = float((high - low) / max(middle, 1e-9))
        found[f"n_chunk_{chunk}"] = len(kept)
    return found


def main(argv: list[str]) -> int:
    """Run one task and write what came of it."""
    method, data, out, *streams = argv
    gc.collect()
    before_mb = resident_mb()
    with np.load(data, allow_pickle=False) as found:
        x, n_prefix = np.asarray(found["X"], np.float64), int(found["n_prefix"])
    peer = METHODS[method]()
    facts: dict[str, Any] = {"method": method, "delay": peer.delay, "window": peer.window}
    begins: deque[float] = deque([time.process_time()])
    try:
        with contextlib.redirect_stdout(sys.stderr):
            peer.fit(x[:n_prefix])
            begins.append(time.process_time())
            facts["fit_s"] = begins[1] - begins[0]
            if streams:
                facts |= cost_of(peer.streams, x, int(streams[0]))
            else:
                scores = peer.series(x)
                facts["score_s"] = time.process_time() - begins[1]
                np.save(out.removesuffix(".json") + ".npy", np.asarray(scores, np.float64))
    except ModuleNotFoundError as e:
        sys.stderr.write(f"{e.name} is not installed\n")
        return MISSING
    facts["rss_mb"] = resident_mb() - before_mb
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        facts["version"] = importlib.metadata.version(DISTRIBUTIONS[method.split()[0]])
    with open(out, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
