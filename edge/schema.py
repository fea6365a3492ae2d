"""The tables of the episode store, as steps from each version of the file to the next."""

from __future__ import annotations

from typing import Final

__all__ = ["APPLICATION_ID", "MIGRATIONS"]

APPLICATION_ID: Final = 0x6B696E65  # "kine", in the header of the file

# One entry a version of the file; an entry, once released, never changes.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE sequences (
            gateway TEXT NOT NULL, subject TEXT NOT NULL, last INTEGER NOT NULL,
            PRIMARY KEY (gateway, subject)) STRICT""",
        """CREATE TABLE drafts (
            key TEXT PRIMARY KEY, content TEXT NOT NULL, raw BLOB NOT NULL,
            opened_utc_ns INTEGER NOT NULL, saved_utc_ns INTEGER NOT NULL) STRICT""",
        """CREATE TABLE episodes (
            id TEXT PRIMARY KEY, gateway TEXT NOT NULL, subject TEXT NOT NULL, sequence INTEGER NOT NULL,
            start_utc_ns INTEGER NOT NULL, committed_utc_ns INTEGER NOT NULL, body BLOB NOT NULL,
            UNIQUE (gateway, subject, sequence)) STRICT""",
        "CREATE INDEX episodes_by_subject ON episodes (subject, start_utc_ns)",
        "CREATE INDEX episodes_by_start ON episodes (start_utc_ns)",
        """CREATE TABLE raw_blobs (
            n INTEGER PRIMARY KEY, episode_id TEXT NOT NULL UNIQUE REFERENCES episodes (id),
            n_bytes INTEGER NOT NULL, data BLOB NOT NULL) STRICT""",
        "CREATE INDEX raw_blob_sizes ON raw_blobs (n_bytes)",
        # Commit order n is also the sequence order within a subject.
        """CREATE TABLE outbox (
            n INTEGER PRIMARY KEY, episode_id TEXT NOT NULL REFERENCES episodes (id),
            kind TEXT NOT NULL CHECK (kind IN ('episode', 'raw')),
            gateway TEXT NOT NULL, subject TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('READY', 'LOCKED', 'DONE', 'FAILED')),
            attempts INTEGER NOT NULL DEFAULT 0,
            not_before_monotonic_ns INTEGER NOT NULL DEFAULT 0,
            locked_monotonic_ns INTEGER NOT NULL DEFAULT 0,
            changed_utc_ns INTEGER NOT NULL, last_error TEXT,
            UNIQUE (episode_id, kind)) STRICT""",
        """CREATE INDEX outbox_open ON outbox (kind, gateway, subject, n, state, not_before_monotonic_ns)
            WHERE state IN ('READY', 'LOCKED')""",
        "CREATE INDEX outbox_by_state ON outbox (state, changed_utc_ns)",
        "CREATE INDEX outbox_raw ON outbox (state, n) WHERE kind = 'raw'",
        """CREATE TABLE audit (
            n INTEGER PRIMARY KEY, utc_ns INTEGER NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL,
            digest TEXT NOT NULL) STRICT""",
    ),
    (
        # Hours and days of measures: start counts local hours or days since 1970-01-01.
        """CREATE TABLE measures (
            subject TEXT NOT NULL, part TEXT NOT NULL, level TEXT NOT NULL CHECK (level IN ('hour', 'day')),
            start INTEGER NOT NULL, changed_utc_ns INTEGER NOT NULL, content TEXT NOT NULL,
            PRIMARY KEY (subject, part, level, start)) STRICT, WITHOUT ROWID""",
        # What measuring goes on from after a restart.
        """CREATE TABLE measure_states (
            subject TEXT NOT NULL, part TEXT NOT NULL, saved_utc_ns INTEGER NOT NULL, state BLOB NOT NULL,
            PRIMARY KEY (subject, part)) STRICT""",
    ),
    (
        # How often each answer was given: hour counts local hours since 1970-01-01; content is sealed where a key is.
        """CREATE TABLE verdict_hours (
            subject TEXT NOT NULL, hour INTEGER NOT NULL, basis TEXT NOT NULL, changed_utc_ns INTEGER NOT NULL,
            content BLOB NOT NULL, PRIMARY KEY (subject, hour, basis)) STRICT, WITHOUT ROWID""",
    ),
    (
        # The latest row of each day of measures that is to go upstream, or has gone; a body is empty once it has.
        """CREATE TABLE measures_outbox (
            subject TEXT NOT NULL, part TEXT NOT NULL, day INTEGER NOT NULL, id TEXT NOT NULL,
            as_of_utc_ns INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('READY', 'DONE', 'FAILED')),
            changed_utc_ns INTEGER NOT NULL, last_error TEXT, body BLOB NOT NULL,
            PRIMARY KEY (subject, part, day)) STRICT""",
        "CREATE INDEX measures_unsent ON measures_outbox (day) WHERE state = 'READY'",
    ),
)
