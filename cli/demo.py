"""``kinedge demo``: the main job at work, in about a minute."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kinedge.cli.app import app, need_extra
from kinedge.cli.live import LiveView
from kinedge.cli.session import found_episode, run_folder, running, running_collector
from kinedge.edge.caution import Decision
from kinedge.edge.pipeline import Scored
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Verdict

__all__ = ["demo"]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the databases of this run go.")] = Path("demo-data"),
    duration_s: Annotated[float, typer.Option("--duration", min=30, max=600, help="Seconds.")] = 66.0,
    loss: Annotated[float, typer.Option(min=0, max=0.5, help="Share of packets lost on the way.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Another simulated person for each.")] = 0,
) -> None:
    """Show the main job: two wrist sensors on ttys, the edge, a collector; anomalies, loss and a pulled cable.

    Example: kinedge demo --loss 0.1
    """
    with need_extra("upstream"):
        import fastapi
        import sqlalchemy

        _ = fastapi, sqlalchemy
    console = Console()
    here = run_folder(folder)
    cable = f"wrist_left:{duration_s - 9:g}-{duration_s - 5:g}"
    options = ["--duration", f"{duration_s:g}", "--loss", f"{loss:g}", "--seed", str(seed), "--unplug", cable]
    with (
        running_collector(here) as url,
        running(["emulate", str(here / "ttys"), *options], ready_file=here / "sensors.json") as sensors,
    ):
        service, decisions = _run_edge(console, here, url, sensors)
        received = httpx.get(f"{url}/v1/episodes", params={"limit": 100}, timeout=10).json()
    _show_result(console, here, url, sensors["events"], service, decisions, {e["id"] for e in received["episodes"]})


def _run_edge(
    console: Console, here: Path, url: str, sensors: dict[str, Any]
) -> tuple[Any, Counter[tuple[Decision, str]]]:
    from kinedge.edge.config import GatewayConfig
    from kinedge.edge.service import EdgeService

    config = GatewayConfig.model_validate(
        {
            "site": "demo",
            "gateway": "demo-gateway",
            "store": here / "edge.db",
            "people": [{"subject": "p-001", "devices": [{"port": p} for p in sensors["ports"].values()]}],
            "uplink": {"url": url},
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
                live.update(view.render(service))
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
    url: str,
    events: list[dict[str, Any]],
    service: Any,
    decisions: Counter[tuple[Decision, str]],
    received: set[str],
) -> None:
    with EpisodeStore(here / "edge.db", read_only=True) as store:
        episodes = sorted((s.envelope for s in store.episodes(limit=100)), key=lambda e: e.start_utc_ns)
    open_hits = service.config.episodes.open_hits
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
            if (f := found_episode(e, origin_utc_ns=origin_ns, open_hits=open_hits)).start_s < length_s and f.end_s > 0
        ]
        used |= {e.id for e, _ in hits}
        place = "+".join(event["sensors"])
        if not hits:
            table.add_row(event["name"], place, "[magenta]no[/magenta]", "", "", "")
            continue
        envelope, found = hits[0]
        channels = [c for c in envelope.contributions if c.channel is not None]
        where = f"{found.top_sensor} {channels[0].channel} ({channels[0].share:.0%})" if channels else found.top_sensor
        synced = "yes" if envelope.id in received else "[magenta]waiting[/magenta]"
        table.add_row(event["name"], place, "yes", f"{max(found.opened_s, 0):.1f} s", where, synced)
    for envelope in episodes:
        if envelope.id not in used:
            table.add_row(
                "[dim](none)[/dim]",
                "",
                "an episode no one put in",
                "",
                "",
                "yes" if envelope.id in received else "waiting",
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
    console.print(
        f"{samples:,} samples decoded, {lost:,} lost on the way and masked; "
        f"{len(episodes)} episodes kept, {len(received & {e.id for e in episodes})} of them at the collector."
    )
    console.print(
        f"edge database       {here / 'edge.db'}\ncollector database  {here / 'collector.db'}", highlight=False
    )
    console.print("look again with:    kinedge episodes --store " + str(here / "edge.db"), highlight=False)
