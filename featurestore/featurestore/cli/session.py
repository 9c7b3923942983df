"""One command's run: the options that every verb has, its output, and the project it works on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.cli.console import Console

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


class Session:
    """What a verb works with. The project is opened when it is first asked for."""

    def __init__(self) -> None:
        self.project = Path()
        self.profile: str | None = None
        self.console = Console()

    def choose(self, project: Path | None, profile: str | None, json: bool, quiet: bool) -> None:
        """Take the options that were given; those that were not stay as they are."""
        self.project = self.project if project is None else project
        self.profile = self.profile if profile is None else profile
        self.console.json = self.console.json or json
        self.console.quiet = self.console.quiet or quiet

    @cached_property
    def store(self) -> FeatureStore:
        """The project, opened. Raises SpecErrors where featurestore.yaml cannot be used."""
        from featurestore.store import FeatureStore

        return FeatureStore(self.project, profile=self.profile)

    def close(self) -> None:
        """Release what was opened."""
        if "store" in self.__dict__:
            self.store.close()
