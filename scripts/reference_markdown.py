"""Markdown for scripts/reference.py: pages, tables, values and types as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

NOTE = "<!-- Written by scripts/reference.py from the code. Change the code, then run: make docs -->"

COLUMN = r"^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*$"
"""The pattern of a column's name."""


def page(title: str, *parts: str) -> str:
    """Return a page's text: the title, the note that it is generated, the parts."""
    return "\n\n".join([f"# {title}", NOTE, *(part.strip("\n") for part in parts if part)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def flow(value: Any) -> str:
    """Return a value as one line of YAML."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else repr(value)
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w/]*|\d+[smhdw]", text) and text.lower() not in ("true", "false", "null"):
        return text
    if '"' in text and not re.search(r"['\\\n]", text):
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)


def code(text: str) -> str:
    """Return text as a code span; empty text stays empty."""
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}" if text else ""


def kind(schema: Mapping[str, Any]) -> str:
    """Return what a property takes, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return code(flow(schema["const"]))
    if "enum" in schema:
        named = [code(item if item == "null" else flow(item)) for item in schema["enum"]]
        return "a type" if "`int64`" in named else ", ".join(named)
    if "oneOf" in schema and len(schema["oneOf"]) > 6:
        return "a [step](steps.md)"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            if any("int64" in branch.get("enum", ()) for branch in schema[union]):
                return "a type"
            options = dict.fromkeys(kind(branch) for branch in schema[union] if branch.get("type") != "null")
            if "a number" in options:
                options.pop("a whole number", None)
            return "a value" if len(options) > 2 and "a number" in options else " or ".join(options)
    found = schema.get("type")
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {kind(schema['prefixItems'][0])}"
    if found == "array":
        items = schema.get("items") or {}
        every = "a list of" if "enum" in items else "a list, each"
        return f"{every} {kind(items)}" if items else "a list"
    if found == "object":
        more = schema.get("additionalProperties")
        to = kind(more) if isinstance(more, Mapping) and more else "a value"
        return "a mapping" if to == "a value" else f"a mapping to {to}"
    if "90s" in schema.get("examples", ()):
        return "a duration"
    if schema.get("pattern") == COLUMN:
        return "a name"
    return {
        "string": "text",
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
    }.get(str(found), "a value")
