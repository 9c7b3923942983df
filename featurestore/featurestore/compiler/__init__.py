"""Declarations to plans: names and types are resolved here, once (DESIGN 2, 4)."""

from featurestore.compiler.imputes import FitNeed
from featurestore.compiler.project import (
    CompiledProject,
    compile_bundle,
    compile_declarations,
    compile_project,
)
from featurestore.compiler.sets import Rows, compile_set
from featurestore.compiler.sources import compile_source
from featurestore.compiler.step_fits import StepsNotFitted, StepsToFit
from featurestore.compiler.vectors import NotFitted, compile_vector, fit_needs

__all__ = [
    "CompiledProject",
    "FitNeed",
    "NotFitted",
    "Rows",
    "StepsNotFitted",
    "StepsToFit",
    "compile_bundle",
    "compile_declarations",
    "compile_project",
    "compile_set",
    "compile_source",
    "compile_vector",
    "fit_needs",
]
