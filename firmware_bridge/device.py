"""What every device has in common: how it is recognised, what it is told, how its bytes become samples.

A *driver* knows one family of devices; it is stateless and found through ``kinedge.firmware_bridge.devices``. A
*session* is one connection to one device, sans-IO: the link writes what ``next_command`` returns, feeds what
arrives to ``receive_data`` with the channel it came on, and takes events. The same session runs over a real radio,
a virtual one, a pty or a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, runtime_checkable

from kinedge.signals import ImuChunk, SensorSpec

__all__ = [
    "SERIAL_CHANNEL",
    "Advertisement",
    "AsksTime",
    "Battery",
    "ChoosesCharacteristics",
    "ClockExchange",
    "Command",
    "DeviceEvent",
    "DeviceInfo",
    "Doubt",
    "Driver",
    "Session",
    "SessionConfig",
]

SERIAL_CHANNEL: Final = "serial"


@dataclass(frozen=True)
class Advertisement:
    """What a device says of itself before anybody connects.

    Parameters
    ----------
    address
        Of the radio; an identity for as long as the device keeps it.
    name
        Local name, empty when there is none.
    service_uuids
        Lower case, 128 bit.
    manufacturer_data
        By company id.
    rssi_dbm
        Signal strength, None when unknown.
    """

    address: str
    name: str = ""
    service_uuids: tuple[str, ...] = ()
    manufacturer_data: Mapping[int, bytes] = field(default_factory=dict)
    rssi_dbm: int | None = None


@dataclass(frozen=True)
class SessionConfig:
    """What is asked of a device.

    Parameters
    ----------
    sensor
        Where it is worn, such as ``wrist_left``.
    rate_hz
        Samples per second; the nearest rate that the device has is used, and told by ``DeviceInfo``.
    acc_range_g, gyr_range_deg_s
        Wanted full scale, None for the device's default.
    options
        Of one device family alone; unknown ones are refused by the driver.
    """

    sensor: str
    rate_hz: float = 50.0
    acc_range_g: float | None = None
    gyr_range_deg_s: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """Bytes to be written to the device.

    Parameters
    ----------
    channel
        A GATT characteristic (lower-case 128-bit UUID), or ``SERIAL_CHANNEL``.
    data
        What to write.
    response
        Write with response (BLE).
    pause_s
        Time the device needs before the next command.
    """

    channel: str
    data: bytes
    response: bool = True
    pause_s: float = 0.0


@dataclass(frozen=True)
class DeviceInfo:
    """What the device turned out to be and to do; comes before the first samples."""

    spec: SensorSpec
    rate_hz: float
    serial: str = ""
    firmware: str = ""


@dataclass(frozen=True)
class Battery:
    """State of charge."""

    percent: int | None
    charging: bool = False
    temperature_c: float | None = None


@dataclass(frozen=True)
class Doubt:
    """Something about the data is not plausible, or sources disagree about it; for the log and the screen."""

    text: str


@dataclass(frozen=True)
class ClockExchange:
    """A two-way exchange with the device's clock, NTP style: what ``Clock.update_two_way`` takes.

    Parameters
    ----------
    sensor
        Whose clock.
    t1_ns, t4_ns
        Monotonic host clock when the question left and when the answer came.
    t2_ns, t3_ns
        Device clock when the question came and when the answer left.
    """

    sensor: str
    t1_ns: int
    t2_ns: int
    t3_ns: int
    t4_ns: int


DeviceEvent: TypeAlias = ImuChunk | DeviceInfo | Battery | Doubt | ClockExchange


class Session(Protocol):
    """One connection to one device, sans-IO.

    ``counters`` is a mapping of names to counts: packets, samples, lost, duplicates, bad (could not be decoded) ...
    No bytes make ``receive_data`` or ``next_event`` raise anything but ``ProtocolError``, and no bytes make the
    session grow without bound. After a ``ProtocolError`` the session goes on with the next packet.
    """

    @property
    def subscriptions(self) -> Sequence[str]:
        """Channels to listen on (BLE), in order; those that the device does not have are left out."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """What was seen so far."""
        ...

    def next_command(self) -> Command | None:
        """Return the next bytes to be written; None when there are none for now (an answer may bring more)."""
        ...

    def receive_data(self, data: bytes, *, channel: str, host_time_ns: int | None = None) -> None:
        """Take in a notification, or what a serial port returned (in any chunking)."""
        ...

    def next_event(self) -> DeviceEvent | None:
        """Return the next event, or None until more bytes come."""
        ...

    def stop_commands(self) -> Sequence[Command]:
        """Return what ends the stream."""
        ...

    def link_reopened(self) -> None:
        """The link was lost and is open again: half packets are forgotten, start commands are due again."""
        ...


@runtime_checkable
class AsksTime(Protocol):
    """A session whose device tells its clock when asked; the answer becomes a ``ClockExchange``."""

    def time_request(self, host_time_ns: int) -> Command | None:
        """Return the question, to be written at once; None when the device cannot answer now."""
        ...


@runtime_checkable
class ChoosesCharacteristics(Protocol):
    """A session of a family whose characteristics swap roles: it chooses by what each can do."""

    def characteristics_found(self, properties: Mapping[str, Collection[str]]) -> None:
        """Take what the device has, after each connection and before subscriptions and commands are asked for.

        Parameters
        ----------
        properties
            By characteristic (lower-case 128-bit UUID): of ``read``, ``write``, ``write-without-response``, ``notify``
            and ``indicate``.

        Raises
        ------
        ProtocolError
            The device has not what is needed.
        """
        ...


class Driver(Protocol):
    """One family of devices."""

    name: str
    transports: frozenset[str]

    def recognise(self, advertisement: Advertisement) -> bool:
        """Say whether an advertisement is of this family."""
        ...

    def recognise_serial(self, data: bytes) -> bool:
        """Say whether bytes from a port are of this family: at least one whole valid packet."""
        ...

    def serial_probe(self) -> bytes:
        """Return bytes that make a silent device answer; empty when it speaks by itself."""
        ...

    def open(self, config: SessionConfig, *, transport: str) -> Session:
        """Start a session.

        Raises
        ------
        ConfigError
            The device cannot do what is asked.
        """
        ...
