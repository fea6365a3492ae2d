"""What a verdict costs, stage by stage, on the way it really takes: bytes of emulated devices to rows at a collector.

Two runs. In the first, time is simulated: devices are told how much of it has passed, and every stage is timed as it
works, one after the other in one thread:

    decode    a read of one packet's bytes, to samples in SI units
    align     a chunk taken into the buffer of its sensor with its clock map; and the cut of a hop
    step      the model and its sums, a hop
    caution   calibration, sensor health, belief and decision, a hop
    episode   one verdict made, and the episode it may open, go on with or close
    store     one write of an episode, or of its draft, to the disk, with its outbox row
    uplink    one round of episodes to a collector in a process of its own, until each is committed there

A step is shared by all whose hop ended together; what is told is its part for each of them.

In the second, devices speak on ttys in real time and the edge service runs as it does on a board; what is timed is how
old the newest and the oldest sample of a hop are when the verdict about it is out. Sample times are device time stamps
brought to the host's clock by the clock map, which are late by what the fastest packet took. A packet of 10 samples at
50 Hz waits up to 0.2 s in the device: that is part of the figure, because a wearer feels it. How packets lie to the end
of a hop is chance, and stays so for a run; what the edge itself takes is told from the last packet before the verdict.
Where several backends are named, the second run is made once by each; one that does not open is a row that says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge import __version__
from kinedge.benchmarks.collector import collector_process
from kinedge.benchmarks.energy import Energy, measure_energy
from kinedge.benchmarks.harness import quantile_row, result
from kinedge.benchmarks.peer_worker import resident_mb
from kinedge.bundle import read_bundle
from kinedge.edge.backends import DEFAULT_BACKENDS, BackendName, open_backend
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.episodes import EpisodeBuilder, EpisodeDraft
from kinedge.edge.pipeline import Pipeline, Scored
from kinedge.edge.scoring import Scorer
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.edge.verdict import Verdict
from kinedge.errors import BackendError, LinkError
from kinedge.firmware_bridge.decoder import HelloReceived, WireDecoder
from kinedge.firmware_bridge.emulator import EmulatedImu, Faults, FaultyWire, counts_from_si, make_hello
from kinedge.recording import Recording
from kinedge.signals import ImuChunk
from kinedge.training.scenario import demo_recording
from kinedge.units import NS_PER_S, period_ns

__all__ = ["STAGES", "bench_stages"]

STAGES: Final = ("decode", "align", "step", "caution", "episode", "store", "uplink")
_UTC_NS: Final = 1_700_000_000 * NS_PER_S
_DELAY_NS: Final = 8_000_000
_JITTER_NS: Final = 15_000_000
_TICK_NS: Final = 20_000_000
_RECORDINGS: Final = 4  # different people that are simulated; the others repeat them
_WARM_UP_S: Final = 6.0
_LATE_S: Final = 0.005
_READY_S: Final = 60.0
_AGES: Final = ("last packet to verdict", "newest sample to verdict", "oldest sample to verdict")


class _Clock:
    """Durations by stage; nothing counts before the warm-up is over."""

    def __init__(self) -> None:
        self.us: defaultdict[str, list[float]] = defaultdict(list)
        self.counts = False
        self.spent_us = 0.0  # of all stages but the store and the uplink

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        yield
        self.add(stage, time.perf_counter_ns() - start)

    def add(self, stage: str, ns: int) -> None:
        if self.counts:
            self.us[stage].append(ns / 1000)
            self.spent_us += 0.0 if stage in ("store", "uplink") else ns / 1000


class _TimedScorer(Scorer):
    """A scorer that says how long its two halves take: forecast and sums, and what is made of them."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.ns_score = self.ns_step = 0
        self.engine.advance = self._scoring(self.engine.advance)  # type: ignore[method-assign]
        self.blocks.advance = self._scoring(self.blocks.advance)  # type: ignore[method-assign]
        if self._in_c is not None:  # forecast and sums in one call
            self._in_c.forecast = self._scoring(self._in_c.forecast)  # type: ignore[method-assign]

    def _scoring(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            start = time.perf_counter_ns()
            found = method(*args, **more)
            self.ns_score += time.perf_counter_ns() - start
            return found

        return timed

    def advance(self, *args: Any, **more: Any) -> Any:
        start = time.perf_counter_ns()
        found = super().advance(*args, **more)
        self.ns_step += time.perf_counter_ns() - start
        return found


def bench_stages(
    bundle: Path = DEFAULT_BUNDLE,
    *,
    people: int = 4,
    seconds: float = 60.0,
    live_seconds: float = 30.0,
    backends: Sequence[BackendName] = (),
    loss: float = 0.02,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time every stage, and the whole.

    Parameters
    ----------
    bundle
        A model of two wrists.
    people
        Of the simulated run, two sensors each.
    seconds
        Simulated, after the warm-up.
    live_seconds
        In real time, one person; 0 leaves it out.
    backends
        One by one, of the run in real time; empty: what a gateway takes by itself. The first run is always by that.
    loss
        Share of packets lost.
    seed
        Of the people and their losses.
    progress
        Told what is being done.

    Raises
    ------
    BackendError, LinkError
        The collector or the emulated devices do not start, or no verdict came.
    """
    rows: list[dict[str, Any]] = []
    with measure_energy() as energies:
        with tempfile.TemporaryDirectory(prefix="kinedge-stages-") as folder:
            progress("stages: simulated devices")
            rows += asyncio.run(_simulated(bundle, Path(folder), people, seconds, loss, seed))
        if live_seconds:
            for backend in backends or (None,):
                with tempfile.TemporaryDirectory(prefix="kinedge-live-") as folder:
                    progress(f"live: {live_seconds:g} s on ttys{'' if backend is None else f', {backend}'}")
                    rows += _live_by(backend, bundle, Path(folder), live_seconds, loss, seed)
    energy: Energy = energies[0]
    rows.append({"what": "memory", "rss_mb": round(resident_mb(), 1)})
    rows.append(
        {
            "what": "energy of all of it",
            "joules": None if energy.joules is None else round(energy.joules, 1),
            "watts": None if energy.watts is None else round(energy.watts, 2),
            "note": energy.source,
        }
    )
    manifest = read_bundle(bundle).manifest
    settings = {
        "model": manifest.name,
        "people": people,
        "sensors": len(manifest.sensors),
        "rate_hz": manifest.rate_hz,
        "hop": manifest.hop,
        "packet_samples": 10,
        "packets_lost": loss,
        "seconds": seconds,
        "live_seconds": live_seconds,
        "seed": seed,
    }
    return result("stages", rows, settings=settings)


class _Device:
    """One emulated sensor, its wire and the decoder that listens to it."""

    def __init__(self, recording: Recording, at: int, *, loss: float, seed: int) -> None:
        spec = recording.sensors[at]
        hello = make_hello(spec, rate_hz=recording.rate_hz, boot_id=seed + 1)
        columns = recording.columns(spec.name)
        counts = counts_from_si(recording.values[:, columns], hello=hello, valid=recording.valid[:, columns])
        self._imu = EmulatedImu(hello, counts, faults=Faults(loss=loss), seed=seed, skew_ppm=(seed % 7 - 3) * 10.0)
        self._wire = FaultyWire(seed=seed)
        self._decoder = WireDecoder()
        self._rng = np.random.default_rng(seed)

    def advance(self, elapsed_ns: int, *, origin_ns: int, clock: _Clock) -> list[tuple[ImuChunk, tuple[str, ...]]]:
        found = []
        for payload in self._imu.advance(elapsed_ns):
            data = self._wire.carry(payload)
            arrival_ns = origin_ns + elapsed_ns + _DELAY_NS + int(self._rng.integers(0, _JITTER_NS))
            with clock.time("decode"):
                self._decoder.receive_data(data, host_time_ns=arrival_ns)
                events = list(iter(self._decoder.next_event, None))
            for event in events:
                if isinstance(event, HelloReceived):
                    self._channels = event.hello.spec.channels
                elif isinstance(event, ImuChunk):
                    found.append((event, self._channels))
        return found


async def _simulated(
    bundle: Path, folder: Path, people: int, seconds: float, loss: float, seed: int
) -> list[dict[str, Any]]:
    scorer = _TimedScorer(read_bundle(bundle))
    m = scorer.manifest
    length_s = seconds + _WARM_UP_S
    made = [demo_recording(seed=seed + k, duration_s=length_s) for k in range(min(people, _RECORDINGS))]
    subjects = [f"p{i:04d}" for i in range(people)]
    n_sensors = len(made[0].sensors)
    devices = [
        (subject, _Device(made[i % len(made)], at, loss=loss, seed=seed + 2 * i + at))
        for i, subject in enumerate(subjects)
        for at in range(n_sensors)
    ]
    pipeline = Pipeline(scorer, subjects)
    provenance = {"model_digest": scorer.bundle.digest, "config_digest": "0" * 64, "kinedge_version": __version__}
    builders = {
        s: EpisodeBuilder(
            s, channels=scorer.channels, rate_hz=m.rate_hz, hop=m.hop, block=m.block, provenance=provenance
        )
        for s in subjects
    }
    clock = _Clock()
    per_hop: list[float] = []
    with (
        collector_process(f"sqlite:///{folder}/collector.db", folder) as ((host, port), _),
        EpisodeStore(folder / "edge.db") as store,
    ):
        limits = UplinkLimits(poll_s=0.0)
        async with Uplink(store, f"http://{host}:{port}", limits=limits) as uplink:
            origin_ns, closed = 1000 * NS_PER_S, 0
            for elapsed_ns in range(0, round(length_s * 1e9), _TICK_NS):
                clock.counts = elapsed_ns >= _WARM_UP_S * 1e9
                _hear(pipeline, devices, elapsed_ns, origin_ns, clock)
                scored = _advance(pipeline, scorer, origin_ns + elapsed_ns, clock)
                for draft in _episodes(builders, scored, clock):
                    closed += _keep(store, draft, clock)
                if scored:  # what came since the hop before is part of this one
                    per_hop += [clock.spent_us / len(scored)] if clock.counts else []
                    clock.spent_us = 0.0
                while closed:
                    sent = await _send(uplink, clock)
                    closed = closed - sent if sent else 0
            for builder in builders.values():
                for draft in builder.stop():
                    closed += _keep(store, draft, clock)
            while closed and (sent := await _send(uplink, clock)):
                closed -= sent
            counts = uplink.counters
    if not per_hop:
        raise BackendError(f"no verdict came in {length_s:g} s; give more --seconds")
    units = {
        "decode": "a packet of 10 samples",
        "align, chunk": "a chunk",
        "align": "a person's hop",
        "step": "a person's hop",
        "caution": "a person's hop",
        "episode": "a verdict",
        "store": "a write",
        "uplink": "an episode, until it is committed",
    }
    rows = [quantile_row(stage, clock.us[stage], unit="us", of=of) for stage, of in units.items()]
    rows.append(quantile_row("all but store and uplink", per_hop, unit="us", of="a person's hop"))
    rows.append({"what": "episodes", "sent": counts.sent, "of": "committed at the collector"})
    return rows


def _hear(
    pipeline: Pipeline, devices: list[tuple[str, _Device]], elapsed_ns: int, origin_ns: int, clock: _Clock
) -> None:
    for subject, device in devices:
        for chunk, channels in device.advance(elapsed_ns, origin_ns=origin_ns, clock=clock):
            with clock.time("align, chunk"):
                pipeline.push(subject, chunk, channels=channels)


def _advance(pipeline: Pipeline, scorer: _TimedScorer, now_ns: int, clock: _Clock) -> list[Scored]:
    scorer.ns_score = scorer.ns_step = 0
    start = time.perf_counter_ns()
    found = pipeline.advance(now_ns=now_ns)
    spent = time.perf_counter_ns() - start
    if found:
        for _ in found:  # a step is shared by all whose hop ended
            clock.add("align", (spent - scorer.ns_step) // len(found))
            clock.add("step", scorer.ns_score // len(found))
            clock.add("caution", (scorer.ns_step - scorer.ns_score) // len(found))
    return found


def _episodes(builders: dict[str, EpisodeBuilder], scored: list[Scored], clock: _Clock) -> list[EpisodeDraft]:
    found: list[EpisodeDraft] = []
    for one in scored:
        with clock.time("episode"):
            verdict = one.batch.verdict(one.stream)
            found += builders[one.subject].step(
                verdict, one.values, one.valid, end_utc_ns=_UTC_NS + verdict.host_time_ns
            )
    return found


def _keep(store: EpisodeStore, draft: EpisodeDraft, clock: _Clock) -> int:
    fields = {**draft.fields, "site": "bench", "gateway": "bench"}
    with clock.time("store"):
        if draft.closed:
            store.commit(fields, draft.raw or None, draft_key=draft.key)
        else:
            store.save_draft(draft.key, fields, draft.raw)
    return int(draft.closed)


async def _send(uplink: Uplink, clock: _Clock) -> int:
    start = time.perf_counter_ns()
    step = await uplink.step()
    if step.sent:
        for _ in range(step.sent):
            clock.add("uplink", (time.perf_counter_ns() - start) // step.sent)
    elif step.retries or step.quarantined:
        raise LinkError(f"the collector did not take an episode: {uplink.counters.last_error}")
    return step.sent


def _live_by(
    backend: BackendName | None, bundle: Path, folder: Path, seconds: float, loss: float, seed: int
) -> list[dict[str, Any]]:
    """Return the rows of a run in real time, named after the backend where one was asked for."""
    allowed = DEFAULT_BACKENDS if backend is None else (backend,)
    try:  # before any device is made
        open_backend(read_bundle(bundle), allowed)
        rows = _live(bundle, folder, seconds, loss, seed, allowed)
    except BackendError as e:
        rows = [{"what": what, "status": "not run", "note": str(e)} for what in _AGES]
    return [{**row, "what": row["what"] if backend is None else f"{row['what']}, {backend}"} for row in rows]


def _live(
    bundle: Path, folder: Path, seconds: float, loss: float, seed: int, backends: Sequence[BackendName]
) -> list[dict[str, Any]]:
    ready = folder / "sensors.json"
    command = [sys.executable, "-m", "kinedge", "emulate", str(folder / "ttys"), "--ready-file", str(ready)]
    command += ["--duration", f"{seconds + _WARM_UP_S:g}", "--loss", f"{loss:g}", "--seed", str(seed)]
    with (folder / "emulate.log").open("w+b") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end_s = time.monotonic() + _READY_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > end_s:
                    log.seek(0)
                    raise LinkError(f"the emulated devices did not start: {log.read().decode()[-500:]}")
                time.sleep(0.02)
            return _listen(bundle, folder, json.loads(ready.read_text())["ports"], process, seconds, backends)
        finally:
            process.terminate()
            process.wait(10)


def _listen(
    bundle: Path,
    folder: Path,
    ports: dict[str, str],
    process: subprocess.Popen[bytes],
    seconds: float,
    backends: Sequence[BackendName],
) -> list[dict[str, Any]]:
    newest_ms: list[float] = []
    since_packet_ms: list[float] = []
    heard_ns = first_ns = 0
    config = GatewayConfig.model_validate(
        {
            "site": "bench",
            "gateway": "bench",
            "bundle": bundle,
            "backend": list(backends),
            "store": folder / "edge.db",
            "people": [{"subject": "p0000", "devices": [{"port": p} for p in ports.values()]}],
            "trust": {"allow_unsigned": True},
        }
    )

    def on_scored(scored: Scored, verdict: Verdict) -> None:
        now_ns = service.clock.now_ns()
        if now_ns > first_ns + (seconds + _WARM_UP_S - 1.0) * 1e9:
            return  # the devices are about to end; what waits for them then is no wait of theirs
        newest_ms.append((now_ns - verdict.host_time_ns + period) / 1e6)
        since_packet_ms.append((now_ns - heard_ns) / 1e6)

    service = EdgeService(config, on_scored=on_scored)
    take_in = service.pipeline.push

    def push(subject: str, chunk: ImuChunk, *, channels: Sequence[str]) -> None:
        nonlocal heard_ns, first_ns
        heard_ns = max(heard_ns, chunk.host_time_ns or 0)
        first_ns = first_ns or heard_ns
        take_in(subject, chunk, channels=channels)

    service.pipeline.push = push  # type: ignore[method-assign]
    period = period_ns(service.scorer.manifest.rate_hz)

    async def serve() -> None:
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        end_s = time.monotonic() + seconds + 2 * _WARM_UP_S
        while process.poll() is None and not serving.done() and time.monotonic() < end_s:
            await asyncio.wait([serving], timeout=0.1)
        stop.set()
        await serving

    asyncio.run(serve())
    kept: NDArray[np.float64] = np.array(newest_ms[3:])
    if not len(kept):
        raise LinkError(f"no verdict came in {seconds:g} s of real time; give more --live-seconds")
    hop_ms = 1e3 * service.scorer.manifest.hop / service.scorer.manifest.rate_hz
    wait_ms = 1e3 * 10 / service.scorer.manifest.rate_hz
    late = float(np.mean(kept > wait_ms + 1e3 * _LATE_S))
    since: NDArray[np.float64] = np.array(since_packet_ms[3:])
    packet, newest, oldest = _AGES
    ran = service.scorer.engine.backend.name
    slow = float(np.mean(since > 1e3 * _LATE_S))
    return [
        quantile_row(packet, since.tolist(), unit="ms", late_share=round(slow, 4), backend=ran),
        quantile_row(newest, kept.tolist(), unit="ms", late_share=round(late, 4), backend=ran),
        quantile_row(oldest, (kept + hop_ms).tolist(), unit="ms", backend=ran),
    ]
