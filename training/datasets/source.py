"""Where recordings come from: members of an npz, and files of a folder or zip as the owner publishes it.

Both are read one member at a time and bounded in size; every failure is one :class:`SignalError` that names the file.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError
from kinedge.recording import Recording, Region

__all__ = [
    "ACC",
    "MAX_ROWS",
    "Npz",
    "Tree",
    "finished",
    "is_npz",
    "number_table",
    "opened_npz",
    "opened_tree",
    "regions_of",
    "wanted",
]

MAX_ROWS: Final = 5_000_000
_MAX_MEMBER_BYTES: Final = 1 << 29
_MAX_MEMBERS: Final = 200_000
ACC: Final = ("acc_x", "acc_y", "acc_z")


def regions_of(mask: NDArray[np.bool_], label: str) -> tuple[Region, ...]:
    """Return the stretches where ``mask`` (n,) is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(Region(int(a), int(b), label) for a, b in zip(edges[::2], edges[1::2], strict=True))


def wanted(available: Sequence[str], sensors: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the sensors to take, or None when this recording lacks one."""
    if sensors is None:
        return tuple(available)
    return tuple(sensors) if set(sensors) <= set(available) else None


def finished(recordings: list[Recording], path: Path, sensors: Sequence[str] | None) -> list[Recording]:
    """Return the recordings, or say that there are none.

    Raises
    ------
    SignalError
        There are none.
    """
    if not recordings:
        asked = f" with sensors {', '.join(sensors)}" if sensors is not None else ""
        raise SignalError(f"{path}: no recording{asked} in it; is this the right data set?")
    return recordings


class Npz:
    """Members of an npz file on demand, every failure one :class:`SignalError`."""

    def __init__(self, path: Path, archive: Any) -> None:
        self.path = path
        self._archive = archive
        self.names: tuple[str, ...] = tuple(archive.files)

    def array(self, name: str, *, n_columns: int | None = None) -> NDArray[Any]:
        """Return one member; with ``n_columns`` it must be numbers (n, n_columns)."""
        if name not in self.names:
            raise SignalError(f"{self.path}: no {name!r} in it; is this the right data set?")
        try:
            value: NDArray[Any] = self._archive[name]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
            raise SignalError(f"{self.path}: {name!r} cannot be read ({e}); copy the file again") from e
        if n_columns is not None and (value.ndim != 2 or value.shape[1] != n_columns or value.dtype.kind not in "iuf"):
            raise SignalError(
                f"{self.path}: {name!r} must be numbers (n, {n_columns}), got {value.dtype} {value.shape}"
            )
        return value

    def json(self, name: str, kind: type = dict) -> Any:
        """Return one member that is a JSON text, an object unless ``kind`` says otherwise."""
        try:
            value = json.loads(str(self.array(name)))
        except json.JSONDecodeError as e:
            raise SignalError(f"{self.path}: {name!r} is no JSON ({e}); copy the file again") from e
        if not isinstance(value, kind):
            what = "object" if kind is dict else kind.__name__
            raise SignalError(f"{self.path}: {name!r} must be a JSON {what}; is this the right data set?")
        return value


@contextmanager
def opened_npz(path: Path) -> Iterator[Npz]:
    """Open an npz without ever unpickling.

    Raises
    ------
    SignalError
        The file is missing, damaged, or no npz.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise SignalError(f"{path}: cannot be read as npz ({e}); see the data set's page for the file") from e
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise SignalError(f"{path}: one array, not an npz of several; is this the right file?")
    with archive:
        yield Npz(path, archive)


def is_npz(path: Path) -> bool:
    """Whether a path is to be read as npz: neither a folder nor a ``.zip``."""
    return not path.is_dir() and path.suffix.lower() != ".zip"


class Tree:
    """Files of a folder or a zip by their names with ``/``; zips inside count as folders, one level deep."""

    def __init__(self, path: Path, files: dict[str, Path | tuple[zipfile.ZipFile, zipfile.ZipInfo]]) -> None:
        self.path = path
        self._files = files

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._files))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises
        ------
        SignalError
            It is missing, larger than 512 MiB, or damaged.
        """
        where = self._files.get(name)
        if where is None:
            raise SignalError(f"{self.path}: no file {name!r} in it; is the data set complete?")
        try:
            n_bytes = where.stat().st_size if isinstance(where, Path) else where[1].file_size
            if n_bytes > _MAX_MEMBER_BYTES:
                raise SignalError(f"{self.path}: {name} has {n_bytes:,} bytes; no file of a known data set is as large")
            return where.read_bytes() if isinstance(where, Path) else where[0].read(where[1])
        except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as e:
            raise SignalError(f"{self.path}: {name} cannot be read ({e}); download the data set again") from e

    def text(self, name: str) -> str:
        """Return one file as text."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise SignalError(f"{self.path}: {name} is no UTF-8 text ({e.reason}); download the data set again") from e

    def json(self, name: str) -> dict[str, Any]:
        """Return one file that holds a JSON object."""
        try:
            value = json.loads(self.text(name))
        except (json.JSONDecodeError, RecursionError) as e:
            raise SignalError(f"{self.path}: {name} is no JSON ({e}); download the data set again") from e
        if not isinstance(value, dict):
            raise SignalError(f"{self.path}: {name} must be a JSON object; is this the right data set?")
        return value

    def table(
        self, name: str, *, delimiter: str | None = None, skip: int = 0, n_columns: int | None = None
    ) -> NDArray[np.float64]:
        """Return the numbers (n, n_columns) of one text file; see :func:`number_table`."""
        where = f"{self.path}: {name}"
        return number_table(self.text(name), where=where, delimiter=delimiter, skip=skip, n_columns=n_columns)


def number_table(
    text: str, *, where: str, delimiter: str | None = None, skip: int = 0, n_columns: int | None = None
) -> NDArray[np.float64]:
    """Read a table of numbers.

    Parameters
    ----------
    delimiter
        None: any white space.
    skip
        Lines of heading.

    Raises
    ------
    SignalError
        A line is no line of ``n_columns`` numbers, there is none at all, or there are more than :data:`MAX_ROWS`.
    """
    if text.count("\n") > MAX_ROWS + skip:
        raise SignalError(f"{where}: more than {MAX_ROWS:,} lines; cut it into sessions first")
    rows = io.StringIO(text)
    for _ in range(skip):
        rows.readline()
    start = rows.tell()
    if not rows.read(4096).strip():
        raise SignalError(f"{where}: no line of numbers in it")
    rows.seek(start)
    try:
        table: NDArray[np.float64] = np.loadtxt(rows, delimiter=delimiter, ndmin=2, comments=None)
    except ValueError as e:
        raise SignalError(f"{where}: no table of numbers ({e}); download or export it again") from e
    if n_columns is not None and table.shape[1] != n_columns:
        raise SignalError(f"{where}: {table.shape[1]} columns instead of {n_columns}; is this the right data set?")
    return table


@contextmanager
def opened_tree(path: Path) -> Iterator[Tree]:
    """Open a folder or a zip as its owner publishes it.

    Raises
    ------
    SignalError
        It is missing, damaged, or holds more than 200 000 files.
    """
    with ExitStack() as stack:
        try:
            files: dict[str, Path | tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
            if path.is_dir():
                for folder, _, names in os.walk(path):
                    here = Path(folder)
                    files.update({(here / name).relative_to(path).as_posix(): here / name for name in names})
                    _check_count(path, len(files))
            else:
                _add(files, stack.enter_context(zipfile.ZipFile(path)), "")
                _check_count(path, len(files))
            for name in [n for n in files if n.lower().endswith(".zip")]:
                inner = files.pop(name)
                source: Path | io.BytesIO = (
                    inner if isinstance(inner, Path) else io.BytesIO(Tree(path, {name: inner}).read(name))
                )
                _add(files, stack.enter_context(zipfile.ZipFile(source)), name[:-4] + "/")
                _check_count(path, len(files))
        except (OSError, zipfile.BadZipFile, NotImplementedError) as e:
            raise SignalError(f"{path}: cannot be read as a folder or zip ({e}); download the data set again") from e
        yield Tree(path, files)


def _add(
    files: dict[str, Path | tuple[zipfile.ZipFile, zipfile.ZipInfo]], archive: zipfile.ZipFile, prefix: str
) -> None:
    for info in archive.infolist():
        if not info.is_dir():
            files[prefix + info.filename] = (archive, info)


def _check_count(path: Path, n: int) -> None:
    if n > _MAX_MEMBERS:
        raise SignalError(f"{path}: more than {_MAX_MEMBERS:,} files; give the data set's own folder")
