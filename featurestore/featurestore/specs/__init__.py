"""Declarations: the models, and how a project's folder is read into them."""

from featurestore.specs.cases import Test
from featurestore.specs.loading import Loaded, LoadedProject, load_declarations, load_project
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
    Source,
    StreamHalf,
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
    "Loaded",
    "LoadedProject",
    "Origin",
    "ProjectConfig",
    "Source",
    "SpecErrors",
    "StreamHalf",
    "Test",
    "load_config",
    "load_declarations",
    "load_project",
]
