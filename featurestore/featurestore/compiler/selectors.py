"""What a vector selects: `set.feature`, `set.*`, `… as alias`, and selections by other keys (DESIGN 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.errors import SpecError, did_you_mean
from featurestore.plans import SetPlan
from featurestore.specs.models import FeatureSelection

_QUALIFIED = re.compile(
    r"\s*(?P<set>[a-z_][a-z0-9_]*)\.(?P<feature>\*|[A-Za-z_][A-Za-z0-9_]*)(?:\s+as\s+(?P<alias>\S+))?\s*$"
)
_FEATURE = re.compile(r"\s*(?P<feature>\*|[A-Za-z_][A-Za-z0-9_]*)(?:\s+as\s+(?P<alias>\S+))?\s*$")
_ALIAS = re.compile(r"([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*$")
_PATTERN = re.compile(r"[A-Za-z_]?[A-Za-z0-9_]*\*[A-Za-z0-9_]*$")


@dataclass(frozen=True)
class Choice:
    """One feature that a selector chooses and its name in the vector."""

    feature: str
    output: str


@dataclass(frozen=True)
class Selector:
    """Features of one set, as chosen by one entry of `features:`; `keys` maps entities to columns."""

    text: str
    set: SetPlan
    keys: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]


def find_set(name: str, sets: Mapping[str, SetPlan]) -> SetPlan:
    """Return a set by name. Raises SpecError with the nearest name."""
    if name not in sets:
        raise SpecError(f"there is no feature set '{name}'.", hint=did_you_mean(name, sets))
    return sets[name]


def find_feature(name: str, feature_set: SetPlan) -> str:
    """Return the name of a feature that the set has. Raises SpecError with the nearest name."""
    names = [field.name for field in feature_set.features]
    if name not in names:
        raise SpecError(
            f"the feature set '{feature_set.name}' has no feature '{name}'.", hint=did_you_mean(name, names)
        )
    return name


def set_of(entry: str | FeatureSelection) -> str | None:
    """Return the name of the set that an entry selects from; None where it cannot be read."""
    if isinstance(entry, FeatureSelection):
        return entry.set
    match = _QUALIFIED.match(entry)
    return match["set"] if match else None


def compile_selector(
    entry: str | FeatureSelection, sets: Mapping[str, SetPlan], left_out: frozenset[tuple[str, str]]
) -> Selector:
    """Return what an entry of `features:` selects.

    `*` is all features of the set but those in `left_out`, (set, feature), which holds the label.
    Raises SpecError.
    """
    if isinstance(entry, str):
        match = _QUALIFIED.match(entry)
        if match is None:
            hint = "Write set.feature, set.*, 'set.feature as alias' or 'set.* as prefix_*'."
            if entry.strip() in sets:
                hint = f"Write {entry.strip()}.* for all of its features."
            raise SpecError(f"'{entry}' selects no feature.", hint=hint)
        feature_set = find_set(match["set"], sets)
        choices = _choose(match["feature"], match["alias"], feature_set, left_out)
        return Selector(entry.strip(), feature_set, (), choices)
    feature_set = find_set(entry.set, sets)
    entities = [key.entity for key in feature_set.keys]
    for name in entry.keys:
        if name not in entities:
            raise SpecError(
                f"keys: the feature set '{entry.set}' has no entity '{name}'.",
                hint=did_you_mean(name, entities),
            )
    chosen: list[Choice] = []
    for text in entry.features:
        match = _FEATURE.match(text)
        if match is None:
            fix = f"Write {text.split('.')[-1]}; the set is in set:." if "." in text else None
            raise SpecError(f"features: '{text}' names no feature.", hint=fix)
        if match["alias"] and entry.as_:
            raise SpecError(f"'{text}' has a name of its own beside as: '{entry.as_}'.", hint="Keep one.")
        alias = match["alias"] or entry.as_
        if entry.as_ and "*" not in entry.as_ and len(entry.features) > 1:
            raise SpecError(
                f"as: '{entry.as_}' would name several features alike.", hint=f"Write {entry.as_}_*."
            )
        name = match["feature"]
        if entry.as_ and "*" in entry.as_ and name != "*":
            chosen.append(Choice(find_feature(name, feature_set), _spread(entry.as_, name)))
        else:
            chosen.extend(_choose(name, alias, feature_set, left_out))
    return Selector(
        f"{entry.set}.{{{', '.join(entry.features)}}}", feature_set, tuple(entry.keys.items()), tuple(chosen)
    )


def _choose(
    feature: str, alias: str | None, feature_set: SetPlan, left_out: frozenset[tuple[str, str]]
) -> tuple[Choice, ...]:
    if feature != "*":
        find_feature(feature, feature_set)
        if alias is not None and not _ALIAS.match(alias):
            raise SpecError(
                f"'{alias}' is no name for a feature.",
                hint="Use letters, digits and underscores, a letter first.",
            )
        return (Choice(feature, alias or feature),)
    names = [field.name for field in feature_set.features if (feature_set.name, field.name) not in left_out]
    if alias is None:
        return tuple(Choice(name, name) for name in names)
    if "*" not in alias:
        raise SpecError(f"'{alias}' would name all features alike.", hint=f"Write {alias}_*.")
    return tuple(Choice(name, _spread(alias, name)) for name in names)


def _spread(pattern: str, name: str) -> str:
    """Return a feature's name put in place of the pattern's `*`."""
    output = pattern.replace("*", name)
    if not _PATTERN.match(pattern) or not _ALIAS.match(output):
        raise SpecError(f"'{pattern}' is no pattern of names.", hint="Write it as prefix_*.")
    return output
