"""Functions of JSON documents: columns of type json, or text that holds one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.expressions import runtime
from featurestore.expressions.functions.base import Example, Function
from featurestore.expressions.nodes import Call, Expression, Literal
from featurestore.expressions.rules import RuleError, Signature, need, need_literal
from featurestore.json_documents import Path, parse_path
from featurestore.types import JSON, STRING

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer


def _extract_rule(arguments: tuple[Expression, ...]) -> Signature:
    document, path = arguments
    need(document, "json or a string", document.type in (JSON, STRING))
    try:
        parse_path(str(need_literal(path, "the path").value))
    except ValueError as error:
        raise RuleError(str(error)) from None
    return [document.type if document.type in (JSON, STRING) else JSON, STRING], JSON


def _path(call: Call) -> Path:
    assert isinstance(call.arguments[1], Literal)
    return parse_path(call.arguments[1].value)


def _extract_python(writer: Writer, call: Call, x: str, _: str) -> str:
    return f"json_extract({x}, {writer.constant(_path(call))})"


def _extract_polars(call: Call, x: pl.Expr, _: pl.Expr) -> pl.Expr:
    from featurestore.expressions.vectors import values

    path = _path(call)
    return values(lambda text: runtime.json_extract(text, path), JSON, x)


FUNCTIONS = (
    Function(
        "json_extract",
        "json_extract(document, 'path')",
        "What lies at the path of a document, as json; cast it to a type. The path is $, .name, [number],"
        ' ["any name"]. Null where nothing lies there, and of malformed text.',
        (
            Example(
                "cast(json_extract(x, '$.lines[0].price') as float64)",
                {"x": '{"lines": [{"price": 2.5}]}'},
                2.5,
            ),
            Example("cast(json_extract(x, '$.a') as string)", {"x": '{"a": "b"}'}, "b"),
            Example("json_extract(x, '$.a')", {"x": '{"a": {"c": 1.0, "b": []}}'}, '{"b":[],"c":1}'),
            Example("json_extract(x, '$.z') is null", {"x": "{}"}, True),
        ),
        _extract_rule,
        (2, 2),
        _extract_python,
        _extract_polars,
        gives_null=True,
    ),
)
