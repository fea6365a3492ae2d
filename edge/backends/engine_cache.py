"""Engines on disk, sealed: an engine is machine code, made here, and only what was made here is loaded.

    FOLDER/<bundle digest>/<precision>.graph            the ONNX graph that engines of this precision are built from
    FOLDER/<bundle digest>/<precision>-<key>.engine     an engine
    FOLDER/timing-<library>.cache                       TensorRT's measurements, which make the next build quick
    KEY                                                 32 random bytes, readable by their owner alone

Every file is one HMAC-SHA256, one line of JSON that says what it is, and the content. A digest beside the file would
find damage, but not somebody who changes both; an HMAC needs the key, which stands outside the folder. So an engine
copied from another machine, put under another model's name, or altered by whoever may write the folder is refused.
Who can read the key is the gateway's own user, and could as well change the gateway.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.errors import BackendError

__all__ = ["EngineCache", "EngineKey"]

_FORMAT: Final = 1
_MAC: Final = 32
_MAX_HEADER: Final = 4096
_MAX_FILE: Final = 512 << 20


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on; a change of any part means another engine.

    Parameters
    ----------
    bundle, graph
        SHA-256 of the bundle's manifest and of the graph it was built from.
    library
        Name and version.
    gpu
        Name and compute capability, or what was built for without one.
    profiles
        Ranges of streams, samples a step, workspace.
    """

    bundle: str
    graph: str
    library: str
    gpu: str
    precision: str
    profiles: str

    def digest(self) -> str:
        """Name it."""
        return sha256_hex(canonical_json({"format": _FORMAT, **asdict(self)}))


class EngineCache:
    """A folder of sealed graphs and engines.

    Parameters
    ----------
    folder
        Made when first written to.
    key_file
        Made, with mode 0600, when first needed. It must not be inside the folder.

    Raises
    ------
    BackendError
        The key is inside the folder.
    """

    def __init__(self, folder: Path, *, key_file: Path) -> None:
        if key_file.resolve().is_relative_to(folder.resolve()):
            raise BackendError(f"engine cache {folder}: its key {key_file} must stand outside it")
        self.folder = folder
        self.key_file = key_file

    @classmethod
    def default(cls) -> EngineCache:
        """Return the cache of this user: ``~/.cache/kinedge/engines``, its key in ``~/.local/state/kinedge``."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return cls(cache / "kinedge" / "engines", key_file=state / "kinedge" / "engine.key")

    def put_graph(self, bundle: str, precision: str, graph: bytes) -> None:
        """Keep the graph that engines of this precision are built from."""
        self._write(self._graph_path(bundle, precision), graph, what={"bundle": bundle, "graph": precision})

    def graph(self, bundle: str, precision: str) -> bytes | None:
        """Return that graph, or None when there is none.

        Raises
        ------
        BackendError
            It was altered, or sealed elsewhere.
        """
        return self._read(self._graph_path(bundle, precision), what={"bundle": bundle, "graph": precision})

    def put_engine(self, key: EngineKey, engine: bytes) -> Path:
        """Keep an engine, and return where."""
        path = self._engine_path(key)
        self._write(path, engine, what=asdict(key))
        return path

    def engine(self, key: EngineKey) -> bytes | None:
        """Return the engine built for exactly this, or None when it has to be built.

        Raises
        ------
        BackendError
            There is one, but it was altered, is another's, or was sealed elsewhere.
        """
        return self._read(self._engine_path(key), what=asdict(key))

    def timings(self, library: str, gpu: str) -> bytes:
        """Return TensorRT's measurements; none is no harm."""
        return self._read(self._timings_path(library, gpu), what={"timings": library, "gpu": gpu}) or b""

    def put_timings(self, library: str, gpu: str, data: bytes) -> None:
        """Keep TensorRT's measurements."""
        self._write(self._timings_path(library, gpu), data, what={"timings": library, "gpu": gpu})

    def _graph_path(self, bundle: str, precision: str) -> Path:
        return self.folder / bundle[:16] / f"{precision}.graph"

    def _engine_path(self, key: EngineKey) -> Path:
        return self.folder / key.bundle[:16] / f"{key.precision}-{key.digest()[:16]}.engine"

    def _timings_path(self, library: str, gpu: str) -> Path:
        return self.folder / f"timing-{sha256_hex(canonical_json([library, gpu]))[:16]}.cache"

    def _write(self, path: Path, content: bytes, *, what: dict[str, str]) -> None:
        header = canonical_json(what)
        mac = hmac.new(self._key(), header + b"\n" + content, sha256).digest()
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside.write_bytes(mac + header + b"\n" + content)
            beside.replace(path)  # a crash leaves the old file or the new one
        except OSError as e:
            raise BackendError(f"engine cache: {path} cannot be written ({e.strerror})") from e

    def _read(self, path: Path, *, what: dict[str, str]) -> bytes | None:
        try:
            if path.stat().st_size > _MAX_FILE:
                raise BackendError(f"engine cache: {path} is larger than {_MAX_FILE >> 20} MiB; delete it")
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise BackendError(f"engine cache: {path} cannot be read ({e.strerror})") from e
        mac, signed = data[:_MAC], data[_MAC:]
        if not hmac.compare_digest(mac, hmac.new(self._key(), signed, sha256).digest()):
            raise BackendError(
                f"engine cache: {path} was altered, or made by another machine or user; "
                "delete it and run kinedge compile"
            )
        header, _, content = signed.partition(b"\n")
        if len(header) > _MAX_HEADER or json.loads(header) != what:
            raise BackendError(f"engine cache: {path} is not what its name says; delete it and run kinedge compile")
        return content

    def _key(self) -> bytes:
        try:
            self.key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                # O_EXCL: of two that start at once, one makes the key
                handle = os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                if self.key_file.stat().st_mode & 0o077:
                    raise BackendError(
                        f"engine cache: others may read {self.key_file}; chmod 600 it, or delete it and compile again"
                    ) from None
                key = self.key_file.read_bytes()
            else:
                key = secrets.token_bytes(32)
                with os.fdopen(handle, "wb") as file:
                    file.write(key)
        except OSError as e:
            raise BackendError(f"engine cache: key {self.key_file} cannot be made or read ({e.strerror})") from e
        if len(key) != 32:
            raise BackendError(f"engine cache: key {self.key_file} is damaged; delete it and run kinedge compile")
        return key
