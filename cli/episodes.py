"""``kinedge episodes``: what a store on this machine, or a collector, holds."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from kinedge.cli.app import app
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import vault_beside
from kinedge.errors import ConfigError, LinkError

__all__ = ["episodes"]

_TIMEOUT_S = 10.0
_LOOKED_AT = 1000  # newest episodes, for one that is named by its first digits
_ID_DIGITS = 64


@app.command()
def episodes(
    id: Annotated[str | None, typer.Argument(help="Show this episode whole; its first digits are enough.")] = None,
    store: Annotated[Path | None, typer.Option(help="The store of an edge; it may be running.")] = None,
    key: Annotated[Path | None, typer.Option(help="The master key of a sealed store.")] = None,
    url: Annotated[str | None, typer.Option(help="The address of a collector.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token for the collector.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the newest episodes in a store or at a collector, or show one whole.

    Example: kinedge episodes --store edge.db
    """
    if (store is None) == (url is None):
        raise ConfigError("say where to look: either --store edge.db or --url http://127.0.0.1:8765")
    if id is not None:
        envelope = _from_store(store, key, id) if store else _from_collector(str(url), token_file, id)
        typer.echo(json.dumps(envelope, indent=2))
        return
    rows = _list_store(store, key, subject, limit) if store else _list_collector(str(url), token_file, subject, limit)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(title=f"{len(rows)} newest episodes in {store or url}")
    for column in ("subject", "number", "start (UTC)", "length", "state", "raw", "id"):
        table.add_column(column, justify="right" if column in ("number", "length") else "left", no_wrap=column == "id")
    for row in rows:
        start = datetime.fromtimestamp(row["start_utc_ns"] / 1e9, timezone.utc)
        table.add_row(
            row["subject"],
            str(row["sequence"]),
            f"{start:%Y-%m-%d %H:%M:%S}",
            f"{(row['end_utc_ns'] - row['start_utc_ns']) / 1e9:.1f} s",
            row["state"],
            row["raw"],
            f"{row['id'][:12]}…",
        )
    Console().print(table)


def _list_store(path: Path, key: Path | None, subject: str | None, limit: int) -> list[dict[str, Any]]:
    with EpisodeStore(path, read_only=True, vault=vault_beside(path, key)) as store:
        found = store.episodes(subject=subject, limit=limit)
    names = ("id", "site", "gateway", "subject", "sequence", "start_utc_ns", "end_utc_ns")
    return [
        {name: getattr(stored.envelope, name) for name in names}
        | {"sentence": stored.envelope.sentence, "state": _state(stored.episode_state), "raw": _state(stored.raw_state)}
        for stored in found
    ]


def _state(state: str | None) -> str:
    """Say an outbox state in the words of a reader."""
    return {"READY": "to send", "LOCKED": "sending", "DONE": "sent", "FAILED": "refused", None: "-"}[state]


def _from_store(path: Path, key: Path | None, id: str) -> Any:
    with EpisodeStore(path, read_only=True, vault=vault_beside(path, key)) as store:
        stored = store.episode(id)
        if stored is None:
            newest = {found.envelope.id: found for found in store.episodes(limit=_LOOKED_AT)}
            stored = newest[_whole_id(id, list(newest), str(path))]
    return json.loads(stored.envelope.to_bytes())


def _from_collector(url: str, token_file: Path | None, id: str) -> Any:
    if len(id) < _ID_DIGITS:
        id = _whole_id(id, [row["id"] for row in _list_collector(url, token_file, None, _LOOKED_AT)], url)
    return _get(url, f"/v1/episodes/{id}", token_file, {})


def _whole_id(digits: str, newest: list[str], where: str) -> str:
    """Return the one id among the newest that begins so."""
    found = [id for id in newest if id.startswith(digits)]
    if len(found) == 1:
        return found[0]
    many = "several episodes begin so, give more digits" if found else "no such episode"
    raise ConfigError(f"{where}: {digits}: {many}; `kinedge episodes --json` shows whole ids")


def _list_collector(url: str, token_file: Path | None, subject: str | None, limit: int) -> list[dict[str, Any]]:
    parameters = {"order": "newest", "limit": str(limit)} | ({"subject": subject} if subject else {})
    found = _get(url, "/v1/episodes", token_file, parameters)
    return [{**row, "state": "received", "raw": "received" if row["has_raw"] else "-"} for row in found["episodes"]]


def _get(url: str, path: str, token_file: Path | None, parameters: dict[str, str]) -> Any:
    headers = {}
    try:
        if token_file is not None:
            headers["Authorization"] = f"Bearer {token_file.read_text(encoding='ascii').strip()}"
        answer = httpx.get(url.rstrip("/") + path, params=parameters, headers=headers, timeout=_TIMEOUT_S)
        content = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as e:
        raise LinkError(f"{url}: no collector answers there ({e}); check the address and that it runs") from e
    if answer.status_code != 200:
        message = content.get("error", {}).get("message") if isinstance(content, dict) else None
        raise LinkError(f"{url}: {answer.status_code} {message or 'not a collector'}; check address, token and id")
    return content
