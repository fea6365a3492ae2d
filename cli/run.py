"""``kinedge run``: the edge service of a gateway."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kinedge.cli.app import app
from kinedge.errors import KinedgeError

if TYPE_CHECKING:
    from kinedge.edge.pipeline import Scored
    from kinedge.edge.service import EdgeService
    from kinedge.edge.verdict import Verdict

__all__ = ["run", "serve_until"]

_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a terminal that closes is no reason to lose anything


class LogFormat(str, Enum):
    """How log lines look."""

    text = "text"
    json = "json"


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The gateway's TOML file.")],
    record: Annotated[
        Path | None, typer.Option(help="Record what is heard, too, into a folder of its own in here.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One verdict per line, as JSON; how sensors are aligned on the error output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="The log on the error output: text, or one JSON object a line.")
    ] = LogFormat.text,
) -> None:
    r"""Read sensors, score them as they arrive, keep episodes and send them upstream, until stopped.

    A dashboard is served on this machine alone (http://127.0.0.1:9464, or as the error output says); \[http] opens it
    to the network, with a token, or switches it off. SIGUSR1 reads people and devices anew, and the rest goes on.
    Under systemd it says when it is ready and feeds the watchdog (docs/service.md).

    Example gateway.toml; `kinedge config --explain` tells every key:

        site = "clinic-a"
        gateway = "gw-01"

        [\[people]]
        subject = "p-001"
        devices = [{ port = "/dev/ttyACM0" }, { lsl = "Muse-4F21", sensor = "wrist_right" }]

        \[record]
        folder = "recordings"

        \[lsl]
        verdicts = true

        \[uplink]
        url = "http://127.0.0.1:8765"
    """
    from kinedge.edge.config import HttpConfig, RecordConfig, load_gateway_config
    from kinedge.edge.logs import set_up_logging
    from kinedge.edge.service import EdgeService
    from kinedge.edge.systemd import Notifier
    from kinedge.edge.verdict_json import verdict_as_json

    settings = load_gateway_config(config)
    if record is not None:
        settings = settings.model_copy(update={"record": RecordConfig(folder=record)})
    if settings.http is None and "http" not in settings.model_fields_set:
        settings = settings.model_copy(update={"http": HttpConfig()})
    set_up_logging(log_format.value)
    live_wanted = sys.stdout.isatty() and not as_json and not quiet
    view = None
    if live_wanted:
        from kinedge.cli.live import LiveView  # only a screen pays for what draws on it

        view = LiveView("kinedge", caution=settings.caution.meaning)

    def on_scored(scored: Scored, verdict: Verdict) -> None:
        if as_json:
            model = {"model_digest": service.scorer.bundle.digest}  # it may have changed under way
            sys.stdout.write(json.dumps({**verdict_as_json(scored.subject, verdict), **model}) + "\n")
            sys.stdout.flush()
        elif view is not None:
            view.take(scored, verdict)

    service = EdgeService(settings, on_scored=on_scored, notifier=Notifier())
    if as_json:
        backend = service.scorer.engine.backend.name
        told = {"backend": backend, "beginnings": [asdict(b) for b in service.beginnings]}
        sys.stderr.write(json.dumps(told) + "\n")
    elif not quiet:
        sys.stderr.write(f"{service.scorer.manifest.name} runs on {service.scorer.engine.backend.name}\n")
        for beginning in service.beginnings:
            sys.stderr.write(beginning.sentence() + "\n")

    async def reread() -> None:
        from kinedge.edge.reloading import reload_people

        try:
            await reload_people(service, load_gateway_config(config))
        except KinedgeError as e:
            service.note(f"the configuration was not taken anew: {e}")

    if view is None:
        lines = _StatusLines(service, as_json=as_json)
        on_tick = None if quiet and not as_json else lines.tell
        asyncio.run(serve_until(service, on_tick=on_tick, on_call=reread))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    logging.getLogger("kinedge").propagate = False  # the view shows what is worth knowing

    def draw() -> None:
        if service.board is not None and service.http_url:
            view.title = f"kinedge {_reachable(service.http_url)}"
        live.update(view.render(service, width=console.width))

    with Live(console=console, refresh_per_second=4, screen=True) as live:
        asyncio.run(serve_until(service, on_tick=draw, on_call=reread))


class _StatusLines:
    """Where the dashboard is; as JSON also how far sensors may be apart, every ten seconds, all on the error output.

    Verdicts alone can be replayed: they hold nothing that depends on when they were printed.
    """

    _EVERY_S: Final = 10.0

    def __init__(self, service: EdgeService, *, as_json: bool) -> None:
        self._service = service
        self._as_json = as_json
        self._due_s = 0.0
        self._url = ""

    def tell(self) -> None:
        url = self._service.http_url
        if url != self._url and self._service.board is not None:
            self._url = url
            if url:
                url = _reachable(url)
                sys.stderr.write(json.dumps({"dashboard": url}) + "\n" if self._as_json else f"dashboard: {url}\n")
                sys.stderr.flush()
        if not self._as_json:
            return
        pipeline = self._service.pipeline
        pairs = {s: {f"{p.first} {p.second}": round(p.ms, 1) for p in pipeline.alignment(s)} for s in pipeline.subjects}
        if any(pairs.values()) and time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._EVERY_S
            caution = self._service.scorer.caution.meaning
            sys.stderr.write(json.dumps({"alignment_ms": pairs, "caution": caution}) + "\n")
            sys.stderr.flush()


def _reachable(url: str) -> str:
    """Return an address that a browser can open, in place of one that means every address."""
    for everywhere in ("://0.0.0.0:", "://[::]:"):
        url = url.replace(everywhere, f"://{socket.gethostname()}:")
    return url


async def serve_until(
    service: Any,
    *,
    on_tick: Callable[[], None] | None = None,
    until: Callable[[], bool] | None = None,
    on_call: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Run a service until SIGINT, SIGTERM, SIGHUP or ``until`` says so, drawing every quarter of a second.

    ``on_call`` is run at every SIGUSR1, one after the other.

    Raises
    ------
    KinedgeError
        The service ended for a reason that waiting does not mend.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _ENDS:
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(service.run(stop))
    called = asyncio.Event()
    if on_call is not None:
        loop.add_signal_handler(signal.SIGUSR1, called.set)
    try:
        while not serving.done():
            if called.is_set() and on_call is not None:
                called.clear()
                await on_call()
            await asyncio.wait([serving], timeout=0.25)
            if on_tick is not None and not serving.done():
                on_tick()
            if until is not None and until():
                stop.set()
        serving.result()
    finally:
        for number in (*_ENDS, signal.SIGUSR1):
            loop.remove_signal_handler(number)
