"""Cells side by side: what is equal, how far a float may lie apart, and the rows behind what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore import instants, plans
from featurestore.environment import Environment
from featurestore.instants import format_instant
from featurestore.plans import AggregateColumn, Lookup, SetPlan, VectorPlan
from featurestore.types import DataType, Field
from featurestore.verify.outcome import Difference, Verification
from featurestore.verify.questions import AT

if TYPE_CHECKING:
    import polars as pl

SUM_TOLERANCE = 1e-15
"""Of the sum of the window's magnitudes: sums and averages of floats (DESIGN 3.7)."""
DECAY_TOLERANCE = 1e-12
"""Of the sum of the window's magnitudes: sums and averages that decay."""
MOMENT_TOLERANCE = 1e-9
"""Relative: variance and its kin, and what is derived from floats."""

_SHOWN = 20
_KEY = "key "  # before the name of an output that is a key; no declared name has a space
_ROWS_SHOWN = 5


class Comparison:
    """Compares a vector's cells, and notes what differs in `result`."""

    def __init__(self, environment: Environment, plan: VectorPlan, result: Verification) -> None:
        self._environment = environment
        self._plan = plan
        self._result = result
        self._made = {
            selected.output: (lookup, {a.name: a for a in lookup.set.aggregates}.get(selected.feature))
            for lookup in plan.lookups
            for selected in lookup.features
        }
        self._derived = {derived.name for derived in plan.derived}

    def cells(self, rows: pl.DataFrame, online: Sequence[Sequence[Any]], offline: pl.DataFrame) -> None:
        """Compare every output of every row; `offline` has the plan's outputs, and so the keys found."""
        self._found = offline
        for place, output in enumerate(self._plan.outputs):
            expected = _row_values(offline[output.name], output.type)
            for number, value in enumerate(expected):
                got = online[number][place]
                self._result.compared += 1
                if not _same(value, got) and not self._is_near(output.name, value, got, rows, number):
                    self._differs(output.name, value, got, rows, number)

    def _is_near(self, output: str, value: Any, got: Any, rows: pl.DataFrame, number: int) -> bool:
        if not (isinstance(value, float) and isinstance(got, float)):
            return False
        if not (math.isfinite(value) and math.isfinite(got)):
            return False
        deviation = abs(value - got)
        if deviation > self._tolerance(output, value, rows, number):
            return False
        self._result.largest_deviation = max(self._result.largest_deviation, deviation)
        return True

    def _tolerance(self, output: str, value: float, rows: pl.DataFrame, number: int) -> float:
        """Return how far a float may lie from the offline value."""
        import polars as pl

        if output in self._derived:
            return MOMENT_TOLERANCE * abs(value)
        lookup, aggregate = self._made[output]
        if aggregate is None:
            return 0.0
        if aggregate.function in ("var", "std", "var_pop", "std_pop"):
            return MOMENT_TOLERANCE * abs(value)
        if aggregate.function in ("skew", "kurtosis"):
            return MOMENT_TOLERANCE * (1.0 + abs(value))
        share = {"sum": SUM_TOLERANCE, "avg": SUM_TOLERANCE}.get(aggregate.function)
        if aggregate.half_life is not None:
            share = DECAY_TOLERANCE
        if share is None or aggregate.input.column is None:
            return 0.0
        behind = self._in_window(lookup, aggregate, rows, number)
        if behind is None or not behind.height:
            return 0.0
        magnitudes = behind[aggregate.input.column].cast(pl.Float64).abs()
        # the rows that count are among these: a mean of theirs is at most the greatest
        limit = magnitudes.sum() if aggregate.function.endswith("sum") else magnitudes.max()
        return share * float(limit or 0.0)  # type: ignore[arg-type]

    def _in_window(
        self, lookup: Lookup, aggregate: AggregateColumn, rows: pl.DataFrame, number: int
    ) -> pl.DataFrame | None:
        import polars as pl

        behind = self._behind(lookup, rows, number)
        if behind is None:
            return None
        low, high = aggregate.window.bounds(self._instant(rows, number))
        at = pl.col(plans.EVENT_TIME).dt.epoch("us")
        return behind.filter((at >= low) & (at < high))

    def _instant(self, rows: pl.DataFrame, number: int) -> int:
        if self._plan.base is None:
            return int(rows[AT][number])
        found: int = base_rows(self._plan.base, rows[[number]])[plans.EVENT_TIME].dt.epoch("us")[0]
        return found

    def _behind(self, lookup: Lookup, rows: pl.DataFrame, number: int) -> pl.DataFrame | None:
        """Return the entity's stored rows up to the instant, newest last; None where there is no entity."""
        import polars as pl

        from featurestore.rows.keys import encode

        keys = key_frame(self._plan, rows[[number]], lookup, self._found[[number]])
        table = self._environment.rows_table(lookup.set)
        snapshot = table.snapshot()
        if not keys.height or snapshot is None:
            return None
        key = encode(keys, lookup.set.keys, keys.columns).key.alias(plans.KEY).to_frame()
        stored = table.lazy(snapshot, schema=lookup.set.columns)
        found = stored.join(key.lazy(), on=plans.KEY, how="semi").collect()
        until = pl.col(plans.EVENT_TIME).dt.epoch("us") <= self._instant(rows, number)
        return found.filter(until).sort(plans.EVENT_TIME)

    def _differs(self, output: str, expected: Any, got: Any, rows: pl.DataFrame, number: int) -> None:
        self._result.differ += 1
        if len(self._result.differences) >= _SHOWN:
            return
        behind = self._behind(self._made[output][0], rows, number) if output in self._made else None
        row = rows.row(number, named=True)
        at = row.pop(AT, None)
        shown = () if behind is None else tuple(behind.tail(_ROWS_SHOWN).drop(plans.KEY).to_dicts())
        instant = "the row's own" if at is None else format_instant(at)
        self._result.differences.append(
            Difference(self._plan.name, row, instant, output, expected, got, shown)
        )


def base_rows(base: SetPlan, raw: pl.DataFrame) -> pl.DataFrame:
    """Return raw rows of the base's source as rows of the set; those that the door refuses are left out."""
    from featurestore.rows.door import admit
    from featurestore.rows.transform import transform

    return transform(base, admit(base.source, raw, now=instants.now()).rows, keep_keyless=True).rows


def with_keys(plan: VectorPlan) -> VectorPlan:
    """Return the vector with the keys that look-ups find among its outputs, as they are found."""
    wanted = {lookup.keys[place] for lookup in plan.lookups for place in lookup.feature_keys}
    lookups, outputs = [], list(plan.outputs)
    for lookup in plan.lookups:
        found = [replace(s, output=_key_name(s.output)) for s in lookup.features if s.output in wanted]
        outputs += [Field(selected.output, selected.type) for selected in found]
        lookups.append(replace(lookup, features=(*lookup.features, *found)))
    return replace(plan, lookups=tuple(lookups), outputs=tuple(outputs))


def key_frame(plan: VectorPlan, questions: pl.DataFrame, lookup: Lookup, found: pl.DataFrame) -> pl.DataFrame:
    """Return the keys of a look-up, a column each, of the questions that are of an entity or may be.

    `found` has the outputs of `with_keys` for the same questions. With a base, the rows that the door or the
    steps refuse are left out.
    """
    import polars as pl

    from featurestore.rows.keys import cast_keys

    rows, places = questions, None
    if plan.base is not None:
        rows = base_rows(plan.base, questions)
        renamed = {k.request_column: k.column for k in plan.base.keys if k.request_column not in rows.columns}
        rows = rows.with_columns(rows[column].alias(name) for name, column in renamed.items())
        places = rows[plans.SEQUENCE].to_list()
    columns = []
    for place, (column, key) in enumerate(zip(lookup.keys, lookup.set.keys, strict=True)):
        if place in lookup.feature_keys:
            values = found[_key_name(column)]
            values = cast_keys(values if places is None else values[places], key.type)
        else:
            values = rows[column]
        columns.append(values.alias(str(place)))
    return pl.DataFrame(columns)


def is_key(output: str) -> bool:
    """Tell whether an output of `with_keys` is a key that was found."""
    return output.startswith(_KEY)


def _key_name(output: str) -> str:
    return _KEY + output


def _row_values(series: pl.Series, kind: DataType) -> list[Any]:
    """Return a column as row values: instants in microseconds, dates in days."""
    from featurestore.rows.values import series_row_values

    return series_row_values(series, kind)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
