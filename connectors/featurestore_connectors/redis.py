"""The online store in Redis or Valkey, one server or a cluster (DESIGN 7).

Layout, for a generation `g` and a shard `ss` in hex. The hash tag is the shard, so all that one script
touches lies in one slot of a cluster::

    fs:{ss}:g          hash: r = the shard's revision, p = its positions
    fs:{ss}:g:<key>    hash: the fields of one entity
    fs:{ss}:g*         hash: the fields of all entities, each behind its key; where g's never expire
    fs:{ss}:g*~<id>    hash: the first of those, until they are taken into their place

A hash of its own costs an entity some two hundred bytes, and each takes a command of its own to write. Keys
of one set are codes of which none begins with another, so that key and field never run together.

A shard is written by one script call, which compares the revision first; the calls of several shards are
sent together. Reads are HMGETs sent together, without a transaction.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from redis.exceptions import NoPermissionError

from featurestore.contracts import EntityColumns, EntityRead, EntityWrite, ShardState, is_lasting
from featurestore.errors import OperatorError
from featurestore.instants import SECOND
from featurestore.keys import SHARDS
from featurestore_connectors.embedded import EmbeddedServer
from featurestore_connectors.redis_client import Command, RedisClient

_OLDEST = (6, 2)
_FAR = 1 << 53  # ms; PEXPIRE refuses what overflows, and a script must not fail half way
_PAGE = 1000  # keys that one SCAN looks at
_PAGES = 100  # of each server, for statistics
_MEASURED = 200  # keys whose memory is asked for
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
_LAID_MS = b"$6\r\n600000\r\n"  # how long fields that were laid wait to be taken

# ARGV: expected revision, new revision, positions, how many of the entities (the first ones) must be there,
# then per entity: expiry in ms or -1, how many arguments of HSET, how many of HDEL, and those. Lua unpacks at
# most some 8000 values at once. An entity that expired since it was read has lost the fields that are not
# written now, so the writer has to read again.
_WRITE = """
if (redis.call('HGET', KEYS[1], 'r') or '') ~= ARGV[1] then return 0 end
local there = 1 + tonumber(ARGV[4])
for first = 2, there, 4000 do
  local last = math.min(first + 3999, there)
  if redis.call('EXISTS', unpack(KEYS, first, last)) ~= last - first + 1 then return 0 end
end
local at = 5
local function each(command, key, count)
  for first = at, at + count - 1, 4000 do
    redis.call(command, key, unpack(ARGV, first, math.min(first + 3999, at + count - 1)))
  end
  at = at + count
end
for i = 2, #KEYS do
  local key, expiry, sets, deletes = KEYS[i], ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  at = at + 3
  each('HSET', key, sets)
  each('HDEL', key, deletes)
  if expiry == '-1' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, expiry) end
end
redis.call('HSET', KEYS[1], 'r', ARGV[2], 'p', ARGV[3])
return 1
"""

# ARGV, per entity: how many fields, and their names.
_READ = """
local answer, at = {redis.call('HMGET', KEYS[1], 'r', 'p')}, 1
local time = redis.call('TIME')
answer[1][3], answer[1][4] = time[1], time[2]
for i = 2, #KEYS do
  local last, values = at + tonumber(ARGV[at]), {}
  for first = at + 1, last, 4000 do
    local part = redis.call('HMGET', KEYS[i], unpack(ARGV, first, math.min(first + 3999, last)))
    for j = 1, #part do values[#values + 1] = part[j] end
  end
  answer[i], at = values, last + 1
end
return answer
"""

# KEYS: the shard's state, where its entities lie, and where their first fields were laid for now.
_TAKE = """
if (redis.call('HGET', KEYS[1], 'r') or '') ~= ARGV[1] or redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('UNLINK', KEYS[3])
  return 0
end
redis.call('RENAME', KEYS[3], KEYS[2])
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[1], 'r', ARGV[2], 'p', ARGV[3])
return 1
"""

_SCRIPTS = {hashlib.sha1(text.encode()).hexdigest(): text for text in (_WRITE, _READ, _TAKE)}
_WRITE_SHA, _READ_SHA, _TAKE_SHA = _SCRIPTS


class RedisOnlineStore:
    """An OnlineStore in Redis or Valkey, 6.2 or newer, whose maxmemory-policy is `noeviction`.

    Config: `url`; `cluster` (false); `prefix` of every key (`fs`); `timeout` of connecting and of an answer
    (`5s`); `connections`, the most that one event loop opens (64).
    """

    @staticmethod
    def embedded(folder: Path) -> EmbeddedServer:
        """Return a server of one's own, for a `with`, whose files lie in the folder. Raises MissingExtra."""
        return EmbeddedServer(folder)

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._client = RedisClient(config, _SCRIPTS)
        self._prefix: str = config.get("prefix", "fs")

    def read(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        """Return each read's fields, in order, None where absent, in one round trip."""
        return self.read_many([(generation, reads)])[0]

    async def read_async(self, generation: str, reads: Sequence[EntityRead]) -> list[list[bytes | None]]:
        """The same, without blocking the event loop."""
        return (await self.read_many_async([(generation, reads)]))[0]

    def read_many(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        """Return what `read` would for each (generation, reads), all in one round trip."""
        if self._client.cluster:
            return _shape(requests, self._client.execute(self._gets(requests)))
        return _shape(requests, self._client.ask(*self._packed(requests)))

    async def read_many_async(
        self, requests: Sequence[tuple[str, Sequence[EntityRead]]]
    ) -> list[list[list[bytes | None]]]:
        """The same, without blocking the event loop."""
        if self._client.cluster:
            return _shape(requests, await self._client.execute_async(self._gets(requests)))
        return _shape(requests, await self._client.ask_async(*self._packed(requests)))

    def shards(self, generation: str, shards: Sequence[int]) -> list[ShardState]:
        """Return the states of shards, in order, in one round trip."""
        names = _names(self._prefix, generation)
        return [_state(found) for found in self._client.execute([_get_state(names[s]) for s in shards])]

    def read_for_write(
        self, generation: str, reads: Mapping[int, Sequence[EntityRead]]
    ) -> dict[int, tuple[ShardState, list[list[bytes | None]]]]:
        """Return per shard its state and the fields; the state is read before the fields.

        One server answers in order. A cluster that moves a slot may answer the state late, after fields
        that are older, so there a script reads each shard (which costs the server twice as much).
        """
        if is_lasting(generation):
            return self._read_together(generation, reads)
        names = _names(self._prefix, generation)
        commands: list[Command] = []
        if self._client.cluster:
            for shard, entities in reads.items():
                state, start = names[shard]
                keys = [state, *(start + entity.key for entity in entities)]
                fields = [part for entity in entities for part in (len(entity.fields), *entity.fields)]
                commands.append(("EVALSHA", _READ_SHA, len(keys), *keys, *fields))
            found = self._client.execute(commands)
            return {
                s: (_state(answer[0][:2], answer[0][2:]), answer[1:])
                for s, answer in zip(reads, found, strict=True)
            }
        commands.append(("TIME",))
        for shard, entities in reads.items():
            commands.append(_get_state(names[shard]))
            commands += self._gets([(generation, entities)])
        each = iter(self._client.execute(commands))
        now = next(each)
        return {
            shard: (_state(next(each), now), [next(each) if entity.fields else [] for entity in entities])
            for shard, entities in reads.items()
        }

    def _read_together(
        self, generation: str, reads: Mapping[int, Sequence[EntityRead]]
    ) -> dict[int, tuple[ShardState, list[list[bytes | None]]]]:
        """Return what `read_for_write` does, of entities that are kept together."""
        names = _names(self._prefix, generation)
        wanted = {
            shard: [entity.key + name for entity in entities for name in entity.fields]
            for shard, entities in reads.items()
        }
        if self._client.cluster:
            scripts: list[Command] = [
                ("EVALSHA", _READ_SHA, 2, *names[shard], len(fields), *fields)
                for shard, fields in wanted.items()
            ]
            answers = self._client.execute(scripts)
            found = [(_state(head[:2], head[2:]), iter(values)) for head, values in answers]
        else:
            commands: list[Command] = [("TIME",)]
            for shard, fields in wanted.items():
                commands.append(_get_state(names[shard]))
                if fields:
                    commands.append(("HMGET", names[shard][1], *fields))
            each = iter(self._client.execute(commands))
            now = next(each)
            found = [
                (_state(next(each), now), iter(next(each) if fields else ())) for fields in wanted.values()
            ]
        return {
            shard: (state, [[next(values) for _ in entity.fields] for entity in entities])
            for (shard, entities), (state, values) in zip(reads.items(), found, strict=True)
        }

    def write(
        self,
        generation: str,
        writes: Sequence[tuple[int, bytes, bytes, bytes, Sequence[EntityWrite]]],
    ) -> list[bool]:
        """Write shards, each (shard, expected revision, new revision, positions, entities), atomically.

        A shard whose revision is no longer the expected one, or one of whose entities has expired since it
        was read, is left alone: False in its place.
        """
        names = _names(self._prefix, generation)
        if self._can_lay(generation, writes):
            return self._lay(names, writes)
        commands: list[Command] = []
        for shard, expected, revision, positions, entities in writes:
            state, start = names[shard]
            if is_lasting(generation):
                arguments = [expected, revision, positions, 0, *_together(entities)]
                commands.append(("EVALSHA", _WRITE_SHA, 2, state, start, *arguments))
                continue
            # Those that can have vanished since they were read come first.
            ordered = sorted(entities, key=lambda entity: not _may_vanish(entity))
            keys, arguments = [state], [expected, revision, positions, sum(map(_may_vanish, entities))]
            for entity in ordered:
                keys.append(start + entity.key)
                _add_arguments(arguments, entity)
            commands.append(("EVALSHA", _WRITE_SHA, len(keys), *keys, *arguments))
        return [written == 1 for written in self._client.execute(commands)]

    def _can_lay(
        self, generation: str, writes: Sequence[tuple[int, bytes, bytes, bytes, Sequence[EntityWrite]]]
    ) -> bool:
        """Tell whether all of the writes are first fields of shards, kept together, on one server."""
        if self._client.cluster or not is_lasting(generation):
            return False
        return all(
            not expected and isinstance(columns, EntityColumns) and columns and columns.expire_ms is None
            for _, expected, *_, columns in writes
        )

    def _lay(
        self, names: Sequence[tuple[bytes, bytes]], writes: Sequence[tuple[int, bytes, bytes, bytes, Any]]
    ) -> list[bool]:
        """Write shards as `write` does: first lay their fields beside them, then take those, each at once.

        Fields through a script cost the server three times as much. What is never taken expires, from its
        first command on.
        """
        from featurestore_connectors.redis_columns import hsets  # Arrow is none of what a server starts with

        packed: list[bytes] = []
        takes: list[Command] = []
        for shard, expected, revision, positions, columns in writes:
            state, place = names[shard]
            laid = place + b"~" + revision.hex().encode()
            begin, *more = hsets(laid, columns)
            expire = b"*3\r\n$7\r\nPEXPIRE\r\n$%d\r\n%b\r\n%b" % (len(laid), laid, _LAID_MS)
            packed += [_MULTI, begin, expire, _EXEC, *more]
            takes.append(("EVALSHA", _TAKE_SHA, 3, state, place, laid, expected, revision, positions))
        self._client.ask(b"".join(packed), len(packed))
        return [taken == 1 for taken in self._client.execute(takes)]

    def drop(self, generation: str) -> None:
        """Delete all that the generation holds, the shards' states first: a write under way then fails."""
        names = _names(self._prefix, generation)
        self._client.execute([("UNLINK", state) for state, _ in names])
        if is_lasting(generation):
            self._client.execute([("UNLINK", start) for _, start in names])
            return
        for node in self._client.nodes():
            for page in self._pages(node, generation):
                self._client.execute([("UNLINK", key) for key in page])

    def statistics(self, generation: str) -> dict[str, int]:
        """Return `entities`, counted on servers of up to 100,000 keys and else estimated, and `bytes`."""
        if is_lasting(generation):
            starts = [start for _, start in _names(self._prefix, generation)]
            counts = self._client.execute([("HLEN", start) for start in starts])
            used = self._client.execute([("MEMORY", "USAGE", start) for start in starts])
            return {"entities": sum(counts), "bytes": sum(n for n in used if n is not None)}
        entities = size = 0.0
        for node in self._client.nodes():
            total, sample, pages = self._client.on(node, "DBSIZE"), set[bytes](), 0
            for page in self._pages(node, generation):
                sample.update(page)
                pages += 1
                if pages == _PAGES:
                    break
            if sample:
                here = len(sample) * (max(1.0, total / (pages * _PAGE)) if pages == _PAGES else 1.0)
                some = random.Random(0).sample(sorted(sample), min(len(sample), _MEASURED))
                used = [n for key in some if (n := self._client.on(node, "MEMORY USAGE", key))]
                entities += here
                size += here * sum(used) / max(len(used), 1)
        return {"entities": round(entities), "bytes": round(size)}

    def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers; OperatorError where it would lose data.

        That is a server which may evict keys, or is a replica, or is too old. A server that forbids INFO
        passes.
        """
        self._client.execute([("HGET", _names(self._prefix, "ping")[0][0], "r")])
        for node in self._client.nodes():
            try:
                self._check(self._client.on(node, "INFO"))
            except OperatorError as error:
                if not isinstance(error.__cause__, NoPermissionError):
                    raise

    def close(self) -> None:
        """Release the threads' connections. An event loop's go when it ends, or with `aclose`."""
        self._client.close()

    async def aclose(self) -> None:
        """Release the connections of the running event loop."""
        await self._client.aclose()

    def _gets(self, requests: Sequence[tuple[str, Sequence[EntityRead]]]) -> list[Command]:
        commands: list[Command] = []
        for generation, reads in requests:
            names = _names(self._prefix, generation)
            if is_lasting(generation):
                commands += [
                    ("HMGET", names[read.shard][1], *[read.key + name for name in read.fields])
                    for read in reads
                    if read.fields
                ]
                continue
            for read in reads:
                if read.fields:
                    commands.append(("HMGET", names[read.shard][1] + read.key, *read.fields))
        return commands

    def _packed(self, requests: Sequence[tuple[str, Sequence[EntityRead]]]) -> tuple[bytes, int]:
        """Return the commands of `_gets` as they are sent, and how many; most reads have the same fields."""
        parts: list[bytes] = []
        count, size = 0, -1
        known: tuple[bytes, ...] | None = None
        head = tail = b""
        between: list[bytes] = []
        for generation, reads in requests:
            names = _names(self._prefix, generation)
            if is_lasting(generation):
                words = _words(self._prefix, generation)
                for shard, entity, fields in reads:
                    if fields is not known or len(entity) != size:
                        known, size = fields, len(entity)
                        head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
                        between = _between(fields, size)
                    if fields:
                        parts += (head, words[shard], entity.join(between))
                        count += 1
                continue
            for shard, entity, fields in reads:
                if fields is not known or size >= 0:
                    known, size = fields, -1
                    head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
                    tail = b"".join(b"\r\n$%d\r\n%b" % (len(name), name) for name in fields)
                if fields:
                    key = names[shard][1] + entity
                    parts.append(b"%b$%d\r\n%b%b\r\n" % (head, len(key), key, tail))
                    count += 1
        return b"".join(parts), count

    def _pages(self, node: Any, generation: str) -> Iterator[list[bytes]]:
        """Yield the generation's entity keys on a server, in lists for each thousand keys looked at."""
        pattern, cursor = f"{self._prefix}:{{*}}:{generation}:*", 0
        while True:
            cursor, page = self._client.on(node, "SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
            yield page
            if cursor == 0:
                return

    def _check(self, server: Mapping[str, Any]) -> None:
        where = self._client.where
        version = str(server.get("redis_version", ""))
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers and numbers < _OLDEST:
            hint = "Run Redis 6.2 or newer, or Valkey."
            raise OperatorError(f"Redis {version} is too old for the online store.", where=where, hint=hint)
        policy = server.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise OperatorError(
                f"The server's maxmemory-policy is {policy}: when memory runs short it drops features.",
                where=where,
                hint="Run CONFIG SET maxmemory-policy noeviction, and set it in the server's configuration.",
            )
        if server.get("role") == "slave" and not self._client.cluster:
            raise OperatorError(
                "The server is a replica, which takes no writes.", where=where, hint="Name the primary."
            )


@lru_cache(maxsize=256)
def _names(prefix: str, generation: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return per shard the key of its state and the start of its entities' keys, or the one key of all."""
    for part in (prefix, generation):
        if not re.fullmatch(r"[A-Za-z0-9_.@/=+-]+", part):
            raise ValueError(f"{part!r} cannot be part of a key: letters, digits and _ . @ / = + - can.")
    states = [f"{prefix}:{{{shard:02x}}}:{generation}".encode() for shard in range(SHARDS)]
    return tuple((state, state + (b"*" if is_lasting(generation) else b":")) for state in states)


@lru_cache(maxsize=256)
def _words(prefix: str, generation: str) -> tuple[bytes, ...]:
    """Return the second names of `_names` as they are sent."""
    return tuple(b"$%d\r\n%b\r\n" % (len(start), start) for _, start in _names(prefix, generation))


def _between(fields: Sequence[bytes], size: int) -> list[bytes]:
    """Return what stands around an entity's key, of some size, where it is sent with each of the fields."""
    lengths = [b"$%d\r\n" % (size + len(name)) for name in fields]
    ends = [name + b"\r\n" for name in fields]
    return [end + length for end, length in zip([b"", *ends], [*lengths, b""], strict=True)]


def _get_state(names: tuple[bytes, bytes]) -> Command:
    return ("HMGET", names[0], "r", "p")


def _state(found: Sequence[bytes | None], time: Sequence[bytes] | None = None) -> ShardState:
    now = None if time is None else int(time[0]) * SECOND + int(time[1])
    return ShardState(found[0] or b"", found[1] or b"", now)


def _may_vanish(entity: EntityWrite) -> bool:
    return entity.existed is True and entity.expire_ms is not None


def _add_arguments(arguments: list[Any], entity: EntityWrite) -> None:
    sets: list[bytes] = []
    deletes: list[bytes] = []
    for name, value in entity.fields.items():
        if value is None:
            deletes.append(name)
        else:
            sets += (name, value)
    expiry = -1 if entity.expire_ms is None else max(0, min(entity.expire_ms, _FAR))
    arguments += (expiry, len(sets), len(deletes), *sets, *deletes)


def _together(entities: Sequence[EntityWrite]) -> list[Any]:
    """Return the arguments of one write that has the fields of all entities, each behind its key."""
    sets: list[bytes] = []
    deletes: list[bytes] = []
    for entity in entities:
        if entity.expire_ms is not None:
            raise ValueError("Entities that are kept together cannot expire one by one.")
        for name, value in entity.fields.items():
            if value is None:
                deletes.append(entity.key + name)
            else:
                sets += (entity.key + name, value)
    return [-1, len(sets), len(deletes), *sets, *deletes]


def _shape(
    requests: Sequence[tuple[str, Sequence[EntityRead]]], answers: Sequence[list[bytes | None]]
) -> list[list[list[bytes | None]]]:
    if len(answers) == sum(len(reads) for _, reads in requests):
        every = iter(answers)
        return [list(islice(every, len(reads))) for _, reads in requests]
    each = iter(answers)
    return [[next(each) if read.fields else [] for read in reads] for _, reads in requests]
