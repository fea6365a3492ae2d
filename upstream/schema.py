"""The collector's tables, in words that every SQL database understands."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

__all__ = ["AUDIT", "EPISODES", "METADATA", "RAW_BLOBS"]

METADATA: Final = sa.MetaData()
_SERIAL: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")

EPISODES: Final = sa.Table(
    "episodes",
    METADATA,
    sa.Column("arrival", _SERIAL, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("site", sa.String(64), nullable=False),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("start_utc_ns", sa.BigInteger, nullable=False, index=True),
    sa.Column("end_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("received_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("body_sha256", sa.String(64), nullable=False),
    sa.Column("raw_sha256", sa.String(64)),
    sa.Column("body", sa.LargeBinary, nullable=False),
    # Not unique: a gateway that lost its disk starts again at 1, and its episodes are still wanted.
    sa.Index("episodes_by_sequence", "gateway", "subject", "sequence"),
    sa.Index("episodes_by_subject", "subject", "arrival"),
)
RAW_BLOBS: Final = sa.Table(
    "raw_blobs",
    METADATA,
    sa.Column("episode_id", sa.String(64), sa.ForeignKey("episodes.id"), primary_key=True),
    sa.Column("received_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
AUDIT: Final = sa.Table(
    "audit",
    METADATA,
    sa.Column("n", _SERIAL, primary_key=True, autoincrement=True),
    sa.Column("utc_ns", sa.BigInteger, nullable=False),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("episode_id", sa.String(64), nullable=False),
    sa.Column("body_sha256", sa.String(64)),
    sa.Column("detail", sa.String(500), nullable=False),
)
