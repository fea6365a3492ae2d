"""Recordings through the very code that scores live: alignment to the model's grid, and all verdicts at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.aligner import Aligner
from kinedge.edge.engine import Surprise
from kinedge.edge.orientation import Alignment, FrameEstimator, Frames, rotate_samples, triads_of
from kinedge.edge.scores import BlockScores
from kinedge.edge.scoring import Scorer
from kinedge.edge.verdict import Verdict
from kinedge.recording import Recording, Region
from kinedge.units import period_ns

__all__ = ["align_recording", "frames_of", "hops", "score_recording", "turn_recording", "verdicts_of"]


def align_recording(recording: Recording, *, rate_hz: float) -> Recording:
    """Bring a recording to a model's grid through the live aligner; labels move along.

    Raises
    ------
    SignalError
        The rate is impossible.
    """
    interval_ns = period_ns(recording.rate_hz)
    aligner = Aligner(recording.sensors, rate_hz=rate_hz)
    if interval_ns == aligner.period_ns:
        return recording
    time = np.arange(len(recording), dtype=np.int64) * interval_ns
    none = np.zeros_like(recording.valid)
    for sensor in recording.sensors:
        c = recording.columns(sensor.name)
        aligner.push(
            sensor.name, time, recording.values[:, c], recording.valid[:, c], none[:, c], interval_ns=interval_ns
        )
    block = aligner.pull(flush=True)

    def tick(sample: int) -> int:
        return min(max(round(sample * interval_ns / aligner.period_ns) - block.first_tick, 0), len(block))

    labels = tuple(Region(tick(r.start), tick(r.end), r.label) for r in recording.labels if tick(r.end) > tick(r.start))
    return replace(recording, rate_hz=rate_hz, values=block.values, valid=block.valid, labels=labels)


def frames_of(recording: Recording, *, walking_s: float | None = None) -> Frames:
    """Learn how the sensors of a recording sit, from its first ``walking_s`` of walking, or from all of it."""
    estimator = FrameEstimator(recording.sensors, rate_hz=recording.rate_hz)
    step = max(1, round(recording.rate_hz))
    for start in range(0, len(recording), step):
        estimator.add(recording.values[start : start + step], recording.valid[start : start + step])
        if walking_s is not None and estimator.walking_s >= walking_s:
            break
    return estimator.frames()


def turn_recording(recording: Recording, alignment: Alignment) -> Recording:
    """Return a recording as if its sensors sat as at enrolment, as far as the alignment could be told."""
    triads, owner = triads_of(recording.sensors)
    nothing = np.zeros((1, *recording.valid.shape), bool)
    rotations = alignment.rotation[None].astype(np.float32)
    values, valid, _ = rotate_samples(recording.values[None], recording.valid[None], nothing, rotations, triads, owner)
    return replace(recording, values=values[0], valid=valid[0])


def hops(recording: Recording, hop: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Cut a recording into whole hops of one stream: values, valid, saturated, each ``(1, hop, n_channels)``."""
    nothing = np.zeros((1, hop, recording.values.shape[1]), bool)
    for start in range(0, len(recording) - hop + 1, hop):
        yield recording.values[None, start : start + hop], recording.valid[None, start : start + hop], nothing


def score_recording(scorer: Scorer, recording: Recording) -> Iterator[tuple[int, BlockScores, Surprise]]:
    """Score a recording on the model's grid, hop by hop; yields the sample behind each hop with its scores."""
    hop = scorer.manifest.hop
    state = scorer.initial_state(1)
    for i, (values, valid, saturated) in enumerate(hops(recording, hop)):
        scores, surprise, state = scorer.score(values, valid, saturated, state)
        yield (i + 1) * hop, scores, surprise


def verdicts_of(scorer: Scorer, recording: Recording) -> list[Verdict]:
    """Return all verdicts about a recording on the model's grid; tick 0 is its first sample."""
    hop = scorer.manifest.hop
    state = scorer.initial_state(1)
    found = []
    for i, (values, valid, saturated) in enumerate(hops(recording, hop)):
        batch, state = scorer.step(values, valid, saturated, state, end_tick=(i + 1) * hop)
        found.append(batch.verdict(0))
    return found
