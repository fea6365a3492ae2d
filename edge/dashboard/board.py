"""The dashboard of one gateway: what the service tells it, and how it all stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge import __version__
from kinedge.edge.dashboard.actions import Actions
from kinedge.edge.dashboard.auth import Doorkeeper, read_token
from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.hub import Hub
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
from kinedge.edge.store import EpisodeStore
from kinedge.errors import StoreError
from kinedge.signals import ImuChunk

if TYPE_CHECKING:
    from kinedge.edge.config import HttpConfig
    from kinedge.edge.service import EdgeService

__all__ = ["Board"]

_READ_EVERY_S: Final = 5.0


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
        self.actions = Actions(self)
        self._service = service
        self._reading = StoreReading()
        self._read_s = 0.0
        self._unreadable = ""

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

    def stop(self, text: Words) -> None:
        """End the gateway."""
        self.hub.tell("bye", {"text": text})
        self._service.stop_soon()

    async def run(self) -> None:
        """Make JSON for those who listen, for as long as the service runs."""
        await self.hub.run(lambda: self._service.pipeline.subjects, self.person, self._slow)

    async def state(self) -> dict[str, Any]:
        """Return how everything stands."""
        slow = await self._slow()
        return {**slow, "utc_ns": time.time_ns(), "people": [self.person(s) for s in self._service.pipeline.subjects]}

    def person(self, subject: str) -> dict[str, Any]:
        """Return how one person stands."""
        service = self._service
        people, now_ns = service.pipeline.people, service.clock.now_ns()
        devices = [self.hub.device(where) for where in service.wiring.worn_by(subject)]
        clocks = {s: service.pipeline.clock(subject, s) for s in service.scorer.sensors}
        facts = PersonFacts(
            subject,
            devices,
            clock_ms={s: c.uncertainty_ns / 1e6 for s, c in clocks.items() if c is not None},
            enrolment=people.enrolments.get(subject),
            basis=people.bases[people.subjects.index(subject)],
            n_today=self._reading.n_today.get(subject, 0),
            episode_utc_ns=self.hub.episodes.get(subject),
            muted_until_utc_ns=self.hub.muted_until(subject),
            enrolling=self.enrolling_of(subject),
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
            "identify": self.identifying(),
            "features": self.features(),
        }

    def _outbox(self) -> OutboxReading:
        reading, uplink = self._reading, self._service.uplink
        error, synced = self._unreadable or self._service.keeper.refused, reading.synced_utc_ns
        if uplink is not None:
            counters = uplink.counters
            if reading.waiting_episodes or reading.waiting_raw:  # else it went well in the end
                error = error or counters.last_error or ""
            synced = max(filter(None, (synced, counters.last_success_utc_ns)), default=None)
        return OutboxReading(
            reading.waiting_episodes,
            reading.waiting_raw,
            reading.quarantined,
            reading.oldest_utc_ns,
            synced,
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

    def enrolling_of(self, subject: str) -> Mapping[str, Any] | None:
        """Return how far the enrolment of a person is."""
        return None

    def identifying(self) -> Mapping[str, Any] | None:
        """Return what is being looked for."""
        return None

    def features(self) -> dict[str, bool]:
        """Return what can be done here."""
        return {"enrol": False, "assign": False, "mute": True, "stop": True}
