"""Measures of recorded sessions: the code that measures live, on the chunks as they came."""

from __future__ import annotations

from collections.abc import Callable

from kinedge.edge.measures.person import PersonMeasures
from kinedge.errors import SignalError
from kinedge.firmware_bridge.clock import Clock, ClockMap, FixedClock
from kinedge.firmware_bridge.recorded import RecordedSession
from kinedge.signals import IMU6
from kinedge.units import NS_PER_S

__all__ = ["measure_session", "started_utc_ns"]


def started_utc_ns(session: RecordedSession) -> int | None:
    """Return when a session began; None where it does not say."""
    utc_ns = session.manifest.get("started_utc_ns")
    return utc_ns if isinstance(utc_ns, int) and abs(utc_ns) < 1 << 62 else None


def measure_session(
    session: RecordedSession, person: PersonMeasures, *, progress: Callable[[int], None] = lambda n: None
) -> int:
    """Book a session; sessions of one person go in order of time.

    Parameters
    ----------
    session
        From ``read_session``. Without times of its own it begins at the beginning of 1970.
    person
        Whose; goes on from here.
    progress
        Told the samples of every chunk.

    Returns
    -------
    n_samples
        Of sensors that are measured.

    Raises
    ------
    StoreError
        A segment cannot be read any more.
    SignalError
        A sensor that is measured lacks a channel.
    """
    clocks: dict[str, Clock] = {}
    boots: dict[str, int] = {}
    offset_s: int | None = None
    n_samples = 0
    for chunk in session.chunks():
        progress(len(chunk))
        if chunk.sensor not in person.sensors or not len(chunk):
            continue
        channels = session.sensors[chunk.sensor].channels
        if missing := [c for c in IMU6 if c not in channels]:
            raise SignalError(f"{session.folder}: {chunk.sensor} has no {', '.join(missing)}; measure without it")
        if boots.setdefault(chunk.sensor, chunk.boot_id) != chunk.boot_id:
            boots[chunk.sensor] = chunk.boot_id
            clocks.pop(chunk.sensor, None)
            person.reset_sensor(chunk.sensor)
        if chunk.sensor not in clocks:
            clocks[chunk.sensor] = FixedClock() if chunk.host_time_ns is None else ClockMap()
        clock = clocks[chunk.sensor]
        if chunk.host_time_ns is not None:
            clock.update(int(chunk.device_time_ns[-1]), chunk.host_time_ns)
        host_time_ns = clock.to_host_ns(chunk.device_time_ns)
        if offset_s is None:
            offset_s = _offset_s(session, int(host_time_ns[0]))
            person.restart_clock()
        columns = [channels.index(c) for c in IMU6]
        person.push(
            chunk.sensor,
            host_time_ns,
            chunk.values[:, columns],
            chunk.valid[:, columns],
            chunk.saturated[:, columns],
            interval_ns=chunk.interval_ns,
        )
        person.advance(utc_offset_s=offset_s)
        n_samples += len(chunk)
    if offset_s is not None:
        person.advance(utc_offset_s=offset_s, flush=True)
    return n_samples


def _offset_s(session: RecordedSession, first_ns: int) -> int:
    """Return UTC less host time; a session that does not tell its host time begins with its first sample."""
    utc_ns, host_ns = started_utc_ns(session), session.manifest.get("started_host_time_ns")
    known = host_ns if isinstance(host_ns, int) and abs(host_ns) < 1 << 62 else first_ns
    return round(((utc_ns or 0) - known) / NS_PER_S)
