"""Distances on the earth, taken as a sphere of its mean radius (IUGG: 6371.0088 km)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from featurestore.errors import did_you_mean
from featurestore.expressions import runtime
from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression
from featurestore.expressions.rules import RuleError, Signature, floats, need_literal
from featurestore.types import FLOAT64, STRING

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer

_KILOMETRES = 2 * 6371.0088
DIAMETERS = {"km": _KILOMETRES, "m": _KILOMETRES * 1000, "mi": _KILOMETRES / 1.609344}
"""The earth's mean diameter by unit; a mile is 1.609344 km."""


def _rule(arguments: tuple[Expression, ...]) -> Signature:
    kinds, kind = floats(arguments[:4])
    if len(arguments) == 5:
        unit = str(need_literal(arguments[4], "the unit").value)
        if unit not in DIAMETERS:
            raise RuleError(f"'{unit}' is no unit of length. {did_you_mean(unit, DIAMETERS)}")
        return [*kinds, STRING], kind
    return kinds, kind


def _diameter(call: Call) -> float:
    unit = need_literal(call.arguments[4], "the unit").value if len(call.arguments) == 5 else "km"
    return DIAMETERS[unit]


def _python(_: Writer, call: Call, *points: str) -> str:
    return f"haversine({_diameter(call)!r}, {', '.join(points[:4])})"


def _polars(call: Call, *points: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import values

    diameter = _diameter(call)
    return values(functools.partial(runtime.haversine, diameter), FLOAT64, *points[:4])


FUNCTIONS = (
    Function(
        "haversine",
        "haversine(lat1, lon1, lat2, lon2[, unit])",
        "The great-circle distance of two points in degrees, in km (default), m or mi, by the haversine"
        " formula on a sphere of 6371.0088 km. Null where a latitude is beyond 90, a longitude beyond 360"
        " or one of them NaN.",
        (
            Example(
                "round(haversine(a, b, 48.8566, 2.3522), 3)",
                {"a": 52.52, "b": 13.405},
                877.465,
            ),
            Example("haversine(a, 0, a, 0, 'm')", {"a": 91.0}, None),
        ),
        _rule,
        (4, 5),
        _python,
        _polars,
        gives_null=True,
    ),
)
