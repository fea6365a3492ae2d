"""The publisher's side of a roll-out: a folder of signed metadata and models that any web server can serve.

Four keys in the roles of The Update Framework: ``root`` says which keys count and stays in a safe, ``targets`` vouches
for models and is used by whoever releases them, ``snapshot`` and ``timestamp`` say what is the latest, and are used
often. Every file but ``timestamp.json`` has its version or digest in its name and never changes; ``timestamp.json``
is renamed into place last, so that a board sees the state before or the one after.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from kinedge.bundle import read_bundle
from kinedge.edge.selftest import make_golden
from kinedge.errors import BundleError, ConfigError
from kinedge.signing import generate_key, load_signing_key

__all__ = ["DAYS", "ROLES", "Published", "describe", "init", "publish", "refresh", "rotate"]

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
DAYS: Final = {"root": 365, "targets": 365, "snapshot": 30, "timestamp": 7}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_MAX_METADATA_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class Published:
    """What the repository says now."""

    versions: dict[str, int]
    expires: dict[str, str]
    models: tuple[str, ...]


def init(repository: Path, keys: Path, *, now: datetime | None = None) -> Published:
    """Make an empty repository and its four keys.

    Raises
    ------
    ConfigError
        There is one already, or a key is; or nothing can be written there.
    """
    if (repository / "metadata" / "timestamp.json").exists():
        raise ConfigError(f"{repository}: is a repository already; use kinedge models publish or refresh")
    _make(repository / "metadata", repository / "targets", keys)
    for role in ROLES:
        generate_key(keys / f"{role}.pem")
    now = _now(now)
    root: Metadata[Root] = Metadata(Root(version=1, expires=_expiry("root", now), consistent_snapshot=True))
    for role in ROLES:
        root.signed.add_key(_signer(keys, role).public_key, role)
    root.sign(_signer(keys, "root"))
    _save(repository, root, "1.root.json")
    targets: Metadata[Targets] = Metadata(Targets(version=1, expires=_expiry("targets", now)))
    targets.sign(_signer(keys, "targets"))
    _save(repository, targets, "1.targets.json")
    return _seal(repository, keys, targets_version=1, now=now)


def publish(
    repository: Path, bundle: Path, keys: Path, *, name: str, allow_unsigned: bool = False, now: datetime | None = None
) -> Published:
    """Make a model the latest of its name, with the self-test that every board must pass with it.

    Raises
    ------
    BundleError, BackendError
        The bundle is refused, is not signed, or does not load; or the repository is damaged.
    ConfigError
        A key is missing, or nothing can be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: letters, digits, '_', '.', ':' and '-' make a model's name, 64 at most")
    read = read_bundle(bundle)
    if not read.signatures and not allow_unsigned:
        raise BundleError(
            f"{bundle}: not signed; gateways would refuse it: sign it (kinedge sign), or --allow-unsigned"
        )
    contents = {f"{name}.kinedge": bundle.read_bytes(), f"{name}.npz": make_golden(read)}
    now = _now(now)
    targets = _latest(repository, "targets")
    for path, content in contents.items():
        target = TargetFile.from_data(path, content, ["sha256"])
        target.unrecognized_fields["custom"] = {"model_digest": read.digest, "model_name": read.manifest.name}
        targets.signed.targets[path] = target
        _write(repository / "targets" / f"{target.hashes['sha256']}.{path}", content)
    targets.signed.version += 1
    targets.signed.expires = _expiry("targets", now)
    targets.sign(_signer(keys, "targets"))
    _save(repository, targets, f"{targets.signed.version}.targets.json")
    return _seal(repository, keys, targets_version=targets.signed.version, now=now)


def refresh(repository: Path, keys: Path, *, now: datetime | None = None) -> Published:
    """Say again that this is the latest: new dates for timestamp and snapshot, and for the others where keys lie here.

    Raises
    ------
    ConfigError, BundleError
        A key is missing, the repository is damaged, or nothing can be written.
    """
    now = _now(now)
    if (keys / "root.pem").exists():
        root = _latest(repository, "root")
        _sign_root(repository, root, [_signer(keys, "root")], now=now)
    targets = _latest(repository, "targets")
    if (keys / "targets.pem").exists():
        targets.signed.version += 1
        targets.signed.expires = _expiry("targets", now)
        targets.sign(_signer(keys, "targets"))
        _save(repository, targets, f"{targets.signed.version}.targets.json")
    return _seal(repository, keys, targets_version=targets.signed.version, now=now)


def rotate(repository: Path, keys: Path, *, role: str, now: datetime | None = None) -> Published:
    """Put a new key in the place of a role's old one; boards follow by themselves.

    The old secret key is kept beside the new one, as ``ROLE.pem.old-VERSION``, and counts no more.

    Raises
    ------
    ConfigError, BundleError
        The role is unknown, a key is missing, the repository is damaged, or nothing can be written.
    """
    if role not in ROLES:
        raise ConfigError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")
    now = _now(now)
    root = _latest(repository, "root")
    old_root, old = _signer(keys, "root"), _signer(keys, role)
    path = keys / f"{role}.pem"
    for place in (path, path.with_name(f"{path.name}.pub")):
        place.replace(place.with_name(f"{place.name}.old-{root.signed.version}"))
    generate_key(path)
    new = _signer(keys, role)
    root.signed.revoke_key(old.public_key.keyid, role)
    root.signed.add_key(new.public_key, role)
    # a new root is vouched for by the keys of the old one and by its own
    _sign_root(repository, root, [old_root, _signer(keys, "root")], now=now)
    targets = _latest(repository, "targets")
    if role == "targets":
        targets.signed.version += 1
        targets.sign(new)
        _save(repository, targets, f"{targets.signed.version}.targets.json")
    return _seal(repository, keys, targets_version=targets.signed.version, now=now)


def _sign_root(repository: Path, root: Metadata[Any], signers: list[Any], *, now: datetime) -> None:
    root.signed.version += 1
    root.signed.expires = _expiry("root", now)
    root.signatures.clear()
    for signer in signers:
        root.sign(signer, append=True)
    _save(repository, root, f"{root.signed.version}.root.json")


def _seal(repository: Path, keys: Path, *, targets_version: int, now: datetime) -> Published:
    """Sign what is the latest, timestamp last."""
    before = _find(repository, "snapshot")
    version = 1 if before is None else _version(before) + 1
    snapshot = Metadata(
        Snapshot(
            version=version,
            expires=_expiry("snapshot", now),
            meta={"targets.json": MetaFile(version=targets_version)},
        )
    )
    snapshot.sign(_signer(keys, "snapshot"))
    _save(repository, snapshot, f"{version}.snapshot.json")
    stamp = repository / "metadata" / "timestamp.json"
    last = _load(stamp).signed.version if stamp.exists() else 0
    timestamp = Metadata(
        Timestamp(version=last + 1, expires=_expiry("timestamp", now), snapshot_meta=MetaFile(version=version))
    )
    timestamp.sign(_signer(keys, "timestamp"))
    _save(repository, timestamp, "timestamp.json")
    return describe(repository)


def describe(repository: Path) -> Published:
    """Return what a repository says now, without judging its signatures.

    Raises
    ------
    BundleError
        It is none, or is damaged.
    """
    found = {role: _latest(repository, role).signed for role in ("root", "targets", "snapshot")}
    found["timestamp"] = _load(repository / "metadata" / "timestamp.json").signed
    return Published(
        versions={role: signed.version for role, signed in found.items()},
        expires={role: signed.expires.strftime("%Y-%m-%dT%H:%M:%SZ") for role, signed in found.items()},
        models=tuple(sorted(t.removesuffix(".kinedge") for t in found["targets"].targets if t.endswith(".kinedge"))),
    )


def _now(now: datetime | None) -> datetime:
    return (now or datetime.now(timezone.utc)).replace(microsecond=0)


def _expiry(role: str, now: datetime) -> datetime:
    return now + timedelta(days=DAYS[role])


def _signer(keys: Path, role: str) -> Any:
    from securesystemslib.signer import CryptoSigner

    key = load_signing_key(keys / f"{role}.pem")
    return CryptoSigner(key.private)


def _version(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _find(repository: Path, role: str) -> Path | None:
    names = (repository / "metadata").glob(f"*.{role}.json")
    return max((p for p in names if p.name.partition(".")[0].isdigit()), key=_version, default=None)


def _latest(repository: Path, role: str) -> Metadata[Any]:
    path = _find(repository, role)
    if path is None:
        raise BundleError(f"{repository}: has no {role}; make a repository with kinedge models init")
    return _load(path)


def _load(path: Path) -> Metadata[Any]:
    try:
        with path.open("rb") as file:
            return Metadata.from_bytes(file.read(_MAX_METADATA_BYTES))
    except (OSError, RepositoryError) as e:
        raise BundleError(f"{path}: cannot be read as metadata ({e}); take it from a backup") from e


def _save(repository: Path, metadata: Metadata[Any], name: str) -> None:
    _write(repository / "metadata" / name, metadata.to_bytes())


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror})") from e


def _make(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"{folder}: cannot be made ({e.strerror})") from e
