"""Steps: functions of one row, declared in YAML or Python, compiled to a `StepPlan` (DESIGN 3.16, 4).

Everything but `python` compiles to typed expressions; `featurestore.steps.frames` and
`featurestore.steps.rows` run a plan over Polars frames and over single rows, with equal results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.on_demand import on_demand

if TYPE_CHECKING:
    from featurestore.steps.base import Step
    from featurestore.steps.compiler import compile_steps
    from featurestore.steps.library import (
        Bin,
        Cast,
        Clip,
        DateParts,
        Derive,
        Drop,
        Explode,
        Filter,
        Flatten,
        HashBucket,
        Haversine,
        Impute,
        Join,
        Log,
        MapValues,
        OneHot,
        Ordinal,
        Parse,
        Python,
        Rename,
        Scale,
        Select,
        Text,
        Validate,
    )
    from featurestore.steps.plan import StepPlan

__all__ = [
    "Bin",
    "Cast",
    "Clip",
    "DateParts",
    "Derive",
    "Drop",
    "Explode",
    "Filter",
    "Flatten",
    "HashBucket",
    "Haversine",
    "Impute",
    "Join",
    "Log",
    "MapValues",
    "OneHot",
    "Ordinal",
    "Parse",
    "Python",
    "Rename",
    "Scale",
    "Select",
    "Step",
    "StepPlan",
    "Text",
    "Validate",
    "compile_steps",
]

_HOMES = {"Step": "base", "StepPlan": "plan", "compile_steps": "compiler"}

__getattr__ = on_demand(__name__, __all__, _HOMES, "library")  # a plan is run without its declaration
