"""``kinedge emulate``: sensors that are not there, on ttys that are."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kinedge.cli.app import app
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.training.scenario import DemoEvent

__all__ = ["emulate"]


@app.command()
def emulate(
    folder: Annotated[Path, typer.Argument(help="Where the ttys appear, one link per sensor.")] = Path("ttys"),
    duration_s: Annotated[float, typer.Option("--duration", min=5, max=86_400, help="Seconds to simulate.")] = 66.0,
    seed: Annotated[int, typer.Option(min=0, help="Another person and session for each.")] = 0,
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of packets lost on the way.")] = 0.02,
    corruption: Annotated[float, typer.Option(min=0, max=0.1, help="Share of bytes damaged on the wire.")] = 0.0,
    speed: Annotated[float, typer.Option(min=0.1, max=100, help="Device seconds per second.")] = 1.0,
    event: Annotated[
        list[str] | None,
        typer.Option(help="An anomaly, name@sensor:from-to; may be repeated; the demonstration's when left out."),
    ] = None,
    anomalies: Annotated[bool, typer.Option(help="Put anomalies in at all.")] = True,
    unplug: Annotated[
        str, typer.Option(help="Pull a sensor's cable for a while: sensor:from-to, such as wrist_left:56-60.")
    ] = "",
    ready_file: Annotated[Path | None, typer.Option(help="Written as JSON once the ttys are there.")] = None,
) -> None:
    """Stream a simulated person's wrist sensors over real ttys, in real time, with loss and anomalies.

    Example: kinedge emulate ttys --loss 0.05 --unplug wrist_left:56-60
    """
    from kinedge.firmware_bridge.emulator import Faults
    from kinedge.firmware_bridge.replay import play_on_ptys
    from kinedge.training.scenario import DEMO_EVENTS, demo_recording, events_of

    cable = _parse_times(unplug, "--unplug") if unplug else None
    events = DEMO_EVENTS if event is None else tuple(_parse_event(e) for e in event)
    recording = demo_recording(seed=seed, duration_s=duration_s, events=events if anomalies else ())
    faults = Faults(loss=loss, mean_burst=2.0, corruption=corruption)
    devices = play_on_ptys(recording, folder, speed=speed, faults=faults, seed=seed)
    if cable is not None and cable[0] not in devices:
        raise ConfigError(f"--unplug: no sensor {cable[0]!r}; there are {', '.join(devices)}")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    for device in devices.values():
        device.start()
    start_utc_ns = time.time_ns()
    start_ns = time.monotonic_ns()
    truth = [
        {
            "name": e.name,
            "sensors": list(e.sensors),
            "start_utc_ns": start_utc_ns + round(e.start_s / speed * 1e9),
            "end_utc_ns": start_utc_ns + round(e.end_s / speed * 1e9),
        }
        for e in events_of(recording)
    ]
    console = Console(stderr=True)
    for device in devices.values():
        console.print(f"{device.link_path}", highlight=False)
    if ready_file is not None:
        ports = {name: str(d.link_path.absolute()) for name, d in devices.items()}
        beside = ready_file.with_name(ready_file.name + ".part")
        beside.write_text(json.dumps({"pid": os.getpid(), "ports": ports, "events": truth}))
        beside.replace(ready_file)
    pulled = False
    try:
        while not stop.is_set() and not all(d.finished for d in devices.values()):
            if cable is not None:
                name, pull_s, push_s = cable
                elapsed_s = (time.monotonic_ns() - start_ns) / 1e9 * speed
                out = pull_s <= elapsed_s < push_s
                if out != pulled:
                    (devices[name].unplug if out else devices[name].replug)()
                    pulled = out
            stop.wait(0.05)
    finally:
        for device in devices.values():
            device.stop()


def _parse_times(text: str, option: str) -> tuple[str, float, float]:
    what, _, times = text.rpartition(":")
    start, _, end = times.partition("-")
    try:
        start_s, end_s = float(start), float(end)
    except ValueError as e:
        raise ConfigError(f"{option} {text!r}: expected ...:from-to in seconds, such as wrist_left:56-60") from e
    if not 0 <= start_s < end_s:
        raise ConfigError(f"{option} {text!r}: it must end after it began")
    return what, start_s, end_s


def _parse_event(text: str) -> DemoEvent:
    from kinedge.training.scenario import DemoEvent

    what, start_s, end_s = _parse_times(text, "--event")
    name, _, sensor = what.partition("@")
    return DemoEvent(name, sensor, start_s, end_s)
