"""Code blocks and commands that stand in the documentation, for the tests that hold them against the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "commands_of", "inline_commands", "pages"]

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MADE = {"reference", "_build", "_ext", "_static"}
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark>`{3,})(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^ *(?P=mark) *$", re.M | re.S
)
_INDENTED = re.compile(r"^    (kinedge .*)$", re.M)
_INLINE = re.compile(r"(?<!`)`(kinedge [^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return README and every page that is written by hand."""
    found = [p for p in DOCS.rglob("*.md") if not MADE & set(p.relative_to(DOCS).parts)]
    copied = {DOCS / "about" / "changelog.md", DOCS / "about" / "contributing.md"}
    return [ROOT / "README.md", *sorted(set(found) - copied)]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of these languages, on all pages."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start()) + 1
                inner = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
                found.append(Block(str(page.relative_to(ROOT)), line, match["language"], inner))
    return found


def commands_of(block: Block) -> Iterator[list[str]]:
    """Tell the words after ``kinedge`` of each command in a block of a shell: of ``$`` lines where there are any."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        yield from _commands(line)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Tell the words after ``kinedge`` of each command in running text and in indented blocks."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8")).replace("\\\n", " ")
    for pattern in (_INLINE, _INDENTED):
        for match in pattern.finditer(text):
            yield from _commands(match[1])


def _commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(
        line.replace("'", '"') if line.count("'") % 2 else line, posix=True, punctuation_chars="|&;<>()"
    )
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        words = line.split()
    piece: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("|&;<>()"):
            if "kinedge" in piece:
                yield piece[piece.index("kinedge") + 1 :]
            piece = ["" if set(word) <= set("<>") else ";"]
            continue
        if piece and piece[0] == "" and len(piece) == 1:
            piece.append(word)  # the file of a redirection is no argument
            continue
        piece.append(word)
