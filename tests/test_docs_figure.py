"""The figure of the architecture in the repository shows the code as it is."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("grimp", reason="the figure is drawn with: pip install import-linter")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "_ext"))

import architecture_figure as figure


def told() -> figure.Imports:
    found = re.search(r"<metadata>(.*?)</metadata>", figure.FIGURE.read_text(encoding="utf-8"))
    assert found
    facts = json.loads(unescape(found[1]))
    return figure.Imports(facts["modules"], {tuple(k.split(" > ")): n for k, n in facts["imports"].items()})


def test_the_figure_shows_the_rooms_and_arrows_of_the_code() -> None:
    now, then = figure.count_imports(), told()
    assert set(now.between) == set(then.between), "an arrow came or went: make figures"
    for what, new, old in (("imports", now.between, then.between), ("modules", now.modules, then.modules)):
        for key, n in new.items():
            assert abs(n - old[key]) <= max(12, 0.4 * n), f"{what} of {key} are {n}, drawn as {old[key]}: make figures"  # type: ignore[index]


def test_no_arrow_of_the_figure_points_up() -> None:
    order = [*figure.JOBS, figure.CORE]
    for importing, imported in told().between:
        assert order.index(importing) < order.index(imported)


def test_the_figure_is_what_its_numbers_draw() -> None:
    assert figure.draw(told()) == figure.FIGURE.read_text(encoding="utf-8")
    root = ElementTree.fromstring(figure.FIGURE.read_text(encoding="utf-8"))
    texts = " ".join(t for t in root.itertext())
    assert all(room in texts for room in (*figure.JOBS, figure.CORE))
