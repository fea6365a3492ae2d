"""The collector's connections: both of uvicorn's protocols keep the same limits, on real sockets."""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from collector_server import serving, wait_until
from test_collector import envelope

from kinedge.upstream import connection, server
from kinedge.upstream.server import Collector
from kinedge.upstream.settings import CollectorSettings


@pytest.fixture(params=["httptools", "h11"])
def collector(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    if request.param == "httptools":
        pytest.importorskip("httptools", reason="no wheel for this machine")
    make = functools.partial(connection.make_protocol, use_h11=request.param == "h11")
    monkeypatch.setattr(server, "make_protocol", make)
    with serving(CollectorSettings(database_url=f"sqlite:///{tmp_path}/c.db", head_timeout_s=2.0)) as running:
        yield running


def connect(collector: Collector) -> socket.socket:
    host, _, port = collector.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def all_of(talk: socket.socket) -> bytes:
    """Read until the other side closes; a reset counts as that."""
    answer = b""
    with suppress(ConnectionError):
        while part := talk.recv(1 << 16):
            answer += part
    return answer


def refused(collector: Collector, event: str, n: int = 1) -> None:
    wait_until(lambda: collector.store.counts().get(event, 0) == n, f"{event} was not counted")


@pytest.mark.parametrize("kind", ["one field without an end", "many fields", "a path without an end"])
def test_a_head_that_is_too_large_is_refused_and_not_kept(collector: Collector, kind: str) -> None:
    talk = connect(collector)
    start = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n"
    n_sent = 0
    with suppress(ConnectionError):
        talk.sendall(b"GET /" if kind.startswith("a path") else start)
        piece = b"".join(b"X-%d: b\r\n" % i for i in range(400)) if kind == "many fields" else b"X" * 4096
        while n_sent < 64 << 20:
            talk.sendall(piece)
            n_sent += len(piece)
    assert n_sent < 64 << 20, "it went on reading"
    answer = all_of(talk)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), "a reset may have overtaken the answer"
    refused(collector, "invalid_http")
    assert "slow_request" not in collector.store.counts()


def test_fields_after_a_body_are_no_headers(collector: Collector) -> None:
    e = envelope()
    body = e.to_bytes()
    talk = connect(collector)
    talk.sendall(
        f"PUT /v1/episodes/{e.id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\nContent-Digest: sha-256=:AAAA=:\r\nAuthorization: Bearer x\r\n\r\n"
    )
    assert all_of(talk).startswith(b"HTTP/1.1 201 ")


def test_bytes_after_a_request_never_answer_for_it(collector: Collector) -> None:
    e = envelope()
    body = e.to_bytes()
    talk = connect(collector)
    head = f"PUT /v1/episodes/{e.id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    talk.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\x00\x01\x02\r\n\r\n")
    answer = all_of(talk)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 201 "), "400 would say that the episode was refused"
    wait_until(lambda: collector.store.counts()["episodes"] == 1, "it was whole, and is kept")
    refused(collector, "invalid_http")


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n"])
def test_a_malformed_chunk_is_refused_and_nothing_is_written(collector: Collector, chunk: bytes) -> None:
    talk = connect(collector)
    head = f"PUT /v1/episodes/{'0' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    talk.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk)
    assert all_of(talk).startswith(b"HTTP/1.1 400 ")
    refused(collector, "invalid_http")
    assert collector.store.counts()["episodes"] == 0


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\nTransfer-Encoding: chunked", "Content-Length: -1"],
)
def test_a_body_of_two_lengths_is_refused(collector: Collector, framing: str) -> None:
    talk = connect(collector)
    head = f"PUT /v1/episodes/{'0' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    talk.sendall(f"{head}Connection: close\r\n{framing}\r\n\r\n0\r\n\r\n".encode())
    answer = all_of(talk)
    assert answer.startswith(b"HTTP/1.1 4") and b"201" not in answer
    assert collector.store.counts()["episodes"] == 0


def test_two_requests_at_once_are_answered_in_their_order(collector: Collector) -> None:
    talk = connect(collector)
    e = envelope()
    body = e.to_bytes()
    head = f"PUT /v1/episodes/{e.id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    put = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    talk.sendall(put + put + b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = all_of(talk)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"201", b"200", b"404"]


def test_a_head_that_trickles_is_cut_off_on_each_connection(collector: Collector) -> None:
    talks = [connect(collector) for _ in range(3)]
    talks[0].sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    first = b""
    while not first.endswith(b"}"):
        first += talks[0].recv(4096)
    assert b"200 OK" in first
    for talk in talks:
        talk.sendall(b"GET /v1/hea")
    assert [all_of(talk) for talk in talks] == [b"", b"", b""]
    refused(collector, "slow_request", 3)
