"""The registry: every applied version and what belongs to it, in SQLite or Postgres (DESIGN 7).

`Registry` is the whole of it; `schema` holds its tables, `database` the transactions, and one module
each the versions, the generations, and the records (fits, ingests, training sets, statistics).
Nothing outside this package knows SQLAlchemy.
"""

from __future__ import annotations

from featurestore.registry.generations import Generation
from featurestore.registry.records import CheckCount, Fit, Ingest, TrainingSet
from featurestore.registry.registry import Registry
from featurestore.registry.versions import NewVersion, Pins, Version

__all__ = [
    "CheckCount",
    "Fit",
    "Generation",
    "Ingest",
    "NewVersion",
    "Pins",
    "Registry",
    "TrainingSet",
    "Version",
]
