"""Jobs that fleet tests send to other processes: these must be able to import them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from kinedge.training.fleet import Made


@dataclass(frozen=True)
class Say:
    """Make a file that says who it is for, when, and whether it ran before."""

    people: tuple[str, ...]

    def __call__(self, made_s: int) -> list[Made]:
        return [Made(p, f"{p} {made_s}".encode(), {"length": len(p)}) for p in self.people]


@dataclass(frozen=True)
class Die:
    """Take the worker along, the first ``times`` times."""

    person: str
    marks: Path
    times: int

    def __call__(self, made_s: int) -> list[Made]:
        n = len(list(self.marks.glob(f"{self.person}.*")))
        if n < self.times:
            (self.marks / f"{self.person}.{n}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Say((self.person,))(made_s)


@dataclass(frozen=True)
class Break:
    """Fail with an error that is none of ours."""

    person: str

    def __call__(self, made_s: int) -> list[Made]:
        raise ZeroDivisionError(f"{self.person} at {made_s}")


@dataclass(frozen=True)
class Wait:
    """Wait for a file, at most a minute."""

    person: str
    until: Path

    def __call__(self, made_s: int) -> list[Made]:
        for _ in range(6000):
            if self.until.exists():
                return Say((self.person,))(made_s)
            time.sleep(0.01)
        return [Made(self.person, error="waited in vain")]


@dataclass(frozen=True)
class KilledInTraining:
    """A personal job whose worker is killed when it has written its first checkpoint."""

    job: object
    mark: Path

    def __call__(self, made_s: int) -> list[Made]:
        from kinedge.training.loop import Loop

        save = Loop.save

        def save_and_die(loop: Loop, path: Path) -> None:
            save(loop, path)
            if not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        Loop.save = save_and_die  # type: ignore[method-assign]
        try:
            return self.job(made_s)  # type: ignore[operator,no-any-return]
        finally:
            Loop.save = save  # type: ignore[method-assign]
