"""Find the sensor that is in somebody's hand, and give it to a person: the next one that is tapped or shaken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from kinedge.edge.dashboard.hub import Hub
from kinedge.edge.dashboard.words import Words, both
from kinedge.edge.hostclock import HostClock
from kinedge.errors import KinedgeError
from kinedge.firmware_bridge.tapping import Felt, TapFinder
from kinedge.units import NS_PER_S

__all__ = ["Identifying"]

IDENTIFY_S: Final = 20.0
_LOOK_S: Final = 0.25
_SHOWN_S: Final = 10.0  # how long an end is still told to whoever opens a page

Progress = Literal["waiting", "found", "failed", "cancelled"]


class Identifying:
    """One search at a time.

    Parameters
    ----------
    hub
        Hears all devices, and tells how it goes.
    clock
        The devices'; where it runs faster, so does the search.
    """

    def __init__(self, hub: Hub, clock: HostClock) -> None:
        self._hub, self._clock = hub, clock
        self._task: asyncio.Task[None] | None = None
        self._said: dict[str, Any] | None = None
        self._said_s = 0.0
        self._wanted: tuple[str, str | None] = ("", None)

    @property
    def running(self) -> bool:
        """Whether something is being looked for."""
        return self._task is not None and not self._task.done()

    @property
    def now(self) -> Mapping[str, Any] | None:
        """How it stands; None when nothing is looked for, and no end is news."""
        if self._said is None or (not self.running and time.monotonic() - self._said_s > _SHOWN_S):
            return None
        return self._said

    def start(self, subject: str, sensor: str | None, assign: Callable[[str], Words]) -> None:
        """Look for 20 s; ``assign`` is given where the device is, and says in words what came of it."""
        self._wanted = (subject, sensor)
        self._tell("waiting", _ask(subject, IDENTIFY_S), seconds_left=IDENTIFY_S)
        self._task = asyncio.create_task(self._look(assign), name="identify")

    async def cancel(self) -> bool:
        """End the search; whether there was one."""
        task, self._task = self._task, None
        if task is None or task.done():
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True

    async def _look(self, assign: Callable[[str], Words]) -> None:
        finder = self._hub.taps = TapFinder()
        subject = self._wanted[0]
        end_ns = self._clock.now_ns() + round(IDENTIFY_S * NS_PER_S)
        said_s = IDENTIFY_S
        try:
            while (left_s := (end_ns - self._clock.now_ns()) / NS_PER_S) > 0:
                await asyncio.sleep(_LOOK_S / self._clock.speed)
                felt = finder.look(self._clock.now_ns())
                if felt.where is not None:
                    self._found(felt, assign)
                    return
                if said_s - left_s >= 1.0:
                    said_s = left_s
                    text = _several() if felt.how == "several" else _ask(subject, left_s)
                    self._tell("waiting", text, seconds_left=round(left_s, 1))
            self._tell("failed", both("no sensor was tapped or shaken", "aucun capteur n'a été tapé ni secoué"))
        except asyncio.CancelledError:
            self._tell("cancelled", both("cancelled", "annulé"))
            raise
        finally:
            if self._hub.taps is finder:
                self._hub.taps = None

    def _found(self, felt: Felt, assign: Callable[[str], Words]) -> None:
        try:
            text = assign(str(felt.where))
        except KinedgeError as e:
            self._tell("failed", both(str(e), str(e)), where=felt.where)
            return
        self._tell("found", text, where=felt.where)

    def _tell(self, state: Progress, text: Words, *, seconds_left: float = 0.0, where: str | None = None) -> None:
        subject, sensor = self._wanted
        info = None if where is None else self._hub.device(where).info
        self._said = {
            "state": state,
            "subject": subject,
            "sensor": sensor,
            "seconds_left": seconds_left,
            "where": where,
            "serial": "" if info is None else info.serial,
            "text": text,
        }
        self._said_s = time.monotonic()
        self._hub.tell("identify", self._said)
        self._hub.changed()


def _ask(subject: str, left_s: float) -> Words:
    return both(
        f"tap or shake the sensor of {subject} now: {left_s:.0f} s",
        f"tapez ou secouez maintenant le capteur de {subject} : {left_s:.0f} s",
    )


def _several() -> Words:
    return both(
        "several sensors move: hold the others still", "plusieurs capteurs bougent : tenez les autres immobiles"
    )
