"""What people say about episodes, and how it may enter a calibration: explicitly, and never by itself.

Whoever has looked at an episode says that it was ordinary (``dismissed``) or not (``confirmed``), and may take that
back (``withdrawn``). Each answer is one row of the store's audit chain, written in one transaction; the last one
counts, and none is ever changed. An answer alters no verdict. Only ``kinedge enrol --feedback`` takes answers into an
enrolment: the blocks of dismissed episodes, as ordinary movement that is not left out as abnormal; and what was
recorded of confirmed ones is left out. The new enrolment names them, and so does an audit row.

The samples of an episode are kept as the sensors sat on that day. They are not turned into the frames of the enrolment.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from kinedge.arrays import arrays_from_npz
from kinedge.edge import audit
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.file_cipher import connect, errors, file_key
from kinedge.edge.offline import score_recording
from kinedge.edge.schema import APPLICATION_ID, MIGRATIONS
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault
from kinedge.envelope import Envelope
from kinedge.errors import BundleError, SignalError, StoreError
from kinedge.recording import Recording
from kinedge.signals import SensorSpec, split_channel

__all__ = [
    "Answer",
    "Answered",
    "Entered",
    "answer_episode",
    "answers_in",
    "enter_dismissed",
    "latest_answers",
    "note_recalibration",
]

Answer = Literal["dismissed", "confirmed", "withdrawn"]

_EVENT: Final = "feedback"
_MIN_ID: Final = 8  # hex digits that may stand for an id


@dataclass(frozen=True)
class Answered:
    """An episode that somebody has looked at, with the answer that counts.

    Parameters
    ----------
    raw
        The samples around it; None where there were none, or they were pruned.
    """

    envelope: Envelope
    answer: Answer
    answered_utc_ns: int
    raw: bytes | None


@dataclass(frozen=True)
class Entered:
    """What became of one answered episode in an enrolment; ``why_not`` is empty where it entered."""

    episode: str
    answer: Answer
    n_blocks: int
    why_not: str = ""


def answer_episode(
    store: Path,
    id: str,
    answer: Answer,
    *,
    vault: Vault | None = None,
    wall_clock_ns: Callable[[], int] = time.time_ns,
) -> dict[str, str]:
    """Write an answer down; a gateway may be running on the store.

    Parameters
    ----------
    store
        Of the gateway.
    id
        Of the episode, or its first digits, eight at least.
    vault
        Where the whole file is encrypted.

    Returns
    -------
    dict
        What was written: ``episode``, ``subject`` and ``answer``.

    Raises
    ------
    StoreError
        There is no such store or episode, the digits are of several, or the disk does not take it.
    """
    if answer not in get_args(Answer):
        raise StoreError(f"an episode is {', '.join(get_args(Answer))}, not {answer!r}")
    if len(id) < _MIN_ID or not all(c in "0123456789abcdef" for c in id):
        raise StoreError(f"{id!r} is no id of an episode; give at least {_MIN_ID} of its hex digits")
    with _as_guest(store, vault) as connection:
        rows = connection.execute("SELECT id, subject FROM episodes WHERE id GLOB ? LIMIT 2", (f"{id}*",)).fetchall()
        if len(rows) != 1:
            many = "several episodes begin so; give more digits" if rows else "no such episode is kept here"
            raise StoreError(f"{store}: {id}: {many}; `kinedge episodes --json` shows whole ids")
        now_ns = wall_clock_ns()
        told = {"episode": str(rows[0][0]), "subject": str(rows[0][1]), "answer": str(answer)}
        audit.append(connection, _EVENT, {**told, "utc_ns": now_ns}, utc_ns=now_ns)
    return told


def latest_answers(store: EpisodeStore, *, subject: str | None = None) -> dict[str, tuple[Answer, int]]:
    """Return the answer that counts of each episode, and when it was given (UTC in ns); none that was withdrawn.

    Raises
    ------
    StoreError
        The store cannot be read, or its audit chain is broken: then no answer can be relied on.
    """
    store.verify_audit()
    last = {detail["episode"]: detail for detail in store.events(_EVENT)}
    return {
        id: (detail["answer"], detail["utc_ns"])
        for id, detail in last.items()
        if detail["answer"] != "withdrawn" and subject in (None, detail["subject"])
    }


def answers_in(store: EpisodeStore, *, subject: str | None = None) -> list[Answered]:
    """Return the episodes with an answer that stands, in the order they happened.

    Parameters
    ----------
    store
        May be open for reading alone.
    subject
        Whose; None: everybody's.

    Raises
    ------
    StoreError
        The store cannot be read, or its audit chain is broken: then no answer can be relied on.
    """
    found = []
    for id, (answer, utc_ns) in latest_answers(store, subject=subject).items():
        kept = store.episode(id)
        if kept is not None:
            found.append(Answered(kept.envelope, answer, utc_ns, store.raw(id)))
    return sorted(found, key=lambda a: a.envelope.start_utc_ns)


def note_recalibration(
    store: Path,
    entered: Iterable[Entered],
    *,
    subject: str,
    enrolment_digest: str,
    vault: Vault | None = None,
    wall_clock_ns: Callable[[], int] = time.time_ns,
) -> None:
    """Write down which answers an enrolment was made with, in one row.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    detail = {
        "subject": subject,
        "enrolment_digest": enrolment_digest,
        "entered": {e.episode: e.answer for e in entered if not e.why_not},
    }
    with _as_guest(store, vault) as connection:
        audit.append(connection, "recalibrated", detail, utc_ns=wall_clock_ns())


def enter_dismissed(builder: EnrolmentBuilder, scorer: Scorer, answered: Iterable[Answered]) -> Iterator[Entered]:
    """Take the blocks of dismissed episodes into an enrolment, as ordinary movement that is trusted to be so.

    Parameters
    ----------
    builder
        Already filled with recorded movement.
    scorer
        The model that the builder is for.
    answered
        Of the same person; only the dismissed ones are looked at.

    Yields
    ------
    Entered
        For each dismissed episode, with what kept it out, if anything did.
    """
    for one in answered:
        if one.answer != "dismissed":
            continue
        id = one.envelope.id
        if one.raw is None:
            yield Entered(id, one.answer, 0, "its samples are no longer here")
            continue
        try:
            piece = _unpacked(one.raw, one.envelope)
            grid = piece.select(scorer.manifest.sensor_specs)
        except (BundleError, SignalError, ValueError, KeyError) as e:
            yield Entered(id, one.answer, 0, f"its samples cannot be used ({e})")
            continue
        if grid.rate_hz != scorer.manifest.rate_hz:
            yield Entered(id, one.answer, 0, f"it was kept at {grid.rate_hz:g} Hz, the model needs another rate")
            continue
        n_blocks = _add(builder, scorer, grid, one)
        yield Entered(id, one.answer, n_blocks, "" if n_blocks else "no block of it can be used")


def _add(builder: EnrolmentBuilder, scorer: Scorer, grid: Recording, one: Answered) -> int:
    """Add the blocks that end while the episode lasted; what lies before is there for the model to warm up."""
    described = one.envelope.raw
    begins_ns = one.envelope.start_utc_ns if described is None else described.start_utc_ns
    before = builder.n_trusted
    for end, scores, surprise in score_recording(scorer, grid):
        now_ns = begins_ns + round(end / grid.rate_hz * 1e9)
        if one.envelope.start_utc_ns < now_ns <= one.envelope.end_utc_ns:
            builder.add_trusted(scores, surprise, 0)
    return builder.n_trusted - before


def _unpacked(raw: bytes, envelope: Envelope) -> Recording:
    """Read what ``kinedge.edge.episodes.pack_raw`` packed."""
    arrays = arrays_from_npz(raw, where=f"episode {envelope.id[:12]}")
    counts, channels = arrays["counts"], [str(c) for c in arrays["channels"]]
    if counts.ndim != 2 or counts.shape[1] != len(channels):
        raise ValueError(f"samples are {counts.shape}, and there are {len(channels)} channels")
    valid = counts != np.iinfo(np.int16).min
    values = np.where(valid, counts * arrays["scale_si"], 0.0).astype(np.float32)
    named = [split_channel(c) for c in channels]
    sensors = tuple(SensorSpec(s, tuple(c for t, c in named if t == s)) for s in dict.fromkeys(s for s, _ in named))
    return Recording(sensors, float(arrays["rate_hz"]), values, valid, subject=envelope.subject, session="episode")


@contextmanager
def _as_guest(store: Path, vault: Vault | None) -> Iterator[sqlite3.Connection]:
    """Write one transaction into a store that a gateway may have open: SQLite lets one at a time.

    Nothing is repaired, moved aside or brought up to date here: that is the gateway's.
    """
    try:
        address = f"{store.absolute().as_uri()}?mode=rw"
        key = file_key(store, vault, make=False)
        with closing(connect(address, key=key, uri=True, isolation_level=None, timeout=10.0)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            found = tuple(connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
            if found != (APPLICATION_ID, len(MIGRATIONS)):
                raise StoreError(f"{store}: not a store that this kinedge writes; start `kinedge run` with it once")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
    except errors() as e:
        raise StoreError(f"{store}: nothing was written ({e}); see that the file is there and not full") from e
