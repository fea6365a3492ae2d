"""Bytes of the reference protocol to events, sans-IO: ``receive_data`` stores, ``next_event`` decodes.

Whatever the bytes, neither raises: what cannot be decoded is counted in ``counters``, and every sample of a
described stream is either delivered, or counted as lost before the next one that is.

SAMPLES do not say of which boot they are. Where the device may have started anew (the link was reopened, or its
counter is far behind) they wait for the next HELLO, which does: up to 10 s of them, then they are taken as they are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

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
from kinedge.units import NS_PER_S

__all__ = ["DecoderCounters", "Event", "HelloReceived", "StatusReceived", "TimeSyncReceived", "WireDecoder"]

_SAMPLES: Final = VERSION << 4 | PacketType.SAMPLES
_HEADER: Final = SAMPLES_HEADER.size
_COUNT_AT: Final = _HEADER - 2
_FLAGS_AT: Final = _HEADER - 1
_MAX_PACKETS_PER_CHUNK: Final = 1024
_PAYLOAD_OVERHEAD: Final = 64
_MAX_LAYOUTS: Final = 8
_LONG_RUN: Final = 8  # from here on arrays are faster than numbers
_FAR_BEHIND_NS: Final = NS_PER_S  # and three packets: no copy and no late packet comes from there
_MAX_HELD_NS: Final = 10 * NS_PER_S
_MAX_HELD: Final = 1 << 14  # packets
_ASK_EVERY_NS: Final = NS_PER_S // 2
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
        Samples before the first HELLO of their stream, or of a boot that no HELLO has named for certain.
    overflows
        Packets before which the device itself dropped samples.
    hello_due
        Times to ask for a HELLO, as samples wait for one: at first, and about every 0.5 s.
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
    hello_due: int = 0
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
        self.index = np.arange(n, dtype=np.int64)
        self._elapsed_ns = self.index * hello.interval_ns
        self._interval_ns = hello.interval_ns

    def elapsed_ns(self, interval_ns: int) -> NDArray[np.int64]:
        """Return the (n,) times since the first sample; as a rule the same as for the packet before."""
        if interval_ns != self._interval_ns:
            self._interval_ns, self._elapsed_ns = interval_ns, self.index * interval_ns
        return self._elapsed_ns


class _Stream:
    """One described stream.

    Attributes
    ----------
    held
        Packets that wait for a HELLO, each with its host time; None when none need to.
    renamed
        Whether a HELLO of another boot has come meanwhile: the next packet will show whether they are of that one.
    confirmed
        Whether a HELLO has come since the last packet that was new: then this boot it is, however odd its counter.
    """

    def __init__(self, hello: Hello, timeline: Timeline) -> None:
        self.hello = hello
        self.timeline = timeline
        self.held: list[tuple[bytes, int | None]] | None = None
        self.n_held = 0  # samples
        self.renamed = False
        self.confirmed = False
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
        """Forget a half-received frame: the port was lost and is open again, and the device may have been restarted."""
        if self._splitter is not None:
            self._splitter.reset()
        while self._backlog:  # came before
            self._decode_read(self._backlog.popleft())
        self._backlog_bytes = 0
        for stream in self._streams.values():
            if stream.renamed:  # the packet that would have shown of which boot they are may be of yet another one
                self.counters.undescribed += stream.n_held
                stream.held, stream.n_held, stream.renamed = [], 0, False
            stream.held = stream.held or []

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
            if not self._streams[packet.stream_id].renamed:
                self._release(packet.stream_id)
        elif isinstance(packet, Status):
            self._events.append(StatusReceived(packet, host_time_ns))
        elif isinstance(packet, TimeSync) and packet.is_response:
            self._events.append(TimeSyncReceived(packet, host_time_ns))

    def _describe(self, hello: Hello) -> None:
        before = self._streams.get(hello.stream_id)
        if before is not None and before.hello == hello:
            return
        for stream_id in [i for i, s in self._streams.items() if s.hello.sensor == hello.sensor and s is not before]:
            moved = self._streams.pop(stream_id)  # the sensor moved to another stream id
            self.counters.undescribed += moved.n_held
        timeline = Timeline() if before is None else before.timeline
        if before is None or (before.hello.boot_id, before.hello.serial) != (hello.boot_id, hello.serial):
            timeline.restart()
        stream = self._streams[hello.stream_id] = _Stream(hello, timeline)
        if before is not None:
            stream.held, stream.n_held = before.held, before.n_held
            stream.renamed = bool(before.held) and not timeline.begun

    def _reject(self, why: str, *, n: int = 1) -> None:
        self.counters.malformed += n
        self.last_error = why

    def _hold(self, stream_id: int, stream: _Stream, run: list[bytes], host_time_ns: int | None) -> None:
        """Let packets wait for a HELLO, but not for ever."""
        stream.held = stream.held or []
        stream.held += [(payload, host_time_ns) for payload in run]
        interval_ns, n_before = stream.hello.interval_ns, stream.n_held
        stream.n_held += sum(payload[_COUNT_AT] for payload in run)
        if not n_before or stream.n_held * interval_ns // _ASK_EVERY_NS > n_before * interval_ns // _ASK_EVERY_NS:
            self.counters.hello_due += 1
        if stream.renamed or stream.n_held * interval_ns > _MAX_HELD_NS or len(stream.held) > _MAX_HELD:
            self._release(stream_id)

    def _release(self, stream_id: int) -> None:
        """Decode what waited for a HELLO, or has waited long enough."""
        stream = self._streams[stream_id]
        if stream.held is None:
            return
        held, n_held = stream.held, stream.n_held
        if stream.renamed:
            held = _of_last_boot(held, stream.hello)
            self.counters.undescribed += n_held - sum(payload[_COUNT_AT] for payload, _ in held)
        stream.held, stream.n_held, stream.renamed, stream.confirmed = None, 0, False, True
        for payload, host_time_ns in held:
            self._decode_samples(stream_id, [payload], host_time_ns)

    def _decode_samples(self, stream_id: int, run: list[bytes], host_time_ns: int | None) -> None:
        """Decode packets of one stream and one length."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self.counters.undescribed += sum(payload[_COUNT_AT] for payload in run)
            return
        if stream.held is not None:
            self._hold(stream_id, stream, run, host_time_ns)
            return
        n, rest = divmod(len(run[0]) - _HEADER, 2 * stream.n_channels)
        if rest or not 1 <= n <= 255:
            self._reject(f"SAMPLES: {len(run[0])} bytes do not fit {stream.n_channels} channels", n=len(run))
            return
        layout = stream.layout(n)
        times = _pass_run(stream, layout, run) if len(run) >= _LONG_RUN else None
        if times is not None:
            stream.confirmed = False
            self._deliver(stream, layout, run, times, lost=0, host_time_ns=host_time_ns)
            return
        n_judged = self._judge(stream, layout, run, host_time_ns)
        if n_judged < len(run):
            self._hold(stream_id, stream, run[n_judged:], host_time_ns)

    def _judge(self, stream: _Stream, layout: _Layout, run: list[bytes], host_time_ns: int | None) -> int:
        """Decode packets of which any may be odd; return how many, up to one that may be of another boot."""
        counters, timeline, nominal, n = self.counters, stream.timeline, stream.hello.interval_ns, len(layout.index)
        before = timeline.repeated, timeline.implausible, timeline.resets
        far_behind_ns = _FAR_BEHIND_NS + 3 * n * nominal
        kept, times, lost, n_judged = [], [], 0, len(run)
        for i, payload in enumerate(run):
            _, _, sequence, t_us, interval_ns, count, _ = SAMPLES_HEADER.unpack_from(payload)
            if count != n:
                self._reject(f"SAMPLES: the count does not fit {n} samples")
            elif not 3 * nominal <= 4 * interval_ns <= 5 * nominal or t_us > MAX_T_US:
                counters.implausible += 1
            elif (
                not stream.confirmed and timeline.missing(sequence, t_us * 1000, interval_ns) * nominal < -far_behind_ns
            ):
                n_judged = i
                break
            elif (missing := timeline.admit(sequence, t_us * 1000, interval_ns, n=n)) is not None:
                stream.confirmed = False
                kept.append(payload)
                times.append(layout.elapsed_ns(interval_ns) + t_us * 1000)
                lost += missing
        counters.duplicates += timeline.repeated - before[0]
        counters.implausible += timeline.implausible - before[1]
        counters.timeline_resets += timeline.resets - before[2]
        if kept:
            all_times = times[0] if len(times) == 1 else np.concatenate(times)
            self._deliver(stream, layout, kept, all_times, lost=lost, host_time_ns=host_time_ns)
        return n_judged

    def _deliver(
        self,
        stream: _Stream,
        layout: _Layout,
        packets: list[bytes],
        times: NDArray[np.int64],
        *,
        lost: int,
        host_time_ns: int | None,
    ) -> None:
        joined = b"".join(packets)
        counts = np.ascontiguousarray(np.frombuffer(joined, dtype=layout.dtype)["counts"])
        valid = counts != INVALID_COUNT
        # -32768 has no magnitude in int16 and stays negative: an invalid sample is never saturated.
        saturated = np.abs(counts) >= layout.saturation_counts
        flag_bytes = joined[_FLAGS_AT :: len(packets[0])]
        if flag_bytes.strip(b"\0"):
            flags = np.frombuffer(flag_bytes, np.uint8)
            self.counters.overflows += int(np.count_nonzero(flags & SampleFlags.OVERFLOWED))
            for flag, column in layout.columns.items():
                # The device says that this quantity clipped: where no count shows when, all of the packet is suspect.
                hidden = (flags & flag).astype(bool) & ~saturated[:, column].any(axis=1)
                saturated |= hidden[:, None] & column & valid
        shape = (len(times), stream.n_channels)
        self.counters.samples += len(times)
        self.counters.lost += lost
        self._events.append(
            ImuChunk(
                stream.hello.sensor,
                times,
                np.multiply(counts, layout.scales, dtype=np.float32).reshape(shape),
                valid.reshape(shape),
                saturated.reshape(shape),
                stream.hello.interval_ns,
                lost,
                stream.hello.boot_id,
                host_time_ns,
            )
        )


def _pass_run(stream: _Stream, layout: _Layout, run: list[bytes]) -> NDArray[np.int64] | None:
    """Return the times of all samples if no packet is odd; else None, and nothing has changed."""
    packets = np.frombuffer(b"".join(run), dtype=layout.dtype)
    nominal, interval_ns, n = stream.hello.interval_ns, packets["interval_ns"].astype(np.int64), len(layout.index)
    if (
        (packets["count"] != n).any()
        or 4 * int(interval_ns.min()) < 3 * nominal
        or 4 * int(interval_ns.max()) > 5 * nominal
        or int(packets["t_us"].max()) > MAX_T_US
    ):
        return None
    start_ns = packets["t_us"].astype(np.int64) * 1000
    if not stream.timeline.admit_run(packets["sequence"].astype(np.int64), start_ns, interval_ns, n=n):
        return None
    times: NDArray[np.int64] = start_ns[:, None] + interval_ns[:, None] * layout.index
    return times.reshape(-1)


def _of_last_boot(held: list[tuple[bytes, int | None]], hello: Hello) -> list[tuple[bytes, int | None]]:
    """Leave out packets before the clock went back: they are of a boot that no HELLO has named."""
    first, last_ns = 0, 0
    for i, (payload, _) in enumerate(held):
        _, _, _, t_us, _, n, _ = SAMPLES_HEADER.unpack_from(payload)
        if t_us * 1000 < last_ns - 3 * n * hello.interval_ns:
            first = i
        last_ns = t_us * 1000
    return held[first:]
