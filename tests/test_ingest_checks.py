"""Checks and expectations of a batch: what is reported, what refuses an input, whole."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

import polars as pl
import pytest
from payments_project import SPECS, START, make_project, payment, payments

from featurestore import FeatureStore, tables
from featurestore.cli.entry import main
from featurestore.errors import ChecksFailed, SpecError
from featurestore.specs.problems import SpecErrors

STEPS = 'steps:\n  - derive: {large: "amount > 50"}\n'


def specs(steps: str = "", expectations: str = "") -> str:
    """Return the project's specs with more steps, and expectations, as YAML flow lists."""
    text = SPECS.replace(STEPS, STEPS + "".join(f"  - {step}\n" for step in steps.split("\n") if step))
    wanted = "".join(f"  - {item}\n" for item in expectations.split("\n") if item)
    return text.replace("aggregations:\n", f"expectations:\n{wanted}aggregations:\n") if wanted else text


def opened(folder: Path, text: str, **files: pl.DataFrame) -> FeatureStore:
    make_project(folder, text)
    for name, frame in files.items():
        frame.write_parquet(folder / "data" / f"{name}.parquet")
    store = FeatureStore(folder)
    store.apply()
    return store


def height(store: FeatureStore, name: str | None = None) -> int:
    """Return the rows of the set's table, or of another table; 0 where there is none."""
    plan = store.catalog.feature_set("spend")
    table = store.environment.offline.table(name) if name else store.environment.rows_table(plan)
    snapshot = table.snapshot()
    return 0 if snapshot is None else table.rows(snapshot)


def frame(*amounts: float | None, **columns: Any) -> pl.DataFrame:
    rows = [payment(i, i, float(i), amount=a) for i, a in enumerate(amounts)]
    return pl.DataFrame(rows, schema_overrides={"amount": pl.Float64, "customer": pl.Int64}).with_columns(
        **columns
    )


CHECKS = """validate: {column: amount, min: 0, severity: warn}
validate: {column: amount, max: 100}
validate: {column: shop, allowed: [a, b, c], severity: fail}"""


def test_checks_are_counted_in_the_report_and_in_the_registry(tmp_path):
    with opened(tmp_path, specs(CHECKS), a=frame(-1.0, 5.0, 101.0, None)) as store:
        [report] = store.ingest("spend")
        assert report.checks == {
            "amount.min": {"severity": "warn", "failed": 1},
            "amount.max": {"severity": "reject", "failed": 1},
            "shop.allowed": {"severity": "fail", "failed": 0},
        }
        assert (report.rows_written, report.counts) == (3, {"validate": 1})
        letters = store.environment.offline.table(tables.DEAD_LETTERS)
        [letter] = letters.lazy(letters.snapshot()).collect().to_dicts()  # type: ignore[arg-type]
        assert (letter["code"], letter["message"]) == ("validate", "amount.max: 'amount' is not 100 or less")
        assert (letter["feature_set"], letter["sequence"]) == ("spend", 2)
        store.ingest("spend", frame(-2.0, -3.0))
        assert store.show("spend")["checks"]["amount.min"] == {"severity": "warn", "rows": 6, "failed": 3}
        [last, first] = store.environment.registry.ingests("shop", "spend")
        assert first.report["checks"] == report.checks
        assert last.report["checks"]["amount.min"]["failed"] == 2
        store.ingest("spend")
        assert store.show("spend")["checks"]["amount.min"]["rows"] == 6  # the same input counts once


def test_an_input_that_fails_leaves_nothing_and_is_taken_once_it_is_repaired(tmp_path):
    bad = frame(1.0, 500.0, 2.0, shop=pl.Series(["a", "a", "?"]))
    with opened(tmp_path, specs(CHECKS), a=frame(1.0), b=bad) as store:
        with pytest.raises(ChecksFailed) as caught:
            store.ingest("spend")
        assert str(caught.value).startswith("feature set 'spend': '")
        assert (
            "b.parquet' is not ingested. shop.allowed: 1 of 3 rows are wrong"
            " (first in row 3: 'shop' is none of the allowed values)." in str(caught.value)
        )
        assert caught.value.report.checks["shop.allowed"]["failed"] == 1
        assert (height(store), height(store, tables.DEAD_LETTERS)) == (1, 0)
        assert (
            store.vector("risk").get_online([{"customer": 0}], as_of=START).to_dicts()[0]["amount_count_1h"]
            == 1
        )  # what came before it is online
        [recorded] = store.environment.registry.ingests("shop", "spend")
        assert (recorded.report["rows_written"], recorded.report["checks"]["shop.allowed"]["failed"]) == (
            1,
            1,
        )
        frame(1.0, 500.0, 2.0).write_parquet(tmp_path / "data" / "b.parquet")
        [report] = store.ingest("spend")
        assert (report.rows_written, report.counts) == (2, {"validate": 1})
        assert height(store) == 3


def test_what_fails_in_a_later_commit_of_an_input_takes_back_nothing_for_nothing_was_committed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("featurestore_engines.batch.ingest.COMMIT_ROWS", 40)
    monkeypatch.setattr("featurestore_engines.batch.ingest.READ_ROWS", 16)
    rows = payments(300).with_columns(
        shop=pl.when(pl.col("id") == "p299").then(pl.lit("?")).otherwise("shop")
    )
    with opened(tmp_path, specs(CHECKS), a=rows) as store:
        with pytest.raises(ChecksFailed, match="first in row 300"):
            store.ingest("spend")
        assert height(store) == 0
        payments(300).write_parquet(tmp_path / "data" / "a.parquet")
        [report] = store.ingest("spend")
        assert (report.rows_written, height(store)) == (300, 300)


def test_a_row_of_several_items_fails_for_any_of_them_whatever_the_first_is_refused_for(tmp_path):
    steps = """explode: {column: items, into: item}
validate: {column: item, not_null: true}
validate: {column: item, max: 9, severity: fail}"""
    text = specs(steps).replace("schema: {", "schema: {items: 'list<int64>', ")
    rows = frame(1.0, 2.0).with_columns(items=pl.Series([[None, 10, 1], [1, 2]]))
    with opened(tmp_path, text) as store:
        with pytest.raises(ChecksFailed, match=r"item.max: 1 of 2 rows are wrong\. Repair"):
            store.ingest("spend", rows)
        [report] = store.ingest("spend", rows[1:])
        assert (report.rows_written, report.checks["item.max"]["failed"]) == (2, 0)


EXPECTED = """rows: {min: 2, max: 4}
{column: amount, null_share: {max: 0.25}}
{column: amount, mean: {min: 10, max: 20}, severity: warn}
{unique: [customer, at], name: one_a_minute}"""


def test_expectations_say_what_they_found_and_warnings_let_the_input_in(tmp_path):
    with opened(tmp_path, specs("", EXPECTED.replace("rows:", "{rows:", 1).replace("4}", "4}}", 1))) as store:
        [report] = store.ingest("spend", frame(1.0, 2.0, 6.0, None))
        found = {item["name"]: item for item in report.expectations}
        assert {name: (item["value"], item["is_met"]) for name, item in found.items()} == {
            "rows": (4, True),
            "null_share(amount)": (0.25, True),
            "mean(amount)": (3.0, False),
            "one_a_minute": (0, True),
        }
        assert found["mean(amount)"]["text"] == "3, expected at least 10 and at most 20"
        assert height(store) == 4
        shown = store.show("spend")["expectations"]
        assert (shown["mean(amount)"]["is_met"], shown["rows"]["is_met"]) == (False, True)


@pytest.mark.parametrize(
    ("expectation", "rows", "message"),
    [
        ("{rows: {min: 3}}", frame(1.0, 2.0), "rows: 2, expected at least 3."),
        ("{rows: {max: 1}}", frame(1.0, 2.0), "rows: 2, expected at most 1."),
        ("{column: amount, null_share: {max: 0.3}}", frame(1.0, None), "0.5, expected at most 0.3."),
        ("{column: amount, mean: {max: 2}}", frame(1.0, None, 4.0), "mean(amount): 2.5, expected at most 2."),
        ("{column: amount, mean: {min: 0}}", frame(1.0, float("nan")), "nan, expected at least 0."),
        ("{column: amount, mean: {max: 9}}", frame(1.0, float("inf")), "inf, expected at most 9."),
        ("{column: large, mean: {min: 0.6}}", frame(1.0, 99.0), "mean(large): 0.5, expected"),
        (
            "{unique: [shop, amount]}",
            frame(1.0, 1.0, None, None, 1.0),
            "unique(shop, amount): 2 rows repeat the shop, amount of another.",
        ),
    ],
)
def test_an_expectation_that_is_not_met_refuses_the_input(tmp_path, expectation, rows, message):
    with opened(tmp_path, specs("", expectation)) as store:
        with pytest.raises(ChecksFailed) as caught:
            store.ingest("spend", rows)
        assert message in str(caught.value)
        assert height(store) == 0
        [recorded] = store.environment.registry.ingests("shop", "spend")
        assert [item["is_met"] for item in recorded.report["expectations"]] == [False]


def test_expectations_see_the_rows_after_the_steps_all_of_them_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore_engines.batch.ingest.READ_ROWS", 7)
    steps = 'filter: "amount > 0"\nvalidate: {column: amount, max: 50}'
    wanted = "{rows: {min: 51, max: 51}}\n{column: amount, mean: {min: 25.5, max: 25.5}}\n{unique: [id]}"
    rows = pl.DataFrame([payment(i, 1, float(i), amount=float(i % 60)) for i in range(1, 62)])
    rows = rows.with_columns(id=pl.when(pl.col("id") == "p61").then(pl.lit("q")).otherwise("id"))
    with opened(tmp_path, specs(steps, wanted)) as store:
        # amounts 1 to 59, then 0 (left out) and 1: 50 of 1..50 and one more 1 are kept
        with pytest.raises(ChecksFailed, match=r"mean\(amount\): 25.0196078431, expected at least 25.5"):
            store.ingest("spend", rows)
        [report] = store.ingest("spend", rows.with_columns(amount=pl.col("amount").replace(1.0, 13.25)))
        assert [item["is_met"] for item in report.expectations] == [True, True, True]


def test_a_deletion_is_held_to_no_check_and_no_expectation(tmp_path):
    steps = "validate: {column: amount, not_null: true, severity: fail}"
    wanted = "{column: amount, null_share: {max: 0}}\n{rows: {max: 1}}"
    text = specs(steps, wanted).replace("event_id: id\n", "event_id: id\ndeleted: \"shop = 'x'\"\n")
    with opened(tmp_path, text) as store:
        [report] = store.ingest("spend", frame(1.0, None, shop=pl.Series(["a", "x"])))
        assert (report.rows_written, report.checks["amount.not_null"]["failed"]) == (2, 0)
        assert all(item["is_met"] for item in report.expectations)


def test_an_expectation_changes_no_table_and_takes_effect_at_once(tmp_path):
    with opened(tmp_path, specs(), a=frame(1.0)) as store:
        store.ingest("spend")
        before = store.catalog.feature_set("spend")
        (tmp_path / "specs.yaml").write_text(specs("", "{rows: {min: 5}}"))
        store.apply()
        after = store.catalog.feature_set("spend")
        assert (after.rows_fingerprint, after.state_fingerprint) == (
            before.rows_fingerprint,
            before.state_fingerprint,
        )
        with pytest.raises(ChecksFailed):
            store.ingest("spend", frame(2.0))


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        ("{column: amont, mean: {min: 0}}", "there is no column 'amont'. Did you mean 'amount'?"),
        ("{column: shop, mean: {min: 0}}", "a mean needs a number, and 'shop' is string."),
        ("{unique: [id, nam]}", "there is no column 'nam'."),
        ("{column: amount}", "say one of rows:, null_share:, mean:, unique:."),
        ("{rows: {min: 1}, unique: [id]}", "unique:, not rows and unique."),
        ("{mean: {min: 0}}", "mean: needs column:."),
        ("{column: amount, rows: {min: 0}}", "rows: takes no column:."),
        ("{rows: {min: 2, max: 1}}", "min: 2 is above max: 1."),
        ("{rows: {}}", "say min:, max: or both."),
        ("{rows: {min: 1}, severity: reject}", "'reject' is not allowed."),
        ("{rows: {min: 1}}\n{rows: {max: 2}}", "there is an expectation 'rows' already."),
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused_with_its_line(tmp_path, expectation, message):
    make_project(tmp_path, specs("", expectation))
    with FeatureStore(tmp_path) as store, pytest.raises((SpecErrors, SpecError)) as caught:
        store.plan()
    assert message in str(caught.value)
    line = (tmp_path / "specs.yaml").read_text().splitlines().index("expectations:") + 1
    places = [int(str(error).split("specs.yaml:")[1].split(":")[0]) for error in caught.value.errors]
    assert all(place in (line, line + 1, line + 2) for place in places)


def test_a_stream_goes_on_past_what_fails_and_counts_it(tmp_path):
    with opened(tmp_path, specs(CHECKS)) as store:
        rows = [payment(1), payment(2, amount=-1.0), payment(3, shop="?"), payment(4, amount=500.0)]
        assert len(store.push("payments", rows).accepted) == 4
        counts = store.drain()["payments"]
        assert {name: n for name, n in counts.items() if name.startswith(("check", "rejected"))} == {
            "rejected": 2,
            "rejected_validate": 2,
            "check_spend.amount.min": 1,
            "check_spend.amount.max": 1,
            "check_spend.shop.allowed": 1,
        }
        assert height(store) == 2
        version = store.catalog.feature_set("spend").rows_fingerprint
        assert store.show("spend")["checks"]["amount.min"] == {"severity": "warn", "rows": 4, "failed": 1}
        gauge = f'feature_set="spend",version="{version}",check="shop.allowed",severity="fail"'
        assert store.metrics()[f"featurestore_check_failed_rows{{{gauge}}}"] == 1.0
        store.push("payments", [payment(5, amount=-1.0)])
        store.drain()
        assert store.show("spend")["checks"]["amount.min"] == {"severity": "warn", "rows": 5, "failed": 2}


@pytest.mark.parametrize("engine", ["local", "bytewax"])
def test_a_running_stream_tells_the_registry_what_checks_found(tmp_path, engine):
    if engine == "bytewax":
        pytest.importorskip("bytewax")
    stop = Event()

    def report(counts: dict[str, dict[str, int]]) -> None:
        if counts["payments"].get("records") == 4:
            stop.set()

    with opened(tmp_path, specs(CHECKS)) as store:
        store.push("payments", [payment(1), payment(2, amount=-1.0), payment(3, shop="?"), payment(4)])
        counts = store.stream(["payments"], engine=engine, stop=stop, report=report)
        assert counts["payments"]["check_spend.shop.allowed"] == 1
        [status] = store.status()
        assert status["checks"]["amount.min"] == {"severity": "warn", "rows": 4, "failed": 1}
        assert status["checks"]["shop.allowed"]["failed"] == 1


def test_a_base_row_that_is_refused_is_invalid_and_the_others_are_answered(tmp_path):
    text = specs(CHECKS).replace("features: [spend.*]", "base: spend\nfeatures: [spend.amount]")
    with opened(tmp_path, text) as store:
        rows = [payment(1), payment(2, shop="?"), payment(3, amount=500.0), payment(4, amount=-1.0)]
        found = store.vector("risk").get_online(rows)
        assert [status[0] for status in found.status] == ["PRESENT", "INVALID", "INVALID", "PRESENT"]


def test_preview_tells_what_checks_find(tmp_path):
    with opened(tmp_path, specs(CHECKS)) as store:
        found = store.preview("spend", frame(-1.0, 500.0, shop=pl.Series(["?", "a"])))
        assert found.checks == {"amount.min": 1, "amount.max": 1, "shop.allowed": 1}
        assert found.rejected["message"].to_list() == [
            "shop.allowed: 'shop' is none of the allowed values",
            "amount.max: 'amount' is not 100 or less",
        ]


def test_the_command_prints_counts_and_ends_with_1_where_an_input_fails(tmp_path, capsys):
    wanted = "{column: amount, mean: {min: 10}, severity: warn}"
    with opened(tmp_path, specs(CHECKS, wanted), a=frame(-1.0, 500.0)):
        pass
    assert main(["ingest", "-C", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    assert "spend: 1 × check amount.min (warn)" in told
    assert "expectation mean(amount) (warn) of " in told
    assert "a.parquet: -1, expected at least 10" in told
    frame(1.0, shop=pl.Series(["?"])).write_parquet(tmp_path / "data" / "b.parquet")
    assert main(["ingest", "--json", "-C", str(tmp_path)]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["where"]) == ("failed_checks", "feature set 'spend'")
    assert main(["show", "spend", "-C", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "amount.max    reject       2      1" in shown
    assert "mean(amount)  warn      met   no values, expected at least 10" in shown
