"""A gateway's certificate: asked for once with an invitation, renewed by itself long before it ends.

A folder holds ``gateway.pem`` (key and certificate in one file, so that they change together) and ``ca.pem`` (whom to
believe). The key is made here and never leaves. An invitation, ``ke1.SECRET.SHA256``, names the authority, so the very
first connection cannot be taken over by somebody in between.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kinedge.errors import ConfigError, LinkError

__all__ = ["GatewayIdentity", "enrol_gateway"]

_IDENTITY: Final = "gateway.pem"
_AUTHORITY: Final = "ca.pem"
_PENDING: Final = "gateway-key.pending"  # kept until the certificate is here: the invitation is bound to this key
_RENEW_AFTER: Final = 2 / 3  # of the certificate's life
_TIMEOUT_S: Final = 20.0
_MAX_ANSWER_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class GatewayIdentity:
    """What is in a gateway's folder.

    Attributes
    ----------
    folder
        Where it lies.
    gateway
        The name in the certificate.
    begins_utc_ns, ends_utc_ns
        When the certificate is good.
    """

    folder: Path
    gateway: str
    begins_utc_ns: int
    ends_utc_ns: int

    @classmethod
    def load(cls, folder: Path) -> GatewayIdentity:
        """Read a folder.

        Raises
        ------
        ConfigError
            The gateway is not enrolled there, or a file is damaged.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / _IDENTITY).read_bytes())
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            identity = cls(
                folder,
                str(names[0].value) if names else "",
                int(certificate.not_valid_before_utc.timestamp()) * 10**9,
                int(certificate.not_valid_after_utc.timestamp()) * 10**9,
            )
            identity.ssl_context()
        except (OSError, ValueError, ssl.SSLError) as e:
            raise ConfigError(f"{folder}: no gateway's certificate ({e}); enrol it: kinedge enroll-gateway") from e
        return identity

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that shows the certificate and believes the fleet's authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self.folder / _AUTHORITY)
        context.load_cert_chain(self.folder / _IDENTITY)
        return context

    def renewal_due(self, wall_clock_ns: int) -> bool:
        """Say whether two thirds of the certificate's life are over."""
        return wall_clock_ns >= self.begins_utc_ns + (self.ends_utc_ns - self.begins_utc_ns) * _RENEW_AFTER

    def renew(self, url: str, *, timeout_s: float = _TIMEOUT_S) -> GatewayIdentity:
        """Get a new certificate for a new key, and return the new identity; the old one is good until it ends.

        Raises
        ------
        LinkError
            The collector does not answer, or refuses.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        asked = {"csr": _csr(key, self.gateway)}
        with httpx.Client(verify=self.ssl_context(), timeout=timeout_s) as client:
            answer = _ask(client, "POST", _certificate_url(url, self.gateway), asked)
        authority = _pem_certificate((self.folder / _AUTHORITY).read_bytes(), "the authority")
        return _keep(self.folder, key, answer, authority)


def enrol_gateway(
    url: str,
    gateway: str,
    token: str,
    folder: Path,
    *,
    wait: Callable[[float], None] = time.sleep,
    attempts: int = 5,
) -> GatewayIdentity:
    """Get a gateway's first certificate.

    It can be repeated after a failure with the same invitation: the key is kept, and the invitation is bound to it.

    Parameters
    ----------
    url
        Of the collector, ``https://...``.
    gateway
        Its name, the one it was invited under.
    token
        The invitation.
    folder
        Where key and certificate go; only the owner can read it.
    wait, attempts
        Between and how many tries, where the network is poor.

    Raises
    ------
    ConfigError
        The invitation or the address is none, or the folder cannot be written.
    LinkError
        The collector does not answer, is not the one that invited, or refuses.
    """
    parts = token.strip().split(".")
    if len(parts) != 3 or parts[0] != "ke1" or len(parts[2]) != 64:
        raise ConfigError("this is no invitation; it looks like ke1.SECRET.SHA256, from: kinedge collect gateways add")
    if not url.startswith("https://"):
        raise ConfigError(f"{url}: gateways with certificates need https://")
    for attempt in range(attempts):
        try:
            return _enrol_once(url, gateway, token.strip(), parts[2], folder)
        except _NoAnswerError:
            if attempt == attempts - 1:
                raise
            wait(min(30.0, 2.0**attempt))
    raise LinkError(f"{url}: asked {attempts} times")


def _enrol_once(url: str, gateway: str, token: str, fingerprint: str, folder: Path) -> GatewayIdentity:
    # The authority's certificate comes over a connection that proves nothing; the invitation's digest proves it.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with httpx.Client(verify=context, timeout=_TIMEOUT_S) as client:
        pem = _ask(client, "GET", f"{url.rstrip('/')}/v1/ca", None)
    authority = _pem_certificate(pem, f"{url}: the authority")
    if authority.fingerprint(hashes.SHA256()).hex() != fingerprint:
        raise LinkError(f"{url}: this is not the collector that invited; check the address and the network")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / _AUTHORITY, authority.public_bytes(serialization.Encoding.PEM))
        key = _pending_key(folder / _PENDING)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be written ({e.strerror})") from e
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / _AUTHORITY)
    asked = {"csr": _csr(key, gateway), "token": token}
    with httpx.Client(verify=context, timeout=_TIMEOUT_S) as client:
        answer = _ask(client, "POST", _certificate_url(url, gateway), asked)
    identity = _keep(folder, key, answer, authority)
    (folder / _PENDING).unlink(missing_ok=True)
    return identity


class _NoAnswerError(LinkError):
    """Nobody answered: the next try may."""


def _ask(client: httpx.Client, method: str, url: str, content: dict[str, Any] | None) -> bytes:
    try:
        answer = client.request(method, url, json=content)
        data = answer.content[:_MAX_ANSWER_BYTES]
        status = answer.status_code
        reason = "" if status < 400 else str(answer.json()["error"]["message"])
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
        raise _NoAnswerError(f"{url}: no answer ({e}); check the address and the network") from e
    except (ValueError, KeyError, TypeError):
        reason = "not a collector's answer"
    if status in (429, 503):
        raise _NoAnswerError(f"{url}: {status} {reason}")
    if status not in (200, 201):
        raise LinkError(f"{url}: {status} {reason}")
    return data


def _keep(folder: Path, key: ec.EllipticCurvePrivateKey, answer: bytes, authority: x509.Certificate) -> GatewayIdentity:
    """Check what came against key and authority before it replaces anything."""
    try:
        pem = httpx.Response(200, content=answer).json()["certificate"].encode()
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(authority)
        if certificate.public_key() != key.public_key():
            raise LinkError("the collector sent a certificate for another key")
    except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature, UnsupportedAlgorithm) as e:
        raise LinkError(f"the collector sent no certificate of its authority ({e})") from e
    try:
        _write(folder / _IDENTITY, _key_pem(key) + pem)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be written ({e.strerror})") from e
    return GatewayIdentity.load(folder)


def _certificate_url(url: str, gateway: str) -> str:
    return f"{url.rstrip('/')}/v1/gateways/{gateway}/certificate"


def _pem_certificate(pem: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as e:
        raise LinkError(f"{what}: no certificate ({e}); is this a collector with an authority?") from e


def _csr(key: ec.EllipticCurvePrivateKey, gateway: str) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _pending_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        pass  # none yet, or cut off while it was written: nobody has seen its public half
    made = ec.generate_private_key(ec.SECP256R1())
    _write(path, _key_pem(made))
    return made


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, readable by its owner alone, and flushed before it counts."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
