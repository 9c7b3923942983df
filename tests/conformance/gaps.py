"""What an engine or a store cannot do yet, each with its reason: applied as strict xfail.

An entry names a trait of a mode (`modes.Mode.traits`: an engine, a store, a mode) and a case, or a whole
topic. `docs/engines.md` is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """A trait of modes, a topic or `topic/case`, and why it does not hold there."""

    trait: str
    case: str
    reason: str

    def covers(self, traits: frozenset[str], topic: str, case: str) -> bool:
        """Tell whether a case in a mode of these traits falls in the gap."""
        return self.trait in traits and self.case in (topic, case)


GAPS: tuple[Gap, ...] = ()


def reason(traits: frozenset[str], topic: str, case: str) -> str | None:
    """Return why a case is expected to fail in a mode of these traits; None where it is not."""
    return next((gap.reason for gap in GAPS if gap.covers(traits, topic, case)), None)
