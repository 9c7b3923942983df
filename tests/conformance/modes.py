"""The ways a case goes through the store: how its rows arrive, in which stores, and how it is asked.

Modes are data. `make test` runs every case through the modes of `ALWAYS` and a few of the others in turn;
`make conformance` through all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

READINGS = ("now", "as_of", "training", "as_known")
"""Online at the present instant; online as of an instant; the training set; the training set as known."""


@dataclass(frozen=True)
class Mode:
    """How rows arrive and where they go.

    `batch` is the share of the rows that is ingested first, the rest is streamed; with `overlap` the stream
    repeats what was ingested, where the source has ids. `order` is how rows are arranged. `again`: all is
    delivered twice. `stops`: the stream stops and resumes at every micro-batch, a batch comes row by row.
    `files`: batches come as files. `deep`: the online state of an entity becomes a tree with its first rows.
    `renewed`: offline files are compacted and online values materialized anew before anything is asked.
    """

    name: str
    online: str = "sqlite"
    batch: float = 0.0
    order: str = "ordered"
    engine: str = "local"
    workers: int = 1
    again: bool = False
    stops: bool = False
    overlap: bool = False
    files: bool = False
    renewed: bool = False
    deep: bool = False

    @property
    def is_oracle(self) -> bool:
        """Whether the answers are the oracle's: no store, no engine."""
        return self.engine == "oracle"

    @property
    def traits(self) -> frozenset[str]:
        """What gaps and cases may name: the mode, its engine and store, `batch`, `stream` and `mixed`."""
        kind = "batch" if self.batch == 1 else "mixed" if self.batch else "stream"
        found = {self.name, self.engine, self.online, "oracle" if self.is_oracle else kind}
        found |= {
            name for name in ("again", "stops", "overlap", "files", "renewed", "deep") if getattr(self, name)
        }
        return frozenset(found if self.batch < 1 or self.is_oracle else found - {self.engine})


ORACLE = Mode("oracle", engine="oracle", online="none")
BATCH = Mode("batch", batch=1.0)

MODES = (
    ORACLE,
    BATCH,
    Mode("batch-files-redis", online="redis", batch=1.0, order="shuffled", files=True),
    Mode("batch-row-by-row", batch=1.0, order="reversed", stops=True, deep=True),
    Mode("batch-renewed-redis", online="redis", batch=1.0, order="shuffled", renewed=True, deep=True),
    Mode("batch-twice", batch=1.0, again=True, files=True),
    Mode("stream-ordered", engine="local"),
    Mode("stream-ordered-redis", engine="local", online="redis", deep=True),
    Mode("stream-shuffled", engine="local", order="shuffled", deep=True),
    Mode("stream-reversed-redis", engine="local", order="reversed", online="redis"),
    Mode("stream-twice", engine="local", order="shuffled", again=True, deep=True),
    Mode("stream-stopped", engine="local", order="shuffled", stops=True, deep=True),
    Mode("stream-stopped-redis", engine="local", stops=True, online="redis"),
    Mode("stream-renewed", engine="local", order="shuffled", renewed=True),
    Mode("bytewax-ordered", engine="bytewax", deep=True),
    Mode("bytewax-shuffled-redis", engine="bytewax", order="shuffled", online="redis"),
    Mode("bytewax-two-workers", engine="bytewax", order="shuffled", workers=2),
    Mode(
        "bytewax-two-workers-twice-redis", engine="bytewax", workers=2, again=True, online="redis", deep=True
    ),
    Mode("bytewax-stopped", engine="bytewax", order="shuffled", workers=2, stops=True),
    Mode("third-then-stream", batch=1 / 3, engine="local", deep=True),
    Mode("half-then-stream-redis", batch=1 / 2, engine="local", order="shuffled", online="redis", deep=True),
    Mode("half-then-stream-overlapping", batch=1 / 2, engine="local", overlap=True),
    Mode(
        "two-thirds-then-stream-stopped", batch=2 / 3, engine="local", order="reversed", stops=True, deep=True
    ),
    Mode("half-then-bytewax", batch=1 / 2, engine="bytewax", workers=2, order="shuffled", deep=True),
    Mode("half-then-bytewax-overlapping-redis", batch=1 / 2, engine="bytewax", overlap=True, online="redis"),
)

ALWAYS = (ORACLE, BATCH)
"""The modes that every run of every case has."""

_TURNS = 2


def sampled(number: int, modes: Sequence[Mode] = MODES) -> set[str]:
    """Return the names of the modes that the case of that number meets when modes are sampled."""
    others = [mode for mode in modes if mode not in ALWAYS]
    turns = {others[(number * _TURNS + turn) % len(others)].name for turn in range(_TURNS)}
    return {mode.name for mode in ALWAYS} | turns
