"""Archives of public data sets: fetched with resume, compared with what came the first time, unpacked safely.

Owners publish no digests, and none are made up here. The first download is trusted and its SHA-256 written to
:data:`LOCK` beside the data; whatever comes later must be the same bytes or is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Final

import httpx

from kinedge.errors import LinkError, StoreError

__all__ = ["LOCK", "Pinned", "fetch", "read_lock", "sha256_of", "unpack", "write_lock"]

LOCK: Final = "kinedge-data.lock.json"
_BLOCK: Final = 1 << 20
_MAX_BYTES: Final = 8 << 30
_MAX_UNPACKED_BYTES: Final = 32 << 30
_MAX_RATIO: Final = 200  # text packs 10 to 30 times, zeros 1000 times
_MAX_MEMBERS: Final = 200_000
_SPARE_BYTES: Final = 64 << 20
_ATTEMPTS: Final = 5

Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Pinned:
    """What came the first time."""

    url: str
    sha256: str
    n_bytes: int
    fetched_utc: str


def read_lock(folder: Path) -> dict[str, Pinned]:
    """Return what is pinned in a folder, by name.

    Raises
    ------
    StoreError
        The file is there but damaged.
    """
    path = folder / LOCK
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: Pinned(**entry) for name, entry in content["pinned"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise StoreError(f"{path}: cannot be read ({e}); mend it, or remove it to trust the next download") from e


def write_lock(folder: Path, name: str, pinned: Pinned) -> None:
    """Pin one data set; the others stay."""
    content = {"pinned": {n: asdict(p) for n, p in sorted({**read_lock(folder), name: pinned}.items())}}
    path = folder / LOCK
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        raise StoreError(f"{path}: cannot be written ({e.strerror})") from e


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    report: Report | None = None,
    client: httpx.Client | None = None,
) -> Pinned:
    """Download a file; an interrupted download goes on where it stopped, now or at the next call.

    The bytes go to ``<target>.part``; ``target`` appears at once, when all is there and right. A part is continued
    only when the server says by ``If-Range`` that the file is still the same; otherwise it starts anew.

    Parameters
    ----------
    sha256
        What it must be; None trusts what comes.
    report
        Called with bytes so far and in all (None where the server does not say).

    Returns
    -------
    Pinned

    Raises
    ------
    LinkError
        The server does not answer, refuses, or breaks off again and again; what came is kept.
    StoreError
        The disk is full or not writable, the file is too large, or its digest is another (then it is removed).
    """
    part, about = _with_suffix(target, ".part"), _with_suffix(target, ".part.json")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        own = client or httpx.Client(follow_redirects=True, timeout=httpx.Timeout(30.0))
        try:
            _retry(own, url, part, about, report)
        finally:
            if client is None:
                own.close()
        found = sha256_of(part)
        if sha256 is not None and found != sha256:
            part.unlink()
            about.unlink(missing_ok=True)
            raise StoreError(
                f"{url}: SHA-256 is {found}, expected {sha256}: the file was changed or damaged, and is removed here. "
                f"If the owner has published a new one, remove the entry from {LOCK} to accept it"
            )
        n_bytes = part.stat().st_size
        os.replace(part, target)
        about.unlink(missing_ok=True)
    except OSError as e:
        raise _disk_error(target, e) from e
    return Pinned(url, found, n_bytes, datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _disk_error(target: Path, e: OSError) -> StoreError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{target}: the disk is full; make room and start again, it goes on from there")
    return StoreError(f"{target}: cannot be written ({e.strerror or e})")


def _retry(client: httpx.Client, url: str, part: Path, about: Path, report: Report | None) -> None:
    """Try until all is there; give up when an attempt brings nothing new, or after a few."""
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(client, url, part, about, report)
            return
        except httpx.TransportError as e:
            gained = (part.stat().st_size if part.exists() else 0) > before
            if attempt == _ATTEMPTS or not gained:
                kept = part.stat().st_size if part.exists() else 0
                raise LinkError(
                    f"{url}: broke off ({type(e).__name__}: {e}); {kept:,} bytes are kept, start again to go on"
                ) from e
        except (httpx.InvalidURL, httpx.HTTPError) as e:
            raise LinkError(f"{url}: cannot be fetched ({e})") from e


def _validator(about: Path, url: str) -> str | None:
    """Return what the server called the version that the part is of."""
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
        validator = known["validator"] if known["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return validator if isinstance(validator, str) and validator.isprintable() else None


def _attempt(client: httpx.Client, url: str, part: Path, about: Path, report: Report | None) -> None:
    validator = _validator(about, url)
    have = part.stat().st_size if part.exists() and validator else 0
    headers = {"Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with client.stream("GET", url, headers=headers) as response:
        if url.startswith("https:") and response.url.scheme != "https":
            raise LinkError(f"{url}: leads to {response.url}, which is not encrypted; it is not followed")
        content_range = response.headers.get("Content-Range", "")
        if response.status_code == 416 and content_range == f"bytes */{have}":
            return  # all of it was here
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise httpx.ReadError("the server has another length than what came before; that is dropped")
        if response.status_code not in (200, 206):
            raise LinkError(f"{url}: the server answers {response.status_code} {response.reason_phrase}")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
        if response.status_code == 206 and (match is None or int(match[1]) != have):
            raise LinkError(f"{url}: the server answers {content_range!r:.60} to a question for what follows {have}")
        start = have if response.status_code == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        _check_room(url, part, total, start)
        strong = response.headers.get("ETag", "")
        validator = strong if strong and not strong.startswith("W/") else response.headers.get("Last-Modified")
        about.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")
        done = start
        with part.open("ab" if start else "wb") as file:
            for block in response.iter_raw():
                done += len(block)
                if done > _MAX_BYTES:
                    raise StoreError(f"{url}: more than {_MAX_BYTES:,} bytes; no data set here is as large")
                file.write(block)
                if report is not None:
                    report(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done != total:
            raise httpx.ReadError(f"{done} of {total} bytes")


def _check_room(url: str, part: Path, total: int | None, start: int) -> None:
    if total is None:
        return
    if total > _MAX_BYTES:
        raise StoreError(f"{url}: {total:,} bytes; no data set here is as large")
    free = shutil.disk_usage(part.parent).free
    if free < total - start + _SPARE_BYTES:
        raise StoreError(f"{part.parent}: {free:,} bytes are free, {total - start:,} are still to come; make room")


def unpack(archive: Path, folder: Path, *, keep: str = ".", report: Report | None = None) -> int:
    """Unpack a zip into a new folder, which appears at once and whole; return the number of files.

    Parameters
    ----------
    keep
        Regular expression; members it is not found in stay out.

    Raises
    ------
    StoreError
        The archive is damaged, a member would land outside ``folder``, is a link, or stands twice, it unpacks to
        far more than data does, the folder is there already, or the disk is full. Nothing is left behind then.
    """
    if folder.exists():
        raise StoreError(f"{folder}: is there already; remove it first")
    here = _with_suffix(folder, ".unpacking")
    shutil.rmtree(here, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [m for m in packed.infolist() if not m.is_dir() and re.search(keep, "/" + m.filename)]
            budget = _check_members(archive, members)
            here.mkdir(parents=True)
            done = 0
            for member in members:
                path = here / PurePosixPath(member.filename)
                path.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, path.open("xb") as out:
                    while block := source.read(_BLOCK):
                        done += len(block)
                        if done > budget:
                            raise StoreError(f"{archive}: unpacks to more than it says; it is no honest archive")
                        out.write(block)
                if report is not None:
                    report(done, budget)
        os.replace(here, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise StoreError(f"{archive}: is no readable zip ({e}); remove it and fetch it again") from e
    except OSError as e:
        raise _disk_error(folder, e) from e
    finally:
        shutil.rmtree(here, ignore_errors=True)
    return len(members)


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> int:
    """Return how many bytes the members may have, after looking at their names and sizes."""
    if not members:
        raise StoreError(f"{archive}: none of the expected files are in it; has its owner changed it?")
    if len(members) > _MAX_MEMBERS:
        raise StoreError(f"{archive}: {len(members):,} files; no data set here has as many")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
            raise StoreError(f"{archive}: {name!r:.120} would not stay in its folder; nothing is unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise StoreError(f"{archive}: {name!r:.120} is a link; nothing is unpacked")
        if name.lower() in seen:
            raise StoreError(f"{archive}: {name!r:.120} stands in it twice; nothing is unpacked")
        seen.add(name.lower())
    total, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if total > _MAX_UNPACKED_BYTES or total > max(_MAX_RATIO * packed, 1 << 20):
        raise StoreError(f"{archive}: {packed:,} bytes would unpack to {total:,}; that is no data set")
    return total
