"""Columns as read to columns as declared, strictly: what does not cast without loss is named, never bent.

| declared | taken from |
|---|---|
| integers | integers in range; floats and decimals without a fraction (NaN is null); text of digits |
| floats | floats, to the nearest; integers that the float holds exactly; decimals and text, to the nearest |
| decimal | decimals, integers, text and floats (by their shortest digits) that need no more places |
| bool | bool; the integers 0 and 1; text: true, false, t, f, 1, 0 in any case |
| string | text, categories |
| binary | bytes; text as base64 |
| date | dates; timestamps at midnight (UTC or without a zone); text of either |
| timestamp | timestamps of any unit, floored; text (`featurestore.rows.iso`); dates, as local midnight |
| list | lists, item by item |
| vector | lists of exactly so many numbers, none of them null |
| json | text of one document, canonical from here on; structs and lists; `null` is null |

Blank text is null, except where text is declared. Timestamps and dates without a zone are local times of
the source's `timezone:`; without one they are refused. Integers are no timestamps, for some count seconds
and some nanoseconds, unless the half's `options: {epoch: s|ms|us|ns}` says which. -0.0 becomes 0.0.

A whole column of another kind is the author's error (SpecError); a value that does not fit is the row's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from featurestore import json_documents
from featurestore.errors import SpecError
from featurestore.instants import ALWAYS, DAY, LAST, SECOND
from featurestore.rows import iso, nulls, zones
from featurestore.rows.hashing import text_buffers
from featurestore.rows.nulls import filled
from featurestore.types import DataType

Mask: TypeAlias = npt.NDArray[np.bool_]

BAD_VALUE = "bad_value"
NAIVE = "naive_timestamp"

_EPOCHS = {"s": SECOND, "ms": 1000, "us": 1, "ns": -1000}  # negative: so many to a microsecond
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")
_EXACT_INTEGERS = {"float32": 24, "float64": 53}


@dataclass(frozen=True)
class Context:
    """What casting needs to know of the source: for messages, and for times."""

    source: str
    timezone: str | None = None
    epoch: str | None = None

    def __post_init__(self) -> None:
        if self.epoch is not None and self.epoch not in _EPOCHS:
            raise SpecError(
                f"options: epoch: '{self.epoch}' is no unit.",
                where=f"source '{self.source}'",
                hint=f"Use one of {', '.join(_EPOCHS)}.",
            )


@dataclass(frozen=True)
class Cast:
    """A typed column; per reason code where a value did not fit (null there); what was counted."""

    values: pl.Series
    bad: dict[str, Mask] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def cast(series: pl.Series, kind: DataType, context: Context) -> Cast:
    """Return `series` as the declared type. Raises SpecError where no value of its kind could fit."""
    if isinstance(series.dtype, (pl.Categorical, pl.Enum)):
        series = series.cast(pl.String)
    if series.dtype == pl.Null or series.null_count() == len(series):
        return Cast(pl.Series(series.name, [None], dtype=kind.polars()).new_from_index(0, len(series)))
    if (
        series.dtype == kind.polars()
        and not kind.is_float
        and kind.name not in ("timestamp", "list", "vector", "json")
    ):
        return Cast(series)
    if series.dtype == pl.String and kind.name not in ("string", "binary"):
        if _may_be_padded(series):
            text = series.str.strip_chars()
            series = text.set(text.str.len_bytes() == 0, None)
        if series.null_count() == len(series):
            return cast(series, kind, context)
    name = "integer" if kind.is_integer else "float" if kind.is_float else kind.name
    return _CASTS[name](series, kind, context)


def _may_be_padded(series: pl.Series) -> bool:
    """Tell whether some text may have space around it, or nothing else: all that is ASCII tells no."""
    offsets, data = text_buffers(series)
    begins, ends = offsets[:-1], offsets[1:]
    if series.null_count():
        there = series.is_not_null().to_numpy()
        begins, ends = begins[there], ends[there]
    if (begins == ends).any():
        return True
    edges = np.concatenate([data[begins], data[ends - 1]])
    return bool(((edges <= ord(" ")) | (edges >= 0x80)).any())


def _mismatch(series: pl.Series, kind: DataType, context: Context, hint: str | None = None) -> SpecError:
    return SpecError(
        f"column '{series.name}' is {_say(series.dtype)} in the input and {kind} in the schema.",
        where=f"source '{context.source}'",
        hint=hint or "Declare the type that the data has, or convert the data.",
    )


def _say(dtype: pl.DataType) -> str:
    return str(dtype).lower()


def _checked(before: pl.Series, after: pl.Series, code: str = BAD_VALUE) -> Cast:
    """Return `after`, where a value that became null is bad."""
    if after.null_count() == before.null_count():
        return Cast(after)
    return Cast(after, {code: (after.is_null() & before.is_not_null()).to_numpy()})


def _true(condition: pl.Series) -> pl.Series:
    return filled(condition, False)


def _integer(series: pl.Series, kind: DataType, context: Context) -> Cast:
    wanted = kind.polars()
    if series.dtype.is_integer():
        return _checked(series, series.cast(wanted, strict=False))
    if series.dtype.is_float():
        present = series.cast(pl.Float64)
        present = present.set(_true(present.is_nan()), None)
        whole = present.set(_true(present != present.floor()), None)
        return _checked(present, whole.cast(wanted, strict=False))
    if series.dtype.is_decimal():
        out = series.cast(wanted, strict=False)
        return _checked(series, out.set(_true(out.cast(series.dtype, strict=False) != series), None))
    if series.dtype == pl.String:
        digits = series.str.strip_suffix(".0") if series.str.ends_with(".0").any() else series
        return _checked(series, digits.cast(wanted, strict=False))
    raise _mismatch(series, kind, context)


def _float(series: pl.Series, kind: DataType, context: Context) -> Cast:
    wanted = kind.polars()
    if series.dtype.is_float():
        out = series.cast(wanted)
        if kind.name == "float32" and series.dtype == pl.Float64:
            out = out.set(_true(out.is_infinite() & series.is_finite()), None)
    elif series.dtype.is_integer():
        out = series.cast(wanted)
        if series.dtype.to_python() is int and _bits(series.dtype) > _EXACT_INTEGERS[kind.name]:
            out = out.set(_true(out.cast(series.dtype, strict=False).ne_missing(series)), None)
    elif series.dtype.is_decimal():
        out = series.cast(wanted, strict=False)
    elif series.dtype == pl.String:
        doubles = series.cast(pl.Float64, strict=False)
        if _true(doubles.is_infinite()).any():  # digits past the largest float, not the word
            doubles = doubles.set(_true(doubles.is_infinite() & series.str.contains("[0-9]")), None)
        cast_ = _float(doubles, kind, context)
        return _checked(series, cast_.values)
    else:
        raise _mismatch(series, kind, context)
    checked = _checked(series, out)
    return replace(checked, values=_positive_zeros(checked.values))


def _bits(dtype: pl.DataType) -> int:
    return int(str(dtype).lower().lstrip("uint"))


def _positive_zeros(series: pl.Series) -> pl.Series:
    """Return the floats with 0.0 for -0.0; Polars itself takes adding 0.0 for nothing to do."""
    zeros = _true(series == 0.0)
    if not zeros.any() or not np.signbit(series.filter(zeros).to_numpy()).any():
        return series
    return series.set(zeros, 0.0)


def _decimal(series: pl.Series, kind: DataType, context: Context) -> Cast:
    wanted = kind.polars()
    if series.dtype.is_integer():
        return _checked(series, series.cast(wanted, strict=False))
    if series.dtype.is_decimal():
        out = series.cast(wanted, strict=False)
        kept = out.cast(pl.Decimal(38, max(series.dtype.scale, kind.scale)), strict=False)  # type: ignore[attr-defined]
        return _checked(series, out.set(_true(kept != series), None))
    if series.dtype.is_float():
        present = series.set(_true(series.is_nan()), None)
        texts: list[str | None] = [None if value is None else repr(value) for value in present.to_list()]
        series = present
    elif series.dtype == pl.String:
        texts = series.to_list()
    else:
        raise _mismatch(series, kind, context)
    values = [None if text is None else _decimal_of(text, kind) for text in texts]
    return _checked(series, pl.Series(series.name, values, dtype=wanted))


def _decimal_of(text: str, kind: DataType) -> Decimal | None:
    """Return the decimal that a text says where it fits the type, else None."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or "_" in text:
        return None
    significant = len(digits)
    while significant and not digits[significant - 1]:
        significant -= 1
    if not significant:
        return Decimal(0)
    places = -exponent - (len(digits) - significant)
    fits = places <= kind.scale and len(digits) + exponent <= kind.precision - kind.scale
    return value if fits else None


def _bool(series: pl.Series, kind: DataType, context: Context) -> Cast:
    if series.dtype.is_integer():
        out = (series == 1).set(_true((series != 0) & (series != 1)), None)
        return _checked(series, out)
    if series.dtype == pl.String:
        lower = series.str.to_lowercase()
        known = lower.is_in(_TRUE + _FALSE)
        return _checked(series, lower.is_in(_TRUE).set(_true(~known), None))
    raise _mismatch(series, kind, context)


def _string(series: pl.Series, kind: DataType, context: Context) -> Cast:
    if series.dtype == pl.Binary:
        return _checked(series, series.cast(pl.String, strict=False))
    hint = "Declare the type that the data has; a number is not the text of its digits."
    raise _mismatch(series, kind, context, hint)


def _binary(series: pl.Series, kind: DataType, context: Context) -> Cast:
    if series.dtype == pl.String:
        return _checked(series, series.str.decode("base64", strict=False))
    raise _mismatch(series, kind, context)


def _date(series: pl.Series, kind: DataType, context: Context) -> Cast:
    if series.dtype == pl.String:
        times = iso.parse(series)
        days, rest = np.divmod(times.micros, DAY)
        return _as_dates(series, days, times.is_time & (rest == 0))
    if isinstance(series.dtype, pl.Datetime):
        micros, inside = _micros(series)
        days, rest = np.divmod(micros, DAY)
        return _as_dates(series, days, inside & (rest == 0))
    raise _mismatch(series, kind, context)


def _as_dates(series: pl.Series, days: npt.NDArray[np.int64], good: Mask) -> Cast:
    present = nulls.present(series)
    out = pl.Series(series.name, days.astype(np.int32)).cast(pl.Date)
    return _checked(series, out.set(pl.Series(~(good & present)), None))


def _timestamp(series: pl.Series, kind: DataType, context: Context) -> Cast:
    present = nulls.present(series)
    if series.dtype == pl.String:
        times = iso.parse(series)
        micros, good, naive = times.micros, times.is_time, present & times.is_time & ~times.has_zone
    elif isinstance(series.dtype, pl.Datetime):
        if series.dtype == kind.polars() and _all_inside(series):
            return Cast(series)
        micros, good = _micros(series)
        naive = present if series.dtype.time_zone is None else ~present & False
    elif series.dtype == pl.Date:
        micros, good, naive = (
            series.to_physical().cast(pl.Int64).fill_null(0).to_numpy() * DAY,
            present,
            present,
        )
    elif series.dtype.is_integer() and context.epoch is not None:
        micros, good = _scaled(series.cast(pl.Int64, strict=False), _EPOCHS[context.epoch])
        naive = ~present & False
    elif series.dtype.is_integer():
        raise _mismatch(
            series, kind, context, "Say what the integers count since 1970: options: {epoch: s|ms|us|ns}."
        )
    else:
        raise _mismatch(series, kind, context)
    bad: dict[str, Mask] = {}
    counts: dict[str, int] = {}
    if naive.any():
        if context.timezone is not None:
            local = zones.to_utc(micros[naive], context.timezone)
            micros = micros.copy()
            micros[naive] = local.utc
            counts = {
                "ambiguous_local_time": int(local.ambiguous.sum()),
                "nonexistent_local_time": int(local.missing.sum()),
            }
        elif series.dtype == pl.String:
            bad[NAIVE] = naive
        else:
            raise SpecError(
                f"column '{series.name}' has times without a zone.",
                where=f"source '{context.source}'",
                hint="Say which clock they show, as timezone: Europe/London.",
            )
    good = good & (micros >= ALWAYS) & (micros <= LAST)
    if (present & ~good).any():
        bad[BAD_VALUE] = present & ~good
    out = pl.Series(series.name, np.where(good, micros, 0)).cast(kind.polars())
    lost = ~good | bad.get(NAIVE, ~present)
    return Cast(out.set(pl.Series(lost), None) if lost.any() else out, bad, counts)


def _all_inside(series: pl.Series) -> bool:
    physical = series.to_physical()
    low, high = physical.min(), physical.max()
    return isinstance(low, int) and isinstance(high, int) and low >= ALWAYS and high <= LAST


def _micros(series: pl.Series) -> tuple[npt.NDArray[np.int64], Mask]:
    """Return microseconds of a Datetime column, floored, and which values are present and fit."""
    assert isinstance(series.dtype, pl.Datetime)
    return _scaled(series.to_physical(), _EPOCHS[series.dtype.time_unit])


def _scaled(series: pl.Series, unit: int) -> tuple[npt.NDArray[np.int64], Mask]:
    present = nulls.present(series)
    whole = series.fill_null(0).to_numpy()
    if unit < 0:
        return whole // -unit, present
    inside = (whole >= ALWAYS // unit) & (whole <= LAST // unit)
    return np.where(inside, whole, 0) * unit, present & inside


def _list(series: pl.Series, kind: DataType, context: Context) -> Cast:
    assert kind.item is not None
    if not isinstance(series.dtype, pl.List):
        if isinstance(series.dtype, pl.Array):
            return _list(series.arr.to_list(), kind, context)
        raise _mismatch(series, kind, context)
    lengths = series.list.len()
    holding = _true(lengths > 0)
    items = series.filter(holding).explode().alias(series.name)
    inner = cast(items, kind.item, context)
    rows = np.repeat(np.arange(len(series)), lengths.fill_null(0).to_numpy())
    bad = {code: np.bincount(rows[mask], minlength=len(series)) > 0 for code, mask in inner.bad.items()}
    grouped = (
        pl.DataFrame({"row": rows, "item": inner.values}).group_by("row", maintain_order=True).agg("item")
    )["item"]
    empty = pl.Series(series.name, [[]], dtype=kind.polars()).new_from_index(0, len(series))
    out = empty
    if len(grouped):
        place = (holding.cum_sum().cast(pl.Int64) - 1).clip(lower_bound=0)
        out = grouped.gather(place).zip_with(holding, empty)
    lost = series.is_null()
    for mask in bad.values():
        lost = lost | pl.Series(mask)
    nothing = pl.Series(series.name, [None], dtype=kind.polars()).new_from_index(0, len(series))
    return Cast(nothing.zip_with(lost, out).alias(series.name), bad, inner.counts)


def _vector(series: pl.Series, kind: DataType, context: Context) -> Cast:
    assert kind.item is not None
    if not isinstance(series.dtype, (pl.List, pl.Array)):
        raise _mismatch(series, kind, context)
    if isinstance(series.dtype, pl.Array):
        if series.dtype.size != kind.size:
            raise _mismatch(series, kind, context)
        series = series.arr.to_list()
    done = _list(series, DataType("list", item=kind.item), context)
    misfit = (done.values.list.len() != kind.size) | done.values.list.eval(pl.element().is_null()).list.any()
    out = done.values.set(_true(misfit), None)
    return _checked(series, out.cast(kind.polars()))


def _json(series: pl.Series, kind: DataType, context: Context) -> Cast:
    if series.dtype == pl.String:
        read: Callable[[Any], str | None] = json_documents.canonical
    elif isinstance(series.dtype, (pl.Struct, pl.List, pl.Array)):
        read = json_documents.of_value
    else:
        raise _mismatch(series, kind, context)
    texts: list[str | None] = []
    bad: list[int] = []
    for place, value in enumerate(series.to_list()):
        try:
            texts.append(None if value is None else read(value))
        except ValueError:
            texts.append(None)
            bad.append(place)
    out = pl.Series(series.name, texts, dtype=pl.String)
    if not bad:
        return Cast(out)
    mask = np.zeros(len(series), np.bool_)
    mask[bad] = True
    return Cast(out, {BAD_VALUE: mask})


_CASTS: Mapping[str, Callable[[pl.Series, DataType, Context], Cast]] = {
    "integer": _integer,
    "float": _float,
    "decimal": _decimal,
    "bool": _bool,
    "string": _string,
    "binary": _binary,
    "date": _date,
    "timestamp": _timestamp,
    "list": _list,
    "vector": _vector,
    "json": _json,
}
