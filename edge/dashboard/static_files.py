"""The page as it was built: a handful of files, read once, packed where the browser takes it."""

from __future__ import annotations

import asyncio
import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kinedge.edge.http_server import Answer, Request

__all__ = ["PAGE_HEADERS", "STATIC", "StaticFiles"]

STATIC: Final = Path(__file__).parent / "static"

PAGE_HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
_PACKED: Final = {".html", ".js", ".css", ".svg", ".json", ".txt"}
_HASHED: Final = re.compile(r".*-[A-Za-z0-9_-]{8,}\.[a-z0-9]+")
_MAX_FILE_BYTES: Final = 8 << 20
_MISSING: Final = (
    b"<!doctype html><title>kinedge</title><p>The page is not built into this installation. "
    b"The board works; /health and /metrics answer.\n"
)


@dataclass(frozen=True)
class _File:
    plain: bytes
    packed: bytes
    content_type: str
    cache: str


class StaticFiles:
    """Serves the files of one folder, and what lies in its ``assets``, by name and nothing else.

    Parameters
    ----------
    folder
        With ``index.html``.
    """

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        self._known: dict[str, _File] = {}

    async def answer(self, request: Request) -> Answer | None:
        """Return a file, the page for its own paths, or None."""
        name = request.path.removeprefix("/") or "index.html"
        last = name.rpartition("/")[2]
        if name.startswith("assets/") and "/" not in name.removeprefix("assets/"):
            path = self._folder / "assets" / last
        elif "/" not in name and "." in name:
            path = self._folder / last
        elif "." not in last and not name.startswith("api/"):
            name, path = "index.html", self._folder / "index.html"
        else:
            return None
        if last.startswith(".") or "\\" in name or "\0" in name or path.suffix not in _TYPES:
            return None
        found = self._known.get(name) or await asyncio.to_thread(self._read, path)
        if found is None:
            if name != "index.html":
                return None
            found = _File(_MISSING, b"", _TYPES[".html"], "no-cache")
        else:
            self._known[name] = found
        headers: tuple[tuple[str, str], ...] = (
            *PAGE_HEADERS,
            ("Cache-Control", found.cache),
            ("Vary", "Accept-Encoding"),
        )
        if found.packed and "gzip" in request.headers.get("accept-encoding", ""):
            return Answer(found.packed, found.content_type, headers=(*headers, ("Content-Encoding", "gzip")))
        return Answer(found.plain, found.content_type, headers=headers)

    def _read(self, path: Path) -> _File | None:
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                return None
            plain = path.read_bytes()
        except (OSError, ValueError):
            return None
        packed = gzip.compress(plain, 6, mtime=0) if path.suffix in _PACKED and len(plain) > 512 else b""
        hashed = path.parent.name == "assets" and _HASHED.fullmatch(path.name) is not None
        cache = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return _File(plain, packed, _TYPES[path.suffix], cache)
