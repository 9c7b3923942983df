"""Columns of generated types, lists within lists too, keep generated values through every form they take."""

from __future__ import annotations

import base64
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from parity import examples

from featurestore.contracts import Record, RecordBatch
from featurestore.expressions.vectors import column, physical
from featurestore.instants import ALWAYS, DAY, LAST, format_instant
from featurestore.online.requests import cast_row, outward
from featurestore.plans import SourcePlan
from featurestore.pushing import admit_one
from featurestore.rows import identity
from featurestore.rows.casting import Context, cast
from featurestore.rows.door import admit
from featurestore.rows.frames import FrameSource
from featurestore.rows.hashing import row_hash
from featurestore.rows.json import decode
from featurestore.types import DataType, Field
from featurestore_connectors.delta.casts import cast_back, to_delta

NOW = 1_780_000_000_000_000
INTEGERS = {f"{sign}int{bits}": (bits, sign) for sign in ("", "u") for bits in (8, 16, 32, 64)}
DECIMALS = [(38, 10), (38, 0), (18, 2), (5, 5), (1, 0)]


def floats(width: int) -> SearchStrategy[float]:
    """Return floats of a width without -0.0, as the store has them, and with NaN."""
    return st.floats(width=width).map(lambda x: x + 0.0)


def decimals(precision: int, scale: int) -> SearchStrategy[Decimal]:
    """Return decimals with all places of their scale."""
    most = 10**precision - 1
    return st.integers(-most, most).map(
        lambda whole: Decimal(f"{whole}E-{scale}") if scale else Decimal(whole)
    )


SCALARS: dict[str, SearchStrategy[Any]] = {
    **{
        name: st.integers(0 if sign else -(2 ** (bits - 1)), 2**bits - 1 if sign else 2 ** (bits - 1) - 1)
        for name, (bits, sign) in INTEGERS.items()
    },
    "float32": floats(32),
    "float64": floats(64),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
    "binary": st.binary(max_size=70),
    "date": st.integers(ALWAYS // DAY, LAST // DAY),
    "timestamp": st.integers(ALWAYS, LAST),
    **{f"decimal({p},{s})": decimals(p, s) for p, s in DECIMALS},
    **{
        f"vector<float{width},{size}>": st.lists(floats(width), min_size=size, max_size=size)
        for width in (32, 64)
        for size in (1, 3, 9)
    },
}


@st.composite
def columns(draw: st.DrawFn) -> tuple[DataType, list[Any]]:
    """Draw a type and row values of it, nulls among them."""
    text = draw(st.sampled_from(list(SCALARS)))
    values = SCALARS[text]
    for _ in range(draw(st.integers(0, 3))):
        text, values = f"list<{text}>", st.lists(st.one_of(st.none(), values), max_size=4)
    return DataType.parse(text), draw(st.lists(st.one_of(st.none(), values), min_size=1, max_size=8))


def told(value: Any) -> Any:
    """Return what tells two values apart: 0.0 from -0.0, 1 from 1.0 and from true, NaN from itself not."""
    if isinstance(value, list):
        return [told(item) for item in value]
    return (type(value).__name__, format(value, "f") if isinstance(value, Decimal) else repr(value))


@given(drawn=columns())
@examples(150)
def test_columns_hold_row_values_and_the_door_changes_none(drawn: tuple[DataType, list[Any]]) -> None:
    kind, values = drawn
    made = column(values, kind).alias("v")
    assert made.dtype == kind.polars()
    assert told(physical(made).to_list()) == told(values)
    done = cast(made, kind, Context("s"))
    assert not done.bad
    assert done.values.dtype == kind.polars()
    assert told(physical(done.values).to_list()) == told(values)


@given(drawn=columns())
@examples(150)
def test_hashes_of_a_column_are_those_of_its_values(drawn: tuple[DataType, list[Any]]) -> None:
    kind, values = drawn
    field = Field("v", kind)
    frame = pl.DataFrame({"v": column(values, kind)})
    assert row_hash(frame, [field]).to_list() == [
        identity.row_hash({"v": value}, [field]) for value in values
    ]
    source = FrameSource(frame)
    assert source.inputs()[0].digest == FrameSource(pl.concat([frame[:1], frame[1:]])).inputs()[0].digest


@given(drawn=columns())
@examples(150)
def test_delta_gives_back_what_it_was_given(drawn: tuple[DataType, list[Any]]) -> None:
    kind, values = drawn
    frame = pl.DataFrame({"v": column(values, kind)})
    stored = to_delta(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    back = cast_back(stored, [Field("v", kind)])
    assert back.schema.field("v").type == kind.arrow()
    by_polars = pl.DataFrame(pl.from_arrow(stored)).with_columns(pl.col("v").cast(kind.polars()))
    for found in (pl.DataFrame(pl.from_arrow(back)), by_polars):
        assert told(physical(found["v"]).to_list()) == told(values)


@given(drawn=columns())
@examples(150)
def test_answers_in_arrow_are_exact(drawn: tuple[DataType, list[Any]]) -> None:
    kind, values = drawn
    array = pa.array([outward(value, kind) for value in values], kind.arrow())
    assert told(physical(pl.Series(array)).to_list()) == told(values)


def said(value: Any, kind: DataType) -> Any:
    """Return a row value as an event says it."""
    if value is None:
        return None
    if kind.item is not None:
        return [said(item, kind.item) for item in value]
    if kind.name == "timestamp":
        return format_instant(value)
    if kind.name == "date":
        return format_instant(value * DAY)[:10]
    if kind.name == "decimal":
        return format(value, "f")
    return base64.b64encode(value).decode() if kind.name == "binary" else value


def sayable(value: Any) -> bool:
    """Return whether JSON has a form for a value."""
    if isinstance(value, list):
        return all(map(sayable, value))
    return not isinstance(value, float) or math.isfinite(value)


@given(drawn=columns(), whole=st.sampled_from(["1", "1.0"]))
@examples(200)
def test_an_event_is_the_same_row_by_the_stream_and_by_push(
    drawn: tuple[DataType, list[Any]], whole: str
) -> None:
    kind, values = drawn
    source = SourcePlan(
        name="s",
        schema=(Field("v", kind), Field("n", DataType("int64"))),
        event_time=None,
        ingest_time=None,
        event_id=(),
        order_by=None,
        timezone=None,
        delay=0,
        future=0,
        max_bytes=1 << 20,
        cutover=None,
        on_duplicate="first",
        deleted=None,
        batch=None,
        stream={"topic": "s"},
        fingerprint="",
    )
    values = [value for value in values if sayable(value)]
    events = [f'{{"n": {whole}, "v": {json.dumps(said(value, kind))}}}'.encode() for value in values]
    records = [Record(place, NOW, None, event) for place, event in enumerate(events)]
    frame, refused = decode(source, RecordBatch("p", records, len(records)))
    admitted = admit(source, frame, now=NOW)
    assert not refused.height
    assert not admitted.rejected.height
    assert told(physical(admitted.rows["v"]).to_list()) == told(values)
    assert told([admit_one(source, event)["v"] for event in events]) == told(values)
    natural = [cast_row({"n": 1, "v": outward(value, kind)}, source.schema)["v"] for value in values]
    assert told(natural) == told(values)


def test_a_vector_may_be_given_as_numpy() -> None:
    kind = DataType.parse("vector<float32,3>")
    fields = (Field("v", kind),)
    assert cast_row({"v": np.array([1, 2, 3])}, fields)["v"] == [1.0, 2.0, 3.0]
