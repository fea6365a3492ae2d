"""``kinedge scan``: which sensors are near, on the air and on the ports."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kinedge.cli.app import app
from kinedge.cli.surroundings import OK, Finding, check_bluetooth, check_ports, printable, table_of
from kinedge.errors import ConfigError, LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio, Heard
from kinedge.firmware_bridge.lsl import HeardStream, heard_streams

__all__ = ["Surroundings", "look_around", "scan", "tell"]

_LSL_S: Final = 2.0  # streams answer at once


@dataclass(frozen=True)
class Surroundings:
    """What was heard and seen.

    Parameters
    ----------
    bluetooth
        Whether the radio works.
    heard
        On the air, the nearest first.
    ports
        Each port, and what was heard on it where it was listened to.
    streams
        Of LSL, where that is installed.
    """

    bluetooth: Finding
    heard: tuple[Heard, ...]
    ports: tuple[Finding, ...]
    streams: tuple[HeardStream, ...] = ()


@app.command()
def scan(
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long to listen on the air.")] = 5.0,
    port: Annotated[
        list[str] | None, typer.Option(help="A port that the system does not list; may be repeated.")
    ] = None,
    listen_s: Annotated[
        float, typer.Option("--listen", min=0, max=60, help="Listen on each port, too, so many seconds.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """List the Bluetooth devices near, which family each is of, the serial ports, and streams of LSL.

    Each comes with the line of a configuration that means this device wherever it is plugged in. Listening opens the
    ports, which makes some boards start anew, and tries other line speeds where nothing is understood. Exit status 1
    without Bluetooth.

    Example: kinedge scan --seconds 10 --listen 3
    """
    tell(asyncio.run(look_around(BleRadio(), port or [], seconds=seconds, listen_s=listen_s)), as_json=as_json)


async def look_around(radio: BleRadio, ports: list[str], *, seconds: float, listen_s: float) -> Surroundings:
    """Listen on the air, then look at the ports (and listen to them for ``listen_s`` each)."""
    streams = asyncio.create_task(asyncio.to_thread(_lsl_streams, seconds))
    bluetooth, heard = await check_bluetooth(radio, listen_s=seconds)
    found = await check_ports(ports, listen_s=listen_s)
    return Surroundings(bluetooth, tuple(heard), tuple(found), await streams)


def _lsl_streams(seconds: float) -> tuple[HeardStream, ...]:
    try:
        return tuple(heard_streams(seconds=min(seconds, _LSL_S)))
    except ConfigError:  # not installed: then nobody here uses it
        return ()


def tell(found: Surroundings, *, as_json: bool) -> None:
    """Print what was found.

    Raises
    ------
    LinkError
        There is no Bluetooth; everything else has been printed.
    """
    if as_json:
        devices = [
            {
                "address": h.advertisement.address,
                "name": h.advertisement.name,
                "families": list(h.families),
                "rssi_dbm": h.advertisement.rssi_dbm,
                "configure": _ble_line(h),
            }
            for h in found.heard
        ]
        parts: dict[str, Any] = {
            "bluetooth": asdict(found.bluetooth),
            "devices": devices,
            "ports": [asdict(f) for f in found.ports],
        }
        parts["lsl"] = [asdict(s) for s in found.streams]
        typer.echo(json.dumps(parts, indent=2))
    else:
        console = Console()
        if found.bluetooth.state == OK:
            console.print(_table(found.heard) if found.heard else "nothing was heard on the air")
        console.print(table_of(found.ports))
        if found.streams:
            console.print(_lsl_table(found.streams))
    if found.bluetooth.state != OK:
        raise LinkError(f"{found.bluetooth.text} ({found.bluetooth.advice})")


def _table(heard: tuple[Heard, ...]) -> Table:
    table = Table("configure", "name", "family")
    table.add_column("dBm", justify="right")
    for h in heard:
        a = h.advertisement
        strength = "" if a.rssi_dbm is None else str(a.rssi_dbm)
        families = f"[green]{escape(', '.join(h.families))}[/green]" if h.families else ""
        table.add_row(escape(_ble_line(h)), escape(printable(a.name)), families, strength)
    return table


def _ble_line(heard: Heard) -> str:
    return f"ble = {json.dumps(heard.advertisement.address)}"


def _lsl_table(streams: tuple[HeardStream, ...]) -> Table:
    table = Table("LSL stream", "source id", "type", "on")
    for column in ("channels", "Hz"):
        table.add_column(column, justify="right")
    for s in streams:
        texts = (escape(printable(text)) for text in (s.name, s.source_id, s.kind, s.host))
        table.add_row(*texts, str(s.n_channels), f"{s.rate_hz:g}" if s.rate_hz else "irregular")
    return table
