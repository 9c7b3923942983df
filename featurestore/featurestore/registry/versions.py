"""Versions and the names that point at them. Each function works inside its caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from featurestore.errors import OperatorError, RequestError, UnknownName, did_you_mean
from featurestore.registry.schema import objects, pins, tags, versions
from featurestore.tags import LATEST, NEXT, PREVIOUS

_HEX = re.compile(r"[0-9a-f]+$")
_TAG = re.compile(r"[a-z][a-z0-9_.-]*$")
_SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class NewVersion:
    """A declaration to apply: its fingerprint, and the closure of declarations that it needs.

    A vector also pins its sets (name to fingerprint) and its fits (name to fit id).
    """

    kind: str
    name: str
    fingerprint: str
    bundle: Mapping[str, Any]
    sets: Mapping[str, str] = field(default_factory=dict)
    fits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Version:
    """An applied declaration. It never changes."""

    project: str
    kind: str
    name: str
    fingerprint: str
    bundle: Mapping[str, Any]
    created_at: int
    author: str


@dataclass(frozen=True)
class Pins:
    """What a vector's version reads: each set's fingerprint and each fit's id, as of its last apply."""

    sets: Mapping[str, str]
    fits: Mapping[str, str]
    created_at: int


def state(connection: sa.Connection, project: str) -> dict[tuple[str, str], str]:
    """Return the latest fingerprint by (kind, name) of what is applied and not removed."""
    rows = connection.execute(
        sa.select(objects.c.kind, objects.c.name, objects.c.fingerprint).where(
            objects.c.project == project, objects.c.removed_at.is_(None)
        )
    )
    return {(kind, name): fingerprint for kind, name, fingerprint in rows}


def apply(
    connection: sa.Connection,
    project: str,
    new: Sequence[NewVersion],
    removed: Iterable[tuple[str, str]],
    saw: Mapping[tuple[str, str], str],
    author: str,
    now: int,
) -> list[Version]:
    """Add versions, point `latest` at them, mark what is removed; return the versions, old ones too.

    Raises OperatorError when the project is no longer as the plan `saw` it.
    """
    refuse_stale(connection, project, saw)
    _clear_tag(connection, project, NEXT)
    for version in new:
        _insert(connection, project, version, author, now)
        _move_latest(connection, project, version.kind, version.name, version.fingerprint, now)
    _remove(connection, project, removed, now)
    return [resolve(connection, project, v.kind, f"{v.name}@{v.fingerprint}") for v in new]


def prepare(
    connection: sa.Connection,
    project: str,
    new: Sequence[NewVersion],
    saw: Mapping[tuple[str, str], str],
    author: str,
    now: int,
) -> None:
    """Add versions under the tag `next`, which nothing else has then; `latest` stays.

    Raises OperatorError when the project is no longer as the plan `saw` it.
    """
    refuse_stale(connection, project, saw)
    _clear_tag(connection, project, NEXT)
    for version in new:
        _insert(connection, project, version, author, now)
        named = {"project": project, "kind": version.kind, "name": version.name}
        _put_tag(connection, named, NEXT, version.fingerprint, now)


def switch(
    connection: sa.Connection,
    project: str,
    new: Sequence[NewVersion],
    removed: Sequence[tuple[str, str]],
    saw: Mapping[tuple[str, str], str],
    now: int,
) -> None:
    """Point `latest` at what `prepare` added, and `previous` at what was replaced or removed.

    Nothing else has these two tags then. Raises OperatorError when the project is no longer as the plan
    `saw` it, or another has prepared other versions.
    """
    refuse_stale(connection, project, saw)
    refuse_replaced(connection, project, new)
    _clear_tag(connection, project, NEXT)
    if new or removed:
        _clear_tag(connection, project, PREVIOUS)
    for key in [*((v.kind, v.name) for v in new), *removed]:
        if key in saw:
            named = {"project": project, "kind": key[0], "name": key[1]}
            _put_tag(connection, named, PREVIOUS, saw[key], now)
    for version in new:
        _move_latest(connection, project, version.kind, version.name, version.fingerprint, now)
    _remove(connection, project, removed, now)


def _remove(connection: sa.Connection, project: str, removed: Iterable[tuple[str, str]], now: int) -> None:
    for kind, name in removed:
        connection.execute(
            sa.update(objects)
            .where(*_equal(objects, {"project": project, "kind": kind, "name": name}))
            .values(removed_at=now)
        )


def refuse_replaced(connection: sa.Connection, project: str, new: Sequence[NewVersion]) -> None:
    """Raise OperatorError unless exactly these versions have the tag `next`."""
    rows = connection.execute(
        sa.select(tags.c.kind, tags.c.name, tags.c.fingerprint).where(
            tags.c.project == project, tags.c.tag == NEXT
        )
    )
    found = {(kind, name): fingerprint for kind, name, fingerprint in rows}
    if found != {(version.kind, version.name): version.fingerprint for version in new}:
        raise OperatorError(
            f"Another apply --promote of project '{project}' has taken over from this one.",
            hint="Let it finish. Then run: featurestore plan",
        )


def roll_back(
    connection: sa.Connection, project: str, names: Sequence[str], now: int
) -> dict[tuple[str, str], tuple[str | None, str]]:
    """Swap `latest` and `previous` of these names, or of all that have it; return (from, to) of each.

    From None: it was removed, and is there again; then it has no `previous`. Raises RequestError where
    there is nothing to go back to.
    """
    rows = connection.execute(
        sa.select(tags.c.kind, tags.c.name, tags.c.fingerprint).where(
            tags.c.project == project, tags.c.tag == PREVIOUS
        )
    ).all()
    current = state(connection, project)
    # One that is `latest` again, by an apply since, is nothing to go back to.
    rows = [row for row in rows if current.get((row.kind, row.name)) != row.fingerprint]
    known = sorted({row.name for row in rows})
    for name in names:
        if name not in known:
            raise UnknownName(
                f"'{name}' has no previous version in project '{project}'.",
                hint=did_you_mean(name, known) if known else "apply --promote leaves one.",
            )
    if not rows:
        raise RequestError(
            f"There is nothing to roll back in project '{project}'.",
            hint="apply --promote leaves a previous version, materialize a generation (rollback --repair).",
        )
    done: dict[tuple[str, str], tuple[str | None, str]] = {}
    for kind, name, fingerprint in rows:
        if names and name not in names:
            continue
        named = {"project": project, "kind": kind, "name": name}
        before = current.get((kind, name))
        if before is None:
            remove_tag(connection, project, kind, name, PREVIOUS)
        else:
            _put_tag(connection, named, PREVIOUS, before, now)
        _move_latest(connection, project, kind, name, fingerprint, now)
        done[kind, name] = (before, fingerprint)
    return done


def refuse_stale(connection: sa.Connection, project: str, saw: Mapping[tuple[str, str], str]) -> None:
    """Raise OperatorError unless the project is as a plan `saw` it."""
    current = state(connection, project)
    if current != dict(saw):
        changed = sorted(" ".join(key) for key in {*current, *saw} if current.get(key) != saw.get(key))
        raise OperatorError(
            f"The plan is stale: {', '.join(changed)} changed in project '{project}' since it was made.",
            hint="Run: featurestore plan, then featurestore apply",
        )


def _insert(connection: sa.Connection, project: str, version: NewVersion, author: str, now: int) -> None:
    if not _HEX.match(version.fingerprint):
        raise ValueError(f"'{version.fingerprint}' is no fingerprint: lower-case hexadecimal digits")
    named = {"project": project, "kind": version.kind, "name": version.name}
    known = sa.select(versions.c.number).where(
        *_equal(versions, named | {"fingerprint": version.fingerprint})
    )
    if connection.execute(known).first() is None:
        connection.execute(
            sa.insert(versions).values(
                **named,
                fingerprint=version.fingerprint,
                bundle=dict(version.bundle),
                created_at=now,
                author=author,
            )
        )
    if version.sets or version.fits:
        before = find_pins(connection, project, version.name, version.fingerprint)
        if before is None or (before.sets, before.fits) != (dict(version.sets), dict(version.fits)):
            connection.execute(
                sa.insert(pins).values(
                    project=project,
                    name=version.name,
                    fingerprint=version.fingerprint,
                    sets=dict(version.sets),
                    fits=dict(version.fits),
                    created_at=now,
                )
            )


def _move_latest(
    connection: sa.Connection, project: str, kind: str, name: str, fingerprint: str, now: int
) -> None:
    named = {"project": project, "kind": kind, "name": name}
    latest = {"fingerprint": fingerprint, "applied_at": now, "removed_at": None}
    moved = connection.execute(sa.update(objects).where(*_equal(objects, named)).values(**latest))
    if moved.rowcount == 0:
        connection.execute(sa.insert(objects).values(**named, **latest))


def _put_tag(
    connection: sa.Connection, named: Mapping[str, str], tag: str, fingerprint: str, now: int
) -> None:
    key = {**named, "tag": tag}
    values = {"fingerprint": fingerprint, "moved_at": now}
    if connection.execute(sa.update(tags).where(*_equal(tags, key)).values(**values)).rowcount == 0:
        connection.execute(sa.insert(tags).values(**key, **values))


def _clear_tag(connection: sa.Connection, project: str, tag: str) -> None:
    connection.execute(sa.delete(tags).where(*_equal(tags, {"project": project, "tag": tag})))


def find_pins(connection: sa.Connection, project: str, name: str, fingerprint: str) -> Pins | None:
    """Return what the vector's version pinned when it was last applied; None when it pins nothing."""
    row = connection.execute(
        sa.select(pins.c.sets, pins.c.fits, pins.c.created_at)
        .where(pins.c.project == project, pins.c.name == name, pins.c.fingerprint == fingerprint)
        .order_by(pins.c.number.desc())
        .limit(1)
    ).first()
    return None if row is None else Pins(*row)


def resolve(connection: sa.Connection, project: str, kind: str, reference: str) -> Version:
    """Return the version that `name`, `name@tag` or `name@fingerprint` (or its unique prefix) names.

    Raises UnknownName with the nearest name, tag or fingerprint.
    """
    name, _, pointer = reference.partition("@")
    named = {"project": project, "kind": kind, "name": name}
    latest = connection.execute(
        sa.select(objects.c.fingerprint, objects.c.removed_at).where(*_equal(objects, named))
    ).first()
    if latest is None:
        raise _unknown(connection, project, kind, name)
    if pointer in ("", LATEST):
        if latest.removed_at is not None:
            raise UnknownName(
                f"{kind} '{name}' was removed from project '{project}'.",
                hint=f"Its versions stay: {name}@{latest.fingerprint[:12]} was the latest.",
            )
        return _version(connection, named, latest.fingerprint)
    moved = connection.execute(
        sa.select(tags.c.fingerprint).where(*_equal(tags, named | {"tag": pointer}))
    ).scalar()
    if moved is not None:
        return _version(connection, named, moved)
    found = connection.execute(sa.select(versions.c.fingerprint).where(*_equal(versions, named))).scalars()
    fingerprints = sorted(found)
    matches = [fingerprint for fingerprint in fingerprints if fingerprint.startswith(pointer)]
    if pointer in fingerprints:
        return _version(connection, named, pointer)
    if len(matches) == 1 and len(pointer) >= _SHORTEST_PREFIX:
        return _version(connection, named, matches[0])
    if matches:
        raise UnknownName(
            f"'{reference}' is not unique in project '{project}'.",
            hint=f"It could be {', '.join(match[:12] for match in matches)}; write at least 4 digits.",
        )
    names = connection.execute(sa.select(tags.c.tag).where(*_equal(tags, named))).scalars()
    raise UnknownName(
        f"{kind} '{name}' has no tag or version '{pointer}' in project '{project}'.",
        hint=did_you_mean(pointer, [LATEST, *names, *(fingerprint[:12] for fingerprint in fingerprints)]),
    )


def _version(connection: sa.Connection, named: Mapping[str, str], fingerprint: str) -> Version:
    return Version(
        *connection.execute(_select().where(*_equal(versions, {**named, "fingerprint": fingerprint}))).one()
    )


def _unknown(connection: sa.Connection, project: str, kind: str, name: str) -> UnknownName:
    known = [other for (found, other) in state(connection, project) if found == kind]
    if not known and not state(connection, project):
        return UnknownName(
            f"Nothing is applied in project '{project}', so there is no {kind} '{name}'.",
            hint="Run: featurestore apply",
        )
    hint = (
        did_you_mean(name, known)
        if known
        else "None is applied; featurestore plan says what waits for a fit."
    )
    return UnknownName(f"There is no {kind} '{name}' in project '{project}'.", hint=hint)


def history(connection: sa.Connection, project: str, kind: str | None, name: str | None) -> list[Version]:
    """Return the versions of a project, a kind or a name, in the order of their first apply."""
    wanted = {"project": project, "kind": kind, "name": name}
    given = {column: value for column, value in wanted.items() if value is not None}
    rows = connection.execute(_select().where(*_equal(versions, given)).order_by(versions.c.number))
    return [Version(*row) for row in rows]


def pointers(connection: sa.Connection, project: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the fingerprint by tag, `latest` among them, of every (kind, name)."""
    found = {key: {LATEST: fingerprint} for key, fingerprint in state(connection, project).items()}
    rows = connection.execute(
        sa.select(tags.c.kind, tags.c.name, tags.c.tag, tags.c.fingerprint).where(tags.c.project == project)
    )
    for kind, name, tag, fingerprint in rows:
        found.setdefault((kind, name), {})[tag] = fingerprint
    return found


def find_tags(connection: sa.Connection, project: str, kind: str, name: str) -> dict[str, str]:
    """Return the fingerprint by tag, `latest` among them unless the object was removed."""
    named = {"project": project, "kind": kind, "name": name}
    rows = connection.execute(sa.select(tags.c.tag, tags.c.fingerprint).where(*_equal(tags, named)))
    found = {row.tag: row.fingerprint for row in rows}
    current = state(connection, project).get((kind, name))
    return found if current is None else {LATEST: current, **found}


def move_tag(
    connection: sa.Connection, project: str, kind: str, reference: str, tag: str, now: int
) -> Version:
    """Point `tag` at what `reference` names; return that version.

    Raises RequestError on an unknown reference, and on a tag that is `latest` or reads as a fingerprint.
    """
    if tag in (LATEST, NEXT) or not _TAG.match(tag) or _HEX.match(tag):
        raise RequestError(
            f"'{tag}' cannot be a tag.",
            hint="Use lower-case letters, digits, '_', '.', '-'; not `latest` or `next`, which move with "
            "apply, nor letters a to f and digits alone, which read as a fingerprint.",
        )
    version = resolve(connection, project, kind, reference)
    _put_tag(
        connection, {"project": project, "kind": kind, "name": version.name}, tag, version.fingerprint, now
    )
    return version


def remove_tag(connection: sa.Connection, project: str, kind: str, name: str, tag: str) -> bool:
    """Delete a tag; return whether there was one."""
    key = {"project": project, "kind": kind, "name": name, "tag": tag}
    return connection.execute(sa.delete(tags).where(*_equal(tags, key))).rowcount > 0


def _select() -> sa.Select[Any]:
    columns = versions.c
    return sa.select(
        columns.project,
        columns.kind,
        columns.name,
        columns.fingerprint,
        columns.bundle,
        columns.created_at,
        columns.author,
    )


def _equal(table: sa.Table, values: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[column] == value for column, value in values.items()]
