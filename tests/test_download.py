"""Fetching data sets: a server that breaks off, changes its file or knows no ranges, and archives that are no good."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kinedge.cli import main
from kinedge.errors import KinedgeError, LinkError, StoreError
from kinedge.training import download
from kinedge.training.datasets import DATASETS, SERIES
from kinedge.training.datasets import catalogue as catalogue_module
from kinedge.training.datasets.catalogue import CATALOGUE
from kinedge.training.download import LOCK, Pinned, fetch, read_lock, sha256_of, unpack, write_lock


@dataclass
class Site:
    """What the server does; a test changes it between requests."""

    body: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    status: int = 200
    honest_range: bool = True
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on this machine that serves one file."""
    served = Site(bytes(range(256)) * 4000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append(dict(self.headers))
            body, start, status = served.body, 0, served.status
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and served.ranges and self.headers.get("If-Range") == served.etag:
                start, status = int(asked[1]), 206
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            self.send_response(status)
            if served.etag:
                self.send_header("ETag", served.etag)
            if status == 206:
                told = start if served.honest_range else start + 1
                self.send_header("Content-Range", f"bytes {told}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = start + served.break_after.pop(0) if served.break_after else len(body)
            self.wfile.write(body[start:end])
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/data.zip"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_arrives_whole_with_its_digest_and_progress(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    pinned = fetch(site.url, tmp_path / "deep" / "f.zip", report=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "deep" / "f.zip").read_bytes() == site.body
    assert pinned.sha256 == hashlib.sha256(site.body).hexdigest() == sha256_of(tmp_path / "deep" / "f.zip")
    assert (pinned.url, pinned.n_bytes) == (site.url, len(site.body))
    assert seen[-1] == (len(site.body), len(site.body))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["f.zip"]


def test_a_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.break_after = [300_000, 200_000]
    fetch(site.url, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == site.body
    assert [r.get("Range") for r in site.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert {r.get("If-Range") for r in site.requests[1:]} == {'"one"'}


def test_a_download_that_was_given_up_goes_on_with_the_next_call(site: Site, tmp_path: Path) -> None:
    site.break_after = [100_000, 0]
    with pytest.raises(LinkError, match=r"100,000 bytes are kept, start again"):
        fetch(site.url, tmp_path / "f.zip")
    assert not (tmp_path / "f.zip").exists()
    fetch(site.url, tmp_path / "f.zip")
    assert site.requests[-1]["Range"] == "bytes=100000-"
    assert (tmp_path / "f.zip").read_bytes() == site.body


def test_a_file_that_changed_meanwhile_starts_anew_and_is_no_mixture(site: Site, tmp_path: Path) -> None:
    site.break_after = [100_000, 0]
    with pytest.raises(LinkError):
        fetch(site.url, tmp_path / "f.zip")
    site.body, site.etag = b"another" * 50_000, '"two"'
    fetch(site.url, tmp_path / "f.zip")
    assert site.requests[-1]["If-Range"] == '"one"'
    assert (tmp_path / "f.zip").read_bytes() == site.body


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_a_server_without_ranges_or_validators_is_read_from_the_start(
    site: Site, tmp_path: Path, etag: str | None
) -> None:
    site.ranges, site.etag = False, etag
    site.break_after = [100_000]
    if etag == '"one"':
        fetch(site.url, tmp_path / "f.zip")
    else:
        fetch(site.url, tmp_path / "f.zip")
        assert all("Range" not in r for r in site.requests)
    assert (tmp_path / "f.zip").read_bytes() == site.body


def test_a_part_that_is_already_whole_is_taken_as_it_is(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f.zip.part").write_bytes(site.body)
    (tmp_path / "f.zip.part.json").write_text(json.dumps({"url": site.url, "validator": '"one"'}))
    assert fetch(site.url, tmp_path / "f.zip").n_bytes == len(site.body)
    (tmp_path / "g.zip.part").write_bytes(site.body + b"too much")
    (tmp_path / "g.zip.part.json").write_text(json.dumps({"url": site.url, "validator": '"one"'}))
    with pytest.raises(LinkError, match="start again"):
        fetch(site.url, tmp_path / "g.zip")
    fetch(site.url, tmp_path / "g.zip")
    assert (tmp_path / "g.zip").read_bytes() == site.body


@pytest.mark.parametrize("about", ["", "[]", '{"url": 3}', '{"url": "http://other/", "validator": "\\"one\\""}'])
def test_a_part_of_unknown_origin_is_not_continued(site: Site, tmp_path: Path, about: str) -> None:
    (tmp_path / "f.zip.part").write_bytes(b"rubbish")
    (tmp_path / "f.zip.part.json").write_text(about)
    fetch(site.url, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == site.body


def test_a_wrong_digest_is_refused_and_nothing_of_it_stays(site: Site, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected 00"):
        fetch(site.url, tmp_path / "f.zip", sha256="00")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_another_range_or_an_error_is_named(site: Site, tmp_path: Path) -> None:
    site.break_after = [100_000, 0]
    with pytest.raises(LinkError):
        fetch(site.url, tmp_path / "f.zip")
    site.honest_range = False
    with pytest.raises(LinkError, match="what follows 100000"):
        fetch(site.url, tmp_path / "f.zip")
    site.status = 404
    with pytest.raises(LinkError, match="answers 404"):
        fetch(site.url, tmp_path / "other.zip")
    with pytest.raises(LinkError, match=r"cannot be fetched|broke off"):
        fetch("http://127.0.0.1:9/none", tmp_path / "third.zip")
    with pytest.raises(LinkError, match=r"cannot be fetched|broke off"):
        fetch("gopher://127.0.0.1/none", tmp_path / "third.zip")


def test_a_full_disk_is_said_beforehand_and_when_it_happens(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StoreError, match="1,000 bytes are free"):
        fetch(site.url, tmp_path / "f.zip")
    monkeypatch.undo()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        fetch(site.url, tmp_path / "f.zip")
    monkeypatch.undo()
    assert fetch(site.url, tmp_path / "f.zip").n_bytes == len(site.body)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return path


def test_unpacking_keeps_what_is_wanted_and_appears_at_once(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.zip", {"r/data/x.txt": b"1", "r/data/deep/y.txt": b"2", "r/code.py": b"3"})
    assert unpack(packed, tmp_path / "out", keep="/data/") == 2
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")) == [
        "r/data/deep/y.txt",
        "r/data/x.txt",
    ]
    with pytest.raises(StoreError, match="is there already"):
        unpack(packed, tmp_path / "out")
    with pytest.raises(StoreError, match="none of the expected"):
        unpack(packed, tmp_path / "other", keep="/nothing/")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "C:/evil.txt", "a\\..\\evil.txt"])
def test_a_member_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    packed = archive(tmp_path / "in" / "a.zip", {"good.txt": b"1"})
    data = packed.read_bytes()
    # zipfile mends some names when it writes them: put the name into the bytes
    stand_in = "x" * len(name)
    packed = archive(tmp_path / "in" / "a.zip", {"good.txt": b"1", stand_in: b"2"})
    data = packed.read_bytes().replace(stand_in.encode(), name.encode())
    packed.write_bytes(data)
    with pytest.raises(StoreError, match="would not stay"):
        unpack(packed, tmp_path / "in" / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "in"]


def test_links_bombs_doubles_and_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(StoreError, match="is a link"):
        unpack(path, tmp_path / "out")
    archive(path, {"zeros": bytes(50 << 20)})
    with pytest.raises(StoreError, match="no data set"):
        unpack(path, tmp_path / "out")
    archive(path, {"a.txt": b"1", "A.txt": b"2"})
    with pytest.raises(StoreError, match="twice"):
        unpack(path, tmp_path / "out")
    archive(path, {"a.txt": b"1" * 1000})
    data = path.read_bytes()
    # a size in the directory that is too small
    at = data.index(b"PK\x01\x02")
    path.write_bytes(data[: at + 24] + (5).to_bytes(4, "little") + data[at + 28 :])
    with pytest.raises(StoreError):
        unpack(path, tmp_path / "out")
    path.write_bytes(data[:40] + bytes(8) + data[48:])
    with pytest.raises(StoreError, match="no readable zip"):
        unpack(path, tmp_path / "out")
    path.write_bytes(b"no zip")
    with pytest.raises(StoreError, match="no readable zip"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_pins_are_kept_side_by_side_and_damage_is_said(tmp_path: Path) -> None:
    assert read_lock(tmp_path) == {}
    one, two = Pinned("u", "aa", 1, "t"), Pinned("v", "bb", 2, "t")
    write_lock(tmp_path, "one", one)
    write_lock(tmp_path, "two", two)
    assert read_lock(tmp_path) == {"one": one, "two": two}
    (tmp_path / LOCK).write_text("{")
    with pytest.raises(StoreError, match="mend it, or remove it"):
        read_lock(tmp_path)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, site: Site) -> Site:
    """``kinedge data`` with daphnet at our own server."""
    from kinedge.cli import data

    assert data.data
    entries = {**CATALOGUE, "daphnet": replace(CATALOGUE["daphnet"], url=site.url)}
    monkeypatch.setattr(catalogue_module, "CATALOGUE", entries)
    rows = "\n".join("15 1 2 3 4 5 6 7 8 9 1" for _ in range(20))
    site.body = zipped({"dataset_fog_release/dataset/S01R01.txt": rows.encode(), "dataset_fog_release/README": b"hi"})
    return site


def test_data_get_fetches_pins_and_unpacks_what_the_loader_reads(
    command: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "get", "daphnet", "--to", str(tmp_path), "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    digest = hashlib.sha256(command.body).hexdigest()
    assert told["sha256"] == digest and "trusted as the first" in told["state"]
    assert read_lock(tmp_path)["daphnet"].sha256 == digest
    (recording,) = DATASETS["daphnet"](tmp_path / "daphnet")
    assert (recording.subject, len(recording)) == ("S01", 20)
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "already there"
    assert len(command.requests) == 1
    assert main([*arguments, "--again"]) == 0
    assert "the same as noted" in json.loads(capsys.readouterr().out)["state"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["daphnet", LOCK]


def test_data_get_refuses_what_is_not_the_same_as_the_first_time(
    command: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "get", "daphnet", "--to", str(tmp_path)]
    assert main(arguments) == 0
    command.body, command.etag = zipped({"dataset/S01R01.txt": b"15 9 9 9 9 9 9 9 9 9 2"}), '"two"'
    assert main([*arguments, "--again"]) == 1
    assert "was changed or damaged" in capsys.readouterr().err
    (recording,) = DATASETS["daphnet"](tmp_path / "daphnet")
    assert len(recording) == 20


def test_data_get_says_why_it_does_not_fetch_some_and_knows_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    import kinedge.cli.data

    assert kinedge.cli.data.data
    for name in ("gait_healthy", "arm_use", "tsb_ad_m"):
        assert main(["data", "get", name]) == 1
        said = capsys.readouterr().err
        assert "is not fetched here" in said and CATALOGUE[name].page in said
    assert main(["data", "get", "daphne"]) == 1
    assert "known are daphnet" in capsys.readouterr().err


def test_data_list_tells_licence_and_citation_of_all_that_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    import kinedge.cli.data

    assert kinedge.cli.data.data
    assert main(["data", "list", "--json"]) == 0
    entries = {e["name"]: e for e in json.loads(capsys.readouterr().out)}
    assert set(entries) == {*DATASETS, *SERIES, "arm_use"}
    assert all(e["licence"] and e["citation"] and (e["url"] is None) == bool(e["why_not"]) for e in entries.values())
    assert main(["data", "list"]) == 0
    assert "CC BY 4.0" in capsys.readouterr().out


def test_every_failure_is_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KinedgeError):
        fetch("http://127.0.0.1:9/", tmp_path / "file" / "f.zip")
