"""The link and session of a device as a person configured it.

Each way to a device, and each family, is imported when a device asks for it: a board of two serial sensors does not
start with a Bluetooth stack.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from kinedge.errors import ConfigError
from kinedge.firmware_bridge.device import Driver, Session, SessionConfig
from kinedge.firmware_bridge.device_config import DeviceConfig
from kinedge.firmware_bridge.devices.registry import driver
from kinedge.firmware_bridge.event_queue import SessionEvent
from kinedge.firmware_bridge.links import Link
from kinedge.firmware_bridge.ports import matching_ports, usb_ports
from kinedge.firmware_bridge.session_link import SessionLink

if TYPE_CHECKING:
    from kinedge.firmware_bridge.ble_radio import BleRadio
    from kinedge.firmware_bridge.links_seeking import SeekingLink

__all__ = ["DeviceConfig", "DeviceLink", "open_device"]

_OURS: Final = "kinedge"  # the one family that says itself where it is worn and who it is


class DeviceLink(Protocol):
    """A device as those see it who take its events."""

    def events(self) -> AsyncIterator[SessionEvent]:
        """Open it, and yield what happens until ``close``; once per link."""
        ...

    async def close(self) -> None:
        """End ``events`` and leave nothing behind; may be called twice."""
        ...


def open_device(
    config: DeviceConfig, *, radio: BleRadio | None = None, host_clock: Callable[[], int] = time.monotonic_ns
) -> DeviceLink:
    """Make the link of a device; it opens when its events are asked for.

    Parameters
    ----------
    config
        What it is and where.
    radio
        Shared by all BLE devices of the process; None for devices of other kinds.
    host_clock
        Monotonic clock in ns.

    Raises
    ------
    ConfigError
        The family is unknown, cannot be reached this way, or cannot do what is asked; LSL is not installed.
    """
    if config.lsl is not None:
        from kinedge.firmware_bridge.links_lsl import LslLink

        rate_hz = config.rate_hz if "rate_hz" in config.model_fields_set else None  # a stream tells its own
        return LslLink(
            config.lsl, config.sensor or "unnamed", options=config.options, rate_hz=rate_hz, host_clock=host_clock
        )
    family = _family(config)
    transport = "serial" if config.is_serial else "ble"
    if transport not in family.transports:
        raise ConfigError(f"{config.where}: {family.name} speaks over {', '.join(sorted(family.transports))} only")
    options = dict(config.options)
    if config.sensor is None:
        options.setdefault("placement", "device")
    if config.serial_number is not None and config.family == _OURS and config.struct_map is None:
        options["serial_number"] = config.serial_number
    if config.is_serial and config.family == "witmotion":
        options.setdefault("baud", str(config.baud))  # it refuses a rate that the line cannot carry
    session = family.open(
        SessionConfig(
            config.sensor or "unnamed",
            rate_hz=config.rate_hz,
            acc_range_g=config.acc_range_g,
            gyr_range_deg_s=config.gyr_range_deg_s,
            options=options,
        ),
        transport=transport,
    )
    link: Link
    if config.is_serial:
        link = _serial_link(config, family, session, host_clock)
    else:
        if radio is None:
            raise ConfigError(f"{config.where}: a device over BLE needs the radio of the process")
        from kinedge.firmware_bridge.links_ble import BleLink, channels_of

        link = BleLink(config.where, radio=radio, choose=channels_of(session), host_clock=host_clock)
    return SessionLink(link, session, host_clock=host_clock)


def _family(config: DeviceConfig) -> Driver:
    if config.struct_map is None:
        return driver(config.family)
    from kinedge.firmware_bridge.devices.struct_map import StructMapDriver

    return StructMapDriver.from_toml(config.struct_map)


def _serial_link(config: DeviceConfig, family: Driver, session: Session, host_clock: Callable[[], int]) -> SeekingLink:
    from kinedge.firmware_bridge.links_seeking import SeekingLink, TellsIdentity

    port, usb = config.port, config.usb
    if config.serial_number is not None and not isinstance(family, TellsIdentity):
        raise ConfigError(
            f"serial_number {config.serial_number}: devices of family {family.name} do not tell one over the line; "
            "give usb, the serial number of the USB chip, as 'kinedge scan' shows it"
        )

    def ports() -> Sequence[str]:
        if usb is not None:
            return usb_ports(usb)
        return matching_ports(port) if config.serial_number is not None or port is None else [port]

    def understood() -> int:
        return session.counters.get("packets", 0) + session.counters.get("samples", 0)

    return SeekingLink(
        config.where,
        family,
        ports=ports,
        serial_number=config.serial_number,
        baud=config.baud,
        host_clock=host_clock,
        understood=understood,
    )
