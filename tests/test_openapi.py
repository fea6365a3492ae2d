"""The OpenAPI document is the truth: requests made from it never meet a fault or an answer it does not name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from test_collector import envelope
from test_measures_upstream import day

from kinedge.upstream.api import create_app
from kinedge.upstream.pki import init_folder
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
)
TOKEN = "a-token-of-a-desk"

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("openapi")
    init_folder(folder / "pki", ["127.0.0.1"])
    store = CollectorStore(f"sqlite:///{folder}/collector.db")
    for i in range(3):
        e = envelope(i)
        store.put_episode(e.id, e.to_bytes())
        store.measures.put(day(i).id, day(i).to_bytes())
    limits = {"requests_per_s": 1e6, "burst": 10**9}
    app = create_app(CollectorSettings(token=TOKEN, ca_folder=folder / "pki", **limits), store=store)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    assert len(store.episodes().episodes) >= 3, "nothing that was here is gone"
    store.verify_audit()
    store.close()


def test_requests_made_from_the_document_get_answers_that_it_names(api: Any) -> None:
    n_operations = 0
    seen = set()
    for found in api.get_all_operations():
        operation = found.ok()
        n_operations += 1

        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
            if not case.path.startswith("/v1/session"):  # there, a token that is none is an answer
                seen.add(response.status_code)
            case.validate_response(response, checks=CHECKS)

        ask()
    assert n_operations >= 29
    assert {200, 404, 422} <= seen and 401 not in seen, "it got past the gate"


def test_the_document_names_every_route_and_its_refusals(tmp_path: Path) -> None:
    app = create_app(CollectorSettings(database_url=f"sqlite:///{tmp_path}/c.db"))
    paths = app.openapi()["paths"]
    assert {"/v1/episodes/{id}", "/v1/episodes/{id}/raw", "/v1/episodes/{id}/upload", "/v1/export"} <= set(paths)
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert {"401", "403", "422", "429", "503"} <= set(operation["responses"]), (method, path)
            assert operation["summary"] and operation["description"]
    app.state.store.close()
