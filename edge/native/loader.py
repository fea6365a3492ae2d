"""Finds and loads the native library, or tells why numpy does the work."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["ENVIRONMENT", "implementation", "library", "source_number", "typed"]

ENVIRONMENT: Final = "KINEDGE_NATIVE"
_FOLDER: Final = Path(__file__).parent
_FILE: Final = _FOLDER / "_kinedge.so"


def library() -> ctypes.CDLL | None:
    """Return the library, None where numpy does the work: not built, of other sources, or switched off.

    ``KINEDGE_NATIVE=0`` in the environment switches it off; it is read once.
    """
    return _load()[0]


def typed(signatures: Mapping[str, Sequence[Any]], *, wide: Collection[str] = ()) -> tuple[Any, ...] | None:
    """Return the library's functions of these names and arguments, in their order; None where there is no library.

    They return 32-bit integers, the ``wide`` ones of 64 bits.
    """
    loaded = library()
    if loaded is None:
        return None
    for name, arguments in signatures.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = list(arguments), ctypes.c_int64 if name in wide else ctypes.c_int32
    return tuple(getattr(loaded, name) for name in signatures)


def implementation() -> str:
    """Tell what does the arithmetic, for a person and for results: ``native``, or ``numpy`` with the reason."""
    return _load()[1]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get(ENVIRONMENT, "1").strip().lower() in ("0", "off", "no", "false"):
        return None, f"numpy ({ENVIRONMENT} is off)"
    if not _FILE.exists():
        return None, "numpy (the native library was not built: no C compiler when kinedge was installed)"
    try:
        loaded = ctypes.CDLL(str(_FILE))
        told = loaded.kinedge_sources
    except (OSError, AttributeError) as e:
        return None, f"numpy (the native library does not load: {e})"
    told.restype = ctypes.c_uint64
    if told() != source_number():
        return None, "numpy (the native library is of other sources: install kinedge anew, or make native)"
    return loaded, "native"


def source_number(folder: Path = _FOLDER) -> int:
    """Return the number of the sources in a folder, as ``setup.py`` gives it to the library it builds."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        digest.update(path.read_bytes())
    return int(digest.hexdigest()[:16], 16)
