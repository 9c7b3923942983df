"""Who is at work: streams of a source, and those who fill a generation, say so now and then."""

from __future__ import annotations

import sqlalchemy as sa

from featurestore.registry.schema import heartbeats


def beat(connection: sa.Connection, project: str, name: str, holder: str, now: int) -> None:
    """Note that `holder` is at work on `name` now."""
    named = _named(project, name, holder)
    if connection.execute(sa.update(heartbeats).where(*named).values(seen_at=now)).rowcount == 0:
        connection.execute(
            sa.insert(heartbeats).values(project=project, name=name, holder=holder, seen_at=now)
        )


def rest(connection: sa.Connection, project: str, name: str, holder: str) -> None:
    """Note that `holder` works on `name` no more."""
    connection.execute(sa.delete(heartbeats).where(*_named(project, name, holder)))


def latest(connection: sa.Connection, project: str) -> dict[str, int]:
    """Return when anyone was last seen at work, by name."""
    rows = connection.execute(
        sa.select(heartbeats.c.name, sa.func.max(heartbeats.c.seen_at))
        .where(heartbeats.c.project == project)
        .group_by(heartbeats.c.name)
    )
    return {row[0]: row[1] for row in rows}


def forget(connection: sa.Connection, project: str, before: int) -> None:
    """Delete what was noted before an instant."""
    connection.execute(
        sa.delete(heartbeats).where(heartbeats.c.project == project, heartbeats.c.seen_at < before)
    )


def _named(project: str, name: str, holder: str) -> list[sa.ColumnElement[bool]]:
    columns = heartbeats.c
    return [columns.project == project, columns.name == name, columns.holder == holder]
