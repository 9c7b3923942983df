"""What one run of the suite covered."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """Cases and modes that were met, runs of a case in a mode, and values compared."""

    cases: set[str] = field(default_factory=set)
    modes: set[str] = field(default_factory=set)
    runs: int = 0
    values: int = 0

    def add(self, case: str, mode: str, values: int) -> None:
        """Count one run."""
        self.cases.add(case)
        self.modes.add(mode)
        self.runs += 1
        self.values += values

    def __str__(self) -> str:
        """Return the counts in words."""
        return (
            f"{len(self.cases)} cases, {len(self.modes)} modes,"
            f" {self.runs:,} runs, {self.values:,} values compared"
        )


TALLY = Tally()
