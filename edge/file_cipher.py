"""A store that is encrypted as a whole by SQLCipher, if somebody wants that: pseudonyms, times and counts, too.

What is kept of people is sealed under a key of theirs in any case (vault.py), so that a person can be forgotten; this
is for boards whose disk may be stolen. The key of the file is random, wrapped by the same master key, and lies beside
the others as ``whole-file.key``: where that is, the file is encrypted, whatever its first bytes look like.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any, cast

from kinedge.edge.vault import WHOLE_FILE, Vault
from kinedge.errors import ConfigError, StoreError

__all__ = ["connect", "errors", "file_key"]


def file_key(path: Path, vault: Vault | None, *, make: bool) -> bytes | None:
    """Return the key of a store's file; None where it is not encrypted as a whole.

    Parameters
    ----------
    path
        Of the store, whose keys lie in ``path.keys``.
    vault
        With the master key, if there is one.
    make
        A new file may be made, encrypted if the vault wants it.

    Raises
    ------
    ConfigError
        SQLCipher is not installed.
    StoreError
        The key is not here or another, or a file that is not encrypted was to be.
    """
    if (Path(f"{path}.keys") / WHOLE_FILE).exists():
        if vault is None:
            raise StoreError(f"{path}: is encrypted as a whole; give the key that [keys] names")
        _library()
        return vault.file_key(make=False)
    if vault is None or not vault.whole_file or not make:
        return None
    if path.exists() and path.stat().st_size:
        raise StoreError(
            f"{path}: was begun without keys.whole_file, and is not encrypted after the fact; once its episodes are "
            f"sent, move it away and start anew, or leave whole_file out"
        )
    _library()
    return vault.file_key(make=True)


def connect(address: str | Path, *, key: bytes | None, **options: Any) -> sqlite3.Connection:
    """Open a file as ``sqlite3.connect`` does, by SQLCipher where there is a key; both speak the same interface."""
    if key is None:
        return cast(sqlite3.Connection, sqlite3.connect(address, **options))
    connection = _library().connect(str(address), **options)
    connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
    return cast(sqlite3.Connection, connection)


def errors() -> tuple[type[Exception], ...]:
    """Return what a connection may raise: SQLCipher's library has classes of its own."""
    library = sys.modules.get("sqlcipher3.dbapi2")
    return (sqlite3.Error,) if library is None else (sqlite3.Error, library.Error)


def _library() -> Any:
    try:
        from sqlcipher3 import dbapi2
    except ImportError as e:
        raise ConfigError("keys.whole_file: needs SQLCipher; pip install 'kinedge[sqlcipher]'") from e
    return dbapi2
