"""The compiled form of a set's steps: few kinds of operations, types resolved, a text to fingerprint."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.expressions import Expression
from featurestore.types import Field


@dataclass(frozen=True)
class Assign:
    """`name` becomes the expression's value. `reason` rejects the rows where integers overflow."""

    name: str
    expression: Expression
    reason: str


@dataclass(frozen=True)
class Filter:
    """Only rows where the expression is true stay."""

    expression: Expression
    reason: str


@dataclass(frozen=True)
class Rename:
    """Columns take new names, all at once."""

    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Python:
    """The author's function of a frame of `inputs` gives a frame of `outputs`, row by row."""

    function: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    digest: str


Operation = Assign | Filter | Rename | Python


@dataclass(frozen=True)
class StepPlan:
    """Operations in order, and the columns after them.

    `visible` are the features, in order; `columns` all working columns, with what `select`, `drop` and
    `one_hot` took out of sight; `text` is canonical, for fingerprints.
    """

    ops: tuple[Operation, ...]
    visible: tuple[Field, ...]
    columns: tuple[Field, ...]
    text: str
