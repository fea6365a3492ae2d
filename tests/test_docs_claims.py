"""What the documentation claims of tests, of the model and of itself is so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from docs_blocks import DOCS, ROOT, pages

from kinedge.bundle import read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE

NAMED = re.compile(r"`(test_[a-z0-9_]+)`")
TESTS = {
    name
    for path in (ROOT / "tests").glob("test_*.py")
    for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}
FILES = {path.stem for path in (ROOT / "tests").glob("*.py")}


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    assert named <= TESTS | FILES, sorted(named - TESTS - FILES)


def test_every_requirement_has_a_number_of_its_own_and_a_test() -> None:
    rows = re.findall(r"^\| ([A-Z]\d+) \|(.*?)\|(.*?)\|$", (DOCS / "requirements.md").read_text(), re.MULTILINE)
    numbers = [number for number, _, _ in rows]
    assert len(rows) > 30
    assert len(numbers) == len(set(numbers))
    assert all(NAMED.findall(tests) for _, _, tests in rows)


def test_every_threat_says_what_holds_it_by_a_test_or_that_nothing_does() -> None:
    text = (DOCS / "threat-model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([STRIDE]\d+) \|(.*)\|$", text, re.MULTILINE)
    assert {number[0] for number, _ in rows} == set("STRIDE")
    for number, row in rows:
        cells = row.split(" | ")
        assert len(cells) == 5, number
        assert NAMED.search(cells[3]) or cells[3].strip() == "none", f"{number}: no test and no word that there is none"


def test_the_model_card_is_that_of_the_model_that_ships() -> None:
    bundle = read_bundle(DEFAULT_BUNDLE)
    manifest, text = bundle.manifest, (DOCS / "model-card.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z][^|]*?) \| ([^|]*?) \|$", text, re.MULTILINE))
    assert rows["digest"] == f"`{bundle.digest}`"
    assert rows["parameters"] == f"{manifest.n_parameters:,}"
    assert rows["made"] == f"{manifest.created_utc}, kinedge {manifest.kinedge_version}"
    assert rows["looks back"] == f"{manifest.receptive_field / manifest.rate_hz:g} s"
    for facts in (manifest.training, manifest.quality):
        for key, value in facts.items():
            assert rows[key.replace("_", " ")].strip("`") == str(value), key
    assert manifest.intended_use in " ".join(text.replace("\n> ", "\n").split())


def test_every_image_of_a_page_is_there_and_no_page_names_a_folder_of_a_machine() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for place in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert (page.parent / place).is_file(), f"{page}: {place}"
        assert not re.search(r"/work/|/root/|/home/[a-z]+/", text), page


def test_words_that_are_never_used_do_not_stand_in_the_documentation() -> None:
    """`Diagnosis` stands only where it is said that none is made; `relapse` nowhere."""
    for page in pages():
        for line in page.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"\brisks?\b", line, re.IGNORECASE), f"{page}: {line}"
            if "diagnos" in line.lower():
                assert re.search(r"\bno\b[^.]*diagnos", line, re.IGNORECASE), f"{page}: {line}"


def test_the_figures_of_make_and_the_readme_name_targets_that_exist() -> None:
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z-]+)", told, re.MULTILINE))
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"`make ([a-z-]+)`", text)) | set(
            re.findall(r"^(?:\$ )?make ([a-z-]+)", text, re.MULTILINE)
        )
        assert named <= targets, f"{page}: {sorted(named - targets)}"
