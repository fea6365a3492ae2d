"""``kinedge feedback``: what a person says about an episode, kept where the episode is."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kinedge.cli.app import app
from kinedge.errors import ConfigError

__all__ = ["feedback"]


@app.command()
def feedback(
    episode: Annotated[
        str | None, typer.Argument(help="Its id, or the first eight digits or more; none: list answers.")
    ] = None,
    store: Annotated[Path, typer.Option(help="The store of an edge; it may be running.")] = Path("kinedge-edge.db"),
    dismissed: Annotated[bool, typer.Option("--dismissed", help="It was ordinary for this person.")] = False,
    confirmed: Annotated[bool, typer.Option("--confirmed", help="It was not.")] = False,
    withdrawn: Annotated[bool, typer.Option("--withdrawn", help="Take the last answer back.")] = False,
    key: Annotated[Path | None, typer.Option(help="The master key of a sealed store.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say that an episode was ordinary or not, or list what was said. It changes no calibration by itself.

    The answer is a row of the store's audit chain. ``kinedge enrol --feedback`` makes an enrolment with the answers,
    when somebody wants one.

    Example: kinedge feedback 3f9a01c2 --dismissed --store edge.db
    """
    from kinedge.edge.feedback import Answer, answer_episode, answers_in
    from kinedge.edge.store import EpisodeStore
    from kinedge.edge.vault import vault_beside

    said: list[Answer] = []
    if dismissed:
        said.append("dismissed")
    if confirmed:
        said.append("confirmed")
    if withdrawn:
        said.append("withdrawn")
    if episode is not None:
        if len(said) != 1:
            raise ConfigError("say one of --dismissed, --confirmed and --withdrawn")
        told = answer_episode(store, episode, said[0], vault=vault_beside(store, key))
        typer.echo(json.dumps(told) if as_json else f"{told['subject']}, {told['episode'][:12]}…: {told['answer']}")
        return
    if said:
        raise ConfigError("name the episode; `kinedge episodes --store ...` lists them")
    with EpisodeStore(store, read_only=True, vault=vault_beside(store, key)) as kept:
        answers = answers_in(kept)
    if as_json:
        rows = [
            {
                "episode": a.envelope.id,
                "subject": a.envelope.subject,
                "start_utc_ns": a.envelope.start_utc_ns,
                "answer": a.answer,
                "answered_utc_ns": a.answered_utc_ns,
                "has_raw": a.raw is not None,
            }
            for a in answers
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("subject", "start (UTC)", "answer", "samples", "id", title=f"{len(answers)} answers in {store}")
    for a in answers:
        start = datetime.fromtimestamp(a.envelope.start_utc_ns / 1e9, timezone.utc)
        samples = "pruned" if a.raw is None else "kept"
        table.add_row(a.envelope.subject, f"{start:%Y-%m-%d %H:%M:%S}", a.answer, samples, f"{a.envelope.id[:12]}…")
    Console().print(table)
