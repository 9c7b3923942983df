"""`featurestore test`: a user's own cases on every engine, in scratch stores, and what is wrong with them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from parity import write_project

from featurestore import FeatureStore, Test
from featurestore.cases.comparison import same
from featurestore.cli import main
from featurestore.errors import UnknownName
from featurestore.specs import SpecErrors
from featurestore_connectors.redis import RedisOnlineStore

ROOT = Path(__file__).resolve().parent.parent
Out = pytest.CaptureFixture[str]
WAYS = ["batch", "local", *(["bytewax"] if sys.version_info < (3, 13) else []), "batch+local"]

CONFIG = "project: shop\nonline: {kind: sqlite}\n"
SPECS = """\
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
event_id: id
schema: {id: string, customer: string, at: timestamp, amount: float64, units: int64, tags: list<string>}
batch: {kind: parquet, path: orders.parquet}
stream: {topic: orders}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
ttl: 1d
steps:
  - drop: [id]
aggregations:
  - {column: amount, functions: [sum, avg, max], windows: [1h]}
  - {column: units, functions: [last_k], k: 2, windows: [1h]}
---
kind: FeatureSet
name: labels
entities: [customer]
source: orders
online: false
steps:
  - derive: {large: "amount > 10"}
  - select: [large]
---
kind: FeatureVector
name: value
features: [spending.amount, spending.amount_sum_1h]
inputs: {factor: float64}
derive: {scaled: "spending.amount_sum_1h * factor"}
impute: {amount: -1.0}
---
kind: FeatureVector
name: scored
base: spending
features: [spending.amount, spending.amount_sum_1h]
label: labels.large
"""

A = "{id: A, customer: c1, at: '2026-03-01T10:00:00Z', amount: 0.1, units: 1}"
B = "{id: B, customer: c1, at: '2026-03-01T10:30:00Z', amount: 0.2, units: 2, tags: [x, null]}"
C = "{id: C, customer: c1, at: '2026-03-01T11:00:00Z', amount: 20.0, units: 3}"


def project(folder: Path, *cases: str, specs: str = SPECS) -> Path:
    """Write a project whose cases are in cases.yaml, the first one on line 2; return its folder."""
    write_project(folder, specs, CONFIG)
    (folder / "cases.yaml").write_text("tests:\n" + "".join(f"  - {case}\n" for case in cases))
    return folder


def case(name: str, tested: str, expect: str, *, rows: str = f"[{A}, {B}, {C}]", more: str = "") -> str:
    """Return a case on one line."""
    return f"{{name: {name}, {tested}, rows: {{orders: {rows}}}, expect: {expect}{more}}}"


AT = ", at: '2026-03-01T11:00:00Z'"


def test_a_case_runs_every_way_and_is_read_offline_and_online(tmp_path: Path) -> None:
    right = case(
        "right", "set: spending", "{amount: 20.0, amount_sum_1h: 20.2, units_last_k_1h: [2, 3]}", more=AT
    )
    with FeatureStore(project(tmp_path, right)) as store:
        report = store.test()
        [found] = report
    assert report.passed
    assert found.engines == tuple(f"{way} {reading}" for way in WAYS for reading in ("offline", "online"))
    assert (found.name, found.tested) == ("right", "spending")
    assert found.where.endswith("cases.yaml:2")
    assert str(report) == "1 cases, 0 failed"


def test_what_differs_is_said_for_each_engine_with_its_line(tmp_path: Path, capsys: Out) -> None:
    """A is exactly an hour old and out of the window: 20.2, not 20.3."""
    wrong = case("wrong", "set: spending", "{amount: 20.0, amount_sum_1h: 20.3}", more=AT)
    folder = project(tmp_path, wrong)
    assert main(["test", "-C", str(folder)]) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:3] == ["FAIL", "spending:", "wrong"]
    assert lines[1][0].endswith("cases.yaml:2")
    assert lines[2] == ["feature", "expected", "got", "engine"]
    table = lines[3:-1]
    assert [line[3:] for line in table] == [[w, r] for w in WAYS for r in ("offline", "online")]
    assert all(line[:3] == ["amount_sum_1h", "20.3", "20.2"] for line in table)
    assert lines[-1] == ["1", "cases,", "1", "failed"]


def test_json_has_the_engines_the_mismatches_and_the_count(tmp_path: Path, capsys: Out) -> None:
    cases = [
        case("right", "vector: value", "{amount: 20.0}", more=AT + ", request: {customer: c1}"),
        case("wrong", "vector: value", "{amount: 1.0}", more=AT + ", request: {customer: c1}"),
    ]
    assert main(["test", "-C", str(project(tmp_path, *cases)), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 1
    assert [(item["name"], item["passed"]) for item in found["cases"]] == [("right", True), ("wrong", False)]
    assert found["cases"][1]["mismatches"][0] == {
        "feature": "amount",
        "expected": 1.0,
        "got": 20.0,
        "engine": "batch offline",
    }


MISTAKES = {
    "expect: 'spending' has no feature 'amount_sum_1d'. Did you mean 'amount_sum_1h'?": case(
        "m", "set: spending", "{amount_sum_1d: 1}", more=AT
    ),
    "expect.amount: 'much' is no float64.": case("m", "set: spending", "{amount: much}", more=AT),
    "rows: source 'orders' has no column 'amuont'. Did you mean 'amount'?": case(
        "m", "set: spending", "{amount: 1}", rows="[{id: A, at: '2026-03-01T10:00:00Z', amuont: 1}]", more=AT
    ),
    "rows.units: 1.5 is no int64.": case(
        "m", "set: spending", "{amount: 1}", rows="[{id: A, at: '2026-03-01T10:00:00Z', units: 1.5}]", more=AT
    ),
    "rows: the row lacks its event time, 'at'.": case(
        "m", "set: spending", "{amount: 1}", rows="[{id: A}]", more=AT
    ),
    "rows: source 'order': there is none. Did you mean 'orders'?": (
        "{name: m, set: spending, rows: {order: []}, expect: {amount: 1}, at: '2026-03-01T10:00:00Z'}"
    ),
    "vector: There is no vector 'valu'. Did you mean 'value'?": case(
        "m", "vector: valu", "{amount: 1}", more=AT
    ),
    "at: is missing.": case("m", "set: spending", "{amount: 1}"),
    "at: '2026-03-01' is no instant": case("m", "set: spending", "{amount: 1}", more=", at: 2026-03-01"),
    "request: is missing, and the rows have 0 keys 'customer'.": case(
        "m", "set: spending", "{amount: 1}", rows="[]", more=AT
    ),
    "request: 'custmer' is no key or input": case(
        "m", "set: spending", "{amount: 1}", more=AT + ", request: {custmer: c1}"
    ),
    "request.customer: 7 is no string key.": case(
        "m", "set: spending", "{amount: 1}", more=AT + ", request: {customer: 7}"
    ),
    "at: the row that is scored happens at 2026-03-01T11:00:00.000000Z. Leave at: out.": case(
        "m", "vector: scored", "{amount: 1}", more=f", at: '2026-03-01T10:00:00Z', request: {C}"
    ),
    "before it happened": case(
        "m",
        "set: spending",
        "{amount: 1}",
        rows="[{id: A, at: '2026-03-01T10:00:00Z', __ingest_time: '2026-03-01T09:00:00Z'}]",
        more=AT,
    ),
    "a case names what it tests: vector: or set:, one of the two.": "{name: m, expect: {a: 1}}",
    "there is no field 'vectr'. Did you mean 'vector'?": "{name: m, vectr: value, expect: {a: 1}}",
    "expect: it is empty. Write at least one.": "{name: m, set: spending, expect: {}}",
    "a case is a mapping, with name:.": "just text",
}


@pytest.mark.parametrize(("said", "written"), MISTAKES.items())
def test_a_mistake_is_said_with_its_line_and_nothing_runs(
    said: str, written: str, tmp_path: Path, capsys: Out
) -> None:
    """`test` was used wrongly, 2; for `validate` the answer is no, 1."""
    folder = project(tmp_path, written)
    assert main(["test", "-C", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "cases.yaml:2: " in err
    assert out == ""
    assert main(["validate", "-C", str(folder)]) == 1
    assert said in capsys.readouterr().err


def test_all_mistakes_are_said_at_once_and_a_name_is_used_once(tmp_path: Path) -> None:
    folder = project(
        tmp_path,
        case("a", "set: spending", "{amont: 1}", more=AT),
        case("b", "set: spending", "{amount: x, units: y}", more=AT),
    )
    with FeatureStore(folder) as store, pytest.raises(SpecErrors) as caught:
        store.test()
    assert [error.where.rpartition(":")[2] for error in caught.value.errors if error.where] == ["2", "3", "3"]
    project(tmp_path, *(case("a", "set: spending", "{amount: 1}", more=AT) for _ in range(2)))
    with FeatureStore(folder) as store, pytest.raises(SpecErrors, match="there is a case 'a' already, at"):
        store.validate()


def test_plan_and_apply_take_no_notice_of_cases(tmp_path: Path) -> None:
    folder = project(tmp_path, "{name: broken}")
    with FeatureStore(folder) as store:
        assert not store.plan().is_empty
        store.apply()
        (folder / "cases.yaml").write_text("tests: [1]\n")
        assert store.plan().is_empty


def test_names_and_match_choose(tmp_path: Path, capsys: Out) -> None:
    folder = project(
        tmp_path,
        case("first one", "set: spending", "{amount: 20}", more=AT),
        case("second one", "vector: value", "{amount: 20}", more=AT),
        case("third", "vector: value", "{amount: 20}", more=AT),
    )
    with FeatureStore(folder) as store:
        assert [c.name for c in store.test(match="ONE")] == ["first one", "second one"]
        assert [c.name for c in store.test(["value"])] == ["second one", "third"]
        assert [c.name for c in store.test(["value"], "one")] == ["second one"]
        assert [c.name for c in store.test(["third", "spending"])] == ["first one", "third"]
        with pytest.raises(UnknownName, match="Did you mean 'third'"):
            store.test(["thrid"])
    assert main(["test", "thrid", "-C", str(folder)]) == 2
    assert main(["test", "-k", "nothing", "-C", str(folder)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "There are no cases whose name holds 'nothing'."


def test_without_a_request_the_keys_and_the_scored_row_are_those_of_the_rows(tmp_path: Path) -> None:
    """The newest row of the base is C; an input that is not given is null."""
    folder = project(
        tmp_path,
        case("keys", "vector: value", "{amount: 20.0, scaled: null}", more=AT),
        case("input", "vector: value", "{scaled: 40.4}", more=AT + ", request: {customer: c1, factor: 2}"),
        case("base", "vector: scored", "{amount: 20.0, amount_sum_1h: 20.2, large: true}"),
        case("earlier", "vector: scored", "{amount: 0.2, large: false}", more=", at: '2026-03-01T10:59:59Z'"),
        case(
            "not there yet",
            "vector: scored",
            "{amount_sum_1h: 20.2, large: null}",
            rows=f"[{A}, {B}]",
            more=f", request: {C}",
        ),
    )
    with FeatureStore(folder) as store:
        assert store.test().passed, store.test().failed


def test_a_set_that_is_not_online_is_read_offline_alone(tmp_path: Path) -> None:
    folder = project(tmp_path, case("label", "set: labels", "{large: true}", more=AT))
    with FeatureStore(folder) as store:
        report = store.test()
    assert report.passed
    assert report.cases[0].engines == tuple(f"{way} offline" for way in WAYS)


def test_as_known_counts_what_was_known_at_the_instant(tmp_path: Path) -> None:
    """C arrived a microsecond after the instant; without as_known it counts."""
    late = C.replace("amount", "__ingest_time: '2026-03-01T11:00:00.000001Z', amount")
    rows = f"[{late}, {A}, {B}]"
    folder = project(
        tmp_path,
        case(
            "known",
            "set: spending",
            "{amount: 0.2, amount_sum_1h: 0.2}",
            rows=rows,
            more=AT + ", as_known: true",
        ),
        case("all", "set: spending", "{amount: 20.0, amount_sum_1h: 20.2}", rows=rows, more=AT),
    )
    with FeatureStore(folder) as store:
        assert store.test().passed, store.test().failed


def test_values_that_json_cannot_say_come_as_a_batch_in_every_way(tmp_path: Path) -> None:
    rows = f"[{A}, {B}, {{id: C, customer: c1, at: '2026-03-01T10:45:00Z', amount: .nan}}]"
    folder = project(
        tmp_path,
        case("nan", "set: spending", "{amount: .nan, amount_sum_1h: .nan, tags: null}", rows=rows, more=AT),
        case("list", "set: spending", "{tags: [x, null]}", rows=f"[{B}]", more=AT),
        case("inf", "set: spending", "{amount_max_1h: .inf}", rows=rows.replace(".nan", ".inf"), more=AT),
    )
    with FeatureStore(folder) as store:
        report = store.test()
        assert report.passed, report.failed
        assert len(report.cases[0].engines) == 2 * len(WAYS)


def test_maps_and_keys_that_another_look_up_finds(tmp_path: Path) -> None:
    """The newest order names the shop whose orders are looked up next."""
    specs = """\
kind: Entity
name: customer
---
kind: Entity
name: shop
---
kind: Source
name: orders
event_time: at
schema: {customer: string, shop: string, at: timestamp, units: int64}
stream: {topic: orders}
---
kind: FeatureSet
name: visits
entities: [customer]
source: orders
aggregations:
  - {column: shop, functions: [last, histogram], windows: [1h]}
---
kind: FeatureSet
name: takings
entities: [shop]
source: orders
aggregations:
  - {column: units, functions: [sum], windows: [1h]}
---
kind: FeatureVector
name: next
features:
  - visits.*
  - {set: takings, features: [units_sum_1h], keys: {shop: visits.shop_last_1h}, as: there_*}
"""
    rows = ", ".join(
        f"{{customer: {who}, shop: {shop}, at: '2026-03-01T10:{minute}:00Z', units: {minute}}}"
        for who, shop, minute in [("c1", "s2", 10), ("c1", "s1", 20), ("c2", "s1", 30), ("c1", "s1", 40)]
    )
    expect = "{shop_last_1h: s1, shop_histogram_1h: {s1: 2, s2: 1}, there_units_sum_1h: 90}"
    more = ", at: '2026-03-01T10:50:00Z', request: {customer: c1}"
    folder = project(tmp_path, case("m", "vector: next", expect, rows=f"[{rows}]", more=more), specs=specs)
    with FeatureStore(folder) as store:
        report = store.test()
    assert report.passed, report.failed


def test_a_row_that_is_refused_is_said_where_the_case_fails(tmp_path: Path, capsys: Out) -> None:
    rows = "[{customer: c1, at: '2026-03-01T10:45:00Z', amount: 3.0}]"  # without its id
    assert (
        main(
            [
                "test",
                "-C",
                str(project(tmp_path, case("r", "set: spending", "{amount: 3}", rows=rows, more=AT))),
            ]
        )
        == 1
    )
    assert "refused row: null_event_id: event_id: id is null" in capsys.readouterr().out


def test_each_half_of_a_source_with_a_cutover_takes_its_own_rows(tmp_path: Path) -> None:
    specs, _, _ = SPECS.rpartition("---\n")  # the vector with a base needs the id
    specs = specs.replace("event_id: id\n", "cutover: 2026-03-01T10:15:00Z\n")
    specs = specs.replace("  - drop: [id]\n", "  - drop: [tags]\n")
    folder = project(tmp_path, case("c", "set: spending", "{amount_sum_1h: 20.2}", more=AT), specs=specs)
    with FeatureStore(folder) as store:
        report = store.test()
    assert report.passed, report.failed
    assert len(report.cases[0].engines) == 2 * len(WAYS)


def test_a_vector_that_awaits_its_fit_is_refused_until_it_is_fitted(tmp_path: Path, capsys: Out) -> None:
    import polars as pl

    specs = SPECS.replace("impute: {amount: -1.0}", "impute: {amount: $mean}")
    folder = project(
        tmp_path,
        case("f", "vector: value", "{amount: 4.0}", rows="[]", more=AT + ", request: {customer: c9}"),
        specs=specs,
    )
    assert main(["validate", "-C", str(folder)]) == 0
    assert main(["test", "-C", str(folder)]) == 2
    assert "featurestore fit value" in capsys.readouterr().err
    with FeatureStore(folder) as store:
        store.apply()
        orders = {
            "id": ["a", "b"],
            "customer": ["x", "y"],
            "amount": [3.0, 5.0],
            "units": [1, 1],
            "tags": [["t"], ["t"]],
        }
        frame = pl.DataFrame(orders).with_columns(
            pl.lit("2026-01-01T00:00:00Z").str.to_datetime(time_unit="us", time_zone="UTC").alias("at")
        )
        store.ingest("orders", frame)
        asked = frame.select("customer", pl.col("at").alias("event_timestamp"), pl.lit(1.0).alias("factor"))
        store.fit("value", rows=asked)
        assert store.test().passed


def test_cases_in_python_have_their_line(tmp_path: Path) -> None:
    folder = write_project(tmp_path, SPECS, CONFIG)
    (folder / "cases.py").write_text(
        "from datetime import UTC, datetime\n"
        "from featurestore import Test\n"
        "ROWS = [{'id': 'A', 'customer': 'c1', 'at': datetime(2026, 3, 1, tzinfo=UTC), 'amount': 2.0}]\n"
        "CASES = [\n"
        "    Test(name=f'{hour} h later', set='spending', rows={'orders': ROWS},\n"
        "         at=datetime(2026, 3, 1, hour, tzinfo=UTC), expect={'amount_sum_1h': 0.0})\n"
        "    for hour in (0, 1)\n"
        "]\n"
    )
    with FeatureStore(folder) as store:
        now, later = store.test()
    assert [now.name, later.name] == ["0 h later", "1 h later"]
    assert (now.passed, later.passed) == (False, True)
    assert now.where.endswith("cases.py:5")
    assert now.mismatches[0].got == 2.0


def test_a_case_is_a_value(tmp_path: Path) -> None:
    made = Test(name="x", set="spending", expect={"amount": 1})
    assert (made.rows, made.at, made.request, made.as_known, made.tolerance) == ({}, None, None, False, 1e-9)


def test_nothing_of_the_projects_own_stores_is_touched(tmp_path: Path) -> None:
    folder = project(tmp_path, case("x", "set: spending", "{amount: 20}", more=AT))
    before = sorted(folder.rglob("*"))
    with FeatureStore(folder) as store:
        assert store.test().passed
    assert sorted(folder.rglob("*")) == before


@pytest.mark.redis
def test_redis_is_the_projects_own_under_another_prefix_which_is_empty_again(
    tmp_path: Path, redis_url: str
) -> None:
    folder = project(tmp_path, case("x", "set: spending", "{amount: 20}", more=AT))
    (folder / "featurestore.yaml").write_text(
        f"project: shop\nonline: {{kind: redis, url: '{redis_url}', prefix: mine}}\n"
    )
    with FeatureStore(folder) as store:
        assert store.test(redis=True).passed
        online = store.environment.online
        assert isinstance(online, RedisOnlineStore)
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert not [key for key in client.scan_iter("*") if b"mine" in key]


@pytest.mark.redis
def test_without_a_redis_of_the_project_one_is_started(tmp_path: Path, redis_url: str, capsys: Out) -> None:
    folder = project(tmp_path, case("x", "set: spending", "{amount: 20}", more=AT))
    assert main(["test", "--redis", "-C", str(folder)]) == 0
    assert "1 cases, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fraud", "retail"])
def test_the_examples_cases_pass(name: str) -> None:
    with FeatureStore(ROOT / "specs" / name) as store:
        report = store.test()
    assert len(report.cases) >= 3
    assert report.passed, report.failed


def test_what_is_the_same() -> None:
    assert same(1.0, 1.0 + 1e-10, 1e-9)
    assert not same(1.0, 1.0 + 1e-10, 0)
    assert not same(0.0, 1e-300, 1e-9)
    assert same(0.0, -0.0, 0)
    assert same(math.nan, math.nan, 0)
    assert not same(math.nan, 1.0, 1e-9)
    assert not same(math.inf, -math.inf, 1e-9)
    assert same([1.0, None], [1.0, None], 0)
    assert not same([1.0], [1.0, 2.0], 0)
    assert not same(None, 0, 1e-9)
    assert same(3, 3.0, 0)
