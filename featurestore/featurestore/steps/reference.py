"""What the reference documentation is generated from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import SkipJsonSchema

from featurestore.steps.base import Example, Parameters
from featurestore.steps.library import STEPS

_HIDDEN: Any = SkipJsonSchema
"""Marks parameters that nobody writes."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a step."""

    name: str
    required: bool
    doc: str
    schema: Mapping[str, Any]
    """What it takes, as JSON Schema."""


@dataclass(frozen=True)
class StepReference:
    """A step: its name in YAML, what it does, its parameters, examples that hold."""

    name: str
    doc: str
    parameters: tuple[Parameter, ...]
    examples: tuple[Example, ...]


def _parameters(step: type[Parameters]) -> tuple[Parameter, ...]:
    schema = step.model_json_schema(mode="validation")
    model = next((branch for branch in schema.get("anyOf", ()) if "properties" in branch), schema)
    schemas = model.get("properties", {})
    return tuple(
        Parameter(key, field.is_required(), field.description or "", schemas[key])
        for name, field in step.model_fields.items()
        if name != "root" and not any(isinstance(item, _HIDDEN) for item in field.metadata)
        for key in (field.alias or name,)
    )


def reference() -> list[StepReference]:
    """Return every step, in the order of the library."""
    return [
        StepReference(
            key,
            inspect.cleandoc(step.__doc__ or ""),
            _parameters(step),
            step.examples,
        )
        for key, step in STEPS.items()
    ]
