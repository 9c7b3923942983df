"""Generations of the online store: which one is being filled, which one serves (DESIGN 7)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from featurestore.errors import OperatorError, RequestError
from featurestore.registry.schema import generations

_COLUMNS = (
    "id",
    "project",
    "set_name",
    "state_fingerprint",
    "store",
    "status",
    "cut",
    "created_at",
    "promoted_at",
    "retired_at",
)


@dataclass(frozen=True)
class Generation:
    """One filling of the online store with a set's state. `status`: building, serving or retired.

    `cut` is the position per partition, exclusive, up to which the offline rows filled it.
    """

    id: str
    project: str
    set_name: str
    state_fingerprint: str
    store: str
    status: str
    cut: Mapping[str, int]
    created_at: int
    promoted_at: int | None
    retired_at: int | None


def create(
    connection: sa.Connection,
    project: str,
    set_name: str,
    state_fingerprint: str,
    store: str,
    cut: Mapping[str, int],
    now: int,
) -> Generation:
    """Return a new generation, building, under a random id of 10 hexadecimal digits."""
    made = secrets.token_hex(5)
    connection.execute(
        sa.insert(generations).values(
            id=made,
            project=project,
            set_name=set_name,
            state_fingerprint=state_fingerprint,
            store=store,
            status="building",
            cut=dict(cut),
            created_at=now,
        )
    )
    return get(connection, made)


def get(connection: sa.Connection, generation: str) -> Generation:
    """Return the generation of that id. Raises RequestError when there is none."""
    row = connection.execute(_select().where(generations.c.id == generation)).first()
    if row is None:
        raise RequestError(f"There is no generation '{generation}'.", hint="Run: featurestore status")
    return Generation(*row)


def promote(connection: sa.Connection, generation: str, now: int) -> Generation:
    """Make a building generation the one that serves, retire the one that did; return it.

    One that serves already stays. Raises OperatorError when it is retired.
    """
    wanted = get(connection, generation)
    if wanted.status == "serving":
        return wanted
    if wanted.status == "retired":
        raise OperatorError(
            f"Generation '{generation}' of '{wanted.set_name}' is retired and cannot serve.",
            hint=f"Run: featurestore materialize {wanted.set_name}",
        )
    connection.execute(
        sa.update(generations)
        .where(
            generations.c.project == wanted.project,
            generations.c.set_name == wanted.set_name,
            generations.c.state_fingerprint == wanted.state_fingerprint,
            generations.c.store == wanted.store,
            generations.c.status == "serving",
        )
        .values(status="retired", retired_at=now)
    )
    _set(connection, generation, status="serving", promoted_at=now)
    return get(connection, generation)


def retire(connection: sa.Connection, generation: str, now: int) -> Generation:
    """Mark a generation retired, building or serving; return it. One that is retired stays."""
    if get(connection, generation).status != "retired":
        _set(connection, generation, status="retired", retired_at=now)
    return get(connection, generation)


def serving(
    connection: sa.Connection, project: str, set_name: str, state_fingerprint: str, store: str | None
) -> Generation | None:
    """Return the generation that serves the set's state in `store` (any, where it is None), if one does."""
    query = _select().where(
        generations.c.project == project,
        generations.c.set_name == set_name,
        generations.c.state_fingerprint == state_fingerprint,
        generations.c.status == "serving",
    )
    if store is not None:
        query = query.where(generations.c.store == store)
    row = connection.execute(query.order_by(generations.c.promoted_at.desc()).limit(1)).first()
    return None if row is None else Generation(*row)


def find(
    connection: sa.Connection, project: str, set_name: str | None, status: str | None
) -> list[Generation]:
    """Return a project's generations, of a set and in a status where they are given, oldest first."""
    query = _select().where(generations.c.project == project)
    if set_name is not None:
        query = query.where(generations.c.set_name == set_name)
    if status is not None:
        query = query.where(generations.c.status == status)
    return [Generation(*row) for row in connection.execute(query.order_by(generations.c.number))]


def _set(connection: sa.Connection, generation: str, **values: Any) -> None:
    connection.execute(sa.update(generations).where(generations.c.id == generation).values(**values))


def _select() -> sa.Select[Any]:
    return sa.select(*(generations.c[name] for name in _COLUMNS))
