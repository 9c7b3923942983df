"""Parts of timestamps and dates. Null outside the years 1 to 9999."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from featurestore.errors import did_you_mean
from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import RuleError, Signature, need, need_literal
from featurestore.expressions.runtime import EPOCH_DAY, FIRST_DATE, LAST_DATE
from featurestore.expressions.zones import zone
from featurestore.instants import ALWAYS, DAY, HOUR, LAST, MINUTE, SECOND
from featurestore.types import BOOL, FLOAT64, INT64, STRING, TIMESTAMP

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer


def _day_of(local: int) -> date:
    return date.fromordinal(local // DAY + EPOCH_DAY)


_CLOCK: dict[str, Callable[[Any], Any]] = {
    "hour": lambda local: local // HOUR % 24,
    "minute": lambda local: local // MINUTE % 60,
    "second": lambda local: local // SECOND % 60,
    "day_of_week": lambda local: (local // DAY + 3) % 7,
    "is_weekend": lambda local: (local // DAY + 3) % 7 >= 5,
}
_CALENDAR: dict[str, Callable[[int], int]] = {
    "day": lambda local: _day_of(local).day,
    "week": lambda local: _day_of(local).isocalendar()[1],
    "month": lambda local: _day_of(local).month,
    "quarter": lambda local: (_day_of(local).month + 2) // 3,
    "year": lambda local: _day_of(local).year,
}
_OF_TIME = ("hour", "minute", "second")


def part_of(name: str) -> Callable[[int], int | bool | None]:
    """Return the function of a local time in microseconds that gives its part."""
    function = (_CLOCK | _CALENDAR)[name]

    def part(local: int) -> int | bool | None:
        return function(local) if ALWAYS <= local <= LAST else None

    return part


def _rule(name: str) -> Callable[[tuple[Expression, ...]], Signature]:
    def rule(arguments: tuple[Expression, ...]) -> Signature:
        kind = arguments[0].type
        taken = ("timestamp",) if name in _OF_TIME else ("timestamp", "date")
        need(arguments[0], f"a {' or '.join(taken)}", kind.name in taken)
        if len(arguments) == 2:
            if kind.name == "date":
                raise RuleError("a date has no time zone")
            name_of_zone = need_literal(arguments[1], "the time zone").value
            try:
                zone(str(name_of_zone))
            except ValueError as error:
                from zoneinfo import available_timezones

                raise RuleError(
                    f"{error}. {did_you_mean(str(name_of_zone), available_timezones())}"
                ) from None
        result = BOOL if name == "is_weekend" else INT64
        return ([kind if kind.name in taken else TIMESTAMP, STRING][: len(arguments)]), result

    return rule


def _zone(call: Call) -> str | None:
    if len(call.arguments) == 1:
        return None
    assert isinstance(call.arguments[1], Literal)
    name: str = call.arguments[1].value
    return name


def _python(name: str) -> Callable[..., str]:
    function = part_of(name)

    def python(writer: Writer, call: Call, x: str, *_: str) -> str:
        part = writer.constant(function)
        if call.arguments[0].type.name == "date":
            return f"{part}({x} * {DAY})"
        name_of_zone = _zone(call)
        return f"{part}({writer.constant(zone(name_of_zone).local)}({x}))" if name_of_zone else f"{part}({x})"

    return python


def _polars(name: str) -> Callable[..., pl.Expr]:
    def lower(call: Call, x: pl.Expr, *_: pl.Expr) -> pl.Expr:
        import polars as pl

        local = x.cast(pl.Int64)
        if call.arguments[0].type.name == "date":
            local = pl.when(local.is_between(FIRST_DATE, LAST_DATE)).then(local) * DAY
        elif name_of_zone := _zone(call):
            local = local.map_batches(_local(name_of_zone), return_dtype=pl.Int64, is_elementwise=True)
        local = pl.when(local.is_between(ALWAYS, LAST)).then(local)
        if name in _CLOCK:
            return _CLOCK[name](local)  # type: ignore[no-any-return]
        calendar: pl.Expr = getattr(local.cast(pl.Datetime("us")).dt, name)()
        return calendar.cast(pl.Int64)

    return lower


def _local(name: str) -> Callable[[pl.Series], pl.Series]:
    def run(series: pl.Series) -> pl.Series:
        import polars as pl

        local = pl.Series(zone(name).local_array(series.fill_null(0).to_numpy()))
        return local.set(series.is_null(), None)

    return run


def _part(name: str, doc: str, gives: int | bool) -> Function:
    instant = datetime(2026, 11, 21, 22, 30, 15, tzinfo=UTC)
    return Function(
        name,
        f"{name}(time[, zone])",
        doc,
        (Example(f"{name}(t)", {"t": instant}, gives),),
        _rule(name),
        (1, 2),
        _python(name),
        _polars(name),
        gives_null=True,
    )


def _between_rule(arguments: tuple[Expression, ...]) -> Signature:
    for argument in arguments:
        is_text = isinstance(argument, Literal) and argument.type == STRING
        need(argument, "a timestamp", argument.type == TIMESTAMP or is_text)
    return [TIMESTAMP, TIMESTAMP], FLOAT64


def _between(_: Call, a: pl.Expr, b: pl.Expr) -> pl.Expr:
    import polars as pl

    from featurestore.expressions.vectors import quotient

    wide = b.cast(pl.Int64).cast(pl.Int128) - a.cast(pl.Int64).cast(pl.Int128)
    return quotient(wide.cast(pl.Float64), pl.lit(1e6))


FUNCTIONS = (
    _part("hour", "The hour, 0 to 23, in the zone (default UTC).", 22),
    _part("minute", "The minute, 0 to 59.", 30),
    _part("second", "The second, 0 to 59.", 15),
    _part("day_of_week", "The day of the week, Monday 0 to Sunday 6.", 5),
    _part("day", "The day of the month, 1 to 31.", 21),
    _part("week", "The ISO week of the year, 1 to 53.", 47),
    _part("month", "The month, 1 to 12.", 11),
    _part("quarter", "The quarter, 1 to 4.", 4),
    _part("year", "The year.", 2026),
    _part("is_weekend", "Whether it is Saturday or Sunday.", True),
    Function(
        "seconds_between",
        "seconds_between(a, b)",
        "The seconds from a to b, negative where b is earlier.",
        (
            Example(
                "seconds_between(a, b)",
                {
                    "a": datetime(2026, 11, 21, 10, 0, tzinfo=UTC),
                    "b": datetime(2026, 11, 21, 10, 1, 30, 500_000, tzinfo=UTC),
                },
                90.5,
            ),
        ),
        _between_rule,
        (2, 2),
        "float({1} - {0}) / 1e6",
        _between,
    ),
)
