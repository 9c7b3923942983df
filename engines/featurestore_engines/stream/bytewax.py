"""The Bytewax runner: partitions are read, rows are routed by shard, each shard has one writer.

The operators are those of `pipeline`; the dataflow only moves what they make. Bytewax's own recovery
stays off: every store knows its positions (DESIGN 8). Positions of idle shards travel the same way as
rows, so that none is recorded before the rows below it.

Bytewax reads a partition only when all of its earlier epochs have left the dataflow, on every worker of
every process. That is what tells `Progress` that rows are applied, and what holds a partition back
whose rows are not. When one process ends, for whatever reason, it tells the others through the dataflow,
which ends when all partitions have; so the processes of a cluster start anew together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event, Lock
from typing import TypeVar

import bytewax.operators as op
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.run import cli_main

from featurestore import instants, plans
from featurestore.contracts import StreamReader, StreamSource
from featurestore.errors import FeatureStoreError, StoreUnavailable
from featurestore.keys import SHARDS
from featurestore_engines.stream.local import drain
from featurestore_engines.stream.patience import GIVE_UP_SECONDS, Patience
from featurestore_engines.stream.pipeline import (
    MAX_RECORDS,
    Counts,
    Gathered,
    Job,
    OfflineSink,
    OnlineSink,
    Preparation,
    Prepared,
    StreamEngine,
    Watch,
    catch_up,
    gather,
    retrying,
)

log = logging.getLogger(__name__)

LANES = 16
"""Groups of shards in a cluster; each has one writer, on the worker that Bytewax assigns to it."""

Cluster = tuple[tuple[str, ...], int]
"""The addresses of the processes that run a dataflow together, and which of them this is."""

Result = TypeVar("Result")
_IDLE_SECONDS = 0.01
_NAP_SECONDS = 0.005
_LINGER_SECONDS = 0.01
_FEW = 2_000
_SET_BACK_SECONDS = 0.5
_AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH = timedelta(milliseconds=200)


@dataclass(frozen=True)
class Piece:
    """Rows of one target in the shards of one lane; without a target, a checkpoint of all its shards.

    `feeds` is what the job feeds that read them: positions reach back as far as those stores need.
    """

    feeds: str
    target: str | None
    rows: pl.DataFrame | None
    positions: Mapping[str, int]
    times: np.ndarray | None = None


class _Run:
    """What the workers of this process share in one run of a dataflow: why it ends, if it does.

    An exception that leaves an operator makes Bytewax panic, and hides its type: the first error is kept
    here, after it nothing more is applied, and the flow ends.
    """

    def __init__(self, ends: Callable[[], bool]) -> None:
        self.error: FeatureStoreError | None = None
        self.others_end = Event()
        self._ends = ends
        self._ahead = time.time() - time.monotonic()
        self._is_set_back = False

    def attempt(self, work: Callable[[], Result], otherwise: Result) -> Result:
        """Return what `work` does; `otherwise` where it fails, or something has failed before."""
        if self.error is None:
            try:
                return work()
            except FeatureStoreError as error:
                self.error = error
        return otherwise

    def is_over(self) -> bool:
        """Whether this process is to read no more."""
        return (
            self.error is not None
            or self.others_end.is_set()
            or self.attempt(self._ends, True)
            or self._was_set_back()
        )

    def _was_set_back(self) -> bool:
        """Whether the wall clock went back, by which Bytewax ends its epochs: none would end for as long."""
        ahead = time.time() - time.monotonic()
        went = self._ahead - ahead
        self._ahead = max(self._ahead, ahead)
        if went > _SET_BACK_SECONDS and not self._is_set_back:
            self._is_set_back = True
            log.warning("The clock was set back by %.0f s: the dataflow starts anew.", went)
        return self._is_set_back


class _Pace:
    """When an idle source is to look again, by the monotonic clock.

    Bytewax keeps a source asleep until an instant of the wall clock, and a clock that is set back by an hour
    would leave it asleep for an hour. So every source asks to be called at once, and naps here.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def rest(self, seconds: float = _IDLE_SECONDS) -> None:
        """Be called again in vain for a while."""
        self._until = time.monotonic() + seconds

    def is_resting(self) -> bool:
        """Whether it is too early; naps a little where it is."""
        left = self._until - time.monotonic()
        if left > 0:
            time.sleep(min(left, _NAP_SECONDS))
        return left > _NAP_SECONDS


class _Offline:
    """The offline sink of this process's partitions, for several threads: one commit is for all of them.

    A commit takes a thread of its own, for events go on being served meanwhile. There is one at a time: when
    the next is due, it is waited for.
    """

    def __init__(self, sink: OfflineSink, counts: Counts) -> None:
        self._sink = sink
        self._counts = counts
        self._lock = Lock()
        self._durable: dict[str, int] = {}
        self._committer = ThreadPoolExecutor(1, "commit")
        self._commit: Future[dict[str, int]] | None = None
        self._taken: Gathered | None = None

    def add(self, prepared: Prepared) -> None:
        """Take rows; they are not durable yet."""
        with self._lock:
            self._sink.add(prepared)

    def flush(self, *, now: bool = False) -> None:
        """Begin to commit what was gathered, where that is due; `now`, commit all of it and return then."""
        with self._lock:
            is_due = now or self._sink.is_due()
            self._settle(now, wait=is_due)
            if now:
                self._durable |= self._sink.flush()
            elif is_due:
                self._taken = self._sink.take()
                self._commit = self._committer.submit(self._sink.commit, self._taken)
            self._counts.progress.waiting = self._sink.waiting + (self._taken.records if self._taken else 0)

    def _settle(self, now: bool, *, wait: bool) -> None:
        """Note what the last commit made durable, once it has ended; `now`, try again what failed before."""
        commit = self._commit
        if commit is not None and (wait or commit.done()):
            self._commit = None
            self._durable |= commit.result()
            self._taken = None
        elif commit is None and self._taken is not None and now:
            self._durable |= self._sink.commit(self._taken)
            self._taken = None

    def close(self) -> None:
        """Wait for the commit that is under way, whatever comes of it."""
        commit = self._commit
        if commit is not None:
            futures.wait([commit])

    def durable(self, partition: str) -> int:
        """Return the position that is durable in all tables."""
        return self._durable.get(partition, 0)


class _Records(FixedPartitionedSource[tuple[int, Piece], None]):
    """The topic's partitions, each from where the furthest store behind needs it, as rows by lane.

    Bytewax reads one part at a time, and every batch costs the same few milliseconds, whatever its rows. So
    a part is several partitions, read together.
    """

    def __init__(
        self,
        job: Job,
        source: StreamSource,
        parts: Mapping[str, Sequence[str]],
        lanes: int,
        run: _Run,
        counts: Counts,
        committed: Callable[[], None],
    ) -> None:
        self._job = job
        self._source = source
        self._parts = parts
        self._lanes = lanes
        self._run = run
        self._counts = counts
        self._committed = committed
        self._preparation = Preparation(job, instants.now)
        self._offline = _Offline(OfflineSink(job, counts), counts)
        self._watch = Watch(job)

    def list_parts(self) -> list[str]:
        return list(self._parts)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Part:
        del step_id, resume_state
        names = self._parts[for_part]
        for name in names:
            self._counts.progress.expect(name)

        def open_reader(name: str) -> StreamReader:
            start = self._job.start(name)
            reader = self._source.reader(name, start or None)
            self._counts.progress.begin(name, start)
            return reader

        return _Part(
            names,
            open_reader,
            self._lanes,
            self._watch,
            self._preparation,
            self._offline,
            self._run,
            self._counts,
            self._committed,
            self._job.feeds,
        )


class _Part(StatefulSourcePartition[tuple[int, Piece], None]):
    """Some partitions: their rows by lane, and behind them, once they are durable, their positions for all.

    Rows and the checkpoint that follows their commit leave here in one order, and so arrive.
    """

    def __init__(
        self,
        names: Sequence[str],
        open_reader: Callable[[str], StreamReader],
        lanes: int,
        watch: Watch,
        preparation: Preparation,
        offline: _Offline,
        run: _Run,
        counts: Counts,
        committed: Callable[[], None],
        feeds: str,
    ) -> None:
        self._feeds = feeds
        self._names = names
        self._open_reader = open_reader
        self._lanes = lanes
        self._watch = watch
        self._readers: list[StreamReader] = []
        self._preparation = preparation
        self._offline = offline
        self._run = run
        self._counts = counts
        self._committed = committed
        self._is_epoch_over = self._is_over = False
        self._told: dict[str, int] = {}
        self._is_told = False
        self._pace = _Pace()
        self._began: float | None = None

    def next_batch(self) -> Iterable[tuple[int, Piece]]:
        if self._is_over:
            raise StopIteration
        if self._pace.is_resting():
            return []
        if self._began is not None:  # a batch of few records costs as much as one of more: let them gather
            self._pace.rest(min(time.monotonic() - self._began, _LINGER_SECONDS))
            self._began = None
            return []
        if self._is_epoch_over and self._readers and self._run.error is None:
            for reader in self._readers:
                self._counts.progress.applied(reader.partition)
            if self._is_told:
                self._is_told = False
                self._committed()
        self._is_epoch_over = False
        self._is_over = self._run.is_over()
        nothing: list[tuple[int, Piece]] = []
        pieces = [] if self._is_over else self._run.attempt(self._read, nothing)
        pieces += self._run.attempt(self._checkpoint, nothing)
        if self._is_over and self._run.error and not isinstance(self._run.error, StoreUnavailable):
            with suppress(FeatureStoreError):  # what was read may be online, and its topic may be gone
                self._offline.flush(now=True)
        if not pieces and not self._is_over:
            self._pace.rest()
        return pieces

    def _read(self) -> list[tuple[int, Piece]]:
        while len(self._readers) < len(self._names):
            self._readers.append(self._open_reader(self._names[len(self._readers)]))
        self._watch.look()
        self._readers = [*self._readers[1:], *self._readers[:1]]  # each is the first one now and then
        progress, began = self._counts.progress, time.monotonic()
        batches = gather(self._readers, progress, MAX_RECORDS, may_read=progress.may_read)
        if not batches:
            return []
        prepared = self._preparation.prepare(batches)
        self._counts.observe("batch_records", prepared.records)
        self._began = began if prepared.records < _FEW else None
        self._offline.add(prepared)
        return _pieces(prepared, self._lanes, self._feeds)

    def _checkpoint(self) -> list[tuple[int, Piece]]:
        """Commit what is due; return positions for every lane, where there are some that they lack."""
        self._offline.flush(now=self._is_over)
        durable = {name: self._offline.durable(name) for name in self._names}
        fresh = {name: end for name, end in durable.items() if end > self._told.get(name, 0)}
        if not fresh:
            return []
        self._told |= fresh
        self._is_told = True
        return [(lane, Piece(self._feeds, None, None, fresh)) for lane in range(self._lanes)]

    def next_awake(self) -> datetime:
        return _AT_ONCE

    def snapshot(self) -> None:
        self._is_epoch_over = True

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._offline.close()


def _pieces(prepared: Prepared, lanes: int, feeds: str) -> list[tuple[int, Piece]]:
    """Return the rows of each target cut by lane."""
    pieces = []
    for target, rows in prepared.sets.items():
        parts = {0: rows} if lanes == 1 else _by_lane(rows, lanes)
        for lane, part in parts.items():
            if part.height:
                pieces.append((lane, Piece(feeds, target, part, prepared.positions, prepared.times_of(part))))
    return pieces


def _by_lane(rows: pl.DataFrame, lanes: int) -> dict[int, pl.DataFrame]:
    cut = rows.group_by((pl.col(plans.SHARD) % lanes).alias("lane"))
    return {int(lane): part for (lane,), part in cut}


class _Ending(DynamicSource[tuple[str, None]]):
    """Tells every process, when this one ends, to end as well."""

    def __init__(self, run: _Run, processes: int, counts: Counts) -> None:
        self._run = run
        self._processes = processes
        self._counts = counts

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _WorkerEnding:
        del step_id, worker_index, worker_count
        return _WorkerEnding(self._run, self._processes, self._counts)


class _WorkerEnding(StatelessSourcePartition[tuple[str, None]]):
    def __init__(self, run: _Run, processes: int, counts: Counts) -> None:
        self._run = run
        self._processes = processes
        self._counts = counts
        self._is_over = False
        self._pace = _Pace()

    def next_batch(self) -> Iterable[tuple[str, None]]:
        if self._is_over:
            raise StopIteration
        if self._pace.is_resting():
            return []
        self._is_over = self._run.is_over()
        if self._is_over:
            return [(_process(number), None) for number in range(self._processes)]
        self._counts.progress.moved()
        self._pace.rest()
        return []

    def next_awake(self) -> datetime:
        return _AT_ONCE


class _Told(FixedPartitionedSink[None, None]):
    """Hears that a process ends. Each process has the partition that is named after it."""

    def __init__(self, run: _Run, process: int) -> None:
        self._run = run
        self._process = process

    def list_parts(self) -> list[str]:
        return [_process(self._process)]

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Listener:
        del step_id, for_part, resume_state
        return _Listener(self._run)


class _Listener(StatefulSinkPartition[None, None]):
    def __init__(self, run: _Run) -> None:
        self._run = run

    def write_batch(self, values: list[None]) -> None:
        del values
        self._run.others_end.set()

    def snapshot(self) -> None:
        return None


def _process(number: int) -> str:
    return f"{number:04}"


class _Online(FixedPartitionedSink[Piece, None]):
    """The online store, by lane."""

    def __init__(self, sink: OnlineSink, lanes: int, feeds: str, run: _Run) -> None:
        self._sink = sink
        self._lanes = lanes
        self._feeds = feeds
        self._run = run

    def list_parts(self) -> list[str]:
        return [f"{lane:02}" for lane in range(self._lanes)]

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Lane:
        del step_id, resume_state
        return _Lane(self._sink, self._feeds, range(int(for_part), SHARDS, self._lanes), self._run)


class _Lane(StatefulSinkPartition[Piece, None]):
    def __init__(self, sink: OnlineSink, feeds: str, shards: Sequence[int], run: _Run) -> None:
        self._sink = sink
        self._feeds = feeds
        self._shards = shards
        self._run = run

    def write_batch(self, values: list[Piece]) -> None:
        for piece in values:
            self._run.attempt(partial(self._write, piece), None)

    def _write(self, piece: Piece) -> None:
        if (
            piece.feeds != self._feeds
        ):  # the reader began where its own stores end: ours may lack what is before
            raise StoreUnavailable(
                "Processes of the stream were started with different versions or generations.",
                hint="They start anew.",
            )
        if piece.target is None or piece.rows is None or piece.times is None:
            self._sink.checkpoint(piece.positions, self._shards)
        else:
            self._sink.apply(piece.target, piece.rows, piece.positions, piece.times)

    def snapshot(self) -> None:
        return None


def dataflow(
    job: Job,
    source: StreamSource,
    partitions: list[str],
    counts: Counts,
    run: _Run,
    committed: Callable[[], None],
    workers: int,
    cluster: Cluster | None,
) -> Dataflow:
    """Return the dataflow of one stream source; it ends, with everything committed, once the run is over.

    `committed` is called when every store has taken what it was given up to a commit. In one process each
    worker reads its share of the partitions together, and writes one lane; processes of a cluster, which
    may have different numbers of workers, agree on a lane's shards and a part's partition.
    """
    addresses, process = cluster or ((), 0)
    lanes = LANES if cluster else workers
    count = len(partitions) if cluster else workers
    parts = {f"{n:04}": partitions[n::count] for n in range(min(count, len(partitions)))}
    flow = Dataflow("featurestore")
    pieces = op.input("records", flow, _Records(job, source, parts, lanes, run, counts, committed))
    by_lane = op.map("lane", pieces, lambda item: (f"{item[0]:02}", item[1]))
    op.output("online", by_lane, _Online(OnlineSink(job, counts), lanes, job.feeds, run))
    ending = op.input("ending", flow, _Ending(run, len(addresses) or 1, counts))
    op.output("told", ending, _Told(run, process))
    return flow


def run(
    job: Callable[[], Job],
    source: StreamSource,
    stop: Event,
    *,
    changed: Callable[[], bool],
    counts: Counts,
    workers: int = 1,
    give_up_seconds: float = GIVE_UP_SECONDS,
    cluster: Cluster | None = None,
) -> None:
    """Run until `stop` is set, then commit what was read. As `local.run`, on `workers` threads.

    In a `cluster` (the addresses of all processes, and this one's number) the others run the same source;
    the first of them brings the tables up to landing, for it is waited for.
    """
    patience = Patience(stop, give_up_seconds, partial(retrying, counts))
    while not stop.is_set():
        with patience:
            counts.progress.restart()
            this = _Run(lambda: stop.is_set() or changed())
            now = job()
            if cluster is None or cluster[1] == 0:
                catch_up(now)
            partitions = source.partitions()
            counts.progress.forget()
            flow = dataflow(now, source, partitions, counts, this, patience.succeeded, workers, cluster)
            addresses, process = cluster or (None, None)
            cli_main(  # type: ignore[no-untyped-call]
                flow,
                workers_per_process=workers,
                addresses=addresses and list(addresses),
                process_id=process,
                epoch_interval=_EPOCH,
            )
            if this.error is not None:
                raise this.error


ENGINE = StreamEngine(run, drain, has_clusters=True)
