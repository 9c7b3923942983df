"""Every step, one small module each. To add one, write its module and name it here."""

from __future__ import annotations

from typing import Any

from featurestore.steps.library.bin import Bin
from featurestore.steps.library.clip import Clip
from featurestore.steps.library.columns import Drop, Rename, Select
from featurestore.steps.library.date_parts import DateParts
from featurestore.steps.library.derive import Derive
from featurestore.steps.library.filter import Filter
from featurestore.steps.library.map_values import MapValues
from featurestore.steps.library.one_hot import OneHot
from featurestore.steps.library.python import Python
from featurestore.steps.library.scale import Scale
from featurestore.steps.library.validate import Validate
from featurestore.steps.library.values import Cast, Impute

__all__ = [
    "STEPS",
    "Bin",
    "Cast",
    "Clip",
    "DateParts",
    "Derive",
    "Drop",
    "Filter",
    "Impute",
    "MapValues",
    "OneHot",
    "Python",
    "Rename",
    "Scale",
    "Select",
    "Validate",
]

STEPS: dict[str, Any] = {
    step.key: step
    for step in (
        DateParts,
        MapValues,
        OneHot,
        Bin,
        Scale,
        Clip,
        Derive,
        Filter,
        Select,
        Drop,
        Rename,
        Cast,
        Impute,
        Validate,
        Python,
    )
}
