"""``kinedge collect``: the collector on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from kinedge.cli.app import app, need_extra
from kinedge.errors import ConfigError

__all__ = ["collect"]


@app.command()
def collect(
    db: Annotated[str, typer.Option(help="A file, or a SQLAlchemy URL.")] = "collector.db",
    host: Annotated[str, typer.Option(help="Any but a loopback address needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8765,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token that gateways must show.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM; serve https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written as JSON {url, pid} once it answers.")] = None,
) -> None:
    """Receive episodes from gateways and store each exactly once.

    Example: kinedge collect --db collector.db
    """
    with need_extra("upstream"):
        from kinedge.upstream.server import Collector
        from kinedge.upstream.settings import CollectorSettings, read_token
    if ready_file is not None:
        if not ready_file.absolute().parent.is_dir():
            raise ConfigError(f"--ready-file {ready_file}: there is no such folder; make it first")
        ready_file.unlink(missing_ok=True)  # one of a run before would promise too much
    url = db if "://" in db else f"sqlite:///{Path(db).absolute()}"
    settings = CollectorSettings(database_url=url, token=read_token(token_file) if token_file else None)
    collector = Collector(settings, host=host, port=port, tls_certificate=tls_certificate, tls_key=tls_key)

    def announce() -> None:
        typer.echo(f"collector listens on {collector.url}")
        if ready_file is not None:
            # Renamed into place: who sees it sees all of it.
            part = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
            part.write_text(json.dumps({"url": collector.url, "pid": os.getpid()}), encoding="utf-8")
            part.replace(ready_file)

    collector.run(on_ready=announce)
