"""Promotion: new versions are filled beside those that serve, then all switch at once; and back again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore import generations, tables
from featurestore.changes import REMOVED, Changes
from featurestore.compiler import CompiledProject
from featurestore.errors import RequestError, UnknownName, did_you_mean
from featurestore.generations import Progress
from featurestore.online.writer import is_marked
from featurestore.plans import SetPlan
from featurestore.sources import is_wider
from featurestore.tags import PREVIOUS
from featurestore.writing import BatchRows

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


@dataclass(frozen=True)
class RolledBack:
    """One object that is as it was before: its versions, or a set's generations, from and to.

    `before` is None where it had been removed.
    """

    kind: str
    name: str
    before: str | None
    now: str


def promote(
    store: FeatureStore, compiled: CompiledProject, planned: Changes, author: str, progress: Progress | None
) -> Changes:
    """Fill what the changes make, let all of it serve at once, and return the changes with what was filled.

    `latest` moves at the very end. Interrupted anywhere, the same again goes on from there. Raises
    OperatorError where another apply came first.
    """
    environment = store.environment
    registry, project = environment.registry, environment.project
    _refuse_other_streams(store, compiled)
    registry.prepare(project, planned.versions, saw=planned.saw, author=author)

    def check() -> None:
        registry.check_prepared(project, planned.versions, saw=planned.saw)

    batch = BatchRows(store, progress)
    live = store.catalog.live_sets()
    for plan in _offline_only(compiled, live):
        generations.bring_rows(store, plan, batch.bring)
    filled = generations.fill(
        store, _not_served(store, compiled, live), progress, bring=batch.bring, check=check
    )
    lacking = {item.plan.name: len(found) for item in filled if (found := batch.lacking(item.plan))}
    removed = [(item.kind, item.name) for item in planned if item.action == REMOVED]
    registry.switch(project, planned.versions, [item.id for item in filled], saw=planned.saw, removed=removed)
    store.catalog.forget()
    generations.finish(store, filled, batch.bring)
    generations.drop_unneeded(store)
    return replace(planned, filled={item.plan.name: item.rows for item in filled}, lacking=lacking)


def _not_served(store: FeatureStore, compiled: CompiledProject, live: Sequence[SetPlan]) -> list[SetPlan]:
    """Return the online sets whose state nothing serves, or nothing kept current."""
    current = {(plan.name, plan.state_fingerprint) for plan in live}
    return [
        plan
        for plan in compiled.sets.values()
        if plan.online
        and not ((plan.name, plan.state_fingerprint) in current and generations.is_served(store, plan))
    ]


def _offline_only(compiled: CompiledProject, live: Sequence[SetPlan]) -> list[SetPlan]:
    """Return the new sets that are not online: training reads their tables."""
    current = {tables.rows_table(plan) for plan in live}
    return [
        plan for plan in compiled.sets.values() if not plan.online and tables.rows_table(plan) not in current
    ]


def _refuse_other_streams(store: FeatureStore, compiled: CompiledProject) -> None:
    """Raise RequestError where one stream cannot feed the sets that serve and those that are to serve."""
    for name in set(store.catalog.names("Source")) & set(compiled.sources):
        before, after = store.catalog.source(name), compiled.sources[name]
        if before.stream is not None and after.stream is not None and not is_wider(after, before):
            raise RequestError(
                f"Source '{name}' changes by more than new columns, so one stream cannot feed the versions"
                " before and after at once.",
                hint="Declare a source of another name, and the sets on that; or apply without --promote.",
            )


def roll_back(store: FeatureStore, names: Sequence[str]) -> list[RolledBack]:
    """Swap the latest and the previous versions of these objects, or of all that were promoted last, at once.

    Raises OperatorError where a version that would serve has no values, and nothing has changed then.
    """
    environment = store.environment
    registry, project = environment.registry, environment.project
    store.catalog.forget()
    for (kind, name), tags in registry.pointers(project).items():
        if PREVIOUS in tags and (not names or name in names):
            for plan in _sets_of(store, kind, f"{name}@{tags[PREVIOUS]}"):
                if plan.online:
                    store.catalog.serving(plan)
    done = registry.roll_back(project, names)
    store.catalog.forget()
    return [RolledBack(kind, name, before, now) for (kind, name), (before, now) in done.items()]


def _sets_of(store: FeatureStore, kind: str, reference: str) -> list[SetPlan]:
    if kind == "FeatureSet":
        return [store.catalog.feature_set(reference)]
    if kind == "FeatureVector":
        return [lookup.set for lookup in store.catalog.vector(reference).lookups]
    return []


def undo_repair(store: FeatureStore, names: Sequence[str]) -> list[RolledBack]:
    """Let the generations that `materialize` replaced serve again, of these sets or of all that have one.

    What serves now is standby then. Raises RequestError where none is kept any more.
    """
    online, registry = store.environment.online, store.environment.registry
    known = {}
    for plan in store.catalog.live_sets():
        found = generations.kept(store, plan) if plan.online else []
        if len(found) == 2 and is_marked(online, found[1].id):
            known[plan.name, plan.state_fingerprint] = found
    there = {name for name, _ in known}
    for name in names:
        if name not in there:
            hint = did_you_mean(name, there) if there else "One is kept for an hour after materialize."
            raise UnknownName(f"'{name}' has no generation to go back to.", hint=hint)
    if not known:
        raise RequestError(
            "No feature set has a generation to go back to.",
            hint="One is kept for an hour after materialize.",
        )
    done = []
    for (name, _), (now, before) in known.items():
        if not names or name in names:
            registry.promote(before.id)
            done.append(RolledBack("FeatureSet", name, now.id, before.id))
    store.catalog.forget()
    return done
