"""What a training set is asked for: the caller's rows, or the base set's own, each at its instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from featurestore import instants, plans
from featurestore.contracts import OfflineTable
from featurestore.errors import RequestError, did_you_mean
from featurestore.plans import Condition, SetPlan, VectorPlan
from featurestore.rows.casting import Context, cast
from featurestore.rows.door import admit
from featurestore.rows.transform import transform
from featurestore.types import TIMESTAMP
from featurestore_engines.batch.lookup import AT, QUERY, TableReader, undeleted


@dataclass(frozen=True)
class Options:
    """How a training set is asked for. Instants are microseconds; `cut` is an earlier one's, by table.

    `start`, `end`, `where` and `join` say which rows stay (see `featurestore.plans.TrainingPlan`).
    """

    event_time: str = "event_timestamp"
    as_known: bool = False
    start: int | None = None
    end: int | None = None
    cut: Mapping[str, Mapping[str, int]] | None = None
    where: Condition | None = None
    join: str = "left"


@dataclass(frozen=True)
class Questions:
    """The rows to answer: what the caller gets back, and the columns that look-ups read.

    `working` has `QUERY`, `AT`, keys and inputs by request column, and with a base its columns after the
    steps. `base` are the base rows as the set's table would hold them, with `QUERY`; `stored` tells that they
    come from there. A question without a base row (refused at the door, or filtered) is answered with nulls.
    """

    output: pl.DataFrame
    working: pl.DataFrame
    base: pl.DataFrame | None = None
    stored: bool = False


class Readers:
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


def questions(plan: VectorPlan, readers: Readers, rows: pl.DataFrame | None, options: Options) -> Questions:
    """Return the questions of `rows`, or without them of the base set's own rows. Raises RequestError."""
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


def _of_entities(plan: VectorPlan, rows: pl.DataFrame, options: Options) -> Questions:
    labelled = () if plan.label is None else plan.label.keys
    asked = () if options.where is None else [n for x in options.where.lookups for n in x.given_keys]
    needed = [*plan.request_keys, *labelled, *asked, options.event_time, *(f.name for f in plan.inputs)]
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
    return Questions(rows, _numbered(working))


def _of_raw_rows(plan: VectorPlan, base: SetPlan, rows: pl.DataFrame, options: Options) -> Questions:
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
    return Questions(rows, _with_base_keys(base, working), ready)


def _of_base(base: SetPlan, reader: TableReader, options: Options) -> Questions:
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
    return Questions(output, working, ready, stored=True)


def _with_base_keys(base: SetPlan, working: pl.DataFrame) -> pl.DataFrame:
    at = (
        pl.lit(instants.ALWAYS) if base.source.event_time is None else pl.col(plans.EVENT_TIME).dt.epoch("us")
    )
    keys = [pl.col(key.column).alias(key.request_column) for key in base.keys]
    return working.with_columns(at.alias(AT), *keys)


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
    if series.dtype.time_unit == "ms":
        return physical * 1000
    return physical // 1000 if series.dtype.time_unit == "ns" else physical


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
