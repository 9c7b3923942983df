"""Which column of a request, or of the base row, holds the key of a look-up (DESIGN 3.11, 3.12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featurestore.compiler.columns import by_name
from featurestore.compiler.entities import is_castable
from featurestore.errors import SpecError, did_you_mean
from featurestore.plans import KeyColumn, Lookup, SetPlan
from featurestore.types import DataType


def request_columns(
    feature_set: SetPlan, roles: Mapping[str, str], base: SetPlan | None, inputs: Mapping[str, DataType]
) -> tuple[str, ...]:
    """Return the columns that hold the keys of a look-up, one per entity of the set.

    `roles` maps entities to columns; else an entity's own request column counts. With a base, a column
    is the base's key for that entity, one of its working columns, or an input; a set of the same source
    finds its key in the base row where the set's own rows have it. Raises SpecError.
    """
    return tuple(
        request_column(key, roles.get(key.entity), feature_set, base, inputs) for key in feature_set.keys
    )


def request_column(
    key: KeyColumn,
    role: str | None,
    feature_set: SetPlan,
    base: SetPlan | None,
    inputs: Mapping[str, DataType],
) -> str:
    """Return the column with the key of one entity; `role` names it. Raises SpecError."""
    column = role or key.request_column
    if base is None:
        if column in inputs:
            check_type(column, inputs[column], key, "input")
        return column
    own = {other.entity: other.column for other in base.keys}
    columns = by_name(base.columns)
    if role is None and key.entity in own:
        return own[key.entity]
    if column in columns:
        check_type(column, columns[column], key, f"column of the base '{base.name}'")
        return column
    if column in inputs:
        check_type(column, inputs[column], key, "input")
        return column
    for other in base.keys:
        if other.request_column == column:
            return other.column
    if role is None and feature_set.source.fingerprint == base.source.fingerprint and key.column in columns:
        check_type(key.column, columns[key.column], key, f"column of the base '{base.name}'")
        return key.column
    raise SpecError(
        f"the key '{column}' of '{feature_set.name}' is neither in the base '{base.name}' nor an input.",
        hint=f"Map it with keys: {{{key.entity}: <column>}}, or declare inputs: {{{column}: {key.type}}}. "
        + did_you_mean(column, [*columns, *inputs]),
    )


def check_type(column: str, kind: DataType, key: KeyColumn, what: str) -> None:
    """Raise SpecError where values of a column's type can be no keys of the entity."""
    if not is_castable(kind, key.type):
        raise SpecError(
            f"the {what} '{column}' is of type {kind}, the entity '{key.entity}' of type {key.type}."
        )


def check_request(lookups: Iterable[Lookup]) -> None:
    """Raise SpecError where one request column would hold keys of different types."""
    types: dict[str, KeyColumn] = {}
    for lookup in lookups:
        for place, (key, column) in enumerate(zip(lookup.set.keys, lookup.keys, strict=True)):
            if place in lookup.feature_keys:
                continue
            other = types.setdefault(column, key)
            if other.type != key.type:
                raise SpecError(
                    f"the request's column '{column}' is the key of '{other.entity}', of type {other.type},"
                    f" and of '{key.entity}', of type {key.type}.",
                    hint=f"Select one of them with keys: {{{key.entity}: <another column>}}.",
                )
