"""What the steps of categories, numbers, text and documents give, by hand, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.lowerings import bits, frame_of
from tests.test_steps_equality import attempt_each

from featurestore import SpecError
from featurestore.expressions.vectors import physical
from featurestore.steps import Haversine, Parse, compile_steps
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.rows import compile_each
from featurestore.types import DataType, Field

SCHEMA = {
    "size": DataType("string"),
    "number": DataType("int64"),
    "small": DataType("int8"),
    "amount": DataType("float64"),
    "price": DataType.parse("decimal(10,2)"),
    "flag": DataType("bool"),
    "at": DataType("timestamp"),
    "doc": DataType("json"),
    "tags": DataType.parse("list<string>"),
}
FIELDS = tuple(map(Field, SCHEMA, SCHEMA.values()))


def outcome(step: dict[str, Any], **row: Any) -> dict[str, Any] | str:
    """Return what a step changes or adds, after both forms have agreed; why, where it rejects the row."""
    plan = compile_steps([read(step)], FIELDS)
    full = dict.fromkeys(SCHEMA) | row
    kept, rejected = run(plan, frame_of(SCHEMA, [full]))
    after, why = attempt_each(compile_each(plan), full)
    assert rejected["__reason"].to_list() == ([] if why is None else [why])
    if after is None:
        return str(why)
    (by_row,) = after
    (by_frame,) = kept.select(*map(physical, kept.iter_columns())).to_dicts()
    assert {n: bits(v) for n, v in by_row.items()} == {n: bits(v) for n, v in by_frame.items()}
    return {n: v for n, v in by_row.items() if n not in full or bits(full[n]) != bits(v)}


def refusal(step: dict[str, Any]) -> str:
    """Return what is said against a step."""
    with pytest.raises(SpecError) as error:
        compile_steps([read(step)], FIELDS)
    return str(error.value)


ONE_HOT = {"column": "size", "values": ["S", "M"]}


@pytest.mark.parametrize(
    ("unknown", "size", "gives"),
    [
        ({}, "S", (1, 0)),
        ({}, "X", (0, 0)),
        ({}, None, (0, 0)),
        ({"unknown": "zeros"}, "X", (0, 0)),
        ({"unknown": None}, "M", (0, 1)),
        ({"unknown": None}, "X", (None, None)),
        ({"unknown": "null"}, None, (None, None)),
        ({"unknown": "reject"}, "M", (0, 1)),
        ({"unknown": "reject"}, None, (0, 0)),
    ],
)
def test_one_hot_of_what_is_not_declared(unknown: dict[str, Any], size: str | None, gives: Any) -> None:
    found = outcome({"one_hot": ONE_HOT | unknown}, size=size)
    assert found == {"size_S": gives[0], "size_M": gives[1]}


def test_a_value_that_is_not_declared_is_rejected_where_that_is_asked_for() -> None:
    reason = "unknown_value: a value is none of those declared (one_hot 'size_S')"
    assert outcome({"one_hot": ONE_HOT | {"unknown": "reject"}}, size="X") == reason
    step = {"ordinal": {"column": "amount", "values": [0.5, 1], "unknown": "reject", "into": "place"}}
    reason = "unknown_value: a value is none of those declared (ordinal 'place')"
    assert outcome(step, amount=2.0) == reason
    assert outcome(step, amount=math.nan) == reason


@pytest.mark.parametrize(
    ("column", "values", "row", "unknown", "gives"),
    [
        ("size", ["S", "M"], "M", {}, 1),
        ("size", ["S", "M"], "X", {}, None),
        ("size", ["S", "M"], "X", {"unknown": -1}, -1),
        ("size", ["S", "M"], None, {"unknown": -1}, None),
        ("size", ["S", "M"], None, {"unknown": "reject"}, None),
        ("number", [10, 20], 20, {"unknown": 99}, 1),
        ("flag", [False, True], True, {}, 1),
        ("amount", [0.5, 1], math.nan, {"unknown": 7}, 7),
        ("amount", [0, 1], -0.0, {}, 0),
        ("at", ["2026-01-01T00:00:00Z"], 1_767_225_600_000_000, {}, 0),
    ],
)
def test_ordinal_is_the_place_among_the_values(
    column: str, values: list[Any], row: Any, unknown: dict[str, Any], gives: int | None
) -> None:
    step = {"ordinal": {"column": column, "values": values, "into": "place"} | unknown}
    assert outcome(step, **{column: row}) == {"place": gives}


@pytest.mark.parametrize(
    ("parameters", "row", "gives"),
    [
        ({"column": "amount"}, {"amount": 1.0}, 0.0),
        ({"column": "amount"}, {"amount": 0.0}, None),
        ({"column": "amount", "add": 1}, {"amount": -1.0}, None),
        ({"column": "amount", "base": 2}, {"amount": 0.125}, -3.0),
        ({"column": "number", "base": 10}, {"number": 1000}, 3.0),
        ({"column": "number", "add": 1, "base": 2}, {"number": 2**63 - 1}, 63.0),
        ({"column": "price", "base": 2, "add": 0.5}, {"price": None}, None),
        ({"column": "amount"}, {"amount": math.inf}, math.inf),
    ],
)
def test_log_of_what_is_added(parameters: dict[str, Any], row: dict[str, Any], gives: float | None) -> None:
    found = outcome({"log": parameters | {"into": "log"}}, **row)
    assert found == {"log": gives}


def splitmix(x: int) -> int:
    """Return a step of Vigna's splitmix64.c, written anew."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


PI = 0x243F6A8885A308D3


def test_hash_buckets_are_those_of_the_documented_hash() -> None:
    word = splitmix(splitmix(PI ^ 7) ^ int.from_bytes(b"es_food", "little"))
    by_hand = splitmix(PI ^ word)
    step = {"column": "size", "buckets": 1000, "into": "bucket"}
    assert outcome({"hash_bucket": step}, size="es_food") == {"bucket": by_hand % 1000}
    both = {"columns": ["size", "number"], "buckets": 1000, "into": "bucket"}
    by_hand = splitmix(by_hand ^ (2**64 - 5))
    assert outcome({"hash_bucket": both}, size="es_food", number=-5) == {"bucket": by_hand % 1000}
    assert outcome({"hash_bucket": both}, size="es_food") == {"bucket": None}


def test_hash_buckets_never_change() -> None:
    buckets = [
        outcome({"hash_bucket": {"column": column, "buckets": 2**32, "into": "bucket"}}, **{column: value})
        for column, value in (("size", ""), ("number", 0), ("small", 0), ("amount", -0.0), ("flag", False))
    ]
    zero = splitmix(PI) % 2**32
    empty = splitmix(PI ^ splitmix(PI)) % 2**32
    assert buckets == [{"bucket": empty}, *[{"bucket": zero}] * 4]


@pytest.mark.parametrize(
    ("there", "unit", "gives"),
    [
        ([0, 0], "km", 0.0),
        ([0, 180], "km", math.pi * 6371.0088),  # half the way round
        ([90, 0], "m", math.pi * 6371008.8 / 2),
        ([0, 1], "mi", math.pi * 6371.0088 / 180 / 1.609344),
    ],
)
def test_haversine_is_the_way_along_the_sphere(there: list[float], unit: str, gives: float) -> None:
    found = outcome(
        {"haversine": {"from": ["amount", 0], "to": there, "unit": unit, "into": "way"}}, amount=0.0
    )
    assert isinstance(found, dict)
    assert found["way"] == pytest.approx(gives, rel=1e-12)


@pytest.mark.parametrize(
    ("functions", "more", "text", "gives"),
    [
        (["trim", "upper"], {}, " straße\t", "STRASSE"),
        (["length"], {}, "𝒳y", 2),
        (["length"], {}, "", 0),
        (["tokens"], {}, "", []),
        (["tokens"], {}, "naïve_1, 東京!", ["naïve_1", "東京"]),
        (["lower", "tokens", "length"], {"separator": "a"}, "bAbAb", 3),
        (["lower"], {}, None, None),
    ],
)
def test_text_goes_through_the_functions(
    functions: list[str], more: dict[str, Any], text: str | None, gives: Any
) -> None:
    step = {"text": {"column": "size", "functions": functions, "into": "made"} | more}
    assert outcome(step, size=text) == {"made": gives}


@pytest.mark.parametrize(
    ("parameters", "row", "gives"),
    [
        ({"column": "doc", "json": "$.a"}, {"doc": '{"a":"x"}'}, "x"),
        ({"column": "doc", "json": "$.a"}, {"doc": '{"a":{"b":1}}'}, '{"b":1}'),
        ({"column": "doc", "json": "$.a", "type": "json"}, {"doc": '{"a":"x"}'}, '"x"'),
        ({"column": "doc", "json": "$.a", "type": "int64"}, {"doc": '{"a":"12"}'}, 12),
        ({"column": "doc", "json": "$.a", "type": "int8"}, {"doc": '{"a":128}'}, None),
        ({"column": "doc", "json": "$.a", "type": "bool"}, {"doc": '{"a":true}'}, True),
        ({"column": "doc", "json": "$.a", "type": "date"}, {"doc": '{"a":"1970-01-03"}'}, 2),
        ({"column": "doc", "json": "$", "type": "list<int8>"}, {"doc": '[1,"2",null]'}, [1, 2, None]),
        ({"column": "size", "json": "$[-1]", "type": "int64"}, {"size": "[1, 2.0]"}, 2),
        ({"column": "size", "json": "$.a"}, {"size": "{broken"}, None),
        ({"column": "size", "regex": "([a-z]+)-([0-9]+)", "group": 2, "type": "int64"}, {"size": "ab-07"}, 7),
        ({"column": "size", "regex": "([a-z]+)-([0-9]+)"}, {"size": "ab-07"}, "ab"),
        ({"column": "size", "regex": "[0-9]+"}, {"size": "ab-07"}, "07"),
        ({"column": "size", "regex": "(x)?b"}, {"size": "ab"}, None),
        ({"column": "size", "regex": "[0-9]+"}, {"size": "none"}, None),
    ],
)  # fmt: skip
def test_parse_gives_what_is_found_as_its_type(
    parameters: dict[str, Any], row: dict[str, Any], gives: Any
) -> None:
    assert outcome({"parse": parameters | {"into": "found"}}, **row) == {"found": gives}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"one_hot": {"column": "size", "values": [1]}}, "string is needed here"),
        ({"ordinal": {"column": "size", "values": ["S", "S"]}}, "A value is declared twice"),
        ({"ordinal": {"column": "sice", "values": ["S"]}}, "Did you mean 'size'?"),
        ({"ordinal": {"column": "doc", "values": ["S"]}}, "json is needed here"),
        ({"log": {"column": "size"}}, "A number is needed, and 'size' is string"),
        ({"hash_bucket": {"buckets": 3, "into": "b"}}, "Say column: or columns:"),
        ({"hash_bucket": {"buckets": 3, "columns": ["size", "flag"]}}, "Several columns need into:"),
        ({"haversine": {"from": ["size", 0], "to": [0, 0], "into": "b"}}, "needs a number"),
        ({"haversine": {"from": ["latitude", 0], "to": [0, 0], "into": "b"}}, "no column 'latitude'"),
        ({"text": {"column": "number", "functions": ["lower"]}}, "needs a string"),
        ({"text": {"column": "size", "functions": ["tokens", "lower"]}}, "needs a string"),
        ({"text": {"column": "size", "functions": ["lower"], "separator": ";"}}, "goes with tokens"),
        ({"parse": {"column": "doc"}}, "Say json: or regex:"),
        ({"parse": {"column": "doc", "json": "a.b"}}, "does not begin with $"),
        ({"parse": {"column": "number", "json": "$.a"}}, "json or text is needed, and 'number' is int64"),
        ({"parse": {"column": "doc", "json": "$.a", "type": "int65"}}, "'int65' is no type"),
        ({"parse": {"column": "doc", "json": "$.a", "group": 1}}, "group: goes with regex:"),
        ({"parse": {"column": "size", "regex": "(a", "into": "b"}}, "the pattern cannot be read"),
        ({"parse": {"column": "size", "regex": "a", "group": 1}}, "has groups 0 to 0"),
        ({"flatten": {"column": "doc", "fields": {"a": "$["}}}, "a: "),
        ({"flatten": {"column": "doc", "fields": {"doc": "$.a", "b": "$.b"}}}, "take the document's place"),
        ({"flatten": {"column": "doc", "fields": {"a": {"path": "$", "type": "binary"}}}}, "cannot be cast"),
        ({"derive": {"a": "lower(doc)"}}, "needs a string"),
        ({"derive": {"a": "doc = doc"}}, "documents have no order"),
    ],
)
def test_what_a_step_cannot_do_is_said(step: dict[str, Any], said: str) -> None:
    assert said in refusal(step)


@pytest.mark.parametrize(
    "parameters",
    [{"unknown": "zeroes"}, {"unknown": 3}, {"values": []}, {"value": ["S"]}],
)
def test_what_is_not_a_parameter_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d validation error"):
        read({"one_hot": ONE_HOT | parameters})


def test_parameters_named_as_words_of_python_are_written_as_in_yaml() -> None:
    from pydantic import TypeAdapter

    from featurestore.steps import Step

    steps = TypeAdapter(tuple[Step, ...])
    made = (Haversine(from_=("a", "b"), to=(0, 1), into="c"), Parse(column="doc", json_="$.a"))  # type: ignore[call-arg]
    dumped = steps.dump_python(made, mode="json")
    assert dumped == [
        {"haversine": {"from": ["a", "b"], "to": [0, 1], "into": "c"}},
        {"parse": {"column": "doc", "json": "$.a"}},
    ]
    assert steps.validate_python(dumped) == made
