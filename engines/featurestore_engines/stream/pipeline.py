"""What a stream does with records, whatever runs it: decode, door, landing, steps, offline and online.

`Preparation` turns a batch of records into rows; no row depends on those before it. `OfflineSink` gathers
rows and commits them with their positions. `OnlineSink` writes shards. Runners (`local`, `bytewax`) only
move what these make, so that another engine can take their place.

Every store remembers for itself how far it has applied each partition and drops what it has, so a crash
anywhere, a replay or a second stream changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from featurestore import instants, plans, tables
from featurestore.contracts import OfflineTable, RecordBatch, Snapshot, StreamReader
from featurestore.instants import format_instant
from featurestore.keys import SHARDS
from featurestore.metrics import Metrics
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan, SourcePlan
from featurestore.rows.door import admit
from featurestore.rows.json import decode_batches
from featurestore.rows.transform import transform
from featurestore_engines.batch.materialize import fill
from featurestore_engines.stream.progress import IN_FLIGHT_BYTES, Progress

MAX_RECORDS = 200_000
"""The most that is read at once. An entity's state is written once for all of its rows in a batch."""
FLUSH_ROWS = 250_000
FLUSH_BYTES = 256 * 1024 * 1024
FLUSH_SECONDS = 60.0
WATCH_SECONDS = 5.0
LANDING = "landing"
DEAD_LETTERS = "dead_letters"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """One feature set that a stream keeps: its offline table and the generations that it feeds."""

    plan: SetPlan
    table: OfflineTable
    writers: tuple[OnlineWriter, ...]

    @property
    def name(self) -> str:
        """The set and the version of its state."""
        return f"{self.plan.name}-{self.plan.rows_fingerprint}-{self.plan.state_fingerprint}"


@dataclass(frozen=True)
class Job:
    """A stream source, the feature sets that it keeps, and how often it commits to the offline tables."""

    source: SourcePlan
    targets: tuple[Target, ...]
    landing: OfflineTable
    dead_letters: OfflineTable
    commit_rows: int | None = None
    commit_seconds: float | None = None

    def start(self, partition: str) -> int:
        """Return the lowest position of the partition in any store: where reading begins."""
        positions = [
            self.landing.position(self.landing.snapshot(), partition),
            letters_reached(self.dead_letters, self.dead_letters.snapshot(), self.source, partition),
        ]
        for target in self.targets:
            positions.append(target.table.position(target.table.snapshot(), partition))
            positions += [writer.lowest(partition) for writer in target.writers]
        return min(positions)

    @property
    def feeds(self) -> str:
        """What is fed: every target with its generations."""
        return " ".join(
            sorted(
                f"{target.name}:{','.join(w.generation for w in target.writers)}" for target in self.targets
            )
        )

    def applied(self) -> dict[str, int]:
        """Return by partition how far every store has come, as `start` of all partitions would."""
        stores = [self.landing, *(target.table for target in self.targets)]
        known: list[Mapping[str, int]] = [table.positions(table.snapshot()) for table in stores]
        refused = self.dead_letters.snapshot()
        for target in self.targets:
            for writer in target.writers:
                known += writer.positions().values()
        names = tables.row_partitions(known[0])
        known.append({n: letters_reached(self.dead_letters, refused, self.source, n) for n in names})
        return {name: min(positions.get(name, 0) for positions in known) for name in names}


@dataclass(frozen=True)
class Checked:
    """How many rows of a set's version came, and how many of them each check found wrong."""

    feature_set: str
    rows_fingerprint: str
    is_latest: bool
    rows: int
    failed: Mapping[str, int]


class Counts:
    """What went through a source's stream since it started; safe to add to from several threads.

    Beside the counts it keeps the measurements and the progress that probes and metrics show.
    """

    def __init__(self, source: str = "") -> None:
        self.source = source
        self.metrics = Metrics()
        self.progress = Progress()
        self._lock = Lock()
        self._numbers: dict[str, int] = {}
        self._checked: dict[tuple[str, str], Checked] = {}

    def add(self, **numbers: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            for name, number in numbers.items():
                self._numbers[name] = self._numbers.get(name, 0) + number

    def add_checked(self, found: Sequence[Checked]) -> None:
        """Add what checks found; the report has that of the latest version of each set."""
        for item in found:
            self.keep_checked(item)
            if item.is_latest:
                self.add(**{f"check_{item.feature_set}.{name}": n for name, n in item.failed.items()})

    def keep_checked(self, item: Checked) -> None:
        """Add what checks found to what `take_checked` returns."""
        key = (item.feature_set, item.rows_fingerprint)
        with self._lock:
            before = self._checked.get(key, replace(item, rows=0, failed={}))
            failed = {name: before.failed.get(name, 0) + n for name, n in item.failed.items()}
            rows = before.rows + item.rows
            self._checked[key] = replace(item, rows=rows, failed={**before.failed, **failed})

    def take_checked(self) -> list[Checked]:
        """Return what checks found since this was last called, by version."""
        with self._lock:
            taken, self._checked = self._checked, {}
        return list(taken.values())

    def __getitem__(self, name: str) -> int:
        return self._numbers.get(name, 0)

    def observe(self, name: str, values: Any) -> None:
        """Add to the source's histogram `featurestore_stream_<name>`."""
        self.metrics.observe(f"featurestore_stream_{name}", values, source=self.source)

    def increment(self, name: str) -> None:
        """Add one to the source's counter `featurestore_stream_<name>`."""
        self.metrics.add(f"featurestore_stream_{name}", source=self.source)

    def to_dict(self) -> dict[str, int]:
        """Return the counts: records, rejected and its reasons, applied, duplicates, conflicts, committed.

        `out_of_order` (applied all the same), `null_key` (rows without an entity, by set), `filtered`,
        `cutover` (rows that belong to the other half), ambiguous and nonexistent local times.
        And `check_<set>.<check>`, the rows that a `validate` check found wrong.
        """
        with self._lock:
            return dict(self._numbers)


@dataclass(frozen=True)
class Prepared:
    """Consecutive records of some partitions as rows: for landing, for each target, and dead letters.

    `positions` tells how far each partition has been read with them, `sequences` and `times` what its
    records have.
    """

    positions: Mapping[str, int]
    records: int
    landing: pl.DataFrame
    dead: pl.DataFrame
    sets: dict[str, pl.DataFrame]
    checked: tuple[Checked, ...]
    counts: Mapping[str, int]
    sequences: Mapping[str, np.ndarray]
    times: Mapping[str, np.ndarray]

    def times_of(self, rows: pl.DataFrame) -> np.ndarray:
        """Return when the broker took the records that the rows were made of, in microseconds."""
        made_of: np.ndarray = rows[plans.SEQUENCE].to_numpy()
        found = np.zeros(rows.height, np.int64)
        for partition, sequences in self.sequences.items():
            mine = (rows[plans.PARTITION] == partition).to_numpy()
            found[mine] = self.times[partition][np.searchsorted(sequences, made_of[mine])]
        return found


def _together(dead: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return all dead letters, each once: two versions of a set may refuse alike."""
    found = [letters for letters in dead if letters.height]
    return pl.concat(found).unique(maintain_order=True) if found else dead[0]


def gather(
    readers: Sequence[StreamReader],
    progress: Progress,
    max_records: int,
    timeout: float = 0.0,
    may_read: Callable[[str], bool] = lambda _: True,
) -> list[RecordBatch]:
    """Return what partitions have, their fair shares of `max_records`; none where nothing came in `timeout`.

    Those behind one that filled the memory there is for a batch wait for the next.
    """
    each, size = max(1, max_records // max(1, len(readers))), 0
    batches: list[RecordBatch] = []
    for reader in readers:
        if size >= IN_FLIGHT_BYTES:
            break
        if may_read(reader.partition):
            batch = reader.poll(each, 0.0 if batches else timeout / len(readers))
            if batch is not None:
                size += progress.read(batch)
                batches.append(batch)
    return batches


class Preparation:
    """Turns records into rows of every target."""

    def __init__(self, job: Job, clock: Callable[[], int]) -> None:
        self._job = job
        self._clock = clock
        self._newest: dict[str, int] = {}  # event time by partition, for a count alone

    def prepare(self, batches: Sequence[RecordBatch]) -> Prepared:
        """Return the rows and dead letters of batches. One bad record costs only itself."""
        frame, malformed = decode_batches(self._job.source, batches)
        now = self._clock()
        admitted = admit(self._job.source, frame, now=now)
        instant = pl.lit(now).cast(pl.Datetime("us", "UTC"))
        dead = [admitted.rejected]
        if malformed.height:
            dead.insert(0, malformed.with_columns(pl.col("ingest_time").fill_null(instant)))
        sets: dict[str, pl.DataFrame] = {}
        by_rows: dict[str, pl.DataFrame] = {}
        checked: list[Checked] = []
        counts = {name: n for name, n in admitted.counts.items() if name not in ("rows", "rejected")}
        counts["out_of_order"] = self._out_of_order(batches, admitted.rows)
        seen: set[str] = set()
        for target in self._job.targets:
            fingerprint = f"{target.plan.name}-{target.plan.rows_fingerprint}"
            if fingerprint not in by_rows:
                done = transform(target.plan, admitted.rows)
                by_rows[fingerprint] = done.rows
                dead.append(done.rejected)
                is_latest = target.plan.name not in seen
                seen.add(target.plan.name)
                for name in ("null_key", "filtered") if is_latest else ():
                    counts[name] = counts.get(name, 0) + done.counts[name]
                if done.checks:
                    plan, rows = target.plan, admitted.rows.height
                    found = Checked(plan.name, plan.rows_fingerprint, is_latest, rows, done.checks)
                    checked.append(found)
            sets[target.name] = by_rows[fingerprint]
        return Prepared(
            {batch.partition: batch.next_sequence for batch in batches},
            sum(len(batch.records) for batch in batches),
            admitted.rows,
            _together(dead),
            sets,
            tuple(checked),
            {name: number for name, number in counts.items() if number},
            {b.partition: np.array([record.sequence for record in b.records], np.int64) for b in batches},
            {
                b.partition: np.array([now if r.time is None else r.time for r in b.records], np.int64)
                for b in batches
            },
        )

    def _out_of_order(self, batches: Sequence[RecordBatch], rows: pl.DataFrame) -> int:
        """Return how many rows happened before one that came earlier by their partition, since the start."""
        count = 0
        times, partitions = rows[plans.EVENT_TIME].cast(pl.Int64).to_numpy(), rows[plans.PARTITION]
        for batch in batches:
            mine = times
            if len(batches) > 1:
                mine = times[(partitions == batch.partition).to_numpy()]
            if len(mine):
                newest = self._newest.get(batch.partition, int(mine[0]))
                so_far = np.maximum.accumulate(np.append(newest, mine))
                self._newest[batch.partition] = int(so_far[-1])
                count += int((mine < so_far[:-1]).sum())
        return count


@dataclass
class Gathered:
    """Rows by table that are committed together, with the positions that they end at."""

    frames: dict[str, list[pl.DataFrame]]
    positions: dict[str, int]
    records: int


class OfflineSink:
    """Gathers rows and commits them, with positions, to landing, the sets' tables and the dead letters."""

    def __init__(self, job: Job, counts: Counts, clock: Callable[[], float] = time.monotonic) -> None:
        self._tables: dict[str, OfflineTable] = {LANDING: job.landing, DEAD_LETTERS: job.dead_letters}
        self._source = job.source
        for target in job.targets:
            self._tables.setdefault(_rows_name(target), target.table)
        self._targets = {_rows_name(target): target.name for target in job.targets}
        self._waiting: dict[str, list[pl.DataFrame]] = {name: [] for name in self._tables}
        self._positions: dict[str, int] = {}
        self._taken: Gathered | None = None
        self._counts = counts
        self._clock = clock
        self._flush_rows = job.commit_rows or FLUSH_ROWS
        self._flush_seconds = FLUSH_SECONDS if job.commit_seconds is None else job.commit_seconds
        self._rows = 0
        self._bytes = 0
        self._since = clock()

    @property
    def waiting(self) -> int:
        """How many records await the next commit."""
        return self._rows

    def add(self, prepared: Prepared) -> None:
        """Take rows; they are not durable yet."""
        if not self._positions:
            self._since = self._clock()
        self._waiting[LANDING].append(prepared.landing)
        self._waiting[DEAD_LETTERS].append(prepared.dead)
        for name, target in self._targets.items():
            self._waiting[name].append(prepared.sets[target])
        self._bytes += sum(int(frames[-1].estimated_size()) for frames in self._waiting.values())
        for name, end in prepared.positions.items():
            self._positions[name] = max(end, self._positions.get(name, 0))
        self._rows += prepared.records
        reasons = {f"rejected_{code}": n for code, n in prepared.dead["code"].value_counts().iter_rows()}
        self._counts.add(records=prepared.records, rejected=prepared.dead.height, **reasons)
        self._counts.add(**prepared.counts)
        if reasons:
            told = ", ".join(f"{number} {name.removeprefix('rejected_')}" for name, number in reasons.items())
            log.warning("Refused of %s, as dead letters: %s", ", ".join(prepared.positions), told)
        self._counts.add_checked(prepared.checked)

    def due_in(self) -> float | None:
        """Return the seconds until a commit is due by time; None where nothing waits."""
        return self._flush_seconds - (self._clock() - self._since) if self._positions else None

    def is_due(self) -> bool:
        """Whether a commit is due, by rows, by bytes or by time."""
        due_in = self.due_in()
        is_full = self._rows >= self._flush_rows or self._bytes >= FLUSH_BYTES
        return is_full or (due_in is not None and due_in <= 0)

    def flush(self) -> dict[str, int]:
        """Commit everything gathered; return the positions that are durable now."""
        self._taken = self._taken or self.take()
        done = self.commit(self._taken)
        self._taken = None
        return done

    def take(self) -> Gathered:
        """Return everything gathered, to be committed; what is added from now on is not among it."""
        taken = Gathered(self._waiting, self._positions, self._rows)
        self._waiting, self._positions = {name: [] for name in self._tables}, {}
        self._rows = self._bytes = 0
        return taken

    def commit(self, taken: Gathered) -> dict[str, int]:
        """Commit what was taken; return its positions. Where that failed it may be tried again."""
        if not taken.positions:
            return {}
        started = time.perf_counter()
        for name, table in self._tables.items():
            if taken.frames[name]:  # else an earlier attempt came so far
                rows = pl.concat(taken.frames[name])
                letters_of = self._source if name == DEAD_LETTERS else None
                self._counts.add(committed=commit(table, rows, taken.positions, letters_of))
                taken.frames[name] = []
        seconds = time.perf_counter() - started
        self._counts.observe("commit_seconds", seconds)
        log.debug(
            "committed %d records of %s in %.3f s: %s",
            taken.records, self._counts.source, seconds, taken.positions,
        )  # fmt: skip
        return taken.positions


class OnlineSink:
    """Writes a target's rows to the generations that it feeds."""

    def __init__(self, job: Job, counts: Counts) -> None:
        self._writers = {target.name: target.writers for target in job.targets}
        self._counts = counts

    def apply(self, target: str, rows: pl.DataFrame, positions: Mapping[str, int], times: np.ndarray) -> None:
        """Apply rows of whole shards, up to the positions. `times` are those of the rows' records."""
        for writer in self._writers[target]:
            started = time.perf_counter()
            applied = writer.apply(rows, positions)
            self._counts.observe("batch_seconds", time.perf_counter() - started)
            self._counts.add(applied=applied.rows, duplicates=applied.duplicates, conflicts=applied.conflicts)
            if applied.rows:
                ages = np.maximum(instants.now() - times, 0) / instants.SECOND
                self._counts.observe("freshness_seconds", ages)

    def checkpoint(self, positions: Mapping[str, int], shards: Sequence[int] = range(SHARDS)) -> None:
        """Record positions in these shards, those without rows included."""
        for writers in self._writers.values():
            for writer in writers:
                self._counts.add(conflicts=writer.checkpoint(positions, shards))


class Watch:
    """Looks now and then for what online stores have lost, which no event may ever touch again."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self._writers = [writer for target in job.targets for writer in target.writers]
        self._clock = clock
        self._due = clock() + WATCH_SECONDS

    def look(self) -> None:
        """Raise StoreWentBack where a store has lost what was seen in it; looks every few seconds."""
        now = self._clock()
        if now >= self._due:
            self._due = now + WATCH_SECONDS
            for writer in self._writers:
                writer.watch()


def letters_reached(
    table: OfflineTable, snapshot: Snapshot | None, source: SourcePlan, partition: str
) -> int:
    """Return how far the dead letters of a source's partition go; once they were not told apart by source."""
    own = table.position(snapshot, tables.letters_position(source.name, partition))
    return own or table.position(snapshot, partition)


def commit(
    table: OfflineTable,
    rows: pl.DataFrame,
    positions: Mapping[str, int],
    letters_of: SourcePlan | None = None,
) -> int:
    """Commit the rows that the table lacks, and positions; return how many rows were new.

    Reads the positions and commits on one snapshot; reads again when another commit came first. The rows
    have `__partition` and `__sequence`, or the dead letters' `partition` and `sequence`; those of
    `letters_of` have positions of their own, beside those of sources that share the topic.
    """
    partition, sequence = (
        (plans.PARTITION, plans.SEQUENCE) if plans.PARTITION in rows.columns else ("partition", "sequence")
    )
    while True:
        snapshot = table.snapshot()
        known = {
            name: table.position(snapshot, name)
            if letters_of is None
            else letters_reached(table, snapshot, letters_of, name)
            for name in positions
        }
        fresh = {name: end for name, end in positions.items() if end > known[name]}
        if letters_of is not None:
            fresh = {tables.letters_position(letters_of.name, name): end for name, end in fresh.items()}
        if not fresh:
            return 0
        lacking = rows
        if any(known.values()):
            floor = pl.col(partition).replace_strict(
                list(known), list(known.values()), default=0, return_dtype=pl.Int64
            )
            lacking = rows.filter(pl.col(sequence) >= floor)
        data: pa.Table = lacking.to_arrow(compat_level=pl.CompatLevel.oldest())
        if table.append(snapshot, data, fresh) is not None:
            return lacking.height


def catch_up(job: Job) -> None:
    """Bring the sets' tables up to landing, and their generations up to the tables, without the broker.

    So a new version, or a generation that lost writes, does not depend on how long the broker keeps records.
    """
    snapshot = job.landing.snapshot()
    ends = {} if snapshot is None else tables.row_partitions(job.landing.positions(snapshot))
    for target in job.targets:
        for partition, end in ends.items():
            assert snapshot is not None
            low = target.table.position(target.table.snapshot(), partition)
            while low < end:
                high = min(_first(job.landing, snapshot, partition, low, end) + FLUSH_ROWS, end)
                landed = job.landing.lazy(
                    snapshot, cut={partition: high}, since={partition: low}, schema=job.source.schema
                )
                made = transform(target.plan, landed.collect())
                if made.rejected.height:
                    place = tables.landed_letters(partition, target.plan)
                    commit(job.dead_letters, made.rejected, {place: high})
                commit(target.table, made.rows, {partition: high} | _lacking(job, target, partition, low))
                low = high
        for writer in target.writers:
            fill(target.plan, target.table, writer)
            writer.mark()


def _lacking(job: Job, target: Target, partition: str, low: int) -> dict[str, int]:
    """Return the note, for the set's table, that landing lacks rows from `low` on; none where it has all."""
    gone = job.landing.forgotten(job.landing.snapshot())
    if gone is None or gone.positions.get(partition, 0) <= low:
        return {}
    log.warning(
        "Version %s of '%s' lacks rows of %s that became known before %s: landing no longer has them.",
        target.plan.rows_fingerprint,
        target.plan.name,
        partition,
        format_instant(gone.before),
    )
    return {tables.FORGOTTEN: gone.before}


def retrying(counts: Counts, trouble: str) -> None:
    """Note that a store or the broker does not answer, and is tried again."""
    counts.increment("retries_total")
    counts.progress.failed(trouble)


def _first(landing: OfflineTable, snapshot: Snapshot, partition: str, low: int, end: int) -> int:
    """Return the sequence of the first row from `low` on, else `end`: topics need not begin at 0."""
    if end - low <= FLUSH_ROWS:
        return low
    rows = landing.lazy(snapshot, [plans.SEQUENCE], cut={partition: end}, since={partition: low})
    first = rows.select(pl.col(plans.SEQUENCE).min()).collect().item()
    return end if first is None else int(first)


def _rows_name(target: Target) -> str:
    return f"{target.plan.name}-{target.plan.rows_fingerprint}"


@dataclass(frozen=True)
class StreamEngine:
    """What the core asks of a stream engine: how it runs jobs, drains one in place, reads what has landed."""

    run: Callable[..., None]
    drain: Callable[..., Counts]
    catch_up: Callable[[Job], None] = catch_up
    has_clusters: bool = False

    @staticmethod
    def counts(source: str = "") -> Counts:
        """Return counts of a source, to hand to `run`."""
        return Counts(source)

    @staticmethod
    def job(
        source: SourcePlan,
        targets: Sequence[tuple[SetPlan, OfflineTable, tuple[OnlineWriter, ...]]],
        landing: OfflineTable,
        dead_letters: OfflineTable,
        *,
        commit_rows: int | None = None,
        commit_seconds: float | None = None,
    ) -> Job:
        """Return the job of a source and the sets that it keeps.

        It commits to the offline tables after so many rows or seconds (default, FLUSH_ROWS, FLUSH_SECONDS).
        """
        made = tuple(Target(*target) for target in targets)
        return Job(source, made, landing, dead_letters, commit_rows, commit_seconds)
