"""The collector's tables, in words that every SQL database understands; migrations.py makes them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

__all__ = [
    "AUDIT",
    "CERTIFICATES",
    "CURSORS",
    "EPISODES",
    "INVITATIONS",
    "MEASURES",
    "METADATA",
    "RAW_BLOBS",
    "REVIEWS",
    "SESSIONS",
    "SIGN_INS",
    "TALLIES",
    "UPLOADS",
]

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
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), nullable=False, default="new"),
    # Not unique: a gateway that lost its disk starts again at 1, and its episodes are still wanted.
    sa.Index("episodes_by_sequence", "gateway", "subject", "sequence"),
    sa.Index("episodes_by_subject", "subject", "arrival"),
    sa.Index("episodes_by_status", "status", "arrival"),
)
RAW_BLOBS: Final = sa.Table(
    "raw_blobs",
    METADATA,
    sa.Column("episode_id", sa.String(64), sa.ForeignKey("episodes.id"), primary_key=True),
    sa.Column("received_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary),  # none: it lies in the blob store, under its digest
)
UPLOADS: Final = sa.Table(
    "uploads",
    METADATA,
    sa.Column("episode_id", sa.String(64), sa.ForeignKey("episodes.id"), primary_key=True),
    sa.Column("first_byte", sa.BigInteger, primary_key=True),
    sa.Column("received_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
REVIEWS: Final = sa.Table(
    "reviews",
    METADATA,
    sa.Column("n", _SERIAL, primary_key=True, autoincrement=True),
    sa.Column("episode_id", sa.String(64), sa.ForeignKey("episodes.id"), nullable=False, index=True),
    sa.Column("utc_ns", sa.BigInteger, nullable=False),
    sa.Column("reviewer", sa.String(200), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
)
AUDIT: Final = sa.Table(
    "audit",
    METADATA,
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("utc_ns", sa.BigInteger, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
TALLIES: Final = sa.Table(
    "tallies",
    METADATA,
    sa.Column("utc_day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event", sa.String(32), primary_key=True),
    sa.Column("who", sa.String(200), primary_key=True),
    sa.Column("n", sa.BigInteger, nullable=False),
)
INVITATIONS: Final = sa.Table(
    "invitations",
    METADATA,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("expires_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("key_sha256", sa.String(64)),  # of the public key that used it; none: not used yet
)
CERTIFICATES: Final = sa.Table(
    "certificates",
    METADATA,
    sa.Column("serial", sa.String(64), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False, index=True),
    sa.Column("issued_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("expires_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("revoked_utc_ns", sa.BigInteger),
)
CURSORS: Final = sa.Table(
    "cursors",
    METADATA,
    sa.Column("sink", sa.String(200), primary_key=True),
    sa.Column("arrival", sa.BigInteger, nullable=False),
)
MEASURES: Final = sa.Table(
    "measures",
    METADATA,
    sa.Column("arrival", _SERIAL, primary_key=True, autoincrement=True),  # a later row of a day arrives anew
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("site", sa.String(64), nullable=False),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("part", sa.String(16), nullable=False),
    sa.Column("day", sa.String(10), nullable=False),
    sa.Column("as_of_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("received_utc_ns", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("measures_by_day", "subject", "day", "part", "gateway", unique=True),
)
SESSIONS: Final = sa.Table(
    "sessions",
    METADATA,
    sa.Column("secret_sha256", sa.String(64), primary_key=True),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("rights", sa.String(100), nullable=False),
    sa.Column("expires_utc_ns", sa.BigInteger, nullable=False),
)
SIGN_INS: Final = sa.Table(  # on their way through the identity provider
    "sign_ins",
    METADATA,
    sa.Column("secret_sha256", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(64), nullable=False),
    sa.Column("nonce", sa.String(64), nullable=False),
    sa.Column("verifier", sa.String(128), nullable=False),
    sa.Column("expires_utc_ns", sa.BigInteger, nullable=False),
)
