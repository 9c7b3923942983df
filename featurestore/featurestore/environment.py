"""A project's stores, brokers and registry, opened when first needed."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore import tables
from featurestore.contracts import (
    BatchSource,
    OfflineStore,
    OfflineTable,
    OnlineStore,
    StreamSource,
    extension,
)
from featurestore.errors import RequestError, StoreUnavailable

if TYPE_CHECKING:
    from featurestore.plans import SetPlan, SourcePlan
    from featurestore.registry import Registry
    from featurestore.specs import ProjectConfig


_OF_MESSAGES = ("epoch", "framing", "schema_id")
"""Options of a stream half that say how messages are read; the others are the connector's."""


class Environment:
    """What a project's configuration names. Nothing is opened before its first use."""

    def __init__(self, root: Path, config: ProjectConfig) -> None:
        self.root = root
        self.config = config
        if str(root) not in sys.path:
            sys.path.append(str(root))  # where the functions of python steps are
        self._streams: dict[tuple[str, str], StreamSource] = {}
        self.begun: list[StreamSource] = []

    @property
    def project(self) -> str:
        """The project's name."""
        return self.config.project

    @cached_property
    def registry(self) -> Registry:
        """The registry of versions, generations and statistics."""
        from featurestore.registry import Registry

        return Registry(self.config.registry, self.root)

    @cached_property
    def offline(self) -> OfflineStore:
        """The offline store."""
        section = self.config.offline
        store: OfflineStore = extension("offline", section.kind)(section.settings(), self.root)
        return store

    @cached_property
    def online(self) -> OnlineStore:
        """The online store."""
        section = self.config.online
        store: OnlineStore = extension("online", section.kind)(section.settings())
        return store

    def check_online(self) -> None:
        """Raise OperatorError where the online store would lose data: it evicts, say, or is a replica.

        One that does not answer now passes: who writes to it has patience of its own.
        """
        try:
            self.online.ping()
        except StoreUnavailable:
            return

    @property
    def online_identity(self) -> str:
        """What tells this online store from others in the registry's generations."""
        section = self.config.online
        return f"{section.kind}:{section.url or section.path or ''}"

    def stream(self, source: SourcePlan) -> StreamSource:
        """Return the topic of a source's stream half. Raises RequestError where it has none."""
        if source.stream is None:
            raise RequestError(
                f"Source '{source.name}' has no stream half.", hint="Declare stream: {topic: …}."
            )
        topic = str(source.stream["topic"])
        options = {k: v for k, v in source.stream.get("options", {}).items() if k not in _OF_MESSAGES}
        key = (topic, repr(sorted(options.items())))
        if key not in self._streams:
            section = self.config.stream
            made: StreamSource = extension("stream", section.kind)(section.settings(), topic, options)
            self._streams[key] = made
        return self._streams[key]

    def batch(self, source: SourcePlan) -> BatchSource:
        """Return the batch half of a source. Raises RequestError where it has none."""
        if source.batch is None:
            raise RequestError(
                f"Source '{source.name}' has no batch half.", hint="Declare batch:, or give rows."
            )
        made: BatchSource = extension("batch", source.batch["kind"])(source.batch, self.root)
        return made

    def rows_table(self, plan: SetPlan) -> OfflineTable:
        """Return the offline table of a feature set's rows."""
        return self.offline.table(tables.rows_table(plan))

    def close(self) -> None:
        """Release connections and files."""
        for name in ("registry", "online"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()
        for stream in self._streams.values():
            stream.close()
        self._streams = {}
