"""The reference of the Python interface: what modules offer in ``__all__``, read without running them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from markup import cell, prose, table

__all__ = ["api_pages", "load_package", "modules_of", "public_names"]

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "kinedge": ("core", "Words that every room shares: signals, units, errors, the model bundle, configuration."),
    "kinedge.firmware_bridge": ("firmware_bridge", "Bytes to samples: decoders, links, clocks, emulated devices."),
    "kinedge.edge": ("edge", "Samples to verdicts to episodes to the collector: what runs on a board."),
    "kinedge.training": ("training", "Recordings to models: data sets, simulated people, fitting, evaluation."),
    "kinedge.quantize": ("quantize", "Models to what a board runs: export, int8, TensorRT, proofs of parity."),
    "kinedge.upstream": ("upstream", "The collector: what receives, keeps and hands on episodes."),
    "kinedge.benchmarks": ("benchmarks", "What it costs and how well it does, beside something to compare with."),
    "kinedge.cli": ("cli", "One file a command."),
}


def load_package() -> griffe.Module:
    """Read the sources of all rooms as one package; nothing is imported."""
    logging.getLogger("griffe").setLevel(logging.ERROR)  # what a docstring lacks is the linters' concern
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "kinedge"
        package.mkdir()
        for item in (ROOT / "core").iterdir():
            if item.suffix == ".py":
                (package / item.name).symlink_to(item)
        for name, (folder, _) in ROOMS.items():
            if name != "kinedge":
                (package / folder).symlink_to(ROOT / folder)
        loader = griffe.GriffeLoader(search_paths=[scratch], docstring_parser=griffe.Parser.numpy)
        found = loader.load("kinedge")
        loader.resolve_aliases(implicit=False, external=False)
        for module in _walk(found):  # docstrings are parsed while the files can be reached
            _ = [list(o.docstring.parsed) for o in module.members.values() if _has_text(o)]
    assert isinstance(found, griffe.Module)
    return found


def _has_text(thing: Any) -> bool:
    return not thing.is_alias and thing.docstring is not None


def _walk(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            yield from _walk(member)


def room_of(path: str) -> str:
    """Return the room that a module stands in."""
    return next((r for r in ROOMS if r != "kinedge" and (path + ".").startswith(r + ".")), "kinedge")


def public_names(module: griffe.Module) -> list[str]:
    """Return what a module offers."""
    return sorted(str(name) for name in module.exports or ())


def modules_of(package: griffe.Module) -> list[griffe.Module]:
    """Return every module that offers something, in order of name."""
    return sorted((m for m in _walk(package) if public_names(m)), key=lambda m: m.path)


def api_pages(package: griffe.Module) -> dict[str, str]:
    """Return an index, a page for each room, and a page for each module."""
    modules = modules_of(package)
    rows = [(f"[{folder}]({folder}.md)", f"`{room}`", told) for room, (folder, told) in ROOMS.items()]
    index = (
        "# Python\n\nMade from the docstrings of what each module names in `__all__`. kinedge is alpha: "
        "what is not in `kinedge` itself may still change later ([changes](../../about/changelog.md)). "
        "Arrays are numpy's, units stand last in names.\n\n"
        + table(("room", "imported as", "its one job"), rows)
        + "\n\n```{toctree}\n:hidden:\n\n"
        + "\n".join(folder for folder, _ in ROOMS.values())
        + "\n```\n"
    )
    pages = {"reference/python/index.md": index}
    for room, (folder, told) in ROOMS.items():
        own = [m for m in modules if room_of(m.path) == room]
        listed = [
            (f"[`{m.path}`](modules/{m.path}.md)", cell(_summary(m)), cell(" ".join(f"`{n}`" for n in public_names(m))))
            for m in own
        ]
        pages[f"reference/python/{folder}.md"] = (
            f"# {room}\n\n{told}\n\n" + table(("module", "what it is", "offers"), listed) + "\n"
        )
    for module in modules:
        pages[f"reference/python/modules/{module.path}.md"] = _module_page(module)
    return pages


def _summary(thing: Any) -> str:
    text = thing.docstring.value if thing.docstring else ""
    return prose(" ".join(text.strip().partition("\n\n")[0].split()))


def _module_page(module: griffe.Module) -> str:
    room = room_of(module.path)
    parts = ["---\norphan: true\n---", f"# {module.path}", f"[{room}](../{ROOMS[room][0]}.md)"]
    parts += _text_of(module)
    for name in public_names(module):
        thing = module.members.get(name)
        parts.append(f"## {name}")
        parts += _thing(name, thing)
    return "\n\n".join(p for p in parts if p) + "\n"


def _thing(name: str, thing: Any) -> Iterator[str]:
    if thing is None:
        yield "Loaded when it is first asked for."
        return
    if thing.is_alias:
        yield f"From `{thing.target_path.rpartition('.')[0]}`."
        if not thing.resolved:
            return
        thing = thing.final_target
    if isinstance(thing, griffe.Function):
        yield f"```python\n{_signature(name, thing)}\n```"
    elif isinstance(thing, griffe.Class):
        yield f"```python\n{_class_line(name, thing)}\n```"
    elif isinstance(thing, griffe.Attribute):
        value = str(thing.value) if thing.value is not None else ""
        if len(value) < 200:
            kind = f": {thing.annotation}" if thing.annotation else ""
            yield f"```python\n{name}{kind}{f' = {value}' if value else ''}\n```"
    yield from _text_of(thing)
    if isinstance(thing, griffe.Class):
        yield from _members(thing)


def _signature(name: str, function: griffe.Function) -> str:
    shown, only_names = [], False
    for p in function.parameters:
        if p.name in ("self", "cls"):
            continue
        if p.kind is griffe.ParameterKind.keyword_only and not only_names:
            only_names = True
            if not any(q.kind is griffe.ParameterKind.var_positional for q in function.parameters):
                shown.append("*")
        star = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(p.kind, "")
        text = star + p.name + (f": {p.annotation}" if p.annotation else "")
        if p.default is not None and not star:
            text += f" = {p.default}" if p.annotation else f"={p.default}"
        shown.append(text)
    returned = f" -> {function.returns}" if function.returns else ""
    line = f"{name}({', '.join(shown)}){returned}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {s},\n" for s in shown) + f"){returned}"
    return line


def _class_line(name: str, kind: griffe.Class) -> str:
    bases = ", ".join(str(b) for b in kind.bases)
    line = f"class {name}" + (f"({bases})" if bases else "")
    if "dataclass" in kind.labels:
        return f"@dataclass\n{line}"
    begin = kind.members.get("__init__")
    return line + (f"\n{_signature(name, begin)}" if isinstance(begin, griffe.Function) else "")


def _members(kind: griffe.Class) -> Iterator[str]:
    described = {
        e.name for s in _sections(kind) for e in (s.value if isinstance(s.value, list) else ()) if hasattr(e, "name")
    }
    rows = []
    for name, member in kind.members.items():
        if name.startswith("_") or not isinstance(member, griffe.Attribute) or member.is_alias:
            continue
        told = _summary(member) or _field_description(member)
        if told or name not in described:
            rows.append((f"`{name}`", cell(f"`{member.annotation}`") if member.annotation else "", cell(told)))
    if rows:
        yield table(("attribute", "type", "meaning"), rows)
    for name, member in kind.members.items():
        if name.startswith("_") or not isinstance(member, griffe.Function):
            continue
        yield f"### {kind.name}.{name}"
        yield f"```python\n{_signature(name, member)}\n```"
        yield from _text_of(member)


def _field_description(member: griffe.Attribute) -> str:
    for argument in getattr(member.value, "arguments", ()):
        if getattr(argument, "name", "") == "description":
            value = getattr(argument, "value", "")
            return prose(str(value).strip("'\""))
    return ""


def _sections(thing: Any) -> list[Any]:
    return list(thing.docstring.parsed) if thing.docstring else []


def _text_of(thing: Any) -> Iterator[str]:
    for section in _sections(thing):
        kind = section.kind.value
        if kind == "text":
            yield _paragraphs(section.value)
        elif kind == "examples":
            yield from (prose(v) if k.value == "text" else f"```python\n{v}\n```" for k, v in section.value)
        elif kind in ("parameters", "attributes", "returns", "yields", "raises", "warns", "other parameters"):
            head = {"parameters": "Parameters", "returns": "Returns", "yields": "Yields", "raises": "Raises"}.get(
                kind, kind.title()
            )
            rows = [(cell(_label(e)), cell(prose(e.description))) for e in section.value]
            yield table((head, ""), rows)
        elif kind == "admonition":
            yield f"**{section.title or 'Note'}.** {_paragraphs(section.value.description)}"


def _label(element: Any) -> str:
    name = getattr(element, "name", "") or ""
    annotation = str(element.annotation) if element.annotation else ""
    return " ".join(t for t in (f"`{name}`" if name else "", f"`{annotation}`" if annotation else "") if t)


def _paragraphs(text: str) -> str:
    """Keep paragraphs; what is indented is code, and a list stays a list."""
    out = []
    for block in text.split("\n\n"):
        lines = block.rstrip().splitlines()
        if lines and all(line.startswith("    ") or not line.strip() for line in lines):
            out.append("```text\n" + "\n".join(line[4:] for line in lines) + "\n```")
        else:
            out.append("\n".join(line if line.lstrip().startswith(("* ", "- ")) else prose(line) for line in lines))
    return "\n\n".join(out).replace("::\n", ":\n")
