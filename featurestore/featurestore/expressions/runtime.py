"""What compiled expressions call at run time, over values that are not null. A result may be None (null).

The Polars lowering calls the same functions, value by value, wherever its own implementation would differ.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any

from featurestore import json_documents
from featurestore.instants import ALWAYS, DAY, LAST, format_instant, parse_instant
from featurestore.types import DataType

EPOCH_DAY = date(1970, 1, 1).toordinal()
FIRST_DATE, LAST_DATE = ALWAYS // DAY, LAST // DAY
INTEGER_TEXT = r"^[+-]?[0-9]+$"
UNSIGNED_TEXT = r"^\+?[0-9]+$"
FLOAT_TEXT = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))$"
FAR = 2**40  # beyond every position in a text
TRIMMED = " \t\n\r\f\v"

_INTEGER, _UNSIGNED, _FLOAT = (
    re.compile(text[1:-1], re.ASCII) for text in (INTEGER_TEXT, UNSIGNED_TEXT, FLOAT_TEXT)
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_WORDS = re.compile(r"\w+")
DEGREE = math.pi / 180
_HALF_DEGREE = math.pi / 360
_WIDE = Context(prec=400, rounding=ROUND_HALF_EVEN)
_WHOLE = 2.0**52


class Overflow(ArithmeticError):
    """A number that the result's type cannot hold: the row is rejected."""


def overflow() -> Any:
    """Raise Overflow; an expression, so that generated code can."""
    raise Overflow


def ln(x: float) -> float | None:
    """Return the natural logarithm; null for x <= 0."""
    return None if x <= 0 else math.log(x)


def log10(x: float) -> float | None:
    """Return the logarithm to base 10; null for x <= 0."""
    return None if x <= 0 else math.log10(x)


def log2(x: float) -> float | None:
    """Return the logarithm to base 2; null for x <= 0."""
    return None if x <= 0 else math.log2(x)


def exp(x: float) -> float:
    """Return e to the power x; inf where it is too large."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def sqrt(x: float) -> float | None:
    """Return the square root; null for x < 0."""
    return None if x < 0 else math.sqrt(x)


def power(x: float, y: float) -> float | None:
    """Return x to the power y; null for 0 to a negative power and a negative to a fractional power."""
    if x == 0:
        if y < 0:
            return None
    elif x < 0 and math.isfinite(y) and y != math.floor(y):
        return None
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and math.fmod(y, 2) != 0 else math.inf


def remainder(x: float, y: float) -> float | None:
    """Return x - y * trunc(x / y), exactly; null for y = 0, NaN for infinite x."""
    if y == 0:
        return None
    return math.fmod(x, y) if math.isfinite(x) else math.nan


def whole_remainder(x: int, y: int) -> int | None:
    """Return the remainder with the sign of x; null for y = 0."""
    if y == 0:
        return None
    rest = abs(x) % abs(y)
    return -rest if x < 0 else rest


def floor(x: float) -> float:
    """Return the greatest whole number at or below x."""
    return float(math.floor(x)) if -_WHOLE < x < _WHOLE else x


def ceil(x: float) -> float:
    """Return the least whole number at or above x."""
    return float(math.ceil(x)) if -_WHOLE < x < _WHOLE else x


def round_half_even(x: float, scale: float) -> float:
    """Return x * scale rounded half to even, over scale; x itself where that is too large."""
    scaled = x * scale
    return round(scaled) / scale if -_WHOLE < scaled < _WHOLE else x


def sign(x: float) -> float:
    """Return -1.0, 0.0 or 1.0; NaN of NaN."""
    return x if x != x else float((x > 0) - (x < 0))


def absolute(x: int) -> int:
    """Return |x|."""
    return abs(x)


def substring(text: str, start: int, length: int = 4 * FAR) -> str:
    """Return `length` code points from the 1-based `start`; positions before 1 count and are empty."""
    begin = min(max(start, -FAR), FAR) - 1
    end = begin + min(max(length, 0), 4 * FAR)
    return text[max(begin, 0) : max(end, 0)]


def float32(x: float) -> float:
    """Return the nearest float32; too large becomes inf."""
    return ctypes.c_float(x).value


def float_to_integer(x: float) -> int | None:
    """Return x rounded half to even; null of NaN. Raises Overflow for an infinity."""
    if x != x:
        return None
    if math.isinf(x):
        raise Overflow
    return round(x)


def text_to_integer(text: str, low: int, high: int) -> int | None:
    """Return the integer that `text` spells, null where it spells none between the bounds."""
    if not (_INTEGER if low < 0 else _UNSIGNED).fullmatch(text) or len(text.lstrip("+-0")) > 20:
        return None
    value = int(text)
    return value if low <= value <= high else None


def text_to_float(text: str) -> float | None:
    """Return the float that `text` spells, `inf` and `nan` included; null where it spells none."""
    return float(text) if _FLOAT.fullmatch(text) else None


def text_to_date(text: str) -> int | None:
    """Return days since 1970 of `2026-11-21`; null for anything else."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text).toordinal() - EPOCH_DAY
    except ValueError:
        return None


def text_to_timestamp(text: str) -> int | None:
    """Return microseconds of ISO 8601 text with a zone; null for anything else, naive text included."""
    try:
        instant = parse_instant(text)
    except (ValueError, OverflowError):
        return None
    return instant if ALWAYS <= instant <= LAST else None


def date_to_text(days: int) -> str | None:
    """Return `2026-11-21`; null outside the years 1 to 9999."""
    if not FIRST_DATE <= days <= LAST_DATE:
        return None
    return date.fromordinal(days + EPOCH_DAY).isoformat()


def timestamp_to_text(instant: int) -> str | None:
    """Return `2026-11-21T10:00:00.000000Z`; null outside the years 1 to 9999."""
    return format_instant(instant) if ALWAYS <= instant <= LAST else None


def date_to_timestamp(days: int) -> int | None:
    """Return midnight UTC of the day; null outside the years 1 to 9999."""
    return days * DAY if FIRST_DATE <= days <= LAST_DATE else None


def to_decimal(value: Decimal, precision: int, scale: int) -> Decimal:
    """Return `value` at `scale`, half to even. Raises Overflow past the precision."""
    with localcontext(_WIDE):
        fitted = value.quantize(Decimal((0, (1,), -scale)))
        if fitted and fitted.adjusted() + scale >= precision:
            raise Overflow
        return fitted if fitted else abs(fitted)


def float_to_decimal(x: float, precision: int, scale: int) -> Decimal | None:
    """Return the float's exact value at `scale`; null of NaN. Raises Overflow where it does not fit."""
    if x != x:
        return None
    if math.isinf(x) or abs(x) >= 1e39:
        raise Overflow
    with localcontext(_WIDE):
        return to_decimal(Decimal(x), precision, scale)


def text_to_decimal(text: str, precision: int, scale: int) -> Decimal | None:
    """Return the decimal that `text` spells at `scale`; null where it spells none that fits."""
    if not _DECIMAL.fullmatch(text) or len(text) > 100:
        return None
    value = Decimal(text)
    if value and value.adjusted() > 40:
        return None
    try:
        return to_decimal(value if value.adjusted() > -80 else Decimal(0), precision, scale)
    except Overflow:
        return None


def decimal_to_integer(value: Decimal) -> int:
    """Return the value rounded half to even."""
    return int(value.to_integral_value(ROUND_HALF_EVEN))


def decimal_to_text(value: Decimal, scale: int) -> str:
    """Return the value with all digits of its scale."""
    return f"{value:.{scale}f}"


def to_text(value: Any, kind: DataType) -> str:
    """Return the text of a value that is not null, as `cast(… as string)` does."""
    makers: dict[str, Callable[[Any], str | None]] = {"timestamp": timestamp_to_text, "date": date_to_text}
    if kind.name == "decimal":
        return decimal_to_text(value, kind.scale)
    if kind.name == "bool":
        return "true" if value else "false"
    text = makers.get(kind.name, repr)(value)
    return repr(value) if text is None else text


def within(value: int | None, low: int, high: int) -> int | None:
    """Return the value, which lies between the bounds. Raises Overflow otherwise."""
    if value is not None and not low <= value <= high:
        raise Overflow
    return value


def text_to_float32(text: str) -> float | None:
    """Return the float32 nearest to the float64 that `text` spells; null where it spells none."""
    value = text_to_float(text)
    return None if value is None else float32(value)


def least(first: float, *others: float) -> float:
    """Return the least, NaN being greater than every other number; of equals the first."""
    for other in others:
        if other < first or (first != first and other == other):
            first = other
    return first


def greatest(first: float, *others: float) -> float:
    """Return the greatest, NaN being greater than every other number; of equals the first."""
    for other in others:
        if first < other or (other != other and first == first):
            first = other
    return first


def text_to_json(text: str) -> str | None:
    """Return the canonical text of the document that `text` is; null where it is none, or is `null`."""
    return json_documents.or_null(text)


def json_content(text: str) -> str:
    """Return the characters of a JSON string; of all else the canonical text."""
    return json_documents.content(text)


def json_items(text: str, item: Callable[[str], Any] | None = None) -> list[Any] | None:
    """Return the items of a JSON array, each by `item`; null where the document is no array."""
    found = json_documents.items(text)
    if found is None or item is None:
        return found
    return [None if value is None else item(value) for value in found]


def json_extract(text: str, path: json_documents.Path) -> str | None:
    """Return the document at the path of a document; null where nothing is."""
    return json_documents.extract(text, path)


def tokens(text: str) -> list[str]:
    """Return the words of a text: its longest runs of letters, digits and underscores."""
    return _WORDS.findall(text)


def split(text: str, separator: str) -> list[str]:
    """Return the parts between separators; of an empty text none."""
    return text.split(separator) if text else []


def haversine(diameter: float, lat_1: float, lon_1: float, lat_2: float, lon_2: float) -> float | None:
    """Return the distance of two points on a sphere, in the diameter's unit; null where one is no point."""
    if not (-90 <= lat_1 <= 90 and -90 <= lat_2 <= 90 and -360 <= lon_1 <= 360 and -360 <= lon_2 <= 360):
        return None
    north = math.sin((lat_2 - lat_1) * _HALF_DEGREE)
    east = math.sin((lon_2 - lon_1) * _HALF_DEGREE)
    height = north * north + math.cos(lat_1 * DEGREE) * math.cos(lat_2 * DEGREE) * (east * east)
    return diameter * math.asin(min(math.sqrt(height), 1.0))
