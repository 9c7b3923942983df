"""Avro messages to columns.

A message is one datum of the schema, alone: nothing is joined, so no message can swallow its neighbour. One
that does not end where the datum ends is malformed. With `options: {framing: confluent}` five bytes come
first (0, and the id of a schema registry, which is not read: the declared schema is the writer's).
"""

from __future__ import annotations

import functools
import io
import uuid
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl

from featurestore import instants
from featurestore.plans import SourcePlan
from featurestore.rows import avro
from featurestore.rows.avro import CONFLUENT, TICKS, WIDE, Node, framing
from featurestore.types import JSON, DataType, Field

_DAY_MS = 86_400_000
_EPOCH_DATE = date(1970, 1, 1)
_NATURAL: dict[str, Any] = {
    "boolean": pl.Boolean(),
    "int": pl.Int64(),
    "long": pl.Int64(),
    "float": pl.Float64(),
    "double": pl.Float64(),
    "bytes": pl.Binary(),
    "fixed": pl.Binary(),
    "timestamp": pl.Int64(),
    "local-timestamp": pl.Int64(),
    "date": pl.Int64(),
}
_encode_json = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode
Convert = Callable[[Any], Any]


class AvroDecoder:
    """Parses messages of one schema, explains what does not parse, builds the columns of a source."""

    errors: tuple[type[Exception], ...] = (
        EOFError,
        IndexError,
        KeyError,
        OverflowError,
        StopIteration,
        TypeError,
        ValueError,
        MemoryError,
    )

    def __init__(self, definition: str, schema: Sequence[Field], framing: str) -> None:
        self.schema = tuple(schema)
        self._physical = avro.physical(definition)
        self._nodes = avro.fields(definition)
        self._read = avro.library().schemaless_reader
        self._is_framed = framing == CONFLUENT
        columns = [_carried(self._nodes[field.name], field.type) for field in schema]
        self._columns = columns

    def parse(self, payload: bytes) -> dict[str, Any]:
        """Return a message's fields. Raises one of `errors`."""
        if self._is_framed:
            if payload[:1] != b"\0":
                raise ValueError("it does not begin with 0 and a schema's id, as framing: confluent says")
            return self._datum(payload, avro.HEADER)
        return self._datum(payload, 0)

    def explain(self, payload: bytes) -> tuple[None, str, str]:
        """Return why a message could not be read: no row, the code, the reason."""
        try:
            self.parse(payload)
        except self.errors as error:
            said = str(error) or "it ends too early"
            reason = f"not Avro of the declared schema: {said}"
        if not self._is_framed and payload[:1] == b"\0":
            try:
                self._datum(payload, avro.HEADER)
            except self.errors:
                return None, "malformed", reason
            reason += "; it has a schema registry's header: declare options: {framing: confluent}"
        return None, "malformed", reason

    def column(self, rows: Sequence[Any], index: int) -> pl.Series:
        """Return one column of the parsed messages, in a type that the door casts."""
        name = self.schema[index].name
        convert, built, wanted = self._columns[index]
        values = [row[name] for row in rows]
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        series = pl.Series(name, values, dtype=built)
        return series if wanted is None else series.cast(wanted)

    def _datum(self, payload: bytes, start: int) -> dict[str, Any]:
        buffer = io.BytesIO(payload)
        buffer.seek(start)
        row: dict[str, Any] = self._read(buffer, self._physical, None)
        if buffer.tell() != len(payload):
            raise ValueError(f"{len(payload) - buffer.tell()} bytes follow its end")
        return row


def decoder(source: SourcePlan) -> AvroDecoder:
    """Return the decoder of a source's stream."""
    assert source.stream is not None
    return _decoder(str(source.stream["definition"]), source.schema, framing(source))


@functools.lru_cache(maxsize=64)
def _decoder(definition: str, schema: tuple[Field, ...], framing: str) -> AvroDecoder:
    return AvroDecoder(definition, schema, framing)


def _carried(node: Node, kind: DataType) -> tuple[Convert | None, Any, Any]:
    """Return how values become a column: a function of each, the type it is built in, the one it becomes."""
    if kind == JSON:
        if node.kind in ("string", "enum"):
            return None, pl.String(), None
        return (lambda value: _document_text(_document(node, value))), pl.String(), None
    if node.kind == "array":
        assert kind.item is not None
        convert, built, wanted = _carried(node.items[0], kind.item)
        each = None
        if convert is not None:
            of_one = convert

            def each(values: Any) -> Any:
                return [None if value is None else of_one(value) for value in values]

        return each, pl.List(built), None if wanted is None else pl.List(wanted)
    if node.kind == "timestamp":
        return None, pl.Int64(), pl.Datetime(node.unit, "UTC")  # type: ignore[arg-type]
    if node.kind == "local-timestamp":
        return None, pl.Int64(), pl.Datetime(node.unit)  # type: ignore[arg-type]
    if node.kind == "date":
        return (lambda days: days * _DAY_MS), pl.Int64(), pl.Datetime("ms", "UTC")
    if node.kind == "decimal":
        return (lambda data: str(_decimal(node, data))), pl.String(), None
    if node.kind == "uuid" and node.carrier == "fixed":
        return (lambda data: str(uuid.UUID(bytes=data))), pl.String(), None
    return None, _NATURAL.get(node.kind, pl.String()), None


def _decimal(node: Node, data: bytes) -> Decimal:
    return Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-node.scale, WIDE)


def _document_text(document: Any) -> str:
    """Return a document's text; text is the text of one already, as in a JSON message."""
    return document if isinstance(document, str) else _encode_json(document).decode()


def _document(node: Node, value: Any) -> Any:
    """Return a value as it is in JSON."""
    if value is None:
        return None
    if node.kind == "record":
        return {name: _document(item, value[name]) for name, item in zip(node.names, node.items, strict=True)}
    if node.kind == "array":
        return [_document(node.items[0], item) for item in value]
    if node.kind == "map":
        return {name: _document(node.items[0], item) for name, item in value.items()}
    if node.kind == "union":
        return _document(_branch(node, value), value)
    if node.kind in ("timestamp", "local-timestamp"):
        return _instant(node, value)
    if node.kind == "date":
        try:
            return (_EPOCH_DATE + timedelta(days=value)).isoformat()
        except OverflowError:
            return value
    if node.kind == "decimal":
        return _decimal(node, value)
    if node.kind == "uuid" and node.carrier == "fixed":
        return str(uuid.UUID(bytes=value))
    return value


def _instant(node: Node, value: int) -> Any:
    ticks = TICKS[node.unit]
    try:
        text = instants.format_instant(value * ticks if ticks > 0 else value // -ticks)
    except (OverflowError, ValueError):
        return value
    return text if node.kind == "timestamp" else text.removesuffix("Z")


_PYTHON: dict[str, Any] = {
    "boolean": bool,
    "string": str,
    "enum": str,
    "bytes": bytes,
    "fixed": bytes,
    "decimal": bytes,
    "record": dict,
    "map": dict,
    "array": list,
    "float": float,
    "double": float,
}


def _branch(node: Node, value: Any) -> Node:
    """Return the first branch of a union that a value can be of."""
    for item in node.items:
        kind = (str if item.carrier == "string" else bytes) if item.kind == "uuid" else None
        kind = kind or _PYTHON.get(item.kind, int)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            if item.kind == "record" and set(item.names) != set(value):
                continue
            return item
    return Node("null", True)
