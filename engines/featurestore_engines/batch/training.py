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
from featurestore.errors import RequestError, did_you_mean
from featurestore.expressions.to_polars import rejects, to_polars
from featurestore.plans import DerivedValue, LabelPlan, Lookup, SetPlan, VectorPlan
from featurestore.rows.casting import Context, cast
from featurestore.rows.door import admit
from featurestore.rows.keys import encode
from featurestore.rows.transform import transform
from featurestore.types import TIMESTAMP
from featurestore_engines.batch.lookup import TableReader, as_of_values, matched_rows, undeleted

QUERY = "__query"  # the number of the caller's row
AT = "__at"  # the instant at which it is evaluated


@dataclass(frozen=True)
class TrainingSet:
    """The caller's rows, in their order, with the vector's features and its label.

    `positions` are, per offline table, the positions that it was computed from; it can be computed again
    from exactly those. `features` and `label` name the columns.
    """

    vector: str
    frame: pl.DataFrame
    features: tuple[str, ...]
    label: str | None
    positions: dict[str, dict[str, int]] = field(repr=False)

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars frame."""
        return self.frame

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table."""
        return self.frame.to_arrow()

    def to_pandas(self) -> Any:
        """Return a pandas frame (extra `pandas`)."""
        return self.to_arrow().to_pandas()

    def write_parquet(self, path: str | Path) -> None:
        """Write one Parquet file."""
        self.frame.write_parquet(path)

    def batches(self, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Yield Arrow batches of at most `rows` rows."""
        yield from self.frame.to_arrow().to_batches(max_chunksize=rows)


@dataclass(frozen=True)
class Options:
    """How a training set is asked for. Instants are microseconds; `cut` is an earlier one's, by table."""

    event_time: str = "event_timestamp"
    as_known: bool = False
    start: int | None = None
    end: int | None = None
    cut: Mapping[str, Mapping[str, int]] | None = None


@dataclass(frozen=True)
class _Questions:
    """The rows to answer: what the caller gets back, and the columns that look-ups read.

    `working` has `QUERY`, `AT`, keys and inputs by request column, and with a base its columns after the
    steps. `base` are the base rows as the set's table would hold them, with `QUERY`; `stored` tells that they
    come from there. A question without a base row (refused at the door, or filtered) is answered with nulls.
    """

    output: pl.DataFrame
    working: pl.DataFrame
    base: pl.DataFrame | None = None
    stored: bool = False


def training_set(
    plan: VectorPlan,
    table: Callable[[SetPlan], OfflineTable],
    rows: pl.DataFrame | None,
    options: Options,
) -> TrainingSet:
    """Return the training set of `rows`, or without them of the base set's own rows.

    N rows in, the same N rows out, unless `start` or `end` leave some out. A null key or an unknown entity
    keeps its row. Raises RequestError where columns are missing, naive, or clash with the vector's.
    """
    readers = _Readers(table, options.cut)
    questions = _questions(plan, readers, rows, options)
    values = questions.working
    for lookup in plan.lookups:
        found = _lookup(lookup, readers.reader(lookup.set), questions, options.as_known)
        values = values.with_columns(found)
    values = _inputs(plan, values)
    for derived in plan.derived:
        values = values.with_columns(_derive(derived, values))
    names = [f.name for f in plan.outputs]
    for name, constant in plan.impute:
        values = values.with_columns(_imputed(plan, name, constant))
    if plan.base is not None and questions.base is not None and questions.base.height < values.height:
        there = pl.col(QUERY).is_in(questions.base[QUERY].implode())
        values = values.with_columns(pl.when(there).then(pl.col(n)).alias(n) for n in names)
    features = values.select(pl.col(f.name).cast(f.type.polars()) for f in plan.outputs)
    if plan.label is not None:
        features = features.with_columns(_label(plan.label, readers.reader(plan.label.set), questions))
    features = _with_callers(questions, features)
    kept = questions.output.drop([n for n in features.columns if n in questions.output.columns])
    return TrainingSet(
        f"{plan.name}@{plan.fingerprint}",
        pl.concat([kept, features], how="horizontal"),
        tuple(names),
        None if plan.label is None else plan.label.output,
        readers.positions(),
    )


def _with_callers(questions: _Questions, features: pl.DataFrame) -> pl.DataFrame:
    """Return the features; where a base row was refused, the caller's own values of the same name."""
    base, output = questions.base, questions.output
    if base is None or base.height == output.height:
        return features
    refused = ~questions.working[QUERY].is_in(base[QUERY].implode())
    return features.with_columns(
        pl.when(refused).then(output[f.name].cast(f.dtype, strict=False)).otherwise(f).alias(f.name)
        for f in features.iter_columns()
        if f.name in output.columns
    )


class _Readers:
    """One reader per feature set, so that all look-ups of a training set see one version of its table."""

    def __init__(
        self, table: Callable[[SetPlan], OfflineTable], cut: Mapping[str, Mapping[str, int]] | None
    ) -> None:
        self._table = table
        self._cut = cut
        self._readers: dict[str, TableReader] = {}

    def reader(self, plan: SetPlan) -> TableReader:
        """Return the set's reader, opened once."""
        key = f"{plan.name}-{plan.rows_fingerprint}"
        if key not in self._readers:
            if self._cut is not None and key not in self._cut:
                raise RequestError(
                    f"positions= has none of table '{key}'.",
                    hint=f"It has those of {', '.join(self._cut) or 'none'}: another version's, perhaps.",
                )
            cut = None if self._cut is None else self._cut[key]
            self._readers[key] = TableReader(self._table(plan), cut)
        return self._readers[key]

    def positions(self) -> dict[str, dict[str, int]]:
        """Return the positions that were read, by table."""
        return {key: reader.positions for key, reader in self._readers.items()}


def _questions(
    plan: VectorPlan, readers: _Readers, rows: pl.DataFrame | None, options: Options
) -> _Questions:
    if rows is None:
        if plan.base is None:
            raise RequestError(
                f"'{plan.name}' has no base: whose rows, it does not say.",
                hint="Give entity rows: a frame with the keys and an instant per row, or a SQL query.",
            )
        if plan.inputs:
            raise RequestError(
                f"'{plan.name}' takes the input '{plan.inputs[0].name}', which the base's rows lack.",
                hint="Give entity rows that carry them.",
            )
        return _of_base(plan.base, readers.reader(plan.base), options)
    if plan.base is not None:
        return _of_raw_rows(plan, plan.base, rows, options)
    return _of_entities(plan, rows, options)


def _of_entities(plan: VectorPlan, rows: pl.DataFrame, options: Options) -> _Questions:
    labelled = () if plan.label is None else plan.label.keys
    needed = [*plan.request_keys, *labelled, options.event_time, *(f.name for f in plan.inputs)]
    _require(plan, rows, needed)
    made = {f.name for f in plan.outputs} | ({plan.label.output} if plan.label else set())
    clash = [n for n in rows.columns if n in made - {f.name for f in plan.inputs}]
    if clash:
        raise RequestError(
            f"The entity rows have a column '{clash[0]}', and so has '{plan.name}'.",
            hint="Rename one of them; in the vector: '… as another_name'.",
        )
    working = rows.with_columns(_instant(rows[options.event_time]).alias(AT))
    kept = _between(pl.col(AT), options)
    if kept is not None:
        rows, working = rows.filter(working.select(kept).to_series()), working.filter(kept)
    return _Questions(rows, _numbered(working))


def _of_raw_rows(plan: VectorPlan, base: SetPlan, rows: pl.DataFrame, options: Options) -> _Questions:
    """Return the questions of raw rows of the base's source, put through the door and the set's steps."""
    _require(plan, rows, [f.name for f in base.source.schema] + [f.name for f in plan.inputs])
    numbered = rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(plans.SEQUENCE))
    admitted = admit(base.source, numbered, now=instants.now(), either_half=True)
    ready = transform(base, undeleted(admitted.rows), keep_keyless=True).rows.rename({plans.SEQUENCE: QUERY})
    bounds = _between(pl.col(plans.EVENT_TIME).dt.epoch("us"), options)
    if bounds is not None:
        ready = ready.filter(bounds)
        rows = rows[ready[QUERY].to_list()]
        ready = ready.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(QUERY))
    working = pl.DataFrame({QUERY: pl.int_range(rows.height, dtype=pl.Int64, eager=True)})
    inputs = [f.name for f in plan.inputs]
    working = working.hstack(rows.select(inputs)).join(
        ready.drop([n for n in inputs if n in ready.columns]), on=QUERY, how="left", maintain_order="left"
    )
    return _Questions(rows, _with_base_keys(base, working), ready)


def _of_base(base: SetPlan, reader: TableReader, options: Options) -> _Questions:
    """Return the questions of the base set's own rows, one per event id, by event time."""
    start = instants.ALWAYS if options.start is None else options.start
    bounds = (start, options.end if options.end is not None else instants.LAST)
    ready = reader.unique_rows(base, bounds, as_known=options.as_known).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(QUERY)
    )
    working = _with_base_keys(base, ready)
    columns = dict.fromkeys([key.request_column for key in base.keys])
    output = working.select(
        *columns,
        *(n for n in base.source.event_id if n in working.columns and n not in columns),
        pl.col(plans.EVENT_TIME).alias(options.event_time),
    )
    return _Questions(output, working, ready, stored=True)


def _with_base_keys(base: SetPlan, working: pl.DataFrame) -> pl.DataFrame:
    at = (
        pl.lit(instants.ALWAYS) if base.source.event_time is None else pl.col(plans.EVENT_TIME).dt.epoch("us")
    )
    keys = [pl.col(key.column).alias(key.request_column) for key in base.keys]
    return working.with_columns(at.alias(AT), *keys)


def _lookup(lookup: Lookup, reader: TableReader, questions: _Questions, as_known: bool) -> list[pl.Series]:
    """Return the look-up's features, one value per question."""
    working = questions.working
    plain = {f.name for f in lookup.set.plain}
    chosen = [s for s in lookup.features if not (lookup.is_base and s.feature in plain)]
    own = [s for s in lookup.features if lookup.is_base and s.feature in plain]
    result = [working[s.feature].alias(s.output) for s in own]
    if chosen:
        extra = questions.base if lookup.is_base and (as_known or not questions.stored) else None
        asked = _asked(working, lookup.set, lookup.keys)
        found = as_of_values(
            lookup.set, reader, asked, [s.feature for s in chosen], as_known=as_known, extra=extra
        )
        result += [found[s.feature].alias(s.output) for s in chosen]
    return result


def _label(label: LabelPlan, reader: TableReader, questions: _Questions) -> pl.Series:
    working = questions.working
    if label.by_event_id and questions.base is not None:
        found = matched_rows(label.set, reader, questions.base, label.feature)
        joined = working.select(QUERY).join(found, on=QUERY, how="left", maintain_order="left")
        return joined[label.feature].cast(label.type.polars()).alias(label.output)
    found = as_of_values(label.set, reader, _asked(working, label.set, label.keys), [label.feature])
    return found[label.feature].cast(label.type.polars()).alias(label.output)


def _asked(working: pl.DataFrame, plan: SetPlan, columns: Sequence[str]) -> pl.DataFrame:
    """Return the questions by canonical key. Raises RequestError on a key of another type."""
    keys = encode(working, plan.keys, columns)
    if keys.uncastable.any():
        bad = working.filter(keys.uncastable).select(columns).row(0)
        kinds = ", ".join(f"{k.entity}: {k.type}" for k in plan.keys)
        raise RequestError(f"The key {bad} does not fit {kinds}.", where=f"look-up of '{plan.name}'")
    return pl.DataFrame(
        {QUERY: working[QUERY], plans.KEY: keys.key, plans.SHARD: keys.shard, AT: working[AT]}
    )


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
    literal = pl.lit(constant, pl.Int32) if kind.name == "date" else pl.lit(constant)
    return pl.col(name).cast(kind.polars()).fill_null(literal.cast(kind.polars()))


def _require(plan: VectorPlan, rows: pl.DataFrame, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise RequestError(
            f"The rows lack the column '{missing[0]}' that '{plan.name}' needs.",
            hint=did_you_mean(missing[0], rows.columns),
        )


def _instant(series: pl.Series) -> pl.Series:
    """Return the rows' instants in microseconds, floored. Raises RequestError unless they have a zone."""
    if series.dtype == pl.String:
        done = cast(series, TIMESTAMP, Context("entity rows"))
        if any(mask.any() for mask in done.bad.values()):
            raise RequestError(
                f"'{series.name}' holds text that is no instant with a time zone.",
                hint="Write 2026-11-21T10:00:00Z.",
            )
        series = done.values.alias(series.name)
    if not isinstance(series.dtype, pl.Datetime) or series.dtype.time_zone is None:
        raise RequestError(
            f"'{series.name}' is {series.dtype}; an instant per row needs a timestamp with a time zone.",
            hint=f"In Polars: pl.col('{series.name}').dt.replace_time_zone('UTC').",
        )
    if series.null_count():
        raise RequestError(
            f"'{series.name}' is null in {series.null_count()} rows; each row needs its instant."
        )
    physical = series.to_physical()
    scale = {"ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}[series.dtype.time_unit]
    return physical * scale[0] // scale[1]


def _between(at: pl.Expr, options: Options) -> pl.Expr | None:
    if options.start is None and options.end is None:
        return None
    bounds = pl.lit(True)
    if options.start is not None:
        bounds = bounds & (at >= options.start)
    if options.end is not None:
        bounds = bounds & (at < options.end)
    return bounds


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(QUERY))
