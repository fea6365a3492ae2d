"""Recorded sessions through the edge service: the same events, at the same moments, as when they were live."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from kinedge.cli.run import serve_until
from kinedge.cli.session import run_folder
from kinedge.config import explain_validation_error
from kinedge.edge.backends import DEFAULT_BACKENDS
from kinedge.edge.caution import Decision
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig, load_gateway_config
from kinedge.edge.pipeline import Scored
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.edge.trusted import bundle_in_use
from kinedge.edge.verdict import Verdict
from kinedge.edge.verdict_json import verdict_as_json
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.recorded import RecordedSession
from kinedge.firmware_bridge.recorded_source import RecordedSource, read_sessions

__all__ = ["gateway_of", "replay_sessions", "sessions_by_subject"]

_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


def replay_sessions(
    path: Path,
    *,
    speed: float,
    config_path: Path | None,
    bundle: Path | None,
    subject: str,
    collector: str,
    folder: Path,
    as_json: bool,
) -> None:
    """Play what lies in a folder until its end or Ctrl-C, and tell what came of it.

    Raises
    ------
    KinedgeError
        There is no session, it cannot be read, or the service failed.
    """
    sessions = sessions_by_subject(read_sessions(path), subject=subject)
    console = Console(stderr=True)
    for name, session in sessions.items():
        for damage in session.damage:
            _warn(console, f"{session.folder.name}, {damage.name}: {damage.reason}")
        for sensor, n in session.missing.items():
            _warn(console, f"{name}: {n:,} samples of {sensor} were in damaged segments; they count as lost")
    here = run_folder(folder)
    settings = gateway_of(sessions, here / "edge.db", config_path=config_path, bundle=bundle, collector=collector)
    source = RecordedSource(sessions, speed=speed)
    logging.getLogger("kinedge").addHandler(logging.NullHandler())
    logging.getLogger("kinedge").propagate = False
    counts: Counter[Decision] = Counter()

    def on_scored(scored: Scored, verdict: Verdict) -> None:
        counts[verdict.of_all] += 1
        if as_json:
            model = {"model_digest": service.scorer.bundle.digest}
            sys.stdout.write(json.dumps({**verdict_as_json(scored.subject, verdict), **model}) + "\n")
            sys.stdout.flush()

    service = EdgeService(settings, on_scored=on_scored, source=source)
    _say_what_differs(console, sessions, service)
    started_s = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=as_json,
        transient=True,
    ) as progress:
        task = progress.add_task("playing", total=source.n_samples or None)

        def on_tick() -> None:
            done = sum(h.samples for h in service.health.values())
            told = ", ".join(f"{counts[d]} {d.word}" for d in Decision)
            progress.update(task, completed=done, description=told)

        asyncio.run(serve_until(service, on_tick=on_tick))
    if not as_json:
        _tell(service, counts, played_s=time.monotonic() - started_s)


def sessions_by_subject(sessions: list[RecordedSession], *, subject: str = "") -> dict[str, RecordedSession]:
    """Name the person of each session: as it was recorded, else by its folder.

    Raises
    ------
    ConfigError
        Two are of one person, or nobody is called ``subject``.
    """
    named: dict[str, RecordedSession] = {}
    for session in sessions:
        told = [str(session.facts.get("subject", "")), session.folder.resolve().name, "recorded"]
        name = next(t for t in told if _SUBJECT.fullmatch(t))
        if name in named:
            raise ConfigError(f"{session.folder} and {named[name].folder} are both of {name}; play one of them")
        named[name] = session
    if subject and subject not in named:
        raise ConfigError(f"nobody is called {subject!r} here; there are {', '.join(named)}")
    return {subject: named[subject]} if subject else named


def gateway_of(
    sessions: Mapping[str, RecordedSession],
    store: Path,
    *,
    config_path: Path | None = None,
    bundle: Path | None = None,
    collector: str = "",
) -> GatewayConfig:
    """Return the settings to score with: a gateway's and the model it runs, else those kept with the recording.

    Raises
    ------
    ConfigError
        The file, or what the recording holds, is no configuration.
    """
    people: list[dict[str, Any]] = [{"subject": name} for name in sessions]
    trust: dict[str, Any] = {"allow_unsigned": True}  # who names a model on the command line trusts it
    if config_path is not None:
        own = load_gateway_config(config_path)
        kept, bundle, trust = own.decisive(), bundle or bundle_in_use(own), own.trust.model_dump()
        backends: list[Any] = list(own.backend)
        enrolments = {p.subject: p.enrolment for p in own.people}
        people = [{"subject": name, "enrolment": enrolments.get(name)} for name in sessions]
    else:
        kept = next((s.facts["settings"] for s in sessions.values() if "settings" in s.facts), {})
        backends = _recorded_backends(sessions)
    first = next(iter(sessions.values()))
    content = {
        "alarm": False,  # what says nothing of an alarm was decided without one
        **(kept if isinstance(kept, dict) else {}),
        "site": "replay",
        "gateway": "replay",
        "bundle": bundle or DEFAULT_BUNDLE,
        # as it was, for the same bits; else what every machine has, and then that is told
        "backend": tuple(dict.fromkeys((*backends, *DEFAULT_BACKENDS))),
        "store": store,
        "people": people,
        "trust": trust,
        "uplink": {"url": collector} if collector else None,
    }
    try:
        return GatewayConfig.model_validate(content)
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, GatewayConfig, f"{first.folder}, settings")) from e


def _recorded_backends(sessions: Mapping[str, RecordedSession]) -> list[Any]:
    """Return what ran the model, and what was allowed to, when this was recorded; empty where nothing tells."""
    facts = next((s.facts for s in sessions.values() if "backends" in s.facts), {})
    ran, allowed = str(facts.get("backend", "")), facts.get("backends")
    first = ["onnx"] if ran.startswith("onnxruntime") and " cpu " in ran else []  # the native step was not there
    return [*first, *(allowed if isinstance(allowed, list) else [])]


def _say_what_differs(console: Console, sessions: Mapping[str, RecordedSession], service: EdgeService) -> None:
    bases = dict(zip(service.pipeline.subjects, service.pipeline.people.bases, strict=True))
    for name, session in sessions.items():
        if session.facts.get("model_digest", service.scorer.bundle.digest) != service.scorer.bundle.digest:
            _warn(
                console, f"{name}: another model scored this when it was recorded; for its verdicts, name it: --bundle"
            )
        backend = service.scorer.engine.backend.name
        if session.facts.get("backend", backend) != backend:
            _warn(
                console,
                f"{name}: {session.facts['backend']} ran the model when it was recorded, and {backend} does here; "
                "figures may differ in their last digits",
            )
        if session.scored and session.facts.get("enrolment_digest") != bases[name].enrolment_digest:
            _warn(console, f"{name}: another enrolment counted when it was recorded; for its verdicts, give --config")


def _warn(console: Console, text: str) -> None:
    console.print(f"[magenta]{escape(text)}[/magenta]", soft_wrap=True, highlight=False)


def _tell(service: EdgeService, counts: Counter[Decision], *, played_s: float) -> None:
    table = Table("person", "sensor", title="replayed")
    for column in ("samples", "lost"):
        table.add_column(column, justify="right")
    for h in service.health.values():
        table.add_row(h.subject, h.sensor, f"{h.samples:,}", f"{h.lost:,}")
    config = service.config
    vault = None if config.keys is None else config.keys.vault(config.store)
    with EpisodeStore(config.store, read_only=True, vault=vault) as store:
        kept = store.counts()
    waiting = f", {kept.ready + kept.locked} messages still wait" if service.uplink is not None else ""
    console = Console()
    console.print(table)
    console.print(
        f"{', '.join(f'{counts[d]} {d.word}' for d in Decision)}; {kept.episodes} episodes{waiting}; "
        f"in {played_s:.1f} s. Database: {service.config.store}",
        highlight=False,
        soft_wrap=True,
    )
