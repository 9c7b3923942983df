"""A declarative feature store: one definition, the same value offline and online at every instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.on_demand import on_demand

if TYPE_CHECKING:
    from featurestore.errors import FeatureStoreError, OperatorError, RequestError, SpecError
    from featurestore.specs import (
        Aggregation,
        BatchHalf,
        Bounds,
        Entity,
        Expectation,
        FeatureSelection,
        FeatureSet,
        FeatureVector,
        Label,
        Source,
        StreamHalf,
        Test,
        Training,
    )
    from featurestore.store import FeatureStore

__version__ = "0.1.0"

__all__ = [
    "Aggregation",
    "BatchHalf",
    "Bounds",
    "Entity",
    "Expectation",
    "FeatureSelection",
    "FeatureSet",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureVector",
    "Label",
    "OperatorError",
    "RequestError",
    "Source",
    "SpecError",
    "StreamHalf",
    "Test",
    "Training",
    "__version__",
]

_HOMES = {"FeatureStore": "store"} | dict.fromkeys(
    ["FeatureStoreError", "OperatorError", "RequestError", "SpecError"], "errors"
)

__getattr__ = on_demand(__name__, __all__, _HOMES, "specs")
