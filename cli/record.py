"""``kinedge record``: sensors to a session on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from kinedge.cli.app import app
from kinedge.cli.record_xdf import import_xdf
from kinedge.errors import ConfigError, LinkError
from kinedge.firmware_bridge.ble_radio import BleRadio
from kinedge.firmware_bridge.open_device import DeviceConfig, DeviceLink, open_device
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.firmware_bridge.session_link import SessionEvent
from kinedge.firmware_bridge.session_log import Progress, SessionLog

__all__ = ["Progress", "open_links", "parse_devices", "record", "record_links"]

_TICK_S: Final = 0.25
_QUEUED_EVENTS: Final = 1024


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="A new folder for the session.")],
    port: Annotated[
        list[str] | None, typer.Option(help="A port where kinedge's own protocol is spoken; may be repeated.")
    ] = None,
    sensor: Annotated[
        list[str] | None,
        typer.Option(
            help="A device, as PLACE=FAMILY@WHERE (a port, an address, usb:CHIP or id:SERIAL); may be repeated."
        ),
    ] = None,
    lsl: Annotated[
        list[str] | None, typer.Option(help="A stream of LSL, as PLACE=NAME or PLACE=SOURCE_ID; may be repeated.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="Unit of a quantity where a stream tells none, such as acc=g or gyr=deg/s.")
    ] = None,
    from_xdf: Annotated[
        Path | None, typer.Option(help="Take the streams named by --lsl from this XDF file, not from the network.")
    ] = None,
    rate_hz: Annotated[float, typer.Option("--rate", min=1, max=10_000, help="Wanted rate, Hz.")] = 100.0,
    baud: Annotated[int, typer.Option(min=1200, max=12_000_000, help="Line speed; USB ignores it.")] = 115_200,
    duration_s: Annotated[float, typer.Option("--duration", min=0, help="Seconds; 0: until Ctrl-C.")] = 0.0,
    segment_s: Annotated[float, typer.Option("--segment", min=0.5, max=600, help="What a cut loses, s.")] = 5.0,
    subject: Annotated[str, typer.Option(help="Pseudonym of the person, kept with the session.")] = "",
    note: Annotated[str, typer.Option(help="Anything else worth knowing.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Record sensors as Parquet, until Ctrl-C; whatever happens, at most the last seconds are lost.

    Example: kinedge record monday --port /dev/ttyACM0 --sensor chest=polar_pmd@A0:9E:1A:00:00:01

    Example: kinedge record tuesday --from-xdf tuesday.xdf --lsl wrist_left=Muse-4F21
    """
    facts = {k: v for k, v in (("subject", subject), ("note", note)) if v}
    streams, units = _pairs("--lsl", lsl or []), _pairs("--unit", unit or [])
    if from_xdf is not None:
        if port or sensor:
            raise ConfigError("--from-xdf takes streams of the file alone; leave --port and --sensor out")
        writer, progress = import_xdf(from_xdf, streams, out, unit_of=units, segment_s=segment_s, facts=facts)
        _tell(out, writer, progress, as_json=as_json)
        return
    links = open_links(port or [], sensor or [], rate_hz=rate_hz, baud=baud, lsl=streams, units=units)
    progress = Progress()
    started_s = time.monotonic()
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(SessionWriter(out, segment_s=segment_s, facts=facts))
        live = None
        if console.is_terminal and not as_json:
            live = stack.enter_context(Live(console=console, refresh_per_second=4, transient=True))

        def on_tick() -> None:
            if live is not None:
                live.update(_line(progress, writer, time.monotonic() - started_s))

        asyncio.run(_record(links, writer, progress, on_tick, duration_s=duration_s))
    _tell(out, writer, progress, as_json=as_json)


async def _record(
    links: Mapping[str, DeviceLink],
    writer: SessionWriter,
    progress: Progress,
    on_tick: Callable[[], None],
    *,
    duration_s: float,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if duration_s:
        loop.call_later(duration_s, stop.set)
    await record_links(links, writer, stop=stop, progress=progress, on_tick=on_tick)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value) or key in pairs:
            raise ConfigError(f"{option} {text!r}: expected NAME=VALUE, each name once")
        pairs[key] = value
    return pairs


def open_links(
    ports: list[str],
    sensors: list[str],
    *,
    rate_hz: float,
    baud: int,
    lsl: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> dict[str, DeviceLink]:
    """Make a link for every port, every ``PLACE=FAMILY@WHERE`` and every stream of LSL by place; by where it is.

    Raises
    ------
    ConfigError
        There is none, one stands twice, or one cannot be meant.
    """
    wanted = parse_devices(ports, sensors, rate_hz=rate_hz, baud=baud)
    wanted += [
        DeviceConfig.model_validate({"sensor": place, "lsl": name, "options": dict(units or {})})
        for place, name in (lsl or {}).items()
    ]
    radio = BleRadio()
    links: dict[str, DeviceLink] = {}
    for config in wanted:
        if config.where in links:
            raise ConfigError(f"{config.where} stands twice; a device can be recorded once")
        links[config.where] = open_device(config, radio=radio)
    if not links:
        raise ConfigError("nothing to record: name a port with --port, a device with --sensor, or a stream with --lsl")
    return links


def parse_devices(ports: list[str], sensors: list[str], *, rate_hz: float, baud: int) -> list[DeviceConfig]:
    """Return the devices that are meant by ports and by ``PLACE=FAMILY@WHERE``.

    Raises
    ------
    ConfigError
        One cannot be meant.
    """
    wanted = [DeviceConfig(port=port, rate_hz=rate_hz, baud=baud) for port in ports]
    return wanted + [_parse_sensor(text, rate_hz=rate_hz, baud=baud) for text in sensors]


def _parse_sensor(text: str, *, rate_hz: float, baud: int) -> DeviceConfig:
    place, equals, rest = text.partition("=")
    family, at, where = rest.partition("@")
    if not (equals and at and place and family and where):
        raise ConfigError(f"--sensor {text!r}: expected PLACE=FAMILY@WHERE, such as wrist_left=witmotion@/dev/ttyUSB0")
    own = {"struct_map": family} if family.endswith(".toml") else {"family": family}
    return DeviceConfig.model_validate(
        {"sensor": place, **DeviceConfig.way_of(where), "rate_hz": rate_hz, "baud": baud, **own}
    )


async def record_links(
    links: Mapping[str, DeviceLink],
    writer: SessionWriter,
    *,
    stop: asyncio.Event,
    progress: Progress | None = None,
    on_tick: Callable[[], None] = lambda: None,
) -> Progress:
    """Write what the links bring until ``stop`` is set; the writer stays open.

    The disk is written to in a thread, so that it delays no time stamp.

    Raises
    ------
    KinedgeError
        A link or the disk failed for a reason that waiting does not mend; what was taken in is kept.
    """
    progress = Progress() if progress is None else progress
    queue: asyncio.Queue[tuple[str, SessionEvent]] = asyncio.Queue(_QUEUED_EVENTS)
    log = SessionLog(writer, progress)
    ended = asyncio.Event()

    async def bring(name: str, link: DeviceLink) -> None:
        async for event in link.events():
            await queue.put((name, event))

    def keep_batch(batch: list[tuple[str, SessionEvent]]) -> None:
        for name, event in batch:
            log.take(name, event)
        writer.flush_if_due()

    async def keep() -> None:
        while not (ended.is_set() and queue.empty()):
            batch: list[tuple[str, SessionEvent]] = []
            with contextlib.suppress(asyncio.TimeoutError):
                batch.append(await asyncio.wait_for(queue.get(), _TICK_S))
            while not queue.empty():
                batch.append(queue.get_nowait())
            await asyncio.to_thread(keep_batch, batch)
            on_tick()

    bringing = [asyncio.create_task(bring(name, link), name=f"record {name}") for name, link in links.items()]
    keeping = asyncio.create_task(keep(), name="record")
    # without a keeper nobody empties the queue, and they would wait for ever
    keeping.add_done_callback(lambda _: [task.cancel() for task in bringing])
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*bringing, keeping, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        for link in links.values():
            await link.close()
        await asyncio.gather(*bringing, return_exceptions=True)
        ended.set()
        await asyncio.gather(keeping, stopping, return_exceptions=True)
    for task in (keeping, *bringing):
        if not task.cancelled():
            task.result()  # raises what ended it
    return progress


def _line(progress: Progress, writer: SessionWriter, elapsed_s: float) -> Text:
    parts = [f"{elapsed_s:6.0f} s"]
    for name, samples in progress.samples.items():
        lost = progress.lost[name]
        parts.append(f"{name} {samples:,}" + (f" ({lost:,} lost)" if lost else ""))
    parts.append(f"{writer.n_bytes / 1e6:.1f} MB")
    line = Text("  ".join(parts))
    if progress.note:
        line.append(f"\n{progress.note}", style="magenta")
    return line


def _tell(out: Path, writer: SessionWriter, progress: Progress, *, as_json: bool) -> None:
    if as_json:
        sensors = {n: {"samples": s, "lost": progress.lost[n]} for n, s in progress.samples.items()}
        facts: dict[str, Any] = {"folder": str(out), "segments": writer.n_segments, "bytes": writer.n_bytes}
        typer.echo(json.dumps({**facts, "sensors": sensors}, indent=2))
    if not any(progress.samples.values()):
        raise LinkError(f"no samples came: {progress.note or 'nothing was heard; kinedge doctor says what to check'}")
    if not as_json:
        for name, samples in progress.samples.items():
            typer.echo(f"{name}: {samples:,} samples, {progress.lost[name]:,} lost")
        typer.echo(f"{out}: {writer.n_segments} segments, {writer.n_bytes / 1e6:.1f} MB")
