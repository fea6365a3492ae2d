"""A collector that asks for certificates, over real TLS, and gateways that enrol at it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from collector_server import serving
from sample_episodes import sample_fields

from kinedge.edge.gateway_identity import GatewayIdentity, enrol_gateway
from kinedge.envelope import Envelope, episode_id
from kinedge.upstream.fleet import Fleet
from kinedge.upstream.pki import Authority
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings, read_token

JSON = {"Content-Type": "application/json"}


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


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@contextmanager
def certified(pki: Path, folder: Path) -> Iterator[Collector]:
    """Run a collector with the keys of ``pki`` and an empty database in ``folder``."""
    settings = CollectorSettings(
        database_url=f"sqlite:///{folder}/collector.db",
        ca_folder=pki,
        token=read_token(pki / "desk-token"),
    )
    with serving(settings) as running:
        yield running
