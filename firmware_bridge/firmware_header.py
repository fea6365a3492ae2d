"""The firmware's C header as Python sees it: where it lies, and its constants.

``packets`` and ``framing`` keep their own constants, so that a decoder needs no file at run time; a test reads the
header through here and compares every one of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kinedge.errors import ConfigError

__all__ = ["FIRMWARE_FOLDER", "HEADER", "SOURCES", "read_constants"]

FIRMWARE_FOLDER: Final = Path(__file__).parent / "firmware"
HEADER: Final = FIRMWARE_FOLDER / "kinedge_wire.h"
SOURCES: Final = (FIRMWARE_FOLDER / "kinedge_wire.c", FIRMWARE_FOLDER / "example_main.c")

_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_CONTINUATION: Final = re.compile(r"\\\n")
_DEFINE: Final = re.compile(r"^[ \t]*#[ \t]*define[ \t]+KINEDGE_(\w+)(\(?)(.*)$", re.MULTILINE)
_INTEGER: Final = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)[uUlL]*")
_GUARD: Final = "WIRE_H"


def read_constants(path: Path = HEADER) -> dict[str, int]:
    """Read the object-like macros of the header, without their prefix ``KINEDGE_``.

    Parameters
    ----------
    path
        A header whose object-like macros are one integer each, in parentheses or not; macros with parameters are left
        out.

    Raises
    ------
    ConfigError
        The file cannot be read, a macro is no integer, or is defined twice.
    """
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: the firmware header cannot be read ({e}); install kinedge again") from e
    constants: dict[str, int] = {}
    for name, parameters, value in _DEFINE.findall(_CONTINUATION.sub(" ", _COMMENT.sub(" ", text))):
        if parameters or name == _GUARD:
            continue
        literal = value.strip()
        if literal.startswith("(") and literal.endswith(")"):
            literal = literal[1:-1].strip()
        match = _INTEGER.fullmatch(literal)
        if match is None:
            raise ConfigError(f"{path}: KINEDGE_{name} is {literal!r}; write one decimal or hexadecimal integer")
        if name in constants:
            raise ConfigError(f"{path}: KINEDGE_{name} is defined twice")
        constants[name] = int(match[1] + match[2], 0)
    return constants
