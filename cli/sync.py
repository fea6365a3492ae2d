"""``kinedge sync``: how well the sensors' clocks agree, and what a person can do about it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from kinedge.cli.app import app
from kinedge.cli.record import parse_devices
from kinedge.errors import ConfigError, LinkError, StoreError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.devices.movella_dot import DotSync, MovellaDotDriver
from kinedge.firmware_bridge.open_device import DeviceConfig, open_device
from kinedge.firmware_bridge.sync_file import SyncFile, SyncGroup, delay_floor_ns, read_sync_file, sync_path
from kinedge.firmware_bridge.syncing import Synced, sync_links

__all__ = ["sync"]


@app.command()
def sync(
    config: Annotated[Path | None, typer.Argument(help="The gateway's TOML file.")] = None,
    port: Annotated[list[str] | None, typer.Option(help="As of kinedge record; may be repeated.")] = None,
    sensor: Annotated[list[str] | None, typer.Option(help="PLACE=FAMILY@WHERE; may be repeated.")] = None,
    subject: Annotated[str, typer.Option(help="Only this person of the gateway.")] = "",
    rate_hz: Annotated[float, typer.Option("--rate", min=1, max=10_000, help="Of --port and --sensor, Hz.")] = 100.0,
    baud: Annotated[int, typer.Option(min=1200, max=12_000_000, help="Of --port and --sensor.")] = 115_200,
    dot_root: Annotated[str, typer.Option(help="Sync all Movella DOTs to the one with this address.")] = "",
    knocks: Annotated[int, typer.Option(min=0, max=30, help="Estimate offsets from so many knocks, six are good.")] = 0,
    listen_s: Annotated[float, typer.Option("--listen", min=0, max=600, help="How long clocks are watched.")] = 15.0,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, max=3600, help="For devices, and for knocks.")] = 90.0,
    out: Annotated[Path | None, typer.Option(help="Where offsets go without a gateway file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell how far the sensors' clocks may be apart; sync DOTs, and estimate offsets from knocks, when asked to.

    What was found is kept beside the gateway's store, and `kinedge run` takes it; it must not run meanwhile.

    Example: kinedge sync gateway.toml --subject p-001 --knocks 6
    """
    if knocks and knocks < 3:
        raise ConfigError(f"--knocks {knocks}: one or two tell nothing; make six")
    devices, kept_at = _devices(config, port or [], sensor or [], subject, rate_hz=rate_hz, baud=baud)
    kept_at = out or kept_at
    if (knocks or dot_root) and kept_at is None:
        raise ConfigError("say with --out where the result is to be kept, or name a gateway file")
    before = SyncFile() if kept_at is None else read_sync_file(kept_at)
    if dot_root:
        devices = [_with_root(d, dot_root) for d in devices]
        if sum(_is_dot(d) for d in devices) < 2:
            raise ConfigError("--dot-root: there are no two Movella DOTs to sync")
    radio = BleRadio()
    links = {d.where: open_device(d, radio=radio) for d in devices}
    floors = {d.where: delay_floor_ns(d) for d in devices}
    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        found = asyncio.run(
            sync_links(
                links,
                floors_ns=floors,
                knocks=knocks,
                listen_s=listen_s,
                timeout_s=timeout_s,
                on_tick=lambda text: live.update(escape(text)) if console.is_terminal and not as_json else None,
            )
        )
    if kept_at is not None and (knocks or dot_root):
        _keep(kept_at, _merged(before, found, [*links]))
    _tell(found, kept_at if knocks or dot_root else None, as_json=as_json)
    if found.failed_dots:
        raise LinkError(
            f"{', '.join(found.failed_dots)}: the sync was not taken; bring the DOTs together and try again"
        )


def _devices(
    config: Path | None, ports: list[str], sensors: list[str], subject: str, *, rate_hz: float, baud: int
) -> tuple[list[DeviceConfig], Path | None]:
    """Return the devices that are meant, and where their sync is kept."""
    if config is None:
        devices, kept_at = parse_devices(ports, sensors, rate_hz=rate_hz, baud=baud), None
    elif ports or sensors:
        raise ConfigError("name either a gateway file or --port and --sensor")
    else:
        from kinedge.edge.config import load_gateway_config

        settings = load_gateway_config(config)
        people = [p for p in settings.people if subject in ("", p.subject)]
        if not people:
            raise ConfigError(f"{config}: has no subject {subject!r}")
        devices, kept_at = [d for p in people for d in p.devices], sync_path(settings.store)
    if len(devices) < 2:
        raise ConfigError("name at least two devices: one clock alone needs no sync")
    twice = sorted({d.where for d in devices if [e.where for e in devices].count(d.where) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} stands twice")
    return devices, kept_at


def _is_dot(device: DeviceConfig) -> bool:
    return device.family == MovellaDotDriver.name and device.ble is not None


def _with_root(device: DeviceConfig, root: str) -> DeviceConfig:
    options = {**device.options, "sync_root": root}
    return device.model_copy(update={"options": options}) if _is_dot(device) else device


def _merged(before: SyncFile, found: Synced, heard: Collection[str]) -> SyncFile:
    """Return what was known of other devices, and what is known of these now."""
    groups, offsets = before.groups, before.offsets
    if found.dots:
        groups = tuple(g for g in groups if not set(g.devices) & set(found.dots))
        synced = tuple(w for w, state in found.dots.items() if state is DotSync.ACKNOWLEDGED)
        if len(synced) > 1:
            groups += (SyncGroup(devices=synced, set_utc_ns=time.time_ns()),)
    if found.offsets:
        offsets = tuple(o for o in offsets if o.device not in heard) + found.offsets
    return SyncFile(groups=groups, offsets=offsets)


def _keep(path: Path, sync_file: SyncFile) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(sync_file.model_dump_json(indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as e:
        raise StoreError(f"{path}: cannot be written ({e.strerror})") from e


def _tell(found: Synced, kept_at: Path | None, *, as_json: bool) -> None:
    if as_json:
        told = {
            "clocks": {name: asdict(clock) for name, clock in found.clocks.items()},
            "pairs": [asdict(p) for p in found.pairs],
            "dots": {where: state.value for where, state in found.dots.items()},
            "offsets": [{**o.model_dump(), "used": o.lasts} for o in found.offsets],
            "kept_at": None if kept_at is None else str(kept_at),
        }
        typer.echo(json.dumps(told, indent=2))
        return
    console = Console()
    table = Table("sensor", "where", "clock ±", "time sync")
    for name, clock in found.clocks.items():
        times = f"{clock.exchanges} exchanges" if clock.exchanges else "none: the device tells no time when asked"
        table.add_row(escape(name), escape(clock.where), f"{clock.uncertainty_ms:.1f} ms", times)
    console.print(table)
    for pair in found.pairs:
        console.print(f"{pair.first} and {pair.second}: aligned within {pair.ms:.1f} ms", markup=False)
    for where, state in found.dots.items():
        console.print(f"{where}: sync {state.value}", markup=False)
    for o in found.offsets:
        use = "used by `kinedge run`" if o.lasts else "within what the clocks allow: it may be of this connection alone"
        console.print(f"{o.device}: {o.offset_ms:+.1f} ms ± {o.uncertainty_ms:.1f} by knocks; {use}", markup=False)
    if kept_at is not None:
        console.print(f"kept in {kept_at}", markup=False)
