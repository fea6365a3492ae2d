"""Where reports are written: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from kinedge.errors import ConfigError

__all__ = ["write_page"]


def write_page(path: Path, content: str | bytes) -> None:
    """Write a report, whole or not at all.

    Raises
    ------
    ConfigError
        The place cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        beside.replace(path)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror}); give --out another place") from e
