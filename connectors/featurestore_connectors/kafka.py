"""Kafka topics by confluent-kafka: read at exact offsets, written with acknowledgement from all replicas.

Positions are kept by the stores, never by a consumer group: readers assign themselves one partition at
one offset, and commit nothing. A partition is named `kafka:<cluster id>/<topic>/<topic id>/<n>`, so that
a topic that was deleted and created again is another one; the id is `-` where the broker has none.

A record's time is its message's timestamp (the producer's unless the topic says
`message.timestamp.type=LogAppendTime`). Offsets may have gaps (compaction, transactions): what was read
is said by `next_sequence`. Transactions that are open or were aborted are not read.

While brokers are away librdkafka retries; once `unavailable_after` (30s) has passed without an answer,
StoreUnavailable is raised, and the caller opens the reader again at the position that its stores have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from featurestore import instants
from featurestore.contracts import Record, RecordBatch
from featurestore.errors import (
    FeatureStoreError,
    NotAcknowledged,
    OperatorError,
    SpecError,
    StoreUnavailable,
)

_LOGGER = logging.getLogger("featurestore.kafka")
_UNAVAILABLE_AFTER = "30s"
_VERIFY_SECONDS = 0.25
_SHARED_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_ERROR_BACKOFF_MS = 500
_EARLIEST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_OURS: dict[str, dict[str, Any]] = {
    "consumer": {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "fetch.error.backoff.ms": _ERROR_BACKOFF_MS,  # longer than _VERIFY_SECONDS: see KafkaReader._verify
    },
    "producer": {"acks": "all", "enable.idempotence": True, "allow.auto.create.topics": False},
    "admin": {},
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "consumer": {
        "group.id": "featurestore",
        "isolation.level": "read_committed",
        # A message over these limits would hold up its partition for ever; one alone is fetched whatever its
        # size. What is fetched ahead is bounded by bytes, for there is a consumer per partition.
        "receive.message.max.bytes": 1_000_000_000,
        "queued.max.messages.kbytes": 16_384,
    },
    "producer": {"partitioner": "murmur2_random", "compression.type": "lz4"},
    "admin": {},
}
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID}
_PERHAPS_GONE = _GONE | {KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # or no broker answers
_CREDENTIALS = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
_NO_ANSWER = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN}
_ELECTING = {KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION}
_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.POLICY_VIOLATION,
    KafkaError.INVALID_RECORD,
}
_TOO_MUCH = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD}  # of one record, not of all


class KafkaStream:
    """One topic of a Kafka cluster: a `contracts.StreamSource`. Safe to use from several threads.

    `config` is the project's `stream:`: `brokers` (host:port, …), `options` (properties of librdkafka, for
    TLS and SASL among others), `unavailable_after` (how long brokers may be away; 30s). `topic_options`
    are properties for this topic alone. What exactness rests on (acks, offsets) cannot be set.
    """

    def __init__(
        self, config: Mapping[str, Any], topic: str, topic_options: Mapping[str, Any] | None = None
    ) -> None:
        if not config.get("brokers"):
            raise SpecError("A kafka stream needs brokers:.", hint="Write brokers: host:9092 under stream:.")
        self.topic = topic
        self.brokers = str(config["brokers"])
        self.patience = (
            instants.parse_duration(config.get("unavailable_after", _UNAVAILABLE_AFTER)) / instants.SECOND
        )
        self._options = {**(config.get("options") or {}), **(topic_options or {})}
        fixed = {"bootstrap.servers", *_OURS["consumer"], *_OURS["producer"]}
        for name in sorted(fixed & set(self._options)):
            raise SpecError(f"stream option '{name}' is fixed.", hint="Remove it.")
        self.answer_within = self.patience / 2
        self._isolation = _isolation(self._options)
        self._trouble: KafkaError | None = None
        self._admin: AdminClient = self._client(AdminClient, "admin")
        self._producer: Producer | None = None
        self._lock = threading.Lock()
        self._cluster = self._topic_id = ""
        self._monitored: Consumer | None = None
        self._group_failed = False
        self._described: tuple[float, str, int] = (float("-inf"), "", 0)
        self.epochs: dict[int, list[tuple[int, int]]] = {}

    def partitions(self) -> list[str]:
        """Return the partitions' names, in order. Raises OperatorError when there is no such topic."""
        prefix, count = self.describe()
        return [f"{prefix}/{number}" for number in range(count)]

    def describe(self, max_age: float = 0.0) -> tuple[str, int]:
        """Return what the partitions' names begin with, and their number, known for up to `max_age` s."""
        asked = time.monotonic()
        at, prefix, count = self._described
        if asked - at < max_age:
            return prefix, count
        self._cluster = self._cluster or self._metadata().cluster_id or "-"
        if self._cluster.startswith("mockCluster"):  # librdkafka's own broker knows no DescribeTopics
            topics = self._metadata().topics
            if self.topic not in topics:
                raise self.unknown_topic()
            topic_id, count = "-", len(topics[self.topic].partitions)
        else:
            found = self.ask(self._describe_topic)
            topic_id, count = _topic_id(found), len(found.partitions)
            if self._topic_id not in ("", topic_id):
                self._cluster = self._metadata().cluster_id or "-"
        prefix = f"kafka:{self._cluster}/{self.topic}/{topic_id}"
        self._trouble = None
        self._topic_id, self._described = topic_id, (asked, prefix, count)
        return prefix, count

    @property
    def described_at(self) -> float:
        """When the broker was last asked what `describe` tells, by the monotonic clock."""
        return self._described[0]

    def ends(self) -> dict[str, int]:
        """Return by partition the offset after the last record that can be read, asked in one call."""
        prefix, count = self.describe()
        return {f"{prefix}/{number}": end for number, (end,) in self.offsets(range(count), _LATEST).items()}

    def reader(self, partition: str, sequence: int | None) -> KafkaReader:
        """Return a reader from offset `sequence` on; None is the earliest.

        Raises OperatorError for an unknown topic, for a partition of another cluster or of a topic that
        was recreated, for an offset whose records retention has deleted, and for one after the end.
        """
        names = self.partitions()
        if partition not in names:
            raise OperatorError(
                f"There is no partition {partition} at {self.brokers}: topic '{self.topic}' has "
                f"{names[0]} to /{len(names) - 1}. The topic was recreated, or this is another cluster.",
                hint="Point brokers: at the old cluster, or run featurestore accept-topic with the source.",
            )
        consumer: Consumer = self._client(Consumer, "consumer")
        try:
            return KafkaReader(self, consumer, partition, sequence)
        except FeatureStoreError:
            consumer.close()
            raise

    def begin(self, partition: str, start: str | int) -> int:
        """Return where reading begins for `earliest`, `latest`, or an instant of record time (microseconds).

        Of an instant, the broker says where the first message at or after it is. Raises OperatorError where
        it cannot.
        """
        number = int(partition.rpartition("/")[2])
        if isinstance(start, str):
            return self.offsets([number], {"earliest": _EARLIEST, "latest": _LATEST}[start])[number][0]
        # The end is asked first: what comes in between is later than it, and is read.
        [end] = self.offsets([number], _LATEST)[number]
        milliseconds = -(-start // 1000)  # messages count milliseconds
        [found] = self.offsets([number], OffsetSpec.for_timestamp(milliseconds))[number]
        if found >= 0:
            return min(found, end)
        if self._cluster.startswith("mockCluster") and end:
            raise OperatorError(
                f"The broker at {self.brokers} is librdkafka's own, and does not know which message of "
                f"'{self.topic}' was the first at an instant.",
                hint="Write start: earliest or start: latest.",
            )
        return end

    def append(self, records: Sequence[tuple[bytes | None, bytes | None]]) -> list[tuple[str, int]]:
        """Append (key, value) pairs; return each one's partition and offset, once all replicas have it.

        A value of None is a tombstone. The partition is what Java's default partitioner gives the key.
        Raises StoreUnavailable, naming the records, when some were not acknowledged in time (they may be
        stored all the same), OperatorError when the broker refuses them.
        """
        prefix, _ = self.describe(max_age=_VERIFY_SECONDS)
        placed: list[tuple[int, int] | None] = [None] * len(records)
        failed: dict[int, KafkaError] = {}
        with self._lock:
            if self._producer is None:
                self._producer = self._client(Producer, "producer")
            producer = self._producer
        deadline = time.monotonic() + self.patience
        for number, (key, value) in enumerate(records):

            def delivered(error: KafkaError | None, message: Message, number: int = number) -> None:
                if error is not None:
                    failed[number] = error
                else:
                    placed[number] = (message.partition() or 0, message.offset() or 0)

            while True:
                try:
                    producer.produce(self.topic, value=value, key=key, on_delivery=delivered)
                except BufferError:
                    if time.monotonic() < deadline:
                        producer.poll(0.05)
                        continue
                    failed[number] = KafkaError(KafkaError._QUEUE_FULL)
                except KafkaException as error:
                    failed[number] = error.args[0]
                break
            deadline = time.monotonic() + self.patience
        try:
            while placed.count(None) > len(failed) and time.monotonic() < deadline + 1:
                producer.flush(0.2)
        except KafkaException as error:  # the producer is done for, say because the broker lost what it had
            failed |= {number: error.args[0] for number, at in enumerate(placed) if at is None}
        if None in placed:
            self.close()
            named = [None if at is None else (f"{prefix}/{at[0]}", at[1]) for at in placed]
            raise self._not_acknowledged(named, failed)
        return [(f"{prefix}/{at[0]}", at[1]) for at in placed if at is not None]

    def show_applied(self, positions: Mapping[str, int], group: str) -> None:
        """Commit the positions to the consumer group `group`, or `group.id`, for the eyes of lag monitors.

        What they say is never read here. A failure is logged once, and changes nothing.
        """
        group = str(self._options.get("group.id", group))
        prefix = self._described[1]
        offsets = [
            TopicPartition(self.topic, int(name.rpartition("/")[2]), end)
            for name, end in positions.items()
            if name.rpartition("/")[0] == prefix
        ]
        if not offsets:
            return
        with self._lock:
            if self._monitored is None:
                settings = {"group.id": group, "on_commit": self._shown}
                self._monitored = self._client(Consumer, "consumer", settings)
            consumer = self._monitored
        # Not by the admin: librdkafka 2.16 aborts the process where the coordinator dies meanwhile.
        consumer.commit(offsets=offsets, asynchronous=True)
        consumer.poll(0)  # takes the answer to what was committed before

    def _shown(self, error: KafkaError | None, _partitions: Sequence[TopicPartition]) -> None:
        if error is not None and not self._group_failed:
            _LOGGER.warning("The lag of topic '%s' cannot be shown: %s", self.topic, error.str())
        self._group_failed = error is not None

    def close(self) -> None:
        """Release connections. What was not acknowledged is given up."""
        with self._lock:
            producer, self._producer = self._producer, None
            monitored, self._monitored = self._monitored, None
        if producer is not None:
            producer.purge()
            producer.flush(1)
        if monitored is not None:
            monitored.close()

    def offsets(self, partitions: Sequence[int], *specs: Any) -> dict[int, list[int]]:
        """Return by partition the offsets that the specs ask for, as of now.

        Asked over the admin's connection: a consumer's is busy with a fetch for up to half a second.
        """
        places = {number: TopicPartition(self.topic, number) for number in partitions}
        deadline = time.monotonic() + self.answer_within
        while True:
            try:
                found: dict[int, list[int]] = {number: [] for number in partitions}
                for spec in specs:
                    answers = self._admin.list_offsets(
                        dict.fromkeys(places.values(), spec),
                        isolation_level=self._isolation,
                        request_timeout=self.answer_within,
                    )
                    for number, place in places.items():
                        found[number].append(int(answers[place].result().offset))
                return found
            except KafkaException as error:
                problem: KafkaError = error.args[0]
                if problem.code() in _ELECTING and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                if problem.code() in _PERHAPS_GONE:
                    self.describe()
                raise self.translated(problem) from error

    def ask(self, question: Any) -> Any:
        """Return what a call of librdkafka returns, its errors translated."""
        try:
            return question()
        except KafkaException as error:
            raise self.translated(error.args[0]) from error

    def translated(self, error: KafkaError) -> OperatorError:
        """Return our error for librdkafka's."""
        if error.code() in _GONE:
            return self.unknown_topic()
        self._admin.poll(0)
        known = f" ({self._trouble.str()})" if self._trouble is not None else ""
        text = f"Kafka at {self.brokers}, topic '{self.topic}': {error.str()}{known}."
        if self._is_refused():
            return OperatorError(
                text,
                hint="Correct stream: options: in featurestore.yaml: security.protocol, and "
                + (
                    "ssl.ca.location (the authority that signed the broker's certificate), "
                    "ssl.certificate.location, ssl.key.location."
                    if self._trouble is not None and self._trouble.code() == KafkaError._SSL
                    else "sasl.mechanisms, sasl.username, sasl.password."
                ),
            )
        if error.code() in _REFUSED:
            return OperatorError(text, hint="Correct the permissions, the limits, or stream: options:.")
        if error.fatal() or error.code() == KafkaError._INVALID_ARG:
            return OperatorError(text, hint="Correct stream: options:.")
        return StoreUnavailable(text, hint="Check that the brokers run and can be reached from here.")

    def unknown_topic(self) -> OperatorError:
        """Return the error that there is no such topic."""
        return OperatorError(
            f"Kafka at {self.brokers} has no topic '{self.topic}'.",
            hint=f"Create it with kafka-topics.sh --create --topic {self.topic}, or correct topic:.",
        )

    def _metadata(self) -> Any:
        """Return the cluster's metadata; of brokers that refuse us, say so at once rather than in the end."""
        deadline = time.monotonic() + self.answer_within
        while True:
            left = deadline - time.monotonic()
            try:
                return self._admin.list_topics(timeout=max(min(left, _LOOK_SECONDS), 0.01))
            except KafkaException as error:
                self._admin.poll(0)
                if left <= _LOOK_SECONDS or self._is_refused() or error.args[0].code() not in _NO_ANSWER:
                    raise self.translated(error.args[0]) from error

    def _is_refused(self) -> bool:
        """Tell whether brokers that never answered refuse our credentials, or show another certificate."""
        trouble = self._trouble
        if trouble is None or self._cluster:
            return False
        return trouble.code() in _CREDENTIALS or (
            trouble.code() == KafkaError._SSL and "certificate" in trouble.str()
        )

    def _describe_topic(self) -> Any:
        topics = TopicCollection([self.topic])
        asked = self._admin.describe_topics(topics, request_timeout=self.answer_within)[self.topic]
        try:
            return asked.result()
        except KafkaException:
            # After a broker has been silent librdkafka may wait for a controller that it no longer looks for.
            with suppress(KafkaException):
                self._admin.list_topics(timeout=_LOOK_SECONDS)
            raise

    def _client(self, kind: Any, role: str, more: Mapping[str, Any] = {}) -> Any:
        properties = {
            "log_level": 2,  # errors come through `error_cb`, not once per attempt to connect
            **_DEFAULTS[role],
            **({"delivery.timeout.ms": int(self.patience * 1000)} if role == "producer" else {}),
            **self._options,
            **_OURS[role],
            **more,
            "bootstrap.servers": self.brokers,
            "error_cb": self._note,
        }
        try:
            return kind(properties, logger=_LOGGER)
        except KafkaException as error:
            raise SpecError(
                f"stream options: {error.args[0].str()}.", hint="They are the properties of librdkafka."
            ) from error

    def _note(self, error: KafkaError) -> None:
        """Keep why brokers cannot be reached for our errors, and log each kind once in a row."""
        if self._trouble is None or self._trouble.code() != error.code():
            _LOGGER.warning("Kafka at %s: %s", self.brokers, error.str())
        self._trouble = error

    def _not_acknowledged(
        self, placed: Sequence[tuple[str, int] | None], failed: Mapping[int, KafkaError]
    ) -> OperatorError:
        missing = [number for number, at in enumerate(placed) if at is None]
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        first = next(iter(failed.values()), None)
        refused = next((error for error in failed.values() if error.code() in _REFUSED), None)
        text = (
            f"Kafka at {self.brokers}, topic '{self.topic}': {len(missing)} records were not acknowledged "
            f"(numbers {shown} of the call): {(refused or first or 'no answer in time')}."
        )
        never = {n: error.str() for n, error in failed.items() if error.code() in _TOO_MUCH}
        if refused is not None and len(failed) == len(missing):
            hint = "Correct the records, or the broker's permissions or limits."
            if not never:
                return OperatorError(text, hint=hint)
        else:
            hint = "Append those again; a source with event_id: drops repeats."
        return NotAcknowledged(text, placed, never, hint=hint)


class KafkaReader:
    """Reads one partition of a topic: a `contracts.StreamReader`. Not thread-safe."""

    def __init__(self, stream: KafkaStream, consumer: Consumer, partition: str, sequence: int | None) -> None:
        self.partition = partition
        self._stream = stream
        self._consumer = consumer
        self._prefix, _, number = partition.rpartition("/")
        self._number = int(number)
        low, high = self._watermarks()
        self._next = low if sequence is None else sequence
        self._check(low, high)
        self._pending: KafkaError | None = None
        self._alive = self._verified = time.monotonic()
        self._assign()

    def poll(self, max_records: int, timeout: float) -> RecordBatch | None:
        """Return up to `max_records`, or None when nothing came within `timeout` seconds.

        A batch without records says that the position moved over what is not read (transaction marks).
        Raises StoreUnavailable when the broker has been silent for `unavailable_after`, OperatorError
        when retention overtook the reader or the topic was deleted or recreated.
        """
        deadline = time.monotonic() + timeout
        while True:
            if self._pending is not None:
                error, self._pending = self._pending, None
                self._raise_unless_passing(error)
            left = max(deadline - time.monotonic(), 0.0)
            messages = self._consumer.consume(max_records, 0)
            if not messages:
                first = self._consumer.poll(min(left, 1.0))
                if first is not None:
                    messages = [first, *self._consumer.consume(max_records - 1, 0)]
            batch = self._batch(messages) if messages else None
            if batch is not None:
                return batch
            self._check_silence()
            if self._pending is None and time.monotonic() >= deadline:
                return None

    def end(self) -> int:
        """Return the offset after the last record that can be read, asked of the broker."""
        return self._stream.offsets([self._number], _LATEST)[self._number][0]

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()

    def _assign(self) -> None:
        """Fetch from where we are; the broker is asked whether what we read before that is still there."""
        known = [epoch for offset, epoch in self._stream.epochs.get(self._number, ()) if offset < self._next]
        place = TopicPartition(
            self._stream.topic, self._number, self._next, leader_epoch=known[-1] if known else -1
        )
        self._consumer.assign([place])

    def _note_epochs(self, messages: Sequence[Message]) -> None:
        """Remember under which leader's epoch records were written; a new leader may lack some of them."""
        noted = self._stream.epochs.setdefault(self._number, [])
        if messages and (not noted or messages[-1].leader_epoch() != noted[-1][1]):
            for message in messages:
                epoch, offset = message.leader_epoch(), message.offset()
                if epoch is not None and offset is not None and (not noted or epoch > noted[-1][1]):
                    noted.append((offset, epoch))

    def _batch(self, messages: Sequence[Message]) -> RecordBatch | None:
        start = self._next
        position, records = self._records(messages)
        now = time.monotonic()
        if self._pending is None or records:
            self._alive = now
        if position == start:
            return None
        self._note_epochs(messages[: len(records)])
        if now - self._verified >= _VERIFY_SECONDS:
            try:
                self._verify(_SHARED_SECONDS)
            except OperatorError:
                self._assign()
                raise
        self._next = position
        return RecordBatch(self.partition, records, position)

    def _records(self, messages: Sequence[Message]) -> tuple[int, list[Record]]:
        """Return where reading goes on after the messages, up to the first that is trouble, and records."""
        position = self._next
        errors = list(map(Message.error, messages))
        if [error for error in errors if error is not None]:
            good = []
            for message, error in zip(messages, errors, strict=True):
                if error is None:
                    good.append(message)
                    position = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, message.offset() or 0)
                else:
                    self._pending = error
                    break
            messages = good
        elif messages:
            position = (messages[-1].offset() or 0) + 1
        times = [ms * 1000 if kind else None for kind, ms in map(Message.timestamp, messages)]
        offsets, keys = map(Message.offset, messages), map(Message.key, messages)
        columns: Any = zip(offsets, times, keys, map(Message.value, messages), strict=True)
        return position, list(map(Record._make, columns))

    def _verify(self, max_age: float = 0.0) -> None:
        """Raise OperatorError when the topic is no longer the one that the partition's name tells.

        Readers of other partitions may have asked just before, up to `max_age` seconds ago.

        A fetch that meets a deleted topic fails and waits `fetch.error.backoff.ms`, longer than
        `_VERIFY_SECONDS`: what is fetched from a recreated topic is never handed out unverified.
        """
        prefix, _ = self._stream.describe(max_age)
        if prefix != self._prefix:
            raise OperatorError(
                f"Topic '{self._stream.topic}' was recreated: its partitions are now {prefix}/…, "
                f"while {self.partition} was being read (up to {self._next}).",
                hint="Go on with the new one: featurestore accept-topic, with the source.",
            )
        self._verified = self._stream.described_at

    def _check_silence(self) -> None:
        """Ask the broker for a sign of life when there was none for long; compare what it holds."""
        if time.monotonic() - self._alive < self._stream.patience - self._stream.answer_within:
            return
        self._verify()
        self._check(*self._watermarks())
        self._alive = time.monotonic()

    def _raise_unless_passing(self, error: KafkaError) -> None:
        if error.code() in (
            KafkaError._AUTO_OFFSET_RESET,
            KafkaError._LOG_TRUNCATION,
            KafkaError.OFFSET_OUT_OF_RANGE,
        ):
            self._verify()
            self._check(*self._watermarks())
            if "truncation" in error.str():
                raise OperatorError(
                    f"{self.partition} was truncated before {self._next}: other records stand where"
                    f" some did that were applied ({error.str()}).",
                    hint="Restore the topic; or make it anew, and featurestore accept-topic.",
                )
            raise StoreUnavailable(
                f"{self.partition}: offset {self._next} could not be fetched ({error.str()}).",
                hint="Open the reader again.",
            )
        if error.code() in _PERHAPS_GONE:
            self._verify()
        elif error.code() in _REFUSED or error.fatal():
            raise self._stream.translated(error)
        _LOGGER.warning("%s: %s; librdkafka tries again", self.partition, error.str())

    def _watermarks(self) -> tuple[int, int]:
        low, high = self._stream.offsets([self._number], _EARLIEST, _LATEST)[self._number]
        return low, high

    def _check(self, low: int, high: int) -> None:
        if self._next < low:
            raise OperatorError(
                f"{self.partition}: records {self._next} to {low - 1} are no longer in the topic "
                "(retention deleted them before they were read).",
                hint=f"Accept the gap and go on from {low}: featurestore accept-topic, with the source. "
                "A longer retention.ms keeps it from happening again.",
            )
        if self._next > high:
            raise OperatorError(
                f"{self.partition} ends at {high}, before the position {self._next} that was applied: "
                "the topic was truncated or recreated.",
                hint="Restore the topic; or make it anew, and featurestore accept-topic.",
            )


def _isolation(options: Mapping[str, Any]) -> IsolationLevel:
    uncommitted = options.get("isolation.level") == "read_uncommitted"
    return IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED


def _topic_id(description: Any) -> str:
    """Return the id as Kafka's tools print it (URL-safe), or `-` where the broker has none."""
    text = str(description.topic_id)
    return "-" if text == "A" * 22 else text.replace("+", "-").replace("/", "_")
