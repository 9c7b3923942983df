"""An append to a Delta table commits rows and positions on exactly its snapshot, or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore.contracts import Snapshot
from featurestore.errors import OperatorError
from featurestore_connectors.delta import DeltaOfflineStore, DeltaTable


def rows(first: int, count: int, partition: str = "p") -> pa.Table:
    sequences = list(range(first, first + count))
    return pa.table(
        {
            "__partition": [partition] * count,
            "__sequence": pa.array(sequences, pa.int64()),
            "value": pa.array([n * 10 for n in sequences], pa.int64()),
        }
    )


def read(table: DeltaTable, snapshot: Snapshot | None) -> list[int]:
    assert snapshot is not None
    return sorted(
        value for batch in table.scan(snapshot, ["__sequence"]) for value in batch.column(0).to_pylist()
    )


@pytest.fixture
def table(tmp_path: Path) -> DeltaTable:
    return DeltaOfflineStore({"path": str(tmp_path)}).table("rows")


def test_before_the_first_commit_there_is_no_snapshot_and_every_position_is_0(table: DeltaTable) -> None:
    assert table.snapshot() is None
    assert table.position(None, "p") == 0
    assert table.positions(None) == {}


def test_an_append_returns_a_snapshot_with_its_rows_and_positions(table: DeltaTable) -> None:
    first = table.append(None, rows(0, 3), {"p": 3, "digest:abc": 3})
    second = table.append(first, rows(3, 2), {"p": 5})
    assert second is not None
    assert second.version == 1
    assert table.positions(second) == {"p": 5, "digest:abc": 3}
    assert [table.position(second, name) for name in ("p", "digest:abc", "other")] == [5, 3, 0]
    assert read(table, second) == [0, 1, 2, 3, 4]


def test_an_append_on_a_version_that_is_no_longer_the_newest_returns_none_and_writes_nothing(
    table: DeltaTable,
) -> None:
    start = table.append(None, rows(0, 1), {"p": 1})
    stale = table.snapshot()
    assert table.append(start, rows(1, 1), {"p": 2}) is not None
    assert table.append(stale, rows(1, 1), {"p": 2}) is None
    assert table.append(stale, rows(1, 1), {"another": 2}) is None
    assert table.append(None, rows(1, 1), {"p": 2}) is None
    assert read(table, table.snapshot()) == [0, 1]


def test_many_rows_whose_commit_comes_second_return_none_and_leave_a_file_for_vacuum(
    table: DeltaTable, tmp_path: Path
) -> None:
    many = 70_000  # from some 65,000 on a file is written before the commit
    won = table.append(None, rows(0, many), {"p": many})
    assert won is not None
    assert table.append(None, rows(0, many), {"p": many}) is None
    stale = table.snapshot()
    second = table.append(won, rows(many, many), {"p": 2 * many})
    assert second is not None
    assert (second.version, table.rows(second), table.positions(second)) == (1, 2 * many, {"p": 2 * many})
    assert table.append(stale, rows(many, many), {"p": 2 * many}) is None
    newest = table.snapshot()
    assert newest is not None
    assert table.positions(newest) == {"p": 2 * many}
    assert read(table, newest) == list(range(2 * many))
    written = set(map(str, (tmp_path / "rows").rglob("*.parquet")))
    assert len(written - set(table.files(newest))) == 2  # of the two that came second
    assert table.vacuum(0) == 2
    assert read(table, table.snapshot()) == list(range(2 * many))


@pytest.mark.parametrize("count", [3, 70_000])
def test_what_an_append_returned_was_forced_to_the_disk(
    count: int, table: DeltaTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: set[str] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        forced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    snapshot = None
    for number in range(3):
        forced.clear()
        snapshot = table.append(snapshot, rows(number * count, count), {"p": (number + 1) * count})
        assert snapshot is not None
        log = tmp_path / f"rows/_delta_log/{number:020d}.json"
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        [added] = [action["add"] for action in actions if "add" in action]
        assert {str(log), str(tmp_path / "rows" / added["path"])} <= forced
        assert added["dataChange"]  # a reader of the log's changes takes it for new rows


def test_a_snapshot_stays_what_it_was_after_it_was_appended_to(table: DeltaTable) -> None:
    first = table.append(None, rows(0, 2), {"p": 2})
    assert first is not None
    assert table.append(first, rows(2, 2), {"p": 4}) is not None
    assert read(table, first) == [0, 1]
    assert table.position(first, "p") == 2
    assert table.positions(first) == {"p": 2}
    assert len(table.files(first)) == 1


def test_no_rows_commit_positions_only(table: DeltaTable) -> None:
    created = table.append(None, rows(0, 0), {"p": 7})
    assert created is not None
    assert table.files(created) == []
    assert read(table, created) == []
    moved = table.append(created, rows(0, 0), {"p": 9})
    assert moved is not None
    assert table.positions(moved) == {"p": 9}


def test_of_many_creators_at_once_one_wins_and_the_others_get_none(table: DeltaTable) -> None:
    won: list[int] = []
    together = threading.Barrier(8)

    def create(number: int) -> None:
        together.wait()
        if table.append(None, rows(number * 10, 1), {"p": number}) is not None:
            won.append(number)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read(table, table.snapshot()) == [won[0] * 10]
    assert table.positions(table.snapshot()) == {"p": won[0]}


def _append_twenty(path: str, writer: int) -> None:
    table = DeltaOfflineStore({"path": path}).table("rows")
    done = 0
    while done < 20:
        snapshot = table.snapshot()
        first = table.position(snapshot, "p")
        if table.append(snapshot, rows(first, 2), {"p": first + 2, f"w{writer}": done + 1}) is not None:
            done += 1


def test_processes_that_append_at_once_lose_and_double_nothing(table: DeltaTable, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_twenty, args=(str(tmp_path), n)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert read(table, table.snapshot()) == list(range(80))
    assert table.positions(table.snapshot()) == {"p": 80, "w0": 20, "w1": 20}


def test_positions_survive_checkpoints_of_the_log(table: DeltaTable, tmp_path: Path) -> None:
    snapshot = None
    for number in range(203):
        snapshot = table.append(snapshot, rows(0, 0), {f"d{number}": number, "p": number})
        assert snapshot is not None
    assert len(list((tmp_path / "rows/_delta_log").glob("*.checkpoint.parquet"))) == 2
    expected = {f"d{number}": number for number in range(203)} | {"p": 202}
    again = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    assert again.positions(again.snapshot()) == expected
    assert table.positions(snapshot) == expected
    # a checkpoint replaces the commits before it, which deltalake cleans up in time
    for commit in sorted((tmp_path / "rows/_delta_log").glob("*.json"))[:100]:
        commit.unlink()
    again = DeltaOfflineStore({"path": str(tmp_path)}).table("rows")
    assert again.positions(again.snapshot()) == expected


def test_a_path_that_cannot_be_written_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    table = DeltaOfflineStore({"path": str(tmp_path / "file")}).table("rows")
    with pytest.raises(OperatorError, match=r"'rows' cannot be appended to.*Check that the disk has room"):
        table.append(None, rows(0, 1), {"p": 1})


def _fill_the_disk(path: str) -> None:
    table = DeltaOfflineStore({"path": path}).table("rows")
    snapshot = table.snapshot()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    try:
        table.append(snapshot, rows(1, 100_000), {"p": 100_001})
    except OperatorError:
        raise SystemExit(42) from None


def test_a_full_disk_is_the_operators_error_and_changes_nothing(table: DeltaTable, tmp_path: Path) -> None:
    table.append(None, rows(0, 1), {"p": 1})
    process = multiprocessing.get_context("spawn").Process(target=_fill_the_disk, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == 42
    assert table.positions(table.snapshot()) == {"p": 1}
    assert read(table, table.snapshot()) == [0]


def test_a_damaged_log_is_the_operators_error(table: DeltaTable, tmp_path: Path) -> None:
    table.append(None, rows(0, 1), {"p": 1})
    (tmp_path / "rows/_delta_log/00000000000000000001.json").write_text("{garbage")
    with pytest.raises(OperatorError, match="'rows' cannot be opened"):
        table.snapshot()


def test_rows_with_other_columns_are_refused(table: DeltaTable) -> None:
    first = table.append(None, rows(0, 1), {"p": 1})
    with pytest.raises(OperatorError, match="has other columns than the rows"):
        table.append(first, rows(1, 1).append_column("more", pa.array([1])), {"p": 2})
    assert table.positions(table.snapshot()) == {"p": 1}
