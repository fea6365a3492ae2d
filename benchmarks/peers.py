"""Other people's detectors and runtimes on the same data in the same run: accuracy, time, memory and delay.

Each task (a method on a series; a method on many streams) is a process of its own with a limit, and its outcome is kept
as a file, so that a run that was cut off goes on where it stopped. Nothing is tuned on what is scored: peers run with
the defaults or the published settings of their libraries, ours with their frozen presets.

The series are the first of each source, by name, of those that are officially evaluated: a rule that looks at no data.
Whatever cannot run (not installed, stopped at its limit) is a row that says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.harness import result
from kinedge.benchmarks.peer_runtimes import RUNTIMES
from kinedge.benchmarks.peer_worker import METHODS, MISSING
from kinedge.benchmarks.tsb import TUNING, Series, read_series
from kinedge.errors import ConfigError
from kinedge.training.vus import metric_window, vus_pr

__all__ = ["ALL", "STREAMS", "bench_peers", "choose_series"]

STREAMS: Final = (1, 64)
ALL: Final = (*METHODS, *RUNTIMES)
_FOLDER: Final = Path(__file__).resolve().parent
_LOOK_S: Final = 0.5
_WALL_FACTOR: Final = 20  # wall time a task may take for each second of its limit: others use the machine, too
_UNSTABLE: Final = 0.10
_LOGGED: Final = 400


def choose_series(path: Path, *, per_source: int = 1) -> list[Series]:
    """Return the first evaluation series of each source, by name.

    Raises
    ------
    ConfigError, SignalError
        The archive cannot be used.
    """
    found: dict[str, list[Series]] = {}
    for series in read_series(path):
        if not series.name.startswith(TUNING):
            found.setdefault(series.source, []).append(series)
    chosen = [s for of_source in found.values() for s in of_source[:per_source]]
    if not chosen:
        raise ConfigError(f"{path}: holds no evaluation series")
    return chosen


def bench_peers(
    path: Path,
    *,
    methods: Sequence[str] = ALL,
    pythons: Mapping[str, str] | None = None,
    parts: Path,
    per_source: int = 1,
    longest: int | None = None,
    limit_s: float = 600.0,
    streams: Sequence[int] = STREAMS,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> dict[str, Any]:
    """Run all peers, or those that were not run yet.

    Parameters
    ----------
    path
        TSB-AD-M, see ``tsb.read_series``.
    methods
        Of ``ALL``.
    pythons
        Interpreters by the first word of a method (``tsb-ad``), where it lives in an environment of its own.
    parts
        Folder of the outcomes so far; what is in it is not run again.
    per_source
        Series of each source.
    longest
        Only so many samples of each series, for a trial; its figures mean nothing.
    limit_s
        Processor time a task may take.
    streams
        How many at once.
    progress
        Told what is run next, how many tasks are over, and of how many.

    Returns
    -------
    dict
        Rows of ``kind`` ``detector`` (accuracy and costs) and ``runtime`` (costs of one network).

    Raises
    ------
    ConfigError, SignalError
        No such method, or the archive cannot be used.
    """
    if unknown := [m for m in methods if m not in ALL]:
        raise ConfigError(f"no method {', '.join(unknown)}; there are {', '.join(ALL)}")
    chosen = choose_series(path, per_source=per_source)
    timed = next((s for s in chosen if s.source == "Daphnet"), chosen[0])
    parts.mkdir(parents=True, exist_ok=True)
    runner = _Runner(parts, pythons or {}, limit_s)
    for s in chosen:
        kept = s.values[:longest]
        np.savez(parts / f"{s.name}.npz", X=kept, n_prefix=min(s.n_prefix, len(kept) // 2))
    tasks: list[tuple[str, Series | None, int | None]] = []
    for method in methods:
        if method in METHODS:
            tasks += [(method, s, None) for s in chosen]
            tasks += [(method, timed, n) for n in streams]
        else:
            tasks += [(method, None, n) for n in streams]
    for i, (method, series, n) in enumerate(tasks):
        of = "a network" if series is None else series.name[:14]
        progress(f"{method}, {of}{f', {n} streams' if n else ''}", i, len(tasks))
        runner.run(method, series, n)
    progress("", len(tasks), len(tasks))
    rows = [
        _detector_row(m, chosen, timed, runner, streams, longest) if m in METHODS else _runtime_row(m, runner, streams)
        for m in methods
    ]
    _put_beside(rows)
    settings = {
        "series": [s.name for s in chosen],
        "timed_on": timed.name,
        "chosen_by": "first evaluation series of each source by name",
        "metric": "VUS-PR, 250 thresholds",
        "clock": "processor time of the process",
        "limit_s": limit_s,
        "longest": longest,
    }
    found = result("peers", rows, settings=settings)
    if longest is not None:
        found["warnings"].append(f"a trial: only {longest} samples of each series were used")
    return found


class _Runner:
    """Runs tasks in processes of their own, unless their outcome is there."""

    def __init__(self, parts: Path, pythons: Mapping[str, str], limit_s: float) -> None:
        self._parts, self._pythons, self._limit_s = parts, pythons, limit_s

    def outcome(self, method: str, series: Series | None, streams: int | None) -> dict[str, Any]:
        """Return what is known of a task; an empty one was not run."""
        path = self._path(method, series, streams)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def scores(self, method: str, series: Series) -> np.ndarray | None:
        """Return the scores of a series; None when there are none."""
        path = self._path(method, series, None).with_suffix(".npy")
        return np.load(path, allow_pickle=False) if path.exists() else None

    def run(self, method: str, series: Series | None, streams: int | None) -> None:
        path = self._path(method, series, streams)
        if path.exists():
            return
        part = path.with_name(f"part-{path.name}")
        library = method.split(maxsplit=1)[0]
        worker = "peer_worker" if method in METHODS else "peer_runtimes"
        if library in self._pythons:
            # alone (-I): neither our folders nor the caller's environment reach it
            command = [self._pythons[library], "-I", str(_FOLDER / f"{worker}.py")]
        else:
            command = [sys.executable, "-m", f"kinedge.benchmarks.{worker}"]
        data = [] if series is None else [str(self._parts / f"{series.name}.npz")]
        command += [method, *data, str(part), *([] if streams is None else [str(streams)])]
        domain = {} if series is None else {"KINEDGE_PEER_DOMAIN": series.domain.value}
        note = self._execute(command, {**os.environ, "OMP_NUM_THREADS": "1", **domain})
        if note:
            part.write_text(json.dumps({"method": method, "note": note}), encoding="utf-8")
        scores = part.with_suffix(".npy")
        if scores.exists():
            scores.replace(path.with_suffix(".npy"))
        part.replace(path)

    def _execute(self, command: list[str], environment: dict[str, str]) -> str:
        """Return why nothing came of it; empty when all went well."""
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            try:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
                )
            except OSError as e:
                return f"not run: {command[0]} cannot be started ({e.strerror})"
            stopped = self._wait(process)
            log.seek(0)
            last = (log.read().strip().splitlines()[-1:] or [""])[0][-_LOGGED:]
        if stopped:
            return stopped
        if process.returncode == MISSING:
            return f"not run: {last}"
        return "" if process.returncode == 0 else f"failed: {last}"

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the end; say why it was brought about, if it was.

        No limit of the kernel's (RLIMIT_CPU) is set: under one, the processor clock that is measured with ticks in
        steps of milliseconds.
        """
        began_s = time.monotonic()
        try:
            while True:
                try:
                    process.wait(_LOOK_S)
                    return ""
                except subprocess.TimeoutExpired:
                    spent_s = _processor_s(process.pid)
                if spent_s > self._limit_s:
                    return f"stopped after {self._limit_s:.0f} s of processor time"
                if time.monotonic() - began_s > _WALL_FACTOR * self._limit_s:
                    return f"stopped after {_WALL_FACTOR * self._limit_s:.0f} s"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _path(self, method: str, series: Series | None, streams: int | None) -> Path:
        name = "-".join([method.replace(" ", "_"), series.name if series else "network", str(streams or "scores")])
        return self._parts / f"{name}.json"


def _detector_row(
    method: str,
    chosen: Sequence[Series],
    timed: Series,
    runner: _Runner,
    streams: Sequence[int],
    longest: int | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"what": method, "kind": "detector"}
    notes, found, fits = [], [], []
    for s in chosen:
        facts, scores = runner.outcome(method, s, None), runner.scores(method, s)
        labels = s.labels[:longest]
        if facts.get("note") or scores is None or len(scores) != len(labels):
            wrong = "no scores" if scores is None else "scores of another length"
            notes.append(f"{s.source}: {facts.get('note') or wrong}")
            continue
        row |= {key: facts[key] for key in ("version", "window") if key in facts}
        row["delay_samples"] = "the whole series" if facts["delay"] is None else facts["delay"]
        fits.append(facts["fit_s"])
        usable = np.isfinite(scores).all() and labels.any()
        figure = vus_pr(labels, scores, window=metric_window(s.values[:, 0])) if usable else None
        row[s.name.split("_")[1] + f" {s.name[:3]}"] = None if figure is None else round(figure, 4)
        if figure is not None:
            found.append(figure)
    if found and len(found) == len(chosen):
        row["vus_pr"] = round(float(np.mean(found)), 4)
    if fits:
        row["fit_s"] = round(float(np.median(fits)), 2)
    _costs(row, [(n, runner.outcome(method, timed, n)) for n in streams], notes)
    return {**row, "note": "; ".join(dict.fromkeys(notes))}


def _runtime_row(method: str, runner: _Runner, streams: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {"what": method, "kind": "runtime"}
    notes: list[str] = []
    outcomes = [(n, runner.outcome(method, None, n)) for n in streams]
    for _, facts in outcomes:
        row |= {key: facts[key] for key in ("version", "window", "difference") if key in facts}
    _costs(row, outcomes, notes)
    return {**row, "note": "; ".join(dict.fromkeys(notes))}


def _costs(row: dict[str, Any], outcomes: Sequence[tuple[int, dict[str, Any]]], notes: list[str]) -> None:
    spreads = []
    for n, facts in outcomes:
        if facts.get("note"):
            notes.append(f"{n} streams: {facts['note']}")
            continue
        for chunk in (1, 50):
            row[f"us_{n}_streams_chunk_{chunk}"] = round(facts[f"us_chunk_{chunk}"], 3)
            spreads.append(facts[f"spread_chunk_{chunk}"])
        row[f"rss_mb_{n}_streams"] = round(facts["rss_mb"], 1)
    if spreads:
        row["spread"] = round(max(spreads), 3)
        row["unstable"] = max(spreads) >= _UNSTABLE


def _put_beside(rows: list[dict[str, Any]]) -> None:
    """Say how many times what kinedge takes each peer takes: its fused detector, or its engine with either backend."""
    ours = (
        ("detector", "kinedge fused", "times_"),
        ("runtime", "kinedge engine", "times_"),
        ("runtime", "kinedge engine, native", "times_native_"),
    )
    for kind, name, prefix in ours:
        own = next((r for r in rows if r["what"] == name), None)
        for row in rows if own is not None else ():
            for key in [k for k in row if k.startswith("us_")] if row["kind"] == kind else []:
                if own is not None and own.get(key):
                    row[f"{prefix}{key[3:]}"] = round(row[key] / own[key], 2)


def _processor_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parts_of(out: Path | None) -> Path:
    """Return where outcomes of single tasks are kept: beside the result, or under the time where there is none."""
    if out is not None:
        return out.with_suffix(".parts")
    return Path(f"peers-{time.strftime('%Y%m%dT%H%M%S')}.parts")
