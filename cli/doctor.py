"""``kinedge doctor``: what stands between this machine and its sensors, and what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kinedge import __version__
from kinedge.bundle import read_bundle
from kinedge.cli.app import app
from kinedge.edge.backends import load_backend
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import KinedgeError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.device import SessionConfig
from kinedge.firmware_bridge.devices.registry import driver, drivers
from kinedge.firmware_bridge.links_serial import SerialLink
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk

__all__ = ["Finding", "check_model", "check_port", "doctor", "hear_port"]

_NEEDED: Final = ("numpy", "onnxruntime", "pydantic", "pyserial", "bleak")
_OPTIONAL: Final = {"pyarrow": "record", "torch": "train", "fastapi": "upstream", "pylsl": "lsl"}
_BLUETOOTH_TIMEOUT_S: Final = 10.0
_OK, _NOTE, _BROKEN = "ok", "note", "broken"
_STYLE: Final = {_OK: "green", _NOTE: "yellow", _BROKEN: "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    what
        Such as ``port /dev/ttyACM0``.
    state
        ``ok``, ``note`` (fine for most, or nothing that can be mended here) or ``broken``.
    text
        What was found.
    advice
        What to do about it, empty where nothing is.
    """

    what: str
    state: str
    text: str
    advice: str = ""


@app.command()
def doctor(
    port: Annotated[list[str] | None, typer.Option(help="A port that must be usable; may be repeated.")] = None,
    bundle: Annotated[Path, typer.Option(help="The model that must load.")] = DEFAULT_BUNDLE,
    listen_s: Annotated[
        float, typer.Option("--listen", min=0, max=60, help="Listen for devices so many seconds.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check versions, ports, Bluetooth and the model; exit status 1 when something is broken.

    Listening opens the ports, which makes some boards start anew.

    Example: kinedge doctor --port /dev/ttyACM0 --listen 3
    """
    findings = [*_check_versions(), check_model(bundle), *_check_ports(port or [], listen_s)]
    findings += asyncio.run(_check_bluetooth(listen_s))
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        table = Table(show_header=False)
        for f in findings:
            text = escape(f.text) + (f"\n[bold]{escape(f.advice)}[/bold]" if f.advice else "")
            table.add_row(f"[{_STYLE[f.state]}]{f.state}[/]", escape(f.what), text)
        Console().print(table)
    if any(f.state == _BROKEN for f in findings):
        raise typer.Exit(1)


def _check_versions() -> Iterator[Finding]:
    yield Finding("kinedge", _OK, f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    for name in _NEEDED:
        try:
            yield Finding(name, _OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, _BROKEN, "is not installed", f"{sys.executable} -m pip install kinedge")
    for name, extra in _OPTIONAL.items():
        try:
            yield Finding(name, _OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            advice = f"if you need it: pip install 'kinedge[{extra}]'"
            yield Finding(name, _NOTE, f"is not installed; belongs to the extra '{extra}'", advice)


def check_model(bundle: Path) -> Finding:
    """Load a bundle and let it make one step."""
    what = f"model {bundle.name}"
    try:
        loaded = read_bundle(bundle)
        manifest = loaded.manifest
        backend = load_backend(loaded)
        x = np.zeros((1, manifest.hop, manifest.n_channels), np.float32)
        state = np.zeros((1, manifest.state_size), np.float32)
        mu, log_sigma, _ = backend.step(x, np.ones_like(x), state)
    except KinedgeError as e:
        return Finding(what, _BROKEN, str(e), "install kinedge again, or name a bundle of this version with --bundle")
    if not (np.isfinite(mu).all() and np.isfinite(log_sigma).all()):
        advice = "onnxruntime computes wrongly on this machine; try another version of it"
        return Finding(what, _BROKEN, "a step on quiet input gives no numbers", advice)
    return Finding(what, _OK, f"every digest holds, and it makes a step with {backend.name}")


def _check_ports(wanted: list[str], listen_s: float) -> Iterator[Finding]:
    from serial.tools.list_ports import comports

    present = {str(p.device): str(p.description) for p in comports()}
    paths = list(dict.fromkeys([*wanted, *present]))
    if not paths:
        yield Finding("serial ports", _NOTE, "there are none", "plug a device in; a charging cable carries no data")
    for path in paths:
        finding = check_port(path, description=present.get(path, ""), needed=path in wanted)
        yield finding
        if finding.state == _OK and listen_s:
            yield asyncio.run(hear_port(path, listen_s=listen_s))


def check_port(path: str, *, description: str = "", needed: bool = True) -> Finding:
    """Look at a port without opening it: opening one makes some boards start anew.

    Parameters
    ----------
    path
        Such as ``/dev/ttyACM0``.
    description
        What the system calls the device.
    needed
        Whether a port that cannot be used is broken, or only noted.
    """
    what, bad = f"port {path}", _BROKEN if needed else _NOTE
    try:
        status = os.stat(path)
    except OSError as e:
        return Finding(what, bad, f"is not there ({e.strerror})", "plug the device in, or name another port")
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(what, _OK, description or "can be read and written")
    group = str(status.st_gid)
    with contextlib.suppress(ImportError, KeyError):
        group = importlib.import_module("grp").getgrgid(status.st_gid).gr_name
    # a port of group root, or without group rights, needs a udev rule: joining root would be no advice
    joins = group not in ("0", "root") and status.st_mode & 0o060 == 0o060
    advice = (
        f"sudo usermod -aG {group} $USER, then log in again"
        if joins
        else "give it to the group dialout with a udev rule; the documentation of the serial link has one"
    )
    return Finding(what, bad, f"this user may not use it (it belongs to the group {group})", advice)


async def hear_port(path: str, *, listen_s: float) -> Finding:
    """Ask who is behind a port in kinedge's own protocol, and how its samples come."""
    config = SessionConfig("unnamed", options={"placement": "device"})
    link = SessionLink(SerialLink(path), driver("kinedge").open(config, transport="serial"))
    heard: dict[str, list[ImuChunk]] = {}

    async def listen() -> None:
        async for event in link.events():
            if isinstance(event, ImuChunk):
                heard.setdefault(event.sensor, []).append(event)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(listen(), listen_s)
    await link.close()
    what = f"heard on {path}"
    if not heard:
        counters = link.counters
        said = f"{counters.bytes} bytes, but no samples" if counters.bytes else "nothing"
        return Finding(what, _NOTE, said, "see that the device is on, and speaks kinedge's protocol at 115200 baud")
    return Finding(what, _OK, "; ".join(_describe(name, chunks) for name, chunks in heard.items()))


def _describe(name: str, chunks: list[ImuChunk]) -> str:
    n, lost = sum(map(len, chunks)), sum(c.lost for c in chunks)
    span_ns = int(chunks[-1].device_time_ns[-1]) - int(chunks[0].device_time_ns[0])
    rate = f"{(n + lost - 1) * 1e9 / span_ns:.1f} Hz" if span_ns else "one packet"
    return f"{name}: {n} samples at {rate}, {lost} lost"


async def _check_bluetooth(listen_s: float) -> list[Finding]:
    """Start a scan: the one test that tells whether an adapter, its service and the permission are all there."""
    try:
        radio = BleRadio()
        scan = radio.scan(duration_s=listen_s, drivers=drivers())
        found = await asyncio.wait_for(scan, listen_s + _BLUETOOTH_TIMEOUT_S)
    except KinedgeError as e:
        return [Finding("bluetooth", _NOTE, str(e), "only needed for sensors without a cable")]
    except asyncio.TimeoutError:
        advice = "restart the service: sudo systemctl restart bluetooth"
        return [Finding("bluetooth", _BROKEN, f"the adapter does not answer within {_BLUETOOTH_TIMEOUT_S:g} s", advice)]
    findings = [Finding("bluetooth", _OK, "an adapter is there and listens")]
    known: list[Any] = [h for h in found if h.families]
    if listen_s and not known:
        advice = "wake the sensors up, bring them near, and see that nothing else is connected to them"
        findings.append(Finding("bluetooth", _NOTE, f"{len(found)} devices heard, none of a known family", advice))
    for h in known:
        a = h.advertisement
        strength = "" if a.rssi_dbm is None else f", {a.rssi_dbm} dBm"
        findings.append(
            Finding(f"heard {a.address}", _OK, f"{a.name or '(no name)'}: {', '.join(h.families)}{strength}")
        )
    return findings
