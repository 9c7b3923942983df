"""Projects of cases: applied once per specs and store, and put back as they were before every use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from conformance.cases import Case, instant

from featurestore import FeatureStore
from featurestore.instants import format_instant


class Project:
    """An applied project without rows. The stores of `fresh` are empty, whatever was done before."""

    def __init__(self, root: Path, case: Case, online: dict[str, Any]) -> None:
        self._root = root / "project"
        self._applied = root / "applied"
        self._root.mkdir()
        config = {"project": "conformance", "online": online, "stream": {"kind": "log"}}
        (self._root / "featurestore.yaml").write_text(json.dumps(config))
        (self._root / "specs.yaml").write_text(case.specs)
        with FeatureStore(self._root) as store:
            for name, rows in case.fit.items():
                store.fit(name, rows=_frame(rows, case.t0))
            store.apply()
            self._generations = [store.catalog.serving(p) for p in store.catalog.live_sets() if p.online]
        shutil.copytree(self._root, self._applied)

    def fresh(self) -> FeatureStore:
        """Return the project's store, with nothing in it."""
        shutil.rmtree(self._root)
        shutil.copytree(self._applied, self._root)
        store = FeatureStore(self._root)
        for generation in self._generations:
            store.environment.online.drop(generation)
        return store


def _frame(rows: Sequence[Mapping[str, Any]], t0: int) -> pl.DataFrame:
    """Return raw rows as text, as a CSV file has them: a cell that begins with t0 is a time."""

    def text(cell: Any) -> str | None:
        if str(cell).startswith("t0"):
            return format_instant(instant(cell, t0))
        return None if cell is None else str(cell)

    names = list(rows[0])
    return pl.DataFrame(
        {n: [text(row[n]) for row in rows] for n in names}, schema=dict.fromkeys(names, pl.String)
    )
