"""A partition's replicas driven by hand, with compaction at every await of its pass, against a dictionary.

The machine, the pass, the filter and the reads are the real ones; what is played here is the log between them: entries
are appended with their payloads, then applied or truncated; replicas restart from rows, or get a snapshot.
"""

from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from consensus.errors import NotLeader, Unknown
from consensus.model import Entry, EntryKind, Payload
from raftbroker.broker.compaction_pass import Changed, Pass, Rules
from raftbroker.broker.record_scan import first_kept, scan
from raftbroker.state import isolation
from raftbroker.state.batch import TRANSACTIONAL as TRANSACTIONAL_BIT
from raftbroker.state.batch import RecordDraft, decode_batch, encode_batch, parse_header, place_batch
from raftbroker.state.commands import encode_command
from raftbroker.state.control_batch import encode_marker
from raftbroker.state.keys import payload_key
from raftbroker.state.leader import Marker
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import (
    COMMIT,
    CONTROL,
    TRANSACTIONAL,
    AppendBatches,
    AppendHeader,
    PartitionCommand,
    Trim,
    TrimItem,
)
from raftbroker.storage import layout
from raftbroker.storage.engine import Family
from raftbroker.storage.records import RecordReader

T = TypeVar("T")
PARTITION = 7
TOMBSTONES_MS = 1000


class Shelf:
    """The payloads of one disk, in key order."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.data: dict[bytes, bytes] = {}

    def put(self, payload: Payload) -> None:
        if payload.key not in self.data:
            insort(self.keys, payload.key)
        self.data[payload.key] = payload.data

    def delete(self, key: bytes) -> None:
        if self.data.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def delete_range(self, low: bytes, high: bytes) -> None:
        for key in self.keys[bisect_left(self.keys, low) : bisect_left(self.keys, high)]:
            self.delete(key)

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self.data.get(key)

    def scan(self, family: Family, low: bytes, high: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        found = self.keys[bisect_left(self.keys, low) : bisect_left(self.keys, high)]
        for key in reversed(found) if reverse else found:
            yield key, self.data[key]


class Replica:
    """One disk with its machine: `rows` as a store has them after each run of entries."""

    def __init__(self) -> None:
        self.machine = PartitionMachine()
        self.rows: dict[bytes, bytes] = {}
        self.shelf = Shelf()
        self.records = RecordReader(self.shelf)
        self.applied = 0

    def append(self, entry: Entry) -> None:
        for payload in entry.payloads:
            self.shelf.put(payload)

    def truncate(self, entry: Entry) -> None:
        for payload in entry.payloads:
            self.shelf.delete(payload.key)

    def apply(self, entries: Sequence[Entry]) -> None:
        applied = self.machine.apply(entries)
        for key, value in applied.rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        for low, high in applied.delete_payloads:
            self.shelf.delete_range(low, high)
        self.applied = entries[-1].index

    def restart(self) -> None:
        self.machine = PartitionMachine()
        self.machine.restore(dict(self.rows), self.applied)

    def install(self, source: "Replica") -> None:
        """As `Install` has it: what was here and is not kept goes; what is kept and not here is fetched."""
        keep = self.machine.ranges_of(source.rows)
        assert keep == sorted(keep)
        for low, high in layout.subtract(self.machine.payload_ranges(), keep):
            self.shelf.delete_range(low, high)
        for low, high in keep:
            for key, data in source.shelf.scan("log", low, high):
                self.shelf.put(Payload.of(key, data))
        self.rows, self.applied = dict(source.rows), source.applied
        self.restart()


@dataclass
class Written:
    """A record as it was produced. `stands`: counts for readers of committed ones; None while that is open."""

    key: bytes
    value: bytes | None
    producer: int
    stands: bool | None


@dataclass
class Waiting:
    """An entry that is in the log and not applied yet."""

    entry: Entry
    records: list[tuple[int, Written]] = field(default_factory=list)
    decides: tuple[int, bool] | None = None
    """(producer, commit) of a marker."""
    end: int = 0
    compaction: bool = False


class _Ask:
    """What a pass awaits."""

    def __init__(self, build: Any = None) -> None:
        self.build = build

    def __await__(self) -> Generator["_Ask", None, None]:
        yield self


async def here(work: Callable[[], T]) -> T:
    return work()


class World:
    def __init__(self) -> None:
        self.leader, self.follower = Replica(), Replica()
        self.log: list[Entry] = []
        """All that is applied by the leader."""
        self.waiting: list[Waiting] = []
        self.truth: dict[int, Written] = {}
        self.end = 0
        self.now = 1_700_000_000_000
        self.term = 1
        self.open: dict[int, int] = {}
        """Producers in a transaction, with the entries that are not truncated."""
        self.number = 0
        self.cleaned_at: dict[int, int] = {}
        """When the segment that holds the offset was first seen to be cleaned."""
        self.coroutine: Coroutine[_Ask, None, None] | None = None
        self.asked: _Ask | None = None
        self.proposed = 0
        self.passes = self.compacted = 0

    # --- the log ------------------------------------------------------------------------------------------

    @property
    def next_index(self) -> int:
        return len(self.log) + len(self.waiting) + 1

    @property
    def next_offset(self) -> int:
        return self.waiting[-1].end if self.waiting else self.end

    def append(self, command: PartitionCommand, payloads: Sequence[Payload] = (), **more: Any) -> Waiting:
        entry = Entry.of(self.term, self.next_index, EntryKind.COMMAND, encode_command(command), tuple(payloads))
        one = Waiting(entry, **({"end": self.next_offset} | more))
        self.waiting.append(one)
        self.leader.append(entry)
        return one

    def produce(self, drafts: Sequence[tuple[bytes, bytes | None]], producer: int = -1) -> None:
        """`producer`: in its transaction, which it opens where it has none."""
        offset = self.next_offset
        transactional = producer >= 0
        batch = encode_batch(
            [RecordDraft(key, value) for key, value in drafts],
            base_timestamp=self.now,
            producer_id=producer,
            producer_epoch=0 if transactional else -1,
            base_sequence=offset if transactional else -1,
            attributes=TRANSACTIONAL_BIT if transactional else 0,
        )
        flags, transaction = 0, 0
        if transactional:
            flags = TRANSACTIONAL
            if producer not in self.open:
                self.number += 1
                self.open[producer] = transaction = self.number
        records = [
            (offset + n, Written(key, value, producer, None if transactional else True))
            for n, (key, value) in enumerate(drafts)
        ]
        self._append_batch(batch, producer, flags, transaction, records=records)

    def finish(self, producer: int, *, commit: bool) -> None:
        number = self.open.pop(producer)
        batch = encode_marker(Marker(producer, 0, number, commit), self.now)
        self._append_batch(
            batch, producer, TRANSACTIONAL | CONTROL | (COMMIT if commit else 0), number, decides=(producer, commit)
        )

    def _append_batch(self, batch: bytes, producer: int, flags: int, transaction: int, **more: Any) -> None:
        offset = self.next_offset
        batch = place_batch(batch, offset, self.term)
        header = parse_header(batch)
        append = AppendHeader(
            PARTITION,
            offset,
            header.count,
            header.size,
            header.max_timestamp,
            producer,
            0 if producer >= 0 else -1,
            header.base_sequence,
            flags=flags,
            transaction=transaction,
        )
        payload = Payload.of(payload_key(PARTITION, offset), batch)
        self.append(AppendBatches(self.now, (append,)), (payload,), end=offset + header.count, **more)

    def apply(self, count: int) -> None:
        """The first `count` entries that wait, in one run."""
        run, self.waiting = self.waiting[:count], self.waiting[count:]
        if not run:
            return
        self.leader.apply([one.entry for one in run])
        answered = False
        for one in run:
            self.log.append(one.entry)
            self.truth.update(one.records)
            self.end = max(self.end, one.end)
            if one.decides is not None:
                producer, commit = one.decides
                for written in self.truth.values():
                    if written.producer == producer and written.stands is None:
                        written.stands = commit
            answered = answered or (one.compaction and one.entry.index == self.proposed)
        if answered:
            self.proposed = 0
            self._go_on()

    def truncate(self, keep: int) -> None:
        """A new leader, that has only the first `keep` of the entries that wait; they commit under it."""
        lost, self.waiting = self.waiting[keep:], self.waiting[:keep]
        for one in lost:
            self.leader.truncate(one.entry)
        self.term += 1
        if self.coroutine is not None:
            error = NotLeader(1, None) if any(one.compaction for one in lost) else Unknown("leadership was lost")
            self._end_pass(error)
        self.apply(len(self.waiting))
        self.open = {producer: one.number for producer, one in self.leader.machine.all_ongoing(PARTITION).items()}

    def trim(self, offset: int) -> None:
        """As delete_records."""
        machine = self.leader.machine
        state = machine.partition(PARTITION)
        if not state.start < offset <= state.end:
            return
        first = state.end
        if offset < state.end:
            first = first_kept(self.leader.records, machine, PARTITION, offset)
        self.append(Trim(self.now, (TrimItem(PARTITION, offset, first),)))

    def retain(self, count: int) -> None:
        """As retention: the first segments go, as far as they are decided."""
        machine = self.leader.machine
        segments = machine.segments(PARTITION)
        if count < len(segments):
            start = segments[count].base_offset
            state = machine.partition(PARTITION)
            if state.start < start <= machine.last_stable(PARTITION):
                self.append(Trim(self.now, (TrimItem(PARTITION, start, start),)))

    def confirm(self) -> None:
        self.append(Trim(self.now, ()))

    # --- replicas -----------------------------------------------------------------------------------------

    def restart_leader(self) -> None:
        """What was applied is on the disk; what waits is in the log."""
        self._end_pass(None)
        self.leader.restart()

    def follow(self, count: int) -> None:
        """The follower gets some of the entries, in one run."""
        entries = self.log[self.follower.applied : self.follower.applied + count]
        if entries:
            for entry in entries:
                self.follower.append(entry)
            self.follower.apply(entries)

    def snapshot(self) -> None:
        if self.follower.applied < self.leader.applied:
            self.follower.install(self.leader)

    # --- compaction ---------------------------------------------------------------------------------------

    def begin_pass(self, rules: Callable[[PartitionMachine, int, bool], Rules]) -> None:
        if self.coroutine is not None:
            return
        machine = self.leader.machine
        made = Pass(
            machine,
            PARTITION,
            self.leader.records,
            rules(machine, self.now, machine.term == self.term),
            self._propose,
            self._breathe,
            here,
        )
        self.passes += 1
        self.coroutine = made.run()
        self._go_on()

    def step_pass(self) -> None:
        """One await further; a proposal is answered when it is applied."""
        if self.coroutine is None:
            return
        if self.proposed:
            return
        self._go_on()

    def _go_on(self, error: Exception | None = None) -> None:
        assert self.coroutine is not None
        try:
            self.asked = self.coroutine.send(None) if error is None else self.coroutine.throw(error)
        except (StopIteration, Changed, NotLeader, Unknown):
            self.coroutine = self.asked = None
            self.proposed = 0
            return
        if self.asked.build is not None:
            index = self.next_index
            command, payloads = self.asked.build(index, self.now)
            self.append(command, payloads, compaction=True)
            self.proposed = index
            self.compacted += 1

    def _end_pass(self, error: Exception | None) -> None:
        if self.coroutine is None:
            return
        if error is None:
            self.coroutine.close()
            self.coroutine = None
            self.proposed = 0
        else:
            self._go_on(error)
            assert self.coroutine is None, "a pass ends with its first failure"

    def lose_answer(self) -> None:
        """The proposal times out; it may be applied later."""
        if self.proposed:
            self._end_pass(Unknown("in time"))

    def _propose(self, build: Any) -> Awaitable[None]:
        return _Ask(build)

    def _breathe(self, size: int) -> Awaitable[None]:
        return _Ask()

    # --- what must hold -----------------------------------------------------------------------------------

    def check(self) -> None:
        self._check_payloads(self.leader, {p.key for one in self.waiting for p in one.entry.payloads})
        self._check_payloads(self.follower, set())
        if not self.log:
            return
        assert self.leader.machine.rows() == self.leader.rows
        restored = PartitionMachine()
        restored.restore(dict(self.leader.rows), self.leader.applied)
        assert restored.rows() == self.leader.rows
        assert restored.payload_ranges() == self.leader.machine.payload_ranges()
        self._check_reads(self.leader, settled=True)
        if self.follower.applied == self.leader.applied:
            assert self.follower.rows == self.leader.rows
            inside = {key for low, high in self.leader.machine.payload_ranges() for key in self._keys(low, high)}
            assert {key: self.leader.shelf.data[key] for key in inside} == self.follower.shelf.data

    def _keys(self, low: bytes, high: bytes) -> list[bytes]:
        return [key for key, _ in self.leader.shelf.scan("log", low, high)]

    def _check_payloads(self, replica: Replica, in_flight: set[bytes]) -> None:
        """Whatever is there is what the state refers to, or what entries in flight bring, and never both."""
        ranges = replica.machine.payload_ranges()
        assert ranges == sorted(ranges)
        for key in replica.shelf.keys:
            assert layout.within(key, ranges) != (key in in_flight), key.hex()

    def _check_reads(self, replica: Replica, *, settled: bool) -> None:
        machine, records = replica.machine, replica.records
        state = machine.partition(PARTITION)
        assert state.end == self.end
        if state.start >= state.end:
            return
        stable = machine.last_stable(PARTITION)
        assert stable > state.start or state.start == stable
        whole = self._all(replica, state.start, state.end, 1 << 20)
        assert whole == self._all(replica, state.start, state.end, 1)
        seen = {offset: pair for offset, pair in whole.items() if offset >= state.start}
        for offset, (key, value) in seen.items():
            written = self.truth[offset]
            assert (written.key, written.value) == (key, value), f"offset {offset} is what it was"
        for offset in range(max(stable, state.start), state.end):
            if offset in self.truth:
                assert offset in seen, f"offset {offset} is not decided yet"
        for offset in range(state.start, state.end, 3):
            for end in {stable, state.end}:
                if offset < end:
                    batches = scan(records, machine, PARTITION, offset, end, 1)
                    assert batches, f"a reader at {offset} goes on, below {end}"
                    assert parse_header(batches[0]).next_offset > offset
        visible = self._committed(replica, state.start, stable)
        self._check_newest(replica, visible, state.start, stable)

    def _all(self, replica: Replica, start: int, end: int, bytes_max: int) -> dict[int, tuple[bytes, bytes | None]]:
        found: dict[int, tuple[bytes, bytes | None]] = {}
        offset = start
        while offset < end:
            batches = scan(replica.records, replica.machine, PARTITION, offset, end, bytes_max)
            for batch in batches:
                for record in decode_batch(batch):
                    assert record.offset not in found
                    assert record.key is not None
                    if record.offset >= offset:
                        found[record.offset] = (record.key, record.value)
                assert parse_header(batch).next_offset > offset
                offset = parse_header(batch).next_offset
        return found

    def _committed(self, replica: Replica, start: int, stable: int) -> dict[int, tuple[bytes, bytes | None]]:
        """As a reader of committed records sees it, fetch by fetch."""
        found: dict[int, tuple[bytes, bytes | None]] = {}
        offset = start
        while offset < stable:
            batches = scan(replica.records, replica.machine, PARTITION, offset, stable, 300)
            behind = parse_header(batches[-1]).next_offset
            for batch, counts in isolation.committed(batches, replica.machine.aborted(PARTITION, offset, behind)):
                for record in decode_batch(batch) if counts else ():
                    if record.offset >= start:
                        assert record.key is not None
                        found[record.offset] = (record.key, record.value)
            offset = behind
        return found

    def _check_newest(
        self, replica: Replica, visible: dict[int, tuple[bytes, bytes | None]], start: int, stable: int
    ) -> None:
        newest: dict[bytes, int] = {}
        for offset, written in sorted(self.truth.items()):
            if start <= offset < stable:
                assert written.stands is not None
                if written.stands:
                    newest[written.key] = offset
                else:
                    assert offset not in visible, f"offset {offset} was aborted"
        group_ms = replica.machine.time_ms
        for offset in newest.values():
            segment, _ = replica.machine.segment_at(PARTITION, offset)
            if segment.cleaned_ms:
                self.cleaned_at.setdefault(offset, segment.cleaned_ms)
        shown: dict[bytes, list[int]] = {}
        for offset, (key, _) in visible.items():
            shown.setdefault(key, []).append(offset)
        for key, offset in newest.items():
            if offset in visible:
                continue
            assert self.truth[offset].value is None, f"the newest of {key!r}, at {offset}, is gone"
            assert not shown.get(key), f"{key!r} was deleted at {offset}, and is there again at {shown[key]}"
            assert group_ms - self.cleaned_at[offset] > TOMBSTONES_MS, f"the tombstone at {offset} is gone too early"
