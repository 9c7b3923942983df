"""The pages of scripts/reference.py on what is called: command line, Python, HTTP, and errors."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from reference_markdown import code, kind, page, table

import featurestore
import featurestore_serving
from featurestore import errors
from featurestore.cases import CaseReport, CaseResult, Mismatch
from featurestore.cli import application, command_line, failures
from featurestore.client import RemoteFeatureStore
from featurestore.errors import FeatureStoreError, OperatorError, RequestError, SpecError
from featurestore.online.reader import VectorResult
from featurestore.previewing import Preview
from featurestore.pushing import PushReport
from featurestore.store import FeatureVectorHandle
from featurestore.verify import Verification
from featurestore_engines.batch.training import TrainingSet
from featurestore_serving.app import create_app
from featurestore_serving.failures import status_of
from featurestore_serving.settings import Settings

PUBLIC: tuple[type, ...] = (
    featurestore.FeatureStore,
    FeatureVectorHandle,
    TrainingSet,
    VectorResult,
    PushReport,
    Preview,
    Verification,
    CaseReport,
    CaseResult,
    Mismatch,
    RemoteFeatureStore,
)


REASONS = {
    "malformed": "bytes that are no JSON object; a line of CSV with too many or too few fields",
    "tombstone": "a record without a value",
    "too_large": "more bytes than `max_bytes:`; the first 4 KiB are kept",
    "bad_type": "a JSON value of another type than the column's",
    "bad_value": "a value that does not fit the column's type",
    "naive_timestamp": "a timestamp without a zone, where the source declares no `timezone:`",
    "null_event_time": "no event time",
    "null_event_id": "a column of `event_id:` is null",
    "future": "stamped more than `future:` ahead of its ingest time",
    "overflow": "an integer that leaves its type's range in a step",
    "unknown_value": "a value that a step with `unknown: reject` does not list",
    "python": "a Python step failed for the row",
    "validate": "a check of a `validate` step, of severity `reject` or `fail`, found the row wrong",
    "bad_key": "a key that is none of the entity's type",
}
"""Reason codes of dead letters."""


def errors_page() -> str:
    """Return the tree of errors, their codes and statuses, and the reasons of dead letters."""
    for package in (featurestore, featurestore_serving):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    tree = (errors.__doc__ or "").split("::\n\n")[1].split("\n\n")[0]
    rows = []
    for error in _tree(FeatureStoreError):
        who = "the author of a spec" if issubclass(error, SpecError) else "the caller"
        who = "the operator" if issubclass(error, OperatorError) else who
        who = "" if not issubclass(error, SpecError | RequestError | OperatorError) else who
        made = error.__new__(error)
        doc = (error.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")
        rows.append((code(error.__name__), code(error.code), who, str(status_of(made)), doc))
    return page(
        "Errors",
        "Every error says what happened, where, and what to do, and has a stable code. They are in"
        " `featurestore.errors`; a few narrower ones are beside what raises them.",
        "```text\n" + re.sub(r"^    ", "", tree, flags=re.MULTILINE) + "\n```",
        table(("error", "code", "who can fix it", "HTTP", "meaning"), rows),
        "A push that is refused carries the reason of a dead letter as its code.",
        "## Exit status",
        "\n".join(line for line in (failures.__doc__ or "").splitlines() if line.startswith("|")).replace(
            "| status | |", "| status | meaning |"
        ),
        "## Reasons of dead letters",
        "Rows that are refused lie in the offline table `dead_letters`, with `source`, `feature_set`,"
        " `partition`, `sequence`, `ingest_time`, `code`, `message` and `payload`. `feature_set` is null"
        " where the source's schema refused the row, before any set saw it."
        " `featurestore dead-letters list` shows them, `replay` sends them again."
        " With the default settings the table is a folder that Polars reads:",
        '```python\nimport polars as pl\n\nprint(pl.read_delta(".featurestore/offline/dead_letters"))\n```',
        table(("code", "meaning"), [(code(name), said) for name, said in REASONS.items()]),
    )


def _tree(error: type[FeatureStoreError]) -> Iterator[type[FeatureStoreError]]:
    """Yield an error class of ours and all below it, in the order of their names."""
    yield error
    ours = [
        c
        for c in error.__subclasses__()
        if c.__module__.startswith(("featurestore.", "featurestore_serving."))
    ]
    for child in sorted(ours, key=lambda c: (c.__module__ != errors.__name__, c.__name__)):
        yield from _tree(child)


def cli_page() -> str:
    """Return the verbs with their arguments and options."""
    verbs: dict[str, Any] = typer.main.get_command(command_line()).commands  # type: ignore[attr-defined]
    common: dict[str, tuple[str, str]] = {}
    parts = []
    for name, verb in _leaves(verbs):
        given = [p for p in verb.params if getattr(p, "rich_help_panel", None) != application.PANEL]
        for parameter in verb.params:
            if getattr(parameter, "rich_help_panel", None) == application.PANEL:
                common.setdefault(parameter.name, (_options(parameter), parameter.help))
        arguments = [p for p in given if p.param_type_name == "argument"]
        words = [_argument(p) for p in arguments]
        options = [p for p in given if p.param_type_name == "option" and p.name != "help"]
        words += ["[OPTIONS]"] if options else []
        parts += [f"## {name}", verb.help, "```text\n" + " ".join(["featurestore", name, *words]) + "\n```"]
        rows = [(code(_argument(p)), p.help or "", "") for p in arguments]
        rows += [(_options(p), p.help or "", code(_shown_default(p))) for p in options]
        if rows:
            parts.append(table(("argument or option", "meaning", "default"), rows))
    intro = """\
`featurestore VERB --help` says the same. The options that every verb takes may stand before it or after it.
Results go to standard output, everything else to standard error. [Exit statuses](errors.md#exit-status)."""
    shared = table(("option", "meaning"), list(common.values()))
    return page("Command line", intro, "## Common options", shared, *parts)


def _leaves(verbs: dict[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every verb that does something, under its full name."""
    for name, verb in verbs.items():
        if hasattr(verb, "commands"):
            yield from _leaves(verb.commands, f"{of}{name} ")
        else:
            yield f"{of}{name}", verb


def _argument(parameter: Any) -> str:
    shown = str(parameter.metavar or parameter.name.upper())
    return shown if parameter.required or shown.startswith("[") else f"[{shown}]"


def _options(parameter: Any) -> str:
    names = ", ".join(code(name) for name in [*parameter.opts, *parameter.secondary_opts])
    return f"{names} {code(parameter.metavar)}" if parameter.metavar else names


def _shown_default(parameter: Any) -> str:
    if parameter.default is None or (parameter.is_flag and not parameter.secondary_opts):
        return ""
    if parameter.is_flag:
        return str((parameter.opts if parameter.default else parameter.secondary_opts)[0])
    return str(parameter.default)


def python_page() -> str:
    """Return the public classes of Python code with their methods."""
    parts = []
    for public in PUBLIC:
        parts += [f"## {public.__name__}", inspect.cleandoc(public.__doc__ or "")]
        if dataclasses.is_dataclass(public):
            parts.append(
                "Fields: " + ", ".join(code(field.name) for field in dataclasses.fields(public)) + "."
            )
        elif public is not FeatureVectorHandle:
            parts.append(f"```text\n{public.__name__}{_signature(public)}\n```")
        members = [(name, item) for name, item in vars(public).items() if not name.startswith("_")]
        rows = []
        for name, item in members:
            found = item.__func__ if isinstance(item, staticmethod) else item
            if inspect.isfunction(found):
                is_async = "await " if inspect.iscoroutinefunction(found) else ""
                rows.append((code(f"{is_async}{name}{_signature(found)}"), _said(found)))
            elif isinstance(found, property):
                rows.append((code(name), _said(found.fget)))
        if rows:
            parts.append(table(("member", "meaning"), rows))
    others = [name for name in featurestore.__all__ if name not in ("FeatureStore", "__version__")]
    intro = f"""\
`featurestore.FeatureStore` is where everything begins. Beside it `featurestore` has the declarations and
errors: {", ".join(map(code, others))}. Their fields are in [specs](specs.md), the errors in
[errors](errors.md). Steps in Python spec files are those of `featurestore.steps`, named as
[in YAML](steps.md). Instants are datetimes with a zone, ISO 8601 text with a zone, or microseconds."""
    return page("Python", intro, *parts)


def _signature(function: Any) -> str:
    """Return a function's parameters and defaults, without types and `self`."""
    signature = inspect.signature(function)
    given = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name != "self"]
    return str(signature.replace(parameters=given, return_annotation=signature.empty))


def _said(function: Any) -> str:
    return inspect.cleandoc(function.__doc__ or "").replace("\n\n", "\n")


def http_page() -> str:
    """Return the paths of the service and its bodies, from its OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "featurestore.yaml").write_text("project: reference\n", encoding="utf-8")
        with featurestore.FeatureStore(folder) as store:
            document = create_app(store, Settings()).openapi()
    parts = [
        document["info"]["description"],
        "The OpenAPI document is served at `/openapi.json`, a page of it at `/docs`.",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += [f"## {method.upper()} {path}", operation["description"]]
            asked = [
                (code(p["name"]), f"in the {p['in']}", p["description"])
                for p in operation.get("parameters", ())
            ]
            if asked:
                parts.append(table(("parameter", "where", "meaning"), asked))
            if "requestBody" in operation:
                parts.append(f"Body: {_bodies(operation['requestBody'])}")
            answers = [
                (status, answer["description"], _bodies(answer))
                for status, answer in sorted(operation["responses"].items())
            ]
            parts.append(table(("status", "meaning", "body"), answers))
            asked_with = operation.get("requestBody", {})
            parts += [
                *_examples("A request", asked_with),
                *_examples("An answer", operation["responses"]["200"]),
            ]
    parts.append("## Bodies")
    for name, schema in document["components"]["schemas"].items():
        parts += [f"### {name}", schema.get("description", "")]
        required = schema.get("required", ())
        rows = [
            (code(field), kind(about), "yes" if field in required else "", about.get("description", ""))
            for field, about in schema["properties"].items()
        ]
        parts.append(table(("field", "takes", "required", "meaning"), rows))
    return page("HTTP", *parts)


def _examples(what: str, about: Mapping[str, Any]) -> Iterator[str]:
    """Yield the examples of a JSON body, each as a block."""
    for example in about.get("content", {}).get("application/json", {}).get("examples", {}).values():
        yield f"{what}:"
        yield f"```json\n{_json(example['value'])}\n```"


def _json(value: Any) -> str:
    """Return JSON with one line per field of an object."""
    if not isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    lines = [f"  {json.dumps(name)}: {json.dumps(item, ensure_ascii=False)}" for name, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _bodies(about: Mapping[str, Any]) -> str:
    """Return the media types of a body, each with its schema."""
    found = []
    for media, content in about.get("content", {}).items():
        schema = content.get("schema", {})
        named = kind(schema) if "$ref" in schema else ""
        found.append(f"{code(media)} {named}".strip())
    said = about.get("description", "") if "content" in about and "required" in about else ""
    return "; ".join(found) + (f". {said}" if said else "")
