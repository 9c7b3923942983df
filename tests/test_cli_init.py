"""`featurestore init`: a project that runs at once, with the commands that it names."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from featurestore.cli import main

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was made, applied and filled."""
    folder = tmp_path_factory.mktemp("init") / "demo"
    assert main(["init", str(folder), "--quiet"]) == 0
    for arguments in (["apply"], ["ingest", "orders"]):
        assert main([*arguments, "-C", str(folder), "--quiet"]) == 0
    return folder


def test_the_commands_that_init_prints_run_as_they_are(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environ.pop("FEATURESTORE_PROFILE", None)

    def shell(command: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = shell("featurestore init demo")
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert [command.split()[1] for command in commands] == [
        "demo",
        "test",
        "apply",
        "ingest",
        "get-online",
        "get-offline",
        "push",
        "verify",
    ]
    said = shell("\n".join(commands))
    assert "3 cases, 0 failed" in said
    assert "last_product" in said
    assert "5 accepted, servable, 0 refused" in said
    assert said.splitlines()[-1].startswith("parity: ")
    assert said.splitlines()[-1].endswith(" values compared, 0 differ")
    training = pl.read_parquet(tmp_path / "demo" / "training.parquet")
    asked = pl.read_csv(tmp_path / "demo" / "data" / "customers.csv")
    assert training["customer"].to_list() == asked["customer"].to_list()


def test_a_new_project_is_valid_and_its_files_name_the_schema(demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "validate"]) == 0
    assert (
        capsys.readouterr().out
        == "demo: entities 1, sources 1, feature sets 1, feature vectors 1; no mistakes\n"
    )
    for path in demo.glob("*.yaml"):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=schema/")
        assert (demo / first.partition("$schema=")[2]).is_file()


def test_init_overwrites_nothing(demo: Path, capsys: Out) -> None:
    before = (demo / "entities.yaml").read_text()
    assert main(["init", str(demo)]) == 1
    assert "Name another folder." in capsys.readouterr().err
    assert (demo / "entities.yaml").read_text() == before


def test_init_without_the_example_is_settings_alone(tmp_path: Path, capsys: Out) -> None:
    assert main(["init", "my-shop", "--no-example", "-C", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["files"] == [".gitignore", "featurestore.yaml", "schema/project.json", "schema/spec.json"]
    assert "project: my_shop\n" in (tmp_path / "my-shop" / "featurestore.yaml").read_text()
    assert main(["-C", str(tmp_path / "my-shop"), "validate", "-q"]) == 0


def test_a_folder_that_cannot_name_a_project_is_refused(tmp_path: Path, capsys: Out) -> None:
    assert main(["init", str(tmp_path / "1st shop")]) == 1
    assert "cannot name a project" in capsys.readouterr().err
    assert not (tmp_path / "1st shop").exists()


def test_the_same_ingest_again_changes_nothing(demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "ingest", "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)["ingested"]
    assert report["feature_set"] == "spending"
    assert (report["known_inputs"], report["rows_written"]) == (1, 0)


def test_online_values_are_those_of_a_count_by_hand(demo: Path, capsys: Out) -> None:
    """The sum of C1's orders in the file, as of an instant between them, over 7 days."""
    orders = pl.read_csv(demo / "data" / "orders.csv", try_parse_dates=True).filter(
        pl.col("customer") == "C1"
    )
    at = orders["ordered_at"].sort()[-2]
    inside = orders.filter(pl.col("ordered_at") <= at, pl.col("ordered_at") > at - pl.duration(days=7))
    arguments = ["get-online", "customer-spending", "customer=C1", "--as-of", at.isoformat(), "--json"]
    assert main(["-C", str(demo), *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    values = dict(zip(answer["columns"], answer["rows"][0], strict=True))
    assert values["count_7d"] == inside.height
    assert values["amount_sum_7d"] == pytest.approx(inside["amount"].sum(), rel=1e-15)
    assert values["last_product"] == inside.sort("ordered_at")["product"][-1]
    assert answer["as_of"] == at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_verify_prints_what_differs_and_is_status_1(tmp_path: Path, capsys: Out) -> None:
    """Every entity is given the values of one of them, behind the store's back."""
    folder = tmp_path / "demo"
    for arguments in (["init", str(folder)], ["-C", str(folder), "apply"], ["-C", str(folder), "ingest"]):
        assert main([*arguments, "-q"]) == 0
    with sqlite3.connect(folder / ".featurestore" / "online.db") as database:
        database.execute(
            "UPDATE field SET value = (SELECT value FROM field WHERE name = CAST('s' AS BLOB) LIMIT 1) "
            "WHERE name = CAST('s' AS BLOB)"
        )
    database.close()
    assert main(["-C", str(folder), "verify", "spending", "--sample", "40"]) == 1
    out = capsys.readouterr().out
    assert "  offline " in out
    assert "  online  " in out
    assert "ordered_at" in out  # the rows behind a value
    assert "largest deviation of a float: " in out
    assert not out.splitlines()[-1].endswith(" 0 differ")
    assert main(["-C", str(folder), "verify", "spending", "--sample", "40", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["differ"] > 0
    assert found["differences"][0]["offline"] != found["differences"][0]["online"]


def test_a_verify_that_compares_nothing_is_no_success(tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / "demo"
    assert main(["init", str(folder), "-q"]) == 0
    assert main(["-C", str(folder), "apply", "-q"]) == 0
    assert main(["-C", str(folder), "verify"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "parity: 0 values compared, 0 differ"
    assert "no rows yet" in err
