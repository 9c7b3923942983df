"""Typed scalar expressions in a small SQL, with two equal lowerings (DESIGN 3.15).

`parse` gives an `Expression`; `featurestore.expressions.to_polars` and
`featurestore.expressions.to_closure` run it, over frames and over single rows. Importing this package
imports neither Polars nor sqlglot.
"""

from __future__ import annotations

from collections.abc import Mapping

from featurestore.expressions.nodes import Call, Column, Expression, Literal, RowRejected
from featurestore.expressions.reference import Reference, reference
from featurestore.types import DataType

__all__ = [
    "Call",
    "Column",
    "Expression",
    "Literal",
    "Reference",
    "RowRejected",
    "parse",
    "reference",
]


def parse(text: str, schema: Mapping[str, DataType], *, where: str | None = None) -> Expression:
    """Return the typed expression of SQL text over columns of known types.

    Raises SpecError (with `where`) that names the part that is wrong, its types, and for an unknown
    column or function the nearest name. `set.feature` is the column named "set.feature".
    """
    from featurestore.expressions import parser

    return parser.parse(text, schema, where=where)
