"""What every step is: parameters as written, and how they compile to operations on a row."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    RootModel,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from featurestore.errors import did_you_mean

RootT = TypeVar("RootT")

if TYPE_CHECKING:
    from featurestore.steps.compiler import Scope

NAME = r"^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*$"
ColumnName = Annotated[str, Field(pattern=NAME)]


def _ordered(bound: int | float | str) -> int | float | str:
    if bound != bound:
        raise ValueError("NaN bounds nothing.")
    return bound


Bound = Annotated[int | float | str, AfterValidator(_ordered)]
"""A constant that others are below or above; text for times."""
Scalar = str | int | float | bool | None
"""A constant as YAML has it. Dates and timestamps are text."""


class Step:
    """A function of one row (DESIGN 3.16). In YAML one key and its parameters: `date_parts: {column: …}`.

    As a pydantic type it takes that form or an object of a step class, and dumps to that form.
    """

    key: ClassVar[str]
    """The name in YAML."""
    examples: ClassVar[tuple[Example, ...]]
    """What `reference()` shows; a test runs them."""

    @abstractmethod
    def compile(self, scope: Scope) -> None:
        """Add this step's operations to `scope`. Raises SpecError through `scope.error`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(write, info_arg=True)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"oneOf": [one_key(kind, handler) for kind in kinds().values()]}


@dataclass(frozen=True)
class Example:
    """A step's parameters in YAML, a row before it, and the visible columns after it.

    Values are natural ones: datetimes stand for timestamps. `gives` is None where no row is left, and
    several rows where a step makes them. `files` are what the step reads, by name, as text; `fits` what is
    fitted for the step: column to statistic to value.
    """

    parameters: Any
    row: Mapping[str, Any]
    gives: Mapping[str, Any] | tuple[Mapping[str, Any], ...] | None
    files: Mapping[str, str] = field(default_factory=dict)
    fits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Parameters(BaseModel, Step):
    """The base of steps whose parameters have names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Bare(RootModel[RootT], Step, Generic[RootT]):
    """The base of steps that take a list, or a mapping of the author's own names, and nothing else."""

    model_config = ConfigDict(frozen=True)


def kinds() -> dict[str, type[BaseModel]]:
    """Return every step by its name in YAML."""
    from featurestore.steps.library import STEPS

    return STEPS


def read(value: object) -> Step:
    """Return the step that a one-key mapping declares; a step is returned as it is."""
    if isinstance(value, Step):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise PydanticCustomError(
            "step", "a step is one name and its parameters, as 'date_parts: {column: …, parts: [hour]}'"
        )
    ((key, parameters),) = value.items()
    kind = kinds().get(key)
    if kind is None:
        raise PydanticCustomError(
            "step", "'{key}' is no step. {hint}", {"key": str(key), "hint": did_you_mean(str(key), kinds())}
        )
    step = kind.model_validate(parameters)
    assert isinstance(step, Step)
    return step


def write(step: Any, info: core_schema.SerializationInfo) -> dict[str, Any]:
    """Return the step as YAML has it, without parameters that were left out."""
    return {step.key: step.model_dump(mode=info.mode, exclude_unset=True, by_alias=True)}


def one_key(kind: type[BaseModel], handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """Return the JSON Schema of `{key: parameters}` for one step."""
    key = kind.key  # type: ignore[attr-defined]
    return {
        "type": "object",
        "title": key,
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "properties": {key: kind.__get_pydantic_json_schema__(kind.__pydantic_core_schema__, handler)},
        "required": [key],
        "additionalProperties": False,
    }
