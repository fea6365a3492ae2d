"""Metrics, health and signs of life of a running gateway, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kinedge.edge.config import GatewayConfig
from kinedge.edge.health import board_temperature_c
from kinedge.edge.hostclock import HostClock
from kinedge.edge.http_server import Answer, HttpServer
from kinedge.edge.service import EdgeService
from kinedge.edge.systemd import Notifier
from kinedge.errors import ConfigError, LinkError
from kinedge.firmware_bridge.emulator import Faults
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.training.scenario import demo_recording

SPEED = 6.0


def notify_socket(tmp_path: Path) -> socket.socket:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(str(tmp_path / "notify"))
    s.settimeout(20)
    return s


def listen(words: socket.socket, said: list[str]) -> None:
    """Take what is said as it is said, as systemd does: the queue of such a socket holds ten messages."""
    while not said or not said[-1].startswith("STOPPING=1"):
        said.append(words.recv(4096).decode())


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 60)


def gateway(tmp_path: Path, ports: list[Path]) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "site": "clinic",
            "gateway": "gw-1",
            "store": tmp_path / "edge.db",
            "people": [{"subject": "p-001", "devices": [{"port": str(p)} for p in ports]}],
            "max_delay_s": 1.5,
            "http": {"port": 0},
        }
    )


def test_a_running_gateway_tells_metrics_health_and_systemd_how_it_is_doing(tmp_path: Path) -> None:
    devices = play_on_ptys(
        demo_recording(seed=1, duration_s=30, events=()), tmp_path / "ttys", speed=SPEED, faults=Faults(loss=0.2)
    )
    words = notify_socket(tmp_path)
    said: list[str] = []
    listening = threading.Thread(target=listen, args=(words, said))
    listening.start()
    config = gateway(tmp_path, [d.link_path for d in devices.values()])
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"})

    async def main() -> tuple[str, dict[str, object], EdgeService]:
        service = EdgeService(config, host_clock=HostClock(speed=SPEED), notifier=notifier)
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        for device in devices.values():
            device.start()
        await until(lambda: service.verdict_counts.total() > 8)
        async with httpx.AsyncClient(trust_env=False) as client:
            metrics = (await client.get(f"{service.http_url}/metrics")).text
            health = (await client.get(f"{service.http_url}/health")).json()
        stop.set()
        await serving
        return metrics, health, service

    try:
        metrics, health, service = asyncio.run(main())
    finally:
        for device in devices.values():
            device.stop()
    samples = {
        (s.name, *sorted(s.labels.items())): s.value for f in text_string_to_metric_families(metrics) for s in f.samples
    }
    assert sum(v for (name, *_), v in samples.items() if name == "kinedge_verdicts_total") >= 8
    heard = samples["kinedge_samples_total", ("sensor", "wrist_left"), ("subject", "p-001")]
    lost = samples["kinedge_samples_lost_total", ("sensor", "wrist_left"), ("subject", "p-001")]
    assert 0 < lost < 0.6 * heard
    assert samples["kinedge_packets_total", ("sensor", "wrist_left"), ("subject", "p-001")] > 10
    for stage in ("hear", "score", "decide", "sample_to_verdict"):
        p50 = samples["kinedge_stage_seconds", ("quantile", "0.5"), ("stage", stage)]
        assert 0 < p50 <= samples["kinedge_stage_seconds", ("quantile", "0.99"), ("stage", stage)] < 60
    assert samples["kinedge_scoring_alive",] == 1
    assert samples["kinedge_task_running", ("task", "scorer")] == 1
    assert samples["kinedge_disk_free_bytes",] > 0 and samples["kinedge_store_bytes",] > 0
    assert samples["kinedge_outbox_rows", ("state", "ready")] == 0
    assert health["ok"] is True and health["troubles"] == []
    described = (Path(__file__).parent.parent / "docs" / "service.md").read_text()
    ours = {name.removesuffix("_total") for (name, *_) in samples if name.startswith("kinedge_")}
    ours = {name for name in ours if not name.endswith(("_sum", "_count", "_created"))}
    assert [name for name in sorted(ours) if f"`{name}`" not in described] == [], "docs/service.md names every metric"
    listening.join(20)
    assert said[0].startswith("READY=1")
    assert any(s.startswith("WATCHDOG=1") and "2 of 2 sensors connected" in s for s in said)
    assert service.tasks[0].restarts == 0


def test_the_watchdog_goes_hungry_while_scoring_stands_still(tmp_path: Path) -> None:
    words = notify_socket(tmp_path)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"})

    async def main() -> None:
        service = EdgeService(gateway(tmp_path, [tmp_path / "no-port"]), notifier=notifier)
        service.progress.ticked = lambda **_: None  # type: ignore[method-assign]  # a scorer that no longer looks
        service.progress._tick_limit_s = 0.2
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        await until(lambda: service.progress.stuck() != "")
        while words in _readable(words):
            words.recv(4096)
        first = await asyncio.to_thread(words.recv, 4096)
        second = await asyncio.to_thread(words.recv, 4096)
        assert b"WATCHDOG" not in first + second
        assert b"has not looked for work" in second
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{service.http_url}/health")
        assert answer.status_code == 503
        assert "has not looked for work" in answer.json()["troubles"][0]
        stop.set()
        await serving

    asyncio.run(main())


def _readable(s: socket.socket) -> list[socket.socket]:
    import select

    return select.select([s], [], [], 0)[0]


def test_without_systemd_nothing_is_said_and_wrong_words_of_it_are_an_error() -> None:
    assert not Notifier({}).tell("READY=1")
    assert not Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).tell("READY=1")
    assert Notifier({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).watchdog_s is None, "meant for another process"
    assert Notifier({"WATCHDOG_USEC": "5000000"}).watchdog_s == 5.0
    with pytest.raises(ConfigError, match="WATCHDOG_USEC='soon'"):
        Notifier({"WATCHDOG_USEC": "soon"})


def test_a_status_of_several_lines_cannot_smuggle_another_word_in(tmp_path: Path) -> None:
    words = notify_socket(tmp_path)
    assert Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).tell(status="fine\nSTOPPING=1")
    assert words.recv(4096) == b"STATUS=fine STOPPING=1"


async def with_server(talk: Callable[[str], Awaitable[None]], *, host: str = "127.0.0.1") -> None:
    async def hello() -> Answer:
        return Answer(b"hello")

    server = HttpServer(host, 0, {"/": hello})
    serving = asyncio.create_task(server.run())
    await until(lambda: server.url != "" or serving.done())
    try:
        await talk(server.url)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def raw(url: str, data: bytes, *, end: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 30)
    except OSError:  # closed before it had read what we sent
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200"),
        (b"GET /?x=1 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n", b"200"),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000, b"431"),
    ],
)
def test_the_server_answers_or_refuses_in_one_status(request_bytes: bytes, status: bytes) -> None:
    async def talk(url: str) -> None:
        answer = await raw(url, request_bytes)
        assert answer.split(b" ", 2)[1] == status
        assert (await raw(url, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")).endswith(b"hello"), "and goes on"

    asyncio.run(with_server(talk))


def test_many_silent_connections_are_bounded_and_a_head_has_no_body() -> None:
    async def talk(url: str) -> None:
        port = int(url.rpartition(":")[2])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(32)]
        assert await raw(url, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", end=False) == b""
        for _, writer in silent:
            writer.close()
        answer = b""
        while not answer:  # they are let go of when the server has seen them close
            answer = await raw(url, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n") and b"Content-Length: 5" in answer

    asyncio.run(with_server(talk))


def test_a_handler_that_fails_is_answered_for_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> Answer:
        raise RuntimeError("a fault of ours")

    async def main() -> bytes:
        server = HttpServer("127.0.0.1", 0, {"/": broken})
        serving = asyncio.create_task(server.run())
        await until(lambda: server.url != "")
        answer = await raw(server.url, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return answer

    answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 500") and b"a fault of ours" not in answer
    assert "a fault of ours" in caplog.text


def test_an_address_in_use_is_said_with_what_to_do() -> None:
    async def talk(url: str) -> None:
        with pytest.raises(LinkError, match=r"choose another \[http\] port"):
            await HttpServer("127.0.0.1", int(url.rpartition(":")[2]), {}).run()

    asyncio.run(with_server(talk))


def test_the_temperature_is_that_of_the_hottest_zone_and_a_zone_that_is_off_is_none(tmp_path: Path) -> None:
    assert board_temperature_c(tmp_path) is None
    for name, text in (("thermal_zone0", "41500\n"), ("thermal_zone1", "63250\n"), ("thermal_zone2", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "temp").write_text(text)
    assert board_temperature_c(tmp_path) == 63.25
    assert json.dumps(board_temperature_c(tmp_path)) == "63.25"


def test_the_command_says_ready_and_stopping_and_ends_well(tmp_path: Path) -> None:
    words = notify_socket(tmp_path)
    words.settimeout(120)
    (tmp_path / "gateway.toml").write_text(
        'site = "s"\ngateway = "g"\n[[people]]\nsubject = "p"\ndevices = [{ port = "absent" }]\n'
    )
    command = [
        sys.executable,
        "-m",
        "kinedge",
        "run",
        str(tmp_path / "gateway.toml"),
        "--quiet",
        "--log-format",
        "json",
    ]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert words.recv(4096).startswith(b"READY=1")
        assert words.recv(4096).startswith(b"WATCHDOG=1")
        assert process.stderr is not None
        line = ""
        while "absent" not in line:
            line = process.stderr.readline()
            assert line, "it ended without a word about the device"
        assert json.loads(line)["level"] == "warning"
        process.send_signal(signal.SIGHUP)  # as when a terminal closes; SIGTERM is sent elsewhere
        while not words.recv(4096).startswith(b"STOPPING=1"):
            pass
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors


def test_the_unit_for_systemd_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not on this machine")
    text = (Path(__file__).parents[1] / "packaging" / "systemd" / "kinedge.service").read_text()
    assert "Type=notify" in text and "WatchdogSec=" in text
    unit = tmp_path / "kinedge.service"
    unit.write_text(text.replace("/opt/kinedge/bin/kinedge", sys.executable).replace("User=kinedge\n", ""))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert str(unit.name) not in done.stderr, done.stderr
