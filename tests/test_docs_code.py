"""What the documentation tells people to type exists: commands with their options, configuration, imports."""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from docs_blocks import ROOT, Block, blocks, commands_of, inline_commands, pages
from pydantic import ValidationError
from typer.main import get_command

from kinedge.cli import app as application
from kinedge.cli.training_data import TrainConfig
from kinedge.edge.config import GatewayConfig
from kinedge.firmware_bridge.devices.struct_map import StructMap
from kinedge.training.datasets.plain_csv import CsvConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHELLS = blocks("console", "sh", "bash", "")
TOMLS = blocks("toml")
PYTHONS = blocks("python", "py")


@pytest.fixture(scope="module")
def program() -> Any:
    application._register()
    return get_command(application.app)


def check_command(program: Any, words: list[str], where: str) -> None:
    command, path = program, ["kinedge"]
    rest = list(words)
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    if hasattr(command, "commands") and rest and not rest[0].startswith(("-", "…", "...", "<")):
        assert command.params and command is not program, f"{where}: no command {' '.join([*path, rest[0]])}"
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    known |= {"--version", "--install-completion", "--show-completion"} if command is program else set()
    for word in rest:
        if word.startswith("-") and " " not in word and len(word) > 1 and not word.lstrip("-")[0].isdigit():
            assert word.partition("=")[0] in known, f"{where}: {' '.join(path)} has no option {word}"


@pytest.mark.parametrize("block", SHELLS, ids=str)
def test_every_command_of_a_block_exists_with_its_options(program: Any, block: Block) -> None:
    for words in commands_of(block):
        check_command(program, words, str(block))


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_in_running_text_exists_with_its_options(program: Any, page: Path) -> None:
    for words in inline_commands(page):
        check_command(program, words, str(page.relative_to(ROOT)))


def test_the_pages_tell_many_commands_and_an_invented_one_is_noticed(program: Any) -> None:
    assert sum(len(list(commands_of(b))) for b in SHELLS) > 50
    for wrong in (["fly"], ["run", "gateway.toml", "--faster"], ["collect", "gateways", "praise"]):
        with pytest.raises(AssertionError):
            check_command(program, wrong, "here")


def test_help_shows_the_tables_of_its_example_in_their_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["run", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(table in told for table in ("[[people]]", "[record]", "[uplink]"))


def complete(found: dict[str, Any]) -> dict[str, Any]:
    """Return part of a gateway's file as a whole one."""
    people = found.get("people", [{"subject": "p-001"}])
    for number, person in enumerate(people):
        person.setdefault("subject", f"p-{number}")
    return {"site": "a", "gateway": "b", **found, "people": people}


@pytest.mark.parametrize("block", TOMLS, ids=str)
def test_every_toml_block_is_one_that_kinedge_reads(block: Block) -> None:
    found = tomllib.loads(block.text)
    tried: list[str] = []
    shapes: list[tuple[Any, dict[str, Any]]] = [
        (GatewayConfig, complete(dict(found))),
        (TrainConfig, found if {"simulated", "data", "recordings"} & set(found) else {**found, "simulated": {}}),
        (StructMap, found),
        (CsvConfig, found),
    ]
    if set(found) <= {"devices", "subject", "enrolment", "affected"}:
        shapes.insert(0, (GatewayConfig, complete({"people": [found]})))
    for model, values in shapes:
        with contextlib.suppress(ValidationError):
            model.model_validate(values)
            return
        with pytest.raises(ValidationError) as told:
            model.model_validate(values)
        tried.append(f"{model.__name__}: {told.value.errors()[0]['loc']} {told.value.errors()[0]['msg']}")
    raise AssertionError(f"{block}: " + "; ".join(tried))


@pytest.mark.parametrize("block", PYTHONS, ids=str)
def test_every_python_block_compiles_and_what_it_imports_from_kinedge_is_there(block: Block) -> None:
    tree = ast.parse(block.text, filename=str(block))
    compile(tree, str(block), "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kinedge"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block}: {node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("kinedge"):
                    importlib.import_module(alias.name)


def test_the_short_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for block in PYTHONS:
        if block.page in ("README.md", "docs/tutorials/training-ground.md") and "from kinedge" in block.text:
            exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
            ran += 1
    assert ran >= 2
    assert "p=" in capsys.readouterr().out
