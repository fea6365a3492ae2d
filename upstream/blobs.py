"""Where raw blobs lie outside the database: a folder or S3-compatible storage, each under the SHA-256 of its bytes.

A blob is there before its row is: a crash between the two leaves bytes that nobody names, and that the next try finds
in place. Nothing is ever changed under a digest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from kinedge.canonical import sha256_hex
from kinedge.errors import ConfigError, StoreError

__all__ = ["BlobStore", "FolderBlobs", "S3Blobs", "open_blobs"]


class BlobStore(Protocol):
    """Bytes by their SHA-256. Any thread may call."""

    def put(self, sha256: str, data: bytes) -> None:
        """Keep ``data``; when this returns it survives a power cut. Repetition is harmless.

        Raises
        ------
        StoreError
            It cannot be kept now.
        """

    def get(self, sha256: str) -> bytes | None:
        """Return the bytes, checked against their digest, or None.

        Raises
        ------
        StoreError
            The storage does not answer, or the bytes there are damaged.
        """

    def delete(self, sha256: str) -> None:
        """Forget the bytes, if they are there."""


class FolderBlobs:
    """Files in a folder, in 256 sub-folders by the first two digits.

    Raises
    ------
    StoreError
        The folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _explained(str(folder), lambda: folder.mkdir(parents=True, exist_ok=True))

    def put(self, sha256: str, data: bytes) -> None:
        """Keep ``data``: flushed, then renamed into place, then the folder flushed."""
        _explained(str(self._folder), lambda: self._put(sha256, data))

    def get(self, sha256: str) -> bytes | None:
        """Return the bytes, or None."""
        return _checked(_explained(str(self._folder), lambda: self._get(sha256)), sha256, str(self._folder))

    def delete(self, sha256: str) -> None:
        """Forget the bytes."""
        _explained(str(self._folder), lambda: self._path(sha256).unlink(missing_ok=True))

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _put(self, sha256: str, data: bytes) -> None:
        path = self._path(sha256)
        if path.exists() and sha256_hex(path.read_bytes()) == sha256:
            return
        path.parent.mkdir(exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        for folder in (path.parent, self._folder):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _get(self, sha256: str) -> bytes | None:
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None


class S3Blobs:
    """Objects in an S3-compatible bucket, by obstore.

    Parameters
    ----------
    url
        ``s3://bucket/prefix?endpoint=https://minio.example&region=eu-central-1``. Keys come from the environment
        (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``) or the machine's role, never from the URL.

    Raises
    ------
    ConfigError
        obstore is not installed, or the URL is none.
    """

    def __init__(self, url: str) -> None:
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError as e:
            raise ConfigError("obstore is not installed; S3 storage needs: pip install 'kinedge[s3]'") from e
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        if not parts.netloc or not set(options) <= {"endpoint", "region"}:
            raise ConfigError(f"{url!r} is no S3 storage; write s3://bucket/prefix?endpoint=https://HOST&region=NAME")
        endpoint = options.get("endpoint", "")
        more: dict[str, Any] = {"endpoint": endpoint, "virtual_hosted_style_request": False} if endpoint else {}
        try:
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                region=options.get("region", "us-east-1"),
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": "30s"},
                retry_config={"max_retries": 2},
                **more,
            )
        except Exception as e:
            raise ConfigError(f"{url!r} is no S3 storage that works here ({e})") from e
        self._where = f"s3://{parts.netloc}{parts.path}"

    def put(self, sha256: str, data: bytes) -> None:
        """Keep ``data``; S3 answers when it is durable."""
        import obstore

        _explained(self._where, lambda: obstore.put(self._store, _key(sha256), data))

    def get(self, sha256: str) -> bytes | None:
        """Return the bytes, or None."""
        import obstore

        def read() -> bytes | None:
            try:
                return bytes(obstore.get(self._store, _key(sha256)).bytes())
            except FileNotFoundError:
                return None

        return _checked(_explained(self._where, read), sha256, self._where)

    def delete(self, sha256: str) -> None:
        """Forget the bytes."""
        import obstore

        _explained(self._where, lambda: obstore.delete(self._store, _key(sha256)))


def open_blobs(url: str | None) -> BlobStore | None:
    """Open ``file:///folder`` or ``s3://bucket/prefix``; None keeps blobs in the database.

    Raises
    ------
    ConfigError
        The URL is neither.
    StoreError
        The folder cannot be used.
    """
    if url is None:
        return None
    scheme = urlsplit(url).scheme
    if scheme == "file" and urlsplit(url).path:
        return FolderBlobs(Path(urlsplit(url).path))
    if scheme == "s3":
        return S3Blobs(url)
    raise ConfigError(f"{url!r} is no place for raw blobs; write file:///folder or s3://bucket/prefix")


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _explained(where: str, work: Callable[[], Any]) -> Any:
    """Do work; any failure of the storage becomes one error of ours."""
    try:
        return work()
    except Exception as e:
        # obstore has a dozen errors without a common base; all of them mean that the storage failed.
        raise StoreError(f"{where}: raw blobs cannot be kept or read ({e}); check the storage") from e


def _checked(data: bytes | None, sha256: str, where: str) -> bytes | None:
    if data is not None and sha256_hex(data) != sha256:
        raise StoreError(f"{where}: blob {sha256[:12]} is damaged; restore it from a backup")
    return data
