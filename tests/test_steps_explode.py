"""explode: one row for each item, the same over frames and rows, each a row of its own to the contract."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.test_steps_equality import attempt_each

from featurestore import FeatureStore, SpecError
from featurestore.plans import EVENT_ID, ROW_HASH
from featurestore.rows.identity import mix, of_item
from featurestore.steps import Explode, compile_steps
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.rows import compile_each, compile_rows
from featurestore.types import DataType, Field

SCHEMA = (
    Field("order", DataType("int64")),
    Field("items", DataType.parse("list<int64>")),
    Field("doc", DataType("json")),
)


def rows_of(*declared: dict[str, Any], **row: Any) -> list[dict[str, Any]]:
    plan = compile_steps([read(step) for step in declared], SCHEMA)
    return compile_each(plan)({"order": 1, "items": None, "doc": None} | row)


def test_an_array_of_json_gives_documents() -> None:
    step = {"explode": {"column": "doc", "into": "line", "index": "number"}}
    doc = '[{"sku":"a"},null,3]'
    assert [(row["line"], row["number"]) for row in rows_of(step, doc=doc)] == [
        ('{"sku":"a"}', 0),
        (None, 1),
        ("3", 2),
    ]
    for nothing in ("[]", "{}", '"x"', None):
        assert rows_of(step, doc=nothing) == []


def test_items_of_items_come_in_order() -> None:
    steps = (
        {"explode": {"column": "doc", "into": "inner"}},
        {"explode": {"column": "inner", "into": "value"}},
        {"cast": {"value": "int64"}},
    )
    assert [row["value"] for row in rows_of(*steps, doc="[[1,2],[],[3]]")] == [1, 2, 3]


def test_where_one_item_is_refused_the_row_is() -> None:
    steps = [
        read({"explode": {"column": "items", "into": "item"}}),
        read({"derive": {"square": "item * item"}}),
    ]
    plan = compile_steps(steps, SCHEMA)
    frame = pl.DataFrame(
        {"order": [1, 2], "items": [[2**40, 1, 2**50], [3]], "doc": [None, None]},
        schema={field.name: field.type.polars() for field in SCHEMA},
    )
    kept, rejected = run(plan, frame)
    assert kept["square"].to_list() == [9]
    assert rejected["order"].to_list() == [1]
    done, why = attempt_each(compile_each(plan), {"order": 1, "items": [2**40, 1, 2**50], "doc": None})
    assert done is None
    assert rejected["__reason"].to_list() == [why]


def test_each_item_has_its_own_hash_and_id() -> None:
    plan = compile_steps([Explode(column="items")], SCHEMA)
    frame = pl.DataFrame(
        {"order": [1, 2], "items": [[5, 5], [5]], "doc": [None, None], ROW_HASH: [-7, 9], EVENT_ID: [11, 12]},
        schema_overrides={"doc": pl.String},
    )
    kept, _ = run(plan, frame)
    assert kept[ROW_HASH].to_list() == [of_item(-7, 0), of_item(-7, 1), of_item(9, 0)]
    assert kept[EVENT_ID].to_list() == [of_item(11, 0), of_item(11, 1), of_item(12, 0)]
    assert kept[ROW_HASH].n_unique() == kept[EVENT_ID].n_unique() == 3


def test_the_hash_of_an_item_is_one_step_of_splitmix() -> None:
    # mix(0) is the first output of splitmix64 seeded with 0, as Vigna's splitmix64.c prints it
    assert mix(0) == 0xE220A8397B1DCDAF
    assert of_item(3, 3) == 0xE220A8397B1DCDAF - 2**64


def test_a_row_cannot_become_several_where_one_is_wanted() -> None:
    with pytest.raises(ValueError, match="many rows of one"):
        compile_rows(compile_steps([Explode(column="items")], SCHEMA))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"column": "order"}, "A list or json is needed, and 'order' is int64"),
        ({"column": "lines"}, "There is no column 'lines'"),
        ({"column": "items", "index": "items"}, "is the column of the item"),
    ],
)
def test_what_cannot_be_exploded_is_refused(step: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        compile_steps([read({"explode": step})], SCHEMA)


START = datetime(2026, 1, 1, tzinfo=UTC)
SPECS = """
kind: Entity
name: sku
---
kind: Source
name: orders
event_time: at
event_id: id
schema: {id: string, at: timestamp, lines: json}
batch: {kind: parquet, path: "data/*.parquet"}
stream: {topic: orders}
---
kind: FeatureSet
name: sales
entities: [sku]
source: orders
history: all
steps:
  - explode: {column: lines, into: line, index: number}
  - flatten: {column: line, fields: {sku: $.sku, units: {path: $.units, type: int64}}}
  - select: [units, number]
aggregations:
  - {column: units, functions: [sum, count, last], windows: [1h]}
---
kind: FeatureSet
name: whole
entities: [{sku: id}]
source: orders
steps: [{select: [lines]}]
---
kind: FeatureVector
name: demand
features: [sales.*]
"""


def order(number: int, *lines: tuple[str, int]) -> dict[str, Any]:
    at = START + timedelta(minutes=number)
    return {
        "id": f"o{number}",
        "at": at.isoformat(),
        "lines": [{"sku": sku, "units": units} for sku, units in lines],
    }


ORDERS = [
    order(1, ("a", 1), ("b", 2), ("a", 4)),
    order(2, ("b", 8)),
    order(3),
    order(4, ("a", 16), ("c", 32)),
]


def project(folder: Path, specs: str = SPECS) -> FeatureStore:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "featurestore.yaml").write_text(
        "project: shop\nonline: {kind: sqlite}\nstream: {kind: log}\n", encoding="utf-8"
    )
    (folder / "specs.yaml").write_text(specs, encoding="utf-8")
    return FeatureStore(folder)


def demand(store: FeatureStore, minute: int) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return what is served and what is trained on at a minute, of a, b and c."""
    at = START + timedelta(minutes=minute)
    vector = store.vector("demand")
    names = ["units_sum_1h", "units_count_1h"]
    served = vector.get_online([{"sku": sku} for sku in "abc"], as_of=at).to_dicts()
    asked = pl.DataFrame({"sku": list("abc"), "event_timestamp": [at] * 3})
    trained = vector.get_offline(asked).to_polars().to_dicts()
    return tuple([tuple(row[name] for name in names) for row in rows] for rows in (served, trained))  # type: ignore[return-value]


@pytest.mark.parametrize("way", ["batch", "stream", "both"])
def test_items_are_counted_each_once_online_and_offline(tmp_path: Path, way: str) -> None:
    expected = [(21, 3), (10, 2), (32, 1)]
    with project(tmp_path) as store:
        store.apply()
        if way != "stream":
            first = ORDERS if way == "batch" else ORDERS[:2]
            frame = pl.DataFrame(
                {
                    "id": [row["id"] for row in first],
                    "at": [datetime.fromisoformat(row["at"]) for row in first],
                    "lines": [json.dumps(row["lines"], indent=1) for row in first],
                }
            )
            frame.write_parquet(tmp_path / "data" / "orders.parquet")
            [report] = store.ingest("sales")
            assert report.rows_written == sum(len(row["lines"]) for row in first)
            assert report.counts.get("filtered", 0) == sum(not row["lines"] for row in first)
        if way != "batch":
            assert store.push("orders", ORDERS, wait=20).servable
            assert store.push("orders", ORDERS[:1], wait=20).servable  # a producer that retries
            store.drain()
        assert demand(store, 4) == (expected, expected)
        assert demand(store, 1) == ([(5, 2), (2, 1), (0, 0)],) * 2
        checked = store.verify("demand")
        assert checked.compared
        assert checked.is_equal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("event_id: id\n", "event_id: id\non_duplicate: replace\n"), "could not take the others back"),
        (("event_id: id\n", "event_id: id\ndeleted: lines is null\n"), "could not take the others back"),
        (("features: [sales.*]", "base: sales\nfeatures: [sales.*]"), "a vector scores one"),
        (
            ("features: [sales.*]", "base: whole\nfeatures: [whole.*]\nlabel: sales.units"),
            "ids of their own",
        ),
    ],
)
def test_where_explode_cannot_be_right_it_is_refused(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    with project(tmp_path, SPECS.replace(*change)) as store, pytest.raises(SpecError, match=said) as error:
        store.validate()
    assert "specs.yaml:" in str(error.value)


def test_a_preview_shows_every_item(tmp_path: Path) -> None:
    with project(tmp_path) as store:
        raw = pl.DataFrame(
            {
                "id": ["o1", "o2"],
                "at": [START, START + timedelta(minutes=1)],
                "lines": [[{"sku": "a", "units": 1}, {"sku": "a", "units": 2}], []],
            }
        )
        shown = store.preview("sales", raw)
        assert shown.features["units"].to_list() == [1, 2]
        assert shown.features["units_sum_1h"].to_list() == [3, 3]
        assert shown.counts == {"filtered": 1}


CHAINED = """
kind: Entity
name: colour
---
kind: FeatureSet
name: colours
entities: [colour]
source: sales
history: all
steps:
  - join: {table: colours.csv, on: sku}
  - select: [units]
aggregations:
  - {column: units, functions: [sum], windows: [1h]}
---
kind: FeatureVector
name: by_colour
features: [colours.*]
"""


def test_a_chained_set_reads_the_items_and_has_its_own_table(tmp_path: Path) -> None:
    (tmp_path / "colours.csv").write_text("sku,colour\na,red\nb,red\nc,blue\n", encoding="utf-8")
    with project(tmp_path, f"{SPECS}---{CHAINED}") as store:
        store.apply()
        (tmp_path / "colours.csv").unlink()
        store.push("orders", ORDERS, wait=20)
        at = START + timedelta(minutes=4)
        asked = [{"colour": "red"}, {"colour": "blue"}]
        found = store.vector("by_colour").get_online(asked, as_of=at).to_dicts()
        assert [row["units_sum_1h"] for row in found] == [31, 32]
        based = CHAINED.replace("features:", "base: colours\nfeatures:")
        (tmp_path / "colours.csv").write_text("sku,colour\na,red\n", encoding="utf-8")
        (tmp_path / "specs.yaml").write_text(f"{SPECS}---{based}", encoding="utf-8")
        with pytest.raises(SpecError, match="a vector scores one"):
            store.validate()
