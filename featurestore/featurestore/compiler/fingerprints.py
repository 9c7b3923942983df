"""Short digests of what decides a plan's rows and values; equal content, equal digest, on any machine."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

LENGTH = 12


def fingerprint(content: Any) -> str:
    """Return 12 hex digits of the SHA-256 of `content` as canonical JSON.

    Mappings are sorted by key; order matters in lists only. 1, 1.0, True and "1" are different.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, bytes):
        return {"binary": value.hex()}
    raise TypeError(f"{type(value).__name__} has no canonical form")
