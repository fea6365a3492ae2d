"""Tasks that run for as long as the service does: what ends one is told, and it begins anew after a while.

A task that fails again and again is asked less and less often. If the service is worth nothing without it, the service
gives up after some attempts and ends with the cause, so that whoever started the process can start it afresh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["RestartPolicy", "Supervisor", "TaskState"]

logger = logging.getLogger(__name__)

_MAX_CAUSE_CHARS: Final = 300

Make = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class RestartPolicy:
    """How patient a supervisor is."""

    first_backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    max_restarts: int = 8  # of an essential task, without a calm stretch between them
    calm_s: float = 300.0  # a run so long makes up for the failures before


@dataclass
class TaskState:
    """How a task is doing."""

    name: str
    running: bool = False
    restarts: int = 0
    last_cause: str = ""


@dataclass
class _Worker:
    make: Make
    essential: bool
    once: bool
    drains: bool
    state: TaskState
    task: asyncio.Task[None] | None = field(default=None)


class Supervisor:
    """Runs tasks by name.

    Parameters
    ----------
    note
        Told each restart with its cause.
    policy
        Back-off and bounds.
    monotonic_s
        Measures calm stretches.
    """

    def __init__(
        self,
        *,
        note: Callable[[str], None],
        policy: RestartPolicy | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._note = note
        self._policy = policy or RestartPolicy()
        self._monotonic_s = monotonic_s
        self._workers: list[_Worker] = []
        self._changed = asyncio.Event()

    @property
    def states(self) -> tuple[TaskState, ...]:
        """Every task, in the order of ``add``."""
        return tuple(w.state for w in self._workers)

    def add(self, name: str, make: Make, *, essential: bool = False, once: bool = False, drains: bool = False) -> None:
        """Name a task; it begins with ``start``.

        Parameters
        ----------
        name
            For the log and the metrics.
        make
            Makes the coroutine, each time anew.
        essential
            After ``max_restarts`` failures the service ends; others are asked for ever.
        once
            Its end is the end of the service, and its failure is raised at once.
        drains
            ``stop_workers`` leaves it running, so that it can finish what waits, and it may return by itself.
        """
        self._workers.append(_Worker(make, essential, once, drains, TaskState(name)))

    def start(self) -> None:
        """Begin all tasks that have not begun."""
        for worker in self._workers:
            if worker.task is None:
                worker.task = asyncio.create_task(self._keep(worker), name=worker.state.name)
        self._changed.set()

    async def remove(self, name: str) -> None:
        """End a task for good, and forget it; nothing happens where there is none of this name."""
        gone = [w for w in self._workers if w.state.name == name]
        self._workers = [w for w in self._workers if w.state.name != name]
        self._changed.set()
        await _cancel([w.task for w in gone if w.task is not None])

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait until ``stop`` is set or a task has ended for good.

        Raises
        ------
        BaseException
            What ended a ``once`` task, or an essential one too often.
        """
        stopping = asyncio.create_task(stop.wait(), name="stop")
        changed: asyncio.Task[Any] | None = None
        try:
            while True:
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait(), name="tasks changed")
                tasks = self._tasks()
                done, _ = await asyncio.wait([*tasks, stopping, changed], return_when=asyncio.FIRST_COMPLETED)
                ended = [t for t in tasks if t in done and t in self._tasks()]  # not those that were removed
                for task in ended:
                    task.result()  # raises what ended it
                if ended or stopping in done:
                    return
                changed.cancel()
        finally:
            for one in (stopping, changed):
                if one is not None:
                    one.cancel()
                    await asyncio.gather(one, return_exceptions=True)

    async def stop_workers(self) -> None:
        """Cancel what does not drain."""
        await _cancel([w.task for w in self._workers if w.task is not None and not w.drains])

    async def drain(self, *, timeout_s: float) -> bool:
        """Let the rest finish; cancel it after ``timeout_s``. Returns whether all had finished by then."""
        tasks = self._tasks()
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        await _cancel(tasks)
        return not late

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [w.task for w in self._workers if w.task is not None]

    async def _keep(self, worker: _Worker) -> None:
        state, failures = worker.state, 0
        while True:
            began_s = self._monotonic_s()
            task = asyncio.create_task(worker.make(), name=state.name)
            state.running = True
            try:
                await asyncio.wait([task])
            finally:
                state.running = False
                if not task.done():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if worker.once or (worker.drains and error is None):
                task.result()
                return
            failures = 1 if self._monotonic_s() - began_s >= self._policy.calm_s else failures + 1
            state.last_cause = _cause(error)
            if worker.essential and failures > self._policy.max_restarts:
                self._note(f"task {state.name} failed {failures} times; the service ends: {state.last_cause}")
                task.result()
                return
            state.restarts += 1
            delay_s = min(self._policy.max_backoff_s, self._policy.first_backoff_s * 2.0 ** min(failures - 1, 30))
            logger.error("task %s ended", state.name, exc_info=error)
            self._note(f"task {state.name} ended and begins anew in {delay_s:g} s: {state.last_cause}")
            await asyncio.sleep(delay_s)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _cause(error: BaseException | None) -> str:
    if error is None:
        return "it returned, which it should not"
    return f"{type(error).__name__}: {error}"[:_MAX_CAUSE_CHARS]
