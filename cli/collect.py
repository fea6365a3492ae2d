"""``kinedge collect``: the collector on this machine, its keys and its gateways."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from kinedge.cli.app import app, need_extra
from kinedge.config import Config
from kinedge.errors import ConfigError, LinkError, StoreError

if TYPE_CHECKING:
    from kinedge.upstream.fleet import Fleet

__all__ = ["audit", "collect", "collect_app", "database_url", "gateways_app", "init", "relay"]

ConfigT = TypeVar("ConfigT", bound=Config)

collect_app = typer.Typer(invoke_without_command=True)
gateways_app = typer.Typer(help="Invite, list and revoke gateways.", no_args_is_help=True)
app.add_typer(collect_app, name="collect")
collect_app.add_typer(gateways_app, name="gateways")

_Db = Annotated[str, typer.Option(help="A file, or a SQLAlchemy URL (postgresql://user@host/name).")]
_Pki = Annotated[Path, typer.Option(help="The folder of kinedge collect init.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@collect_app.callback()
def collect(
    context: typer.Context,  # no default: Python 3.10 makes it Optional, which typer does not take for its context
    db: _Db = "collector.db",
    host: Annotated[str, typer.Option(help="Any but a loopback address needs a token or --pki.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8765,
    pki: Annotated[Path | None, typer.Option(help="A folder of init: https, gateways by certificate.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A desk's bearer token; with it, everything is allowed.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM; serve https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM.")] = None,
    blobs: Annotated[str | None, typer.Option(help="file:///folder or s3://bucket/prefix for raw blobs.")] = None,
    oidc_issuer: Annotated[str | None, typer.Option(help="The identity provider of people.")] = None,
    oidc_audience: Annotated[str, typer.Option(help="What their tokens' aud says.")] = "kinedge",
    oidc_roles_claim: Annotated[str, typer.Option(help="Where roles stand, such as realm_access.roles.")] = "roles",
    oidc_client_id: Annotated[
        str | None, typer.Option(help="Of the desk's page; like the audience if not given.")
    ] = None,
    oidc_client_secret_file: Annotated[Path | None, typer.Option(help="For a client that is not public.")] = None,
    public_url: Annotated[str | None, typer.Option(help="Where browsers find the desk, https://desk.example.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written as JSON {url, pid} once it answers.")] = None,
) -> None:
    """Receive episodes from gateways and store each exactly once.

    Example: kinedge collect --db collector.db

    A fleet: kinedge collect init pki --host collector.example; kinedge collect --pki pki --host 0.0.0.0
    """
    if context.invoked_subcommand is not None:
        return
    with need_extra("upstream"):
        from kinedge.upstream.server import Collector
        from kinedge.upstream.settings import CollectorSettings, OidcSettings, read_token
    if ready_file is not None:
        if not ready_file.absolute().parent.is_dir():
            raise ConfigError(f"--ready-file {ready_file}: there is no such folder; make it first")
        ready_file.unlink(missing_ok=True)  # one of a run before would promise too much
    if token_file is None and pki is not None and (pki / "desk-token").exists():
        token_file = pki / "desk-token"
    oidc: OidcSettings | None = None
    if oidc_issuer is not None:
        secret = None if oidc_client_secret_file is None else read_token(oidc_client_secret_file)
        oidc = _checked(
            OidcSettings,
            "--oidc-issuer",
            issuer=oidc_issuer,
            audience=oidc_audience,
            roles_claim=oidc_roles_claim,
            client_id=oidc_client_id,
            client_secret=secret,
        )
    settings = _checked(
        CollectorSettings,
        "kinedge collect",
        database_url=database_url(db),
        public_url=None if public_url is None else public_url.rstrip("/"),
        blobs_url=blobs,
        ca_folder=pki,
        oidc=oidc,
        token=read_token(token_file) if token_file else None,
    )
    collector = Collector(settings, host=host, port=port, tls_certificate=tls_certificate, tls_key=tls_key)

    def announce() -> None:
        typer.echo(f"collector listens on {collector.url}")
        if ready_file is not None:
            # Renamed into place: who sees it sees all of it.
            part = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
            part.write_text(json.dumps({"url": collector.url, "pid": os.getpid()}), encoding="utf-8")
            part.replace(ready_file)

    collector.run(on_ready=announce, alone=True)


@collect_app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where keys and certificates go; only you may read it.")],
    host: Annotated[list[str], typer.Option(help="A name or address of the collector; may be repeated.")],
    as_json: _AsJson = False,
) -> None:
    """Make an authority for a fleet, the collector's certificate and a desk's token. Keep the folder secret.

    Example: kinedge collect init pki --host collector.example
    """
    with need_extra("upstream"):
        from kinedge.upstream.pki import Authority, init_folder

    init_folder(folder, host)
    fingerprint = Authority(folder).fingerprint
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "ca_sha256": fingerprint, "hosts": host}))
        return
    typer.echo(f"{folder}: authority {fingerprint[:16]}…, a certificate for {', '.join(host)} and a desk token")


@collect_app.command()
def audit(db: _Db = "collector.db", as_json: _AsJson = False) -> None:
    """Recompute the chain of the collector's audit. Note the digest elsewhere: it also proves that no end was cut off.

    Example: kinedge collect audit --db collector.db
    """
    with need_extra("upstream"):
        from kinedge.upstream.store import CollectorStore

    store = CollectorStore(database_url(db))
    head = store.verify_audit()
    store.close()
    if as_json:
        typer.echo(json.dumps({"rows": head.n_rows, "digest": head.digest}))
        return
    typer.echo(f"{head.n_rows} rows, unbroken; the last is {head.digest}")


@collect_app.command()
def relay(
    to: Annotated[str, typer.Option(help="kafka://host:9092/topic or fhir+https://fhir.example/r4.")],
    db: _Db = "collector.db",
    blobs: Annotated[str | None, typer.Option(help="Where raw blobs lie, as with collect.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the other side has everything.")] = False,
    poll_s: Annotated[float, typer.Option(min=0.1, max=3600, help="Between two looks, s.")] = 2.0,
) -> None:
    """Bring stored episodes on to Kafka or a FHIR server, in order, each at least once. It goes on where it was.

    Example: kinedge collect relay --to kafka://broker:9092/episodes
    """
    import time

    with need_extra("upstream"):
        from kinedge.upstream.blobs import open_blobs
        from kinedge.upstream.sinks import Relay, open_sink
        from kinedge.upstream.store import CollectorStore

    sink = open_sink(to)
    runner = Relay(CollectorStore(database_url(db), blobs=open_blobs(blobs)), sink)
    n_failures = 0
    while True:
        try:
            n = runner.step()
            n_failures = 0
        except (LinkError, StoreError) as e:
            if once:
                raise
            n, n_failures = 0, n_failures + 1
            typer.echo(f"waiting: {e}", err=True)
        if n:
            typer.echo(f"{sink.name}: {n} episodes, up to arrival {runner.cursor()}")
        elif once:
            sink.close()
            return
        else:
            time.sleep(min(300.0, poll_s * 2.0 ** min(n_failures, 10)))


@gateways_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The gateway's name, as in its gateway.toml.")],
    pki: _Pki,
    db: _Db = "collector.db",
    valid_h: Annotated[float, typer.Option(min=0.01, max=720, help="How long the token is good, hours.")] = 24,
    as_json: _AsJson = False,
) -> None:
    """Print a token with which a gateway can enrol once.

    Example: kinedge collect gateways add ward-3 --pki pki
    """
    token = _fleet(db, pki).invite(_checked_name(name), valid_h=valid_h, who="command line")
    if as_json:
        typer.echo(json.dumps({"gateway": name, "token": token, "valid_h": valid_h}))
        return
    typer.echo(token)


@gateways_app.command("list")
def list_(pki: _Pki, db: _Db = "collector.db", as_json: _AsJson = False) -> None:
    """List gateways, how long their certificates are good, and when they last sent an episode.

    Example: kinedge collect gateways list --pki pki
    """
    rows = _fleet(db, pki).gateways()
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=2))
        return
    table = Table("gateway", "certificate until (UTC)", "last episode (UTC)", "state")
    for row in rows:
        state = "revoked" if row.revoked else "invited" if row.invited else ""
        table.add_row(row.gateway, _day(row.certificate_expires_utc_ns), _day(row.last_episode_utc_ns), state)
    Console().print(table)


@gateways_app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The gateway's name.")],
    pki: _Pki,
    db: _Db = "collector.db",
    as_json: _AsJson = False,
) -> None:
    """Revoke all certificates of a gateway; running collectors refuse it within seconds.

    Example: kinedge collect gateways revoke ward-3 --pki pki
    """
    n = _fleet(db, pki).revoke(_checked_name(name), who="command line")
    typer.echo(json.dumps({"gateway": name, "n_certificates": n}) if as_json else f"{name}: {n} certificates revoked")


def _fleet(db: str, pki: Path) -> Fleet:
    with need_extra("upstream"):
        from kinedge.upstream.database import Database
        from kinedge.upstream.fleet import Fleet
        from kinedge.upstream.pki import Authority

    return Fleet(Database(database_url(db)), Authority(pki))


def database_url(db: str) -> str:
    """Return what SQLAlchemy calls a database that was named on the command line: a file, or a URL."""
    return db if "://" in db else f"sqlite:///{Path(db).absolute()}"


def _checked_name(name: str) -> str:
    import re

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", name):
        raise ConfigError(f"{name!r} is no gateway's name: letters, digits and _ . : - only, at most 64")
    return name


def _checked(model: type[ConfigT], where: str, **values: Any) -> ConfigT:
    from pydantic import ValidationError

    from kinedge.config import explain_validation_error

    try:
        return model(**values)
    except ValidationError as e:
        raise ConfigError(explain_validation_error(e, model, where)) from e


def _day(utc_ns: int | None) -> str:
    return "-" if utc_ns is None else f"{datetime.fromtimestamp(utc_ns / 1e9, timezone.utc):%Y-%m-%d %H:%M}"
