"""join: rows of a static table are found by their keys, and kept with the version that was applied."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.lowerings import frame_of

from featurestore import FeatureStore, SpecError
from featurestore.expressions.vectors import physical
from featurestore.rows.identity import SEED, fold
from featurestore.steps import compile_steps, tables
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.plan import Join
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType, Field

SCHEMA = {
    "mcc": DataType("int64"),
    "country": DataType("string"),
    "day": DataType("date"),
    "amount": DataType("float64"),
}
CSV = "mcc,country,name,risk\n5411,DE,Grocery,0.10\n5411,FR,Épicerie,\n7995,DE,Betting,0.9\n,DE,none,1\n"


def joined(folder: Path, step: dict[str, Any], *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the new columns of rows, after the frame and the row form have agreed on them."""
    with tables.folder(folder):
        plan = compile_steps([read({"join": step})], tuple(map(Field, SCHEMA, SCHEMA.values())))
    full = [dict.fromkeys(SCHEMA) | row for row in rows]
    by_row = [compile_rows(plan)(row) for row in full]
    kept, _ = run(plan, frame_of(SCHEMA, full))
    assert kept.select(*map(physical, kept.iter_columns())).to_dicts() == by_row
    return [{n: v for n, v in (row or {}).items() if n not in SCHEMA} for row in by_row]


def test_rows_are_found_by_one_key_or_several(tmp_path: Path) -> None:
    (tmp_path / "mcc.csv").write_text(CSV, encoding="utf-8")
    step = {
        "table": "mcc.csv",
        "on": {"mcc": "mcc", "country": "country"},
        "types": {"risk": "decimal(3,2)"},
        "prefix": "mcc_",
    }
    assert joined(
        tmp_path,
        step,
        {"mcc": 5411, "country": "FR"},
        {"mcc": 5411, "country": "DE"},
        {"mcc": 5411, "country": "de"},
        {"mcc": None, "country": "DE"},
        {"mcc": 5411, "country": None},
    ) == [
        {"mcc_name": "Épicerie", "mcc_risk": None},
        {"mcc_name": "Grocery", "mcc_risk": Decimal("0.10")},
        {"mcc_name": None, "mcc_risk": None},
        {"mcc_name": None, "mcc_risk": None},
        {"mcc_name": None, "mcc_risk": None},
    ]


def test_parquet_brings_its_types(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "code": ["DE", "FR"],
            "since": [date(1990, 10, 3), None],
            "at": [None, datetime(2026, 1, 1, tzinfo=UTC)],
            "tags": [["a", None], []],
            "weight": pl.Series([1.5, float("nan")], dtype=pl.Float32),
            "raw": [b"\x00", None],
        }
    ).write_parquet(tmp_path / "countries.parquet")
    step = {
        "table": "countries.parquet",
        "on": {"country": "code"},
        "columns": ["since", "at", "tags", "raw"],
    }
    assert joined(tmp_path, step, {"country": "DE"}, {"country": "FR"}) == [
        {"since": 7580, "at": None, "tags": ["a", None], "raw": b"\x00"},
        {"since": None, "at": 1_767_225_600_000_000, "tags": [], "raw": None},
    ]


def test_keys_take_the_type_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "days.csv").write_text("day,holiday\n2026-01-01,new year\n", encoding="utf-8")
    step = {"table": "days.csv", "on": "day"}
    assert joined(tmp_path, step, {"day": 20_454}, {"day": 20_455}) == [
        {"holiday": "new year"},
        {"holiday": None},
    ]


@pytest.mark.parametrize(
    ("text", "step", "said"),
    [
        ("mcc,x\n1,a\n01,b\n", {"on": "mcc"}, "has 1 twice in mcc, again in row 2"),
        ("mcc,x\n1,a\n2.5,b\n", {"on": "mcc"}, "'t.csv', row 2: mcc '2.5' is no int64"),
        ("mcc,x\n1,a\n", {"on": "mcc", "types": {"x": "float64"}}, "row 1: x 'a' is no float64"),
        ("mcc,x\n1,a\n", {"on": {"mcc": "code"}}, "'t.csv' has no column 'code'"),
        ("mcc,x\n1,a\n", {"on": "mcc", "columns": ["y"]}, "'t.csv' has no column 'y'"),
        ("mcc,country\n1,a\n", {"on": "mcc"}, "'country' of 't.csv' is a column already"),
        (
            "mcc,country\n1,a\n",
            {"on": {"mcc": "mcc", "country": "country"}},
            "'t.csv' gives no column: all are in on:",
        ),
        ("mcc,x\n1,a\n", {"on": "mcc", "columns": ["x", "x"]}, "columns: names a column of 't.csv' twice"),
        ("amount,x\n1,a\n", {"on": "amount"}, "'amount' is float64"),
        ("mcc,x\n1,a\n", {"on": "code"}, "There is no column 'code'"),
        ("mcc,x\n1,a\n", {"table": "u.csv", "on": "mcc"}, "'u.csv' cannot be read: there is no such file"),
        ("mcc,x\n1,a\n", {"table": "t.txt", "on": "mcc"}, "'t.txt' is no table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    tmp_path: Path, text: str, step: dict[str, Any], said: str
) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    schema = tuple(map(Field, SCHEMA, SCHEMA.values()))
    steps = [read({"join": {"table": "t.csv"} | step})]
    with tables.folder(tmp_path), pytest.raises(SpecError, match=r"specs\.yaml:7") as error:
        compile_steps(steps, schema, where=lambda _: "specs.yaml:7")
    assert said in str(error.value)


def test_a_table_is_read_back_from_its_text_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mcc.csv").write_text(CSV.replace("FR", "DÉ"), encoding="utf-8")
    with tables.folder(tmp_path):
        found, table = tables.read(
            "mcc.csv",
            [(Field("mcc", DataType("int64")), "mcc"), (Field("country", DataType("string")), "country")],
            None,
            {"risk": "decimal(38,2)"},
        )
    on = (Field("mcc", DataType("int64")), Field("country", DataType("string")))
    kinds, names, again = tables.kept(tables.text_of(on, found, table))
    assert (kinds, names) == (tuple(field.type for field in on), found)
    assert (again.digest, again.rows) == (table.digest, table.rows)


def test_only_the_rows_decide_the_digest(tmp_path: Path) -> None:
    def digest(text: str, **other: Any) -> str:
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        with tables.folder(tmp_path):
            step = read({"join": {"table": "t.csv", "on": "mcc"} | other})
            (op,) = compile_steps([step], tuple(map(Field, SCHEMA, SCHEMA.values()))).ops
        assert isinstance(op, Join)
        return op.table.digest

    first = digest("mcc,x,y\n1,a,b\n2,c,d\n")
    assert digest("mcc,x,y\n2,c,d\n1,a,b\n") == first
    assert digest("mcc,x,y\n1,a,b\n2,c,e\n") != first
    assert digest("mcc,x,y\n1,a,b\n2,c,d\n", columns=["x"]) == digest("mcc,x\n1,a\n2,c\n")


def test_a_table_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST", 10)
    on = (Field("mcc", DataType("int64")),)
    (tmp_path / "t.csv").write_text("mcc,x\n1,a\n", encoding="utf-8")
    with tables.folder(tmp_path):
        found, table = tables.read("t.csv", [(on[0], "mcc")], None, {})
    with pytest.raises(SpecError, match="and may take 10"):
        tables.text_of(on, found, table)


SPECS = """
kind: Entity
name: customer
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: string, at: timestamp, customer: string, mcc: int64, amount: float64}
stream: {topic: payments}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
history: all
steps:
  - join: {table: tables/mcc.csv, on: mcc, types: {risk: float64}}
  - derive: {risky: "amount * risk"}
  - select: [name]
aggregations:
  - {column: risky, functions: [sum], windows: [1h]}
---
kind: FeatureVector
name: scored
base: spend
features: [spend.*]
---
kind: FeatureVector
name: profile
features: [spend.*]
"""
START = datetime(2026, 1, 1, tzinfo=UTC)


def write_table(folder: Path, risk: float) -> None:
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / "mcc.csv").write_text(
        f"mcc,name,risk\n5411,Grocery,{risk}\n7995,Betting,0.5\n", encoding="utf-8"
    )


def payment(number: int, mcc: int, amount: float) -> dict[str, Any]:
    at = (START + timedelta(minutes=number)).isoformat()
    return {"id": f"p{number}", "at": at, "customer": "C1", "mcc": mcc, "amount": amount}


def profile(store: FeatureStore, reference: str = "profile") -> dict[str, Any]:
    at = START + timedelta(minutes=10)
    found: dict[str, Any] = store.vector(reference).get_online([{"customer": "C1"}], as_of=at).to_dicts()[0]
    return found


def test_an_applied_version_holds_its_table_and_a_changed_one_is_a_new_version(tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text(
        "project: fraud\nonline: {kind: sqlite}\nstream: {kind: log}\n", encoding="utf-8"
    )
    (tmp_path / "specs.yaml").write_text(SPECS, encoding="utf-8")
    write_table(tmp_path, 0.25)
    with FeatureStore(tmp_path) as store:
        store.apply()
        first = store.vector("profile").name
        shown = store.show("spend")["declaration"]["steps"][0]
        assert shown == {"join": {"table": "tables/mcc.csv", "on": "mcc", "types": {"risk": "float64"}}}
        store.push("payments", [payment(1, 5411, 8.0), payment(2, 9999, 1.0)], wait=20)
        assert profile(store) == {"name": None, "risky_sum_1h": 2.0}
        write_table(tmp_path, 0.25)
        assert store.plan().is_empty
        write_table(tmp_path, 0.75)
        assert not store.plan().is_empty
    (tmp_path / "tables" / "mcc.csv").unlink()
    with FeatureStore(tmp_path) as store:  # as a service that has no files
        store.push("payments", [payment(3, 7995, 2.0)], wait=20)
        assert profile(store) == {"name": "Betting", "risky_sum_1h": 3.0}
        scored = store.vector("scored").get_online([payment(4, 5411, 4.0)]).to_dicts()[0]
        assert scored == {"name": "Grocery", "risky_sum_1h": 4.0}
        write_table(tmp_path, 0.75)
        store.apply()
        assert store.vector("profile").name != first


def test_rows_are_joined_without_the_libraries_of_batches(tmp_path: Path) -> None:
    (tmp_path / "mcc.csv").write_text("mcc,name\n5411,Grocery\n", encoding="utf-8")
    with tables.folder(tmp_path):
        found, table = tables.read("mcc.csv", [(Field("mcc", DataType("int64")), "mcc")], None, {})
    text = tables.text_of((Field("mcc", DataType("int64")),), found, table)
    code = f"""
import sys
from featurestore.steps import compile_steps
from featurestore.steps.base import read
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType, Field
step = read({{"join": {{"table": "gone.csv", "on": "mcc", "data": {text!r}}}}})
flat = read({{"flatten": {{"column": "doc", "fields": {{"a": "$.a"}}}}}})
bucket = read({{"hash_bucket": {{"column": "mcc", "buckets": 7, "into": "b"}}}})
words = read({{"text": {{"column": "name", "functions": ["lower", "tokens"]}}}})
schema = (Field("mcc", DataType("int64")), Field("doc", DataType("json")))
rows = compile_rows(compile_steps([step, flat, bucket, words], schema))
print(rows({{"mcc": 5411, "doc": '{{"a":1}}'}}))
print([m for m in ("polars", "pyarrow", "duckdb", "deltalake", "sqlglot") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    bucket = fold(SEED, [5411], [DataType("int64")]) % 7
    row, loaded = done.stdout.splitlines()
    assert row == str({"mcc": 5411, "doc": '{"a":1}', "name": ["grocery"], "a": "1", "b": bucket})
    assert loaded == "[]"


FITTED = """
kind: Entity
name: customer
---
kind: Source
name: payments
event_time: at
event_id: id
schema: {id: string, at: timestamp, customer: string, mcc: int64, parts: list<float64>}
batch: {kind: parquet, path: "data/*.parquet"}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
history: all
steps:
  - join: {table: tables/mcc.csv, on: mcc, types: {risk: float64}}
  - explode: {column: parts, into: part}
  - scale: {column: risk, method: min_max}
  - scale: {column: part, method: min_max}
  - select: [risk, part]
aggregations:
  - {column: part, functions: [sum], windows: [7d]}
---
kind: FeatureVector
name: profile
features: [spend.*]
"""


def test_what_a_table_and_the_items_of_a_list_give_can_be_fitted(tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text("project: fraud\nonline: {kind: sqlite}\n", encoding="utf-8")
    (tmp_path / "specs.yaml").write_text(FITTED, encoding="utf-8")
    (tmp_path / "data").mkdir()
    write_table(tmp_path, 1.5)
    frame = pl.DataFrame(
        {
            "id": ["1", "2", "3"],
            "at": [START, START + timedelta(minutes=1), START + timedelta(minutes=2)],
            "customer": ["C1", "C1", "C2"],
            "mcc": [5411, 7995, 1],
            "parts": [[2.0, 4.0], [10.0], []],
        }
    )
    frame.write_parquet(tmp_path / "data" / "payments.parquet")
    with FeatureStore(tmp_path) as store:
        fitted = store.fit("spend")
        assert list(fitted.values()) == [{"min": 0.5, "max": 1.5}, {"min": 2.0, "max": 10.0}]
        store.apply()
        (tmp_path / "tables" / "mcc.csv").unlink()
        store.ingest("spend")
        assert profile(store) == {"risk": 0.0, "part": 1.0, "part_sum_7d": 1.25}
