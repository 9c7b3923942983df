"""What is told of each value of an online answer."""

from __future__ import annotations

STATUSES = PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_TTL, INVALID = (
    "PRESENT",
    "NULL_VALUE",
    "NOT_FOUND",
    "OUTSIDE_TTL",
    "INVALID",
)
