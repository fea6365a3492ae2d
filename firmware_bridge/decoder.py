"""Bytes of the reference protocol to events, sans-IO: ``receive_data`` stores, ``next_event`` decodes.

Whatever the bytes, neither raises: what cannot be decoded is counted in ``counters``, and every sample of a
described stream is either delivered, or counted as lost before the next one that is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import ProtocolError
from kinedge.firmware_bridge.framing import FrameCounters, FrameSplitter
from kinedge.firmware_bridge.packets import (
    INVALID_COUNT,
    SAMPLES_HEADER,
    VERSION,
    Hello,
    PacketType,
    SampleFlags,
    Status,
    TimeSync,
    parse_packet,
)
from kinedge.firmware_bridge.timeline import MAX_T_US, Timeline
from kinedge.signals import ImuChunk, Quantity

__all__ = ["DecoderCounters", "Event", "HelloReceived", "StatusReceived", "TimeSyncReceived", "WireDecoder"]

_SAMPLES: Final = VERSION << 4 | PacketType.SAMPLES
_HEADER: Final = SAMPLES_HEADER.size
_COUNT_AT: Final = _HEADER - 2
_MAX_PACKETS_PER_CHUNK: Final = 1024
_PAYLOAD_OVERHEAD: Final = 64
_MAX_LAYOUTS: Final = 8
_FLAG_OF: Final = {Quantity.ACC: SampleFlags.ACC_CLIPPED, Quantity.GYR: SampleFlags.GYR_CLIPPED}


@dataclass(frozen=True)
class HelloReceived:
    """A device described a stream: at its start, when asked, and every 2 s."""

    hello: Hello
    host_time_ns: int | None


@dataclass(frozen=True)
class StatusReceived:
    """A device said how it fares."""

    status: Status
    host_time_ns: int | None


@dataclass(frozen=True)
class TimeSyncReceived:
    """A device answered a time request; ``host_time_ns`` is the fourth time stamp."""

    time_sync: TimeSync
    host_time_ns: int | None


Event: TypeAlias = HelloReceived | StatusReceived | TimeSyncReceived | ImuChunk


@dataclass
class DecoderCounters(FrameCounters):
    """What a decoder saw, and what became of it.

    Parameters
    ----------
    malformed
        Packets that are none of this protocol, or do not fit the description of their stream.
    implausible
        SAMPLES packets with an impossible interval or time stamp; their samples count as lost.
    samples
        Samples delivered.
    lost
        Samples that should have come before the last one delivered, and did not.
    duplicates
        Samples that came again, or so late that they were already counted as lost.
    undescribed
        Samples before the first HELLO of their stream.
    overflows
        Packets before which the device itself dropped samples.
    timeline_resets
        Times that a stream went on far from where it was, without a new boot id.
    backlog_dropped
        Packets dropped because nobody fetched the events; their samples count as lost.
    """

    malformed: int = 0
    implausible: int = 0
    samples: int = 0
    lost: int = 0
    duplicates: int = 0
    undescribed: int = 0
    overflows: int = 0
    timeline_resets: int = 0
    backlog_dropped: int = 0


@dataclass
class _Read:
    """Payloads that arrived at one host time."""

    host_time_ns: int | None
    payloads: list[bytes] = field(default_factory=list)
    n_bytes: int = 0


class _Layout:
    """How the packets of a stream with ``n`` samples each are read; one row of counts is one packet."""

    def __init__(self, hello: Hello, n: int) -> None:
        self.dtype = np.dtype(
            [
                ("first", "u1"),
                ("stream_id", "u1"),
                ("sequence", "<u2"),
                ("t_us", "<u8"),
                ("interval_ns", "<u4"),
                ("count", "u1"),
                ("flags", "u1"),
                ("counts", "<i2", (n * len(hello.channels),)),
            ]
        )
        self.scales = np.tile(hello.scales, n)
        self.saturation_counts = np.tile(hello.saturation_counts, n)
        self.columns = {
            flag: np.tile([channel.quantity is quantity for channel in hello.channels], n)
            for quantity, flag in _FLAG_OF.items()
        }
        self.offsets = np.arange(n, dtype=np.int64)


class _Stream:
    """One described stream."""

    def __init__(self, hello: Hello, timeline: Timeline) -> None:
        self.hello = hello
        self.timeline = timeline
        self.n_channels = len(hello.channels)
        self._layouts: dict[int, _Layout] = {}

    def layout(self, n: int) -> _Layout:
        layout = self._layouts.get(n)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[n] = _Layout(self.hello, n)
        return layout


class WireDecoder:
    """Decoder of one link.

    Keep it over a reconnection: the gap is then counted, and a restart of the device is told from it.

    Parameters
    ----------
    framed
        True for a serial line (COBS frames in any chunking); False for BLE, where every call of
        ``receive_data`` brings one whole payload.
    max_backlog_bytes
        What may wait for ``next_event``; beyond it the oldest packets are dropped and counted.

    Attributes
    ----------
    counters
        What was seen so far.
    last_error
        What was wrong with the last malformed packet, for a person to read.
    """

    def __init__(self, *, framed: bool = True, max_backlog_bytes: int = 1 << 24) -> None:
        self.counters = DecoderCounters()
        self.last_error: str | None = None
        self._splitter = FrameSplitter(self.counters) if framed else None
        self._max_backlog_bytes = max_backlog_bytes
        self._backlog: deque[_Read] = deque()
        self._backlog_bytes = 0
        self._events: deque[Event] = deque()
        self._streams: dict[int, _Stream] = {}

    def receive_data(self, data: bytes, *, host_time_ns: int | None = None) -> None:
        """Take bytes in.

        Parameters
        ----------
        data
            What one read returned.
        host_time_ns
            Monotonic host clock at that read; None in a replay without arrival times.
        """
        if self._splitter is not None:
            payloads = self._splitter.feed(data)
        else:
            payloads = [data] if data else []
            self.counters.frames += len(payloads)
        for start in range(0, len(payloads), _MAX_PACKETS_PER_CHUNK):
            self._enqueue(payloads[start : start + _MAX_PACKETS_PER_CHUNK], host_time_ns)
        while self._backlog_bytes > self._max_backlog_bytes:
            dropped = self._backlog.popleft()
            self._backlog_bytes -= dropped.n_bytes
            self.counters.backlog_dropped += len(dropped.payloads)

    def next_event(self) -> Event | None:
        """Return the next event, or None until more bytes come."""
        while not self._events and self._backlog:
            read = self._backlog.popleft()
            self._backlog_bytes -= read.n_bytes
            self._decode_read(read)
        return self._events.popleft() if self._events else None

    def link_reopened(self) -> None:
        """Forget a half-received frame: the port was lost and is open again."""
        if self._splitter is not None:
            self._splitter.reset()

    def _enqueue(self, payloads: list[bytes], host_time_ns: int | None) -> None:
        read = self._backlog[-1] if self._backlog else None
        if (
            read is None
            or read.host_time_ns != host_time_ns
            or len(read.payloads) + len(payloads) > _MAX_PACKETS_PER_CHUNK
        ):
            read = _Read(host_time_ns)
            self._backlog.append(read)
        read.payloads += payloads
        n_bytes = sum(map(len, payloads)) + _PAYLOAD_OVERHEAD * len(payloads)
        read.n_bytes += n_bytes
        self._backlog_bytes += n_bytes

    def _decode_read(self, read: _Read) -> None:
        """Gather runs of like SAMPLES packets per stream; anything else first ends all runs."""
        runs: dict[int, list[bytes]] = {}
        for payload in read.payloads:
            if payload[0] == _SAMPLES and (length := len(payload)) > _HEADER:
                stream_id = payload[1]
                run = runs.get(stream_id)
                if run is not None and len(run[0]) == length:
                    run.append(payload)
                    continue
                if run is not None:
                    self._decode_samples(stream_id, run, read.host_time_ns)
                runs[stream_id] = [payload]
                continue
            for stream_id, run in runs.items():
                self._decode_samples(stream_id, run, read.host_time_ns)
            runs.clear()
            self._decode_other(payload, read.host_time_ns)
        for stream_id, run in runs.items():
            self._decode_samples(stream_id, run, read.host_time_ns)

    def _decode_other(self, payload: bytes, host_time_ns: int | None) -> None:
        try:
            packet = parse_packet(payload)
        except ProtocolError as error:
            self._reject(str(error))
            return
        if isinstance(packet, Hello):
            self._describe(packet)
            self._events.append(HelloReceived(packet, host_time_ns))
        elif isinstance(packet, Status):
            self._events.append(StatusReceived(packet, host_time_ns))
        elif isinstance(packet, TimeSync) and packet.is_response:
            self._events.append(TimeSyncReceived(packet, host_time_ns))

    def _describe(self, hello: Hello) -> None:
        before = self._streams.get(hello.stream_id)
        if before is not None and before.hello == hello:
            return
        for stream_id in [i for i, s in self._streams.items() if s.hello.sensor == hello.sensor and s is not before]:
            del self._streams[stream_id]  # the sensor moved to another stream id
        timeline = Timeline() if before is None else before.timeline
        if before is None or (before.hello.boot_id, before.hello.serial) != (hello.boot_id, hello.serial):
            timeline.restart()
        self._streams[hello.stream_id] = _Stream(hello, timeline)

    def _reject(self, why: str, *, n: int = 1) -> None:
        self.counters.malformed += n
        self.last_error = why

    def _decode_samples(self, stream_id: int, run: list[bytes], host_time_ns: int | None) -> None:
        """Decode packets of one stream and one length in one pass."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self.counters.undescribed += sum(payload[_COUNT_AT] for payload in run)
            return
        n, rest = divmod(len(run[0]) - _HEADER, 2 * stream.n_channels)
        if rest or not 1 <= n <= 255:
            self._reject(f"SAMPLES: {len(run[0])} bytes do not fit {stream.n_channels} channels", n=len(run))
            return
        layout = stream.layout(n)
        packets = np.frombuffer(b"".join(run), dtype=layout.dtype)
        fits = packets["count"] == n
        if not fits.all():
            self._reject(f"SAMPLES: the count does not fit {n} samples", n=int((~fits).sum()))
            packets = packets[fits]
        nominal = stream.hello.interval_ns
        interval = packets["interval_ns"].astype(np.int64)
        plausible = (4 * interval >= 3 * nominal) & (4 * interval <= 5 * nominal) & (packets["t_us"] <= MAX_T_US)
        if not plausible.all():
            self.counters.implausible += int((~plausible).sum())
            packets = packets[plausible]
        if len(packets):
            self._deliver(stream, layout, packets, host_time_ns)

    def _deliver(self, stream: _Stream, layout: _Layout, packets: NDArray[Any], host_time_ns: int | None) -> None:
        counters, timeline, n = self.counters, stream.timeline, len(layout.offsets)
        before = timeline.repeated, timeline.implausible, timeline.resets
        start_ns = packets["t_us"].astype(np.int64) * 1000
        interval_ns = packets["interval_ns"].astype(np.int64)
        kept, lost = timeline.admit(packets["sequence"].astype(np.int64), start_ns, interval_ns, n=n)
        counters.duplicates += timeline.repeated - before[0]
        counters.implausible += timeline.implausible - before[1]
        counters.timeline_resets += timeline.resets - before[2]
        if kept is not None:
            if not len(kept):
                return
            packets, start_ns, interval_ns = packets[kept], start_ns[kept], interval_ns[kept]
        counts = np.ascontiguousarray(packets["counts"])
        valid = counts != INVALID_COUNT
        # -32768 has no magnitude in int16 and stays negative: an invalid sample is never saturated.
        saturated = np.abs(counts) >= layout.saturation_counts
        flags = packets["flags"]
        if flags.any():
            counters.overflows += int(np.count_nonzero(flags & SampleFlags.OVERFLOWED))
            for flag, column in layout.columns.items():
                # The device says that this quantity clipped: where no count shows when, all of the packet is suspect.
                hidden = (flags & flag).astype(bool) & ~saturated[:, column].any(axis=1)
                saturated |= hidden[:, None] & column & valid
        shape = (len(packets) * n, stream.n_channels)
        counters.samples += shape[0]
        counters.lost += lost
        self._events.append(
            ImuChunk(
                stream.hello.sensor,
                (start_ns[:, None] + layout.offsets * interval_ns[:, None]).reshape(-1),
                np.multiply(counts, layout.scales, dtype=np.float32).reshape(shape),
                valid.reshape(shape),
                saturated.reshape(shape),
                stream.hello.interval_ns,
                lost,
                stream.hello.boot_id,
                host_time_ns,
            )
        )
