"""A gateway in a process of its own, with emulated sensors, that meets one fault; says as JSON how it went.

Run as ``python fault_gateway.py FOLDER FAULT``. FOLDER must exist; the store goes into FOLDER/disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinedge.edge.config import GatewayConfig
from kinedge.edge.hostclock import HostClock
from kinedge.edge.service import EdgeService
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.training.scenario import DemoEvent, demo_recording

SPEED = 4.0
EVENTS = tuple(DemoEvent("noise_burst", "wrist_left", a, a + 6.0) for a in (8.0, 26.0))

Fault = Callable[[EdgeService, Path], None]


def fill(service: EdgeService, disk: Path) -> None:
    """Leave no block free."""
    with (disk / "ballast").open("wb", buffering=0) as out:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    out.write(b"\1" * size)
            except OSError:
                continue


def make_room(service: EdgeService, disk: Path) -> None:
    (disk / "ballast").unlink(missing_ok=True)


def make_little_room(service: EdgeService, disk: Path) -> None:
    """Leave less than the store keeps free for episodes: raw slices have to make way for each other then."""
    ballast = disk / "ballast"
    if ballast.exists():
        os.truncate(ballast, max(ballast.stat().st_size - (6 << 20), 0))


def refuse_writes(service: EdgeService, disk: Path) -> None:
    """Let every write fail as on a file system that the kernel has made read-only; see faulty_disk.c."""
    (disk / "read-only").touch()


def take_writes(service: EdgeService, disk: Path) -> None:
    (disk / "read-only").unlink(missing_ok=True)


def damage(service: EdgeService, disk: Path) -> None:
    """Overwrite the pages of the file and of its log, under the running process."""
    for path in (service.store.path, Path(f"{service.store.path}-wal")):
        with path.open("r+b") as out:
            out.write(b"\x5a" * path.stat().st_size)
            out.flush()
            os.fsync(out.fileno())
    with service.store._database.reading() as connection:
        connection.execute("PRAGMA shrink_memory")  # as when memory is short: pages come from the disk again


def little_memory(service: EdgeService, disk: Path) -> None:
    """Allow no more address space than is in use; threads and big blobs fail then."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), resource.RLIM_INFINITY))


def memory_again(service: EdgeService, disk: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def nothing(service: EdgeService, disk: Path) -> None:
    pass


FAULTS: dict[str, tuple[Fault, Fault]] = {
    "full": (fill, make_room),
    "nearly-full": (fill, make_little_room),
    "read-only": (refuse_writes, take_writes),
    "damaged": (damage, nothing),
    "memory": (little_memory, memory_again),
    "slow": (nothing, nothing),
}


async def meet(folder: Path, fault: str) -> dict[str, Any]:
    """Play two anomalies; the fault begins when the first episode opens and ends before the second does."""
    disk = folder / "disk"
    devices = list(
        play_on_ptys(demo_recording(seed=3, duration_s=44, events=EVENTS), folder / "ttys", speed=SPEED).values()
    )
    config = GatewayConfig.model_validate(
        {
            "site": "clinic",
            "gateway": "gw-1",
            "store": disk / "edge.db",
            "people": [{"subject": "p-001", "devices": [{"port": str(d.link_path)} for d in devices]}],
            "max_delay_s": 4.0,  # of a clock that runs fast: a busy machine may stand still for a second of its own
            "episodes": {"quiet": 3, "draft_every": 1},
        }
    )
    verdicts_in_fault = [0, 0]
    decided: set[str] = set()
    service = EdgeService(config, host_clock=HostClock(speed=SPEED))
    put = service.keeper.put
    service.keeper.put = lambda draft, **kw: (decided.add(draft.key), put(draft, **kw))[1]  # type: ignore[method-assign,func-returns-value]
    begin, end = FAULTS[fault]
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    for device in devices:
        device.start()
    state, health_in_fault = "before", ""
    while not serving.done() and not all(d.finished for d in devices):
        await asyncio.sleep(0.05)
        n = service.verdict_counts.total()
        if state == "before" and decided and not service.keeper.n_waiting:
            begin(service, disk)
            state, verdicts_in_fault = "in", [n, n]
        elif state == "in" and (n >= verdicts_in_fault[0] + 8):
            health_in_fault = service.keeper.refused
            end(service, disk)
            state, verdicts_in_fault[1] = "after", n
    end(service, disk)
    await service.finish()
    restarts = {t.name: (t.restarts, t.last_cause) for t in service.tasks if t.restarts}
    stop.set()
    await serving
    times = service.times.summary()
    return {
        "state": state,
        "decided": sorted(decided),
        "verdicts": service.verdict_counts.total(),
        "verdicts_in_fault": verdicts_in_fault[1] - verdicts_in_fault[0],
        "refused": health_in_fault,
        "restarts": restarts,
        "notes": list(service.notes),
        "store_p50_s": times["store"].p50_s if "store" in times else None,
        "n_stores": times["store"].count if "store" in times else 0,
        "score_p99_s": times["score"].p99_s,
        "sample_to_verdict_p99_s": times["sample_to_verdict"].p99_s,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(meet(Path(sys.argv[1]), sys.argv[2]))) + "\n")
