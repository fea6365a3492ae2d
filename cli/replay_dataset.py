"""Data sets of research, played by emulated devices over real ttys through the whole edge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kinedge.bundle import read_bundle
from kinedge.cli.app import need_extra
from kinedge.cli.session import found_episode, run_folder, running_collector
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.hostclock import HostClock
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.emulator import Faults
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.recording import Recording, Region
from kinedge.training.evaluate import EpisodeMetrics, match_events

__all__ = ["Played", "play", "replay_dataset"]

_GRACE_S: Final = 1.0  # of host time after the last byte, for what is still on the way
_LISTENING_S: Final = 20.0  # real seconds until the gateway has opened every port; then they begin anyway
_SPEED: Final = 8.0
_MAX_SPEED: Final = 50.0  # beyond, this machine's own jitter is what is measured


@dataclass(frozen=True, eq=False)
class Played:
    """What one recording gave."""

    recording: Recording
    metrics: EpisodeMetrics
    n_episodes: int
    synced: bool
    n_samples: int
    n_lost: int


def replay_dataset(
    path: Path,
    dataset: str,
    *,
    bundle: Path | None,
    subject: str,
    item: str,
    label: str,
    speed: float | None,
    loss: float,
    cut: str,
    collector: str,
    folder: Path,
    as_json: bool,
) -> None:
    """Play the recordings of a data set's file, and compare episodes with labels.

    Raises
    ------
    ConfigError
        There is no such data set, nothing is left to play, or the speed is out of reach for real ttys.
    """
    from kinedge.training.datasets import DATASETS

    if dataset not in DATASETS:
        raise ConfigError(f"no data set {dataset!r}; known are {', '.join(sorted(DATASETS))}")
    speed = _SPEED if speed is None else speed
    if not speed <= _MAX_SPEED:
        raise ConfigError(f"--speed: data sets are played on real ttys, at most {_MAX_SPEED:g} times as fast as life")
    bundle = bundle or DEFAULT_BUNDLE
    names = [s.name for s in read_bundle(bundle).manifest.sensors]
    recordings = [r for r in DATASETS[dataset](path, sensors=names) if subject in ("", r.subject) and item in r.source]
    if not recordings:
        raise ConfigError(f"{path}: nothing to play with subject {subject!r} and {item!r} in the name")
    if cut:
        recordings = [_cut(r, cut) for r in recordings]
    here = run_folder(folder)
    played = []
    logging.getLogger("kinedge").addHandler(logging.NullHandler())
    logging.getLogger("kinedge").propagate = False
    with (
        _collector(collector, here) as url,
        Progress(console=Console(stderr=True), disable=as_json, transient=True) as progress,
    ):
        task = progress.add_task("playing", total=len(recordings))
        for i, recording in enumerate(recordings):
            progress.update(task, description=recording.source.rsplit("/", 1)[-1][-40:])
            played.append(
                asyncio.run(
                    play(
                        recording, bundle, here / f"{i:03}", url=url, label=label, speed=speed, faults=Faults(loss=loss)
                    )
                )
            )
            progress.advance(task)
    _show(played, here, as_json=as_json)


@contextlib.contextmanager
def _collector(url: str, here: Path) -> Iterator[str]:
    if url:
        yield url
        return
    with need_extra("upstream"), running_collector(here) as own:
        yield own


def _cut(recording: Recording, cut: str) -> Recording:
    start, _, end = cut.partition("-")
    try:
        a, b = float(start), float(end)
    except ValueError as e:
        raise ConfigError(f"--cut {cut!r}: expected from-to in seconds, such as 0-20") from e
    part = recording.slice(round(a * recording.rate_hz), round(b * recording.rate_hz))
    if not len(part):
        raise ConfigError(f"--cut {cut!r}: nothing of {recording.source} is left")
    return part


async def play(
    recording: Recording,
    bundle: Path,
    folder: Path,
    *,
    url: str | None,
    label: str,
    speed: float,
    faults: Faults | None = None,
) -> Played:
    """Play one recording through the whole chain and match its episodes with the labelled regions.

    Parameters
    ----------
    recording
        With at least the bundle's sensors.
    folder
        For the ttys and the edge database.
    url
        Of a collector, None to keep episodes in the store.
    label
        Of the regions to be found.
    speed
        Recorded seconds per second; the host clock runs as fast.

    Raises
    ------
    KinedgeError
        The service failed.
    """
    devices = play_on_ptys(recording, folder / "ttys", speed=speed, faults=faults, held=True)
    # a subject per recording: each is a session of its own
    name = f"{recording.subject}.{folder.name}"
    config = GatewayConfig.model_validate(
        {
            "site": "replay",
            "gateway": "replay",
            "bundle": bundle,
            "trust": {"allow_unsigned": True},  # who names a model on the command line trusts it
            "store": folder / "edge.db",
            "people": [{"subject": name, "devices": [{"port": str(d.link_path)} for d in devices.values()]}],
            "uplink": {"url": url} if url else None,
            # jitter of this machine is `speed` times as long on the clock of the replay
            "max_delay_s": min(5.0, 0.25 * max(1.0, speed)),
        }
    )
    clock = HostClock(speed=speed)
    counts = {d: 0 for d in Decision}
    service = EdgeService(
        config, host_clock=clock, on_scored=lambda _, v: counts.update({v.of_all: counts[v.of_all] + 1})
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(service.run(stop))
    for device in devices.values():
        device.start()
    synced = False
    try:
        # all begin at one moment, when each has a listener: nothing of the recording goes unheard
        deadline_s = time.monotonic() + _LISTENING_S
        while not serving.done() and not all(d.heard_host for d in devices.values()):
            if time.monotonic() > deadline_s:
                break
            await asyncio.wait([serving], timeout=0.02)
        origin_utc_ns = clock.utc_ns(clock.now_ns())
        for device in devices.values():
            await asyncio.to_thread(device.switch_on)
        while not serving.done() and not all(d.finished for d in devices.values()):
            await asyncio.wait([serving], timeout=0.05)
        if not serving.done():
            await asyncio.sleep(_GRACE_S / max(1.0, speed) + 0.1)
            synced = await service.finish()
    finally:
        stop.set()
        for device in devices.values():
            await asyncio.to_thread(device.stop)
    await serving
    with EpisodeStore(folder / "edge.db", read_only=True) as store:
        envelopes = [s.envelope for s in store.episodes(limit=10_000)]
    episodes = sorted(
        (found_episode(e, origin_utc_ns=origin_utc_ns, config=config.episodes) for e in envelopes),
        key=lambda f: f.opened_s,
    )
    events: list[Region] = [r for r in recording.labels if r.label == label]
    metrics = match_events(episodes, events, rate_hz=recording.rate_hz, duration_s=recording.duration_s)
    metrics.n_verdicts = sum(counts.values())
    metrics.n_unsure = counts[Decision.UNSURE]
    return Played(
        recording=recording,
        metrics=metrics,
        n_episodes=len(episodes),
        synced=synced and url is not None,
        n_samples=sum(h.samples for h in service.health.values()),
        n_lost=sum(h.lost for h in service.health.values()),
    )


def _show(played: list[Played], here: Path, *, as_json: bool) -> None:
    total = EpisodeMetrics()
    for p in played:
        total += p.metrics
    if as_json:
        rows: list[dict[str, Any]] = [
            {"source": p.recording.source, "subject": p.recording.subject, "synced": p.synced, **p.metrics.summary()}
            for p in played
        ]
        typer.echo(json.dumps({"recordings": rows, "total": total.summary(), "folder": str(here)}, indent=2))
        return
    table = Table(title="replayed")
    for column in ("recording", "events", "found", "false", "median delay", "unsure", "lost", "synced"):
        table.add_column(column, justify="left" if column == "recording" else "right")
    for p in played:
        s = p.metrics.summary()
        delay = "" if s["median_delay_s"] is None else f"{s['median_delay_s']} s"
        synced = f"{p.n_episodes}" if p.synced else "[magenta]waiting[/magenta]"
        table.add_row(
            p.recording.source.rsplit("/", 1)[-1],
            str(s["events"]),
            str(s["found"]),
            str(s["false_episodes"]),
            delay,
            f"{s['unsure_share']:.0%}",
            str(p.n_lost),
            synced,
        )
    Console().print(table)
    s = total.summary()
    delay = "no delay to tell" if s["median_delay_s"] is None else f"median delay {s['median_delay_s']} s"
    Console().print(
        f"{s['found']} of {s['events']} events found, {s['false_episodes']} false episodes in "
        f"{s['hours_outside_events']:.2f} h ({s['false_per_hour']:.1f} per hour), "
        f"{delay}, unsure {s['unsure_share']:.0%} of the time. Databases: {here}",
        highlight=False,
    )
