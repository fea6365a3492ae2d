"""Who vouches for a file: ed25519 over the digest that names it.

A bundle and an enrolment are zips with a manifest that carries the digest of every part, so the SHA-256 of the manifest
names the whole. What is signed is that name and the kind of file, so that one cannot be passed off as the other.

Signatures stand in the comment of the zip. The file stays one file, its members and its digest stay what they were,
several people can sign, and a reader that knows nothing of signatures reads it as before.

Keys are PEM files: PKCS #8 for the secret half, which nobody but its owner may read, SubjectPublicKeyInfo for the
public one. A key is known by the first 16 hex digits of the SHA-256 of its 32 public bytes.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, ValidationError

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config
from kinedge.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "Kind",
    "Signature",
    "SigningKey",
    "Trust",
    "VerifyKey",
    "generate_key",
    "load_signing_key",
    "load_trust",
    "load_verify_key",
    "public_path",
    "sign_archive",
    "signatures_of",
]

Kind = Literal["bundle", "enrolment"]

_MAX_KEY_BYTES: Final = 16_384
_MAX_SIGNATURES: Final = 16


class Signature(Config):
    """One signature, with the id of the key that made it."""

    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    value: str = Field(pattern=r"^[0-9a-f]{128}$", description="ed25519, hex")


class _Block(Config):
    """What stands in the comment of the zip."""

    schema_version: Literal["kinedge.signatures/1"] = "kinedge.signatures/1"
    signatures: tuple[Signature, ...] = Field(max_length=_MAX_SIGNATURES)


def _message(kind: Kind, digest: str) -> bytes:
    return f"kinedge.signatures/1 {kind} {digest}".encode()


@dataclass(frozen=True, eq=False)
class VerifyKey:
    """The public half of a key."""

    public: Ed25519PublicKey

    @property
    def key_id(self) -> str:
        """16 hex digits."""
        return sha256_hex(self.public.public_bytes_raw())[:16]

    def holds(self, signature: Signature, kind: Kind, digest: str) -> bool:
        """Whether this key made the signature over this digest."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(bytes.fromhex(signature.value), _message(kind, digest))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, eq=False)
class SigningKey:
    """The secret half of a key; it never shows itself."""

    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.verify_key.key_id})"

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self.private.public_key())

    def sign(self, kind: Kind, digest: str) -> Signature:
        """Sign the digest of a file of this kind."""
        return Signature(key=self.verify_key.key_id, value=self.private.sign(_message(kind, digest)).hex())


def generate_key(path: Path) -> VerifyKey:
    """Make a key: the secret half at ``path``, readable by its owner alone, the public one beside it with ``.pub``.

    Raises
    ------
    ConfigError
        One of the two files is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())
    public = private.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo)
    beside = public_path(path)
    for place, content, mode in ((path, secret, 0o600), (beside, public, 0o644)):
        try:
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        except FileExistsError as e:
            raise ConfigError(f"{place}: is there already; a key is never overwritten") from e
        except OSError as e:
            raise ConfigError(f"{place}: cannot be written ({e.strerror})") from e
    return VerifyKey(private.public_key())


def public_path(path: Path) -> Path:
    """Return where the public half of the key at ``path`` lies."""
    return path.with_name(path.name + ".pub")


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{path}: the key cannot be read ({e.strerror})") from e
    if len(data) > _MAX_KEY_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_KEY_BYTES} bytes; this is no key")
    return data


def load_signing_key(path: Path) -> SigningKey:
    """Read the secret half of a key.

    Raises
    ------
    ConfigError
        It cannot be read, others may read it too, or it is no ed25519 key without a passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read_key(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: others may read this key; run: chmod 600 {path}")
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ConfigError(f"{path}: no secret key in PEM without a passphrase; make one with kinedge keygen") from e
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{path}: is a key of another kind; ed25519 is used here, see kinedge keygen")
    return SigningKey(private)


def load_verify_key(path: Path) -> VerifyKey:
    """Read the public half of a key.

    Raises
    ------
    ConfigError
        It cannot be read, or is no public ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read_key(path)
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{path}: is a secret key; give away and trust the public one, {public_path(path).name}")
    try:
        public = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise ConfigError(f"{path}: no public key in PEM; kinedge keygen writes one beside the secret one") from e
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{path}: is a key of another kind; ed25519 is used here, see kinedge keygen")
    return VerifyKey(public)


@dataclass(frozen=True, eq=False)
class Trust:
    """Whose signatures count.

    Parameters
    ----------
    keys
        By key id.
    allow_unsigned
        Take files that no trusted key has signed, and say so.
    """

    keys: Mapping[str, VerifyKey]
    allow_unsigned: bool = False

    def check(self, signatures: Sequence[Signature], *, kind: Kind, digest: str, where: str) -> str | None:
        """Return the id of a trusted key that signed this digest; None if there is none and none is needed.

        Raises
        ------
        BundleError
            No trusted key signed it, and unsigned files are not allowed; or a signature in the name of a trusted key
            is not of that key, which is never allowed.
        """
        signer = None
        for signature in signatures:
            key = self.keys.get(signature.key)
            if key is None:
                continue
            if not key.holds(signature, kind, digest):
                raise BundleError(f"{where}: the signature of key {signature.key} does not hold; get the file again")
            signer = signer or signature.key
        if signer is None and not self.allow_unsigned:
            by = ", ".join(s.key for s in signatures)
            found = f"signed by {by}, which is not trusted here" if by else "not signed"
            raise BundleError(
                f"{where}: {found}; sign it (kinedge sign), trust its key, or set trust.allow_unsigned = true"
            )
        return signer


def load_trust(paths: Iterable[Path], *, allow_unsigned: bool = False) -> Trust:
    """Read the public keys that are trusted.

    Raises
    ------
    ConfigError
        One cannot be read.
    """
    keys = [load_verify_key(path) for path in paths]
    return Trust({key.key_id: key for key in keys}, allow_unsigned)


def signatures_of(archive: zipfile.ZipFile, *, where: str) -> tuple[Signature, ...]:
    """Read the signatures of an open zip, without judging them.

    Raises
    ------
    BundleError
        The comment of the zip is something else.
    """
    if not archive.comment:
        return ()
    try:
        return _Block.model_validate_json(archive.comment).signatures
    except ValidationError as e:
        raise BundleError(f"{where}: the comment of the zip is no list of signatures; get the file again") from e


def sign_archive(data: bytes, key: SigningKey, *, kind: Kind, digest: str) -> bytes:
    """Return the bytes of a zip with a signature added, in place of an older one of the same key.

    Parameters
    ----------
    data
        A bundle or an enrolment, read and checked before.
    digest
        The one that names it.

    Raises
    ------
    BundleError
        It is no zip, or has all the signatures it can hold.
    """
    out = io.BytesIO(data)
    try:
        with zipfile.ZipFile(out, "a") as archive:
            own = key.sign(kind, digest)
            others = [s for s in signatures_of(archive, where=kind) if s.key != own.key]
            if len(others) >= _MAX_SIGNATURES:
                raise BundleError(f"{kind}: has {len(others)} signatures already, and room for no more")
            block = _Block(signatures=tuple(sorted([*others, own], key=lambda s: s.key)))
            archive.comment = canonical_json(block.model_dump(mode="json"))
    except zipfile.BadZipFile as e:
        raise BundleError(f"{kind}: no readable zip ({e})") from e
    return out.getvalue()
