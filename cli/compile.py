"""``kinedge compile``: TensorRT engines of a bundle for this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from kinedge.bundle import read_bundle
from kinedge.cli.app import app, need_extra
from kinedge.errors import BackendError, BundleError, ConfigError

__all__ = ["compile_"]


class _Precision(str, Enum):
    """What typer takes more than one of."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@app.command("compile")
def compile_(
    bundle: Annotated[Path | None, typer.Argument(help="A .kinedge file; that of --config when left out.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The gateway's TOML: its bundle, whose signatures count, and max_streams.")
    ] = None,
    trusted: Annotated[list[Path] | None, typer.Option(help="A public key that counts; may be given again.")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Take a model that no trusted key has signed.")] = False,
    precision: Annotated[
        list[_Precision] | None,
        typer.Option(help="May be given again; all the bundle allows when left out. fp16 always goes with int8."),
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(min=1, max=4096, help="People at once, at most; that of --config, else 64.")
    ] = None,
    workspace_mib: Annotated[int, typer.Option(min=1, max=65_536, help="Memory a step may use, MiB.")] = 256,
    library: Annotated[
        Literal["tensorrt", "tensorrt-rtx"],
        typer.Option(help="TensorRT-RTX also builds without a GPU, to try a graph."),
    ] = "tensorrt",
    cache: Annotated[
        Path | None, typer.Option(help="Folder for engines; ~/.cache/kinedge/engines when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build TensorRT engines of a model for this machine, and seal them into the cache.

    What is there already and still fits is kept. Engines are never carried to another machine: run it on each. The
    signature is judged as by kinedge run, before anything is built.

    Example: kinedge compile --config gateway.toml --precision int8

    Example: kinedge compile wrists.kinedge --trusted clinic.pem.pub --max-streams 16
    """
    from kinedge.edge.backends.engine_cache import EngineCache
    from kinedge.edge.backends.trt_library import load_library
    from kinedge.edge.config import load_gateway_config
    from kinedge.edge.trusted import bundle_in_use, is_trusted
    from kinedge.signing import load_trust

    with need_extra("tensorrt"):
        from kinedge.quantize.engines import compile_bundle

    settings = None if config is None else load_gateway_config(config)
    if bundle is None:
        if settings is None:
            raise ConfigError("name a .kinedge file, or a gateway's TOML with --config")
        bundle = bundle_in_use(settings)
    keys = [*(settings.trust.keys if settings is not None else ()), *(trusted or ())]
    trust = load_trust(keys, allow_unsigned=unsigned or (settings is not None and settings.trust.allow_unsigned))
    if max_streams is None:
        max_streams = 64 if settings is None else settings.max_streams
    loaded = read_bundle(bundle)
    try:
        signed = is_trusted(loaded, bundle, trust)
    except BundleError as e:
        raise BundleError(f"{e}; here: --trusted KEY, --config GATEWAY, or --unsigned") from e
    opened = load_library(library, need_gpu=library == "tensorrt")
    engines = EngineCache.default()
    if cache is not None:
        engines = EngineCache(cache, key_file=engines.key_file)
    with Console(stderr=True).status("building", spinner="line") as status:
        done = compile_bundle(
            loaded,
            opened,
            engines,
            precisions=[p.value for p in precision or ()],
            max_streams=max_streams,
            workspace_mib=workspace_mib,
            progress=lambda what: status.update(f"building {what}"),
        )
    if as_json:
        rows = [asdict(c) for c in done]
        facts = {"library": f"{opened.name} {opened.version}", "digest": loaded.digest, "signed": signed}
        typer.echo(json.dumps({**facts, "max_streams": max_streams, "engines": rows}, indent=2))
    else:
        table = Table(title=f"{loaded.manifest.name} for {opened.name} {opened.version}", title_justify="left")
        for column in ("precision", "engine", "MB", "s"):
            table.add_column(column, justify="left" if column in ("precision", "engine") else "right")
        for c in done:
            what = c.problem or ("built" if c.built else "was there")
            table.add_row(c.precision, what, f"{c.n_bytes / 1e6:.1f}" if c.n_bytes else "", f"{c.seconds:.1f}")
        Console().print(table)
        if not signed:
            Console().print("[yellow]Nobody trusted has signed this model.[/yellow]")
    if not any(c.n_bytes for c in done):
        raise BackendError(f"no engine of {loaded.manifest.name} could be built: {done[0].problem}")
    failed = [c.precision for c in done if c.problem]
    if failed:
        raise BackendError(f"{', '.join(failed)} could not be built; the others can be used")
