"""A disk that fills up: nothing acknowledged is lost, the error names it, with room again all goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from faults.conftest import Measured
from faults.disks import Disk, MakeDisk, make_disk  # noqa: F401 (a fixture)
from faults.judge import Judge
from faults.processes import ENGINES, Appending, Worker, await_caught_up, wait_for
from faults.scale import LONG
from faults.traffic import Traffic, make_project

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable
from featurestore_connectors.embedded import EmbeddedServer

EVENTS = 60_000 if LONG else 2_000
ROUNDS = 5 if LONG else 1
CUSTOMERS, SHOPS = (2_000, 50) if LONG else (100, 10)
PROMISED = "an error that names the disk; nothing is lost; it goes on by itself once there is room"


@pytest.mark.redis
@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[1:])
def test_the_disk_of_the_offline_store_fills_while_a_worker_streams(
    engine: str,
    tmp_path: Path,
    make_disk: MakeDisk,  # noqa: F811
    start_server: Callable[..., EmbeddedServer],
    measured: Measured,
) -> None:
    disk = make_disk("96m")
    root = make_project(
        tmp_path / "project",
        {"kind": "redis", "url": start_server().url},
        offline={"kind": "delta", "path": str(disk.path / "offline")},
    )
    traffic = Traffic(31, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    filled_while_streaming(root, disk, traffic, engine, "No space left")
    measured(
        f"the disk of the offline store fills ({engine})",
        promised=PROMISED,
        events=EVENTS,
        filled=ROUNDS,
        lost=0,
        doubled=0,
    )


@pytest.mark.parametrize("engine", ENGINES if LONG else ENGINES[:1])
def test_the_disk_of_sqlite_and_the_registry_fills_while_a_worker_streams(
    engine: str,
    tmp_path: Path,
    make_disk: MakeDisk,  # noqa: F811
    measured: Measured,
) -> None:
    disk = make_disk("96m")
    root = make_project(tmp_path / "project", {"kind": "sqlite", "path": str(disk.path / "online.db")})
    config = json.loads((root / "featurestore.yaml").read_text())
    config["registry"] = f"sqlite:///{disk.path}/registry.db"
    (root / "featurestore.yaml").write_text(json.dumps(config))
    traffic = Traffic(32, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    filled_while_streaming(root, disk, traffic, engine, "disk is full|disk I/O")
    measured(
        f"the disk of SQLite (online and registry) fills ({engine})",
        promised=PROMISED,
        events=EVENTS,
        filled=ROUNDS,
        lost=0,
        doubled=0,
    )


def filled_while_streaming(root: Path, disk: Disk, traffic: Traffic, engine: str, complaint: str) -> None:
    """Fill the disk under a worker again and again; compare all stores with the judge's at the end."""
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            worker = Worker.stream(root, engine)
            try:
                for number in range(ROUNDS):
                    producer.allow((2 * number + 1) / (2 * ROUNDS))
                    producer.await_appended()
                    await_caught_up(store, worker)
                    disk.fill()
                    said = len(worker.said)
                    producer.allow((2 * number + 2) / (2 * ROUNDS))
                    wait_for(lambda said=said: "Trying again" in worker.said[said:], "the full disk", worker)
                    assert any(part in worker.said[said:] for part in complaint.split("|")), worker.said
                    assert str(disk.path) in worker.said[said:]
                    disk.free()
                await_caught_up(store, worker)
                worker.stop()
            finally:
                worker.discard()
        Judge(traffic).check(store)


def test_the_disk_of_the_log_fills_while_producers_append(
    tmp_path: Path,
    make_disk: MakeDisk,  # noqa: F811
    measured: Measured,
) -> None:
    """What was refused is not there, and is sent again; what was acknowledged is, once."""
    disk = make_disk("16m")
    stream = {"kind": "log", "path": str(disk.path / "log")}
    root = make_project(tmp_path / "project", {"kind": "sqlite"}, stream=stream, partitions=1)
    traffic = Traffic(33, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    refusals = 0
    with FeatureStore(root) as store:
        store.apply()
        topic = store.environment.stream(store.catalog.source("payments"))
        worker = Worker.stream(root, "local")
        try:
            for first in range(0, EVENTS, 500):
                payloads = [(None, p) for p in traffic.payloads(first, min(first + 500, EVENTS))]
                if first % 1000 == 500:
                    disk.fill(but=20_000)  # room for some of them
                    with pytest.raises(StoreUnavailable, match=r"No space left.*nothing was stored"):
                        topic.append(payloads)
                    refusals += 1
                    disk.free()
                topic.append(payloads)
            await_caught_up(store, worker)
            worker.stop()
        finally:
            worker.discard()
        Judge(traffic).check(store)
    measured(
        "the disk of the log fills",
        promised="an append is stored whole or refused whole; what was acknowledged is read once",
        events=EVENTS,
        refusals=refusals,
        lost=0,
        doubled=0,
    )


def test_an_ingest_and_a_compaction_on_a_full_disk_are_done_by_running_them_again(
    tmp_path: Path,
    make_disk: MakeDisk,  # noqa: F811
    measured: Measured,
) -> None:
    disk = make_disk("64m")
    offline = {"kind": "delta", "path": str(disk.path / "offline")}
    root = make_project(tmp_path / "project", {"kind": "sqlite"}, offline=offline)
    traffic = Traffic(34, EVENTS, customers=CUSTOMERS, shops=SHOPS)
    rows = traffic.valid
    with FeatureStore(root) as store:
        store.apply()
        table = store.environment.rows_table(store.catalog.feature_set("spending"))
        for number in range(3):
            rows[number::3].write_parquet(tmp_path / f"{number}.parquet")
        assert command(root, "ingest", "payments", "--from", str(tmp_path / "0.parquet")).returncode == 0
        disk.fill()
        for number in (1, 2):
            refused = command(root, "ingest", "payments", "--from", str(tmp_path / f"{number}.parquet"))
            assert refused.returncode == 1
            assert str(disk.path) in refused.stderr
            assert "The disk is full" in refused.stderr
        refused = command(root, "compact")
        assert refused.returncode == 1, refused.stdout
        assert "The disk is full" in refused.stderr
        before = table.snapshot()
        assert before is not None
        disk.free()
        for number in (1, 2):
            done = command(root, "ingest", "payments", "--from", str(tmp_path / f"{number}.parquet"))
            assert done.returncode == 0, done.stderr
        assert command(root, "compact").returncode == 0
        after = table.snapshot()
        assert after is not None
        found = table.lazy(after).collect()
        wanted = rows.filter(pl.col("customer").is_not_null())
        assert sorted(found["__order"].to_list()) == sorted(wanted["rank"].to_list())
        Judge(traffic).check_online(store, moments=2)
    measured(
        "the disk fills under an ingest and a compaction",
        promised="status 1 and what to do; no half-written table; run again, all rows are there once",
        events=EVENTS,
        lost=0,
        doubled=0,
    )


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in the project."""
    return subprocess.run(
        [sys.executable, "-m", "featurestore.cli", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
