"""A whole project, resolved; and the closure of one object, from which it is resolved again (DESIGN 4, 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from featurestore.compiler.entities import check_entity
from featurestore.compiler.imputes import Statistics
from featurestore.compiler.selectors import set_of
from featurestore.compiler.sets import Rows, compile_set
from featurestore.compiler.sources import compile_source
from featurestore.compiler.vectors import NotFitted, compile_vector
from featurestore.errors import SpecError, UnknownName, did_you_mean
from featurestore.plans import SetPlan, SourcePlan, VectorPlan
from featurestore.specs.loaded import Loaded, LoadedProject
from featurestore.specs.models import Declaration, Entity, FeatureSet, FeatureVector, Source
from featurestore.specs.origins import Origin
from featurestore.specs.problems import Problems
from featurestore.specs.validation import declaration
from featurestore.steps import tables
from featurestore.steps.plan import Join as Joined
from featurestore.types import Field

PROJECT = "Project"
"""The kind of the first entry of a bundle, which names the project."""


@dataclass(frozen=True)
class CompiledProject:
    """What a project's declarations compile to, each by its name.

    `unfitted` holds, for objects that await `featurestore fit`, the error that says so.
    """

    name: str
    entities: dict[str, Entity]
    sources: dict[str, SourcePlan]
    sets: dict[str, SetPlan]
    vectors: dict[str, VectorPlan]
    unfitted: dict[str, NotFitted] = field(default_factory=dict)
    declarations: dict[tuple[str, str], Declaration] = field(default_factory=dict)

    def feature_set(self, name: str) -> SetPlan:
        """Return a set's plan. Raises UnknownName, and NotFitted where it awaits a fit."""
        return _find("feature set", name, self.sets, self.unfitted)

    def vector(self, name: str) -> VectorPlan:
        """Return a vector's plan. Raises UnknownName, and NotFitted where it awaits a fit."""
        return _find("vector", name, self.vectors, self.unfitted)

    @property
    def unfitted_sets(self) -> list[str]:
        """The names of feature sets whose steps await a fit."""
        return [name for kind, name in self.declarations if kind == "FeatureSet" and name in self.unfitted]

    def bundle(self, name: str) -> list[dict[str, Any]]:
        """Return the declarations that an object depends on, then its own, as JSON values.

        The object is a vector, a set, a source or an entity. The project comes first, and what is needed
        before what needs it. `compile_bundle` takes it back; the order of keys matters, so store text.
        """
        closure = _Closure(self)
        closure.add(name)
        return [{"kind": PROJECT, "name": self.name}, *closure.found.values()]

    def declared(self, item: Declaration) -> dict[str, Any]:
        """Return a declaration as JSON values; a source holds its Avro schema, so that it needs no file."""
        data = item.model_dump(mode="json", by_alias=True)
        if isinstance(item, Source):
            self._keep_schema(item, data)
        elif isinstance(item, FeatureSet) and isinstance(item.source, Source):
            self._keep_schema(item.source, data["source"])
        return data

    def _keep_schema(self, source: Source, data: dict[str, Any]) -> None:
        plan = self.sources.get(source.name)
        if plan is not None and plan.stream is not None and "definition" in plan.stream:
            data["stream"]["definition"] = plan.stream["definition"]


PlanT = TypeVar("PlanT", SetPlan, VectorPlan)


def _find(what: str, name: str, plans: Mapping[str, PlanT], unfitted: Mapping[str, NotFitted]) -> PlanT:
    if name in plans:
        return plans[name]
    if name in unfitted:
        raise unfitted[name]
    raise UnknownName(f"There is no {what} '{name}'.", hint=did_you_mean(name, plans))


def compile_project(loaded: LoadedProject, fits: Mapping[str, Statistics] | None = None) -> CompiledProject:
    """Return the plans of all that a project declares; `python` steps may be in its folder.

    `fits` holds fitted statistics by object, then output, then statistic. Raises SpecErrors with every
    mistake; what is right but not fitted is in `unfitted`.
    """
    from featurestore.specs.python_files import importable  # which a stored closure does without

    with importable(loaded.root), tables.folder(loaded.root):
        return compile_declarations(loaded.name, loaded.declarations, fits)


def compile_bundle(
    bundle: Sequence[Mapping[str, Any]], fits: Mapping[str, Statistics] | None = None
) -> CompiledProject:
    """Return the plans of a stored closure of declarations, as `CompiledProject.bundle` gave it."""
    name = ""
    loaded = []
    for data in bundle:
        if data.get("kind") == PROJECT:
            name = str(data["name"])
            continue
        origin = Origin(f"{data.get('kind')} '{data.get('name')}'")
        loaded.append(Loaded(declaration(dict(data), origin), origin))
    return compile_declarations(name, loaded, fits)


def compile_declarations(
    project: str, loaded: Iterable[Loaded], fits: Mapping[str, Statistics] | None = None
) -> CompiledProject:
    """Return the plans of declarations, whatever their order. Raises SpecErrors with every mistake."""
    return _Compiler(project, fits).run(loaded)


class _Compiler:
    """Compiles a project's objects in the order of their dependence; mistakes are collected."""

    def __init__(self, project: str, fits: Mapping[str, Statistics] | None) -> None:
        self.fits = fits
        self.problems = Problems()
        self.origins: dict[tuple[str, str], Origin] = {}
        self.sources: dict[str, Source] = {}
        self.sets: dict[str, FeatureSet] = {}
        self.vectors: dict[str, FeatureVector] = {}
        self.rows: dict[str, Rows] = {}
        self.done: set[str] = set()
        self.result = CompiledProject(project, {}, {}, {}, {})

    def run(self, loaded: Iterable[Loaded]) -> CompiledProject:
        for item in loaded:
            self.declare(item.declaration, item.origin)
        for feature_set in self.sets.values():
            if isinstance(feature_set.source, Source):
                self.inline(feature_set.source, self.origins["FeatureSet", feature_set.name].below("source"))
        for name, entity in self.result.entities.items():
            with self.problems.collect():
                check_entity(entity, self.origins["Entity", name])
        for name, source in self.sources.items():
            with self.problems.collect():
                self.result.sources[name] = compile_source(source, self.origins["Source", name])
        for name in self.sets:
            self.feature_set(name, ())
        for name in self.vectors:
            self.vector(name)
        self.problems.check()
        return self.result

    def declare(self, item: Declaration, origin: Origin) -> None:
        """Note a declaration by its kind and name; a name is one object's."""
        kinds = (
            ("FeatureSet", "FeatureVector") if isinstance(item, (FeatureSet, FeatureVector)) else (item.kind,)
        )
        for kind in kinds:
            if (first := self.origins.get((kind, item.name))) is not None:
                is_same = kind == item.kind
                what = "" if is_same else f", as a {kind}"
                message = f"{item.kind} '{item.name}' is declared already, at {first.where()}{what}."
                self.problems.add(
                    SpecError(message, where=origin.where("name"), hint="Rename one of the two.")
                )
                if is_same:
                    return
        self.origins[item.kind, item.name] = origin
        self.result.declarations[item.kind, item.name] = item
        if isinstance(item, Entity):
            self.result.entities[item.name] = item
        elif isinstance(item, Source):
            self.sources[item.name] = item
        elif isinstance(item, FeatureSet):
            self.sets[item.name] = item
        else:
            self.vectors[item.name] = item

    def inline(self, source: Source, origin: Origin) -> None:
        """Note a source written inside a set; the same source twice is one."""
        if self.sources.get(source.name) != source:
            self.declare(source, origin)

    def feature_set(self, name: str, above: tuple[str, ...]) -> None:
        """Compile a set, and the sets that it is chained to first. A broken one leaves no plan."""
        if name in self.done:
            return
        declared, origin = self.sets[name], self.origins["FeatureSet", name]
        if name in above:
            self.done.add(name)
            chain = " → ".join([*above[above.index(name) :], name])
            message = f"source: the feature sets read one another: {chain}."
            self.problems.add(
                SpecError(message, where=origin.where("source"), hint="One must read a source.")
            )
            return
        rows = self.read_by(declared, origin, above)
        if name in self.done or rows is None:
            self.done.add(name)
            return
        self.done.add(name)
        with self.problems.collect():
            try:
                self.result.sets[name] = compile_set(
                    declared,
                    self.result.entities,
                    rows,
                    project=self.result.name,
                    fits=self.fits,
                    origin=origin,
                )
            except NotFitted as error:
                self.result.unfitted[name] = error
            self.rows[name] = rows.below(declared, origin)

    def read_by(self, declared: FeatureSet, origin: Origin, above: tuple[str, ...]) -> Rows | None:
        """Return what a set reads; None where that is broken, which is said elsewhere, or not there."""
        name = declared.source if isinstance(declared.source, str) else declared.source.name
        if name in self.sources:
            plan = self.result.sources.get(name)
            return Rows(plan) if plan else None
        if name in self.sets:
            self.feature_set(name, (*above, declared.name))
            return self.rows.get(name)
        hint = did_you_mean(name, [*self.sources, *(other for other in self.sets if other != declared.name)])
        message = f"source: there is no source or feature set '{name}'."
        self.problems.add(SpecError(message, where=origin.where("source"), hint=hint))
        return None

    def vector(self, name: str) -> None:
        """Compile a vector, unless a set that it reads is broken, which is said already."""
        declared, origin = self.vectors[name], self.origins["FeatureVector", name]
        without = [
            used for used in self.used_by(declared) if used in self.sets and used not in self.result.sets
        ]
        if all(used in self.result.unfitted for used in without):
            for used in sorted(without):
                first = self.result.unfitted[used].name
                message = f"it reads feature set '{used}', whose steps are not fitted."
                self.result.unfitted[name] = NotFitted(first, message, where=origin.where("features"))
        if without:
            return
        try:
            self.result.vectors[name] = compile_vector(
                declared,
                self.result.sets,
                project=self.result.name,
                fits=self.fits,
                origin=origin,
            )
        except NotFitted as error:
            self.result.unfitted[name] = error
        except SpecError as error:
            self.problems.add(error)

    def used_by(self, vector: FeatureVector) -> set[str]:
        """Return the names of sets that a vector may mention."""
        label, training = vector.labelled, vector.training
        texts = " ".join(
            [
                *vector.derive.values(),
                label.feature if label else "",
                training.where or "" if training else "",
                *(key for e in vector.features if not isinstance(e, str) for key in e.keys.values()),
            ]
        )
        used = set(re.findall(r"\b([a-z_][a-z0-9_]*)\.", texts))
        used |= {name for entry in vector.features if (name := set_of(entry)) is not None}
        return used | ({vector.base} if vector.base else set())


class _Closure:
    """The declarations that an object needs, each after those that it needs itself."""

    def __init__(self, project: CompiledProject) -> None:
        self.project = project
        self.found: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, name: str) -> None:
        """Add the vector, set, source or entity of that name, the first of these that there is."""
        kinds = ("FeatureVector", "FeatureSet", "Source", "Entity")
        for kind in kinds:
            item = self.project.declarations.get((kind, name))
            if item is not None:
                self.add_declared(item)
                return
        known = [other for _, other in self.project.declarations]
        raise UnknownName(f"There is no object '{name}'.", hint=did_you_mean(name, known))

    def add_declared(self, item: Declaration) -> None:
        if isinstance(item, FeatureVector):
            for name in self.sets_of(item.name):
                self.add_declared(self.project.declarations["FeatureSet", name])
        elif isinstance(item, FeatureSet):
            for name in item.key_columns:
                self.add_declared(self.project.declarations["Entity", name])
            source = item.source if isinstance(item.source, str) else item.source.name
            self.add_declared(
                self.project.declarations.get(("Source", source))
                or self.project.declarations["FeatureSet", source]
            )
        data = self.project.declared(item)
        if isinstance(item, FeatureSet):
            self.keep_tables(item, data)
        self.found.setdefault((item.kind, item.name), data)

    def keep_tables(self, item: FeatureSet, data: dict[str, Any]) -> None:
        """Put the rows of the set's static tables into its declaration, so that it needs no file."""
        from featurestore.steps.library import Join

        joins = [place for place, step in enumerate(item.steps) if isinstance(step, Join)]
        compiled = self.project.sets.get(item.name)
        if not joins or compiled is None:
            return
        operations = [op for op in compiled.steps.ops if isinstance(op, Joined)]
        for place, op in zip(joins, operations[-len(joins) :], strict=True):
            parameters = data["steps"][place][Join.key]
            prefix = len(parameters.get("prefix", ""))
            outputs = [Field(field.name[prefix:], field.type) for field in op.outputs]
            parameters["data"] = tables.text_of(op.on, outputs, op.table)

    def sets_of(self, vector: str) -> list[str]:
        """Return the names of the sets that a compiled vector reads, each once, in order."""
        plan = self.project.vectors.get(vector)
        if plan is None:
            error = self.project.unfitted[vector]
            if error.plan is None:
                raise error
            plan = error.plan
        plans = [*([plan.base] if plan.base else []), *(lookup.set for lookup in plan.lookups)]
        if plan.label:
            plans.append(plan.label.set)
        if plan.training.where:
            plans += [lookup.set for lookup in plan.training.where.lookups]
        return list(dict.fromkeys(item.name for item in plans))
