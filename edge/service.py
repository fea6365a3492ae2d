"""The edge service: links, decoders, pipeline, episodes, store and uplink, each its own supervised task.

All I/O of the edge is here and in the links and the uplink; what stands between is pure. One event loop reads,
scores and writes: a step of a few hundred microseconds a second needs no other thread, but the disk does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from kinedge import __version__
from kinedge.edge.config import GatewayConfig
from kinedge.edge.episodes import EpisodeBuilder
from kinedge.edge.hostclock import HostClock, RecordedClock
from kinedge.edge.keeper import DraftKeeper
from kinedge.edge.lsl_streams import LslStreams
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline, Scored
from kinedge.edge.rollout import ModelKeeper
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.edge.tape import Tape
from kinedge.edge.trusted import load_trusted
from kinedge.edge.uplink import Uplink
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import basis_fields
from kinedge.errors import BundleError, ConfigError, LinkError, SignalError, StoreError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.device import Battery, ClockExchange, DeviceInfo, Doubt
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.links import LinkClosed, LinkOpened
from kinedge.firmware_bridge.open_device import DeviceLink, open_device
from kinedge.firmware_bridge.recorded_source import Arrival, RecordedSource
from kinedge.firmware_bridge.sync_file import SyncFile, clock_maker, read_sync_file, sync_path
from kinedge.signals import ImuChunk

__all__ = ["EdgeService", "SensorHealth"]

logger = logging.getLogger(__name__)

_TICK_S: Final = 0.05
_PRUNE_EVERY_S: Final = 3600.0


@dataclass
class SensorHealth:
    """What is known of one sensor, for the screen and the log."""

    subject: str
    sensor: str
    where: str
    connected: bool = True
    serial: str = ""
    battery_percent: int | None = None
    temperature_c: float | None = None
    samples: int = 0
    lost: int = 0
    clock_uncertainty_ms: float | None = None
    note: str = ""


class EdgeService:
    """Runs one gateway until told to stop.

    Parameters
    ----------
    config
        Checked.
    host_clock
        Runs faster for a replay.
    on_scored
        Called with every verdict, in the event loop; must return at once.
    radio
        For BLE devices; this machine's own when None.
    source
        Recorded sessions in place of devices; the service ends when they do.

    Raises
    ------
    BundleError, BackendError, ConfigError, StoreError
        The model does not load, the configuration does not fit it, a person has no device, or the store or the
        recording cannot be opened.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        host_clock: HostClock | None = None,
        on_scored: Callable[[Scored, Verdict], None] | None = None,
        radio: BleRadio | None = None,
        source: RecordedSource | None = None,
    ) -> None:
        self.config = config
        if source is not None:
            utc_ns = time.time_ns() if source.utc_ns is None else source.utc_ns
            host_clock = RecordedClock(source.host_time_ns, utc_ns)
        elif idle := [p.subject for p in config.people if not p.devices]:
            raise ConfigError(f"{', '.join(idle)}: has no devices; say under [[people]] what they wear")
        self.clock = host_clock or HostClock()
        self._source = source
        self.notes: deque[str] = deque(maxlen=100)
        self._model_events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=100)
        self._models = None
        if config.models is None or source is not None:
            self.scorer, people = load_trusted(config)
        else:
            self._models = ModelKeeper(config, on_event=lambda *event: self._model_events.append(event))
            taken = self._models.start()
            self.scorer, people = taken.scorer, taken.people
        self.pipeline = Pipeline(
            self.scorer, people.subjects, max_delay_s=config.max_delay_s, people=people, alarm=config.alarm
        )
        self._builders = self._new_builders()
        radio = radio or BleRadio()
        self._links = [
            (p.subject, d.where, open_device(d, radio=radio, host_clock=self.clock.now_ns))
            for p in config.people
            for d in (p.devices if source is None else ())
        ]
        worn = [d for p in config.people for d in p.devices] if source is None else []
        sync = read_sync_file(sync_path(config.store)) if worn else SyncFile()
        self._new_clock = clock_maker(worn, sync, utc_ns=time.time_ns())
        self.tape = self._lsl = None
        subjects = [p.subject for p in config.people]
        if config.lsl is not None:
            self._lsl = LslStreams(config.lsl, gateway=config.gateway, subjects=subjects)
        self.store = EpisodeStore(config.store)
        self.uplink = None
        if config.uplink is not None:
            self.uplink = Uplink(self.store, config.uplink.url, token=config.uplink.token())
        self.health: dict[tuple[str, str], SensorHealth] = {}
        self._on_scored = on_scored
        self._keeper = DraftKeeper(self.store, site=config.site, gateway=config.gateway, note=self._note)
        if config.record is not None:
            self.tape = Tape(
                config.record.folder,
                {
                    subject: {
                        "gateway": config.gateway,
                        **self._provenance(),
                        **basis_fields(basis),
                        "settings": config.decisive(),
                    }
                    for subject, basis in zip(subjects, people.bases, strict=True)
                },
                segment_s=config.record.segment_s,
                clock=self.clock,
                note=self._note,
            )
        self._owner: dict[tuple[str, str], str] = {}
        self._channels: dict[tuple[str, str], tuple[str, ...]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set or a recording has been played, then close what is open and keep it.

        Raises
        ------
        KinedgeError
            A task ended for a reason that waiting does not mend.
        """
        await self._finish_drafts_of_before()
        keeper = asyncio.create_task(self._keeper.run(), name="keeper")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        taping = None if self.tape is None else asyncio.create_task(self.tape.run(), name="tape")
        scoring = self._score() if self._source is None else self._play(self._source)
        workers = [
            asyncio.create_task(scoring, name="scorer"),
            asyncio.create_task(self._look_after_the_store(), name="pruning"),
        ]
        for subject, where, link in self._links:
            workers.append(asyncio.create_task(self._serve(subject, where, link), name=f"link {where}"))
        if self.uplink is not None:
            workers.append(asyncio.create_task(self.uplink.run(stop), name="uplink"))
        if self._models is not None:
            workers.append(asyncio.create_task(self._follow_models(self._models), name="models"))
        try:
            done, _ = await asyncio.wait([*workers, keeper, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # raises what ended it
        finally:
            stop.set()
            stopping.cancel()
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, stopping, return_exceptions=True)
            await asyncio.gather(*(link.close() for _, _, link in self._links), return_exceptions=True)
            if self.uplink is not None:
                await self.uplink.aclose()
            for builder in self._builders.values():
                for draft in builder.stop():
                    self._keeper.put(draft)
            self._keeper.end()
            if self.tape is not None:
                self.tape.end()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
                if taping is not None:
                    await taping
            self.store.close()

    async def finish(self, *, flush: bool = True, timeout_s: float = 30.0) -> bool:
        """Bring a replay to its end: close episodes, wait until all is kept and synced.

        Parameters
        ----------
        flush
            Score what is buffered first, waiting for no sensor.
        timeout_s
            For the uplink.

        Returns
        -------
        synced
            False when messages still wait after ``timeout_s``; they stay in the store.
        """
        for scored in self.pipeline.advance(flush=True) if flush else ():
            self._take(scored)
        for builder in self._builders.values():
            for draft in builder.stop():
                self._keeper.put(draft)
        end_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        await self._keeper.join()
        while self.uplink is not None:
            counts = await asyncio.to_thread(self.store.counts)
            if not counts.ready + counts.locked:
                return True
            if time.monotonic_ns() > end_ns:
                return False
            await asyncio.sleep(0.1)
        return True

    async def _finish_drafts_of_before(self) -> None:
        """Episodes that were open when the process ended become episodes now: nothing that was decided is lost."""
        for draft in await asyncio.to_thread(self.store.open_drafts):
            fields = {**draft.content, "ended": "restarted"}
            try:
                envelope = await asyncio.to_thread(self.store.commit, fields, draft.raw, draft_key=draft.key)
            except StoreError as e:
                # written by another version, or damaged: it stays a draft, and the audit and the log say so
                self._note(f"draft {draft.key} of an earlier run cannot become an episode: {e}")
                continue
            self._note(f"an episode of {envelope.subject} was open at the restart; it was kept")

    async def _look_after_the_store(self) -> None:
        """Forget what the collector has had for long enough."""
        while True:
            try:
                await asyncio.to_thread(self.store.prune, older_than_s=self.config.keep_sent_days * 86_400)
            except StoreError as e:
                self._note(f"old rows could not be pruned: {e}")
            await asyncio.sleep(_PRUNE_EVERY_S)

    async def _follow_models(self, models: ModelKeeper) -> None:
        """Look for newer models for as long as the service runs; what goes wrong there stops nothing here."""
        said = ""
        while True:
            await self._tell_model_events()
            await asyncio.sleep(models.poll_s)
            try:
                taken = await asyncio.to_thread(models.poll, running=self.scorer)
            except (LinkError, BundleError, ConfigError) as e:
                if str(e) != said:
                    said = str(e)
                    kind = "model_source_unreachable" if isinstance(e, LinkError) else "model_refused"
                    self._model_events.append((kind, {"reason": said}))
                continue
            said = ""
            if taken is not None:
                self._use_model(taken.scorer, taken.people)

    async def _tell_model_events(self) -> None:
        while self._model_events:
            event, detail = self._model_events.popleft()
            self._note(f"{event.replace('_', ' ')}: {detail.get('model_digest', '')[:16]} {detail['reason']}")
            try:
                await asyncio.to_thread(self.store.record_event, event, detail)
            except StoreError as e:
                self._note(f"the audit row of this could not be written: {e}")

    def _use_model(self, scorer: Scorer, people: People) -> None:
        """Go on with another model, between two hops; open episodes end with the model that opened them."""
        for builder in self._builders.values():
            for draft in builder.stop():
                self._keeper.put(draft)
        self.pipeline.use_model(scorer, people)
        self.scorer = scorer
        self._builders = self._new_builders()

    def _provenance(self) -> dict[str, str]:
        return {
            "model_digest": self.scorer.bundle.digest,
            "config_digest": self.config.digest(),
            "kinedge_version": __version__,
        }

    def _new_builders(self) -> dict[str, EpisodeBuilder]:
        manifest = self.scorer.manifest
        return {
            subject: EpisodeBuilder(
                subject,
                channels=self.scorer.channels,
                rate_hz=manifest.rate_hz,
                hop=manifest.hop,
                block=manifest.block,
                provenance={**self._provenance(), **basis_fields(basis)},
                config=self.config.episodes,
            )
            for subject, basis in zip(self.pipeline.subjects, self.pipeline.people.bases, strict=True)
        }

    async def _serve(self, subject: str, where: str, link: DeviceLink) -> None:
        """Follow one device for as long as the service runs; its link comes back by itself."""
        async for event in link.events():
            self._hear(subject, where, event)

    async def _play(self, source: RecordedSource) -> None:
        """Take a recording as if it happened, and score at its own moments; a busy disk holds it up."""
        clock = self.clock
        async for item in source.events():
            if isinstance(item, Arrival):
                self._hear(item.subject, item.link, item.event)
                continue
            if isinstance(clock, RecordedClock):
                clock.move_to(item.host_time_ns)
            self._advance(item.host_time_ns)
            await self._keeper.join()
        await self.finish(flush=not source.scored)

    def _hear(self, subject: str, where: str, event: SessionEvent) -> None:
        if self.tape is not None:
            self.tape.put(subject, where, event)
        if isinstance(event, ImuChunk):
            self._push(subject, where, event)
        elif isinstance(event, DeviceInfo):
            self._meet(subject, where, event)
        elif isinstance(event, LinkOpened):
            self._set_connected(where, True)
        elif isinstance(event, LinkClosed):
            self._set_connected(where, False)
            self._note(event.reason)
        elif isinstance(event, ClockExchange):
            clock = self.pipeline.clock(subject, event.sensor)
            if clock is not None and self._owner.get((subject, event.sensor)) == where:
                clock.update_two_way(event.t1_ns, event.t2_ns, event.t3_ns, event.t4_ns)
        elif isinstance(event, Battery):
            for health in self.health.values():
                if health.where == where:
                    health.battery_percent, health.temperature_c = event.percent, event.temperature_c
        elif isinstance(event, Doubt):
            self._note(f"{where}: {event.text}")

    def _meet(self, subject: str, where: str, info: DeviceInfo) -> None:
        sensor = info.spec.name
        owner = self._owner.setdefault((subject, sensor), where)
        if owner != where:
            self._note(f"{where}: says it is {sensor} of {subject}, but {owner} is; it is not used")
            return
        self._channels[(subject, sensor)] = info.spec.channels
        if self._lsl is not None:
            self._lsl.meet(subject, info)
        known = self.health.get((subject, sensor))
        if known is None:
            self.health[(subject, sensor)] = SensorHealth(subject, sensor, where, serial=info.serial)
            if sensor in self.scorer.sensors:
                self.pipeline.use_clock(subject, sensor, self._new_clock(where))
            else:
                wanted = ", ".join(self.scorer.sensors)
                self._note(f"{where}: {sensor} is not used by the model, which expects {wanted}")
        else:
            known.serial, known.connected = info.serial, True

    def _push(self, subject: str, where: str, chunk: ImuChunk) -> None:
        key = (subject, chunk.sensor)
        if self._owner.get(key) != where:
            return
        health = self.health[key]
        health.samples += len(chunk)
        health.lost += chunk.lost
        try:
            self.pipeline.push(subject, chunk, channels=self._channels[key])
        except SignalError as e:
            if health.note != str(e):
                health.note = str(e)
                self._note(str(e))
            return
        clock = self.pipeline.clock(subject, chunk.sensor)
        if clock is not None:
            health.clock_uncertainty_ms = clock.uncertainty_ns / 1e6
            if self._lsl is not None:
                self._lsl.tell_samples(subject, chunk, clock.to_host_ns(chunk.device_time_ns))

    def _set_connected(self, where: str, connected: bool) -> None:
        for health in self.health.values():
            if health.where == where:
                health.connected = connected

    async def _score(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S / self.clock.speed)
            self._advance(self.clock.now_ns())

    def _advance(self, now_ns: int) -> None:
        if self.tape is not None:
            self.tape.tick(now_ns)
        for scored in self.pipeline.advance(now_ns=now_ns):
            self._take(scored)

    def _take(self, scored: Scored) -> None:
        verdict = scored.batch.verdict(scored.stream)
        builder = self._builders[scored.subject]
        end_utc_ns = self.clock.utc_ns(verdict.host_time_ns)
        for draft in builder.step(verdict, scored.values, scored.valid, end_utc_ns=end_utc_ns):
            self._keeper.put(draft)
        if self._lsl is not None:
            self._lsl.tell_verdict(scored.subject, verdict)
        if self._on_scored is not None:
            self._on_scored(scored, verdict)

    def _note(self, text: str) -> None:
        logger.warning(text)
        self.notes.append(text)
