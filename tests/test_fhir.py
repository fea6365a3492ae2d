"""Episodes as FHIR R4: valid by the field's own models, by required value sets, and true to the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_episodes import sample_fields
from test_collector import AppClient, envelope

from kinedge.arrays import arrays_from_npz
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.edge.episodes import RAW_MEDIA_TYPE, pack_raw
from kinedge.envelope import Envelope, episode_id
from kinedge.upstream.api import create_app
from kinedge.upstream.fhir import to_bundle
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore

CHANNELS = tuple(f"wrist_left.{q}_{a}" for q in ("acc", "gyr") for a in "xyz")

# The value sets of R4 whose binding is "required", for every coded element that is used here.
REQUIRED = {
    "Bundle.type": {"document", "message", "transaction", "transaction-response", "batch", "batch-response", "history",
                    "searchset", "collection"},
    "Bundle.entry.request.method": {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"},
    "Device.status": {"active", "inactive", "entered-in-error", "unknown"},
    "Device.deviceName.type": {"udi-label-name", "user-friendly-name", "patient-reported-name", "manufacturer-name",
                               "model-name", "other"},
    "Observation.status": {"registered", "preliminary", "final", "amended", "corrected", "cancelled",
                           "entered-in-error", "unknown"},
    "DetectedIssue.status": {"registered", "preliminary", "final", "amended", "corrected", "cancelled",
                             "entered-in-error", "unknown"},
}  # fmt: skip
CODES = {
    "http://terminology.hl7.org/CodeSystem/observation-category": {"social-history", "vital-signs", "imaging",
        "laboratory", "procedure", "survey", "exam", "therapy", "activity"},
    "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation": {"IND"},
}  # fmt: skip


def with_raw(n: int = 200, rate_hz: float = 50.0, **changes: Any) -> tuple[Envelope, bytes, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 3, (n, len(CHANNELS))).astype(np.float32)
    valid = rng.random((n, len(CHANNELS))) > 0.05
    start = sample_fields(0)["start_utc_ns"] - 2_000_000_000
    raw = pack_raw(values, valid, CHANNELS, start_utc_ns=start, rate_hz=rate_hz)
    fields = sample_fields(0, **changes) | {"sequence": 1}
    fields["raw"] = {"sha256": sha256_hex(raw), "n_bytes": len(raw), "media_type": RAW_MEDIA_TYPE, "rate_hz": rate_hz,
                     "n_samples": n, "channels": CHANNELS, "start_utc_ns": start}  # fmt: skip
    names = ("site", "gateway", "subject", "sensors", "start_utc_ns", "model_digest")
    id = episode_id(**{k: fields[k] for k in names}, raw_sha256=sha256_hex(raw))
    return Envelope.model_validate(fields | {"id": id}), raw, values, valid


def check(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """Validate by the models and the value sets; return the resources."""
    parsed = Bundle.model_validate_json(canonical_json(bundle))
    assert parsed.get_resource_type() == "Bundle"
    _value_sets(bundle, "Bundle")
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    for reference in _references(bundle):
        assert reference in urls, "every reference leads to something in the Bundle"
    for entry in bundle["entry"]:
        identifier = entry["resource"]["identifier"][0]
        assert entry["request"] == {
            "method": "POST",
            "url": entry["resource"]["resourceType"],
            "ifNoneExist": f"identifier={identifier['system']}|{identifier['value']}",
        }
    return [entry["resource"] for entry in bundle["entry"]]


def _value_sets(node: Any, path: str) -> None:
    if isinstance(node, dict):
        path = node.get("resourceType", path)
        if node.get("system") in CODES:
            assert node["code"] in CODES[node["system"]]
        for key, value in node.items():
            if isinstance(value, str) and f"{path}.{key}" in REQUIRED:
                assert value in REQUIRED[f"{path}.{key}"], f"{path}.{key}"
            _value_sets(value, f"{path}.{key}")
    elif isinstance(node, list):
        for item in node:
            _value_sets(item, path)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("reference"), str):
            yield node["reference"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def of_kind(resources: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [r for r in resources if r["resourceType"] == kind]


def test_an_episode_is_a_device_observations_and_an_issue() -> None:
    e, raw, _, _ = with_raw()
    resources = check(to_bundle(e, raw))
    assert [r["resourceType"] for r in resources] == [
        "Device",
        "Observation",
        "Observation",
        "Observation",
        "DetectedIssue",
    ]
    issue = resources[-1]
    assert issue["status"] == "preliminary" and issue["detail"] == e.sentence
    assert issue["identifiedPeriod"] == {"start": "2023-11-14T22:13:20.000Z", "end": "2023-11-14T22:13:32.000Z"}
    assert len(issue["evidence"][0]["detail"]) == 3
    assert "severity" not in issue, "how bad something is is not for kinedge to say"
    assert issue["patient"]["identifier"] == {"system": "urn:kinedge:subject", "value": "home/p01"}
    again = to_bundle(e, raw)
    assert canonical_json(again) == canonical_json(to_bundle(e, raw)), "the same Bundle for the same episode"


def test_samples_come_back_from_sampled_data_to_the_count() -> None:
    e, raw, _, _ = with_raw(rate_hz=104.0)
    counts = arrays_from_npz(raw, where="test")["counts"]
    observations = of_kind(check(to_bundle(e, raw)), "Observation")[1:]
    for k, observation in enumerate(observations):
        sampled = observation["valueSampledData"]
        words = sampled["data"].split(" ")
        back = np.array([-32768 if w == "E" else int(w) for w in words]).reshape(-1, sampled["dimensions"])
        assert (back == counts[:, 3 * k : 3 * k + 3]).all()
        assert sampled["period"] == pytest.approx(1000 / 104.0)
        assert sampled["origin"]["code"] == ["m/s2", "rad/s"][k]
        assert sampled["factor"] == pytest.approx(arrays_from_npz(raw, where="test")["scale_si"][3 * k])
        assert observation["effectivePeriod"]["start"] == "2023-11-14T22:13:18.000Z"


def test_physical_values_follow_from_origin_and_factor() -> None:
    e, raw, values, valid = with_raw()
    sampled = of_kind(
        to_bundle(e, raw)["entry"] and [x["resource"] for x in to_bundle(e, raw)["entry"]], "Observation"
    )[1]
    data = sampled["valueSampledData"]
    back = np.array([np.nan if w == "E" else float(w) for w in data["data"].split()]).reshape(-1, 3) * data["factor"]
    assert np.nanmax(np.abs(back - values[:, :3])) <= data["factor"] * 0.51
    assert (np.isnan(back) == ~valid[:, :3]).all()


def test_scores_lie_on_a_grid_with_gaps_marked() -> None:
    point = sample_fields(0)["trail"][0]
    start = point["wall_time_utc_ns"]
    seconds, scores = [0, 1, 2, 5, 6], [1.0, 2.5, -0.25, 4.0, 1e-7]
    trail = [point | {"wall_time_utc_ns": start + s * 10**9, "score": x} for s, x in zip(seconds, scores, strict=True)]
    (observation, *_) = of_kind(check(to_bundle(envelope(0, trail=trail), None)), "Observation")
    sampled = observation["valueSampledData"]
    assert sampled["data"] == "1 2.5 -0.25 E E 4 0" and sampled["period"] == 1000 and sampled["dimensions"] == 1
    odd = [point | {"wall_time_utc_ns": start + t} for t in (0, 1000, 1700)]
    (observation, *_) = of_kind(check(to_bundle(envelope(0, trail=odd), None)), "Observation")
    assert observation["valueQuantity"]["value"] == 4.5 and "valueSampledData" not in observation


def test_unsure_is_indeterminate_and_no_issue() -> None:
    point = sample_fields(0)["trail"][0] | {"decision": "unsure"}
    resources = check(to_bundle(envelope(0, trail=[point, point]), None))
    assert of_kind(resources, "DetectedIssue") == []
    (observation,) = of_kind(resources, "Observation")
    (interpretation,) = observation["interpretation"]
    assert interpretation["text"] == "unsure" and interpretation["coding"][0]["code"] == "IND"


@pytest.mark.parametrize(
    ("said", "status"), [("new", "preliminary"), ("confirmed", "final"), ("dismissed", "cancelled")]
)
def test_what_people_said_decides_the_status_of_the_issue(said: str, status: str) -> None:
    (issue,) = of_kind(check(to_bundle(envelope(0), None, status=said)), "DetectedIssue")
    assert issue["status"] == status


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"x" * 1000])
def test_raw_data_that_cannot_be_read_leaves_the_rest_standing(raw: bytes) -> None:
    e, _, _, _ = with_raw()
    assert len(of_kind(check(to_bundle(e, raw)), "Observation")) == 1


_TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(max_examples=25, deadline=None)
@given(
    sentence=_TEXT,
    score=st.floats(-1e9, 1e9),
    p=st.floats(0, 1),
    length_ns=st.integers(0, 10**15),
    version=_TEXT,
    gateway=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,20}\Z"),
    steps=st.lists(st.integers(0, 5 * 10**9), max_size=12),
)
def test_any_episode_becomes_a_valid_bundle(
    sentence: str, score: float, p: float, length_ns: int, version: str, gateway: str, steps: list[int]
) -> None:
    fields = sample_fields(0)
    point = fields["trail"][0] | {"score": score, "p_value": p}
    times = np.cumsum([fields["start_utc_ns"], *steps]).tolist()
    e = envelope(
        0,
        sentence=sentence,
        peak_score=score,
        min_p_value=p,
        end_utc_ns=fields["start_utc_ns"] + length_ns,
        kinedge_version=version,
        gateway=gateway,
        trail=[point | {"wall_time_utc_ns": t} for t in times],
    )
    check(to_bundle(e, None))


def test_a_collector_serves_bundles_and_names_what_is_not_there(tmp_path: Path) -> None:
    store = CollectorStore(f"sqlite:///{tmp_path}/c.db")
    client = AppClient(create_app(CollectorSettings(), store=store))
    e, raw, _, _ = with_raw()
    assert client.get(f"/v1/episodes/{e.id}/fhir").status_code == 404
    store.put_episode(e.id, e.to_bytes())
    assert len(client.get(f"/v1/episodes/{e.id}/fhir").json()["entry"]) == 3
    store.put_raw(e.id, raw)
    store.review(e.id, "confirm", comment="", who="x")
    answer = client.get(f"/v1/episodes/{e.id}/fhir")
    assert answer.headers["Content-Type"] == "application/fhir+json"
    assert check(answer.json())[-1]["status"] == "final"
    store.close()
