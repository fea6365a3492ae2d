"""A site that runs: emulated people with sensors on ttys, and ``kinedge run`` that listens to them and serves its page.

``python tests/board_site.py FOLDER --people 20 --minutes 10`` emulates only; ``Site`` starts that and the gateway, too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinedge.firmware_bridge.emulator import Faults
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.training.scenario import DemoEvent, demo_recording

PATIENCE_S = 90.0
ANOMALIES = ("rest_tremor", "noise_burst", "axis_swap", "rest_tremor")
SENSORS = ("wrist_left", "wrist_right")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def emulate(folder: Path, *, n_people: int, duration_s: float, quiet_s: float) -> None:
    """Emulate people: after ``quiet_s`` every fourth has a fault now and then, every fifth an anomaly instead."""
    devices: dict[tuple[int, str], Any] = {}
    pulled: set[tuple[int, str]] = set()
    for i in range(n_people):
        events: Sequence[DemoEvent] = ()
        if i % 5 == 1:
            name = ANOMALIES[i // 5 % len(ANOMALIES)]
            events = [
                DemoEvent(name, SENSORS[i % 2], at, at + 40.0)
                for at in range(round(quiet_s), round(duration_s) - 40, 60)
            ]
        recording = demo_recording(seed=i, duration_s=duration_s, events=tuple(events))
        faults = Faults(loss=0.30 if i % 10 == 8 else 0.004, mean_burst=4.0)
        made = play_on_ptys(recording, folder / f"p-{i + 1:03d}", faults=faults, seed=i)
        devices.update({(i, sensor): device for sensor, device in made.items()})
    for device in devices.values():
        device.start()
    (folder / "ready").write_text("")
    start_s = time.monotonic()
    while not all(device.finished for device in devices.values()):
        elapsed_s = time.monotonic() - start_s
        for i in (i for i in range(2, n_people, 4) if i % 5 != 1):
            key = (i, SENSORS[i // 4 % 2])
            out = elapsed_s > quiet_s and (elapsed_s - quiet_s) % 60 < 45
            if out and key not in pulled:
                devices[key].unplug()
                pulled.add(key)
            elif not out and key in pulled:
                devices[key].replug()
                pulled.discard(key)
        time.sleep(0.2)


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what: str, is_there: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_there():
        assert process.poll() is None, f"{what}: ended with {process.returncode}\n{log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"{what}: not there after {PATIENCE_S:g} s\n{log.read_text()[-2000:]}"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def gateway(
    folder: Path, people: Sequence[str], ttys: Path, *, more: str = "", ask: str = "api/session"
) -> Iterator[str]:
    """Run ``kinedge run`` for people with sensors at ``ttys/PERSON/SENSOR`` or ``ttys/SENSOR``; yields its address."""
    port = free_port()
    lines = [f'site = "clinic-a"\ngateway = "gw-01"\nstore = "{folder / "edge.db"}"\n[http]\nport = {port}\n{more}']
    for person in people:
        where = ttys / person if (ttys / person).is_dir() else ttys
        ports = ", ".join(f'{{ port = "{where / sensor}" }}' for sensor in SENSORS)
        lines.append(f'[[people]]\nsubject = "{person}"\ndevices = [{ports}]\n')
    config, log = folder / "gateway.toml", folder / "run.log"
    config.write_text("\n".join(lines))
    url = f"http://127.0.0.1:{port}/"
    with started([sys.executable, "-m", "kinedge.cli", "run", str(config), "--quiet"], log) as process:
        wait_for("kinedge run", lambda: answers(url + ask), process, log)
        yield url


@contextmanager
def site(folder: Path, *, n_people: int, minutes: float, quiet_s: float, more: str = "") -> Iterator[str]:
    """Run emulated people and their gateway; yields the address of its page."""
    people = [f"p-{i + 1:03d}" for i in range(n_people)]
    ttys, log = folder / "ttys", folder / "emulate.log"
    ttys.mkdir(parents=True)
    command = [sys.executable, __file__, str(ttys), "--people", str(n_people), "--minutes", str(minutes)]
    with started([*command, "--quiet", str(quiet_s)], log) as process:
        wait_for("emulated people", (ttys / "ready").exists, process, log)
        with gateway(folder, people, ttys, more=more) as url:
            yield url


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    """Ask the board to do something."""
    headers = {"Content-Type": "application/json", "X-Kinedge": "1"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--quiet", type=float, default=30.0, help="seconds before anything happens")
    asked = parser.parse_args()
    threading.Thread(
        target=emulate,
        args=(asked.folder,),
        kwargs={"n_people": asked.people, "duration_s": asked.minutes * 60, "quiet_s": asked.quiet},
        daemon=True,
    ).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
