"""Run the tests as boards have it, without torch, on each Python that is here: JetPack 6 brings 3.10, JetPack 7 3.12.

    python packaging/try_boards.py                        # every Python 3.10 to 3.13 that is found
    python packaging/try_boards.py --python 3.10 -- tests/test_store.py

The environments lie in ``.venv/boards`` and are kept. Tests that need what boards do not install are skipped with the
reason (tests/conftest.py). A Python that is not here is told, and is no success.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import try_release

__all__ = ["main", "tools"]

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "upstream,s3,kafka,report,record,lsl,rollout,tensorrt,sqlcipher"
#: Of the development tools, those that no test without torch uses.
LEFT_OUT = ("kinedge[", "cyclonedx", "import-linter", "mypy", "ruff", "tensorrt-rtx")


def tools() -> list[str]:
    """Return the requirements of the tests, out of the extra ``dev``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [r for r in read["project"]["optional-dependencies"]["dev"] if not r.startswith(LEFT_OUT)]


def _try(python: Path, version: str, tests: Sequence[str]) -> int:
    there = ROOT / ".venv" / "boards" / version
    own = str(there / "bin" / "python")
    if not Path(own).exists():
        subprocess.run([str(python), "-m", "venv", str(there)], check=True)
    install = [own, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    # not editable: what is tested is what a wheel brings
    again = [own, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(ROOT)]
    for step in ([*install, f"{ROOT}[{EXTRAS}]", *tools()], again):
        if status := subprocess.run(step, cwd=ROOT, check=False).returncode:
            return status
    command = [own, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", *tests]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite on every Python; 0 when it passes on each of those that were asked for."""
    parser = argparse.ArgumentParser(description="run the tests without torch on every Python that is here")
    parser.add_argument("--python", nargs="*", default=list(try_release.VERSIONS), help="versions to try")
    parser.add_argument("tests", nargs="*", help="after --: arguments of pytest")
    asked = parser.parse_args(argv)
    found = try_release.pythons()
    outcomes = {v: _try(found[v], v, asked.tests) if v in found else None for v in asked.python}
    for version, status in outcomes.items():
        said = "not here: not tried" if status is None else f"FAILS ({status})" if status else "passes"
        sys.stdout.write(f"{version}  {said}\n")
    return int(any(status != 0 for status in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
