"""Each kind of wrong input by its rule, its counter, and where it is refused its dead letter.

Over the real stream path, the log and Kafka: what is sent is written down here with what is to become of it;
the offline rows and the online values are compared with the oracle's over the good events alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracle
import pytest
from brokers import KafkaBroker
from parity import check_cells, write_project
from strategies import ORIGIN

from featurestore import FeatureStore, plans
from featurestore.instants import DAY, HOUR, MINUTE, SECOND, format_instant, now, parse_instant
from featurestore.rows.identity import row_hash

SPECS = """
kind: Entity
name: customer
---
kind: Entity
name: level
type: int64
---
kind: Source
name: clicks
event_time: at
max_bytes: 6000
schema: {customer: string, level: int64, at: timestamp, amount: float64, units: int64}
stream: {topic: clicks}
---
kind: Source
name: orders
event_time: at
event_id: id
schema: {id: string, customer: string, at: timestamp, amount: float64}
stream: {topic: orders}
---
kind: FeatureSet
name: clicked
entities: [customer]
source: clicks
history: all
steps: [{derive: {doubled: "units * 2"}}]
aggregations: [{column: amount, functions: [sum, count, last], windows: [2h]}]
---
kind: FeatureSet
name: levels
entities: [level]
source: clicks
history: all
steps: [{select: [amount]}]
aggregations: [{functions: [count], windows: [2h]}]
---
kind: FeatureSet
name: ordered
entities: [customer]
source: orders
history: all
aggregations: [{column: amount, functions: [sum, count], windows: [2h]}]
---
kind: FeatureVector
name: seen
features: [clicked.*, ordered.amount_sum_2h as paid, ordered.amount_count_2h as orders]
"""


@pytest.fixture(
    params=["log", *(pytest.param(name, marks=pytest.mark.kafka) for name in ("mock_broker", "kafka"))]
)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """The project, applied, its topics on the log or on Kafka."""
    specs = SPECS
    config: dict[str, Any] = {"project": "wrong"}
    if request.param != "log":
        broker: KafkaBroker = request.getfixturevalue(request.param)
        for name in ("clicks", "orders"):
            specs = specs.replace(f"topic: {name}", f"topic: {broker.create_topic()}")
        config["stream"] = broker.config
    with FeatureStore(write_project(tmp_path, specs, json.dumps(config))) as store:
        store.apply()
        yield store


def send(store: FeatureStore, source: str, *values: Any) -> None:
    """Send values to a source's topic as they are: bytes, None, or what becomes JSON."""
    topic = store.environment.stream(store.catalog.source(source))
    topic.append([(b"k", v if v is None or isinstance(v, bytes) else json.dumps(v).encode()) for v in values])


def click(at: int = ORIGIN, **given: Any) -> dict[str, Any]:
    return {"customer": "a", "level": 1, "at": format_instant(at), "amount": 1.5, "units": 2} | given


def order(at: int = ORIGIN, **given: Any) -> dict[str, Any]:
    return {"id": "o1", "customer": "a", "at": format_instant(at), "amount": 8.0} | given


def drained(store: FeatureStore, source: str) -> dict[str, int]:
    """Apply what came; return the source's counts."""
    return store.drain([source])[source]


def codes(store: FeatureStore, **chosen: Any) -> list[str]:
    return sorted(letter["code"] for letter in store.dead_letters(limit=100, **chosen))


def check(store: FeatureStore, name: str, good: list[dict[str, Any]]) -> None:
    """Compare a set's rows and its entities' values with the oracle's over the good events of its source."""
    plan = store.catalog.feature_set(name)
    key = plan.keys[0].column
    table = store.environment.rows_table(plan)
    snapshot = table.snapshot()
    assert snapshot is not None
    stored = table.lazy(snapshot, schema=plan.columns).collect()
    rows = [expected(plan, event) for event in good if event[key] is not None]
    hashes = Counter(row["__row_hash"] for row in rows)
    assert Counter(stored[plans.ROW_HASH].to_list()) == hashes, f"the rows of {name} are others"
    reader = store.reader([f"{name}.{f.name}" for f in plan.features])
    for entity in {row["__key"] for row in rows} | {"nobody" if key == "customer" else 99}:
        for t in (ORIGIN - HOUR, ORIGIN, ORIGIN + HOUR, ORIGIN + 3 * HOUR, now()):
            result = reader.read([{plan.keys[0].request_column: entity}], as_of=t)
            assert result.errors == [None]
            names = [field.name for field in result.columns]
            cells = oracle.expected_cells(plan, rows, entity, t)
            check_cells(cells, dict(zip(names, result.rows[0], strict=True)), (name, entity, t))


def expected(plan: Any, event: dict[str, Any]) -> dict[str, Any]:
    """Return a good event as the oracle reads it, the step of its set done by hand."""
    row = event | {"at": parse_instant(event["at"])}
    made = dict(row)
    if plan.name == "clicked":
        made["doubled"] = None if row["units"] is None else row["units"] * 2
    return made | {
        "__key": row[plan.keys[0].column],
        "__event_time": row["at"],
        "__ingest_time": now(),
        "__row_hash": row_hash(row, plan.source.schema),
        "__event_id": row.get("id", object()),
        "__deleted": False,
        "__partition": "p",
        "__sequence": 0,
    }


def test_late_and_out_of_order_events_count_as_if_they_had_come_in_order(project: FeatureStore) -> None:
    """However late: there is no watermark."""
    good = [click(ORIGIN), click(ORIGIN + HOUR, amount=4.0), click(ORIGIN - 400 * DAY, amount=32.0)]
    good += [click(ORIGIN - MINUTE, amount=16.0), click(ORIGIN), click(ORIGIN + 2 * HOUR, amount=0.5)]
    good += [click(ORIGIN + HOUR, amount=2.0)]
    send(project, "clicks", *good)
    counts = drained(project, "clicks")
    assert (counts["records"], counts["rejected"], counts["out_of_order"]) == (7, 0, 4)
    assert counts["committed"] == 3 * 7  # landing and two sets
    assert codes(project) == []
    check(project, "clicked", good)
    check(project, "levels", good)


def test_an_event_from_the_future_is_refused_past_the_margin(project: FeatureStore) -> None:
    t = now()
    send(project, "clicks", click(t + 4 * MINUTE), click(t + 7 * MINUTE))
    counts = drained(project, "clicks")
    assert (counts["rejected"], counts["rejected_future"]) == (1, 1)
    [letter] = project.dead_letters()
    assert (letter["code"], letter["source"], letter["feature_set"]) == ("future", "clicks", None)
    assert json.loads(letter["text"]) == click(t + 7 * MINUTE)
    check(project, "clicked", [click(t + 4 * MINUTE)])


def test_a_duplicate_with_an_id_is_one_row_and_without_one_two(project: FeatureStore) -> None:
    send(project, "orders", order(), order(), order(id="o2"))
    send(project, "clicks", click(), click())
    drained(project, "orders")
    drained(project, "clicks")
    values = project.get_online_features("seen", [{"customer": "a"}], as_of=ORIGIN).to_dicts()[0]
    assert (values["orders"], values["paid"], values["amount_count_2h"]) == (2, 16.0, 2)
    check(project, "ordered", [order(), order(), order(id="o2")])  # offline keeps each row as it came
    check(project, "clicked", [click(), click()])
    assert codes(project) == []


Bad = tuple[str, Any, str]
BAD: list[Bad] = [
    ("malformed JSON", b'{"customer": "a", ', "malformed"),
    ("bytes that are no text", b"\xff\xfe\x00", "malformed"),
    ("a list", [1, 2], "malformed"),
    ("a text", "a", "malformed"),
    ("nothing", b"", "malformed"),
    ("two objects", b'{"customer": "a"} {"customer": "b"}', "malformed"),
    ("a tombstone", None, "tombstone"),
    ("text for a number", click(amount="1.5"), "bad_type"),
    ("a number for text", click(customer=7), "bad_type"),
    ("true for a number", click(units=True), "bad_type"),
    ("an object for a number", click(units={"n": 1}), "bad_type"),
    ("an integer out of range", click(units=2**63), "bad_value"),
    ("a fraction for an integer", click(units=1.5), "bad_value"),
    (
        "a float out of range",
        b'{"customer": "a", "at": "2026-01-01T00:00:00Z", "amount": 1e999}',
        "bad_value",
    ),
    ("a time that is none", click() | {"at": "yesterday"}, "bad_value"),
    ("a time without a zone", click() | {"at": "2026-01-01T00:00:00"}, "naive_timestamp"),
    ("a null event time", click() | {"at": None}, "null_event_time"),
    ("no event time", {"customer": "a", "level": 1}, "null_event_time"),
    ("more bytes than are taken", click(padding="x" * 6000), "too_large"),
    ("a step that overflows", click(units=2**62), "overflow"),
]


def test_every_bad_event_costs_only_itself(project: FeatureStore) -> None:
    """Between good ones, each is refused for its reason, with its bytes and its place; the rest as ever."""
    good = [click(ORIGIN + n * SECOND, amount=float(n)) for n in range(len(BAD) + 1)]
    sent = [good[0]]
    for number, (_, value, _) in enumerate(BAD):
        sent += [value, good[number + 1]]
    send(project, "clicks", *sent)
    counts = drained(project, "clicks")
    expected_codes = Counter(code for _, _, code in BAD)
    assert counts["records"] == len(sent)
    assert counts["rejected"] == len(BAD)
    assert {n: counts[f"rejected_{n}"] for n in expected_codes} == dict(expected_codes)
    letters = sorted(project.dead_letters(limit=100), key=lambda letter: letter["sequence"])
    assert [letter["code"] for letter in letters] == [code for _, _, code in BAD]
    assert [letter["sequence"] for letter in letters] == [2 * n + 1 for n in range(len(BAD))]
    for letter, (said, value, code) in zip(letters, BAD, strict=True):
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        if code == "too_large":
            assert letter["bytes"] == 4096, said
        elif code == "overflow":
            assert letter["feature_set"] == "clicked", said
            assert parse_instant(json.loads(letter["text"])["at"]) == ORIGIN, said
        else:
            assert letter["bytes"] == (None if raw is None else len(raw)), said
    table = project.environment.offline.table("dead_letters")
    snapshot = table.snapshot()
    assert snapshot is not None
    assert set(table.lazy(snapshot).collect()["payload"]) >= {v for _, v, _ in BAD if isinstance(v, bytes)}
    check(project, "clicked", good)
    check(project, "levels", [*good, click(units=2**62)])  # its steps do not multiply
    assert {row["code"]: row["rows"] for row in project.count_dead_letters()} == dict(expected_codes)


def test_a_null_id_is_refused(project: FeatureStore) -> None:
    send(project, "orders", order(id=None), {"customer": "a", "at": order()["at"]}, order())
    counts = drained(project, "orders")
    assert counts["rejected_null_event_id"] == 2
    assert codes(project) == ["null_event_id"] * 2
    check(project, "ordered", [order()])


def test_a_row_without_a_key_belongs_to_no_entity_and_stays_in_landing(project: FeatureStore) -> None:
    """Counted by set, refused by none: it may have the key of another set."""
    sent = [click(customer=None), click(level=None), {"at": click()["at"], "amount": 2.0}, click()]
    send(project, "clicks", *sent)
    counts = drained(project, "clicks")
    assert (counts["null_key"], counts["rejected"]) == (4, 0)
    assert codes(project) == []
    whole = [dict.fromkeys(click()) | event for event in sent]
    check(project, "clicked", whole)
    check(project, "levels", whole)
    from featurestore import tables

    landing = project.environment.offline.table(tables.landing_table(project.catalog.source("clicks")))
    snapshot = landing.snapshot()
    assert snapshot is not None
    assert landing.rows(snapshot) == 4


def test_what_was_refused_is_refused_once_however_often_it_is_read(project: FeatureStore) -> None:
    send(project, "clicks", b"no", click(units=2**62), click())
    drained(project, "clicks")
    before = codes(project)
    for _ in range(2):
        drained(project, "clicks")
    assert codes(project) == before == ["malformed", "overflow"]
    check(project, "clicked", [click()])


def test_a_new_version_writes_letters_of_landed_rows_that_it_refuses(project: FeatureStore) -> None:
    send(project, "clicks", click(level=2**62), click())
    drained(project, "clicks")
    assert codes(project) == []
    specs = project.root / "specs.yaml"
    specs.write_text(specs.read_text().replace("units * 2", "level * 2"))
    project.apply()
    drained(project, "clicks")
    [letter] = project.dead_letters()
    assert (letter["code"], letter["feature_set"], letter["sequence"]) == ("overflow", "clicked", 0)
