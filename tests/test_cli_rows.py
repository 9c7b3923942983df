"""Rows that users give on the command line: what a file's text becomes."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from featurestore.cli import main

Out = pytest.CaptureFixture[str]

SPECS = """\
kind: Entity
name: account
type: string
---
kind: Entity
name: shop
type: int64
---
kind: Source
name: sales
event_time: at
schema: {account: string, shop: int64, at: timestamp, amount: float64}
batch: {kind: csv, path: sales.csv}
---
kind: FeatureSet
name: spent
entities: [account, shop]
source: sales
history: all
aggregations:
  - {column: amount, functions: [sum], windows: [1d]}
---
kind: FeatureVector
name: spent-there
features: [spent.amount_sum_1d]
inputs: {factor: float64}
derive: {scaled: "spent.amount_sum_1d * factor"}
"""

SALES = """\
account,shop,at,amount
00123,7,2026-03-01T10:00:00Z,2.5
123,7,2026-03-01T10:00:00Z,40
00123,8,2026-03-01T11:00:00Z,800
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose keys are text of digits, and integers."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "featurestore.yaml").write_text("project: shop\n")
    (folder / "specs.yaml").write_text(SPECS)
    (folder / "sales.csv").write_text(SALES)
    for verb in ("apply", "ingest"):
        assert main(["-C", str(folder), "-q", verb]) == 0
    return folder


def test_keys_in_a_csv_are_of_the_entities_types(shop: Path, tmp_path: Path, capsys: Out) -> None:
    """00123 is not 123, where the key is text; 7 is a number, and so is the input."""
    asked = tmp_path / "asked.csv"
    asked.write_text(
        "when,account,shop,factor,note\n"
        "2026-03-01T12:00:00+01:00,00123,7,2,first\n"
        "2026-03-01T12:00:00Z,123,7,0.5,second\n"
        "2026-03-01T12:00:00Z,00123,8,,third\n"
        "2026-03-01T12:00:00Z,,8,1,fourth\n"
    )
    arguments = ["get-offline", "spent-there", "--rows", str(asked), "--event-time", "when", "--json"]
    assert main(["-C", str(shop), *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["columns"] == ["when", "account", "shop", "factor", "note", "amount_sum_1d", "scaled"]
    assert made["rows"] == [
        ["2026-03-01T11:00:00.000000Z", "00123", 7, 2.0, "first", 2.5, 5.0],
        ["2026-03-01T12:00:00.000000Z", "123", 7, 0.5, "second", 40.0, 20.0],
        ["2026-03-01T12:00:00.000000Z", "00123", 8, None, "third", 800.0, None],
        ["2026-03-01T12:00:00.000000Z", None, 8, 1.0, "fourth", 0.0, 0.0],
    ]


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00", "noon"])
def test_an_instant_without_a_zone_is_refused_with_its_row(
    text: str, shop: Path, tmp_path: Path, capsys: Out
) -> None:
    asked = tmp_path / "asked.csv"
    asked.write_text(f"event_timestamp,account,shop,factor\n2026-03-01T12:00:00Z,1,1,1\n{text},00123,7,2\n")
    assert main(["-C", str(shop), "get-offline", "spent-there", "--rows", str(asked)]) == 1
    err = capsys.readouterr().err
    assert f"'{text}' in row 2 is no instant" in err
    assert "with its time zone" in err


def test_a_query_gives_entity_rows(shop: Path, capsys: Out) -> None:
    query = (
        "SELECT TIMESTAMPTZ '2026-03-01 12:00:00+00' AS event_timestamp, '00123' AS account, "
        "n AS shop, 1.0::DOUBLE AS factor FROM range(7, 9) t(n)"
    )
    assert main(["-C", str(shop), "get-offline", "spent-there", "--rows", query, "--json"]) == 0
    assert [row[-1] for row in json.loads(capsys.readouterr().out)["rows"]] == [2.5, 800.0]


def test_pairs_are_of_the_types_that_the_vector_has(shop: Path, capsys: Out) -> None:
    arguments = ["get-online", "spent-there", "--as-of", "2026-03-01T12:00:00Z", "--json"]
    assert main(["-C", str(shop), *arguments, "account=00123", "shop=7", "factor=2"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [[2.5, 5.0]]
    assert main(["-C", str(shop), *arguments, "account=123", "shop=7", "factor=null"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [[40.0, None]]


def test_every_row_of_a_request_is_printed(shop: Path, capsys: Out) -> None:
    rows = [{"account": "00123", "shop": n, "factor": 1} for n in (7, 8)]
    options = [part for row in rows for part in ("--row", json.dumps(row))]
    arguments = ["get-online", "spent-there", "--as-of", "2026-03-01T12:00:00Z", *options]
    assert main(["-C", str(shop), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", row 1, as of 2026-03-01T12:00:00.000000Z")
    assert [line.split() for line in lines if line.startswith("scaled")] == [
        ["scaled", "2.5", "PRESENT"],
        ["scaled", "800.0", "PRESENT"],
    ]


def test_pairs_and_rows_keep_every_digit_and_read_text_where_the_type_does() -> None:
    from featurestore.cli.rows import _object, _pairs
    from featurestore.types import DataType

    types = {
        "price": DataType.parse("decimal(38,10)"),
        "raw": DataType.parse("binary"),
        "day": DataType.parse("date"),
        "shop": DataType.parse("int64"),
        "name": DataType.parse("string"),
    }
    pairs = ["price=12345678901234567890.1234567891", "raw=1234", "day=null", "shop=7", "name=null"]
    assert _pairs(pairs, types) == {
        "price": "12345678901234567890.1234567891",
        "raw": "1234",
        "day": None,
        "shop": 7,
        "name": "null",
    }
    assert _object('{"price": 12345678901234567890.1234567891}') == {
        "price": Decimal("12345678901234567890.1234567891")
    }
