"""Frames and rows: the same steps give the same rows, the same rejections, the same omissions."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.lowerings import bits, frame_of
from tests.test_expressions_lowerings import ROWS, SCHEMA

from featurestore.expressions import RowRejected
from featurestore.expressions.vectors import physical
from featurestore.steps import compile_steps
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.rows import EachFunction, RowFunction, compile_rows
from featurestore.types import Field

NUMBERS = ["i", "j", "x", "y"]
BOUNDS = {
    "i": st.integers(-100, 100),
    "j": st.integers(-128, 127),
    "x": st.floats(-9, 9),
    "y": st.floats(-9, 9),
}


@st.composite
def a_step(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """Draw a step over the columns of SCHEMA, which no step takes away."""
    column = draw(st.sampled_from(NUMBERS))
    low, high = sorted(draw(st.lists(BOUNDS[column], min_size=2, max_size=2, unique=True)))
    into = draw(st.sampled_from([{}, {"into": f"new_{number}"}]))
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
                {"drop": ["s"]},
                {"select": ["i", "j", "s"]},
            ]
        )
    )


@st.composite
def several_steps(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [draw(a_step(number)) for number in range(draw(st.integers(1, 5)))]


def attempt(function: RowFunction, row: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Return the row after the steps, and why it is rejected."""
    try:
        return function(row), None
    except RowRejected as error:
        return None, error.reason


def attempt_each(
    function: EachFunction, row: dict[str, Any]
) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Return the rows after the steps, and why the row is rejected."""
    try:
        return function(row), None
    except RowRejected as error:
        return None, error.reason


@given(several_steps(), st.lists(ROWS, min_size=1, max_size=10))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_frames_and_rows_agree(steps: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    plan = compile_steps([read(step) for step in steps], tuple(Field(n, k) for n, k in SCHEMA.items()))
    function = compile_rows(plan)
    kept, rejected = run(plan, frame_of(SCHEMA, rows).with_row_index("__sequence"))
    assert [(field.name, field.type.polars()) for field in plan.columns] == list(
        kept.drop("__sequence").schema.items()
    )
    by_frame = {
        values.pop("__sequence"): values
        for values in kept.select(*map(physical, kept.iter_columns())).to_dicts()
    }
    reasons = dict(rejected.select("__sequence", "__reason").iter_rows())
    for i, row in enumerate(rows):
        before = dict(row)
        after, refused = attempt(function, row)
        assert reasons.pop(i, None) == refused
        assert row == before or row != row
        if after is None:
            assert i not in by_frame
            continue
        assert {n: bits(v) for n, v in after.items()} == {n: bits(v) for n, v in by_frame.pop(i).items()}
    assert not reasons
    assert not by_frame
