"""How a gateway is doing, as one mapping: what ``/health`` answers, what systemd shows, what metrics are made of."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kinedge.edge.store import StoreCounts
from kinedge.errors import StoreError

if TYPE_CHECKING:
    from kinedge.edge.service import EdgeService

__all__ = ["Readings", "board_temperature_c", "health_of", "read_gateway", "status_line"]

_THERMAL: Final = Path("/sys/class/thermal")
_LOW_DISK_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Readings:
    """What takes a disk to find out; None when the disk does not tell.

    Parameters
    ----------
    counts
        Of the store.
    oldest_unsent_s
        Age of the oldest episode that the collector has not yet; 0 when there is none.
    disk_free_bytes, store_bytes
        On the store's disk, and of its files.
    temperature_c
        The hottest of the board's own sensors.
    """

    counts: StoreCounts | None
    oldest_unsent_s: float | None
    disk_free_bytes: int | None
    store_bytes: int | None
    temperature_c: float | None


def read_gateway(service: EdgeService) -> Readings:
    """Look at the store and the board; blocks for some milliseconds, any thread may call."""
    path = service.store.path
    counts, oldest_unsent_s, free, used = None, None, None, None
    try:
        counts = service.store.counts()
        oldest_unsent_s = service.store.oldest_unsent_s()
    except StoreError:
        counts = None  # health says so; the store's own task says why
    try:
        disk = os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
        used = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
    except OSError:
        free = None
    return Readings(counts, oldest_unsent_s, free, used, board_temperature_c())


def board_temperature_c(root: Path = _THERMAL) -> float | None:
    """Return the hottest thermal zone, in degrees Celsius; None on a board without any."""
    found = []
    for zone in root.glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):  # a zone that is switched off refuses to be read
            continue
    return max(found, default=None)


def health_of(service: EdgeService, readings: Readings) -> dict[str, Any]:
    """Return what an operator asks first, in JSON's words; ``ok`` is false when somebody should look.

    A sensor that is switched off is no fault of the gateway: it is listed, and ``ok`` stays.
    """
    troubles = []
    if stuck := service.progress.stuck():
        troubles.append(stuck)
    if readings.counts is None:
        troubles.append("the store cannot be read")
    if service.keeper.refused:
        troubles.append(f"the store refuses episodes: {service.keeper.refused}")
    if readings.disk_free_bytes is not None and readings.disk_free_bytes < _LOW_DISK_BYTES:
        troubles.append(f"{readings.disk_free_bytes >> 20} MiB are free on the disk")
    troubles += [f"task {t.name} is down: {t.last_cause}" for t in service.tasks if t.last_cause and not t.running]
    return {
        "ok": not troubles,
        "troubles": troubles,
        "gateway": service.config.gateway,
        "model_digest": service.scorer.bundle.digest,
        "backend": service.scorer.engine.backend.name,
        "verdicts": dict(service.verdict_counts),
        "sensors": [h.as_dict() for h in service.health.values()],
        "tasks": [asdict(t) for t in service.tasks],
        "drafts_waiting": service.keeper.n_waiting,
        "readings": asdict(readings),
        "last_note": service.notes[-1] if service.notes else "",
    }


def status_line(service: EdgeService) -> str:
    """Return one line for ``systemctl status``."""
    sensors = list(service.health.values())
    connected = sum(h.connected for h in sensors)
    verdicts = sum(service.verdict_counts.values())
    stuck = service.progress.stuck()
    return stuck or f"{connected} of {len(sensors)} sensors connected, {verdicts} verdicts"
