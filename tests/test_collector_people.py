"""Who of the people may do what at the collector: tokens of an identity provider, sign-in, open desks, limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector_gateways import code, episode
from collector_server import Issuer, serving

from kinedge.errors import LinkError
from kinedge.upstream.identity import RateLimiter
from kinedge.upstream.pki import init_folder
from kinedge.upstream.settings import CollectorSettings, OidcSettings


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "pki"
    init_folder(folder, ["127.0.0.1", "localhost"])
    return folder


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
