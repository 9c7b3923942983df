"""What the registry remembers of past work: fits, statistics, ingests, training sets."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from featurestore.errors import RequestError, did_you_mean
from featurestore.registry.schema import checks, fits, ingests, statistics, training_sets

if TYPE_CHECKING:
    from featurestore.registry.statistics import Statistics


@dataclass(frozen=True)
class Fit:
    """Values fitted for a version from rows up to `until` (None: all). It never changes."""

    id: str
    project: str
    kind: str
    name: str
    fingerprint: str
    until: int | None
    values: Mapping[str, Any]
    created_at: int


@dataclass(frozen=True)
class CheckCount:
    """How many rows of ingested batches a check saw come in, and how many of them it found wrong."""

    rows: int
    failed: int


@dataclass(frozen=True)
class Ingest:
    """The report of one ingest."""

    set_name: str
    report: Mapping[str, Any]
    created_at: int


@dataclass(frozen=True)
class TrainingSet:
    """What a training set was made from: enough to make it again."""

    id: str
    project: str
    vector: str
    fingerprint: str
    parameters: Mapping[str, Any]
    positions: Mapping[str, Any]
    created_at: int


def add_fit(
    connection: sa.Connection,
    project: str,
    kind: str,
    name: str,
    fingerprint: str,
    until: int | None,
    values: Mapping[str, Any],
    now: int,
) -> Fit:
    """Store a fit and return it; its id is a hash of its content, so the same fit again is the same."""
    content = {
        "kind": kind,
        "name": name,
        "fingerprint": fingerprint,
        "until": until,
        "values": values,
    }
    made = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    key = (fits.c.project == project, fits.c.id == made)
    if connection.execute(sa.select(fits.c.number).where(*key)).first() is None:
        connection.execute(
            sa.insert(fits).values(
                id=made,
                project=project,
                kind=kind,
                name=name,
                fingerprint=fingerprint,
                until=until,
                fitted=dict(values),
                created_at=now,
            )
        )
    return get_fit(connection, project, made)


def get_fit(connection: sa.Connection, project: str, fit: str) -> Fit:
    """Return the fit of that id. Raises RequestError when there is none."""
    row = connection.execute(_fits().where(fits.c.project == project, fits.c.id == fit)).first()
    if row is None:
        known = connection.execute(sa.select(fits.c.id).where(fits.c.project == project)).scalars()
        raise RequestError(f"There is no fit '{fit}' in project '{project}'.", hint=did_you_mean(fit, known))
    return Fit(*row)


def latest_fit(connection: sa.Connection, project: str, kind: str, name: str, fingerprint: str) -> Fit | None:
    """Return the fit that was last stored for the version; None before the first."""
    row = connection.execute(
        _fits()
        .where(
            fits.c.project == project,
            fits.c.kind == kind,
            fits.c.name == name,
            fits.c.fingerprint == fingerprint,
        )
        .order_by(fits.c.number.desc())
        .limit(1)
    ).first()
    return None if row is None else Fit(*row)


def _fits() -> sa.Select[Any]:
    c = fits.c
    return sa.select(c.id, c.project, c.kind, c.name, c.fingerprint, c.until, c.fitted, c.created_at)


def merge_statistics(
    connection: sa.Connection,
    project: str,
    set_name: str,
    fingerprint: str,
    batch: Mapping[str, Statistics],
    now: int,
) -> None:
    """Merge a batch's statistics, by feature, into the stored ones."""
    from featurestore.registry.statistics import merge

    stored = get_statistics(connection, project, set_name, fingerprint)
    for feature, found in batch.items():
        key = {"project": project, "set_name": set_name, "fingerprint": fingerprint, "feature": feature}
        if feature in stored:
            connection.execute(
                sa.update(statistics)
                .where(*(statistics.c[column] == value for column, value in key.items()))
                .values(state=merge(stored[feature], found).to_json(), updated_at=now)
            )
        else:
            connection.execute(sa.insert(statistics).values(**key, state=found.to_json(), updated_at=now))


def get_statistics(
    connection: sa.Connection, project: str, set_name: str, fingerprint: str
) -> dict[str, Statistics]:
    """Return the statistics of a set's version, by feature."""
    from featurestore.registry.statistics import Statistics  # which needs NumPy

    rows = connection.execute(
        sa.select(statistics.c.feature, statistics.c.state)
        .where(
            statistics.c.project == project,
            statistics.c.set_name == set_name,
            statistics.c.fingerprint == fingerprint,
        )
        .order_by(statistics.c.feature)
    )
    return {feature: Statistics.from_json(state) for feature, state in rows}


def add_checks(
    connection: sa.Connection,
    project: str,
    set_name: str,
    fingerprint: str,
    rows: int,
    failed: Mapping[str, int],
    now: int,
) -> None:
    """Add a batch's counts, by check, to the stored ones."""
    for name, number in failed.items():
        key = {"project": project, "set_name": set_name, "fingerprint": fingerprint, "name": name}
        counted = {"rows": checks.c.rows + rows, "failed": checks.c.failed + number, "updated_at": now}
        matches = (checks.c[column] == value for column, value in key.items())
        if connection.execute(sa.update(checks).where(*matches).values(**counted)).rowcount == 0:
            row = {**key, "rows": rows, "failed": number, "updated_at": now}
            connection.execute(sa.insert(checks).values(**row))


def get_checks(
    connection: sa.Connection, project: str, set_name: str, fingerprint: str
) -> dict[str, CheckCount]:
    """Return the counts of a set's version, by check."""
    rows = connection.execute(
        sa.select(checks.c.name, checks.c.rows, checks.c.failed)
        .where(
            checks.c.project == project,
            checks.c.set_name == set_name,
            checks.c.fingerprint == fingerprint,
        )
        .order_by(checks.c.name)
    )
    return {name: CheckCount(seen, failed) for name, seen, failed in rows}


def add_ingest(
    connection: sa.Connection, project: str, set_name: str, report: Mapping[str, Any], now: int
) -> None:
    """Store the report of an ingest."""
    connection.execute(
        sa.insert(ingests).values(project=project, set_name=set_name, report=dict(report), created_at=now)
    )


def find_ingests(connection: sa.Connection, project: str, set_name: str | None, limit: int) -> list[Ingest]:
    """Return the last `limit` ingests of a project or a set, newest first."""
    query = sa.select(ingests.c.set_name, ingests.c.report, ingests.c.created_at)
    query = query.where(ingests.c.project == project)
    if set_name is not None:
        query = query.where(ingests.c.set_name == set_name)
    rows = connection.execute(query.order_by(ingests.c.number.desc()).limit(limit))
    return [Ingest(*row) for row in rows]


def add_training_set(
    connection: sa.Connection,
    project: str,
    vector: str,
    fingerprint: str,
    parameters: Mapping[str, Any],
    positions: Mapping[str, Any],
    now: int,
) -> TrainingSet:
    """Store what a training set was made from; return it with its random id."""
    made = TrainingSet(
        secrets.token_hex(8), project, vector, fingerprint, dict(parameters), dict(positions), now
    )
    connection.execute(sa.insert(training_sets).values(**vars(made)))
    return made


def find_training_sets(
    connection: sa.Connection, project: str, vector: str | None, limit: int
) -> list[TrainingSet]:
    """Return the last `limit` training sets of a project or a vector, newest first."""
    query = _training_sets().where(training_sets.c.project == project)
    if vector is not None:
        query = query.where(training_sets.c.vector == vector)
    rows = connection.execute(query.order_by(training_sets.c.number.desc()).limit(limit))
    return [TrainingSet(*row) for row in rows]


def get_training_set(connection: sa.Connection, project: str, training_set: str) -> TrainingSet:
    """Return the training set of that id. Raises RequestError when there is none."""
    row = connection.execute(
        _training_sets().where(training_sets.c.project == project, training_sets.c.id == training_set)
    ).first()
    if row is None:
        known = connection.execute(
            sa.select(training_sets.c.id).where(training_sets.c.project == project)
        ).scalars()
        raise RequestError(
            f"There is no training set '{training_set}' in project '{project}'.",
            hint=did_you_mean(training_set, known),
        )
    return TrainingSet(*row)


def _training_sets() -> sa.Select[Any]:
    c = training_sets.c
    return sa.select(c.id, c.project, c.vector, c.fingerprint, c.parameters, c.positions, c.created_at)
