"""Bodies of requests: read within a limit, decoded, and refused with the place of what is wrong."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from featurestore.errors import RequestError, SpecError, did_you_mean
from featurestore.instants import SECOND, format_duration, parse_duration, parse_instant
from featurestore_serving.answers import ARROW
from featurestore_serving.arrow_bodies import read_table
from featurestore_serving.failures import TooLarge, too_large
from featurestore_serving.models import OnlineRequest

_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")

_online = msgspec.json.Decoder(OnlineRequest, float_hook=Decimal)  # to the last digit
_array = msgspec.json.Decoder(list[msgspec.Raw])
_one = msgspec.json.Decoder(msgspec.Raw)

T = TypeVar("T")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the request's body. Raises TooLarge before more than `limit` bytes are held."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit)
    receive = request.receive
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        more = message.get("more_body", False)
        if size > limit:
            raise too_large(limit)
    return b"".join(parts)


def online_request(body: bytes, max_rows: int) -> OnlineRequest:
    """Return what a body asks for. Raises RequestError with the place of what is wrong."""
    asked = _decode(_online, body)
    if len(asked.rows) > max_rows:
        hint = "Send them in parts, or raise FEATURESTORE_MAX_ROWS."
        raise TooLarge(f"{len(asked.rows)} rows are more than {max_rows}.", where="$.rows", hint=hint)
    if (asked.vector is None) == (asked.features is None):
        raise RequestError(
            "A request names either a vector or a list of features.",
            where="$.vector",
            hint='Send "vector": "name", or "features": ["set.feature"].',
        )
    if asked.features == []:
        raise RequestError("The list of features is empty.", where="$.features")
    return asked


def instants_of(as_of: str | list[str] | None) -> int | list[int] | None:
    """Return the instants asked for in microseconds. Raises RequestError with the place of a bad one."""
    if as_of is None:
        return None
    if isinstance(as_of, str):
        return _instant(as_of, "$.as_of")
    return [_instant(text, f"$.as_of[{i}]") for i, text in enumerate(as_of)]


def _instant(text: str, where: str) -> int:
    try:
        return parse_instant(text)
    except (ValueError, OverflowError) as error:
        hint = "Write it as 2026-11-21T10:00:00.000000Z."
        raise RequestError(f"{text!r} is no instant: {error}", where=where, hint=hint) from None


def events_of(body: bytes, content_type: str, limit: int) -> Any:
    """Return the events of a body, as a push takes them, without an object for each.

    They are one JSON object, an array, one object per line (NDJSON), or the rows of an Arrow IPC stream.
    Arrow is told by the content type; lines too, else by a first line that is whole in itself. An event that
    is malformed is handed on, and refused alone; a malformed array or stream is a RequestError, and one that
    inflates to more than `limit` bytes TooLarge.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == ARROW:
        return read_table(body, limit)
    text = body.strip()
    if not text:
        raise RequestError(
            "The body holds no event.", hint="Send a JSON object, an array, or one object per line."
        )
    if kind in _LINES:
        return text
    if text.startswith(b"["):
        return (bytes(event) for event in _decode(_array, text))
    first, _, rest = text.partition(b"\n")
    return text if rest and _is_whole(first) else [text]


def _is_whole(line: bytes) -> bool:
    try:
        _one.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def seconds_of(wait: str | None, most: float) -> float | None:
    """Return the seconds of a `wait=5s`. Raises RequestError on what is no duration, or too long."""
    if wait is None:
        return None
    try:
        seconds = parse_duration(wait) / SECOND
    except SpecError as error:
        raise RequestError(error.message, where="wait", hint="Write it as wait=5s.") from None
    if seconds > most:
        longest = format_duration(int(most * SECOND))
        raise RequestError(f"{wait} is longer than {longest}.", where="wait", hint=f"Wait {longest} at most.")
    return seconds


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(error, body) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"The body is no JSON: {error}.") from None
    except RecursionError:
        raise RequestError("The body is nested too deeply.") from None


def _misfit(error: msgspec.ValidationError, body: bytes) -> RequestError:
    """Return the error of a body whose JSON has another form; an unknown field comes with the nearest one."""
    sent: Any = msgspec.json.decode(body)
    if isinstance(sent, dict):
        known = OnlineRequest.__struct_fields__
        for name in sent:
            if name not in known:
                return RequestError(f"There is no field '{name}'.", where="$", hint=did_you_mean(name, known))
    message, _, place = str(error).partition(" - at ")
    return RequestError(f"{message}.", where=place.strip("`") or "$")
