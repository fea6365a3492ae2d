"""Lab Streaming Layer: any IMU stream in, samples and verdicts out.

Time stamps of an inlet are those that the source gave, in its own clock, neither smoothed nor corrected by LSL: a gap
stays a gap, and the clock map does with them what it does with every device. LSL runs over TCP, so that what is missing
was never sent, or was overwritten because nobody took it in time.

pylsl (the extra ``lsl``) is imported when first needed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from kinedge.canonical import canonical_json
from kinedge.errors import ConfigError, LinkError, SignalError
from kinedge.firmware_bridge.channel_map import map_channels
from kinedge.signals import UNIT_OF, ImuChunk, SensorSpec, quantity_of
from kinedge.units import NS_PER_S, period_ns

__all__ = ["HeardStream", "LslInlet", "SampleOutlet", "VerdictOutlet", "heard_streams", "require_lsl"]

_MAX_SAMPLES: Final = 1024
_BUFFER_S: Final = 10
_RESTART_NS: Final = NS_PER_S
_MAX_TIME_S: Final = 2.0**33  # nanoseconds of it fit into 64 bits
_OPEN_TIMEOUT_S: Final = 5.0
_NAMESAKE_S: Final = 0.5


def _pylsl() -> Any:
    try:
        return importlib.import_module("pylsl")
    except ImportError as e:
        raise ConfigError("pylsl is not installed; LSL needs: pip install 'kinedge[lsl]'") from e
    except (RuntimeError, OSError) as e:
        raise ConfigError(f"pylsl finds no liblsl ({e}); see https://github.com/sccn/liblsl") from e


def require_lsl() -> None:
    """Check that LSL can be used.

    Raises
    ------
    ConfigError
        pylsl or liblsl is missing.
    """
    _pylsl()


@dataclass(frozen=True)
class HeardStream:
    """A stream that is on: what it says of itself before anybody opens it."""

    name: str
    source_id: str
    kind: str
    host: str
    n_channels: int
    rate_hz: float


def heard_streams(*, seconds: float = 1.0) -> list[HeardStream]:
    """Listen for streams of any kind; by name.

    Raises
    ------
    ConfigError
        pylsl or liblsl is missing.
    """
    found = {s.uid(): s for s in _pylsl().resolve_streams(seconds)}.values()
    heard = [
        HeardStream(s.name(), s.source_id(), s.type(), s.hostname(), s.channel_count(), s.nominal_srate())
        for s in found
    ]
    return sorted(heard, key=lambda s: (s.name, s.source_id))


def _resolve(lsl: Any, by: str, wanted: str, timeout_s: float) -> list[Any]:
    """Return the streams that are heard; after the first, a little is waited for namesakes."""
    predicate = " or ".join(f"{key}='{wanted}'" for key in (("name", "source_id") if by == "any" else (by,)))
    heard = lsl.resolve_bypred(predicate, minimum=1, timeout=timeout_s)
    if heard:  # on a busy machine the second answer may be the slower one
        heard = [*heard, *lsl.resolve_bypred(predicate, minimum=2, timeout=_NAMESAKE_S)]
    return list({stream.uid(): stream for stream in heard}.values())


def _of_each_channel(told: list[str | None] | None, n_channels: int) -> list[str | None]:
    """Return exactly one label or unit a channel, whatever the metadata holds."""
    return ((told or []) + [None] * n_channels)[:n_channels]


class LslInlet:
    """An IMU stream as chunks of one sensor.

    Parameters
    ----------
    wanted
        Name (or what ``by`` says) of the stream.
    sensor
        Where it is worn.
    by
        What ``wanted`` is; ``any``: a name or a source id.
    mapping, unit_of
        See ``map_channels``, where the labels and units in the stream's metadata do not do.
    rate_hz
        Where the stream does not tell its rate.
    timeout_s
        How long to look for it.
    host_clock
        Monotonic, in ns.

    Attributes
    ----------
    spec
        The sensor and its channels.
    rate_hz
        Nominal.
    dropped
        Samples whose time did not increase, or was no time.

    Raises
    ------
    LinkError
        There is no such stream, or more than one.
    ConfigError
        pylsl is missing, or the stream's channels, units or rate are not known.
    """

    def __init__(
        self,
        wanted: str,
        sensor: str,
        *,
        by: Literal["name", "source_id", "type", "any"] = "name",
        mapping: Mapping[str, str] | None = None,
        unit_of: Mapping[str, str] | None = None,
        rate_hz: float | None = None,
        timeout_s: float = 5.0,
        host_clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        lsl = _pylsl()
        if "'" in wanted or not wanted:
            raise ConfigError(f"{wanted!r} is no name to look for: it must be there, without quotes")
        where = f"LSL stream {wanted!r}"
        found = _resolve(lsl, by, wanted, timeout_s)
        if not found:
            raise LinkError(f"{where} was not found in {timeout_s:g} s; is it on, and on this network?")
        if len(found) > 1:
            what = "name or source id" if by == "any" else by
            raise LinkError(f"{where}: {len(found)} streams have this {what}; name the one you mean by its source id")
        self._inlet = lsl.StreamInlet(found[0], max_buflen=_BUFFER_S, as_numpy=True)
        self._lost_error = lsl.util.LostError
        try:
            info = self._inlet.info(_OPEN_TIMEOUT_S)
            if info.channel_format() == lsl.cf_string:
                raise ConfigError(f"{where} carries text, not samples")
            n = info.channel_count()
            labels = _of_each_channel(info.get_channel_labels(), n)
            units = _of_each_channel(info.get_channel_units(), n)
            self._map = map_channels(sensor, labels, units, mapping=mapping, unit_of=unit_of, where=where)
            if not (rate_hz or info.nominal_srate()):
                raise ConfigError(f"{where} does not tell its rate; say it by `rate_hz`")
            self.rate_hz = float(rate_hz or info.nominal_srate())
            self._interval_ns = period_ns(self.rate_hz)
            self._inlet.open_stream(_OPEN_TIMEOUT_S)
        except (lsl.util.TimeoutError, lsl.util.LostError) as e:
            self._inlet.close_stream()
            raise LinkError(f"{where} was found, but does not answer; is a firewall in between?") from e
        self.spec: SensorSpec = self._map.spec
        self.dropped = 0
        self._where = where
        self._host_clock = host_clock
        self._last_ns: int | None = None
        self._boot_id = 0

    def __enter__(self) -> LslInlet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream."""
        self._inlet.close_stream()

    def pull(self, *, timeout_s: float = 0.0) -> ImuChunk | None:
        """Return what arrived, at most 1024 samples; waits for the first one. None when nothing usable came.

        A source that disappears is looked for by LSL; when it comes back with an earlier clock, ``boot_id`` changes.

        Raises
        ------
        LinkError
            The stream is lost for good.
        """
        try:
            rows, stamps_s = self._inlet.pull_chunk(timeout_s, max_samples=_MAX_SAMPLES, min_samples=1)
        except self._lost_error as e:
            raise LinkError(f"{self._where} was lost; open it again") from e
        arrived_ns = self._host_clock()
        usable = np.isfinite(stamps_s) & (np.abs(stamps_s) < _MAX_TIME_S)
        time_ns = np.rint(np.where(usable, stamps_s, 0.0) * NS_PER_S).astype(np.int64)
        first_ns = int(time_ns[usable][0]) if usable.any() else None
        if first_ns is not None and self._last_ns is not None and first_ns < self._last_ns - _RESTART_NS:
            self._boot_id += 1
            self._last_ns = None
        usable &= _increasing(time_ns, usable, self._last_ns)
        self.dropped += int(usable.size - usable.sum())
        if not usable.any():
            return None
        time_ns = time_ns[usable]
        values, valid = self._map.to_si(rows[usable])
        lost = self._missing(time_ns)
        self._last_ns = int(time_ns[-1])
        return ImuChunk(
            sensor=self.spec.name,
            device_time_ns=time_ns,
            values=values,
            valid=valid,
            saturated=np.zeros_like(valid),  # LSL has no word for the end of a range
            interval_ns=self._interval_ns,
            lost=lost,
            boot_id=self._boot_id,
            host_time_ns=arrived_ns,
        )

    def _missing(self, time_ns: NDArray[np.int64]) -> int:
        """Count samples missing up to the last: only where a step is wide, as stamps may jitter, and on the whole."""
        before = time_ns[:1] if self._last_ns is None else np.array([self._last_ns])
        steps = np.diff(np.concatenate((before, time_ns)))
        if steps.max() <= 1.5 * self._interval_ns:
            return 0
        n = time_ns.size - (self._last_ns is None)
        return max(0, round(int(steps.sum()) / self._interval_ns) - n)


def _increasing(time_ns: NDArray[np.int64], usable: NDArray[np.bool_], last_ns: int | None) -> NDArray[np.bool_]:
    """Return which stamps are later than all usable ones before them."""
    least = np.iinfo(np.int64).min
    latest = np.maximum.accumulate(np.where(usable, time_ns, least))
    before = np.concatenate(([least if last_ns is None else last_ns], latest[:-1]))
    later: NDArray[np.bool_] = time_ns > np.maximum(before, before[0])
    return later


class _Outlet:
    """A stream of ours; its times are host times."""

    def __init__(self, info: Any) -> None:
        lsl = _pylsl()
        self._outlet = lsl.StreamOutlet(info)
        # LSL's clock and ours are both monotonic; on some systems they start at different times
        self._offset_s = lsl.local_clock() - time.monotonic_ns() / NS_PER_S

    @property
    def has_consumers(self) -> bool:
        """Whether anybody listens."""
        return bool(self._outlet.have_consumers())

    def wait_for_consumers(self, *, timeout_s: float) -> bool:
        """Wait until somebody listens; what is sent before reaches nobody."""
        return bool(self._outlet.wait_for_consumers(timeout_s))


class SampleOutlet(_Outlet):
    """Samples of one sensor as a stream that says its labels and units.

    Parameters
    ----------
    spec
        The sensor.
    rate_hz
        Nominal.
    source_id
        Tells it from others, and lets listeners find it again after a restart.
    name
        Of the stream; the sensor's when None.
    """

    def __init__(self, spec: SensorSpec, *, rate_hz: float, source_id: str, name: str | None = None) -> None:
        lsl = _pylsl()
        period_ns(rate_hz)  # checks it
        info = lsl.StreamInfo(name or spec.name, "IMU", spec.n_channels, rate_hz, "float32", source_id)
        quantities = [quantity_of(channel) for channel in spec.channels]
        info.set_channel_labels(list(spec.channels))
        info.set_channel_types([q.name for q in quantities])
        info.set_channel_units([UNIT_OF[q] for q in quantities])
        super().__init__(info)
        self._spec = spec

    def push(self, chunk: ImuChunk, host_time_ns: NDArray[np.int64]) -> None:
        """Send a chunk; what is not valid is sent as NaN.

        Parameters
        ----------
        chunk
            Of this sensor.
        host_time_ns : (n,) int64
            When its samples were measured, in the host's monotonic time: what the clock map says.

        Raises
        ------
        SignalError
            It is of another sensor, or has other channels or another number of times.
        """
        if chunk.sensor != self._spec.name or chunk.values.shape[1] != self._spec.n_channels:
            raise SignalError(f"LSL stream {self._spec.name}: got a chunk of {chunk.sensor}, {chunk.values.shape}")
        if host_time_ns.shape != (len(chunk),):
            raise SignalError(f"LSL stream {self._spec.name}: {len(chunk)} samples but {host_time_ns.shape} times")
        if not len(chunk):
            return
        rows = np.where(chunk.valid, chunk.values, np.float32(np.nan))
        self._outlet.push_chunk(rows, (host_time_ns / NS_PER_S + self._offset_s).tolist())


class VerdictOutlet(_Outlet):
    """Verdicts as JSON text, one a sample, at irregular times.

    Parameters
    ----------
    name
        Of the stream.
    source_id
        Tells it from others.
    """

    def __init__(self, name: str, *, source_id: str) -> None:
        lsl = _pylsl()
        info = lsl.StreamInfo(name, "Markers", 1, lsl.IRREGULAR_RATE, "string", source_id)
        info.set_channel_labels(["verdict"])
        info.set_channel_types(["application/json"])
        super().__init__(info)
        self._name = name

    def push(self, verdict: Mapping[str, Any], host_time_ns: int) -> None:
        """Send a verdict, stamped with the host time of what it is about.

        Raises
        ------
        SignalError
            It has no JSON form.
        """
        try:
            text = canonical_json(dict(verdict)).decode()
        except (TypeError, ValueError, RecursionError) as e:
            raise SignalError(f"LSL stream {self._name}: a verdict has no JSON form ({e})") from e
        self._outlet.push_sample([text], host_time_ns / NS_PER_S + self._offset_s)
