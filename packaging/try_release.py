"""Try a release as a stranger would: an empty environment for each Python that is here, no extras, ``kinedge demo``.

    python packaging/try_release.py dist              # every Python 3.10 to 3.13 that is found
    python packaging/try_release.py dist --sdist      # build from the source archive instead of the wheel

It needs a package index for the dependencies. What is not found is told, and is no success.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Tried", "main", "pythons", "try_one"]

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
_PROBE = """
import sys, importlib.util as u
heavy = [n for n in ("torch", "onnx", "matplotlib", "fastapi") if u.find_spec(n)]
assert not heavy, heavy
import kinedge, numpy, onnxruntime
from kinedge.edge.native import implementation
print(kinedge.__version__, numpy.__version__, onnxruntime.__version__, implementation())
"""


@dataclass(frozen=True)
class Tried:
    """What came of one Python."""

    python: str
    ok: bool
    seconds: float
    told: str


def pythons() -> dict[str, Path]:
    """Return version -> interpreter: on the PATH, or of pyenv; one that does not start is passed over."""
    found = {}
    for version in VERSIONS:
        places = [shutil.which(f"python{version}")]
        places += [
            str(p) for p in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
        ]
        for place in filter(None, places):
            probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
            told = subprocess.run([place, "-c", probe], capture_output=True, text=True, check=False)
            if told.stdout.strip() == version:
                found[version] = Path(place)
                break
    return found


def try_one(python: Path, package: Path, *, duration_s: float = 30.0) -> Tried:
    """Install into an empty environment, without extras, and run the demonstration.

    Parameters
    ----------
    python
        The interpreter.
    package
        A wheel or a source archive.
    duration_s
        Of the demonstration; it takes so long.
    """
    begin = time.monotonic()
    told = ""
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch) / "env"
        own = there / "bin" / "python"
        steps = [
            [str(python), "-m", "venv", str(there)],
            [str(own), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(package)],
            [str(own), "-c", _PROBE],
            [str(there / "bin" / "kinedge"), "demo", "--duration", f"{duration_s:g}", "--folder", "demo"],
        ]
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        for step in steps:
            done = subprocess.run(step, cwd=scratch, env=env, capture_output=True, text=True, check=False, timeout=900)
            if done.returncode:
                why = (done.stdout + done.stderr).strip()[-1500:]
                return Tried(python.name, False, time.monotonic() - begin, f"{' '.join(step[:4])}: {why}")
            told += done.stdout if step is steps[2] else ""
        kept = re.search(r"(\d+) episodes kept", done.stdout)
        if not kept or int(kept[1]) < 1:
            return Tried(
                python.name, False, time.monotonic() - begin, f"the demonstration kept none:\n{done.stdout[-1500:]}"
            )
    versions = "kinedge {}, numpy {}, onnxruntime {}, arithmetic: {}".format(*told.strip().split(" ", 3))
    return Tried(python.name, True, time.monotonic() - begin, f"{versions}; demo kept {kept[1]} episodes")


def main(argv: Sequence[str] | None = None) -> int:
    """Try every Python; 0 when each of those that were asked for works."""
    parser = argparse.ArgumentParser(description="install a release into empty environments and run its demonstration")
    parser.add_argument("dist", type=Path, help="the folder of make release")
    parser.add_argument("--python", nargs="*", default=list(VERSIONS), help="versions to try")
    parser.add_argument("--sdist", action="store_true", help="the source archive, not the wheel")
    parser.add_argument("--duration", type=float, default=30.0, help="of the demonstration, s")
    asked = parser.parse_args(argv)
    packages = sorted(asked.dist.resolve().glob("*.tar.gz" if asked.sdist else "*.whl"))
    if not packages:
        sys.stderr.write(f"{asked.dist}: nothing to try there; run make release\n")
        return 1
    found, failed = pythons(), False
    for version in asked.python:
        if version not in found:
            sys.stdout.write(f"{version}  not here: not tried\n")
            failed = True
            continue
        tried = try_one(found[version], packages[-1], duration_s=asked.duration)
        failed |= not tried.ok
        sys.stdout.write(f"{version}  {'works' if tried.ok else 'FAILS'}  {tried.seconds:.0f} s  {tried.told}\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
