"""The documentation builds without a warning, asks no other machine for anything, and leaves nothing public out."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx", reason="the documentation needs: pip install 'kinedge[docs]'")
pytest.importorskip("myst_parser", reason="the documentation needs: pip install 'kinedge[docs]'")
pytest.importorskip("furo", reason="the documentation needs: pip install 'kinedge[docs]'")
pytest.importorskip("griffe", reason="the documentation needs: pip install 'kinedge[docs]'")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import kinedge_docs  # noqa: E402
import navigation  # noqa: E402
import reference_api  # noqa: E402
import reference_cli  # noqa: E402
import reference_config  # noqa: E402
import reference_http  # noqa: E402

# a build takes half a minute of a processor, and as long as it takes where that is shared
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", out / "doctrees", DOCS, out / "html"], capture_output=True, text=True, timeout=850, check=False
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-4000:]
    return out / "html"


@pytest.fixture(scope="module")
def package() -> Any:
    return reference_api.load_package()


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_documentation_builds_and_nothing_in_it_comes_from_another_machine(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"([^\"]+)\"", text)
        assert not [place for place in loaded if re.match(r"(?:https?:)?//", place)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_page_has_one_place_in_the_navigation() -> None:
    found = {str(p.relative_to(DOCS).with_suffix("")) for p in DOCS.rglob("*.md") if "_build" not in p.parts}
    placed = [page for pages in navigation.pages_of(found).values() for page in pages]
    assert len(placed) == len(set(placed))
    assert {p for p in found if "/" not in p} - {"index"} <= set(placed)


def test_what_lies_outside_the_documentation_is_named_and_what_lies_in_it_stays_linked() -> None:
    text = "[a](../web/README.md), [b](../tests), [c](alarms.md), [d](../benchmarks/results/step.json)"
    plain = kinedge_docs.plain_links(DOCS, text)
    assert plain == ("a (`web/README.md`), b (`tests`), [c](alarms.md), [d](../benchmarks/results/step.json)")
    assert kinedge_docs.plain_links(DOCS, "[e](../README.md#install)") == "e (`README.md`)"
    assert kinedge_docs.plain_links(DOCS / "how-to", "[a](../alarms.md)") == "[a](../alarms.md)"


def test_a_page_that_nobody_has_placed_still_has_a_place() -> None:
    placed = navigation.pages_of({"index", "alarms", "something-new", "reference/cli/run"})
    assert "something-new" in placed["How-to"]
    assert "alarms" in placed["Explanation"]
    assert not any("reference/cli/run" in pages for pages in placed.values())


def test_every_command_with_every_option_stands_in_the_reference(site: Path) -> None:
    for path, command in reference_cli.commands():
        text = text_of(site / "reference" / "cli" / f"{path[0]}.html")
        assert f"kinedge {' '.join(path)}" in text
        for option in reference_cli.options_of(command):
            assert option in text, f"kinedge {' '.join(path)} {option}"


def test_every_key_of_every_file_stands_in_the_reference(site: Path) -> None:
    for page in reference_config.files():
        text = text_of(site / "reference" / "configuration" / f"{page}.html")
        facts = reference_config.keys_of(page)
        assert facts
        for fact in facts:
            name = fact.key.replace("[]", "") if fact.is_table else fact.key.rpartition(".")[2]
            assert name in text, f"{page}: {fact.key}"


def test_every_public_name_stands_in_the_reference(site: Path, package: Any) -> None:
    modules = reference_api.modules_of(package)
    assert len(modules) > 250
    for module in modules:
        text = text_of(site / "reference" / "python" / "modules" / f"{module.path}.html")
        for name in reference_api.public_names(module):
            assert name in text, f"{module.path}.{name}"


def test_names_read_from_the_source_are_those_that_an_import_gives(package: Any) -> None:
    import kinedge.edge.caution
    import kinedge.firmware_bridge.decoder

    for loaded in (kinedge, kinedge.edge.caution, kinedge.firmware_bridge.decoder):
        path = loaded.__name__.partition(".")[2]
        found = package[path] if path else package
        assert reference_api.public_names(found) == sorted(loaded.__all__)


def test_every_operation_of_the_collector_stands_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference" / "http.html")
    found = reference_http.operations(reference_http.document())
    assert len(found) > 5
    for path, method, _ in found:
        assert f"{method.upper()} {path}" in text
