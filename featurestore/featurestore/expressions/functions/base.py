"""What the table of functions says of each entry: its types, its two lowerings, its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.expressions.nodes import Call, Expression
from featurestore.expressions.rules import Rule

if TYPE_CHECKING:
    import polars as pl

    from featurestore.expressions.to_closure import Writer
    from featurestore.expressions.to_polars import Lowering


@dataclass(frozen=True)
class Example:
    """An expression, the row it reads and the value that it gives. Tests run it in both lowerings.

    Values are natural ones: datetimes, dates and Decimals stand for timestamps, dates and decimals.
    """

    text: str
    row: Mapping[str, Any]
    gives: Any


def never(_: Call) -> bool:
    """Return False."""
    return False


def any_null(call: Call) -> bool:
    """Return whether any argument may be null."""
    from featurestore.expressions.functions import nullable

    return any(nullable(argument) for argument in call.arguments)


@dataclass(frozen=True)
class Function:
    """One function or operator.

    `python` is, for a strict function, the Python of its value over arguments that are not null: a
    template with {0}, {1} or a callable that gets the writer, the call and the arguments' names. For a
    function that treats nulls itself (`strict=False`) it gets the writer and the call.
    `polars` gets the call and the lowered arguments, nulls included.
    """

    name: str
    signature: str
    doc: str
    examples: tuple[Example, ...]
    rule: Rule
    arity: tuple[int, int | None]
    python: str | Callable[..., str]
    polars: Callable[..., pl.Expr]
    strict: bool = True
    gives_null: bool = False  # of a strict function: whether arguments that are not null may give null
    nullable: Callable[[Call], bool] = any_null  # of any other: whether the result may be null
    overflows: Callable[[Call], bool] = never  # whether the value may not fit its type
    checked: bool = False  # whether the generated Python compares the value with its type's bounds
    rejects: Callable[[Lowering, Call], pl.Expr | None] | None = None  # where not all arguments are evaluated
    text: str | Callable[[Call], str] | None = None  # how `sql` shows it; default name(arguments)
    is_internal: bool = False  # whether only the library writes it
    nulls: str = ""  # of a function that treats nulls itself: what it makes of them, for the reference

    def show(self, call: Call) -> str:
        """Return the call as SQL."""
        if callable(self.text):
            return self.text(call)
        shown = [argument.sql for argument in call.arguments]
        return self.text.format(*shown) if self.text else f"{self.name}({', '.join(shown)})"


@dataclass(frozen=True)
class Macro:
    """A function that is written in terms of others."""

    name: str
    signature: str
    doc: str
    examples: tuple[Example, ...]
    arity: tuple[int, int | None]
    expand: Callable[..., Expression]
    nulls: str


Writing = Callable[["Writer", Call], str]
