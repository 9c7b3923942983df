"""Compaction changes where rows lie and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.contracts import Snapshot
from featurestore.errors import OperatorError
from featurestore.instants import DAY, parse_instant
from featurestore_connectors.delta import DeltaOfflineStore, DeltaTable
from featurestore_connectors.delta import compact as compaction

SCHEMA = pa.schema(
    [
        ("__key", pa.binary()),
        ("__shard", pa.int16()),
        ("__event_time", pa.timestamp("us", "UTC")),
        ("__ingest_time", pa.timestamp("us", "UTC")),
        ("__row_hash", pa.int64()),
        ("__partition", pa.string()),
        ("__sequence", pa.int64()),
    ]
)
JANUARY = parse_instant("2026-01-15T00:00:00Z")
FEBRUARY = parse_instant("2026-02-03T00:00:00Z")
NOW = parse_instant("2026-02-05T13:00:00Z")


def some_rows(first: int, count: int, start: int, span: int, seed: int = 1) -> list[dict[str, Any]]:
    chance = random.Random(seed * 1000 + first)
    made = []
    for number in range(first, first + count):
        entity = chance.randrange(40)
        made.append(
            {
                "__key": b"e%03d" % entity,
                "__shard": entity * 37 % 256,
                "__event_time": start + chance.randrange(span),
                "__ingest_time": start + span,
                "__row_hash": chance.randrange(-(2**63), 2**63),
                "__partition": "p",
                "__sequence": number,
            }
        )
    return made


def append(table: DeltaTable, part: list[dict[str, Any]]) -> None:
    snapshot = table.snapshot()
    done = table.append(snapshot, pa.Table.from_pylist(part, SCHEMA), {"p": part[-1]["__sequence"] + 1})
    assert done is not None


def stored(table: DeltaTable, snapshot: Snapshot | None = None) -> list[dict[str, Any]]:
    snapshot = snapshot or table.snapshot()
    assert snapshot is not None
    rows = pa.Table.from_batches(table.scan(snapshot)).sort_by("__sequence")
    times = {name: rows[name].cast(pa.int64()) for name in ("__event_time", "__ingest_time")}
    for name, values in times.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    plain: list[dict[str, Any]] = rows.to_pylist()
    return plain


def names(table: DeltaTable) -> list[str]:
    snapshot = table.snapshot()
    assert snapshot is not None
    root = table.location.uri
    return sorted(Path(file).relative_to(root).parent.as_posix() for file in table.files(snapshot))


@pytest.fixture
def table(tmp_path: Path) -> DeltaTable:
    return DeltaOfflineStore({"path": str(tmp_path)}).table("rows")


def test_closed_days_move_into_sorted_files_by_month_and_open_rows_stay(table: DeltaTable) -> None:
    january = some_rows(0, 300, JANUARY, 10 * DAY)
    mixed = some_rows(300, 300, FEBRUARY, 4 * DAY)  # the 3rd to the 6th; the 5th is today
    today = some_rows(600, 50, NOW // DAY * DAY, DAY // 2)
    for part in (january, mixed, today):
        append(table, part)
    untouched = sorted(table.files(table.snapshot()))  # type: ignore[arg-type]
    counts = table.compact(now=NOW)
    assert counts == {"files_read": 2, "files_written": 3, "rows": 600, "abandoned": 0}
    assert names(table) == [".", "compacted/2026-01", "compacted/2026-02", "recent"]
    assert stored(table) == january + mixed + today
    snapshot = table.snapshot()
    assert snapshot is not None
    assert set(untouched) & set(table.files(snapshot))
    for file in table.files(snapshot):
        if "compacted" in file:
            rows = pq.read_table(file).to_pylist()
            columns = ["__shard", "__key", "__event_time", "__ingest_time", "__row_hash"]
            order = [tuple(row[name] for name in columns) for row in rows]
            assert order == sorted(order)
            assert all(row["__event_time"].timestamp() * 1e6 < NOW // DAY * DAY for row in rows)


def test_compacting_again_changes_nothing_until_another_day_closes(table: DeltaTable) -> None:
    append(table, some_rows(0, 100, FEBRUARY, 4 * DAY))
    table.compact(now=NOW)
    before = table.snapshot()
    assert before is not None
    assert table.compact(now=NOW)["files_read"] == 0
    after = table.snapshot()
    assert after is not None
    assert after.version == before.version
    assert table.compact(now=NOW + 2 * DAY)["rows"] > 0
    assert [name for name in names(table) if name != "compacted/2026-02"] == []


def test_positions_and_earlier_versions_stay_readable(table: DeltaTable) -> None:
    january = some_rows(0, 200, JANUARY, DAY)
    append(table, january)
    before = table.snapshot()
    table.compact(now=NOW)
    after = table.snapshot()
    assert table.positions(after) == table.positions(before) == {"p": 200}
    assert table.position(after, "p") == 200
    assert stored(table, before) == january


def test_vacuum_deletes_what_compaction_replaced_and_orphans_and_keeps_the_newest_rows(
    table: DeltaTable, tmp_path: Path
) -> None:
    january = some_rows(0, 200, JANUARY, DAY)
    append(table, january)
    before = table.snapshot()
    assert before is not None
    table.compact(now=NOW)
    (tmp_path / "rows/left-by-a-killed-writer.parquet").write_bytes(b"x")
    assert table.vacuum(7 * DAY) == 0
    assert stored(table, before) == january
    assert table.vacuum(0) == 2
    assert stored(table) == january
    with pytest.raises(OperatorError, match="cannot be read at version 0"):
        stored(table, before)


def test_the_same_cut_gives_the_same_rows_before_and_after(table: DeltaTable) -> None:
    for first in range(0, 300, 100):
        append(table, some_rows(first, 100, JANUARY, 40 * DAY))

    def at_cut() -> list[int]:
        snapshot = table.snapshot()
        assert snapshot is not None
        batches = table.scan(snapshot, ["__sequence"], cut={"p": 170}, shards=(0, 128))
        return sorted(value for batch in batches for value in batch.column(0).to_pylist())

    before = at_cut()
    table.compact(now=NOW)
    assert at_cut() == before != []


def test_a_months_small_runs_are_merged_and_its_large_ones_left(table: DeltaTable) -> None:
    append(table, some_rows(0, 1000, JANUARY, DAY))
    table.compact(now=NOW)
    large = names(table)
    assert large == ["compacted/2026-01"]
    append(table, some_rows(1000, 10, JANUARY, DAY))
    assert table.compact(now=NOW)["rows"] == 10
    append(table, some_rows(1010, 10, JANUARY, DAY))
    assert table.compact(now=NOW)["rows"] == 20
    append(table, some_rows(1020, 600, JANUARY, DAY))
    assert table.compact(now=NOW)["rows"] == 1620
    assert len(names(table)) == 1
    assert [row["__sequence"] for row in stored(table)] == list(range(1620))


def test_a_large_month_is_split_into_buckets_of_shards(
    table: DeltaTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROWS_PER_FILE", 100)
    january = some_rows(0, 350, JANUARY, DAY)
    append(table, january)
    assert table.compact(now=NOW)["files_written"] == 4
    snapshot = table.snapshot()
    assert snapshot is not None
    files = [pq.read_table(file).to_pylist() for file in table.files(snapshot)]
    buckets = [{row["__shard"] // 64 for row in rows} for rows in files]
    assert sorted(buckets, key=min) == [{0}, {1}, {2}, {3}]
    assert stored(table) == january
    commit = Path(table.location.uri, "_delta_log/00000000000000000001.json").read_text()
    log = [json.loads(line) for line in commit.splitlines()]
    shards = sorted(
        (stats["minValues"]["__shard"] // 64, stats["maxValues"]["__shard"] // 64)
        for stats in (json.loads(action["add"]["stats"]) for action in log if "add" in action)
    )
    assert shards == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_a_row_group_that_is_a_bit_larger_is_not_cut_within_a_shard(
    table: DeltaTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (compaction.rewrite, compaction):
        monkeypatch.setattr(module, "ROW_GROUP", 100, raising=False)
    rows = [row | {"__shard": 0 if n < 110 else 200} for n, row in enumerate(some_rows(0, 200, JANUARY, DAY))]
    append(table, rows)
    table.compact(now=NOW)
    [file] = table.files(table.snapshot())
    parts = pq.ParquetFile(file).metadata
    assert [parts.row_group(n).num_rows for n in range(parts.num_row_groups)] == [110, 90]


def test_rows_larger_than_the_memory_allowed_are_sorted_all_the_same(tmp_path: Path) -> None:
    table = DeltaOfflineStore({"path": str(tmp_path), "memory": "128MB"}).table("rows")
    count = 1_000_000  # of 160 bytes and more
    entities = np.arange(count) * 7919 % 5000
    rows = pa.table(
        {
            "__key": pa.array([b"%0120d" % entity for entity in entities], pa.binary()),
            "__shard": pa.array((entities % 256).astype(np.int16)),
            "__event_time": pa.array(JANUARY + np.arange(count), pa.timestamp("us", "UTC")),
            "__partition": pa.array(["p"] * count),
            "__sequence": pa.array(np.arange(count)),
        }
    )
    table.append(None, rows, {"p": count})
    assert table.compact(now=NOW)["rows"] == count
    snapshot = table.snapshot()
    assert snapshot is not None
    found = pa.Table.from_batches(table.scan(snapshot, ["__shard", "__key", "__sequence"]))
    keys = list(zip(found["__shard"].to_pylist(), found["__key"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    for file in table.files(snapshot):
        parts = pq.ParquetFile(file).metadata
        shards = [parts.row_group(n).column(1).statistics for n in range(parts.num_row_groups)]
        assert all(low.max < high.min for low, high in pairwise(shards))  # no shard lies in two row groups
        assert len(shards) == 8
    assert np.array_equal(np.sort(found["__sequence"].to_numpy()), np.arange(count))


def compacted(path: str, queue: multiprocessing.Queue[float]) -> None:
    """Compact a table; put how many MB the process held at most beyond what it held before."""
    table = DeltaOfflineStore({"path": path, "memory": "128MB"}).table("rows")
    snapshot = table.snapshot()
    assert snapshot is not None
    table.lazy(snapshot).head(1).collect()
    before = _held("VmRSS")
    table.compact(now=NOW)
    queue.put(_held("VmHWM") - before)


def _held(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    [kilobytes] = [line.split()[1] for line in status.splitlines() if line.startswith(name + ":")]
    return int(kilobytes) / 1000


def test_what_compaction_holds_does_not_grow_with_the_table(tmp_path: Path) -> None:
    table = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    chance = np.random.default_rng(1)
    count, files = 500_000, 12  # some 130 bytes a row in memory: 780 MB
    keys = pa.array([b"%08d" % entity for entity in range(60_000)])
    for file in range(files):
        entities = chance.integers(0, 60_000, count)
        times = np.sort(chance.integers(JANUARY, JANUARY + 10 * DAY, count))
        rows = pa.table(
            {
                "__key": keys.take(pa.array(entities)),
                "__shard": pa.array((entities % 256).astype(np.int16)),
                "__event_time": pa.array(times, pa.timestamp("us", "UTC")),
                "__ingest_time": pa.array(times, pa.timestamp("us", "UTC")),
                "__row_hash": pa.array(chance.integers(-(2**63), 2**63 - 1, count)),
                "__sequence": pa.array(np.arange(file * count, (file + 1) * count)),
                **{f"feature_{n}": pa.array(chance.random(count)) for n in range(8)},
            }
        )
        table.append(table.snapshot(), rows, {"p": (file + 1) * count})
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=compacted, args=(str(tmp_path), queue))
    process.start()
    assert queue.get(timeout=300) < 400
    process.join()
    snapshot = table.snapshot()
    assert snapshot is not None
    assert table.rows(snapshot) == files * count


def test_rows_appended_while_compacting_are_kept(table: DeltaTable) -> None:
    total, done = 60, threading.Event()
    append(table, some_rows(0, 10, JANUARY, 30 * DAY))

    def appender() -> None:
        at = 10
        while at < total * 10:
            snapshot = table.snapshot()
            part = some_rows(at, 10, JANUARY, 30 * DAY)
            if table.append(snapshot, pa.Table.from_pylist(part, SCHEMA), {"p": at + 10}) is not None:
                at += 10
        done.set()

    thread = threading.Thread(target=appender)
    thread.start()
    compacted = 0
    while not done.is_set():
        compacted += table.compact(now=NOW)["files_read"]
    thread.join()
    table.compact(now=NOW)
    assert compacted > 0
    assert [row["__sequence"] for row in stored(table)] == list(range(total * 10))
    assert table.positions(table.snapshot()) == {"p": total * 10}


def test_of_compactions_at_once_none_loses_or_doubles_rows(table: DeltaTable) -> None:
    for first in range(0, 200, 20):
        append(table, some_rows(first, 20, JANUARY, 30 * DAY))
    together = threading.Barrier(4)
    counts: list[dict[str, int]] = []

    def compact() -> None:
        together.wait()
        counts.append(table.compact(now=NOW))

    threads = [threading.Thread(target=compact) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["__sequence"] for row in stored(table)] == list(range(200))
    assert sum(count["rows"] for count in counts) >= 200
    assert all(count["rows"] == 0 for count in counts if count["abandoned"])
    snapshot = table.snapshot()
    assert snapshot is not None
    on_disk = {str(file) for file in Path(table.location.uri).glob("compacted/**/*.parquet")}
    assert {file for file in table.files(snapshot) if "compacted" in file} == on_disk


def test_a_damaged_file_stops_compaction_and_changes_nothing(table: DeltaTable) -> None:
    append(table, some_rows(0, 100, JANUARY, DAY))
    snapshot = table.snapshot()
    assert snapshot is not None
    file = Path(table.files(snapshot)[0])
    content = file.read_bytes()
    pq.write_table(pq.read_table(file).slice(0, 60), file)
    with pytest.raises(OperatorError, match="read 100 rows and wrote 60; nothing was changed"):
        table.compact(now=NOW)
    file.write_bytes(content[:200])
    with pytest.raises(OperatorError, match="'rows' cannot be compacted"):
        table.compact(now=NOW)
    file.write_bytes(content)
    after = table.snapshot()
    assert after is not None
    assert after.version == snapshot.version
    assert list(Path(table.location.uri).glob("compacted/**/*.parquet")) == []
    assert len(stored(table)) == 100


def test_a_table_without_event_time_is_concatenated(tmp_path: Path) -> None:
    table = DeltaOfflineStore({"path": str(tmp_path)}).table("dead_letters")
    assert table.compact() == {"files_read": 0, "files_written": 0, "rows": 0, "abandoned": 0}
    snapshot = None
    for number in range(5):
        snapshot = table.append(snapshot, pa.table({"message": [f"bad {number}"]}), {"p": number + 1})
    assert table.compact() == {"files_read": 5, "files_written": 1, "rows": 5, "abandoned": 0}
    newest = table.snapshot()
    assert newest is not None
    messages = [value for batch in table.scan(newest) for value in batch.column(0).to_pylist()]
    assert sorted(messages) == [f"bad {number}" for number in range(5)]
