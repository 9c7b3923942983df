"""Preview: a feature set's graph over the rows of a frame, nothing stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore import instants
from featurestore.contracts import extension
from featurestore.plans import SetPlan

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Preview:
    """Features at each row's own event time, dead letters of what was refused, and counts of the rest.

    `checks` has, by check, how many rows it found wrong.
    """

    features: pl.DataFrame
    rejected: pl.DataFrame
    counts: dict[str, int]
    checks: dict[str, int] = field(default_factory=dict)


def preview(plan: SetPlan, frame: pl.DataFrame) -> Preview:
    """Return what the set makes of raw rows of its source, in the order of the rows."""
    import polars as pl

    from featurestore.rows.door import admit
    from featurestore.rows.transform import transform

    admitted = admit(plan.source, frame, now=instants.now(), either_half=True)
    done = transform(plan, admitted.rows)
    features: pl.DataFrame = extension("engines", "batch")().preview(plan, done.rows)
    counts = {
        k: v for k, v in {**admitted.counts, **done.counts}.items() if v and k not in ("rows", "rejected")
    }
    return Preview(features, pl.concat([admitted.rejected, done.rejected]), counts, done.checks)
