"""Plain values to models; what pydantic finds wrong becomes SpecErrors with file:line and a fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from featurestore.errors import SpecError, did_you_mean
from featurestore.specs.fields import OBJECT, TEXT
from featurestore.specs.origins import KeyPath, Origin, format_path
from featurestore.specs.problems import SpecErrors

if TYPE_CHECKING:
    from featurestore.specs.models import Declaration

ModelT = TypeVar("ModelT", bound=BaseModel)

_PATTERNS = {
    r"^[a-z_][a-z0-9_]*$": "Use lower-case letters, digits and underscores, a letter first.",
    r"^[a-z_][a-z0-9_-]*$": "Use lower-case letters, digits, underscores and dashes, a letter first.",
    r"^([a-z]|_[a-z0-9])[a-z0-9_]*$": (
        "Use lower-case letters, digits and underscores; no digit and no two underscores first."
    ),
    r"^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*$": (
        "Use letters, digits and underscores; no digit and no two underscores first."
    ),
    r"^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*(\.([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*)?$": (
        "Write a column, or set.feature."
    ),
    r"^[A-Za-z0-9._-]+$": "Use letters, digits, dots, underscores and dashes.",
}
_EXPECTED = {
    "string": "text",
    "int": "a whole number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "float": "a number",
}


def declaration(data: Any, origin: Origin) -> Declaration:
    """Return the declaration that a document holds, by its `kind:`. Raises SpecErrors."""
    from featurestore.specs.models import DECLARATIONS  # settings are checked without them

    names = {model.__name__: model for model in DECLARATIONS}
    if not isinstance(data, dict):
        raise SpecErrors(
            [SpecError(f"a declaration is a mapping with kind:, found {_value(data)}.", where=origin.where())]
        )
    kind = data.get("kind")
    if kind is None:
        raise SpecErrors(
            [
                SpecError(
                    "a declaration needs kind:.", where=origin.where(), hint=f"One of {', '.join(names)}."
                )
            ]
        )
    if kind not in names:
        hint = did_you_mean(str(kind), names)
        raise SpecErrors([SpecError(f"kind: '{kind}' is no kind.", where=origin.where("kind"), hint=hint)])
    return validate(names[kind], data, origin)


def validate(model: type[ModelT], data: Any, origin: Origin) -> ModelT:
    """Return `model` made from plain values. Raises SpecErrors, one error per mistake."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SpecErrors(explain(error, model, origin)) from None


def explain(
    error: ValidationError,
    model: type[BaseModel] | None,
    origin: Origin,
    skip: Callable[[ErrorDetails], bool] = lambda _: False,
) -> list[SpecError]:
    """Return each mistake that pydantic found as a SpecError: where, the key's path, what, the fix."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        if skip(detail):
            continue
        found.setdefault(_path(detail, origin), []).append(detail)
    errors: list[SpecError] = []
    for path, details in sorted(found.items(), key=lambda item: origin.line_of(*item[0])):
        detail = details[0]
        below = any(len(other) > len(path) and other[: len(path)] == path for other in found)
        if detail["type"] == "too_short" and below:
            continue
        message, hint = _describe(details, path, model)
        named = path[:-1] if detail["type"] in ("extra_forbidden", "missing") else path
        text = f"{format_path(named)}: {message}" if named else message
        errors.append(SpecError(text, where=origin.where(*path), hint=hint))
    return errors


def _path(detail: ErrorDetails, origin: Origin) -> KeyPath:
    """Return the keys that lead to a mistake as they are written.

    Pydantic's path has the names of a union's branches besides, and lacks the name of a step.
    """
    parts = [part for part in detail["loc"] if part not in (TEXT, OBJECT, "[key]")]
    lines = origin.lines
    if parts[:1] == ["steps"] and len(parts) > 2:
        step = tuple(parts[:2])
        parts[2:2] = [key[2] for key in lines if len(key) == 3 and key[:2] == step][:1]
    path: list[str | int] = []
    for index, part in enumerate(parts):
        is_own = index == len(parts) - 1 and detail["type"] in ("missing", "extra_forbidden")
        if is_own or not lines or (*path, part) in lines or (path and tuple(path) not in lines):
            path.append(part)
    return tuple(path)


def _describe(
    details: Sequence[ErrorDetails], path: KeyPath, model: type[BaseModel] | None
) -> tuple[str, str | None]:
    """Return what is wrong at one place, and the fix."""
    detail = details[0]
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        fields = _fields(_model_at(model, path[:-1]))
        return f"there is no field '{path[-1]}'.", did_you_mean(str(path[-1]), fields) if fields else None
    if kind == "missing" and isinstance(path[-1], int):
        return f"item {path[-1] + 1} is missing.", None
    if kind == "missing":
        return f"'{path[-1]}:' is missing.", None
    if kind == "string_pattern_mismatch":
        return f"'{value}' is no name.", _PATTERNS.get(str(context["pattern"]))
    if kind == "literal_error":
        choices = [part.strip("' ") for part in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{_value(value)} is not allowed.", did_you_mean(str(value), choices)
    if kind == "value_error":
        return str(context["error"]), None
    if kind == "too_long":
        return "it is too long.", f"Write at most {context['max_length']}."
    if kind == "too_short":
        return "it is empty.", "Write at least one."
    expected = [
        _EXPECTED[name]
        for d in details
        if (name := d["type"].split("_")[0]) in _EXPECTED and "type" in d["type"]
    ]
    if expected:
        hint = f"Write [{value}]." if expected == ["a list"] and isinstance(value, (str, int)) else None
        return f"expected {' or '.join(dict.fromkeys(expected))}, found {_value(value)}.", hint
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return (message if kind == "step" else f"{message}, found {_value(value)}") + (
        "" if message.endswith((".", "?")) else "."
    ), None


def _value(value: Any) -> str:
    """Return a value as an error shows it, cut short."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 60 else f"'{value[:57]}…'"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "a mapping"
    try:
        return json.dumps(value)
    except TypeError:
        return f"a {type(value).__name__}"


def _fields(model: type[BaseModel] | None) -> list[str]:
    """Return the names of a model's fields as users write them."""
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel] | None, path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the object at a path below `model`; None where there is none."""
    from featurestore.steps.base import kinds

    is_key = False  # whether the next part is a key of a mapping of models
    for part in path:
        if part in kinds():  # the name of a step
            model = kinds()[str(part)]
            continue
        if isinstance(part, int) or is_key or model is None:
            is_key = False
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in fields:
            return None
        annotation = fields[part].annotation
        is_key = get_origin(annotation) is dict
        model = next(_models(annotation), None)
    return model


def _models(annotation: Any) -> Any:
    """Yield the models that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        if not isinstance(part, (str, bytes)):
            yield from _models(part)
