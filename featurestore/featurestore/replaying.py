"""Replay: dead letters that the source, as it is applied now, admits are sent again, each once.

A letter of the door that came by a stream is appended to its topic: it becomes known now, and every set gets
it. Any other (of a step, or of a batch input) is needed only where it is missing: it is ingested as rows into
those versions of its sets that have read past it, lack it, and admit it. A version that has not come so far
reads the row itself, from landing or from the input.

Each letter is noted as `sending` before, and as `sent` after, in one table of the offline store, whose
commits exclude one another: two replays at once share the work. A run that died between leaves letters
`sending`. After `_TAKEN_OVER` another takes them over. Rows that it had ingested are found in the set's
table; an event that it had appended is found in the topic, by its bytes, from where the topic ended before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore import instants, tables
from featurestore.contracts import OfflineTable, Record, RecordBatch, StreamSource
from featurestore.dead_letters import SENDING, SENT, Chosen, Letter, read, states_of, streams_of
from featurestore.errors import OperatorError, StoreUnavailable, UnknownName
from featurestore.plans import EVENT_TIME, INGEST_TIME, PARTITION, ROW_HASH, SEQUENCE, SetPlan, SourcePlan

if TYPE_CHECKING:
    import polars as pl

    from featurestore.store import FeatureStore

_TAKEN_OVER = 5 * instants.MINUTE
_SEND_WITHIN = 60.0  # seconds from the note to the sending; far less than after which another takes over
_TOLD = 100  # letters that a report tells of one by one
_POLL_SECONDS = 5.0


@dataclass
class ReplayReport:
    """What became of the letters that were asked for.

    `appended` to their topics, `ingested` into sets that lacked them, `settled`: the sets have them already;
    `replayed` before; `busy`: another run sends them now; `waiting`: a stream or an ingest will bring them;
    `refused` again, by code; `lost`: their bytes were cut, and the topic no longer has them. `told` says of
    up to 100 that were not sent why.
    """

    appended: int = 0
    ingested: int = 0
    settled: int = 0
    replayed: int = 0
    busy: int = 0
    waiting: int = 0
    lost: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    told: list[dict[str, str]] = field(default_factory=list)

    def tell(self, letter: Letter, message: str) -> None:
        """Say why a letter was not sent."""
        if len(self.told) < _TOLD:
            self.told.append({"id": letter.id, "source": letter.source, "message": message})

    def refuse(self, letter: Letter, code: str, message: str) -> None:
        """Count a letter that is refused again."""
        self.refused[code] = self.refused.get(code, 0) + 1
        self.tell(letter, f"{code}: {message}")


def replay(store: FeatureStore, chosen: Chosen, ids: Sequence[str], dry_run: bool) -> ReplayReport:
    """Send again what can be; see `FeatureStore.replay`."""
    _refuse_unknown(store, chosen, ids)
    report = ReplayReport()
    dead = store.environment.offline.table(tables.DEAD_LETTERS)
    streams = streams_of(dead)
    replays = _Replays(store, report, dry_run)
    for letters in read(store.environment, chosen, ids):
        states = states_of(store.environment, [letter.id for letter in letters])
        left = []
        for letter in letters:
            state, at = states.get(letter.id, ("", 0))
            if state == SENT:
                report.replayed += 1
            elif state == SENDING and instants.now() - at < _TAKEN_OVER:
                report.busy += 1
                report.tell(letter, "another replay is sending it, or has died; it is taken over after 5m")
            else:
                left.append(letter)
        for source in sorted({letter.source for letter in left}):
            mine = [letter for letter in left if letter.source == source]
            try:
                plan = store.catalog.source(source)
            except UnknownName:
                for letter in mine:
                    report.refuse(letter, "unknown_source", f"source '{source}' is not applied")
                continue
            to_topic = [x for x in mine if x.feature_set is None and x.partition in streams]
            replays.to_topic(plan, to_topic, states)
            rest = [x for x in mine if x.feature_set is not None or x.partition not in streams]
            replays.to_sets(plan, rest, streams)
    return report


def _refuse_unknown(store: FeatureStore, chosen: Chosen, ids: Sequence[str]) -> None:
    """Raise UnknownName where one of these is no letter's id within the bounds."""
    if ids:
        known = {letter.id for letters in read(store.environment, chosen, ids) for letter in letters}
        for name in ids:
            if name not in known:
                raise UnknownName(
                    f"There is no dead letter '{name}' of what was asked for; none was sent.",
                    hint="Run: featurestore dead-letters list",
                )


class _Replays:
    """One run: what it sends, and the notes that it makes of it."""

    def __init__(self, store: FeatureStore, report: ReplayReport, dry_run: bool) -> None:
        self._store = store
        self._report = report
        self._dry_run = dry_run
        self._notes = store.environment.offline.table(tables.REPLAYS)

    # To the topic

    def to_topic(
        self, plan: SourcePlan, letters: Sequence[Letter], states: Mapping[str, tuple[str, int]]
    ) -> None:
        """Append the letters that the door admits now."""
        if not letters:
            return
        if plan.stream is None:
            for letter in letters:
                self._report.refuse(letter, "no_stream", f"source '{plan.name}' has no stream half now")
            return
        topic = self._store.environment.stream(plan)
        payloads = self._whole(letters, topic)
        admitted = self._admitted(plan, [letter for letter in letters if letter.id in payloads], payloads)
        if self._dry_run or not admitted:
            self._report.appended += len(admitted)
            return
        taken_over = [letter for letter in admitted if letter.id in states]
        known = self._in_topic(topic, taken_over, payloads)
        ends = topic.ends()
        started = time.monotonic()
        mine = self._claim(admitted, ends)
        new = [letter for letter in mine if letter.id not in known]
        if time.monotonic() - started > _SEND_WITHIN:
            raise OperatorError(
                "The offline store took too long to note what is to be replayed; nothing was sent.",
                hint="Run featurestore dead-letters replay again.",
            )
        if new:
            topic.append([(None, payloads[letter.id]) for letter in new])
        self._note(mine, SENT, {})
        self._report.appended += len(new)
        self._report.settled += len(mine) - len(new)

    def _admitted(
        self, plan: SourcePlan, letters: Sequence[Letter], payloads: Mapping[str, bytes]
    ) -> list[Letter]:
        """Return the letters that the source admits as records that come now; report the others."""
        from featurestore.rows.door import admit
        from featurestore.rows.json import decode

        now = instants.now()
        records = [Record(n, now, None, payloads[letter.id]) for n, letter in enumerate(letters)]
        frame, malformed = decode(plan, RecordBatch("replay", records, len(records)))
        door = admit(plan, frame, now=now)
        for refused in (malformed, door.rejected):
            for number, code, message in refused.select("sequence", "code", "message").iter_rows():
                self._report.refuse(letters[number], code, message)
        gone = {n for part in (malformed, door.rejected) for n in part["sequence"]}
        kept = set(door.rows[SEQUENCE])
        for number, letter in enumerate(letters):
            if number not in kept and number not in gone:
                self._report.refuse(letter, "cutover", "its ingest time belongs to the batch half")
        return [letters[number] for number in sorted(kept)]

    def _whole(self, letters: Iterable[Letter], topic: StreamSource) -> dict[str, bytes]:
        """Return the letters' bytes as received; those that were cut are read again from the topic."""
        found: dict[str, bytes] = {}
        for letter in letters:
            if letter.payload is None:
                self._report.refuse(letter, letter.code, letter.message)
            elif not is_cut(letter):
                found[letter.id] = letter.payload
            elif (whole := _record(topic, letter)) is not None:
                found[letter.id] = whole
            else:
                self._report.lost += 1
                self._report.tell(letter, "its bytes were cut, and the topic no longer has the record")
        return found

    def _in_topic(
        self, topic: StreamSource, letters: Sequence[Letter], payloads: Mapping[str, bytes]
    ) -> set[str]:
        """Return those of the letters that the run which died had appended after all."""
        wanted: dict[bytes, list[str]] = {}
        for letter in letters:
            wanted.setdefault(payloads[letter.id], []).append(letter.id)
        found: set[str] = set()
        for partition, start in self._ends_noted(letters).items():
            if partition not in topic.partitions():
                continue  # the topic is another one: nothing was appended to it
            reader = topic.reader(partition, start)
            try:
                reached, end = start, reader.end()
                while reached < end and (batch := reader.poll(10_000, _POLL_SECONDS)) is not None:
                    reached = batch.next_sequence
                    for record in batch.records:
                        if record.value is not None and wanted.get(record.value):
                            found.add(wanted[record.value].pop())
            finally:
                reader.close()
        return found

    # Into sets

    def to_sets(self, plan: SourcePlan, letters: Sequence[Letter], streams: set[str]) -> None:
        """Ingest the letters into the versions of their sets that have read past them and lack them."""
        live = [found for found in self._store.catalog.live_sets() if found.source.name == plan.name]
        left = [letter for letter in letters if self._is_whole(letter)]
        done: set[str] = set()
        waiting: dict[str, str] = {}
        refused: dict[str, tuple[str, str]] = {}
        lacking: list[tuple[SetPlan, list[Letter]]] = []
        for found in live:
            # `future:` and `max_bytes:` are no part of a set's version: those of now hold
            same = found.source.fingerprint == plan.fingerprint
            target = replace(found, source=plan) if same else found
            mine = [letter for letter in left if letter.feature_set in (None, target.name)]
            passed = []
            for letter in mine:
                reason = self._not_passed(target, letter, streams)
                if reason is None:
                    passed.append(letter)
                else:
                    waiting[letter.id] = reason
            missing, there, bad = self._judge(target, passed, streams)
            refused |= bad
            done |= there
            if missing:
                lacking.append((target, missing))
        wanted = {letter.id: letter for _, missing in lacking for letter in missing}
        if not self._dry_run and wanted:
            wanted = {letter.id: letter for letter in self._claim(list(wanted.values()), {})}
            for target, missing in lacking:
                self._ingest(target, [letter for letter in missing if letter.id in wanted], streams)
            self._note(list(wanted.values()), SENT, {})
        self._report.ingested += len(wanted)
        settled = [x for x in left if x.id in done and x.id not in wanted and x.id not in waiting]
        if not self._dry_run and settled:
            self._note(self._claim(settled, {}), SENT, {})
        self._report.settled += len(settled)
        handled = {*wanted, *(letter.id for letter in settled)}
        for letter in left:
            if letter.id in handled:
                continue
            if letter.id in waiting:
                self._report.waiting += 1
                self._report.tell(letter, waiting[letter.id])
            else:
                why = f"set '{letter.feature_set}' is not applied"
                self._report.refuse(letter, *refused.get(letter.id, ("unknown_set", why)))

    def _is_whole(self, letter: Letter) -> bool:
        if letter.payload is None:
            self._report.refuse(letter, letter.code, letter.message)
        elif is_cut(letter):
            self._report.lost += 1
            self._report.tell(letter, "its bytes were cut; ingest its row from another file")
        return letter.payload is not None and not is_cut(letter)

    def _not_passed(self, target: SetPlan, letter: Letter, streams: set[str]) -> str | None:
        """Return what will bring the row to this version; None where it has read past it."""
        table = self._store.environment.rows_table(target)
        partition = letter.partition or ""
        name = partition if partition in streams else tables.input_name(partition)
        reached = table.position(table.snapshot(), name)
        if partition in streams:
            return None if reached > letter.sequence else f"the stream brings it to '{target.name}'"
        return None if reached else f"'{target.name}' has not read {partition}: featurestore ingest brings it"

    def _judge(
        self, target: SetPlan, letters: Sequence[Letter], streams: set[str]
    ) -> tuple[list[Letter], set[str], dict[str, tuple[str, str]]]:
        """Return the letters that the version lacks, the ids of those that it has, and why others not."""
        from featurestore.rows.door import admit
        from featurestore.rows.transform import transform

        if not letters:
            return [], set(), {}
        frames, bad = _frames(target.source, letters, streams)
        rows: dict[int, list[bool]] = {number: [] for number in range(len(letters))}
        for frame in frames:
            door = admit(target.source, frame, now=instants.now())
            made = transform(target, door.rows)
            for part in (door.rejected, made.rejected):
                for number, code, message in part.select("sequence", "code", "message").iter_rows():
                    bad[letters[number].id] = code, message
            there = _those_there(self._store.environment.rows_table(target), made.rows)
            for number, known in zip(made.rows[SEQUENCE], there, strict=True):
                rows[number].append(known)
        fine = [number for number in rows if letters[number].id not in bad]
        has = {letters[number].id for number in fine if all(rows[number])}  # what a filter leaves out, too
        return [letters[number] for number in fine if letters[number].id not in has], has, bad

    def _ingest(self, target: SetPlan, letters: Sequence[Letter], streams: set[str]) -> None:
        """Ingest the letters' rows into one version: as one input, which is known by the letters."""
        import polars as pl

        from featurestore.writing import ingest_into

        if letters:
            for frame in _frames(target.source, letters, streams)[0]:
                ids = pl.Series("__letter", [letters[number].id for number in frame[SEQUENCE]])
                ingest_into(self._store, target, frame.drop(PARTITION, SEQUENCE).with_columns(ids))

    # Notes

    def _claim(self, letters: Sequence[Letter], ends: Mapping[str, int]) -> list[Letter]:
        """Note that this run sends the letters; return those that no other run has noted meanwhile."""
        return self._note(letters, SENDING, ends)

    def _note(self, letters: Sequence[Letter], state: str, ends: Mapping[str, int]) -> list[Letter]:
        """Commit a note of each letter that nobody else sends or has sent; return these letters."""
        environment = self._store.environment
        while letters:
            snapshot = self._notes.snapshot()
            known = states_of(environment, [letter.id for letter in letters])
            now = instants.now()
            mine = [
                letter
                for letter in letters
                if (found := known.get(letter.id)) is None
                or (found[0] == SENDING and (state == SENT or now - found[1] >= _TAKEN_OVER))
            ]
            rows = _notes(mine, state, now, ends)
            if not mine or self._notes.append(snapshot, rows, {}) is not None:
                if state == SENDING:
                    self._report.busy += len(letters) - len(mine)
                return mine
        return []

    def _ends_noted(self, letters: Sequence[Letter]) -> dict[str, int]:
        """Return where the topic ended before the letters' first sending."""
        import polars as pl

        snapshot = self._notes.snapshot()
        if snapshot is None or not letters:
            return {}
        wanted = [letter.id for letter in letters]
        rows = self._notes.lazy(snapshot, ["id", "ends"]).filter(pl.col("id").is_in(wanted)).collect()
        lowest: dict[str, int] = {}
        for text in rows["ends"].unique():
            for partition, end in json.loads(text).items():
                lowest[partition] = min(end, lowest.get(partition, end))
        return lowest


def is_cut(letter: Letter) -> bool:
    """Tell whether only the first bytes of the record are in the letter."""
    said = letter.message.split(" ", 1)[0]
    return letter.code == "too_large" and said.isdigit() and int(said) > len(letter.payload or b"")


def _record(topic: StreamSource, letter: Letter) -> bytes | None:
    """Return the bytes of a record at its place in the topic; None where it is no longer there."""
    assert letter.partition is not None
    try:
        reader = topic.reader(letter.partition, letter.sequence)
    except StoreUnavailable:
        raise
    except OperatorError:
        return None
    try:
        batch = reader.poll(1, _POLL_SECONDS)
        if batch is None or not batch.records or batch.records[0].sequence != letter.sequence:
            return None
        return batch.records[0].value
    finally:
        reader.close()


def _notes(letters: Sequence[Letter], state: str, at: int, ends: Mapping[str, int]) -> Any:
    """Return the rows of the table of replayed letters."""
    import pyarrow as pa

    instant = pa.timestamp("us", "UTC")
    columns = {
        "id": pa.array([letter.id for letter in letters], pa.string()),
        "source": pa.array([letter.source for letter in letters], pa.string()),
        "feature_set": pa.array([letter.feature_set for letter in letters], pa.string()),
        "code": pa.array([letter.code for letter in letters], pa.string()),
        "ingest_time": pa.array([letter.ingest_time for letter in letters], instant),  # the letter's
        "state": pa.array([state] * len(letters), pa.string()),
        "at": pa.array([at] * len(letters), instant),
        "ends": pa.array([json.dumps(ends)] * len(letters), pa.string()),
    }
    return pa.table(columns)


def _those_there(table: OfflineTable, rows: pl.DataFrame) -> list[bool]:
    """Tell of each row whether the table has it: the same event time and hash, so the same source row."""
    import polars as pl

    snapshot = table.snapshot()
    if snapshot is None or rows.is_empty():
        return [False] * rows.height
    times = rows[EVENT_TIME].to_physical()
    span = (int(times.min()), int(times.max()) + 1)  # type: ignore[arg-type]
    by = [EVENT_TIME, ROW_HASH]
    known = (
        table.lazy(snapshot, by, event_times=span)
        .join(rows.lazy().select(by), on=by, how="semi")
        .collect(engine="streaming")
    )
    marked = rows.select(by).join(
        known.unique().with_columns(pl.lit(True).alias("known")), on=by, how="left", maintain_order="left"
    )
    return marked["known"].fill_null(False).to_list()


def _frames(
    source: SourcePlan, letters: Sequence[Letter], streams: set[str]
) -> tuple[list[pl.DataFrame], dict[str, tuple[str, str]]]:
    """Return the letters' rows for the door, `__sequence` their numbers, and why others cannot be read.

    A row that a step refused keeps the ingest time that it has. Values that a table or a CSV file gave are
    read as text where they are not of the column's type.
    """
    import polars as pl

    from featurestore.rows.json import batch_epoch, decode_payloads

    names = [column.name for column in source.schema]
    frames: list[pl.DataFrame] = []
    bad: dict[str, tuple[str, str]] = {}
    for of_steps in (False, True):
        numbers = [n for n, letter in enumerate(letters) if (letter.feature_set is not None) == of_steps]
        chosen = [letters[n] for n in numbers]
        times = pl.Series(INGEST_TIME, [letter.ingest_time for letter in chosen], dtype=pl.Int64)
        system = pl.DataFrame(
            [
                pl.Series(PARTITION, [letter.partition for letter in chosen], dtype=pl.String),
                pl.Series(SEQUENCE, numbers, dtype=pl.Int64),
                *([times.cast(pl.Datetime("us", "UTC"))] if of_steps else []),
            ]
        )
        payloads = [letter.payload for letter in chosen]
        frame, malformed = decode_payloads(source, payloads, system, batch_epoch(source))
        frames.append(frame.select(*names, *system.columns))
        texts: dict[int, dict[str, str | None]] = {}
        for number, code, message in malformed.select("sequence", "code", "message").iter_rows():
            row = None if _is_json(source, letters[number], streams) else _texts(letters[number], names)
            if row is None:
                bad[letters[number].id] = code, message
            else:
                texts[number] = row
        columns = [pl.Series(name, [row[name] for row in texts.values()], dtype=pl.String) for name in names]
        at = system.filter(pl.col(SEQUENCE).is_in(list(texts)))
        frames.append(pl.DataFrame([*columns, *at.get_columns()]))
    return [frame for frame in frames if frame.height], bad


def _is_json(source: SourcePlan, letter: Letter, streams: set[str]) -> bool:
    """Tell whether a row came as JSON, where text is no number."""
    return letter.partition in streams or (source.batch or {}).get("kind") == "json"


def _texts(letter: Letter, names: Sequence[str]) -> dict[str, str | None] | None:
    """Return the row's values as text; None where the letter is no row of columns."""
    try:
        found = msgspec.json.decode(letter.payload or b"", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return {
        name: value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in ((name, found.get(name)) for name in names)
    }
