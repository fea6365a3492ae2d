"""A raw blob in pieces: each piece is committed, so a cut connection costs one piece, and the whole is checked.

The pieces lie in the database, where every collector of a fleet finds them; they are gone once the blob is whole.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from kinedge.upstream.database import Transaction
from kinedge.upstream.schema import UPLOADS

__all__ = ["add_piece", "forget_pieces", "joined", "offset", "prune"]

ABANDONED_NS: Final = 7 * 86_400 * 10**9


def offset(connection: sa.Connection, episode_id: str) -> int:
    """Return how many bytes are here, counted without gaps."""
    c = UPLOADS.c
    last = connection.execute(
        sa.select(c.first_byte, sa.func.length(c.data)).where(c.episode_id == episode_id)
        .order_by(c.first_byte.desc()).limit(1)
    ).first()  # fmt: skip
    return 0 if last is None else int(last[0] + last[1])


def add_piece(transaction: Transaction, episode_id: str, first_byte: int, data: bytes) -> None:
    """Keep a piece that begins where the ones before end."""
    row = {"episode_id": episode_id, "first_byte": first_byte, "received_utc_ns": transaction.utc_ns, "data": data}
    transaction.connection.execute(UPLOADS.insert(), row)


def joined(connection: sa.Connection, episode_id: str) -> bytes:
    """Return all pieces, one after the other."""
    query = sa.select(UPLOADS.c.data).where(UPLOADS.c.episode_id == episode_id).order_by(UPLOADS.c.first_byte)
    return b"".join(connection.scalars(query))


def forget_pieces(transaction: Transaction, episode_id: str) -> None:
    """Drop the pieces of an episode's blob."""
    transaction.connection.execute(UPLOADS.delete().where(UPLOADS.c.episode_id == episode_id))


def prune(transaction: Transaction) -> int:
    """Drop uploads that nobody went on with for a week; say how many pieces."""
    newest = (
        sa.select(UPLOADS.c.episode_id)
        .group_by(UPLOADS.c.episode_id)
        .having(sa.func.max(UPLOADS.c.received_utc_ns) < transaction.utc_ns - ABANDONED_NS)
    )
    return transaction.connection.execute(UPLOADS.delete().where(UPLOADS.c.episode_id.in_(newest))).rowcount
