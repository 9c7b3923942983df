"""Every step's examples give what they say, over frames and over rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.lowerings import frame_of
from tests.test_expressions_examples import TYPES, row_value

from featurestore.expressions.vectors import physical
from featurestore.steps import compile_steps, tables
from featurestore.steps.base import Example, read
from featurestore.steps.frames import run
from featurestore.steps.reference import reference
from featurestore.steps.rows import compile_each
from featurestore.types import DataType, Field

EXAMPLES = [(entry.name, example) for entry in reference() for example in entry.examples]


def type_of(value: Any) -> DataType:
    """Return the type of an example's value; a null is an int64, and a list is of text."""
    if isinstance(value, list):
        return DataType("list", item=DataType("string"))
    return DataType("int64" if value is None else TYPES[type(value)])


@pytest.mark.parametrize(
    ("name", "example"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_example_gives_what_it_says(name: str, example: Example, tmp_path: Path) -> None:
    for file, text in example.files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    schema = {column: type_of(value) for column, value in example.row.items()}
    row = {column: row_value(value) for column, value in example.row.items()}
    fields = tuple(Field(n, k) for n, k in schema.items())
    with tables.folder(tmp_path):
        plan = compile_steps([read({name: example.parameters})], fields, fits=[example.fits])
    assert not plan.needs
    rows = [example.gives] if isinstance(example.gives, Mapping) else list(example.gives or ())
    gives = [{n: row_value(value) for n, value in row.items()} for row in rows]
    names = [field.name for field in plan.visible]

    assert [{n: after[n] for n in names} for after in compile_each(plan)(row)] == gives
    assert all(list(row) == names for row in gives)

    kept, rejected = run(plan, frame_of(schema, [row]))
    assert rejected.height == 0
    found = [
        dict(zip(names, values, strict=True)) for values in kept.select(*map(physical, kept[names])).rows()
    ]
    assert found == gives


def test_every_step_is_documented() -> None:
    for entry in reference():
        assert entry.doc
        assert entry.examples or entry.name == "python"
        assert all(parameter.name for parameter in entry.parameters)
