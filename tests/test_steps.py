"""What each step does to rows, by hand; how steps are declared; what is refused."""

from __future__ import annotations

import math
import pickle
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel, ValidationError

from featurestore.errors import SpecError
from featurestore.expressions import RowRejected
from featurestore.instants import parse_instant
from featurestore.steps import Clip, DateParts, Derive, Filter, Select, Step, compile_steps
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.reference import reference
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType, Field

SCHEMA = (
    Field("amount", DataType("float64")),
    Field("count", DataType("int64")),
    Field("small", DataType("int8")),
    Field("age", DataType("string")),
    Field("flag", DataType("bool")),
    Field("at", DataType("timestamp")),
)
NAMES = [field.name for field in SCHEMA]


def after(*declared: dict[str, Any], **values: Any) -> dict[str, Any] | None:
    plan = compile_steps([read(step) for step in declared], SCHEMA)
    return compile_rows(plan)(dict.fromkeys(NAMES) | values)


def mapped(column: str, mapping: dict[Any, Any], **default: Any) -> dict[str, Any]:
    return {"map_values": {"column": column, "mapping": mapping, **default}}


def visible(*declared: dict[str, Any]) -> dict[str, str]:
    plan = compile_steps([read(step) for step in declared], SCHEMA)
    return {field.name: str(field.type) for field in plan.visible}


@pytest.mark.parametrize(
    ("step", "values", "column", "expected"),
    [
        ({"date_parts": {"column": "at", "parts": ["hour"]}}, {"at": 3_600_000_000}, "at_hour", 1),
        ({"date_parts": {"column": "at", "parts": ["day_of_week"]}}, {"at": None}, "at_day_of_week", None),
        (mapped("age", {"U": "0"}), {"age": "U"}, "age", "0"),
        (mapped("age", {"U": "0"}), {"age": "3"}, "age", "3"),
        (mapped("age", {"U": 0}, default=None), {"age": "3"}, "age", None),
        (mapped("age", {"U": 0}, default=-1), {"age": "3"}, "age", -1),
        (mapped("age", {"U": 0}, default=-1), {"age": None}, "age", -1),
        (mapped("age", {"a": "b"}, default={"value": "keep"}), {"age": "x"}, "age", "keep"),
        (mapped("age", {None: "none"}), {"age": None}, "age", "none"),
        (mapped("count", {"1": 10, 2: 20}), {"count": 1}, "count", 10),
        (mapped("flag", {True: "yes", "false": "no"}, default=None), {"flag": False}, "flag", "no"),
        (mapped("amount", {"ranges": [[0, 1, 5]]}), {"amount": 0.0}, "amount", 5.0),
        (mapped("amount", {"ranges": [[0, 1, 5]]}), {"amount": 1.0}, "amount", 1.0),
        (mapped("amount", {"ranges": [[0, None, 5]]}, default=0.5), {"amount": math.nan}, "amount", 0.5),
        (mapped("count", {"ranges": [[0.5, 1.5, 7]]}), {"count": 1}, "count", 7),
        ({"one_hot": {"column": "age", "values": ["U", "a b"]}}, {"age": "a b"}, "age_a_b", 1),
        ({"one_hot": {"column": "age", "values": ["U"]}}, {"age": None}, "age_U", 0),
        ({"one_hot": {"column": "count", "values": [-1]}}, {"count": -1}, "count__1", 1),
        ({"one_hot": {"column": "flag", "values": [True]}}, {"flag": True}, "flag_true", 1),
        ({"bin": {"column": "amount", "edges": [0, 10]}}, {"amount": -0.5}, "amount", 0),
        ({"bin": {"column": "amount", "edges": [0, 10]}}, {"amount": 0.0}, "amount", 1),
        ({"bin": {"column": "amount", "edges": [0, 10]}}, {"amount": math.inf}, "amount", 2),
        ({"bin": {"column": "amount", "edges": [0, 10]}}, {"amount": math.nan}, "amount", None),
        ({"bin": {"column": "count", "edges": [1], "labels": ["a", "b"]}}, {"count": 1}, "count", "b"),
        ({"bin": {"column": "at", "edges": ["1970-01-01T00:00:00Z"]}}, {"at": -1}, "at", 0),
        ({"clip": {"column": "amount", "max": 2}}, {"amount": 3.0}, "amount", 2.0),
        ({"clip": {"column": "amount", "min": 0, "max": 2}}, {"amount": math.nan}, "amount", math.nan),
        ({"clip": {"column": "small", "min": 0}}, {"small": -5}, "small", 0),
        ({"clip": {"column": "small", "min": 0, "into": "c"}}, {"small": None}, "c", None),
        ({"derive": {"a": "count + 1", "b": "a * 2"}}, {"count": 2}, "b", 6),
        ({"derive": {"amount": "amount * 2"}}, {"amount": 2.0}, "amount", 4.0),
        ({"rename": {"amount": "count", "count": "amount"}}, {"amount": 1.0, "count": 2}, "count", 1.0),
        ({"cast": {"amount": "int64"}}, {"amount": 2.5}, "amount", 2),
        ({"cast": {"age": "float64"}}, {"age": "U"}, "age", None),
        ({"impute": {"amount": 0}}, {"amount": None}, "amount", 0.0),
        ({"impute": {"at": "1970-01-01T00:00:01Z"}}, {"at": None}, "at", 1_000_000),
        ({"impute": {"amount": 0}}, {"amount": math.nan}, "amount", math.nan),
        ({"drop": ["amount"]}, {"amount": 1.0}, "amount", 1.0),
    ],
)  # fmt: skip
def test_value(step: dict[str, Any], values: dict[str, Any], column: str, expected: Any) -> None:
    row = after(step, **values)
    assert row is not None
    found = row[column]
    assert type(found) is type(expected)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_filter_keeps_only_what_is_true() -> None:
    assert after({"filter": "amount > 1"}, amount=2.0) is not None
    assert after({"filter": "amount > 1"}, amount=1.0) is None
    assert after({"filter": {"where": "amount > 1"}}, amount=None) is None


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ([{"one_hot": {"column": "age", "values": ["U"]}}], [*(n for n in NAMES if n != "age"), "age_U"]),
        ([{"one_hot": {"column": "age", "values": ["U"], "keep": True}}], [*NAMES, "age_U"]),
        ([{"select": ["at", "age"]}], ["at", "age"]),
        ([{"drop": ["at", "age"]}], [n for n in NAMES if n not in ("at", "age")]),
        ([{"select": ["at"]}, {"derive": {"x": "count + 1"}}], ["at", "x"]),
        ([{"select": ["at"]}, {"select": ["count"]}], ["count"]),
        ([{"drop": ["count"]}, {"derive": {"count": "1"}}, {"select": ["count"]}], ["count"]),
        ([{"drop": ["count"]}, {"clip": {"column": "count", "min": 0}}], [n for n in NAMES if n != "count"]),
        ([{"select": ["at"]}, {"rename": {"at": "time"}}], ["time"]),
    ],
)
def test_what_is_in_sight(declared: list[dict[str, Any]], names: list[str]) -> None:
    assert list(visible(*declared)) == names


def test_hidden_columns_are_working_columns_still() -> None:
    plan = compile_steps([read({"one_hot": {"column": "age", "values": ["U"]}}), Select(["age_U"])], SCHEMA)
    assert [field.name for field in plan.visible] == ["age_U"]
    assert [field.name for field in plan.columns] == [*NAMES, "age_U"]
    assert {f.name: str(f.type) for f in plan.columns}["age_U"] == "int8"


@pytest.mark.parametrize(
    ("step", "column", "kind"),
    [
        ({"date_parts": {"column": "at", "parts": ["is_weekend"]}}, "at_is_weekend", "bool"),
        ({"date_parts": {"column": "at", "parts": ["year"]}}, "at_year", "int64"),
        (mapped("age", {"U": 1.5}, default=0), "age", "float64"),
        (mapped("small", {1: 2}), "small", "int8"),
        (mapped("small", {1: 200}), "small", "int64"),
        ({"bin": {"column": "amount", "edges": [1]}}, "amount", "int64"),
        ({"clip": {"column": "small", "max": 3}}, "small", "int8"),
        ({"impute": {"small": 3}}, "small", "int8"),
        ({"cast": {"small": "string"}}, "small", "string"),
    ],
)
def test_type(step: dict[str, Any], column: str, kind: str) -> None:
    assert visible(step)[column] == kind


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"clip": {"column": "amout", "max": 1}}, "clip: There is no column 'amout'. Did you mean 'amount'?"),
        ({"clip": {"column": "age", "max": 1}}, "A number or a time is needed, and 'age' is string."),
        ({"clip": {"column": "small", "max": 1000}}, "int8 is needed here, found int64 1000"),
        ({"clip": {"column": "amount"}}, "Say min:, max: or both."),
        ({"clip": {"column": "amount", "min": 2, "max": 1}}, "min: 2 is above max: 1"),
        ({"date_parts": {"column": "age", "parts": ["hour"]}}, "needs a timestamp, found string"),
        ({"date_parts": {"column": "at", "parts": ["hour"], "timezone": "Berlin"}}, "'Berlin' is no time"),
        (mapped("age", {"U": 0}), "Say default: null, or a value of the new"),
        (mapped("count", {"x": 0}), "int64 is needed here, found string 'x'"),
        (mapped("count", {1: 0, "1": 2}), "1 is mapped twice"),
        (mapped("age", {}), "The mapping is empty."),
        (mapped("amount", {"ranges": [[0, 2, 1], [1, 3, 1]]}), "overlap at 1"),
        (mapped("amount", {"ranges": [[2, 0, 1]]}), "The range [2, 0) is empty."),
        (mapped("age", {"ranges": [[0, 2, 1]]}), "Ranges need a number or a time"),
        ({"one_hot": {"column": "age", "values": ["a b", "a-b"]}}, "both give 'age_a_b'"),
        ({"one_hot": {"column": "age", "values": [1]}}, "string is needed here, found int64 1"),
        ({"bin": {"column": "amount", "edges": [2, 1]}}, "the edges must rise"),
        ({"bin": {"column": "amount", "edges": [1], "labels": ["a"]}}, "1 edges need 2 labels."),
        ({"derive": {"x": "amout"}}, "derive: x: There is no column 'amout', in `amout`. Did"),
        ({"filter": "amount"}, "A condition is needed, and 'amount' is float64."),
        ({"select": ["amount", "counts"]}, "There is no column 'counts'. Did you mean 'count'?"),
        ({"rename": {"amount": "count"}}, "'amount' cannot become 'count'"),
        ({"rename": {"amount": "x", "count": "x"}}, "cannot become 'x'"),
        ({"cast": {"amount": "int46"}}, "'int46' is no type. Did you mean 'int64'?"),
        ({"cast": {"at": "bool"}}, "cannot be cast to bool"),
        ({"impute": {"amount": "x"}}, "'amount' is float64: float64 is needed here, found string 'x'"),
        ({"impute": {"amount": "$men"}}, "'$men' is no statistic. Did you mean '$mean'?"),
        ({"impute": {"age": "$mean"}}, "'age' is string: there is no mean of it."),
        ({"scale": {"column": "age"}}, "A number is needed, and 'age' is string."),
        ({"bin": {"column": "flag", "quantiles": 4}}, "A number or a time is needed, and 'flag' is bool."),
    ],
)  # fmt: skip
def test_message(step: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        compile_steps([Select(NAMES), read(step)], SCHEMA, where=lambda i: f"specs/a.yaml:{10 + i}")
    assert str(error.value).startswith(f"specs/a.yaml:11: {next(iter(step))}: ")
    assert message in str(error.value)


class Holder(BaseModel):
    """What holds steps, as a feature set does."""

    steps: tuple[Step, ...] = ()


def test_yaml_and_python_are_the_same_steps() -> None:
    written = [
        {"date_parts": {"column": "at", "parts": ["hour"]}},
        {"clip": {"column": "amount", "max": 5}},
        {"derive": {"x": "amount + 1"}},
        {"filter": "x > 1"},
        {"select": ["x"]},
    ]
    made = [
        DateParts(column="at", parts=("hour",)),
        Clip(column="amount", max=5),
        Derive({"x": "amount + 1"}),
        Filter(where="x > 1"),
        Select(("x",)),
    ]
    assert Holder.model_validate({"steps": written}) == Holder(steps=made)
    assert Holder(steps=made).model_dump(mode="json") == {"steps": written}
    assert Holder.model_validate_json(Holder(steps=made).model_dump_json()) == Holder(steps=made)
    assert pickle.loads(pickle.dumps(Holder(steps=made))) == Holder(steps=made)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"date_part": {}}, "'date_part' is no step. Did you mean 'date_parts'?"),
        ({"clip": {}, "bin": {}}, "a step is one name and its parameters"),
        ("clip", "a step is one name and its parameters"),
        ({"clip": {"column": "a", "maximum": 3}}, "maximum"),
        ({"derive": {"no name": "1"}}, "String should match pattern"),
        ({"derive": {}}, "at least 1 item"),
        ({"clip": {"column": "amount", "min": math.nan}}, "NaN bounds nothing"),
        ({"bin": {"column": "amount", "edges": [math.nan]}}, "NaN bounds nothing"),
        ({"select": []}, "at least 1 item"),
    ],
)
def test_form(step: Any, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Holder.model_validate({"steps": [step]})
    assert message in str(error.value)


def test_the_json_schema_knows_each_step_and_its_parameters() -> None:
    schema = Holder.model_json_schema()
    variants = schema["properties"]["steps"]["items"]["oneOf"]
    assert [variant["required"] for variant in variants] == [[entry.name] for entry in reference()]
    for variant in variants:
        (parameters,) = variant["properties"].values()
        assert variant["additionalProperties"] is False
        assert variant["description"]
        assert parameters
    by_name = {variant["title"]: next(iter(variant["properties"].values())) for variant in variants}
    assert by_name["date_parts"]["required"] == ["column", "parts"]
    assert by_name["select"]["items"]["type"] == "string"
    assert list(by_name["derive"]["patternProperties"].values()) == [{"type": "string"}]
    assert {option["type"] for option in by_name["filter"]["anyOf"]} == {"string", "object"}


def test_overflow_rejects_rows_with_the_reason_in_both_forms() -> None:
    plan = compile_steps([Derive({"square": "count * count"}), Filter(where="amount > 0")], SCHEMA)
    frame = pl.DataFrame(
        {"amount": [1.0, -1.0, 1.0], "count": [2**40, 2**40, 3], "__sequence": [7, 8, 9]},
    ).with_columns(
        small=pl.lit(None, pl.Int8),
        age=pl.lit(None, pl.String),
        flag=pl.lit(None, pl.Boolean),
        at=pl.lit(None, pl.Datetime("us", "UTC")),
    )
    kept, rejected = run(plan, frame)
    assert kept["square"].to_list() == [9]
    assert kept["__sequence"].to_list() == [9]
    assert kept.columns == [*NAMES, "square", "__sequence"]
    assert rejected.columns == [*frame.columns, "__reason"]
    assert rejected["__sequence"].to_list() == [7, 8]
    reason = 'overflow: a number leaves its type\'s range in ("count" * "count") (derive \'square\')'
    assert rejected["__reason"].to_list() == [reason, reason]
    with pytest.raises(RowRejected) as error:
        compile_rows(plan)(dict.fromkeys(NAMES) | {"count": 2**40})
    assert error.value.reason == reason


def test_a_frame_without_rejections_has_none_of_the_right_form() -> None:
    plan = compile_steps([], SCHEMA)
    frame = pl.DataFrame(schema={field.name: field.type.polars() for field in SCHEMA})
    kept, rejected = run(plan, frame)
    assert kept.equals(frame)
    assert rejected.schema == {**frame.schema, "__reason": pl.String}


def test_the_text_of_a_plan_changes_with_its_meaning_alone() -> None:
    def text(*declared: dict[str, Any]) -> str:
        return compile_steps([read(step) for step in declared], SCHEMA).text

    assert text({"derive": {"x": "amount+1"}}) == text({"derive": {"x": "(amount  + 1.0)"}})
    assert text({"derive": {"x": "amount+1"}}) != text({"derive": {"x": "amount+2"}})
    assert text({"drop": ["age"]}) != text()
    assert text({"cast": {"small": "int16"}}) != text({"cast": {"small": "int32"}})


def test_plans_are_picklable() -> None:
    declared = [
        {"date_parts": {"column": "at", "parts": ["hour"], "timezone": "Europe/Berlin"}},
        {"map_values": {"column": "age", "mapping": {"U": "0"}}},
        {"filter": "age like '0%'"},
    ]
    plan = compile_steps([read(step) for step in declared], SCHEMA)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    row = dict.fromkeys(NAMES) | {"age": "U", "at": parse_instant("2026-06-01T22:30:00Z")}
    found = compile_rows(again)(row)
    assert found is not None
    assert found["at_hour"] == 0
