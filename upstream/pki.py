"""Certificates of a fleet: one small authority in a folder, the collector's own certificate, and gateways'.

A gateway's certificate names it in a URI, ``urn:kinedge:gateway:NAME``. Keys are on P-256 and never leave the machine
that made them: a gateway sends a signing request, of which nothing but the public key is believed.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kinedge.canonical import sha256_hex
from kinedge.errors import ConfigError, OutboxError

__all__ = ["Authority", "Issued", "PeerCertificate", "init_folder", "peer_certificate", "public_key_digest"]

_URN: Final = "urn:kinedge:gateway:"
_CA_DAYS: Final = 3650
_SERVER_DAYS: Final = 397
_SKEW: Final = timedelta(minutes=5)  # a gateway's clock may be a little behind


@dataclass(frozen=True)
class Issued:
    """A certificate that was just made."""

    pem: str
    serial: str
    expires_utc_ns: int


@dataclass(frozen=True)
class PeerCertificate:
    """What the certificate that a client showed says; TLS has checked that our authority signed it."""

    gateway: str
    serial: str
    expires_utc_ns: int


class Authority:
    """The key that vouches for gateways.

    Parameters
    ----------
    folder
        With ``ca.pem`` and ``ca-key.pem``.

    Raises
    ------
    ConfigError
        They are not there, or no certificate and its key.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.pem = (folder / "ca.pem").read_text(encoding="ascii")
            self._certificate = x509.load_pem_x509_certificate(self.pem.encode())
            key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        except (OSError, ValueError, TypeError, UnicodeDecodeError, UnsupportedAlgorithm) as e:
            raise ConfigError(f"{folder}: no authority is there ({e}); make one: kinedge collect init {folder}") from e
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._certificate.public_key():
            raise ConfigError(f"{folder}: ca-key.pem is not the P-256 key of ca.pem")
        self._key = key
        self.fingerprint = self._certificate.fingerprint(hashes.SHA256()).hex()

    def sign_gateway(self, csr_pem: str, gateway: str, *, days: float, now: datetime | None = None) -> Issued:
        """Make a certificate for the public key of a signing request; the name is ours, not the request's.

        Raises
        ------
        OutboxError
            It is no request, its signature is false, or its key is not on P-256.
        """
        request = _request(csr_pem)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(_URN + gateway)]
        return self._sign(request.public_key(), gateway, names, ExtendedKeyUsageOID.CLIENT_AUTH, days, now)

    def sign_server(self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str]) -> Issued:
        """Make the collector's own certificate for its names and addresses."""
        names = [_host_name(host) for host in hosts]
        return self._sign(key, hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, _SERVER_DAYS, None)

    def _sign(
        self,
        key: object,
        name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        days: float,
        now: datetime | None,
    ) -> Issued:
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise OutboxError("the key of a signing request must be on P-256")
        now = now or datetime.now(timezone.utc)
        end = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(pem, f"{certificate.serial_number:x}", _utc_ns(certificate.not_valid_after_utc))


def peer_certificate(der: bytes) -> PeerCertificate | None:
    """Read a gateway's certificate; None when it names no gateway or more than one."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [u for u in names.get_values_for_type(x509.UniformResourceIdentifier) if u.startswith(_URN)]
    except (ValueError, x509.ExtensionNotFound):
        return None
    if len(found) != 1:
        return None
    end = _utc_ns(certificate.not_valid_after_utc)
    return PeerCertificate(found[0].removeprefix(_URN), f"{certificate.serial_number:x}", end)


def public_key_digest(csr_pem: str) -> str:
    """Return the SHA-256 of a signing request's public key, in hex.

    Raises
    ------
    OutboxError
        It is no signing request.
    """
    key = _request(csr_pem).public_key()
    return sha256_hex(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def init_folder(folder: Path, hosts: Sequence[str]) -> None:
    """Make an authority, the collector's certificate and a desk's token, each in a file that only its owner reads.

    Authority and token are kept if they are there: a second call makes a new certificate of the collector alone.

    Raises
    ------
    ConfigError
        No host is given, or the folder cannot be written.
    """
    if not hosts:
        raise ConfigError("say by which names or addresses gateways will reach the collector: --host collector.example")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "ca-key.pem").exists():
            key = ec.generate_private_key(ec.SECP256R1())
            _write(folder / "ca-key.pem", _pem(key), secret=True)
            _write(folder / "ca.pem", _self_signed(key), secret=False)
        authority = Authority(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        server = authority.sign_server(key.public_key(), hosts).pem
        _write(folder / "server-key.pem", _pem(key), secret=True)
        _write(folder / "server.pem", server.encode(), secret=False)
        if not (folder / "desk-token").exists():
            _write(folder / "desk-token", secrets.token_urlsafe(32).encode() + b"\n", secret=True)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be written ({e.strerror})") from e


def _request(csr_pem: str) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        if not request.is_signature_valid:
            raise OutboxError("the signing request is not signed by its own key")
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as e:
        raise OutboxError(f"no certificate signing request ({e})") from e
    return request


def _self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = _name(f"kinedge fleet {secrets.token_hex(4)}")
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, *, secret: bool) -> None:
    """Write a file whole or not at all; a secret one was never readable by others."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _utc_ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9
