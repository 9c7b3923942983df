"""What the steps of a feature set take from data: what is fitted for each, and what is missing (DESIGN 4).

A fit of a set holds, under `steps[2].amount`, the statistics of the column that the set's step 2 reads. It
is found again by a fingerprint of the source, and of the steps down to the last that is fitted: as long as
these are the same, it is a fit of the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.compiler.fingerprints import fingerprint
from featurestore.compiler.imputes import Statistics
from featurestore.compiler.vectors import NotFitted
from featurestore.plans import SourcePlan
from featurestore.steps.base import Step
from featurestore.steps.compiler import Fitted, compile_steps
from featurestore.steps.plan import FitNeed, StepPlan

if TYPE_CHECKING:
    from featurestore.compiler.sets import Rows


@dataclass(frozen=True)
class StepsToFit:
    """All that is needed to fit a set's steps: what each needs, and what is fitted for those before."""

    name: str
    source: SourcePlan
    steps: tuple[Step, ...]
    fitted: tuple[Fitted, ...]
    needs: tuple[FitNeed, ...]
    labels: tuple[str, ...]
    """Of each need, what its values are stored under."""
    fingerprint: str


class StepsNotFitted(NotFitted):
    """Steps of a set await a fit. `steps` says of what; None where a set that it reads comes first."""

    steps: StepsToFit | None = None


def fitted_steps(owners: Sequence[tuple[str, int]], fits: Mapping[str, Statistics]) -> tuple[Fitted, ...]:
    """Return what is fitted for each step, by column."""
    found = []
    for name, index in owners:
        prefix = f"steps[{index}]."
        found.append(
            {
                label.removeprefix(prefix): values
                for label, values in fits.get(name, {}).items()
                if label.startswith(prefix)
            }
        )
    return tuple(found)


def steps_not_fitted(
    name: str, source: SourcePlan, rows: Rows, plan: StepPlan, fitted: tuple[Fitted, ...]
) -> StepsNotFitted:
    """Return the error that says what is to be fitted for a set, or for the set that it reads."""
    first = plan.needs[0]
    owner, index = rows.owners[first.step]
    if owner != name:
        message = f"it reads '{owner}', steps of which are not fitted."
        return StepsNotFitted(owner, message, where=rows.places[-1])
    labels = tuple(f"steps[{rows.owners[need.step][1]}].{need.column.name}" for need in plan.needs)
    last = plan.needs[-1].step + 1
    content = {
        "source": source.fingerprint,
        "steps": compile_steps(rows.steps[:last], source.schema, fits=fitted).text,
        "needs": [
            [label, str(need.column.type), need.statistics]
            for label, need in zip(labels, plan.needs, strict=True)
        ],
    }
    shown = ", ".join(
        f"{' and '.join(need.statistics)} of '{need.column.name}'" for need in plan.needs[:3]
    ) + (f" and {len(plan.needs) - 3} more" if len(plan.needs) > 3 else "")
    several = len(plan.needs) > 1 or len(first.statistics) > 1
    error = StepsNotFitted(
        name,
        f"steps[{index}]: {shown} {'are' if several else 'is'} not fitted.",
        where=rows.places[first.step],
    )
    error.steps = StepsToFit(name, source, rows.steps, fitted, plan.needs, labels, fingerprint(content))
    return error
