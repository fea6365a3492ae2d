"""An XDF file as a session: what LSL's LabRecorder kept, in the form that ``record`` writes and ``replay`` plays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kinedge.errors import SignalError
from kinedge.firmware_bridge.device import DeviceInfo
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.session_log import Progress, SessionLog
from kinedge.firmware_bridge.xdf import read_streams, stream_chunks

__all__ = ["import_xdf"]


def import_xdf(
    path: Path,
    streams: Mapping[str, str],
    out: Path,
    *,
    unit_of: Mapping[str, str],
    segment_s: float,
    facts: Mapping[str, str],
) -> tuple[SessionWriter, Progress]:
    """Write the streams of a file as a session; return the closed writer, and what it took in.

    The file does not say in a form to rely on when it was recorded: its end counts as when it was written last.

    Parameters
    ----------
    path
        Of the file.
    streams
        Name or source id of the stream by where the sensor is worn.
    out
        A new folder.
    unit_of
        By ``acc``, ``gyr`` or ``mag``, for streams that do not tell.
    segment_s, facts
        As for ``SessionWriter``.

    Raises
    ------
    KinedgeError
        The file or a stream cannot be read, or the session not be written.
    """
    found = read_streams(path, streams, unit_of=unit_of)
    times_s = [float(t) for stream in found for t in (stream.time_s[0], stream.time_s[-1])]
    now_ns, end_ns = round(min(times_s) * 1e9), round(max(times_s) * 1e9)
    try:
        written_ns = path.stat().st_mtime_ns
    except OSError as e:
        raise SignalError(f"{path}: cannot be read ({e.strerror})") from e
    chunks = stream_chunks(found)

    def clock() -> int:
        return now_ns

    writer = SessionWriter(
        out,
        segment_s=segment_s,
        facts={**facts, "imported_from": path.name},
        clock=clock,
        wall_clock=lambda: written_ns - end_ns + now_ns,
    )
    with writer:
        log = SessionLog(writer, host_clock=clock)
        for stream in found:
            log.take(streams[stream.spec.name], DeviceInfo(stream.spec, stream.rate_hz))
        for chunk in chunks:
            now_ns = int(chunk.device_time_ns[-1])
            log.take(streams[chunk.sensor], chunk)
    return writer, log.progress
