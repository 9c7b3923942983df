"""Versions of a source whose events one stream can read for all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from featurestore.plans import SourcePlan


def is_wider(wide: SourcePlan, narrow: SourcePlan) -> bool:
    """Tell whether rows read as `wide` serve sets of `narrow` as well: it has more columns at most."""

    def rest(plan: SourcePlan) -> SourcePlan:
        return replace(plan, schema=(), fingerprint="", batch=None, stream=None, future=0, max_bytes=0)

    topics = [None if plan.stream is None else plan.stream["topic"] for plan in (wide, narrow)]
    return topics[0] == topics[1] and rest(wide) == rest(narrow) and set(wide.schema) >= set(narrow.schema)


def widest(latest: SourcePlan, others: Iterable[SourcePlan]) -> SourcePlan:
    """Return the version of a source that has all columns of those that one stream feeds at once.

    It is the latest, unless another has more columns; `future:` and `max_bytes:` are always the latest's.
    """
    found = latest
    for other in others:
        if len(other.schema) > len(found.schema) and is_wider(other, found):
            found = other
    return replace(found, future=latest.future, max_bytes=latest.max_bytes)
