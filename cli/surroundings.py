"""What is around this machine: ports, radio, and who is heard there; ``doctor`` and ``scan`` tell it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.markup import escape
from rich.table import Table

from kinedge.errors import KinedgeError, LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio, Heard
from kinedge.firmware_bridge.device import SERIAL_CHANNEL, Command, SessionConfig
from kinedge.firmware_bridge.devices.registry import driver, drivers
from kinedge.firmware_bridge.links import LinkData, LinkOpened
from kinedge.firmware_bridge.links_serial import SerialLink
from kinedge.firmware_bridge.session_link import SessionLink
from kinedge.signals import ImuChunk

__all__ = [
    "BROKEN",
    "NOTE",
    "OK",
    "Finding",
    "check_bluetooth",
    "check_port",
    "check_ports",
    "families_on",
    "hear_port",
    "printable",
    "table_of",
]

OK: Final = "ok"
NOTE: Final = "note"
BROKEN: Final = "broken"
_STYLE: Final = {OK: "green", NOTE: "yellow", BROKEN: "red"}
_BLUETOOTH_TIMEOUT_S: Final = 10.0
_BAUDS: Final = (115_200, 9_600)
_MAX_HEARD_BYTES: Final = 1 << 16


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


def table_of(findings: Sequence[Finding]) -> Table:
    """Lay findings out, with the advice below each."""
    table = Table(show_header=False)
    for f in findings:
        text = escape(f.text) + (f"\n[bold]{escape(f.advice)}[/bold]" if f.advice else "")
        table.add_row(f"[{_STYLE[f.state]}]{f.state}[/]", escape(f.what), text)
    return table


def printable(text: str) -> str:
    """Replace what would move a terminal's cursor: names come from the air, and anybody may send them."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


async def check_ports(wanted: Sequence[str], *, listen_s: float) -> list[Finding]:
    """Look at all ports of this machine, and listen to those that can be used.

    Parameters
    ----------
    wanted
        Ports that must be usable, whether the system lists them or not.
    listen_s
        0 opens no port.
    """
    from serial.tools.list_ports import comports

    present = {str(p.device): str(p.description) for p in comports()}
    paths = list(dict.fromkeys([*wanted, *present]))
    if not paths:
        return [Finding("serial ports", NOTE, "there are none", "plug a device in; a charging cable carries no data")]
    findings = []
    for path in paths:
        findings.append(check_port(path, description=present.get(path, ""), needed=path in wanted))
        if findings[-1].state == OK and listen_s:
            findings.append(await hear_port(path, listen_s=listen_s))
    return findings


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
    what, bad = f"port {path}", BROKEN if needed else NOTE
    try:
        status = os.stat(path)
    except OSError as e:
        return Finding(what, bad, f"is not there ({e.strerror})", "plug the device in, or name another port")
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(what, OK, description or "can be read and written")
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
    """Ask who is behind a port and, where it is one of ours, how its samples come.

    Takes ``listen_s`` where kinedge's own protocol is spoken, up to three times as long where it is not.
    """
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
    if heard:
        return Finding(what, OK, "; ".join(_describe(name, chunks) for name, chunks in heard.items()))
    n_bytes = link.counters.bytes
    for baud in _BAUDS:
        families, n_heard = await families_on(path, baud=baud, listen_s=listen_s)
        n_bytes += n_heard
        if families:
            return Finding(what, OK, f"{' or '.join(families)} at {baud} baud")
    said = f"{n_bytes} bytes, but of no known family" if n_bytes else "nothing"
    tried = " and ".join(map(str, _BAUDS))
    return Finding(what, NOTE, said, f"see that the device is on; {tried} baud were tried, it may speak at another")


async def families_on(path: str, *, baud: int, listen_s: float) -> tuple[tuple[str, ...], int]:
    """Send every family's question to a port; return the families that recognise what comes, and how much came.

    Bytes of before and after the questions count alike; at most 64 KiB are listened to.
    """
    candidates = {name: d for name, d in drivers().items() if "serial" in d.transports}
    link = SerialLink(path, baud=baud)
    heard = bytearray()
    families: tuple[str, ...] = ()

    async def listen() -> None:
        nonlocal families
        async for event in link.events():
            if isinstance(event, LinkOpened):
                for candidate in candidates.values():
                    if probe := candidate.serial_probe():
                        with contextlib.suppress(LinkError):  # a port that takes nothing may still speak
                            await link.send(Command(SERIAL_CHANNEL, probe))
            elif isinstance(event, LinkData):
                heard.extend(event.data)
                families = tuple(name for name, d in candidates.items() if d.recognise_serial(bytes(heard)))
                if families or len(heard) > _MAX_HEARD_BYTES:
                    return

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(listen(), listen_s)
    await link.close()
    return families, len(heard)


def _describe(name: str, chunks: list[ImuChunk]) -> str:
    n, lost = sum(map(len, chunks)), sum(c.lost for c in chunks)
    span_ns = int(chunks[-1].device_time_ns[-1]) - int(chunks[0].device_time_ns[0])
    rate = f"{(n + lost - 1) * 1e9 / span_ns:.1f} Hz" if span_ns else "one packet"
    return f"{name}: {n} samples at {rate}, {lost} lost"


async def check_bluetooth(radio: BleRadio, *, listen_s: float) -> tuple[Finding, list[Heard]]:
    """Listen: the one test that tells whether an adapter, its service and the permission are all there.

    Returns
    -------
    bluetooth
        Whether there is one, and what is in the way.
    heard
        The nearest first; empty where there is no Bluetooth.
    """
    try:
        scan = radio.scan(duration_s=listen_s, drivers=drivers())
        heard = await asyncio.wait_for(scan, listen_s + _BLUETOOTH_TIMEOUT_S)
    except KinedgeError as e:
        return Finding("bluetooth", NOTE, str(e), "only needed for sensors without a cable"), []
    except asyncio.TimeoutError:
        text = f"the adapter does not answer within {_BLUETOOTH_TIMEOUT_S:g} s"
        return Finding("bluetooth", BROKEN, text, "restart the service: sudo systemctl restart bluetooth"), []
    return Finding("bluetooth", OK, "an adapter is there and listens"), heard
