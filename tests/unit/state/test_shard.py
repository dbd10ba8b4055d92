"""The shard machine with a small part of its own: counters that can expire, and notes with payloads."""

from typing import Any

import msgspec
import pytest

from consensus.errors import UnknownCommand
from consensus.model import Entry, EntryKind
from raftbroker.state.commands import encode_command
from raftbroker.state.keys import payload_key
from raftbroker.state.shard import Change, Op, Query, ShardEntry, ShardMachine, payload_space

_encode = msgspec.msgpack.encode
GROUP = 7


class Count(msgspec.Struct, frozen=True):
    count: int


class Add(Op[Count], frozen=True, array_like=True, tag=1):
    outcome = Count
    amount: int
    expires_ms: int


class Note(Op[Count], frozen=True, array_like=True, tag=2):
    outcome = Count


class Ask(Query[Count], frozen=True, array_like=True, tag=1):
    answer = Count


class CountersPart:
    ops = (Add, Note)
    queries = (Ask,)
    kinds = b"cn"

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] = {}
        self.notes: dict[int, str] = {}

    def restore(self, rows: dict[bytes, bytes]) -> None:
        self.counts, self.notes = {}, {}
        for key, value in rows.items():
            if key[:1] == b"c":
                self.counts[key[1:].decode()] = msgspec.msgpack.decode(value, type=tuple[int, int])
            else:
                self.notes[int(key[1:])] = value.decode()

    def apply(self, op: Any, change: Change) -> Count:
        if isinstance(op, Note):
            for number in change.payloads:
                self.notes[number] = op.name
                change.put(b"n%d" % number, op.name.encode())
            return Count(len(change.payloads))
        count = self.counts.get(op.name, (0, 0))[0] + op.amount
        self.counts[op.name] = (count, op.expires_ms)
        change.put(b"c" + op.name.encode(), _encode(self.counts[op.name]))
        change.touched(op.name)
        return Count(count)

    def query(self, query: Ask) -> Count:
        return Count(self.counts.get(query.name, (0, 0))[0])

    def rows(self) -> dict[bytes, bytes]:
        rows = {b"c" + name.encode(): _encode(count) for name, count in self.counts.items()}
        return rows | {b"n%d" % number: name.encode() for number, name in self.notes.items()}

    def next_deadline(self) -> int | None:
        return min((expires for _, expires in self.counts.values()), default=None)

    def advance(self, change: Change) -> None:
        for name in [name for name, (_, expires) in self.counts.items() if expires <= change.time_ms]:
            del self.counts[name]
            change.delete(b"c" + name.encode())

    def payload_ranges(self) -> list[tuple[int, int]]:
        return [(min(self.notes), max(self.notes) + 1)] if self.notes else []


class Heard:
    def __init__(self) -> None:
        self.entries: list[tuple[int, list[Any], set[str]]] = []

    def led(self, term: int) -> None: ...

    def unled(self) -> None: ...

    def applied(self, index: int, outcomes: list[Any], names: set[str]) -> None:
        self.entries.append((index, outcomes, names))


def _machine() -> ShardMachine:
    return ShardMachine(GROUP, lambda: [CountersPart()])


def _entry(index: int, time_ms: int, *ops: Op[Any], base: int = 0, counts: tuple[int, ...] = ()) -> Entry:
    raw = tuple(msgspec.Raw(_encode(op)) for op in ops)
    return Entry.of(1, index, EntryKind.COMMAND, encode_command(ShardEntry(time_ms, raw, base, counts)))


def _rows(applied: list[dict[bytes, bytes | None]]) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for changes in applied:
        for key, value in changes.items():
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
    return rows


def test_an_op_sees_the_ones_before_it_and_its_outcome_goes_to_who_waits() -> None:
    machine, heard = _machine(), Heard()
    machine.attach(heard)
    machine.apply([_entry(1, 10, Add("a", 1, 99), Add("a", 2, 99), Add("b", 5, 99)), _entry(2, 11, Add("a", 1, 99))])
    assert heard.entries == [(1, [Count(1), Count(3), Count(5)], {"a", "b"}), (2, [Count(4)], {"a"})]
    assert machine.query(Ask("a")) == Count(4)


def test_what_is_due_happens_before_the_ops_of_the_entry_that_brings_the_time() -> None:
    machine = _machine()
    machine.apply([_entry(1, 10, Add("a", 1, 50))])
    assert machine.next_deadline() == 50
    machine.apply([_entry(2, 49, Add("b", 1, 60))])
    assert machine.query(Ask("a")) == Count(1)
    machine.apply([_entry(3, 50, Add("a", 1, 70))])
    assert machine.query(Ask("a")) == Count(1), "counted anew: the old count had run out first"


def test_time_never_goes_back() -> None:
    machine = _machine()
    machine.apply([_entry(1, 100), _entry(2, 40, Add("a", 1, 90))])
    assert machine.time_ms == 100
    machine.apply([_entry(3, 41)])
    assert machine.query(Ask("a")) == Count(0)


def test_payloads_are_numbered_across_ops_and_ranges_name_their_keys() -> None:
    machine = _machine()
    machine.apply([_entry(1, 1, Note("x"), Add("a", 1, 9), Note("y"), base=40, counts=(2, 0, 1))])
    part = machine.part(CountersPart)
    assert part.notes == {40: "x", 41: "x", 42: "y"}
    assert machine.next_payload == 43
    space = payload_space(GROUP)
    assert machine.payload_ranges() == [(payload_key(space, 40), payload_key(space, 43))]
    assert machine.ranges_of(dict(machine.rows())) == machine.payload_ranges()


def test_the_rows_of_every_change_add_up_to_the_state() -> None:
    machine, again = _machine(), _machine()
    entries = [
        _entry(1, 10, Add("a", 1, 20), Note("n"), base=3, counts=(0, 1)),
        _entry(2, 25, Add("b", 2, 99)),
        _entry(3, 26, Add("a", 7, 99)),
    ]
    rows = _rows([machine.apply([entry]).rows for entry in entries])
    assert rows == machine.rows()
    again.restore(rows, 3)
    assert again.rows() == machine.rows()
    assert again.time_ms == 26
    assert again.next_payload == 4


def test_what_this_version_does_not_know_stops_it() -> None:
    machine = _machine()
    raw = msgspec.Raw(_encode([59, "x"]))
    with pytest.raises(UnknownCommand, match="newer raftbroker"):
        machine.apply([Entry.of(1, 1, EntryKind.COMMAND, encode_command(ShardEntry(1, (raw,))))])
    with pytest.raises(UnknownCommand, match="row of kind"):
        machine.restore({b"z1": b""}, 1)
