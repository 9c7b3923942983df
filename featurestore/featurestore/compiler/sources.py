"""A source, resolved: its schema, and which columns tell time, order and identity (DESIGN 3.1 to 3.9)."""

from __future__ import annotations

import zoneinfo

from featurestore.compiler.columns import column_type, duration
from featurestore.compiler.fingerprints import fingerprint
from featurestore.compiler.streams import check_stream, schema_of
from featurestore.errors import SpecError, did_you_mean
from featurestore.expressions import Expression, parse
from featurestore.instants import parse_instant
from featurestore.plans import SourcePlan
from featurestore.specs.models import Source
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.types import BOOL, TIMESTAMP, DataType, Field

ALWAYS = "always"


def compile_source(source: Source, origin: Origin | None = None) -> SourcePlan:
    """Return the plan of a source. Raises SpecErrors with all that is wrong with it."""
    origin = origin or Origin(f"source '{source.name}'")
    problems = Problems()
    columns = {name: DataType.parse(text) for name, text in source.schema_.items()}

    with problems.collect(origin.where("event_time"), "event_time"):
        if source.event_time != ALWAYS:
            _timestamp(source.event_time, columns)
        elif ALWAYS in columns:
            raise SpecError("'always' means a table without time, and is also a column.", hint="Rename it.")
    if source.ingest_time is not None:
        with problems.collect(origin.where("ingest_time"), "ingest_time"):
            _timestamp(source.ingest_time, columns)
    for name in source.id_columns:
        with problems.collect(origin.where("event_id"), "event_id"):
            _identifying(name, columns)
    if source.order_by is not None:
        with problems.collect(origin.where("order_by"), "order_by"):
            _orderable(source.order_by, columns)
    if source.timezone is not None:
        with problems.collect(origin.where("timezone"), "timezone"):
            _zone(source.timezone)
    lengths = {"delay": 0, "future": 0}
    for name in lengths:
        with problems.collect(origin.where(name), name):
            lengths[name] = duration(getattr(source, name))
    cutover = None
    with problems.collect(origin.where("cutover"), "cutover"):
        cutover = _cutover(source)
    deleted = None
    if source.deleted is not None:
        with problems.collect(origin.where("deleted"), "deleted"):
            deleted = condition(source.deleted, columns)
    with problems.collect(origin.where()):
        _halves(source)
    with problems.collect(origin.where("on_duplicate"), "on_duplicate"):
        if source.on_duplicate == "replace" and not source.id_columns:
            raise SpecError("replace needs event_id:, which says what a duplicate is.")
    with problems.collect(origin.where("delay"), "delay"):
        if source.ingest_time is not None and lengths["delay"]:
            raise SpecError(
                f"the ingest time is the column '{source.ingest_time}', so a delay says nothing.",
                hint="Remove one of the two.",
            )
    definition = None
    if source.stream is not None:
        for error, *path in check_stream(source.stream):
            with problems.collect(origin.where("stream", *path), ": ".join(["stream", *path])):
                raise error
        if source.stream.schema_ is not None:
            with problems.collect(origin.where("stream", "schema"), "stream: schema"):
                definition, misfits = schema_of(source, columns)
                for name, error in misfits.items():
                    problems.add(
                        SpecError(error.message, where=origin.where("schema", name), hint=error.hint)
                    )
    problems.check()

    batch = source.batch.model_dump(mode="json", exclude_none=True) if source.batch else None
    stream = (
        source.stream.model_dump(mode="json", exclude_none=True, by_alias=True) if source.stream else None
    )
    if stream and definition is not None:
        stream["definition"] = definition
    identity = {
        "name": source.name,
        "schema": [[name, str(kind)] for name, kind in columns.items()],
        "event_time": source.event_time,
        "ingest_time": source.ingest_time,
        "event_id": source.id_columns,
        "order_by": source.order_by,
        "timezone": source.timezone,
        "delay": lengths["delay"],
        "cutover": cutover,
        "on_duplicate": source.on_duplicate,
        "deleted": deleted.sql if deleted else None,
        "batch": batch,
        "stream": {"topic": stream["topic"], "format": stream["format"]} if stream else None,
    }
    return SourcePlan(
        name=source.name,
        schema=tuple(Field(name, kind) for name, kind in columns.items()),
        event_time=None if source.event_time == ALWAYS else source.event_time,
        ingest_time=source.ingest_time,
        event_id=source.id_columns,
        order_by=source.order_by,
        timezone=source.timezone,
        delay=lengths["delay"],
        future=lengths["future"],
        max_bytes=source.max_bytes,
        cutover=cutover,
        on_duplicate=source.on_duplicate,
        deleted=deleted,
        batch=batch,
        stream=stream,
        fingerprint=fingerprint(identity),
    )


def condition(text: str, columns: dict[str, DataType]) -> Expression:
    """Return a parsed boolean expression. Raises SpecError where it is of another type."""
    expression = parse(text, columns)
    if expression.type != BOOL:
        raise SpecError(
            f"'{text}' is of type {expression.type}, and must be true or false.",
            hint="Compare it with something, as in: amount > 0",
        )
    return expression


def _timestamp(name: str, columns: dict[str, DataType]) -> None:
    kind = column_type(name, columns)
    if kind != TIMESTAMP:
        raise SpecError(
            f"'{name}' is of type {kind}, and must be a timestamp.",
            hint=f"Declare it so in the schema, {name}: timestamp; text in ISO 8601 is read as one.",
        )


def _identifying(name: str, columns: dict[str, DataType]) -> None:
    kind = column_type(name, columns)
    if not kind.is_key:
        raise SpecError(
            f"'{name}' is of type {kind}; equal ids must be equal bytes.",
            hint="Use a column of integers, text, binary, bool, date or timestamp.",
        )


def _orderable(name: str, columns: dict[str, DataType]) -> None:
    kind = column_type(name, columns)
    fits = kind.is_integer or kind.is_float or kind.name in ("timestamp", "date", "bool")
    if not fits and not (kind.name == "decimal" and kind.precision <= 18):
        raise SpecError(
            f"'{name}' is of type {kind}; rows are ordered by a number, a date or a timestamp.",
            hint="A decimal has 18 digits at most; declare it as decimal(18,s)."
            if kind.name == "decimal"
            else "Name another column, or leave order_by: out: then the ingest time decides.",
        )


def _zone(name: str) -> None:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(name, zoneinfo.available_timezones())
        raise SpecError(f"'{name}' is no time zone.", hint=hint) from None


def _cutover(source: Source) -> int | None:
    if source.cutover is None:
        return None
    if source.batch is None or source.stream is None:
        raise SpecError("it parts a batch half from a stream half, and the source has only one.")
    try:
        return parse_instant(source.cutover)
    except ValueError as error:
        message = str(error) if "time zone" in str(error) else f"'{source.cutover}' is no instant."
        raise SpecError(message, hint="For example 2026-01-01T00:00:00Z.") from None


def _halves(source: Source) -> None:
    if source.batch and source.stream and not source.id_columns and source.cutover is None:
        raise SpecError(
            f"source '{source.name}' has a batch and a stream half, and nothing tells rows of both apart.",
            hint="Add event_id: <column>, or cutover: <instant>.",
        )
