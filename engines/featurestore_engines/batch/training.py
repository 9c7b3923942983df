"""Training sets: every row of the caller's with its features as they were at its own instant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from featurestore import instants, plans
from featurestore.contracts import OfflineTable
from featurestore.errors import RequestError
from featurestore.expressions.to_polars import rejects, to_polars
from featurestore.expressions.vectors import column
from featurestore.plans import DerivedValue, LabelPlan, Lookup, SetPlan, VectorPlan
from featurestore.rows.casting import Context, cast
from featurestore.rows.keys import cast_keys, encode
from featurestore.rows.values import to_arrow
from featurestore_engines.batch.codes import coded
from featurestore_engines.batch.lookup import (
    AT,
    FOUND,
    OVERFLOWS,
    QUERY,
    Asked,
    TableReader,
    as_of_values,
    matched_rows,
)
from featurestore_engines.batch.questions import Options, Questions, Readers, questions
from featurestore_engines.batch.remaining import Remaining, holds


@dataclass(frozen=True)
class TrainingSet:
    """The caller's rows, in their order, with the vector's features and its label.

    `positions` are, per offline table, the positions that it was computed from; it can be computed again
    from exactly those. `features` and `label` name the columns. `dropped` counts the rows that were left out,
    by reason: `range`, `join`, `label`, `where`. `pending` counts rows whose label's instant, at its offset,
    lies after the newest row that the label's set has: their labels are not known yet. `overflows` counts
    sums and differences that are null because their types cannot hold them.
    """

    vector: str
    frame: pl.DataFrame
    features: tuple[str, ...]
    label: str | None
    positions: dict[str, dict[str, int]] = field(repr=False)
    dropped: dict[str, int] = field(default_factory=dict)
    pending: int = 0
    overflows: int = 0

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars frame."""
        return self.frame

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table."""
        return to_arrow(self.frame, self.features)

    def to_pandas(self) -> Any:
        """Return a pandas frame (extra `pandas`)."""
        return self.to_arrow().to_pandas()

    def write_parquet(self, path: str | Path) -> None:
        """Write one Parquet file."""
        self.frame.write_parquet(path)

    def batches(self, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Yield Arrow batches of at most `rows` rows."""
        yield from self.to_arrow().to_batches(max_chunksize=rows)


def training_set(
    plan: VectorPlan,
    table: Callable[[SetPlan], OfflineTable],
    rows: pl.DataFrame | None,
    options: Options,
) -> TrainingSet:
    """Return the training set of `rows`, or without them of the base set's own rows.

    N rows in, the same N rows out, but for those that the options, or the label's `pending: drop`, leave out.
    A null key or an unknown entity keeps its row. Raises RequestError where columns are missing, naive, or
    clash with the vector's.
    """
    readers = Readers(table, options.cut)
    asked = questions(plan, readers, rows, options)
    values = asked.working
    rest = Remaining(asked.output.height)
    if rows is not None and rows.height > asked.output.height:
        rest.dropped["range"] = rows.height - asked.output.height
    overflows = 0
    for lookup in plan.lookups:
        columns, is_found, lost = _lookup(lookup, readers.reader(lookup.set), asked, values, options)
        values = values.with_columns(columns)
        overflows += lost
        if options.join == "inner":
            rest.keep("join", is_found)
    values = fetched = _inputs(plan, values)
    for derived in plan.derived:
        values = values.with_columns(_derive(derived, values))
    names = [f.name for f in plan.outputs]
    for name, constant in plan.impute:
        values = values.with_columns(_imputed(plan, name, constant))
    if asked.base is not None and asked.base.height < values.height:
        there = pl.col(QUERY).is_in(asked.base[QUERY].implode())
        values = values.with_columns(pl.when(there).then(pl.col(n)).alias(n) for n in names)
    features = values.select(pl.col(f.name).cast(f.type.polars()) for f in plan.outputs)
    pending = 0
    if plan.label is not None:
        label, is_pending = _label(plan.label, readers.reader(plan.label.set), asked)
        features = features.with_columns(label)
        pending = int(is_pending.sum())
        if plan.label.pending == "drop" and plan.label.offset:
            rest.keep("label", ~is_pending)
    if options.where is not None:
        for lookup in options.where.lookups:
            columns, _, _ = _lookup(lookup, readers.reader(lookup.set), asked, values, options)
            fetched = fetched.with_columns(columns)
        rest.keep("where", holds(options.where, fetched, features))
    features = _with_callers(asked, features)
    kept = asked.output.drop([n for n in features.columns if n in asked.output.columns])
    return TrainingSet(
        f"{plan.name}@{plan.fingerprint}",
        rest.of(pl.concat([kept, features], how="horizontal")),
        tuple(names),
        None if plan.label is None else plan.label.output,
        readers.positions(),
        rest.dropped,
        pending,
        overflows,
    )


def _with_callers(asked: Questions, features: pl.DataFrame) -> pl.DataFrame:
    """Return the features; where a base row was refused, the caller's own values of the same name."""
    base, output = asked.base, asked.output
    if base is None or base.height == output.height:
        return features
    refused = ~asked.working[QUERY].is_in(base[QUERY].implode())
    return features.with_columns(
        pl.when(refused).then(output[f.name].cast(f.dtype, strict=False)).otherwise(f).alias(f.name)
        for f in features.iter_columns()
        if f.name in output.columns
    )


def _lookup(
    lookup: Lookup, reader: TableReader, asked: Questions, values: pl.DataFrame, options: Options
) -> tuple[list[pl.Series], pl.Series, int]:
    """Return the look-up's features, one value per question, and whether it found a row of the entity.

    Third, how many features are null because their types cannot hold them.
    `values` has what earlier look-ups found: keys may be among it. A base row is its own look-up's row.
    """
    working = asked.working
    plain = {f.name for f in lookup.set.plain}
    chosen = [s for s in lookup.features if not (lookup.is_base and s.feature in plain)]
    own = [s for s in lookup.features if lookup.is_base and s.feature in plain]
    result = [working[s.feature].alias(s.output) for s in own]
    is_found, overflows = pl.repeat(True, working.height, eager=True), 0
    if chosen:
        extra = asked.base if lookup.is_base and (options.as_known or not asked.stored) else None
        keyed = _keyed(working, lookup.set, lookup.keys, dict.fromkeys(lookup.feature_keys, values))
        found = as_of_values(
            lookup.set,
            reader,
            keyed,
            [s.feature for s in chosen],
            as_known=options.as_known,
            extra=extra,
            finds=options.join == "inner",
        )
        result += [found[s.feature].alias(s.output) for s in chosen]
        is_found, overflows = found[FOUND], int(found[OVERFLOWS].sum())
    if lookup.is_base and asked.base is not None:
        is_found = working[QUERY].is_in(asked.base[QUERY].implode())
    return result, is_found, overflows


def _label(label: LabelPlan, reader: TableReader, asked: Questions) -> tuple[pl.Series, pl.Series]:
    """Return the label, one value per question, and whether the data has not reached its instant yet."""
    working = asked.working
    is_pending = pl.repeat(False, working.height, eager=True)
    if label.by_event_id and asked.base is not None:
        keys = working.select(QUERY, _keyed(working, label.set, label.keys, {}).key())
        base = asked.base.drop(plans.KEY).join(keys, on=QUERY, how="inner", maintain_order="left")
        found = matched_rows(label.set, reader, base, label.feature)
        found = working.select(QUERY).join(found, on=QUERY, how="left", maintain_order="left")
    else:
        at = working[AT] + label.offset
        keyed = _keyed(working.with_columns(at.alias(AT)), label.set, label.keys, {})
        found = as_of_values(label.set, reader, keyed, [label.feature])
        if label.offset and label.set.source.event_time is not None:
            newest = reader.newest_ingest()
            is_pending = (at > (instants.ALWAYS if newest is None else newest)).fill_null(False)
    values = found[label.feature].cast(label.type.polars()).alias(label.output)
    if label.pending == "hide" and is_pending.any():
        values = values.set(is_pending, None)
    return values, is_pending


def _keyed(
    working: pl.DataFrame, plan: SetPlan, columns: Sequence[str], found: Mapping[int, pl.DataFrame]
) -> Asked:
    """Return the questions by canonical key; the keys at `found` are in those frames, all else in `working`.

    What was found and is no key of its entity is of no entity. Raises RequestError on a key of another type.
    """
    parts = [
        cast_keys(found[place][column], key.type) if place in found else working[column]
        for place, (column, key) in enumerate(zip(columns, plan.keys, strict=True))
    ]
    names = [str(place) for place in range(len(parts))]
    frame = pl.DataFrame([p.alias(n) for p, n in zip(parts, names, strict=True)])
    distinct, which = coded(frame)
    keys = encode(distinct, plan.keys, names)
    if keys.uncastable.any():
        bad = working.filter(encode(frame, plan.keys, names).uncastable)
        values = bad.select(c for n, c in enumerate(columns) if n not in found).row(0)
        kinds = ", ".join(f"{k.entity}: {k.type}" for k in plan.keys)
        raise RequestError(f"The key {values} does not fit {kinds}.", where=f"look-up of '{plan.name}'")
    own = pl.DataFrame({plans.KEY: keys.key, plans.SHARD: keys.shard})
    return Asked.of(own, which, working[AT])


def _inputs(plan: VectorPlan, values: pl.DataFrame) -> pl.DataFrame:
    """Return the values with inputs as declared. Raises RequestError where one does not fit without loss."""
    typed = []
    for item in plan.inputs:
        done = cast(values[item.name], item.type, Context(f"inputs of {plan.name}"))
        bad = [mask for mask in done.bad.values() if mask.any()]
        if bad:
            value = values[item.name][int(bad[0].argmax())]
            raise RequestError(f"Input '{item.name}' has {value!r}, which is no {item.type}.")
        typed.append(done.values.alias(item.name))
    return values.with_columns(typed)


def _derive(derived: DerivedValue, values: pl.DataFrame) -> pl.Series:
    columns = values.select(pl.col(slot).alias(column) for column, slot in derived.columns)
    if not derived.columns:
        columns = values.select(QUERY)
    expression = to_polars(derived.expression)
    overflow = rejects(derived.expression)
    if overflow is not None:
        expression = pl.when(~overflow.fill_null(False)).then(expression)
    return columns.select(expression.alias(derived.name)).to_series()


def _imputed(plan: VectorPlan, name: str, constant: Any) -> pl.Expr:
    kind = next(f.type for f in plan.outputs if f.name == name)
    return pl.col(name).cast(kind.polars()).fill_null(pl.lit(column([constant], kind)).first())
