"""Entities and the key columns of feature sets (DESIGN 3.12)."""

from __future__ import annotations

from collections.abc import Mapping

from featurestore.compiler.columns import column_type
from featurestore.errors import SpecError, did_you_mean
from featurestore.plans import KeyColumn
from featurestore.specs.models import Entity, FeatureSet
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.types import DataType


def check_entity(entity: Entity, origin: Origin) -> None:
    """Return nothing where the entity's type can be a key. Raises SpecError where it cannot."""
    kind = DataType.parse(entity.type)
    if not kind.is_key:
        raise SpecError(
            f"type: {kind} is no type of a key.",
            where=origin.where("type"),
            hint="Use an integer type, string, binary, bool, date or timestamp.",
        )


def is_castable(column: DataType, key: DataType) -> bool:
    """Return whether values of a column can be keys: the same kind, or floats that hold whole numbers."""
    if key.is_integer:
        return column.is_integer or column.is_float
    return column.name == key.name


def compile_keys(
    feature_set: FeatureSet, entities: Mapping[str, Entity], columns: Mapping[str, DataType], origin: Origin
) -> tuple[KeyColumn, ...]:
    """Return the key columns of a set, one per entity, after its steps. Raises SpecErrors."""
    problems = Problems()
    keys: list[KeyColumn] = []
    pairs = [
        (index, name, column)
        for index, entry in enumerate(feature_set.entities)
        for name, column in (entry.items() if isinstance(entry, dict) else [(entry, entry)])
    ]
    for index, name, column in pairs:
        with problems.collect(origin.where("entities", index), f"entities[{index}]"):
            if name not in entities:
                raise SpecError(f"there is no entity '{name}'.", hint=did_you_mean(name, entities))
            if any(key.entity == name for key in keys):
                raise SpecError(f"the entity '{name}' is named twice.")
            keys.append(_key(entities[name], column, columns))
    problems.check()
    return tuple(keys)


def _key(entity: Entity, column: str, columns: Mapping[str, DataType]) -> KeyColumn:
    kind = DataType.parse(entity.type)
    try:
        found = column_type(column, columns)
    except SpecError as error:
        if column == entity.name:
            raise SpecError(
                error.message, hint=f"Name the column with the key: {{{entity.name}: <column>}}. {error.hint}"
            ) from None
        raise
    if not is_castable(found, kind):
        raise SpecError(
            f"the column '{column}' is of type {found}, the entity '{entity.name}' of type {kind}.",
            hint=f"Declare the entity with type: {found}, or cast the column in a step."
            if found.is_key
            else "Cast the column in a step.",
        )
    return KeyColumn(entity.name, column, kind, entity.column)
