"""``kinedge report``: of stores, collectors, recordings, trainings and benchmarks, and clear errors."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from measures_feeder import START_UTC_S, chunk
from report_page import Page, need_weasyprint, pdf_pages, week_of
from report_people import WEEK, ZONE, fill, fill_folder

import kinedge.cli.report  # noqa: F401  registers its commands
from kinedge.cli.app import main
from kinedge.cli.session import running_collector
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.reports.gather import from_collector, from_store
from kinedge.edge.reports.page import person_page
from kinedge.edge.reports.week import EPOCH
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault
from kinedge.errors import LinkError, StoreError
from kinedge.firmware_bridge.recorder import SessionWriter
from kinedge.measures_envelope import measures_envelope
from kinedge.signals import SensorSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_folder(tmp_path_factory.mktemp("gateway"))


def test_the_command_writes_html_and_json_of_the_latest_week(folder: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "p.html"
    told = ["report", "person", str(folder / "edge.db"), "--timezone", ZONE]
    assert main([*told, "--subject", "p-001", "--lang", "fr", "--out", str(page)]) == 0
    assert page.read_text("utf-8") == person_page(week_of(folder), "fr")
    capsys.readouterr()
    assert main([*told, "--subject", "p-001", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["week"] == "2026-W47" and content["unsure_share"] == week_of(folder).unsure_share
    assert content["episodes"][0]["id"] == week_of(folder).episodes[0].id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "several people"),
        (["--subject", "p-009"], "nothing is kept of p-009"),
        (["--subject", "p-001", "--week", "2026-W60"], "no week 60"),
        (["--subject", "p-001", "--timezone", "Mars/Base"], "time zone"),
        (["--subject", "p-001", "--out", "p.doc"], "HTML or PDF"),
        (["--subject", "p-001", "--out", "/proc/none/p.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_error(
    folder: Path, arguments: list[str], message: str, capsys: Any
) -> None:
    assert main(["report", "person", str(folder / "edge.db"), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_sealed_store_is_reported_with_its_key_and_not_without(tmp_path: Path, capsys: Any) -> None:
    key = tmp_path / "master.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    with EpisodeStore(tmp_path / "edge.db", vault=Vault(tmp_path / "edge.db.keys", bytes(range(32)))) as store:
        fill(store)
    gateway = tmp_path / "gateway.toml"
    gateway.write_text(
        f'site = "s"\ngateway = "g"\nstore = "edge.db"\n[keys]\nfile = "master.key"\n[measures]\ntimezone = "{ZONE}"\n'
        '[[people]]\nsubject = "p-001"\n',
        encoding="utf-8",
    )
    told = ["--subject", "p-001", "--json"]
    assert main(["report", "person", str(gateway), *told]) == 0
    by_config = capsys.readouterr().out
    assert main(["report", "person", str(tmp_path / "edge.db"), "--key", str(key), "--timezone", ZONE, *told]) == 0
    assert capsys.readouterr().out == by_config
    assert main(["report", "person", str(tmp_path / "edge.db"), *told]) == 1
    assert "sealed" in capsys.readouterr().err


def put(url: str, what: str, id: str, body: bytes) -> None:
    answered = httpx.put(f"{url}/v1/{what}/{id}", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code == 201, answered.text


def test_a_collector_tells_days_episodes_and_what_was_said_of_them(tmp_path: Path, capsys: Any) -> None:
    with EpisodeStore(tmp_path / "edge.db") as store:
        fill(store)
        envelopes = [s.envelope for s in store.episodes()]
        days = MeasuresStore(store.database).rows(subject="p-001", level="day")
    who = {"site": "clinic-a", "gateway": "gw-01", "config_digest": "a7" * 32, "kinedge_version": "0.1.0"}
    with running_collector(tmp_path) as url:
        for e in envelopes:
            put(url, "episodes", e.id, e.to_bytes())
        slow = next(e for e in envelopes if e.change is not None)
        assert httpx.post(f"{url}/v1/episodes/{slow.id}/reviews", json={"action": "confirm"}).status_code == 201
        page = tmp_path / "c.html"
        assert main(["report", "person", url, "--timezone", ZONE, "--out", str(page)]) == 0  # the latest week
        assert "Daily numbers of this week are not at this collector" in Page(page.read_text("utf-8")).text
        for i, d in enumerate(days):
            local = str(EPOCH + timedelta(days=d.start))
            row = measures_envelope(**who, **d.content, subject="p-001", part=d.part, day=local, as_of_utc_ns=i)
            put(url, "measures", row.id, row.to_bytes())
        capsys.readouterr()
        assert main(["report", "person", url, "--timezone", ZONE, "--week", "2026-W47", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
    assert len(content["episodes"]) == len(envelopes)
    assert {e["id"]: e["status"] for e in content["episodes"]}[slow.id] == "confirmed"
    assert (
        main(["report", "person", str(tmp_path / "edge.db"), "--timezone", ZONE, "--subject", "p-001", "--json"]) == 0
    )
    assert content["parts"] == json.loads(capsys.readouterr().out)["parts"]
    with pytest.raises(LinkError, match="no collector answers"):
        from_collector("http://127.0.0.1:9", "p", WEEK)


def test_a_store_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.db"):
        from_store(tmp_path / "none.db", None, None)


def test_the_training_report_is_found_beside_its_bundle_and_printed(tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "m.report.html"
    page.write_text("<!doctype html><html><head><title>m</title></head><body><p>As usual</p></body></html>", "utf-8")
    for run in (tmp_path, tmp_path / "m.kinedge", page):
        out = tmp_path / "out" / "m.html"
        assert main(["report", "training", str(run), "--out", str(out)]) == 0
        assert out.read_bytes() == page.read_bytes()
    page.unlink()
    capsys.readouterr()
    assert main(["report", "training", str(tmp_path)]) == 1
    assert "no report" in capsys.readouterr().err


def test_results_of_benchmarks_are_printed_with_all_their_rows(tmp_path: Path) -> None:
    need_weasyprint()
    result = Path(__file__).parents[1] / "benchmarks/results/alarms.json"
    out = tmp_path / "b.pdf"
    assert main(["report", "bench", str(result), "--out", str(out)]) == 0
    text = " ".join(" ".join(pdf_pages(out.read_bytes())).split())
    for row in json.loads(result.read_text("utf-8"))["rows"]:
        assert row["what"] in text


def test_a_recording_is_reported_as_measured_and_not_scored(tmp_path: Path, capsys: Any) -> None:
    with SessionWriter(
        tmp_path / "r", facts={"subject": "p-007"}, clock=lambda: 0, wall_clock=lambda: START_UTC_S * 10**9
    ) as writer:
        for sensor in ("wrist_left", "wrist_right"):
            writer.describe(SensorSpec(sensor))
            for second in range(20):
                writer.write(chunk(sensor, second))
    page = tmp_path / "r.html"
    assert main(["report", "person", str(tmp_path / "r"), "--timezone", "UTC", "--out", str(page)]) == 0
    text = Page(page.read_text("utf-8")).text
    assert (
        "A recording was measured, not scored" in text and "Week 46 of 2023" in text and "the day is not over" in text
    )
    capsys.readouterr()
    assert main(["report", "person", str(tmp_path / "r"), "--subject", "p-008", "--timezone", "UTC"]) == 1
    assert "nothing of p-008" in capsys.readouterr().err
