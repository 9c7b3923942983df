"""Admitted rows to a set's rows: steps, keys, shards, and what is left out (DESIGN 3.12, 3.14)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from featurestore.expressions import parse
from featurestore.keys import encode_key, shard_of
from featurestore.plans import KeyColumn, SetPlan, SourcePlan
from featurestore.rows.dead_letters import SCHEMA
from featurestore.rows.door import admit
from featurestore.rows.transform import transform
from featurestore.steps import Derive, Filter, OneHot, Ordinal, Python, Rename, compile_steps
from featurestore.types import DataType, Field

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
FIELDS = {"id": "string", "at": "timestamp", "customer": "float64", "n": "int64"}


def plan(steps: list[Any], key: str = "int64", column: str = "customer", **source: Any) -> SetPlan:
    schema = tuple(Field(name, DataType.parse(kind)) for name, kind in FIELDS.items())
    values: dict[str, Any] = {
        "name": "payments",
        "schema": schema,
        "event_time": "at",
        "ingest_time": None,
        "event_id": (),
        "order_by": None,
        "timezone": None,
        "delay": 0,
        "future": 0,
        "max_bytes": 1 << 20,
        "cutover": None,
        "on_duplicate": "first",
        "deleted": None,
        "batch": None,
        "stream": None,
        "fingerprint": "f",
    }
    compiled = compile_steps(tuple(steps), schema)
    return SetPlan(
        name="transactions",
        project="p",
        source=SourcePlan(**{**values, **source}),
        keys=(KeyColumn("customer", column, DataType.parse(key), "customer"),),
        steps=compiled,
        plain=compiled.visible,
        columns=compiled.columns,
        aggregates=(),
        ttl=None,
        left_closed=False,
        history=None,
        online=True,
        rows_fingerprint="r",
        state_fingerprint="s",
    )


def frame(customers: list[Any], **columns: Any) -> pl.DataFrame:
    count = len(customers)
    plain = {"id": ["a"] * count, "at": [NOON] * count, "n": [1] * count, "__partition": ["p"] * count}
    series = pl.Series("customer", customers, dtype=pl.Float64)
    return pl.DataFrame({**plain, **columns, "__sequence": range(count)}).with_columns(series)


def test_the_layout_and_the_keys() -> None:
    set_ = plan([], event_id=("id",), order_by="n", deleted=parse("n < 0", {"n": DataType("int64")}))
    rows = admit(set_.source, frame([17850.0, 2.0]), now=0).rows
    found = transform(set_, rows)
    assert found.rows.columns == [
        *FIELDS,
        "__key",
        "__shard",
        "__event_time",
        "__ingest_time",
        "__order",
        "__row_hash",
        "__event_id",
        "__deleted",
        "__partition",
        "__sequence",
    ]
    kind = [DataType("int64")]
    keys = [encode_key([17850], kind), encode_key([2], kind)]
    assert found.rows["__key"].to_list() == keys
    assert found.rows["__shard"].to_list() == [shard_of(key) for key in keys]
    assert found.rows.schema["__shard"] == pl.Int16()
    assert found.counts == {"rows": 2, "rejected": 0, "null_key": 0, "filtered": 0}
    assert found.rejected.schema == SCHEMA


def test_a_row_without_a_key_belongs_to_no_entity_and_a_key_that_does_not_cast_is_rejected() -> None:
    set_ = plan([])
    rows = admit(set_.source, frame([1.0, None, float("nan"), 2.5]), now=0).rows
    found = transform(set_, rows)
    assert found.rows["__sequence"].to_list() == [0]
    assert found.counts == {"rows": 1, "rejected": 1, "null_key": 2, "filtered": 0}
    assert found.rejected.select(
        "source", "feature_set", "partition", "sequence", "code", "message"
    ).rows() == [("payments", "transactions", "p", 3, "bad_key", "key ('2.5',) does not fit customer: int64")]
    assert msgspec.json.decode(found.rejected["payload"][0])["customer"] == 2.5


def test_steps_filter_and_reject_before_the_keys() -> None:
    steps = [
        Filter(where="n > 0"),
        Derive({"twice": "n * 4611686018427387904"}),
    ]
    set_ = plan(steps)
    rows = admit(set_.source, frame([1.0] * 3, n=[0, 1, 4]), now=0).rows
    found = transform(set_, rows)
    assert found.rows.select("twice", "__sequence").rows() == [(4611686018427387904, 1)]
    assert found.counts == {"rows": 1, "rejected": 1, "null_key": 0, "filtered": 1}
    (letter,) = found.rejected.rows(named=True)
    assert (letter["sequence"], letter["feature_set"], letter["code"]) == (2, "transactions", "overflow")
    assert msgspec.json.decode(letter["payload"])["n"] == 4


def test_no_rows_give_the_same_layout() -> None:
    set_ = plan([])
    some = transform(set_, admit(set_.source, frame([1.0]), now=0).rows)
    none = transform(set_, admit(set_.source, frame([]), now=0).rows)
    assert none.rows.schema == some.rows.schema


def test_an_unknown_value_holds_no_deletion_back() -> None:
    deleted = parse("n < 0", {"n": DataType("int64")})
    steps = [
        Ordinal(column="id", values=("a",), unknown="reject", into="place"),
        OneHot(column="id", values=("a",), unknown="reject", keep=True),
    ]
    set_ = plan(steps, deleted=deleted, event_id=("id",))
    rows = admit(set_.source, frame([1.0] * 4, id=["a", "b", "a", "b"], n=[1, 1, -1, -1]), now=0).rows
    found = transform(set_, rows)
    assert found.rows.select("__sequence", "__deleted", "place", "id_a").rows() == [
        (0, False, 0, 1),
        (2, True, 0, 1),
        (3, True, None, 0),
    ]
    assert found.rejected["code"].to_list() == ["unknown_value"]


def refusing(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the doubles; a null is more than it can take."""
    return pl.DataFrame(
        {"double": [2 * n for n in frame["n"]], "twice": [[2.0 * n, 0.0] for n in frame["n"]]}
    )


def test_of_a_deletion_only_what_its_keys_are_made_of_is_read() -> None:
    deleted = parse("n is null or n < -8", {"n": DataType("int64")})
    steps = [
        Python(
            function=f"{__name__}:refusing",
            inputs=("n",),
            outputs={"double": "int64", "twice": "vector<float32,2>"},
        ),
        Derive({"large": "n * 9223372036854775807", "whose": "customer + 1"}),
        Rename({"whose": "owner", "large": "huge"}),
    ]
    set_ = plan(steps, column="owner", deleted=deleted, event_id=("id",))
    given = frame([1.0] * 4, id=["a", "b", "a", "b"], n=[1, 2, None, -9])
    found = transform(set_, admit(set_.source, given, now=0).rows)
    assert found.rows.select("__sequence", "__deleted", "double", "huge", "owner").rows() == [
        (0, False, 2, 9223372036854775807, 2.0),
        (2, True, None, None, 2.0),
        (3, True, None, None, 2.0),
    ]
    assert found.rejected["code"].to_list() == ["overflow"]
    assert found.rows["__key"].n_unique() == 1
