"""Results on disk: versioned, immutable JSON, read back with every doubt said in one sentence.

A result is made once and never altered: it carries a digest of its own content, and a file that was edited afterwards
is refused. Version 1 (before the digest) is still read; anything else is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from kinedge.errors import ConfigError

__all__ = ["SCHEMA", "VERSION", "Result", "read_folder", "read_result", "seal", "write_result"]

SCHEMA: Final = "kinedge.bench"
VERSION: Final = 2
_READ: Final = (1, 2)
_MAX_BYTES: Final = 64 << 20
_WANTED: Final = {
    "benchmark": str,
    "utc": str,
    "kinedge": str,
    "machine": dict,
    "settings": dict,
    "rows": list,
    "warnings": list,
}


@dataclass(frozen=True, eq=False)
class Result:
    """One run of one benchmark, as it was written down.

    Parameters
    ----------
    benchmark
        Its name.
    utc
        When it ended, ISO 8601.
    kinedge
        Version that was measured.
    machine, settings
        Where and how.
    rows
        What was found; every row has ``what``.
    warnings
        Why the figures should be doubted.
    command
        How to run it again; empty in old results.
    version
        Of the file's schema.
    digest
        First 16 hex digits of the content's SHA-256; empty in old results.
    more
        Whatever else the benchmark told.
    """

    benchmark: str
    utc: str
    kinedge: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    command: str = ""
    version: int = VERSION
    digest: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def day(self) -> str:
        """When it ended, the date alone."""
        return self.utc[:10]

    @property
    def where(self) -> str:
        """The machine in a few words."""
        m = self.machine
        parts = [m.get("board") or m.get("cpu") or "unknown machine", f"{m.get('cores')} cores"]
        if m.get("power_mode"):
            parts.append(str(m["power_mode"]))
        parts.append(f"load {m.get('load_1min')}")
        return ", ".join(str(p) for p in parts)


def seal(found: Mapping[str, Any], *, command: str = "") -> dict[str, Any]:
    """Return a result with schema, command and the digest of its content, ready to be written.

    Parameters
    ----------
    found
        As ``harness.result`` makes it, with what a benchmark added.
    command
        How to run it again; what ``found`` has stays where this is empty.
    """
    whole = {**found, "schema": f"{SCHEMA}/{VERSION}"}
    if command:
        whole["command"] = command
    whole.pop("digest", None)
    return {**whole, "digest": _digest(whole)}


def write_result(found: Mapping[str, Any], path: Path) -> None:
    """Write a sealed result whole or not at all.

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        raise ConfigError(f"{path}: the result cannot be written there ({e.strerror})") from e


def read_result(path: Path) -> Result:
    """Read a result of this or of an older version.

    Raises
    ------
    ConfigError
        It is no result, is of a version this kinedge does not know, or was altered after it was measured.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: no result of kinedge bench is larger than {_MAX_BYTES >> 20} MB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise ConfigError(f"{path}: is no JSON; give a file that kinedge bench ... --out wrote") from e
    return result_of(found, name=str(path))


def result_of(found: object, *, name: str) -> Result:
    """Check what was read, see ``read_result``; ``name`` is said in errors.

    Raises
    ------
    ConfigError
        As ``read_result``.
    """
    if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
        raise ConfigError(f"{name}: is no result of kinedge bench (it names no schema)")
    family, _, number = found["schema"].partition("/")
    if family != SCHEMA:
        raise ConfigError(f"{name}: has the schema {found['schema']!r}; kinedge bench reads {SCHEMA}/1 and /2")
    if number not in [str(v) for v in _READ]:
        raise ConfigError(f"{name}: is of version {number!r}, this kinedge reads 1 and 2; read it with a newer kinedge")
    wrong = [key for key, kind in _WANTED.items() if not isinstance(found.get(key), kind)]
    if wrong:
        raise ConfigError(f"{name}: lacks {', '.join(wrong)}, or holds something else there; measure again")
    if not all(isinstance(row, dict) and isinstance(row.get("what"), str) for row in found["rows"]):
        raise ConfigError(f"{name}: every row must be an object that says what it is of; measure again")
    if not all(isinstance(w, str) for w in found["warnings"]):
        raise ConfigError(f"{name}: warnings must be sentences; measure again")
    digest = found.get("digest", "")
    if number != "1" and digest != _digest({k: v for k, v in found.items() if k != "digest"}):
        raise ConfigError(f"{name}: was altered after it was measured (its digest does not fit); measure again")
    known = {*_WANTED, "schema", "command", "digest"}
    return Result(
        benchmark=found["benchmark"],
        utc=found["utc"],
        kinedge=found["kinedge"],
        machine=MappingProxyType(found["machine"]),
        settings=MappingProxyType(found["settings"]),
        rows=tuple(MappingProxyType(row) for row in found["rows"]),
        warnings=tuple(found["warnings"]),
        command=str(found.get("command") or ""),
        version=int(number),
        digest=str(digest),
        more=MappingProxyType({k: v for k, v in found.items() if k not in known}),
    )


def read_folder(folder: Path) -> dict[str, Result]:
    """Read every ``*.json`` of a folder, by file name without the ending, in order.

    Raises
    ------
    ConfigError
        There is no such folder, it holds none, or one of them is none.
    """
    paths: Iterable[Path] = sorted(folder.glob("*.json")) if folder.is_dir() else ()
    found = {path.stem: read_result(path) for path in paths}
    if not found:
        raise ConfigError(f"{folder}: holds no results (*.json); run kinedge bench all --folder {folder}")
    return found


def _digest(found: Mapping[str, Any]) -> str:
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
