"""Filling generations of the online store beside those that serve, and dropping those that nothing needs.

A filling goes through four states, each of which another process can go on from: `building` (offline rows
are brought), `following` (running streams feed it too, and it is level with what serves), `serving`.
Two that fill the same one at once do no harm: rows are applied once, whoever brings them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from featurestore import beginning, instants, tables
from featurestore.contracts import extension
from featurestore.errors import OperatorError
from featurestore.instants import DAY, HOUR, MINUTE
from featurestore.online.layout import OnlineLayout
from featurestore.online.writer import OnlineWriter, is_marked, mark, mark_of
from featurestore.plans import SetPlan

if TYPE_CHECKING:
    from featurestore.registry import Generation
    from featurestore.store import FeatureStore

Progress = Callable[[int], None]

BEAT_SECONDS = 5.0
"""How often a stream, or who fills a generation, tells the registry that it is at work."""

STANDBY = HOUR
"""How long a generation that another one replaced is fed, so that it can serve again."""

_NEAR_ROWS = 50_000  # a rest that a stream may bring itself before it goes on
_PASSES = 20
_AT_WORK = 20_000_000  # microseconds after its last beat that a stream is taken to be running
_NOTICE_SECONDS = 10.0  # in which a running stream begins to feed a generation that follows
_LEVEL_SECONDS = 120.0
_GRACE = 10 * MINUTE  # for readers that have not noticed that a generation serves no more
_ABANDONED = 10 * MINUTE  # after its last beat, what nobody wants is not being filled any more
_FORGOTTEN = DAY  # and what is wanted, but was interrupted


@dataclass
class Filling:
    """A generation that is being filled with a set's state, and how many rows were brought."""

    plan: SetPlan
    id: str
    writer: OnlineWriter
    rows: int = 0
    duplicates: int = 0


def stream_name(source: str) -> str:
    """Return the name under which streams of a source tell that they are at work."""
    return f"stream {source}"


def kept(store: FeatureStore, plan: SetPlan) -> list[Generation]:
    """Return the generations of a set's state that are fed with rows: what serves, and what is standby."""
    order = ("serving", "standby")
    found = [item for item in _of(store, plan) if item.status in order]
    return sorted(found, key=lambda item: order.index(item.status))


def fed(store: FeatureStore, plan: SetPlan) -> list[Generation]:
    """Return the generations of a set's state that whoever brings rows has to feed."""
    return [item for item in _of(store, plan) if item.status in ("following", "serving", "standby")]


def fill(
    store: FeatureStore,
    plans: Sequence[SetPlan],
    progress: Progress | None = None,
    *,
    bring: Callable[[SetPlan], None],
    check: Callable[[], None] = lambda: None,
    is_level: bool = True,
) -> list[Filling]:
    """Return a generation of each set's state that is filled and marked as such, to let it serve.

    `bring` brings offline what the set's table lacks of batch rows; landed rows are brought in any case.
    `check` raises where it is no use to go on. Without `is_level` no stream is waited for.
    """
    engine = extension("engines", "batch")()
    fillings = [_begin(store, plan) for plan in plans]
    with _beating(store, [_work_name(item.id) for item in fillings]):
        for _ in range(_PASSES):
            check()
            rows = [_bring(store, engine, item, bring, progress) for item in fillings]
            if sum(rows) < _NEAR_ROWS:
                break
        if is_level:
            store.environment.registry.follow(item.id for item in fillings)
            for item in fillings:  # from here on an ingest feeds it too; what was committed before is there
                _bring(store, engine, item, bring, progress)
            _await_level(store, fillings, check)
    for item in fillings:
        mark(store.environment.online, item.id)
    return fillings


def finish(store: FeatureStore, fillings: Sequence[Filling], bring: Callable[[SetPlan], None]) -> None:
    """Bring the batch rows that were ingested while generations began to serve."""
    engine = extension("engines", "batch")()
    for item in fillings:
        bring(item.plan)
        engine.feed(item.plan, store.environment.rows_table(item.plan), item.writer)


def is_served(store: FeatureStore, plan: SetPlan) -> bool:
    """Tell whether a generation of the set's state serves, and the online store still has it."""
    found = serving(store, plan)
    return found is not None and is_marked(store.environment.online, found.id)


def serving(store: FeatureStore, plan: SetPlan) -> Generation | None:
    """Return the generation that serves a set's state, if one does."""
    environment = store.environment
    return environment.registry.serving_generation(
        environment.project, plan.name, plan.state_fingerprint, environment.online_identity
    )


def _of(store: FeatureStore, plan: SetPlan) -> list[Generation]:
    environment = store.environment
    return [
        found
        for found in environment.registry.generations(environment.project, plan.name)
        if found.state_fingerprint == plan.state_fingerprint and found.store == environment.online_identity
    ]


def _begin(store: FeatureStore, plan: SetPlan) -> Filling:
    """Return the filling of a set's state that was begun, where it is one of these rows; else a new one."""
    environment = store.environment
    table = environment.rows_table(plan)
    while True:
        cut = tables.row_partitions(table.positions(table.snapshot()))
        made = environment.registry.begin_generation(
            environment.project, plan.name, plan.state_fingerprint, environment.online_identity, cut,
            lasts=OnlineLayout.of(plan).lasts,
        )  # fmt: skip
        writer = OnlineWriter(plan, environment.online, made.id)
        reached = _furthest(writer)
        lost = made.status == "following" and cut and not reached  # a stream would bring all of it
        if not lost and reached.get(tables.BATCH, 0) <= cut.get(tables.BATCH, 0):
            return Filling(plan, made.id, writer)
        environment.registry.retire(made.id)


def bring_rows(store: FeatureStore, plan: SetPlan, bring: Callable[[SetPlan], None]) -> None:
    """Bring the rows that a set's table lacks: ingested ones by `bring`, streamed ones from landing.

    Of a source with new columns nothing has landed: its rows are read from the topic.
    """
    bring(plan)
    if plan.source.stream is None:
        return
    environment, streams = store.environment, extension("engines", "local")
    landing = tables.landing_table(plan.source)
    job = streams.job(
        plan.source,
        [(plan, environment.rows_table(plan), ())],
        environment.offline.table(landing),
        environment.offline.table(tables.DEAD_LETTERS),
    )
    if any(
        live.source.name == plan.source.name and tables.landing_table(live.source) != landing
        for live in store.catalog.live_sets()
    ):
        beginning.begin(environment, plan.source)
        streams.drain(job, environment.stream(plan.source), None)
    else:
        streams.catch_up(job)


def _bring(
    store: FeatureStore,
    engine: Any,
    item: Filling,
    bring: Callable[[SetPlan], None],
    progress: Progress | None,
) -> int:
    """Bring what a generation lacks: into the offline table first, then from there; return how many rows."""
    bring_rows(store, item.plan, bring)
    filled = engine.fill(item.plan, store.environment.rows_table(item.plan), item.writer, progress)
    item.rows += filled.rows
    item.duplicates += filled.duplicates
    return int(filled.rows)


def _await_level(store: FeatureStore, fillings: Sequence[Filling], check: Callable[[], None]) -> None:
    """Return once generations have all that streams have brought to what serves, and go on getting it.

    A running stream feeds them, as soon as it has noticed that they follow: then it marks them. Where none
    runs, what is missing is read here. Raises OperatorError where a stream goes on without them.
    """
    began = time.monotonic()
    waiting = [item for item in fillings if item.plan.source.stream is not None]
    drained: set[str] = set()
    while waiting:
        check()
        elapsed = time.monotonic() - began
        running = {item.plan.source.name for item in waiting if _is_running(store, item.plan.source.name)}
        marked = {item.id for item in waiting if is_marked(store.environment.online, item.id)}
        patient = elapsed < _NOTICE_SECONDS
        lagging: dict[str, dict[str, int]] = {}
        still = []
        for item in waiting:
            source = item.plan.source.name
            if source in running and source not in drained:
                if item.id in marked:
                    continue
                if patient:
                    still.append(item)
                    continue
            gap = _gap(store, item)
            if gap:
                ends = lagging.setdefault(source, {})
                ends |= {name: max(end, ends.get(name, 0)) for name, end in gap.items()}
                still.append(item)
        for source, ends in lagging.items():
            _drain(store, source, ends)
            drained.add(source)
        waiting = still
        if waiting and elapsed > _LEVEL_SECONDS:
            raise OperatorError(
                f"A stream of '{waiting[0].plan.source.name}' goes on without the new generation of"
                f" '{waiting[0].plan.name}'.",
                hint="Restart it, with this release, and run this again: it goes on where it was.",
            )
        if waiting and not lagging:
            time.sleep(0.05)


def _gap(store: FeatureStore, item: Filling) -> dict[str, int]:
    """Return by partition how far streams have come in what serves, where the generation has not."""
    environment = store.environment
    ahead: dict[str, int] = {}
    for plan in store.catalog.live_sets():
        found = serving(store, plan) if plan.online and plan.source.name == item.plan.source.name else None
        if found is not None and found.id != item.id:
            for name, end in _furthest(OnlineWriter(plan, environment.online, found.id)).items():
                ahead[name] = max(end, ahead.get(name, 0))
    ahead.pop(tables.BATCH, None)
    reached = item.writer.positions().values()
    return {
        name: end for name, end in ahead.items() if any(positions.get(name, 0) < end for positions in reached)
    }


def _drain(store: FeatureStore, source: str, ends: Mapping[str, int]) -> None:
    from featurestore.streaming import drain

    drain(store, source, ends, record=False)  # whoever brought the rows to what serves has counted them


def _furthest(writer: OnlineWriter) -> dict[str, int]:
    furthest: dict[str, int] = {}
    for positions in writer.positions().values():
        for name, end in positions.items():
            furthest[name] = max(end, furthest.get(name, 0))
    return furthest


def _is_running(store: FeatureStore, source: str) -> bool:
    registry, project = store.environment.registry, store.environment.project
    return registry.heartbeats(project).get(stream_name(source), 0) > instants.now() - _AT_WORK


def _work_name(generation: str) -> str:
    return f"generation {generation}"


@contextmanager
def _beating(store: FeatureStore, names: Sequence[str]) -> Iterator[None]:
    """Tell the registry, for the length of a block, that these are being worked on."""
    registry, project = store.environment.registry, store.environment.project
    holder, done = secrets.token_hex(5), Event()

    def beat() -> None:
        for name in names:
            registry.beat(project, name, holder)

    def go_on() -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                beat()
            except OperatorError:
                continue  # the registry does not answer now; what is being filled waits longer than this

    beat()
    thread = Thread(target=go_on, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def drop_unneeded(store: FeatureStore) -> list[str]:
    """Retire generations that nothing will serve again, and drop those that no reader uses any more.

    Returns the ids of those dropped. Needed are what serves a live version, what it replaced within the
    last hour, and what somebody is filling, or was within the last day for a version that is still wanted.
    """
    environment = store.environment
    registry, project, now = environment.registry, environment.project, instants.now()
    beats = registry.heartbeats(project)
    found = [g for g in registry.generations(project) if g.store == environment.online_identity]
    live = {(plan.name, plan.state_fingerprint) for plan in store.catalog.live_sets()}
    wanted = live | {(plan.name, plan.state_fingerprint) for plan in store.catalog.next_sets()}
    gone = []
    for item in found:
        state = (item.set_name, item.state_fingerprint)
        if item.status in ("building", "following"):
            seen = beats.get(_work_name(item.id), item.created_at)
            is_over = seen < now - (_FORGOTTEN if state in wanted else _ABANDONED)
        elif item.status == "standby":
            is_over = state not in live or (item.retired_at or 0) < now - STANDBY
        else:
            is_over = item.status == "serving" and state not in live
        if is_over:
            registry.retire(item.id)
        elif item.status == "retired" and (item.retired_at or 0) < now - _GRACE:
            environment.online.drop(item.id)
            environment.online.drop(mark_of(item.id))
            registry.mark_dropped(item.id)
            gone.append(item.id)
    registry.forget_heartbeats(project, now - 2 * _FORGOTTEN)
    return gone
