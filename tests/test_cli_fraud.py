"""The verbs on the fraud example: 2,000 payments, the laptop's stores."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.cli import main

FRAUD = Path(__file__).parents[1] / "specs" / "fraud"
SETS = ["events", "labels", "merchant_activity", "transactions"]
LAPTOP = ("--profile", "laptop")


@dataclass
class Project:
    """Runs verbs in a project's folder."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def text(self, *arguments: str, status: int = 0) -> str:
        """Return what a verb prints, once its status is the expected one."""
        self.capture.readouterr()
        assert main(["-C", str(self.folder), *LAPTOP, *arguments]) == status
        return self.capture.readouterr().out

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Return a verb's JSON."""
        return json.loads(self.text(*arguments, "--json", status=status))

    def error(self, *arguments: str, status: int = 1) -> str:
        """Return what a verb that fails prints to stderr; it prints nothing else."""
        self.capture.readouterr()
        assert main(["-C", str(self.folder), *LAPTOP, *arguments]) == status
        out, err = self.capture.readouterr()
        assert out == ""
        return err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, applied, with its history ingested."""
    folder = tmp_path_factory.mktemp("fraud") / "fraud"
    shutil.copytree(FRAUD, folder, ignore=shutil.ignore_patterns("data", ".featurestore"))
    sizes = ["--transactions", "2000", "--events", "400", "--days", "30", "--bad", "7"]
    subprocess.run(
        [sys.executable, str(folder / "generate.py"), *sizes], check=True, stdout=subprocess.DEVNULL
    )
    for verb in ("apply", "ingest"):
        assert main(["-C", str(folder), *LAPTOP, "-q", verb]) == 0
    return folder


@pytest.fixture
def fraud(folder: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    return Project(folder, capsys)


def payments(folder: Path) -> pl.DataFrame:
    """The payments in history, as they lie in the files."""
    return pl.read_parquet(folder / "data" / "transactions" / "*.parquet")


def new_payments(folder: Path, number: int) -> pl.DataFrame:
    """Payments of known customers ten minutes ago, which have not arrived: within the history of 1 h."""
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
    return (
        payments(folder)
        .sample(number, seed=3)
        .with_columns(
            pl.format("NEW{}", pl.int_range(pl.len())).alias("transaction_id"),
            pl.lit(at).dt.cast_time_unit("us").alias("timestamp"),
            pl.lit(at).dt.cast_time_unit("us").alias("received_at"),
        )
    )


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its instants as ISO 8601."""
    return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()}


# Declaring


def test_plan_of_what_is_applied_is_empty(fraud: Project) -> None:
    changes = fraud.json("plan", "--exit-code")["changes"]
    assert {item["action"] for item in changes} == {"unchanged"}
    assert fraud.text("plan") == "Nothing to apply.\n"


def test_plan_exit_code_tells_that_there_are_changes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "fraud"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("data", ".featurestore"))
    fresh = Project(copy, capsys)
    assert "+ FeatureVector transactions-fraud@" in fresh.text("plan")
    assert "+ FeatureVector transactions-fraud@" in fresh.text("plan", "--exit-code", status=1)


def test_tag_moves_and_resolves(fraud: Project) -> None:
    fingerprint = fraud.json("tag", "transactions-fraud", "prod")["fingerprint"]
    assert fraud.json("show", "transactions-fraud@prod")["fingerprint"] == fingerprint
    assert f"version {fingerprint}  latest, prod" in fraud.text("show", "transactions-fraud")
    assert "Did you mean 'transactions-fraud'?" in fraud.error(
        "tag", "transactions", "prod", "--kind", "FeatureVector"
    )


def test_fit_stores_what_apply_then_pins(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean amount of the payments before an instant, as of their own instants."""
    copy = tmp_path / "fraud"
    shutil.copytree(folder, copy)
    vectors = copy / "vectors.yaml"
    vectors.write_text(vectors.read_text().replace('impute: {"*": 0}', "impute: {amount: $mean}"))
    changed = Project(copy, capsys)
    planned = changed.text("plan")
    assert "featurestore fit transactions-fraud" in planned
    assert planned.endswith("Nothing to apply until transactions-fraud is fitted.\n")
    rows = payments(copy)
    until = rows["timestamp"].sort()[1000]
    fitted = changed.json("fit", "transactions-fraud", "--until", until.isoformat())
    before = rows.filter(pl.col("timestamp") < until).unique("transaction_id")
    assert fitted["amount"]["mean"] == pytest.approx(before["amount"].mean(), rel=0.01)
    changed.text("apply")
    assert fraud_version(changed) != fraud_version(Project(folder, capsys))


def fraud_version(project: Project) -> str:
    found: str = project.json("show", "transactions-fraud")["fingerprint"]
    return found


# Looking


def test_list_and_show_tell_what_is_declared(fraud: Project) -> None:
    assert [item["name"] for item in fraud.json("list", "sets")["FeatureSet"]] == SETS
    assert [item["name"] for item in fraud.json("list")["Entity"]] == ["customer", "merchant"]
    shown = fraud.text("show", "merchant_activity")
    assert shown.startswith("FeatureSet merchant_activity@")
    for line in (
        "source payments",
        "|-- columns",
        "|   |-- amount  float64",
        "`-- aggregates",
        "    |-- count_1h             count(rows) over 1h",
        "    `-- fraud_share_avg_30d  avg(fraud) over 30d",
    ):
        assert line in shown.splitlines()
    statistics = next(line for line in shown.splitlines() if line.startswith("amount "))
    assert f"{payments(fraud.folder).height:,}" in statistics
    vector = fraud.json("show", "transactions-fraud")
    assert (vector["base"], vector["label"]) == ("transactions", "label")
    assert "schema" in fraud.text("show", "payments")
    assert "Did you mean 'events'?" in fraud.error("show", "event")


def test_status_fits_80_columns_and_counts_the_rows(fraud: Project) -> None:
    history = payments(fraud.folder).height
    table = fraud.text("status")
    assert [line.split()[0] for line in table.splitlines()[1:]] == SETS
    assert all(len(line) <= 80 for line in table.splitlines())
    records = {record["feature_set"]: record for record in fraud.json("status")["feature_sets"]}
    assert records["labels"]["rows"] == history
    assert records["labels"]["generation"] is None
    assert records["transactions"]["entities"] == payments(fraud.folder)["source"].n_unique()


# Filling


def test_ingest_of_one_file_is_what_is_new_of_it(fraud: Project, tmp_path: Path) -> None:
    """Two rows of history under new ids, and one that no door admits."""
    rows = payments(fraud.folder).head(3)
    ids = pl.Series("transaction_id", ["N1", "N2", None])
    rows.with_columns(ids).write_parquet(tmp_path / "new.parquet")
    new = ("ingest", "payments", "--from", str(tmp_path / "new.parquet"))
    for report in fraud.json(*new)["ingested"]:
        assert (report["rows_read"], report["rows_written"]) == (3, 2)
        assert report["counts"] == {"null_event_id": 1}
    assert {report["rows_written"] for report in fraud.json(*new)["ingested"]} == {0}
    assert "There is no file" in fraud.error("ingest", "payments", "--from", str(tmp_path / "none.csv"))
    assert "There is no applied feature set or source" in fraud.error("ingest", "paiments")


def test_materialize_and_compact_leave_the_values_as_they_were(fraud: Project) -> None:
    row = json.dumps(as_text(new_payments(fraud.folder, 1).row(0, named=True)))
    before = fraud.json("get-online", "transactions-fraud", "--row", row)
    rows = {item["name"]: item["rows"] for item in fraud.json("materialize", "all")["materialized"]}
    assert sorted(rows) == ["events", "merchant_activity", "transactions"]
    compacted = fraud.json("compact", "transactions")["compacted"]
    assert [name.partition("-")[0] for name in compacted] == ["transactions"]
    after = fraud.json("get-online", "transactions-fraud", "--row", row)
    assert after["rows"] == before["rows"]
    assert "has no offline table yet" in fraud.error("compact", "transaction")


def test_preview_shows_features_and_what_is_refused(fraud: Project, tmp_path: Path) -> None:
    good = (fraud.folder / "data" / "stream" / "transactions.ndjson").read_text().splitlines()
    valid = next(line for line in good if line.startswith('{"transaction_id":"T'))
    (tmp_path / "rows.ndjson").write_text(f"{valid}\n{valid[:-20]}\n")
    found = fraud.json("preview", "transactions", "--from", str(tmp_path / "rows.ndjson"))
    assert len(found["rows"]) == 1
    assert found["rows"][0]["amount"] == json.loads(valid)["amount"]
    assert [item["code"] for item in found["rejected"]] == ["malformed"]
    limited = fraud.json("preview", "transactions", "--from", str(tmp_path / "rows.ndjson"), "--rows", "1")
    assert limited["rejected"] == []
    csv = tmp_path / "rows.csv"
    payments(fraud.folder).head(2).write_csv(csv, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    assert len(fraud.json("preview", "merchant_activity", "--from", str(csv))["rows"]) == 2


# Reading


def test_get_offline_writes_the_base_rows_in_every_form(fraud: Project, tmp_path: Path) -> None:
    for name in ("t.parquet", "t.csv"):
        fraud.text("get-offline", "transactions-fraud", "--out", str(tmp_path / name))
    parquet = pl.read_parquet(tmp_path / "t.parquet")
    csv = pl.read_csv(tmp_path / "t.csv", try_parse_dates=True)
    assert csv.columns == parquet.columns
    assert csv["amount"].to_list() == parquet["amount"].to_list()
    assert csv["event_timestamp"].to_list() == parquet["event_timestamp"].to_list()
    assert fraud.text("get-offline", "transactions-fraud", "--out", "-") == (tmp_path / "t.csv").read_text()
    listed = fraud.json("get-offline", "transactions-fraud")
    assert (listed["columns"], len(listed["rows"])) == (parquet.columns, parquet.height)
    start = parquet["event_timestamp"].sort()[parquet.height // 2]
    later = fraud.json("get-offline", "transactions-fraud", "--start", start.isoformat())
    assert len(later["rows"]) == parquet.filter(pl.col("event_timestamp") >= start).height


def test_get_offline_and_get_online_agree_on_rows_of_a_file(fraud: Project, tmp_path: Path) -> None:
    """Raw payments as CSV text offline, as JSON online: the vectors are the same."""
    rows = new_payments(fraud.folder, 5)
    csv = tmp_path / "rows.csv"
    rows.write_csv(csv, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    offline = fraud.json("get-offline", "transactions-fraud", "--rows", str(csv))
    requests = [part for row in rows.to_dicts() for part in ("--row", json.dumps(as_text(row)))]
    online = fraud.json("get-online", "transactions-fraud", *requests)
    for expected, got in zip(offline["rows"], online["rows"], strict=True):
        vector = dict(zip(offline["columns"], expected, strict=True))
        assert [vector[name] for name in online["columns"]] == got
    assert online["as_of"] == rows["timestamp"][0].strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_get_online_takes_pairs_and_fails_a_bad_row_alone(fraud: Project) -> None:
    row = new_payments(fraud.folder, 1).row(0, named=True)
    pairs = [f"{name}={value}" for name, value in as_text(row).items()]
    answer = fraud.json("get-online", "transactions-fraud", *pairs)
    assert dict(zip(answer["columns"], answer["rows"][0], strict=True))["amount"] == row["amount"]
    mixed = fraud.json("get-online", "transactions-fraud", *pairs, "--row", '{"customer": 1}', status=1)
    assert [error is None for error in mixed["errors"]] == [False, True]
    assert "is not JSON" in fraud.error("get-online", "transactions-fraud", "--row", "{")
    assert "is no pair" in fraud.error("get-online", "transactions-fraud", "C1")
    assert "There is no row to look up." in fraud.error("get-online", "transactions-fraud")


def test_verify_finds_no_difference(fraud: Project) -> None:
    out = fraud.text("verify", "--sample", "100", "--seed", "5")
    assert "largest deviation of a float: " in out
    last = out.splitlines()[-1]
    assert last.startswith("parity: ")
    assert last.endswith(" values compared, 0 differ")
    assert fraud.json("verify", "transactions", "--sample", "20")["differ"] == 0


# On a terminal


def test_tables_and_bars_are_drawn_on_a_terminal_of_80_columns(fraud: Project) -> None:
    def drawn(*arguments: str) -> str:
        parent, child = pty.openpty()
        environ = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
        command = [sys.executable, "-m", "featurestore.cli", "-C", str(fraud.folder), *LAPTOP, *arguments]
        with subprocess.Popen(command, stdout=child, stderr=child, env=environ) as process:
            os.close(child)
            text = b""
            while True:
                try:
                    part = os.read(parent, 65536)
                except OSError:  # how Linux tells that the other end is closed
                    break
                if not part:
                    break
                text += part
            os.close(parent)
            assert process.wait() == 0
        return text.decode()

    assert "\x1b[1m" in drawn("status")
    assert "ingest transactions" in drawn("ingest", "transactions")  # the bar's label
    assert "\x1b" not in drawn("validate", "--json")
