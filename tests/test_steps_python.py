"""The author's own function: what it gets, what it may return, and what happens to rows when it fails."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Any

import polars as pl
import pytest
from tests import step_functions

from featurestore.errors import SpecError
from featurestore.expressions import RowRejected
from featurestore.steps import Derive, Python, StepPlan, compile_steps
from featurestore.steps.frames import run
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType, Field

SCHEMA = (
    Field("amount", DataType("float64")),
    Field("name", DataType("string")),
    Field("at", DataType("timestamp")),
)
MODULE = "tests.step_functions"


def plan_of(function: str, outputs: dict[str, str], **parameters: Any) -> StepPlan:
    step = Python(function=f"{MODULE}:{function}", outputs=outputs, **parameters)
    return compile_steps([step], SCHEMA)


def frame(*amounts: float | None) -> pl.DataFrame:
    schema = {field.name: field.type.polars() for field in SCHEMA}
    return pl.DataFrame(
        {"amount": amounts, "name": "ab", "at": 0}, schema_overrides={"amount": pl.Float64}
    ).cast(
        schema  # type: ignore[arg-type]
    )


def row(amount: float | None) -> dict[str, Any]:
    return {"amount": amount, "name": "ab", "at": 0}


def test_outputs_are_columns_of_declared_types() -> None:
    plan = plan_of("doubled", {"twice": "float64", "initial": "string"})
    kept, rejected = run(plan, frame(1.0, None))
    assert kept.select("twice", "initial").rows() == [(2.0, "a"), (None, "a")]
    assert rejected.height == 0
    assert compile_rows(plan)(row(1.0)) == {**row(1.0), "twice": 2.0, "initial": "a"}
    assert plan.visible[-2:] == (Field("twice", DataType("float64")), Field("initial", DataType("string")))


def test_timestamps_are_instants_in_rows() -> None:
    plan = plan_of("later", {"later": "timestamp"}, inputs=["at"])
    assert compile_rows(plan)(row(1.0)) == {**row(1.0), "later": 3_600_000_000}


def test_documents_become_canonical_and_what_is_none_is_refused() -> None:
    for function in ("documented", "packed"):
        plan = plan_of(function, {"doc": "json"})
        kept, _ = run(plan, frame(1.0))
        assert kept["doc"].to_list() == ['{"a":1,"n":"ab"}']
        assert compile_rows(plan)(row(1.0))["doc"] == '{"a":1,"n":"ab"}'  # type: ignore[index]
    plan = plan_of("documented", {"doc": "json"})
    kept, rejected = run(plan, frame(2.5, -1.0))
    assert kept["doc"].to_list() == ['{"a":2.5,"n":"ab"}']
    assert rejected["__reason"].to_list() == [f"python: {MODULE}:documented returned no json in 'doc': '{{'"]


def test_a_column_without_type_is_null() -> None:
    plan = plan_of("nothing", {"twice": "int64"})
    assert compile_rows(plan)(row(1.0)) == {**row(1.0), "twice": None}


def test_a_row_that_the_function_refuses_is_rejected_alone() -> None:
    plan = plan_of("picky", {"inverse": "float64"})
    kept, rejected = run(plan, frame(4.0, 0.0, 2.0))
    assert kept["inverse"].to_list() == [0.25, 0.5]
    assert rejected["amount"].to_list() == [0.0]
    reason = "python: tests.step_functions:picky raised ValueError: zero has no inverse"
    assert rejected["__reason"].to_list() == [reason]
    with pytest.raises(RowRejected) as error:
        compile_rows(plan)(row(0.0))
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("function", "outputs", "message"),
    [
        ("wrong_height", {"twice": "float64"}, "returned 2 rows for 1"),
        ("wrong_type", {"twice": "float64"}, "returned String in 'twice', declared Float64"),
        ("no_frame", {"twice": "float64"}, "returned list, not a Polars DataFrame"),
        ("doubled", {"other": "float64"}, "returned no column other"),
        ("small", {"twice": "int8"}, "returned Int64 in 'twice', declared Int8"),
    ],
)
def test_bad_output_rejects_rows_with_what_is_wrong(
    function: str, outputs: dict[str, str], message: str
) -> None:
    plan = plan_of(function, outputs)
    kept, rejected = run(plan, frame(1000.0))
    assert kept.height == 0
    assert message in rejected["__reason"][0]
    with pytest.raises(RowRejected, match="python: "):
        compile_rows(plan)(row(1000.0))


def test_rows_rejected_before_do_not_reach_the_function() -> None:
    steps = [
        Derive({"whole": "cast(amount as int64)", "square": "whole * whole"}),
        Python(function=f"{MODULE}:picky", outputs={"inverse": "float64"}, inputs=["amount"]),
    ]
    plan = compile_steps(steps, SCHEMA)
    kept, rejected = run(plan, frame(1e10, 0.0, 2.0, 1e10))
    assert kept["inverse"].to_list() == [0.5]
    assert rejected["amount"].to_list() == [1e10, 0.0, 1e10]
    assert [reason.split(":")[0] for reason in rejected["__reason"]] == ["overflow", "python", "overflow"]


def test_the_source_of_the_function_is_part_of_the_plan() -> None:
    source = inspect.getsource(step_functions)
    text = plan_of("picky", {"inverse": "float64"}).text
    assert hashlib.sha256(source.encode()).hexdigest() in text


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("tests.step_functions:pick", "has no function 'pick'. Did you mean 'picky'?"),
        ("tests.no_such_module:f", "cannot be imported"),
        ("math:sqrt", "The source of 'math:sqrt' cannot be read."),
    ],
)
def test_a_function_that_cannot_be_used_is_an_error_of_the_spec(function: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        compile_steps(
            [Python(function=function, outputs={"a": "int64"})], SCHEMA, where=lambda i: f"f.yaml:{i + 3}"
        )
    assert str(error.value).startswith("f.yaml:3: python: ")
    assert message in str(error.value)


@pytest.mark.parametrize("function", ["listed", "stacked"])
def test_vectors_come_of_lists_and_of_numpy_rows(function: str) -> None:
    plan = plan_of(function, {"made": "vector<float32,2>"}, inputs=["amount"])
    kept, rejected = run(plan, frame(0.5, -0.0))
    assert kept.schema["made"] == pl.Array(pl.Float32, 2)
    assert repr(kept["made"].to_list()) == "[[0.5, 1.0], [0.0, 0.0]]"
    assert rejected.height == 0
    assert repr(compile_rows(plan)(row(-0.0))["made"]) == "[0.0, 0.0]"  # type: ignore[index]


@pytest.mark.parametrize(
    ("function", "kind", "why"),
    [
        ("listed", "vector<float32,3>", "it has 2 items"),
        ("stacked", "vector<float64,1>", "it has 2 items"),
        ("holed", "vector<float32,2>", "item 2 is null"),
        ("texts", "vector<float32,2>", "List\\(String\\)"),
    ],
)
def test_a_list_that_is_no_vector_rejects_its_row_and_says_why(function: str, kind: str, why: str) -> None:
    plan = plan_of(function, {"made": kind}, inputs=["amount"])
    kept, rejected = run(plan, frame(1.0))
    assert kept.height == 0
    with pytest.raises(RowRejected, match=why):
        compile_rows(plan)(row(1.0))
    assert re.search(why, rejected["__reason"][0])
