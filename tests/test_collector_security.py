"""Who may do what at the collector, over real TLS: certificates, tokens, and everything that must be turned away."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector_server import Issuer, serving, wait_until
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sample_episodes import sample_fields, sample_raw
from test_measures_upstream import day

from kinedge.cli.app import main
from kinedge.edge.gateway_identity import GatewayIdentity, _csr, enrol_gateway
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.envelope import Envelope, episode_id
from kinedge.errors import ConfigError, LinkError
from kinedge.upstream.fleet import Fleet
from kinedge.upstream.identity import RateLimiter
from kinedge.upstream.pki import Authority, init_folder
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings, OidcSettings, read_token

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "pki"
    init_folder(folder, ["127.0.0.1", "localhost"])
    return folder


@pytest.fixture
def collector(pki: Path, tmp_path: Path) -> Iterator[Collector]:
    settings = CollectorSettings(
        database_url=f"sqlite:///{tmp_path}/collector.db",
        ca_folder=pki,
        token=read_token(pki / "desk-token"),
    )
    with serving(settings) as running:
        yield running


def fleet(collector: Collector, pki: Path) -> Fleet:
    return Fleet(collector.store.database, Authority(pki))


def enrolled(collector: Collector, pki: Path, folder: Path, name: str = "gw-1") -> GatewayIdentity:
    token = fleet(collector, pki).invite(name, valid_h=1)
    return enrol_gateway(collector.url, name, token, folder)


def episode(i: int = 0, **changes: Any) -> Envelope:
    fields = sample_fields(i, **changes) | {"sequence": 1}
    names = ("site", "gateway", "subject", "sensors", "start_utc_ns", "model_digest")
    return Envelope.model_validate(fields | {"id": episode_id(**{n: fields[n] for n in names}, raw_sha256=None)})


def put(client: httpx.Client, e: Envelope) -> httpx.Response:
    return client.put(f"/v1/episodes/{e.id}", content=e.to_bytes(), headers=JSON)


def client_of(collector: Collector, verify: ssl.SSLContext, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=collector.url, verify=verify, trust_env=False, timeout=60, **options)


def with_files(pki: Path, certificate_pem: str, key: ec.EllipticCurvePrivateKey, folder: Path) -> ssl.SSLContext:
    """Make a client's context of a certificate that no gateway would hold."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "client.pem").write_bytes(pem + certificate_pem.encode())
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.load_cert_chain(folder / "client.pem")
    return context


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_an_invited_gateway_enrols_and_its_episodes_arrive_over_mutual_tls(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    assert identity.gateway == "gw-1"
    assert (tmp_path / "identity" / "gateway.pem").stat().st_mode & 0o077 == 0
    with EpisodeStore(tmp_path / "edge.db") as store:
        raw = sample_raw(1)
        id = store.commit(sample_fields(1, raw=raw), raw).id

        async def send() -> Uplink:
            uplink = Uplink(store, collector.url, identity=identity)
            async with uplink:
                while store.counts().ready:
                    await uplink.step()
                    assert uplink.counters.last_error is None
            return uplink

        assert asyncio.run(send()).counters.sent == 2
    assert collector.store.raw(id) == raw
    assert {row.who for row in _audit(collector) if row.event == "accepted"} == {"gateway gw-1"}


def test_an_invitation_is_good_for_one_key_only_and_that_key_may_ask_again(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    token = fleet(collector, pki).invite("gw-1", valid_h=1)
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    with client_of(collector, ssl.create_default_context(cafile=str(pki / "ca.pem"))) as anonymous:
        _ask_again_and_again(anonymous, token, key, other)
    assert collector.store.counts()["invitation_refused"] == 3


def _ask_again_and_again(
    anonymous: httpx.Client, token: str, key: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePrivateKey
) -> None:
    def ask(key: ec.EllipticCurvePrivateKey, token: str, name: str = "gw-1") -> httpx.Response:
        return anonymous.post(f"/v1/gateways/{name}/certificate", json={"csr": _csr(key, name), "token": token})

    assert code(ask(key, token, "gw-2")) == (403, "invitation_refused")
    assert code(ask(key, token.replace("ke1.", "ke1.x"))) == (403, "invitation_refused")
    assert ask(key, token).status_code == 201
    assert code(ask(other, token)) == (403, "invitation_refused")
    assert ask(key, token).status_code == 201, "the answer may have been lost"
    assert code(anonymous.post("/v1/gateways/gw-1/certificate", json={"csr": "x", "token": token})) == (
        422,
        "invalid_csr",
    )
    assert code(anonymous.post("/v1/gateways/gw-1/certificate", json={"csr": _csr(key, "gw-1")})) == (
        401,
        "unauthorized",
    )


def test_an_invitation_ends_after_its_time(tmp_path: Path, pki: Path) -> None:
    now = time.time_ns()
    from kinedge.upstream.database import Database

    database = Database(f"sqlite:///{tmp_path}/c.db", wall_clock_ns=lambda: now)
    invited = Fleet(database, Authority(pki))
    token = invited.invite("gw-1", valid_h=1)
    csr = _csr(ec.generate_private_key(ec.SECP256R1()), "gw-1")
    now += 3601 * 10**9
    assert invited.enrol("gw-1", token, csr) is None
    database.close()


def test_a_gateway_does_not_enrol_at_a_collector_that_did_not_invite_it(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    init_folder(tmp_path / "other", ["127.0.0.1"])
    token = fleet(collector, pki).invite("gw-1", valid_h=1)
    forged = token.rpartition(".")[0] + "." + Authority(tmp_path / "other").fingerprint
    with pytest.raises(LinkError, match="not the collector that invited"):
        enrol_gateway(collector.url, "gw-1", forged, tmp_path / "identity")
    assert not (tmp_path / "identity").exists()
    for bad in ("", "ke1.x", "abc.def.ghi"):
        with pytest.raises(ConfigError, match="no invitation"):
            enrol_gateway(collector.url, "gw-1", bad, tmp_path)
    with pytest.raises(ConfigError, match="https"):
        enrol_gateway("http://x", "gw-1", token, tmp_path)
    with pytest.raises(ConfigError, match="enrol it"):
        GatewayIdentity.load(tmp_path)


def test_a_certificate_is_renewed_with_a_new_key_while_the_uplink_goes_on(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    before = (tmp_path / "identity" / "gateway.pem").read_bytes()
    life = identity.ends_utc_ns - identity.begins_utc_ns
    assert not identity.renewal_due(identity.begins_utc_ns + int(life * 0.66))
    with EpisodeStore(tmp_path / "edge.db") as store:
        store.commit(sample_fields(1))

        async def send() -> Uplink:
            late = identity.begins_utc_ns + int(life * 0.67)
            uplink = Uplink(store, collector.url, identity=identity, wall_clock_ns=lambda: late)
            async with uplink:
                await uplink.step()
            return uplink

        uplink = asyncio.run(send())
    assert uplink.counters.last_error is None and uplink.counters.sent == 1
    after = (tmp_path / "identity" / "gateway.pem").read_bytes()
    assert uplink.identity != identity or after != before
    assert before.split(b"-----END PRIVATE KEY-----")[0] != after.split(b"-----END PRIVATE KEY-----")[0]
    assert collector.store.counts()["certificate_renewed"] == 1


def test_a_failed_renewal_is_told_and_tried_again_later(pki: Path, tmp_path: Path, collector: Collector) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity")
    fleet(collector, pki).revoke("gw-1")
    wait_until(lambda: collector.store.counts()["episodes"] == 0, "nothing")
    with EpisodeStore(tmp_path / "edge.db") as store:

        async def step() -> Uplink:
            uplink = Uplink(store, "https://127.0.0.1:1", identity=identity, wall_clock_ns=lambda: identity.ends_utc_ns)
            async with uplink:
                await uplink.step()
            return uplink

        uplink = asyncio.run(step())
    assert "certificate not renewed" in str(uplink.counters.last_error)
    assert uplink.identity == identity


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


def test_a_gateway_that_was_renamed_is_not_blocked_by_what_it_had_before(
    collector: Collector, pki: Path, tmp_path: Path
) -> None:
    identity = enrolled(collector, pki, tmp_path / "identity", "gw-2")
    with EpisodeStore(tmp_path / "edge.db") as store:
        store.commit(sample_fields(0, gateway="gw-1"))
        store.commit(sample_fields(1, gateway="gw-2"))

        async def step() -> Uplink:
            async with Uplink(store, collector.url, identity=identity) as uplink:
                await uplink.step()
            return uplink

        uplink = asyncio.run(step())
        counts = store.counts()
    assert (uplink.counters.sent, uplink.counters.retries, counts.ready, counts.done) == (1, 1, 1, 1)
    assert "another gateway" in str(uplink.counters.last_error)


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


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


def test_people_come_with_tokens_of_their_identity_provider(issuer: Issuer, tmp_path: Path) -> None:
    settings = CollectorSettings(
        database_url=f"sqlite:///{tmp_path}/c.db", oidc=OidcSettings(issuer=issuer.url, audience="kinedge")
    )
    with serving(settings) as collector, httpx.Client(base_url=collector.url, trust_env=False, timeout=60) as client:
        e = episode()
        collector.store.put_episode(e.id, e.to_bytes())
        url = f"/v1/episodes/{e.id}"

        def ask(token: str, method: str = "GET", path: str = url, **options: Any) -> httpx.Response:
            return client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)

        review = {"action": "confirm", "comment": "as he told"}
        reader, reviewer = issuer.token("kinedge-reader"), issuer.token("kinedge-reviewer")
        assert ask(reader).content == e.to_bytes()
        assert code(ask(reader, "POST", f"{url}/reviews", json=review)) == (403, "forbidden")
        assert ask(reviewer, "POST", f"{url}/reviews", json=review).json() == {"id": e.id, "status": "confirmed"}
        assert collector.store.reviews(e.id)[0].reviewer == "person anna"
        assert code(ask(reviewer, "PUT", url, content=e.to_bytes())) == (403, "forbidden")
        assert code(ask(issuer.token("somebody else"))) == (403, "forbidden")
        assert code(ask(issuer.token())) == (403, "forbidden")
        assert ask(issuer.token("kinedge-admin"), path="/v1/counts").status_code == 200
        now = int(time.time())
        foreign = Issuer()
        public = json.dumps(issuer.key_set()["keys"][0])
        untrusted = [
            issuer.token("kinedge-reader", aud="another"),
            issuer.token("kinedge-reader", iss="http://elsewhere"),
            issuer.token("kinedge-reader", exp=now - 60),
            issuer.token("kinedge-reader", exp=None),
            issuer.token("kinedge-reader", nbf=now + 600),
            issuer.token("kinedge-reader", sub=""),
            issuer.token("kinedge-reader", key=foreign.keys["k1"]),
            issuer.token("kinedge-reader", kid="unknown"),
            issuer.token("kinedge-reader", algorithm="none"),
            issuer.token("kinedge-reader", key=public * 2, algorithm="HS256"),
            reader[:-6] + "AAAAAA",
            "a.b.c",
            "x" * 5000,
        ]
        foreign.close()
        for token in untrusted:
            assert code(ask(token)) == (401, "unauthorized"), token
        assert code(client.get(url)) == (401, "unauthorized")
        assert issuer.n_fetched <= 3, "unknown keys do not make it ask again and again"


def test_people_sign_in_through_their_provider_with_pkce(tmp_path: Path) -> None:
    issuer = Issuer("kinedge-reviewer")
    settings = CollectorSettings(
        database_url=f"sqlite:///{tmp_path}/c.db",
        oidc=OidcSettings(issuer=issuer.url, audience="kinedge", client_id="desk-page"),
    )
    with serving(settings) as collector, httpx.Client(base_url=collector.url, trust_env=False, timeout=60) as page:
        e = episode()
        collector.store.put_episode(e.id, e.to_bytes())
        assert page.get("/v1/session").json()["by_provider"]

        def to_provider() -> str:
            begun = page.get("/v1/session/oidc")
            assert begun.status_code == 303 and "SameSite=Lax" in begun.headers["Set-Cookie"]
            where = begun.headers["Location"]
            assert where.startswith(f"{issuer.url}/authorize?") and "code_challenge=" in where
            return str(httpx.get(where, trust_env=False).headers["Location"])

        back = page.get(to_provider())
        assert (back.status_code, back.headers["Location"]) == (303, "/")
        assert "SameSite=Strict" in back.headers.get_list("Set-Cookie")[0]
        assert page.get("/v1/session").json() | {"version": ""} == {
            "authorised": True, "name": "person anna", "may_read": True, "may_review": True,
            "by_token": True, "by_provider": True, "version": "",
        }  # fmt: skip
        review = f"/v1/episodes/{e.id}/reviews"
        assert page.post(review, json={"action": "confirm"}, headers={"X-Kinedge": "1"}).status_code == 201
        assert collector.store.reviews(e.id)[0].reviewer == "person anna"
        page.post("/v1/session/end", headers={"X-Kinedge": "1"})
        assert not page.get("/v1/session").json()["authorised"]

        url = to_provider()
        for wrong in (url.replace("state=", "state=x"), url.replace("code=", "code=x"), url, url.partition("?")[0]):
            refused = page.get(wrong)
            assert refused.headers["Location"] == "/?sign-in=refused", "a sign-in is good once, and for who began it"
        url = to_provider()
        page.cookies.clear()
        assert page.get(url).headers["Location"] == "/?sign-in=refused", "it was begun in another browser"
        issuer.roles = ("somebody else",)
        assert page.get(to_provider()).headers["Location"] == "/?sign-in=no-role"
        assert not page.get("/v1/session").json()["authorised"]
        counts = collector.store.counts()
        assert counts["sign_in_refused"] == 5 and counts["signed_in"] == 1
        issuer.close()
        assert page.get(url).headers["Location"] == "/?sign-in=refused"


def test_new_keys_of_the_provider_are_found_and_an_absent_provider_is_no_verdict(issuer: Issuer) -> None:
    from kinedge.upstream.oidc import OidcVerifier, UntrustedTokenError

    now = 0.0
    verifier = OidcVerifier(OidcSettings(issuer=issuer.url, audience="kinedge"), monotonic=lambda: now)
    assert verifier.verify(issuer.token("a", "b")) == ("anna", {"a", "b"})
    issuer.keys["k2"] = issuer.keys["k1"]
    with pytest.raises(UntrustedTokenError, match="does not publish"):
        verifier.verify(issuer.token(kid="k2"))
    now += 11
    assert verifier.verify(issuer.token(kid="k2"))[0] == "anna"
    nested = OidcVerifier(OidcSettings(issuer=issuer.url, audience="kinedge", roles_claim="realm_access.roles"))
    assert nested.verify(issuer.token(realm_access={"roles": ["x"]}))[1] == {"x"}
    issuer.close()
    assert verifier.verify(issuer.token("a"))[0] == "anna", "known keys are good for an hour"
    with pytest.raises(LinkError, match="does not answer"):
        OidcVerifier(OidcSettings(issuer=issuer.url, audience="kinedge")).verify(issuer.token("a"))
    with pytest.raises(ValueError, match="https"):
        OidcSettings(issuer="http://idp.example", audience="kinedge")


def test_an_open_desk_answers_only_to_its_own_name(tmp_path: Path) -> None:
    settings = CollectorSettings(database_url=f"sqlite:///{tmp_path}/c.db")
    with serving(settings) as collector, httpx.Client(base_url=collector.url, trust_env=False, timeout=60) as client:
        for host in ("localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"):
            assert client.get("/v1/episodes", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", ""):
            assert client.get("/v1/episodes", headers={"Host": host}).status_code in (400, 421), host


def test_too_many_requests_are_asked_to_wait(pki: Path, tmp_path: Path) -> None:
    settings = CollectorSettings(database_url=f"sqlite:///{tmp_path}/c.db", requests_per_s=0.01, burst=3)
    with serving(settings) as collector, httpx.Client(base_url=collector.url, trust_env=False, timeout=60) as client:
        answers = [client.get("/v1/episodes") for _ in range(5)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
        assert 90 <= int(answers[-1].headers["Retry-After"]) <= 101
    now = 0.0
    limiter = RateLimiter(2.0, 4, monotonic=lambda: now)
    assert [limiter.wait_s("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert limiter.wait_s("b") == 0
    now = 0.6
    assert limiter.wait_s("a") == 0 and limiter.wait_s("a") > 0
    for i in range(20_000):
        limiter.wait_s(f"address {i}")
    assert len(limiter._buckets) <= 10_000


def test_the_commands_make_keys_invite_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pki, db = str(tmp_path / "pki"), str(tmp_path / "c.db")
    assert main(["collect", "init", pki, "--host", "127.0.0.1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["ca_sha256"]) == 64
    for name in ("ca-key.pem", "server-key.pem", "desk-token"):
        assert (tmp_path / "pki" / name).stat().st_mode & 0o077 == 0
    before = (tmp_path / "pki" / "ca.pem").read_bytes()
    assert main(["collect", "init", pki, "--host", "collector.example"]) == 0
    assert (tmp_path / "pki" / "ca.pem").read_bytes() == before
    assert main(["collect", "init", pki, "--host", "127.0.0.1"]) == 0
    capsys.readouterr()
    assert main(["collect", "gateways", "add", "ward-3", "--pki", pki, "--db", db]) == 0
    token = capsys.readouterr().out.strip()
    (tmp_path / "token").write_text(token)
    settings = CollectorSettings(database_url=f"sqlite:///{db}", ca_folder=tmp_path / "pki", token="0123456789abcdef")
    with serving(settings) as collector:
        arguments = ["enroll-gateway", "ward-3", "--url", collector.url, "--folder", str(tmp_path / "identity")]
        assert main([*arguments, "--token-file", str(tmp_path / "token")]) == 0
        assert f'identity = "{tmp_path}/identity"' in capsys.readouterr().out
    assert main(["collect", "gateways", "list", "--pki", pki, "--db", db, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["gateway"] == "ward-3" and not row["revoked"] and not row["invited"]
    assert main(["collect", "gateways", "revoke", "ward-3", "--pki", pki, "--db", db, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_certificates"] == 1
    assert main(["collect", "audit", "--db", db, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3, "invited, enrolled, revoked"
    assert main(["collect", "gateways", "add", "two words", "--pki", pki, "--db", db]) == 1
    assert "no gateway's name" in capsys.readouterr().err


def test_a_service_refuses_a_certificate_of_another_name(collector: Collector, pki: Path, tmp_path: Path) -> None:
    from kinedge.edge.config import UplinkConfig
    from kinedge.edge.uplink import open_uplink

    enrolled(collector, pki, tmp_path / "identity", "gw-2")
    config = UplinkConfig(url=collector.url, identity=tmp_path / "identity")
    with EpisodeStore(tmp_path / "edge.db") as store:
        with pytest.raises(ConfigError, match="the certificate is of gw-2"):
            open_uplink(store, config, gateway="gw-1")
        assert open_uplink(store, config, gateway="gw-2").identity is not None
        with pytest.raises(ConfigError, match="https"):
            Uplink(store, "http://127.0.0.1:1", identity=GatewayIdentity.load(tmp_path / "identity"))
        assert UplinkLimits().raw_bytes_per_day is None


def _audit(collector: Collector) -> list[Any]:
    import sqlalchemy as sa

    from kinedge.upstream.schema import AUDIT

    with collector.store.database.reading() as connection:
        return list(connection.execute(sa.select(AUDIT)))
