"""Random feature sets and random logs, crowded on edges: what the generated cases are made of.

Drawn from a seeded generator, fast; what `strategies` draws for Hypothesis, which shrinks, is its slower
twin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

from conformance.arriving import Row

from featurestore.aggregates import function_names
from featurestore.compiler import CompiledProject, compile_bundle
from featurestore.errors import SpecError
from featurestore.specs.problems import SpecErrors

SECOND = 1_000_000
HOUR = 3600 * SECOND
ORIGIN = 1_767_225_600 * SECOND
SLICE = 822_929 << 31  # where slices of the online state begin at every level
WINDOWS = {"1h": HOUR, "2h": 2 * HOUR, "90s": 90 * SECOND, "20ms": SECOND // 50, "2147483648us": 1 << 31}
COLUMNS = {
    "x": "float64",
    "y": "float32",
    "n": "int64",
    "s": "int8",
    "u": "uint64",
    "kind": "string",
    "flag": "bool",
    "day": "date",
    "moment": "timestamp",
    "raw": "binary",
    "price": "decimal(10,2)",
}
CONDITIONS = {"x > 5": "x", "kind = 'a'": "kind", "n is null": "n", "flag": "flag", "s <> 1 or u > 3": "s u"}
CATEGORIES: dict[str, list[Any]] = {"kind": ["a", "b"], "s": [0, 1], "flag": [True, False]}
STEPS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("x", {"derive": {"x": "x * 2"}}),
    ("n", {"filter": "n is null or n <> 7"}),
    ("kind", {"map_values": {"column": "kind", "mapping": {"ab": "b"}}}),
    ("s", {"derive": {"s": "case when s > 100 then null else s end"}}),
)
PARAMETERS: Mapping[str, tuple[str, Sequence[Any]]] = {
    "first_k": ("k", (1, 2, 4)),
    "last_k": ("k", (1, 2, 4)),
    "top_k": ("k", (1, 2, 4)),
    "bottom_k": ("k", (1, 2, 4)),
    "lag": ("k", (1, 2, 4)),
    "diff": ("k", (1, 2, 4)),
    "approx_percentile": ("percentile", (0.5, 0.95, 0.0, 1.0)),
    "decay_sum": ("half_life", ("1h", "90s")),
    "decay_avg": ("half_life", ("1h", "90s")),
}
_CALM: Mapping[str, Sequence[Any]] = {
    "x": (0.0, -0.0, 1.0, -1.0, 0.1, 0.2, 0.3, 2.0, 6.0, 10.0, 3.5, -7.25, 1e-3),
    "y": (0.25, -0.5, 3.0, 12.75, 0.0),
    "n": (0, 1, -1, 2, 3, 7, 8, -9, 100),
    "s": (0, 1, 2, 100, 127, -128),
    "u": (0, 1, 3, 7, 2**31),
    "kind": ("a", "b", "ab", "", "é", "\U0001f600", "00123"),
    "flag": (True, False),
    "day": (20_000, 20_001, 20_005),
    "moment": (ORIGIN, ORIGIN + 1, ORIGIN - HOUR, 0),
    "raw": (b"", b"a", b"\x00", b"\xff"),
    "price": tuple(Decimal(number).scaleb(-2) for number in (0, 1, -1, 10, 999, -12345)),
}
_WILD: Mapping[str, Sequence[Any]] = _CALM | {
    "x": (*_CALM["x"], 1e10, 1e10 + 1.0, 1e16, -1e16, 3.5e15, 1e8 + 1, 1e8 + 2, 1e140, -1e140),
    "n": (*_CALM["n"], 2**63 - 1, -(2**63), 2**62, 2**53 + 1, -(2**53) - 1),
    "u": (*_CALM["u"], 2**64 - 1, 2**63),
    "price": (*_CALM["price"], Decimal("99999999.99"), Decimal("-99999999.99")),
}
_SPECIAL: Mapping[str, Sequence[Any]] = _CALM | {
    "x": (*_CALM["x"], math.nan, math.inf, -math.inf),
    "y": (*_CALM["y"], math.nan, math.inf),
}
_MOODS = (_CALM, _CALM, _WILD, _WILD, _SPECIAL)
KEYS = ("a", "b")


@dataclass(frozen=True)
class Case:
    """A log of one or two entities, and what is asked of them: (key, instant), or whole base rows."""

    rows: tuple[Row, ...]
    asked: tuple[tuple[str, int], ...]
    bases: tuple[Row, ...]


@functools.cache
def functions(column: str | None) -> tuple[str, ...]:
    """Return the functions that take a column of `COLUMNS`, or rows."""
    return tuple(name for name in function_names() if _compiles(column, name))


def _compiles(column: str | None, function: str) -> bool:
    chosen = {} if column is None else {"column": column}
    aggregation = {**chosen, "functions": [function], "windows": ["1h"], **parameter(Random(0), function)}
    try:
        project(documents([column or "x"], {}, {"aggregations": [aggregation]}))
    except (SpecError, SpecErrors):
        return False
    return True


def parameter(rng: Random, function: str) -> dict[str, Any]:
    """Return what a function must be told, such as its `k:`."""
    if function not in PARAMETERS:
        return {}
    name, values = PARAMETERS[function]
    return {name: rng.choice(values)}


def project(declared: Sequence[Mapping[str, Any]]) -> CompiledProject:
    """Return the plans of documents."""
    return compile_bundle([{"kind": "Project", "name": "generated"}, *declared])


def documents(
    columns: Sequence[str], source: Mapping[str, Any], feature_set: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the documents of a source of these columns, a set, its vector, and one that scores a row."""
    schema = {"id": "string", "customer": "string", "at": "timestamp", "seen": "timestamp", "rank": "int64"}
    if "deleted" in source:
        schema["gone"] = "bool"
    made: list[dict[str, Any]] = [
        {"kind": "Entity", "name": "customer"},
        {
            "kind": "Source",
            "name": "rows",
            "event_time": "at",
            "ingest_time": "seen",
            "schema": schema | {name: COLUMNS[name] for name in columns},
            **source,
        },
        {"kind": "FeatureSet", "name": "made", "entities": ["customer"], "source": "rows", **feature_set},
        {"kind": "FeatureVector", "name": "asked", "features": ["made.*"]},
    ]
    if "event_id" in source:
        made.append({"kind": "FeatureVector", "name": "scored", "base": "made", "features": ["made.*"]})
    return made


def feature_set(rng: Random) -> list[dict[str, Any]]:
    """Return the documents of a random feature set and its two vectors, without and with a base."""
    columns = sorted(rng.sample(sorted(COLUMNS), rng.randint(1, 4)))
    ids, order = rng.random() < 0.7, rng.random() < 0.3
    source: dict[str, Any] = {}
    if ids:
        source["event_id"] = "id"
        if rng.random() < 0.4:
            source["on_duplicate"] = "replace"
    if order:
        source["order_by"] = "rank"
    if rng.random() < 0.25:
        source["deleted"] = "gone"
    made: dict[str, Any] = {"history": "all" if rng.random() < 0.8 else rng.choice(["0s", "90s", "1h"])}
    if rng.random() < 0.3:
        made["ttl"] = rng.choice(sorted(WINDOWS))
    if rng.random() < 0.25:
        made["closed"] = "left"
    steps = [step for column, step in STEPS if column in columns and rng.random() < 0.15]
    plain = [name for name in columns if rng.random() < 0.6]
    made["steps"] = [*steps, {"select": plain or columns[:1]}]
    made["aggregations"] = [_aggregation(rng, columns, number) for number in range(rng.randint(1, 3))]
    return documents(columns, source, made)


def _aggregation(rng: Random, columns: Sequence[str], number: int) -> dict[str, Any]:
    column = rng.choice([*columns, None]) if rng.random() < 0.3 else rng.choice(columns)
    known = functions(column)
    chosen = [rng.choice(known)] if rng.random() < 0.4 else rng.sample(known, min(len(known), 3))
    made: dict[str, Any] = {"name": f"f{number}"}
    if column is not None:
        made["column"] = column
    for function in chosen:
        made |= parameter(rng, function)
    made["functions"] = chosen
    spans = [*sorted(WINDOWS), *_lifetimes()]
    made["windows"] = sorted(set(rng.choices(spans, k=rng.randint(1, 2))))
    if rng.random() < 0.3:
        texts = [text for text, needs in CONDITIONS.items() if set(needs.split()) <= set(columns)]
        if texts:
            made["where"] = rng.choice(texts)
    if rng.random() < 0.25:
        kinds = [name for name in CATEGORIES if name in columns]
        if kinds:
            made["by"] = rng.choice(kinds)
            made["values"] = CATEGORIES[made["by"]]
    if rng.random() < 0.25:
        made["closed"] = rng.choice(["left", "right"])
    if rng.random() < 0.25 and "lifetime" not in made["windows"]:
        made["granularity"] = rng.choice([*sorted(WINDOWS), "7m"])
    if rng.random() < 0.25:
        made["offset"] = rng.choice(sorted(WINDOWS))
    return made


@functools.cache
def _lifetimes() -> tuple[str, ...]:
    """Return the window that reaches back for ever, where there is one."""
    aggregation = {"column": "x", "functions": ["sum"], "windows": ["lifetime"]}
    try:
        project(documents(["x"], {}, {"aggregations": [aggregation]}))
    except (SpecError, SpecErrors):
        return ()
    return ("lifetime",)


def log(rng: Random, columns: Sequence[str], spans: Sequence[int], key: str, *, ids: bool) -> Case:
    """Return a log, and instants at its edges. `key` begins the names of its entities."""
    mood = rng.choice(_MOODS)
    origin = rng.choice((ORIGIN, ORIGIN, SLICE, SLICE, 0, 1_709_164_800 * SECOND))  # also 1970; a leap day
    keys = [f"{key}{name}" for name in KEYS[: rng.choice((1, 1, 1, 2))]]
    rows: list[Row] = []
    for number in range(_size(rng)):
        again = rng.choice(rows) if rows and rng.random() < 0.25 else None
        at = again["at"] if again else _instant(rng, origin, spans)
        row: Row = {
            "id": f"{number}",
            "customer": again["customer"] if again else rng.choice(keys),
            "at": at,
            "seen": at + _delay(rng, spans),
            "rank": rng.choice((None, 0, 1)),
            "gone": rng.random() < 0.2,
        }
        if again and ids and rng.random() < 0.7:
            row["id"] = again["id"]
        for name in columns:
            row[name] = None if rng.random() < 0.15 else rng.choice(mood[name])
        if again and rng.random() < 0.2:
            row |= {name: again[name] for name in columns}
        rows.append(row)
    rng.shuffle(rows)
    places = [row[name] for row in rows for name in ("at", "seen")] or [origin]
    asked = []
    for _ in range(rng.randint(2, 5)):
        t = rng.choice(places) + rng.choice((0, *spans)) + rng.choice((0, 0, 0, 1, -1))
        asked.append((rng.choice(keys), t))
    bases = []
    for row in rng.sample(rows, min(len(rows), 2)):
        base = row if rng.random() < 0.5 else row | {"id": "new", "rank": rng.choice((None, 0, 1))}
        base = base | {"gone": False}  # a deleted row is no base row
        bases.append(
            base | {name: rng.choice(mood[name]) for name in columns} if rng.random() < 0.3 else base
        )
    return Case(tuple(rows), tuple(asked), tuple(bases))


def _size(rng: Random) -> int:
    return rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20))


def _instant(rng: Random, origin: int, spans: Sequence[int]) -> int:
    steps = (SECOND, *spans)
    offset = rng.choice(steps) * rng.randint(0, 3) + rng.choice((0, 0, rng.choice(steps)))
    return origin + offset + rng.choice((0, 0, 0, 1, -1))


def _delay(rng: Random, spans: Sequence[int]) -> int:
    if rng.random() < 0.6:
        return rng.choice((0, 0, 0, 1))
    return max(0, rng.choice((SECOND, *spans)) + rng.choice((0, 1, -1)))
