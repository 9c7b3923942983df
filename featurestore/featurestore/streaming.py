"""Streams of a project: which sets each source keeps, and the engine that runs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from threading import Event
from typing import TYPE_CHECKING, Any

from featurestore import beginning, tables
from featurestore.contracts import extension
from featurestore.errors import (
    MissingExtra,
    OperatorError,
    RequestError,
    SpecError,
    UnknownName,
    did_you_mean,
)
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_LOOK_SECONDS = 2.0
"""How often a stream looks for new versions and generations."""

_RECORD_SECONDS = 10.0
"""How often a stream tells the registry what checks found."""


def stream(
    store: FeatureStore,
    sources: Sequence[str],
    engine: str | None,
    workers: int,
    stop: Event,
    report: Callable[[dict[str, dict[str, int]]], None] | None,
) -> dict[str, dict[str, int]]:
    """Run the streams of these sources until `stop` is set; return counts by source.

    The first stream that fails stops all, and its error is raised.
    """
    names = chosen(store, sources)
    run = _engine(engine)
    counts = {name: run.counts() for name in names}
    errors: list[BaseException] = []
    all_jobs = {name: _Jobs(store, name, run) for name in names}

    def one(name: str) -> None:
        jobs = all_jobs[name]
        try:
            run.run(
                jobs.job,
                store.environment.stream(store.catalog.source(name)),
                stop,
                changed=jobs.changed,
                counts=counts[name],
                workers=workers,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=one, args=(name,), name=f"stream-{name}") for name in names]
    for thread in threads:
        thread.start()
    recorded = time.monotonic()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.2)
            if report is not None:
                report({name: count.to_dict() for name, count in counts.items()})
            if time.monotonic() - recorded > _RECORD_SECONDS:
                recorded = time.monotonic()
                _record_checks(store, counts.values())
                _show_applied(all_jobs.values())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        _record_checks(store, counts.values())
        _show_applied(all_jobs.values())
    if errors:
        raise errors[0]
    return {name: count.to_dict() for name, count in counts.items()}


def drain(
    store: FeatureStore,
    source: str,
    until: Mapping[str, int] | None = None,
    extra: Mapping[str, OnlineWriter] | None = None,
) -> dict[str, int]:
    """Apply what a source's stream holds now, in this thread; return the counts.

    `extra` are writers of generations beyond those in the registry, by state fingerprint.
    """
    engine = extension("engines", "local")
    job = _Jobs(store, source, engine).job(extra or {})
    counts = engine.drain(job, store.environment.stream(job.source), until)
    if not extra:  # a generation that catches up reads what a stream reads, and counts, as well
        _record_checks(store, [counts])
    told: dict[str, int] = counts.to_dict()
    return told


def accept_topic(store: FeatureStore, source: str, start: str) -> dict[str, int]:
    """Go on with a topic that was made anew; see `FeatureStore.accept_topic`."""
    [name] = chosen(store, [source])
    return beginning.accept_topic(store.environment, store.catalog.source(name), start)


def _show_applied(jobs: Iterable[_Jobs]) -> None:
    """Show the broker's tools what every store has; what they are shown is never read back."""
    for job in jobs:
        job.show_applied()


def _record_checks(store: FeatureStore, counts: Iterable[Any]) -> None:
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


class _Jobs:
    """Makes a source's job from the registry, and notices when there is another one."""

    def __init__(self, store: FeatureStore, source: str, engine: Any) -> None:
        self._store = store
        self._source = source
        self._engine = engine
        self._made: object = None
        self._job: Any = None
        self._looked = time.monotonic()

    def job(self, extra: Mapping[str, OnlineWriter] = {}) -> Any:
        """Return the job of the source's live sets and their generations."""
        environment = self._store.environment
        plan = self._store.catalog.source(self._source)
        self._made = self._wanted()
        beginning.begin(environment, plan)
        targets = []
        for feature_set in self._sets():
            writers = [
                OnlineWriter(feature_set, environment.online, generation)
                for generation in self._generations(feature_set)
            ]
            if feature_set.state_fingerprint in extra:
                writers.append(extra[feature_set.state_fingerprint])
            targets.append((feature_set, environment.rows_table(feature_set), tuple(writers)))
        self._job = self._engine.job(
            plan,
            targets,
            environment.offline.table(tables.landing_table(plan)),
            environment.offline.table(tables.DEAD_LETTERS),
        )
        return self._job

    def show_applied(self) -> None:
        """Show the broker's tools how far all stores have come."""
        if self._job is None:
            return
        environment = self._store.environment
        try:
            applied = self._job.applied()
            topic = environment.stream(self._job.source)
        except OperatorError:
            return  # a store that is down is told of where it is written to
        topic.show_applied(applied, f"{environment.project}-{self._source}")

    def changed(self) -> bool:
        """Tell whether versions or generations changed since the job was made; looks now and then."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return self._wanted() != self._made

    def _wanted(self) -> object:
        return [self._store.catalog.source(self._source), *self._wanted_sets()]

    def _wanted_sets(self) -> list[object]:
        return [
            (
                plan.name,
                plan.rows_fingerprint,
                plan.state_fingerprint,
                plan.steps.checks,
                self._generations(plan),
            )
            for plan in self._sets()
        ]

    def _sets(self) -> list[SetPlan]:
        return [plan for plan in self._store.catalog.live_sets() if plan.source.name == self._source]

    def _generations(self, plan: SetPlan) -> list[str]:
        if not plan.online:
            return []
        environment = self._store.environment
        return [
            found.id
            for found in environment.registry.generations(environment.project, plan.name)
            if found.state_fingerprint == plan.state_fingerprint
            and found.store == environment.online_identity
            and found.status == "serving"
        ]


def chosen(store: FeatureStore, names: Sequence[str]) -> list[str]:
    """Return the sources that the names, of sources or sets, stand for. Raises UnknownName."""
    live = {plan.source.name: plan.source for plan in store.catalog.live_sets()}
    streams = [name for name, source in live.items() if source.stream is not None]
    sets = {plan.name: plan.source.name for plan in store.catalog.live_sets()}
    chosen = []
    for name in names or streams:
        source = name if name in streams else sets.get(name)
        if source is None or source not in streams:
            raise UnknownName(f"There is no stream '{name}'.", hint=did_you_mean(name, streams))
        chosen.append(source)
    if not chosen:
        raise RequestError(
            "No applied feature set has a source with a stream half.", hint="Declare stream: {topic: …}."
        )
    return list(dict.fromkeys(chosen))


def _engine(name: str | None) -> Any:
    """Return the engine of that name; without one, Bytewax where it is installed, else `local`."""
    known = [point.name for point in entry_points(group="featurestore.engines") if point.name != "batch"]
    if name is not None and name not in known:
        raise SpecError(f"There is no stream engine '{name}'.", hint=did_you_mean(name, known))
    if name is not None:
        return extension("engines", name)
    try:
        return extension("engines", "bytewax")
    except MissingExtra:
        return extension("engines", "local")
