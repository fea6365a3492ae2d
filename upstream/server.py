"""The collector as a process: a socket, uvicorn around the app, and a word when it is ready."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn

from kinedge.errors import ConfigError, LinkError
from kinedge.upstream.api import create_app
from kinedge.upstream.connection import MAX_HEAD_BYTES, make_protocol, server_context
from kinedge.upstream.settings import CollectorSettings, is_loopback

__all__ = ["Collector"]


class Collector:
    """One collector on one address; the port is taken when the object is made.

    Parameters
    ----------
    settings
        Database, who may come, and limits.
    host, port
        Where to listen; port 0 picks a free one.
    tls_certificate, tls_key
        PEM files, both or neither. With ``settings.ca_folder`` its ``server.pem`` and ``server-key.pem`` unless given.

    Raises
    ------
    ConfigError
        Other machines could reach it without token or certificate, or in the clear, or only one of the TLS files is
        given.
    LinkError
        The address is in use or not of this machine.
    StoreError
        The database cannot be used.
    """

    def __init__(
        self,
        settings: CollectorSettings,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        tls_certificate: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        if settings.token is None and settings.oidc is None and settings.ca_folder is None and not is_loopback(host):
            raise ConfigError(f"{host} can be reached by other machines: give a token file, or listen on 127.0.0.1")
        if (tls_certificate is None) != (tls_key is None):
            raise ConfigError("TLS needs both a certificate and a key")
        client_ca = None
        if settings.ca_folder is not None:
            client_ca = str(settings.ca_folder / "ca.pem")
            tls_certificate = tls_certificate or settings.ca_folder / "server.pem"
            tls_key = tls_key or settings.ca_folder / "server-key.pem"
        app = create_app(settings)
        self.store = app.state.store
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=256)
            # Connections inherit it; asyncio does not set it on sockets made this way, and without it
            # every answer waits 40 ms for the client's delayed ACK.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, OverflowError) as e:
            self.store.close()
            raise LinkError(f"cannot listen on {host} port {port} ({e}); choose another, or 0 for any") from e
        name = f"[{host}]" if ":" in host else host
        scheme = "http" if tls_certificate is None else "https"
        self.url = f"{scheme}://{name}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            http=make_protocol(settings, self._refused),
            ws="none",
            # uvloop, which uvicorn would take if it finds it, is no faster here, and reads on for ever from a TLS
            # connection that it closes before the end of a body.
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # TLS ends here, and an address that a client writes is no address
            lifespan="off",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            limit_concurrency=settings.max_connections,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        config.load()
        if tls_certificate is not None and tls_key is not None:
            config.ssl = server_context(str(tls_certificate), str(tls_key), client_ca=client_ca, refused=self._refused)
        self._server = _Announcing(config)
        self._server.handshake_timeout_s = settings.head_timeout_s

    def run(self, *, on_ready: Callable[[], None] | None = None, alone: bool = False) -> None:
        """Serve until a signal or `stop`.

        Parameters
        ----------
        on_ready
            Called once, when requests are answered.
        alone
            Nothing else goes on in this process: what is in memory by now stays, and need not be looked through again
            and again by the garbage collector, which would cost as much as the requests do.
        """
        self._server.on_ready = on_ready
        if alone:
            gc.collect()
            gc.freeze()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self.store.close()

    def stop(self) -> None:
        """Finish the requests at hand and end `run`, from any thread."""
        self._server.should_exit = True

    def _refused(self, event: str) -> None:
        # Called on the event loop, which must not wait for a disk.
        asyncio.get_running_loop().run_in_executor(None, self.store.refusals.add, event)


class _Announcing(uvicorn.Server):
    on_ready: Callable[[], None] | None = None
    handshake_timeout_s = 10.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self.config.ssl is not None:
            # uvicorn has no word for it, and asyncio gives a handshake a minute.
            loop.create_server = partial(  # type: ignore[method-assign]
                loop.create_server, ssl_handshake_timeout=self.handshake_timeout_s
            )
        await super().startup(sockets)
        if self.started and self.on_ready is not None:
            self.on_ready()
