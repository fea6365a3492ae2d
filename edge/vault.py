"""Episodes at rest: sealed with AES-256-GCM, under a key for each person, so that to forget the key is to delete.

The keys of people lie in small files beside the store, each wrapped by one master key, which comes from a file or from
a systemd credential. What is sealed is bound to what it is about, so that two rows cannot be exchanged. Pseudonyms,
sequence numbers, times and the audit trail are not sealed: the queue needs them, or they hold nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kinedge.errors import ConfigError, StoreError

if TYPE_CHECKING:  # imported where there is a key: most boards start without one
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["WHOLE_FILE", "Vault", "is_sealed", "read_master_key", "vault_beside"]

WHOLE_FILE: Final = "whole-file.key"  # beside the keys of people: the file of the store is encrypted, too
_MAGIC: Final = b"\x8bKE1"  # no JSON and no zip begins so
_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


def read_master_key(path: Path) -> bytes:
    """Read a master key of 32 bytes.

    Raises
    ------
    ConfigError
        The file cannot be read, has another length, or others may read it.
    """
    try:
        facts = path.stat()
        key = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: no key can be read there ({e.strerror}); make one: openssl rand 32 > {path}") from e
    if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: others may read this key; say chmod 600 {path}")
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"{path}: a key has {_KEY_BYTES} bytes, this has {len(key)}; make one: openssl rand 32")
    return key


def vault_beside(store: Path, key: Path | None) -> Vault | None:
    """Open the vault of a store with the master key in a file; without one there is none.

    Raises
    ------
    ConfigError
        See `read_master_key`.
    """
    return None if key is None else Vault(Path(f"{store}.keys"), read_master_key(key))


def is_sealed(data: bytes) -> bool:
    """Return whether bytes were sealed by a vault."""
    return data.startswith(_MAGIC)


class Vault:
    """Seals and opens what is kept of people.

    Parameters
    ----------
    folder
        Of the wrapped keys, one file a person; made when the first is.
    master_key
        32 bytes.
    whole_file
        A store that is begun with it is encrypted as a whole, too (file_cipher.py).
    """

    def __init__(self, folder: Path, master_key: bytes, *, whole_file: bool = False) -> None:
        self.folder = folder
        self.whole_file = whole_file
        self._master_key = master_key
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._wrap = AESGCM(master_key)
        self._keys: dict[bytes, AESGCM] = {}

    def seal(self, subject: str, data: bytes, *, about: str) -> bytes:
        """Seal bytes of a person; the person's key is made when there is none.

        Parameters
        ----------
        subject
            A pseudonym.
        data
            What to seal.
        about
            What it is; the same words open it.

        Raises
        ------
        StoreError
            The key cannot be read or written.
        """
        id = self._id(subject)
        nonce = os.urandom(_NONCE_BYTES)
        return _MAGIC + id + nonce + self._key(id, make=True).encrypt(nonce, data, about.encode())

    def unseal(self, data: bytes, *, about: str) -> bytes:
        """Open what was sealed; what never was is returned as it is.

        Raises
        ------
        StoreError
            The key was forgotten, the master key is another, or the bytes were changed or exchanged.
        """
        if not is_sealed(data):
            return data
        from cryptography.exceptions import InvalidTag

        id, nonce, sealed = _split(data)
        try:
            return self._key(id, make=False).decrypt(nonce, sealed, about.encode())
        except InvalidTag as e:
            raise StoreError(f"{about}: was changed, or belongs elsewhere; look for disk errors") from e

    def forget(self, subject: str) -> bool:
        """Destroy a person's key: what was sealed with it can be opened by nobody. Returns whether there was one.

        Raises
        ------
        StoreError
            The key's file cannot be overwritten or removed.
        """
        id = self._id(subject)
        self._keys.pop(id, None)
        path = self._path(id)
        try:
            with path.open("r+b") as out:
                out.write(os.urandom(path.stat().st_size))
                out.flush()
                os.fsync(out.fileno())
            path.unlink()
            _sync_folder(self.folder)
        except FileNotFoundError:
            return False
        except OSError as e:
            raise StoreError(f"{path}: the key cannot be destroyed ({e.strerror}); remove the file by hand") from e
        return True

    def file_key(self, *, make: bool) -> bytes:
        """Return the 32 bytes that the whole file is encrypted with.

        Raises
        ------
        StoreError
            There is none and none may be made, the master key is another, or it cannot be read or written.
        """
        return self._unwrapped(self.folder / WHOLE_FILE, WHOLE_FILE.encode(), make=make)

    def _id(self, subject: str) -> bytes:
        return hmac.digest(self._master_key, b"subject:" + subject.encode(), hashlib.sha256)[:_ID_BYTES]

    def _path(self, id: bytes) -> Path:
        return self.folder / f"{id.hex()}.key"

    def _key(self, id: bytes, *, make: bool) -> AESGCM:
        if (known := self._keys.get(id)) is not None:
            return known
        self._keys[id] = type(self._wrap)(self._unwrapped(self._path(id), id, make=make))
        return self._keys[id]

    def _unwrapped(self, path: Path, about: bytes, *, make: bool) -> bytes:
        try:
            wrapped = path.read_bytes()
        except FileNotFoundError as e:
            if not make:
                raise StoreError(f"{path}: this key was forgotten, or never was here; nobody can open this") from e
            wrapped = self._make(path, about)
        except OSError as e:
            raise StoreError(f"{path}: the key cannot be read ({e.strerror})") from e
        from cryptography.exceptions import InvalidTag

        try:
            return self._wrap.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError) as e:
            raise StoreError(f"{path}: was wrapped by another master key, or damaged; give the right one") from e

    def _make(self, path: Path, about: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        wrapped = nonce + self._wrap.encrypt(nonce, os.urandom(_KEY_BYTES), about)
        beside = path.with_suffix(".part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(wrapped)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(path)
            _sync_folder(self.folder)
        except OSError as e:
            raise StoreError(f"{path}: no key can be written there ({e.strerror}); free some space") from e
        return wrapped


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    at = len(_MAGIC)
    return (
        data[at : at + _ID_BYTES],
        data[at + _ID_BYTES : at + _ID_BYTES + _NONCE_BYTES],
        data[at + _ID_BYTES + _NONCE_BYTES :],
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
