"""Sessions that ``kinedge record`` wrote, as recordings on a regular grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinedge.edge.aligner import AlignedBlock, Aligner
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock, ClockMap, FixedClock
from kinedge.firmware_bridge.recorded import RecordedSession, read_session
from kinedge.recording import Recording
from kinedge.training.datasets.source import MAX_ROWS

__all__ = ["load_session"]

_MAX_DELAY_S = 2.0  # a recording can wait longer for a slow sensor than a live board


def load_session(folder: Path, *, sensors: Sequence[str] | None = None, rate_hz: float | None = None) -> Recording:
    """Load one recorded session through the clock map and the aligner that score it live.

    Parameters
    ----------
    folder
        With ``session.json`` and Parquet segments.
    sensors
        In column order; None takes all, by name.
    rate_hz
        Of the grid; None: the rate of the slowest sensor.

    Returns
    -------
    Recording
        Lost samples, gaps and damaged segments are invalid. Without arrival times the device clocks count as one
        clock, and ``notes["clock"]`` says so. ``subject`` is what the session says, its folder's name otherwise.

    Raises
    ------
    StoreError
        This is no session, or nothing of it is readable.
    SignalError
        A sensor is not in it, or it holds no samples of them.
    ConfigError
        pyarrow is not installed.
    """
    session = read_session(Path(folder))
    names = tuple(sensors) if sensors is not None else tuple(sorted(session.sensors))
    unknown = sorted(set(names) - set(session.sensors))
    if unknown:
        raise SignalError(f"{folder}: no sensor {', '.join(unknown)}; here are {', '.join(sorted(session.sensors))}")
    specs = tuple(session.sensors[name] for name in names)
    aligner: Aligner | None = None
    clocks: dict[str, Clock] = {}
    boots: dict[str, int] = {}
    blocks: list[AlignedBlock] = []
    grid_hz = rate_hz if rate_hz is not None else _slowest_hz(session, names)
    for chunk in session.chunks():
        if chunk.sensor not in names:
            continue
        aligner = aligner or Aligner(specs, rate_hz=grid_hz, max_delay_s=_MAX_DELAY_S)
        if boots.setdefault(chunk.sensor, chunk.boot_id) != chunk.boot_id:
            boots[chunk.sensor] = chunk.boot_id
            clocks.pop(chunk.sensor, None)
            aligner.reset_sensor(chunk.sensor)
        if chunk.sensor not in clocks:
            clocks[chunk.sensor] = FixedClock() if chunk.host_time_ns is None else ClockMap()
        clock = clocks[chunk.sensor]
        if chunk.host_time_ns is not None:
            clock.update(int(chunk.device_time_ns[-1]), chunk.host_time_ns)
        host_time_ns = clock.to_host_ns(chunk.device_time_ns)
        aligner.push(
            chunk.sensor, host_time_ns, chunk.values, chunk.valid, chunk.saturated, interval_ns=chunk.interval_ns
        )
        blocks.append(aligner.pull())
    if aligner is not None:
        blocks.append(aligner.pull(flush=True))
    blocks = [block for block in blocks if len(block)]
    if not blocks:
        raise SignalError(f"{folder}: no samples of {', '.join(names) or 'any sensor'} in it")
    first, end = blocks[0].first_tick, blocks[-1].first_tick + len(blocks[-1])
    if end - first > MAX_ROWS:
        raise SignalError(f"{folder}: {end - first:,} samples on the grid; load it at a lower rate_hz")
    values = np.zeros((end - first, sum(s.n_channels for s in specs)), np.float32)
    valid = np.zeros(values.shape, bool)
    for block in blocks:
        rows = slice(block.first_tick - first, block.first_tick - first + len(block))
        values[rows], valid[rows] = block.values, block.valid
    notes = {"damage": f"{len(session.damage)} files not read"} if session.damage else {}
    if any(isinstance(clock, FixedClock) for clock in clocks.values()):
        notes["clock"] = "no arrival times: the device clocks count as one"
    return Recording(
        sensors=specs,
        rate_hz=grid_hz,
        values=values,
        valid=valid,
        subject=str(_facts(session).get("subject") or session.folder.name),
        session=session.folder.name,
        source=str(session.folder),
        notes=notes,
    )


def _facts(session: RecordedSession) -> Mapping[str, Any]:
    facts = session.manifest.get("facts")
    return facts if isinstance(facts, dict) else {}


def _slowest_hz(session: RecordedSession, names: tuple[str, ...]) -> float:
    """Return the rate of the slowest of these sensors, by the intervals of the first chunk of each."""
    intervals: dict[str, int] = {}
    for chunk in session.chunks():
        if chunk.sensor in names:
            intervals.setdefault(chunk.sensor, chunk.interval_ns)
            if len(intervals) == len(names):
                break
    if not intervals:
        raise SignalError(f"{session.folder}: no samples of {', '.join(names) or 'any sensor'} in it")
    return 1e9 / max(intervals.values())
