"""Connections that say who is at the other end and that do not wait for ever: uvicorn's HTTP/1.1 protocols with both.

uvicorn tells an application nothing about the client's certificate and has no time-out for headers that trickle in.
Of its two protocols the one on httptools costs a third; it has no limit for the size of headers, which is added here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kinedge.errors import ConfigError
from kinedge.upstream.identity import PEER_SCOPE
from kinedge.upstream.pki import peer_certificate
from kinedge.upstream.settings import CollectorSettings

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ModuleNotFoundError:  # no wheel for this machine: h11 does the same, more slowly
    HttpToolsProtocol = None  # type: ignore[assignment,misc]

__all__ = ["MAX_HEAD_BYTES", "make_protocol", "server_context"]

MAX_HEAD_BYTES: Final = 32 << 10

if TYPE_CHECKING:
    _Base = H11Protocol
else:
    _Base = asyncio.Protocol


def make_protocol(
    settings: CollectorSettings, refused: Callable[[str], None], *, use_h11: bool = HttpToolsProtocol is None
) -> type[asyncio.Protocol]:
    """Return the protocol class for one collector.

    Parameters
    ----------
    settings
        ``head_timeout_s`` is the longest that the headers of a request may take.
    refused
        Told ``slow_request`` or ``invalid_http`` when a connection is closed for it.
    use_h11
        The protocol in Python in place of the one on httptools.
    """

    class Watched(_Base):
        """One connection, with uvicorn's protocol behind it."""

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
            if self.transport.is_closing():
                return
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._wait_for_head()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unset_timer()
            super().connection_lost(exc)

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

    if use_h11:

        class InPython(Watched, H11Protocol):
            """h11: it counts a head's bytes itself, as it is told by `uvicorn.Config`."""

            def send_400_response(self, msg: str) -> None:
                refused("invalid_http")
                if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                    self.transport.close()  # an answer is under way already
                    return
                super().send_400_response(msg)

        return InPython

    class InC(Watched, HttpToolsProtocol):  # type: ignore[misc]
        """httptools: a head is as long as its sender likes, and trailers pass for headers; neither is so here."""

        _in_head = False
        _n_head = 0

        def data_received(self, data: bytes) -> None:
            was_in_head = self._in_head
            super().data_received(data)
            if was_in_head and self._in_head and not self.transport.is_closing():
                # A field of which the end has not come is not passed on, but it takes memory.
                self._n_head += len(data)
                if self._n_head > MAX_HEAD_BYTES:
                    self.send_400_response("The headers are too large.")

        def on_message_begin(self) -> None:
            self._in_head, self._n_head = True, 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._grow(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._grow(len(name) + len(value))
            if self._in_head:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def _grow(self, n_bytes: int) -> None:
            self._n_head += n_bytes
            if self._n_head > MAX_HEAD_BYTES:
                raise ValueError("the headers are too large")  # the parser answers with 400

        def send_400_response(self, msg: str) -> None:
            refused("invalid_http")
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:
                if cycle.response_started or not cycle.more_body:
                    self.transport.close()  # 400 would pass for the answer that is under way
                    return
                cycle.disconnected = True
                cycle.message_event.set()
            super().send_400_response(msg)

    return InC


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
