"""Verify: online values against offline ones, on the user's own data (DESIGN 1).

Two comparisons, both of whole vectors. **Any instant**: entities and instants are picked where values
change: events and ± 1 µs, events leaving windows and ± 1 µs, before the first and after the last. A scratch
generation, filled by the writer that fills the served ones, is read as of those instants and compared with
a training set. **Served**: values that serve now are read at instants within the history, with the
positions applied, and compared with offline values computed from the rows at or below them.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from featurestore.errors import RequestError, UnknownName, did_you_mean
from featurestore.plans import VectorPlan
from featurestore.verify.check import Check
from featurestore.verify.outcome import Difference, Verification

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

__all__ = ["Difference", "Verification", "verify"]


def verify(store: FeatureStore, name: str | None, sample: int, seed: int) -> Verification:
    """Compare `sample` rows of each vector that `name` stands for: a vector, a set, or everything."""
    if sample < 1:
        raise RequestError(f"sample={sample} compares nothing.", hint="Give 1 or more.")
    result = Verification()
    for plan in _plans(store, name):
        Check(store, plan, result, sample, random.Random(seed)).run()
    return result


def _plans(store: FeatureStore, name: str | None) -> list[VectorPlan]:
    catalog = store.catalog
    sets, vectors = catalog.names("FeatureSet"), catalog.names("FeatureVector")
    bare = None if name is None else name.partition("@")[0]
    if bare is not None and bare not in sets + vectors:
        raise UnknownName(
            f"There is no applied set or vector '{bare}'.", hint=did_you_mean(bare, sets + vectors)
        )
    if name is not None and bare in vectors:
        return [catalog.vector(name)]
    wanted = [bare] if bare is not None else sets
    online = [
        n
        for n in wanted
        if n is not None and catalog.feature_set(n).online and catalog.feature_set(n).features
    ]
    if bare is not None and not online:
        raise RequestError(f"'{bare}' is not online: there is nothing to compare.")
    result = [catalog.selection([f"{n}.*"]) for n in online]
    return result if name is not None else result + [catalog.vector(n) for n in vectors]
