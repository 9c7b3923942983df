"""Declarations: the models, and how a project's folder is read into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.on_demand import on_demand

if TYPE_CHECKING:
    from featurestore.specs.cases import Test
    from featurestore.specs.loaded import Loaded, LoadedProject
    from featurestore.specs.loading import load_declarations, load_project
    from featurestore.specs.models import (
        Aggregation,
        BatchHalf,
        Bounds,
        Declaration,
        Entity,
        Expectation,
        FeatureSelection,
        FeatureSet,
        FeatureVector,
        Label,
        Source,
        StreamHalf,
        Training,
    )
    from featurestore.specs.origins import Origin
    from featurestore.specs.problems import SpecErrors
    from featurestore.specs.project import ProjectConfig, load_config

__all__ = [
    "Aggregation",
    "BatchHalf",
    "Bounds",
    "Declaration",
    "Entity",
    "Expectation",
    "FeatureSelection",
    "FeatureSet",
    "FeatureVector",
    "Label",
    "Loaded",
    "LoadedProject",
    "Origin",
    "ProjectConfig",
    "Source",
    "SpecErrors",
    "StreamHalf",
    "Test",
    "Training",
    "load_config",
    "load_declarations",
    "load_project",
]

_HOMES = {
    "Loaded": "loaded",
    "LoadedProject": "loaded",
    "Origin": "origins",
    "ProjectConfig": "project",
    "SpecErrors": "problems",
    "Test": "cases",
    "load_config": "project",
    "load_declarations": "loading",
    "load_project": "loading",
}

__getattr__ = on_demand(__name__, __all__, _HOMES, "models")  # settings are read without declarations
