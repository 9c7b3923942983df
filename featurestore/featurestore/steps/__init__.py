"""Steps: functions of one row, declared in YAML or Python, compiled to a `StepPlan` (DESIGN 3.16, 4).

Everything but `python` compiles to typed expressions; `featurestore.steps.frames` and
`featurestore.steps.rows` run a plan over Polars frames and over single rows, with equal results.
"""

from __future__ import annotations

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
from featurestore.steps.reference import Parameter, reference

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
    "Parameter",
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
    "reference",
]
