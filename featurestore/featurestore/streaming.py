"""Streams of a project: which sets each source keeps, and the engine that runs them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import entry_points
from threading import Event
from typing import TYPE_CHECKING, Any

from featurestore import tables
from featurestore.contracts import extension
from featurestore.errors import (
    MissingExtra,
    OperatorError,
    RequestError,
    SpecError,
    UnknownName,
    did_you_mean,
)
from featurestore.instants import SECOND, parse_duration
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan
from featurestore.probes import listening
from featurestore.running import Running, StreamOptions, record_checks

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
    with listening(listen, streams.report) if listen else nullcontext() as url:
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
    return Running(store, engine, {n: _Jobs(store, n, engine) for n in names}, stop, options, clusters)


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
        record_checks(store, [counts])
    told: dict[str, int] = counts.to_dict()
    return told


class _Jobs:
    """Makes a source's job from the registry, and notices when there is another one."""

    def __init__(self, store: FeatureStore, source: str, engine: Any) -> None:
        self._store = store
        self._source = source
        self._engine = engine
        self._made: object = None
        self._looked = time.monotonic()

    def job(self, extra: Mapping[str, OnlineWriter] = {}) -> Any:
        """Return the job of the source's live sets and their generations."""
        environment = self._store.environment
        commit = environment.config.commit
        plan = self._store.catalog.source(self._source)
        self._made = self._wanted()
        targets = []
        for feature_set in self._sets():
            writers = [
                OnlineWriter(feature_set, environment.online, generation)
                for generation in self._generations(feature_set)
            ]
            if feature_set.state_fingerprint in extra:
                writers.append(extra[feature_set.state_fingerprint])
            targets.append((feature_set, environment.rows_table(feature_set), tuple(writers)))
        return self._engine.job(
            plan,
            targets,
            environment.offline.table(tables.landing_table(plan)),
            environment.offline.table(tables.DEAD_LETTERS),
            commit_rows=commit.rows,
            commit_seconds=None if commit.every is None else parse_duration(commit.every) / SECOND,
        )

    def changed(self) -> bool:
        """Tell whether versions or generations changed since the job was made; looks now and then."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return self._wanted() != self._made

    def _wanted(self) -> object:
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
