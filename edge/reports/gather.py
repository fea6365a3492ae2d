"""What a gateway's store or a collector has of one person, for a report: read, never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from kinedge.edge.feedback import latest_answers
from kinedge.edge.measures_store import KeptRow, MeasuresStore
from kinedge.edge.reports.person import MIN_WORN_H, Gathered, latest_week
from kinedge.edge.reports.week import EPOCH, Week
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault
from kinedge.edge.verdict_hours import VerdictHours
from kinedge.envelope import Envelope, parse_envelope
from kinedge.errors import ConfigError, LinkError, OutboxError, StoreError
from kinedge.measures_envelope import parse_measures

__all__ = ["from_collector", "from_store"]

_MANY: Final = 100_000
_TREND_DAYS: Final = 28  # before the week, that its trend is drawn over
_SLOW_NS: Final = 400 * 86_400 * 10**9  # a slow change began at most so long before it was told
_TIMEOUT_S: Final = 30.0
_MAX_LINE: Final = 1 << 21


def from_store(
    path: Path,
    subject: str | None,
    week: Week | None,
    *,
    vault: Vault | None = None,
    zone: str = "",
    min_worn_h: Mapping[str, float] = MIN_WORN_H,
) -> tuple[Gathered, Week]:
    """Read a week of a person from a gateway's store; the gateway may be running on it.

    Parameters
    ----------
    path
        Of the SQLite file.
    subject
        Whose; None where the store is of one person.
    week
        None: the latest of which anything is kept.
    vault
        Of a sealed store.
    zone
        Of the local times; empty: this machine's.
    min_worn_h
        By part: a day with less wear says nothing.

    Raises
    ------
    StoreError
        There is no store, it cannot be read, or it is sealed and there is no key.
    ConfigError
        The person is not in it, or several are and none was named.
    """
    with EpisodeStore(path, read_only=True, vault=vault) as store:
        subject = _whom(_subjects(store), subject, where=str(path))
        measures, hours = MeasuresStore(store.database), VerdictHours(store.database)
        rows = measures.rows(subject=subject, level="day") if _has(store, "measures") else []
        if week is None:
            newest = [s.envelope for s in store.episodes(subject=subject, limit=1)]
            seen = Gathered(subject, "store", rows, hours.rows(subject=subject), newest, zone=zone)
            week = latest_week(seen)
            if week is None:
                raise ConfigError(f"{path}: nothing is kept of {subject} yet")
        first_hour = week.first_day * 24
        status, broken = _answers(store, subject)
        found = Gathered(
            subject=subject,
            where="store",
            rows=[r for r in rows if week.first_day - _TREND_DAYS <= r.start < week.first_day + 7],
            hours=hours.rows(subject=subject, first_hour=first_hour, end_hour=first_hour + 7 * 24),
            episodes=_episodes(store, subject, week, zone),
            status=status,
            min_worn_h=min_worn_h,
            zone=zone,
            audit_broken=broken,
        )
    return found, week


def from_collector(
    url: str, subject: str | None, week: Week | None, *, token: str | None = None, zone: str = ""
) -> tuple[Gathered, Week]:
    """Ask a collector for a person's week: days of measures, episodes, and what people said of them.

    Raises
    ------
    LinkError
        No collector answers there, or it refuses.
    ConfigError
        No person or no week was named and there are several, or none.
    """
    with _asking(url, token) as client:
        parameters = {"order": "newest", "limit": "1000"} | ({"subject": subject} if subject else {})
        newest = _json(client, "/v1/episodes", parameters)["episodes"]
        subject = _whom({str(e["subject"]) for e in newest}, subject, where=url)
        if week is None:
            own = [e for e in newest if e["subject"] == subject]
            bodies = [json.dumps(_json(client, f"/v1/episodes/{e['id']}", {})).encode() for e in own[:1]]
            week = latest_week(Gathered(subject, "collector", episodes=[parse_envelope(b) for b in bodies], zone=zone))
            if week is None:
                raise ConfigError(f"{url}: no episode of {subject} is there")
        start_ns, end_ns = week.utc_ns(zone)
        episodes, status, received = [], {}, 0
        asked = {"format": "jsonl", "subject": subject, "since": str(max(0, start_ns - _SLOW_NS)), "until": str(end_ns)}
        for line in _lines(client, "/v1/export", asked):
            if line["envelope"].get("change") is None and int(line["start_utc_ns"]) < start_ns:
                continue
            episodes.append(parse_envelope(json.dumps(line["envelope"]).encode()))
            status[str(line["id"])] = str(line["status"])
            received = max(received, int(line["received_utc_ns"]))
        rows = _days(client, subject, week)
    return Gathered(subject, "collector", rows, (), episodes, status, zone=zone, written_utc_ns=received), week


def _days(client: httpx.Client, subject: str, week: Week) -> list[KeptRow]:
    """Return the days of measures around a week; of one that came from several gateways the latest row."""
    first, end = (str(EPOCH + timedelta(days=week.first_day + d)) for d in (-_TREND_DAYS, 7))
    found: dict[tuple[str, int], KeptRow] = {}
    try:
        asked = {"format": "jsonl", "subject": subject, "since": first, "until": end}
        for line in _lines(client, "/v1/measures/export", asked):
            own = {k: v for k, v in line.items() if k not in ("arrival", "received_utc_ns")}
            day = parse_measures(json.dumps(own).encode())
            start = (date.fromisoformat(day.day) - EPOCH).days
            content = day.model_dump(mode="json", exclude={"id", "schema_"})
            if content["watched"] is None:
                del content["watched"]
            known = found.get((day.part, start))
            if known is None or known.changed_utc_ns < day.as_of_utc_ns:
                found[day.part, start] = KeptRow(subject, day.part, "day", start, day.as_of_utc_ns, content)
    except _NotThere:
        return []
    return list(found.values())


def _whom(subjects: set[str], subject: str | None, *, where: str) -> str:
    if subject is not None:
        if subject not in subjects:
            known = f"; there are {', '.join(sorted(subjects)[:20])}" if subjects else ""
            raise ConfigError(f"{where}: nothing is kept of {subject}{known}")
        return subject
    if len(subjects) != 1:
        known = f"several people ({', '.join(sorted(subjects)[:20])})" if subjects else "nobody yet"
        raise ConfigError(f"{where}: has {known}; name one with --subject")
    return next(iter(subjects))


def _has(store: EpisodeStore, table: str) -> bool:
    with store.database.reading() as connection:
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None


def _subjects(store: EpisodeStore) -> set[str]:
    found: set[str] = set()
    for table in ("episodes", "measures", "verdict_hours"):
        if _has(store, table):
            with store.database.reading() as connection:
                found |= {str(s) for (s,) in connection.execute(f"SELECT DISTINCT subject FROM {table}")}
    return found


def _episodes(store: EpisodeStore, subject: str, week: Week, zone: str) -> list[Envelope]:
    start_ns, end_ns = week.utc_ns(zone)
    found = store.episodes(subject=subject, since_utc_ns=start_ns, until_utc_ns=end_ns, limit=_MANY)
    # a slow change is told long after it began: those that were kept since the week's beginning are looked through
    since = max(0, start_ns - _SLOW_NS)
    earlier = store.episodes(
        subject=subject, since_utc_ns=since, until_utc_ns=start_ns, committed_since_utc_ns=start_ns, limit=_MANY
    )
    return [s.envelope for s in [*found, *(e for e in earlier if e.envelope.change is not None)]]


def _answers(store: EpisodeStore, subject: str) -> tuple[dict[str, str], bool]:
    """Return what people said of episodes here, and whether the trail that holds it is broken."""
    try:
        return {id: str(answer) for id, (answer, _) in latest_answers(store, subject=subject).items()}, False
    except StoreError:
        try:
            store.verify_audit()
        except StoreError:
            return {}, True
        raise


@contextmanager
def _asking(url: str, token: str | None) -> Iterator[httpx.Client]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_S) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, TypeError, OutboxError) as e:
        raise LinkError(f"{url}: no collector answers there ({e}); check the address and that it runs") from e


def _json(client: httpx.Client, path: str, parameters: Mapping[str, str]) -> Any:
    answer = client.get(path, params=dict(parameters))
    _check(client, answer.status_code, answer.content)
    return answer.json()


def _lines(client: httpx.Client, path: str, parameters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    with client.stream("GET", path, params=dict(parameters)) as answer:
        if answer.status_code != 200:
            answer.read()
            _check(client, answer.status_code, answer.content)
        for line in answer.iter_lines():
            if len(line) > _MAX_LINE:
                raise ValueError(f"a line of {len(line)} characters")
            if line:
                yield json.loads(line)


class _NotThere(LinkError):
    """The collector is of a version that does not know this."""


def _check(client: httpx.Client, status: int, content: bytes) -> None:
    if status == 200:
        return
    try:
        message = str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "not a collector"
    kind = _NotThere if status == 404 else LinkError
    raise kind(f"{client.base_url}: {status} {message}; check address, token and rights")
