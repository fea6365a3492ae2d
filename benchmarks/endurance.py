"""Listen for long to devices that misbehave, and account for every sample: received + masked = sent.

What a device made, it alone knows; ``endurance_devices`` keeps that ledger in a process of its own. Here every sample
received is compared with the value that the device measured, every gap with what the session said is lost, and the
common grid with both: at the rate of the device, each tick between the first and the last sample of a boot must be
valid where the sample was received, and masked where it was not.

A device that starts anew counts from nought. What it made between the last sample received of one boot and the first
of the next nobody can know who listens, and a session does not pretend to: it says that the device was restarted, and
counts from there. These samples have a column of their own, ``unknown``, which the ledger fills in.
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
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.endurance_devices import RATE_HZ, counts_at
from kinedge.benchmarks.harness import result
from kinedge.edge.aligner import Aligner
from kinedge.errors import LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.emulator import make_hello
from kinedge.firmware_bridge.open_device import DeviceConfig, open_device
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk, SensorSpec
from kinedge.units import period_ns

__all__ = ["Account", "bench_endurance"]

_INTERVAL_NS: Final = period_ns(RATE_HZ)
_PATIENCE_S: Final = 90.0
_MEMORY_EVERY_S: Final = 1.0
_WARM_UP: Final = 0.25  # share of the run before memory is judged
_LONG_MINUTES: Final = 5.0
_FLAT_KIB_PER_MIN: Final = 64.0


@dataclass
class _Boot:
    """What was received of one boot."""

    boot_id: int
    first: int
    next_index: int
    received: int = 0
    lost: int = 0
    valid: int = 0
    next_tick: int | None = None
    first_tick: int = 0

    @property
    def masked(self) -> int:
        """Ticks of the grid without a value."""
        return (self.next_tick or 0) - self.first_tick - self.valid


@dataclass
class Account:
    """What was heard of one device.

    Parameters
    ----------
    sensor
        Its name.

    Attributes
    ----------
    boots
        In order.
    wrong
        Samples that the device did not measure so, or not then.
    misjudged
        Samples by which what the session said is lost differs from what is missing.
    """

    sensor: str
    boots: list[_Boot] = field(default_factory=list)
    wrong: int = 0
    misjudged: int = 0

    def __post_init__(self) -> None:
        self._spec = SensorSpec(self.sensor)
        self._aligner = Aligner([self._spec], rate_hz=RATE_HZ)  # of the current boot
        self._scales = make_hello(self._spec, rate_hz=RATE_HZ).scales

    def take(self, chunk: ImuChunk) -> None:
        """Take in what the session gave."""
        index, rest = np.divmod(chunk.device_time_ns, _INTERVAL_NS)
        first, end = int(index[0]), int(index[-1]) + 1
        if not self.boots or self.boots[-1].boot_id != chunk.boot_id:
            self.close()
            self._aligner = Aligner([self._spec], rate_hz=RATE_HZ)
            self.boots.append(_Boot(chunk.boot_id, first, next_index=first))
        boot = self.boots[-1]
        expected = counts_at(index, boot_id=chunk.boot_id) * self._scales
        right = (rest == 0) & (index >= boot.next_index) & (chunk.values == expected).all(axis=1)
        right &= chunk.valid.all(axis=1)
        self.wrong += int((~right).sum())
        self.misjudged += abs(end - boot.next_index - len(chunk) - chunk.lost)
        boot.received += len(chunk)
        boot.lost += chunk.lost
        boot.next_index = end
        self._aligner.push(
            self.sensor,
            chunk.device_time_ns,
            chunk.values,
            chunk.valid,
            chunk.saturated,
            interval_ns=chunk.interval_ns,
        )
        self._pull(flush=False)

    def close(self) -> None:
        """Let the grid of the current boot end with its last sample."""
        if self.boots:
            self._pull(flush=True)

    def balance(self, made: Sequence[tuple[int, int]]) -> dict[str, int]:
        """Compare with the ledger of the device.

        Parameters
        ----------
        made
            Boot id and samples made, boot by boot.

        Returns
        -------
        dict
            ``sent``; ``received``, ``masked`` and ``unknown``, which are its parts; ``restarts`` heard of; and
            ``unaccounted``: samples wrong, misjudged, masked otherwise than lost, or missing before the first sample
            of all or after the last one.
        """
        self.close()
        received, masked = sum(b.received for b in self.boots), sum(b.masked for b in self.boots)
        sent = sum(n for _, n in made)
        heard = {boot.boot_id: boot for boot in self.boots}
        unknown = 0
        for boot_id, n in made:
            boot = heard.get(boot_id)
            unknown += n if boot is None else n - (boot.next_index - boot.first)
        faults = [self.wrong, self.misjudged, abs(sent - received - masked - unknown)]
        faults += [abs(b.masked - b.lost) + abs(b.valid - b.received) for b in self.boots]
        faults += [n for n in (len(self.boots) - len(heard), len(set(heard) - {b for b, _ in made})) if n]
        # The first boot was heard from its first sample on, and the last one to its end.
        first, last = heard.get(made[0][0]), heard.get(made[-1][0])
        faults.append(made[0][1] if first is None else first.first)
        faults.append(made[-1][1] if last is None else made[-1][1] - last.next_index)
        return {
            "sent": sent,
            "received": received,
            "masked": masked,
            "unknown": unknown,
            "unaccounted": sum(faults),
            "restarts": len(self.boots) - 1,
        }

    def _pull(self, *, flush: bool) -> None:
        boot, block = self.boots[-1], self._aligner.pull(flush=flush)
        if not len(block):
            return
        if boot.next_tick is None:
            boot.first_tick = block.first_tick
        boot.next_tick = block.first_tick + len(block)
        boot.valid += int(block.valid.all(axis=1).sum())


def bench_endurance(
    *,
    minutes: float = 10.0,
    n_devices: int = 5,
    speed: float = 1.0,
    seed: int = 0,
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
    progress
        Called about every second with the share of the run that is over.

    Returns
    -------
    dict
        A row of sums, then one per device, as of ``Account.balance``, with what the session counted. ``actions`` tells
        how often what happened; ``memory`` the listener's resident set and what Python allocated, at the end of the
        warm-up (a quarter of the run) and at the end, with the slopes of straight lines through all in between.

    Raises
    ------
    LinkError
        The emulated devices did not start, or ended early.
    """
    if not (minutes > 0 and n_devices > 0 and speed > 0):
        raise LinkError("minutes, n_devices and speed of an endurance run must be positive")
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(Path(folder), n_devices, 60 * minutes, progress or (lambda _: None))
        rows, actions = asyncio.run(run.go(seed=seed, speed=speed))
    totals = {key: sum(row[key] for row in rows) for key in rows[0] if key != "what"}
    settings = {"minutes": minutes, "n_devices": n_devices, "rate_hz": RATE_HZ, "speed": speed, "seed": seed}
    found = result("endurance", [{"what": "all", **totals}, *rows], settings=settings)
    memory = _memory(run.memory)
    if totals["unaccounted"]:
        found["warnings"].append(f"{totals['unaccounted']} samples are unaccounted for")
    if max(memory["traced_kib_per_min"], memory["resident_kib_per_min"]) > _FLAT_KIB_PER_MIN:
        found["warnings"].append("memory grows" if minutes >= _LONG_MINUTES else "too short to judge memory")
    return {**found, "actions": actions, "memory": memory}


class _Run:
    """One run: the devices' process on one side, a session per device on the other."""

    def __init__(self, folder: Path, n_devices: int, seconds: float, progress: Callable[[float], None]) -> None:
        self.memory: list[tuple[float, float, float]] = []  # seconds, resident KiB, traced KiB
        self._folder = folder
        self._seconds = seconds
        self._progress = progress
        self._accounts = [Account(f"sensor_{i}") for i in range(n_devices)]

    async def go(self, *, seed: int, speed: float) -> tuple[list[dict[str, Any]], dict[str, int]]:
        arguments = [str(a) for a in (self._folder, len(self._accounts), seed, self._seconds, speed)]
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
            self.memory.append((now_s, _resident_kib(), tracemalloc.get_traced_memory()[0] / 1024))
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


def _memory(seen: list[tuple[float, float, float]]) -> dict[str, float]:
    seconds, resident, traced = np.array(seen).T
    late = seconds >= _WARM_UP * seconds[-1]
    facts: dict[str, float] = {}
    for name, kib in (("resident", resident[late]), ("traced", traced[late])):
        centred = seconds[late] - seconds[late].mean()
        slope = float(centred @ kib / max(float(centred @ centred), 1e-9)) * 60
        facts |= {
            f"{name}_kib_start": round(float(kib[0]), 1),
            f"{name}_kib_end": round(float(kib[-1]), 1),
            f"{name}_kib_per_min": round(slope, 2),
        }
    return facts


def _resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024
