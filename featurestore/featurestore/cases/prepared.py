"""A case made ready: names resolved, values typed, the question told from the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from featurestore import instants
from featurestore.catalog import AD_HOC, sets_of
from featurestore.compiler import CompiledProject
from featurestore.errors import FeatureStoreError, SpecError, did_you_mean
from featurestore.instants import format_instant, parse_instant
from featurestore.keys import cast_key
from featurestore.online.requests import from_local, outward, row_value
from featurestore.plans import INGEST_TIME, Lookup, Selected, SetPlan, SourcePlan, VectorPlan
from featurestore.specs.cases import LoadedTest
from featurestore.specs.origins import Origin, Part
from featurestore.specs.problems import Problems
from featurestore.types import DataType


@dataclass(frozen=True)
class CaseRow:
    """A row of a source as typed row values, and when it happened and became known (microseconds)."""

    values: dict[str, Any]
    event_time: int
    ingest_time: int


@dataclass(frozen=True)
class Case:
    """A question at an instant, the rows that there are, and the values expected, as Python knows them."""

    name: str
    tested: str
    where: str
    plan: VectorPlan
    online: bool
    sources: dict[str, SourcePlan]
    rows: dict[str, tuple[CaseRow, ...]]
    at: int
    request: dict[str, Any]
    expected: dict[str, Any]
    label: str | None
    as_known: bool
    tolerance: float

    def known(self) -> dict[str, tuple[CaseRow, ...]]:
        """Return the rows that were known at the instant."""
        return {
            name: tuple(row for row in rows if row.ingest_time <= self.at) for name, rows in self.rows.items()
        }


def prepare(loaded: LoadedTest, compiled: CompiledProject) -> Case:
    """Return a case against the plans of its project. Raises SpecErrors: every mistake, with file:line."""
    return _Preparing(loaded, compiled).run()


class _Preparing:
    """Makes one case ready; mistakes are collected."""

    def __init__(self, loaded: LoadedTest, compiled: CompiledProject) -> None:
        self.test = loaded.test
        self.origin: Origin = loaded.origin
        self.compiled = compiled
        self.problems = Problems()

    def run(self) -> Case:
        plan, online = self.tested()
        sources = {item.source.name: item.source for item in sets_of(plan)}
        rows: dict[str, tuple[CaseRow, ...]] = dict.fromkeys(sources, ())
        for name, given in self.test.rows.items():
            with self.problems.collect():
                rows[name] = self.source_rows(self.source(name, sources), given)
        expected = {name: self.expected(plan, name) for name in self.test.expect}
        self.problems.check()
        at, request = self.question(plan, rows)
        self.problems.check()
        return Case(
            self.test.name,
            self.test.vector or self.test.set or "",
            self.origin.where(),
            plan,
            online,
            sources,
            rows,
            at,
            request,
            expected,
            None if plan.label is None else plan.label.output,
            self.test.as_known,
            self.test.tolerance,
        )

    def fail(self, message: str, *path: Part, hint: str | None = None) -> SpecError:
        """Return the error of a place in the case."""
        return SpecError(message, where=self.origin.where(*path), hint=hint)

    def tested(self) -> tuple[VectorPlan, bool]:
        """Return the vector that is tested, or one of all features of a set, and whether it is online."""
        kind, name = ("vector", self.test.vector) if self.test.vector else ("set", self.test.set)
        assert name is not None
        try:
            if kind == "vector":
                return self.compiled.vector(name), True
            found = self.compiled.feature_set(name)
        except FeatureStoreError as error:
            raise self.fail(f"{kind}: {error.message}", kind, hint=error.hint) from None
        return _all_features(found), found.online

    def source(self, name: str, sources: Mapping[str, SourcePlan]) -> SourcePlan:
        if name in sources:
            return sources[name]
        tested = self.test.vector or self.test.set
        known = f"'{tested}' does not read it" if name in self.compiled.sources else "there is none"
        raise self.fail(f"rows: source '{name}': {known}.", "rows", name, hint=did_you_mean(name, sources))

    def source_rows(self, source: SourcePlan, given: tuple[dict[str, Any], ...]) -> tuple[CaseRow, ...]:
        rows = []
        for place, row in enumerate(given):
            with self.problems.collect():
                rows.append(self.row(source, row, ("rows", source.name, place)))
        return tuple(rows)

    def row(self, source: SourcePlan, row: Mapping[str, Any], path: tuple[Part, ...]) -> CaseRow:
        columns = [f.name for f in source.schema]
        for name in row:
            if name not in columns and name != INGEST_TIME:
                raise self.fail(
                    f"rows: source '{source.name}' has no column '{name}'.",
                    *path,
                    name,
                    hint=did_you_mean(name, [*columns, INGEST_TIME]),
                )
        values = {
            f.name: self.value(row.get(f.name), f.type, (*path, f.name), source.timezone)
            for f in source.schema
        }
        t = _event_time(source, values)
        if t is None:
            raise self.fail(f"rows: the row lacks its event time, '{source.event_time}'.", *path)
        return CaseRow(values, t, self.ingest_time(source, row, values, t, path))

    def ingest_time(
        self,
        source: SourcePlan,
        row: Mapping[str, Any],
        values: Mapping[str, Any],
        t: int,
        path: tuple[Part, ...],
    ) -> int:
        """Return when a row became known: the source's column, what the case says, or the event time."""
        given = row.get(INGEST_TIME)
        if source.ingest_time is not None:
            if given is not None:
                raise self.fail(
                    f"rows: source '{source.name}' has a column of its own for when a row became known.",
                    *path,
                    INGEST_TIME,
                    hint=f"Write {source.ingest_time}: instead of {INGEST_TIME}:.",
                )
            known = values[source.ingest_time]
            return t + source.delay if known is None else int(known)
        if given is None:
            return t + source.delay
        known = int(self.value(given, DataType("timestamp"), (*path, INGEST_TIME), source.timezone))
        if t - known > source.future:
            raise self.fail(
                f"rows: the row became known at {format_instant(known)}, before it happened.",
                *path,
                INGEST_TIME,
                hint=f"Write an instant from {format_instant(t)} on.",
            )
        return known

    def value(self, value: Any, kind: DataType, path: tuple[Part, ...], zone: str | None = None) -> Any:
        """Return a value of the case, typed. Raises SpecError where it does not fit."""
        try:
            return row_value(value, kind, zone)
        except ValueError as error:
            raise self.fail(f"{'.'.join(map(str, (path[0], path[-1])))}: {error}.", *path) from None

    def expected(self, plan: VectorPlan, name: str) -> Any:
        """Return the value expected of a feature, as Python knows it; problems are noted."""
        types = {f.name: f.type for f in plan.outputs}
        if plan.label is not None:
            types[plan.label.output] = plan.label.type
        with self.problems.collect():
            if name not in types:
                tested = self.test.vector or self.test.set
                raise self.fail(
                    f"expect: '{tested}' has no feature '{name}'.",
                    "expect",
                    name,
                    hint=did_you_mean(name, types),
                )
            value = self.value(self.test.expect[name], types[name], ("expect", name))
            return outward(value, types[name])
        return None

    # The question

    def question(
        self, plan: VectorPlan, rows: Mapping[str, tuple[CaseRow, ...]]
    ) -> tuple[int, dict[str, Any]]:
        """Return the instant and the request, as Python values."""
        at = None if self.test.at is None else parse_instant(self.test.at)
        if plan.base is not None:
            return self.base_row(plan, plan.base, rows[plan.base.source.name], at)
        if at is None:
            raise self.fail("at: is missing.", hint="Write the instant that is asked about, at: 2026-…Z.")
        given = self.test.request
        request = self.only_keys(plan, rows) if given is None else self.typed_request(plan, given)
        return at, request

    def typed_request(self, plan: VectorPlan, given: Mapping[str, Any]) -> dict[str, Any]:
        keys = {
            column: key.type
            for lookup in plan.lookups
            for column, key in zip(lookup.keys, lookup.set.keys, strict=True)
            if column in plan.request_keys
        }
        needed = list(keys)
        if plan.label is not None:  # which may have a key of its own, that no request gives
            keys |= {
                column: key.type
                for column, key in zip(plan.label.keys, plan.label.set.keys, strict=True)
                if column in given
            }
        inputs = {f.name: f.type for f in plan.inputs}
        for name in given:
            if name not in keys and name not in inputs:
                raise self.fail(
                    f"request: '{name}' is no key or input of '{plan.name}'.",
                    "request",
                    name,
                    hint=did_you_mean(name, [*keys, *inputs]),
                )
        missing = [name for name in needed if name not in given]
        if missing:
            raise self.fail(f"request: the key '{missing[0]}' is missing.", "request")
        return {name: self.key(given[name], kind, name) for name, kind in keys.items()} | {
            name: outward(self.value(given.get(name), kind, ("request", name)), kind)
            for name, kind in inputs.items()
        }

    def key(self, value: Any, kind: DataType, name: str) -> Any:
        """Return a key as it is asked for. Raises SpecError where it does not fit."""
        if value is None:
            return None
        try:
            return _key(value, kind)
        except ValueError as error:
            raise self.fail(f"request.{name}: {error}.", "request", name) from None

    def only_keys(self, plan: VectorPlan, rows: Mapping[str, tuple[CaseRow, ...]]) -> dict[str, Any]:
        """Return the keys that the rows have, where there is one of each."""
        request: dict[str, Any] = {}
        for column in plan.request_keys:
            found = set(_keys_of(plan, column, rows))
            if len(found) != 1:
                has = f"the rows have {len(found)} keys '{column}'"
                raise self.fail(f"request: is missing, and {has}.", hint=f"Write request: {{{column}: …}}.")
            request[column] = found.pop()
        return request | {f.name: None for f in plan.inputs}

    def base_row(
        self, plan: VectorPlan, base: SetPlan, rows: tuple[CaseRow, ...], at: int | None
    ) -> tuple[int, dict[str, Any]]:
        """Return the event time of the row that is scored, and the row with the inputs."""
        source = base.source
        if self.test.request is None:
            past = [row for row in rows if at is None or row.event_time <= at]
            if not past:
                raise self.fail(
                    f"request: is missing, and source '{source.name}' has no row.",
                    hint="Write request: with the row that is scored.",
                )
            scored = max(past, key=lambda row: row.event_time)
            values = {f.name: outward(scored.values[f.name], f.type) for f in source.schema}
            return scored.event_time, values | {f.name: None for f in plan.inputs if f.name not in values}
        inputs = {f.name: f.type for f in plan.inputs}
        given = {k: v for k, v in self.test.request.items() if k not in inputs}
        scored = self.row(source, {k: v for k, v in given.items() if k != INGEST_TIME}, ("request",))
        if at is not None and at != scored.event_time:
            raise self.fail(
                f"at: the row that is scored happens at {format_instant(scored.event_time)}.",
                "at",
                hint="Leave at: out.",
            )
        values = {f.name: outward(scored.values[f.name], f.type) for f in source.schema}
        return scored.event_time, values | {
            name: outward(self.value(self.test.request.get(name), kind, ("request", name)), kind)
            for name, kind in inputs.items()
        }


def _all_features(plan: SetPlan) -> VectorPlan:
    """Return the vector of all features of a set, by their own names."""
    features = tuple(Selected(f.name, f.name, f.type) for f in plan.features)
    lookup = Lookup(set=plan, keys=tuple(key.request_column for key in plan.keys), features=features)
    return VectorPlan(
        name=AD_HOC,
        project=plan.project,
        fingerprint=plan.state_fingerprint,
        base=None,
        lookups=(lookup,),
        inputs=(),
        derived=(),
        label=None,
        impute=(),
        outputs=plan.features,
    )


def _keys_of(plan: VectorPlan, column: str, rows: Mapping[str, tuple[CaseRow, ...]]) -> Iterator[Any]:
    """Yield the keys that rows have for a column of the request, where no step makes them."""
    for lookup in plan.lookups:
        kinds = {f.name: f.type for f in lookup.set.source.schema}
        for name, key in zip(lookup.keys, lookup.set.keys, strict=True):
            if name == column and key.column in kinds:
                for row in rows[lookup.set.source.name]:
                    with suppress(ValueError):  # a null, or a key of another type: no entity's
                        yield _key(outward(row.values[key.column], kinds[key.column]), key.type)


def _key(value: Any, kind: DataType) -> Any:
    """Return a key as it is asked for: typed, instants and dates as Python knows them."""
    made = cast_key(value, kind)
    return outward(made, kind) if kind.name == "timestamp" else made


def _event_time(source: SourcePlan, values: Mapping[str, Any]) -> int | None:
    """Return when a row happened; a date is its first instant, in the source's zone."""
    if source.event_time is None:
        return instants.ALWAYS
    value = values[source.event_time]
    kind = next(f.type for f in source.schema if f.name == source.event_time)
    if value is None or kind.name != "date":
        return None if value is None else int(value)
    midnight = instants.to_datetime(value * instants.DAY).replace(tzinfo=None)
    return value * instants.DAY if source.timezone is None else from_local(midnight, source.timezone)
