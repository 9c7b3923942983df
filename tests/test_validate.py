"""`validate`: which rows a check finds wrong, what becomes of them, and what is counted."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.lowerings import EDGES, bits, frame_of
from tests.test_expressions_lowerings import ROWS
from tests.test_expressions_lowerings import SCHEMA as GENERATED

from featurestore.errors import SpecError
from featurestore.expressions import RowRejected
from featurestore.expressions.vectors import physical
from featurestore.steps import compile_steps
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType, Field

TYPES = {
    "amount": "float64",
    "count": "int64",
    "small": "int8",
    "price": "decimal(10,2)",
    "name": "string",
    "at": "timestamp",
    "flag": "bool",
}
SCHEMA = tuple(Field(name, DataType.parse(kind)) for name, kind in TYPES.items())
NAN, INF = math.nan, math.inf


def plan_of(*declared: dict[str, Any]) -> Any:
    return compile_steps([read({"validate": step}) for step in declared], SCHEMA)


def wrong(step: dict[str, Any], **values: Any) -> bool:
    """Return whether the check finds a row wrong; both forms must say the same."""
    plan = plan_of(step)
    row = dict.fromkeys(TYPES) | values
    checks: dict[str, int] = {}
    kept, rejected = run(plan, frame_of({f.name: f.type for f in SCHEMA}, [row]), checks)
    try:
        assert compile_rows(plan)(row) == row or any(v != v for v in row.values())
        refused = None
    except RowRejected as error:
        refused = error.reason
    assert rejected["__reason"].to_list() == ([] if refused is None else [refused])
    assert kept.height + rejected.height == 1
    assert sum(checks.values()) == rejected.height
    return refused is not None


@pytest.mark.parametrize(
    ("step", "values", "is_wrong"),
    [
        ({"column": "amount", "not_null": True}, {"amount": None}, True),
        ({"column": "amount", "not_null": True}, {"amount": NAN}, False),
        ({"column": "amount", "min": 0}, {"amount": None}, False),
        ({"column": "amount", "min": 0}, {"amount": -0.0}, False),
        ({"column": "amount", "min": 0}, {"amount": -5e-324}, True),
        ({"column": "amount", "min": 0}, {"amount": NAN}, True),
        ({"column": "amount", "max": 1}, {"amount": NAN}, True),
        ({"column": "amount", "max": 1}, {"amount": INF}, True),
        ({"column": "amount", "max": 1}, {"amount": 1.0}, False),
        ({"column": "count", "max": 1.5}, {"count": 2}, True),
        ({"column": "count", "max": 1.5}, {"count": 1}, False),
        ({"column": "price", "min": 0.1}, {"price": Decimal("0.10")}, False),
        ({"column": "price", "min": 0.1}, {"price": Decimal("0.09")}, True),
        ({"column": "at", "min": "1970-01-01T00:00:01Z"}, {"at": 999_999}, True),
        ({"column": "at", "min": "1970-01-01T00:00:01Z"}, {"at": 1_000_000}, False),
        ({"column": "name", "min_length": 1}, {"name": ""}, True),
        ({"column": "name", "max_length": 2}, {"name": "e\u0301x"}, True),
        ({"column": "name", "max_length": 2}, {"name": "𝒳y"}, False),
        ({"column": "name", "max_length": 0}, {"name": None}, False),
        ({"column": "name", "regex": "[A-Z]{2}"}, {"name": "AB"}, False),
        ({"column": "name", "regex": "[A-Z]{2}"}, {"name": "AB\n"}, True),
        ({"column": "name", "regex": "[A-Z]{2}"}, {"name": "xAB"}, True),
        ({"column": "name", "regex": "(?i)es_.*"}, {"name": "ES_ü"}, False),
        ({"column": "name", "regex": "a"}, {"name": None}, False),
        ({"column": "name", "allowed": ["F", "M"]}, {"name": "f"}, True),
        ({"column": "name", "allowed": ["F", "M"]}, {"name": None}, False),
        ({"column": "count", "allowed": [1, 2]}, {"count": 2}, False),
        ({"column": "amount", "allowed": [0, 1.5]}, {"amount": -0.0}, False),
        ({"column": "amount", "allowed": [0, 1.5]}, {"amount": NAN}, True),
        ({"column": "flag", "allowed": [True]}, {"flag": False}, True),
        ({"column": "name", "type": "int64"}, {"name": "42"}, False),
        ({"column": "name", "type": "int64"}, {"name": "4.2"}, True),
        ({"column": "name", "type": "int64"}, {"name": None}, True),
        ({"column": "name", "type": "int64", "not_null": False}, {"name": None}, False),
        ({"column": "name", "type": "int64", "not_null": False}, {"name": "x"}, True),
        ({"column": "name", "type": "int8"}, {"name": "128"}, True),
        ({"column": "name", "type": "date"}, {"name": "2023-02-29"}, True),
        ({"column": "name", "type": "timestamp"}, {"name": "2024-02-29T12:00:00Z"}, False),
        ({"column": "amount", "type": "int64"}, {"amount": 3.0}, False),
        ({"column": "amount", "type": "int64"}, {"amount": 3.5}, True),
        ({"column": "amount", "type": "int64"}, {"amount": 1e30}, True),
        ({"column": "amount", "type": "int64"}, {"amount": NAN}, True),
        ({"column": "amount", "type": "float32"}, {"amount": 0.1}, True),
        ({"column": "amount", "type": "float32"}, {"amount": 0.5}, False),
        ({"column": "amount", "type": "decimal(10,2)"}, {"amount": 0.125}, True),
        ({"column": "count", "type": "int8"}, {"count": 128}, True),
        ({"column": "count", "type": "float64"}, {"count": 2**53 + 1}, True),
        ({"column": "count", "type": "float64"}, {"count": 2**53}, False),
        ({"column": "count", "type": "float64"}, {"count": 2**63 - 1}, True),
        ({"column": "small", "type": "int8"}, {"small": -128}, False),
        ({"condition": "amount > count"}, {"amount": 1.0, "count": 1}, True),
        ({"condition": "amount > count"}, {"amount": None, "count": 1}, False),
        ({"condition": "count * count >= 0"}, {"count": 2**40}, True),
        ({"condition": "count = 0 or count * count > 0"}, {"count": 2**40}, True),
    ],
)  # fmt: skip
def test_a_check_finds_wrong(step: dict[str, Any], values: dict[str, Any], is_wrong: bool) -> None:
    assert wrong(step, **values) is is_wrong


def test_a_warning_counts_and_keeps_the_row_and_a_later_check_sees_only_what_is_left() -> None:
    plan = plan_of(
        {"column": "amount", "min": 0, "severity": "warn"},
        {"column": "amount", "max": 100, "min": -10, "severity": "reject", "name": "range"},
        {"column": "count", "not_null": True, "severity": "fail"},
    )
    rows = [
        {"amount": -1.0, "count": 1},  # a warning
        {"amount": -11.0, "count": None},  # a warning, then rejected: the last check never sees it
        {"amount": 101.0, "count": 1},
        {"amount": 5.0, "count": None},
    ]
    checks: dict[str, int] = {}
    kept, rejected = run(
        plan, frame_of({f.name: f.type for f in SCHEMA}, [dict.fromkeys(TYPES) | r for r in rows]), checks
    )
    assert checks == {"amount.min": 2, "range.min": 1, "range.max": 1, "count.not_null": 1}
    assert kept["amount"].to_list() == [-1.0]
    assert rejected["__reason"].to_list() == [
        "validate: range.min: 'amount' is not -10 or more",
        "validate: range.max: 'amount' is not 100 or less",
        "validate: count.not_null: 'count' is null",
    ]


def test_what_a_filter_left_out_is_not_checked() -> None:
    steps = [{"filter": "amount > 0"}, {"validate": {"column": "name", "not_null": True}}]
    plan = compile_steps([read(step) for step in steps], SCHEMA)
    rows = [dict.fromkeys(TYPES) | {"amount": amount} for amount in (-1.0, 1.0)]
    checks: dict[str, int] = {}
    kept, rejected = run(plan, frame_of({f.name: f.type for f in SCHEMA}, rows), checks)
    assert (kept.height, rejected.height, checks) == (0, 1, {"name.not_null": 1})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"column": "nam", "not_null": True}, "There is no column 'nam'. Did you mean 'name'?"),
        ({"column": "name", "type": "int46"}, "'int46' is no type. Did you mean 'int64'?"),
        ({"column": "flag", "type": "date"}, "cannot be cast to date"),
        ({"column": "flag", "min": 0}, "A range needs a number, a time or text, and 'flag' is bool."),
        ({"column": "amount", "max": "x"}, "these types do not go together"),
        ({"column": "amount", "min_length": 1}, "needs a string, found float64"),
        ({"column": "name", "regex": "("}, "the pattern cannot be read: missing )"),
        ({"column": "name", "allowed": [1]}, "string is needed here, found int64 1"),
        ({"condition": "amount"}, "A condition is needed, and 'amount' is float64."),
    ],
)
def test_what_cannot_be_checked_is_refused(step: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        plan_of(step)
    assert message in str(error.value)
    assert str(error.value).startswith("step 1: validate: ")


def test_two_checks_of_one_name_are_refused_with_the_fix() -> None:
    with pytest.raises(SpecError, match=r"step 2: .* check 'amount.min' already. Tell them apart with name:"):
        plan_of({"column": "amount", "min": 0}, {"column": "amount", "min": 1, "severity": "warn"})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"column": "amount"}, "say what must hold"),
        ({"column": "amount", "not_null": False}, "say what must hold"),
        ({"min": 0}, "say column: and what its values must be, or condition:"),
        ({"column": "amount", "condition": "true"}, "say column:"),
        ({"condition": "true", "min": 0}, "min: is a column's"),
        ({"column": "amount", "min": 2, "max": 1}, "min: 2 is above max: 1."),
        ({"column": "name", "min_length": 2, "max_length": 1}, "min_length: 2 is above max_length: 1."),
        ({"column": "amount", "min": NAN}, "NaN bounds nothing"),
        ({"column": "amount", "min": 0, "severity": "error"}, "'warn', 'reject' or 'fail'"),
    ],
)
def test_a_form_that_says_too_little_or_too_much_is_refused(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        read({"validate": step})
    assert message in str(error.value)


def test_a_warning_and_a_name_are_no_part_of_the_rows_version_and_fail_is_as_reject() -> None:
    def text(**step: Any) -> str:
        return str(plan_of({"column": "amount", "min": 0, **step}).text)

    assert text() == text(severity="fail") == text(name="other")
    assert text(severity="warn") == plan_of().text != text()
    assert text() != text(min=1)


COLUMNS = {name: str(kind) for name, kind in GENERATED.items()}


@st.composite
def a_check(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """Draw a validate step over the generated columns."""
    column, kind = draw(st.sampled_from(sorted(COLUMNS.items())))
    rules: list[dict[str, Any]] = [{"not_null": True}]
    if kind in EDGES and (kind == "string" or "int" in kind or "float" in kind):
        value = draw(st.sampled_from([v for v in EDGES[kind] if v is not None and v == v and abs_ok(v)]))
        rules += [{"min": value}, {"max": value}, {"allowed": [value]}]
    if kind == "string":
        rules += [{"regex": r"\w+"}, {"regex": "[a-z0-9.]*"}, {"min_length": 2}, {"max_length": 3}]
        rules += [{"type": t} for t in ("int64", "int8", "float64", "date", "timestamp", "bool")]
        rules += [{"type": "int64", "not_null": False}]
    if "int" in kind or "float" in kind or "decimal" in kind:
        rules += [{"type": t} for t in ("int8", "uint8", "int64", "uint64", "float32", "float64")]
    conditions = [{"condition": c} for c in ("i * j > 0", "x > y", "p", "i * i >= 0 and j <> 3")]
    chosen = draw(st.sampled_from([*({"column": column, **rule} for rule in rules), *conditions]))
    return {**chosen, "severity": draw(st.sampled_from(["warn", "reject", "fail"])), "name": f"n{number}"}


def abs_ok(value: Any) -> bool:
    """Whether YAML has the value as a constant."""
    return not isinstance(value, float) or math.isfinite(value)


@given(st.data(), st.lists(ROWS, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_frames_and_rows_agree_on_rows_reasons_and_counts(data: Any, rows: list[dict[str, Any]]) -> None:
    steps = [{"validate": data.draw(a_check(n))} for n in range(data.draw(st.integers(1, 4)))]
    steps.insert(data.draw(st.integers(0, 1)), {"derive": {"d": "i * 2"}})
    plan = compile_steps([read(step) for step in steps], tuple(Field(n, k) for n, k in GENERATED.items()))
    checks: dict[str, int] = {}
    kept, rejected = run(plan, frame_of(GENERATED, rows).with_row_index("__sequence"), checks)
    warned: list[str] = []
    function = compile_rows(plan, warned.append)
    reasons, after = {}, {}
    for number, row in enumerate(rows):
        try:
            after[number] = {n: bits(v) for n, v in (function(row) or {}).items()}
        except RowRejected as error:
            reasons[number] = error.reason
    assert dict(rejected.select("__sequence", "__reason").iter_rows()) == reasons
    by_frame = {
        values.pop("__sequence"): {n: bits(v) for n, v in values.items()}
        for values in kept.select(*map(physical, kept.iter_columns())).to_dicts()
    }
    assert by_frame == after
    counted = dict.fromkeys((op.name for op in plan.checks), 0)
    for name in warned:
        counted[name] += 1
    for op in plan.checks:
        if op.severity != "warn":
            counted[op.name] = sum(reason == op.reason for reason in reasons.values())
    assert checks == counted
