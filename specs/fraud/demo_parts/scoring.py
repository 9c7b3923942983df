"""The demo's model, and the comparison of the vectors that it learns from and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score


def fitted(rows: pl.DataFrame, features: Sequence[str]) -> Any:
    """Return a small classifier of a training set's rows."""
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=0
    )
    return model.fit(_matrix(rows.select(features).rows()), rows["label"].to_numpy())


def scores(model: Any, vectors: Sequence[Sequence[Any]]) -> list[float]:
    """Return the probability of fraud of each vector."""
    return [float(pair[-1]) for pair in model.predict_proba(_matrix(vectors))]


def quality(model: Any, rows: pl.DataFrame, features: Sequence[str]) -> str:
    """Return in words how well the model ranks rows that it has not seen."""
    labels, found = rows["label"].to_numpy(), scores(model, rows.select(features).rows())
    precision, area = average_precision_score(labels, found), roc_auc_score(labels, found)
    return f"average precision {precision:.3f}, ROC AUC {area:.3f}"


def same(trained: Any, served: Any) -> bool:
    """Return whether a training set's value and one from JSON are equal: floats to 12 digits."""
    if isinstance(trained, float) and isinstance(served, int | float):
        return math.isclose(trained, served, rel_tol=1e-12) or (trained != trained and served != served)
    return bool(trained == served)


def _matrix(vectors: Sequence[Sequence[Any]]) -> Any:
    return np.asarray(vectors, np.float64)
