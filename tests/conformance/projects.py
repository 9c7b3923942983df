"""Projects of cases: applied once per specs and store, and put back as they were before every use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from featurestore import FeatureStore


class Project:
    """An applied project without rows. The stores of `fresh` are empty, whatever was done before."""

    def __init__(self, root: Path, specs: str, online: dict[str, Any]) -> None:
        self._root = root / "project"
        self._applied = root / "applied"
        self._root.mkdir()
        config = {"project": "conformance", "online": online, "stream": {"kind": "log"}}
        (self._root / "featurestore.yaml").write_text(json.dumps(config))
        (self._root / "specs.yaml").write_text(specs)
        with FeatureStore(self._root) as store:
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
