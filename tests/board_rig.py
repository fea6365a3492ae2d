"""A running gateway with a dashboard on emulated devices, for tests that ask it over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kinedge.edge.config import GatewayConfig
from kinedge.edge.hostclock import HostClock
from kinedge.edge.service import EdgeService
from kinedge.firmware_bridge.emulator import EmulatedImu, counts_from_si, make_hello
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.recording import Recording

HEADERS = {"X-Kinedge": "1"}


def board_config(tmp_path: Path, people: Mapping[str, list[str]], **changes: Any) -> GatewayConfig:
    """People and the ports of their devices."""
    return GatewayConfig.model_validate(
        {
            "site": "clinic",
            "gateway": "gw-1",
            "store": tmp_path / "edge.db",
            "people": [{"subject": s, "devices": [{"port": p} for p in ports]} for s, ports in people.items()],
            "max_delay_s": 2.0,
            "http": {"port": 0},
            **changes,
        }
    )


def device(tmp_path: Path, name: str, recording: Recording, sensor: str, *, speed: float = 1.0) -> PtyDevice:
    """One sensor of a recording, on a tty called ``name``, which is its serial number, too."""
    spec = next(s for s in recording.sensors if s.name == sensor)
    hello = make_hello(spec, rate_hz=recording.rate_hz, boot_id=sum(name.encode()), serial=name)
    columns = recording.columns(sensor)
    counts = counts_from_si(recording.values[:, columns], hello=hello, valid=recording.valid[:, columns])
    imu = EmulatedImu(hello, counts, battery_percent=80, seed=len(name))
    return PtyDevice(imu, link_path=tmp_path / name, speed=speed)


@dataclass
class Rig:
    """A gateway under test."""

    service: EdgeService
    client: httpx.AsyncClient
    stop: asyncio.Event
    serving: asyncio.Task[None]

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.client.post(path, json=body, headers=HEADERS)

    async def ok(self, path: str, body: Any) -> Any:
        answer = await self.post(path, body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["ok"] is True and set(answer.json()["text"]) == {"en", "fr"}
        return answer.json()

    async def person(self, subject: str) -> Any:
        return next(p for p in (await self.get("/api/state"))["people"] if p["subject"] == subject)

    async def until(self, look: Callable[[Any], bool], subject: str, *, timeout_s: float = 60) -> Any:
        async def wait() -> Any:
            while not look(person := await self.person(subject)):
                assert not self.serving.done(), "the gateway has ended"
                await asyncio.sleep(0.05)
            return person

        return await asyncio.wait_for(wait(), timeout_s)

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        async with self.client.stream("GET", path) as answer:
            assert answer.status_code == 200
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    yield kind, json.loads(line[6:])


@contextlib.asynccontextmanager
async def running(config: GatewayConfig, devices: list[PtyDevice], *, speed: float = 1.0) -> AsyncIterator[Rig]:
    """Run a gateway, its devices and a client."""
    service = EdgeService(config, host_clock=HostClock(speed=speed))
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    for one in devices:
        one.start()
    try:
        while not service.http_url:
            assert not serving.done(), serving
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(trust_env=False, base_url=service.http_url, timeout=30) as client:
            yield Rig(service, client, stop, serving)
    finally:
        stop.set()
        await serving
        for one in devices:
            await asyncio.to_thread(one.stop)
