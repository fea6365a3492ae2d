"""Thousands of small trainings through any ``concurrent.futures.Executor``: a killed worker costs time, nothing else.

Tasks go to the executor as many at a time as it has workers, so that little is lost with it and memory stays bounded.
What is made is written beside its place and renamed, then noted with its digest in ``fleet.jsonl``; a fleet that was
stopped goes on there. When a worker dies, its pool goes with it: a new one takes over what was under way. A task that
was under way at three deaths runs alone from then on, and has failed if a worker dies under it again. What fails for
one person is noted and told at the end.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from kinedge.errors import ConfigError, KinedgeError

__all__ = ["LEDGER_NAME", "FleetReport", "FleetTask", "Made", "person_seed", "run_fleet"]

LEDGER_NAME: Final = "fleet.jsonl"
_SCHEMA: Final = "kinedge.fleet/1"
_PERSON: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MAX_DEATHS: Final = 3


@dataclass(frozen=True)
class Made:
    """What a job hands back for one person: a bundle with facts about it, or why there is none."""

    person: str
    data: bytes = b""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class FleetTask:
    """One unit of work: a person, or several whose models are trained at once.

    Parameters
    ----------
    people
        Whose bundles the job makes; names of their files.
    key
        Names data and settings: a bundle that was made with another key is made again.
    job
        Called in a worker with the time to date bundles by (s of the Unix epoch); picklable.
    """

    people: tuple[str, ...]
    key: str
    job: Callable[[int], Sequence[Made]]


@dataclass
class FleetReport:
    """What became of a fleet."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    n_pools_lost: int = 0


def person_seed(person: str, seed: int = 0) -> int:
    """Derive the seed of a person's training from who it is: the same in any order, on any worker."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{person}".encode()).digest()[:4], "big")


def run_fleet(
    tasks: Sequence[FleetTask],
    folder: Path,
    *,
    executors: Callable[[], Executor],
    n_workers: int,
    made_s: int,
    progress: Callable[[str], None] | None = None,
) -> FleetReport:
    """Make everybody's bundle: ``<folder>/<person>.kinedge``.

    Parameters
    ----------
    tasks
        Nobody stands in two.
    executors
        Makes an executor; called again when one was lost with a worker.
    n_workers
        Tasks under way at the same time.
    made_s
        What bundles are dated by; a folder that has begun keeps its own.
    progress
        Called with each person who is done, has failed or was done before.

    Raises
    ------
    ConfigError
        A name cannot name a file or stands twice, or another fleet is writing to the folder.
    """
    people = [p for t in tasks for p in t.people]
    strange = [p for p in people if not _PERSON.fullmatch(p)]
    if strange:
        raise ConfigError(f"{strange[0]!r} cannot name a file: letters, digits, '_', '.' and '-' can, at most 100")
    if len(set(people)) < len(people):
        raise ConfigError(f"{next(p for p in people if people.count(p) > 1)!r} stands twice in the fleet")
    say = progress or (lambda person: None)
    report = FleetReport()
    with _Ledger.opened(folder, made_s) as ledger:
        waiting: deque[FleetTask] = deque()
        for task in tasks:
            if all(ledger.holds(p, task.key) for p in task.people):
                report.kept += task.people
                for person in task.people:
                    say(person)
            else:
                waiting.append(task)
        crew = _Crew(executors, n_workers)
        for task, outcome in crew.work_off(waiting, ledger.made_s):
            for made in outcome:
                ledger.note(made, task.key)
                if made.error:
                    report.failed[made.person] = made.error
                else:
                    report.made.append(made.person)
                say(made.person)
        report.n_pools_lost = crew.n_lost
    return report


class _Crew:
    """Tasks under way on one executor after the other."""

    def __init__(self, executors: Callable[[], Executor], n_workers: int) -> None:
        self._executors = executors
        self._n_workers = n_workers
        self._executor: Executor | None = None
        self._deaths: dict[tuple[str, ...], int] = {}
        self._under_way: dict[Future[Sequence[Made]], FleetTask] = {}
        self.n_lost = 0

    def work_off(self, waiting: deque[FleetTask], made_s: int) -> Iterator[tuple[FleetTask, Sequence[Made]]]:
        """Yield each task with what came of it, as they end."""
        try:
            while waiting or self._under_way:
                lost = self._submit(waiting, made_s)
                if not lost:
                    done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
                    lost = any(isinstance(f.exception(), BrokenExecutor) for f in done)
                if lost and self._executor is not None:
                    self.n_lost += 1
                    self._executor.shutdown()
                    self._executor = None
                for future in [f for f in self._under_way if lost or f.done()]:
                    task = self._under_way.pop(future)
                    problem = future.exception()
                    if isinstance(problem, BrokenExecutor):
                        if self._again(task, waiting):
                            continue
                        yield task, _all_failed(task, "its worker died again and again; is there too little memory?")
                    else:
                        yield task, _all_failed(task, _told(problem)) if problem else future.result()
        finally:
            if self._executor is not None:
                self._executor.shutdown()

    def _submit(self, waiting: deque[FleetTask], made_s: int) -> bool:
        """Submit what there is room for; return whether the executor was found dead."""
        while waiting and len(self._under_way) < (1 if self._suspect(waiting[0]) else self._n_workers):
            if any(self._suspect(t) for t in self._under_way.values()):
                break
            if self._executor is None:
                self._executor = self._executors()
            try:
                future = self._executor.submit(waiting[0].job, made_s)
            except BrokenExecutor:
                return True
            self._under_way[future] = waiting.popleft()
        return False

    def _suspect(self, task: FleetTask) -> bool:
        return self._deaths.get(task.people, 0) >= _MAX_DEATHS

    def _again(self, task: FleetTask, waiting: deque[FleetTask]) -> bool:
        """Put a task back that was under way when a worker died, unless it died of this one."""
        if self._suspect(task):
            return False
        self._deaths[task.people] = self._deaths.get(task.people, 0) + 1
        if self._suspect(task):
            waiting.append(task)
        else:
            waiting.appendleft(task)
        return True


def _all_failed(task: FleetTask, error: str) -> list[Made]:
    return [Made(p, error=error) for p in task.people]


def _told(problem: BaseException) -> str:
    return str(problem) if isinstance(problem, KinedgeError) else f"{type(problem).__name__}: {problem}"


class _Ledger:
    """What is done, one JSON object a line; the last line about a person counts."""

    def __init__(self, folder: Path, file: IO[str], made_s: int, entries: dict[str, dict[str, Any]]) -> None:
        self._folder = folder
        self._file = file
        self._entries = entries
        self.made_s = made_s

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, made_s: int) -> Iterator[_Ledger]:
        path = folder / LEDGER_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8", newline="\n")
        except OSError as e:
            raise ConfigError(f"{path}: cannot be written ({e.strerror}); give a folder that can") from e
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise ConfigError(f"{folder}: another fleet is writing there; wait for it, or give a new folder") from e
            file.seek(0)
            text = file.read()
            if text and not text.endswith("\n"):  # the last line was cut off with the machine
                file.write("\n")
            lines = [entry for line in text.splitlines() if (entry := _object(line)) is not None]
            if lines and lines[0].get("schema") != _SCHEMA:
                raise ConfigError(f"{path}: no ledger of a fleet; give an empty folder")
            entries = {e["person"]: e for e in lines if isinstance(e.get("person"), str)}
            begun = lines[0].get("made_s") if lines else None
            ledger = cls(folder, file, begun if isinstance(begun, int) else made_s, entries)
            if not lines:
                ledger._append({"schema": _SCHEMA, "made_s": made_s})
            yield ledger

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def holds(self, person: str, key: str) -> bool:
        """Whether the person's bundle was made with this key and lies there unharmed."""
        entry = self._entries.get(person, {})
        if entry.get("key") != key or "sha256" not in entry:
            return False
        try:
            data = (self._folder / f"{person}.kinedge").read_bytes()
        except OSError:
            return False
        return bool(hashlib.sha256(data).hexdigest() == entry["sha256"])

    def note(self, made: Made, key: str) -> None:
        """Write a bundle, then the line that says so."""
        if made.error:
            self._append({"person": made.person, "key": key, "error": made.error})
            return
        path = self._folder / f"{made.person}.kinedge"
        beside = path.with_name(path.name + ".part")
        try:
            with beside.open("wb") as file:
                file.write(made.data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as e:
            raise ConfigError(f"{path}: cannot be written ({e.strerror}); make room and start again") from e
        digest = hashlib.sha256(made.data).hexdigest()
        self._append(
            {"person": made.person, "key": key, "sha256": digest, "n_bytes": len(made.data), "facts": dict(made.facts)}
        )


def _object(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
