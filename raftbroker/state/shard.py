"""The state machine of a coordinator shard: consumer groups, transactions and queues, each a `Part` of its own.

A command in the log is a `ShardEntry`: group time, and many ops. Every op is decided here, when it is applied, by the
part that takes it, and its outcome goes back to whoever proposed it: so an op always sees all that came before it,
in flight or not, and nothing is decided twice. A refusal is an outcome as well; applying never raises for what a
client can cause.

Time-outs are part of the state: before its ops, an entry carries out what is due by its time (`Part.advance`). A
shard's time goes on from what is applied by the leader's monotonic clock, so it stands still while there is no leader,
and no clock that jumps lets a lock go.

Rows: b"t" (time, next payload number); all others belong to the part that has their first byte among its `kinds`.

Payloads of ops (the bodies of queue messages) are numbered by the leader from 1, each number once, gaps possible, and
lie among the log's payloads under `payload_space(group)`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from consensus.errors import UnknownCommand
from consensus.machine import Applied
from consensus.model import Entry
from consensus.store import KeyRange
from raftbroker.state.commands import Command, CommandDecoder
from raftbroker.state.keys import payload_key

_TIME_KEY = b"t"
_SPACE = 1 << 62
"""Above every partition id: the numbers under which shards keep their payloads."""

O = TypeVar("O")  # noqa: E741  an outcome
P = TypeVar("P", bound="Part")

_encode = msgspec.msgpack.Encoder().encode


def payload_space(group: int) -> int:
    """What stands in place of a partition id in the payload keys of the shard that is this Raft group."""
    return _SPACE | group


class Op(msgspec.Struct, Generic[O], frozen=True, array_like=True, tag_field="t"):
    """One change asked of a shard. Concrete ones have a tag: groups 1..29, transactions 30..59, queues 60..99."""

    outcome: ClassVar[Any]
    """The type of what becomes of it: a msgspec Struct, or a union of such."""

    name: str
    """The consumer group, transactional id or queue it is about: a name always belongs to the same shard."""


class Query(msgspec.Struct, Generic[O], frozen=True, array_like=True, tag_field="t"):
    """A question to a part. Tags as for ops."""

    answer: ClassVar[Any]

    name: str


class ShardEntry(Command, frozen=True, array_like=True, tag=1):
    """Ops in the order in which they are decided. An entry without ops only lets time pass."""

    time_ms: int
    ops: tuple[msgspec.Raw, ...]
    payload_base: int = 0
    payload_counts: tuple[int, ...] = ()
    """How many payloads each op brings, numbered from `payload_base` on; empty where none brings any."""


class Change:
    """What an entry does to the rows, as the parts write it down."""

    def __init__(self, time_ms: int, rows: dict[bytes, bytes | None]) -> None:
        self.time_ms = time_ms
        """The shard's time as of this entry, in ms; never less than before."""
        self.payloads = range(0)
        """The numbers of the payloads of the op being applied."""
        self.names: set[str] = set()
        self.gone: list[tuple[int, int]] = []
        self._rows = rows

    def put(self, key: bytes, value: bytes) -> None:
        self._rows[key] = value

    def delete(self, key: bytes) -> None:
        self._rows[key] = None

    def touched(self, name: str) -> None:
        """Whoever waits for a change of this name looks again."""
        self.names.add(name)

    def delete_payloads(self, first: int, stop: int) -> None:
        """The state refers to none of these numbers any more."""
        self.gone.append((first, stop))


class Part(Protocol):
    """One subject's state within a shard. Deterministic; holds its state decoded, in memory."""

    ops: tuple[type[Op[Any]], ...]
    queries: tuple[type[Query[Any]], ...]
    kinds: bytes
    """The first bytes of its rows' keys."""

    def restore(self, rows: dict[bytes, bytes]) -> None:
        """Takes these rows, its own, in byte order of their keys, as its whole state."""

    def apply(self, op: Any, change: Change) -> Any:
        """Decides the op; its outcome."""

    def query(self, query: Any) -> Any: ...

    def rows(self) -> dict[bytes, bytes]:
        """All rows that `restore` would need: what the rows of every change add up to."""

    def next_deadline(self) -> int | None:
        """The shard time at which something is due; None while nothing is."""

    def advance(self, change: Change) -> None:
        """Carries out what is due by `change.time_ms`, so much of it as is bounded; the rest with the next entry."""

    def payload_ranges(self) -> list[tuple[int, int]]:
        """Payload numbers the state refers to, from the first, inclusive, to the second, exclusive; ascending."""


class Watcher(Protocol):
    """A leader's side of a shard hears of what is applied, and of leadership."""

    def led(self, term: int) -> None: ...

    def unled(self) -> None: ...

    def applied(self, index: int, outcomes: list[Any], names: set[str]) -> None:
        """An entry was applied. `outcomes` are those of its ops, in order; `names` were touched."""


class _TimeRow(msgspec.Struct, frozen=True, array_like=True):
    time_ms: int = 0
    next_payload: int = 1


_decode_time = msgspec.msgpack.Decoder(_TimeRow).decode
_decoder: "CommandDecoder[ShardEntry]" = CommandDecoder("shard", msgspec.msgpack.Decoder(ShardEntry))


def union_of(types: Collection[type]) -> Any:
    """The union of these types, for a decoder; of none, a type that no op is."""
    return reduce(or_, types) if types else None


class ShardMachine:
    """A consensus Machine. `make_parts` makes fresh parts, in the order in which their time-outs are carried out."""

    def __init__(self, group: int, make_parts: Callable[[], Sequence[Part]]) -> None:
        self.group = group
        self._make_parts = make_parts
        self.parts: tuple[Part, ...] = tuple(make_parts())
        self._of_op = {op: part for part in self.parts for op in part.ops}
        self._of_query = {query: part for part in self.parts for query in part.queries}
        self._decode_op = msgspec.msgpack.Decoder(union_of(self._of_op)).decode
        self._decode_query = msgspec.msgpack.Decoder(union_of(self._of_query)).decode
        self._time = _TimeRow()
        self._watcher: Watcher | None = None

    def attach(self, watcher: Watcher) -> None:
        self._watcher = watcher

    # --- consensus.Machine ------------------------------------------------------------------------------

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        of_part: dict[int, dict[bytes, bytes]] = {kind: {} for part in self.parts for kind in part.kinds}
        self._time = _TimeRow()
        for key in sorted(rows):
            if key == _TIME_KEY:
                self._time = _decode_time(rows[key])
            elif key[0] in of_part:
                of_part[key[0]][key] = rows[key]
            else:
                raise UnknownCommand(f"a shard's state has a row of kind {key[:1]!r}: a newer raftbroker wrote it")
        for part in self.parts:
            own: dict[bytes, bytes] = {}
            for kind in sorted(part.kinds):
                own |= of_part[kind]
            part.restore(own)

    def apply(self, entries: Sequence[Entry]) -> Applied:
        rows: dict[bytes, bytes | None] = {}
        gone: list[KeyRange] = []
        for entry in entries:
            command = _decoder.decode(entry.command)
            time_ms = max(self._time.time_ms, command.time_ms)
            payloads = command.payload_base
            self._time = _TimeRow(time_ms, max(self._time.next_payload, payloads + sum(command.payload_counts)))
            change = Change(time_ms, rows)
            for part in self.parts:
                part.advance(change)
            outcomes: list[Any] = []
            for position, raw in enumerate(command.ops):
                op = self.decode(raw)
                count = command.payload_counts[position] if command.payload_counts else 0
                change.payloads = range(payloads, payloads + count)
                payloads += count
                outcomes.append(self._of_op[type(op)].apply(op, change))
            gone += [self._keys(first, stop) for first, stop in change.gone]
            if self._watcher is not None:
                self._watcher.applied(entry.index, outcomes, change.names)
        rows[_TIME_KEY] = _encode(self._time)
        return Applied(rows=rows, delete_payloads=gone)

    def decode(self, raw: bytes | msgspec.Raw) -> Op[Any]:
        """Raises UnknownCommand."""
        try:
            op: Op[Any] = self._decode_op(raw)
        except msgspec.DecodeError as error:
            raise UnknownCommand(
                f"a shard's op is not known to this version ({error}): start this node with a newer raftbroker"
            ) from error
        return op

    def _keys(self, first: int, stop: int) -> KeyRange:
        space = payload_space(self.group)
        return payload_key(space, first), payload_key(space, stop)

    def payload_ranges(self) -> list[KeyRange]:
        ranges = sorted(numbers for part in self.parts for numbers in part.payload_ranges())
        return [self._keys(first, stop) for first, stop in ranges]

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        scratch = ShardMachine(self.group, self._make_parts)
        scratch.restore(rows, 0)
        return scratch.payload_ranges()

    def led(self, term: int) -> None:
        if self._watcher is not None:
            self._watcher.led(term)

    def unled(self) -> None:
        if self._watcher is not None:
            self._watcher.unled()

    # --- reads ------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        """The shard's time as applied; 0 before its first entry."""
        return self._time.time_ms

    @property
    def next_payload(self) -> int:
        """Above every payload number that was ever given, as applied."""
        return self._time.next_payload

    def part(self, kind: type[P]) -> P:
        """The part of this class."""
        for part in self.parts:
            if isinstance(part, kind):
                return part
        raise LookupError(f"a shard has no part {kind.__name__}")

    def decode_query(self, raw: bytes) -> Query[Any]:
        """Raises msgspec.DecodeError."""
        query: Query[Any] = self._decode_query(raw)
        return query

    def query(self, query: Query[Any]) -> Any:
        return self._of_query[type(query)].query(query)

    def next_deadline(self) -> int | None:
        """The first of the parts' deadlines."""
        return min((due for part in self.parts if (due := part.next_deadline()) is not None), default=None)

    def rows(self) -> Mapping[bytes, bytes]:
        """All rows that `restore` would need."""
        rows = {_TIME_KEY: _encode(self._time)}
        for part in self.parts:
            rows |= part.rows()
        return rows
