"""Which rows a training set keeps: a vector's own `training:`, and what a caller asks for instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore import instants
from featurestore.catalog import sets_of
from featurestore.errors import RequestError, SpecError, did_you_mean

if TYPE_CHECKING:
    from featurestore.plans import TrainingPlan, VectorPlan

JOINS = ("left", "inner")


def training_rows(
    plan: VectorPlan, start: Any = None, end: Any = None, where: str | None = None, join: str | None = None
) -> TrainingPlan:
    """Return which rows to keep: what the arguments say, else what the vector's `training:` says.

    `where` may read any feature of the sets that the vector reads. Raises RequestError.
    """
    from featurestore.plans import TrainingPlan

    if join is not None and join not in JOINS:
        raise RequestError(f"join={join!r} is no kind of join.", hint=did_you_mean(str(join), JOINS))
    declared = plan.training
    condition = declared.where
    if where is not None and (condition is None or where != condition.text):
        from featurestore.compiler.training import compile_condition

        try:
            condition = compile_condition(where, plan, {item.name: item for item in sets_of(plan)})
        except SpecError as error:
            raise RequestError(f"where: {error.message}", hint=error.hint) from None
    first, last = instant_of(start), instant_of(end)
    return TrainingPlan(
        condition,
        declared.start if first is None else first,
        declared.end if last is None else last,
        declared.join if join is None else join,
    )


def instant_of(value: Any) -> int | None:
    """Return microseconds of an instant as users write it. Raises RequestError."""
    if value is None:
        return None
    try:
        return instants.parse_instant(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{value!r} is no instant: {error}") from None
