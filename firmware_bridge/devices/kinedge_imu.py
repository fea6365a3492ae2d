"""Devices that speak the reference protocol (see ``packets``): our firmware, and what others build with it.

Over BLE a device advertises the service below. Each notification of the data characteristic is one payload,
so a device keeps payloads to the MTU less 3; a payload written to the control characteristic is one from the
host. Over serial the same payloads are framed (see ``framing``).

    service  26ef0001-4d11-4aac-9fef-a9743db42cf7
    data     26ef0002-...  notify
    control  26ef0003-...  write, write without response

A device streams for as long as somebody listens: there is nothing to start or stop, and its rate and ranges are
its own. It says itself where it is worn; what is configured here rules, unless the option ``placement`` is
``device``, as it must be for a hub with several sensors behind one link.

Who a device is, its serial number says; where it is worn may be changed from day to day. When a serial line was lost
and is open again, what comes is held back until the device has said who it is: it may be another one, with other
scales and another place. The option ``serial_number`` names the one that is meant: when another says on the same open
line that it has taken its place, its samples are not used.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from kinedge.errors import ConfigError, ProtocolError, SignalError
from kinedge.firmware_bridge.decoder import HelloReceived, StatusReceived, TimeSyncReceived, WireDecoder
from kinedge.firmware_bridge.device import (
    SERIAL_CHANNEL,
    Advertisement,
    Battery,
    ClockExchange,
    Command,
    DeviceEvent,
    DeviceInfo,
    Doubt,
    SessionConfig,
)
from kinedge.firmware_bridge.devices._common import check_options, require_transport
from kinedge.firmware_bridge.framing import FrameSplitter, encode_frame
from kinedge.firmware_bridge.gravity import GravityCheck, feels_gravity
from kinedge.firmware_bridge.packets import (
    ALL_STREAMS,
    VERSION,
    Hello,
    HelloRequest,
    PacketType,
    TimeSync,
    parse_packet,
)
from kinedge.firmware_bridge.timeline import MAX_T_US
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import NS_PER_S, NS_PER_US

__all__ = ["CONTROL_UUID", "DATA_UUID", "SERVICE_UUID", "KinedgeDriver", "KinedgeSession"]

SERVICE_UUID: Final = "26ef0001-4d11-4aac-9fef-a9743db42cf7"
DATA_UUID: Final = "26ef0002-4d11-4aac-9fef-a9743db42cf7"
CONTROL_UUID: Final = "26ef0003-4d11-4aac-9fef-a9743db42cf7"

_OPTIONS: Final = {"placement": ("config", "device"), "serial_number": ()}
_MAX_HELD_BYTES: Final = 1 << 16
_HELLO: Final = bytes([VERSION << 4 | PacketType.HELLO])
_MAX_QUESTIONS: Final = 16
_MAX_DOUBTS: Final = 16


class KinedgeDriver:
    """The reference protocol over BLE and serial."""

    name = "kinedge"
    transports = frozenset({"ble", "serial"})
    bauds = (115_200, 921_600, 460_800, 230_400, 1_000_000, 9_600)

    def recognise(self, advertisement: Advertisement) -> bool:
        """Say whether the service is advertised."""
        return SERVICE_UUID in advertisement.service_uuids

    def recognise_serial(self, data: bytes) -> bool:
        """Say whether the bytes hold a whole packet with its CRC."""
        for payload in FrameSplitter().feed(data):
            try:
                parse_packet(payload)
            except ProtocolError:
                continue
            return True
        return False

    def serial_probe(self) -> bytes:
        """Ask who is there, whatever was on the line before; a device says it by itself every 2 s."""
        return b"\0" + encode_frame(HelloRequest().to_bytes())

    def identity_commands(self) -> Sequence[Command]:
        """Ask who is there."""
        return (Command(SERIAL_CHANNEL, self.serial_probe()),)

    def identities_in(self, data: bytes) -> Sequence[str]:
        """Return the serial numbers of the HELLOs."""
        return [hello.serial for hello in _hellos(FrameSplitter().feed(data))]

    def open(self, config: SessionConfig, *, transport: str) -> KinedgeSession:
        """Start a session.

        Parameters
        ----------
        config
            ``rate_hz`` is only a wish: the device has one rate, and ``DeviceInfo`` tells it.
            Option ``placement``: ``config`` (default) or ``device``. Option ``serial_number``: of the one device that
            is meant.
        transport
            ``ble`` or ``serial``.

        Raises
        ------
        ConfigError
            Another transport or option, a range (they are the device's own), or a sensor name that is none.
        """
        require_transport(self.name, transport, self.transports)
        check_options(self.name, config.options, _OPTIONS)
        if config.acc_range_g is not None or config.gyr_range_deg_s is not None:
            raise ConfigError("kinedge: the ranges are set in the firmware; leave acc_range_g and gyr_range_deg_s out")
        try:
            SensorSpec(config.sensor)
        except SignalError as error:
            raise ConfigError(f"kinedge: {error}") from error
        return KinedgeSession(config, framed=transport == "serial")


class KinedgeSession:
    """One link to a device, or to a hub of several.

    Parameters
    ----------
    config
        As for ``KinedgeDriver.open``.
    framed
        True on a serial line.
    """

    def __init__(self, config: SessionConfig, *, framed: bool) -> None:
        self.config = config
        self.subscriptions: Sequence[str] = () if framed else (DATA_UUID,)
        self._framed = framed
        self._decoder = WireDecoder(framed=framed)
        self._renamed = config.options.get("placement", "config") == "config"
        self._wanted = config.options.get("serial_number", "").casefold()
        self._impostor = False
        self._held: deque[tuple[bytes, int | None]] | None = None  # of a line that may have another device now
        self._held_bytes = 0
        self._scout = FrameSplitter()
        self._before = Counter[str]()  # counters of devices before
        self._streams: dict[int, Hello] = {}
        self._own_stream: int | None = None
        self._foreign = 0
        self._events: deque[DeviceEvent] = deque()
        self._commands: deque[Command] = deque()
        self._questions: dict[int, int] = {}
        self._sequence = 0
        self._doubts: set[str] = set()
        self._gravity: dict[str, GravityCheck] = {}  # by sensor
        self._greet()

    @property
    def counters(self) -> Mapping[str, int]:
        """What was seen so far: those of ``DecoderCounters``, and ``foreign`` samples of a second sensor."""
        counted = self._counted()
        counted.update(self._before)
        counted["samples"] -= self._foreign
        counted["foreign"] = self._foreign
        return counted

    def _counted(self) -> Counter[str]:
        """What this decoder has seen."""
        seen = self._decoder.counters
        return Counter(
            packets=seen.frames + (0 if self._held is None else self._scout.counters.frames),
            samples=seen.samples,
            lost=seen.lost,
            duplicates=seen.duplicates,
            bad=seen.bad_crc + seen.bad_frame + seen.malformed + seen.implausible,
            undescribed=seen.undescribed,
            overflows=seen.overflows,
            timeline_resets=seen.timeline_resets,
            backlog_dropped=seen.backlog_dropped,
        )

    def next_command(self) -> Command | None:
        """Return the request to describe itself, once per connection."""
        return self._commands.popleft() if self._commands else None

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in a notification, or what a port returned; other channels are ignored."""
        if channel != (SERIAL_CHANNEL if self._framed else DATA_UUID):
            return
        if self._held is None:
            self._decoder.receive_data(data, host_time_ns=host_time_ns)
        else:
            self._hold(self._held, data, host_time_ns)

    def next_event(self) -> DeviceEvent | None:
        """Return the next event, or None until more bytes come."""
        while not self._events and self._decode_one():
            pass
        return self._events.popleft() if self._events else None

    def _decode_one(self) -> bool:
        """Take the next event of the decoder; False when there is none."""
        malformed, hello_due = self._decoder.counters.malformed, self._decoder.counters.hello_due
        event = self._decoder.next_event()
        if self._decoder.counters.hello_due != hello_due:
            self._greet()  # it may have started anew
        if self._decoder.counters.malformed != malformed:
            self._doubt(f"packets that cannot be read, such as this: {self._decoder.last_error}", key="malformed")
        if isinstance(event, ImuChunk):
            self._admit(event)
        elif isinstance(event, HelloReceived):
            self._meet(event.hello)
        elif isinstance(event, StatusReceived):
            status = event.status
            self._events.append(Battery(status.battery_percent, status.charging, status.temperature_c))
        elif event is not None:
            self._compare_clocks(event)
        return event is not None

    def stop_commands(self) -> Sequence[Command]:
        """Return nothing: a device stops when nobody listens."""
        return ()

    def link_reopened(self) -> None:
        """Forget a half-received frame, and ask again who is there; on a line, it may be another device."""
        self._decoder.link_reopened()
        if self._framed and self._streams:
            self._held, self._held_bytes = deque(), 0
            self._scout = FrameSplitter()
        self._doubts.clear()
        self._questions.clear()
        self._greet()

    def time_request(self, host_time_ns: int) -> Command | None:
        """Return a question about the clock; None until the device has described itself."""
        if not self._streams:
            return None
        self._sequence = (self._sequence + 1) % (1 << 16)
        self._questions[self._sequence] = host_time_ns
        if len(self._questions) > _MAX_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        request = TimeSync(ALL_STREAMS, self._sequence, host_time_ns // NS_PER_US)
        return self._command(request.to_bytes(), response=False)

    def _greet(self) -> None:
        self._commands.clear()
        self._commands.append(self._command(HelloRequest().to_bytes(), response=True))

    def _command(self, payload: bytes, *, response: bool) -> Command:
        if self._framed:
            return Command(SERIAL_CHANNEL, encode_frame(payload))
        return Command(CONTROL_UUID, payload, response=response)

    def _hold(self, held: deque[tuple[bytes, int | None]], data: bytes, host_time_ns: int | None) -> None:
        """Keep what arrives until a HELLO says whose it is; what is dropped, the sequence numbers tell."""
        held.append((data, host_time_ns))
        self._held_bytes += len(data)
        while self._held_bytes > _MAX_HELD_BYTES:
            self._held_bytes -= len(held.popleft()[0])
        hello = next(iter(_hellos(self._scout.feed(data))), None)
        if hello is None:
            return
        if hello.serial not in {known.serial for known in self._streams.values()}:
            self._say_replaced(hello)
            self._forget_device()
        self._held = None
        for part, at_ns in held:
            self._decoder.receive_data(part, host_time_ns=at_ns)

    def _forget_device(self) -> None:
        while self._decode_one():
            pass
        self._before.update(self._counted())
        self._decoder = WireDecoder(framed=self._framed)
        self._streams.clear()
        self._gravity.clear()
        self._own_stream = None

    def _say_replaced(self, hello: Hello) -> None:
        before = ", ".join(sorted({known.serial for known in self._streams.values()}))
        self._doubt(f"{hello.serial} answers now where {before} did; is serial_number configured?", key="replaced")

    def _meet(self, hello: Hello) -> None:
        known = self._streams.get(hello.stream_id)
        if known == hello:
            return
        if known is not None and known.serial != hello.serial:
            self._impostor = known.serial.casefold() == self._wanted
            self._say_replaced(hello)
        if hello.serial.casefold() == self._wanted:
            self._impostor = False
        for stream_id in [i for i, h in self._streams.items() if h.sensor == hello.sensor and h is not known]:
            del self._streams[stream_id]  # the sensor moved to another stream id
            if stream_id == self._own_stream:
                self._own_stream = hello.stream_id
        self._streams[hello.stream_id] = hello
        if self._own_stream is None:
            self._own_stream = hello.stream_id
        name = self._name_of(hello)
        if name is None:
            self._doubt(
                f"there is a second sensor behind this link, {hello.sensor}; it is not used without the option "
                "placement = device"
            )
            return
        if name != hello.sensor:
            self._doubt(f"the device says that it is worn as {hello.sensor}; {name} is configured, and rules")
        spec = replace(hello.spec, name=name)
        names = {self._name_of(known) for known in self._streams.values()}
        self._gravity = {sensor: check for sensor, check in self._gravity.items() if sensor in names}
        if feels_gravity(spec):
            self._gravity.setdefault(name, GravityCheck())
        self._events.append(DeviceInfo(spec, NS_PER_S / hello.interval_ns, serial=hello.serial))

    def _name_of(self, hello: Hello) -> str | None:
        """Return the name a stream goes by here; None for one that is not used."""
        if not self._renamed:
            return hello.sensor
        return self.config.sensor if hello.stream_id == self._own_stream else None

    def _admit(self, chunk: ImuChunk) -> None:
        if self._impostor:
            self._foreign += len(chunk)
        elif not self._renamed:
            self._give(chunk)
        elif self._own_stream is not None and chunk.sensor == self._streams[self._own_stream].sensor:
            same = chunk.sensor == self.config.sensor
            self._give(chunk if same else replace(chunk, sensor=self.config.sensor))
        else:
            self._foreign += len(chunk)

    def _give(self, chunk: ImuChunk) -> None:
        self._events.append(chunk)
        check = self._gravity.get(chunk.sensor)
        text = None if check is None else check.doubt(chunk.device_time_ns, chunk.values, chunk.valid)
        if text is not None:
            self._events.append(Doubt(f"{chunk.sensor}: {text}; check the scale that the device tells"))

    def _compare_clocks(self, answer: TimeSyncReceived) -> None:
        sync = answer.time_sync
        hello = self._streams.get(sync.stream_id)
        asked_ns = self._questions.get(sync.sequence)
        if hello is None or asked_ns is None or answer.host_time_ns is None:
            return
        name = self._name_of(hello)
        if name is None or sync.t1_us != asked_ns // NS_PER_US or not sync.t2_us <= sync.t3_us <= MAX_T_US:
            return
        self._events.append(
            ClockExchange(name, asked_ns, sync.t2_us * NS_PER_US, sync.t3_us * NS_PER_US, answer.host_time_ns)
        )

    def _doubt(self, text: str, *, key: str | None = None) -> None:
        """Say something once per connection."""
        key = key or text
        if key not in self._doubts and len(self._doubts) < _MAX_DOUBTS:
            self._doubts.add(key)
            self._events.append(Doubt(f"{self.config.sensor}: {text}"))


def _hellos(payloads: Iterable[bytes]) -> Iterator[Hello]:
    for payload in payloads:
        if payload[:1] == _HELLO:
            with contextlib.suppress(ProtocolError):
                packet = parse_packet(payload)
                if isinstance(packet, Hello):
                    yield packet
