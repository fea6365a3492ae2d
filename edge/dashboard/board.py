"""The dashboard of one gateway: what the service tells it, and how it all stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge import __version__
from kinedge.edge.dashboard.auth import Doorkeeper, read_token
from kinedge.edge.dashboard.enrolling import EnrolmentRoom
from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.hub import Hub
from kinedge.edge.dashboard.identify import Identifying
from kinedge.edge.dashboard.posing import PosingRoom
from kinedge.edge.dashboard.readings import StoreReading, read_store
from kinedge.edge.dashboard.state import (
    SCHEMA,
    OutboxReading,
    PersonFacts,
    model_fields,
    outbox_fields,
    person_fields,
    spare_fields,
    task_fields,
)
from kinedge.edge.dashboard.words import Words
from kinedge.edge.pipeline import Scored
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Verdict
from kinedge.edge.wiring import HandedOver
from kinedge.errors import StoreError
from kinedge.signals import ImuChunk

if TYPE_CHECKING:
    from kinedge.edge.config import HttpConfig
    from kinedge.edge.dashboard.actions import Actions
    from kinedge.edge.dashboard.routes import Routes
    from kinedge.edge.http_server import Answer, Request, Stream
    from kinedge.edge.service import EdgeService

__all__ = ["Board"]

_READ_EVERY_S: Final = 5.0
_SYNC_KEPT_NS: Final = 60_000_000_000


class Board:
    """What is behind the dashboard of a gateway.

    Parameters
    ----------
    service
        Whose.
    http
        Where it listens.

    Attributes
    ----------
    hub
        Told what happens.
    doorkeeper
        Knows who may ask.

    Raises
    ------
    ConfigError
        It listens beyond this machine without a token, or the token cannot be read.
    """

    def __init__(self, service: EdgeService, http: HttpConfig) -> None:
        self.doorkeeper = Doorkeeper(http.host, None if http.token_file is None else read_token(http.token_file))
        manifest = service.scorer.manifest
        self.hub = Hub(hop_s=manifest.hop / manifest.rate_hz, utc_of=self._utc_of)
        self.hub.muted.update(service.decided.state.muted)
        for text in service.notes:  # of the start, before there was a dashboard
            self.hub.note(text)
        self._service = service
        self.enrolments = EnrolmentRoom(service)
        self.posing = PosingRoom(service, self.enrolments)
        self.identifying = Identifying(self.hub, service.clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = StoreReading()
        self._read_s = 0.0
        self._unreadable = ""

    @cached_property
    def actions(self) -> Actions:
        """What people may do here."""
        from kinedge.edge.dashboard.actions import Actions

        return Actions(self)

    @cached_property
    def _routes(self) -> Routes:
        from kinedge.edge.dashboard.routes import Routes  # a board that nobody looks at does without

        return Routes(self)

    async def answer(self, request: Request) -> Answer | Stream | None:
        """Answer a request; None where there is nothing."""
        return await self._routes.dispatch(request)

    @property
    def gateway(self) -> str:
        """Its name."""
        return self._service.config.gateway

    @property
    def store(self) -> EpisodeStore:
        """Its episodes."""
        return self._service.store

    def check_subject(self, subject: str) -> None:
        """Refuse whoever is not here.

        Raises
        ------
        Refused
            There is nobody of this name.
        """
        if subject not in self._service.pipeline.subjects:
            raise Refused("not_found", "there is nobody of this name here")

    def knows_device(self, where: str) -> bool:
        """Whether there is such a device."""
        return where in self._service.wiring

    def places(self) -> tuple[str, ...]:
        """Return where sensors can be worn: those of the model."""
        return self._service.scorer.sensors

    async def remember_assigned(self) -> None:
        """Keep over a restart who wears what."""
        await self.remember(assigned=self._service.wiring.assigned)

    def remember_assigned_soon(self) -> None:
        """Keep it without waiting for the disk."""
        task = asyncio.create_task(self.remember_assigned(), name="board state")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def record(self, event: str, **detail: Any) -> None:
        """Let an action be known to the audit trail."""
        self._service.caretaker.record(event, **detail)

    async def remember(self, **changes: Any) -> None:
        """Keep what was decided over a restart; a disk that refuses is told in a note."""
        decided = self._service.decided
        decided.change(**changes)
        try:
            await asyncio.to_thread(decided.save)
        except StoreError as e:
            self._service.note(str(e))

    def login_failed(self, peer: str) -> None:
        """Take note of a wrong token: the first, and then each tenth."""
        n = self.doorkeeper.failures
        if n == 1 or n % 10 == 0:
            self._service.note(f"dashboard: {n} failed login{'s' if n > 1 else ''}, the last from {peer}")
            self.record("login_failed", n=n, peer=peer)

    def left(self, subjects: Sequence[str]) -> None:
        """Forget people who are no longer here."""
        self.hub.forget(subjects)
        self.enrolments.forget(subjects)
        self.posing.forget(subjects)
        self.remember_assigned_soon()

    def stop(self, text: Words) -> None:
        """End the gateway."""
        self.hub.tell("bye", {"text": text})
        self._service.stop_soon()

    def saw(self, scored: Scored, verdict: Verdict, utc_ns: int) -> None:
        """Take a verdict, in the event loop."""
        self.hub.saw(scored.subject, verdict, utc_ns)
        self.enrolments.saw(scored)
        self.posing.saw(scored)

    def assign(self, where: str, subject: str | None, sensor: str | None) -> HandedOver:
        """Give a device to somebody; it is remembered and written into the audit trail.

        Raises
        ------
        ConfigError
            There is no such device or person, or it is theirs already.
        """
        service = self._service
        handed = service.assign(where, subject, sensor=sensor)
        self.record("assigned", **asdict(handed))
        self.hub.changed(*(s for s in (handed.giver, handed.taker) if s is not None))
        return handed

    async def run(self) -> None:
        """Make JSON for those who listen, for as long as the service runs."""
        await self.hub.run(lambda: self._service.pipeline.subjects, self.person, self._slow)

    async def end(self) -> None:
        """Leave what is going on, because the gateway ends."""
        await self.identifying.cancel()
        await self.enrolments.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def state(self) -> dict[str, Any]:
        """Return how everything stands."""
        slow = await self._slow()
        return {**slow, "utc_ns": time.time_ns(), "people": [self.person(s) for s in self._service.pipeline.subjects]}

    def person(self, subject: str) -> dict[str, Any]:
        """Return how one person stands."""
        service = self._service
        people, now_ns = service.pipeline.people, service.clock.now_ns()
        devices = [self.hub.device(where) for where in service.wiring.worn_by(subject)]
        health = {s: service.health.get((subject, s)) for s in service.scorer.sensors}
        facts = PersonFacts(
            subject,
            devices,
            clock_ms={
                s: h.clock_uncertainty_ms
                for s, h in health.items()
                if h is not None and h.clock_uncertainty_ms is not None
            },
            enrolment=people.enrolments.get(subject),
            basis=people.bases[people.subjects.index(subject)],
            n_today=self._reading.n_today.get(subject, 0),
            episode_utc_ns=self.hub.episodes.get(subject),
            muted_until_utc_ns=self.hub.muted_until(subject),
            enrolling=self.enrolments.of(subject),
            posing=self.posing.of(subject),
            can_pose=self.posing.can(subject),
        )
        return person_fields(
            facts,
            self.hub.person(subject),
            service.scorer,
            alarm=service.config.alarm,
            now_ns=now_ns,
            now_utc_s=time.time(),
        )

    async def _slow(self) -> dict[str, Any]:
        """Return all but the people."""
        service = self._service
        now_s = time.monotonic()
        if now_s - self._read_s >= _READ_EVERY_S or not self._read_s:
            self._read_s = now_s
            try:
                self._reading = await asyncio.to_thread(read_store, service.store)
                self._unreadable = ""
            except StoreError as e:
                self._unreadable = str(e)
            await self._remember_sync()
        return {
            "schema": SCHEMA,
            "site": service.config.site,
            "gateway": service.config.gateway,
            "version": __version__,
            "model": model_fields(service.scorer),
            "outbox": outbox_fields(self._outbox()),
            "tasks": task_fields(service.tasks),
            "notes": list(self.hub.notes),
            "spare": spare_fields(map(self.hub.device, service.wiring.worn_by(None)), service.clock.now_ns()),
            "identify": self.identifying.now,
            "features": self.features(),
        }

    async def _remember_sync(self) -> None:
        """Keep when the collector was last reached: rows that it has go from the store after some days."""
        synced, kept = self._synced_utc_ns, self._service.decided.state.last_sync_utc_ns
        if synced is not None and synced - (kept or 0) > _SYNC_KEPT_NS:
            await self.remember(last_sync_utc_ns=synced)

    @property
    def _synced_utc_ns(self) -> int | None:
        uplink, kept = self._service.uplink, self._service.decided.state.last_sync_utc_ns
        known = (self._reading.synced_utc_ns, kept, None if uplink is None else uplink.counters.last_success_utc_ns)
        return max((t for t in known if t is not None), default=None)

    def _outbox(self) -> OutboxReading:
        reading, uplink = self._reading, self._service.uplink
        error = self._unreadable or self._service.keeper.refused
        if uplink is not None and (reading.waiting_episodes or reading.waiting_raw):  # else it went well in the end
            error = error or uplink.counters.last_error or ""
        return OutboxReading(
            reading.waiting_episodes,
            reading.waiting_raw,
            reading.quarantined,
            reading.oldest_utc_ns,
            self._synced_utc_ns,
            uplink is not None,
            error,
        )

    def _utc_of(self, subject: str, chunk: ImuChunk) -> NDArray[np.int64] | None:
        service = self._service
        clock = service.pipeline.clock(subject, chunk.sensor)
        if clock is None:
            return None
        found: NDArray[np.int64] = clock.to_host_ns(chunk.device_time_ns) + service.utc_offset_ns
        return found

    def features(self) -> dict[str, bool]:
        """Return what can be done here."""
        live = self._service.is_live
        return {"enrol": live, "assign": live, "mute": True, "stop": True}
