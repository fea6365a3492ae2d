"""How many people one core follows, how late verdicts are under that load, and what a person costs in memory.

Arrivals follow a virtual clock, and work moves that clock by the processor time it takes: chunks that come meanwhile
wait, exactly as they would on a core of one's own, and other work on the machine does not count as delay. What the
processor shares with others (caches, the other thread of a core) still slows it; a busy machine gives worse figures.

The latency of a sample runs from the arrival of its chunk to the verdict about its hop. A verdict is late when that is
more than a hop and 5 ms for the first sample of its hop; ``wait`` is what of it the edge adds, from the arrival of the
last chunk that the hop needed.

What a person's hop costs in all stands beside the bare call of ONNX Runtime and of the backend that ran, both with 32
people at a time.

An edge looks every 2 ms, as the service does, and at once after work that took longer; who is complete then is scored,
at most 64 people at a time. Under load more become complete meanwhile, and batches grow by themselves. Samples wait for
their hop, and packets of one radio are not equally fast: what an edge that takes no time at all would reach is told
beside, as ``radio``.
"""

from __future__ import annotations

import gc
import itertools
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.crowd import Arrival, Crowd, untrained_bundle
from kinedge.benchmarks.enrolled import BEING_ALIGNED, COHORT, KINDS, Kind, any_enrolment, pipeline_of
from kinedge.benchmarks.harness import result
from kinedge.benchmarks.latency import bare_us
from kinedge.benchmarks.start import starts_s
from kinedge.bundle import Bundle
from kinedge.edge.backends import load_backend
from kinedge.edge.pipeline import AT_ONCE, Pipeline, Scored, phases_for
from kinedge.edge.scoring import Scorer
from kinedge.signals import SensorSpec
from kinedge.units import NS_PER_S

__all__ = ["bench_throughput"]

_AT_MOST: Final = 64  # verdicts between two looks at what has come
_LOOK_NS: Final = 2_000_000  # between two looks of an idle edge
_SETTLE_S: Final = 0.5  # not counted: chunks that came while it warmed up are waiting when the virtual clock begins
_LATE_NS: Final = 5_000_000
_TICK_NS: Final = 5_000_000  # of an idle edge
_IMPORTS: Final = ("kinedge.edge", "kinedge.edge.pipeline", "kinedge.edge.service")


@dataclass
class _Run:
    """What one run saw."""

    busy_ns: int = 0
    span_ns: int = 0
    n_verdicts: int = 0
    late: int = 0
    waits_ms: list[float] = field(default_factory=list)
    latencies_ms: list[np.ndarray] = field(default_factory=list)
    radio_ms: list[np.ndarray] = field(default_factory=list)
    n_batches: int = 0


def bench_throughput(
    *,
    people: Sequence[int] = (250, 1000, 2000, 4000),
    sensors: int = 1,
    rate_hz: float = 50.0,
    n_parameters: int = 50_000,
    chunk_samples: int = 10,
    seconds: float = 4.0,
    n_phases: int | None = None,
    memory_people: int = 500,
    memory_seconds: float = 6.0,
    enrolled: bool = False,
    starts: int = 3,
) -> dict[str, Any]:
    """Follow crowds of several sizes.

    Parameters
    ----------
    people
        How many at once.
    sensors
        Of six channels, on each.
    rate_hz
        Of all sensors.
    n_parameters
        Of the model, untrained: only what it costs matters.
    chunk_samples
        In a decoded chunk.
    seconds
        Measured, after the warm-up.
    n_phases
        See ``Pipeline``; as a gateway chooses when None.
    memory_people, memory_seconds
        For the memory of one, after so long a run; 0 people leaves it out.
    enrolled
        Follow each crowd thrice: nobody is enrolled, everybody is and has the default alarm, and as everybody's
        sensors are being aligned besides. The memory is then that of the last.
    starts
        How often imports and starts of a gateway are timed, the best counts; 0 leaves them out.
    """
    # up to three of them none is another's other side: those cost a second forecast until a person has walked a little
    names = ("wrist_left", "lower_back", "ankle_right", "wrist_right", "ankle_left")[:sensors]
    bundle = untrained_bundle([SensorSpec(n) for n in names], rate_hz=rate_hz, n_parameters=n_parameters)
    rows: list[dict[str, Any]] = []
    hop_ms = 1e3 * bundle.manifest.hop / rate_hz
    if memory_people:  # first of all: later, what crowds have given back would be used again
        kind: Kind = BEING_ALIGNED if enrolled else COHORT
        kb = _memory_kb(bundle, memory_people, kind, chunk_samples=chunk_samples, seconds=memory_seconds)
        rows.append({"what": _name("memory", kind), "people": memory_people, "kb_per_person": round(kb, 1)})
    backend = load_backend(bundle)
    onnx_us, own_us = bare_us(bundle, backend)
    for n, kind in itertools.product(people, KINDS if enrolled else KINDS[:1]):
        phases = n_phases or phases_for(n, bundle.manifest.hop)
        found, start_s = _follow(bundle, n, kind, chunk_samples=chunk_samples, seconds=seconds, n_phases=phases)
        load = found.busy_ns / found.span_ns
        latencies = np.concatenate(found.latencies_ms)
        us_per_hop = found.busy_ns / 1e3 / max(found.n_verdicts, 1)
        rows.append(
            {
                "what": _name("crowd", kind),
                "people": n,
                "load": round(load, 3),
                # of a saturated core that is what it can do; of an idle one less than that, as its batches are small
                "people_per_core": round(found.n_verdicts / (found.busy_ns / 1e9) * hop_ms / 1e3),
                "us_per_hop": round(us_per_hop, 1),
                "ratio": round(us_per_hop / onnx_us, 3),
                "ratio_of_backend": round(us_per_hop / own_us, 3),
                "late_share": round(found.late / max(found.n_verdicts, 1), 5),
                "wait_p50_ms": round(float(np.quantile(found.waits_ms, 0.5)), 2),
                "wait_p99_ms": round(float(np.quantile(found.waits_ms, 0.99)), 2),
                "sample_to_verdict_p99_ms": round(float(np.quantile(latencies, 0.99)), 1),
                "radio_p99_ms": round(float(np.quantile(np.concatenate(found.radio_ms), 0.99)), 1),
                "goal_ms": hop_ms + 5,
                "people_per_batch": round(found.n_verdicts / max(found.n_batches, 1), 1),
                "start_s": round(start_s, 3),
                "verdicts": found.n_verdicts,
            }
        )
    if starts:
        rows += [{"what": f"import {name}", "processor_s": round(_import_s(name, starts), 3)} for name in _IMPORTS]
    if starts and Path("/proc/self/schedstat").exists():
        for what, uplink in (("start", False), ("start, with an uplink", True)):
            rows.append({"what": what, "processor_s": round(starts_s(uplink=uplink, rounds=starts)[0], 3)})
    settings = {
        "backend": backend.name,
        "bare_us_onnxruntime": round(onnx_us, 2),
        "bare_us_backend": round(own_us, 2),
        "parameters": bundle.manifest.n_parameters,
        "channels": bundle.manifest.n_channels,
        "rate_hz": rate_hz,
        "hop_ms": hop_ms,
        "chunk_samples": chunk_samples,
        "seconds": seconds,
        "n_phases": n_phases or "as a gateway chooses",
        "seed": 0,
        "clock": "virtual, moved by thread CPU time",
    }
    return result("throughput", rows, settings=settings)


def _name(what: str, kind: Kind) -> str:
    return f"{what}, {kind}" if kind else what


def _follow(
    bundle: Bundle, n: int, kind: Kind, *, chunk_samples: int, seconds: float, n_phases: int
) -> tuple[_Run, float]:
    """Return what a run saw, and how long it took to start."""
    manifest = bundle.manifest
    crowd = Crowd(manifest, n, chunk_samples=chunk_samples, walking=kind == BEING_ALIGNED)
    enrolment = any_enrolment(Scorer(bundle)) if kind else None
    began = time.thread_time()
    # a chunk must have time to fill and to travel, or what it holds is late
    max_delay_s = max(0.25, 1.5 * chunk_samples / manifest.rate_hz)
    pipeline = pipeline_of(Scorer(bundle), crowd.subjects, kind, enrolment, n_phases=n_phases, max_delay_s=max_delay_s)
    start_s = time.thread_time() - began
    crowd.know_clocks(pipeline)
    chunk_s = chunk_samples / manifest.rate_hz
    n_warm = -(-(manifest.receptive_field + manifest.block + 2 * manifest.hop) // chunk_samples)
    n_settled = n_warm + max(1, round(_SETTLE_S / chunk_s))
    n_end = n_settled + round(seconds / chunk_s)
    gc.collect()
    run = _Edge(pipeline, crowd)
    for chunks in crowd.chunks(0, n_warm):
        run.warm(chunks)
    for number, chunks in enumerate(crowd.chunks(n_warm, n_end), n_warm):
        if number == n_settled:
            run.forget()
        run.take(chunks)
    return run.finish(), start_s


class _Edge:
    """A pipeline on a virtual core."""

    def __init__(self, pipeline: Pipeline, crowd: Crowd) -> None:
        self._pipeline = pipeline
        self._crowd = crowd
        self._row = {s: i for i, s in enumerate(crowd.subjects)}
        self._channels = {s.name: s.channels for s in crowd.sensors}
        # when each person's latest chunks came, by number: what a hop waited for
        self._came: dict[str, list[tuple[int, int, int]]] = {s: [] for s in crowd.subjects}
        self._now = self._looked = self._scored = 0
        self._waiting: list[Arrival] = []
        self._run = _Run()

    def warm(self, chunks: list[Arrival]) -> None:
        """Take chunks as they come, and count nothing."""
        for arrival in chunks:
            self._push(arrival)
            self._note(arrival)
        self._pipeline.advance()
        self._now = self._looked = chunks[-1].arrival_ns

    def take(self, chunks: list[Arrival]) -> None:
        """Take the chunks of all people of one number; those of the next may overlap, so the last ones wait."""
        self._waiting = sorted([*self._waiting, *chunks], key=lambda a: a.arrival_ns)
        until = chunks[-1].arrival_ns - self._crowd.chunk_samples * self._crowd.interval_ns
        self._work(until)

    def forget(self) -> None:
        """Begin to count here."""
        self._run = _Run()

    def finish(self) -> _Run:
        """Return what was seen."""
        return self._run

    def _work(self, until_ns: int) -> None:
        run, pipeline = self._run, self._pipeline
        began_ns = self._now
        at = 0
        while at < len(self._waiting) and self._waiting[at].arrival_ns <= until_ns:
            self._now = self._looked = max(self._now, self._looked + _LOOK_NS)
            first, start = at, time.thread_time_ns()
            while at < len(self._waiting) and self._waiting[at].arrival_ns <= self._now:
                self._push(self._waiting[at])
                at += 1
            found: list[Scored] = []
            if pipeline.n_due or self._now >= self._scored + _TICK_NS:
                found = pipeline.advance(now_ns=self._now, at_most=_AT_MOST)
                self._scored = self._now
            cost = time.thread_time_ns() - start
            self._now += cost
            run.busy_ns += cost
            for arrival in self._waiting[first:at]:
                self._note(arrival)
            self._book(found)
        del self._waiting[:at]
        run.span_ns += self._now - began_ns

    def _push(self, arrival: Arrival) -> None:
        chunk = arrival.chunk
        self._pipeline.push(arrival.subject, chunk, channels=self._channels[chunk.sensor])

    def _note(self, arrival: Arrival) -> None:
        """Keep in mind when a chunk came: what the measurement needs is no part of what is measured."""
        chunk = arrival.chunk
        times = self._came[arrival.subject]
        times.append((int(chunk.device_time_ns[0]), int(chunk.device_time_ns[-1]), arrival.arrival_ns))
        del times[: -40 * len(self._channels)]

    def _book(self, found: list[Scored]) -> None:
        hop = self._pipeline.scorer.manifest.hop
        self._run.n_batches += bool(found)
        for scored in found:
            # mapped time is late by the fastest packet's delay; the hop needs the first sample behind its last tick
            end_ns = scored.batch.host_time_ns
            begin_ns = end_ns - hop * self._crowd.interval_ns
            parts = [c for c in self._came[scored.subject] if c[1] >= begin_ns - NS_PER_S and c[0] <= end_ns]
            inside = [c for c in parts if c[0] < end_ns]
            if not inside:
                continue
            n = self._crowd.chunk_samples
            of_hop = [c for c in inside if c[1] >= begin_ns]
            self._run.n_verdicts += 1
            self._run.late += self._now - min(c[2] for c in of_hop) > end_ns - begin_ns + _LATE_NS
            complete_ns = max(c[2] for c in inside)
            self._run.waits_ms.append((self._now - complete_ns) / 1e6)
            for at_ns, times in ((self._now, self._run.latencies_ms), (complete_ns, self._run.radio_ms)):
                times.append(np.repeat([(at_ns - c[2]) / 1e6 for c in of_hop], n))


def _memory_kb(bundle: Bundle, n: int, kind: Kind, *, chunk_samples: int, seconds: float) -> float:
    """Return by how much the process grows with each person, after it has run for a while."""
    manifest = bundle.manifest
    scorer = Scorer(bundle)
    n_chunks = round(seconds * manifest.rate_hz / chunk_samples)
    # what is needed once, however many there are, is not counted: a step of as many people as one holds, too
    walking = kind == BEING_ALIGNED
    few = Crowd(manifest, min(AT_ONCE, n), chunk_samples=chunk_samples, walking=walking)
    enrolment = any_enrolment(scorer) if kind else None
    small = _Edge(pipeline_of(scorer, few.subjects, kind, enrolment), few)
    for chunks in few.chunks(0, min(n_chunks, 50)):
        small.warm(chunks)
    gc.collect()
    before = _resident_kb()
    crowd = Crowd(manifest, n, chunk_samples=chunk_samples, walking=walking)
    pipeline = pipeline_of(scorer, crowd.subjects, kind, enrolment)
    crowd.know_clocks(pipeline)
    channels = {s.name: s.channels for s in crowd.sensors}
    for chunks in crowd.chunks(0, n_chunks):
        for arrival in chunks:
            pipeline.push(arrival.subject, arrival.chunk, channels=channels[arrival.chunk.sensor])
        pipeline.advance()
    del chunks, arrival
    gc.collect()
    return (_resident_kb() - before) / n


def _resident_kb() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
    except OSError:
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _import_s(name: str, rounds: int) -> float:
    """Return the processor time of importing, less that of an empty Python; the best of some."""

    def spent(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(spent(f"import {name}") for _ in range(rounds)) - min(spent("pass") for _ in range(rounds))
