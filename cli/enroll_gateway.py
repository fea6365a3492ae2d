"""``kinedge enroll-gateway``: a gateway's certificate, from an invitation."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from kinedge.cli.app import app
from kinedge.errors import ConfigError

__all__ = ["enroll_gateway"]


@app.command("enroll-gateway")
def enroll_gateway(
    gateway: Annotated[str, typer.Argument(help="The name it was invited under, as in its gateway.toml.")],
    url: Annotated[str, typer.Option(help="The address of the collector, https://...")],
    folder: Annotated[Path, typer.Option(help="Where key and certificate go.")] = Path("identity"),
    token_file: Annotated[Path | None, typer.Option(help="A file with the invitation; else it is asked for.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Get this gateway's certificate from the collector, once. `kinedge run` renews it by itself.

    On the collector, `kinedge collect gateways add ward-3 --pki pki` prints the invitation. Here it is read from a file
    or from the standard input, never from the command line, which others on this machine can see.

    Example: kinedge enroll-gateway ward-3 --url https://collector.example:8765 --folder identity
    """
    from kinedge.edge.gateway_identity import enrol_gateway

    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"--token-file {token_file}: cannot be read ({e})") from e
    elif sys.stdin.isatty():
        token = typer.prompt("invitation", hide_input=True, err=True)
    else:
        token = sys.stdin.readline().strip()
    identity = enrol_gateway(url, gateway, token, folder)
    if as_json:
        typer.echo(json.dumps({"gateway": gateway, "folder": str(folder), "ends_utc_ns": identity.ends_utc_ns}))
        return
    until = datetime.fromtimestamp(identity.ends_utc_ns / 1e9, timezone.utc)
    typer.echo(f"{gateway}: certificate until {until:%Y-%m-%d}; put this into gateway.toml:\n")
    typer.echo(f'[uplink]\nurl = "{url}"\nidentity = "{folder}"')
