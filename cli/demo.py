"""``kinedge demo``: the main job at work, in about a minute."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kinedge.cli.app import app
from kinedge.cli.live import LiveView
from kinedge.cli.session import found_episode, run_folder, running, running_collector
from kinedge.edge.caution import Decision
from kinedge.edge.narrative import usual_without
from kinedge.edge.pipeline import Scored
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Verdict

__all__ = ["demo"]

_OF_THE_COLLECTOR = ("fastapi", "sqlalchemy", "uvicorn")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the databases of this run go.")] = Path("demo-data"),
    duration_s: Annotated[float, typer.Option("--duration", min=30, max=600, help="Seconds.")] = 66.0,
    loss: Annotated[float, typer.Option(min=0, max=0.5, help="Share of packets lost on the way.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Another simulated person for each.")] = 0,
) -> None:
    r"""Show the main job: two wrist sensors on ttys, the edge, a collector; anomalies, loss and a pulled cable.

    Without `kinedge\[upstream]` there is no collector: episodes stay in the board's own store.

    Example: kinedge demo --loss 0.1
    """
    console = Console()
    has_collector = all(find_spec(name) is not None for name in _OF_THE_COLLECTOR)
    if not has_collector:
        console.print("No collector here (pip install 'kinedge\\[upstream]'): episodes stay in the board's store.")
    here = run_folder(folder)
    cable = f"wrist_left:{duration_s - 9:g}-{duration_s - 5:g}"
    options = ["--duration", f"{duration_s:g}", "--loss", f"{loss:g}", "--seed", str(seed), "--unplug", cable]
    with (
        running_collector(here) if has_collector else nullcontext() as url,
        running(["emulate", str(here / "ttys"), *options], ready_file=here / "sensors.json") as sensors,
    ):
        service, decisions = _run_edge(console, here, url, sensors)
        received = None if url is None else _at_collector(url)
    _show_result(console, here, sensors["events"], service, decisions, received)


def _at_collector(url: str) -> set[str]:
    found = httpx.get(f"{url}/v1/episodes", params={"limit": 100}, timeout=10).json()
    return {e["id"] for e in found["episodes"]}


def _run_edge(
    console: Console, here: Path, url: str | None, sensors: dict[str, Any]
) -> tuple[Any, Counter[tuple[Decision, str]]]:
    from kinedge.edge.config import GatewayConfig
    from kinedge.edge.service import EdgeService

    config = GatewayConfig.model_validate(
        {
            "site": "demo",
            "gateway": "demo-gateway",
            "store": here / "edge.db",
            "people": [{"subject": "p-001", "devices": [{"port": p} for p in sensors["ports"].values()]}],
            "uplink": None if url is None else {"url": url},
        }
    )
    view = LiveView("kinedge demo")
    decisions: Counter[tuple[Decision, str]] = Counter()
    last = ""

    def on_scored(scored: Scored, verdict: Verdict) -> None:
        nonlocal last
        view.take(scored, verdict)
        why = verdict.reasons[0].text if verdict.reasons and verdict.decision is Decision.UNSURE else ""
        decisions[(verdict.decision, verdict.reasons[0].code if why else "")] += 1
        why = usual_without(verdict.without) if verdict.without else why
        line = f"{verdict.decision.word}{': ' + why if why else ''}"
        if not console.is_terminal and line != last:
            console.print(line, highlight=False)
            last = line

    service = EdgeService(config, on_scored=on_scored)
    logging.getLogger("kinedge").propagate = console.is_terminal is False
    process = sensors["process"]

    async def main(live: Live | None) -> None:
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        while process.poll() is None and not serving.done():
            await asyncio.wait([serving], timeout=0.25)
            if live is not None:
                live.update(view.render(service, width=console.width))
        if not serving.done():
            await service.finish()
            stop.set()
        await serving

    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, screen=True) as live:
            asyncio.run(main(live))
    else:
        asyncio.run(main(None))
    return service, decisions


def _show_result(
    console: Console,
    here: Path,
    events: list[dict[str, Any]],
    service: Any,
    decisions: Counter[tuple[Decision, str]],
    received: set[str] | None,
) -> None:
    def whether_synced(id_: str) -> str:
        return "no collector" if received is None else "yes" if id_ in received else "[magenta]waiting[/magenta]"

    with EpisodeStore(here / "edge.db", read_only=True) as store:
        episodes = sorted((s.envelope for s in store.episodes(limit=100)), key=lambda e: e.start_utc_ns)
    opens = service.config.episodes
    table = Table(title="what was put in, and what was found", title_justify="left")
    for column in ("anomaly put in", "at", "found", "after", "the surprise starts at", "synced"):
        table.add_column(column)
    used: set[str] = set()
    for event in events:
        origin_ns = event["start_utc_ns"]
        length_s = (event["end_utc_ns"] - origin_ns) / 1e9
        hits = [
            (e, f)
            for e in episodes
            if (f := found_episode(e, origin_utc_ns=origin_ns, config=opens)).start_s < length_s and f.end_s > 0
        ]
        used |= {e.id for e, _ in hits}
        place = "+".join(event["sensors"])
        if not hits:
            table.add_row(event["name"], place, "[magenta]no[/magenta]", "", "", "")
            continue
        envelope, found = hits[0]
        channels = [c for c in envelope.contributions if c.channel is not None]
        where = f"{found.top_sensor} {channels[0].channel} ({channels[0].share:.0%})" if channels else found.top_sensor
        after = f"{max(found.opened_s, 0):.1f} s"
        table.add_row(event["name"], place, "yes", after, where, whether_synced(envelope.id))
    for envelope in episodes:
        if envelope.id not in used:
            table.add_row(
                "[dim](none)[/dim]",
                "",
                "an episode no one put in",
                "",
                "",
                whether_synced(envelope.id),
            )
    console.print(table)
    total = sum(decisions.values())
    answers = Table(title="answers, one a second", title_justify="left")
    answers.add_column("answer")
    answers.add_column("main reason")
    answers.add_column("share", justify="right")
    for (decision, reason), n in decisions.most_common():
        answers.add_row(decision.word, reason.replace("_", " "), f"{n / max(total, 1):.0%}")
    console.print(answers)
    samples = sum(h.samples for h in service.health.values())
    lost = sum(h.lost for h in service.health.values())
    told = f"{samples:,} samples decoded, {lost:,} lost on the way and masked; {len(episodes)} episodes kept"
    places = f"edge database       {here / 'edge.db'}"
    if received is not None:
        told += f", {len(received & {e.id for e in episodes})} of them at the collector"
        places += f"\ncollector database  {here / 'collector.db'}"
    console.print(f"{told}.")
    console.print(places, highlight=False)
    console.print("look again with:    kinedge episodes --store " + str(here / "edge.db"), highlight=False)
