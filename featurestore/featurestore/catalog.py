"""Applied versions, resolved and compiled: what a name, a tag or a fingerprint stands for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from featurestore.errors import OperatorError, RequestError
from featurestore.tags import LATEST, NEXT, PREVIOUS

if TYPE_CHECKING:
    from featurestore.compiler import CompiledProject
    from featurestore.environment import Environment
    from featurestore.plans import SetPlan, SourcePlan, VectorPlan
    from featurestore.registry.versions import Version
    from featurestore.specs import Loaded

SERVING_SECONDS = 2.0
"""How long what a name stands for, or what serves, is used before the registry is asked again."""

DECLARATIONS = "declarations"
FUNCTIONS = "functions"  # in a version's bundle: python functions, and the digests of their modules

AD_HOC = "ad-hoc"  # the vector of a list of references; no feature set can have this name


class Catalog:
    """Plans of applied versions. A version never changes, so each is compiled once."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._compiled: dict[tuple[str, str, str], CompiledProject] = {}
        self._versions: dict[tuple[str, str, str], Version] = {}
        self._serving: dict[tuple[str, str], tuple[float, str]] = {}
        self._pushed: dict[str, tuple[float, SourcePlan]] = {}

    def feature_set(self, reference: str) -> SetPlan:
        """Return the plan of a feature set: `name`, `name@tag` or `name@fingerprint`."""
        version = self._resolve("FeatureSet", reference)
        return self._compile(version).feature_set(version.name)

    def vector(self, reference: str) -> VectorPlan:
        """Return the plan of a feature vector: `name`, `name@tag` or `name@fingerprint`."""
        version = self._resolve("FeatureVector", reference)
        return self._compile(version).vector(version.name)

    def selection(self, features: list[str]) -> VectorPlan:
        """Return the plan of a vector of references such as `set.feature`, over the latest sets."""
        from featurestore.compiler import compile_declarations
        from featurestore.specs import FeatureVector, Loaded, Origin

        names = sorted({reference.split(".", 1)[0] for reference in features if "." in reference})
        pointers = self._environment.registry.pointers(self._environment.project)  # all as of one moment
        loaded: list[Loaded] = []
        seen: set[tuple[str, str]] = set()
        fits: dict[str, Any] = {}
        for name in names:
            latest = pointers.get(("FeatureSet", name), {}).get(LATEST)
            version = self._resolve("FeatureSet", name if latest is None else f"{name}@{latest}")
            fits |= self._fits(version)
            for key, item in self._compile(version).declarations.items():
                if key not in seen:
                    seen.add(key)
                    loaded.append(Loaded(item, Origin(f"{key[0]} '{key[1]}'")))
        if not features:
            raise RequestError("A vector needs at least one feature.", hint="Name some as set.feature.")
        vector = FeatureVector(name=AD_HOC, features=tuple(features))
        loaded.append(Loaded(vector, Origin("features")))
        return compile_declarations(self._environment.project, loaded, fits).vector(AD_HOC)

    def names(self, kind: str) -> list[str]:
        """Return the names of the applied objects of a kind."""
        state = self._environment.registry.state(self._environment.project)
        return sorted(name for found, name in state if found == kind)

    def live_sets(self, name: str | None = None) -> list[SetPlan]:
        """Return the set versions that are kept current: the latest, those with a tag, and what vectors pin.

        A vector is live in its latest version and in those with a tag, removed or not. The tag `next` keeps
        nothing current: what has it is being filled.
        """
        from featurestore.steps import functions

        pointers = sorted(self._environment.registry.pointers(self._environment.project).items())
        found: dict[tuple[str, str, str], SetPlan] = {}

        def add(kind: str, known: str, tag: str, fingerprint: str) -> None:
            reference = f"{known}@{fingerprint}"
            try:
                if kind == "FeatureSet":
                    plans = [self.feature_set(reference)]
                else:
                    plans = sets_of(self.vector(reference))
            except functions.FunctionChanged:
                if tag != PREVIOUS:
                    raise
                return  # it cannot be computed any more, nor gone back to
            for plan in plans:
                if name is None or plan.name == name:
                    found.setdefault(plan.version, plan)

        for kind, is_latest in (
            ("FeatureSet", True),
            ("FeatureVector", True),
            ("FeatureVector", False),
            ("FeatureSet", False),
        ):
            for (of, known), tags in pointers:
                for tag, fingerprint in sorted(tags.items()):
                    if of == kind and tag != NEXT and (tag == LATEST) == is_latest:
                        add(kind, known, tag, fingerprint)
        if name is not None and not found:
            self.feature_set(name)
        return list(found.values())

    def next_sets(self) -> list[SetPlan]:
        """Return the set versions that `apply --promote` is filling, or was when it was interrupted."""
        pointers = self._environment.registry.pointers(self._environment.project)
        return [
            self.feature_set(f"{name}@{tags[NEXT]}")
            for (kind, name), tags in sorted(pointers.items())
            if kind == "FeatureSet" and NEXT in tags
        ]

    def source(self, name: str) -> SourcePlan:
        """Return the plan of an applied source."""
        version = self._resolve("Source", name)
        return self._compile(version).sources[version.name]

    def pushed(self, name: str) -> SourcePlan:
        """Return the plan of a source that events are pushed to, as it was SERVING_SECONDS ago at most.

        While the registry cannot be reached it is the one that was known.
        """
        known = self._pushed.get(name)
        if known is not None and time.monotonic() - known[0] < SERVING_SECONDS:
            return known[1]
        try:
            plan = self.source(name)
        except OperatorError:
            if known is None:
                raise
            plan = known[1]
        self._pushed[name] = (time.monotonic(), plan)
        return plan

    def serving(self, plan: SetPlan) -> str:
        """Return the generation that serves a set's version now. Raises OperatorError where none does."""
        key = (plan.name, plan.state_fingerprint)
        known = self._serving.get(key)
        if known is not None and time.monotonic() - known[0] < SERVING_SECONDS:
            return known[1]
        environment = self._environment
        try:
            found = environment.registry.serving_generation(
                environment.project, *key, environment.online_identity
            )
        except OperatorError:
            if known is None:
                raise
            self._serving[key] = (time.monotonic(), known[1])  # the registry is down; the store may not be
            return known[1]
        if all(live.state_fingerprint != plan.state_fingerprint for live in self.live_sets(plan.name)):
            raise OperatorError(
                f"Version {plan.state_fingerprint} of '{plan.name}' is no longer kept current.",
                hint="Ask for the latest version, or tag the vector's version that reads it.",
            )
        if found is None:
            raise OperatorError(
                f"Version {plan.state_fingerprint} of '{plan.name}' has no online values.",
                hint=f"Run: featurestore materialize {plan.name}",
            )
        from featurestore.online.writer import is_marked, lost

        if not is_marked(environment.online, found.id):
            raise lost(plan)
        self._serving[key] = (time.monotonic(), found.id)
        return found.id

    def forget(self) -> None:
        """Ask the registry anew for what serves, and what events are checked by."""
        self._serving.clear()
        self._pushed.clear()

    def _resolve(self, kind: str, reference: str) -> Version:
        name, _, pointer = reference.partition("@")
        if (kind, name, pointer) in self._versions:
            return self._versions[kind, name, pointer]
        environment = self._environment
        version: Version = environment.registry.resolve(environment.project, kind, reference)
        self._versions[kind, version.name, version.fingerprint] = version  # it never changes
        return version

    def _compile(self, version: Version) -> CompiledProject:
        key = (version.kind, version.name, version.fingerprint)
        if key not in self._compiled:
            from featurestore.compiler import compile_bundle
            from featurestore.steps import functions

            for function, digest in version.bundle.get(FUNCTIONS, {}).items():
                functions.check(function, digest)
            self._compiled[key] = compile_bundle(version.bundle[DECLARATIONS], self._fits(version))
        return self._compiled[key]

    def _fits(self, version: Version) -> dict[str, Any]:
        if version.kind not in ("FeatureVector", "FeatureSet"):
            return {}
        registry, project = self._environment.registry, self._environment.project
        pins = registry.pins(project, version.name, version.fingerprint)
        if pins is None:
            return {}
        return {name: registry.fit(project, fit).values for name, fit in pins.fits.items()}


def sets_of(plan: VectorPlan) -> list[SetPlan]:
    """Return the set plans that a vector reads, for its training rows too, each once."""
    found: dict[tuple[str, str, str], SetPlan] = {}
    plans = [lookup.set for lookup in plan.lookups]
    if plan.base is not None:
        plans.append(plan.base)
    if plan.label is not None:
        plans.append(plan.label.set)
    if plan.training.where is not None:
        plans += [lookup.set for lookup in plan.training.where.lookups]
    for item in plans:
        found.setdefault(item.version, item)
    return list(found.values())
