"""Which rows a training set keeps: a condition, a range of instants, and the kind of join."""

from __future__ import annotations

from collections.abc import Mapping

from featurestore.compiler.columns import by_name
from featurestore.compiler.lookups import check_seen_once, reads_base
from featurestore.compiler.request_keys import check_request, request_columns
from featurestore.compiler.sources import condition
from featurestore.errors import SpecError
from featurestore.instants import parse_instant
from featurestore.plans import Condition, Lookup, Selected, SetPlan, TrainingPlan, VectorPlan
from featurestore.specs.models import Training
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.types import DataType


def compile_training(
    declared: Training, plan: VectorPlan, sets: Mapping[str, SetPlan], problems: Problems, origin: Origin
) -> TrainingPlan:
    """Return which rows a vector's training sets keep; mistakes are noted in `problems`."""
    where, start, end = None, None, None
    with problems.collect(origin.where("training", "where"), "training.where"):
        where = None if declared.where is None else compile_condition(declared.where, plan, sets)
    with problems.collect(origin.where("training", "start"), "training.start"):
        start = _instant(declared.start)
    with problems.collect(origin.where("training", "end"), "training.end"):
        end = _instant(declared.end)
    if start is not None and end is not None and start >= end:
        message = f"training: no instant lies from {declared.start} on and before {declared.end}."
        problems.add(SpecError(message, where=origin.where("training"), hint="Swap start: and end:."))
    return TrainingPlan(where, start, end, declared.join)


def compile_condition(text: str, plan: VectorPlan, sets: Mapping[str, SetPlan]) -> Condition:
    """Return a condition on a vector's training rows.

    It may name outputs, inputs, the label, and `set.feature` of any of `sets`, online or not: what no look-up
    of the vector fetches is fetched for the condition alone. Raises SpecError.
    """
    known: dict[str, DataType] = {
        f"{feature_set.name}.{field.name}": field.type
        for feature_set in sets.values()
        for field in feature_set.features
    }
    known |= by_name(plan.inputs) | by_name(plan.outputs)
    if plan.label is not None:
        known[plan.label.output] = plan.label.type
    expression = condition(text, known)
    extra: dict[tuple[str, tuple[str, ...]], Lookup] = {}
    columns = []
    for column in sorted(expression.columns):
        set_name, dot, feature = column.partition(".")
        if not dot:
            columns.append((column, column))
            continue
        lookup = _lookup(sets[set_name], column, plan)
        output = next((item.output for item in lookup.features if item.feature == feature), None)
        if output is None:
            output = f"where {column}"
            key = (set_name, lookup.keys)
            before = extra[key].features if key in extra else ()
            selected = Selected(feature, output, known[column], hidden=True)
            extra[key] = Lookup(
                lookup.set,
                lookup.keys,
                (*before, selected),
                lookup.is_base,
                lookup.feature_keys,
                lookup.level,
            )
        columns.append((column, output))
    check_request([*plan.lookups, *extra.values()])
    check_seen_once(extra.values())
    return Condition(text, expression, tuple(columns), tuple(extra.values()))


def _lookup(feature_set: SetPlan, column: str, plan: VectorPlan) -> Lookup:
    """Return the look-up that `set.feature` is of: the only one of its set, else by the set's own keys."""
    same = [lookup for lookup in plan.lookups if lookup.set.name == feature_set.name]
    if len(same) == 1:
        return same[0]
    keys = request_columns(feature_set, {}, plan.base, by_name(plan.inputs))
    for lookup in same:
        if lookup.keys == keys and not lookup.feature_keys:
            return lookup
    if same:
        shown = " or ".join(lookup.features[0].output for lookup in same)
        raise SpecError(
            f"'{column}' could be by {' or by '.join(', '.join(lookup.keys) for lookup in same)}.",
            hint=f"Use the names that the vector gives them, such as {shown}.",
        )
    return Lookup(feature_set, keys, (), reads_base(feature_set, keys, plan.base))


def _instant(text: str | None) -> int | None:
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        message = str(error) if "time zone" in str(error) else f"'{text}' is no instant."
        raise SpecError(message, hint="Write 2026-01-01T00:00:00Z.") from None
