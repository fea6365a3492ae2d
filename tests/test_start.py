"""What a gateway imports before it listens: no clock is looked at, only what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kinedge.cli import app as application
from kinedge.edge.native import library

_NEVER = {  # what a board has no use for, or not yet, when it begins to listen
    "bleak", "cryptography", "fastapi", "h11", "httpx", "jinja2", "matplotlib", "numpy.testing", "onnx", "onnxruntime",
    "prometheus_client", "pyarrow", "pygments", "pylsl", "rich", "scipy", "sqlalchemy", "torch", "uvicorn",
    "kinedge.benchmarks", "kinedge.quantize", "kinedge.training", "kinedge.upstream",
    "kinedge.edge.dashboard.actions", "kinedge.edge.dashboard.routes", "kinedge.edge.enrol", "kinedge.edge.enrolment",
    "kinedge.edge.lsl_streams", "kinedge.edge.measures.arm", "kinedge.edge.measures_keeper",
    "kinedge.edge.model_follower", "kinedge.edge.reloading", "kinedge.edge.tape",
    "kinedge.firmware_bridge.ble_radio", "kinedge.firmware_bridge.devices.witmotion",
    "kinedge.firmware_bridge.links_lsl", "kinedge.firmware_bridge.recorded_source",
}  # fmt: skip
_TELL = """
import sys
import kinedge.cli.run as command
from kinedge.cli.app import main

async def told(service, **_):
    print(*sorted(sys.modules))
    service.store.close()

command.serve_until = told
sys.exit(main(["run", "gateway.toml"]))
"""


def imported(folder: Path, more: str = "") -> set[str]:
    """Return the modules of a gateway of one sensor, its dashboard on, at the moment it begins to serve."""
    (folder / "gateway.toml").write_text(
        f'site = "a"\ngateway = "b"\nstore = "edge.db"\n{more}\n'
        '[[people]]\nsubject = "p-001"\ndevices = [{ port = "/dev/ttyACM7" }]\n'
    )
    environment = os.environ | {"PYTHONPATH": "", "KINEDGE_NATIVE": "1"}
    command = [sys.executable, "-c", _TELL]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


@pytest.mark.parametrize("more", ["", '[uplink]\nurl = "https://collector.example"'], ids=["alone", "with an uplink"])
def test_a_gateway_begins_to_listen_without_what_it_does_not_need_yet(tmp_path: Path, more: str) -> None:
    there = imported(tmp_path, more)
    assert {
        "kinedge.edge.service",
        "kinedge.edge.dashboard.board",
        "kinedge.firmware_bridge.devices.kinedge_imu",
    } <= there
    assert not there & (_NEVER if library() is not None else _NEVER - {"onnxruntime"})


def test_what_a_gateway_is_told_to_do_is_imported_at_once(tmp_path: Path) -> None:
    assert "kinedge.edge.measures_keeper" in imported(tmp_path, "[measures]")


def homes(command: Any) -> set[str]:
    """Return the files of a command and of those below it."""
    below = getattr(command, "commands", {}).values()
    own = set() if command.callback is None else {command.callback.__module__.rpartition(".")[2]}
    return own.union(*map(homes, below))


def leaves(command: Any) -> list[Any]:
    below = list(getattr(command, "commands", {}).values())
    return [command] if not below else [leaf for one in below for leaf in leaves(one)]


def test_no_help_holds_words_in_brackets_that_would_be_taken_for_a_style() -> None:
    application._register()
    for command in leaves(get_command(application.app)):
        for text in [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]:
            assert not re.search(r"(?<!\\)\[[a-z_]+\]", text), f"{command.name}: write \\\\[ in {text!r}"


def test_every_command_imports_the_files_that_it_and_its_own_commands_lie_in() -> None:
    application._register()
    commands = get_command(application.app).commands  # type: ignore[attr-defined]
    assert {name: homes(command) for name, command in commands.items()} == {
        name: set(files) for name, files in application._FILES.items()
    }
