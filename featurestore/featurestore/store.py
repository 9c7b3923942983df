"""`FeatureStore`: the one object that users hold (DESIGN 5)."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from featurestore.catalog import SERVING_SECONDS, Catalog
from featurestore.changes import Changes, apply, changes
from featurestore.compiler import CompiledProject, compile_project
from featurestore.contracts import extension
from featurestore.environment import Environment
from featurestore.errors import OperatorError, RequestError
from featurestore.online.reader import VectorReader, VectorResult
from featurestore.specs import load_config, load_project
from featurestore.training import instant_of, training_rows

if TYPE_CHECKING:
    import polars as pl

    from featurestore.cases import CaseReport
    from featurestore.client import RemoteFeatureStore
    from featurestore.plans import TrainingPlan, VectorPlan
    from featurestore.previewing import Preview
    from featurestore.pushing import PushReport
    from featurestore.verify import Verification

Progress = Callable[[int], None]
Records = list[dict[str, Any]]
EntityRows = Any
"""A Polars, pandas or Arrow frame, a file's path, or SQL over files: `SELECT … FROM 'labels.parquet'`."""


class FeatureVectorHandle:
    """A compiled feature vector: training sets and online vectors of one version."""

    def __init__(self, store: FeatureStore, reader: VectorReader) -> None:
        self._store = store
        self._reader = reader
        self.plan = reader.plan

    @property
    def name(self) -> str:
        """The vector's name and fingerprint."""
        return f"{self.plan.name}@{self.plan.fingerprint}"

    @property
    def features(self) -> list[str]:
        """The names of the features, in order."""
        return [f.name for f in self.plan.outputs]

    def get_offline(
        self,
        entity_rows: EntityRows | None = None,
        event_time: str = "event_timestamp",
        *,
        as_known: bool = False,
        start: Any = None,
        end: Any = None,
        where: str | None = None,
        join: str | None = None,
        positions: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Any:
        """Return a training set: the caller's rows, each with its features at its own instant.

        `entity_rows` have the keys and an aware timestamp in `event_time` (with a base: its raw columns;
        None: the base set's own rows). Rows are left out only where `start` and `end` bound the instants
        (half-open), `where` is not true of outputs, inputs, label or `set.feature`, or `join` is `inner` and
        a look-up finds no row of its entity; each defaults to the vector's `training:`. `positions` are those
        of an earlier training set, to compute it again. Raises RequestError.
        """
        training = training_rows(self.plan, start, end, where, join)
        return self._store._training_set(self.plan, entity_rows, event_time, as_known, training, positions)

    def get_online(
        self, rows: Sequence[Mapping[str, Any]], as_of: Any = None, *, now: int | None = None
    ) -> VectorResult:
        """Return the vectors of `rows` now, or as of one instant, or of one per row."""
        return self._reader.read(rows, as_of=_instants(as_of), now=now)

    async def get_online_async(
        self, rows: Sequence[Mapping[str, Any]], as_of: Any = None, *, now: int | None = None
    ) -> VectorResult:
        """Return what `get_online` returns, without blocking the event loop."""
        return await self._reader.read_async(rows, as_of=_instants(as_of), now=now)


class FeatureStore:
    """A project's folder and what it declares, its stores, and all that can be done with them.

    Specs are read by `validate`, `plan`, `apply` and `preview`; everything else works on applied versions.
    """

    def __init__(self, path: str | Path = ".", *, profile: str | None = None) -> None:
        self.root = Path(path).resolve()
        self._profile = profile
        self.environment = Environment(self.root, load_config(self.root, profile))
        self.catalog = Catalog(self.environment)
        self._readers: dict[str | tuple[str, ...], tuple[float, VectorReader]] = {}

    @staticmethod
    def connect(url: str, token: str | None = None) -> RemoteFeatureStore:
        """Return a client of a feature store that is served over HTTP."""
        from featurestore.client import RemoteFeatureStore

        return RemoteFeatureStore(url, token)

    def close(self) -> None:
        """Release connections and files."""
        self.environment.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Declaring

    def validate(self) -> CompiledProject:
        """Return the project's specs, compiled. Raises SpecErrors with every mistake, each with file:line."""
        from featurestore.cases import check

        loaded = load_project(self.root, self._profile)
        compiled = compile_project(loaded)
        check(loaded, compiled)
        return compiled

    def test(
        self,
        names: Sequence[str] = (),
        match: str | None = None,
        *,
        redis: bool = False,
        progress: Progress | None = None,
    ) -> CaseReport:
        """Run the project's own cases (`tests:` beside specs) on every engine, in scratch stores.

        `names` are of cases, sets or vectors (default: all); `match` is text in a case's name. The online
        values lie in SQLite, or with `redis` in Redis: the project's, where it has one, under a prefix of its
        own, else one that is started for it. Raises SpecErrors where a case is wrong in itself.
        """
        from featurestore.cases import run
        from featurestore.fitting import fitted_project

        loaded = load_project(self.root, self._profile)
        compiled, _ = fitted_project(self.environment, loaded)
        return run(self, loaded, compiled, names, match, redis=redis, progress=progress)

    def plan(self) -> Changes:
        """Return what `apply` would change, and what would follow from it."""
        return self._plan()[1]

    def apply(self, planned: Changes | None = None) -> Changes:
        """Apply the specs: new versions, immutable. Raises OperatorError where `planned` is stale."""
        compiled, now = self._plan()
        apply(self.environment, compiled, planned or now, getpass.getuser())
        self._readers.clear()
        self.catalog.forget()
        return planned or now

    def compiled(self, without: str | None = None) -> CompiledProject:
        """Return the project's specs, compiled with the newest fits; that of `without` left out."""
        from featurestore.fitting import fitted_project

        return fitted_project(self.environment, load_project(self.root, self._profile), without)[0]

    def _plan(self) -> tuple[CompiledProject, Changes]:
        from featurestore.fitting import fitted_project

        compiled, fits = fitted_project(self.environment, load_project(self.root, self._profile))
        return compiled, changes(self.environment, compiled, {name: fit.id for name, fit in fits.items()})

    def preview(self, name: str, frame: EntityRows) -> Preview:
        """Return a declared set's features over raw rows of its source, each at its own event time.

        Nothing is applied or stored; the specs are read as they are, with the newest fits of their steps.
        """
        from featurestore.previewing import preview

        return preview(self.compiled().feature_set(name), _frame(frame))

    def fit(
        self, name: str, until: Any = None, rows: EntityRows | Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """Fit what a set's steps, or a vector's imputes, take from data, store it, and return it.

        Of a set over its source's rows, from batch and stream, with event times up to `until`, or over raw
        `rows` (a frame, or the path of a file) instead; by step and column, as `steps[2].amount`. Of a vector
        over the training set of `rows`, or of the base's own rows, before `until`; by output. What is applied
        keeps its fit; the next apply makes a version with this one.
        """
        from featurestore.fitting import fit

        return fit(self, self.compiled(without=name), name, instant_of(until), rows)

    # Batch

    def ingest(
        self,
        name: str,
        data: Any = None,
        *,
        mode: str | None = None,
        progress: Progress | None = None,
    ) -> list[Any]:
        """Ingest what is new in a set's declared source, or `data` (a frame, or the path of a file).

        `name` is a feature set, or a source for all its sets. The rows go to the offline store, then
        online. The same input again changes nothing; a run that was interrupted is completed by another.
        Returns one report per set version.
        """
        from featurestore.writing import ingest

        return ingest(self, name, data, mode, progress)

    def materialize(self, name: str, *, progress: Progress | None = None) -> list[Any]:
        """Fill a new generation of a set's online values from the offline store, and let it serve."""
        from featurestore.writing import materialize

        return materialize(self, name, progress)

    def push(self, source: str, events: Iterable[Any], wait: float | None = None) -> PushReport:
        """Append events (dictionaries or JSON bytes) to a source's stream; return when they are durable.

        With `wait` (seconds), return once they are servable, or the time is over.
        """
        from featurestore.pushing import push

        return push(self, source, events, wait)

    def stream(
        self,
        sources: Sequence[str] = (),
        *,
        engine: str | None = None,
        workers: int = 1,
        processes: int = 1,
        addresses: Sequence[str] = (),
        process: int = 0,
        listen: str | None = None,
        give_up_seconds: float = 300.0,
        stop: Event | None = None,
        report: Callable[[dict[str, dict[str, int]]], None] | None = None,
    ) -> dict[str, dict[str, int]]:
        """Keep the stores current from the streams of these sources (default: all) until `stop` is set.

        `engine` is `bytewax` or `local`; default, Bytewax where it is installed. `workers` are threads per
        source and process; `processes` are started on this machine, or `addresses` name those of a cluster,
        of which this is number `process`. `listen` (host:port) answers probes. A store or a broker that does
        not answer for `give_up_seconds` ends the stream. Returns counts by source.
        """
        from featurestore.running import StreamOptions
        from featurestore.streaming import stream

        options = StreamOptions(engine, workers, processes, tuple(addresses), process, give_up_seconds)
        return stream(self, sources, options, stop or Event(), report, listen)

    def drain(self, sources: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Apply what the streams of these sources (default: all) hold now, in this thread; return counts."""
        from featurestore.streaming import chosen, drain

        return {name: drain(self, name) for name in chosen(self, sources)}

    def compact(self, name: str | None = None) -> dict[str, dict[str, int]]:
        """Rewrite the offline tables' closed days, sorted; return counts by table."""
        offline = self.environment.offline
        wanted = [t for t in offline.tables() if name is None or t.startswith(f"{name}-")]
        return {table: offline.table(table).compact() for table in wanted}

    # Reading

    def vector(self, reference: str | list[str]) -> FeatureVectorHandle:
        """Return a vector by `name`, `name@tag` or `name@fingerprint`, or one of a list of `set.feature`."""
        return FeatureVectorHandle(self, self.reader(reference))

    def reader(self, reference: str | list[str]) -> VectorReader:
        """Return the compiled online reader of a vector; the same one while the reference means the same.

        A tag that moved, also from another process, is noticed within seconds.
        """
        key = reference if isinstance(reference, str) else ("", *reference)
        asked, found = self._readers.get(key, (0.0, None))
        if found is not None and time.monotonic() - asked < SERVING_SECONDS:
            return found
        try:
            plan = self._vector_plan(reference)
        except OperatorError:
            if found is None:
                raise
            plan = found.plan  # the registry is down; what is known still serves
        if found is None or found.plan.fingerprint != plan.fingerprint:
            found = VectorReader(plan, self.environment.online, self.catalog.serving)
        self._readers[key] = (time.monotonic(), found)
        return found

    def _vector_plan(self, reference: str | list[str]) -> VectorPlan:
        if isinstance(reference, str):
            return self.catalog.vector(reference)
        return self.catalog.selection(reference)

    def get_online_features(
        self, name: str | list[str], rows: Sequence[Mapping[str, Any]], as_of: Any = None
    ) -> VectorResult:
        """Return `vector(name).get_online(rows, as_of)`."""
        return self.vector(name).get_online(rows, as_of)

    def get_offline_features(
        self,
        name: str | list[str],
        entity_rows: EntityRows | None = None,
        event_time: str = "event_timestamp",
        *,
        as_known: bool = False,
        start: Any = None,
        end: Any = None,
        where: str | None = None,
        join: str | None = None,
    ) -> Any:
        """Return `vector(name).get_offline(…)`."""
        return self.vector(name).get_offline(
            entity_rows, event_time, as_known=as_known, start=start, end=end, where=where, join=join
        )

    def _training_set(
        self,
        plan: Any,
        entity_rows: EntityRows | None,
        event_time: str,
        as_known: bool,
        training: TrainingPlan,
        positions: Mapping[str, Mapping[str, int]] | None,
    ) -> Any:
        engine = extension("engines", "batch")()
        options = engine.options(event_time, as_known, training, cut=positions)
        rows = None if entity_rows is None else _frame(entity_rows)
        made = engine.training_set(plan, self.environment.rows_table, rows, options)
        recorded = {
            "event_time": event_time,
            "as_known": as_known,
            "start": training.start,
            "end": training.end,
            "where": None if training.where is None else training.where.text,
            "join": training.join,
        }
        self.environment.registry.record_training_set(
            self.environment.project, plan.name, plan.fingerprint, recorded, made.positions
        )
        return made

    def verify(self, name: str | None = None, sample: int = 1000, seed: int = 0) -> Verification:
        """Compare online values with offline ones, of a set, a vector, or everything; see `verify`."""
        from featurestore.verify import verify

        return verify(self, name, sample, seed)

    # Looking

    def status(self) -> Records:
        """Return per live set version its rows, freshness, lag, sizes and generations."""
        from featurestore.status import status

        return status(self)

    def list(self) -> dict[str, list[str]]:
        """Return the names of applied objects by kind."""
        kinds = ("Entity", "Source", "FeatureSet", "FeatureVector")
        return {kind: self.catalog.names(kind) for kind in kinds}

    def show(self, name: str) -> dict[str, Any]:
        """Return an applied object: its schema, graph, versions, tags and statistics."""
        from featurestore.status import show

        return show(self, name)

    # Being served

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open the same project."""
        return _reopen, (self.root, self._profile)

    def describe_sets(self) -> Records:
        """Return the applied feature sets with their features, as JSON values."""
        from featurestore.status import describe_set

        return [describe_set(self.catalog.feature_set(name)) for name in self.catalog.names("FeatureSet")]

    def describe_vectors(self) -> Records:
        """Return the applied vectors with what a request needs and gets, as JSON values."""
        from featurestore.status import describe_vector

        return [describe_vector(self.catalog.vector(name)) for name in self.catalog.names("FeatureVector")]

    def ready(self) -> None:
        """Raise an OperatorError unless the registry and the online store answer."""
        self.environment.registry.state(self.environment.project)
        self.environment.online.ping()

    def metrics(self) -> dict[str, float]:
        """Return gauges by Prometheus sample: how many events of its streams each set has not applied."""
        from featurestore.status import gauges

        return gauges(self)

    def tag(self, kind: str, reference: str, tag: str) -> str:
        """Point a tag at a version; return the version's fingerprint.

        What the version reads is kept current from now on; where it was not, `materialize` comes first.
        """
        registry, project = self.environment.registry, self.environment.project
        live = {(plan.name, plan.state_fingerprint) for plan in self.catalog.live_sets()}
        version = registry.tag(project, kind, reference, tag)
        for plan in self.catalog.live_sets():
            key = (plan.name, plan.state_fingerprint)
            stale = registry.serving_generation(project, *key, self.environment.online_identity)
            if key not in live and stale is not None:
                registry.retire(stale.id)  # nothing kept it current; materialize fills another
        self._readers.clear()
        self.catalog.forget()
        return version.fingerprint


def _reopen(root: Path, profile: str | None) -> FeatureStore:
    return FeatureStore(root, profile=profile)


def _frame(data: EntityRows) -> pl.DataFrame:
    """Return a Polars frame of a frame of any kind, or of a SQL query's result."""
    from featurestore.rows.frames import to_polars

    return to_polars(data)


def _instants(as_of: Any) -> int | list[int] | None:
    """Return one instant, or one per row, in microseconds."""
    if isinstance(as_of, list | tuple):
        found = [instant_of(item) for item in as_of]
        if None in found:
            raise RequestError(
                "as_of lacks an instant for some rows.", hint="Give one per row, or one for all."
            )
        return [instant for instant in found if instant is not None]
    return instant_of(as_of)
