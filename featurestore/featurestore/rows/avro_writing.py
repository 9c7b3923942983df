"""Events to messages of a stream's format: JSON as it is, or Avro."""

from __future__ import annotations

import functools
import io
import json
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from featurestore.errors import RequestError
from featurestore.online.requests import row_value
from featurestore.plans import SourcePlan
from featurestore.rows import avro
from featurestore.rows.avro import TICKS, WIDE, Node
from featurestore.types import TIMESTAMP, DataType


def is_avro(source: SourcePlan) -> bool:
    """Tell whether a source's stream has Avro messages."""
    return source.stream is not None and source.stream.get("format") == "avro"


def encode(source: SourcePlan, event: Mapping[str, Any]) -> bytes:
    """Return an event, as JSON would have it, as a message of the source's schema.

    Times may be ISO 8601 text or datetimes, decimals text or numbers, bytes base64. A field that is missing
    takes the schema's default, else null. Raises RequestError where a value does not fit.
    """
    assert source.stream is not None
    parsed, nodes, defaults = _written(str(source.stream["definition"]))
    message = {}
    for name, node in nodes.items():
        if name not in event:
            if name in defaults or node.is_nullable:
                continue
            raise RequestError(f"{name}: it is missing, and the Avro schema has no default for it.")
        try:
            message[name] = _prepared(node, event[name], source.timezone)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise RequestError(f"{name}: {event[name]!r:.80} is no {node}: {error}") from None
    buffer = io.BytesIO()
    if avro.framing(source) == avro.CONFLUENT:
        identifier = int((source.stream.get("options") or {}).get("schema_id", 0))
        buffer.write(b"\0" + identifier.to_bytes(4, "big"))
    try:
        avro.library().schemaless_writer(buffer, parsed, message)
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
        raise RequestError(f"the event does not fit the Avro schema: {error}") from None
    return buffer.getvalue()


@functools.lru_cache(maxsize=64)
def _written(definition: str) -> tuple[Any, dict[str, Node], set[str]]:
    """Return a schema for writing, its fields' types, and the fields that have a default."""
    defaults = {field["name"] for field in json.loads(definition)["fields"] if "default" in field}
    return avro.physical(definition), avro.fields(definition), defaults


def _prepared(node: Node, value: Any, zone: str | None) -> Any:
    """Return a value as the schema without logical types has it. Raises ValueError where it does not fit."""
    if value is None:
        if not node.is_nullable and node.kind != "null":
            raise ValueError("it may not be null")
        return None
    if node.kind in ("array", "map", "record") and isinstance(value, str):
        value = json.loads(value)
    if node.kind == "array":
        return [_prepared(node.items[0], item, zone) for item in value]
    if node.kind == "map":
        return {name: _prepared(node.items[0], item, zone) for name, item in value.items()}
    if node.kind == "record":
        given = zip(node.names, node.items, strict=True)
        return {name: _prepared(item, value[name], zone) for name, item in given if name in value}
    if node.kind == "decimal":
        return _unscaled(node, row_value(value, DataType("decimal", precision=38, scale=node.scale)))
    if node.kind in ("timestamp", "local-timestamp"):
        micros = row_value(value, TIMESTAMP, zone if node.kind == "timestamp" else "UTC")
        ticks = TICKS[node.unit]
        return micros // ticks if ticks > 0 else micros * -ticks
    if node.kind == "uuid":
        found = uuid.UUID(str(value))
        return found.bytes if node.carrier == "fixed" else str(found)
    kind = _WRITTEN.get(node.kind)
    return value if kind is None else row_value(value, kind, zone)


_WRITTEN = {
    "boolean": DataType("bool"),
    "int": DataType("int32"),
    "long": DataType("int64"),
    "float": DataType("float64"),
    "double": DataType("float64"),
    "bytes": DataType("binary"),
    "fixed": DataType("binary"),
    "string": DataType("string"),
    "enum": DataType("string"),
    "date": DataType("date"),
}


def _unscaled(node: Node, value: Decimal) -> bytes:
    number = int(value.scaleb(node.scale, WIDE))
    if len(str(abs(number))) > node.precision:
        raise ValueError(f"it has more than {node.precision} digits")
    size = node.size or number.bit_length() // 8 + 1
    return number.to_bytes(size, "big", signed=True)
