"""What applying a project would change, and the applying of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore import tables
from featurestore.catalog import DECLARATIONS, FUNCTIONS, sets_of
from featurestore.compiler import CompiledProject
from featurestore.compiler.fingerprints import fingerprint
from featurestore.environment import Environment
from featurestore.instants import format_instant
from featurestore.online.estimate import Estimate, estimate
from featurestore.online.layout import OnlineLayout
from featurestore.online.writer import mark
from featurestore.plans import SetPlan
from featurestore.steps.plan import Python

if TYPE_CHECKING:
    from featurestore.registry.versions import NewVersion

CREATED, CHANGED, UNCHANGED, REMOVED, WAITING = "created", "changed", "unchanged", "removed", "waiting"


@dataclass(frozen=True)
class Change:
    """One object's change: `action`, its new fingerprint, and what follows from it, in words."""

    kind: str
    name: str
    action: str
    fingerprint: str | None
    effects: tuple[str, ...] = ()
    estimate: Estimate | None = None
    is_unfilled: bool = False


@dataclass(frozen=True)
class Changes:
    """All changes of a project, and the state of the registry that they were computed against.

    Once promoted, `filled` has the rows that were brought online by set, and `lacking` how many inputs the
    replaced version of a set was given that its source has no more, such as frames.
    """

    project: str
    items: tuple[Change, ...]
    saw: Mapping[tuple[str, str], str] = field(repr=False)
    versions: tuple[NewVersion, ...] = field(repr=False, default=())
    filled: Mapping[str, int] = field(default_factory=dict)
    lacking: Mapping[str, int] = field(default_factory=dict)

    @property
    def unfilled(self) -> tuple[str, ...]:
        """The names of sets that have no online values once this is applied, until they are filled."""
        return tuple(item.name for item in self.items if item.is_unfilled)

    @property
    def is_empty(self) -> bool:
        """Whether applying them would change nothing."""
        return all(item.action in (UNCHANGED, WAITING) for item in self.items)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.items)


def changes(environment: Environment, compiled: CompiledProject, fits: Mapping[str, str]) -> Changes:
    """Return what applying the compiled project would change. `fits` are the fit ids that vectors pin."""
    from featurestore.registry.versions import NewVersion

    saw = environment.registry.state(environment.project)
    items, versions = [], []
    fingerprints = _fingerprints(compiled)
    for (kind, name), digest in fingerprints.items():
        before = saw.get((kind, name))
        action = CREATED if before is None else UNCHANGED if before == digest else CHANGED
        plan = compiled.sets.get(name) if kind == "FeatureSet" else None
        items.append(
            Change(
                kind,
                name,
                action,
                digest,
                _effects(environment, plan) if plan is not None else (),
                estimate(plan) if plan is not None and plan.online else None,
                plan is not None and _is_unfilled(environment, plan),
            )
        )
        if action != UNCHANGED:
            pinned, fitted = {}, {}
            if kind == "FeatureVector":
                pinned = {s.name: fingerprints["FeatureSet", s.name] for s in sets_of(compiled.vectors[name])}
            if kind in ("FeatureVector", "FeatureSet"):
                reads = {item["name"] for item in compiled.bundle(name) if item["kind"].startswith("Feature")}
                fitted = {other: fit for other, fit in fits.items() if other in reads}
            bundle = {
                DECLARATIONS: compiled.bundle(name) if kind != "Source" else _source_bundle(compiled, name),
                FUNCTIONS: _functions(compiled, kind, name),
            }
            versions.append(NewVersion(kind, name, digest, bundle, pinned, fitted))
    waiting = {key: compiled.unfitted[key[1]] for key in compiled.declarations if _waits(compiled, *key)}
    items += [Change(kind, name, WAITING, None, (str(error),)) for (kind, name), error in waiting.items()]
    declared = {*fingerprints, *waiting}
    removed = [key for key in saw if key not in declared]
    items += [Change(kind, name, REMOVED, None, ("its versions and data stay",)) for kind, name in removed]
    return Changes(environment.project, tuple(items), saw, tuple(versions))


def apply(environment: Environment, compiled: CompiledProject, planned: Changes, author: str) -> None:
    """Write the changes to the registry, and give sets that never had rows an empty generation.

    Raises OperatorError where the registry is no longer as the changes saw it.
    """
    removed = [(item.kind, item.name) for item in planned if item.action == REMOVED]
    environment.registry.apply(
        environment.project, planned.versions, removed=removed, saw=planned.saw, author=author
    )
    for plan in compiled.sets.values():
        if plan.online and not _had_rows(environment, plan) and not _is_served(environment, plan):
            generation = environment.registry.begin_generation(
                environment.project, plan.name, plan.state_fingerprint, environment.online_identity, {},
                lasts=OnlineLayout.of(plan).lasts,
            )  # fmt: skip
            # a first ingest fills the same one, from here on; one before may have let another serve
            if not _is_served(environment, plan):
                mark(environment.online, generation.id)
                environment.registry.promote(generation.id)
            elif environment.registry.generation(generation.id).status == "building":
                environment.registry.retire(generation.id)


def _fingerprints(compiled: CompiledProject) -> dict[tuple[str, str], str]:
    result = {}
    for (kind, name), item in compiled.declarations.items():
        if _waits(compiled, kind, name):
            continue
        content: Any = compiled.declared(item)  # with its Avro schema: another one is another version
        if kind == "FeatureSet":
            plan = compiled.sets[name]
            content = [content, plan.rows_fingerprint, plan.state_fingerprint]
        elif kind == "FeatureVector":
            result[kind, name] = compiled.vectors[name].fingerprint
            continue
        result[kind, name] = fingerprint(content)
    return result


def _waits(compiled: CompiledProject, kind: str, name: str) -> bool:
    """Tell whether an object awaits a fit, its own or that of a set that it reads."""
    return kind in ("FeatureSet", "FeatureVector") and name in compiled.unfitted


def _functions(compiled: CompiledProject, kind: str, name: str) -> dict[str, str]:
    """Return the python functions of the sets that an object is or reads, with their digests."""
    if kind == "FeatureSet":
        sets = [compiled.sets[name]]
    else:
        sets = sets_of(compiled.vectors[name]) if kind == "FeatureVector" else []
    return {op.function: op.digest for plan in sets for op in plan.steps.ops if isinstance(op, Python)}


def _source_bundle(compiled: CompiledProject, name: str) -> list[dict[str, Any]]:
    item = compiled.declarations["Source", name]
    return [{"kind": "Project", "name": compiled.name}, compiled.declared(item)]


def _effects(environment: Environment, plan: SetPlan) -> tuple[str, ...]:
    effects = []
    table = tables.rows_table(plan)
    has_rows = _has_rows(environment, plan)
    effects.append(f"table {table}: " + ("kept as it is" if has_rows else "new, filled by ingest or stream"))
    if not has_rows and (gone := _forgotten(environment, plan)) is not None:
        effects.append(
            f"table {table}: will lack the stream's rows that became known before {format_instant(gone)},"
            " which landing no longer has (upkeep: landing)"
        )
    if plan.online and not _is_served(environment, plan):
        effects.append(
            f"online generation: new; without values until featurestore materialize {plan.name};"
            " apply --promote fills it first"
            if _is_unfilled(environment, plan)
            else "online generation: new, empty"
        )
    return tuple(effects)


def _is_unfilled(environment: Environment, plan: SetPlan) -> bool:
    return plan.online and not _is_served(environment, plan) and _had_rows(environment, plan)


def _has_rows(environment: Environment, plan: SetPlan) -> bool:
    return environment.rows_table(plan).snapshot() is not None


def _forgotten(environment: Environment, plan: SetPlan) -> int | None:
    """Return the instant before which landing has lost rows; None where it has all that came."""
    if plan.source.stream is None:
        return None
    landing = environment.offline.table(tables.landing_table(plan.source))
    gone = landing.forgotten(landing.snapshot())
    return None if gone is None else gone.before


def _had_rows(environment: Environment, plan: SetPlan) -> bool:
    """Tell whether any version of the set has rows."""
    return any(table.startswith(f"{plan.name}-") for table in environment.offline.tables())


def _is_served(environment: Environment, plan: SetPlan) -> bool:
    found = environment.registry.serving_generation(
        environment.project, plan.name, plan.state_fingerprint, environment.online_identity
    )
    return found is not None
