"""The dashboard's server: who may ask what, what it answers to nonsense, the page's files, and slow readers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from board_rig import HEADERS, board_config, device, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinedge.edge import http_server
from kinedge.edge.dashboard.auth import Doorkeeper, read_token
from kinedge.edge.dashboard.errors import STATUS
from kinedge.edge.dashboard.hub import Hub
from kinedge.edge.dashboard.routes import Routes
from kinedge.edge.dashboard.static_files import StaticFiles
from kinedge.edge.http_server import Answer, Request, Stream
from kinedge.edge.service import EdgeService
from kinedge.errors import ConfigError
from kinedge.training.scenario import DemoEvent, demo_recording

TOKEN = "correct-horse-battery-staple"
FIXTURES = Path(__file__).parents[1] / "web" / "fixtures"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def routes(tmp_path: Path) -> Iterator[Callable[..., Routes]]:
    """Routes of gateways that do not run: what they answer needs no device."""
    services = []

    def make(**http: Any) -> Routes:
        config = board_config(
            tmp_path, {"p-001": ["x"], "p-002": ["y"]}, http={"port": 0, **http}, spare=[{"port": "z"}]
        )
        service = EdgeService(config)
        services.append(service)
        assert service.board is not None
        return Routes(service.board)

    yield make
    for service in services:
        service.store.close()


def ask(routes: Routes, request: Request) -> Answer | Stream | None:
    return asyncio.run(routes.dispatch(request))


def filled(pattern: str) -> str:
    return pattern.replace("{subject}", "p-001")


def code_of(answer: Answer | Stream | None) -> str:
    assert isinstance(answer, Answer)
    return str(json.loads(answer.body)["error"]["code"])


def test_every_path_but_the_page_and_the_login_is_closed_without_the_token(
    routes: Callable[..., Routes], token_file: Path
) -> None:
    closed = routes(token_file=token_file)
    assert {r.pattern for r in closed.table if r.open} == {"/api/session", "/api/login"}
    json_headers = {"content-type": "application/json", **{k.lower(): v for k, v in HEADERS.items()}}
    for route in closed.table:
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"cookie": "kinedge=nonsense"}):
            closed._board.doorkeeper._open_from_s = 0.0
            request = Request(route.method, filled(route.pattern), headers={**json_headers, **headers}, body=b"{}")
            answer = ask(closed, request)
            if route.open:
                assert isinstance(answer, Answer) and answer.status in (200, 400)
                continue
            assert isinstance(answer, Answer) and answer.status == 401, route
            # nor does the wrong method tell more, or the right token less
            other = "GET" if route.method == "POST" else "POST"
            assert code_of(ask(closed, Request(other, filled(route.pattern), headers=json_headers))) == "unauthorised"
        bearer = {**json_headers, "authorization": f"Bearer {TOKEN}"}
        answer = ask(closed, Request(route.method, filled(route.pattern), headers=bearer, body=b"{}"))
        assert isinstance(answer, Stream) or (answer is not None and answer.status not in (401, 403)), route
    assert code_of(ask(closed, Request("GET", "/api/whatever"))) == "unauthorised"
    session = ask(closed, Request("GET", "/api/session"))
    assert isinstance(session, Answer) and b'"gateway":null' in session.body
    assert isinstance(ask(closed, Request("GET", "/")), Answer), "the page itself holds nothing of anybody"


def test_a_login_is_a_cookie_and_failures_cost_everybody_a_wait(token_file: Path) -> None:
    now_s = 1000.0
    door = Doorkeeper("0.0.0.0", read_token(token_file), monotonic_s=lambda: now_s)
    assert door.needs_token and not door.admits(Request("GET", "/"))
    cookie = door.login(TOKEN)
    assert cookie is not None
    logged_in = Request("GET", "/", headers={"cookie": f"a=b; kinedge={cookie}"})
    assert door.admits(logged_in)
    waits = []
    for _ in range(12):
        assert door.login("wrong") is None
        waits.append(door.wait_s)
        assert waits[-1] == 0 or door.login(TOKEN) is None, "nobody may try meanwhile, right or wrong"
        assert waits[-1] == 0 or not door.admits(Request("GET", "/", headers={"authorization": f"Bearer {TOKEN}"}))
        assert door.admits(logged_in), "who is in already is not held up"
        now_s += waits[-1]
    assert waits[:2] == [0, 0] and waits[2:6] == [1, 2, 4, 8] and max(waits) == 60
    assert door.failures == 12
    assert door.login(TOKEN) is not None
    door.logout(logged_in)
    assert not door.admits(logged_in)
    for _ in range(80):
        assert door.login(TOKEN)
    assert len(door._sessions) == 64
    now_s += 13 * 3600
    assert not door.admits(Request("GET", "/", headers={"cookie": f"kinedge={door.login('x')}"}))


def test_beyond_loopback_a_token_is_needed_that_only_the_user_may_read(tmp_path: Path, token_file: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::", "board.local"):
        with pytest.raises(ConfigError, match="token_file"):
            Doorkeeper(host, None)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert not Doorkeeper(host, None).needs_token
    with pytest.raises(ConfigError, match=r"http\.host 0\.0\.0\.0"):
        EdgeService(board_config(tmp_path, {"p": ["x"]}, http={"host": "0.0.0.0"}))
    token_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(token_file)
    token_file.chmod(0o600)
    token_file.write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16"):
        read_token(token_file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "absent")


def test_what_another_page_could_send_is_refused(routes: Callable[..., Routes]) -> None:
    board = routes()
    good = {"content-type": "application/json", "x-kinedge": "1", "host": "127.0.0.1:9464"}
    path, body = "/api/people/p-001/mute", b'{"minutes": 0}'
    for change, code in [
        ({}, ""),
        ({"origin": "http://127.0.0.1:9464"}, ""),
        ({"content-type": "application/json; charset=utf-8"}, ""),
        ({"origin": "http://evil.example"}, "forbidden"),
        ({"origin": "http://127.0.0.1:1"}, "forbidden"),
        ({"origin": "null"}, "forbidden"),
        ({"x-kinedge": ""}, "forbidden"),
        ({"content-type": "text/plain"}, "media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "media_type"),
    ]:
        answer = ask(board, Request("POST", path, headers={**good, **change}, body=body))
        assert isinstance(answer, Answer)
        assert (answer.status == 200) if not code else code_of(answer) == code, change


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(["action", "minutes", "where", "subject", "sensor", "token", "confirm"])
_BODIES = st.binary(max_size=60) | st.dictionaries(
    _KEYS, _JSON | st.sampled_from(["start", "cancel", "p-001", "z", "y", 1, 30]), max_size=3
).map(lambda body: json.dumps(body).encode())


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 20),
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    subject=st.sampled_from(["p-001", "p-999", "..", "%2e", "<b>", "\x00", "é" * 9]),
    query=st.dictionaries(st.sampled_from(["limit", "subject", "x"]), st.text(max_size=8), max_size=3),
    body=_BODIES,
)
def test_no_body_and_no_query_gets_anything_but_an_answer_or_a_refusal(
    routes: Callable[..., Routes], at: int, method: str, subject: str, query: dict[str, str], body: bytes
) -> None:
    board = _kept.setdefault("routes", None) or routes()
    _kept["routes"] = board
    route = board.table[at % len(board.table)]
    path = route.pattern.replace("{subject}", subject)
    headers = {"content-type": "application/json", "x-kinedge": "1", "host": "localhost"}

    async def talk() -> Answer | Stream | None:
        answer = await board.dispatch(Request(method, path, query, headers, body, "127.0.0.1"))
        await board._board.identifying.cancel()
        return answer

    answer = asyncio.run(talk())
    if isinstance(answer, Stream):
        return
    assert answer is not None and answer.status in {200, *STATUS.values()}
    if answer.status != 200:
        assert set(json.loads(answer.body)["error"]) == {"code", "message"}
    assert ("X-Frame-Options", "DENY") in answer.headers


_kept: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    _kept.clear()
    yield
    _kept.clear()


async def raw(url: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except OSError:
        return b""
    finally:
        writer.close()


def test_over_real_sockets_bounds_headers_and_names_hold(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(board_config(tmp_path, {"p-001": ["x"]}), []) as rig:
            url = rig.service.http_url
            head = b"POST /api/people/p-001/mute HTTP/1.1\r\nHost: localhost\r\nX-Kinedge: 1\r\n"
            body = b'{"minutes": 0}'
            typed = head + b"Content-Type: application/json\r\n"
            for data, status in [
                (typed + b"Content-Length: 14\r\n\r\n" + body, b"200"),
                (typed + b"Content-Length: 14\r\nExpect: 100-continue\r\n\r\n" + body, b"100"),
                (typed + b"Transfer-Encoding: chunked\r\n\r\ne\r\n" + body + b"\r\n0\r\n\r\n", b"200"),
                (typed + b"Content-Length: 5000\r\n\r\n", b"413"),
                (typed + b"Transfer-Encoding: chunked\r\n\r\n1388\r\n" + b" " * 5000, b"413"),
                (typed + b"Content-Length: nine\r\n\r\n", b"400"),
                (head.replace(b"localhost", b"evil.example") + b"Content-Length: 0\r\n\r\n", b"421"),
                (head.replace(b"POST", b"PUT") + b"Content-Length: 0\r\n\r\n", b"405"),
                (b"GET /..%2f..%2fgateway.toml HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
                (b"GET /api/people/%00/history HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
                (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b"405"),
            ]:
                answer = await raw(url, data)
                assert answer.split(b" ", 2)[1] == status, (data, answer[:200])
            answer = await rig.client.get("/api/state")
            for name, value in [
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-store"),
            ]:
                assert answer.headers[name] == value
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy

    asyncio.run(main())


def test_the_page_is_served_and_hashed_names_are_kept_for_ever(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>" + "x" * 2000)
    (tmp_path / "assets" / "index-Bafmy25H.js").write_text("let a = 1;" * 100)
    (tmp_path / "assets" / "plain.css").write_text("a {}")
    (tmp_path / ".secret.txt").write_text("no")
    files = StaticFiles(tmp_path)

    def of(path: str, **headers: str) -> Answer | None:
        return asyncio.run(files.answer(Request("GET", path, headers=headers)))

    page = of("/")
    assert page is not None and ("Cache-Control", "no-cache") in page.headers
    packed = of("/assets/index-Bafmy25H.js", **{"accept-encoding": "br, gzip"})
    assert packed is not None and ("Content-Encoding", "gzip") in packed.headers and len(packed.body) < 200
    assert ("Cache-Control", "public, max-age=31536000, immutable") in packed.headers
    plain = of("/assets/plain.css")
    assert plain is not None and ("Cache-Control", "no-cache") in plain.headers and plain.body == b"a {}"
    assert of("/p/anybody") == page, "the page's own paths"
    for path in ("/.secret.txt", "/assets/../index.html", "/assets/x/y.js", "/absent.js", "/assets/", "/a\\..\\b.txt"):
        found = of(path)
        assert found is None or found == page, path
    assert of("/.secret.txt") is None
    missing = asyncio.run(StaticFiles(tmp_path / "nowhere").answer(Request("GET", "/")))
    assert missing is not None and b"not built" in missing.body


def shape(content: Any) -> Any:
    """Keys of objects, all the way down; of lists, the first entry."""
    if isinstance(content, dict):
        return {k: shape(v) for k, v in content.items()}
    return [shape(content[0])] if isinstance(content, list) and content else type(content).__name__


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two shapes differ in their keys; null and empty lists match anything."""
    if isinstance(a, dict) and isinstance(b, dict):
        odd = [f"{at}.{k}" for k in set(a) ^ set(b)]
        return odd + [d for k in set(a) & set(b) for d in differences(a[k], b[k], f"{at}.{k}")]
    if isinstance(a, list) and isinstance(b, list):
        return differences(a[0], b[0], f"{at}[]") if a and b else []
    simple = {"int": "number", "float": "number"}
    a, b = (simple.get(x, x) if isinstance(x, str) else x for x in (a, b))
    loose = {"NoneType", "list"}
    return [] if a == b or (isinstance(a, str) and a in loose) or (isinstance(b, str) and b in loose) else [at]


def test_a_running_gateway_says_what_the_fixtures_say_and_streams_it(tmp_path: Path) -> None:
    speed = 4.0
    r = demo_recording(seed=1, duration_s=40, events=(DemoEvent("noise_burst", "wrist_right", 20, 30),))
    devices = [device(tmp_path, f"KE-{s}", r, s, speed=speed) for s in ("wrist_left", "wrist_right")]
    config = board_config(tmp_path, {"p-001": [str(d.link_path) for d in devices], "p-002": ["absent"]})
    fixture = {e["event"]: e["data"] for e in json.loads((FIXTURES / "stream.json").read_text())}

    async def main() -> None:
        async with running(config, devices, speed=speed) as rig:
            seen: dict[str, list[Any]] = {}
            async for kind, data in rig.events("/api/stream?subject=p-001"):
                seen.setdefault(kind, []).append(data)
                rig.service.note("<script>alert(1)</script> & more") if len(seen) == 2 else None
                if {"signals", "verdict", "episode", "state", "note"} <= set(seen) and len(seen["signals"]) > 20:
                    break
            for kind, told in seen.items():
                if kind not in ("state", "ping"):
                    assert not differences(shape(told[0]), shape(fixture[kind])), kind
                assert all(d["at_utc_ns"] > 1_700_000_000 * 10**9 for d in told)
            first = seen["state"][0]
            assert [p["subject"] for p in first["people"]] == first["subjects"] == ["p-001", "p-002"]
            assert any(n["text"] == "<script>alert(1)</script> & more" for n in seen["note"]), "data, as it was"
            for change in seen["state"][1:]:
                assert set(change) < set(first), "only what changed"
            state = await rig.get("/api/state")
            known = json.loads((FIXTURES / "state-20.json").read_text())
            assert not differences(shape(state), shape({**known, "people": known["people"][1:2]}))
            assert set(first) - {"at_utc_ns", "subjects"} == set(state)
            signals = [s for s in seen["signals"] if s["sensor"] == "wrist_left"]
            times = [t for s in signals for t in s["t_utc_ns"]]
            assert times == sorted(times) and {s["subject"] for s in seen["signals"]} == {"p-001"}
            assert all(len(c) == len(s["t_utc_ns"]) for s in signals for c in s["values"])
            assert 45 < 1e9 * (len(times) - 1) / (times[-1] - times[0]) < 55
            history = await rig.get("/api/people/p-001/history")
            assert len(history["score"]) == len(history["utc_ns"]) >= len(seen["verdict"])
            assert not differences(shape(history), shape(json.loads((FIXTURES / "history.json").read_text())))
            metrics = (await rig.client.get("/metrics")).text
            assert 'kinedge_task_running{task="dashboard"} 1.0' in metrics
            for path, status in [
                ("/api/stream?subject=p-009", 404),
                ("/api/people/p-009/history", 404),
                ("/api/episodes?limit=0", 400),
                ("/api/episodes?limit=201", 400),
                ("/api/episodes?limit=²", 400),
                ("/api/nothing", 404),
            ]:
                assert (await rig.client.get(path)).status_code == status, path

    asyncio.run(main())


def test_a_slow_reader_is_bounded_sent_the_newest_and_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_STREAM_STALL_S", 0.5)

    async def main() -> None:
        async with running(board_config(tmp_path, {"p-001": ["x"]}), []) as rig:
            hub: Hub = rig.service.board.hub  # type: ignore[union-attr]
            port = int(rig.service.http_url.rpartition(":")[2])
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect(("127.0.0.1", port))
                slow.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while hub.n_listeners != 1:
                    await asyncio.sleep(0.01)
                (listener,) = hub._listeners
                while hub.n_listeners:  # it reads nothing: at last it is let go of
                    for _ in range(20):
                        hub.tell("note", {"text": "x" * 5000})
                    assert len(listener.events) <= 64 and len(listener.signals) <= 40
                    await asyncio.sleep(0.01)
            # eight may listen, and no ninth
            async with httpx.AsyncClient(trust_env=False, base_url=rig.service.http_url) as client:
                streams = [await client.send(client.build_request("GET", "/api/stream"), stream=True) for _ in range(8)]
                refused = await client.get("/api/stream")
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "busy"
                assert (await client.get("/api/session")).status_code == 200, "and others are answered"
                for stream in streams:
                    await stream.aclose()
                while hub.n_listeners:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_the_first_state_is_whole_also_for_who_comes_while_it_is_made() -> None:
    subjects = [f"p-{i}" for i in range(6)]
    hub = Hub(hop_s=1.0, utc_of=lambda subject, chunk: None)
    firsts: list[bytes] = []
    listeners = [hub.join(None)]

    def person(subject: str) -> dict[str, Any]:
        if subject == "p-3" and len(listeners) < 4:  # the only page is closed, and another opened
            hub.leave(listeners[-1])
            listeners.append(hub.join(None))
        return {"subject": subject}

    async def slow() -> dict[str, Any]:
        return {"schema": "x", "notes": []}

    async def send(data: bytes) -> None:
        firsts.append(data)

    async def main() -> None:
        serving = asyncio.create_task(hub.run(lambda: subjects, person, slow))
        while len(listeners) < 4:
            await asyncio.sleep(0.01)
        telling = asyncio.create_task(listeners[-1].run(send))
        while len(firsts) < 2:
            await asyncio.sleep(0.01)
        for task in (telling, serving):
            task.cancel()
        await asyncio.gather(telling, serving, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))
    state = json.loads(firsts[1].split(b"data: ")[1])
    assert [p["subject"] for p in state["people"]] == state["subjects"] == subjects
    assert state["schema"] == "x"


def test_while_nobody_listens_nothing_is_computed_and_no_samples_are_kept(tmp_path: Path) -> None:
    speed = 10.0
    r = demo_recording(seed=1, duration_s=30, events=())
    devices = [device(tmp_path, f"KE-{s}", r, s, speed=speed) for s in ("wrist_left", "wrist_right")]
    config = board_config(tmp_path, {"p-001": [str(d.link_path) for d in devices]})

    async def main() -> None:
        async with running(config, devices, speed=speed) as rig:
            hub: Hub = rig.service.board.hub  # type: ignore[union-attr]
            while rig.service.verdict_counts.total() < 8:
                await asyncio.sleep(0.01)
            assert hub.n_ticks == 0 and not hub._signals and not hub._fragments
            assert len(hub.person("p-001").points) >= 8, "the last 15 minutes are there for whoever comes"

    asyncio.run(main())
