"""The edge service: links, decoders, pipeline, episodes, store and uplink, each its own supervised task.

All I/O of the edge is here and in the links and the uplink; what stands between is pure. One event loop reads,
scores and writes: a step of a few hundred microseconds a second needs no other thread, but the disk does.
What a gateway may do without - a dashboard, an uplink, Bluetooth, a recording, measures - is imported where it is
wanted, so that a board listens within a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from kinedge.edge.attendance import feed_watchdog, gateway_server
from kinedge.edge.beginnings import WORN, Beginning, Wearers, beginnings
from kinedge.edge.board_state import BoardStateFile, board_state_path
from kinedge.edge.checkpoint import CheckpointKeeper, checkpoint_path
from kinedge.edge.config import GatewayConfig
from kinedge.edge.episode_follower import EpisodeFollower
from kinedge.edge.episodes import EpisodeDraft
from kinedge.edge.hostclock import HostClock, RecordedClock, WallClock
from kinedge.edge.keeper import DraftKeeper
from kinedge.edge.listening import Listener, SensorHealth
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline, Scored, phases_for
from kinedge.edge.progress import Progress, StageTimes
from kinedge.edge.promise import Promise, promises_of
from kinedge.edge.scoring import Scorer
from kinedge.edge.service_parts import make_caretaker, make_lsl, make_measures, make_tape, make_uplink
from kinedge.edge.store import EpisodeStore
from kinedge.edge.supervisor import RestartPolicy, Supervisor, TaskState
from kinedge.edge.systemd import Notifier
from kinedge.edge.trusted import load_trusted
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_hours import VerdictHours, VerdictTally
from kinedge.edge.wiring import HandedOver, Wiring
from kinedge.errors import BackendError, ConfigError, StoreError
from kinedge.firmware_bridge.device import DeviceInfo
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.open_device import DeviceConfig, DeviceLink, open_device
from kinedge.firmware_bridge.sync_file import SyncFile, clock_maker, read_sync_file, sync_path

if TYPE_CHECKING:
    from kinedge.edge.dashboard.board import Board
    from kinedge.edge.enrolment import Enrolment
    from kinedge.edge.model_follower import ModelFollower
    from kinedge.firmware_bridge.ble_radio import BleRadio
    from kinedge.firmware_bridge.recorded_source import RecordedSource

__all__ = ["EdgeService", "SensorHealth"]

logger = logging.getLogger(__name__)

_TICK_S: Final = 0.05
_LOOK_S: Final = 0.002  # between two looks at whose hop is complete; after a step that takes longer, at once
_ANSWER_S: Final = 0.3
_DRAIN_S: Final = 60.0  # at the end: what a slow disk may take for the last drafts


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
    notifier
        Told when the service has started, lives and ends.
    restarts
        How tasks that fail begin anew.

    Attributes
    ----------
    notes
        The latest that is worth knowing, for the screen.
    verdict_counts, times, progress
        For metrics.

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
        notifier: Notifier | None = None,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self.notes: deque[str] = deque(maxlen=100)
        self.board: Board | None = None
        self.decided = BoardStateFile(board_state_path(config.store), self.note)
        self.configured = config  # as the file says; what was decided on the board comes on top
        if source is None:
            config = self.decided.applied_to(config, self.note)
        self.config = config
        self.verdict_counts: Counter[str] = Counter()
        self.times = StageTimes()
        self.progress = Progress()
        self._stop: asyncio.Event | None = None
        self._notifier = notifier
        self.supervisor = Supervisor(note=self.note, policy=restarts)
        if source is not None:
            utc_ns = time.time_ns() if source.utc_ns is None else source.utc_ns
            host_clock = RecordedClock(source.host_time_ns, utc_ns)
        elif (idle := [p.subject for p in config.people if not p.devices]) and not config.spare:
            raise ConfigError(f"{', '.join(idle)}: has no devices; say under [[people]] what they wear")
        self.clock = host_clock or HostClock()
        self._source = source
        self._wall = WallClock(self.clock)
        self._models: ModelFollower | None = None
        if config.models is None or source is not None:
            self.scorer, people = load_trusted(config)
        else:
            from kinedge.edge.model_follower import ModelFollower

            self._models = ModelFollower(config, note=self.note)
            self.scorer, people = self._models.taken.scorer, self._models.taken.people
        self.pipeline = Pipeline(
            self.scorer,
            people.subjects,
            max_delay_s=config.max_delay_s,
            people=people,
            alarm=config.alarm,
            n_phases=config.n_phases or phases_for(len(people.subjects), self.scorer.manifest.hop),
        )
        self.checkpoint = None
        if source is None and config.checkpoint_s:
            self.checkpoint = CheckpointKeeper(
                checkpoint_path(config.store),
                settings=config.digest(),
                every_s=config.checkpoint_s,
                now_ns=self.clock.now_ns,
                note=self.note,
            )
            self.checkpoint.restore(self.pipeline)
        self._radio = radio
        self.wiring = Wiring(
            config, self._open, assigned=self.decided.state.assigned, note=self.note, live=source is None
        )
        devices = [wired.device for wired in self.wiring]
        sync = read_sync_file(sync_path(config.store)) if devices else SyncFile()
        self._lsl = make_lsl(config, people)
        self.store = EpisodeStore(config.store, vault=None if config.keys is None else config.keys.vault(config.store))
        zone = "" if config.measures is None else config.measures.timezone
        self.tally = VerdictTally(VerdictHours(self.store.database), timezone=zone, note=self.note)
        self._wearers = Wearers(self.store.events(WORN))
        self.measures = make_measures(config, self.store, clock=self.clock, note=self.note)
        self.listener = Listener(
            self.pipeline,
            new_clock=clock_maker(devices, sync, utc_ns=time.time_ns()),
            note=self.note,
            lsl=self._lsl,
            measures=self.measures,
        )
        self.uplink = make_uplink(config, self.store)
        self._on_scored = on_scored
        self.keeper = DraftKeeper(
            self.store,
            site=config.site,
            gateway=config.gateway,
            note=self.note,
            times=self.times,
            wall=self._wall if source is None else None,
        )
        self.episodes = EpisodeFollower(config, self._wall, self._draft)
        self.episodes.use(self.scorer, people, self.promises)
        self.tape = make_tape(config, self.scorer, people, clock=self.clock, note=self.note)
        self.caretaker = make_caretaker(config, self.store, self.tape, note=self.note)
        if config.http is not None and config.http.dashboard:
            from kinedge.edge.dashboard.board import Board

            self.board = Board(self, config.http)
        self.server = None if config.http is None else gateway_server(self, config.http, self.board)

    @property
    def health(self) -> dict[tuple[str, str], SensorHealth]:
        """What is known of each sensor, by subject and sensor."""
        return self.listener.health

    @property
    def promises(self) -> dict[str, Promise]:
        """What is promised each enrolled person about false episodes, by subject."""
        cohort = self.scorer.calibration.enrolled
        audits = {s: e.manifest.audit.verdict for s, e in self.pipeline.people.enrolments.items()}
        return promises_of(
            self.config.alarm, audits=audits, n_subjects=0 if cohort is None else int(cohort.n_subjects[0])
        )

    @property
    def beginnings(self) -> tuple[Beginning, ...]:
        """Whose calibration counts for each person now, how old it is, and what is promised."""
        promises = {subject: promise.text for subject, promise in self.promises.items()}
        return beginnings(self.pipeline.people, promises, now_utc_s=time.time())

    @property
    def tasks(self) -> tuple[TaskState, ...]:
        """How each task is doing."""
        return self.supervisor.states

    @property
    def is_live(self) -> bool:
        """Whether devices are heard, and not a recording."""
        return self._source is None

    @property
    def utc_offset_ns(self) -> int:
        """UTC less host time, as of the last look at the machine's clock."""
        return self._wall.offset_ns

    @property
    def http_url(self) -> str:
        """Where metrics and health are served; empty while nothing listens."""
        return "" if self.server is None else self.server.url

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set or a recording has been played, then close what is open and keep it.

        Raises
        ------
        KinedgeError
            The configuration or the recording cannot be served.
        BaseException
            What an essential task failed of, again and again.
        """
        await self.keeper.finish_drafts(restarted=True)
        self._stop = stop
        self._add_tasks()
        self.supervisor.start()
        self._tell("READY=1", status="started")
        try:
            await self.supervisor.wait(stop)
        finally:
            stop.set()
            self._tell("STOPPING=1", status="closing what is open")
            await self.supervisor.stop_workers()
            await self.wiring.close()
            if self.board is not None:
                await self.board.end()
            if self.uplink is not None:
                await self.uplink.aclose()
            self.episodes.close()
            if self.checkpoint is not None:
                await asyncio.to_thread(self.checkpoint.end, self.pipeline)
            with contextlib.suppress(StoreError):
                await self.caretaker.flush()
            self.keeper.end()
            self.tally.end()
            if self.tape is not None:
                self.tape.end()
            if self.measures is not None:
                self.measures.end()
            if not await self.supervisor.drain(timeout_s=_DRAIN_S):
                self.note(f"{self.keeper.n_waiting} episodes could not be written before the end")
            self.store.close()

    def stop_soon(self) -> None:
        """End gracefully, as a signal would: whoever is being answered just now is answered first."""
        if self._stop is not None:
            asyncio.get_running_loop().call_later(_ANSWER_S, self._stop.set)

    def _add_tasks(self) -> None:
        """Name every task; what another module brings joins in here."""
        add, source = self.supervisor.add, self._source
        if source is None:
            add("scorer", self._score, essential=True)
        else:
            add("scorer", partial(self._play, source), once=True)
        add("keeper", self.keeper.run, essential=True, drains=True)
        add("tally", self.tally.run, drains=True)
        if self.tape is not None:
            add("tape", self.tape.run, drains=True)
        if self.measures is not None:
            add("measures", self.measures.run, drains=True)
        add("caretaker", self.caretaker.run)
        if self.checkpoint is not None:
            add("checkpoint", partial(self.checkpoint.run, lambda: self.pipeline))
        for wired in self.wiring:
            add(f"link {wired.where}", partial(self.serve, wired.where))
        if self.uplink is not None:
            add("uplink", partial(self.uplink.run, asyncio.Event()))  # ended by cancelling it, as all are
        if self._models is not None:
            record, running = self.caretaker.record, lambda: self.scorer
            add("models", partial(self._models.run, record, running=running, use=self._use_model))
        if self.server is not None:
            add("http", self.server.run)
        if self.board is not None:
            add("dashboard", self.board.run)
        if self._notifier is not None:
            add("watchdog", partial(feed_watchdog, self, self._notifier))

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
        self.episodes.close()
        end_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        await self.keeper.join()
        while self.uplink is not None:
            counts = await asyncio.to_thread(self.store.counts)
            if not counts.ready + counts.locked:
                return True
            if time.monotonic_ns() > end_ns:
                return False
            await asyncio.sleep(0.1)
        return True

    def assign(self, where: str, subject: str | None, *, sensor: str | None = None) -> HandedOver:
        """Give a device to somebody, or to nobody, from its next packet on; nobody else notices.

        Raises
        ------
        ConfigError
            There is no such device or person, or it is theirs already.
        """
        return self.wiring.assign(
            where, subject, sensor=sensor, pipeline=self.pipeline, listener=self.listener, hear=self.hear
        )

    def use_enrolment(self, subject: str, enrolment: Enrolment | None) -> None:
        """Compare a person with an enrolment of their own from the next hop on, or with the cohort; others go on.

        Raises
        ------
        ConfigError
            It is of another person, model or precision, or the alarm's promise cannot be kept.
        """
        before = self.pipeline.people
        enrolments = before.enrolments.only({s for s in before.subjects if s != subject})
        if enrolment is not None:
            enrolments.keep(subject, enrolment)
        kept = {s: tuple(u for u in b.unsigned if s != subject or u == "model") for s, b in before.by_subject()}
        self.pipeline.use_people(People(self.scorer, before.subjects, enrolments, unsigned=kept))
        self.episodes.use(self.scorer, self.pipeline.people, self.promises)

    def _use_model(self, scorer: Scorer, people: People) -> None:
        """Go on with another model, between two hops; open episodes end with the model that opened them."""
        self.pipeline.use_model(scorer, people)
        self.scorer = scorer
        self.episodes.use(scorer, people, self.promises)

    def _draft(self, draft: EpisodeDraft, offset_ns: int) -> None:
        self.keeper.put(draft, offset_ns=offset_ns)
        if self.board is not None:
            self.board.hub.drafted(draft)

    def _open(self, device: DeviceConfig) -> DeviceLink:
        if device.ble is not None and self._radio is None:
            from kinedge.firmware_bridge.ble_radio import BleRadio

            self._radio = BleRadio()
        return open_device(device, radio=self._radio, host_clock=self.clock.now_ns)

    async def serve(self, where: str) -> None:
        """Follow one device for as long as the service runs."""
        async for wired, event in self.wiring.events(where):
            self.hear(wired.subject, where, event)

    def _tell(self, *states: str, status: str) -> None:
        if self._notifier is not None:
            self._notifier.tell(*states, status=status)

    async def _play(self, source: RecordedSource) -> None:
        """Take a recording as if it happened, and score at its own moments; a busy disk holds it up."""
        from kinedge.firmware_bridge.recorded_source import Arrival

        clock = self.clock
        async for item in source.events():
            if isinstance(item, Arrival):
                self.hear(item.subject, item.link, item.event)
                continue
            if isinstance(clock, RecordedClock):
                clock.move_to(item.host_time_ns)
            self._advance(item.host_time_ns)
            await self.keeper.join()
            if self.measures is not None:
                await self.measures.join()
        await self.finish(flush=not source.scored)

    def hear(self, subject: str | None, where: str, event: SessionEvent) -> None:
        """Take what a device says, of whoever wears it."""
        if subject is None:  # nobody wears it
            if self.board is not None:
                self.board.hub.hear(None, where, event, self.clock.now_ns())
            return
        if self.tape is not None:
            self.tape.put(subject, where, event)
        with self.times.measure("hear"):
            self.listener.hear(subject, where, event)
        if self.board is not None:
            self.board.hub.hear(subject, where, event, self.clock.now_ns())
        if isinstance(event, DeviceInfo):
            worn = self._wearers.met(subject, event.spec.name, event.serial, self.pipeline.people)
            if worn is not None:
                self.caretaker.record(WORN, **worn)
                if worn["before"] is not None:
                    self.note(f"{event.spec.name} {event.serial} was {worn['before']}'s, and is {subject}'s now")

    async def _score(self) -> None:
        """Score a hop as soon as it is complete, and look after silent sensors every 50 ms."""
        due_s, now_s = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(max(now_s + _LOOK_S / self.clock.speed - time.monotonic(), 0.0))
            now_s = time.monotonic()
            if not self.pipeline.n_due and now_s < due_s:
                continue
            due_s = now_s + _TICK_S / self.clock.speed
            try:
                self._advance(self.clock.now_ns())
            except BackendError as e:
                if self._models is None or not self._models.failed(e):
                    raise
                await self._models.replaced()  # what is heard meanwhile waits in the pipeline

    def _advance(self, now_ns: int) -> None:
        if self.tape is not None:
            self.tape.tick(now_ns)
        if self.measures is not None:
            self.measures.tick(now_ns)
        began_ns = time.perf_counter_ns()
        found = self.pipeline.advance(now_ns=now_ns)
        if found:
            self.times.add("score", (time.perf_counter_ns() - began_ns) / 1e9)
        for scored in found:
            self._take(scored, now_ns)
        self._look_at_clock()
        self.progress.ticked(n_used=self.listener.n_used, n_verdicts=self.verdict_counts.total())

    def _look_at_clock(self) -> None:
        """Tell a step of the machine's clock; order and durations hang on the monotonic clock alone."""
        if step_ns := self._wall.look():
            by_s = round(step_ns / 1e9, 3)
            self.note(f"the machine's clock was stepped by {by_s:+g} s; open episodes keep the time they began with")
            self.caretaker.record("clock_stepped", by_ms=round(step_ns / 1e6), is_set=self._wall.is_set)
            self.keeper.clock_moved()

    def _take(self, scored: Scored, now_ns: int | None = None) -> None:
        began_ns = time.perf_counter_ns()
        verdict = scored.batch.verdict(scored.stream)
        end_utc_ns = self.episodes.step(scored, verdict)
        self.verdict_counts[verdict.of_all.word] += 1
        if self._source is not None or self._wall.is_set:  # hours of 1970 are nobody's
            self.tally.add(scored.subject, verdict, self.episodes.builders[scored.subject], end_utc_ns=end_utc_ns)
        self.times.add("decide", (time.perf_counter_ns() - began_ns) / 1e9)
        if now_ns is not None:
            self.times.add("sample_to_verdict", (now_ns - verdict.host_time_ns) / 1e9 / self.clock.speed)
        if self._lsl is not None:
            self._lsl.tell_verdict(scored.subject, verdict)
        if self._models is not None:
            self._models.saw(scored, verdict)
        if self.board is not None:
            self.board.saw(scored, verdict, end_utc_ns)
        if self._on_scored is not None:
            self._on_scored(scored, verdict)

    def note(self, text: str) -> None:
        """Take what is worth knowing: for the log, the screen and the dashboard."""
        logger.warning(text)
        self.notes.append(text)
        if self.board is not None:
            self.board.hub.note(text)
