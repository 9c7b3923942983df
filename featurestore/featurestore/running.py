"""The streams of one process: a thread per source, and one that looks after them from outside."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from featurestore.contracts import StreamSource
from featurestore.errors import OperatorError
from featurestore.metrics import Metrics, Numbers, summed

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_WATCH_SECONDS = 2.0
_SIZE_SECONDS = 60.0
_RECORD_SECONDS = 10.0
"""How often a stream tells the registry what checks found."""

_COUNTED = ("records", "applied", "duplicates", "conflicts", "committed", "out_of_order", "null_key")
_PREFIX = "featurestore_stream_"
_STORES = "stores"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamOptions:
    """How streams run. `addresses` are those of a cluster's processes, of which this is number `process`.

    With `processes` beyond 1 they are chosen on this machine, and the processes started and watched.
    """

    engine: str | None = None
    workers: int = 1
    processes: int = 1
    addresses: tuple[str, ...] = ()
    process: int = 0
    give_up_seconds: float = 300.0


@dataclass(frozen=True)
class Report:
    """What streams tell of themselves: counts by source, measurements, and why they are not ready, if so."""

    counts: dict[str, dict[str, int]]
    numbers: Numbers = field(default_factory=dict)
    not_ready: str | None = "starting"
    stalled_seconds: float = 0.0


class Jobs(Protocol):
    """Makes a source's job, and notices when there is another one."""

    def job(self) -> Any:
        """Return the job as of now."""

    def changed(self) -> bool:
        """Tell whether there is another job than the one that was returned last."""

    def show_applied(self) -> None:
        """Show the broker's tools how far all stores have come."""

    def rest(self) -> None:
        """Note that these jobs are no longer run."""


class _Source:
    """One source: its topic, its jobs, and whether it is to be started anew."""

    def __init__(self, name: str, topic: StreamSource, jobs: Jobs, restarted: Callable[[], None]) -> None:
        self.name = name
        self.topic = topic
        self.job: Any = None
        self._jobs = jobs
        self._restarted = restarted
        self._partitions: frozenset[str] = frozenset()
        self._is_changed = False
        self._feeds = ""

    def make(self) -> Any:
        """Return the job as of now.

        The partitions are noted before the engine lists those that it reads: more than these, whenever they
        were added, are noticed.
        """
        self._partitions = frozenset(self.topic.partitions())
        self._is_changed = False
        self.job = self._jobs.job()
        feeds = ", ".join(
            f"{target.name} (generations online: {len(target.writers)})" for target in self.job.targets
        )
        if feeds != self._feeds:  # an attempt after a failure says nothing new
            log.info("%s: feeds %s", self.name, feeds)
            self._feeds = feeds
        return self.job

    def changed(self) -> bool:
        """Tell whether the source is to be started anew."""
        if not self._is_changed and self._jobs.changed():
            self._start_anew("versions or generations changed")
        return self._is_changed

    def found(self, partitions: Iterable[str]) -> None:
        """Take the topic's partitions as they are now: more than there were call for a new start.

        Others than there were do not: what reads the partitions tells of a recreated topic.
        """
        now = frozenset(partitions)
        if self._partitions and now > self._partitions:
            self._start_anew(f"the topic has {len(now)} partitions, not {len(self._partitions)} any more")

    def generations(self) -> list[tuple[str, str]]:
        """Return the sets and generations that are fed."""
        targets = () if self.job is None else self.job.targets
        return [(target.plan.name, writer.generation) for target in targets for writer in target.writers]

    def _start_anew(self, why: str) -> None:
        log.info("%s: %s; starting anew", self.name, why)
        self._is_changed = True
        self._restarted()

    def show_applied(self) -> None:
        """Show the broker's tools how far all stores have come; what they are shown is never read back."""
        self._jobs.show_applied()

    def rest(self) -> None:
        """Note that the source is no longer streamed here."""
        self._jobs.rest()


class Running:
    """The streams of these sources in this process. The first that fails stops all."""

    def __init__(
        self,
        store: FeatureStore,
        engine: Any,
        jobs: Mapping[str, Jobs],
        stop: Event,
        options: StreamOptions,
        clusters: Mapping[str, tuple[tuple[str, ...], int]],
    ) -> None:
        self.errors: list[BaseException] = []
        self._store = store
        self._engine = engine
        self._stop = stop
        self._options = options
        self._clusters = clusters
        self._counts = {name: engine.counts(name) for name in jobs}
        self._metrics = Metrics()
        self._sources = {
            name: _Source(
                name,
                store.environment.stream(store.catalog.source(name)),
                each,
                partial(self._metrics.add, f"{_PREFIX}restarts_total", source=name),
            )
            for name, each in jobs.items()
        }
        self._trouble = {name: f"{name}: starting" for name in jobs}
        self._done = Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name,), name=f"stream-{name}", daemon=True)
            for name in jobs
        ]
        self._watcher = threading.Thread(target=self._watch, name="stream-watch", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        for thread in [*self._threads, self._watcher]:
            thread.start()

    def join(self, seconds: float) -> bool:
        """Wait up to so long for the streams to end; return whether they have."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End what looks after the streams, and record what checks found."""
        self._done.set()
        self._watcher.join()
        self._record()

    def has_begun(self) -> bool:
        """Tell whether any stream has read: before that, there is nothing to commit."""
        return any(counts.progress.is_running for counts in self._counts.values())

    def report(self) -> Report:
        """Return counts, measurements and readiness as of now."""
        counts = {name: count.to_dict() for name, count in self._counts.items()}
        metrics = Metrics()
        for source, numbers in counts.items():
            for name, number in numbers.items():
                if name in _COUNTED:
                    metrics.add(f"{_PREFIX}{name}_total", number, source=source)
                elif name.startswith("rejected_"):
                    code = name.removeprefix("rejected_")
                    metrics.add(f"{_PREFIX}rejected_total", number, source=source, code=code)
                elif name.startswith("check_"):
                    check = name.removeprefix("check_")
                    metrics.add(f"{_PREFIX}check_failed_total", number, source=source, check=check)
                elif name != "rejected":
                    metrics.add(f"{_PREFIX}rows_total", number, source=source, kind=name)
        for source, count in self._counts.items():
            records, size = count.progress.in_flight()
            metrics.set(f"{_PREFIX}in_flight_records", records, source=source)
            metrics.set(f"{_PREFIX}in_flight_bytes", size, source=source)
            metrics.set(f"{_PREFIX}waiting_records", count.progress.waiting, source=source)
        metrics.set(f"{_PREFIX}resident_bytes", _resident_bytes(), process=str(self._options.process))
        everything = [metrics, self._metrics, *(count.metrics for count in self._counts.values())]
        now = time.monotonic()
        stalled = [now - c.progress.moved_at for c in self._counts.values() if c.progress.is_running]
        return Report(
            counts, summed(m.numbers() for m in everything), self._not_ready(), max(stalled, default=0.0)
        )

    def _not_ready(self) -> str | None:
        for name, count in self._counts.items():
            if count.progress.trouble is not None:
                return f"{name}: {count.progress.trouble}"
            if not count.progress.is_open():
                return f"{name}: starting"
        return next(iter(dict(self._trouble).values()), None)

    def _run(self, name: str) -> None:
        source, options = self._sources[name], self._options
        cluster = {"cluster": self._clusters[name]} if name in self._clusters else {}
        try:
            self._engine.run(
                source.make,
                source.topic,
                self._stop,
                changed=source.changed,
                counts=self._counts[name],
                workers=options.workers,
                give_up_seconds=options.give_up_seconds,
                **cluster,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            self.errors.append(error)
            self._stop.set()
        finally:
            source.rest()

    def _watch(self) -> None:
        sized = recorded = time.monotonic() - _SIZE_SECONDS
        while not self._done.wait(0.2 if "starting" in (self._not_ready() or "") else _WATCH_SECONDS):
            for name in self._sources:
                self._look(name)
            self._reach_stores()
            now = time.monotonic()
            if self._options.process == 0 and now >= sized:
                self._measure_state()
                sized = max(now + _SIZE_SECONDS, now + 20 * (time.monotonic() - now))
            if now - recorded > _RECORD_SECONDS:
                recorded = now
                self._record()

    def _record(self) -> None:
        record_checks(self._store, self._counts.values())
        if self._options.process == 0:
            for source in self._sources.values():
                source.show_applied()

    def _look(self, name: str) -> None:
        """Measure a source's lag, and notice new partitions."""
        progress = self._counts[name].progress
        try:
            ends = self._sources[name].topic.ends()
        except OperatorError as error:
            self._trouble[name] = f"{name}: {error}"
            return
        self._sources[name].found(ends)
        lag = f"{_PREFIX}lag_events", f"{_PREFIX}lag_seconds"
        self._metrics.forget(*lag, source=name)
        for partition, (events, seconds) in progress.lag(ends).items():
            self._metrics.set(lag[0], events, source=name, partition=partition)
            self._metrics.set(lag[1], seconds, source=name, partition=partition)
        if behind := progress.behind(ends):
            self._trouble[name] = f"{name}: {behind} records from before the start are not applied yet"
        elif progress.is_open():
            self._trouble.pop(name, None)

    def _reach_stores(self) -> None:
        try:
            self._store.environment.online.ping()
            self._trouble.pop(_STORES, None)
        except OperatorError as error:
            self._trouble[_STORES] = str(error)

    def _measure_state(self) -> None:
        names = f"{_PREFIX}state_bytes", f"{_PREFIX}state_entities"
        measured = []
        for source in self._sources.values():
            for feature_set, generation in source.generations():
                try:
                    sizes = self._store.environment.online.statistics(generation)
                except OperatorError:
                    return  # readiness tells
                measured.append((feature_set, generation, (sizes["bytes"], sizes["entities"])))
        self._metrics.forget(*names)
        for feature_set, generation, values in measured:
            for name, value in zip(names, values, strict=True):
                self._metrics.set(name, value, feature_set=feature_set, generation=generation)


def record_checks(store: FeatureStore, counts: Iterable[Any]) -> None:
    """Add to the registry what checks found; what it does not take now, it is given the next time."""
    registry, project = store.environment.registry, store.environment.project
    for count in counts:
        for item in count.take_checked():
            try:
                registry.record_checks(
                    project, item.feature_set, item.rows_fingerprint, item.rows, item.failed
                )
            except OperatorError:
                count.keep_checked(item)


def _resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
