"""Random lives of queues: what the state does is what the naive lists do, on every replica, restarted or not.

And apart from both: nothing is held twice, nothing that was acknowledged comes again, keys keep their order."""

from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftbroker.state.queues.messages import NAMES
from raftbroker.state.queues.ops import (
    LOST,
    OK,
    REPEATED,
    Acknowledge,
    Arrival,
    Counted,
    Draft,
    Extend,
    PurgeQueue,
    PutQueue,
    Redrive,
    Reject,
    Release,
    SendBack,
    Shipped,
    TakeMessages,
    Taken,
    Token,
)
from raftbroker.state.queues.outbox import MOVE, QUEUE_PREFIX, RECEIPT
from tests.unit.state.queues.naive import NaiveQueue, Note
from tests.unit.state.queues.world import World

QUEUES = ("a", "b")
OTHER_SHARD = 9
WORDS = {OK: "ok", REPEATED: "repeated", LOST: "lost"}
drafts = st.builds(
    Draft,
    st.sampled_from([0, 10, 1000]),
    st.integers(0, 9),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([0, 0, 0, 500, 3000]),
    st.sampled_from([0, 0, 0, 400, 20_000]),
    st.just(b""),
    st.sampled_from(["", "", "queue:b", "queue:replies"]),
)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(replicas=2)
        self.naive = {name: NaiveQueue() for name in QUEUES}
        self.tokens: list[tuple[str, Token]] = []
        self.acknowledged: set[int] = set()
        self.nonce = 0
        self.sequence = 0

    @initialize(ordered=st.booleans(), most=st.sampled_from([0, 1, 2, 10]), retention=st.sampled_from([-1, 5000]))
    def make(self, ordered: bool, most: int, retention: int) -> None:
        for name in QUEUES:
            queue = self.naive[name]
            queue.ordered, queue.deliveries_max, queue.retention, queue.lock = ordered, most, retention, 1000
            queue.dead_to = "b" if name == "a" and most != 2 else ""
            self.world.put(
                name,
                ordered_by_key=ordered,
                max_deliveries=most,
                retention_ms=retention,
                lock_ms=1000,
                dead_letter_queue=queue.dead_to or None,
            )

    # --- time ---------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """As every entry does, before its ops."""
        now = self.world.now
        while True:
            due = [(*found, name) for name, queue in self.naive.items() if (found := queue.next_due(now))]
            if not due:
                break
            _, number, name = min(due)
            self.naive[name].fire(number, now)
        for queue in self.naive.values():
            queue.retire(now)

    def _do(self, op: Any, payloads: int = 0) -> Any:
        self._advance()
        return self.world.do(op, payloads)

    @rule(ms=st.sampled_from([0, 1, 100, 500, 999, 1000, 4000]))
    def time_goes_by(self, ms: int) -> None:
        self.world.now += ms
        self._advance()
        self.world.tick()

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.world.replicas[which].restart()

    # --- messages -----------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(QUEUES), sent=st.lists(drafts, min_size=1, max_size=6))
    def send(self, name: str, sent: list[Draft]) -> None:
        queue, now = self.naive[name], self.world.now
        if queue.retention >= 0:
            sent = [msgspec.structs.replace(d, delay_ms=min(d.delay_ms, queue.retention - 1)) for d in sent]
        self._advance()
        numbers = self.world.send(name, *sent).numbers
        for number, draft in zip(numbers, sent, strict=True):
            ttl = now + draft.ttl_ms if draft.ttl_ms else 0
            delay = now + draft.delay_ms if draft.delay_ms else 0
            queue.add(Note(number, draft.priority, draft.key, now, ttl, delay, draft.receipt), now)

    @rule(name=st.sampled_from(QUEUES), most=st.integers(1, 5), lock_ms=st.sampled_from([0, 10, 5000]))
    def receive(self, name: str, most: int, lock_ms: int) -> None:
        self._advance()
        queue = self.naive[name]
        first_of_key = {key: chain[0].number for key, chain in queue.chains.items()}
        keys = {note.number: note.key for note in queue.notes}
        found = self.world.receive(name, most, lock_ms=lock_ms)
        nonce = found[0][1].nonce if found else 0
        assert [held.number for held, _ in found] == queue.receive(most, nonce, lock_ms, self.world.now)
        assert not self.acknowledged & {held.number for held, _ in found}
        for held, token in found:
            if queue.ordered and keys[held.number]:
                assert first_of_key[keys[held.number]] == held.number
            self.tokens.append((name, token))

    @precondition(lambda self: self.tokens)
    @rule(
        how=st.sampled_from(["consumed", "consumed", "released", "rejected", "extended"]),
        which=st.lists(st.integers(0, 30), min_size=1, max_size=4),
        delay=st.sampled_from([0, 0, 700]),
    )
    def settle(self, how: str, which: list[int], delay: int) -> None:
        name = self.tokens[-1 - which[0] % len(self.tokens)][0]
        picked = [self.tokens[-1 - at % len(self.tokens)] for at in which]
        tokens = tuple(token for queue, token in picked if queue == name)
        op: Any = {
            "consumed": Acknowledge(name, tokens),
            "released": Release(name, tokens, delay),
            "rejected": Reject(name, tokens, "why"),
            "extended": Extend(name, tokens),
        }[how]
        words = [WORDS[word] for word in self._do(op).words]
        queue, now = self.naive[name], self.world.now
        delay = delay if how == "released" else 0
        expected = [queue.settle(how, (t.number, t.delivery, t.nonce), now, delay) for t in tokens]
        assert words == expected
        if how == "consumed":
            self.acknowledged |= {t.number for t, word in zip(tokens, words, strict=True) if word == "ok"}

    # --- the dead -----------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(QUEUES), most=st.integers(1, 5))
    def redrive(self, name: str, most: int) -> None:
        outcome = self._do(Redrive(name, most))
        assert isinstance(outcome, Counted)
        assert outcome.count == self.naive[name].redrive(most, self.world.now)

    @rule(most=st.integers(1, 5))
    def send_back(self, most: int) -> None:
        outcome = self._do(SendBack("b", "a", most))
        assert outcome.count == self.naive["b"].send_back("a", most)

    @rule(count=st.integers(1, 4), repeat=st.booleans())
    def ship(self, count: int, repeat: bool) -> None:
        """As the driver does: takes parcels to their queue, perhaps twice, then says so; to this very shard."""
        outbox = self.world.part.book.outbox
        for to in outbox.destinations():
            name = to.removeprefix(QUEUE_PREFIX)
            parcels = outbox.waiting(to, count)
            if not parcels or name not in QUEUES:
                self._do(Shipped("", tuple((parcel.sequence, 0) for parcel in parcels)))
                continue
            arrivals = tuple(Arrival(p.sequence, 10, 4, 0, "", p.queue if p.kind == MOVE else "") for p in parcels)
            taken = self._do(TakeMessages(name, OTHER_SHARD, arrivals), len(arrivals))
            assert isinstance(taken, Taken)
            queue, now = self.naive[name], self.world.now
            for arrival, number in zip(arrivals, taken.numbers, strict=True):
                if number:
                    queue.add(Note(number, 4, 0, now, 0, 0, "", arrival.origin), now)
            if repeat:
                again = self._do(TakeMessages(name, OTHER_SHARD, arrivals), len(arrivals))
                assert again.numbers == (0,) * len(arrivals)
            done = tuple(zip((p.sequence for p in parcels), taken.numbers, strict=True))
            self._do(Shipped("", done))
            for parcel in parcels:
                if parcel.kind != RECEIPT:
                    how = "moved" if parcel.kind == MOVE else "redriven"
                    self.naive[parcel.queue].arrived(parcel.number, how)

    @rule(name=st.sampled_from(QUEUES))
    def purge(self, name: str) -> None:
        assert self._do(PurgeQueue(name)).count == self.naive[name].purge()

    @rule(name=st.sampled_from(QUEUES), retention=st.sampled_from([-1, 2000, 5000]))
    def change_retention(self, name: str, retention: int) -> None:
        self._do(PutQueue(name, {"retention.ms": retention}))
        self.naive[name].retention = retention

    # --- always -------------------------------------------------------------------------------------------

    @invariant()
    def replicas_are_their_rows(self) -> None:
        self.world.check()

    @invariant()
    def the_state_is_that_of_the_lists(self) -> None:
        book = self.world.part.book
        for name, naive in self.naive.items():
            queue = book.queues.get(name)
            if queue is None:
                continue
            own = {m.number: m for m in book.segments if book.owner(m) is queue}
            assert {number: NAMES[m.state] for number, m in own.items()} == {
                note.number: {"blocked": "waiting", "moving": "dead"}.get(note.state, note.state)
                for note in naive.notes
            }
            assert {n: m.due_ms for n, m in own.items()} == {note.number: note.due() for note in naive.notes}


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
