"""The pages of scripts/reference.py on what is declared: specs, what they are made of, and settings."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from reference_markdown import code, flow, kind, page, table

from featurestore import expressions
from featurestore.aggregates import FUNCTIONS, Function, result_type
from featurestore.aggregates.reference import gives, parameters_of
from featurestore.specs.cases import Test
from featurestore.specs.models import (
    DECLARATIONS,
    Aggregation,
    BatchHalf,
    Bounds,
    Expectation,
    FeatureSelection,
    Label,
    StreamHalf,
    Training,
)
from featurestore.specs.project import (
    CommitConfig,
    OfflineConfig,
    OnlineConfig,
    Profile,
    ProjectConfig,
    Section,
    StreamConfig,
    UpkeepConfig,
)
from featurestore.steps.reference import Parameter, reference
from featurestore.types import DataType
from featurestore_serving.settings import Settings

OPTIONS = """\
`options:` of a batch half, by kind: `csv` takes `delimiter`, `quote`, `escape`, `header`, `columns`,
`skip_rows`, `encoding`, `nulls`; `delta` takes `from_version`; all files take `epoch`. `options:` of a
stream half: `epoch`, and `partitions` on the log.

`epoch` is one of `s`, `ms`, `us`, `ns`, and says what integers in timestamp columns count; without it a
timestamp is text in ISO 8601.
"""

ENVIRONMENT = {
    "FEATURESTORE_TOKEN": (
        "token",
        "what clients send as `Authorization: Bearer …` for everything under `/v1`; unset, nobody is asked",
    ),
    "FEATURESTORE_MAX_BODY_BYTES": ("max_body_bytes", "the largest body of a request"),
    "FEATURESTORE_MAX_ROWS": ("max_rows", "the most rows of one request"),
}
"""The service's variables: the field of Settings, and what it means."""


def where(row: Mapping[str, Any]) -> str:
    """Return `a = 7, b = 0` of a row."""
    return ", ".join(f"{name} = {flow(value)}" for name, value in row.items())


def expressions_page() -> str:
    """Return the functions and operators of the expression language."""
    rows = []
    for item in expressions.reference():
        shown = [
            f"{code(example.text)} with {code(where(example.row))} is {code(flow(example.gives))}"
            for example in item.examples
        ]
        rows.append((code(item.signature), item.doc, item.nulls, "; ".join(shown)))
    intro = """\
The language of `derive`, `filter`, `where:` and of a vector's `derive:`. What it means about nulls, rounding
and overflow is [rule 15](../concepts.md#15-expressions). Literals are numbers, `'text'`, `true`, `false`,
`null`, `date '2026-11-21'` and `timestamp '2026-11-21T10:00:00Z'`. Columns are written by their names, in
double quotes where they need it. A type is written as in a schema: `cast(x as list<string>)`."""
    return page("Expressions", intro, table(("written", "gives", "of null", "examples"), rows))


def steps_page() -> str:
    """Return the steps with their parameters and examples."""
    parts = [
        "A step is a function of one row: [rule 16](../concepts.md#16-a-step-sees-one-row)."
        " Steps run in order."
    ]
    for item in reference():
        parts.append(f"## {item.name}")
        parts.append(item.doc)
        if item.parameters:
            parts.append("\n".join(_parameter(p) for p in item.parameters))
        for example in item.examples:
            parts.append(f"```yaml\n- {item.name}: {flow(example.parameters)}\n```")
            for name, text in example.files.items():
                parts.append(f"With `{name}`:\n\n```text\n{text.rstrip()}\n```")
            fitted = f", where {code(flow(example.fits))} is fitted" if example.fits else ""
            parts.append(f"{code(flow(example.row))} {_gives(example.gives)}{fitted}.")
    return page("Steps", *parts)


def _gives(gives: Mapping[str, Any] | tuple[Mapping[str, Any], ...] | None) -> str:
    """Return what becomes of an example's row, in words."""
    if gives is None:
        return "is left out"
    rows = [gives] if isinstance(gives, Mapping) else gives
    return "becomes " + ", then ".join(code(flow(row)) for row in rows)


def _parameter(parameter: Parameter) -> str:
    schema = json.loads(re.sub(r'\{"\$ref": "[^"]*"\}', '{"type": "object"}', json.dumps(parameter.schema)))
    default = schema.get("default")
    told = kind(schema)
    if parameter.required:
        told += "; required"
    elif default not in (None, "", {}):
        told += f"; default {code(flow(default))}"
    said = f": {parameter.doc}" if parameter.doc else ""
    return f"- `{parameter.name}` ({told}){said}"


def aggregations_page() -> str:
    """Return the aggregation functions, each computed on its example."""
    intro = """\
Functions of an entity's rows in a window. What a window covers is [rule 5](../concepts.md#5-windows), what an
empty one gives [rule 6](../concepts.md#6-empty-windows). The fields of an aggregation are in
[specs](specs.md#aggregation); each function works with `where:`, `by:`, `closed:`, `granularity:`, `offset:`
and the window `lifetime`, which is all rows up to t, and for which the online store keeps every row.

A feature is named `<column>_<function>_<window>`, as `amount_sum_2h`; of rows alone `<function>_<window>`, as
`count_1d`; by category `<value>_<function>_<window>`, as `food_count_14d`. `name:` stands in place of the
column, and before a category: `name: large` makes `large_count_1d` and `large_food_count_14d`. Other
parameters are not in the name: aggregations that differ in `k:`, `where:` or `offset:` alone need a `name:`.

A number is an integer, a float or a decimal; single values are numbers, text, bytes, booleans, dates and
timestamps. Nulls are skipped. In an example the values come a minute apart, the newest at t, or as long
before it as is said."""
    return page("Aggregations", intro, *(_aggregation(function) for function in FUNCTIONS.values()))


def _aggregation(function: Function) -> str:
    example = function.example
    kind = result_type(function.name, DataType.parse(example.type), **parameters_of(function.name))
    told = "".join(f" with {code(f'{name}: {flow(value)}')}" for name, value in example.parameters.items())
    ago = f", {example.ago} s ago" if example.ago else ""
    lines = [
        f"- takes: {function.takes}",
        *(f"- parameter: `{name}:`{_default_of(default)}" for name, default in function.parameters.items()),
        f"- of no values: {function.empty}",
        *([f"- bound: {function.bound}"] if function.bound else []),
        *([f"- source: {function.source}"] if function.source else []),
        f"- example: of {code(flow(list(example.values)))} ({example.type}{ago}){told},"
        f" {code(flow(gives(function.name)))} ({kind})",
    ]
    return f"## {function.name}\n\n{function.doc}\n\n" + "\n".join(lines)


def _default_of(value: Any) -> str:
    return " (required)" if value is None else f" (default {value})"


def specs_page() -> str:
    """Return the fields of every declaration."""
    models: list[type[BaseModel]] = [
        *DECLARATIONS,
        *(BatchHalf, StreamHalf, Aggregation, Expectation, Bounds),
        *(FeatureSelection, Label, Training, Test),
    ]
    intro = """\
What is declared, in YAML with `kind:` or in Python with the classes of the same names in `featurestore`.
Names are `[a-z_][a-z0-9_]*`; vectors may have dashes. Types are `int8` to `int64`, `uint8` to `uint64`,
`float32`, `float64`, `bool`, `string`, `binary`, `date`, `timestamp`, `decimal(p,s)`, `json`, `list<type>`
and `vector<float32,n>`; [types](../types.md) says what each holds. Durations are written `90s`, `2h`,
`1d12h`, `14d`. Instants have a zone."""
    return page("Specs", intro, *_models(models), "## Options", OPTIONS)


def settings_page() -> str:
    """Return the fields of featurestore.yaml, and the environment."""
    _check_environment()
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    rows = [("`FEATURESTORE_PROFILE`", "", "the profile, where `--profile` names none")]
    rows += [(code(name), code(flow(defaults[f])), said) for name, (f, said) in ENVIRONMENT.items()]
    intro = """\
`featurestore.yaml` in the project's folder. Texts may hold `${VAR}` and `${VAR:-default}`. Relative paths
begin at the folder."""
    models: list[type[BaseModel]] = [
        *(ProjectConfig, OfflineConfig, OnlineConfig, StreamConfig, UpkeepConfig),
        *(CommitConfig, Profile),
    ]
    return page(
        "Settings", intro, *_models(models), "## Environment", table(("variable", "default", "meaning"), rows)
    )


def _check_environment() -> None:
    """Raise AssertionError unless the service reads exactly the variables that are documented."""
    asked: list[str] = []

    class Asked(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.append(key)
            return default

    Settings.read(Asked())
    assert sorted(asked) == sorted(ENVIRONMENT), asked


def _models(models: Sequence[type[BaseModel]]) -> Iterator[str]:
    for model in models:
        yield f"## {model.__name__}"
        yield (model.__doc__ or "").strip()
        schema = model.model_json_schema(mode="validation")
        rows = []
        for name, field in model.model_fields.items():
            about = schema["properties"].get(field.alias or name)
            if about is None:
                continue  # what an applied version holds, and nobody writes
            default = "required" if field.is_required() else _default(field)
            rows.append((code(field.alias or name), kind(about), default, about.get("description", "")))
        yield table(("field", "takes", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    """Return a field's default; nothing where it says nothing."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        value = value.settings()
    return "" if value in (None, "", (), {}) else code(flow(value))
