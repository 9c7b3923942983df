"""Avro schemas of streams: read from a file, held by the version, checked against a source's columns.

The schema is what messages were written with. Recursive schemas are refused (a message could nest without
bound), and so are arrays of what takes no bytes (a message of ten bytes could hold billions).

| column | taken from |
|---|---|
| integers | int, long, time-millis, time-micros |
| floats | float, double, int, long |
| decimal | decimal, int, long, string |
| bool | boolean |
| string | string, enum, uuid |
| binary | bytes, fixed |
| date | date, string |
| timestamp | timestamp-millis, -micros, -nanos; string; local-… with `timezone:`; long, int with `epoch` |
| list, vector | array of what fits the item |
| json | anything: records and maps as objects, bytes as base64, times as ISO 8601 text; text is a document |

A union with null is the other branch, or null; other unions are json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context
from pathlib import Path
from typing import Any

from featurestore.errors import MissingExtra, SpecError, did_you_mean
from featurestore.plans import SourcePlan
from featurestore.types import JSON, DataType, Field

LARGEST = 1024 * 1024
"""How many bytes a schema may take in a version."""

CONFLUENT = "confluent"
FRAMINGS = ("plain", CONFLUENT)
HEADER = 5
"""How many bytes a schema registry's header takes."""

WIDE = Context(prec=400)
"""Decimal arithmetic that rounds nothing."""

TICKS = {"ms": 1000, "us": 1, "ns": -1000}
"""Microseconds in one of a unit; where negative, how many of the unit are in a microsecond."""

_UNITS = {"millis": "ms", "micros": "us", "nanos": "ns"}
_WORDS = {unit: word for word, unit in _UNITS.items()}
_INTEGERS = ("int", "long")
_CARRIERS = {
    "timestamp": ("long",),
    "local-timestamp": ("long",),
    "date": ("int",),
    "decimal": ("bytes", "fixed"),
    "uuid": ("string", "fixed"),
}


@dataclass(frozen=True)
class Node:
    """A type of a schema.

    `kind` is Avro's, or a logical type's: timestamp, local-timestamp, date, decimal, uuid.

    `unit` is of times, `scale` and `precision` of decimals, `items` of arrays and maps (one), of unions of
    several types and of records (each field, named in `names`).
    """

    kind: str
    is_nullable: bool = False
    carrier: str = ""
    unit: str = ""
    precision: int = 0
    scale: int = 0
    size: int = 0
    items: tuple[Node, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f"{self.kind}-{_WORDS[self.unit]}" if self.unit else self.kind
        if self.kind == "decimal":
            shown = f"decimal({self.precision},{self.scale})"
        if self.kind in ("array", "map", "union"):
            shown += f" of {', '.join(map(str, self.items))}"
        return shown


def framing(source: SourcePlan) -> str:
    """Return what is before a message's datum: `plain`, nothing, or `confluent`."""
    return str(((source.stream or {}).get("options") or {}).get("framing", FRAMINGS[0]))


def read(folder: Path, name: str) -> str:
    """Return the text of a schema's file as a version holds it. Raises SpecError."""
    path = folder / name
    try:
        data = path.read_bytes()
        found = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        said = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise SpecError(
            f"The Avro schema '{name}' cannot be read: {said}.",
            hint="A relative path begins at the project's folder.",
        ) from None
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    if len(text) > LARGEST:
        raise SpecError(f"The Avro schema '{name}' takes {len(text)} bytes, and may take {LARGEST}.")
    return text


def library() -> Any:
    """Return the module that reads and writes Avro. Raises MissingExtra."""
    try:
        import fastavro
    except ImportError as error:
        raise MissingExtra("The format avro (fastavro)", "avro") from error
    return fastavro


def fields(text: str) -> dict[str, Node]:
    """Return the types of a schema's top-level fields. Raises SpecError where it is no such schema."""
    avro = library()
    schema = json.loads(text)
    try:
        avro.parse_schema(json.loads(text))
    except (avro.schema.SchemaParseException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"it is no Avro schema: {type(error).__name__}: {error}.") from None
    node = _Reader().node(schema, "", ())
    if node.kind != "record" or node.is_nullable:
        raise SpecError(f"the schema is of {node}, and a message must be a record.")
    return dict(zip(node.names, node.items, strict=True))


def misfit(
    column: Field, found: Mapping[str, Node], timezone: str | None, epoch: str | None
) -> SpecError | None:
    """Return what is wrong with a column, and what to write instead; None where it fits."""
    if column.name not in found:
        return SpecError(
            f"the Avro schema has no field '{column.name}'.", hint=did_you_mean(column.name, found)
        )
    node = found[column.name]
    if _fits(node, column.type, timezone, epoch):
        return None
    if node.kind == "local-timestamp" and column.type.name == "timestamp":
        hint = "Declare the source's timezone:, for the values carry none."
    elif node.kind in _INTEGERS and column.type.name == "timestamp":
        hint = "Say what the integers count: stream: {options: {epoch: ms}}; or declare it as int64."
    else:
        hint = f"Declare it as {_natural(node)}."
    return SpecError(f"'{column.name}' is {column.type} here and {node} in the Avro schema.", hint=hint)


def physical(text: str) -> Any:
    """Return the schema without logical types, which columns apply all at once."""
    return library().parse_schema(_stripped(json.loads(text)))


def _stripped(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_stripped(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: v for k, v in schema.items() if k not in ("logicalType", "doc")}
    for key in ("type", "items", "values"):
        if key in kept:
            kept[key] = _stripped(kept[key])
    if "fields" in kept:
        kept["fields"] = [_stripped(field) for field in kept["fields"]]
    return kept


class _Reader:
    """Reads a schema into nodes; names stand for what was declared before them."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def node(self, schema: Any, space: str, above: tuple[str, ...]) -> Node:
        if isinstance(schema, list):
            return self._union(schema, space, above)
        if isinstance(schema, str):
            if schema in _PRIMITIVE:
                return Node(schema)
            full = schema if "." in schema or not space else f"{space}.{schema}"
            full = full if full in self._named else schema
            return self._declared(full, above)
        kind = schema["type"]
        if isinstance(kind, (dict, list)):
            return self.node(kind, space, above)
        if kind in ("record", "error", "enum", "fixed"):
            name = str(schema["name"])
            space = schema.get("namespace", space) if "." not in name else name.rpartition(".")[0]
            full = name if "." in name or not space else f"{space}.{name}"
            self._named[full] = (schema, space)
            return self._declared(full, above)
        if kind == "array":
            item = self.node(schema["items"], space, above)
            if _is_empty(item):
                raise SpecError(f"an array of {item} takes no bytes, however long it is.")
            return Node("array", items=(item,))
        if kind == "map":
            return Node("map", items=(self.node(schema["values"], space, above),))
        if kind not in _PRIMITIVE:
            return self.node(kind, space, above)
        return _logical(kind, schema)

    def _declared(self, full: str, above: tuple[str, ...]) -> Node:
        if full in above:
            raise SpecError(f"record '{full}' holds itself, and a message could nest without end.")
        if full not in self._named:
            raise SpecError(f"nothing in it is named '{full}'.")
        schema, space = self._named[full]
        if schema["type"] == "enum":
            return Node("enum")
        if schema["type"] == "fixed":
            return _logical("fixed", schema)
        if "fields" not in schema:
            raise SpecError(f"record '{full}' has no fields:.")
        items = [self.node(field["type"], space, (*above, full)) for field in schema["fields"]]
        return Node("record", items=tuple(items), names=tuple(field["name"] for field in schema["fields"]))

    def _union(self, branches: Sequence[Any], space: str, above: tuple[str, ...]) -> Node:
        nodes = [self.node(branch, space, above) for branch in branches]
        some = [node for node in nodes if node.kind != "null"]
        is_nullable = len(some) < len(nodes)
        if len(some) == 1:
            return Node(**{**some[0].__dict__, "is_nullable": is_nullable})
        return Node("union", is_nullable, items=tuple(some)) if some else Node("null", True)


_PRIMITIVE = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


def _logical(kind: str, schema: Mapping[str, Any]) -> Node:
    """Return the node of a primitive type or of fixed; what has no known logical type is plain."""
    name = schema.get("logicalType")
    size = int(schema.get("size", 0))
    base, _, unit = str(name).rpartition("-")
    if base in _CARRIERS and unit in _UNITS and kind in _CARRIERS[base]:
        return Node(base, carrier=kind, unit=_UNITS[unit])
    if name in ("date", "decimal", "uuid") and kind in _CARRIERS[name]:
        if name == "uuid" and kind == "fixed" and size != 16:
            return Node(kind, size=size)
        return Node(
            name,
            carrier=kind,
            size=size,
            precision=int(schema.get("precision", 0)),
            scale=int(schema.get("scale", 0)),
        )
    return Node(kind, size=size)


def _is_empty(node: Node) -> bool:
    """Tell whether a value takes no bytes."""
    if node.is_nullable and node.kind != "null":
        return False
    if node.kind == "record":
        return all(map(_is_empty, node.items))
    return node.kind == "null" or (node.kind == "fixed" and node.size == 0)


def _fits(node: Node, kind: DataType, timezone: str | None, epoch: str | None) -> bool:
    if kind == JSON:
        return True
    if kind.name in ("list", "vector"):
        assert kind.item is not None
        return node.kind == "array" and _fits(node.items[0], kind.item, timezone, epoch)
    if kind.name == "timestamp":
        if node.kind == "local-timestamp":
            return timezone is not None
        if node.kind in _INTEGERS:
            return epoch is not None
    if kind.name == "decimal" and node.kind == "decimal":
        return node.scale <= kind.scale and node.precision - node.scale <= kind.precision - kind.scale
    if kind.is_integer:
        return node.kind in _INTEGERS
    if kind.is_float:
        return node.kind in ("float", "double", *_INTEGERS)
    return node.kind in _TAKEN[kind.name]


_TAKEN = {
    "decimal": (*_INTEGERS, "string"),
    "bool": ("boolean",),
    "string": ("string", "enum", "uuid"),
    "binary": ("bytes", "fixed"),
    "date": ("date", "string"),
    "timestamp": ("timestamp", "string"),
}


def _natural(node: Node) -> str:
    """Return the type that a field's values have here."""
    if node.kind == "array":
        return f"list<{_natural(node.items[0])}>"
    if node.kind == "decimal":
        return f"decimal({node.precision},{node.scale})"
    if node.kind in ("boolean", "float", "double"):
        return {"boolean": "bool", "float": "float32", "double": "float64"}[node.kind]
    known = {"int": "int32", "long": "int64", "enum": "string", "uuid": "string", "string": "string"}
    known |= {"bytes": "binary", "fixed": "binary", "date": "date"}
    known |= {"timestamp": "timestamp", "local-timestamp": "timestamp"}
    return known.get(node.kind, "json")
