"""`FeatureStore`: the one object that users hold (DESIGN 5)."""

from __future__ import annotations

import getpass
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from featurestore.catalog import SERVING_SECONDS, Catalog
from featurestore.contracts import extension
from featurestore.environment import Environment
from featurestore.errors import OperatorError, RequestError
from featurestore.specs.project import load_config
from featurestore.tags import LATEST, NEXT
from featurestore.training import instant_of, training_rows

if TYPE_CHECKING:
    import polars as pl

    from featurestore.cases import CaseReport
    from featurestore.changes import Changes
    from featurestore.client import RemoteFeatureStore
    from featurestore.compiler import CompiledProject
    from featurestore.online.reader import VectorReader, VectorResult
    from featurestore.plans import SetPlan, TrainingPlan, VectorPlan
    from featurestore.previewing import Preview
    from featurestore.promoting import RolledBack
    from featurestore.pushing import PushReport
    from featurestore.replaying import ReplayReport
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
        self.upkept: Counter[str] = Counter()  # what upkeep has done in this process

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
        from featurestore.compiler import compile_project
        from featurestore.specs import load_project

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
        from featurestore.specs import load_project

        loaded = load_project(self.root, self._profile)
        compiled, _ = fitted_project(self.environment, loaded)
        return run(self, loaded, compiled, names, match, redis=redis, progress=progress)

    def plan(self) -> Changes:
        """Return what `apply` would change, and what would follow from it."""
        return self._plan()[1]

    def apply(
        self, planned: Changes | None = None, *, promote: bool = False, progress: Progress | None = None
    ) -> Changes:
        """Apply the specs: new versions, immutable. Raises OperatorError where `planned` is stale.

        With `promote` the new versions are filled beside those that serve, followed by running streams, and
        all switch at once, in the end; what they replace is the version `previous`. Interrupted anywhere, the
        same again goes on from there. Without, `latest` moves at once, and what is changed has no values
        online until it is filled.
        """
        from featurestore.changes import apply
        from featurestore.steps.functions import FunctionChanged

        compiled, now = self._plan()
        planned, author = planned or now, getpass.getuser()
        if promote:
            from featurestore import promoting

            planned = promoting.promote(self, compiled, planned, author, progress)
        else:
            with suppress(FunctionChanged):  # what was applied with it cannot be computed any more
                live = self._live_states()
                self._retire_stale([plan for plan in compiled.sets.values() if _state(plan) not in live])
            apply(self.environment, compiled, planned, author)
        self._readers.clear()
        self.catalog.forget()
        return planned

    def rollback(self, names: Sequence[str] = (), *, repair: bool = False) -> Sequence[RolledBack]:
        """Swap the latest and the previous versions, of these objects or of all that were promoted last.

        It is instant: the previous version is kept current until the next promotion, or until its tag
        `previous` is deleted. Rolling back again goes forward. With `repair`, the generations that the last
        `materialize` of these sets (default: all) replaced within the hour serve again. Raises RequestError
        where there is nothing to go back to, and OperatorError where it has no values; nothing changes then.
        """
        from featurestore import promoting

        done = promoting.undo_repair(self, names) if repair else promoting.roll_back(self, names)
        self._readers.clear()
        return done

    def compiled(self, without: str | None = None) -> CompiledProject:
        """Return the project's specs, compiled with the newest fits; that of `without` left out."""
        from featurestore.fitting import fitted_project
        from featurestore.specs import load_project

        return fitted_project(self.environment, load_project(self.root, self._profile), without)[0]

    def _plan(self) -> tuple[CompiledProject, Changes]:
        from featurestore.changes import changes
        from featurestore.fitting import fitted_project
        from featurestore.specs import load_project

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

    def push(self, source: str, events: Any, wait: float | None = None) -> PushReport:
        """Append events to a source's stream; return once all of them are durable, with each one's place.

        `events` is an iterable of dictionaries or JSON bytes; bytes with one JSON object per line; the path
        of such a file, or of one in Parquet or Arrow; or a Polars, pandas or Arrow frame, or a
        RecordBatchReader, whose rows are events. What the source's schema does not admit is refused with its
        index and reason, and the rest is appended. With `wait` (seconds), return once they are servable, or
        the time is over.

        Raises StoreUnavailable where the broker does not answer; PushInterrupted, which tells what is
        durable, where some events are, or may be; OperatorError before anything is sent where a `wait` is for
        a feature set that nothing serves.
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
        from featurestore.upkeep import beside

        options = StreamOptions(engine, workers, processes, tuple(addresses), process, give_up_seconds)
        with beside(self):
            return stream(self, sources, options, stop or Event(), report, listen)

    def drain(self, sources: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """Apply what the streams of these sources (default: all) hold now, in this thread; return counts."""
        from featurestore.streaming import chosen, drain

        return {name: drain(self, name) for name in chosen(self, sources)}

    def accept_topic(self, source: str, start: str = "earliest") -> dict[str, int]:
        """Let a source's stream go on with a topic that was made anew, is another cluster's, or has gaps.

        Returns where partitions begin: those of another topic at `earliest`, `latest`, or an instant; those
        whose next records the broker has deleted, at the first that it has. All others are left as they are.
        """
        from featurestore.streaming import accept_topic

        return accept_topic(self, source, start)

    def compact(self, name: str | None = None) -> dict[str, dict[str, int]]:
        """Rewrite the offline tables' closed days, sorted; return counts by table."""
        offline = self.environment.offline
        wanted = [t for t in offline.tables() if name is None or t.startswith(f"{name}-")]
        return {table: offline.table(table).compact() for table in wanted}

    def upkeep(self) -> Records:
        """Do what `upkeep:` says is due now: retention, compaction, deletion of files; return what was done.

        One record per offline table, and one of generations. A running stream does the same beside its work.
        """
        from featurestore.upkeep import upkeep

        return upkeep(self)

    # Dead letters

    def dead_letters(
        self,
        source: str | None = None,
        feature_set: str | None = None,
        code: str | None = None,
        since: Any = None,
        limit: int = 20,
    ) -> Records:
        """Return the newest dead letters: what was refused, where it stood, why, its bytes, if replayed.

        Each bound that is given holds; `since` is an instant of ingest time. Of a `feature_set` there are the
        letters of its steps; what a source's schema refused has none.
        """
        from featurestore.dead_letters import Chosen, newest

        chosen = Chosen(source, feature_set, code, instant_of(since))
        return newest(self.environment, chosen, limit)

    def count_dead_letters(
        self,
        source: str | None = None,
        feature_set: str | None = None,
        code: str | None = None,
        since: Any = None,
    ) -> Records:
        """Return how many rows were refused, by source, set and code, with first, newest and replayed."""
        from featurestore.dead_letters import Chosen, counts

        return counts(self.environment, Chosen(source, feature_set, code, instant_of(since)))

    def replay(
        self,
        source: str | None = None,
        feature_set: str | None = None,
        code: str | None = None,
        since: Any = None,
        ids: Sequence[str] = (),
        *,
        dry_run: bool = False,
    ) -> ReplayReport:
        """Send dead letters again that the source, as it is applied now, admits; each once. Return counts.

        Of a stream they are appended to the topic, and become known now. Those of a step, or of a batch
        input, are ingested into the versions of the sets that lack them. Bounds are those of `dead_letters`;
        `ids` are letters' own. With `dry_run` nothing is sent or noted.
        """
        from featurestore.dead_letters import Chosen
        from featurestore.replaying import replay

        chosen = Chosen(source, feature_set, code, instant_of(since))
        return replay(self, chosen, ids, dry_run)

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
            from featurestore.online.reader import VectorReader

            found = VectorReader(plan, self.environment.online, self.catalog.serving, marked=True)
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
        live = self._live_states()
        version = self.environment.registry.tag(self.environment.project, kind, reference, tag)
        self._retire_stale([plan for plan in self.catalog.live_sets() if _state(plan) not in live])
        self._readers.clear()
        self.catalog.forget()
        return version.fingerprint

    def untag(self, kind: str, name: str, tag: str) -> bool:
        """Delete a tag; return whether there was one. What nothing else points at is kept current no more."""
        registry, project = self.environment.registry, self.environment.project
        if tag in (LATEST, NEXT):
            raise RequestError(f"The tag '{tag}' moves with apply alone.", hint="Apply other specs.")
        deleted = registry.untag(project, kind, name, tag)
        self._readers.clear()
        self.catalog.forget()
        return deleted

    def _live_states(self) -> set[tuple[str, str]]:
        return {_state(plan) for plan in self.catalog.live_sets()}

    def _retire_stale(self, plans: Iterable[SetPlan]) -> None:
        """Retire the generations of states that become live: nothing kept them current."""
        registry, project = self.environment.registry, self.environment.project
        for plan in plans:
            stale = registry.serving_generation(project, *_state(plan), self.environment.online_identity)
            if stale is not None:
                registry.retire(stale.id)


def _state(plan: SetPlan) -> tuple[str, str]:
    return (plan.name, plan.state_fingerprint)


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
