"""What one step costs, beside the bare ONNX Runtime call with the same model and the same input, in one run.

Beside that stands the bare call of the backend that ran: what is around the model is judged by it, and a fast backend
must not hide what is slow there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kinedge.benchmarks.crowd import Arrival, Crowd
from kinedge.benchmarks.enrolled import BEING_ALIGNED, COHORT, KINDS, Kind, any_enrolment, hops_of_a_turn, pipeline_of
from kinedge.benchmarks.harness import Timing, interleaved, result, timing_row
from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.backends import DEFAULT_BACKENDS, Backend, NativeBackend, OnnxBackend, open_backend
from kinedge.edge.engine import STREAMS_IN_CACHE
from kinedge.edge.enrolment import Enrolment
from kinedge.edge.scoring import Scorer, ScoringState

__all__ = ["bare_us", "bench_step"]

_SETTLED = 16  # hops: random samples are a change of everybody at once, and it is looked at whose it is
_LOSS = 0.02
_ONNX = "onnxruntime"


def bench_step(
    bundle: Path,
    *,
    streams: Sequence[int] = (1, 16, 64, 256, 1024),
    chunk_samples: Sequence[int] = (10, 50),
    backend: Literal["native", "onnx"] | None = None,
    n_rounds: int = 15,
    round_s: float = 0.05,
    enrolled: bool = False,
) -> dict[str, Any]:
    """Time one hop of all streams: the bare graph, the engine around it, all up to the verdicts, and from chunks on.

    Samples are lost in packets of a fifth of a second, 2 % of them. Time is that of the thread on its processor.

    Parameters
    ----------
    bundle
        The model.
    streams
        How many at once.
    chunk_samples
        In a decoded chunk; a divisor of the hop.
    backend
        What runs the model; what a gateway takes by itself when None.
    n_rounds, round_s
        See ``interleaved``.
    enrolled
        Time chunks also of people who are all enrolled and have the default alarm, and while their sensors are being
        aligned besides.

    Returns
    -------
    dict
        Rows with ``what`` one of ``onnxruntime`` (all streams in one call), ``onnxruntime in pieces`` (as the engine
        does it), the same of the backend that ran if it is another one (``native in pieces``), ``engine``,
        ``verdicts`` (from values on the grid), and ``chunks of N`` (from decoded chunks: clock maps, alignment, hops,
        verdicts); with ``enrolled`` also ``chunks of N, enrolled`` and ``chunks of N, being aligned``, of which a mean
        is told over as many hops as it takes until all was done that is not done at every hop. ``ratio`` is to the
        first, ``ratio_in_pieces`` to the second, ``ratio_of_backend`` to the bare call of the backend that ran, in
        pieces.

    Raises
    ------
    BundleError, BackendError
        The model does not load.
    """
    loaded = read_bundle(bundle)
    own = open_backend(loaded, DEFAULT_BACKENDS if backend is None else (backend,))
    scorer = Scorer(loaded, backend=own)
    m = scorer.manifest
    bare = OnnxBackend(loaded).session
    enrolment = any_enrolment(scorer) if enrolled else None
    rng = np.random.default_rng(0)
    rows = []
    for n in streams:
        shape = (n, m.hop, m.n_channels)
        # samples that stood in the block before would be taken for a stuck sensor's
        n_hops = m.block // m.hop + 2
        hops_of = rng.normal(np.array(m.center), np.array(m.scale), (n_hops, *shape)).astype(np.float32)
        valid = _lose(scorer, n, rng)
        saturated = np.zeros(shape, bool)
        x = rng.normal(size=shape).astype(np.float32)
        feed = {"x": x, "mask": valid.astype(np.float32), "state": np.zeros((n, m.state_size), np.float32)}
        pieces = [{k: a[i : i + STREAMS_IN_CACHE] for k, a in feed.items()} for i in range(0, n, STREAMS_IN_CACHE)]
        state = scorer.initial_state(n)
        n_warm = m.receptive_field // m.hop + m.block // m.hop + 2  # past the warm-up: the full work is done
        for i in range(n_warm + _SETTLED):
            _, state = scorer.step(hops_of[i % n_hops], valid, saturated, state, end_tick=(i + 1) * m.hop)
        going = _Going(scorer, state, np.roll(hops_of, -((n_warm + _SETTLED) % n_hops), axis=0))
        hops = {
            f"chunks of {size}" + (f", {kind}" if kind else ""): _Hops(scorer, n, size, n_warm, kind, enrolment)
            for size in chunk_samples
            for kind in (KINDS if enrolled else KINDS[:1])
        }
        timings = interleaved(
            {
                _ONNX: lambda feed=feed: bare.run(None, feed),  # type: ignore[misc]
                f"{_ONNX} in pieces": lambda pieces=pieces: [bare.run(None, p) for p in pieces],  # type: ignore[misc]
                **_bare_of(own, pieces),
                "engine": lambda g=going, k=valid: g.engine(k),  # type: ignore[misc]
                "verdicts": lambda g=going, k=valid, a=saturated: g.verdicts(k, a),  # type: ignore[misc]
                **{what: hop.score for what, hop in hops.items()},
            },
            before={what: hop.make for what, hop in hops.items()},
            n_rounds=n_rounds,
            round_s=round_s,
            clock_ns=time.thread_time_ns,
        )
        timings |= {what: _of_one(timings[what], hop.n_hops) for what, hop in hops.items()}
        of_backend = timings[f"{own.name.split()[0]} in pieces"].median_us
        for what, timing in timings.items():
            rows.append(
                timing_row(
                    what,
                    timing,
                    streams=n,
                    us_per_sample=round(timing.median_us / (n * m.hop), 4),
                    ratio=round(timing.median_us / timings[_ONNX].median_us, 3),
                    ratio_in_pieces=round(timing.median_us / timings[f"{_ONNX} in pieces"].median_us, 3),
                    ratio_of_backend=round(timing.median_us / of_backend, 3),
                )
            )
    settings = {
        "model": m.name,
        "backend": own.name,
        "parameters": m.n_parameters,
        "channels": m.n_channels,
        "samples_per_step": m.hop,
        "packets_lost": _LOSS,
        "clock": "thread CPU time",
        "n_rounds": n_rounds,
        "round_s": round_s,
    }
    return result("step", rows, settings=settings)


def bare_us(bundle: Bundle, backend: Backend, *, n_rounds: int = 9, round_s: float = 0.02) -> tuple[float, float]:
    """Return what a hop of one stream costs in bare calls of 32 streams: of ONNX Runtime, and of this backend."""
    m = bundle.manifest
    x = np.random.default_rng(0).normal(size=(STREAMS_IN_CACHE, m.hop, m.n_channels)).astype(np.float32)
    feed = {"x": x, "mask": np.ones_like(x), "state": np.zeros((len(x), m.state_size), np.float32)}
    session = OnnxBackend(bundle).session
    calls: dict[str, Callable[[], object]] = {
        f"{_ONNX} in pieces": lambda: session.run(None, feed),
        **_bare_of(backend, [feed]),
    }
    timings = interleaved(calls, n_rounds=n_rounds, round_s=round_s, clock_ns=time.thread_time_ns)
    names = f"{_ONNX} in pieces", f"{backend.name.split()[0]} in pieces"
    onnx_us, own_us = (timings[name].median_us / len(x) for name in names)
    return onnx_us, own_us


def _bare_of(backend: Backend, pieces: Sequence[dict[str, np.ndarray]]) -> dict[str, Callable[[], object]]:
    """Return the bare call of a backend by its name; nothing for ONNX Runtime's, which is there already."""
    if not isinstance(backend, NativeBackend):
        return {}
    bound = []
    for piece in pieces:
        n, n_samples, _ = piece["x"].shape
        bound.append(backend.bind(n, n_samples))
        bound[-1].x[:], bound[-1].mask[:] = piece["x"], piece["mask"]
    return {"native in pieces": lambda: [b.run(len(b.x)) for b in bound]}


def _of_one(timing: Timing, n: int) -> Timing:
    """Return what one of ``n`` that were timed together takes."""
    us = {name: getattr(timing, name) / n for name in ("median_us", "p90_us", "p99_us", "max_us")}
    return replace(timing, **us)


def _lose(scorer: Scorer, n: int, rng: np.random.Generator) -> np.ndarray:
    m = scorer.manifest
    valid = np.ones((n, m.hop, m.n_channels), bool)
    packet = max(m.hop // 5, 1)
    for start in range(0, m.hop, packet):
        for group in scorer.groups:
            valid[rng.random(n) < _LOSS, start : start + packet, group] = False
    return valid


class _Going:
    """Streams that go on hop after hop, their state written in place as it is in a pipeline."""

    def __init__(self, scorer: Scorer, state: ScoringState, hops: np.ndarray) -> None:
        self._scorer, self._state = scorer, state.owned()
        self._hops = itertools.cycle(hops)

    def engine(self, valid: np.ndarray) -> None:
        self._scorer.engine.advance(next(self._hops), valid, self._state.engine)

    def verdicts(self, valid: np.ndarray, saturated: np.ndarray) -> None:
        values = next(self._hops)
        _, self._state = self._scorer.advance(values, valid, saturated, self._state, end_tick=0)


class _Hops:
    """Hop after hop of decoded chunks of many people; making them is not what is measured."""

    def __init__(
        self,
        scorer: Scorer,
        n: int,
        chunk_samples: int,
        n_warm: int,
        kind: Kind = COHORT,
        enrolment: Enrolment | None = None,
    ) -> None:
        walking = kind == BEING_ALIGNED
        self._crowd = Crowd(scorer.manifest, n, chunk_samples=chunk_samples, loss=_LOSS, walking=walking)
        self._pipeline = pipeline_of(scorer, self._crowd.subjects, kind, enrolment)
        self.n_hops = hops_of_a_turn(scorer) if kind else 1
        self._crowd.know_clocks(self._pipeline)
        self._channels = {s.name: s.channels for s in scorer.manifest.sensor_specs}
        self._per_hop = max(scorer.manifest.hop // chunk_samples, 1)
        self._next = 0
        self._waiting: list[list[Arrival]] = []
        for _ in range(-(-(n_warm + _SETTLED) // self.n_hops) + 2):
            self.make()
            self.score()

    def make(self) -> None:
        self._waiting = []
        for _ in range(self.n_hops):
            numbers = self._next, self._next + self._per_hop
            self._waiting.append([a for of_one in self._crowd.chunks(*numbers) for a in of_one])
            self._next = numbers[1]

    def score(self) -> None:
        for arrivals in self._waiting:
            for arrival in arrivals:
                self._pipeline.push(arrival.subject, arrival.chunk, channels=self._channels[arrival.chunk.sensor])
            self._pipeline.advance()
