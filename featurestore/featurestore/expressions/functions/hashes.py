"""Stable hashes of typed values: `featurestore.rows.identity` defines them, for ever.

The hash of values is a row's: it starts as SEED and each value, in the order written, changes it to
`mix(hash ^ word(value))`. So 1 as int64 and as int8 have one hash, and "1" another; -0.0 is 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import NULL, Call, Expression
from featurestore.expressions.rules import RuleError, Signature, need_literal
from featurestore.types import INT64, STRING

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer


def _hash_rule(arguments: tuple[Expression, ...]) -> Signature:
    return [STRING if argument.type == NULL else argument.type for argument in arguments], INT64


def _bucket_rule(arguments: tuple[Expression, ...]) -> Signature:
    buckets = need_literal(arguments[0], "the number of buckets")
    if not (buckets.type.is_integer and 1 <= buckets.value < 2**63):
        raise RuleError(f"needs a number of buckets of at least 1, found {buckets.sql}")
    return [INT64, *_hash_rule(arguments[1:])[0]], INT64


def _hasher(hashed: Sequence[Expression]) -> Callable[..., int]:
    """Return the unsigned hash of values of these types."""
    from featurestore.rows.identity import SEED, fold

    kinds = [argument.type for argument in hashed]
    return lambda *values: fold(SEED, values, kinds)


def _hash_python(writer: Writer, call: Call, *values: str) -> str:
    return f"signed({writer.constant(_hasher(call.arguments))}({', '.join(values)}))"


def _bucket_python(writer: Writer, call: Call, buckets: str, *values: str) -> str:
    return f"{writer.constant(_hasher(call.arguments[1:]))}({', '.join(values)}) % {buckets}"


def _hashes(hashed: Sequence[Expression], columns: Sequence[pl.Expr], buckets: int | None) -> pl.Expr:
    import polars as pl

    from featurestore.types import Field

    fields = [Field(f"{place:09}", argument.type) for place, argument in enumerate(hashed)]

    def run(batch: Sequence[pl.Series]) -> pl.Series:
        from featurestore.rows import hashing

        height = max(map(len, batch)) if all(map(len, batch)) else 0
        frame = pl.DataFrame(
            (series if len(series) == height else series.new_from_index(0, height)).alias(field.name)
            for series, field in zip(batch, fields, strict=True)
        )
        result: Any = hashing.row_hash(frame, fields)
        if buckets is not None:
            result = pl.Series((result.to_numpy().view("u8") % buckets).astype("i8"))
        missing = frame.select(pl.any_horizontal(pl.all().is_null())).to_series()
        return result.set(missing, None) if missing.any() else result  # type: ignore[no-any-return]

    return pl.map_batches(list(columns), run, return_dtype=pl.Int64, is_elementwise=True)


def _hash_polars(call: Call, *columns: pl.Expr) -> pl.Expr:
    return _hashes(call.arguments, columns, None)


def _bucket_polars(call: Call, _: pl.Expr, *columns: pl.Expr) -> pl.Expr:
    buckets = need_literal(call.arguments[0], "the number of buckets").value
    return _hashes(call.arguments[1:], columns, buckets)


FUNCTIONS = (
    Function(
        "hash",
        "hash(a, …)",
        "A 64-bit hash of the typed values in this order, the same for ever and on every machine;"
        " null where any is null.",
        (
            Example("hash(x)", {"x": "es_food"}, 6658666965237503111),
            Example("hash(x)", {"x": 1}, -1311504238626458080),
        ),
        _hash_rule,
        (1, None),
        _hash_python,
        _hash_polars,
    ),
    Function(
        "hash_bucket",
        "hash_bucket(buckets, a, …)",
        "The hash of the values, read as unsigned, modulo the number of buckets: 0 to buckets - 1;"
        " null where any is null.",
        (
            Example("hash_bucket(100, x)", {"x": "es_food"}, 11),
            Example("hash_bucket(100, x, y)", {"x": "a", "y": 1}, 2),
        ),
        _bucket_rule,
        (2, None),
        _bucket_python,
        _bucket_polars,
    ),
)
