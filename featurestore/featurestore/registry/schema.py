"""The registry's tables. Times are UTC microseconds, documents are JSON text."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

VERSION = 3
"""1, without `checks`, and 2, without `heartbeats`, are brought up to date when they are opened."""

metadata = sa.MetaData()


class Document(sa.types.TypeDecorator[Any]):
    """A JSON value as text, the same in every database; the order of keys is kept."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Return the text to store."""
        return json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """Return the value that was stored."""
        return None if value is None else json.loads(value)


def _name(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String, nullable=False, primary_key=primary_key)


def _number() -> sa.Column[int]:
    """A column that counts rows in the order of their commits."""
    return sa.Column("number", sa.Integer, primary_key=True, autoincrement=True)


registry_version = sa.Table(
    "registry_version", metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False)
)

versions = sa.Table(
    "versions",
    metadata,
    _number(),
    _name("project"),
    _name("kind"),
    _name("name"),
    _name("fingerprint"),
    sa.Column("bundle", Document, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    _name("author"),
    sa.UniqueConstraint("project", "kind", "name", "fingerprint"),
)

objects = sa.Table(
    "objects",
    metadata,
    _name("project", primary_key=True),
    _name("kind", primary_key=True),
    _name("name", primary_key=True),
    _name("fingerprint"),  # of the latest version
    sa.Column("applied_at", sa.BigInteger, nullable=False),
    sa.Column("removed_at", sa.BigInteger),
)

tags = sa.Table(
    "tags",
    metadata,
    _name("project", primary_key=True),
    _name("kind", primary_key=True),
    _name("name", primary_key=True),
    _name("tag", primary_key=True),
    _name("fingerprint"),
    sa.Column("moved_at", sa.BigInteger, nullable=False),
)

pins = sa.Table(
    "pins",
    metadata,
    _number(),
    _name("project"),
    _name("name"),
    _name("fingerprint"),
    sa.Column("sets", Document, nullable=False),
    sa.Column("fits", Document, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("pins_of_version", "project", "name", "fingerprint"),
)

generations = sa.Table(
    "generations",
    metadata,
    _number(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _name("project"),
    _name("set_name"),
    _name("state_fingerprint"),
    _name("store"),
    _name("status"),
    sa.Column("cut", Document, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("promoted_at", sa.BigInteger),
    sa.Column("retired_at", sa.BigInteger),
    sa.Index("generations_of_set", "project", "set_name", "state_fingerprint"),
)

heartbeats = sa.Table(
    "heartbeats",
    metadata,
    _name("project", primary_key=True),
    _name("name", primary_key=True),
    _name("holder", primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

fits = sa.Table(
    "fits",
    metadata,
    _number(),
    _name("id"),
    _name("project"),
    _name("kind"),
    _name("name"),
    _name("fingerprint"),
    sa.Column("until", sa.BigInteger),
    sa.Column("fitted", Document, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("project", "id"),
)

statistics = sa.Table(
    "statistics",
    metadata,
    _name("project", primary_key=True),
    _name("set_name", primary_key=True),
    _name("fingerprint", primary_key=True),
    _name("feature", primary_key=True),
    sa.Column("state", Document, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

checks = sa.Table(
    "checks",
    metadata,
    _name("project", primary_key=True),
    _name("set_name", primary_key=True),
    _name("fingerprint", primary_key=True),
    _name("name", primary_key=True),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

ingests = sa.Table(
    "ingests",
    metadata,
    _number(),
    _name("project"),
    _name("set_name"),
    sa.Column("report", Document, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("ingests_of_set", "project", "set_name", "number"),
)

training_sets = sa.Table(
    "training_sets",
    metadata,
    _number(),
    _name("id"),
    _name("project"),
    _name("vector"),
    _name("fingerprint"),
    sa.Column("parameters", Document, nullable=False),
    sa.Column("positions", Document, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("project", "id"),
)
