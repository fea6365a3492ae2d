"""People and devices come and go while a gateway runs, because its file says so now; the rest goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from board_rig import board_config, device, running

from kinedge.edge.config import GatewayConfig
from kinedge.edge.reloading import reload_people
from kinedge.edge.store import EpisodeStore
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.emulator_pty import PtyDevice
from kinedge.recording import Recording
from kinedge.training.scenario import demo_recording

SPEED = 4.0
SIDES = ("wrist_left", "wrist_right")


@pytest.fixture(scope="module")
def recording() -> Recording:
    return demo_recording(seed=11, duration_s=120, events=())


def worn(tmp_path: Path, who: str, recording: Recording) -> list[PtyDevice]:
    return [device(tmp_path, f"{who}-{side}", recording, side, speed=SPEED) for side in SIDES]


def test_who_joins_is_scored_who_leaves_is_gone_and_devices_follow_the_file(
    tmp_path: Path, recording: Recording
) -> None:
    a, b = worn(tmp_path, "a", recording), worn(tmp_path, "b", recording)
    ports = {"a": [str(d.link_path) for d in a], "b": [str(d.link_path) for d in b]}

    def config(people: dict[str, list[str]], **more: Any) -> GatewayConfig:
        return board_config(tmp_path, people, **more)

    async def main() -> None:
        async with (
            running(config({"p-a": ports["a"]}), [*a, *b], speed=SPEED) as rig,
            contextlib.AsyncExitStack() as opened,
        ):
            service = rig.service
            await rig.until(lambda p: p["decision"] != "none", "p-a")
            stream = await opened.enter_async_context(contextlib.aclosing(rig.events("/api/stream")))
            assert (await anext(stream))[1]["subjects"] == ["p-a"]
            found = await reload_people(service, config({"p-b": ports["b"], "p-a": ports["a"]}))
            assert found.joined == ("p-b",) and set(found.new_devices) == set(ports["b"]) and not found.left
            async for kind, data in stream:
                if kind == "state" and "subjects" in data:
                    assert data["subjects"] == ["p-b", "p-a"]
                    break
            there = await rig.until(lambda p: p["decision"] != "none" and p["sensors"][1]["where"], "p-b")
            assert {s["where"] for s in there["sensors"]} == set(ports["b"])
            # p-a's devices are p-b's now, and p-b's are nobody's
            found = await reload_people(service, config({"p-b": ports["a"]}))
            assert found.left == ("p-a",) and set(found.moved_devices) == set(ports["a"])
            assert set(found.gone_devices) == set(ports["b"])
            await rig.until(lambda p: {s["where"] for s in p["sensors"]} == set(ports["a"]), "p-b")
            await rig.until(lambda p: p["decision"] != "none", "p-b")
            assert {t.name for t in service.tasks if t.name.startswith("link")} == {f"link {p}" for p in ports["a"]}
            assert (await rig.client.get("/api/people/p-a/history")).status_code == 404
            before = service.config
            (person,) = config({"p-b": ports["a"]}).people
            absent = person.model_copy(update={"enrolment": Path("absent")})
            without_enrolment = config({"p-b": ports["a"]}).model_copy(update={"people": (absent,)})
            for wanted, told in [
                (config({"p-b": ports["a"]}, max_delay_s=3.0), "max_delay_s cannot change"),
                (config({"p-b": ports["a"]}, site="elsewhere"), "site cannot change"),
                (without_enrolment, "people p-b: absent: cannot be read"),
            ]:
                with pytest.raises(ConfigError, match=told):
                    await reload_people(service, wanted)
                assert service.config is before and service.pipeline.subjects == ("p-b",)
            assert not rig.serving.done()
            assert (await reload_people(service, config({"p-b": ports["a"]}))).sentence() == "nothing has changed"

    asyncio.run(main())
    with EpisodeStore(tmp_path / "edge.db", read_only=True) as store:
        rows = store.events("reloaded")
    assert [(r["joined"], r["left"]) for r in rows] == [(["p-b"], []), ([], ["p-a"]), ([], [])]


def test_the_command_reads_its_file_anew_when_asked_and_tells_what_it_refuses(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"

    def write(people: list[str], more: str = "") -> None:
        lines = [f'site = "s"\ngateway = "g"\nstore = "e.db"\n{more}[http]\nport = 0\n']
        lines += [f'[[people]]\nsubject = "{p}"\ndevices = [{{ port = "absent-{p}" }}]\n' for p in people]
        path.write_text("".join(lines))

    write(["p-001"])
    process = subprocess.Popen(
        [sys.executable, "-m", "kinedge", "run", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        url = ""
        while not url:
            line = process.stderr.readline()
            assert line, "it ended"
            url = line.partition("dashboard: ")[2].strip()

        def subjects() -> list[str]:
            with httpx.Client(trust_env=False) as client:
                return [p["subject"] for p in client.get(f"{url}/api/state").json()["people"]]

        assert subjects() == ["p-001"]
        write(["p-002", "p-001"])
        process.send_signal(signal.SIGUSR1)
        while "configuration read anew: joined: p-002" not in (line := process.stderr.readline()):
            assert line, "it ended"
        assert subjects() == ["p-002", "p-001"]
        write(["p-002"], more="max_delay_s = 1.0\n")
        process.send_signal(signal.SIGUSR1)
        while "max_delay_s cannot change" not in (line := process.stderr.readline()):
            assert line, "it ended"
        assert subjects() == ["p-002", "p-001"]
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
