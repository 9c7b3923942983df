"""The names of offline tables, and of the positions in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.plans import SetPlan, SourcePlan

DEAD_LETTERS = "dead_letters"
REPLAYS = "dead_letters_replayed"
BATCH = "batch"
"""The partition of rows that were ingested: the offline commit numbers them."""

BEGUN = "begun:"
"""Where the reading of a stream's partition began is noted under this name with the partition's behind it."""

FORGOTTEN = "forgotten:"
"""What retention took is noted under this name (the instant) and this name with a partition's behind it."""

_INPUT = "input:"


def rows_table(plan: SetPlan) -> str:
    """Return the name of a feature set's offline table."""
    return f"{plan.name}-{plan.rows_fingerprint}"


def landing_table(source: SourcePlan) -> str:
    """Return the name of a stream source's landing table: another schema has another one."""
    schema = ",".join(f"{column.name} {column.type}" for column in source.schema)
    return f"landing-{source.name}-{hashlib.sha256(schema.encode()).hexdigest()[:12]}"


def input_position(digest: str) -> str:
    """Return the position that counts the rows consumed of one batch input."""
    return f"{_INPUT}rows:{digest}"


def input_done(digest: str) -> str:
    """Return the position that is 1 once a batch input has been consumed to its end."""
    return f"{_INPUT}done:{digest}"


def inputs_done(positions: Mapping[str, int]) -> list[str]:
    """Return the digests of the inputs that the positions count as consumed to their end."""
    start = input_done("")
    return [name.removeprefix(start) for name in positions if name.startswith(start)]


def input_name(name: str) -> str:
    """Return the position that tells which bytes a named input had."""
    return f"{_INPUT}name:{name}"


def landed_letters(partition: str, plan: SetPlan) -> str:
    """Return the position, among dead letters, of what a new version refused of a partition's landed rows."""
    return f"{_INPUT}landed:{partition}/{rows_table(plan)}"


def letters_position(source: str, partition: str) -> str:
    """Return the position, among dead letters, of a source's partition: several sources may share a topic."""
    return f"{partition} {source}"


def begun(partition: str) -> str:
    """Return the position that tells where the reading of a stream's partition began."""
    return f"{BEGUN}{partition}"


def row_partitions(positions: Mapping[str, int]) -> dict[str, int]:
    """Return the positions of partitions that rows stand in, without those of inputs and beginnings."""
    return {name: end for name, end in positions.items() if not name.startswith((_INPUT, BEGUN))}
