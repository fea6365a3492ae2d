"""The uplink against the real collector, and against everything on the way that is none."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_episodes import SUBJECTS, sample_fields, sample_raw

from kinedge.edge.answers import Fate, judge
from kinedge.edge.store import EpisodeStore
from kinedge.edge.uplink import Uplink, UplinkLimits
from kinedge.errors import ConfigError
from kinedge.upstream.api import create_app
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings
from kinedge.upstream.store import CollectorStore

URL = "http://127.0.0.1:1"
ID = "a" * 64
Answer = Callable[[httpx.Request], httpx.Response]


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ns = 10**9

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class OneAnswer(httpx.AsyncByteStream):
    """A body that can be read once, as one from a socket."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


class Answering(httpx.AsyncBaseTransport):
    """A server that is one function."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = self.answer(request)
        stream = OneAnswer(response.content) if response.is_closed else response.stream
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)


class LossyWay(httpx.AsyncBaseTransport):
    """A way to a real collector that loses requests before, and answers after, they were handled."""

    def __init__(self, transport: httpx.AsyncBaseTransport, rng: random.Random, loss: float) -> None:
        self.transport, self.rng, self.loss = transport, rng, loss
        self.unanswered: set[str] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.rng.random() < self.loss:
            raise httpx.ConnectError("lost on the way there", request=request)
        response = await self.transport.handle_async_request(request)
        body = await response.aread()
        if self.rng.random() < self.loss:
            self.unanswered.add(request.url.path)
            raise httpx.ReadError("lost on the way back", request=request)
        return httpx.Response(response.status_code, headers=response.headers, stream=OneAnswer(body))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EpisodeStore]:
    with EpisodeStore(tmp_path / "edge.db") as opened:
        yield opened


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[CollectorStore]:
    opened = CollectorStore(f"sqlite:///{tmp_path}/collector.db")
    yield opened
    opened.close()


def commit(store: EpisodeStore, n: int, *, with_raw: bool = True) -> list[str]:
    ids = []
    for i in range(n):
        raw = sample_raw(i) if with_raw else None
        ids.append(store.commit(sample_fields(i, raw=raw), raw).id)
    return ids


def to_app(upstream: CollectorStore, **changes: object) -> httpx.ASGITransport:
    return httpx.ASGITransport(app=create_app(CollectorSettings(**changes), store=upstream))  # type: ignore[arg-type]


def make_uplink(store: EpisodeStore, transport: httpx.AsyncBaseTransport, clock: Clock, **options: object) -> Uplink:
    client = httpx.AsyncClient(transport=transport)
    return Uplink(store, URL, client=client, monotonic_ns=clock, rng=random.Random(1), **options)  # type: ignore[arg-type]


async def drain(uplink: Uplink, clock: Clock, store: EpisodeStore, *, max_steps: int = 500) -> None:
    for _ in range(max_steps):
        result = await uplink.step()
        counts = store.counts()
        if counts.ready == counts.locked == 0:
            return
        clock.advance(max(result.wait_s, 0.001))
    raise AssertionError(f"not drained: {store.counts()}, {uplink.counters}")


def in_one_step(store: EpisodeStore, answer: Answer) -> Uplink:
    uplink = make_uplink(store, Answering(answer), Clock())
    asyncio.run(uplink.step())
    return uplink


def error(status: int, code: str, **headers: str) -> Answer:
    content = {"error": {"code": code, "message": "because"}}
    return lambda request: httpx.Response(status, json=content, headers=headers)


def test_episodes_and_raw_blobs_arrive_byte_for_byte(store: EpisodeStore, upstream: CollectorStore) -> None:
    ids = commit(store, 10)
    clock = Clock()
    uplink = make_uplink(store, to_app(upstream), clock)
    asyncio.run(drain(uplink, clock, store))
    for i, id in enumerate(ids):
        stored = store.episode(id)
        assert stored is not None and upstream.episode(id) == stored.envelope.to_bytes()
        assert upstream.raw(id) == sample_raw(i)
    assert uplink.counters.sent == 20 and uplink.counters.duplicates == uplink.counters.retries == 0
    assert uplink.counters.last_success_utc_ns is not None
    assert store.counts().done == 20
    store.verify_audit()


@pytest.mark.parametrize("seed", range(3))
def test_lost_requests_and_lost_answers_leave_each_episode_upstream_once_and_in_order(
    store: EpisodeStore, upstream: CollectorStore, seed: int
) -> None:
    ids = commit(store, 20)
    clock = Clock()
    way = LossyWay(to_app(upstream), random.Random(seed), loss=0.3)
    uplink = make_uplink(store, way, clock)
    asyncio.run(drain(uplink, clock, store))
    page = upstream.episodes(limit=1000)
    assert sorted(e.id for e in page.episodes) == sorted(ids)
    for subject in SUBJECTS:
        sequences = [e.sequence for e in page.episodes if e.subject == subject]
        assert sequences == list(range(1, len(sequences) + 1))
    assert upstream.missing("gw-1") == ()
    assert way.unanswered and uplink.counters.duplicates == len(way.unanswered)
    assert uplink.counters.sent + uplink.counters.duplicates == 40


def test_an_answer_cut_off_after_the_commit_costs_a_repetition_and_no_second_copy(
    store: EpisodeStore, tmp_path: Path
) -> None:
    """Over real sockets: a relay passes the request on, waits for the answer and hangs up instead."""
    commit(store, 3, with_raw=False)
    with serving(tmp_path / "collector.db") as url, hanging_up_relay(url, n_hang_ups=2) as relay_url:
        clock = Clock()
        uplink = Uplink(store, relay_url, monotonic_ns=clock, rng=random.Random(0))

        async def work() -> None:
            async with uplink:
                await drain(uplink, clock, store)

        asyncio.run(work())
        listed = httpx.get(f"{url}/v1/episodes", trust_env=False).json()["episodes"]
    assert [e["sequence"] for e in listed] == [1, 1, 1]
    assert (uplink.counters.sent, uplink.counters.duplicates, uplink.counters.retries) == (2, 1, 2)


def test_other_bytes_under_a_known_id_are_quarantined_and_never_overwritten(
    store: EpisodeStore, upstream: CollectorStore
) -> None:
    (id,) = commit(store, 1)
    stored = store.episode(id)
    assert stored is not None
    first = stored.envelope.to_bytes().replace(b"Episode 0", b"Another 0")
    upstream.put_episode(id, first)
    clock = Clock()
    uplink = make_uplink(store, to_app(upstream), clock)
    asyncio.run(drain(uplink, clock, store))
    assert upstream.episode(id) == first
    assert store.counts().quarantined == 2 and uplink.counters.quarantined == 1
    assert upstream.counts()["conflict"] == 1


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_the_collector_will_never_take_is_quarantined_with_its_reason(store: EpisodeStore, status: int) -> None:
    commit(store, 1, with_raw=False)
    uplink = in_one_step(store, error(status, "invalid_envelope"))
    assert store.counts().quarantined == 1
    assert "because" in str(uplink.counters.last_error)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda r: httpx.Response(200, html="<h1>Please log in to the Wi-Fi</h1>"), id="captive portal"),
        pytest.param(lambda r: httpx.Response(201, json={"id": "b" * 64}), id="another episode's answer"),
        pytest.param(lambda r: httpx.Response(204), id="empty success"),
        pytest.param(lambda r: httpx.Response(404, text="nginx"), id="wrong server"),
        pytest.param(lambda r: httpx.Response(413, text="nginx"), id="a proxy's limit"),
        pytest.param(lambda r: httpx.Response(302, headers={"Location": "/login"}), id="redirect"),
        pytest.param(lambda r: httpx.Response(502, text="bad gateway"), id="bad gateway"),
        pytest.param(error(401, "unauthorized"), id="wrong token"),
        pytest.param(error(404, "not_found"), id="wrong path"),
        pytest.param(error(408, "incomplete"), id="too slow"),
        pytest.param(error(400, "damaged_in_transit"), id="damaged on the way"),
        pytest.param(lambda r: httpx.Response(500, text="Internal Server Error"), id="a fault there"),
        pytest.param(lambda r: httpx.Response(200, content=b"[" * 60_000), id="deep nesting"),
    ],
)
def test_an_answer_that_says_nothing_about_the_episode_leads_to_another_try(
    store: EpisodeStore, answer: Answer
) -> None:
    commit(store, 1, with_raw=False)
    uplink = in_one_step(store, answer)
    counts = store.counts()
    assert (counts.ready, counts.done, counts.quarantined) == (1, 0, 0)
    assert uplink.counters.retries == 1 and uplink.counters.last_error


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "low_s", "high_s"),
    [
        ("7", 7.0, 8.0),
        ("999999999999", 3600.0, 3601.0),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0, 11.0),
        ("soon", 0.0, 1.0),
        ("-5", 0.0, 1.0),
        ("", 0.0, 1.0),
    ],
)
def test_the_uplink_waits_as_long_as_the_collector_asks_within_bounds(
    store: EpisodeStore, status: int, retry_after: str, low_s: float, high_s: float
) -> None:
    commit(store, 2, with_raw=False)
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, headers={"Retry-After": retry_after, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"})

    clock = Clock()
    uplink = make_uplink(store, Answering(answer), clock)
    wait_s = asyncio.run(uplink.step()).wait_s
    assert low_s <= wait_s <= high_s
    clock.advance(wait_s * 0.9)
    asyncio.run(uplink.step())
    assert len(asked) == 1, "it asked again too early"


def test_back_off_grows_to_its_cap_and_a_success_resets_it(store: EpisodeStore) -> None:
    commit(store, 2, with_raw=False)
    alive = False

    def answer(request: httpx.Request) -> httpx.Response:
        if not alive:
            raise httpx.ConnectError("no network")
        return httpx.Response(201, json={"id": request.url.path.split("/")[3]})

    clock = Clock()
    uplink = make_uplink(store, Answering(answer), clock)
    waits = []

    async def work() -> float:
        nonlocal alive
        for _ in range(300):
            waits.append((await uplink.step()).wait_s)
            clock.advance(waits[-1] + 0.001)
        alive = True
        await drain(uplink, clock, store)
        commit_again = store.commit(sample_fields(50))
        assert commit_again.sequence
        alive = False
        return (await uplink.step()).wait_s

    after_success = asyncio.run(work())
    assert max(waits) <= 300.0 and max(waits[20:]) > 250.0
    assert 100.0 < sum(waits[20:]) / len(waits[20:]) < 200.0, "full jitter has its mean at half the cap"
    assert all(wait <= 2.0 ** (i + 1) for i, wait in enumerate(waits[:8]))
    assert after_success <= 2.0


def test_one_episode_that_the_collector_chokes_on_holds_up_its_own_subject_alone(store: EpisodeStore) -> None:
    ids = commit(store, 6, with_raw=False)  # three subjects, two each

    def answer(request: httpx.Request) -> httpx.Response:
        id = request.url.path.split("/")[3]
        return httpx.Response(500) if id == ids[0] else httpx.Response(201, json={"id": id})

    uplink = in_one_step(store, answer)
    states = {s.envelope.id: s.episode_state for s in store.episodes()}
    assert [states[id] for id in ids] == ["READY", "DONE", "DONE", "READY", "DONE", "DONE"]
    assert (uplink.counters.sent, uplink.counters.retries) == (4, 1)


def test_when_the_collector_forgot_an_episode_it_is_sent_again_before_its_raw_blob(
    store: EpisodeStore, upstream: CollectorStore, tmp_path: Path
) -> None:
    (id,) = commit(store, 1)
    clock = Clock()
    asyncio.run(make_uplink(store, to_app(upstream), clock).step())  # the episode, without its blob
    restored = CollectorStore(f"sqlite:///{tmp_path}/restored-from-an-old-backup.db")
    asyncio.run(drain(make_uplink(store, to_app(restored), clock), clock, store))
    assert restored.episode(id) == upstream.episode(id)
    assert restored.raw(id) == sample_raw(0)
    restored.close()


def test_an_answer_without_end_is_cut_off(store: EpisodeStore) -> None:
    commit(store, 1, with_raw=False)

    class Endless(httpx.AsyncByteStream):
        n = 0

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                self.n += 1
                yield b"x" * 10_000

    stream = Endless()
    in_one_step(store, lambda request: httpx.Response(200, stream=stream))
    assert stream.n <= 8
    assert store.counts().ready == 1


def test_a_collector_that_never_answers_costs_one_time_out(store: EpisodeStore) -> None:
    commit(store, 1, with_raw=False)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        uplink = Uplink(store, url, limits=UplinkLimits(request_timeout_s=0.2))

        async def work() -> None:
            async with uplink:
                await uplink.step()

        asyncio.run(work())
    assert store.counts().ready == 1 and uplink.counters.retries == 1
    assert uplink.counters.last_error is not None


def test_the_loop_sends_what_comes_in_while_it_runs_and_stops_when_told(
    store: EpisodeStore, upstream: CollectorStore
) -> None:
    async def work() -> Uplink:
        client = httpx.AsyncClient(transport=to_app(upstream))
        uplink = Uplink(store, URL, client=client, limits=UplinkLimits(poll_s=0.01))
        stop = asyncio.Event()
        loop = asyncio.create_task(uplink.run(stop))
        for i in range(5):
            await asyncio.to_thread(store.commit, sample_fields(i))
            deadline = asyncio.get_running_loop().time() + 10
            while uplink.counters.sent <= i:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.005)
        stop.set()
        await asyncio.wait_for(loop, 5)
        return uplink

    assert asyncio.run(work()).counters.sent == 5
    assert len(upstream.episodes().episodes) == 5


def test_a_cancelled_step_gives_its_rows_back(store: EpisodeStore) -> None:
    commit(store, 4, with_raw=False)

    async def work() -> None:
        reached = asyncio.Event()

        class Stuck(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                reached.set()
                await asyncio.Event().wait()
                raise AssertionError

        task = asyncio.create_task(make_uplink(store, Stuck(), Clock()).step())
        await asyncio.wait_for(reached.wait(), 5)
        assert store.counts().locked == 4
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())
    assert store.counts().ready == 4 and store.counts().locked == 0


def test_the_token_is_shown_and_never_sent_in_the_clear_to_another_machine(
    store: EpisodeStore, upstream: CollectorStore
) -> None:
    commit(store, 1)
    clock = Clock()
    token = "a-token-of-some-length"
    asyncio.run(drain(make_uplink(store, to_app(upstream, token=token), clock, token=token), clock, store))
    assert len(upstream.episodes().episodes) == 1
    with pytest.raises(ConfigError, match="https"):
        Uplink(store, "http://collector.example", token=token)


@pytest.mark.parametrize("url", ["collector.example", "ftp://x", "http://", "http://x/?a=b", ""])
def test_an_address_that_is_none_is_refused_at_once(store: EpisodeStore, url: str) -> None:
    with pytest.raises(ConfigError, match="collector"):
        Uplink(store, url)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(100, 599),
    st.binary(max_size=60)
    | st.builds(
        lambda content: json.dumps(content).encode(),
        st.dictionaries(
            st.sampled_from(["id", "error"]),
            st.sampled_from([ID, "x", None, {"code": "conflict", "message": "m"}, {"code": None}, {"code": [1]}, []]),
        ),
    ),
    st.text(max_size=20),
)
def test_only_the_collectors_own_words_settle_an_episode(status: int, answer: bytes, retry_after: str) -> None:
    outcome = judge(ID, "episode", status, httpx.Headers([(b"Retry-After", retry_after.encode())]), answer)
    if outcome.fate in (Fate.SENT, Fate.DUPLICATE):
        assert status in (200, 201) and json.loads(answer)["id"] == ID
    if outcome.fate is Fate.REFUSED:
        assert status in (400, 409, 413, 415, 422) and json.loads(answer)["error"]["code"] is not None


@contextmanager
def serving(database: Path) -> Iterator[str]:
    """Run a real collector in a thread."""
    collector = Collector(CollectorSettings(database_url=f"sqlite:///{database}"), port=0)
    ready = threading.Event()
    thread = threading.Thread(target=collector.run, kwargs={"on_ready": ready.set})
    thread.start()
    try:
        assert ready.wait(10)
        yield collector.url
    finally:
        collector.stop()
        thread.join(10)


@contextmanager
def hanging_up_relay(url: str, *, n_hang_ups: int) -> Iterator[str]:
    """Relay to ``url``; the first answers are read to see that they came, and then thrown away."""
    port = int(url.rpartition(":")[2])
    left = [n_hang_ups]
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, *, may_hang_up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if may_hang_up and left[0] > 0:
                    left[0] -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for ends, may in (((near, far), False), ((far, near), True)):
                threading.Thread(target=pump, args=ends, kwargs={"may_hang_up": may}, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
