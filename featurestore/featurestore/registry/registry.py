"""The registry as the rest of the system sees it: each method is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import instants
from featurestore.registry import generations, heartbeats, records, versions
from featurestore.registry.database import Database
from featurestore.registry.generations import Generation
from featurestore.registry.records import CheckCount, Fit, Ingest, TrainingSet
from featurestore.registry.versions import NewVersion, Pins, Version

if TYPE_CHECKING:
    from featurestore.registry.statistics import Statistics


class Registry:
    """The applied versions of projects and what belongs to them. Safe to use from threads and processes.

    `url` is `sqlite:///path` (relative paths from `root`, else the working directory) or `postgresql://…`.
    Every method raises StoreUnavailable when the database does not answer. Times are UTC microseconds.
    """

    def __init__(self, url: str, root: Path | None = None, clock: Callable[[], int] = instants.now) -> None:
        self._database = Database(url, root)
        self._clock = clock

    def close(self) -> None:
        """Release connections."""
        self._database.close()

    # Versions

    def state(self, project: str) -> dict[tuple[str, str], str]:
        """Return the latest fingerprint by (kind, name): what a plan compares with, and `apply` checks."""
        with self._database.read() as connection:
            return versions.state(connection, project)

    def apply(
        self,
        project: str,
        new: Sequence[NewVersion],
        *,
        saw: Mapping[tuple[str, str], str],
        removed: Iterable[tuple[str, str]] = (),
        author: str = "",
    ) -> list[Version]:
        """Add versions, point `latest` at them and mark (kind, name)s removed, all or nothing.

        Returns the versions, those that were there before included: they keep their first bundle.
        `saw` is the state that the plan was made on; when the project has moved on since, it is an
        OperatorError to plan again.
        """
        with self._database.write() as connection:
            return versions.apply(connection, project, new, removed, saw, author, self._clock())

    def prepare(
        self,
        project: str,
        new: Sequence[NewVersion],
        *,
        saw: Mapping[tuple[str, str], str],
        author: str = "",
    ) -> None:
        """Add versions under the tag `next`, which nothing else has then; `latest` stays as it is.

        `saw` as in `apply`.
        """
        with self._database.write() as connection:
            versions.prepare(connection, project, new, saw, author, self._clock())

    def check_prepared(
        self, project: str, new: Sequence[NewVersion], *, saw: Mapping[tuple[str, str], str]
    ) -> None:
        """Raise OperatorError where `switch` would."""
        with self._database.read() as connection:
            versions.refuse_stale(connection, project, saw)
            versions.refuse_replaced(connection, project, new)

    def switch(
        self,
        project: str,
        new: Sequence[NewVersion],
        generations_filled: Iterable[str],
        *,
        saw: Mapping[tuple[str, str], str],
        removed: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Point `latest` at the versions that `prepare` added, and let these generations serve, at once.

        What they replace, and what is removed, gets the tag `previous`; nothing else has it then. Raises
        OperatorError when the project is no longer as the plan saw it, or another has prepared others.
        """
        with self._database.write() as connection:
            now = self._clock()
            versions.switch(connection, project, new, removed, saw, now)
            for generation in generations_filled:
                generations.promote(connection, generation, now)

    def roll_back(
        self, project: str, names: Sequence[str] = ()
    ) -> dict[tuple[str, str], tuple[str | None, str]]:
        """Swap `latest` and `previous` of these names, or of all; return (from, to) by (kind, name).

        Raises RequestError where there is nothing to go back to.
        """
        with self._database.write() as connection:
            return versions.roll_back(connection, project, names, self._clock())

    def pointers(self, project: str) -> dict[tuple[str, str], dict[str, str]]:
        """Return the fingerprint by tag, `latest` among them, of every (kind, name), as of one moment."""
        with self._database.read() as connection:
            return versions.pointers(connection, project)

    def resolve(self, project: str, kind: str, reference: str) -> Version:
        """Return the version of `name`, `name@tag`, `name@fingerprint` or a unique prefix of four or more.

        Raises RequestError with the nearest that there is.
        """
        with self._database.read() as connection:
            return versions.resolve(connection, project, kind, reference)

    def versions(self, project: str, kind: str | None = None, name: str | None = None) -> list[Version]:
        """Return all versions of a project, a kind or a name, in the order of their first apply."""
        with self._database.read() as connection:
            return versions.history(connection, project, kind, name)

    def pins(self, project: str, vector: str, fingerprint: str) -> Pins | None:
        """Return the sets and fits that a vector's version was last applied with."""
        with self._database.read() as connection:
            return versions.find_pins(connection, project, vector, fingerprint)

    def tags(self, project: str, kind: str, name: str) -> dict[str, str]:
        """Return the fingerprint by tag, `latest` among them unless it was removed."""
        with self._database.read() as connection:
            return versions.find_tags(connection, project, kind, name)

    def tag(self, project: str, kind: str, reference: str, tag: str) -> Version:
        """Move `tag` to what `reference` names; return that version."""
        with self._database.write() as connection:
            return versions.move_tag(connection, project, kind, reference, tag, self._clock())

    def untag(self, project: str, kind: str, name: str, tag: str) -> bool:
        """Delete a tag; return whether there was one."""
        with self._database.write() as connection:
            return versions.remove_tag(connection, project, kind, name, tag)

    # Generations

    def create_generation(
        self, project: str, set_name: str, state_fingerprint: str, store: str, cut: Mapping[str, int]
    ) -> Generation:
        """Return a new generation in `store` (its identity), building from the offline rows below `cut`."""
        with self._database.write() as connection:
            return generations.create(
                connection, project, set_name, state_fingerprint, store, cut, self._clock()
            )

    def begin_generation(
        self,
        project: str,
        set_name: str,
        state_fingerprint: str,
        store: str,
        cut: Mapping[str, int],
        *,
        lasts: bool = False,
    ) -> Generation:
        """Return the generation of the state that is being filled; a new one where there is none.

        `lasts`: its entities never expire, which its id then tells the store.
        """
        with self._database.write() as connection:
            return generations.begin(
                connection, project, set_name, state_fingerprint, store, cut, self._clock(), lasts
            )

    def follow(self, filled: Iterable[str]) -> None:
        """Let streams feed these generations, all at once. Raises OperatorError when one is retired."""
        with self._database.write() as connection:
            for generation in filled:
                generations.follow(connection, generation)

    def promote(self, generation: str, *, keep: bool = True) -> Generation:
        """Let a generation serve; the one that did is standby, or without `keep` retired, at once; return it.

        Raises OperatorError when it is retired.
        """
        with self._database.write() as connection:
            return generations.promote(connection, generation, self._clock(), keep)

    def retire(self, generation: str) -> Generation:
        """Mark a generation retired; return it."""
        with self._database.write() as connection:
            return generations.retire(connection, generation, self._clock())

    def mark_dropped(self, generation: str) -> None:
        """Note that the online store holds nothing of a generation any more."""
        with self._database.write() as connection:
            generations.dropped(connection, generation)

    def generation(self, generation: str) -> Generation:
        """Return the generation of that id. Raises RequestError when there is none."""
        with self._database.read() as connection:
            return generations.get(connection, generation)

    def serving_generation(
        self, project: str, set_name: str, state_fingerprint: str, store: str | None = None
    ) -> Generation | None:
        """Return the generation that serves the set's state, in `store` where that is given; None if none."""
        with self._database.read() as connection:
            return generations.serving(connection, project, set_name, state_fingerprint, store)

    def generations(
        self, project: str, set_name: str | None = None, status: str | None = None
    ) -> list[Generation]:
        """Return generations, oldest first. `status` is as in `featurestore.registry.generations`."""
        with self._database.read() as connection:
            return generations.find(connection, project, set_name, status)

    # Who is at work

    def beat(self, project: str, name: str, holder: str) -> None:
        """Note that `holder` is at work on `name` now: a stream, or the filling of a generation."""
        with self._database.write() as connection:
            heartbeats.beat(connection, project, name, holder, self._clock())

    def rest(self, project: str, name: str, holder: str) -> None:
        """Note that `holder` works on `name` no more."""
        with self._database.write() as connection:
            heartbeats.rest(connection, project, name, holder)

    def heartbeats(self, project: str) -> dict[str, int]:
        """Return when anyone was last seen at work, by name."""
        with self._database.read() as connection:
            return heartbeats.latest(connection, project)

    def forget_heartbeats(self, project: str, before: int) -> None:
        """Delete what was noted before an instant."""
        with self._database.write() as connection:
            heartbeats.forget(connection, project, before)

    # Fits, statistics, ingests, training sets

    def record_fit(
        self,
        project: str,
        kind: str,
        name: str,
        fingerprint: str,
        until: int | None,
        values: Mapping[str, Any],
    ) -> Fit:
        """Store fitted values of a version; return them with their id, which their content gives."""
        with self._database.write() as connection:
            return records.add_fit(connection, project, kind, name, fingerprint, until, values, self._clock())

    def fit(self, project: str, fit: str) -> Fit:
        """Return the fit of that id. Raises RequestError when there is none."""
        with self._database.read() as connection:
            return records.get_fit(connection, project, fit)

    def latest_fit(self, project: str, kind: str, name: str, fingerprint: str) -> Fit | None:
        """Return the fit last stored for a version; None before the first."""
        with self._database.read() as connection:
            return records.latest_fit(connection, project, kind, name, fingerprint)

    def record_statistics(
        self, project: str, set_name: str, fingerprint: str, batch: Mapping[str, Statistics]
    ) -> None:
        """Merge a batch's statistics (from `statistics.describe`) into those of the set's version.

        Call it after the batch is committed: a crash in between leaves a batch out, none counts twice.
        """
        with self._database.write() as connection:
            records.merge_statistics(connection, project, set_name, fingerprint, batch, self._clock())

    def statistics(self, project: str, set_name: str, fingerprint: str) -> dict[str, Statistics]:
        """Return the statistics of a set's version, by feature."""
        with self._database.read() as connection:
            return records.get_statistics(connection, project, set_name, fingerprint)

    def record_checks(
        self, project: str, set_name: str, fingerprint: str, rows: int, failed: Mapping[str, int]
    ) -> None:
        """Add a batch's rows, and those that each check found wrong, to the counts of the set's version.

        Call it after the batch is committed, as `record_statistics`.
        """
        with self._database.write() as connection:
            records.add_checks(connection, project, set_name, fingerprint, rows, failed, self._clock())

    def checks(self, project: str, set_name: str, fingerprint: str) -> dict[str, CheckCount]:
        """Return the counts of a set's version, by check."""
        with self._database.read() as connection:
            return records.get_checks(connection, project, set_name, fingerprint)

    def record_ingest(self, project: str, set_name: str, report: Mapping[str, Any]) -> None:
        """Store the report of an ingest."""
        with self._database.write() as connection:
            records.add_ingest(connection, project, set_name, report, self._clock())

    def ingests(self, project: str, set_name: str | None = None, limit: int = 50) -> list[Ingest]:
        """Return the last ingests, newest first."""
        with self._database.read() as connection:
            return records.find_ingests(connection, project, set_name, limit)

    def record_training_set(
        self,
        project: str,
        vector: str,
        fingerprint: str,
        parameters: Mapping[str, Any],
        positions: Mapping[str, Any],
    ) -> TrainingSet:
        """Store what a training set was made from; return it with its id."""
        with self._database.write() as connection:
            return records.add_training_set(
                connection, project, vector, fingerprint, parameters, positions, self._clock()
            )

    def training_set(self, project: str, training_set: str) -> TrainingSet:
        """Return the training set of that id. Raises RequestError when there is none."""
        with self._database.read() as connection:
            return records.get_training_set(connection, project, training_set)

    def training_sets(self, project: str, vector: str | None = None, limit: int = 50) -> list[TrainingSet]:
        """Return the last training sets, newest first."""
        with self._database.read() as connection:
            return records.find_training_sets(connection, project, vector, limit)
