"""A source's stream half: where it begins, what its messages are made of, what its options may say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from featurestore.errors import SpecError, did_you_mean
from featurestore.instants import parse_instant
from featurestore.rows import avro
from featurestore.specs.models import Source, StreamHalf
from featurestore.steps import tables
from featurestore.types import DataType, Field

STARTS = ("earliest", "latest")
_SECURITY = re.compile(r"^(sasl|ssl|security)\.|password|secret|token", re.IGNORECASE)


def check_stream(half: StreamHalf) -> Iterator[tuple[Any, ...]]:
    """Yield each mistake of a stream half, and the path to it below `stream:`."""
    if half.start not in STARTS:
        try:
            parse_instant(half.start)
        except ValueError as error:
            said = str(error) if "time zone" in str(error) else f"'{half.start}' is no beginning."
            yield (
                SpecError(said, hint="Write earliest, latest, or an instant: 2026-01-01T00:00:00Z."),
                "start",
            )
    for name in half.options:
        if _SECURITY.search(name):
            # What is applied is kept for ever, and shown; a project's settings are neither.
            yield (
                SpecError(
                    f"'{name}' belongs to the project's settings, for declarations are stored and shown.",
                    hint=f'Write it in featurestore.yaml: stream: {{options: {{{name}: "${{…}}"}}}}',
                ),
                "options",
                name,
            )
    framing = half.options.get("framing")
    if framing is not None and half.format != "avro":
        yield SpecError("framing: is of Avro messages.", hint="Remove it."), "options", "framing"
    elif framing not in (None, *avro.FRAMINGS):
        yield (
            SpecError(f"'{framing}' is no framing.", hint=did_you_mean(str(framing), avro.FRAMINGS)),
            "options",
            "framing",
        )


def schema_of(source: Source, columns: Mapping[str, DataType]) -> tuple[str, dict[str, SpecError]]:
    """Return the Avro schema's text, and by column what is wrong. Raises SpecError where it is no schema.

    An applied version holds the text, and was checked when it was applied.
    """
    half = source.stream
    assert half is not None
    assert half.schema_ is not None
    if half.definition is not None:
        return half.definition, {}
    text = avro.read(tables.root(), half.schema_)
    found = avro.fields(text)
    epoch = half.options.get("epoch")
    misfits = {
        name: error
        for name, kind in columns.items()
        if (error := avro.misfit(Field(name, kind), found, source.timezone, epoch)) is not None
    }
    return text, misfits
