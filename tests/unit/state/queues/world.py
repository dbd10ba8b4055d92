"""A shard with queues alone, driven entry by entry; its rows are kept as a store would, and held against its state."""

from collections.abc import Sequence
from typing import Any

import msgspec

from consensus.model import Entry, EntryKind
from raftbroker.state.commands import encode_command
from raftbroker.state.keys import split_payload_key
from raftbroker.state.queues.config import ConfigValue
from raftbroker.state.queues.ops import (
    Acknowledge,
    Draft,
    Held,
    PutQueue,
    QueuePut,
    Received,
    ReceiveMessages,
    Refusal,
    SendMessages,
    Sent,
    Settled,
    Token,
)
from raftbroker.state.queues.part import QueuesPart
from raftbroker.state.queues.views import QueueView, view_queue
from raftbroker.state.shard import Op, ShardEntry, ShardMachine

GROUP = 5
START_MS = 1_700_000_000_000
LOCK_MS = 30_000
_encode = msgspec.msgpack.encode


class _Heard:
    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.names: set[str] = set()

    def led(self, term: int) -> None: ...

    def unled(self) -> None: ...

    def applied(self, index: int, outcomes: list[Any], names: set[str]) -> None:
        self.outcomes, self.names = outcomes, names


def machine_of(group: int = GROUP) -> ShardMachine:
    return ShardMachine(group, lambda: [QueuesPart()])


class Replica:
    """A machine and its rows on disk."""

    def __init__(self, group: int = GROUP) -> None:
        self.machine = machine_of(group)
        self.heard = _Heard()
        self.machine.attach(self.heard)
        self.disk: dict[bytes, bytes] = {}
        self.released: list[tuple[int, int]] = []
        """Payload numbers let go of."""

    def apply(self, entry: Entry) -> list[Any]:
        applied = self.machine.apply([entry])
        for key, value in applied.rows.items():
            if value is None:
                self.disk.pop(key, None)
            else:
                self.disk[key] = value
        self.released += [
            (split_payload_key(first)[1], split_payload_key(stop)[1]) for first, stop in applied.delete_payloads
        ]
        return self.heard.outcomes

    @property
    def part(self) -> QueuesPart:
        return self.machine.part(QueuesPart)

    def restart(self) -> None:
        self.machine = machine_of(self.machine.group)
        self.machine.attach(self.heard)
        self.machine.restore(dict(self.disk), 0)

    def check(self) -> None:
        """What is on disk is the whole state, and nothing else is."""
        rows = self.machine.rows()
        if self.disk != rows:
            wrong = {key for key in self.disk.keys() | rows.keys() if self.disk.get(key) != rows.get(key)}
            raise AssertionError([(key, self.disk.get(key), rows.get(key)) for key in sorted(wrong)][:5])


class World:
    """One replica, or several that apply the same; time goes by only when told."""

    def __init__(self, replicas: int = 1, group: int = GROUP) -> None:
        self.replicas = [Replica(group) for _ in range(replicas)]
        self.now = START_MS
        self.next_payload = 1
        self._index = 0
        self._nonce = 0

    @property
    def first(self) -> Replica:
        return self.replicas[0]

    @property
    def part(self) -> QueuesPart:
        return self.first.part

    def entry(self, *ops: Op[Any], counts: Sequence[int] = ()) -> list[Any]:
        """The outcomes of these ops in one entry, the same on every replica."""
        raw = tuple(msgspec.Raw(_encode(op)) for op in ops)
        command = ShardEntry(self.now, raw, self.next_payload, tuple(counts))
        self.next_payload += sum(counts)
        self._index += 1
        entry = Entry.of(1, self._index, EntryKind.COMMAND, encode_command(command))
        outcomes = [replica.apply(entry) for replica in self.replicas]
        assert all(outcome == outcomes[0] for outcome in outcomes)
        return outcomes[0]

    def do(self, op: Op[Any], payloads: int = 0) -> Any:
        return self.entry(op, counts=(payloads,) if payloads else ())[0]

    def tick(self, ms: int = 0) -> None:
        self.now += ms
        self.entry()

    def settle(self, ms: int = 0) -> None:
        """Time goes by, and all that is due by then is carried out."""
        self.now += ms
        for _ in range(10_000):
            self.entry()
            due = self.first.machine.next_deadline()
            if due is None or due > self.now:
                return
        raise AssertionError("what is due does not come to an end")

    # --- shorthands -----------------------------------------------------------------------------------------

    def put(self, name: str = "q", **configs: ConfigValue) -> QueueView:
        put = self.do(PutQueue(name, {key.replace("_", "."): value for key, value in configs.items()}))
        assert isinstance(put, QueuePut), put
        return self.view(name)

    def send(self, name: str = "q", *drafts: Draft, request: bytes = b"", fingerprint: int = 0) -> Sent:
        drafts = drafts or (draft(),)
        sent = self.do(SendMessages(name, drafts, request, fingerprint), len(drafts))
        assert isinstance(sent, Sent), sent
        return sent

    def refused(self, op: Op[Any], payloads: int = 0) -> Refusal:
        outcome = self.do(op, payloads)
        assert isinstance(outcome, Refusal), outcome
        return outcome

    def receive(
        self, name: str = "q", most: int = 1, *, consumer: str = "c", lock_ms: int = 0, bytes_max: int = 1 << 30
    ) -> list[tuple[Held, Token]]:
        self._nonce += 1
        received = self.do(ReceiveMessages(name, consumer, most, bytes_max, lock_ms, self._nonce))
        assert isinstance(received, Received), received
        return [(held, Token(held.number, held.deliveries, self._nonce)) for held in received.messages]

    def numbers(self, name: str = "q", most: int = 100) -> list[int]:
        return [held.number for held, _ in self.receive(name, most)]

    def one(self, name: str = "q", **how: Any) -> Token:
        found = self.receive(name, 1, **how)
        assert found
        return found[0][1]

    def ack(self, *tokens: Token, name: str = "q") -> tuple[int, ...]:
        settled = self.do(Acknowledge(name, tokens))
        assert isinstance(settled, Settled), settled
        return settled.words

    def view(self, name: str = "q") -> QueueView:
        book = self.part.book
        return view_queue(book, book.queues[name], self.now)

    def check(self) -> None:
        for replica in self.replicas:
            replica.check()
            assert replica.disk == self.first.disk
            check_counts(replica)


def check_counts(replica: Replica) -> None:
    """The counts that are kept are those that counting gives."""
    book = replica.part.book
    messages = list(book.segments)
    assert book.segments.count == len(messages)
    for queue in book.queues.values():
        own = [message for message in messages if book.owner(message) is queue]
        assert queue.counts == [sum(message.state == state for message in own) for state in range(len(queue.counts))]
    again = Replica(replica.machine.group)
    again.disk = dict(replica.disk)
    again.restart()
    mirror = again.part.book
    assert mirror.row_bytes == book.row_bytes
    assert mirror.dedup_count == book.dedup_count
    assert {name: queue.units for name, queue in mirror.queues.items()} == {
        name: queue.units for name, queue in book.queues.items()
    }
    assert mirror.segments.payload_ranges() == book.segments.payload_ranges()


def draft(priority: int = 4, size: int = 100, **more: Any) -> Draft:
    return Draft(size, priority, **more)
