"""The reference of every file that kinedge reads, from the pydantic models that read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from markup import cell, prose, table
from pydantic import BaseModel

from kinedge.config_reference import KeyFact, describe_keys

__all__ = ["config_pages", "files", "keys_of"]


def files() -> dict[str, tuple[str, str, type[BaseModel]]]:
    """Return the files: page -> title, what it is for, model."""
    from kinedge.cli.training_data import TrainConfig
    from kinedge.edge.config import GatewayConfig
    from kinedge.firmware_bridge.devices.struct_map import StructMap
    from kinedge.training.datasets.plain_csv import CsvConfig
    from kinedge.upstream.settings import CollectorSettings

    return {
        "gateway": (
            "A gateway's file",
            "What `kinedge run`, `kinedge enrol`, `kinedge measures` and `kinedge sync` read. "
            "`kinedge config --init gateway.toml` writes one to begin with, `kinedge config --check` checks one.",
            GatewayConfig,
        ),
        "struct-map": (
            "A board's struct map",
            "Tells the bytes of a board of your own ([how to](../../how-to/bring-your-own-sensor.md)).",
            StructMap,
        ),
        "training": (
            "A training file",
            "What `kinedge train` reads ([how to](../../training.md)): `[simulated]`, `[data]` or `[recordings]`.",
            TrainConfig,
        ),
        "csv": (
            "A description of a CSV file",
            "Lies beside a CSV file of the same name and says what its columns are ([how to](../../training.md)).",
            CsvConfig,
        ),
        "collector": (
            "Settings of the collector",
            "What `kinedge collect` is told by its options, and a program that builds the collector itself by "
            "`CollectorSettings`.",
            CollectorSettings,
        ),
    }


def keys_of(page: str) -> list[KeyFact]:
    """Return every key that a page tells, those with it that the trainer checks once torch is there."""
    facts = list(describe_keys(files()[page][2]))
    if page != "training":
        return facts
    from kinedge.quantize.build import BuildConfig

    table_of_bundle = next(f for f in facts if f.key == "bundle")
    facts[facts.index(table_of_bundle)] = dataclasses.replace(
        table_of_bundle, is_table=True, default="left out", meaning=(BuildConfig.__doc__ or "").strip()
    )
    return [*facts, *describe_keys(BuildConfig, prefix="bundle.")]


def config_pages() -> dict[str, str]:
    """Return an index and a page for each file."""
    rows = [(f"[{title}]({page}.md)", cell(prose_of)) for page, (title, prose_of, _) in files().items()]
    index = (
        "# Configuration\n\nMade from the models that read the files. An unknown key is an error that names "
        "the nearest known one; so is a wrong unit. Paths are relative to the file they stand in.\n\n"
        + table(("file", "for"), rows)
        + "\n\n```{toctree}\n:hidden:\n\n"
        + "\n".join(files())
        + "\n```\n"
    )
    pages = {"reference/configuration/index.md": index}
    for page, (title, told, _) in files().items():
        parts = [f"# {title}", told, *_tables(keys_of(page))]
        pages[f"reference/configuration/{page}.md"] = "\n\n".join(parts) + "\n"
    return pages


def _tables(facts: list[KeyFact]) -> Iterator[str]:
    top = [f for f in facts if _parent(f) == "" and not f.is_table]
    if top:
        yield "## At the top"
        yield _rows(top)
    for holder in (f for f in facts if f.is_table):
        many = holder.key.endswith("[]")
        name = holder.key.replace("[]", "")
        yield f"## `{'[[' if many else '['}{name}{']]' if many else ']'}`"
        told = holder.meaning.rstrip(".") + "."
        yield prose(told) + ("" if holder.default is not None else " Must be given.")
        own = [f for f in facts if _parent(f) == holder.key and not f.is_table]
        if own:
            yield _rows(own)


def _parent(fact: KeyFact) -> str:
    return fact.key.rpartition(".")[0]


def _rows(facts: list[KeyFact]) -> str:
    rows = []
    for f in facts:
        default = "must be given" if f.default is None else f.default if f.default == "left out" else f"`{f.default}`"
        takes = " ".join(t for t in (f.type, f.bounds, f.unit) if t)
        meaning = prose(f.meaning) + (f". Example: `{f.example}`" if f.example is not None else "")
        rows.append((f"`{f.key.rpartition('.')[2]}`", cell(takes), cell(default), cell(meaning)))
    return table(("key", "takes", "default", "meaning"), rows)
