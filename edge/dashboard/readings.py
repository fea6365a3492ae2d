"""What takes the disk to find out, for the dashboard: how much waits for the collector, and today's episodes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kinedge.edge.store import EpisodeStore

__all__ = ["StoreReading", "read_store"]


@dataclass(frozen=True)
class StoreReading:
    """What the store says.

    Parameters
    ----------
    waiting_episodes, waiting_raw, quarantined
        Messages.
    oldest_utc_ns
        When the oldest waiting episode was kept.
    synced_utc_ns
        When the collector last took something that is still listed.
    n_today
        Episodes since midnight, by subject.
    """

    waiting_episodes: int = 0
    waiting_raw: int = 0
    quarantined: int = 0
    oldest_utc_ns: int | None = None
    synced_utc_ns: int | None = None
    n_today: Mapping[str, int] = field(default_factory=dict)


def read_store(store: EpisodeStore) -> StoreReading:
    """Look into the store; blocks for some milliseconds, any thread may call.

    Raises
    ------
    StoreError
        It cannot be read.
    """
    now = time.localtime()
    midnight_ns = round(time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))) * 1_000_000_000
    with store.database.reading() as connection:
        waiting = dict(
            connection.execute(
                "SELECT kind, count(*) FROM outbox WHERE state IN ('READY', 'LOCKED') GROUP BY kind"
            ).fetchall()
        )
        (quarantined,) = connection.execute("SELECT count(*) FROM outbox WHERE state = 'FAILED'").fetchone()
        (synced,) = connection.execute("SELECT max(changed_utc_ns) FROM outbox WHERE state = 'DONE'").fetchone()
        (oldest,) = connection.execute(
            """SELECT min(committed_utc_ns) FROM outbox JOIN episodes ON episodes.id = outbox.episode_id
               WHERE kind = 'episode' AND state IN ('READY', 'LOCKED')"""
        ).fetchone()
        today = connection.execute(
            "SELECT subject, count(*) FROM episodes WHERE start_utc_ns >= ? GROUP BY subject", (midnight_ns,)
        ).fetchall()
    return StoreReading(waiting.get("episode", 0), waiting.get("raw", 0), quarantined, oldest, synced, dict(today))
