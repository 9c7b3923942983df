"""`ordinal` and `hash_bucket`: a category as one whole number."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt

from featurestore.errors import SpecError
from featurestore.expressions import Expression
from featurestore.expressions.build import call, constant
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope

UNKNOWN = "unknown_value: a value is none of those declared"
"""Why `unknown: reject` rejects a row."""


class Ordinal(Parameters):
    """The place of a value among the declared ones, from 0, as int64: `values: [low, mid, high]`.

    A value that is not declared gives null (`unknown: null`, the default), the integer that `unknown:` says,
    or rejects the row (`unknown: reject`). Null is null whatever `unknown:` says. In place, or a new column
    with `into:`.
    """

    key: ClassVar[str] = "ordinal"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "size", "values": ["S", "M", "L"]}, {"size": "M"}, {"size": 1}),
        Example(
            {"column": "size", "values": ["S", "M", "L"], "unknown": -1, "into": "size_rank"},
            {"size": "XXL"},
            {"size": "XXL", "size_rank": -1},
        ),
    )

    column: ColumnName
    values: Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]
    unknown: Literal["null", "reject"] | StrictInt | None = Field(
        None, description="What a value that is not declared gives: null, reject, or an integer."
    )
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign a look-up of the places."""
        column: Expression = scope.column(self.column)
        keys = [scope.constant(value, column.type) for value in self.values]
        if len({key.value for key in keys}) < len(keys):
            raise SpecError("A value is declared twice.")
        read, otherwise = column, constant(None)
        if self.unknown == "reject":
            read = call("known", column, *keys)
        elif isinstance(self.unknown, int):
            otherwise = constant(self.unknown)
        pairs = [x for place, key in enumerate(keys) for x in (key, constant(place))]
        placed = call("lookup", read, otherwise, *pairs)
        if otherwise.value is not None:
            placed = call("case", call("is_null", column), constant(None), placed)
        scope.put(self.column, self.into, placed, UNKNOWN)


class HashBucket(Parameters):
    """A bucket, 0 to `buckets` - 1, by a hash of one column's value or of several columns' values, as int64.

    The hash is `hash_bucket` of the expressions: of the typed values, in the order of `columns`, stable for
    ever, so that a model may be trained on the buckets. Null where a value is null. One column is replaced
    unless `into:` names a new one; several need `into:`.
    """

    key: ClassVar[str] = "hash_bucket"
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"column": "merchant", "buckets": 100}, {"merchant": "es_food"}, {"merchant": 11}),
        Example(
            {"columns": ["a", "b"], "buckets": 100, "into": "a_b"},
            {"a": "a", "b": 1},
            {"a": "a", "b": 1, "a_b": 2},
        ),
    )

    column: ColumnName | None = None
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1)] | None = None
    buckets: Annotated[int, Field(gt=0, lt=2**63, strict=True)]
    into: ColumnName | None = None

    def compile(self, scope: Scope) -> None:
        """Assign the hash."""
        if (self.column is None) == (self.columns is None):
            raise SpecError("Say column: or columns:, one of the two.")
        names = self.columns or (str(self.column),)
        if self.column is None and self.into is None:
            raise SpecError("Several columns need into:, the name of the new one.")
        hashed = call("hash_bucket", constant(self.buckets), *map(scope.column, names))
        scope.put(names[0], self.into, hashed)
