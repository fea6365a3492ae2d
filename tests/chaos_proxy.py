"""A bad network between gateways and a collector: a TCP proxy that loses answers, delays them, or falls silent.

Usage: chaos_proxy.py PORT TARGET_PORT SEED DELAY_S CONTROL

While the file CONTROL.cut exists nothing passes. On SIGTERM what happened is written to CONTROL.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path

LOST, DELAYED = 0.10, 0.05  # of the answers


class Proxy:
    """Each answer of the collector has one fate; a lost one comes after the collector has done its work."""

    def __init__(self, target_port: int, *, seed: int, delay_s: float, control: Path) -> None:
        self.target_port = target_port
        self.delay_s = delay_s
        self.cut_file = Path(f"{control}.cut")
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.pass_if_not_cut()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:  # the collector is dead just now
            writer.close()
            return
        asked = asyncio.Event()
        ways = [
            asyncio.create_task(self.carry_requests(reader, there_writer, asked)),
            asyncio.create_task(self.carry_answers(there_reader, writer, asked)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for w in (writer, there_writer):
                w.close()

    async def pass_if_not_cut(self) -> None:
        while self.cut_file.exists():
            await asyncio.sleep(0.05)

    async def carry_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.pass_if_not_cut()
                asked.set()
                writer.write(data)
                await writer.drain()

    async def carry_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.pass_if_not_cut()
                if asked.is_set():  # the first bytes of an answer decide its fate
                    asked.clear()
                    self.counts["answers"] += 1
                    fate = self.random.random()
                    if fate < LOST:
                        self.counts["lost"] += 1
                        return
                    if fate < LOST + DELAYED:
                        self.counts["delayed"] += 1
                        await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()


async def main(port: int, target_port: int, seed: int, delay_s: float, control: Path) -> None:
    proxy = Proxy(target_port, seed=seed, delay_s=delay_s, control=control)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    await stop.wait()
    server.close()
    Path(f"{control}.json").write_text(json.dumps(proxy.counts))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5])))
