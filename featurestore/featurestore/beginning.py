"""Where a stream begins: `start:`, decided once per partition and kept, and topics that were made anew.

A partition whose position the landing table has goes on from there. The first time that a topic is read,
every partition's beginning is decided and recorded, in landing and dead letters, before any record is
applied; what else is behind landing is brought up to it (`catch_up`). So a crash, a rebalance or another
process never moves it. A partition that is added later begins at its first record, whatever `start:` says:
all of it came after the stream began. A landing table of a changed schema begins where the first one did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from featurestore import tables
from featurestore.contracts import OfflineTable, StreamSource
from featurestore.errors import OperatorError
from featurestore.instants import parse_instant
from featurestore.plans import SourcePlan
from featurestore.tables import BEGUN

if TYPE_CHECKING:
    import polars as pl

    from featurestore.environment import Environment

EARLIEST, LATEST = "earliest", "latest"


def begin(environment: Environment, source: SourcePlan) -> None:
    """Record where the partitions begin that no landing table of the source knows.

    Raises OperatorError where the tables know another topic of that name.
    """
    _Beginning(environment, source).record()


def begin_before_push(environment: Environment, source: SourcePlan) -> None:
    """Decide where a stream begins before something is pushed, so that what is pushed is not left out."""
    if source.stream is None or source.stream.get("start", EARLIEST) == EARLIEST:
        return
    topic = environment.stream(source)
    if topic not in environment.begun:
        begin(environment, source)
        environment.begun.append(topic)


def accept_topic(environment: Environment, source: SourcePlan, start: str = EARLIEST) -> dict[str, int]:
    """Go on with a topic that was made anew, or another cluster's; return where its partitions begin.

    Where the topic is known already, only partitions are moved whose next records are no longer there.
    """
    return _Beginning(environment, source).record(start, is_accepted=True)


class _Beginning:
    """One decision about the partitions of a source's topic."""

    def __init__(self, environment: Environment, source: SourcePlan) -> None:
        assert source.stream is not None
        self._source = source
        self._topic = str(source.stream["topic"])
        self._start = str(source.stream.get("start", EARLIEST))
        self._stream: StreamSource = environment.stream(source)
        self._offline = environment.offline
        self._landing = self._offline.table(tables.landing_table(source))

    def record(self, start: str | None = None, *, is_accepted: bool = False) -> dict[str, int]:
        while True:
            snapshot = self._landing.snapshot()
            known = self._landing.positions(snapshot)
            decided = self._decide(known, start or self._start, is_accepted)
            if is_accepted:
                decided |= self._gaps(known)
            if not decided:
                break
            marks = {tables.begun(name): sequence for name, sequence in decided.items()}
            rows = _empty(self._source).to_arrow()
            if self._landing.append(snapshot, rows, {**decided, **marks}) is not None:
                known = {**known, **decided, **marks}
                break
        self._raise_dead_letters(known)
        return decided

    def _decide(self, known: Mapping[str, int], start: str, is_accepted: bool) -> dict[str, int]:
        """Return where the partitions begin that have no position."""
        partitions = self._stream.partitions()
        unknown = [name for name in partitions if name not in known]
        if not unknown:
            return {}
        earlier = self._earlier()
        everything = {**earlier, **known}
        prefix = _prefix(partitions[0])
        is_known = any(_prefix(name) == prefix for name in everything)
        if not is_known and not is_accepted:
            self._check_same(everything, prefix)
        begun = {name: earlier[tables.begun(name)] for name in unknown if tables.begun(name) in earlier}
        found = {
            name: 0 if is_known or start == EARLIEST else self._stream.begin(name, _moment(start))
            for name in unknown
            if name not in begun
        }
        for name, sequence in begun.items():
            found[name] = max(sequence, self._stream.begin(name, EARLIEST))
        return found

    def _gaps(self, known: Mapping[str, int]) -> dict[str, int]:
        """Return where known partitions go on whose next records the broker no longer has."""
        first = {name: self._stream.begin(name, EARLIEST) for name in self._stream.partitions()}
        return {name: low for name, low in first.items() if low > known.get(name, low)}

    def _earlier(self) -> dict[str, int]:
        """Return the positions in the landing tables of the source's other schemas."""
        prefix = f"landing-{self._source.name}-"
        earlier: dict[str, int] = {}
        for name in self._offline.tables():
            if name.startswith(prefix) and name != tables.landing_table(self._source):
                table: OfflineTable = self._offline.table(name)
                for position, sequence in table.positions(table.snapshot()).items():
                    earlier[position] = min(sequence, earlier.get(position, sequence))
        return earlier

    def _check_same(self, known: Mapping[str, int], prefix: str) -> None:
        """Raise OperatorError where the tables know a topic of that name by another id or cluster."""
        others = [
            name
            for name in tables.row_partitions(known)
            if f"/{self._topic}/" in name and _prefix(name) != prefix
        ]
        if not others:
            return
        shown = ", ".join(f"{name} up to {known[name]}" for name in sorted(others)[:3])
        more = ", …" if len(others) > 3 else ""
        raise OperatorError(
            f"Topic '{self._topic}' of source '{self._source.name}' is another one than before: its "
            f"partitions are {prefix}/…, and the stores have {shown}{more}. It was deleted and made anew, or "
            "this is another cluster; what the stores had not read of the old one does not come any more.",
            hint="Point brokers: (or path:) at the old one; or go on with the new one: featurestore "
            f"accept-topic {self._source.name}",
        )

    def _raise_dead_letters(self, known: Mapping[str, int]) -> None:
        """Record in the dead letters what was decided: nothing before a beginning was refused."""
        from featurestore.rows.dead_letters import empty

        begun = {
            tables.letters_position(self._source.name, name): known[tables.begun(name)]
            for name in tables.row_partitions(known)
            if known.get(tables.begun(name))
        }
        if not begun:
            return
        table = self._offline.table(tables.DEAD_LETTERS)
        while True:
            snapshot = table.snapshot()
            lower = {name: end for name, end in begun.items() if table.position(snapshot, name) < end}
            if not lower or table.append(snapshot, empty().to_arrow(), lower) is not None:
                return


def _moment(start: str) -> str | int:
    return start if start in (EARLIEST, LATEST) else parse_instant(start)


def _prefix(partition: str) -> str:
    """Return what tells a partition's topic: kind, cluster, name and id."""
    return partition.removeprefix(BEGUN).rpartition("/")[0]


def _empty(source: SourcePlan) -> pl.DataFrame:
    """Return a landing table without rows."""
    import polars as pl

    from featurestore.rows.door import admit

    nothing = pl.DataFrame(schema={column.name: column.type.polars() for column in source.schema})
    return admit(source, nothing, now=0).rows
