"""How a fleet of personal models scales: with processes, and with models trained side by side by ``vmap``.

The same simulated people every time, with a fleet's default network on a few minutes each. Contenders take turns; each
is a whole fleet: starting the workers, simulating, training, calibrating and packing. ``training alone`` leaves all but
the training away. Beside models a minute stands what a model costs in processor time, workers included: it says what a
busy machine's clock does not.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.harness import result
from kinedge.errors import ConfigError
from kinedge.quantize.build import BuildConfig
from kinedge.quantize.personal import Simulated, personal_tasks
from kinedge.training.executors import process_executors
from kinedge.training.fit import FitConfig, fit
from kinedge.training.fleet import run_fleet
from kinedge.training.simulate import SimulationConfig, simulate
from kinedge.training.vmapped import FitTask, fit_many

__all__ = ["bench_fleet"]

_SMALL: Final = FitConfig(width=8, dilations=(1, 4, 16), window=64, batch=4, steps_per_epoch=25, max_epochs=4)
_UNSTABLE: Final = 0.10


def bench_fleet(
    *,
    n_people: int = 8,
    minutes: float = 4.0,
    workers: Sequence[int] = (1, 2),
    at_once: Sequence[int] = (1, 8, 32),
    n_rounds: int = 3,
) -> dict[str, Any]:
    """Measure models per minute.

    Parameters
    ----------
    n_people
        Of the fleets of processes.
    minutes
        Recorded of each person.
    workers
        Processes of a fleet.
    at_once
        Models trained side by side, in one process and one thread.
    n_rounds
        Turns of each contender.
    """
    contenders: dict[str, tuple[int, Callable[[], object]]] = {}
    for n in workers:
        contenders[f"fleet, {n} worker" + ("s" if n > 1 else "")] = (n_people, partial(_fleet, n_people, minutes, n))
    for name, config in (("small", _SMALL), ("default", FitConfig(steps_per_epoch=10, max_epochs=2))):
        for b in at_once:
            if name == "default" and b > 8:
                continue  # says no more, and takes minutes
            tasks = [_task(config, seed) for seed in range(b)]
            what = f"training alone, {name} network, {b} at once"
            contenders[what] = (b, partial(fit_many if b > 1 else _alone, tasks))
    times: dict[str, list[float]] = {what: [] for what in contenders}
    costs: dict[str, list[float]] = {what: [] for what in contenders}
    for _ in range(n_rounds):
        for what, (_, run) in contenders.items():
            start, before = time.perf_counter(), _processor_s()
            run()
            times[what].append(time.perf_counter() - start)
            costs[what].append(_processor_s() - before)
    rows = []
    for what, (n, _) in contenders.items():
        rates = 60 * n / np.array(times[what])
        spread = float((rates.max() - rates.min()) / np.median(rates))
        rows.append(
            {
                "what": what,
                "models": n,
                "models_per_minute": round(float(np.median(rates)), 2),
                "processor_s_per_model": round(float(np.median(costs[what])) / n, 3),
                "spread": round(spread, 3),
                "n_rounds": n_rounds,
                "unstable": spread >= _UNSTABLE,
            }
        )
    settings = {"n_people": n_people, "minutes": minutes, "seed": 0, "cores": len(os.sched_getaffinity(0))}
    return result("fleet", rows, settings=settings)


def _processor_s() -> float:
    """Return the processor time of this process and of all its children that have ended."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _fleet(n_people: int, minutes: float, n_workers: int) -> None:
    people = {f"p{seed}": Simulated(seed, n_sessions=2, duration_s=minutes * 30) for seed in range(n_people)}
    tasks = personal_tasks(people, BuildConfig(name="fleet", fit=_SMALL))
    with tempfile.TemporaryDirectory() as folder, process_executors(n_workers) as (executors, n):
        report = run_fleet(tasks, Path(folder), executors=executors, n_workers=n, made_s=0)
    if report.failed:
        raise ConfigError(f"the fleet failed for {report.failed}; give more minutes")


def _task(config: FitConfig, seed: int) -> FitTask:
    train, val = (simulate(SimulationConfig(subject_seed=seed, session_seed=k, duration_s=60)) for k in (0, 1))
    return FitTask([train], [val], config.model_copy(update={"seed": seed, "patience": 99}))


def _alone(tasks: Sequence[FitTask]) -> None:
    for task in tasks:
        fit(task.train, task.val, task.config)
