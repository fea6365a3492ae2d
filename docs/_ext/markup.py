"""Plain texts of the code as Markdown: what could be read as markup is written so that it is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "prose", "table"]

_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_CITE = re.compile(r"`([^`<>]+) <(https?://[^>]+)>`_+")


def prose(text: str) -> str:
    """Return reStructuredText prose as Markdown: literals and links kept, all else as it stands."""
    text = _CITE.sub(lambda m: f"[{m[1]}]({m[2]})", text)
    return "".join(_literal(part) if part.startswith("`") else _plain(part) for part in _CODE.split(text))


def _literal(part: str) -> str:
    return "`" + part.strip("`").lstrip("~") + "`"


def _plain(part: str) -> str:
    part = re.sub(r":(?:class|func|meth|mod|attr|data|exc):$", "", part)
    part = re.sub(r"(?<!\]\()(?<![\w(])\*(?=\S)", r"\\*", part)
    return re.sub(r"([<\[$])(?![^\]]*\]\(https?://)", r"\\\1", part).replace("|", "\\|")


def cell(text: str) -> str:
    """Return one line that can stand in a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
