"""What must be turned away at the collector, over real TLS: wrong certificates, floods, slowness and nonsense."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from collector_gateways import JSON, certified, client_of, code, enrolled, episode, put
from collector_server import serving, wait_until
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from test_measures_upstream import day

from kinedge.edge.gateway_identity import _csr
from kinedge.upstream.pki import Authority, init_folder
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings, read_token


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "pki"
    init_folder(folder, ["127.0.0.1", "localhost"])
    return folder


@pytest.fixture
def collector(pki: Path, tmp_path: Path) -> Iterator[Collector]:
    with certified(pki, tmp_path) as running:
        yield running


def with_files(pki: Path, certificate_pem: str, key: ec.EllipticCurvePrivateKey, folder: Path) -> ssl.SSLContext:
    """Make a client's context of a certificate that no gateway would hold."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "client.pem").write_bytes(pem + certificate_pem.encode())
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.load_cert_chain(folder / "client.pem")
    return context


def test_another_gateways_id_in_the_body_is_refused_counted_and_not_written(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity", "gw-2")
    with client_of(collector, identity.ssl_context()) as client:
        assert code(put(client, episode(gateway="gw-1"))) == (403, "other_gateway")
        mine = episode(gateway="gw-2")
        assert put(client, mine).status_code == 201
        other = episode(5, gateway="gw-1")
        collector.store.put_episode(other.id, other.to_bytes())
        raw_url = f"/v1/episodes/{other.id}/raw"
        blob = {"Content-Type": "application/octet-stream"}
        assert code(client.put(raw_url, content=b"x", headers=blob)) == (403, "other_gateway")
        assert code(client.get(f"/v1/episodes/{other.id}/upload")) == (403, "other_gateway")
        assert code(client.get("/v1/gateways/gw-1/missing")) == (403, "forbidden")
        assert client.get("/v1/gateways/gw-2/missing").status_code == 200
        for path in ("/v1/episodes", f"/v1/episodes/{mine.id}", "/v1/export", "/v1/counts", "/v1/gateways"):
            assert code(client.get(path)) == (403, "forbidden")
        theirs, own = day(gateway="gw-1"), day(gateway="gw-2")
        assert code(client.put(f"/v1/measures/{theirs.id}", content=theirs.to_bytes(), headers=JSON)) == (
            403,
            "other_gateway",
        )
        assert client.put(f"/v1/measures/{own.id}", content=own.to_bytes(), headers=JSON).status_code == 201
        csr = _csr(ec.generate_private_key(ec.SECP256R1()), "gw-1")
        assert code(client.post("/v1/gateways/gw-1/certificate", json={"csr": csr})) == (403, "forbidden")
    counts = collector.store.counts()
    assert counts["episodes"] == 2 and counts["raw_blobs"] == 0 and counts["other_gateway"] == 4


def test_every_route_asks_who_it_is_and_a_gateway_may_only_bring(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    """A walk over all that the document names: a route that is added is walked, too."""
    identity = enrolled(collector, pki, tmp_path / "identity")
    anybody = {"/v1/health", "/v1/ca", "/v1/session", "/v1/session/oidc", "/v1/session/oidc/callback"}
    values = {"id": "0" * 64, "gateway": "gw-9"}
    plain = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    with client_of(collector, plain) as stranger, client_of(collector, identity.ssl_context()) as gateway:
        n_walked = 0
        for path, operations in stranger.get("/openapi.json").json()["paths"].items():
            for method in operations:
                url = path.format_map(values)
                content = {"json": {"csr": "x"} if path.endswith("/certificate") else {"action": "confirm"}}
                content = content if method == "post" else {}
                if path not in anybody:
                    n_walked += 1
                    assert code(stranger.request(method, url, **content)) == (401, "unauthorized"), (method, url)
                if method == "get" and path not in {*anybody, "/v1/episodes/{id}/upload"}:
                    assert code(gateway.get(url)) == (403, "forbidden"), url
        assert n_walked >= 24
        reviews = f"/v1/episodes/{values['id']}/reviews"
        assert code(gateway.post(reviews, json={"action": "confirm"})) == (403, "forbidden")


def test_a_session_over_tls_is_for_that_host_and_for_reading_and_reviewing(collector: Collector, pki: Path) -> None:
    plain = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    with client_of(collector, plain) as page:
        answer = page.post("/v1/session", json={"token": read_token(pki / "desk-token")})
        assert answer.status_code == 201
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-kinedge_session=") and cookie.endswith("Secure")
        assert page.get("/v1/desk/episodes").status_code == 200
        assert code(page.get("/v1/gateways")) == (403, "forbidden"), "keys are no work for a page"
        e = episode()
        assert code(put(page, e)) == (403, "cross_site")
        answer = page.put(f"/v1/episodes/{e.id}", content=e.to_bytes(), headers=JSON | {"X-Kinedge": "1"})
        assert code(answer) == (403, "forbidden")


@pytest.mark.parametrize("kind", ["of another authority", "expired", "not begun", "of the collector itself"])
def test_a_wrong_certificate_ends_the_handshake_and_is_counted(
    collector: Collector, pki: Path, tmp_path: Path, kind: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(timezone.utc)
    if kind == "of another authority":
        init_folder(tmp_path / "other", ["127.0.0.1"])
        pem = Authority(tmp_path / "other").sign_gateway(_csr(key, "gw-1"), "gw-1", days=1).pem
    elif kind == "expired":
        pem = Authority(pki).sign_gateway(_csr(key, "gw-1"), "gw-1", days=1, now=now - timedelta(days=2)).pem
    elif kind == "not begun":
        pem = Authority(pki).sign_gateway(_csr(key, "gw-1"), "gw-1", days=1, now=now + timedelta(days=2)).pem
    else:
        key = serialization.load_pem_private_key((pki / "server-key.pem").read_bytes(), None)  # type: ignore[assignment]
        pem = (pki / "server.pem").read_text()
    with (
        client_of(collector, with_files(pki, pem, key, tmp_path)) as client,
        pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.WriteError, httpx.RemoteProtocolError)),
    ):
        put(client, episode())
    wait_until(lambda: collector.store.counts().get("bad_certificate", 0) == 1, "the refusal was not counted")
    assert collector.store.counts()["episodes"] == 0


def test_a_revoked_certificate_is_refused_on_an_open_connection_too(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    desk = {"Authorization": f"Bearer {read_token(pki / 'desk-token')}"}
    plain_context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    with (
        client_of(collector, identity.ssl_context()) as client,
        client_of(collector, plain_context, headers=desk) as plain,
    ):
        assert put(client, episode(0)).status_code == 201
        assert plain.post("/v1/gateways/gw-1/revocation").json()["n_certificates"] == 1
        assert code(put(client, episode(1))) == (403, "certificate_revoked")
        (row,) = plain.get("/v1/gateways").json()["gateways"]
        assert row["gateway"] == "gw-1" and row["revoked"] and row["last_episode_utc_ns"]
    assert collector.store.counts()["episodes"] == 1


def test_a_replayed_request_changes_nothing(collector: Collector, pki: Path, tmp_path: Path) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    stranger = enrolled(collector, pki, tmp_path / "stranger", "gw-9")
    e = episode()
    with client_of(collector, identity.ssl_context()) as client:
        assert put(client, e).status_code == 201
        head = collector.store.verify_audit()
        assert put(client, e).json() == {"id": e.id, "status": "duplicate"}
    with client_of(collector, stranger.ssl_context()) as client:
        assert code(put(client, e)) == (403, "other_gateway")
    assert collector.store.counts()["episodes"] == 1
    assert collector.store.verify_audit().n_rows - head.n_rows <= 2, "no more than a sample of each refusal"


def test_ten_gigabytes_are_refused_before_they_are_read(collector: Collector, pki: Path, tmp_path: Path) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    e = episode()
    n_given = 0

    def flood(total: int) -> Iterator[bytes]:
        nonlocal n_given
        while n_given < total:
            n_given += 1 << 16
            yield bytes(1 << 16)

    with client_of(collector, identity.ssl_context()) as client:
        url = f"/v1/episodes/{e.id}"
        for headers in ({"Content-Length": str(10 << 30)}, {}):
            n_given = 0
            with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                answer = client.put(url, content=flood(10 << 30), headers=JSON | headers)
                assert code(answer) == (413, "too_large") and answer.headers["Connection"] == "close"
            assert n_given < 64 << 20, "it went on reading"
        n_given = 0
        with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            reviews = f"/v1/episodes/{e.id}/reviews"
            assert client.post(reviews, content=flood(10 << 30), headers=JSON).status_code in (403, 413)
        assert n_given < 64 << 20, "a small body has a limit, too"
    counts = collector.store.counts()
    assert counts["episodes"] == 0 and counts["too_large"] >= 2


def test_a_slow_loris_is_cut_off(pki: Path, tmp_path: Path) -> None:
    settings = CollectorSettings(
        database_url=f"sqlite:///{tmp_path}/collector.db",
        ca_folder=pki,
        token=read_token(pki / "desk-token"),
        head_timeout_s=2.0,
        body_timeout_s=1.0,
    )
    with serving(settings) as collector:
        _be_slow(collector, pki)


def _be_slow(collector: Collector, pki: Path) -> None:
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    host, _, port = collector.url.removeprefix("https://").partition(":")

    def connect() -> ssl.SSLSocket:
        raw = socket.create_connection((host, int(port)), timeout=60)
        return context.wrap_socket(raw, server_hostname=host)

    def trickle(connection: ssl.SSLSocket, head: bytes) -> bytes:
        connection.sendall(head)
        answer = b""
        connection.settimeout(0.1)
        deadline = time.monotonic() + 60
        with suppress(OSError):
            while time.monotonic() < deadline:
                with suppress(TimeoutError):
                    part = connection.recv(4096)
                    if not part:
                        break
                    answer += part
                connection.sendall(b"a")  # one byte at a time, as slowly as it is let
        connection.close()
        assert time.monotonic() < deadline
        return answer

    assert trickle(connect(), b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
    again = connect()
    again.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in again.recv(4096)
    assert b"200 OK" not in trickle(again, b"GET /v1/hea"), "a second request on a connection has the same time"
    desk = read_token(pki / "desk-token")
    head = f"PUT /v1/episodes/{'0' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    assert b"408" in trickle(connect(), head.encode())
    post = f"POST /v1/episodes/{'0' * 64}/reviews HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk}\r\n"
    post += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    assert b"408" in trickle(connect(), post.encode())
    mute = socket.create_connection((host, int(port)), timeout=60)
    assert mute.recv(10) == b"", "a handshake that never begins"
    wait_until(lambda: collector.store.counts().get("slow_request", 0) == 2, "the refusals were not counted")
    assert collector.store.counts()["incomplete"] == 2


@pytest.mark.parametrize(
    "body",
    [b"{", b"{}", b'{"schema": "kinedge.episode/99"}', b"\x00" * 50, b'{"a":' * 5000, b"'; DROP TABLE episodes;--"],
)
def test_what_is_no_envelope_is_refused_over_tls(collector: Collector, pki: Path, tmp_path: Path, body: bytes) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    with client_of(collector, identity.ssl_context()) as client:
        answer = client.put(f"/v1/episodes/{'0' * 64}", content=body, headers=JSON)
        assert code(answer) == (422, "invalid_envelope")
        sql = "'; DROP TABLE episodes;--"
        answer = client.post(f"/v1/gateways/{sql}/certificate", json={"csr": sql, "token": sql})
        assert answer.status_code in (404, 422)
        answer = client.post("/v1/gateways/gw-1/certificate", json={"csr": sql, "token": sql})
        assert code(answer) == (422, "invalid_csr")
    counts = collector.store.counts()
    assert counts["episodes"] == 0 and counts["refused"] == 1


def test_bytes_that_are_no_http_and_no_tls_are_counted(collector: Collector, pki: Path) -> None:
    host, _, port = collector.url.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(OSError):
            while plain.recv(4096):
                pass
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as secure:
        secure.sendall(b"\x00\x01\x02\r\n\r\n")
        assert b"400" in secure.recv(4096)
    wait_until(
        lambda: {"bad_handshake", "invalid_http"} <= set(collector.store.counts()), "the refusals were not counted"
    )
