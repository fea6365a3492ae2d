"""A real collector in a thread, with real TLS; and an identity provider with real keys."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings

PATIENCE_S = 60.0


@contextmanager
def serving(settings: CollectorSettings) -> Iterator[Collector]:
    """Run a collector until the block ends."""
    collector = Collector(settings, port=0)
    ready = threading.Event()
    thread = threading.Thread(target=collector.run, kwargs={"on_ready": ready.set})
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield collector
    finally:
        collector.stop()
        thread.join(PATIENCE_S)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class Issuer:
    """An OpenID provider on this machine: discovery, a key set, and tokens signed by RS256."""

    def __init__(self) -> None:
        self.keys = {"k1": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.n_fetched = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = {"/.well-known/openid-configuration": issuer.about, "/keys": issuer.key_set}
                make = known.get(self.path)
                body = json.dumps(make() if make else {}).encode()
                self.send_response(200 if make else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def about(self) -> dict[str, Any]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}

    def key_set(self) -> dict[str, Any]:
        self.n_fetched += 1
        found = []
        for kid, key in self.keys.items():
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
            found.append(public | {"kid": kid, "use": "sig", "alg": "RS256"})
        return {"keys": found}

    def token(self, *roles: str, kid: str = "k1", key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "kinedge", "sub": "anna", "iat": now, "exp": now + 300, "roles": list(roles)}
        claims = {k: v for k, v in (claims | changes).items() if v is not None}
        key = None if algorithm == "none" else key or self.keys["k1"]
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
