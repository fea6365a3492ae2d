"""Numbers of a spreadsheet file (Office Open XML, ECMA-376): the first sheet, a heading and rows of numbers.

That is all a data set needs; a spreadsheet library would be a dependency for one source. Formulas count by their
stored value; dates, styles and further sheets are not looked at.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import Final
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = ["read_sheet"]

_NS: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_MAX_XML_BYTES: Final = 1 << 29
_MAX_ROWS: Final = 1_048_576  # what the format allows
_MAX_COLUMNS: Final = 16_384
_REFERENCE: Final = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})")


def read_sheet(data: bytes, *, where: str) -> tuple[list[str], NDArray[np.float64]]:
    """Read heading and numbers of the first sheet.

    Parameters
    ----------
    data
        Bytes of an ``.xlsx`` file.
    where
        For messages.

    Returns
    -------
    heading : list of str
        Of the columns, empty where there is none.
    rows : (n, n_columns) float64
        NaN where a cell is empty or no number.

    Raises
    ------
    SignalError
        This is no such file, it is damaged, or larger than a sheet can be.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            strings = _strings(_part(book, "xl/sharedStrings.xml", where, needed=False))
            sheets = sorted(n for n in book.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", n))
            if not sheets:
                raise SignalError(f"{where}: no sheet in it; is this a spreadsheet?")
            sheet = min(sheets, key=lambda n: int(re.sub(r"\D", "", n)))
            return _cells(_part(book, sheet, where), strings, where)
    except (zipfile.BadZipFile, ElementTree.ParseError, OSError, EOFError, NotImplementedError, zlib.error) as e:
        raise SignalError(f"{where}: cannot be read as a spreadsheet ({e}); download it again") from e


def _part(book: zipfile.ZipFile, name: str, where: str, *, needed: bool = True) -> bytes:
    if not needed and name not in book.namelist():
        return b""
    info = book.getinfo(name)
    if info.file_size > _MAX_XML_BYTES:
        raise SignalError(f"{where}: {name} unpacks to {info.file_size:,} bytes; no walk is as long")
    xml = book.read(info)
    if b"<!DOCTYPE" in xml[:4096] or b"<!ENTITY" in xml[:4096]:
        raise SignalError(f"{where}: {name} declares entities, which no spreadsheet does")
    return xml


def _strings(xml: bytes) -> list[str]:
    if not xml:
        return []
    root = ElementTree.fromstring(xml)
    return ["".join(t.text or "" for t in item.iter(f"{_NS}t")) for item in root.iter(f"{_NS}si")]


def _cells(xml: bytes, strings: list[str], where: str) -> tuple[list[str], NDArray[np.float64]]:
    heading: list[str] = []
    rows: list[list[float]] = []
    for _, element in ElementTree.iterparse(io.BytesIO(xml)):
        if element.tag != f"{_NS}row":
            continue
        cells = _row(element, strings, where)
        if not heading:
            heading = ["" if isinstance(c, float) and np.isnan(c) else str(c).strip() for c in cells]
        elif len(rows) >= _MAX_ROWS:
            raise SignalError(f"{where}: more than {_MAX_ROWS:,} rows")
        else:
            numbers = [c if isinstance(c, float) else np.nan for c in cells[: len(heading)]]
            rows.append(numbers + [np.nan] * (len(heading) - len(numbers)))
        element.clear()
    if not heading or not rows:
        raise SignalError(f"{where}: no heading and rows in its first sheet")
    return heading, np.array(rows, dtype=np.float64)


def _row(row: ElementTree.Element, strings: list[str], where: str) -> list[float | str]:
    cells: list[float | str] = []
    for cell in row.iter(f"{_NS}c"):
        at = _column(cell.get("r"), len(cells), where)
        cells.extend([np.nan] * (at - len(cells)))
        text = cell.findtext(f"{_NS}v") or ""
        kind = cell.get("t", "n")
        try:
            if kind == "s":
                cells.append(strings[int(text)])
            elif kind == "inlineStr":
                cells.append("".join(t.text or "" for t in cell.iter(f"{_NS}t")))
            elif kind in ("str", "e"):
                cells.append(text)
            else:
                cells.append(float(text) if text else np.nan)
        except (ValueError, IndexError) as e:
            raise SignalError(f"{where}: cell {cell.get('r')} holds {text!r:.40} as {kind!r}; it is damaged") from e
    return cells


def _column(reference: str | None, next_column: int, where: str) -> int:
    """Return the column of a cell reference such as ``AB12``; cells without one follow each other."""
    if reference is None:
        return next_column
    match = _REFERENCE.fullmatch(reference)
    column = 0
    for letter in match[1] if match else "":
        column = 26 * column + ord(letter) - 64
    if not 0 < column <= _MAX_COLUMNS or column - 1 < next_column:
        raise SignalError(f"{where}: cell reference {reference!r:.20} is out of order or no reference")
    return column - 1
