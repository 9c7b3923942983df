"""The oracle as one mode: whole vectors over a case's rows, evaluated by `oracle` alone.

Steps, conditions and derived values run as compiled closures, which have tests of their own; which rows
count at an instant, and what comes of them, is the oracle's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import oracle
from oracle import Cell

from featurestore import instants
from featurestore.expressions import RowRejected
from featurestore.expressions.to_closure import to_closure
from featurestore.keys import cast_key
from featurestore.plans import SetPlan, VectorPlan
from featurestore.rows.identity import row_hash
from featurestore.steps.plan import lenient
from featurestore.steps.rows import compile_each

Row = dict[str, Any]
_closure = functools.lru_cache(256)(to_closure)
_steps = functools.lru_cache(16)(compile_each)


class Judge:
    """Expected vectors of a plan over logs of typed rows, by source."""

    def __init__(self, plan: VectorPlan, logs: Mapping[str, Sequence[Row]]) -> None:
        self._plan = plan
        self._logs = logs
        self._facts: dict[str, list[Row]] = {}

    def vector(self, asked: Row, t: int, *, as_known: bool) -> Row:
        """Return the vector of a request's row, or of a typed base row, at `t`."""
        return {name: cell.value for name, cell in self.cells(asked, t, as_known=as_known).items()}

    def cells(self, asked: Row, t: int, *, as_known: bool) -> dict[str, Cell]:
        """Return the vector's values, with what may deviate where nothing was derived from it."""
        plan = self._plan
        slots = {f.name: Cell(asked[f.name]) for f in plan.inputs}
        base = None
        keys = asked
        if plan.base is not None:
            found = _facts(plan.base, [asked], belongs=False)
            if not found:
                return {f.name: Cell(None) for f in plan.outputs}
            base = found[0]
            keys = asked | {key.request_column: base[key.column] for key in plan.base.keys}
        for lookup in plan.lookups:
            own = base if lookup.is_base else None
            given = [
                slots[name].value if place in lookup.feature_keys else keys.get(name)
                for place, name in enumerate(lookup.keys)
            ]
            key = _key(lookup.set, given)
            cells = self._cells(lookup.set, key, t, as_known, own)
            for selected in lookup.features:
                slots[selected.output] = cells[selected.feature]
        for derived in plan.derived:
            closure = _closure(derived.expression)
            try:
                value = closure({column: slots[slot].value for column, slot in derived.columns})
            except RowRejected:
                value = None
            slots[derived.name] = Cell(value)
        constants = dict(plan.impute)
        result = {
            f.name: Cell(constants.get(f.name)) if slots[f.name].value is None else slots[f.name]
            for f in plan.outputs
        }
        if plan.label is not None:
            result[plan.label.output] = Cell(self._label(keys, base, t, as_known))
        return result

    def _cells(self, plan: SetPlan, key: Any, t: int, as_known: bool, base: Row | None) -> dict[str, Cell]:
        if key is not None and base is not None:
            base = base | {"__key": key}
        rows = self._rows(plan)
        options: dict[str, Any] = {"as_known": as_known, "predicate": _closure, "base": base}
        if key is None:
            rows, options["base"] = [], None
        cells = oracle.expected_cells(plan, rows, key, t, **options)
        if base is not None:
            cells |= {f.name: Cell(base[f.name]) for f in plan.plain}
        return cells

    def _label(self, keys: Row, base: Row | None, t: int, as_known: bool) -> Any:
        label = self._plan.label
        assert label is not None
        key = _key(label.set, [keys.get(name) for name in label.keys])
        if label.by_event_id and base is not None:
            same = [row for row in self._rows(label.set) if oracle.same_id(base | {"__key": key}, row)]
            kept = oracle.identified(same, on_duplicate=label.set.source.on_duplicate)
            return kept[0][label.feature] if kept else None
        if label.offset and label.pending == "hide":
            reached = max((row["__ingest_time"] for row in self._rows(label.set)), default=instants.ALWAYS)
            if t + label.offset > reached:
                return None
        return self._cells(label.set, key, t + label.offset, False, None)[label.feature].value

    def _rows(self, plan: SetPlan) -> list[Row]:
        if plan.name not in self._facts:
            self._facts[plan.name] = _facts(plan, self._logs.get(plan.source.name, ()))
        return self._facts[plan.name]


def _key(plan: SetPlan, values: Sequence[Any]) -> Any:
    """Return the parts of a key, each cast to its entity's type; None where one is null or does not fit."""
    if any(value is None or value != value for value in values):
        return None
    try:
        return tuple(cast_key(value, key.type) for value, key in zip(values, plan.keys, strict=True))
    except ValueError:
        return None


def _facts(plan: SetPlan, log: Sequence[Row], *, belongs: bool = True) -> list[Row]:
    """Return a set's rows of a log as the oracle reads them; without `belongs`, also those of no entity."""
    source = plan.source
    steps = _steps(plan.steps)
    keys = [key.column for key in plan.keys]
    for_deletions = _steps(replace(plan.steps, ops=lenient(plan.steps.ops, keys)))  # no step holds one back
    made = []
    for row in log:
        deleted = source.deleted is not None and _closure(source.deleted)(row) is True
        try:
            items = (for_deletions if deleted else steps)(dict(row))
        except RowRejected:
            continue
        t = instants.ALWAYS if source.event_time is None else row[source.event_time]
        known = None if source.ingest_time is None else row[source.ingest_time]
        for number, after in enumerate(items):
            fact = {
                **after,
                "__key": _key(plan, [after[key.column] for key in plan.keys]),
                "__event_time": t,
                "__ingest_time": t + source.delay if known is None else known,
                "__row_hash": row_hash(row, source.schema),
            }
            if source.event_id:
                fact["__event_id"] = (*(row[name] for name in source.event_id), number)
            if source.order_by:
                fact["__order"] = row[source.order_by]
            if source.deleted is not None:
                fact["__deleted"] = deleted
            made.append(fact)
    return [row for row in made if row["__key"] is not None or not belongs]
