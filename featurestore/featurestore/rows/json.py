"""Stream records of JSON objects to a frame; one bad record costs only itself (DESIGN 3.14).

Each record is decoded into a typed struct by msgspec, on its own: nothing is joined, so no record can
swallow its neighbour, and no second parser with other rules stands behind. Fields that the schema does not
have are skipped; a missing field is null. Types are JSON's: text is no number, a number is no text, true is
no 1. Integers are exact at any size; 17850.0 is the integer 17850; binary is base64; decimals may be
numbers or text. A column of type json takes any value as it is; text is the text of a document. Times are
ISO 8601 text; integers only where the stream's `options: {epoch: s|ms|us|ns}` says what they count.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Protocol

import msgspec
import polars as pl

from featurestore.contracts import RecordBatch
from featurestore.errors import SpecError
from featurestore.instants import EPOCH_TICKS, format_instant
from featurestore.plans import PARTITION, SEQUENCE, SourcePlan
from featurestore.rows.dead_letters import KEPT, PAYLOAD, RECORD_TIME, empty, letters
from featurestore.rows.vectors import why_not
from featurestore.types import JSON, DataType, Field, integer_bounds

_KINDS = {
    str: "text",
    bool: "a bool",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    list: "a list",
    dict: "an object",
}
_EXACT = 2.0**53
_TOGETHER = 1024  # payloads that are parsed in one go, or one by one where one of them is bad
_encode_plain = msgspec.json.Encoder(decimal_format="number").encode
_decode_plain = msgspec.json.Decoder(float_hook=Decimal).decode  # as floats, decimals would lose digits
_NO_DOCUMENT = "\ufffd"
"""Text that is no document, in place of bytes that are no UTF-8; the door refuses it."""


def decode(source: SourcePlan, batch: RecordBatch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the batch's readable records as a frame for `door.admit`, and dead letters of the rest.

    They are JSON, unless the stream's format is another.
    """
    return decode_batches(source, [batch])


def decode_batches(source: SourcePlan, batches: Sequence[RecordBatch]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what `decode` would of several batches, one after another."""
    records = [record for batch in batches for record in batch.records]
    names = [pl.repeat(batch.partition, len(batch.records), dtype=pl.String, eager=True) for batch in batches]
    decoder = None
    if source.stream is not None and source.stream.get("format") == "avro":
        from featurestore.rows import avro_messages

        decoder = avro_messages.decoder(source)
    return decode_payloads(
        source,
        [record.value for record in records],
        pl.DataFrame(
            {
                PARTITION: pl.concat([pl.Series(dtype=pl.String), *names], rechunk=True),
                SEQUENCE: pl.Series([record.sequence for record in records], dtype=pl.Int64),
                RECORD_TIME: pl.Series([record.time for record in records], dtype=pl.Int64),
            }
        ),
        stream_epoch(source),
        decoder,
    )


def stream_epoch(source: SourcePlan) -> str | None:
    """Return what integers count in the stream's timestamps, where its options say so."""
    return _epoch(source.stream)


def batch_epoch(source: SourcePlan) -> str | None:
    """Return what integers count in the batch half's timestamps, where its options say so."""
    return _epoch(source.batch)


def _epoch(half: dict[str, Any] | None) -> str | None:
    epoch = (half or {}).get("options", {}).get("epoch")
    if epoch is not None and epoch not in EPOCH_TICKS:
        raise SpecError(f"options: epoch: '{epoch}' is no unit.", hint=f"Use {', '.join(EPOCH_TICKS)}.")
    return None if epoch is None else str(epoch)


class Decoder(Protocol):
    """Reads payloads of one format."""

    errors: tuple[type[Exception], ...]

    def parse(self, payload: bytes) -> Any:
        """Return a payload's row. Raises one of `errors`."""

    def explain(self, payload: bytes) -> tuple[Any, str, str]:
        """Return the row where its values fit after all, else None; then the reason's code and message."""

    def column(self, rows: Sequence[Any], index: int) -> pl.Series:
        """Return one column of the rows, in a type that the door casts."""


def decode_payloads(
    source: SourcePlan,
    payloads: Sequence[bytes | None],
    system: pl.DataFrame,
    epoch: str | None,
    decoder: Decoder | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a frame of the payloads that could be read, beside their row of `system`, and dead letters.

    The frame has the schema's columns, those of `system`, and `__payload`. Without a decoder, they are JSON.
    """
    decoder = decoder or _decoder(source.schema, epoch)
    rows: list[Any] = []
    kept: list[int] = []
    refused: list[tuple[int, str, str]] = []
    for start in range(0, len(payloads), _TOGETHER):
        some = payloads[start : start + _TOGETHER]
        parsed = _parse_all(decoder, some, source.max_bytes)
        if parsed is not None:
            rows += parsed
            kept += range(start, start + len(some))
        else:
            for place, payload in enumerate(some, start):
                found = _parse(decoder, payload, source.max_bytes)
                if isinstance(found, _Parsed):
                    rows.append(found.row)
                    kept.append(place)
                else:
                    refused.append((place, *found))
    columns = [decoder.column(rows, index) for index in range(len(source.schema))]
    chosen = system if len(kept) == system.height else system[kept]
    received = pl.Series(PAYLOAD, payloads if not refused else [payloads[i] for i in kept], dtype=pl.Binary)
    frame = pl.DataFrame([*columns, *chosen.get_columns(), received])
    return frame, _letters(source, system, payloads, refused)


@dataclass(frozen=True)
class _Parsed:
    row: Any


def _parse_all(decoder: Decoder, payloads: Sequence[bytes | None], limit: int) -> list[Any] | None:
    """Return the rows of payloads, none of them bad; None where one may be."""
    some: Any = payloads
    if None in some or max(map(len, some)) > limit:
        return None
    try:
        return list(map(decoder.parse, some))
    except decoder.errors:
        return None


def _parse(decoder: Decoder, payload: bytes | None, limit: int) -> _Parsed | tuple[str, str]:
    """Return a payload's row, or a reason's code and message."""
    if payload is None:
        return "tombstone", "the record has no value"
    if len(payload) > limit:
        return "too_large", f"{len(payload)} bytes are more than max_bytes: {limit}"
    try:
        return _Parsed(decoder.parse(payload))
    except decoder.errors:
        row, code, message = decoder.explain(payload)
        return (code, message) if row is None else _Parsed(row)


def _letters(
    source: SourcePlan,
    system: pl.DataFrame,
    payloads: Sequence[bytes | None],
    refused: list[tuple[int, str, str]],
) -> pl.DataFrame:
    if not refused:
        return empty()
    places, codes, messages = zip(*refused, strict=True)
    at = system[list(places)]
    time = at[RECORD_TIME] if RECORD_TIME in at.columns else pl.Series([None] * at.height, dtype=pl.Int64)
    kept = []
    for place, code in zip(places, codes, strict=True):
        payload = payloads[place]
        kept.append(payload[:KEPT] if payload is not None and code == "too_large" else payload)
    return letters(source.name, None, at, time.cast(pl.Datetime("us", "UTC")), codes, messages, kept)


class _Decoder:
    """A struct type of a schema: parses payloads, explains what does not parse, builds columns."""

    errors: tuple[type[Exception], ...] = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

    def __init__(self, schema: Sequence[Field], epoch: str | None) -> None:
        self.schema = tuple(schema)
        self.epoch = epoch
        names = [f"f{index}" for index in range(len(schema))]
        fields = [
            (name, _optional(field.type, epoch), msgspec.field(name=field.name, default=None))
            for name, field in zip(names, schema, strict=True)
        ]
        self.struct = msgspec.defstruct("Row", fields, gc=False)
        self.parse = msgspec.json.Decoder(self.struct).decode
        self.has_documents = any(field.type == JSON for field in schema)
        self.getters = [attrgetter(name) for name in names]

    def explain(self, payload: bytes) -> tuple[Any, str, str]:
        """Return the row where its values fit after all, else None; then the reason's code and message."""
        try:
            value = _decode_plain(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return None, "malformed", str(error)
        except RecursionError:
            return None, "malformed", "the record is nested too deeply"
        if not isinstance(value, dict):
            return None, "malformed", f"the record is {_KINDS.get(type(value), 'null')}, not an object"
        raw = msgspec.json.decode(payload, type=dict[str, msgspec.Raw]) if self.has_documents else {}
        values = []
        for field in self.schema:
            found = raw.get(field.name) if field.type == JSON else value.get(field.name)
            fitted, code = _fit(found, field.type, self.epoch)
            if code:
                shown = f"{found!r:.80}"
                said = f"{field.name}: {shown} is {_KINDS.get(type(found), 'null')}, not {field.type}"
                if code != "bad_type":
                    said = f"{field.name}: {shown} is no {field.type}"
                    said += f": {why_not(found or (), field.type)}" if field.type.name == "vector" else ""
                return None, code, said
            values.append(fitted)
        return self.struct(*values), "", ""

    def column(self, rows: Sequence[Any], index: int) -> pl.Series:
        """Return one column of the decoded rows, in a type that the door casts."""
        field = self.schema[index]
        return _series(field.name, list(map(self.getters[index], rows)), field.type, self.epoch)


@functools.lru_cache(maxsize=256)
def _decoder(schema: tuple[Field, ...], epoch: str | None) -> _Decoder:
    return _Decoder(schema, epoch)


def _optional(kind: DataType, epoch: str | None) -> Any:
    """Return the struct's type of a value that may be null, which raw JSON says by itself."""
    plain = _json_type(kind, epoch)
    return plain if plain is msgspec.Raw else plain | None


def _json_type(kind: DataType, epoch: str | None) -> Any:
    if kind.is_integer:
        low, high = integer_bounds(kind)
        return Annotated[int, msgspec.Meta(ge=low, le=min(high, 2**63 - 1))]
    if kind == JSON:
        return msgspec.Raw
    if kind.name == "timestamp" and epoch is not None:
        return int | str
    if kind.name == "list":
        assert kind.item is not None
        return list[_optional(kind.item, epoch)]  # type: ignore[misc]
    if kind.name == "vector":
        return Annotated[list[float], msgspec.Meta(min_length=kind.size, max_length=kind.size)]
    plain: dict[str, Any] = {"float32": float, "float64": float, "bool": bool, "binary": bytes}
    plain["decimal"] = Decimal
    return plain.get(kind.name, str)


def _fit(value: Any, kind: DataType, epoch: str | None) -> tuple[Any, str]:
    """Return a plain JSON value as the struct's, or a reason code why it does not fit."""
    if value is None or isinstance(value, msgspec.Raw):
        return value, ""
    if kind == JSON:  # within a list; by itself it is raw
        return msgspec.Raw(_encode_plain(value)), ""
    if kind.name == "list":
        assert kind.item is not None
        if not isinstance(value, list):
            return None, "bad_type"
        items = [_fit(item, kind.item, epoch) for item in value]
        return [item for item, _ in items], next((code for _, code in items if code), "")
    number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    if isinstance(value, Decimal) and kind.name != "decimal":
        value = float(value)
    if kind.is_float and number and math.isinf(value):
        return None, "bad_value"
    if kind.is_integer and number:
        if isinstance(value, float):
            if not (value.is_integer() and abs(value) <= _EXACT):
                return None, "bad_value"
            value = int(value)
        low, high = integer_bounds(kind)
        return value, "" if low <= value <= high else "bad_value"
    if kind.name == "vector" and isinstance(value, list):
        assert kind.item is not None
        items = [_fit(item, kind.item, epoch) for item in value]
        fits = len(items) == kind.size and not any(item is None or code for item, code in items)
        return [item for item, _ in items], "" if fits else "bad_value"
    try:
        return msgspec.convert(value, _json_type(kind, epoch), strict=not (number and kind.is_number)), ""
    except msgspec.ValidationError:
        same = isinstance(value, str) and kind.name in ("binary", "decimal", "timestamp", "date")
        return None, "bad_value" if same else "bad_type"


def _series(name: str, values: list[Any], kind: DataType, epoch: str | None) -> pl.Series:
    leaf = kind
    while leaf.item is not None:
        leaf = leaf.item
    if leaf == JSON:
        values = [_document_text(value) for value in values]
    elif leaf.name == "decimal" or (leaf.name == "timestamp" and epoch is not None):
        values = [_as_text(value, epoch) for value in values]
    return pl.Series(name, values, dtype=_carrier(kind))


def _document_text(value: Any) -> Any:
    """Return the text of a document that came as a value, or as text."""
    if isinstance(value, list):
        return [_document_text(item) for item in value]
    if value is None:
        return None
    raw = bytes(value)
    try:
        return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NO_DOCUMENT


def _as_text(value: Any, epoch: str | None) -> Any:
    if isinstance(value, list):
        return [_as_text(item, epoch) for item in value]
    if isinstance(value, Decimal):
        return str(value)
    if not isinstance(value, int) or epoch is None:
        return value
    many, few = EPOCH_TICKS[epoch]
    try:
        return format_instant(value * many // few)
    except OverflowError:
        return str(value)


def _carrier(kind: DataType) -> Any:
    if kind.name == "list":
        assert kind.item is not None
        return pl.List(_carrier(kind.item))
    if kind.name == "vector":
        return pl.List(pl.Float64)
    if kind.name == "float32":
        return pl.Float64
    return pl.String if kind.name in ("date", "timestamp", "decimal", "json") else kind.polars()
