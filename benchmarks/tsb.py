"""TSB-AD-M, the official metric: the package's detectors beside the published figures of all methods there.

What is scored is never tuned on: the three series of :data:`TUNING` are not in the official evaluation list, and every
setting in :mod:`kinedge.training.detectors.presets` comes from them, from training prefixes without labels, or from
what is known of a domain beforehand. A detector is fitted on the training prefix named in the file name; as the metric
wants it, the whole series is then scored, prefix included.
"""

from __future__ import annotations

import csv
import re
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.harness import result
from kinedge.errors import ConfigError, KinedgeError, SignalError
from kinedge.training.detectors.fusion import FusedDetector
from kinedge.training.detectors.interface import score_series
from kinedge.training.detectors.presets import FIXED_LAG, Domain, linear_preset, memory_preset, network_preset, preset
from kinedge.training.vus import metric_window, vus_pr

__all__ = ["METHODS", "TIMES_SCORED", "TUNING", "Series", "bench_tsb", "read_series"]

F64 = NDArray[np.float64]

TUNING: Final = ("004_MSL", "011_MSL", "164_SMAP")
#: How often the evaluation series were scored while the settings of this release were made: once, after the freeze.
TIMES_SCORED: Final = 1

METHODS: Final[Mapping[str, Callable[[Domain, int], FusedDetector]]] = {
    "fused": lambda domain, lag: preset(domain, lag=lag),
    "fused, network": lambda domain, lag: network_preset(domain, lag=lag),
    "linear": lambda _, lag: linear_preset(lag=lag),
    "memory": lambda domain, lag: memory_preset(domain, lag=lag),
}
_DOMAINS: Final = {"MSL": Domain.TELEMETRY, "SMAP": Domain.TELEMETRY, "SMD": Domain.MACHINES, "Daphnet": Domain.GAIT}
_NAME: Final = re.compile(r"\d+_(?P<source>[A-Za-z0-9]+)_id_\d+_[A-Za-z]+_tr_(?P<prefix>\d+)_1st_\d+")
_FACTS: Final = {
    "file", "dataset", "ts_len", "anomaly_len", "num_anomaly", "avg_anomaly_len", "anomaly_ratio", "point_anomaly",
    "seq_anomaly",
}  # fmt: skip
_N_TIMED, _N_BOOTSTRAP = 256, 10_000


@dataclass(frozen=True, eq=False)
class Series:
    """One series of TSB-AD-M.

    Parameters
    ----------
    name
        Official, without ``.csv``.
    source
        Data set it comes from: the part of the name that says so.
    values : (n, C), labels : (n,)
    n_prefix
        Samples to fit on.
    """

    name: str
    source: str
    values: F64
    labels: NDArray[np.bool_]
    n_prefix: int

    @property
    def domain(self) -> Domain:
        """Which preset applies; data of unknown kind counts as machines: channels of equal standing."""
        return _DOMAINS.get(self.source, Domain.MACHINES)


def read_series(path: Path) -> Iterator[Series]:
    """Read an npz of ``<official name>/X`` (n, C) and ``/y`` (n,), in the order of the names.

    Raises
    ------
    ConfigError
        There is no such file, or it is none.
    SignalError
        A series is not what its name says.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            for name in sorted({key.rpartition("/")[0] for key in data.files}):
                found = _NAME.fullmatch(name)
                if found is None or f"{name}/X" not in data.files or f"{name}/y" not in data.files:
                    raise SignalError(f"{path}: {name!r} is no series of TSB-AD-M with values X and labels y")
                values = np.asarray(data[f"{name}/X"], dtype=np.float64)
                labels = np.asarray(data[f"{name}/y"]).ravel() > 0
                if values.ndim != 2 or len(values) != len(labels):
                    raise SignalError(f"{path}: {name} has values {values.shape} and labels {labels.shape}")
                yield Series(name, found["source"], values, labels, int(found["prefix"]))
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise ConfigError(f"{path} cannot be read as npz ({e}); give the TSB-AD-M archive") from e


def bench_tsb(
    path: Path,
    *,
    published: Path | None = None,
    tuning: bool = False,
    methods: Sequence[str] = tuple(METHODS),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score all evaluation series (or the tuning ones) with lag 0 and with the fixed lag.

    Parameters
    ----------
    path
        Of the archive, see :func:`read_series`.
    published
        CSV with a row per series and a column of VUS-PR per method; None to leave these out.
    tuning
        Score the tuning series instead.
    progress
        Called with the name of each series as it begins.

    Raises
    ------
    ConfigError, SignalError
        Data or method cannot be used.
    """
    unknown = set(methods) - METHODS.keys()
    if unknown or not methods:
        raise ConfigError(f"no method {', '.join(sorted(unknown)) or 'given'}; there are {', '.join(METHODS)}")
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {(m, lag): [] for lag in (0, FIXED_LAG) for m in methods}
    names: list[str] = []
    for series in read_series(path):
        if series.name.startswith(TUNING) is not tuning:
            continue
        if progress is not None:
            progress(series.name)
        names.append(series.name)
        for (method, lag), rows in runs.items():
            rows.append(_run(series, METHODS[method](series.domain, lag)))
    if not names:
        raise ConfigError(f"{path} holds no {'tuning' if tuning else 'evaluation'} series")
    table = [_summary(method, lag, rows) for (method, lag), rows in runs.items()]
    others = _published(published, names) if published is not None else {}
    table += [
        {"what": what, "origin": "published", "lag": None, **_mean(np.array(values), names)}
        for what, values in sorted(others.items(), key=lambda item: -float(np.mean(item[1])))
    ]
    found = result(
        "tsb",
        [_filled(row) for row in table],
        settings={
            "series": len(names),
            "tuned_on": list(TUNING),
            "times_evaluation_was_scored": TIMES_SCORED,
            "metric": "VUS-PR, 250 thresholds",
        },
    )
    own = {f"{method}, lag {lag}": [round(r["vus_pr"], 4) for r in rows] for (method, lag), rows in runs.items()}
    found["series"] = {"names": names, **own}
    return found


def _run(series: Series, detector: FusedDetector) -> dict[str, Any]:
    """Fit, score and time one detector on one series."""
    start = time.perf_counter()
    try:
        detector.fit(series.values[: series.n_prefix])
    except KinedgeError as e:
        raise SignalError(f"{series.name}: {e}") from e
    fitted = time.perf_counter()
    fresh = detector.state
    scores = score_series(detector, series.values)
    detector.restore(fresh)
    at_once = np.array([_time_one(detector, row) for row in series.values[:_N_TIMED, None]])
    return {
        "source": series.source,
        "vus_pr": vus_pr(series.labels, scores, window=metric_window(series.values[:, 0])),
        "parameters": detector.n_parameters,
        "model_bytes": detector.n_bytes,
        "us_per_sample": float(np.median(at_once)) * 1e6,
        "fit_s": fitted - start,
    }


def _time_one(detector: FusedDetector, sample: F64) -> float:
    start = time.perf_counter()
    detector.step(sample)
    return time.perf_counter() - start


def _summary(method: str, lag: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum one method up: mean figure, largest model, median times."""
    names = [f"_{row['source']}_" for row in rows]
    return {
        "what": method,
        "origin": "kinedge",
        "lag": lag,
        **_mean(np.array([row["vus_pr"] for row in rows]), names),
        "parameters": max(row["parameters"] for row in rows),
        "model_bytes": max(row["model_bytes"] for row in rows),
        "us_per_sample": round(float(np.median([row["us_per_sample"] for row in rows])), 1),
        "fit_s": round(float(np.median([row["fit_s"] for row in rows])), 2),
    }


def _mean(values: F64, names: Sequence[str]) -> dict[str, Any]:
    """Return the mean with its 95 % bootstrap interval over series, and the mean of each source."""
    draws = np.random.default_rng(0).integers(0, len(values), (_N_BOOTSTRAP, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    found: dict[str, Any] = {
        "vus_pr": round(float(values.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }
    for source in _DOMAINS:
        own = values[[f"_{source}_" in name for name in names]]
        found[source] = round(float(own.mean()), 4) if len(own) else None
    return found


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    costs = dict.fromkeys(("parameters", "model_bytes", "us_per_sample", "fit_s"))
    return {**row, **{key: row.get(key) for key in costs}}


def _published(path: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """Return the published figures of every method that has one for all of these series."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row["file"].removesuffix(".csv"): row for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as e:
        raise ConfigError(f"{path} cannot be read as a CSV of published figures ({e})") from e
    if not set(names) <= rows.keys():
        return {}
    found: dict[str, list[float]] = {}
    for method in [key for key in rows[names[0]] if key not in _FACTS]:
        try:
            found[method] = [float(rows[name][method]) for name in names]
        except (TypeError, ValueError):
            continue
    return {method: values for method, values in found.items() if np.isfinite(values).all()}
