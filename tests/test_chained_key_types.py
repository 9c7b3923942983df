"""A key that is found is the same key offline and online, of every type; what does not fit is no entity."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from parity import compiled
from vector_stores import NOW, features, stores

SPECS = """
kind: Entity
name: who
---
kind: Entity
name: thing
type: {entity}
---
kind: Source
name: seen
event_time: at
schema: {{who: string, found: {column}, at: timestamp}}
batch: {{kind: parquet, path: seen.parquet}}
---
kind: Source
name: things
event_time: always
schema: {{who: string, thing: {entity}, name: string}}
batch: {{kind: parquet, path: things.parquet}}
---
kind: FeatureSet
name: latest
entities: [who]
source: seen
history: all
aggregations: [{{column: found, functions: [{function}], windows: [1d]}}]
---
kind: FeatureSet
name: named
entities: [thing]
source: things
history: all
---
kind: FeatureSet
name: pairs
entities: [who, thing]
source: things
history: all
steps: [{{rename: {{name: pair}}}}]
---
kind: FeatureVector
name: v
features:
  - {{set: named, features: [name], keys: {{thing: latest.found}}}}
  - {{set: named, features: [name], keys: {{thing: latest.found_{function}_1d}}, as: last_name}}
  - {{set: pairs, features: [pair], keys: {{thing: latest.found}}}}
"""
AT = datetime(2026, 3, 1, tzinfo=UTC)
KINDS: list[tuple[str, str, list[Any], list[Any]]] = [
    # the entity's type, the feature's, what was found, and of it what is a key
    ("string", "string", ["00123", "", "é", None], ["00123", "", "é", None]),
    ("binary", "binary", [b"\x00", b"", b"a", None], [b"\x00", b"", b"a", None]),
    ("bool", "bool", [True, False, None], [True, False, None]),
    (
        "date",
        "date",
        [date(1969, 12, 31), date(2026, 2, 28), None],
        [date(1969, 12, 31), date(2026, 2, 28), None],
    ),
    (
        "timestamp",
        "timestamp",
        [AT, datetime(1, 1, 1, tzinfo=UTC), None],
        [AT, datetime(1, 1, 1, tzinfo=UTC), None],
    ),
    ("uint64", "uint64", [0, 2**63, 2**64 - 1, None], [0, 2**63, 2**64 - 1, None]),
    ("int64", "int8", [-128, 127, None], [-128, 127, None]),
    ("int32", "int64", [2**31 - 1, 2**31, -(2**31), None], [2**31 - 1, None, -(2**31), None]),
    ("uint8", "int64", [255, 256, -1], [255, None, None]),
    ("int64", "float64", [1.0, -0.0, 2.5, float("nan"), float("inf"), 2.0**63, None], [1, 0] + [None] * 5),
    ("int64", "float32", [16777216.0, 0.5, None], [16777216, None, None]),
]


@pytest.mark.parametrize(("entity", "column", "found", "keys"), KINDS, ids=lambda value: str(value)[:20])
def test_a_found_key_is_that_key(entity: str, column: str, found: list[Any], keys: list[Any]) -> None:
    function = "max" if column == "timestamp" else "last"
    project = compiled(SPECS.format(entity=entity, column=column, function=function))
    plan = project.vectors["v"]
    types = {f.name: f.type.polars() for f in project.sources["seen"].schema}
    who = [f"w{n}" for n in range(len(found))]
    seen = pl.DataFrame({"who": who, "found": found, "at": [AT] * len(found)}, types)
    distinct = [key for key in dict.fromkeys(keys) if key is not None]
    types = {f.name: f.type.polars() for f in project.sources["things"].schema}
    things = pl.DataFrame(
        {
            "who": [who[keys.index(key)] for key in distinct],
            "thing": distinct,
            "name": [f"of {key!r}" for key in distinct],
        },
        types,
    )
    expected = [None if key is None else f"of {key!r}" for key in keys]
    with stores("sqlite", None) as made:
        made.ingest([project.sets["latest"]], seen)
        made.ingest([project.sets["named"], project.sets["pairs"]], things)
        asked = pl.DataFrame({"who": who, "t": [AT] * len(who)})
        offline = features(made.training(plan, asked), plan)
        t = int(AT.timestamp()) * 1_000_000
        assert t < NOW
        online = made.vectors(plan, [{"who": name} for name in who], [t] * len(who))
        for rows in (offline, online):
            assert [row["name"] for row in rows] == expected
            assert [row["last_name"] for row in rows] == expected
            assert [row["pair"] for row in rows] == expected
        assert [row["error"] for row in online] == [None] * len(who)
