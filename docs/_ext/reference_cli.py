"""The reference of the command line, from the typer application itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markup import cell, prose, table

__all__ = ["command_pages", "commands", "options_of"]

_WORDS = {"Path": "path", "str": "text", "int": "integer", "float": "number", "bool": "flag"}


def root() -> Any:
    """Return the command with all others registered below it."""
    from typer.main import get_command

    from kinedge.cli import app as application

    application._register()
    return get_command(application.app)


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Tell every command and group, the path to it first: ``("collect", "gateways", "add")``."""
    yield from _below(root(), ())


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        if not sub.hidden:
            yield (*path, name), sub
            yield from _below(sub, (*path, name))


def options_of(command: Any) -> list[str]:
    """Return every spelling of every option of a command, as they are typed."""
    return [o for p in command.params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)]


def command_pages() -> dict[str, str]:
    """Return the pages: an index, and one for each command of the first level with those below it."""
    found = list(commands())
    first = [(path, command) for path, command in found if len(path) == 1]
    rows = [(f"[`kinedge {path[0]}`]({path[0]}.md)", _summary(command)) for path, command in first]
    index = [
        "# Commands",
        "Made from the program itself. Every command has `--help`, and ends with status 0 when it is done, "
        "1 after an error that it tells in one line, and 2 when it was called wrongly.",
        table(("command", "what it does"), rows),
        "```{toctree}\n:hidden:\n\n" + "\n".join(path[0] for path, _ in first) + "\n```",
    ]
    pages = {"reference/cli/index.md": "\n\n".join(index) + "\n"}
    for path, command in first:
        parts = [_section(path, command, level=1)]
        parts += [_section(p, c, level=len(p)) for p, c in found if len(p) > 1 and p[0] == path[0]]
        pages[f"reference/cli/{path[0]}.md"] = "\n\n".join(parts) + "\n"
    return pages


def _summary(command: Any) -> str:
    return cell(prose((command.help or "").strip().partition("\n\n")[0].replace("\n", " ")))


def _section(path: tuple[str, ...], command: Any, *, level: int) -> str:
    paragraphs = list(_paragraphs((command.help or "").replace("\b", "").replace("\\[", "[")))
    examples = [p.partition(":")[2].strip() for p in paragraphs if p.startswith("Example:")]
    told = [p if p.startswith("```") else prose(p) for p in paragraphs if not p.startswith("Example:")]
    parts = [f"{'#' * level} kinedge {' '.join(path)}", *told]
    if not hasattr(command, "commands") or command.params:
        parts.append(f"```text\n{_usage(path, command)}\n```")
    if examples:
        parts.append("Example:" if len(examples) == 1 else "Examples:")
        parts.append("```sh\n" + "\n".join(examples) + "\n```")
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    rows = [(_names(p), _type(p), _default(p), cell(prose(getattr(p, "help", "") or ""))) for p in shown]
    if rows:
        parts.append(table(("argument or option", "takes", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> Iterator[str]:
    """Tell paragraphs as one line each; what is indented is one block of TOML."""
    block: list[str] = []
    for paragraph in [*text.split("\n\n"), ""]:
        if paragraph.startswith("    "):
            block.append(textwrap.dedent(paragraph).rstrip())
            continue
        if block:
            yield "```toml\n" + "\n\n".join(block) + "\n```"
            block = []
        if paragraph.strip():
            yield " ".join(paragraph.split())


def _usage(path: tuple[str, ...], command: Any) -> str:
    words = ["kinedge", *path]
    if any(p.param_type_name == "option" for p in command.params):
        words.append("[OPTIONS]")
    for p in command.params:
        if p.param_type_name == "argument":
            name = (p.metavar or p.name or "").upper() + ("..." if p.nargs != 1 else "")
            words.append(name if p.required else f"[{name}]")
    return " ".join(words + (["COMMAND"] if hasattr(command, "commands") else []))


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{(param.metavar or param.name).upper()}`"
    return ", ".join(f"`{o}`" for o in (*param.opts, *param.secondary_opts))


def _type(param: Any) -> str:
    descriptor = getattr(param, "type_descriptor", None)
    kind = getattr(descriptor, "annotation", None) if descriptor is not None else getattr(param, "type", None)
    choices = (
        [str(getattr(m, "value", m)) for m in kind] if isinstance(kind, type) and hasattr(kind, "__members__") else []
    )
    if choices:
        return cell(" or ".join(f"`{c}`" for c in choices))
    name = str(getattr(kind, "__name__", None) or getattr(kind, "name", kind))
    if param.nargs > 1 and param.metavar:
        return cell(f"`{param.metavar}`")
    many = ", may be repeated" if getattr(param, "multiple", False) or param.nargs != 1 else ""
    return cell(_WORDS.get(name, name) + many)


def _default(param: Any) -> str:
    if param.required:
        return "must be given"
    value = param.default
    if value is None or value == "" or value == () or value == []:
        return ""
    if isinstance(value, bool):
        return "on" if value else ""
    if callable(value):
        value = value()
    if isinstance(value, list | tuple):
        value = " ".join(str(v) for v in value)
    if isinstance(value, Path) and value.is_absolute():
        return cell(f"the shipped `{value.name}`" if value.suffix == ".kinedge" else f"`{value.name}`")
    return cell(f"`{getattr(value, 'value', value)}`")
