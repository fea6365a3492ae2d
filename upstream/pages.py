"""The desk's page: a few built files in memory, under a policy that lets nothing in from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from kinedge.upstream.problems import Refusal

__all__ = ["PAGE_HEADERS", "pages"]

PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
    "txt": "text/plain; charset=utf-8",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"  # a name with a digest never means other bytes

pages = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _File:
    data: bytes
    media_type: str


def _read() -> dict[str, _File]:
    """Return what was built, by path; nothing where the page is not part of this installation."""
    folder = resources.files("kinedge.upstream") / "desk" / "static"
    found: dict[str, _File] = {}
    for prefix, where in (("", folder), ("assets/", folder / "assets")):
        if not where.is_dir():
            continue
        for entry in where.iterdir():
            media_type = _TYPES.get(entry.name.rpartition(".")[2])
            if entry.is_file() and media_type is not None:
                found[prefix + entry.name] = _File(entry.read_bytes(), media_type)
    return found


_FILES: Final = _read()


@pages.get("/")
@pages.head("/")
def index(request: Request) -> Response:
    """Give the page; what it shows it must ask for, and be known for."""
    return _give(request, "index.html", "no-cache")


@pages.get("/licences.txt")
@pages.head("/licences.txt")
def licences(request: Request) -> Response:
    """Give the licences of what the page is made of."""
    return _give(request, "licences.txt", "no-cache")


@pages.get("/assets/{name}")
@pages.head("/assets/{name}")
def asset(request: Request, name: Annotated[str, Path(max_length=100)]) -> Response:
    """Give a part of the page."""
    return _give(request, f"assets/{name}", _FOR_EVER)


def _give(request: Request, path: str, cache: str) -> Response:
    request.app.state.gate.hold(request.scope)
    file = _FILES.get(path)
    if file is None:
        raise Refusal(404, "not_found", "no such page here")
    return Response(file.data, media_type=file.media_type, headers={**PAGE_HEADERS, "Cache-Control": cache})
