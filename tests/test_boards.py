"""Tests for boards want nothing that a board lacks, and a skip for a missing library hides no fault of its rooms."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import conftest
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "packaging"))

import try_boards  # noqa: E402


def missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleNotFoundError:
    """Import a module of this folder that wants a torch that is not there."""
    (folder / "wants_it.py").write_text("import torch.nothing_of_the_kind\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "torch", None)
    sys.modules.pop("wants_it", None)
    with pytest.raises(ModuleNotFoundError) as told:
        importlib.import_module("wants_it")
    return told.value


def test_a_test_without_torch_is_skipped_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "training"
    there.mkdir()
    assert conftest.missing_here(missing(there, monkeypatch)) == "torch"


@pytest.mark.parametrize("room", sorted(conftest.ON_BOARDS))
def test_a_room_of_a_board_that_asks_for_torch_is_a_failure(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / room
    there.mkdir()
    assert conftest.missing_here(missing(there, monkeypatch)) == ""


def test_another_missing_library_is_a_failure() -> None:
    assert conftest.missing_here(ModuleNotFoundError("numpy", name="numpy")) == ""


def test_the_tests_of_boards_bring_their_tools_and_no_training() -> None:
    names = " ".join(try_boards.tools())
    assert "pytest>=" in names and "hypothesis" in names
    assert "kinedge[" not in names and "torch" not in names
