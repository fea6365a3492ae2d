"""The models of a gateway on disk: one folder per version, never changed, and two links that say which one is used.

    models/versions/DIGEST/bundle.kinedge, golden.npz
    models/current -> versions/DIGEST      what runs
    models/previous -> versions/DIGEST     what ran before
    models/state.json                      what waits, and what was refused and why
    models/metadata/                       what is known of the repository (TUF)

A folder is written beside its place, flushed and renamed; a link likewise. A power cut at any moment leaves the old
state or the new one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config
from kinedge.errors import BundleError

__all__ = ["BUNDLE_FILE", "ModelVersions", "VersionState", "current_bundle", "files_digest"]

BUNDLE_FILE: Final = "bundle.kinedge"
GOLDEN_FILE: Final = "golden.npz"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MAX_REFUSED: Final = 32


class VersionState(Config):
    """What is known beyond the links."""

    schema_version: str = Field(default="kinedge.models/1", pattern=r"^kinedge\.models/1$")
    fetched: str = Field(default="", description="SHA-256 of the repository's files when last fetched")
    staged: str = Field(default="", description="digest of what was fetched and is not used yet")
    tries: dict[str, int] = Field(default_factory=dict, description="self-tests that were begun and did not end")
    refused: dict[str, str] = Field(default_factory=dict, description="digest -> why")
    trial: str = Field(default="", description="digest of what was taken and is still to prove itself in service")
    runs: int = Field(default=0, description="services that began with it on trial and did not end in order")


class ModelVersions:
    """The folder of one gateway.

    Raises
    ------
    BundleError
        It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _explained(folder):
            (folder / "versions").mkdir(parents=True, exist_ok=True)
            (folder / "metadata").mkdir(exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the folder; the kernel lets go when we die."""
        with _explained(self.folder), (self.folder / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def current(self) -> str | None:
        """Digest of what runs, None before anything was taken."""
        return self._linked("current")

    @property
    def previous(self) -> str | None:
        """Digest of what ran before."""
        return self._linked("previous")

    def bundle_path(self, digest: str) -> Path:
        """Return where the bundle of a version lies."""
        return self.folder / "versions" / digest / BUNDLE_FILE

    def golden(self, digest: str) -> bytes:
        """Return the self-test of a version.

        Raises
        ------
        BundleError
            It cannot be read.
        """
        with _explained(self.folder):
            return (self.folder / "versions" / digest / GOLDEN_FILE).read_bytes()

    def read_state(self) -> VersionState:
        """Return the state; an unreadable one counts as empty: it holds nothing that cannot be found out again."""
        try:
            return VersionState.model_validate_json((self.folder / "state.json").read_bytes())
        except (OSError, ValidationError):
            return VersionState()

    def write_state(self, **changes: Any) -> VersionState:
        """Change the state on disk, and return it."""
        state = self.read_state().model_copy(update=changes)
        refused = dict(list(state.refused.items())[-_MAX_REFUSED:])
        state = state.model_copy(update={"refused": refused})
        _replace(self.folder / "state.json", canonical_json(state.model_dump(mode="json")))
        return state

    def refuse(self, digest: str, reason: str) -> None:
        """Remember that a version does not work here."""
        state = self.read_state()
        self.write_state(
            refused={**state.refused, digest: reason[:1000]},
            staged="" if state.staged == digest else state.staged,
            tries={k: v for k, v in state.tries.items() if k != digest},
        )

    def install(self, digest: str, bundle: bytes, golden: bytes) -> None:
        """Put a version beside the others, whole or not at all.

        Raises
        ------
        BundleError
            The disk does not take it.
        """
        place = self.folder / "versions" / digest
        with _explained(place):
            if place.is_dir():
                if self.current == digest or self._holds(place, bundle, golden):
                    return
                shutil.rmtree(place)
            self._prune()
            beside = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
            for name, content in ((BUNDLE_FILE, bundle), (GOLDEN_FILE, golden)):
                _write(beside / name, content)
            _flush_folder(beside)
            beside.chmod(0o755)
            beside.replace(place)
            _flush_folder(place.parent)

    def activate(self, digest: str) -> None:
        """Make a version the current one, and what was current the previous one.

        Raises
        ------
        BundleError
            It is not here, or the disk does not take it.
        """
        if not self.bundle_path(digest).is_file():
            raise BundleError(f"{self.folder}: version {digest[:16]} is not here; run kinedge models pull")
        before = self.current
        with _explained(self.folder):
            if before is not None and before != digest:
                self._link("previous", before)
            self._link("current", digest)
        state = self.read_state()
        self.write_state(staged="" if state.staged == digest else state.staged)
        self._prune()

    def clear(self) -> None:
        """Let no version be the current one: the bundle of the configuration runs."""
        with _explained(self.folder):
            (self.folder / "current").unlink(missing_ok=True)
            _flush_folder(self.folder)

    def _holds(self, place: Path, bundle: bytes, golden: bytes) -> bool:
        wanted = ((BUNDLE_FILE, bundle), (GOLDEN_FILE, golden))
        return all((place / n).is_file() and (place / n).read_bytes() == content for n, content in wanted)

    def _prune(self) -> None:
        """Remove versions that nothing names, and what an interrupted installation left."""
        kept = {self.current, self.previous, self.read_state().staged}
        for place in (self.folder / "versions").iterdir():
            if place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def _linked(self, name: str) -> str | None:
        try:
            digest = Path(os.readlink(self.folder / name)).name
        except OSError:
            return None
        return digest if _DIGEST.fullmatch(digest) and self.bundle_path(digest).is_file() else None

    def _link(self, name: str, digest: str) -> None:
        beside = self.folder / f".{name}.part"
        beside.unlink(missing_ok=True)
        beside.symlink_to(Path("versions") / digest)
        beside.replace(self.folder / name)
        _flush_folder(self.folder)


def current_bundle(folder: Path) -> Path | None:
    """Return the bundle that a gateway's folder of models calls the current one; None without one. Changes nothing."""
    place = folder / "current" / BUNDLE_FILE
    return place.resolve() if place.is_file() else None


def files_digest(*contents: bytes) -> str:
    """Name several files together."""
    return sha256_hex("".join(sha256_hex(c) for c in contents).encode())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    with _explained(path):
        beside = path.with_name(f".{path.name}.part")
        _write(beside, content)
        beside.replace(path)
        _flush_folder(path.parent)


def _flush_folder(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise BundleError(f"{place}: cannot be read or written ({e.strerror}); look at the disk and its rights") from e
