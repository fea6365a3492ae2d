"""The one thing that ``pyproject.toml`` cannot say: how the native arithmetic of the edge is built.

It is plain C without Python's headers, loaded by ctypes, so one library serves every Python version. It is optional:
where there is no C compiler the installation succeeds all the same, and numpy does the work (kinedge.edge.native).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "edge/native"
SOURCES = sorted(
    p.relative_to(Path(__file__).parent).as_posix() for p in (Path(__file__).parent / FOLDER).glob("*.[ch]")
)
# No contraction and no fast mathematics: every processor must give the same bits. No debugging information and no
# symbols of the file's own: the bytes must not hang on the folder it was built in.
COMPILE = [
    "-std=gnu99",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-g0",
]


class BuildNative(build_ext):
    """A library named as it is, without the tag of a Python version: it knows none."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return where it lies in a package."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Build it, with a digest of the sources that the loader compares."""
        digest = hashlib.sha256()
        for source in SOURCES:
            digest.update(Path(source).read_bytes())
        ext.define_macros = [("KINEDGE_SOURCES", f"0x{digest.hexdigest()[:16]}ULL")]
        super().build_extension(ext)


class TagWheel(bdist_wheel):
    """A wheel of this platform for every Python 3; of any platform where nothing could be built."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return what the wheel's name ends with."""
        built: Any = self.get_finalized_command("build_ext")
        there = all(Path(path).exists() for path in built.get_outputs())
        return "py3", "none", super().get_tag()[2] if there else "any"


setup(
    ext_modules=[
        Extension(
            "kinedge.edge.native._kinedge",
            [s for s in SOURCES if s.endswith(".c")],
            depends=[s for s in SOURCES if s.endswith(".h")],
            extra_compile_args=COMPILE,
            extra_link_args=["-s"],
            libraries=["m"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": TagWheel},
)
