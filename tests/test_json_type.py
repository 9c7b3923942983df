"""Columns of type json: one canonical text for equal documents, whichever way they come."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore, json_documents
from featurestore.contracts import Record, RecordBatch
from featurestore.errors import RequestError, SpecError
from featurestore.online.requests import cast_row
from featurestore.plans import SourcePlan
from featurestore.rows import hashing, identity
from featurestore.rows.door import admit
from featurestore.rows.json import decode
from featurestore.types import JSON, DataType, Field

SCHEMA = (Field("id", DataType("int64")), Field("at", DataType("timestamp")), Field("doc", JSON))


def source(**other: Any) -> SourcePlan:
    given = {
        "name": "orders",
        "schema": SCHEMA,
        "event_time": "at",
        "ingest_time": None,
        "event_id": (),
        "order_by": None,
        "timezone": None,
        "delay": 0,
        "future": 300_000_000,
        "max_bytes": 1_048_576,
        "cutover": None,
        "on_duplicate": "first",
        "deleted": None,
        "batch": None,
        "stream": {"topic": "orders"},
        "fingerprint": "0",
    }
    return SourcePlan(**(given | other))


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ('{"b": 1, "a": [ 2 , 3 ]}', '{"a":[2,3],"b":1}'),
        ('{"é": 1, "z": 2, "𝒳": 3}', '{"z":2,"é":1,"𝒳":3}'),
        ('{"a": 1, "a": 2}', '{"a":2}'),
        ("17850.0", "17850"),
        ("1e3", "1000"),
        ("-0.0", "0"),
        ("0.10", "0.1"),
        ("1.5E-9", "1.5e-09"),
        ("1e16", "1e+16"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.12345678901234567890123", "0.12345678901234568"),
        ('"\\u00e9\\/\\n"', '"é/\\n"'),
        (" true ", "true"),
        ("null", None),
        ("[null]", "[null]"),
        ("[]", "[]"),
    ],
)
def test_a_document_has_one_text(text: str, gives: str | None) -> None:
    assert json_documents.canonical(text) == gives


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a":}', "[1,]", "NaN", "Infinity", "01", "1 2", "'a'", '"\\ud800"', "1e400", "[" * 9999],
)
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        json_documents.canonical(text)
    assert json_documents.or_null(text) is None


def test_plain_values_have_the_text_of_their_document() -> None:
    assert json_documents.of_value({"b": 1.0, "a": [None, 2.5, True]}) == '{"a":[null,2.5,true],"b":1}'
    assert json_documents.of_value({"x": math.nan}) == '{"x":null}'
    with pytest.raises(ValueError, match="object"):
        json_documents.of_value({"x": object()})


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(documents)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_text_says_the_same_document_and_is_its_own_canonical_text(value: Any) -> None:
    text = json_documents.of_value(value)
    assert (None if text is None else json.loads(text)) == value
    if text is not None:
        assert json_documents.canonical(text) == text
        assert json_documents.canonical(json.dumps(value, ensure_ascii=True, indent=1)) == text


@pytest.mark.parametrize(
    ("path", "gives"),
    [
        ("$", '{"a":{"b":[1,{"c":"x"}]},"d.e":null,"f g":true}'),
        ("$.a.b[1].c", '"x"'),
        ("$.a.b[-2]", "1"),
        ("$.a.b[2]", None),
        ("$.a.b.c", None),
        ("$[0]", None),
        ('$["d.e"]', None),
        ("$['f g']", "true"),
        ("$.a", '{"b":[1,{"c":"x"}]}'),
    ],
)
def test_a_path_leads_to_a_part(path: str, gives: str | None) -> None:
    text = '{"a":{"b":[1,{"c":"x"}]},"d.e":null,"f g":true}'
    assert json_documents.extract(text, json_documents.parse_path(path)) == gives


@pytest.mark.parametrize("path", ["", "a.b", "$a", "$.", "$..a", "$.a[", "$.a[x]", "$.*"])
def test_a_path_that_cannot_be_read_is_refused(path: str) -> None:
    if path == "$.*":
        assert json_documents.parse_path(path) == ("*",)
        return
    with pytest.raises(ValueError, match="path"):
        json_documents.parse_path(path)


AT = '"at": "2026-01-01T00:00:00Z"'


def through_the_stream(*events: str) -> tuple[list[str | None], list[tuple[str, str]]]:
    records = tuple(Record(i, 1_767_225_600_000_000, None, event.encode()) for i, event in enumerate(events))
    frame, refused = decode(source(), RecordBatch("p", records, len(records)))
    admitted = admit(source(), frame, now=0)
    letters = pl.concat([refused, admitted.rejected]).sort("sequence")
    return admitted.rows["doc"].to_list(), letters.select("code", "message").rows()


def test_events_carry_documents_as_values_or_as_text() -> None:
    texts, refused = through_the_stream(
        f'{{"id": 1, {AT}, "doc": {{"b": 1.0, "a": [1, 2]}}}}',
        f'{{"id": 1, {AT}, "doc": "{{\\"b\\": 1, \\"a\\": [1, 2]}}"}}',
        f'{{"id": 1.0, {AT}, "doc": [1e2]}}',
        f'{{"id": 1, {AT}, "doc": null}}',
        f'{{"id": 1, {AT}}}',
        f'{{"id": 1, {AT}, "doc": " "}}',
        f'{{"id": 1, {AT}, "doc": false}}',
    )
    assert texts == ['{"a":[1,2],"b":1}', '{"a":[1,2],"b":1}', "[100]", None, None, None, "false"]
    assert refused == []


def test_text_that_is_no_document_costs_its_row() -> None:
    texts, refused = through_the_stream(
        f'{{"id": 1, {AT}, "doc": "{{"}}', f'{{"id": 2, {AT}, "doc": 1e400}}', f'{{"id": 3, {AT}, "doc": 1}}'
    )
    assert texts == ["1"]
    assert refused == [("bad_value", "doc: '{' is no json"), ("bad_value", "doc: '1e400' is no json")]


def test_batches_carry_text_and_structs() -> None:
    at = pl.Series(["2026-01-01T00:00:00Z"] * 2)
    frame = pl.DataFrame({"id": [1, 2], "at": at, "doc": [{"b": 1.0, "a": [1]}, {"b": None, "a": []}]})
    assert admit(source(), frame, now=0).rows["doc"].to_list() == ['{"a":[1],"b":1}', '{"a":[],"b":null}']
    text = pl.DataFrame({"id": [1, 2], "at": at, "doc": ['{"b": 1.0, "a": [1]}', "x"]})
    admitted = admit(source(), text, now=0)
    assert admitted.rows["doc"].to_list() == ['{"a":[1],"b":1}']
    assert admitted.rejected["code"].to_list() == ["bad_value"]
    with pytest.raises(SpecError, match="int64 in the input and json in the schema"):
        admit(source(), pl.DataFrame({"id": [1], "at": at[:1], "doc": [1]}), now=0)


def test_a_request_carries_documents_as_events_do() -> None:
    (field,) = (field for field in SCHEMA if field.name == "doc")
    assert cast_row({"doc": {"b": 1.0, "a": 2}}, (field,)) == {"doc": '{"a":2,"b":1}'}
    assert cast_row({"doc": '{"b": 1.0, "a": 2}'}, (field,)) == {"doc": '{"a":2,"b":1}'}
    assert cast_row({"doc": ""}, (field,)) == {"doc": None}
    with pytest.raises(RequestError, match=r"doc: '\{' is no json"):
        cast_row({"doc": "{"}, (field,))


def test_equal_documents_have_equal_row_hashes_in_frames_and_rows() -> None:
    (field,) = (field for field in SCHEMA if field.name == "doc")
    texts = [json_documents.canonical(text) for text in ('{"a": 1.0}', '{"a":1}', '{"a":' + "1" * 80 + "}")]
    hashes = hashing.row_hash(pl.DataFrame({"doc": [*texts, None]}), [field]).to_list()
    assert hashes == [identity.row_hash({"doc": text}, [field]) for text in [*texts, None]]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_document_is_neither_key_nor_id_nor_order() -> None:
    assert not JSON.is_key
    with pytest.raises(SpecError, match="equal ids must be equal bytes"):
        identity.check_id("orders", "doc", JSON)
    with pytest.raises(SpecError, match="does not fit into 64 bits"):
        identity.check_order("orders", "doc", JSON)


SPECS = """
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
event_id: id
schema: {id: string, at: timestamp, customer: string, doc: json}
batch: {kind: parquet, path: "data/*.parquet"}
stream: {topic: orders}
---
kind: FeatureSet
name: latest
entities: [customer]
source: orders
history: all
steps:
  - flatten:
      column: doc
      fields: {total: {path: $.total, type: float64}, tags: {path: $.tags, type: list<string>}}
aggregations:
  - {column: total, functions: [sum], windows: [1h]}
  - {column: doc, functions: [last, count], windows: [1h]}
---
kind: FeatureVector
name: seen
features: [latest.*]
---
kind: FeatureVector
name: scored
base: latest
features: [latest.*]
"""


@pytest.mark.parametrize("way", ["batch", "stream"])
def test_documents_are_features_online_and_offline(tmp_path: Path, way: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "featurestore.yaml").write_text(
        "project: shop\nonline: {kind: sqlite}\nstream: {kind: log}\n", encoding="utf-8"
    )
    (tmp_path / "specs.yaml").write_text(SPECS, encoding="utf-8")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    documents = [{"total": 2.0, "tags": ["b", "a"]}, {"total": 0.5}]
    expected = {
        "doc": '{"total":0.5}',
        "total": 0.5,
        "tags": None,
        "total_sum_1h": 2.5,
        "doc_last_1h": '{"total":0.5}',
        "doc_count_1h": 2,
    }
    with FeatureStore(tmp_path) as store:
        store.apply()
        rows = [
            {"id": str(i), "at": at + timedelta(minutes=i), "customer": "C1", "doc": doc}
            for i, doc in enumerate(documents)
        ]
        if way == "batch":
            texts = [row | {"doc": json.dumps(row["doc"], indent=2)} for row in rows]
            pl.DataFrame(texts).write_parquet(tmp_path / "data" / "orders.parquet")
            store.ingest("orders")
        else:
            events = [row | {"at": row["at"].isoformat()} for row in rows]
            assert store.push("orders", events, wait=20).servable
            store.drain()
        seen = store.vector("seen")
        now = at + timedelta(minutes=2)
        assert seen.get_online([{"customer": "C1"}], as_of=now).to_dicts() == [expected]
        asked = pl.DataFrame({"customer": ["C1"], "event_timestamp": [now]})
        offline = seen.get_offline(asked).to_polars()
        assert offline.select(list(expected)).to_dicts() == [expected]
        base = {"id": "9", "at": now.isoformat(), "customer": "C1", "doc": {"tags": ["x"], "total": 4}}
        scored = store.vector("scored")
        row = scored.get_online([base]).to_dicts()[0]
        assert (row["doc"], row["tags"], row["total_sum_1h"]) == ('{"tags":["x"],"total":4}', ["x"], 6.5)
        raw = pl.DataFrame([base | {"at": now, "doc": '{ "total": 4.0, "tags": ["x"]}'}])
        assert scored.get_offline(raw).to_polars().select(list(row)).to_dicts() == [row]
        checked = store.verify("seen")
        assert checked.compared
        assert checked.is_equal
