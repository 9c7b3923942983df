"""A declarative feature store: one definition, the same value offline and online at every instant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
        Source,
        StreamHalf,
        Test,
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
    "OperatorError",
    "RequestError",
    "Source",
    "SpecError",
    "StreamHalf",
    "Test",
    "__version__",
]

_HOMES = {"FeatureStore": "store"} | dict.fromkeys(
    ["FeatureStoreError", "OperatorError", "RequestError", "SpecError"], "errors"
)


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'featurestore' has no attribute '{name}'")
    return getattr(import_module(f"featurestore.{_HOMES.get(name, 'specs')}"), name)
