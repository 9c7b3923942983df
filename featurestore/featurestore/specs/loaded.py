"""What was read: declarations and where they were written, and a project of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.specs.origins import Origin

if TYPE_CHECKING:
    from featurestore.specs.cases import WrittenTest
    from featurestore.specs.models import Declaration
    from featurestore.specs.project import ProjectConfig


@dataclass(frozen=True)
class Loaded:
    """A declaration and where it was written."""

    declaration: Declaration
    origin: Origin


@dataclass(frozen=True)
class LoadedProject:
    """A project as written: its folder, its settings under a profile, its declarations, and its own cases.

    `specs.cases.parse_tests` checks the form of the cases: what applies versions takes no notice of them.
    """

    root: Path
    config: ProjectConfig
    declarations: tuple[Loaded, ...]
    tests: tuple[WrittenTest, ...] = ()

    @property
    def name(self) -> str:
        """The project's name."""
        return self.config.project
