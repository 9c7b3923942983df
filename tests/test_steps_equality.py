"""Frames and rows: the same steps give the same rows, the same rejections, the same omissions."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.lowerings import bits, frame_of
from tests.test_expressions_lowerings import ROWS, SCHEMA

from featurestore.errors import SpecError
from featurestore.expressions import RowRejected
from featurestore.expressions.vectors import physical
from featurestore.json_documents import of_value
from featurestore.steps import compile_steps, tables
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.plan import Table
from featurestore.steps.rows import EachFunction, compile_each
from featurestore.types import DataType, Field

NUMBERS = ["i", "j", "x", "y"]
BOUNDS = {
    "i": st.integers(-100, 100),
    "j": st.integers(-128, 127),
    "x": st.floats(-9, 9),
    "y": st.floats(-9, 9),
}


COLUMNS = SCHEMA | {"doc": DataType("json"), "tags": DataType.parse("list<string>")}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
ITEMS = st.none() | st.integers(-3, 3) | TEXT | st.lists(st.integers(0, 2), max_size=2)
DOCUMENTS = st.one_of(
    st.lists(ITEMS, max_size=3),
    st.fixed_dictionaries({"a": ITEMS, "b": st.lists(ITEMS, max_size=3)}),
    ITEMS,
)
WITH_DOCUMENTS = st.builds(
    lambda row, doc, tags: {**row, "doc": of_value(doc), "tags": tags},
    ROWS,
    DOCUMENTS,
    st.none() | st.lists(st.none() | TEXT, max_size=3),
)
TABLE, WORDS = (
    tables.text_of(
        [Field("key", kind)],
        [Field("name", DataType("string")), Field("share", DataType("decimal(5,2)"))],
        Table("", rows),
    )
    for kind, rows in (
        (DataType("int64"), {(0,): ("none", Decimal("0.10")), (2**63 - 1,): (None, None)}),
        (DataType("string"), {("",): ("empty", None), ("a",): ("A", Decimal("-1.00"))}),
    )
)
KNOWN = r"number is needed|A list or json is needed|json or text is needed|needs a string|is needed here"
KNOWN += r"|do not go|is a column already|A column .* is"


@st.composite
def a_step(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """Draw a step over the columns of SCHEMA, which no step takes away."""
    column = draw(st.sampled_from(NUMBERS))
    low, high = sorted(draw(st.lists(BOUNDS[column], min_size=2, max_size=2, unique=True)))
    new = {"into": f"new_{number}"}
    into = draw(st.sampled_from([{}, new]))
    unknown = draw(st.sampled_from(["zeros", "null", "reject", None]))
    place = draw(st.sampled_from(["null", "reject", None, -1]))
    base = draw(st.sampled_from(["e", 2, 10]))
    return draw(
        st.sampled_from(
            [
                {"date_parts": {"column": "t", "parts": ["hour", "week"], "timezone": "Europe/Berlin"}},
                {"map_values": {"column": "s", "mapping": {"a": "b", "": None}, **into}},
                {"map_values": {"column": "s", "mapping": {None: "?", "a": "b"}, "default": "other", **into}},
                {"map_values": {"column": column, "mapping": {"1": 5, "0": -1}, **into}},
                {
                    "map_values": {
                        "column": column,
                        "mapping": {"1": "x"},
                        "default": None,
                        "into": f"n{number}",
                    }
                },
                {
                    "map_values": {
                        "column": column,
                        "mapping": {"ranges": [[None, low, "low"], [low, high, "mid"]]},
                        "default": None,
                        "into": f"r{number}",
                    }
                },
                {"clip": {"column": column, "min": low, "max": high, **into}},
                {"bin": {"column": column, "edges": [low, high], "into": f"b{number}"}},
                {
                    "bin": {
                        "column": column,
                        "edges": [low, high],
                        "labels": ["l", "m", "h"],
                        "into": f"l{number}",
                    }
                },
                {"derive": {f"d{number}": "i * j", f"e{number}": f"d{number} + u"}},
                {"derive": {"x": "y / x", f"e{number}": "length(s) * x"}},
                {"filter": "p"},
                {"filter": {"where": "i * i >= 0 and j <> 3"}},
                {"impute": {column: low, "s": "none"}},
                {"cast": {"j": "int8"}},
                {"rename": {"x": "y", "y": "x"}},
                {"one_hot": {"column": "s", "values": ["a", ""], "unknown": unknown, "keep": True}},
                {"one_hot": {"column": "j", "values": [0, 1, -1], "unknown": unknown}},
                {"ordinal": {"column": "s", "values": ["a", "b"], "unknown": place, **into}},
                {"ordinal": {"column": column, "values": [0, 1], "unknown": place, "into": f"o{number}"}},
                {"log": {"column": column, "base": base, "add": low, "into": f"g{number}"}},
                {"hash_bucket": {"column": column, "buckets": 5, "into": f"h{number}"}},
                {"hash_bucket": {"columns": ["s", "t", "x"], "buckets": 2**40, "into": f"h{number}"}},
                {"haversine": {"from": ["x", "y"], "to": [1, 2.5], "into": f"w{number}"}},
                {"text": {"column": "s", "functions": ["trim", "upper"], **into}},
                {"text": {"column": "s", "functions": ["tokens"], "into": f"k{number}"}},
                {"text": {"column": "s", "functions": ["tokens", "length"], "separator": "a", **new}},
                {"parse": {"column": "s", "regex": "[0-9]+", "type": "int8", "into": f"p{number}"}},
                {"parse": {"column": "doc", "json": "$.a", "type": "float64", "into": f"p{number}"}},
                {"parse": {"column": "s", "json": "$[0]", "into": f"p{number}"}},
                {
                    "flatten": {
                        "column": "doc",
                        "fields": {
                            f"f{number}": "$.b[1]",
                            f"l{number}": {"path": "$.b", "type": "list<int64>"},
                            f"j{number}": {"path": "$", "type": "json"},
                        },
                    }
                },
                {"explode": {"column": "doc", "into": f"m{number}", "index": f"i{number}"}},
                {"explode": {"column": "tags", **into}} if into else {"explode": {"column": "doc"}},
                {"join": {"table": "t", "on": "i", "prefix": f"a{number}_", "data": TABLE}},
                {"join": {"table": "t", "on": "s", "prefix": f"z{number}_", "data": WORDS}},
                {"drop": ["s"]},
                {"select": ["i", "j", "s"]},
            ]
        )
    )


@st.composite
def several_steps(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [draw(a_step(number)) for number in range(draw(st.integers(1, 5)))]


def attempt_each(
    function: EachFunction, row: dict[str, Any]
) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Return the rows after the steps, and why the row is rejected."""
    try:
        return function(row), None
    except RowRejected as error:
        return None, error.reason


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's values so that equality is of type and bits."""
    return {name: bits(value) for name, value in row.items()}


@given(several_steps(), st.lists(WITH_DOCUMENTS, min_size=1, max_size=10))
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_frames_and_rows_agree(steps: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    try:
        plan = compile_steps([read(step) for step in steps], tuple(Field(n, k) for n, k in COLUMNS.items()))
    except SpecError as error:
        refused = str(error)
        assert re.search(KNOWN, refused), refused  # a step above made the column another type
        return
    function = compile_each(plan)
    kept, rejected = run(plan, frame_of(COLUMNS, rows).with_row_index("__sequence"))
    assert [(field.name, field.type.polars()) for field in plan.columns] == list(
        kept.drop("__sequence").schema.items()
    )
    by_frame: dict[int, list[dict[str, Any]]] = {}
    for values in kept.select(*map(physical, kept.iter_columns())).to_dicts():
        by_frame.setdefault(values.pop("__sequence"), []).append(values)
    reasons = dict(rejected.select("__sequence", "__reason").iter_rows())
    for i, row in enumerate(rows):
        before = dict(row)
        after, refused = attempt_each(function, row)
        assert reasons.pop(i, None) == refused
        assert row == before or row != row
        assert [shown(made) for made in after or ()] == [shown(made) for made in by_frame.pop(i, ())]
    assert not reasons
    assert not by_frame
