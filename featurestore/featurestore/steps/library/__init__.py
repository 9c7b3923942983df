"""Every step, one small module each. To add one, write its module and name it here."""

from __future__ import annotations

from typing import Any

from featurestore.steps.library.bin import Bin
from featurestore.steps.library.categories import HashBucket, Ordinal
from featurestore.steps.library.clip import Clip
from featurestore.steps.library.columns import Drop, Rename, Select
from featurestore.steps.library.date_parts import DateParts
from featurestore.steps.library.derive import Derive
from featurestore.steps.library.explode import Explode
from featurestore.steps.library.filter import Filter
from featurestore.steps.library.flatten import Flatten, Parse
from featurestore.steps.library.join import Join
from featurestore.steps.library.log import Haversine, Log
from featurestore.steps.library.map_values import MapValues
from featurestore.steps.library.one_hot import OneHot
from featurestore.steps.library.python import Python
from featurestore.steps.library.scale import Scale
from featurestore.steps.library.text import Text
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
    "Text",
    "Validate",
]

STEPS: dict[str, Any] = {
    step.key: step
    for step in (
        DateParts,
        MapValues,
        OneHot,
        Ordinal,
        HashBucket,
        Bin,
        Scale,
        Clip,
        Log,
        Haversine,
        Text,
        Parse,
        Flatten,
        Explode,
        Join,
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
