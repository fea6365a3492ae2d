"""What is around this machine: ports, radio, and who is heard there; ``doctor`` and ``scan`` tell it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
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
from kinedge.firmware_bridge.links_seeking import TellsIdentity, common_bauds
from kinedge.firmware_bridge.links_serial import SerialLink
from kinedge.firmware_bridge.ports import SerialPort, list_ports
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
_OURS: Final = "kinedge"
_ANSWER_S: Final = 0.3
_QUIET_SPEEDS: Final = len(_BAUDS)  # so many where nothing is heard at all
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
    configure
        The line of a configuration that means this device, wherever it is plugged in; empty where there is none.
    """

    what: str
    state: str
    text: str
    advice: str = ""
    configure: str = ""


def table_of(findings: Sequence[Finding]) -> Table:
    """Lay findings out, with what to configure and the advice below each."""
    table = Table(show_header=False)
    for f in findings:
        text = escape(f.text) + (f"\n[cyan]{escape(f.configure)}[/cyan]" if f.configure else "")
        text += f"\n[bold]{escape(f.advice)}[/bold]" if f.advice else ""
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
    present = {port.path: port for port in list_ports()}
    paths = list(dict.fromkeys([*wanted, *present]))
    if not paths:
        return [Finding("serial ports", NOTE, "there are none", "plug a device in; a charging cable carries no data")]
    findings = []
    for path in paths:
        findings.append(check_port(path, listed=present.get(path), needed=path in wanted))
        if findings[-1].state == OK and listen_s:
            findings.append(await hear_port(path, listen_s=listen_s))
    return findings


def check_port(path: str, *, listed: SerialPort | None = None, needed: bool = True) -> Finding:
    """Look at a port without opening it: opening one makes some boards start anew.

    Parameters
    ----------
    path
        Such as ``/dev/ttyACM0``.
    listed
        What the system says of the device.
    needed
        Whether a port that cannot be used is broken, or only noted.
    """
    what, bad = f"port {path}", BROKEN if needed else NOTE
    try:
        status = os.stat(path)
    except OSError as e:
        return Finding(what, bad, f"is not there ({e.strerror})", "plug the device in, or name another port")
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(what, OK, _told(listed) or "can be read and written", configure=_usb_line(listed))
    group = str(status.st_gid)
    with contextlib.suppress(ImportError, KeyError):
        group = importlib.import_module("grp").getgrgid(status.st_gid).gr_name
    # a port of group root, or without group rights, needs a udev rule: joining root would be no advice
    joins = group not in ("0", "root") and status.st_mode & 0o060 == 0o060
    advice = (
        f"sudo usermod -aG {group} $USER, then log in again"
        if joins
        else "give it to the group dialout with a udev rule; docs/serial-ports.md has one"
    )
    text = f"this user may not use it (it belongs to the group {group})"
    return Finding(what, bad, text, advice, _usb_line(listed))


def _told(port: SerialPort | None) -> str:
    if port is None:
        return ""
    return printable(
        " ".join(word for word in (port.description, port.usb_id and f"[{port.usb_id}]", port.by_id) if word)
    )


def _usb_line(port: SerialPort | None) -> str:
    """Return how a configuration means the USB chip of a port; nothing where the chip cannot be told from others."""
    if port is None or not port.usb_serial or not port.usb_serial.isprintable():
        return ""
    return f"usb = {json.dumps(port.usb_serial, ensure_ascii=False)}"


async def hear_port(path: str, *, listen_s: float) -> Finding:
    """Find out who is behind a port and, where it is one of ours, how its samples come.

    Takes up to twice ``listen_s`` where kinedge's own protocol is spoken. Elsewhere it takes ``listen_s`` for each line
    speed that is tried: two, and all that any family is met at where something is heard that nobody understands.
    """
    what, n_bytes, tried = f"heard on {path}", 0, 0
    for baud in _speeds():
        if tried >= _QUIET_SPEEDS and not n_bytes:
            break
        tried += 1
        families, said = await families_on(path, baud=baud, listen_s=listen_s)
        n_bytes += len(said)
        if not families:
            continue
        lines = [f"family = {json.dumps(families[0])}"] if families[0] != _OURS else []
        lines += [f"baud = {baud}"] if baud != _BAUDS[0] or lines else []
        told = sorted({name for family in families for name in _identities(family, said)})
        lines += [f"serial_number = {json.dumps(name, ensure_ascii=False)}" for name in told]
        text = f"{' or '.join(families)} at {baud} baud"
        if families == (_OURS,):
            text = await _fares(path, baud=baud, listen_s=listen_s) or text
        return Finding(what, OK, text, configure=", ".join(lines))
    text = f"{n_bytes} bytes, but of no known family" if n_bytes else "nothing"
    speeds = ", ".join(map(str, _speeds()[:tried]))
    return Finding(what, NOTE, text, f"see that the device is on; tried were {speeds} baud, it may speak at another")


def _speeds() -> list[int]:
    """Return all line speeds at which some family is met, those of most families first."""
    offered = [b for d in drivers().values() if "serial" in d.transports for b in common_bauds(d)]
    return list(dict.fromkeys([*_BAUDS, *sorted(offered, key=lambda b: (-offered.count(b), -b))]))


def _identities(family: str, data: bytes) -> Sequence[str]:
    known = driver(family)
    return known.identities_in(data) if isinstance(known, TellsIdentity) else ()


async def _fares(path: str, *, baud: int, listen_s: float) -> str:
    """Return how the samples of kinedge's own devices come; nothing where none come."""
    config = SessionConfig("unnamed", options={"placement": "device"})
    link = SessionLink(SerialLink(path, baud=baud), driver(_OURS).open(config, transport="serial"))
    heard: dict[str, list[ImuChunk]] = {}

    async def listen() -> None:
        async for event in link.events():
            if isinstance(event, ImuChunk):
                heard.setdefault(event.sensor, []).append(event)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(listen(), listen_s)
    await link.close()
    return "; ".join(_describe(name, chunks) for name, chunks in heard.items())


async def families_on(path: str, *, baud: int, listen_s: float) -> tuple[tuple[str, ...], bytes]:
    """Ask every family's question on a port; return the families that recognise what comes, and what came.

    The shortest question comes first, and there is time for its answer: to a Shimmer3, whose commands are single bytes,
    the longer ones of others are commands, too. Once a family is recognised it is asked who it is, where it can tell:
    an Xsens MTi is silent then, until a session starts it. At most 64 KiB are listened to.
    """
    candidates = {name: d for name, d in drivers().items() if "serial" in d.transports}
    questions = sorted((q for d in candidates.values() if (q := d.serial_probe())), key=len)
    link = SerialLink(path, baud=baud)
    heard, opened, recognised = bytearray(), asyncio.Event(), asyncio.Event()
    families: tuple[str, ...] = ()

    async def listen() -> None:
        nonlocal families
        async for event in link.events():
            if isinstance(event, LinkOpened):
                opened.set()
            elif isinstance(event, LinkData):
                heard.extend(event.data)
                if not families:
                    families = tuple(name for name, d in candidates.items() if d.recognise_serial(bytes(heard)))
                tellers = [f for f in families if isinstance(candidates[f], TellsIdentity)]
                if families:
                    recognised.set()
                told = any(_identities(family, bytes(heard)) for family in tellers)
                if len(heard) > _MAX_HEARD_BYTES or told or (families and not tellers):
                    return

    async def ask() -> None:
        await opened.wait()
        for question in itertools.cycle(questions):
            await say(Command(SERIAL_CHANNEL, question))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(recognised.wait(), min(_ANSWER_S, listen_s / 6))
                break
        for teller in (candidates[family] for family in families):
            for command in teller.identity_commands() if isinstance(teller, TellsIdentity) else ():
                await say(command)

    async def say(command: Command) -> None:
        with contextlib.suppress(LinkError):  # a port that takes nothing may still speak
            await link.send(command)
        await asyncio.sleep(command.pause_s)

    asking = asyncio.create_task(ask())
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(listen(), listen_s)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await link.close()
    return families, bytes(heard)


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
