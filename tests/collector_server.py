"""A real collector in a thread, with real TLS; and an identity provider with real keys."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode

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
    """An OpenID provider on this machine: discovery, a key set, tokens signed by RS256, and the code flow with PKCE.

    Whoever is sent to ``/authorize`` is signed in as ``anna`` with ``roles`` and sent back at once.
    """

    def __init__(self, *roles: str) -> None:
        self.roles = roles
        self.codes: dict[str, dict[str, str]] = {}
        self.keys = {"k1": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.n_fetched = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/authorize?"):
                    self.send_response(303)
                    self.send_header("Location", issuer.authorize(dict(parse_qsl(self.path.partition("?")[2]))))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                known = {"/.well-known/openid-configuration": issuer.about, "/keys": issuer.key_set}
                make = known.get(self.path)
                body = json.dumps(make() if make else {}).encode()
                self.send_response(200 if make else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                answer = issuer.redeem(form) if self.path == "/token" else None
                body = json.dumps(answer or {"error": "invalid_grant"}).encode()
                self.send_response(200 if answer else 400)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.seen_as = self.url  # by browsers
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def about(self) -> dict[str, Any]:
        paths = {"jwks_uri": "keys", "authorization_endpoint": "authorize", "token_endpoint": "token"}
        found = {name: f"{self.url}/{path}" for name, path in paths.items()}
        return found | {"issuer": self.url, "authorization_endpoint": f"{self.seen_as}/authorize"}

    def authorize(self, asked: dict[str, str]) -> str:
        """Return where a browser is sent back to, with a code that is good once."""
        assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
        code = secrets.token_hex(8)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def redeem(self, form: dict[str, str]) -> dict[str, str] | None:
        """Return the tokens for a code, to whoever knows the verifier."""
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return None
        claims = {"aud": asked["client_id"], "nonce": asked["nonce"], "roles": None}
        return {"id_token": self.token(**claims), "access_token": self.token(*self.roles), "token_type": "Bearer"}

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
