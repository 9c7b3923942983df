"""What the reference documentation is generated from."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.expressions.functions import FUNCTIONS, MACROS, Example, Function, Macro


@dataclass(frozen=True)
class Reference:
    """A function or an operator: how it is written, what it gives, examples that hold."""

    name: str
    signature: str
    doc: str
    examples: tuple[Example, ...]


def reference() -> list[Reference]:
    """Return every function and operator of the language, in the order of the table."""
    functions: list[Function | Macro] = [f for f in FUNCTIONS.values() if not f.is_internal]
    return [Reference(f.name, f.signature, f.doc, f.examples) for f in [*functions, *MACROS.values()]]
