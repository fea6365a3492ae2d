"""Listen for long to devices that misbehave, and account for every sample: received + masked = sent.

What a device made, it alone knows; ``endurance_devices`` keeps that ledger in a process of its own.
``endurance_account`` holds it against what the session gave and said, and the grid showed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
import tracemalloc
from array import array
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.benchmarks.endurance_account import Account
from kinedge.benchmarks.endurance_devices import RATE_HZ
from kinedge.benchmarks.harness import result
from kinedge.errors import LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.open_device import DeviceConfig, open_device
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk

__all__ = ["bench_endurance"]

_PATIENCE_S: Final = 90.0
_MEMORY_EVERY_S: Final = 1.0
_MEMORY_PARTS: Final = 10
_WARM_UP: Final = 0.25  # share of the run before memory is judged
_LONG_MINUTES: Final = 5.0
_FLAT_KIB_PER_MIN: Final = 64.0


def bench_endurance(
    *,
    minutes: float = 10.0,
    n_devices: int = 5,
    speed: float = 1.0,
    seed: int = 0,
    restarts: bool = True,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Listen to devices that connect, disconnect, stall, restart, and damage, lose, repeat and reorder packets.

    Parameters
    ----------
    minutes
        How long they misbehave.
    n_devices
        Each on a tty, at 100 Hz.
    speed
        Device seconds per second; what happens comes so much faster too.
    seed
        Of what happens; when it meets the listener, the machine decides.
    restarts
        Whether devices start anew at times.
    progress
        Called about every second with the share of the run that is over.

    Returns
    -------
    dict
        A row of sums, then one per device, as of ``Account.balance``, with what the session counted. ``actions`` tells
        how often what happened; ``memory`` the listener's resident set and what Python allocated, after warming up (a
        quarter of the run), in the middle and at the end, each the least of a tenth, with the slope through all tenths.

    Raises
    ------
    LinkError
        The emulated devices did not start, or ended early.
    """
    if not (minutes > 0 and n_devices > 0 and speed > 0):
        raise LinkError("minutes, n_devices and speed of an endurance run must be positive")
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(Path(folder), n_devices, 60 * minutes, progress or (lambda _: None))
        rows, actions = asyncio.run(run.go(seed=seed, speed=speed, restarts=restarts))
    totals = {key: sum(row[key] for row in rows) for key in rows[0] if key != "what"}
    settings = {"minutes": minutes, "n_devices": n_devices, "rate_hz": RATE_HZ, "speed": speed, "seed": seed}
    settings["restarts"] = restarts
    found = result("endurance", [{"what": "all", **totals}, *rows], settings=settings)
    memory = _memory(np.array(run.memory).reshape(-1, 3))
    if totals["unaccounted"]:
        found["warnings"].append(f"{totals['unaccounted']} samples are unaccounted for")
    if max(memory["traced_kib_per_min"], memory["resident_kib_per_min"]) > _FLAT_KIB_PER_MIN:
        found["warnings"].append("memory grows" if minutes >= _LONG_MINUTES else "too short to judge memory")
    return {**found, "actions": actions, "memory": memory}


class _Run:
    """One run: the devices' process on one side, a session per device on the other."""

    def __init__(self, folder: Path, n_devices: int, seconds: float, progress: Callable[[float], None]) -> None:
        self.memory = array("d")  # in turns: seconds, resident KiB, traced KiB
        self._folder = folder
        self._seconds = seconds
        self._progress = progress
        self._accounts = [Account(f"sensor_{i}") for i in range(n_devices)]

    async def go(self, *, seed: int, speed: float, restarts: bool) -> tuple[list[dict[str, Any]], dict[str, int]]:
        arguments = [str(a) for a in (self._folder, len(self._accounts), seed, self._seconds, speed, int(restarts))]
        module = "kinedge.benchmarks.endurance_devices"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE, limit=1 << 24
        )
        tracemalloc.start()
        try:
            return await self._listen(process)
        finally:
            tracemalloc.stop()
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    async def _listen(self, process: Process) -> tuple[list[dict[str, Any]], dict[str, int]]:
        await _heard(process)
        radio = BleRadio()
        ports = [str(self._folder / account.sensor) for account in self._accounts]
        opened = [open_device(DeviceConfig(port=port), radio=radio) for port in ports]
        links = [link for link in opened if isinstance(link, SessionLink)]  # all of them, on a tty
        tasks = [asyncio.create_task(_follow(*pair)) for pair in zip(links, self._accounts, strict=True)]
        try:
            await self._until(lambda: all(account.boots for account in self._accounts))
            _tell(process, "begin")
            watching = asyncio.create_task(self._watch_memory())
            try:
                await _heard(process, timeout_s=self._seconds + _PATIENCE_S)
            finally:
                watching.cancel()
            before = [sum(boot.received for boot in account.boots) for account in self._accounts]
            # Each is heard again before it is told to end, so that its last samples find a listener.
            await self._until(
                lambda: all(
                    sum(boot.received for boot in account.boots) > n
                    for account, n in zip(self._accounts, before, strict=True)
                )
            )
            _tell(process, "end")
            ledger = json.loads(await _heard(process))
            ends = [boots[-1] for boots in ledger["boots"]]
            with contextlib.suppress(LinkError):  # the balance will tell
                await self._until(
                    lambda: all(
                        [account.boots[-1].boot_id, account.boots[-1].next_index] == end
                        for account, end in zip(self._accounts, ends, strict=True)
                    )
                )
        finally:
            for link in links:
                await link.close()
            await asyncio.gather(*tasks)
        rows = [_row(*both) for both in zip(self._accounts, links, ledger["boots"], strict=True)]
        return rows, ledger["actions"]

    async def _until(self, happened: Callable[[], bool]) -> None:
        end_s = time.monotonic() + _PATIENCE_S
        while not happened():
            if time.monotonic() > end_s:
                raise LinkError("a device was not heard in time; is the machine overloaded?")
            await asyncio.sleep(0.05)

    async def _watch_memory(self) -> None:
        start_s = time.monotonic()
        while True:
            now_s = time.monotonic() - start_s
            self.memory.extend((now_s, _resident_kib(), tracemalloc.get_traced_memory()[0] / 1024))
            self._progress(min(1.0, now_s / self._seconds))
            await asyncio.sleep(_MEMORY_EVERY_S)


async def _heard(process: Process, *, timeout_s: float = _PATIENCE_S) -> bytes:
    if process.stdout is None:
        raise LinkError("the emulated devices have no output")
    try:
        line = await asyncio.wait_for(process.stdout.readline(), timeout_s)
    except asyncio.TimeoutError as error:
        raise LinkError(f"the emulated devices said nothing for {timeout_s:g} s") from error
    if not line:
        raise LinkError("the emulated devices ended early; is there room for so many ttys?")
    return line


def _tell(process: Process, word: str) -> None:
    if process.stdin is not None:
        process.stdin.write(f"{word}\n".encode())


async def _follow(link: SessionLink, account: Account) -> None:
    async for event in link.events():
        if isinstance(event, ImuChunk):
            account.take(event)


def _row(account: Account, link: SessionLink, made: list[list[int]]) -> dict[str, Any]:
    balance = account.balance([(boot_id, n) for boot_id, n in made])
    counters, seen = link.counters, link.session.counters
    # What the link counted must be what was heard.
    balance["unaccounted"] += abs(counters.samples - balance["received"]) + abs(counters.lost - balance["masked"])
    balance["unaccounted"] += abs(counters.restarts - balance["restarts"])
    return {
        "what": account.sensor,
        **balance,
        "reconnects": counters.reconnects,
        "duplicates": seen["duplicates"],
        "bad": seen["bad"],
        "late": counters.late,
    }


def _memory(seen: NDArray[np.float64]) -> dict[str, float]:
    """Judge memory by its floor in equal parts of the run: what comes and goes with a burst is no growth.

    Parameters
    ----------
    seen : (n, 3)
        Seconds, resident KiB, traced KiB.
    """
    parts = np.array_split(seen[seen[:, 0] >= _WARM_UP * seen[-1, 0]], _MEMORY_PARTS)
    floors = np.array([[part[:, 0].mean(), *part[:, 1:].min(axis=0)] for part in parts if len(part)])
    minutes = (floors[:, 0] - floors[:, 0].mean()) / 60
    facts: dict[str, float] = {}
    for name, kib in (("resident", floors[:, 1]), ("traced", floors[:, 2])):
        facts |= {
            f"{name}_kib_start": round(float(kib[0]), 1),
            f"{name}_kib_middle": round(float(kib[len(kib) // 2]), 1),
            f"{name}_kib_end": round(float(kib[-1]), 1),
            f"{name}_kib_per_min": round(float(minutes @ kib / max(float(minutes @ minutes), 1e-9)), 2),
        }
    return facts


def _resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024
