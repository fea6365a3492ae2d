"""The native library is optional, is of the sources beside it, and can be told from numpy only by its speed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kinedge.benchmarks.machine import describe_machine
from kinedge.edge.native import implementation, library

FOLDER = Path(__file__).resolve().parents[1] / "edge" / "native"


def told(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_what_is_built_is_of_the_sources_beside_it() -> None:
    if not (FOLDER / "_kinedge.so").exists() and shutil.which("gcc") is None:
        pytest.skip("not built here, and no compiler to build it: numpy does the work")
    assert "KINEDGE_NATIVE" in os.environ or implementation() == "native", (
        f"{implementation()}; after a change of the C sources run: make native"
    )


def test_the_environment_switches_it_off_and_results_say_so() -> None:
    code = "from kinedge.edge.native import *; print(library(), implementation())"
    assert told(code, KINEDGE_NATIVE="0") == "None numpy (KINEDGE_NATIVE is off)"
    assert describe_machine()["arithmetic"] == implementation()


def test_a_library_of_other_sources_or_none_at_all_is_not_used(tmp_path: Path) -> None:
    package = tmp_path / "native"
    shutil.copytree(FOLDER, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    code = "import native.loader as n; print(n.library(), n.implementation())"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    (package / "__init__.py").write_text("")
    assert "None numpy (the native library was not built" in told(code, KINEDGE_NATIVE="1")
    (package / "_kinedge.so").write_bytes(b"no library")
    assert "None numpy (the native library does not load" in told(code, KINEDGE_NATIVE="1")
    if library() is None:
        pytest.skip(f"no library here: {implementation()}")
    shutil.copy(FOLDER / "_kinedge.so", package / "_kinedge.so")
    assert told(code, KINEDGE_NATIVE="1").endswith("native")
    (package / "library.c").write_text("/* another one */")
    assert "None numpy (the native library is of other sources" in told(code, KINEDGE_NATIVE="1")
