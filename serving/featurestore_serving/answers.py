"""Results as bytes: JSON with documented losses, and Arrow without any.

JSON: NaN and infinities are null, integers past 2^53 text, timestamps and dates ISO text, binary base64,
decimals text, maps objects whose keys are text. Arrow: the features with their declared types, then
`__status` (a list, one per feature in order), `__as_of` and `__error`; no feature can have such a name. One
list costs a third of a column of statuses per feature. The schema's metadata has the vector, the request's
`now` (microseconds) and the features' types (JSON).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from featurestore.instants import format_instant
from featurestore.online.statuses import PRESENT
from featurestore.types import DataType, Field

if TYPE_CHECKING:
    from featurestore.online.reader import VectorResult

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
STATUS_COLUMN, AS_OF_COLUMN, ERROR_COLUMN = "__status", "__as_of", "__error"
WIDEST = 2**53
"""The largest whole number that JSON numbers carry everywhere."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()

Convert = Callable[[Any], Any]


class Answers:
    """Encodes results of one vector; what its columns need is found out once."""

    def __init__(self, columns: Sequence[Field]) -> None:
        self._columns = orjson.Fragment(orjson.dumps([f.name for f in columns]))
        self._present = [PRESENT] * len(columns)
        self._all_present = orjson.Fragment(orjson.dumps(self._present))
        self._converts = [(i, convert) for i, f in enumerate(columns) if (convert := _convert(f.type))]
        self._wide = any(_is_wide(f.type) for f in columns)

        self._fields = tuple(columns)
        self._schema: Any = None

    def json(self, result: VectorResult) -> bytes:
        """Return the JSON answer. Changes the result's rows."""
        for i, convert in self._converts:
            for row in result.rows:
                if row[i] is not None:
                    row[i] = convert(row[i])
        answer: dict[str, Any] = {
            "vector": result.vector,
            "as_of": _as_of(result),
            "columns": self._columns,
            "rows": result.rows,
            "status": self._status(result.status),
        }
        if any(result.errors):
            answer["errors"] = result.errors
        if not self._wide:
            return orjson.dumps(answer, _text)
        try:
            return orjson.dumps(answer, _text, orjson.OPT_STRICT_INTEGER)
        except orjson.JSONEncodeError:
            answer["rows"] = _narrow(result.rows)
            return orjson.dumps(answer, _text)

    def _status(self, status: Sequence[list[str]]) -> list[Any]:
        """Return the statuses, those of a row that has all as bytes; most rows share one list."""
        last: list[str] | None = None
        shown: Any = None
        made = []
        for own in status:
            if own is not last:
                last, shown = own, self._all_present if own == self._present else own
            made.append(shown)
        return made

    def arrow(self, result: VectorResult) -> bytes:
        """Return the Arrow answer: an IPC stream of one batch."""
        import pyarrow as pa

        if self._schema is None:
            self._schema = _arrow_schema(self._fields)
        kinds = self._schema.types
        arrays = [
            pa.array([row[i] for row in result.rows], kind)
            for i, kind in enumerate(kinds[: len(self._fields)])
        ]
        flat = pa.array([status for row in result.status for status in row], pa.string())
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kinds[-3]))
        arrays.append(pa.array(result.as_of, kinds[-2]))
        arrays.append(pa.array(result.errors, kinds[-1]))
        told = {b"vector": result.vector, b"now": str(result.now)}
        schema = self._schema.with_metadata(self._schema.metadata | told)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pa.record_batch(arrays, schema=schema))
        return bytes(sink.getvalue())


def _arrow_schema(columns: Sequence[Field]) -> Any:
    import pyarrow as pa

    fields = [pa.field(f.name, f.type.arrow()) for f in columns]
    fields.append(pa.field(STATUS_COLUMN, pa.list_(pa.field("item", pa.string()), len(columns))))
    fields.append(pa.field(AS_OF_COLUMN, pa.timestamp("us", "UTC")))
    fields.append(pa.field(ERROR_COLUMN, pa.string()))
    types = orjson.dumps([str(f.type) for f in columns])
    return pa.schema(fields, {b"types": types})


def _as_of(result: VectorResult) -> str | list[str]:
    different = set(result.as_of)
    if len(different) > 1:
        return [format_instant(t) for t in result.as_of]
    return format_instant(different.pop() if different else result.now)


def _convert(kind: DataType) -> Convert | None:
    """Return what turns a value of the type into a JSON value; None where it is one, or `_text` does."""
    if kind.name == "timestamp":
        return format_instant
    if kind.name == "date":
        return _iso_date
    if kind.key is not None:
        key = _convert(kind.key) or _key_text
        return lambda entries: {key(name): count for name, count in entries.items()}
    if kind.item is not None and (item := _convert(kind.item)):
        return lambda values: [None if value is None else item(value) for value in values]
    return None


def _iso_date(day: int) -> str:
    return date.fromordinal(day + _EPOCH_DAY).isoformat()


def _key_text(value: Any) -> str:
    """Return the text of a map's key: JSON's objects have no other."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _text(value)


def _text(value: Any) -> str:
    """Return the text of a value that JSON has no form for."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _is_wide(kind: DataType) -> bool:
    return kind.name in ("int64", "uint64") or (kind.item is not None and _is_wide(kind.item))


def _narrow(value: Any) -> Any:
    """Return the value with integers past 2^53 as text."""
    if isinstance(value, list):
        return [_narrow(item) for item in value]
    if isinstance(value, dict):
        return {key: _narrow(item) for key, item in value.items()}
    if isinstance(value, int) and not -WIDEST <= value <= WIDEST:
        return str(value)
    return value
