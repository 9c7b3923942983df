"""Streams of a project: which sets each source keeps, and the engine that runs them."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
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
from featurestore.garbage import seldom_collecting
from featurestore.generations import BEAT_SECONDS, stream_name
from featurestore.instants import SECOND, parse_duration
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan
from featurestore.probes import listening
from featurestore.running import Report, Running, StreamOptions, record_checks
from featurestore.sources import widest

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_LOOK_SECONDS = 2.0
"""How often a stream looks for new versions and generations."""

_REPORT_SECONDS = 0.2
STOP_SECONDS = 50.0
"""How long a stream that is told to stop may take to commit."""

log = logging.getLogger(__name__)


def stream(
    store: FeatureStore,
    sources: Sequence[str],
    options: StreamOptions,
    stop: Event,
    report: Callable[[dict[str, dict[str, int]]], None] | None,
    listen: str | None = None,
) -> dict[str, dict[str, int]]:
    """Run the streams of these sources until `stop` is set; return counts by source.

    The first stream that fails stops all, and its error is raised. `listen` is where probes are answered.
    """
    names = chosen(store, sources)
    store.environment.check_online()
    engine = _engine(options.engine)
    if options.processes > 1 or options.addresses:
        if not engine.has_clusters:
            raise RequestError(
                "This engine runs in one process.",
                hint="Use --engine bytewax, or leave out --processes and --addresses.",
            )
        from featurestore.supervising import Supervisor

        streams: Running | Supervisor = Supervisor(store, names, options, stop)
    else:
        streams = running(store, names, options, stop)
    tell = report or (lambda _: None)
    tell(streams.report().counts)

    def told() -> Report:
        found = streams.report()
        upkept = {("featurestore_upkeep_total", (("what", n),)): [float(v)] for n, v in store.upkept.items()}
        return replace(found, numbers=found.numbers | upkept)

    with seldom_collecting(), listening(listen, told) if listen else nullcontext() as url:
        if url:
            log.info("probes and metrics on %s", url)
        streams.start()
        stopped_at: float | None = None
        try:
            while not streams.join(_REPORT_SECONDS):
                tell(streams.report().counts)
                stopped_at = stopped_at or (time.monotonic() if stop.is_set() else None)
                if stopped_at is not None and time.monotonic() - stopped_at > STOP_SECONDS:
                    raise OperatorError(
                        f"The stream did not end within {STOP_SECONDS:g} s of being told to.",
                        hint="What it had not committed is read again at the next start.",
                    )
        except KeyboardInterrupt:  # a signal that came when a stream had failed
            if streams.errors:
                raise streams.errors[0] from None
            raise
        finally:
            stop.set()
            streams.close()
    if streams.errors:
        raise streams.errors[0]
    return streams.report().counts


def running(
    store: FeatureStore,
    names: Sequence[str],
    options: StreamOptions,
    stop: Event,
    clusters: Mapping[str, tuple[tuple[str, ...], int]] = {},
) -> Running:
    """Return the streams of these sources in this process, not started yet."""
    engine = _engine(options.engine)
    jobs = {name: _Jobs(store, name, engine, is_running=True) for name in names}
    return Running(store, engine, jobs, stop, options, clusters)


def drain(
    store: FeatureStore,
    source: str,
    until: Mapping[str, int] | None = None,
    *,
    before: float = math.inf,
    record: bool = True,
) -> dict[str, int]:
    """Apply what a source's stream holds now, in this thread; return the counts.

    `until` bounds each partition, `before` the time, on the monotonic clock; without `record`, what checks
    found is not told to the registry. What began to be fed meanwhile has it too: a generation that serves by
    then would lack it otherwise.
    """
    engine = extension("engines", "local")
    jobs = _Jobs(store, source, engine)
    job = jobs.job()
    counts = engine.drain(job, store.environment.stream(job.source), until, before)
    while not jobs.is_current():
        engine.drain(jobs.job(), store.environment.stream(job.source), until, before)
    if record:
        record_checks(store, [counts])
    told: dict[str, int] = counts.to_dict()
    return told


def accept_topic(store: FeatureStore, source: str, start: str) -> dict[str, int]:
    """Go on with a topic that was made anew; see `FeatureStore.accept_topic`."""
    [name] = chosen(store, [source])
    return beginning.accept_topic(store.environment, store.catalog.source(name), start)


class _Jobs:
    """Makes a source's job from the registry, and notices when there is another one.

    One that `is_running` tells the registry so: who fills a generation waits for streams to feed it.
    """

    def __init__(self, store: FeatureStore, source: str, engine: Any, is_running: bool = False) -> None:
        self._store = store
        self._source = source
        self._engine = engine
        self._holder = secrets.token_hex(5) if is_running else None
        self._made: object = None
        self._job: Any = None
        self._looked = time.monotonic()
        self._beaten = 0.0
        self._is_alone = False

    def job(self) -> Any:
        """Return the job of the source's live sets and their generations."""
        self._beat()  # before looking: who lets a generation follow looks for streams after it
        environment = self._store.environment
        commit = environment.config.commit
        fed = self._fed()
        self._made = self._described(fed)
        latest = self._store.catalog.source(self._source)
        plan = widest(latest, (feature_set.source for feature_set, _ in fed))
        beginning.begin(environment, plan)
        targets = []
        for feature_set, generations in fed:
            writers = [OnlineWriter(feature_set, environment.online, found) for found in generations]
            targets.append((feature_set, environment.rows_table(feature_set), tuple(writers)))
        self._job = self._engine.job(
            plan,
            targets,
            environment.offline.table(tables.landing_table(plan)),
            environment.offline.table(tables.DEAD_LETTERS),
            commit_rows=commit.rows,
            commit_seconds=None if commit.every is None else parse_duration(commit.every) / SECOND,
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
        """Tell whether versions or generations changed since the job was made; looks now and then.

        While the registry does not answer, nothing is known to have changed: the stream goes on.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        try:
            if now - self._beaten > BEAT_SECONDS:
                self._beat()
            is_current = self.is_current()
        except OperatorError as error:
            if not self._is_alone:
                log.warning("%s Stream '%s' goes on with what it knew.", error, self._source)
            self._is_alone, is_current = True, True
        else:
            if self._is_alone:
                log.warning("The registry answers again, to stream '%s'.", self._source)
            self._is_alone = False
        self._looked = time.monotonic()
        return not is_current

    def is_current(self) -> bool:
        """Tell whether the job that was made last feeds all that is to be fed now."""
        return self._described(self._fed()) == self._made

    def _described(self, fed: Sequence[tuple[SetPlan, list[str]]]) -> object:
        sets = sorted((*plan.version, plan.steps.checks, made) for plan, made in fed)
        return self._store.catalog.source(self._source), sets

    def rest(self) -> None:
        """Tell the registry that this stream has ended; where that does not answer, time will tell."""
        with suppress(OperatorError):
            environment = self._store.environment
            environment.registry.rest(environment.project, stream_name(self._source), self._holder or "")

    def _beat(self) -> None:
        if self._holder is not None:
            self._beaten = time.monotonic()
            environment = self._store.environment
            environment.registry.beat(environment.project, stream_name(self._source), self._holder)

    def _fed(self) -> list[tuple[SetPlan, list[str]]]:
        """Return the sets that the stream keeps, with the generations that it feeds.

        Those that follow come first, so that they are never behind what serves.
        """
        environment, catalog = self._store.environment, self._store.catalog
        found: dict[tuple[str, str], dict[str, list[str]]] = {}
        for item in environment.registry.generations(environment.project):
            if item.store == environment.online_identity and item.status in _FED:
                by_status = found.setdefault((item.set_name, item.state_fingerprint), {})
                by_status.setdefault(item.status, []).append(item.id)

        def generations(plan: SetPlan, statuses: Sequence[str]) -> list[str]:
            by_status = found.get((plan.name, plan.state_fingerprint), {}) if plan.online else {}
            return [name for status in statuses for name in by_status.get(status, ())]

        live = [(plan, generations(plan, _FED)) for plan in catalog.live_sets()]
        known = {plan.version for plan, _ in live}
        coming = [(plan, generations(plan, _FED[:1])) for plan in catalog.next_sets()]
        fed = [(plan, made) for plan, made in coming if made and plan.version not in known] + live
        return [(plan, made) for plan, made in fed if plan.source.name == self._source]


_FED = ("following", "serving", "standby")


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
