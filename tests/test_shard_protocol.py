"""The law of the shard protocol: whatever crashes, repeats, overtakes or goes back, every row counts once.

Writers read a shard's state and fields, add the rows that its positions say are not applied yet, and write
the shard back under a fresh revision, if the one they read still stands. The state here is the plainest
one, a list of row numbers per entity, so that a row lost or applied twice shows. Writers are generators:
a schedule drawn from a seed decides who goes on, who crashes, and when the store loses its last writes.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from featurestore.contracts import EntityRead, EntityWrite, OnlineStore, ShardState, extension, lasting
from featurestore.errors import StoreUnavailable
from featurestore_connectors.embedded import EmbeddedServer

SHARDS = (3, 77, 200)
PARTITIONS = ("kafka:c/t/x/0", "kafka:c/t/x/1")
FIELD = b"s"

Write = tuple[int, bytes, bytes, bytes, Sequence[EntityWrite]]


@dataclass(frozen=True)
class Row:
    number: int
    shard: int
    key: bytes


Log = dict[str, list[Row]]


def make_log(rows: int, rng: random.Random) -> Log:
    """Rows in each partition, over all shards, but one of them seldom: its positions lag behind."""
    numbers = iter(range(rows * len(PARTITIONS)))
    return {
        partition: [
            Row(next(numbers), rng.choices(SHARDS, weights=(10, 10, 1))[0], rng.choice((b"a", b"b", b"c")))
            for _ in range(rows)
        ]
        for partition in PARTITIONS
    }


def decode(positions: bytes) -> dict[str, int]:
    return json.loads(positions) if positions else {}


@dataclass
class Writer:
    """One writer's life, from reading the positions to its crash. Each step ends where others may act."""

    store: OnlineStore
    generation: str
    log: Log
    rng: random.Random
    batch: int = 6
    known: dict[int, dict[str, int]] = field(default_factory=dict)
    cursor: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0

    def start(self) -> None:
        """Begin at the lowest position of any shard."""
        states = self.store.shards(self.generation, SHARDS)
        self.known = {shard: decode(state.positions) for shard, state in zip(SHARDS, states, strict=True)}
        self.cursor = {p: min(self.known[s].get(p, 0) for s in SHARDS) for p in PARTITIONS}

    def steps(self) -> Iterator[None]:
        """Apply the log for ever; ends when all of it has been applied."""
        self.start()
        while behind := [p for p in PARTITIONS if self.cursor[p] < len(self.log[p])]:
            yield
            if self.rng.random() < 0.15:
                yield from self.apply({shard: [] for shard in SHARDS}, None)
                continue
            partition = self.rng.choice(behind)
            end = min(self.cursor[partition] + self.rng.randint(1, self.batch), len(self.log[partition]))
            first = max(0, self.cursor[partition] - self.rng.choice((0, 0, 0, 5)))  # a broker may repeat
            rows = defaultdict(list)
            for sequence in range(first, end):
                row = self.log[partition][sequence]
                rows[row.shard].append((sequence, row))
            went_on = yield from self.apply(rows, partition)
            if went_on:
                self.cursor[partition] = end

    def apply(
        self, rows: dict[int, list[tuple[int, Row]]], partition: str | None
    ) -> Generator[None, None, bool]:
        """Apply rows of a partition, or, without one, record the cursor in idle shards. False: begin anew."""
        pending = dict(rows)
        while pending:
            reads = {
                shard: [EntityRead(shard, key, (FIELD,)) for key in sorted({row.key for _, row in mine})]
                for shard, mine in pending.items()
            }
            found = self.store.read_for_write(self.generation, reads)
            yield
            if any(self.went_back(shard, state) for shard, (state, _) in found.items()):
                self.start()
                return False
            writes = []
            for shard, (state, values) in found.items():
                entities = [(read.key, value[0]) for read, value in zip(reads[shard], values, strict=True)]
                write = self.merge(shard, state, dict(entities), pending[shard], partition)
                if write is None:
                    del pending[shard]
                else:
                    writes.append(write)
            answers = self.store.write(self.generation, writes)
            if self.rng.random() < 0.1:  # the answer was lost: the same call again
                answers = self.store.write(self.generation, writes)
            yield
            for (shard, _, _, positions, _), written in zip(writes, answers, strict=True):
                if written:
                    self.known[shard] = decode(positions)
                    del pending[shard]
                else:
                    self.conflicts += 1
        return True

    def went_back(self, shard: int, state: ShardState) -> bool:
        positions = decode(state.positions)
        before, self.known[shard] = self.known[shard], positions
        return any(positions.get(p, 0) < sequence for p, sequence in before.items())

    def merge(
        self,
        shard: int,
        state: ShardState,
        values: dict[bytes, bytes | None],
        rows: list[tuple[int, Row]],
        partition: str | None,
    ) -> Write | None:
        positions = decode(state.positions)
        lists = {key: json.loads(value or b"[]") for key, value in values.items()}
        if partition is None:
            if all(positions.get(p, 0) >= self.cursor[p] for p in PARTITIONS):
                return None
            positions = {p: max(positions.get(p, 0), self.cursor[p]) for p in PARTITIONS}
        else:
            fresh = [(sequence, row) for sequence, row in rows if sequence >= positions.get(partition, 0)]
            if not fresh:
                return None
            for _, row in fresh:
                lists[row.key].append(row.number)
            positions[partition] = fresh[-1][0] + 1
        entities = [EntityWrite(key, {FIELD: json.dumps(rows).encode()}, None) for key, rows in lists.items()]
        return (shard, state.revision, self.rng.randbytes(8), json.dumps(positions).encode(), entities)


def check_every_row_once(store: OnlineStore, generation: str, log: Log) -> None:
    expected: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for rows in log.values():
        for row in rows:
            expected[row.shard, row.key].append(row.number)
    reads = [EntityRead(shard, key, (FIELD,)) for shard in SHARDS for key in (b"a", b"b", b"c")]
    found = store.read(generation, reads)
    for read, (value,) in zip(reads, found, strict=True):
        applied = sorted(json.loads(value or b"[]"))
        assert applied == sorted(expected[read.shard, read.key]), "a row was lost or applied twice"


@dataclass
class Backend:
    """A store, and the ways to keep its present state and to fall back to it."""

    store: OnlineStore
    keep: Callable[[], None]
    fall_back: Callable[[], None]


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "sqlite"])
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, start_server: Callable[..., EmbeddedServer]
) -> Iterator[Backend]:
    if request.param == "redis":
        redis = pytest.importorskip("redis")
        server = start_server()
        store: OnlineStore = extension("online", "redis")({"url": server.url})

        def save() -> None:
            with redis.Redis.from_url(server.url) as client:
                client.save()

        def crash() -> None:
            server.kill()
            server.start()

        save()
        yield Backend(store, save, crash)
        store.close()
        server.kill()
        return
    path, copy = tmp_path / "online.db", tmp_path / "copy.db"
    store = extension("online", "sqlite")({"path": str(path)})

    def copy_file() -> None:
        source, target = sqlite3.connect(path), sqlite3.connect(copy)
        source.backup(target)
        source.close()
        target.close()

    def restore_file() -> None:
        store.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, path)

    store.ping()
    copy_file()
    yield Backend(store, copy_file, restore_file)
    store.close()


def run_schedule(
    store: OnlineStore,
    seed: int,
    *,
    crashes: float = 0.03,
    backend: Backend | None = None,
    falls: int = 0,
    kind: type[Writer] = Writer,
) -> None:
    """Let three writers loose on one log as the seed says, then finish the log and check it."""
    rng = random.Random(seed)
    generation = f"g{seed}" if seed % 2 else lasting(f"g{seed}")  # of every other, entities are kept together
    log = make_log(30, rng)

    def born() -> Iterator[None]:
        return kind(store, generation, log, random.Random(rng.random())).steps()

    writers = [born() for _ in range(3)]
    turns = 400
    kept = sorted(rng.sample(range(turns), falls))
    fallen = {rng.randint(turn, turns - 1) for turn in kept}
    for turn in range(turns):
        if backend is not None and turn in kept:
            backend.keep()
        if backend is not None and turn in fallen:
            backend.fall_back()
        which = rng.randrange(len(writers))
        if rng.random() < crashes or next(writers[which], writers) is writers:
            writers[which] = born()  # it crashed where it stood, or was through: another one starts
    for _ in born():
        pass
    check_every_row_once(store, generation, log)


@pytest.mark.parametrize("crashes", [0.0, 0.03, 0.3], ids=["steady", "crashing", "hardly-alive"])
def test_every_row_counts_once_under_crashes_replays_and_rivals(backend: Backend, crashes: float) -> None:
    for seed in range(25):
        run_schedule(backend.store, seed, crashes=crashes)


def test_every_row_counts_once_when_the_store_loses_its_last_writes(backend: Backend) -> None:
    for seed in range(100, 125):
        run_schedule(backend.store, seed, backend=backend, falls=2)


class WithoutTokenCheck:
    """The same store, but whatever revision a shard has is taken for the expected one."""

    def __init__(self, store: OnlineStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def write(self, generation: str, writes: Sequence[Write]) -> list[bool]:
        states = self.store.shards(generation, [write[0] for write in writes])
        return self.store.write(
            generation,
            [(w[0], s.revision, *w[2:]) for w, s in zip(writes, states, strict=True)],
        )


def test_without_the_token_check_rows_are_lost_or_doubled(backend: Backend) -> None:
    """Shows that these schedules do find what the check prevents."""

    def run_all() -> None:
        for seed in range(25):
            run_schedule(WithoutTokenCheck(backend.store), seed)

    with pytest.raises(AssertionError, match="lost or applied twice"):
        run_all()


class TrustsItsCursor(Writer):
    """A writer that does not compare the positions that it reads with those that it knew."""

    def went_back(self, shard: int, state: ShardState) -> bool:
        return False


def test_a_writer_that_trusts_its_cursor_skips_what_the_store_lost(backend: Backend) -> None:
    """Why writers compare positions: a store that went back hands out a revision that is fresh to them."""

    def run_all() -> None:
        for seed in range(100, 125):
            run_schedule(backend.store, seed, backend=backend, falls=2, kind=TrustsItsCursor)

    with pytest.raises(AssertionError, match="lost or applied twice"):
        run_all()


@pytest.mark.redis
def test_every_row_counts_once_when_the_server_is_killed_under_a_write(
    start_server: Callable[..., EmbeddedServer],
) -> None:
    """Rows acknowledged are in the append-only file; of a write under way, all or nothing is."""
    server = start_server(appendonly=True)
    store = extension("online", "redis")({"url": server.url, "timeout": "2s"})
    log = make_log(600, random.Random(1))
    progress = threading.Semaphore(0)
    failures: list[BaseException] = []

    def write() -> None:
        rng = random.Random(2)
        while True:
            try:
                for _ in Writer(store, "g", log, rng).steps():
                    progress.release()
                return
            except StoreUnavailable:
                continue
            except BaseException as error:
                failures.append(error)
                raise

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(3):
        for _ in range(150):
            assert progress.acquire(timeout=30)
        assert thread.is_alive()
        server.kill()
        server.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert not failures
    check_every_row_once(store, "g", log)
    store.close()
    server.kill()


def process_log() -> Log:
    return make_log(1500, random.Random(5))


def start_process(config: dict[str, Any], seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(config), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_every_row_counts_once_with_processes_that_write_at_once_and_one_killed(
    online_store: OnlineStore, online_config: dict[str, Any]
) -> None:
    started = [start_process(online_config, seed) for seed in range(3)]
    for process in started:
        say_go(process)
    victim = started[0]
    assert victim.stdout is not None
    assert victim.stdout.readline() == "half way\n"
    victim.send_signal(signal.SIGKILL)
    outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [-signal.SIGKILL, 0, 0]
    conflicts = [int(output.split()[-1]) for output in outputs[1:]]
    assert sum(conflicts) > 0, "the processes never met"
    check_every_row_once(online_store, "g", process_log())


def main(config: dict[str, Any], seed: int) -> None:
    """One writing process: says when it is ready, half way and through, and how often it met another."""
    store = extension("online", config["kind"])(config)
    store.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    writer = Writer(store, "g", process_log(), random.Random(seed), batch=20)
    told = False
    for _ in writer.steps():
        if not told and min(writer.cursor.values()) > 500:
            print("half way", flush=True)
            told = True
    print("conflicts", writer.conflicts, flush=True)
    store.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
