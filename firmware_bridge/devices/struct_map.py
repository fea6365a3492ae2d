"""Any board that sends fixed packets, described in a TOML file instead of code.

    name = "bench_esp32"
    rate_hz = 100
    packet_bytes = 68
    samples_per_packet = 5
    samples_at = 6                     # offset of the first sample
    sample_bytes = 12                  # from one sample to the next
    endian = "little"

    [sequence]                         # optional: numbers packets, or samples
    at = 2
    type = "u8"

    [time]                             # optional: device clock of the first or last sample
    at = 3
    type = "u32"
    unit = "us"

    [checksum]                         # optional
    kind = "sum8"                      # over all bytes before it

    [[channels]]                       # offsets within a sample; x, y, z of acc and gyr, in any order
    name = "acc_x"
    at = 0
    type = "i16"
    scale = 0.000244140625             # value = scale * (raw - zero)
    unit = "g"
    full_scale = 8

    [serial]
    header = "a5 5a"                   # how every packet begins

    [ble]
    notify = "0000fff1-0000-1000-8000-00805f9b34fb"
    name = "Bench-"                    # how the advertised name begins
    start = [{ channel = "0000fff2-0000-1000-8000-00805f9b34fb", data = "01" }]

Without ``checksum``, a serial packet is used once the next begins where it ends: only then nothing is missing in it.
Without ``time``, samples are counted (by ``sequence``, where there is one) and held to the host clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.config import load_toml
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Advertisement, Command, SessionConfig
from kinedge.firmware_bridge.devices._common import QueueSession, check_options, require_transport, samples_in_range
from kinedge.firmware_bridge.devices._struct_layout import PacketLayout, StructMap
from kinedge.firmware_bridge.devices._timing import CountClock, Samples, StampClock, Unwrapper, spread_back
from kinedge.units import NS_PER_S, period_ns

__all__ = ["StructMap", "StructMapDriver", "StructMapSession"]

_CONFIRMATIONS: Final = 3
_MAX_STAMP_NS: Final = 1 << 62


class _Placed(NamedTuple):
    """When the samples of a packet were taken."""

    last_ns: int
    spacing_ns: float
    lost: int
    boot_id: int


class StructMapDriver:
    """A family made of one description.

    Raises
    ------
    ConfigError
        The description contradicts itself.
    """

    def __init__(self, description: StructMap) -> None:
        self.description = description
        self.layout = PacketLayout(description)
        self.name = description.name
        ways = {"ble": description.ble, "serial": description.serial}
        self.transports = frozenset(way for way, described in ways.items() if described is not None)

    @classmethod
    def from_toml(cls, path: Path) -> StructMapDriver:
        """Read a description.

        Raises
        ------
        ConfigError
            The file cannot be read, or what it says cannot be; the message says where.
        """
        return cls(load_toml(path, StructMap))

    def recognise(self, advertisement: Advertisement) -> bool:
        """By the start of the name, or the service, that the description gives."""
        ble = self.description.ble
        if ble is None:
            return False
        named = bool(ble.name) and advertisement.name.startswith(ble.name)
        return named or (ble.service is not None and ble.service in advertisement.service_uuids)

    def recognise_serial(self, data: bytes) -> bool:
        """Whether there are two packets in a row; one is enough where there is a checksum."""
        serial, size = self.description.serial, self.layout.size
        if serial is None:
            return False
        header = bytes.fromhex(serial.header)
        at = data.find(header)
        while at >= 0:
            packet, behind = data[at : at + size], data[at + size : at + 2 * size]
            if len(packet) == size and self.layout.is_intact(packet):
                if self.description.checksum is not None:
                    return True
                if len(behind) == size and behind.startswith(header):
                    return True
            at = data.find(header, at + 1)
        return False

    def serial_probe(self) -> bytes:
        """Return what the description says makes the board speak."""
        serial = self.description.serial
        return b"" if serial is None else b"".join(bytes.fromhex(step.data) for step in serial.start)

    def open(self, config: SessionConfig, *, transport: str) -> StructMapSession:
        """Start a session.

        Raises
        ------
        ConfigError
            There are options, or the description has not this transport.
        """
        require_transport(self.name, transport, self.transports)
        return StructMapSession(self, config, transport=transport)


class StructMapSession(QueueSession):
    """One board; its rate is the described one, whatever is asked."""

    def __init__(self, driver: StructMapDriver, config: SessionConfig, *, transport: str) -> None:
        check_options(driver.name, config.options, {})
        description = driver.description
        self._description, self._layout = description, driver.layout
        self._serial = description.serial if transport == "serial" else None
        self._ble = description.ble if transport == "ble" else None
        self._header = b"" if self._serial is None else bytes.fromhex(self._serial.header)
        self.subscriptions = () if self._ble is None else (self._ble.notify,)
        super().__init__(
            config,
            channels=self._layout.channels,
            rate_hz=description.rate_hz,
            doubtful="check scale, unit and order in the description of the board",
        )
        self._buffer = b""
        self._places = _Places(description)

    def start_commands(self) -> Sequence[Command]:
        """Return what the description says."""
        return self._commands_of("start")

    def stop_commands(self) -> Sequence[Command]:
        """Return what the description says."""
        return self._commands_of("stop")

    def link_reopened(self) -> None:
        """Forget the half packet."""
        super().link_reopened()
        self._buffer = b""

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in a notification, or what a serial port returned."""
        if self._ble is not None:
            self.counters["packets"] += 1
            if channel != self._ble.notify:
                self.reject(f"{self._description.name}: nothing is expected on {channel}")
            elif len(data) != self._layout.size or not self._layout.is_intact(data):
                self.reject(
                    f"{self._description.name}: expected an intact packet of {self._layout.size} bytes, got {len(data)}"
                )
            else:
                self._receive_packets([data], host_time_ns)
        elif channel == SERIAL_CHANNEL:
            self._receive_packets(self._split(data), host_time_ns)

    def _commands_of(self, when: Literal["start", "stop"]) -> tuple[Command, ...]:
        way = self._ble or self._serial
        if way is None:
            return ()
        return tuple(
            Command(
                step.channel or SERIAL_CHANNEL, bytes.fromhex(step.data), response=step.response, pause_s=step.pause_s
            )
            for step in (way.start if when == "start" else way.stop)
        )

    def _split(self, data: bytes) -> list[bytes]:
        """Take whole packets out of the serial stream; a header with no intact packet behind is passed over."""
        if self._serial is None:
            return []
        header, size = self._header, self._layout.size
        lookahead = len(header) if self._description.checksum is None else 0
        buffer = self._buffer + data
        packets = []
        at = 0
        while True:
            start = buffer.find(header, at)
            if start < 0:  # its first bytes may be the last ones here
                start = len(buffer) - next((k for k in range(len(header) - 1, 0, -1) if buffer.endswith(header[:k])), 0)
            if start > at:
                self.counters["bytes_skipped"] += start - at
            at = start
            if len(buffer) - at < size + lookahead:
                break
            packet = buffer[at : at + size]
            if self._layout.is_intact(packet) and buffer.startswith(header[:lookahead], at + size):
                packets.append(packet)
                at += size
            else:
                self.reject(f"{self._description.name}: a packet is damaged")
                at += 1
                self.counters["bytes_skipped"] += 1
        self._buffer = buffer[at:]  # less than a packet and a header
        self.counters["packets"] += len(packets)
        return packets

    def _receive_packets(self, packets: Sequence[bytes], host_time_ns: int | None) -> None:
        """Deliver packets that arrived together, those that follow one another as one chunk."""
        if not packets:
            return
        fields, values, valid = self._layout.decode(packets)
        run: list[tuple[int, _Placed]] = []
        for i in range(len(packets)):
            placed = self._places.place(fields[i], host_time_ns)
            if placed is None:
                continue
            if run and run[-1][1].boot_id != placed.boot_id:
                self._deliver_run(run, values, valid, host_time_ns)
                run = []
            run.append((i, placed))
        if run:
            self._deliver_run(run, values, valid, host_time_ns)
        self.counters["duplicates"] = self._places.repeated
        self.counters["implausible"] = self._places.implausible

    def _deliver_run(
        self,
        run: Sequence[tuple[int, _Placed]],
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
        host_time_ns: int | None,
    ) -> None:
        rows, channels = [i for i, _ in run], self._layout.channels
        last_ns = np.array([[placed.last_ns] for _, placed in run], np.int64)
        spacing_ns = np.array([[placed.spacing_ns] for _, placed in run])
        found = samples_in_range(
            spread_back(last_ns, spacing_ns, self._description.samples_per_packet).reshape(-1),
            values[rows].reshape(-1, len(channels)),
            channels,
            full_scale=self._layout.full_scale,
        )
        ok = found.valid & valid[rows].reshape(found.valid.shape)
        samples = Samples(found.device_time_ns, np.where(ok, found.values, np.float32(0)), ok, found.saturated & ok)
        self.deliver(
            samples,
            lost=sum(placed.lost for _, placed in run),
            boot_id=run[-1][1].boot_id,
            host_time_ns=host_time_ns,
        )


class _Places:
    """Times and loss of packets, from what the description has of clock and sequence."""

    def __init__(self, described: StructMap) -> None:
        self._n = described.samples_per_packet
        self._time = described.time
        interval_ns = period_ns(described.rate_hz)
        self._stamps = StampClock(interval_ns=interval_ns)
        self._stamp = Unwrapper(bits=64 if described.time is None else int(described.time.type[1:]))
        self._count = CountClock(interval_ns=interval_ns)
        self._sequence: _SequenceGaps | None = None
        if described.sequence is not None:
            samples_each = self._n if described.sequence.counts == "packets" else 1
            self._sequence = _SequenceGaps(
                bits=int(described.sequence.type[1:]), step=self._n // samples_each, samples_each=samples_each
            )

    @property
    def repeated(self) -> int:
        """Samples that came again."""
        return self._stamps.repeated + (self._n * self._sequence.repeated if self._sequence is not None else 0)

    @property
    def implausible(self) -> int:
        """Samples whose time cannot be."""
        return self._stamps.implausible

    def place(self, packet: np.void, host_time_ns: int | None) -> _Placed | None:
        """Return None when the packet is not to be used."""
        if self._time is None:
            missing = 0 if self._sequence is None else self._sequence.missing(int(packet["sequence"]))
            if missing is None:
                return None
            device_time_ns, lost = self._count.place(self._n, host_time_ns=host_time_ns, missing=missing)
            return _Placed(int(device_time_ns[-1]), self._count.interval_ns, lost, 0)
        clock, hz = self._stamps, self._time.hz
        ticks = self._stamp.unwrap(int(packet["time"]), elapsed=clock.elapsed_ns(host_time_ns) * hz // NS_PER_S)
        stamp_ns = ticks * NS_PER_S // hz
        if abs(stamp_ns) > _MAX_STAMP_NS:
            self._stamp.reset()
            clock.implausible += self._n
            return None
        boot_id = clock.boot_id
        if self._time.of == "first":
            stamp_ns += round((self._n - 1) * clock.interval_ns)
        admitted = clock.admit_last(stamp_ns, self._n, host_time_ns=host_time_ns)
        if admitted is None:
            return None
        spacing_ns, lost = admitted
        if self._sequence is not None:
            restarted = clock.boot_id != boot_id
            by_number = self._sequence.missing_near(int(packet["sequence"]), None if restarted else lost)
            lost = lost if restarted else by_number
        return _Placed(stamp_ns, spacing_ns, lost, clock.boot_id)


class _SequenceGaps:
    """Samples missing by a number that wraps; packets up to half a wrap back are repetitions.

    Where a board restarts, its numbers may seem to step back: three packets in a row that continue one another are
    believed.
    """

    def __init__(self, *, bits: int, step: int, samples_each: int) -> None:
        self.repeated = 0
        self._wrap = 1 << bits
        self._step = step
        self._samples_each = samples_each
        self._next: int | None = None
        self._suspect_next = -1
        self._suspected = 0

    def missing(self, number: int) -> int | None:
        """Return the samples missing before a packet; None for a repetition."""
        gap = 0 if self._next is None else (number - self._next) % self._wrap
        if gap >= self._wrap // 2:
            self._suspected = self._suspected + 1 if number == self._suspect_next else 1
            self._suspect_next = (number + self._step) % self._wrap
            if self._suspected < _CONFIRMATIONS:
                self.repeated += 1
                return None
            gap = 0
        self._suspected = 0
        self._next = (number + self._step) % self._wrap
        return gap * self._samples_each

    def missing_near(self, number: int, lost_by_time: int | None) -> int:
        """Return the samples missing, with as many wraps as bring it nearest to the loss by time.

        ``lost_by_time`` None is a board that restarted: 0.
        """
        gap = 0
        if self._next is not None and lost_by_time is not None:
            gap = (number - self._next) % self._wrap * self._samples_each
            wrap = self._wrap * self._samples_each
            gap = max(gap + wrap * round((lost_by_time - gap) / wrap), 0)
        self._next = (number + self._step) % self._wrap
        return gap
