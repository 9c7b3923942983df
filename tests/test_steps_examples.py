"""Every step's examples give what they say, over frames and over rows."""

from __future__ import annotations

from typing import Any

import pytest
from tests.lowerings import frame_of
from tests.test_expressions_examples import TYPES, row_value

from featurestore.expressions.vectors import physical
from featurestore.steps import compile_steps, reference
from featurestore.steps.base import Example, read
from featurestore.steps.frames import run
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType, Field

EXAMPLES = [(entry.name, example) for entry in reference() for example in entry.examples]


@pytest.mark.parametrize(
    ("name", "example"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_example_gives_what_it_says(name: str, example: Example) -> None:
    schema = {
        column: DataType("int64" if value is None else TYPES[type(value)])
        for column, value in example.row.items()
    }
    row = {column: row_value(value) for column, value in example.row.items()}
    fields = tuple(Field(n, k) for n, k in schema.items())
    plan = compile_steps([read({name: example.parameters})], fields, fits=[example.fits])
    assert not plan.needs
    gives = None if example.gives is None else {n: row_value(value) for n, value in example.gives.items()}
    names = [field.name for field in plan.visible]

    after: dict[str, Any] | None = compile_rows(plan)(row)
    assert (None if after is None else {n: after[n] for n in names}) == gives
    assert gives is None or list(gives) == names

    kept, rejected = run(plan, frame_of(schema, [row]))
    assert rejected.height == 0
    found = [
        dict(zip(names, values, strict=True)) for values in kept.select(*map(physical, kept[names])).rows()
    ]
    assert found == ([] if gives is None else [gives])


def test_every_step_is_documented() -> None:
    for entry in reference():
        assert entry.doc
        assert entry.examples or entry.name == "python"
        assert all(parameter.name for parameter in entry.parameters)
