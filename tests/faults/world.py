"""A tiny project for schedules: its actors, and what must be true in the middle of a schedule and at its end.

There are two kinds. In `positions` rows have no ids, so that one that is applied twice counts twice, and
`cutover` divides the halves. In `ids` events come by both halves, again, and are retracted.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import oracle
import polars as pl
import pytest
from faults.scheduler import Actor, Body, Line, Trace, running
from faults.stores import PointedOnline, PointedStream, acting, point_registry, pointed_delta

from featurestore import FeatureStore, generations, plans, streaming, tables
from featurestore.contracts import extension
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan
from featurestore.rows.identity import row_hash
from featurestore_engines.stream import local

Row = dict[str, Any]

START = datetime(2026, 3, 1, tzinfo=UTC)
CUTOVER = START + timedelta(hours=6)
ASKED = [int((START + timedelta(hours=h)).timestamp() * 1_000_000) for h in (2, 5.5, 7, 40)]
USERS = ("u0", "u1", "u2")
RETRACTS = 7

_SPECS = """
kind: Entity
name: user
---
kind: Source
name: clicks
event_time: at
ingest_time: known_at
{identity}
deleted: "units = 7"
schema: {{id: string, n: int64, user: string, at: timestamp, known_at: timestamp, units: int64, kind: string}}
batch: {{kind: parquet, path: "data/*.parquet"}}
stream: {{topic: clicks, options: {{partitions: 2}}}}
---
kind: FeatureSet
name: clicks
entities: [user]
source: clicks
history: all
steps:
  - select: [n, units, kind]
aggregations:
  - {{column: n, functions: [sum, count, last, max], windows: [1h, {window}]}}
  - {{column: kind, functions: [count_distinct], windows: [3h]}}
---
kind: FeatureVector
name: seen
features: [clicks.*]
"""
_IDENTITY = {"positions": f'cutover: "{CUTOVER.isoformat()}"', "ids": "event_id: id"}


def click(n: int, user: str | None, hours: float, *, late: float = 0.0, units: int = 1, of: int = -1) -> Row:
    """Return one click, known `late` hours after it happened; `of` is the number of the event that it is."""
    at = START + timedelta(hours=hours)
    known = at + timedelta(hours=late)
    said = {"id": f"e{n if of < 0 else of}", "n": n, "user": user, "at": at, "known_at": known}
    return said | {"units": units, "kind": "abc"[n % 3]}


BATCH = {
    "a": [
        click(1, "u0", 1),
        click(2, "u1", 1.5),
        click(3, "u2", 0.5),
        click(4, "u0", 1.2, units=RETRACTS, of=1),
        click(5, "u1", 5),
    ],
    "b": [
        click(6, "u0", 1.9),
        click(7, "u2", 5.5, late=0.2),
        click(8, None, 2),
        click(9, "u1", 9e4, late=1 - 9e4),  # of the year 2036, and known before that
        click(10, "u1", 5),
    ],
}
FRAME = [click(11, "u0", 5.25), click(12, "u2", 1.6)]
READ = [click(20, "u0", 6.5), click(21, "u1", 5, late=2, of=5), click(22, "u2", 6.9)]
UNREAD = [
    click(23, "u0", 6.6),
    click(24, "u1", 1.5, late=9, of=2, units=RETRACTS),
    click(25, "u2", 6.95),
    click(26, "u0", 1.95, late=20),
    click(27, "u1", 6.7),
]
PUSHED = [click(30, "u2", 6.2), click(31, "u0", 6.9)]
MALFORMED = b"no json"


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Return clicks as a frame."""
    return pl.DataFrame(list(rows), schema_overrides={"n": pl.Int64, "units": pl.Int64, "user": pl.String})


def message(row: Row) -> bytes:
    """Return a click as a producer's message."""
    return json.dumps({k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}).encode()


def _micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


@dataclass
class Look:
    """What a reader saw of a version, by user and instant, and the rows that had to be in it."""

    plan: SetPlan
    owed: frozenset[int]
    values: dict[str, list[dict[str, Any]]]


@dataclass
class World:
    """A project in a folder that every schedule finds as it was `prepare`d."""

    root: Path
    kind: str
    online: Mapping[str, Any]
    state: str = ""
    looks: list[Look] = field(default_factory=list)
    owed: set[int] = field(default_factory=set)
    _stores: list[FeatureStore] = field(default_factory=list)

    # Before

    def prepare(self, state: str) -> None:
        """Make the template: `fed` has history of both halves, `empty` none; `changed`, a new version.

        In `edited` the new version is declared, and not applied yet.
        """
        self.state = state
        shutil.rmtree(self.root, ignore_errors=True)
        project = self.root / "project"
        (project / "data").mkdir(parents=True)
        self._specs("2h")
        (project / "featurestore.yaml").write_text(
            json.dumps({"project": "world", "online": dict(self.online), "stream": {"kind": "log"}})
        )
        frame(BATCH["a"]).write_parquet(project / "data" / "a.parquet")
        with FeatureStore(project) as store:
            store.apply()
            self._append(store, READ)
            if state != "empty":
                store.ingest("clicks")
                store.drain()
            frame(BATCH["b"]).write_parquet(project / "data" / "b.parquet")
            self._append(store, UNREAD, MALFORMED)
            if state in ("changed", "edited"):
                self._specs("4h")
            if state == "changed":
                store.apply()
        shutil.copytree(project, self.root / "template")

    def _specs(self, window: str) -> None:
        text = _SPECS.format(identity=_IDENTITY[self.kind], window=window)
        (self.root / "project" / "specs.yaml").write_text(text)

    def _append(self, store: FeatureStore, rows: Sequence[Row], *more: bytes) -> None:
        topic = store.environment.stream(store.catalog.source("clicks"))
        messages = [(str(row["n"]).encode(), message(row)) for row in rows]
        topic.append([*messages, *((b"x", data) for data in more)])

    # Actors

    def bodies(self, names: Sequence[str]) -> dict[str, Body]:
        """Return the actors of these names; `ingest2` is another `ingest`."""
        return {name: self._acting(getattr(self, f"_{name.rstrip('0123456789')}")) for name in names}

    def _acting(self, body: Callable[[FeatureStore, Actor], None]) -> Body:
        def act(actor: Actor) -> None:
            store = FeatureStore(self.root / "project")
            self._stores.append(store)
            environment = store.environment
            point_registry(environment.registry, actor)
            environment.stream(store.catalog.source("clicks"))
            [(key, topic)] = environment._streams.items()
            environment._streams[key] = PointedStream(topic, actor, "clicks")  # type: ignore[assignment]
            environment.__dict__["online"] = PointedOnline(environment.online, actor)
            with acting(actor):
                body(store, actor)

        return act

    def _ingest(self, store: FeatureStore, _: Actor) -> None:
        store.ingest("clicks")
        self.owed |= {row["n"] for file in BATCH.values() for row in file}

    def _frame(self, store: FeatureStore, _: Actor) -> None:
        store.ingest("clicks", frame(FRAME))
        self.owed |= {row["n"] for row in FRAME}

    def _materialize(self, store: FeatureStore, _: Actor) -> None:
        store.materialize("clicks")

    def _promote(self, store: FeatureStore, _: Actor) -> None:
        store.apply(promote=True)

    def _compact(self, store: FeatureStore, _: Actor) -> None:
        store.compact()

    def _drain(self, store: FeatureStore, _: Actor) -> None:
        owed = {row["n"] for _, row in self._log(self._topic(store)._source) if row}
        store.drain()
        self.owed |= owed

    def _stream(self, store: FeatureStore, _: Actor) -> None:
        """A stream that looks for new generations after every step, and stops after a few."""
        jobs = streaming._Jobs(store, "clicks", extension("engines", "local"), is_running=True)
        topic = self._topic(store)
        local.run(jobs.job, topic, _StopsAfter(4), changed=jobs.changed, counts=local.Counts())
        jobs.rest()

    def _topic(self, store: FeatureStore) -> Any:
        return store.environment.stream(store.catalog.source("clicks"))

    def _push(self, store: FeatureStore, _: Actor) -> None:
        assert not store.push("clicks", PUSHED).refused

    def _look(self, store: FeatureStore, _: Actor) -> None:
        for _ in range(2):
            store.catalog.forget()
            if self.state == "changed" and not generations.is_served(
                store, store.catalog.feature_set("clicks")
            ):
                continue  # a version that was applied without being filled has no values yet
            owed = frozenset(self.owed)
            reader = store.reader("seen")
            asked = [{"user": user} for user in USERS for _ in ASKED]
            result = reader.read(asked, as_of=ASKED * len(USERS))
            assert not any(result.errors), result.errors
            names = [field.name for field in result.columns]
            rows = iter(dict(zip(names, values, strict=True)) for values in result.rows)
            [lookup] = reader.plan.lookups
            self.looks.append(Look(lookup.set, owed, {user: [next(rows) for _ in ASKED] for user in USERS}))

    # After

    @contextmanager
    def ran(self, names: Sequence[str], line: Line) -> Iterator[Trace]:
        """Run a schedule from the template on."""
        self.looks, self.owed = [], set()
        project = self.root / "project"
        shutil.rmtree(project)
        shutil.copytree(self.root / "template", project)
        try:
            with running(self.bodies(names), line) as trace:
                yield trace
        finally:
            for store in self._stores:
                store.close()
            self._stores = []

    def check(self, *, clean: bool = True, verify: bool = False) -> None:
        """Raise AssertionError unless all is as it must be; settles what was not applied yet.

        `clean`: nobody died, so nothing may lie about.
        """
        with FeatureStore(self.root / "project") as store:
            plan = store.catalog.feature_set("clicks")
            served = store.environment.registry.serving_generation(
                "world", "clicks", plan.state_fingerprint, store.environment.online_identity
            )
            if served is not None:
                self._look_plainly(store)
            if any({row["n"] for row in file} - self.owed for file in BATCH.values()):
                store.ingest("clicks")
                self.owed |= {row["n"] for file in BATCH.values() for row in file}
            if self._is_behind(store, plan):
                store.drain()
            log = self._log(store.environment.stream(plan.source))
            by_partition = self._by_partition(store, plan)
            self._check_offline(store, by_partition, log)
            self.owed |= {row["n"] for _, row in log if row is not None}
            self._look_plainly(store)
            for look in self.looks:
                self._check_look(look, by_partition)
            self._check_positions(store, plan)
            if clean:
                self._check_tidy(store)
            if verify:
                assert store.verify(sample=20).is_equal

    def _is_behind(self, store: FeatureStore, plan: SetPlan) -> bool:
        """Tell whether some store lacks records of the topic."""
        job = streaming._Jobs(store, "clicks", extension("engines", "local")).job()
        topic = store.environment.stream(plan.source)
        return any(job.start(name) < topic.reader(name, None).end() for name in topic.partitions())

    def _look_plainly(self, store: FeatureStore) -> None:
        self._look(store, None)  # type: ignore[arg-type]

    def _log(self, topic: Any) -> list[tuple[str, Row | None]]:
        """Return the topic's rows with their partitions; None for what is malformed."""
        found = []
        for partition in topic.partitions():
            reader = topic.reader(partition, None)
            reached, end = 0, reader.end()
            while reached < end:
                batch = reader.poll(1000, 1.0)
                assert batch is not None
                reached = batch.next_sequence
                found += [(partition, _said(record.value)) for record in batch.records]
            reader.close()
        return found

    def _rows(self, log: Sequence[tuple[str, Row | None]]) -> list[Row]:
        """Return all rows that were given to the store, by either half."""
        batch = [row for file in BATCH.values() for row in file]
        batch += [row for row in FRAME if row["n"] in self.owed]
        batch = [row for row in batch if row["at"].year == START.year]
        stream = [row for _, row in log if row is not None]
        if self.kind == "positions":
            batch = [row for row in batch if row["known_at"] < CUTOVER]
            stream = [row for row in stream if row["known_at"] >= CUTOVER]
        return batch + stream

    def _check_offline(
        self,
        store: FeatureStore,
        by_partition: Mapping[str, Sequence[tuple[str, int]]],
        log: Sequence[tuple[str, Row | None]],
    ) -> None:
        expected = Counter(row["n"] for row in self._rows(log) if row["user"] is not None)
        found = Counter(n for rows in by_partition.values() for _, n in rows)
        assert found == expected, f"offline: lost {expected - found}, doubled {found - expected}"
        dead = store.environment.offline.table(tables.DEAD_LETTERS)
        snapshot = dead.snapshot()
        assert snapshot is not None
        rows = dead.lazy(snapshot).collect()
        codes = Counter(rows["code"].to_list())
        assert codes == Counter(future=1, malformed=1), f"dead letters: {codes}"

    def _by_partition(self, store: FeatureStore, plan: SetPlan) -> dict[str, list[tuple[str, int]]]:
        """Return the user and number of the offline rows of every partition, in order."""
        table = store.environment.rows_table(plan)
        snapshot = table.snapshot()
        assert snapshot is not None
        rows = table.lazy(snapshot, schema=plan.columns).collect().sort(plans.SEQUENCE)
        found: dict[str, list[tuple[str, int]]] = {}
        for partition, user, n in rows.select(plans.PARTITION, "user", "n").iter_rows():
            found.setdefault(partition, []).append((user, n))
        return found

    def _check_look(self, look: Look, by_partition: Mapping[str, Sequence[tuple[str, int]]]) -> None:
        """A user's values at all instants are of one prefix of each partition, with all that is owed."""
        for user, got in look.values.items():
            mine = [[n for who, n in rows if who == user] for rows in by_partition.values()]
            owed = look.owed & {n for rows in mine for n in rows}
            for lengths in itertools.product(*(range(len(rows), -1, -1) for rows in mine)):
                applied = [n for rows, length in zip(mine, lengths, strict=True) for n in rows[:length]]
                if owed <= set(applied) and got == _expected(
                    look.plan, self.kind, user, tuple(sorted(applied))
                ):
                    break
            else:
                everything = sorted(n for rows in mine for n in rows)
                wanted = _expected(look.plan, self.kind, user, tuple(everything))
                raise AssertionError(
                    f"{user}: no prefix of {mine} with {sorted(owed)} gives\n {got},\nall give\n {wanted}"
                )

    def _check_positions(self, store: FeatureStore, plan: SetPlan) -> None:
        """Every store says the same of how far it is, and that is the end."""
        offline = store.environment.offline
        table = store.environment.rows_table(plan)
        reached = tables.row_partitions(table.positions(table.snapshot()))
        topic = store.environment.stream(plan.source)
        landing = offline.table(tables.landing_table(plan.source))
        for partition in topic.partitions():
            assert reached[partition] == topic.reader(partition, None).end()
            assert landing.position(landing.snapshot(), partition) == reached[partition]
        writer = OnlineWriter(plan, store.environment.online, store.catalog.serving(plan))
        for shard, positions in writer.positions().items():
            behind = {name: end for name, end in reached.items() if positions.get(name, 0) < end}
            assert not behind, f"shard {shard} is at {positions}, the table at {reached}"

    def _check_tidy(self, store: FeatureStore) -> None:
        """No generation is left half made, and no file of a compaction that no table names.

        The data file of a commit that lost its race stays until `vacuum`: deltalake does not say its name.
        """
        statuses = Counter(
            found.status for found in store.environment.registry.generations("world", "clicks")
        )
        assert not statuses["building"] + statuses["following"], statuses
        for name in store.environment.offline.tables():
            folder = self.root / "project" / ".featurestore" / "offline" / name
            written = {str(path.relative_to(folder)) for path in folder.glob("*/**/*.parquet")}
            commits = [commit.read_text().splitlines() for commit in (folder / "_delta_log").glob("*.json")]
            lines = [json.loads(line) for commit in commits for line in commit]
            named = {line["add"]["path"] for line in lines if "add" in line}
            assert written <= named, f"{name}: files of nobody: {written - named}"


class _StopsAfter(Event):
    """Is set once it has been asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def _said(value: bytes | None) -> Row | None:
    assert value is not None
    if value == MALFORMED:
        return None
    row = json.loads(value)
    return row | {name: datetime.fromisoformat(row[name]) for name in ("at", "known_at")}


_ALL = {row["n"]: row for row in [*itertools.chain(*BATCH.values()), *FRAME, *READ, *UNREAD, *PUSHED]}
_memory: dict[tuple[str, str, str, tuple[int, ...]], list[dict[str, Any]]] = {}


def _expected(plan: SetPlan, kind: str, user: str, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a user's values at every instant that is asked for, after these rows, by the oracle."""
    key = (plan.state_fingerprint, kind, user, numbers)
    if key not in _memory:
        rows = [_fact(plan, kind, _ALL[n]) for n in numbers]
        _memory[key] = [
            {name: cell.value for name, cell in oracle.expected_cells(plan, rows, user, t).items()}
            for t in ASKED
        ]
    return _memory[key]


def _fact(plan: SetPlan, kind: str, row: Row) -> Row:
    raw = row | {"at": _micros(row["at"]), "known_at": _micros(row["known_at"])}
    fact = {
        **raw,
        "__key": row["user"],
        "__event_time": raw["at"],
        "__ingest_time": raw["known_at"],
        "__row_hash": row_hash(raw, plan.source.schema),
        "__deleted": row["units"] == RETRACTS,
    }
    return fact | {"__event_id": row["id"]} if kind == "ids" else fact


@contextmanager
def world(kind: str, state: str, online: Mapping[str, Any] | None = None) -> Iterator[World]:
    """Yield a prepared world in memory (where there is such a folder), its Delta calls pointed."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="world-", dir=memory if os.access(memory, os.W_OK) else None)
    try:
        made = World(Path(folder) / "w", kind, online or {"kind": "sqlite"})
        made.prepare(state)
        with pointed_delta(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(local, "POLL_SECONDS", 0.0)
            patch.setattr(streaming, "_LOOK_SECONDS", -1.0)
            patch.setattr(generations, "_NOTICE_SECONDS", 0.0)
            yield made
    finally:
        shutil.rmtree(folder)
