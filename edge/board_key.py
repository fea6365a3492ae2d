"""The board's own key: enrolments that are made on a board are signed with it, and count on this board alone.

It lies beside the store, and only the gateway's own user can read it. Who could read it could as well change the store.
"""

from __future__ import annotations

from pathlib import Path

from kinedge.signing import SigningKey, generate_key, load_signing_key, public_path

__all__ = ["board_key_path", "board_public_keys", "open_board_key"]


def board_key_path(store: Path) -> Path:
    """Return where the key of the gateway with this store lies."""
    return store.with_suffix(".board-key")


def board_public_keys(store: Path) -> tuple[Path, ...]:
    """Return where the public half lies: nowhere before the first enrolment on this board."""
    path = public_path(board_key_path(store))
    return (path,) if path.is_file() else ()


def open_board_key(store: Path) -> SigningKey:
    """Return the key, made if it is not there yet.

    Raises
    ------
    ConfigError
        It cannot be made, or read, or others may read it.
    """
    path = board_key_path(store)
    if not path.exists():
        generate_key(path)
    return load_signing_key(path)
