"""Generations of the online store: which one is being filled, which one serves (DESIGN 7).

A generation is `building` while offline rows fill it, `following` once streams feed it too, then `serving`.
The one that it replaces is `standby`, still fed, so that it can serve again at once; later `retired`, fed and
read no more, and in the end `dropped`: the online store holds nothing of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from featurestore.contracts import lasting
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


_ENDED = ("retired", "dropped")


@dataclass(frozen=True)
class Generation:
    """One filling of the online store with a set's state, and its `status`.

    `cut` is the position per partition, exclusive, up to which offline rows were there when it was begun.
    `retired_at` is when it ceased to serve, then when it was retired.
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
    lasts: bool = False,
) -> Generation:
    """Return a new generation, building, under a random id of 10 hexadecimal digits.

    With `lasts` the id tells the store that its entities never expire.
    """
    made = secrets.token_hex(5)
    if lasts:
        made = lasting(made)
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


def begin(
    connection: sa.Connection,
    project: str,
    set_name: str,
    state_fingerprint: str,
    store: str,
    cut: Mapping[str, int],
    now: int,
    lasts: bool = False,
) -> Generation:
    """Return the generation of the state that is being filled, the oldest; a new one where there is none."""
    query = _select().where(
        *_same(project, set_name, state_fingerprint, store),
        generations.c.status.in_(("building", "following")),
    )
    row = connection.execute(query.order_by(generations.c.number).limit(1)).first()
    if row is not None:
        return Generation(*row)
    return create(connection, project, set_name, state_fingerprint, store, cut, now, lasts)


def follow(connection: sa.Connection, generation: str) -> Generation:
    """Let streams feed a building generation; return it. Raises OperatorError when it is retired."""
    found = get(connection, generation)
    _refuse_retired(found)
    if found.status == "building":
        _set(connection, generation, status="following")
    return get(connection, generation)


def promote(connection: sa.Connection, generation: str, now: int, keep: bool = True) -> Generation:
    """Make a generation the one that serves; the one that did is standby (`keep`) or retired; return it.

    One that serves already stays, and what was standby before is retired. Raises OperatorError when it is
    retired.
    """
    wanted = get(connection, generation)
    if wanted.status == "serving":
        return wanted
    _refuse_retired(wanted)
    same = _same(wanted.project, wanted.set_name, wanted.state_fingerprint, wanted.store)
    connection.execute(
        sa.update(generations)
        .where(*same, generations.c.status == "standby", generations.c.id != generation)
        .values(status="retired", retired_at=now)
    )
    connection.execute(
        sa.update(generations)
        .where(*same, generations.c.status == "serving")
        .values(status="standby" if keep else "retired", retired_at=now)
    )
    _set(connection, generation, status="serving", promoted_at=now, retired_at=None)
    return get(connection, generation)


def retire(connection: sa.Connection, generation: str, now: int) -> Generation:
    """Mark a generation retired, whatever it was; return it. One that is retired or dropped stays."""
    if get(connection, generation).status not in _ENDED:
        _set(connection, generation, status="retired", retired_at=now)
    return get(connection, generation)


def dropped(connection: sa.Connection, generation: str) -> None:
    """Note that the online store holds nothing of a generation any more."""
    _set(connection, generation, status="dropped")


def _refuse_retired(found: Generation) -> None:
    if found.status in _ENDED:
        raise OperatorError(
            f"Generation '{found.id}' of '{found.set_name}' is retired and cannot serve.",
            hint=f"Run: featurestore materialize {found.set_name}",
        )


def _same(project: str, set_name: str, state_fingerprint: str, store: str) -> list[sa.ColumnElement[bool]]:
    return [
        generations.c.project == project,
        generations.c.set_name == set_name,
        generations.c.state_fingerprint == state_fingerprint,
        generations.c.store == store,
    ]


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
