"""Relays: every stored episode reaches Kafka or a FHIR server, in order, whatever fails on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer
from fhir.resources.R4B.bundle import Bundle
from test_collector import envelope

from kinedge.cli.app import main
from kinedge.errors import ConfigError, LinkError
from kinedge.upstream.sinks import FhirSink, KafkaSink, Record, Relay, open_sink
from kinedge.upstream.store import CollectorStore


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CollectorStore]:
    postgresql = request.param == "postgresql"
    url = request.getfixturevalue("postgres").new_url() if postgresql else f"sqlite:///{tmp_path}/collector.db"
    opened = CollectorStore(url)
    for i in range(10):
        e = envelope(i, sequence=i // 3 + 1)
        opened.put_episode(e.id, e.to_bytes())
    yield opened
    opened.close()


class Shaky:
    """A sink that fails when it is told to, after it took some."""

    name = "shaky"

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.failures: list[int] = []

    def deliver(self, records: Sequence[Record]) -> None:
        if self.failures:
            self.taken += [r.envelope.id for r in records[: self.failures.pop()]]
            raise LinkError("gone")
        self.taken += [r.envelope.id for r in records]

    def close(self) -> None:
        pass


def test_a_relay_delivers_in_order_and_goes_on_where_it_was(store: CollectorStore) -> None:
    sink = Shaky()
    assert [Relay(store, sink, batch=4).step() for _ in range(4)] == [4, 4, 2, 0]
    assert sink.taken == [envelope(i).id for i in range(10)]
    late = envelope(20)
    store.put_episode(late.id, late.to_bytes())
    assert Relay(store, sink).step() == 1 and sink.taken[-1] == late.id


def test_what_a_sink_did_not_answer_for_is_delivered_again(store: CollectorStore) -> None:
    sink = Shaky()
    sink.failures = [3, 0]
    relay = Relay(store, sink, batch=5)
    for _ in range(2):
        with pytest.raises(LinkError):
            relay.step()
        assert relay.cursor() == 0
    while relay.step():
        pass
    expected = [envelope(i).id for i in range(10)]
    assert list(dict.fromkeys(sink.taken)) == expected and len(sink.taken) == 13


def test_kafka_gets_every_episode_once_and_a_subjects_in_order(store: CollectorStore) -> None:
    """The broker is librdkafka's own: its protocol and its partitions, without a disk."""
    sink = KafkaSink("", "episodes", options={"test.mock.num.brokers": 2, "bootstrap.servers": ""})
    relay = Relay(store, sink, batch=4)
    while relay.step():
        pass
    brokers = sink._producer.list_topics(timeout=30).brokers.values()
    consumer = Consumer(
        {
            "bootstrap.servers": ",".join(f"{b.host}:{b.port}" for b in brokers),
            "group.id": "test",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["episodes"])
    found: dict[str, bytes] = {}
    by_key: dict[bytes, list[int]] = {}
    deadline = time.monotonic() + 60
    while len(found) < 10:
        assert time.monotonic() < deadline, f"{len(found)} of 10 came"
        message = consumer.poll(0.2)
        if message is None or message.error():
            continue
        headers = {k: v.decode() for k, v in message.headers()}
        assert headers["schema"] == "kinedge.episode/1" and headers["id"] not in found
        found[headers["id"]] = message.value()
        by_key.setdefault(message.key(), []).append(json.loads(message.value())["sequence"])
    consumer.close()
    assert found == {(e := envelope(i, sequence=i // 3 + 1)).id: e.to_bytes() for i in range(10)}
    assert set(by_key) == {b"home/gw-1/p01", b"home/gw-1/p02", b"home/gw-1/p03"}
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    sink.close()


def test_a_kafka_that_is_not_there_moves_no_cursor(store: CollectorStore) -> None:
    sink = KafkaSink("127.0.0.1:1", "episodes", timeout_s=0.5)
    relay = Relay(store, sink, batch=2)
    with pytest.raises(LinkError, match="2 of 2 records not taken"):
        relay.step()
    assert relay.cursor() == 0
    sink.close()


class FhirServer:
    """The part of a FHIR server that matters here: it validates, and creates only what is not there."""

    def __init__(self) -> None:
        self.resources: dict[str, Any] = {}
        self.n_requests = 0
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/fhir+json"
                server.n_requests += 1
                if server.status == 200:
                    Bundle.model_validate_json(body)
                    for entry in json.loads(body)["entry"]:
                        query = f"{entry['request']['url']}?{entry['request']['ifNoneExist']}"
                        server.resources.setdefault(query, entry["resource"])
                self.send_response(server.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/r4"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_fhir_server_gets_each_resource_once_however_often_it_is_sent(store: CollectorStore) -> None:
    server = FhirServer()
    sink = FhirSink(server.url)
    server.status = 503
    with pytest.raises(LinkError, match="503"):
        Relay(store, sink).step()
    server.status = 200
    assert Relay(store, sink).step() == 10
    kinds = [query.partition("?")[0] for query in server.resources]
    assert (kinds.count("Device"), kinds.count("Observation"), kinds.count("DetectedIssue")) == (1, 10, 10)
    sink.deliver([Relay(store, sink)._record(s.arrival, s.id, s.status, b) for s, b in store.next_bodies(0, limit=3)])
    assert len(server.resources) == 21
    sink.close()
    server.close()


def test_the_command_relays_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = FhirServer()
    store = CollectorStore(f"sqlite:///{tmp_path}/c.db")
    e = envelope()
    store.put_episode(e.id, e.to_bytes())
    store.close()
    arguments = ["collect", "relay", "--db", str(tmp_path / "c.db"), "--once", "--to", f"fhir+{server.url}"]
    for expected in (1, 1):
        assert main(arguments) == 0
        assert server.n_requests == expected
    assert "1 episodes" in capsys.readouterr().out
    server.close()


def test_a_sink_that_is_none_is_named() -> None:
    for bad in ("kafka://", "kafka://host:9092", "http://x", "", "mqtt://x/y"):
        with pytest.raises(ConfigError, match="no sink"):
            open_sink(bad)
    with pytest.raises(ConfigError, match="kafka"):
        open_sink("kafka://host:9092/topic?no.such.option=1")
