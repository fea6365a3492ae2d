"""What it costs scoring that people look: a real gateway with many people, with listeners and without, in turns.

Sensors run in a process of their own on real ttys, listeners in another; what is measured is the gateway's process
alone. Each listener looks at one person in detail, so that the signals are sent, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from kinedge.benchmarks.harness import result
from kinedge.edge.config import GatewayConfig
from kinedge.edge.progress import StageTimes
from kinedge.edge.service import EdgeService
from kinedge.errors import LinkError
from kinedge.firmware_bridge.emulator import EmulatedImu, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.signals import SensorSpec

__all__ = ["bench_dashboard"]

_SENSORS: Final = ("wrist_left", "wrist_right")
_RATE_HZ: Final = 50.0
_SETTLE_S: Final = 1.0  # of each turn: what was begun in the last one ends
_UNSTABLE: Final = 0.10


class _Turns(StageTimes):
    """Durations of the stages, each turn by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, stage: str, duration_s: float) -> None:
        super().add(stage, duration_s)
        self.kept[stage].append(duration_s)


def bench_dashboard(
    *, n_people: int = 20, n_listeners: int = 2, n_rounds: int = 5, turn_s: float = 10.0
) -> dict[str, Any]:
    """Run a gateway, and let listeners come and go in turns.

    Parameters
    ----------
    n_people
        With two sensors each, 50 Hz, six channels.
    n_listeners
        Pages that are open in a turn with listeners, at most 8.
    n_rounds
        Turns of each kind.
    turn_s
        Length of a turn; its first second does not count.

    Raises
    ------
    LinkError
        The emulated sensors did not start.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = 15 + 2 * n_rounds * turn_s
        command = [sys.executable, "-m", "kinedge.benchmarks.dashboard", name, str(n_people), str(seconds)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            end_s = time.monotonic() + 60
            while len(list(folder.glob("p-*"))) < n_people * len(_SENSORS):
                if process.poll() is not None or time.monotonic() > end_s:
                    raise LinkError("the emulated sensors did not start; is there room for so many ttys?")
                time.sleep(0.05)
            turns = asyncio.run(_serve(folder, n_people, n_listeners, n_rounds, turn_s))
        finally:
            process.terminate()
            process.wait()
    settings = {"people": n_people, "listeners": n_listeners, "rounds": n_rounds, "turn_s": turn_s}
    return result("dashboard", _rows(turns, n_people, n_listeners), settings=settings)


def _rows(turns: dict[str, list[dict[str, Any]]], n_people: int, n_listeners: int) -> list[dict[str, Any]]:
    names = {"none": "nobody listens", "some": f"{n_listeners} listen at 10 Hz"}
    rows = []
    for kind, name in names.items():
        of = turns[kind]
        pooled = {stage: [x for t in of for x in t["stages"].get(stage, ())] for stage in ("score", "decide")}
        latency = [x for t in of for x in t["stages"].get("sample_to_verdict", ())]
        cpu = [t["cpu_share"] for t in of]
        spread = float((max(cpu) - min(cpu)) / max(np.median(cpu), 1e-9))
        rows.append(
            {
                "what": name,
                "people": n_people,
                "score_ms_p50": _quantile(pooled["score"], 0.5, 1e3),
                "score_ms_p99": _quantile(pooled["score"], 0.99, 1e3),
                "decide_us_p50": _quantile(pooled["decide"], 0.5, 1e6),
                "sample_to_verdict_ms_p50": _quantile(latency, 0.5, 1e3),
                "sample_to_verdict_ms_p99": _quantile(latency, 0.99, 1e3),
                "cpu_share": round(float(np.median(cpu)), 4),
                "cpu_share_lowest": round(min(cpu), 4),
                "cpu_share_highest": round(max(cpu), 4),
                "verdicts": len(latency),
                "events_per_s": round(sum(t["events"] for t in of) / max(sum(t["seconds"] for t in of), 1e-9), 1),
                "kb_per_s": round(sum(t["bytes"] for t in of) / 1e3 / max(sum(t["seconds"] for t in of), 1e-9), 1),
                "unstable": spread >= _UNSTABLE,
            }
        )
    return rows


def _quantile(values: list[float], q: float, scale: float) -> float | None:
    return round(float(np.quantile(values, q)) * scale, 3) if values else None


async def _serve(
    folder: Path, n_people: int, n_listeners: int, n_rounds: int, turn_s: float
) -> dict[str, list[dict[str, Any]]]:
    people = [
        {"subject": f"p-{i:03}", "devices": [{"port": str(folder / f"p-{i:03}-{s}")} for s in _SENSORS]}
        for i in range(n_people)
    ]
    config = GatewayConfig.model_validate(
        {"site": "s", "gateway": "g", "store": folder / "edge.db", "people": people, "http": {"port": 0}}
    )
    service = EdgeService(config)
    service.times = times = _Turns()
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    turns: dict[str, list[dict[str, Any]]] = {"none": [], "some": []}
    listening: asyncio.subprocess.Process | None = None
    try:
        while not service.http_url or service.verdict_counts.total() < 3 * n_people:
            if serving.done():
                await serving
            await asyncio.sleep(0.1)
        port = service.http_url.rpartition(":")[2]
        listening = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kinedge.benchmarks.dashboard",
            "listen",
            port,
            str(n_listeners),
            str(n_people),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        await _told(listening)
        for k in range(2 * n_rounds):
            # none, some, some, none: drift of the machine meets both alike
            kind = "some" if k % 4 in (1, 2) else "none"
            turns[kind].append(await _turn(times, listening, wanted=kind == "some", turn_s=turn_s))
    finally:
        if listening is not None:
            listening.terminate()
            await listening.wait()
        stop.set()
        await serving
    return turns


async def _turn(times: _Turns, listening: asyncio.subprocess.Process, *, wanted: bool, turn_s: float) -> dict[str, Any]:
    await _told(listening, "on" if wanted else "off")
    await asyncio.sleep(min(_SETTLE_S, turn_s / 4))
    before = await _told(listening, "count")
    times.kept.clear()
    cpu_s, wall_s = time.process_time(), time.monotonic()
    await asyncio.sleep(turn_s - min(_SETTLE_S, turn_s / 4))
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    stages = {name: list(values) for name, values in times.kept.items()}
    after = await _told(listening, "count")
    return {
        "stages": stages,
        "cpu_share": cpu_s / wall_s,
        "seconds": wall_s,
        "events": after["events"] - before["events"],
        "bytes": after["bytes"] - before["bytes"],
    }


async def _told(process: asyncio.subprocess.Process, word: str = "count") -> dict[str, int]:
    if process.stdin is None or process.stdout is None:
        raise LinkError("the listeners did not start")
    process.stdin.write(word.encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise LinkError("the listeners ended before their time")
    found: dict[str, int] = json.loads(line)
    return found


async def _listen(port: int, n_listeners: int, n_people: int) -> None:
    """Open pages when told to, read all that comes, and say how much it was."""
    counted = {"events": 0, "bytes": 0}
    tasks: list[asyncio.Task[None]] = []

    async def follow(subject: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            writer.write(f"GET /api/stream?subject={subject} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while data := await reader.read(1 << 16):
                counted["bytes"] += len(data)
                counted["events"] += data.count(b"event: ")
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if word == "on" and not tasks:
            tasks = [asyncio.create_task(follow(f"p-{i % n_people:03}")) for i in range(n_listeners)]
        elif word == "off":
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks = []
        sys.stdout.write(json.dumps(counted) + "\n")
        sys.stdout.flush()


def _emulate(folder: Path, n_people: int, seconds: float) -> None:
    """Run the sensors: noise with some movement, for as long as it takes."""
    n = round(_RATE_HZ * seconds)
    devices = []
    for i in range(n_people):
        for k, sensor in enumerate(_SENSORS):
            rng = np.random.default_rng((i, k))
            walk = np.sin(np.arange(n)[:, None] * rng.uniform(0.1, 0.3) + np.arange(6)) * 1500
            counts = (walk + rng.normal(0, 400, (n, 6)) + [0, 0, 2048, 0, 0, 0]).astype(np.int16)
            hello = make_hello(SensorSpec(sensor), rate_hz=_RATE_HZ, serial=f"SN-{i}-{k}", boot_id=1 + i)
            imu = EmulatedImu(hello, counts, seed=2 * i + k, packet_samples=5)
            devices.append(PtyDevice(imu, link_path=folder / f"p-{i:03}-{sensor}"))
    for device in devices:
        device.start()
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.buffer.read()


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        asyncio.run(_listen(*(int(a) for a in sys.argv[2:5])))
    else:
        _emulate(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
