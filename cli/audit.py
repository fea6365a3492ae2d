"""``kinedge audit`` and ``kinedge forget``: what happened to a store, whether its trail is whole, and how to delete."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinedge.cli.app import app
from kinedge.errors import ConfigError

__all__ = ["forget", "show", "verify"]

audit = typer.Typer(
    name="audit",
    help="The audit trail of a store: what happened, and whether it is whole. Example: kinedge audit verify edge.db",
)
app.add_typer(audit, no_args_is_help=True)

Store = Annotated[Path, typer.Argument(help="The store of an edge; it may be running.")]
Key = Annotated[Path | None, typer.Option(help="The master key of a store that is encrypted as a whole.")]


@audit.command()
def verify(
    store: Store,
    head: Annotated[str | None, typer.Option(help="Digest of an earlier end; it must still be in the chain.")] = None,
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recompute the hash chain; exit status 1 when a row was changed, removed or put in between.

    Example: kinedge audit verify edge.db
    """
    from kinedge.edge.store import EpisodeStore
    from kinedge.edge.vault import vault_beside

    with EpisodeStore(store, read_only=True, vault=vault_beside(store, key)) as opened:
        end = opened.verify_audit(known_digest=head)
    if as_json:
        typer.echo(json.dumps({"ok": True, "rows": end.n_rows, "head": end.digest}))
    else:
        typer.echo(f"{store}: {end.n_rows} rows, unbroken; the chain ends with {end.digest}")
        typer.echo("Keep this digest elsewhere: with --head it proves later that no row was cut off.")


@audit.command()
def show(
    store: Store,
    event: Annotated[str | None, typer.Option(help="Only events of this kind, such as raw_dropped.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 50,
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what happened, the oldest first.

    Example: kinedge audit show edge.db --event clock_stepped
    """
    from kinedge.edge.store import EpisodeStore
    from kinedge.edge.vault import vault_beside

    with EpisodeStore(store, read_only=True, vault=vault_beside(store, key)) as opened:
        rows = opened.audit_rows(limit=limit, event=event)
    if as_json:
        for row in rows:
            typer.echo(json.dumps({"n": row.n, "utc_ns": row.utc_ns, "event": row.event, "detail": row.detail}))
        return
    table = Table(box=None, header_style="dim")
    for column in ("n", "time (UTC)", "event", "detail"):
        table.add_column(column, justify="right" if column == "n" else "left", overflow="fold")
    for row in rows:
        when = datetime.fromtimestamp(row.utc_ns / 1e9, timezone.utc)
        detail = " ".join(f"{k}={v}" for k, v in row.detail.items())
        table.add_row(str(row.n), f"{when:%Y-%m-%d %H:%M:%S}", row.event, Text(detail))
    Console().print(table)


@app.command()
def forget(
    subject: Annotated[str, typer.Argument(help="The person's pseudonym.")],
    config: Annotated[Path, typer.Option(help="The gateway's TOML file; the gateway must be stopped.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Destroy what this gateway keeps of a person, and the key that it was sealed with. It cannot be undone.

    Episodes, raw slices, drafts, measures, recordings and enrolments made on the board go, also what the collector does
    not have yet. The audit trail keeps the pseudonym, ids and times. What the collector has stays there.

    Example: kinedge forget p-001 --config gateway.toml
    """
    from kinedge.edge.board_state import BoardStateFile, board_state_path
    from kinedge.edge.checkpoint import checkpoint_path
    from kinedge.edge.config import load_gateway_config
    from kinedge.edge.store import EpisodeStore

    settings = load_gateway_config(config)
    if not settings.store.exists():
        raise ConfigError(f"{settings.store}: there is no store; is this the right configuration?")
    if not yes and not typer.confirm(f"Destroy everything that {settings.store} keeps of {subject}?"):
        raise typer.Exit(1)
    vault = None if settings.keys is None else settings.keys.vault(settings.store)
    with EpisodeStore(settings.store, vault=vault) as store:
        done = store.forget(subject)
    checkpoint_path(settings.store).unlink(missing_ok=True)  # what scoring remembers, of everybody; it begins anew
    decided = BoardStateFile(board_state_path(settings.store), lambda text: typer.echo(text, err=True))
    enrolments = decided.forget(subject)
    recordings = [] if settings.record is None else sorted(settings.record.folder.glob(f"*/{subject}"))
    for folder in recordings:
        shutil.rmtree(folder)
    asides = sorted(str(p) for p in settings.store.parent.glob(f"{settings.store.name}.corrupt-*"))
    content = {"subject": subject, **vars(done), "recordings": [str(r) for r in recordings]}
    content |= {"enrolments": [str(e) for e in enrolments], "damaged_copies": asides}
    if as_json:
        typer.echo(json.dumps(content))
        return
    typer.echo(
        f"{subject}: {done.episodes} episodes ({done.unsent} of them unsent), {done.raw_blobs} raw slices, "
        f"{done.drafts} drafts, {done.measures} measures, {len(recordings)} recordings and "
        f"{len(enrolments)} enrolments made here are destroyed" + (", and so is the key" if done.key else "")
    )
    if asides and not done.key:
        typer.echo(f"Damaged copies of earlier times may hold more: {', '.join(asides)}")
