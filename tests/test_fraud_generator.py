"""The fraud example's generator: as many payments as asked for, shaped as published, the same every time."""

from __future__ import annotations

import hashlib
import json
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

SCRIPT = Path(__file__).parent.parent / "specs/fraud/generate.py"
END = datetime(2026, 11, 21, tzinfo=UTC)
CUT = END - timedelta(days=1)


def generate(out: Path, *more: str, transactions: int = 60_000, events: int = 8_000) -> Path:
    """Return the folder that the generator has filled."""
    main = runpy.run_path(str(SCRIPT), run_name="generate")["main"]
    sizes = ["--transactions", str(transactions), "--events", str(events)]
    main([*sizes, "--end", END.isoformat(), "--out", str(out), *more])
    return out


def history(folder: Path, name: str) -> pl.DataFrame:
    """Return the rows of all monthly files, in file order."""
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / name).glob("*.parquet"))])


def stream(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of the stream, in the order of arrival."""
    rows = [json.loads(line) for line in (folder / "stream" / f"{name}.ndjson").read_text().splitlines()]
    for row in rows:
        for column in ("timestamp", "received_at"):
            row[column] = datetime.fromisoformat(row[column])
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def payments(folder: Path) -> pl.DataFrame:
    """All payments, history and stream, copies included."""
    past = history(folder, "transactions")
    return pl.concat([past, pl.DataFrame(stream(folder, "transactions"), schema=past.schema)])


def digest(folder: Path) -> dict[str, str]:
    """Return a digest per file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = digest(generate(tmp_path / "a", "--bad", "3", transactions=3000, events=500))
    assert first == digest(generate(tmp_path / "b", "--bad", "3", transactions=3000, events=500))
    other = digest(generate(tmp_path / "c", "--bad", "3", "--seed", "8", transactions=3000, events=500))
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


def test_it_makes_as_many_as_asked_for(folder: Path, payments: pl.DataFrame) -> None:
    assert payments["transaction_id"].n_unique() == 60_000
    ids = {*history(folder, "events")["event_id"], *(row["event_id"] for row in stream(folder, "events"))}
    assert len(ids) == 8_000


@pytest.mark.parametrize(("transactions", "events"), [(1, 0), (20, 3), (100, 400)])
def test_it_makes_few(tmp_path: Path, transactions: int, events: int) -> None:
    out = generate(tmp_path, transactions=transactions, events=events)
    past = history(out, "transactions")
    both = {*past["transaction_id"], *(row["transaction_id"] for row in stream(out, "transactions"))}
    assert len(both) == transactions


def test_history_is_what_was_known_before_the_cut_and_the_stream_what_arrived_since(folder: Path) -> None:
    for name in ("transactions", "events"):
        past, recent = history(folder, name), stream(folder, name)
        assert past["received_at"].max() < CUT
        arrivals = [row["received_at"] for row in recent]
        assert arrivals == sorted(arrivals)
        assert arrivals[0] >= CUT
        assert arrivals[-1] < END


def test_months_are_those_of_the_events(folder: Path) -> None:
    names = [path.stem for path in sorted((folder / "transactions").glob("*.parquet"))]
    assert names == ["2026-05", "2026-06", "2026-07", "2026-08", "2026-09", "2026-10", "2026-11"]
    for name in names:
        month = pl.read_parquet(folder / "transactions" / f"{name}.parquet")["timestamp"]
        assert month.dt.strftime("%Y-%m").unique().to_list() == [name]


def test_a_new_run_leaves_no_month_of_the_last_one(tmp_path: Path) -> None:
    generate(tmp_path, transactions=500, events=50)
    generate(tmp_path, "--days", "3", transactions=500, events=50)
    assert [path.stem for path in (tmp_path / "transactions").glob("*.parquet")] == ["2026-11"]


def test_rows_are_late_out_of_order_and_repeated(folder: Path, payments: pl.DataFrame) -> None:
    delay = (payments["received_at"] - payments["timestamp"]).dt.total_seconds(fractional=True)
    assert delay.min() > 0
    assert 0.015 < (delay > 60).mean() < 0.05
    assert 0.002 < (delay > 3600).mean() < 0.01
    recent = [row["timestamp"] for row in stream(folder, "transactions")]
    assert recent != sorted(recent)

    repeated = payments.filter(payments["transaction_id"].is_duplicated())
    assert 0.005 < repeated["transaction_id"].n_unique() / 60_000 < 0.02
    # A retry repeats everything but its arrival.
    assert repeated.drop("received_at").n_unique() == repeated["transaction_id"].n_unique()
    assert repeated["received_at"].n_unique() == repeated.height


def test_shares_and_amounts_are_those_published(payments: pl.DataFrame) -> None:
    distinct = payments.unique("transaction_id")
    assert distinct["fraud"].sum() == round(60_000 * 7_200 / 594_643)
    assert distinct["target"].n_unique() <= 50
    assert distinct["source"].n_unique() == pytest.approx(60_000 * 4_112 / 594_643, rel=0.02)
    assert distinct["category"].n_unique() == 15
    share = (distinct["category"] == "es_transportation").mean()
    assert share == pytest.approx(505_119 / 594_643, abs=0.01)
    assert set(distinct["gender"]) == {"F", "M", "E", "U"}
    assert set(distinct["age"]) == {"U", *"0123456"}
    assert (distinct["age"] == "2").mean() == pytest.approx(187_310 / 594_643, abs=0.03)
    for fraud, quartiles in ((0, (13.59, 26.61, 41.895)), (1, (159.98, 319.175, 548.9775))):
        amounts = distinct.filter(pl.col("fraud") == fraud)["amount"]
        for rank, published in zip((0.25, 0.5, 0.75), quartiles, strict=True):
            assert amounts.quantile(rank) == pytest.approx(published, rel=0.02)
    honest = distinct.filter(pl.col("fraud") == 0)["amount"]
    assert honest.mean() == pytest.approx(31.85, rel=0.02)
    assert honest.std() == pytest.approx(31.47, rel=0.1)
    assert distinct["amount"].max() <= 8329.96


def test_a_few_customers_and_merchants_have_most_of_it(payments: pl.DataFrame) -> None:
    merchants = payments["target"].value_counts(sort=True)["count"]
    assert merchants[0] > 0.3 * payments.height
    customers = payments["source"].value_counts(sort=True)["count"]
    assert customers[0] > 3 * customers.median()


def test_most_frauds_follow_a_login_from_a_new_device(folder: Path, payments: pl.DataFrame) -> None:
    past = history(folder, "events")
    events = pl.concat([past, pl.DataFrame(stream(folder, "events"), schema=past.schema)])
    logins = events.filter(pl.col("device") == "new", pl.col("event") == "login").unique("event_id")
    joined = (
        payments.unique("transaction_id")
        .join(logins.select("source", login="timestamp"), on="source", how="left")
        .with_columns(pl.col("timestamp").sub(pl.col("login")).is_between(timedelta(), timedelta(days=1)))
        .group_by("transaction_id", "fraud")
        .agg(pl.col("timestamp").any())
    )
    warned = dict(joined.group_by("fraud").agg(pl.col("timestamp").mean()).iter_rows())
    assert warned[1] > 0.6
    assert warned[0] < 0.05


def test_unusable_lines_are_mixed_in_only_when_asked_for(tmp_path: Path) -> None:
    out = generate(tmp_path / "good", transactions=20_000, events=10)
    good = (out / "stream/transactions.ndjson").read_text().splitlines()
    assert all("transaction_id" in json.loads(line) for line in good)
    out = generate(tmp_path / "bad", "--bad", "14", transactions=20_000, events=10)
    bad = (out / "stream/transactions.ndjson").read_text().splitlines()
    assert len(bad) == len(good) + 14
    assert [line for line in bad if line in set(good)] == good


def test_a_stream_longer_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="longer than --days"):
        generate(tmp_path, "--days", "1", "--stream-last", "2d")
