"""The look-ups of a vector: which set by which keys, and keys that other look-ups find (DESIGN 3.11, 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from featurestore.compiler.columns import by_name
from featurestore.compiler.request_keys import check_type, request_column, request_columns
from featurestore.compiler.selectors import Choice, Selector, find_feature, find_set
from featurestore.errors import SpecError
from featurestore.plans import Lookup, Selected, SetPlan
from featurestore.types import DataType


@dataclasses.dataclass
class Group:
    """A look-up in the making."""

    set: SetPlan
    keys: tuple[str, ...]
    is_base: bool
    feature_keys: tuple[int, ...] = ()
    level: int = 0
    features: list[Selected] = dataclasses.field(default_factory=list)

    def output_of(self, feature: str) -> str | None:
        """Return the name under which a feature is already fetched."""
        return next((item.output for item in self.features if item.feature == feature), None)


class Lookups:
    """Gathers what a vector selects into look-ups: one per set and keys.

    A key may be a feature: of the only look-up of its set beside the one that it keys, else of the look-up by
    the set's own keys, which is made where there is none. So first all entries are declared, then grouped.
    """

    def __init__(
        self,
        sets: Mapping[str, SetPlan],
        base: SetPlan | None,
        inputs: Mapping[str, DataType],
        derived: Collection[str],
    ) -> None:
        self._sets = sets
        self._base = base
        self._inputs = inputs
        self._derived = derived
        self._entries: dict[int, Selector] = {}
        self._outputs: dict[str, tuple[int, str]] = {}  # to the entry and the feature
        self._groups: dict[tuple[str, tuple[str, ...], tuple[int, ...]], Group] = {}
        self._grouped: dict[int, Group] = {}
        self._refused: set[int] = set()
        self._path: list[int] = []

    def declare(self, number: int, selector: Selector, choices: Collection[Choice]) -> None:
        """Note an entry of `features:`, and what of it becomes an output."""
        self._entries[number] = dataclasses.replace(selector, choices=tuple(choices))
        self._outputs.update({choice.output: (number, choice.feature) for choice in choices})

    def is_chained(self, number: int) -> bool:
        """Tell whether a key of the entry is a feature."""
        return any(self._is_feature(role) for _, role in self._entries[number].keys)

    def group(self, number: int) -> Group | None:
        """Return the look-up of an entry; None where that was refused before. Raises SpecError."""
        if number in self._grouped or number in self._refused:
            return self._grouped.get(number)
        entry = self._entries[number]
        if number in self._path:
            chain = [self._entries[n].text for n in [*self._path[self._path.index(number) :], number]]
            raise SpecError(
                f"keys: the look-ups take their keys from one another: {' → '.join(chain)}.",
                hint="One of them must take its key from the request.",
            )
        self._path.append(number)
        try:
            group = self._keyed(number, entry)
        except SpecError:
            self._refused.add(number)
            raise
        finally:
            self._path.pop()
        if group is None:
            self._refused.add(number)
            return None
        types = by_name(entry.set.features)
        group.features += [Selected(c.feature, c.output, types[c.feature]) for c in entry.choices]
        self._grouped[number] = group
        return group

    def read(self, column: str) -> str:
        """Return the output that holds `set.feature`, fetched unseen if need be. Raises SpecError."""
        set_name, _, feature = column.partition(".")
        group = self._of_set(self._sets[set_name], column, None)
        assert group is not None  # what is refused has been said before
        return self._slot(group, feature)

    def plans(self) -> tuple[Lookup, ...]:
        """Return the look-ups that fetch something, each after those that it takes its keys from."""
        return tuple(
            Lookup(g.set, g.keys, tuple(g.features), g.is_base, g.feature_keys, g.level)
            for g in sorted(self._groups.values(), key=lambda group: group.level)
            if g.features
        )

    def _keyed(self, number: int, entry: Selector) -> Group | None:
        """Return the look-up by an entry's keys; None where it takes one from what was refused."""
        roles = dict(entry.keys)
        keys: list[str] = []
        places: list[int] = []
        level = 0
        for place, key in enumerate(entry.set.keys):
            role = roles.get(key.entity)
            if role is None or not self._is_feature(role):
                keys.append(request_column(key, role, entry.set, self._base, self._inputs))
                continue
            found = self._feature(role, number)
            if found is None:
                return None
            group, feature = found
            check_type(role, by_name(group.set.features)[feature], key, "feature")
            if group.is_base and any(field.name == feature for field in group.set.plain):
                keys.append(feature)  # a column of the base row
                continue
            keys.append(self._slot(group, feature))
            places.append(place)
            level = max(level, group.level + 1)
        return self._made(entry.set, tuple(keys), tuple(places), level)

    def _is_feature(self, role: str) -> bool:
        """Tell whether the key is a feature: `set.feature`, or an output that is no column of the request."""
        if "." in role:
            return True
        if role in self._inputs:
            return False
        if self._base is not None and (
            any(field.name == role for field in self._base.columns)
            or any(key.request_column == role for key in self._base.keys)
        ):
            return False
        if role in self._derived:
            raise SpecError(
                f"keys: '{role}' is a derived value; what is derived comes after the look-ups.",
                hint="Take the key from a feature or from the request; a feature set's steps may derive it.",
            )
        return role in self._outputs

    def _feature(self, role: str, number: int) -> tuple[Group, str] | None:
        set_name, dot, feature = role.partition(".")
        if dot:
            feature_set = find_set(set_name, self._sets)
            find_feature(feature, feature_set)
            group = self._of_set(feature_set, role, number)
        else:
            entry, feature = self._outputs[role]
            group = self.group(entry)
        return None if group is None else (group, feature)

    def _of_set(self, feature_set: SetPlan, column: str, keyed: int | None) -> Group | None:
        """Return the look-up that `set.feature` is of, from the view of the entry that it keys, if any."""
        others = [n for n, e in self._entries.items() if e.set.name == feature_set.name and n != keyed]
        chained = {self._entries[n].keys: n for n in others if self.is_chained(n)}
        direct = {g.keys: g for n in others if not self.is_chained(n) and (g := self.group(n)) is not None}
        if len(chained) + len(direct) == 1:
            return next(iter(direct.values())) if direct else self.group(next(iter(chained.values())))
        keys = request_columns(feature_set, {}, self._base, self._inputs)
        if not others or keys in direct:
            return self._made(feature_set, keys, (), 0)
        shown = " or ".join(str(self._entries[n].choices[0].output) for n in others)
        by = [*direct, *(tuple(role for _, role in roles) for roles in chained)]
        raise SpecError(
            f"'{column}' could be by {' or by '.join(', '.join(names) for names in by)}.",
            hint=f"Use the names that the vector gives them, such as {shown}.",
        )

    def _made(
        self, feature_set: SetPlan, keys: tuple[str, ...], feature_keys: tuple[int, ...], level: int
    ) -> Group:
        if not feature_set.online:
            raise SpecError(
                f"the feature set '{feature_set.name}' has online: false, so it serves as a label only.",
                hint="Set online: true, or leave the feature out.",
            )
        is_base = not feature_keys and reads_base(feature_set, keys, self._base)
        group = Group(feature_set, keys, is_base, feature_keys, level)
        return self._groups.setdefault((feature_set.name, keys, feature_keys), group)

    def _slot(self, group: Group, feature: str) -> str:
        """Return the output with a look-up's feature, fetched unseen where nothing selects it."""
        output = group.output_of(feature)
        if output is None:
            kind = by_name(group.set.features)[feature]
            output = f"{group.set.name}.{feature}"
            if any(item.output == output for other in self._groups.values() for item in other.features):
                output += f" by {', '.join(group.keys)}"
            group.features.append(Selected(feature, output, kind, hidden=True))
        return output


def reads_base(feature_set: SetPlan, keys: tuple[str, ...], base: SetPlan | None) -> bool:
    """Tell whether a look-up is of the base row's own entity in the base's set."""
    return (
        base is not None and feature_set.name == base.name and keys == tuple(key.column for key in base.keys)
    )


def check_seen_once(lookups: Iterable[Lookup]) -> None:
    """Raise SpecError where nobody could tell whether a base row has already arrived (DESIGN 3.11)."""
    for lookup in lookups:
        if not lookup.is_base or lookup.set.source.event_id:
            continue
        windows = {a.name: a.window for a in lookup.set.aggregates}
        for selected in lookup.features:
            window = windows.get(selected.feature)
            if window is not None and not window.left_closed:
                raise SpecError(
                    f"'{lookup.set.name}.{selected.feature}' counts a base row twice once it has arrived:"
                    f" source '{lookup.set.source.name}' has no event_id:.",
                    hint="Declare event_id: on the source, or closed: left on the set.",
                )
