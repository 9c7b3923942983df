"""What running cases found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mismatch:
    """A value that is not the one expected, on one engine. Without a feature, `got` says what failed."""

    feature: str | None
    expected: Any
    got: Any
    engine: str


@dataclass(frozen=True)
class CaseResult:
    """One case: its name, what it tests, where it is written, and the engines that it ran on.

    `refused` says which of its rows went to the dead letters, and why.
    """

    name: str
    tested: str
    where: str
    engines: tuple[str, ...]
    mismatches: tuple[Mismatch, ...] = ()
    refused: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every engine gave every value expected."""
        return not self.mismatches


@dataclass
class CaseReport:
    """The cases that ran, in order; iterating yields them."""

    cases: list[CaseResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not self.failed

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that failed."""
        return [case for case in self.cases if not case.passed]

    def __iter__(self) -> Iterator[CaseResult]:
        return iter(self.cases)

    def __str__(self) -> str:
        return f"{len(self.cases)} cases, {len(self.failed)} failed"
