"""Where stored episodes go on to: Kafka, a FHIR server, or whatever follows the same few words.

The database is the outbox. A relay reads it in order of arrival, hands episodes to a sink, and moves its cursor when
the sink has answered for all of them: at least once, in order, and a sink that was away for a week is caught up with.
Receivers tell repetitions by the episode's id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

import httpx
import sqlalchemy as sa

from kinedge.envelope import Envelope, parse_envelope
from kinedge.errors import ConfigError, LinkError
from kinedge.upstream.fhir import FHIR_MEDIA_TYPE, to_bundle
from kinedge.upstream.schema import CURSORS
from kinedge.upstream.store import CollectorStore

__all__ = ["FhirSink", "KafkaSink", "Record", "Relay", "Sink", "open_sink"]

_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Record:
    """An episode on its way out."""

    arrival: int
    envelope: Envelope
    body: bytes
    status: str
    raw: Callable[[], bytes | None]


class Sink(Protocol):
    """Takes episodes."""

    name: str

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand over, in order, and return when the other side has all of them.

        Raises
        ------
        LinkError
            It has not, or it is not known. They will be delivered again.
        """

    def close(self) -> None:
        """Let go of connections."""


class KafkaSink:
    """A topic of Apache Kafka: the key is gateway and subject, so that a subject's episodes keep their order.

    Every broker in sync must have a record (``acks=all``), and the producer numbers them, so that its own retries
    neither double nor reorder. Headers name id and schema.

    Parameters
    ----------
    servers
        ``host:port``, with commas.
    topic
        Make it before, with as many partitions as there will ever be consumers.
    options
        More of librdkafka's configuration, such as ``security.protocol``.

    Raises
    ------
    ConfigError
        confluent-kafka is not installed, or an option is none.
    """

    def __init__(
        self, servers: str, topic: str, *, options: dict[str, Any] | None = None, timeout_s: float = _TIMEOUT_S
    ) -> None:
        try:
            from confluent_kafka import KafkaException, Producer
        except ModuleNotFoundError as e:
            raise ConfigError("confluent-kafka is not installed; this needs: pip install 'kinedge[kafka]'") from e
        configuration = {
            "bootstrap.servers": servers,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "zstd",
            "delivery.timeout.ms": int(timeout_s * 1000),
            **(options or {}),
        }
        self.name = f"kafka {topic}"
        self._topic = topic
        self._timeout_s = timeout_s
        try:
            self._producer = Producer(configuration)
        except (KafkaException, ValueError, TypeError) as e:
            raise ConfigError(f"kafka {servers}: {e}") from e

    def deliver(self, records: Sequence[Record]) -> None:
        """Produce and wait for every acknowledgement.

        Raises
        ------
        LinkError
            A record was not acknowledged in time.
        """
        failed: list[str] = []

        def acknowledged(error: object, message: object) -> None:
            if error is not None:
                failed.append(str(error))

        try:
            for record in records:
                envelope = record.envelope
                self._producer.produce(
                    self._topic,
                    key=f"{envelope.site}/{envelope.gateway}/{envelope.subject}".encode(),
                    value=record.body,
                    headers={"id": envelope.id, "schema": envelope.schema_},
                    on_delivery=acknowledged,
                )
                self._producer.poll(0)
            n_left = self._producer.flush(self._timeout_s + 5)
        except BufferError as e:
            raise LinkError(f"{self.name}: the queue to the broker is full ({e}); it is tried again") from e
        if n_left or failed:
            reason = failed[0] if failed else "no acknowledgement"
            raise LinkError(f"{self.name}: {len(failed) + n_left} of {len(records)} records not taken ({reason})")

    def close(self) -> None:
        """Let go of the connections."""
        self._producer.flush(0)


class FhirSink:
    """A FHIR R4 server: each episode as a transaction Bundle of conditional creates.

    Parameters
    ----------
    base_url
        Of the server, ``https://fhir.example/r4``.
    client
        One of your own, for instance with a token; it is closed here.
    """

    def __init__(self, base_url: str, *, client: httpx.Client | None = None) -> None:
        self.name = f"fhir {urlsplit(base_url).netloc}"
        self._url = base_url.rstrip("/") or base_url
        self._client = client or httpx.Client(timeout=_TIMEOUT_S)

    def deliver(self, records: Sequence[Record]) -> None:
        """Post each Bundle.

        Raises
        ------
        LinkError
            The server did not commit a Bundle.
        """
        for record in records:
            bundle = to_bundle(record.envelope, record.raw(), status=record.status)
            headers = {"Content-Type": FHIR_MEDIA_TYPE, "Accept": FHIR_MEDIA_TYPE}
            try:
                answer = self._client.post(self._url, content=json.dumps(bundle), headers=headers)
            except (httpx.HTTPError, OSError) as e:
                raise LinkError(f"{self.name}: no answer ({e}); it is tried again") from e
            if answer.status_code != 200:
                raise LinkError(
                    f"{self.name}: {answer.status_code} for episode {record.envelope.id[:12]}: {answer.text[:300]}"
                )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Relay:
    """Brings episodes from a store to a sink, in order of arrival.

    Parameters
    ----------
    store
        The collector's; its database keeps the cursor, by the sink's name.
    sink
        Where they go.
    batch
        How many at a time.
    """

    def __init__(self, store: CollectorStore, sink: Sink, *, batch: int = 100) -> None:
        self._store = store
        self._sink = sink
        self._batch = batch

    def cursor(self) -> int:
        """Return the arrival of the last episode that the sink has."""
        with self._store.database.reading() as connection:
            found = connection.scalar(sa.select(CURSORS.c.arrival).where(CURSORS.c.sink == self._sink.name))
        return int(found or 0)

    def step(self) -> int:
        """Deliver one batch and say how many that was; 0: the sink has everything.

        Raises
        ------
        LinkError
            The sink did not take it; the cursor stays.
        StoreError
            The database does not answer.
        """
        cursor = self.cursor()
        found = self._store.next_bodies(cursor, limit=self._batch)
        if not found:
            return 0
        records = [self._record(summary.arrival, summary.id, summary.status, body) for summary, body in found]
        self._sink.deliver(records)
        row = {"sink": self._sink.name, "arrival": records[-1].arrival}

        def work(transaction: Any) -> None:
            changed = transaction.connection.execute(
                CURSORS.update().where(CURSORS.c.sink == row["sink"]).values(arrival=row["arrival"])
            )
            if changed.rowcount == 0:
                transaction.connection.execute(CURSORS.insert(), row)

        self._store.database.write(work)
        return len(records)

    def _record(self, arrival: int, id: str, status: str, body: bytes) -> Record:
        return Record(arrival, parse_envelope(body), body, status, lambda: self._store.raw(id))


def open_sink(url: str) -> Sink:
    """Open ``kafka://host:port,host:port/topic?security.protocol=SSL`` or ``fhir+https://fhir.example/r4``.

    Raises
    ------
    ConfigError
        The URL is neither, or what it needs is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "kafka" and parts.netloc and parts.path.strip("/"):
        return KafkaSink(parts.netloc, parts.path.strip("/"), options=dict(parse_qsl(parts.query)))
    if parts.scheme in ("fhir+https", "fhir+http") and parts.netloc:
        return FhirSink(url.removeprefix("fhir+"))
    raise ConfigError(f"{url!r} is no sink; write kafka://host:9092/topic or fhir+https://fhir.example/r4")
