"""The native library is optional, is of the sources beside it, and can be told from numpy only by its speed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import native_cases
import numpy as np
import pytest

from kinedge.benchmarks.machine import describe_machine
from kinedge.edge.native import NativeStep, implementation, library
from kinedge.edge.native import arrays as native_arrays
from kinedge.edge.native.loader import source_number
from kinedge.edge.scoring import Scorer

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


def test_where_an_array_lies_is_read_as_it_is_asked_for() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    read_only = np.frombuffer(bytes(16), np.int64)
    for a in (whole, whole[1:], whole[:, 2::3], whole[::-1], whole.T, read_only, np.empty((0, 3)), np.zeros(())):
        expected = a.__array_interface__["data"][0]
        assert native_arrays.address(a) == native_arrays._asked(a) == expected
    assert native_arrays.address(None) is None
    with pytest.raises(TypeError, match="an array is expected, not list"):
        native_arrays.address([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("case", sorted(native_cases.CASES))
@pytest.mark.parametrize("seed", range(12))
def test_random_hops_give_the_same_bits_as_numpy_also_when_the_state_moves_between_them(case: str, seed: int) -> None:
    if library() is None:
        pytest.skip(f"nothing to compare: {implementation()}")
    native_cases.CASES[case](seed)


def test_a_row_outside_of_the_state_is_an_error_and_nothing_is_read_there(scorer: Scorer) -> None:
    if library() is None:
        pytest.skip(f"numpy tells that itself: {implementation()}")
    m = scorer.manifest
    values = np.zeros((1, m.hop, m.n_channels), np.float32)
    with pytest.raises(IndexError):
        scorer.engine.advance(values, values == 0, scorer.engine.initial_state(2), np.array([2]))
    with pytest.raises(IndexError):
        NativeStep().prepare(0, 1)


def test_no_function_reads_or_writes_outside_of_what_it_is_given(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here to build the library with sanitizers")
    built, flags = tmp_path / "sanitized.so", ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [
        compiler,
        "-std=gnu99",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffp-contract=off",
        "-fPIC",
        "-shared",
    ]
    command += [f"-DKINEDGE_SOURCES={source_number()}ULL", *flags, *map(str, sorted(FOLDER.glob("*.c"))), "-lm"]
    done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True, check=False, timeout=120)
    if "cannot find" in done.stderr:
        pytest.skip("this gcc has no address and undefined-behaviour sanitizers")
    assert done.returncode == 0, done.stderr
    runtime = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {"LD_PRELOAD": ":".join(runtime), "ASAN_OPTIONS": "detect_leaks=0", "KINEDGE_NATIVE": "1"}
    cases = subprocess.run(
        [sys.executable, native_cases.__file__, str(built), "4"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert cases.stdout.strip() == "all the same", cases.stdout + cases.stderr[-4000:]
