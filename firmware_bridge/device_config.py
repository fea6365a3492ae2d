"""A device as a person configures it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from kinedge.config import Config
from kinedge.firmware_bridge.ports import is_pattern

__all__ = ["DeviceConfig"]


class DeviceConfig(Config):
    """One device: behind a serial port, over BLE, or as a stream of LSL.

    A port is where a device is plugged in today. ``usb`` and ``serial_number`` say which one is meant, and it is found
    on whatever port it is.
    """

    port: str | None = Field(
        default=None,
        min_length=1,
        description="a serial port, such as /dev/ttyACM0; with serial_number, a pattern, too",
    )
    usb: str | None = Field(
        default=None, min_length=1, description="serial number of its USB chip, or vendor:product; see `kinedge scan`"
    )
    serial_number: str | None = Field(
        default=None,
        min_length=1,
        description="what the device itself says on its serial line, wherever it is plugged in",
    )
    ble: str | None = Field(default=None, min_length=1, description="a BLE address, or a name that only it has")
    lsl: str | None = Field(default=None, min_length=1, description="name or source id of an LSL stream")
    family: str = Field(default="kinedge", description="such as movella_dot; see `kinedge scan`")
    struct_map: Path | None = Field(default=None, description="a TOML file that describes a board of your own")
    sensor: str | None = Field(default=None, description="where it is worn; kinedge's own devices say it themselves")
    rate_hz: float = Field(default=50.0, gt=0, le=10_000, description="asked of devices that can be told")
    acc_range_g: float | None = Field(default=None, gt=0, description="full scale asked for; none: the family's own")
    gyr_range_deg_s: float | None = Field(
        default=None, gt=0, description="full scale asked for; none: the family's own"
    )
    baud: int = Field(default=115_200, ge=1200, le=12_000_000, description="of a serial line")
    options: dict[str, str] = Field(default_factory=dict, description="of the family alone")

    @model_validator(mode="after")
    def _one_way(self) -> DeviceConfig:
        n_ways = sum(way is not None for way in (self.port, self.usb, self.ble, self.lsl))
        if n_ways > 1 or (n_ways == 0 and self.serial_number is None):
            raise ValueError("give either port or usb (serial), ble (an address or a name) or lsl (a stream)")
        if self.serial_number is not None and not self.is_serial:
            raise ValueError("serial_number is for serial lines: over BLE the address says who a device is")
        if self.serial_number is None and self.port is not None and is_pattern(self.port):
            raise ValueError(f"port {self.port!r} is a pattern; give serial_number, to tell which one is meant")
        if self.lsl is not None and (self.family != "kinedge" or self.struct_map is not None):
            raise ValueError("an LSL stream has no family and no struct_map: it says itself what its channels are")
        if self.struct_map is not None and self.family != "kinedge":
            raise ValueError("give either family or struct_map")
        if self.sensor is None and not self._says_itself:
            what = "an LSL stream" if self.lsl is not None else f"a device of family {self.family}"
            raise ValueError(f"sensor must say where {what} is worn, such as wrist_left")
        return self

    @property
    def where(self) -> str:
        """Whom the device is known by: its serial number, USB identity, port, address or name."""
        if self.serial_number is not None:
            return f"id:{self.serial_number}"
        if self.usb is not None:
            return f"usb:{self.usb}"
        return self.port or self.ble or self.lsl or ""

    @property
    def is_serial(self) -> bool:
        """Whether it is on a serial line."""
        return self.ble is None and self.lsl is None

    @staticmethod
    def way_of(where: str) -> dict[str, str]:
        """Return the field that a word of a command line means.

        ``usb:A1B2`` is ``usb``, ``id:KE-7`` is ``serial_number``, what has a slash is ``port``, all else ``ble``.
        """
        kind, colon, name = where.partition(":")
        fields = {"usb": "usb", "id": "serial_number"}
        if colon and name and kind in fields:
            return {fields[kind]: name}
        return {"port" if "/" in where else "ble": where}

    @property
    def _says_itself(self) -> bool:
        return self.family == "kinedge" and self.struct_map is None and self.lsl is None
