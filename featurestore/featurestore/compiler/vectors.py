"""A feature vector, resolved: look-ups, derived values, imputes, label (DESIGN 3.11, 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from featurestore.compiler.columns import by_name
from featurestore.compiler.fingerprints import fingerprint
from featurestore.compiler.imputes import FitNeed, Impute, Statistics, compile_impute, fitted
from featurestore.compiler.lookups import Lookups, check_seen_once
from featurestore.compiler.request_keys import check_request, request_columns
from featurestore.compiler.selectors import Choice, Selector, compile_selector, find_set
from featurestore.compiler.training import compile_training
from featurestore.errors import SpecError
from featurestore.expressions import parse
from featurestore.instants import parse_duration
from featurestore.plans import DerivedValue, LabelPlan, Lookup, SetPlan, TrainingPlan, VectorPlan
from featurestore.specs.models import FeatureSelection, FeatureVector
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.types import DataType, Field


class NotFitted(SpecError):
    """A declaration is right, but values that it takes from data are not fitted yet.

    `name` is what to fit, `needs` what is missing, `plan` the vector without its imputes: what is fitted
    is computed from it. None where a set, or a set of the vector, comes first.
    """

    code = "not_fitted"

    def __init__(
        self,
        name: str,
        message: str,
        *,
        where: str,
        needs: tuple[FitNeed, ...] = (),
        plan: VectorPlan | None = None,
    ) -> None:
        self.name = name
        self.needs = needs
        self.plan = plan
        super().__init__(message, where=where, hint=f"Run: featurestore fit {name}")


def compile_vector(
    vector: FeatureVector,
    sets: Mapping[str, SetPlan],
    *,
    project: str,
    fits: Mapping[str, Statistics] | None = None,
    origin: Origin | None = None,
) -> VectorPlan:
    """Return the plan of a vector over compiled sets.

    `fits` holds fitted statistics by the vector's name, then output, then statistic. Raises SpecErrors,
    and NotFitted where a statistic is missing and all else is right.
    """
    origin = origin or Origin(f"vector '{vector.name}'")
    builder = _Builder(vector, sets, project, origin)
    plan = builder.plan()
    imputes = builder.imputes(plan)
    builder.problems.check()
    values: list[tuple[str, Any]] = []
    missing: list[FitNeed] = []
    statistics = (fits or {}).get(vector.name, {})
    for impute in imputes:
        name = impute.output.name
        if impute.statistic is None:
            values.append((name, impute.constant))
        elif impute.statistic not in statistics.get(name, {}):
            missing.append(FitNeed(name, impute.statistic))
        elif (value := fitted(statistics[name][impute.statistic], impute.output.type)) is not None:
            values.append((name, value))
    if missing:
        shown = ", ".join(f"${need.statistic} of '{need.output}'" for need in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NotFitted(
            vector.name,
            f"impute: {shown}{more} {'is' if len(missing) == 1 else 'are'} not fitted.",
            where=origin.where("impute"),
            needs=tuple(missing),
            plan=_stamped(plan),
        )
    return _stamped(dataclasses.replace(plan, impute=tuple(values)))


def fit_needs(vector: FeatureVector, plan: VectorPlan) -> tuple[FitNeed, ...]:
    """Return every statistic that a vector's imputes refer to, fitted or not, in the outputs' order."""
    needs = [
        FitNeed(impute.output.name, impute.statistic)
        for key in vector.impute
        for impute in compile_impute(vector.impute, key, plan.outputs)
        if impute.statistic is not None
    ]
    order = [field.name for field in plan.outputs]
    return tuple(sorted(needs, key=lambda need: order.index(need.output)))


class _Builder:
    """Resolves one vector; mistakes are collected in `problems`."""

    def __init__(
        self, vector: FeatureVector, sets: Mapping[str, SetPlan], project: str, origin: Origin
    ) -> None:
        self.vector = vector
        self.sets = sets
        self.project = project
        self.origin = origin
        self.problems = Problems()
        self.inputs = {name: DataType.parse(text) for name, text in vector.inputs.items()}
        self.base: SetPlan | None = None
        self.outputs: dict[str, Field] = {}
        self.made_by: dict[str, str] = {}

    def plan(self) -> VectorPlan:
        """Return the vector without imputes and fingerprint."""
        with self.problems.collect(self.origin.where("base"), "base"):
            self.base = self._base()
        label = None
        with self.problems.collect(self.origin.where("label"), "label"):
            label = self._label()
        left_out = frozenset({(label.set.name, label.feature)} if label else ())
        found = Lookups(self.sets, self.base, self.inputs, self.vector.derive)
        for index, entry in enumerate(self.vector.features):
            with self._features(index):
                self._select(index, entry, left_out, found)
        self.problems.check()  # what follows would only repeat them
        numbers = range(len(self.vector.features))
        chained: list[int] = []
        for index in numbers:
            with self._features(index):
                if found.is_chained(index):
                    chained.append(index)
                else:
                    found.group(index)
        self.problems.check()
        for index in chained:
            with self._features(index):
                found.group(index)
        self.problems.check()
        derived = tuple(self._derive(found))
        lookups = found.plans()
        with self.problems.collect(self.origin.where("features"), "features"):
            check_request(lookups)
        with self.problems.collect(self.origin.where("base"), "base"):
            check_seen_once(lookups)
        self._check_outputs(lookups, label)
        self.problems.check()
        plan = VectorPlan(
            name=self.vector.name,
            project=self.project,
            fingerprint="",
            base=self.base,
            lookups=lookups,
            inputs=tuple(Field(name, kind) for name, kind in self.inputs.items()),
            derived=derived,
            label=label,
            impute=(),
            outputs=tuple(self.outputs.values()),
        )
        if self.vector.training is None:
            return plan
        training = compile_training(self.vector.training, plan, self.sets, self.problems, self.origin)
        self.problems.check()
        return dataclasses.replace(plan, training=training)

    def _features(self, index: int) -> AbstractContextManager[None]:
        """Return a context that notes a mistake as one of an entry of `features:`."""
        return self.problems.collect(self.origin.where("features", index), f"features[{index}]")

    def imputes(self, plan: VectorPlan) -> list[Impute]:
        """Return what is given for null, in the outputs' order."""
        found: list[Impute] = []
        for key in self.vector.impute:
            with self.problems.collect(self.origin.where("impute", key), f"impute.{key}"):
                found += compile_impute(self.vector.impute, key, plan.outputs)
        order = [field.name for field in plan.outputs]
        return sorted(found, key=lambda impute: order.index(impute.output.name))

    def _base(self) -> SetPlan | None:
        if self.vector.base is None:
            return None
        base = find_set(self.vector.base, self.sets)
        if base.source.event_time is None:
            raise SpecError(
                f"the rows of '{base.name}' have no time: its source has event_time: always.",
                hint="Choose a set with an event time, or leave base: out.",
            )
        if base.steps.explodes:
            raise SpecError(
                f"explode makes several rows of one in '{base.name}', and a vector scores one.",
                hint="Choose a set without explode as base:, and look this one up.",
            )
        return base

    def _label(self) -> LabelPlan | None:
        declared = self.vector.labelled
        if declared is None:
            return None
        text = declared.feature
        selector = compile_selector(text, self.sets, frozenset())
        if len(selector.choices) != 1 or text.split(" ")[0].endswith("*"):
            raise SpecError(f"'{text}' is no single feature.", hint="Write set.feature.")
        (choice,), plan = selector.choices, selector.set
        base, offset = self.base, parse_duration(declared.offset)
        if declared.pending != "hide" and not offset:
            raise SpecError(
                f"pending: {declared.pending} is of a label with an offset, and this one has none.",
                hint="Add offset:, such as 7d, or leave pending: out.",
            )
        by_event_id = (
            base is not None
            and not offset
            and bool(plan.source.event_id)
            and plan.source.fingerprint == base.source.fingerprint
        )
        if by_event_id and plan.steps.explodes:
            raise SpecError(
                f"explode gives the rows of '{plan.name}' ids of their own, so none is the base row's.",
                hint="Take the label from a set without explode.",
            )
        return LabelPlan(
            set=plan,
            feature=choice.feature,
            output=choice.output,
            type=by_name(plan.features)[choice.feature],
            keys=request_columns(plan, {}, base, self.inputs),
            by_event_id=by_event_id,
            offset=offset,
            pending=declared.pending,
        )

    def _select(
        self,
        index: int,
        entry: str | FeatureSelection,
        left_out: frozenset[tuple[str, str]],
        found: Lookups,
    ) -> None:
        selector = compile_selector(entry, self.sets, left_out)
        types = by_name(selector.set.features)
        place = f"features[{index}] ({selector.text})"
        chosen: list[Choice] = []
        clashes: dict[str, list[str]] = {}
        for choice in selector.choices:
            if choice.output in self.made_by:
                clashes.setdefault(self.made_by[choice.output], []).append(choice.output)
                continue
            self.made_by[choice.output] = place
            self.outputs[choice.output] = Field(choice.output, types[choice.feature])
            chosen.append(choice)
        found.declare(index, selector, chosen)
        for other, names in clashes.items():
            shown = ", ".join(f"'{name}'" for name in names[:5]) + (", …" if len(names) > 5 else "")
            message = f"{shown} {'is' if len(names) == 1 else 'are'} already made by {other}."
            raise SpecError(message, hint=_renamed(entry, selector))

    def _derive(self, found: Lookups) -> list[DerivedValue]:
        """Return the derived values; what they need and nothing selects is fetched unseen."""
        qualified = {
            f"{plan.name}.{field.name}": field.type
            for plan in self.sets.values()
            if plan.online
            for field in plan.features
        }
        values: list[DerivedValue] = []
        for name, text in self.vector.derive.items():
            known = {**qualified, **by_name(self.outputs.values()), **self.inputs}
            with self.problems.collect(self.origin.where("derive", name), f"derive.{name}"):
                if name in self.made_by or name in self.inputs:
                    what = f"made by {self.made_by[name]}" if name in self.made_by else "an input"
                    raise SpecError(f"'{name}' is already {what}.", hint="Give the value another name.")
                expression = parse(text, known)
                columns = tuple(
                    (column, found.read(column) if "." in column else column)
                    for column in sorted(expression.columns)
                )
                values.append(DerivedValue(name, expression, columns))
                self.made_by[name] = f"derive.{name}"
                self.outputs[name] = Field(name, expression.type)
        return values

    def _check_outputs(self, lookups: tuple[Lookup, ...], label: LabelPlan | None) -> None:
        """Note outputs that a training set could not tell from its other columns."""
        taken = dict.fromkeys(self.inputs, "an input")
        if self.base is None:
            taken |= {column: "a key of the request" for lookup in lookups for column in lookup.given_keys}
            taken |= dict.fromkeys(label.keys if label else (), "a key of the label")
        for name in self.outputs:
            if name in taken:
                message = f"features: '{name}' is the name of {taken[name]} as well."
                hint = f"Name the feature otherwise: 'set.{name} as …'."
                self.problems.add(SpecError(message, where=self.origin.where("features"), hint=hint))
        if label is None or not (label.output in self.outputs or label.output in taken):
            return
        reason = f"the name of {taken.get(label.output)} as well."
        if label.output in self.outputs:
            reason = f"already made by {self.made_by[label.output]}."
        hint = f"Name it otherwise: {label.set.name}.{label.feature} as label."
        message = f"label: '{label.output}' is {reason}"
        self.problems.add(SpecError(message, where=self.origin.where("label"), hint=hint))


def _renamed(entry: str | FeatureSelection, selector: Selector) -> str:
    """Return the fix for names that are taken: the entry with a name of its own."""
    name = selector.set.name
    if isinstance(entry, FeatureSelection):
        return f"Add as: {name}_*." if entry.as_ is None else "Choose another as:."
    body = entry.split(" as ")[0].strip()
    if body.endswith("*"):
        return f"Write '{body} as {name}_*'."
    return f"Write '{body} as {name}_{selector.choices[0].feature}'."


def _stamped(plan: VectorPlan) -> VectorPlan:
    """Return the plan with its fingerprint: of its sets' states and of all that shapes its values."""
    content: dict[str, Any] = {
        "base": _identity(plan.base) if plan.base else None,
        "lookups": [
            [
                _identity(lookup.set),
                lookup.keys,
                [[item.feature, item.output, item.hidden] for item in lookup.features],
                lookup.is_base,
                *([lookup.feature_keys] if lookup.feature_keys else []),
            ]
            for lookup in plan.lookups
        ],
        "inputs": [[field.name, str(field.type)] for field in plan.inputs],
        "derived": [[item.name, item.expression.sql, item.columns] for item in plan.derived],
        "label": [_identity(plan.label.set), plan.label.feature, plan.label.output, plan.label.keys]
        if plan.label
        else None,
        "impute": plan.impute,
        "outputs": [[field.name, str(field.type)] for field in plan.outputs],
    }
    if plan.label is not None and plan.label.offset:
        content["label"] += [plan.label.offset, plan.label.pending]
    training = plan.training
    if training != TrainingPlan():
        where = training.where
        content["training"] = {
            "where": None if where is None else [where.expression.sql, where.columns],
            "sets": [] if where is None else [[_identity(x.set), x.keys] for x in where.lookups],
            "rows": [training.start, training.end, training.join],
        }
    return dataclasses.replace(plan, fingerprint=fingerprint(content))


def _identity(plan: SetPlan) -> list[str]:
    return [plan.name, plan.state_fingerprint]
