"""``kinedge inspect``: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kinedge.bundle import read_bundle
from kinedge.cli.app import app
from kinedge.edge.caution import CautionConfig

__all__ = ["inspect"]


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A .kinedge file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check every digest of a model bundle and show what it expects and promises.

    Example: kinedge inspect model.kinedge
    """
    loaded = read_bundle(bundle)
    manifest = loaded.manifest
    if as_json:
        typer.echo(json.dumps({"digest": loaded.digest, **manifest.model_dump(mode="json")}, indent=2))
        return
    table = Table(title=f"{manifest.name}  (all digests hold)", show_header=False)
    table.add_row("digest", loaded.digest)
    table.add_row("made", f"{manifest.created_utc} with kinedge {manifest.kinedge_version}")
    table.add_row("intended use", manifest.intended_use)
    for sensor in manifest.sensors:
        table.add_row(f"sensor {sensor.name}", " ".join(sensor.channels))
    table.add_row("grid", f"{manifest.rate_hz:g} Hz, a verdict every {manifest.hop / manifest.rate_hz:g} s")
    table.add_row("looks back", f"{manifest.receptive_field / manifest.rate_hz:.2f} s")
    table.add_row("caution, unless set", CautionConfig().meaning)
    table.add_row("parameters", f"{manifest.n_parameters:,}")
    table.add_row("precisions", ", ".join(sorted(manifest.precisions)))
    for name, part in sorted(manifest.parts.items()):
        table.add_row(f"part {name}", f"{part.n_bytes:,} bytes  {part.sha256[:16]}…")
    for title, facts in (("training", manifest.training), ("quality", manifest.quality)):
        for key, value in facts.items():
            table.add_row(f"{title}: {key}", str(value))
    Console().print(table)
