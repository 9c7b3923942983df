"""JSON documents as canonical text: read, written, and looked into by a path.

Equal documents have one text: no spaces, keys in the order of their code points, of repeated keys the last,
text escaped only where it must be. Integers keep all their digits. Other numbers are float64, whichever way
they come, in their shortest digits; a whole one below 1e16 is the integer (17850.0 is 17850, -0.0 is 0). The
document `null` is a null. Numbers beyond the largest float64 are refused, and so is what nests too deeply.

A path is `$`, then `.name`, `["any name"]` or `[number]` for each step down, an item below 0 counting from
the end: `$.lines[0].price`, `$["a.b"][-1]`.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import msgspec

Path = tuple[str | int, ...]
"""The names and item numbers that lead to a value."""

_EXACT = 1e16
_STEP = re.compile(
    r"\.(?P<name>[^\s.\[\]'\"]+)|\[(?P<item>-?\d+)\]|\[(?P<quote>['\"])(?P<text>.*?)(?P=quote)\]", re.DOTALL
)


def _number(text: str) -> int | msgspec.Raw:
    """Return a number with a point or an exponent as its canonical form."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is larger than the largest float64")
    if value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return msgspec.Raw(repr(value).encode())


_decode = msgspec.json.Decoder(float_hook=_number).decode
_encode = msgspec.json.Encoder(order="sorted", decimal_format="number").encode


def read(text: str | bytes) -> Any:
    """Return a document as plain values; floats that are not whole as `msgspec.Raw`.

    Raises ValueError that says what is malformed.
    """
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(said) from None


def write(value: Any) -> str | None:
    """Return the canonical text of what `read` gave, or a part of it; None where it is null."""
    return None if value is None else _encode(value).decode()


def canonical(text: str | bytes) -> str | None:
    """Return the canonical text of a document, None where it is null. Raises ValueError."""
    return write(read(text))


def of_value(value: Any) -> str | None:
    """Return the canonical text of plain values: NaN and infinities as null, times as ISO 8601 text.

    Raises ValueError where JSON has no such value.
    """
    try:
        return None if value is None else canonical(_encode(value))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def or_null(text: str) -> str | None:
    """Return the canonical text of a document; None where it is null or malformed."""
    try:
        return canonical(text)
    except ValueError:
        return None


@functools.lru_cache(maxsize=8)
def _read_once(text: str) -> Any:
    """Return `read` of a text, None where it is malformed. Several fields of one document share it."""
    try:
        return read(text)
    except ValueError:
        return None


def extract(text: str, path: Path) -> str | None:
    """Return the canonical text of what lies at the path.

    None where nothing does, where it is null, and of malformed text.
    """
    value = _read_once(text)
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        elif isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return write(value)


def content(text: str) -> str:
    """Return what a document says as text: of a JSON string its characters, of all else the document."""
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


def items(text: str) -> list[str | None] | None:
    """Return the canonical text of each item of an array; None where the document is no array."""
    value = _read_once(text)
    return [write(item) for item in value] if isinstance(value, list) else None


@functools.cache
def parse_path(text: str) -> Path:
    """Return the names and item numbers of a path. Raises ValueError with the part that is wrong."""
    if not text.startswith("$"):
        raise ValueError(f"the path '{text}' does not begin with $")
    steps: list[str | int] = []
    place = 1
    while place < len(text):
        match = _STEP.match(text, place)
        if match is None:
            raise ValueError(
                f"the path '{text}' cannot be read at '{text[place:]}'; write it as $.name[0][\"any name\"]"
            )
        name = match["name"] if match["name"] is not None else match["text"]
        steps.append(int(match["item"]) if match["item"] is not None else name)
        place = match.end()
    return tuple(steps)
