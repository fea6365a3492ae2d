"""How long a gateway takes to start: processor time of ``kinedge run`` from its birth until it asks its first sensor.

Its modules are compiled already, as pip leaves them at an install; one start before those that count sees to that.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path
from typing import Final

from kinedge.errors import BackendError

__all__ = ["starts_s"]

_GIVE_UP_S: Final = 120.0


def starts_s(*, uplink: bool = False, rounds: int = 3) -> list[float]:
    """Start a gateway of one person with one sensor on a tty, dashboard and all, some times over.

    Parameters
    ----------
    uplink
        It has a collector to send to, too.
    rounds
        How often.

    Returns
    -------
    processor_s
        Of all threads of the process, until the first byte arrives at the sensor; the least first.

    Raises
    ------
    BackendError
        It asked nothing; the message holds what it said.
    """
    with tempfile.TemporaryDirectory() as compiled:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        _, *found = (_once(environment, uplink=uplink) for _ in range(rounds + 1))
    return sorted(found)


def _once(environment: dict[str, str], *, uplink: bool) -> float:
    sensor, slave = os.openpty()
    try:
        tty.setraw(slave)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            told = [
                'site = "bench"',
                'gateway = "bench"',
                f'store = "{folder / "edge.db"}"',
                "[http]",
                "port = 0",
                *(["[uplink]", 'url = "http://127.0.0.1:9"'] if uplink else []),
                "[[people]]",
                'subject = "p-001"',
                f'devices = [{{ port = "{os.ttyname(slave)}" }}]',
            ]
            (folder / "gateway.toml").write_text("\n".join(told) + "\n", encoding="utf-8")
            with (folder / "said").open("w+b") as said:
                process = subprocess.Popen(
                    [sys.executable, "-m", "kinedge.cli", "run", str(folder / "gateway.toml")],
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=environment,
                    cwd=folder,
                )
                try:
                    spent_s = _until_asked(process, sensor)
                    if spent_s is None:
                        said.seek(0)
                        raise BackendError(f"the gateway asked its sensor nothing: {said.read()[-500:]!r}")
                    return spent_s
                finally:
                    process.terminate()
                    process.wait()
    finally:
        os.close(sensor)
        os.close(slave)


def _until_asked(process: subprocess.Popen[bytes], sensor: int) -> float | None:
    end_s = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < end_s and process.poll() is None:
        if select.select([sensor], [], [], 0.5)[0]:
            return _spent_s(process.pid)
    return None


def _spent_s(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9
