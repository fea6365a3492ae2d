"""How gateways enrol at a collector over real TLS: invitations, certificates, renewal, and the commands."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector_gateways import certified, client_of, code, enrolled, fleet
from collector_server import serving, wait_until
from cryptography.hazmat.primitives.asymmetric import ec
from sample_episodes import sample_fields, sample_raw

from kinedge.cli.app import main
from kinedge.edge.gateway_identity import GatewayIdentity, _csr, enrol_gateway
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.errors import ConfigError, LinkError
from kinedge.upstream.fleet import Fleet
from kinedge.upstream.pki import Authority, init_folder
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "pki"
    init_folder(folder, ["127.0.0.1", "localhost"])
    return folder


@pytest.fixture
def collector(pki: Path, tmp_path: Path) -> Iterator[Collector]:
    with certified(pki, tmp_path) as running:
        yield running


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
