"""What the SQLite store adds to the contract: files that are old, foreign, busy, or full of the past."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.contracts import EntityRead, EntityWrite
from featurestore.errors import OperatorError, StoreUnavailable
from featurestore_connectors.sqlite import SqliteOnlineStore

G = "g"
READ = [EntityRead(7, b"a", (b"s",))]


def put(store: SqliteOnlineStore, expected: bytes, revision: bytes, expire_ms: int | None = None) -> bool:
    entity = EntityWrite(b"a", {b"s": revision}, expire_ms)
    return store.write(G, [(7, expected, revision, b"p", [entity])])[0]


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return found


def test_the_folder_and_the_file_come_into_being(tmp_path: Path) -> None:
    store = SqliteOnlineStore({"path": str(tmp_path / "new" / "folder" / "online.db")})
    assert store.read(G, READ) == [[None]]
    store.close()


def test_an_entity_is_gone_at_the_instant_of_its_expiry_and_later_purged(tmp_path: Path) -> None:
    path, now = tmp_path / "online.db", 1_000_000
    store = SqliteOnlineStore({"path": str(path)}, clock=lambda: now)
    put(store, b"", b"r1", expire_ms=3)
    now = 1_002_999
    assert store.read(G, READ) == [[b"r1"]]
    now = 1_003_000
    assert store.read(G, READ) == [[None]]
    assert store.statistics(G) == {"entities": 0, "bytes": 0}
    assert (count(path, "entity"), count(path, "field")) == (1, 1)
    store.write(G, [(8, b"", b"r", b"", [])])
    assert (count(path, "entity"), count(path, "field")) == (1, 1)  # no row tells that it is so late
    other = EntityWrite(b"b", {}, None, newest=1_002_999)
    store.write(G, [(8, b"r", b"r2", b"", [other])])
    assert (count(path, "entity"), count(path, "field")) == (1, 1)
    store.write(G, [(8, b"r2", b"r3", b"", [replace(other, newest=1_003_000)])])
    assert (count(path, "entity"), count(path, "field")) == (0, 0)
    store.close()


def test_two_stores_on_one_file_see_each_other(tmp_path: Path) -> None:
    one, two = (SqliteOnlineStore({"path": str(tmp_path / "online.db")}) for _ in range(2))
    assert put(one, b"", b"r1")
    assert two.read(G, READ) == [[b"r1"]]
    assert put(two, b"r1", b"r2")
    assert not put(one, b"r1", b"r3")
    assert one.read(G, READ) == [[b"r2"]]
    one.close()
    two.close()


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = SqliteOnlineStore({"path": str(tmp_path / "online.db")})
    won: list[bytes] = []
    start = threading.Barrier(4)

    def race(name: bytes) -> None:
        start.wait()
        for turn in range(50):
            revision = store.shards(G, [7])[0].revision
            if put(store, revision, b"%s-%d" % (name, turn)):
                won.append(revision)

    threads = [threading.Thread(target=race, args=(b"t%d" % number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(set(won)) >= 50  # no revision was followed twice
    assert store.read(G, READ) == [[store.shards(G, [7])[0].revision]]
    store.close()


def test_processes_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    code = (
        "import sys; from featurestore_connectors.sqlite import SqliteOnlineStore; sys.stdin.readline();"
        "store = SqliteOnlineStore({'path': sys.argv[1]}); shard = int(sys.argv[2]);"
        "assert store.write('g', [(shard, b'', b'r', b'p', [])]) == [True]; store.close()"
    )
    path = tmp_path / "online.db"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(shard)], stdin=subprocess.PIPE, text=True
        )
        for shard in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0] * 4
    assert count(path, "shard") == 4


def test_a_file_that_another_process_keeps_writing_is_unavailable_for_writes_only(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    store = SqliteOnlineStore({"path": str(path), "timeout": "20ms"})
    put(store, b"", b"r1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"online\.db: Another process has been writing"):
        put(store, b"r1", b"r2")
    assert store.read(G, READ) == [[b"r1"]]
    other.execute("ROLLBACK")
    assert put(store, b"r1", b"r2")
    other.close()
    store.close()


def test_a_file_of_another_layout_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(
        OperatorError, match=r"online\.db: The file has layout 99; this release knows layout 1"
    ):
        SqliteOnlineStore({"path": str(path)}).ping()


def test_what_is_no_database_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    path.write_text("not a database at all, but long enough to be read as one" * 40)
    with pytest.raises(OperatorError, match=r"online\.db: SQLite refused"):
        SqliteOnlineStore({"path": str(path)}).ping()
    with pytest.raises(OperatorError, match="SQLite refused"):
        SqliteOnlineStore({"path": str(tmp_path)}).ping()
    with pytest.raises(OperatorError, match="folder cannot be made"):
        SqliteOnlineStore({"path": str(path / "online.db")}).ping()


def test_a_write_that_fails_half_way_is_taken_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    store = SqliteOnlineStore({"path": str(path)})
    put(store, b"", b"r1")
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TRIGGER fail BEFORE INSERT ON field WHEN new.value = x'00' "
        "BEGIN SELECT raise(ABORT, 'disk'); END"
    )
    connection.close()
    half = [EntityWrite(b"a", {b"s": b"2"}, None), EntityWrite(b"b", {b"s": b"\x00"}, None)]
    with pytest.raises(OperatorError, match="disk"):
        store.write(G, [(6, b"", b"x", b"x", []), (7, b"r1", b"r2", b"p2", half)])
    assert store.read(G, READ) == [[b"r1"]]
    assert [state.revision for state in store.shards(G, [6, 7])] == [b"", b"r1"]
    store.close()
