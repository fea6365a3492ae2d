"""What ``kinedge sync`` found out, for ``kinedge run``: which clocks were set alike, and which devices lag behind.

An offset that knocks show has two parts. One is the device's own: its filters, and what it means by its time stamp.
That one stays. The other is the delay of the connection, which the clocks' bounds allow for and which is another one
after the next connection. An offset is used only where the second cannot be all of it: where it is greater than what
the clocks' bounds and the knocks' uncertainty allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from kinedge.config import Config, explain_validation_error
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.alignment import ClockGroup
from kinedge.firmware_bridge.clock import Clock, ClockMap
from kinedge.firmware_bridge.open_device import DeviceConfig
from kinedge.units import NS_PER_S

__all__ = ["Offset", "SyncFile", "SyncGroup", "clock_maker", "delay_floor_ns", "read_sync_file", "sync_path"]

_FLOOR_NS: Final = 10_000_000
_BLE_FLOOR_NS: Final = 55_000_000  # the longest connection interval that Linux asks for, and 5 ms
_SYNC_LASTS_NS: Final = 3600 * NS_PER_S
_MAX_BYTES: Final = 1 << 20


class Offset(Config):
    """What to add to a device's times to make them those of the first device."""

    device: str = Field(min_length=1, max_length=200, description="its port, address or name")
    offset_ms: float = Field(ge=-10_000, le=10_000)
    uncertainty_ms: float = Field(ge=0, le=10_000, description="of the knocks")
    clocks_ms: float = Field(ge=0, le=10_000, description="what the clocks' bounds allowed at that time")

    @property
    def lasts(self) -> bool:
        """Whether the device itself must lag: the clocks cannot explain all of it."""
        return abs(self.offset_ms) > self.clocks_ms + self.uncertainty_ms


class SyncGroup(Config):
    """Devices whose clocks were set alike."""

    devices: tuple[str, ...] = Field(min_length=2, max_length=64)
    set_utc_ns: int = Field(ge=0, lt=1 << 63)


class SyncFile(Config):
    """What is kept of a sync."""

    format: Literal["kinedge-sync-1"] = "kinedge-sync-1"
    groups: tuple[SyncGroup, ...] = Field(default=(), max_length=64)
    offsets: tuple[Offset, ...] = Field(default=(), max_length=256)


def sync_path(store: Path) -> Path:
    """Return where the sync of the gateway with this store is kept: beside it."""
    return store.with_suffix(".sync.json")


def read_sync_file(path: Path) -> SyncFile:
    """Read what was found out; nothing where there is no such file.

    Raises
    ------
    ConfigError
        It cannot be read, or is none.
    """
    try:
        if not path.exists():
            return SyncFile()
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes; this is no sync file, remove it")
        return SyncFile.model_validate_json(path.read_bytes())
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except ValidationError as e:
        text = explain_validation_error(e, SyncFile, str(path))
        raise ConfigError(f"{text}; remove it, or run `kinedge sync` again") from e


def delay_floor_ns(device: DeviceConfig) -> int:
    """Return the longest delay that the fastest packets of a device may have, as ``ClockMap`` takes it."""
    return _FLOOR_NS if device.ble is None else _BLE_FLOOR_NS


def clock_maker(devices: Iterable[DeviceConfig], sync: SyncFile, *, utc_ns: int) -> Callable[[str], Clock]:
    """Return what makes the clock of the device at a place, once per sensor there.

    Parameters
    ----------
    devices
        Of the gateway; a place that is not among them gets a clock of a wire.
    sync
        As read.
    utc_ns
        Now: a group older than an hour is none.
    """
    floors = {d.where: delay_floor_ns(d) for d in devices}
    offsets = {o.device: o for o in sync.offsets if o.lasts}
    groups: dict[str, ClockGroup] = {}
    for told in sync.groups:
        left_ns = _SYNC_LASTS_NS - (utc_ns - told.set_utc_ns)
        members = [where for where in told.devices if where in floors and where not in offsets]
        if 0 < left_ns <= _SYNC_LASTS_NS and len(members) > 1:
            floor_ns = max(floors[where] for where in members)
            group = ClockGroup(lifetime_ns=left_ns, make_clock=partial(ClockMap, delay_floor_ns=floor_ns))
            groups.update(dict.fromkeys(members, group))

    def make(where: str) -> Clock:
        if where in groups:
            return groups[where].member()
        floor_ns, offset = floors.get(where, _FLOOR_NS), offsets.get(where)
        if offset is None:
            return ClockMap(delay_floor_ns=floor_ns)
        return ClockMap(
            delay_floor_ns=floor_ns,
            shift_ns=round(offset.offset_ms * 1e6),
            shift_uncertainty_ns=round((offset.uncertainty_ms + offset.clocks_ms) * 1e6),
        )

    return make
