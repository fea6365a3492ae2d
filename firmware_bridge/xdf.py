"""XDF files (what LSL's LabRecorder writes) as chunks, as devices send them, or as recordings on one grid.

Clocks are brought together by the offsets that the file holds. Time stamps are not smoothed unless asked for: smoothing
assumes that nothing is missing. On a grid, samples come by linear interpolation between neighbours at most 1.5 sample
intervals apart; everywhere else the mask says that there is nothing.

pyxdf (the extra ``lsl``) is imported when first needed.
"""

from __future__ import annotations

import heapq
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ConfigError, SignalError
from kinedge.firmware_bridge.channel_map import map_channels
from kinedge.recording import Recording
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import NS_PER_S, period_ns

__all__ = ["XdfStream", "read_streams", "read_xdf", "stream_chunks"]

_MAX_FILE_BYTES: Final = 1 << 31
_MAX_GRID: Final = 1 << 27  # values
_WIDEST_STEP: Final = 1.5  # sample intervals
_MAX_TIME_S: Final = 2.0**33  # nanoseconds of it fit into 64 bits


@dataclass(frozen=True, eq=False)
class XdfStream:
    """A stream of a file as a sensor.

    Parameters
    ----------
    spec
        The sensor.
    rate_hz
        Nominal.
    time_s : (n,) float64
        Increasing, on the clock that all streams of the file share.
    values, valid : (n, n_channels)
        SI units.
    """

    spec: SensorSpec
    rate_hz: float
    time_s: NDArray[np.float64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]


def read_xdf(
    path: Path,
    sensors: Mapping[str, str],
    *,
    rate_hz: float | None = None,
    mappings: Mapping[str, Mapping[str, str]] | None = None,
    unit_of: Mapping[str, str] | None = None,
    dejitter: bool = False,
    subject: str = "unknown",
    session: str = "unknown",
) -> Recording:
    """Read the IMU streams of a file.

    Parameters
    ----------
    path
        ``.xdf`` or ``.xdfz``, of at most 2 GiB.
    sensors
        Stream's name or source id by where the sensor is worn, such as ``{"wrist_left": "Muse-4F21"}``.
    rate_hz
        Of the grid; the highest nominal rate of the streams when None.
    mappings
        By sensor, where labels do not do: see ``map_channels``.
    unit_of
        As in ``map_channels``, for all streams.
    dejitter
        Let pyxdf lay the stamps of each stream on a line, as for sources that stamp when they send.
    subject, session
        Pseudonyms.

    Returns
    -------
    Recording
        From the first sample of any sensor to the last.

    Raises
    ------
    ConfigError
        pyxdf is missing; a stream is not there, or twice; its channels, units or rate are not known.
    SignalError
        The file is no readable XDF, is too large, or a stream holds no samples.
    """
    streams = read_streams(path, sensors, mappings=mappings, unit_of=unit_of, dejitter=dejitter)
    grid_hz = max(stream.rate_hz for stream in streams) if rate_hz is None else rate_hz
    period_ns(grid_hz)  # checks it
    start_s = min(float(stream.time_s[0]) for stream in streams)
    end_s = max(float(stream.time_s[-1]) for stream in streams)
    n = math.floor((end_s - start_s) * grid_hz + 1e-6) + 1
    if n * sum(stream.spec.n_channels for stream in streams) > _MAX_GRID:
        raise SignalError(f"{path}: {end_s - start_s:.0f} s at {grid_hz:g} Hz are too much; read fewer streams at once")
    grid_s = start_s + np.arange(n) / grid_hz
    laid = [_on_grid(grid_s, s.time_s, s.values, s.valid, _WIDEST_STEP / s.rate_hz) for s in streams]
    return Recording(
        sensors=tuple(stream.spec for stream in streams),
        rate_hz=float(grid_hz),
        values=np.concatenate([values for values, _ in laid], axis=1),
        valid=np.concatenate([valid for _, valid in laid], axis=1),
        subject=subject,
        session=session,
        source=f"xdf/{Path(path).name}",
    )


def read_streams(
    path: Path,
    sensors: Mapping[str, str],
    *,
    mappings: Mapping[str, Mapping[str, str]] | None = None,
    unit_of: Mapping[str, str] | None = None,
    dejitter: bool = False,
) -> list[XdfStream]:
    """Read the IMU streams of a file, each at its own times; parameters and errors are those of ``read_xdf``."""
    path = Path(path)
    if not sensors:
        raise ConfigError(f"{path}: say which streams to read, such as {{'wrist_left': 'name of the stream'}}")
    there = _load(path, dejitter)
    found = []
    for sensor, name in sensors.items():
        where = f"{path}, stream {name!r}"
        matching = [stream for stream in there if name in (_text(stream["info"], k) for k in ("name", "source_id"))]
        if len(matching) != 1:
            held = ", ".join(_text(stream["info"], "name") for stream in there[:20])
            raise ConfigError(f"{where}: is there {len(matching)} times; the file holds {held or 'nothing'}")
        mapping = (mappings or {}).get(sensor)
        spec, time_s, values, valid = _take(matching[0], sensor, mapping=mapping, unit_of=unit_of, where=where)
        found.append(XdfStream(spec, _rate(matching[0], time_s, where), time_s, values, valid))
    return found


def stream_chunks(streams: Sequence[XdfStream], *, chunk_s: float = 0.1) -> Iterator[ImuChunk]:
    """Cut streams into chunks, in the order of time: the form in which devices send, and sessions are kept.

    The clocks of the streams are together already: the time of a sample is its device time, and the arrival of a chunk
    is the time of its last sample. Where a step is wide, what is missing counts as lost.

    Parameters
    ----------
    streams
        Of one file.
    chunk_s
        Chunks end at whole multiples of it.

    Raises
    ------
    SignalError
        A time does not fit into 64 bits of nanoseconds.
    """
    cuts = [_cut(stream, round(chunk_s * NS_PER_S)) for stream in streams]
    return heapq.merge(*cuts, key=lambda chunk: int(chunk.device_time_ns[-1]))


def _cut(stream: XdfStream, chunk_ns: int) -> Iterator[ImuChunk]:
    if np.abs(stream.time_s).max() > _MAX_TIME_S:
        raise SignalError(f"{stream.spec.name}: its times, such as {stream.time_s[-1]:g} s, are of no clock")
    time_ns, first = np.unique(np.rint(stream.time_s * NS_PER_S).astype(np.int64), return_index=True)
    values, valid = stream.values[first], stream.valid[first]
    interval_ns = period_ns(stream.rate_hz)
    steps = np.diff(time_ns, prepend=time_ns[:1])
    lost = np.where(steps > _WIDEST_STEP * interval_ns, np.rint(steps / interval_ns) - 1, 0).astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(time_ns // chunk_ns)) + 1).tolist(), len(time_ns)]
    for start, stop in pairwise(edges):
        yield ImuChunk(
            stream.spec.name,
            time_ns[start:stop],
            values[start:stop],
            valid[start:stop],
            np.zeros_like(valid[start:stop]),  # LSL has no word for the end of a range
            interval_ns,
            lost=int(lost[start:stop].sum()),
            host_time_ns=int(time_ns[stop - 1]),
        )


def _load(path: Path, dejitter: bool) -> list[dict[str, Any]]:
    try:
        pyxdf = importlib.import_module("pyxdf")
    except ImportError as e:
        raise ConfigError("pyxdf is not installed; XDF needs: pip install 'kinedge[lsl]'") from e
    try:
        n_bytes = path.stat().st_size
    except OSError as e:
        raise SignalError(f"{path}: cannot be read ({e.strerror})") from e
    if n_bytes > _MAX_FILE_BYTES:
        raise SignalError(f"{path}: {n_bytes} bytes; at most {_MAX_FILE_BYTES} are read: record shorter sessions")
    try:
        streams, _ = pyxdf.load_xdf(str(path), dejitter_timestamps=dejitter)
        return list(streams)
    except Exception as e:  # pyxdf has no error of its own: damage shows as whatever the parser stumbles over
        raise SignalError(f"{path}: is no readable XDF file ({type(e).__name__}: {e!s:.200})") from e


def _text(info: Any, key: str) -> str:
    """Return the text of an element; pyxdf makes a list of each."""
    try:
        return str(info[key][0] or "")
    except (KeyError, IndexError, TypeError):
        return ""


def _take(
    stream: dict[str, Any],
    sensor: str,
    *,
    mapping: Mapping[str, str] | None,
    unit_of: Mapping[str, str] | None,
    where: str,
) -> tuple[SensorSpec, NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the sensor, and times (n,), values and validity (n, n_channels), in order of time."""
    rows = stream["time_series"]
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind not in "iuf" or not len(rows):
        raise SignalError(f"{where}: holds no samples")
    try:
        described = stream["info"]["desc"][0]["channels"][0]["channel"]
    except (KeyError, IndexError, TypeError):
        described = []
    labels = [_text(channel, "label") for channel in described][: rows.shape[1]]
    units = [_text(channel, "unit") for channel in described][: rows.shape[1]]
    mapped = map_channels(sensor, labels, units, mapping=mapping, unit_of=unit_of, where=where)
    time_s = np.asarray(stream["time_stamps"], np.float64)
    if time_s.shape != rows.shape[:1] or not np.isfinite(time_s).all():
        raise SignalError(f"{where}: its time stamps are damaged")
    time_s, first = np.unique(time_s, return_index=True)
    values, valid = mapped.to_si(rows[first])
    return mapped.spec, time_s, values, valid


def _rate(stream: dict[str, Any], time_s: NDArray[np.float64], where: str) -> float:
    try:
        rate_hz = float(_text(stream["info"], "nominal_srate") or 0.0)
    except ValueError:
        rate_hz = 0.0
    if not rate_hz and time_s.size > 1:  # irregular, by what it says: the median step tells
        rate_hz = 1.0 / float(np.median(np.diff(time_s)))
    if not 1.0 <= rate_hz <= 10_000.0:
        raise ConfigError(f"{where}: has a rate of {rate_hz:g} Hz; samples of an IMU come 1 to 10000 times a second")
    return rate_hz


def _on_grid(
    grid_s: NDArray[np.float64],
    time_s: NDArray[np.float64],
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    widest_s: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate between neighbours that are both valid and near each other; nothing is known elsewhere."""
    right = np.searchsorted(time_s, grid_s, side="right")
    left = np.clip(right - 1, 0, time_s.size - 1)
    right = np.minimum(right, time_s.size - 1)
    step = time_s[right] - time_s[left]
    share = np.divide(grid_s - time_s[left], step, out=np.zeros_like(grid_s), where=step > 0)
    share[np.abs(share) < 1e-6] = 0.0
    share[np.abs(share - 1) < 1e-6] = 1.0
    inside = (grid_s >= time_s[0]) & (grid_s <= time_s[-1] + 1e-9)
    near = inside & ((step <= widest_s) | (share == 0) | (share == 1))
    weight = share[:, None].astype(np.float32)
    known = near[:, None] & (valid[left] | (weight == 1)) & (valid[right] | (weight == 0))
    laid = values[left] * (1 - weight) + values[right] * weight
    return np.where(known, laid, np.float32(0)), known
