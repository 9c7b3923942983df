"""Verbs that read features: get-offline, get-online."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.application import verb
from featurestore.cli.rows import INSTANT, entity_rows, request_rows
from featurestore.cli.session import Session
from featurestore.cli.values import plain
from featurestore.instants import format_instant

if TYPE_CHECKING:
    import polars as pl

    from featurestore.online.reader import VectorResult

_PANEL = "Read"
_SHOWN = 10

Vector = Annotated[str, typer.Argument(metavar="VECTOR", help="name, name@tag or name@fingerprint.")]


@verb(_PANEL, "get-offline")
def get_offline(
    session: Session,
    vector: Vector,
    rows: Annotated[
        str | None,
        typer.Option(metavar="FILE|SQL", help="Rows with keys and an instant; default, the base set's own."),
    ] = None,
    event_time: Annotated[
        str, typer.Option("--event-time", metavar="COL", help="The column of each row's instant.")
    ] = "event_timestamp",
    as_known: Annotated[
        bool, typer.Option("--as-known", help="Only what was known at the instant, as it was served.")
    ] = False,
    start: Annotated[str | None, typer.Option(metavar="INSTANT", help=f"From it on, {INSTANT}.")] = None,
    end: Annotated[str | None, typer.Option(metavar="INSTANT", help="Before it.")] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="Only rows of which it is true; default, the vector's."),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="left|inner",
            help="inner leaves out rows of unknown entities; default, the vector's, else left.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="A .parquet or .csv file; - is CSV to standard output.")
    ] = None,
) -> None:
    """Make a training set: the rows that are given, each with its features at its own instant."""
    if out is not None and out != "-" and Path(out).suffix not in (".parquet", ".csv"):
        raise typer.BadParameter(f"'{out}' is neither .parquet, .csv nor -.", param_hint="--out")
    if join not in (None, "left", "inner"):
        raise typer.BadParameter(f"'{join}' is neither left nor inner.", param_hint="--join")
    handle = session.store.vector(vector)
    given = None if rows is None else entity_rows(rows, handle.plan, event_time)
    with session.console.progress(f"get-offline {vector}", unit=""):
        made = handle.get_offline(
            given, event_time, as_known=as_known, start=start, end=end, where=where, join=join
        )
    frame: pl.DataFrame = made.to_polars()
    for reason, rows_dropped in made.dropped.items():
        session.console.warn(f"{rows_dropped:,} rows left out by {reason}")
    if made.pending:
        session.console.warn(
            f"{made.pending:,} rows have a label whose instant lies after the newest row of its set"
        )
    if out == "-":
        sys.stdout.write(_flat(frame).write_csv())
    elif out is not None:
        if out.endswith(".parquet"):
            made.write_parquet(out)
        else:
            _flat(frame).write_csv(out)
        if session.console.json:
            session.console.data(
                {"vector": made.vector, "rows": frame.height, "columns": frame.columns, "out": out}
            )
        session.console.say(f"{made.vector}: {frame.height:,} rows, {len(frame.columns)} columns, to {out}")
    elif session.console.json:
        session.console.data({"vector": made.vector, "columns": frame.columns, "rows": frame.rows()})
    else:
        _show_frame(session, frame, made.vector)


@verb(_PANEL, "get-online")
def get_online(
    session: Session,
    vector: Vector,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="One row: customer=C1 merchant=M1.")
    ] = None,
    row: Annotated[list[str] | None, typer.Option(metavar="JSON", help="A row; may be repeated.")] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="INSTANT", help=f"A{INSTANT[1:]}; default, now.")
    ] = None,
) -> None:
    """Look feature vectors up, now or as of an instant; exits with 1 where a row is invalid."""
    handle = session.store.vector(vector)
    result = handle.get_online(request_rows(row or [], pairs or [], handle.plan), as_of)
    if session.console.json:
        session.console.data(_answer(result))
    else:
        _show_vectors(session, result)
    for number, error in enumerate(result.errors, start=1):
        if error is not None:
            print(f"error: row {number}: {error}", file=sys.stderr)
    if any(error is not None for error in result.errors):
        raise typer.Exit(1)


def _answer(result: VectorResult) -> dict[str, Any]:
    """Return what the HTTP service answers; `as_of` is a list where the rows' instants differ."""
    instants = [format_instant(t) for t in result.as_of]
    same = len(set(instants)) == 1
    return {
        "vector": result.vector,
        "now": format_instant(result.now),
        "as_of": instants[0] if same else instants,
        "columns": [f.name for f in result.columns],
        "rows": [list(row.values()) for row in result.to_dicts()],
        "status": result.status,
        **({"errors": result.errors} if any(result.errors) else {}),
    }


def _show_vectors(session: Session, result: VectorResult) -> None:
    """Print each row's vector, a feature a line: vectors are wide, and requests by hand are few."""
    for number, (values, status, at) in enumerate(
        zip(result.to_dicts(), result.status, result.as_of, strict=True), start=1
    ):
        if result.errors[number - 1] is not None:
            continue
        row = f", row {number}" if len(result.rows) > 1 else ""
        session.console.line(f"{result.vector}{row}, as of {format_instant(at)}")
        lines = zip(values.items(), status, strict=True)
        session.console.table(("feature", "value", "status"), [(n, v, s) for (n, v), s in lines])


def _show_frame(session: Session, frame: pl.DataFrame, name: str) -> None:
    """Print the first rows of a training set, a column a line."""
    records = frame.head(_SHOWN if frame.width < 8 else 3).to_dicts()
    session.console.say(f"{name}: {frame.height:,} rows, {frame.width} columns")
    if frame.width < 8:
        session.console.table(frame.columns, [tuple(record.values()) for record in records])
    else:
        heads = [f"row {number}" for number in range(1, len(records) + 1)]
        session.console.table(("column", *heads), [(c, *(r[c] for r in records)) for c in frame.columns])
    if len(records) < frame.height:
        session.console.say(
            f"… and {frame.height - len(records):,} rows more; all of them with --out or --json"
        )


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame as CSV can hold it: instants as ISO 8601, lists and bytes as JSON text."""
    import json

    import polars as pl

    from featurestore.rows.values import is_map

    def text(series: pl.Series) -> pl.Series:
        if isinstance(series.dtype, pl.Datetime):
            zone = "Z" if series.dtype.time_zone else ""
            if series.dtype.time_zone not in (None, "UTC"):
                series = series.dt.convert_time_zone("UTC")
            return series.dt.strftime(f"%Y-%m-%dT%H:%M:%S%.6f{zone}")
        if isinstance(series.dtype, pl.List | pl.Array | pl.Struct | pl.Binary):
            values = [None if v is None else plain(v) for v in series.to_list()]
            if is_map(series.dtype):
                values = [v and {str(entry["key"]): entry["value"] for entry in v} for v in values]
            texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            return pl.Series(series.name, texts, dtype=pl.String)
        return series

    return frame.select(text(series) for series in frame.get_columns())
