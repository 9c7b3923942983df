"""What every step of the vocabulary gives is the same in batch, in a stream, of a base row, and served."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from featurestore import FeatureStore

START = datetime(2026, 1, 1, tzinfo=UTC)
SPECS = """
kind: Entity
name: customer
---
kind: Entity
name: word
---
kind: Source
name: events
event_time: at
event_id: id
schema:
  {id: string, at: timestamp, customer: string, note: string, size: string, lat: float64, lon: float64,
   amount: float64, mcc: int64, doc: json, tags: list<string>}
batch: {kind: parquet, path: "data/*.parquet"}
stream: {topic: events}
---
kind: FeatureSet
name: wide
entities: [customer]
source: events
history: all
steps:
  - date_parts: {column: at, parts: [hour, day_of_week, week, is_weekend], timezone: America/St_Johns}
  - one_hot: {column: size, values: [S, M], unknown: null, keep: true}
  - ordinal: {column: size, values: [S, M, L], unknown: -1, into: size_rank}
  - hash_bucket: {columns: [note, mcc], buckets: 1000, into: note_mcc}
  - log: {column: amount, base: 2, add: 1, into: log_amount}
  - haversine: {from: [lat, lon], to: [52.5, 13.4], into: away}
  - text: {column: note, functions: [trim, lower, tokens], into: words}
  - parse: {column: note, regex: "([0-9]+)", type: int64, into: number}
  - flatten: {column: doc, fields: {a: {path: $.a, type: float64}, b: {path: "$.b[0]", type: date}, c: $.c}}
  - join: {table: mcc.csv, on: mcc, types: {risk: float64}}
  - derive: {exposed: "amount * coalesce(risk, 0.5)", many: "length(words) > 1"}
  - clip: {column: away, min: 0, max: 10000}
  - bin: {column: amount, edges: [0, 10, 100], into: level}
  - rename: {c: last_c}
  - drop: [lat, lon]
aggregations:
  - {column: exposed, functions: [sum, max], windows: [1h, 7d]}
  - {column: number, where: "size_rank >= 0 and many", functions: [sum, last], windows: [7d]}
---
kind: FeatureSet
name: strict
entities: [customer]
source: events
history: all
steps:
  - ordinal: {column: size, values: [S, M, L], unknown: reject}
  - select: [size]
aggregations: [{functions: [count], windows: [7d]}]
---
kind: FeatureSet
name: words
entities: [word]
source: events
history: all
steps:
  - explode: {column: tags, into: word, index: place}
  - explode: {column: doc, into: part}
  - parse: {column: part, json: $, type: int64}
  - select: [place, part]
aggregations: [{column: part, functions: [sum, count], windows: [7d]}]
---
kind: FeatureVector
name: scored
base: wide
features: [wide.*, strict.count_7d]
---
kind: FeatureVector
name: profile
features: [wide.*, strict.* as strict_*]
---
kind: FeatureVector
name: used
features: [words.*]
"""


def events(count: int) -> list[dict[str, Any]]:
    """Return events as a producer sends them: each value of each column is null at times."""
    made = random.Random(7)
    objects: list[Any] = [{"a": 1.5, "b": ["2026-01-02"]}, {"a": "2", "c": {"z": 1, "y": 1.0}}]
    choices: dict[str, list[Any]] = {
        "note": ["Pay 12 now", " ÄÖ 7", "", "none", "a  b\t42"],
        "size": ["S", "M", "L", "XL"],
        "lat": [52.5, 0.0, -0.0, 91.0, -33.9],
        "lon": [13.4, 180.0, -70.0],
        "amount": [0.0, -1.0, 7.25, 1e6, 0.1],
        "mcc": [5411, 7995, 1],
        "doc": [*objects, [1, 2, None, "3"], [], 5],
        "tags": [[], ["x"], ["x", "y", "x"], ["y", None]],
    }
    rows = []
    for number in range(count):
        row = {name: made.choice([*values, None]) for name, values in choices.items()}
        at = START + timedelta(minutes=made.randrange(3000))
        rows.append({"id": f"e{number}", "at": at, "customer": f"C{made.randrange(5)}", **row})
    return rows


def sent(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"at": row["at"].isoformat()}


def stored(rows: list[dict[str, Any]]) -> pl.DataFrame:
    texts = [row | {"doc": None if row["doc"] is None else json.dumps(row["doc"], indent=1)} for row in rows]
    return pl.DataFrame(texts, schema_overrides={"tags": pl.List(pl.String)}, infer_schema_length=None)


def test_every_step_is_the_same_everywhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "mcc.csv").write_text("mcc,name,risk\n5411,Grocery,0.25\n7995,Betting,\n", encoding="utf-8")
    (tmp_path / "featurestore.yaml").write_text(
        "project: all\nonline: {kind: sqlite}\nstream: {kind: log}\n", encoding="utf-8"
    )
    (tmp_path / "specs.yaml").write_text(SPECS, encoding="utf-8")
    rows = events(120)
    with FeatureStore(tmp_path) as store:
        store.apply()
        stored(rows[:60]).write_parquet(tmp_path / "data" / "events.parquet")
        reports = {report.feature_set: report for report in store.ingest("events")}
        unknown = sum(row["size"] == "XL" for row in rows[:60])
        assert reports["strict"].counts["unknown_value"] == unknown > 0
        assert store.push("events", [sent(row) for row in rows[50:]], wait=60).servable  # ten of them again
        store.drain()

        checked = store.verify(sample=60)
        assert not checked.differences
        assert checked.is_equal
        assert checked.compared > 1000

        scored = store.vector("scored")
        asked = rows[::7]
        online = scored.get_online([sent(row) for row in asked]).to_dicts()
        offline = scored.get_offline(stored(asked)).to_polars()
        assert offline.select(scored.features).to_dicts() == [
            {name: value for name, value in row.items() if name in scored.features} for row in online
        ]
