"""Connections that say who is at the other end and that do not wait for ever: uvicorn's HTTP/1.1 protocol with both.

uvicorn tells an application nothing about the client's certificate and has no time-out for headers that trickle in.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kinedge.errors import ConfigError
from kinedge.upstream.identity import PEER_SCOPE
from kinedge.upstream.pki import peer_certificate
from kinedge.upstream.settings import CollectorSettings

__all__ = ["make_protocol", "server_context"]


def make_protocol(settings: CollectorSettings, refused: Callable[[str], None]) -> type[H11Protocol]:
    """Return the protocol class for one collector.

    Parameters
    ----------
    settings
        ``head_timeout_s`` is the longest that the headers of a request may take.
    refused
        Told ``slow_request`` or ``invalid_http`` when a connection is closed for it.
    """

    class CollectorProtocol(H11Protocol):
        """One connection."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._timer: asyncio.TimerHandle | None = None
            tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
            der = tls.getpeercert(binary_form=True) if tls is not None else None
            peer = peer_certificate(der) if der is not None else None
            app: Any = self.app

            async def with_peer(scope: Any, receive: Any, send: Any) -> None:
                self._unset_timer()
                scope[PEER_SCOPE] = peer
                await app(scope, receive, send)

            self.app = with_peer
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._wait_for_head()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unset_timer()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            refused("invalid_http")
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.close()  # an answer is under way already
                return
            super().send_400_response(msg)

        def _wait_for_head(self) -> None:
            self._timer = self.loop.call_later(settings.head_timeout_s, self._too_slow)

        def _unset_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                refused("slow_request")
                self.transport.abort()

    return CollectorProtocol


def server_context(
    certificate: str, key: str, *, client_ca: str | None, refused: Callable[[str], None]
) -> ssl.SSLContext:
    """Return a context that asks clients for a certificate of ``client_ca`` and counts those that fail.

    A certificate is asked for, not demanded: people show a token, and a new gateway has nothing yet. One that is
    shown must be good, or the handshake fails.

    Raises
    ------
    ConfigError
        A file is missing, or no certificate and its key.
    """

    class Counting(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLCertVerificationError:
                refused("bad_certificate")
                raise
            except ssl.SSLError:
                refused("bad_handshake")
                raise

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = Counting
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VERIFY_X509_STRICT
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"{certificate}, {key}: not a certificate and its key ({e})") from e
    return context
