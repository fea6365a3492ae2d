"""The pages that are shipped are the ones their sources make, and they would run under a strict content policy."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "web"
PAGES = {"board": ROOT / "edge/dashboard/static", "desk": ROOT / "upstream/desk/static"}
COMMON = ("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")


def digests(paths: list[Path], base: Path) -> dict[str, str]:
    return {path.relative_to(base).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_shipped_was_built_from_these_sources(page: str) -> None:
    manifest = json.loads((WEB / f"{page}.build.json").read_text())
    sources = digests([*(WEB / name for name in COMMON), *files(WEB / page), *files(WEB / "shared")], WEB)
    built = digests(files(PAGES[page]), PAGES[page])
    for what, now, then in (("sources", sources, manifest["sources"]), ("build", built, manifest["built"])):
        changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        assert not changed, f"run `make web`: the {what} of the {page} page changed: {', '.join(changed)}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_under_a_policy_of_self_only(page: str) -> None:
    html = (PAGES[page] / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", html), "a script that stands in the page"
    assert not re.search(r"<style|\sstyle=|\son\w+=", html), "a style or handler that stands in the page"
    links = re.findall(r"(?:src|href)=\"([^\"]+)\"", html)
    assert links
    assert all(link.startswith("./assets/") and (PAGES[page] / link).is_file() for link in links)
    for sheet in PAGES[page].glob("assets/*.css"):
        targets = re.findall(r"url\(([^)]+)\)", sheet.read_text())
        assert all((sheet.parent / target.strip("\"'")).is_file() for target in targets), targets


@pytest.mark.parametrize("page", PAGES)
def test_a_page_carries_the_licences_of_what_is_in_it(page: str) -> None:
    licences = (PAGES[page] / "licences.txt").read_text()
    for name, version in json.loads((WEB / "package.json").read_text())["dependencies"].items():
        assert f"{name} {version}" in licences
