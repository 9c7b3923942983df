"""A feature set, resolved: keys, steps, row-level features, aggregates, fingerprints (DESIGN 4, 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.compiler.aggregations import compile_aggregations
from featurestore.compiler.columns import by_name, duration, positive
from featurestore.compiler.entities import compile_keys
from featurestore.compiler.expectations import compile_expectations
from featurestore.compiler.fingerprints import fingerprint
from featurestore.compiler.imputes import Statistics
from featurestore.compiler.step_fits import fitted_steps, steps_not_fitted
from featurestore.errors import SpecError
from featurestore.plans import AggregateColumn, Expectation, KeyColumn, SetPlan, SourcePlan
from featurestore.specs.models import Entity, FeatureSet
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.steps.base import Step
from featurestore.steps.compiler import compile_steps
from featurestore.steps.plan import StepPlan


@dataclass(frozen=True)
class Rows:
    """What a set reads: a source, and the steps of the sets above it where it is chained.

    A chained set reads its parent's rows: the same source, the parent's steps, then its own. A row that
    lacks the parent's key but has the set's own counts in the set.
    """

    source: SourcePlan
    steps: tuple[Step, ...] = ()
    places: tuple[str, ...] = ()
    owners: tuple[tuple[str, int], ...] = ()
    """Whose step each is, and the number it has there: what is fitted for it is that set's."""

    def below(self, feature_set: FeatureSet, origin: Origin) -> Rows:
        """Return what a set chained to `feature_set` reads."""
        places = tuple(origin.where("steps", index) for index in range(len(feature_set.steps)))
        owners = tuple((feature_set.name, index) for index in range(len(feature_set.steps)))
        return Rows(self.source, self.steps + feature_set.steps, self.places + places, self.owners + owners)


def compile_set(
    feature_set: FeatureSet,
    entities: Mapping[str, Entity],
    rows: Rows,
    *,
    project: str,
    fits: Mapping[str, Statistics] | None = None,
    origin: Origin | None = None,
) -> SetPlan:
    """Return the plan of a feature set that reads `rows`.

    `fits` holds what is fitted, by set, step and column, then statistic. Raises SpecErrors with all that is
    wrong, and NotFitted where a step awaits a fit and all else is right.
    """
    origin = origin or Origin(f"feature set '{feature_set.name}'")
    problems = Problems()
    source = rows.source
    below = rows.below(feature_set, origin)
    steps = None
    with problems.collect(origin.where("steps"), "steps"):
        fitted = fitted_steps(below.owners, fits or {})
        steps = compile_steps(below.steps, source.schema, where=below.places.__getitem__, fits=fitted)
    ttl, history = None, None
    with problems.collect(origin.where("ttl"), "ttl"):
        if feature_set.ttl is not None:
            _needs_time(source, "ttl:")
            ttl = positive(feature_set.ttl)
    with problems.collect(origin.where("history"), "history"):
        history = None if feature_set.history == "all" else duration(feature_set.history)
    with problems.collect(origin.where("aggregations"), "aggregations"):
        if feature_set.aggregations:
            _needs_time(source, "a window")
    if steps is None:
        problems.check()
        raise AssertionError("steps without a plan are a problem")
    with problems.collect(origin.where("steps"), "steps"):
        if steps.explodes:
            _never_retracts(source)

    columns = by_name(steps.columns)
    keys: tuple[KeyColumn, ...] = ()
    aggregates: tuple[AggregateColumn, ...] = ()
    with problems.collect(origin.where("entities"), "entities"):
        keys = compile_keys(feature_set, entities, columns, origin)
    with problems.collect(origin.where("aggregations"), "aggregations"):
        aggregates = compile_aggregations(feature_set, columns, origin)
    expectations: tuple[Expectation, ...] = ()
    with problems.collect(origin.where("expectations"), "expectations"):
        expectations = compile_expectations(feature_set, columns, origin)
    for name in columns:
        if name.startswith("__"):
            message = f"the steps make a column '{name}'; two underscores are for the store's own."
            problems.add(SpecError(message, where=origin.where("steps"), hint="Name it otherwise."))
    problems.check()
    if steps.needs:
        raise steps_not_fitted(feature_set.name, source, below, steps, fitted)
    return _plan(feature_set, project, source, keys, steps, aggregates, ttl, history, expectations)


def _plan(
    feature_set: FeatureSet,
    project: str,
    source: SourcePlan,
    keys: tuple[KeyColumn, ...],
    steps: StepPlan,
    aggregates: tuple[AggregateColumn, ...],
    ttl: int | None,
    history: int | None,
    expectations: tuple[Expectation, ...],
) -> SetPlan:
    hidden = {key.column for key in keys} | {source.event_time, source.ingest_time, *source.event_id}
    rows = fingerprint(
        {
            "source": source.fingerprint,
            "keys": [[key.column, str(key.type)] for key in keys],
            "steps": steps.text,
        }
    )
    state = fingerprint(
        {
            "rows": rows,
            "entities": [key.entity for key in keys],
            "aggregates": [_aggregate(aggregate) for aggregate in aggregates],
            "closed": feature_set.closed,
            "history": history,
            "ttl": ttl,
        }
    )
    return SetPlan(
        name=feature_set.name,
        project=project,
        source=source,
        keys=keys,
        steps=steps,
        plain=tuple(field for field in steps.visible if field.name not in hidden),
        columns=steps.columns,
        aggregates=aggregates,
        ttl=ttl,
        left_closed=feature_set.closed == "left",
        history=history,
        online=feature_set.online,
        rows_fingerprint=rows,
        state_fingerprint=state,
        expectations=expectations,
    )


def _aggregate(aggregate: AggregateColumn) -> list[object]:
    """Return what decides an aggregate's value and its place in the online layout."""
    read, window = aggregate.input, aggregate.window
    return [
        aggregate.name,
        aggregate.function,
        read.column,
        str(read.type) if read.type else None,
        read.where.sql if read.where else None,
        read.by,
        read.value,
        window.width,
        window.left_closed,
        window.granularity,
        window.offset,
        aggregate.k,
        *(p for p in (aggregate.half_life, aggregate.percentile) if p is not None),
    ]


def _never_retracts(source: SourcePlan) -> None:
    """Raise SpecError where a later row could take one back: the items of the first would stay."""
    what = "deleted:" if source.deleted is not None else None
    if source.on_duplicate == "replace":
        what = "on_duplicate: replace"
    if what is not None:
        raise SpecError(
            f"explode: the source '{source.name}' has {what}, and a newer row with fewer items could not take"
            " the others back.",
            hint="Leave one of the two out, or keep the list in one row.",
        )


def _needs_time(source: SourcePlan, what: str) -> None:
    if source.event_time is None:
        raise SpecError(
            f"the source '{source.name}' has event_time: always, and {what} needs a time.",
            hint="Name the source's timestamp column in event_time:.",
        )
