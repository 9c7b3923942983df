"""What the reference documentation is generated from."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.expressions.functions import FUNCTIONS, MACROS, Example, Function, Macro

STRICT = "null of a null argument"
"""What most functions make of nulls."""


@dataclass(frozen=True)
class Reference:
    """A function or an operator: how it is written, what it gives, also of null, examples that hold."""

    name: str
    signature: str
    doc: str
    nulls: str
    examples: tuple[Example, ...]


def reference() -> list[Reference]:
    """Return every function and operator of the language, in the order of the table."""
    functions: list[Function | Macro] = [f for f in FUNCTIONS.values() if not f.is_internal]
    return [
        Reference(f.name, f.signature, f.doc, f.nulls or STRICT, f.examples)
        for f in [*functions, *MACROS.values()]
    ]
