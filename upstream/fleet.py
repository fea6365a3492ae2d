"""Which gateways may come: invitations that work once, certificates that were issued, and those that were revoked."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from kinedge.canonical import sha256_hex
from kinedge.errors import ConfigError, OutboxError
from kinedge.upstream.database import Database, Transaction
from kinedge.upstream.pki import Authority, Issued, public_key_digest
from kinedge.upstream.schema import CERTIFICATES, EPISODES, INVITATIONS

__all__ = ["Fleet", "GatewayRow"]

_HOUR_NS: Final = 3600 * 10**9


@dataclass(frozen=True)
class GatewayRow:
    """A gateway as an administrator sees it."""

    gateway: str
    certificate_expires_utc_ns: int | None
    revoked: bool
    invited: bool
    last_episode_utc_ns: int | None


class Fleet:
    """The gateways of one authority.

    Parameters
    ----------
    database
        The collector's.
    authority
        None: certificates are issued elsewhere, and can only be revoked here if they are known here.
    certificate_days
        How long a certificate is good.
    recheck_s
        How long a list of revoked certificates is believed.
    """

    def __init__(
        self,
        database: Database,
        authority: Authority | None,
        *,
        certificate_days: float = 90,
        recheck_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.authority = authority
        self._database = database
        self._days = certificate_days
        self._recheck_s = recheck_s
        self._monotonic = monotonic
        self._revoked: frozenset[str] = frozenset()
        self._read_at = -1e9

    def invite(self, gateway: str, *, valid_h: float, who: str = "") -> str:
        """Make a token with which one key can get one certificate; it names the authority, too, for the way back.

        Raises
        ------
        ConfigError
            There is no authority here.
        """
        if self.authority is None:
            raise ConfigError("there is no authority here to sign certificates; make one: kinedge collect init FOLDER")
        secret = secrets.token_urlsafe(24)

        def work(transaction: Transaction) -> None:
            expires = transaction.utc_ns + int(valid_h * _HOUR_NS)
            row = {"token_sha256": sha256_hex(secret.encode()), "gateway": gateway, "expires_utc_ns": expires}
            transaction.connection.execute(
                INVITATIONS.delete().where(INVITATIONS.c.expires_utc_ns < transaction.utc_ns - 24 * _HOUR_NS)
            )
            transaction.connection.execute(INVITATIONS.insert(), row)
            transaction.note("invited", who, {"gateway": gateway, "expires_utc_ns": expires})

        self._database.write(work)
        return f"ke1.{secret}.{self.authority.fingerprint}"

    def enrol(self, gateway: str, token: str, csr_pem: str) -> Issued | None:
        """Sign the request of a gateway that shows its invitation; None: the invitation is not good for this.

        The same key may come again while the invitation is valid: an answer can get lost.

        Raises
        ------
        OutboxError
            The request is none, or there is no authority.
        """
        key = public_key_digest(csr_pem)
        parts = token.split(".")
        digest = sha256_hex(parts[1].encode("utf-8", "replace")) if len(parts) == 3 else ""

        def work(transaction: Transaction) -> Issued | None:
            c = INVITATIONS.c
            found = transaction.connection.execute(sa.select(INVITATIONS).where(c.token_sha256 == digest)).first()
            if found is None or found.expires_utc_ns < transaction.utc_ns:
                return None
            if not hmac.compare_digest(found.gateway, gateway) or found.key_sha256 not in (None, key):
                return None
            transaction.connection.execute(INVITATIONS.update().where(c.token_sha256 == digest).values(key_sha256=key))
            return self._issue(transaction, gateway, csr_pem, key, "enrolled")

        return self._database.write(work)

    def renew(self, gateway: str, csr_pem: str) -> Issued:
        """Sign a request of a gateway that has shown a good certificate.

        Raises
        ------
        OutboxError
            The request is none, or there is no authority.
        """
        key = public_key_digest(csr_pem)
        return self._database.write(
            lambda transaction: self._issue(transaction, gateway, csr_pem, key, "certificate_renewed")
        )

    def revoke(self, gateway: str, *, who: str = "") -> int:
        """Revoke all certificates and invitations of a gateway; say how many certificates that were."""

        def work(transaction: Transaction) -> int:
            c = CERTIFICATES.c
            n = transaction.connection.execute(
                CERTIFICATES.update()
                .where(c.gateway == gateway, c.revoked_utc_ns.is_(None), c.expires_utc_ns > transaction.utc_ns)
                .values(revoked_utc_ns=transaction.utc_ns)
            ).rowcount
            transaction.connection.execute(INVITATIONS.delete().where(INVITATIONS.c.gateway == gateway))
            transaction.note("revoked", who, {"gateway": gateway, "n_certificates": n})
            return int(n)

        n = self._database.write(work)
        self._read_at = -1e9
        return n

    @property
    def stale(self) -> bool:
        """Whether the list of revoked certificates should be read again."""
        return self._monotonic() - self._read_at >= self._recheck_s

    def refresh(self) -> None:
        """Read the list of revoked certificates again; it waits for the database.

        Raises
        ------
        StoreError
            The database does not answer.
        """
        query = sa.select(CERTIFICATES.c.serial).where(
            CERTIFICATES.c.revoked_utc_ns.is_not(None), CERTIFICATES.c.expires_utc_ns > self._database.wall_clock_ns()
        )
        with self._database.reading() as connection:
            self._revoked = frozenset(connection.scalars(query))
        self._read_at = self._monotonic()

    def is_revoked(self, serial: str) -> bool:
        """Say whether a certificate was revoked, as of the last ``refresh``."""
        return serial in self._revoked

    def gateways(self) -> tuple[GatewayRow, ...]:
        """List every gateway that was invited, holds a certificate or has sent an episode."""
        now = self._database.wall_clock_ns()
        c, i, e = CERTIFICATES.c, INVITATIONS.c, EPISODES.c
        with self._database.reading() as connection:
            good = dict(
                connection.execute(
                    sa.select(c.gateway, sa.func.max(c.expires_utc_ns))
                    .where(c.revoked_utc_ns.is_(None))
                    .group_by(c.gateway)
                ).all()
            )
            known = set(connection.scalars(sa.select(c.gateway).distinct()))
            invited = set(
                connection.scalars(sa.select(i.gateway).where(i.expires_utc_ns > now, i.key_sha256.is_(None)))
            )
            last = dict(
                connection.execute(sa.select(e.gateway, sa.func.max(e.received_utc_ns)).group_by(e.gateway)).all()
            )
        names = sorted(known | invited | set(last))
        return tuple(GatewayRow(n, good.get(n), n in known and n not in good, n in invited, last.get(n)) for n in names)

    def _issue(self, transaction: Transaction, gateway: str, csr_pem: str, key: str, event: str) -> Issued:
        if self.authority is None:
            raise OutboxError("this collector signs no certificates")
        issued = self.authority.sign_gateway(csr_pem, gateway, days=self._days)
        row = {"serial": issued.serial, "gateway": gateway, "expires_utc_ns": issued.expires_utc_ns}
        transaction.connection.execute(CERTIFICATES.insert(), row | {"issued_utc_ns": transaction.utc_ns})
        transaction.note(event, gateway, {"gateway": gateway, "serial": issued.serial, "key_sha256": key})
        transaction.count(event)
        return issued
