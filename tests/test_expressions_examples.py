"""Every example in the reference gives what it says, in both lowerings."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from featurestore.expressions import Expression, Reference, reference
from featurestore.expressions.functions import FUNCTIONS, MACROS, Example
from featurestore.expressions.parser import parse
from featurestore.expressions.to_closure import to_closure
from featurestore.expressions.to_polars import to_polars
from featurestore.expressions.vectors import column, physical
from featurestore.instants import from_datetime
from featurestore.types import DataType

TYPES = {bool: "bool", int: "int64", float: "float64", str: "string", datetime: "timestamp", date: "date"}
EXAMPLES = [(entry, example) for entry in reference() for example in entry.examples]


def row_value(value: Any) -> Any:
    """Return a natural value as rows have it."""
    if isinstance(value, datetime):
        return from_datetime(value)
    return (value - date(1970, 1, 1)).days if isinstance(value, date) else value


def null_type(entry: Reference, example: Example) -> DataType:
    """Return the type of a null column: what the example's other values, or the function, suggest."""
    others = [type(value) for value in (*example.row.values(), example.gives) if value is not None]
    if entry.name in ("and", "or", "not"):
        return DataType("bool")
    if entry.name in ("concat",):
        return DataType("string")
    return DataType("int64" if not others or others[0] in (bool, str) else TYPES[others[0]])


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize(("entry", "example"), EXAMPLES, ids=lambda value: getattr(value, "text", ""))
def test_example_gives_what_it_says(entry: Reference, example: Example) -> None:
    schema = {
        name: null_type(entry, example) if value is None else DataType(TYPES[type(value)])
        for name, value in example.row.items()
    }
    row = {name: row_value(value) for name, value in example.row.items()}
    expression: Expression = parse(example.text, schema)
    assert same(to_closure(expression)(row), row_value(example.gives))
    frame = pl.DataFrame([column([row[name]], schema[name]).alias(name) for name in row])
    lowered = physical(frame.select(to_polars(expression)).to_series()).to_list()[0]
    assert same(lowered, row_value(example.gives))


def test_every_function_has_a_signature_a_line_of_documentation_and_an_example() -> None:
    assert {entry.name for entry in reference()} == (set(FUNCTIONS) | set(MACROS)) - {"widen", "known"}
    for entry in reference():
        assert entry.signature
        assert entry.doc.endswith(".")
        assert "\n" not in entry.doc
        assert entry.examples
        assert entry.nulls
        function = FUNCTIONS.get(entry.name) or MACROS[entry.name]
        assert getattr(function, "strict", False) == (not function.nulls)


def test_natural_values_are_row_values() -> None:
    assert row_value(datetime(1970, 1, 2, tzinfo=UTC)) == 86_400_000_000
    assert row_value(date(1970, 1, 2)) == 1
    assert row_value(Decimal("1.5")) == Decimal("1.5")
