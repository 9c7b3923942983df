"""cast(x as type), and the widening that arithmetic and comparisons do by themselves.

Text that spells no value of the type is null, and so is NaN as an integer or a decimal. A number that
the integer or decimal type cannot hold is an overflow, which rejects the row. Casts to integers and to
a decimal's scale round half to even.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from featurestore.expressions import runtime
from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression
from featurestore.expressions.rules import RuleError, Signature
from featurestore.instants import DAY
from featurestore.types import JSON, STRING, DataType, integer_bounds

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer

Kinds = tuple[str, str]


def kind_of(kind: DataType) -> str:
    """Return integer, float, or the type's own name: what decides how it is cast."""
    return "integer" if kind.is_integer else "float" if kind.is_float else kind.name


def _decimal(call: Call) -> str:
    return f"{call.type.precision}, {call.type.scale}"


def _bounded(text: str, call: Call) -> str:
    low, high = integer_bounds(call.type)
    return f"within({text}, {low}, {high})"


def _narrow(text: str, call: Call) -> str:
    return f"float32({text})" if call.type.name == "float32" else text


_PYTHON: dict[Kinds, Callable[[str, Call], str]] = {
    ("integer", "integer"): lambda x, call: _bounded(x, call) if overflows(call) else x,
    ("integer", "float"): lambda x, call: _narrow(f"float({x})", call),
    ("integer", "bool"): lambda x, _: f"{x} != 0",
    ("integer", "string"): lambda x, _: f"str({x})",
    ("integer", "decimal"): lambda x, call: f"to_decimal(Decimal({x}), {_decimal(call)})",
    ("float", "integer"): lambda x, call: _bounded(f"float_to_integer({x})", call),
    ("float", "float"): _narrow,
    ("float", "string"): lambda x, _: f"repr({x} + 0.0)",
    ("float", "decimal"): lambda x, call: f"float_to_decimal({x}, {_decimal(call)})",
    ("bool", "integer"): lambda x, _: f"int({x})",
    ("bool", "float"): lambda x, _: f"float({x})",
    ("bool", "string"): lambda x, _: f"('true' if {x} else 'false')",
    ("string", "integer"): lambda x, call: (
        f"text_to_integer({x}, {', '.join(map(str, integer_bounds(call.type)))})"
    ),
    ("string", "float"): lambda x, call: f"text_to_{call.type.name.replace('64', '')}({x})",
    ("string", "bool"): lambda x, _: f"(True if {x} == 'true' else False if {x} == 'false' else None)",
    ("string", "date"): lambda x, _: f"text_to_date({x})",
    ("string", "timestamp"): lambda x, _: f"text_to_timestamp({x})",
    ("string", "decimal"): lambda x, call: f"text_to_decimal({x}, {_decimal(call)})",
    ("decimal", "integer"): lambda x, call: _bounded(f"decimal_to_integer({x})", call),
    ("decimal", "float"): lambda x, call: _narrow(f"float({x})", call),
    ("decimal", "string"): lambda x, call: f"decimal_to_text({x}, {call.arguments[0].type.scale})",
    ("decimal", "decimal"): lambda x, call: f"to_decimal({x}, {_decimal(call)})",
    ("date", "timestamp"): lambda x, _: f"date_to_timestamp({x})",
    ("date", "string"): lambda x, _: f"date_to_text({x})",
    ("timestamp", "date"): lambda x, _: f"{x} // {DAY}",
    ("timestamp", "string"): lambda x, _: f"timestamp_to_text({x})",
    ("string", "json"): lambda x, _: f"text_to_json({x})",
    ("json", "string"): lambda x, _: f"json_content({x})",
    ("json", "list"): lambda x, _: f"json_items({x})",
}


def overflows(call: Call) -> bool:
    """Return whether the type may be unable to hold the number."""
    source, target = call.arguments[0].type, call.type
    if not (source.is_number and (target.is_integer or target.name == "decimal")) or source == target:
        return False
    if source.is_integer and target.is_integer:
        (low, high), (floor, ceiling) = integer_bounds(source), integer_bounds(target)
        return low < floor or high > ceiling
    if source.is_integer:
        return bool(max(map(abs, integer_bounds(source))) >= 10 ** (target.precision - target.scale))
    return True


def _python(writer: Writer, call: Call, x: str) -> str:
    source, target = call.arguments[0].type, call.type
    if source == target:
        return x
    if source == JSON and target.name == "list" and target.item is not None and target.item != JSON:
        return f"json_items({x}, {writer.constant(_item(target.item))})"
    return _PYTHON[kind_of(source), kind_of(target)](x, call)


def _item(kind: DataType) -> Callable[[str], object]:
    """Return the function from a JSON item to a value of a type."""
    from featurestore.expressions.build import cast
    from featurestore.expressions.nodes import Column
    from featurestore.expressions.to_closure import compile_value

    return compile_value(cast(Column(JSON, "x"), kind), ("x",))


def _scalar(call: Call, x: pl.Expr) -> pl.Expr:
    """Return the cast done by the closure, value by value."""
    from featurestore.expressions.nodes import Column
    from featurestore.expressions.to_closure import compile_value
    from featurestore.expressions.vectors import values

    column = Column(call.arguments[0].type, "x")
    return values(compile_value(Call(call.type, "cast", (column,)), ("x",)), call.type, x)


def _to_float(call: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return x.cast(pl.Float64).cast(call.type.polars())


def _float_to_integer(call: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return x.cast(pl.Float64).round(0, mode="half_to_even").cast(call.type.polars(), strict=False)


def _text_to_integer(call: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    form = runtime.UNSIGNED_TEXT if call.type.name[0] == "u" else runtime.INTEGER_TEXT
    whole = pl.when(x.str.contains(_whole(form))).then(x)
    return whole.cast(call.type.polars(), strict=False)


def _whole(form: str) -> str:
    return rf"\A{form[1:-1]}\z"


def _text_to_float(call: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    spelled = pl.when(x.str.contains(_whole(runtime.FLOAT_TEXT))).then(x)
    return spelled.cast(pl.Float64, strict=False).cast(call.type.polars())


def _text_to_bool(_: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(x == "true").then(True).when(x == "false").then(False)


def _plain(call: Call, x: pl.Expr) -> pl.Expr:
    return x.cast(call.type.polars(), strict=False)


def _decimal_to_float(call: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return x.cast(pl.String).cast(pl.Float64).cast(call.type.polars())


def _timestamp_to_date(_: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return (x.cast(pl.Int64) // DAY).cast(pl.Int32).cast(pl.Date)


def _bool_to_string(_: Call, x: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(x).then(pl.lit("true")).when(~x).then(pl.lit("false"))


_POLARS: dict[Kinds, Callable[..., pl.Expr]] = {
    ("integer", "integer"): _plain,
    ("integer", "float"): _to_float,
    ("integer", "bool"): lambda _, x: x != 0,
    ("integer", "string"): _plain,
    ("float", "integer"): _float_to_integer,
    ("float", "float"): _to_float,
    ("bool", "integer"): _plain,
    ("bool", "float"): _plain,
    ("bool", "string"): _bool_to_string,
    ("string", "integer"): _text_to_integer,
    ("string", "float"): _text_to_float,
    ("string", "bool"): _text_to_bool,
    ("decimal", "float"): _decimal_to_float,
    ("timestamp", "date"): _timestamp_to_date,
}


def _polars(call: Call, x: pl.Expr) -> pl.Expr:
    source, target = call.arguments[0].type, call.type
    if source == target:
        return x
    return _POLARS.get((kind_of(source), kind_of(target)), _scalar)(call, x)


def castable(source: DataType, target: DataType) -> bool:
    """Return whether values of one type can be cast to another. JSON is cast by way of its text."""
    if source == JSON and target != JSON:
        if target.name == "list" and target.item is not None:
            return castable(JSON, target.item)
        return castable(STRING, target)
    return source == target or (kind_of(source), kind_of(target)) in _PYTHON


def _widen_rule(_: tuple[Expression, ...]) -> Signature:
    raise RuleError("widening is implied and never written")


def _cast_rule(_: tuple[Expression, ...]) -> Signature:
    raise RuleError("a cast is written cast(x as type)")


def _same_or_to_float(call: Call) -> str:
    return call.arguments[0].sql


FUNCTIONS = (
    Function(
        "cast",
        "cast(x as type)",
        "x as another type; null where text spells none, half to even to integers, overflow rejects the row."
        " JSON becomes what its text spells, an array a list; what is malformed or no array is null.",
        (
            Example("cast(x as int64)", {"x": 2.5}, 2),
            Example("cast(x as int64)", {"x": "12a"}, None),
            Example("cast(x as date)", {"x": "2026-11-21"}, date(2026, 11, 21)),
            Example("cast(x as string)", {"x": 1}, "1"),
            Example("cast(cast(x as json) as list<int64>)", {"x": '[1, "2", "b"]'}, [1, 2, None]),
        ),
        _cast_rule,
        (1, 1),
        _python,
        _polars,
        gives_null=True,
        overflows=overflows,
        text=lambda call: f"cast({call.arguments[0].sql} as {call.type})",
    ),
    Function(
        "widen",
        "",
        "What arithmetic and comparisons do to numbers of different types.",
        (),
        _widen_rule,
        (1, 1),
        _python,
        _polars,
        overflows=overflows,
        text=_same_or_to_float,
        is_internal=True,
    ),
)
