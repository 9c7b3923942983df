"""The door: one normalisation of rows for batch and stream (DESIGN 3.1, 3.2, 3.8, 3.12, 3.14).

Whatever way a row comes, it leaves here typed as the schema declares, with its event time, the ingest time
that it keeps for good, the rank, the hash and the id that order and identify it; or as a dead letter.

The ingest time of a row is the first of these that is there: the one it was given before (a frame with
`__ingest_time`: the door changes nothing in its own output), the source's column, the record's time,
`event_time + delay`. `future:` is judged where it was known apart from the event time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from featurestore.errors import SpecError, did_you_mean
from featurestore.instants import ALWAYS, format_duration
from featurestore.plans import (
    DELETED,
    EVENT_ID,
    EVENT_TIME,
    INGEST_TIME,
    ORDER,
    PARTITION,
    ROW_HASH,
    SEQUENCE,
    SourcePlan,
)
from featurestore.rows import casting, hashing, identity
from featurestore.rows.dead_letters import MALFORMED, PAYLOAD, RECORD_TIME, empty, letters, payloads
from featurestore.rows.json import batch_epoch, decode_payloads, stream_epoch
from featurestore.rows.nulls import absent, filled, present
from featurestore.rows.vectors import why_not
from featurestore.types import TIMESTAMP, Field

Mask: TypeAlias = npt.NDArray[np.bool_]
_INSTANT = pl.Datetime("us", "UTC")

_ADVICE = {
    casting.NAIVE: "{column}: {value} has no time zone; write one, or declare timezone: on the source",
    casting.BAD_VALUE: "{column}: {value} is no {type}",
}


@dataclass(frozen=True)
class Admitted:
    """Typed rows with the store's columns; dead letters; and what was counted.

    Counts: `rows`, `rejected`, `ambiguous_local_time`, `nonexistent_local_time`, and `cutover`, the rows that
    belong to the source's other half.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    counts: dict[str, int]


@dataclass
class _Refusals:
    """Which rows are refused; the first reason of each counts."""

    height: int
    found: list[tuple[Mask, str, Callable[[int], str]]] = field(default_factory=list)

    def add(self, mask: Mask | pl.Series, code: str, message: Callable[[int], str]) -> None:
        refused = mask.to_numpy() if isinstance(mask, pl.Series) else mask
        if refused.any():
            self.found.append((refused, code, message))

    def resolve(self) -> tuple[Mask, list[str], list[str]]:
        reason = np.full(self.height, -1)
        for index in range(len(self.found) - 1, -1, -1):
            reason[self.found[index][0]] = index
        refused = reason >= 0
        rows = np.flatnonzero(refused).tolist()
        reasons = reason[refused].tolist()
        codes = [self.found[index][1] for index in reasons]
        return refused, codes, [self.found[index][2](row) for row, index in zip(rows, reasons, strict=True)]


def admit(source: SourcePlan, frame: pl.DataFrame, *, now: int, either_half: bool = False) -> Admitted:
    """Return the rows of `frame` as the store keeps them, and dead letters of those that cannot be.

    `frame` has the source's columns as read (others are ignored), and may have `__partition`, `__sequence`,
    `__record_time` (of a stream) and `__payload`. One with payloads alone is decoded as JSON first. `now` is
    the ingest time of a dead letter that has no better one. `either_half`: the rows are a caller's, of which
    `cutover:` leaves none out. Raises SpecError where a declared column is
    missing or of a kind that cannot fit.
    """
    frame = _with_positions(frame)
    if MALFORMED in frame.columns:
        why = frame[MALFORMED].to_list()
        refused = _reject(source, frame, None, ["malformed"] * frame.height, why, now)
        return Admitted(_typed_empty(source), refused, _counts(0, refused.height, {}, 0))
    if PAYLOAD in frame.columns and not any(column.name in frame.columns for column in source.schema):
        system = frame.select(PARTITION, SEQUENCE)
        decoded, refused = decode_payloads(source, frame[PAYLOAD].to_list(), system, batch_epoch(source))
        admitted = _admit(source, decoded, now, either_half)
        refused = refused.with_columns(pl.col("ingest_time").fill_null(pl.lit(now).cast(_INSTANT)))
        rejected = pl.concat([admitted.rejected, refused]).sort("sequence", maintain_order=True)
        return Admitted(admitted.rows, rejected, admitted.counts | {"rejected": rejected.height})
    return _admit(source, frame, now, either_half)


def _admit(source: SourcePlan, frame: pl.DataFrame, now: int, either_half: bool) -> Admitted:
    is_stream = RECORD_TIME in frame.columns
    context = casting.Context(
        source.name, source.timezone, stream_epoch(source) if is_stream else batch_epoch(source)
    )
    refusals = _Refusals(frame.height)
    counts: dict[str, int] = {}
    typed: list[pl.Series] = []
    for column in source.schema:
        series = _column(source, frame, column)
        cast = casting.cast(series, column.type, context)
        for code, mask in cast.bad.items():
            refusals.add(mask, code, _message(code, column, series))
        for name, number in cast.counts.items():
            counts[name] = counts.get(name, 0) + number
        typed.append(cast.values)
    rows = pl.DataFrame(typed) if typed else pl.DataFrame()
    event_time = _event_time(source, rows)
    if source.event_time is not None:
        refusals.add(absent(event_time), "null_event_time", lambda _: f"{source.event_time} is null")
    ingest_time, was_known = _ingest_time(source, frame, rows, event_time)
    refusals.add(
        filled((event_time - ingest_time > source.future) & was_known, False),
        "future",
        lambda row: (
            f"event_time is {format_duration(event_time[row] - ingest_time[row])} after ingest_time; "
            f"future: allows {format_duration(source.future)}"
        ),
    )
    system = _system(source, rows, event_time, ingest_time, refusals)
    out = pl.DataFrame([*typed, *system, frame[PARTITION], frame[SEQUENCE]])
    rejected = empty()
    if refusals.found:
        refused, codes, messages = refusals.resolve()
        at = pl.Series(refused)
        rejected = _reject(source, frame.filter(at), ingest_time.filter(at), codes, messages, now)
        out = out.filter(~at)
    other_half = 0
    if not either_half:
        out, other_half = _cutover(source, frame, out, is_stream)
    return Admitted(out, rejected, _counts(out.height, rejected.height, counts, other_half))


def _with_positions(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with positions: where there are none, no partition and the number of the row."""
    if PARTITION not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.String).alias(PARTITION))
    if SEQUENCE not in frame.columns:
        frame = frame.with_columns(pl.Series(SEQUENCE, np.arange(frame.height, dtype=np.int64)))
    if frame.schema[PARTITION] == pl.String and frame.schema[SEQUENCE] == pl.Int64:
        return frame
    return frame.with_columns(pl.col(PARTITION).cast(pl.String), pl.col(SEQUENCE).cast(pl.Int64))


def _column(source: SourcePlan, frame: pl.DataFrame, column: Field) -> pl.Series:
    if column.name not in frame.columns:
        present = [name for name in frame.columns if not name.startswith("__")]
        raise SpecError(
            f"column '{column.name}' is in the schema and not in the input.",
            where=f"source '{source.name}'",
            hint=did_you_mean(column.name, present),
        )
    return frame[column.name]


def _message(code: str, column: Field, series: pl.Series) -> Callable[[int], str]:
    advice = _ADVICE[code]

    def message(row: int) -> str:
        if isinstance(series.dtype, pl.Datetime):  # may lie beyond what Python or Polars can show
            value = f"{series.to_physical()[row]} {series.dtype.time_unit}"
        else:
            value = series[row]
        said = advice.format(column=column.name, value=_shown(value), type=column.type)
        return f"{said}: {why_not(value, column.type)}" if column.type.name == "vector" else said

    return message


def _shown(value: object) -> str:
    shown = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return shown if len(shown) <= 80 else shown[:79] + "…"


def _event_time(source: SourcePlan, rows: pl.DataFrame) -> pl.Series:
    """Return int64 microseconds."""
    if source.event_time is None:
        return pl.Series(EVENT_TIME, np.full(rows.height, ALWAYS, np.int64))
    series = rows[source.event_time]
    if series.dtype == pl.Date:
        series = casting.cast(series, TIMESTAMP, casting.Context(source.name, source.timezone)).values
    if series.dtype != _INSTANT:
        raise SpecError(
            f"event_time: '{source.event_time}' is {_type_of(source, source.event_time)}.",
            where=f"source '{source.name}'",
            hint="Declare it as timestamp or date.",
        )
    return series.cast(pl.Int64).alias(EVENT_TIME)


def _type_of(source: SourcePlan, name: str) -> str:
    return next(str(column.type) for column in source.schema if column.name == name)


def _ingest_time(
    source: SourcePlan, frame: pl.DataFrame, rows: pl.DataFrame, event_time: pl.Series
) -> tuple[pl.Series, pl.Series]:
    """Return int64 microseconds, and whether they were known apart from the event time."""
    result = pl.Series(INGEST_TIME, [None], dtype=pl.Int64).new_from_index(0, frame.height)
    known = pl.Series(np.zeros(frame.height, np.bool_))
    given = INGEST_TIME in frame.columns
    if given:
        result = frame[INGEST_TIME].cast(_INSTANT).to_physical().alias(INGEST_TIME)
    if source.ingest_time is not None:
        column = rows[source.ingest_time].to_physical().cast(pl.Int64)
        result = result.zip_with(result.is_not_null(), column)
        known = rows[source.ingest_time].is_not_null()
    if RECORD_TIME in frame.columns:
        record = frame[RECORD_TIME].cast(pl.Int64)
        result = result.zip_with(result.is_not_null(), record) if source.ingest_time or given else record
        known = known | pl.Series(present(record))
    if result.null_count():
        result = result.zip_with(result.is_not_null(), event_time + source.delay)
    return result.alias(INGEST_TIME), known


def _system(
    source: SourcePlan,
    rows: pl.DataFrame,
    event_time: pl.Series,
    ingest_time: pl.Series,
    refusals: _Refusals,
) -> list[pl.Series]:
    types = {column.name: column.type for column in source.schema}
    system = [event_time.cast(_INSTANT).alias(EVENT_TIME), ingest_time.cast(_INSTANT).alias(INGEST_TIME)]
    if source.order_by is not None:
        identity.check_order(source.name, source.order_by, types[source.order_by])
        rank = hashing.order_rank(rows[source.order_by], types[source.order_by])
        system.append(rank.alias(ORDER))
    system.append(hashing.row_hash(rows, source.schema).alias(ROW_HASH))
    if source.event_id:
        for column in source.event_id:
            identity.check_id(source.name, column, types[column])
            refusals.add(absent(rows[column]), "null_event_id", _null_id(column))
        ids = hashing.event_id(rows, source.event_id, [types[column] for column in source.event_id])
        system.append(ids.alias(EVENT_ID))
    if source.deleted is not None:
        from featurestore.expressions.to_polars import rejects, to_polars

        overflow = rejects(source.deleted)
        if overflow is not None:
            refusals.add(
                rows.select(overflow.fill_null(False)).to_series(),
                "overflow",
                lambda _: "deleted: an integer is out of range",
            )
        marked = rows.select(to_polars(source.deleted).fill_null(False).alias(DELETED))[DELETED]
        system.append(marked.new_from_index(0, rows.height) if len(marked) != rows.height else marked)
    return system


def _null_id(column: str) -> Callable[[int], str]:
    return lambda _: f"event_id: {column} is null"


def _reject(
    source: SourcePlan,
    frame: pl.DataFrame,
    ingest_time: pl.Series | None,
    codes: Sequence[str],
    messages: Sequence[str],
    now: int,
) -> pl.DataFrame:
    if ingest_time is None:
        ingest_time = pl.Series([now], dtype=pl.Int64).new_from_index(0, frame.height)
    time = ingest_time.fill_null(now).cast(_INSTANT)
    data = payloads(frame, [column.name for column in source.schema])
    return letters(source.name, None, frame, time, codes, messages, data)


def _typed_empty(source: SourcePlan) -> pl.DataFrame:
    columns = {column.name: pl.Series(dtype=column.type.polars()) for column in source.schema}
    return _admit(source, _with_positions(pl.DataFrame(columns)), 0, False).rows


def _cutover(
    source: SourcePlan, frame: pl.DataFrame, rows: pl.DataFrame, is_stream: bool
) -> tuple[pl.DataFrame, int]:
    """Return the rows of the half they came by (DESIGN 3.9), and how many belong to the other."""
    if source.cutover is None or INGEST_TIME in frame.columns:
        return rows, 0
    early = rows[INGEST_TIME].to_physical() < source.cutover
    kept = rows.filter(~early if is_stream else early)
    return kept, rows.height - kept.height


def _counts(rows: int, rejected: int, counted: dict[str, int], cutover: int) -> dict[str, int]:
    zeros = {"ambiguous_local_time": 0, "nonexistent_local_time": 0}
    return {"rows": rows, "rejected": rejected, **zeros, **counted, "cutover": cutover}
