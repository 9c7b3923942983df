"""A vector is so many floats, none of them null, from the door to the model; what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from featurestore import FeatureStore, tables
from featurestore.errors import SpecError
from featurestore.expressions import parse
from featurestore.online.frames import pack as packed_rows
from featurestore.online.requests import row_value
from featurestore.rows import identity
from featurestore.rows.casting import Context, cast
from featurestore.rows.hashing import row_hash
from featurestore.rows.vectors import pack, unpack
from featurestore.types import DataType, Field

THREE = DataType.parse("vector<float32,3>")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("text", ["vector<float32,3>", "vector<float64,1>", "list<vector<float32,2>>"])
def test_a_type_reads_back_from_its_text(text: str) -> None:
    kind = DataType.parse(text)
    assert str(kind) == text
    assert pl.Series([], dtype=kind.polars()).dtype == kind.polars()
    assert pl.Series(pa.array([], kind.arrow())).dtype == kind.polars()


def test_spaces_in_the_text_do_not_matter() -> None:
    assert DataType.parse("vector<float64, 4>") == DataType.parse("vector< float64,4 >")


@pytest.mark.parametrize(
    "text", ["vector", "vector<int8,3>", "vector<float32>", "vector<float32,0>", "vector<float32,65537>"]
)
def test_what_is_no_vector_type_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="vector"):
        DataType.parse(text)


LISTS = [[1.0, 2.5, -0.0], None, [NAN, INF, -INF]]


@pytest.mark.parametrize(
    "dtype", [pl.List(pl.Float64), pl.List(pl.Float32), pl.Array(pl.Float64, 3), pl.Array(pl.Float32, 3)]
)
def test_lists_and_arrays_of_its_size_are_vectors(dtype: Any) -> None:
    done = cast(pl.Series("v", LISTS, dtype=dtype), THREE, Context("s"))
    assert not done.bad
    assert done.values.dtype == pl.Array(pl.Float32, 3)
    assert repr(done.values.to_list()) == repr([[1.0, 2.5, 0.0], None, [NAN, INF, -INF]])


def test_integers_are_numbers() -> None:
    assert cast(pl.Series("v", [[1, 2, 3]]), THREE, Context("s")).values.to_list() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("value", [[], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, None, 3.0], [1e39, 0.0, 0.0]])
def test_another_size_a_null_item_and_one_out_of_range_are_bad(value: list[float | None]) -> None:
    done = cast(pl.Series("v", [value, [1.0, 2.0, 3.0]], dtype=pl.List(pl.Float64)), THREE, Context("s"))
    assert done.bad["bad_value"].tolist() == [True, False]
    assert done.values.to_list() == [None, [1.0, 2.0, 3.0]]


def test_a_column_of_another_size_or_kind_is_the_authors_error() -> None:
    for series in (pl.Series("v", [[1.0, 2.0]], dtype=pl.Array(pl.Float64, 2)), pl.Series("v", ["[1,2,3]"])):
        with pytest.raises(SpecError, match="vector<float32,3> in the schema"):
            cast(series, THREE, Context("s"))


def test_bytes_are_the_items_and_nothing_else() -> None:
    assert pack([1.0, 2.5, 0.0], THREE) == bytes.fromhex("0000803f0000204000000000")
    assert (
        unpack(
            pack([0.1, NAN, 1.0], DataType.parse("vector<float64,3>")), DataType.parse("vector<float64,3>")
        )[0]
        == 0.1
    )


def test_online_a_vector_takes_its_bytes_and_few_more() -> None:
    for text, size in (("vector<float32,512>", 2048), ("vector<float64,512>", 4096)):
        field = Field("v", DataType.parse(text))
        [data] = packed_rows(
            pl.DataFrame({"v": pl.Series([[0.5] * 512], dtype=field.type.polars())}), [field]
        )
        assert data is not None
        assert size < len(data) < size + 8


@pytest.mark.parametrize("size", [1, 3, 8, 9, 100])
def test_hashes_of_columns_are_those_of_values(size: int) -> None:
    for item in ("float32", "float64"):
        field = Field("v", DataType.parse(f"vector<{item},{size}>"))
        values = [[1.5] * size, None, [NAN] + [0.0] * (size - 1), [-INF] * size]
        frame = pl.DataFrame({"v": pl.Series(values, dtype=field.type.polars())})
        expected = [identity.row_hash({"v": value}, [field]) for value in values]
        assert row_hash(frame, [field]).to_list() == expected
        assert row_hash(frame[2:], [field]).to_list() == expected[2:]
        assert len(set(expected)) == 4


def test_a_request_may_give_lists_and_numpy_arrays() -> None:
    assert row_value([1, 2.5, -0.0], THREE) == [1.0, 2.5, 0.0]
    assert row_value(np.array([0.1, 0.2, 0.3]), THREE) == np.array([0.1, 0.2, 0.3], np.float32).tolist()
    for wrong in ([1.0, 2.0], [1.0, None, 2.0], "abc", ["a", 1.0, 2.0], [True, 1.0, 2.0]):
        with pytest.raises(ValueError, match=r"no (vector|float32)"):
            row_value(wrong, THREE)


@pytest.mark.parametrize(
    "text", ["v > 1", "v = v", "v + 1", "v in (1)", "cast(v as string)", "least(v, v)", "upper(v)"]
)
def test_expressions_refuse_vectors_with_their_type(text: str) -> None:
    with pytest.raises(SpecError, match="vector"):
        parse(text, {"v": THREE})


def test_expressions_tell_whether_a_vector_is_there() -> None:
    assert parse("v is null", {"v": THREE}).type == DataType("bool")


SPECS = """
kind: Entity
name: item
type: string
---
kind: Source
name: photos
event_time: at
schema:
  item: string
  at: timestamp
  pixels: vector<float64,4>
  shape: vector<float32,2>
batch: {kind: json, path: "data/*.ndjson"}
stream: {topic: photos}
cutover: 2026-01-01T00:00:00Z
---
kind: FeatureSet
name: looks
entities: [item]
source: photos
history: all
steps:
  - python:
      function: "tests.step_functions:embedded"
      inputs: [pixels]
      outputs: {embedding: "vector<float32,2>"}
aggregations:
  - {column: embedding, functions: [last, first, count], windows: [1d]}
  - {column: shape, functions: [last_k], k: 2, windows: [1d]}
---
kind: FeatureVector
name: seen
features: [looks.*]
impute: {shape: [0.5, -1]}
"""
CONFIG = "project: shop\nonline: {kind: sqlite}\nstream: {kind: log}\n"
ROWS: list[dict[str, Any]] = [
    {"item": "a", "at": "2025-05-01T10:00:00Z", "pixels": [1, 2, 3, 4], "shape": [0.25, 0.5]},
    {"item": "a", "at": "2025-05-01T11:00:00Z", "pixels": [0, 0, 0, 8], "shape": None},
    {"item": "b", "at": "2025-05-01T11:00:00Z", "pixels": None, "shape": [3, 0.1]},
    {"item": "c", "at": "2025-05-01T11:00:00Z", "pixels": [1, 2, 3], "shape": [3, 4]},
    {"item": "c", "at": "2025-05-01T11:00:00Z", "pixels": [1, None, 3, 4], "shape": [3, 4]},
    {"item": "c", "at": "2025-05-01T11:00:00Z", "pixels": "1234", "shape": [3, 4]},
]
TENTH = float(np.float32(0.1))
# item, pixels, shape, embedding, last, first, count, last_k; at noon
EXPECTED: list[list[Any]] = [
    ["a", [0.0, 0.0, 0.0, 8.0], [0.5, -1.0], [4.0, 2.0], [4.0, 2.0], [2.0, 2.5], 2, [[0.25, 0.5]]],
    ["b", None, [3.0, TENTH], None, None, None, 0, [[3.0, TENTH]]],
    ["z", None, [0.5, -1.0], None, None, None, 0, None],
]
COLUMNS = [
    "pixels",
    "shape",
    "embedding",
    "embedding_last_1d",
    "embedding_first_1d",
    "embedding_count_1d",
    "shape_last_k_1d",
]
NOON = "2025-05-01T12:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    (tmp_path / "featurestore.yaml").write_text(CONFIG)
    (tmp_path / "specs.yaml").write_text(SPECS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.ndjson").write_text("\n".join(map(json.dumps, ROWS)))
    store = FeatureStore(tmp_path)
    store.apply()
    return store


def answers(result: Any) -> list[list[Any]]:
    names = [f.name for f in result.columns]
    return [[dict(zip(names, row, strict=True))[c] for c in COLUMNS] for row in result.rows]


def test_vectors_go_from_json_to_the_training_set_and_the_online_vector(store: FeatureStore) -> None:
    [report] = store.ingest("looks")
    assert (report.rows_read, report.rows_written) == (6, 3)
    asked = pl.DataFrame({"item": ["a", "b", "z"], "event_timestamp": [NOON] * 3})
    training = store.get_offline_features("seen", asked).to_polars()
    assert training.schema["embedding"] == pl.Array(pl.Float32, 2)
    assert training.schema["shape_last_k_1d"] == pl.List(pl.Array(pl.Float32, 2))
    assert training.select("item", *COLUMNS).rows() == [tuple(row) for row in EXPECTED]
    online = store.get_online_features("seen", [{"item": i} for i in "abz"], as_of=NOON)
    assert answers(online) == [row[1:] for row in EXPECTED]
    arrow = online.to_arrow()
    assert arrow.schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert arrow["shape_last_k_1d"].to_pylist() == [row[-1] for row in EXPECTED]
    verified = store.verify("seen")
    assert verified.is_equal, verified
    assert verified.compared


def test_a_vector_that_is_none_is_a_dead_letter_that_says_why(store: FeatureStore) -> None:
    store.ingest("looks")
    table = store.environment.offline.table(tables.DEAD_LETTERS)
    messages = table.lazy(table.snapshot()).select("message").collect()["message"].to_list()
    assert sorted(messages) == [
        "pixels: '1234' is text, not vector<float64,4>",
        "pixels: [1, 2, 3] is no vector<float64,4>: it has 3 items",
        "pixels: [1, None, 3, 4] is no vector<float64,4>: item 2 is null",
    ]


def test_compaction_keeps_vectors(store: FeatureStore) -> None:
    store.ingest("looks")
    asked = pl.DataFrame({"item": ["a", "b", "z"], "event_timestamp": [NOON] * 3})
    before = store.get_offline_features("seen", asked).to_polars()
    store.compact()
    assert store.get_offline_features("seen", asked).to_polars().equals(before)
