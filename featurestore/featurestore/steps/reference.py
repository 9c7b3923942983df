"""What the reference documentation is generated from."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import SkipJsonSchema

from featurestore.steps.base import Example
from featurestore.steps.library import STEPS

_HIDDEN: Any = SkipJsonSchema
"""Marks parameters that nobody writes."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a step."""

    name: str
    required: bool
    doc: str


@dataclass(frozen=True)
class StepReference:
    """A step: its name in YAML, what it does, its parameters, examples that hold."""

    name: str
    doc: str
    parameters: tuple[Parameter, ...]
    examples: tuple[Example, ...]


def reference() -> list[StepReference]:
    """Return every step, in the order of the library."""
    return [
        StepReference(
            key,
            inspect.cleandoc(step.__doc__ or ""),
            tuple(
                Parameter(field.alias or name, field.is_required(), field.description or "")
                for name, field in step.model_fields.items()
                if name != "root" and not any(isinstance(item, _HIDDEN) for item in field.metadata)
            ),
            step.examples,
        )
        for key, step in STEPS.items()
    ]
